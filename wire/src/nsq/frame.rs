//! What a node sends: `[int32 size][int32 type][body]`, where the size counts the type.

/// The bytes before a frame's body: its size and its type.
const FRAME_HEADER: usize = 8;

/// What a frame carries. The values are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameType {
    /// `OK`, `CLOSE_WAIT`, `_heartbeat_`, or JSON.
    Response = 0,
    /// A code, optionally followed by a space and a description.
    Error = 1,
    /// A message: see [`MessageView`](super::MessageView).
    Message = 2,
}

/// The whole frame that says `OK`.
pub const OK_FRAME: [u8; 10] = *b"\0\0\0\x06\0\0\0\0OK";

/// The whole frame that a client must answer with any command.
pub const HEARTBEAT_FRAME: [u8; 19] = *b"\0\0\0\x0f\0\0\0\0_heartbeat_";

/// The whole frame that answers `CLS`.
pub const CLOSE_WAIT_FRAME: [u8; 18] = *b"\0\0\0\x0e\0\0\0\0CLOSE_WAIT";

/// Appends a frame. `body` must be shorter than 2 GiB less 4 bytes, as the size field is an int32.
pub fn put_frame(out: &mut Vec<u8>, kind: FrameType, body: &[u8]) {
    debug_assert!(body.len() <= i32::MAX as usize - 4);
    out.reserve(FRAME_HEADER + body.len());
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(&(kind as u32).to_be_bytes());
    out.extend_from_slice(body);
}

/// One frame, borrowed from the bytes that it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    /// What `body` is.
    pub kind: FrameType,
    /// The frame without its size and type.
    pub body: &'b [u8],
}

/// Finds frames at the start of a buffer: the client's half of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct FrameDecoder {
    frame_size_max: usize,
}

/// The peer does not speak V2, or sends more than the caller is ready to hold. Close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The size does not even cover the frame's type. The peer's fault.
    #[error("the peer sent a frame of size {size}, which has no room for its type")]
    TooSmall {
        /// The size field as it was sent.
        size: i32,
    },
    /// The frame is larger than the decoder was told to accept.
    #[error("the peer sent a frame of {size} bytes, and the limit is {max}")]
    TooBig {
        /// The size field as it was sent, in bytes.
        size: i32,
        /// The decoder's limit, in bytes.
        max: usize,
    },
    /// The frame is of no known type. The peer's fault, or a newer protocol's.
    #[error("the peer sent a frame of unknown type {0}")]
    UnknownType(i32),
}

impl FrameDecoder {
    /// A decoder that refuses frames whose size field (type and body, in bytes) is above `frame_size_max`.
    pub fn new(frame_size_max: usize) -> Self {
        Self { frame_size_max }
    }

    /// The first frame of `input` and how many bytes it took, `None` if it is not whole yet, or an error as
    /// soon as its header shows that it never will be.
    pub fn decode<'b>(&self, input: &'b [u8]) -> Result<Option<(Frame<'b>, usize)>, FrameError> {
        let Some((size, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
        let size = i32::from_be_bytes(*size);
        let body_len = match usize::try_from(size) {
            Ok(size_len) if size_len > self.frame_size_max => {
                return Err(FrameError::TooBig { size, max: self.frame_size_max });
            }
            Ok(size_len @ 4..) => size_len - 4,
            _ => return Err(FrameError::TooSmall { size }),
        };
        let Some((kind, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let kind = match i32::from_be_bytes(*kind) {
            0 => FrameType::Response,
            1 => FrameType::Error,
            2 => FrameType::Message,
            other => return Err(FrameError::UnknownType(other)),
        };
        Ok(rest.get(..body_len).map(|body| (Frame { kind, body }, FRAME_HEADER + body_len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_frames() {
        let mut out = Vec::new();
        put_frame(&mut out, FrameType::Response, b"OK");
        assert_eq!(out, OK_FRAME);
        assert_eq!(out, [0, 0, 0, 6, 0, 0, 0, 0, b'O', b'K']);
        out.clear();
        put_frame(&mut out, FrameType::Response, b"_heartbeat_");
        assert_eq!(out, HEARTBEAT_FRAME);
        out.clear();
        put_frame(&mut out, FrameType::Response, b"CLOSE_WAIT");
        assert_eq!(out, CLOSE_WAIT_FRAME);
        out.clear();
        put_frame(&mut out, FrameType::Error, b"E_BAD_PROTOCOL");
        assert_eq!(out, b"\x00\x00\x00\x12\x00\x00\x00\x01E_BAD_PROTOCOL");
        out.clear();
        put_frame(&mut out, FrameType::Message, b"");
        assert_eq!(out, [0, 0, 0, 4, 0, 0, 0, 2]);
    }

    #[test]
    fn frames_are_found_one_after_another() {
        let stream = [&OK_FRAME[..], &HEARTBEAT_FRAME].concat();
        let decoder = FrameDecoder::new(64);
        for cut in 0..OK_FRAME.len() {
            assert_eq!(decoder.decode(&stream[..cut]), Ok(None));
        }
        let (frame, consumed) = decoder.decode(&stream).unwrap().unwrap();
        assert_eq!((frame.kind, frame.body, consumed), (FrameType::Response, &b"OK"[..], 10));
        let (frame, consumed) = decoder.decode(&stream[consumed..]).unwrap().unwrap();
        assert_eq!((frame.body, consumed), (&b"_heartbeat_"[..], 19));
    }

    #[test]
    fn bad_headers_are_refused_before_their_bodies_arrive() {
        let decoder = FrameDecoder::new(100);
        let header = |size: i32, kind: i32| [size.to_be_bytes(), kind.to_be_bytes()].concat();
        for size in [i32::MIN, -1, 0, 3] {
            assert_eq!(decoder.decode(&header(size, 0)), Err(FrameError::TooSmall { size }));
        }
        for size in [101, i32::MAX] {
            assert_eq!(decoder.decode(&header(size, 0)[..4]), Err(FrameError::TooBig { size, max: 100 }));
        }
        assert_eq!(decoder.decode(&header(100, 0)), Ok(None));
        for kind in [-1, 3, i32::MAX] {
            assert_eq!(decoder.decode(&header(100, kind)), Err(FrameError::UnknownType(kind)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>, max: usize) {
            if let Ok(Some((frame, consumed))) = FrameDecoder::new(max).decode(&bytes) {
                prop_assert!(consumed == frame.body.len() + 8 && consumed <= bytes.len());
            }
        }

        #[test]
        fn what_was_put_is_found(body: Vec<u8>, kind in 0..3) {
            let kind = [FrameType::Response, FrameType::Error, FrameType::Message][kind as usize];
            let mut out = Vec::new();
            put_frame(&mut out, kind, &body);
            let consumed = out.len();
            let expected = Some((Frame { kind, body: &body }, consumed));
            prop_assert_eq!(FrameDecoder::new(usize::MAX).decode(&out), Ok(expected));
        }
    }
}
