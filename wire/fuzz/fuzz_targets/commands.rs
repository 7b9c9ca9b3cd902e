//! Any stream of commands is understood the same whether it arrives at once or cut anywhere, and never
//! makes the decoder ask for more than its limits allow.
#![no_main]

use bruit_wire::nsq::{Command, Decoded, Decoder, LINE_LEN_MAX, Phase, Rules};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, stream) = input;
    let whole = outcome(stream, usize::MAX);
    assert_eq!(whole, outcome(stream, usize::from(cut).max(1)));
});

/// What each command was and where it ended, and how the stream ended, with bytes coming `piece` at a time.
fn outcome(stream: &[u8], piece: usize) -> Vec<String> {
    let mut rules = Rules {
        phase: Phase::Init,
        heartbeats: true,
        max_msg_size: 300,
        max_body_size: 1000,
        max_rdy_count: 2500,
        max_req_timeout_ms: 3_600_000,
        max_defer_timeout_ms: 3_600_000,
    };
    let (mut decoder, mut start, mut end, mut seen) = (Decoder::new(), 0, 0usize, Vec::new());
    loop {
        end = stream.len().min(end.saturating_add(piece));
        match decoder.decode(&stream[start..end], &rules) {
            Ok(Decoded::Command { command, consumed }) => {
                assert!(consumed > 0 && consumed <= end - start);
                start += consumed;
                seen.push(format!("{command:?} {start}"));
                rules.phase = match command {
                    Command::Subscribe { .. } => Phase::Subscribed,
                    Command::Close => Phase::Closing,
                    Command::MultiPublish { messages, .. } => {
                        assert_eq!(messages.iter().count(), messages.len());
                        rules.phase
                    }
                    _ => rules.phase,
                };
            }
            Ok(Decoded::Need(need)) => {
                assert!(need.at_least > end - start && need.at_least <= LINE_LEN_MAX + 4 + 1000);
                if end == stream.len() {
                    seen.push(format!("{:?}", need.interrupted()));
                    return seen;
                }
            }
            Err(error) => {
                seen.push(format!("{error:?}"));
                return seen;
            }
        }
    }
}
