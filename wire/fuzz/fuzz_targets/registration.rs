//! Any bytes that a producer sends to the lookup face decode without a panic, take no more than is there, and
//! what decodes encodes to bytes that decode to the same.
#![no_main]

use bruit_wire::registration::{
    Command, Decoded, decode, interrupted, put_identify, put_ping, put_register, put_unregister, take_reply,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = (take_reply(input), interrupted(input));
    let (mut rest, mut identified) = (input, false);
    while let Ok(Decoded::Command(command, consumed)) = decode(rest, identified) {
        let mut again = Vec::new();
        match &command {
            Command::Identify(description) => put_identify(&mut again, description),
            Command::Register(topic, channel) => put_register(&mut again, topic, channel.as_ref()),
            Command::Unregister(topic, channel) => put_unregister(&mut again, topic, channel.as_ref()),
            Command::Ping => put_ping(&mut again),
        }
        let length = again.len();
        assert_eq!(decode(&again, identified), Ok(Decoded::Command(command.clone(), length)));
        identified |= matches!(command, Command::Identify(_));
        assert!(consumed > 0 && consumed <= rest.len());
        rest = &rest[consumed..];
    }
});
