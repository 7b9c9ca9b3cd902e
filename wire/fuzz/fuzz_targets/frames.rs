//! Any bytes decode as frames without a panic, and what decodes encodes to the same bytes.
#![no_main]

use bruit_wire::nsq::{FrameDecoder, FrameType, MessageView, message_frame_len, put_frame, set_attempts};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let decoder = FrameDecoder::new(1 << 20);
    let mut rest = input;
    while let Ok(Some((frame, consumed))) = decoder.decode(rest) {
        let mut again = Vec::new();
        put_frame(&mut again, frame.kind, frame.body);
        assert_eq!(again, &rest[..consumed]);
        let message = MessageView::parse_frame(&again);
        let is_message = frame.kind == FrameType::Message && frame.body.len() >= 26;
        assert_eq!(message.is_some(), is_message);
        if is_message {
            assert_eq!(message_frame_len(rest), Some(consumed));
            set_attempts(&mut again, 7);
            assert_eq!(MessageView::parse_frame(&again).map(|message| message.attempts), Some(7));
        }
        rest = &rest[consumed..];
    }
});
