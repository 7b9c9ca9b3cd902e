//! A message as the frame that carries it to a consumer, which is also how the journal stores it: so that
//! a delivery copies bytes and formats nothing.
//!
//! ```text
//!  0   4  size, which counts all that follows it
//!  4   4  frame type, 2
//!  8   8  timestamp, nanoseconds since 1970, set when published
//! 16   2  attempts, 1 on the first delivery
//! 18  16  id, lower-case hex
//! 34   n  body
//! ```

use super::FrameType;
use crate::MessageId;
use bytes::{BufMut, BytesMut};

/// The bytes of a message's frame that are not its body.
pub const MESSAGE_OVERHEAD: usize = 34;

const ATTEMPTS_OFFSET: usize = 16;

/// Appends the frame of a message. `timestamp` is nanoseconds since 1970. `body` must be shorter than
/// 2 GiB less the overhead; the decoder's `max_msg_size` sees to that.
pub fn put_message(out: &mut BytesMut, timestamp: i64, attempts: u16, id: MessageId, body: &[u8]) {
    debug_assert!(body.len() <= i32::MAX as usize - MESSAGE_OVERHEAD);
    out.reserve(MESSAGE_OVERHEAD + body.len());
    out.put_u32((body.len() + MESSAGE_OVERHEAD - 4) as u32);
    out.put_u32(FrameType::Message as u32);
    out.put_i64(timestamp);
    out.put_u16(attempts);
    out.put_slice(&id.to_hex());
    out.put_slice(body);
}

/// The length in bytes of the first message frame in `frames`, or `None` if it is not whole or its size
/// cannot be a message's.
pub fn message_frame_len(frames: &[u8]) -> Option<usize> {
    let len = u32::from_be_bytes(*frames.first_chunk()?) as usize + 4;
    (MESSAGE_OVERHEAD..=frames.len()).contains(&len).then_some(len)
}

/// Overwrites the attempts of the message whose frame starts at `frame`'s first byte. Does nothing to bytes
/// too short to hold a message.
pub fn set_attempts(frame: &mut [u8], attempts: u16) {
    debug_assert!(frame.len() >= MESSAGE_OVERHEAD);
    if let Some(field) = frame.get_mut(ATTEMPTS_OFFSET..ATTEMPTS_OFFSET + 2) {
        field.copy_from_slice(&attempts.to_be_bytes());
    }
}

/// Overwrites the id of the message whose frame starts at `frame`'s first byte. Does nothing to bytes too
/// short to hold a message.
pub fn set_message_id(frame: &mut [u8], id: MessageId) {
    debug_assert!(frame.len() >= MESSAGE_OVERHEAD);
    if let Some(field) = frame.get_mut(ATTEMPTS_OFFSET + 2..MESSAGE_OVERHEAD) {
        field.copy_from_slice(&id.to_hex());
    }
}

/// A message, borrowed from the bytes that hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageView<'a> {
    /// When it was published, in nanoseconds since 1970.
    pub timestamp: i64,
    /// How often it has been delivered, this time included.
    pub attempts: u16,
    /// Its id, 16 characters that name it in `FIN`, `REQ` and `TOUCH`.
    pub id: &'a [u8; 16],
    /// What the publisher sent.
    pub body: &'a [u8],
}

impl<'a> MessageView<'a> {
    /// Reads the body of a frame of type [`FrameType::Message`]; `None` if it is too short to be one.
    pub fn parse_payload(payload: &'a [u8]) -> Option<Self> {
        let (timestamp, rest) = payload.split_first_chunk()?;
        let (attempts, rest) = rest.split_first_chunk()?;
        let (id, body) = rest.split_first_chunk()?;
        let timestamp = i64::from_be_bytes(*timestamp);
        Some(Self { timestamp, attempts: u16::from_be_bytes(*attempts), id, body })
    }

    /// Reads a frame that is a message's and nothing more; `None` if its size or type says otherwise.
    pub fn parse_frame(frame: &'a [u8]) -> Option<Self> {
        let is_whole = message_frame_len(frame)? == frame.len();
        let (kind, payload) = frame.get(4..)?.split_first_chunk()?;
        let is_message = u32::from_be_bytes(*kind) == FrameType::Message as u32;
        if is_whole && is_message { Self::parse_payload(payload) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nsq::FrameDecoder;
    use proptest::prelude::*;

    const GOLDEN: &[u8] = b"\x00\x00\x00\x20\x00\x00\x00\x02\
        \x01\x02\x03\x04\x05\x06\x07\x08\x00\x01002a000000000007hi";

    fn golden() -> BytesMut {
        let mut out = BytesMut::new();
        put_message(&mut out, 0x0102_0304_0506_0708, 1, MessageId::new(0x2a, 7), b"hi");
        out
    }

    #[test]
    fn golden_message() {
        assert_eq!(golden(), GOLDEN);
        let view = MessageView::parse_frame(GOLDEN).unwrap();
        assert_eq!(view.timestamp, 0x0102_0304_0506_0708);
        assert_eq!((view.attempts, view.body), (1, &b"hi"[..]));
        assert_eq!(MessageId::from_hex(view.id), Some(MessageId::new(0x2a, 7)));
        let (frame, _) = FrameDecoder::new(100).decode(GOLDEN).unwrap().unwrap();
        assert_eq!((frame.kind, MessageView::parse_payload(frame.body)), (FrameType::Message, Some(view)));
    }

    #[test]
    fn setting_attempts_changes_nothing_else() {
        let mut frame = golden();
        set_attempts(&mut frame, 0xabcd);
        assert_eq!(MessageView::parse_frame(&frame).unwrap().attempts, 0xabcd);
        set_attempts(&mut frame, 1);
        assert_eq!(frame, GOLDEN);
    }

    #[test]
    fn setting_the_id_changes_nothing_else() {
        let mut frame = golden();
        set_message_id(&mut frame, MessageId::new(0xbeef, 9));
        assert_eq!(MessageView::parse_frame(&frame).unwrap().id, b"beef000000000009");
        set_message_id(&mut frame, MessageId::new(0x2a, 7));
        assert_eq!(frame, GOLDEN);
    }

    #[test]
    fn a_frame_that_is_cut_too_small_or_of_another_type_is_no_message() {
        for cut in 0..GOLDEN.len() {
            assert_eq!(message_frame_len(&GOLDEN[..cut]), None);
            assert_eq!(MessageView::parse_frame(&GOLDEN[..cut]), None);
        }
        let mut run = GOLDEN.to_vec();
        run.push(0);
        assert_eq!(message_frame_len(&run), Some(GOLDEN.len()));
        assert_eq!(MessageView::parse_frame(&run), None);
        let mut wrong_type = GOLDEN.to_vec();
        wrong_type[7] = 0;
        assert_eq!(MessageView::parse_frame(&wrong_type), None);
        for size in [0, 29, u32::MAX] {
            let mut wrong_size = GOLDEN.to_vec();
            wrong_size[..4].copy_from_slice(&size.to_be_bytes());
            assert_eq!(message_frame_len(&wrong_size), None);
        }
        assert_eq!(MessageView::parse_payload(&[0; 25]), None);
        assert_eq!(MessageView::parse_payload(&[0; 26]).unwrap().body, b"");
    }

    proptest! {
        #[test]
        fn what_was_put_is_read(timestamp: i64, attempts: u16, node: u16, sequence: u64, body: Vec<u8>) {
            let id = MessageId::new(node, sequence);
            let mut out = BytesMut::new();
            put_message(&mut out, timestamp, attempts, id, &body);
            prop_assert_eq!(out.len(), body.len() + MESSAGE_OVERHEAD);
            let expected = MessageView { timestamp, attempts, id: &id.to_hex(), body: &body };
            prop_assert_eq!(MessageView::parse_frame(&out), Some(expected));
        }

        #[test]
        fn any_bytes_read_without_panic(mut bytes: Vec<u8>) {
            let _ = (message_frame_len(&bytes), MessageView::parse_frame(&bytes).is_some());
            if bytes.len() >= MESSAGE_OVERHEAD {
                set_attempts(&mut bytes, 1);
            }
        }
    }
}
