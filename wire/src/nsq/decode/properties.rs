//! What holds for every stream of commands, however it is cut.

use super::{
    tests::{ID, RULES},
    *,
};
use crate::nsq::*;
use proptest::prelude::*;

/// A command as its bytes. Every state forbids some, so the stream is decoded with the state that allows
/// each: what is tested is the framing.
fn any_command() -> impl Strategy<Value = (Vec<u8>, Phase)> {
    let body = || proptest::collection::vec(any::<u8>(), 1..40);
    let name = || "[.a-zA-Z0-9_-]{1,54}(#ephemeral)?";
    let with = |phase: Phase, write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        (out, phase)
    };
    prop_oneof![
        body().prop_map(move |b| with(Phase::Init, &|o| put_identify(o, &b))),
        body().prop_map(move |b| with(Phase::Init, &|o| put_auth(o, &b))),
        (name(), body()).prop_map(move |(t, b)| with(Phase::Init, &|o| put_publish(o, &t, &b))),
        ("[ab]", body()).prop_map(move |(t, b)| with(Phase::Closing, &|o| put_publish(o, &t, &b))),
        (name(), proptest::collection::vec(body(), 1..6)).prop_map(move |(t, bodies)| with(
            Phase::Subscribed,
            &|o| put_multi_publish(o, &t, bodies.iter().map(Vec::as_slice))
        )),
        (name(), 0..3_600_001u64, body())
            .prop_map(move |(t, d, b)| with(Phase::Init, &|o| put_deferred_publish(o, &t, d, &b))),
        (name(), name()).prop_map(move |(t, c)| with(Phase::Init, &|o| put_subscribe(o, &t, &c))),
        (0..2501u64).prop_map(move |n| with(Phase::Subscribed, &|o| put_ready(o, n))),
        any::<u64>().prop_map(move |n| {
            let id = crate::MessageId::new(1, n).to_hex();
            with(Phase::Subscribed, &|o| put_finish(o, &id))
        }),
        any::<u64>().prop_map(move |n| {
            let id = crate::MessageId::new(2, n).to_hex();
            with(Phase::Closing, &|o| put_requeue(o, &id, n % 3_600_001))
        }),
        Just(with(Phase::Closing, &|o| put_touch(o, ID))),
        Just(with(Phase::Subscribed, &put_close)),
        Just(with(Phase::Init, &put_nop)),
    ]
}

/// Writes a command back as a client would.
fn put_again(out: &mut Vec<u8>, command: Command<'_>) {
    match command {
        Command::Identify { body } => put_identify(out, body),
        Command::Auth { secret } => put_auth(out, secret),
        Command::Publish { topic, body } => put_publish(out, topic, body),
        Command::MultiPublish { topic, messages } => {
            assert_eq!(messages.iter().count(), messages.len());
            assert_eq!(messages.iter().map(<[u8]>::len).sum::<usize>(), messages.body_bytes());
            put_multi_publish(out, topic, messages.iter());
        }
        Command::DeferredPublish { topic, delay_ms, body } => {
            put_deferred_publish(out, topic, delay_ms, body);
        }
        Command::Subscribe { topic, channel } => put_subscribe(out, topic, channel),
        Command::Ready { count } => put_ready(out, count),
        Command::Finish { id } => put_finish(out, id),
        Command::Requeue { id, delay_ms } => put_requeue(out, id, delay_ms),
        Command::Touch { id } => put_touch(out, id),
        Command::Close => put_close(out),
        Command::Nop => put_nop(out),
    }
}

/// A decoder and its buffer, as a connection has them: bytes arrive in pieces of the sizes given, then in
/// one last piece. Returns the stream as it was understood.
fn understood(commands: &[(Vec<u8>, Phase)], pieces: &[usize]) -> Vec<u8> {
    let stream = commands.concat_bytes();
    let (mut decoder, mut start, mut end, mut again) = (Decoder::new(), 0, 0, Vec::new());
    let mut phases = commands.iter().map(|(_, phase)| *phase).peekable();
    for piece in pieces.iter().copied().chain([stream.len()]) {
        end = stream.len().min(end + piece);
        while let Some(&phase) = phases.peek() {
            match decoder.decode(&stream[start..end], &Rules { phase, ..RULES }).unwrap() {
                Decoded::Command { command, consumed } => {
                    assert!(consumed <= end - start);
                    put_again(&mut again, command);
                    start += consumed;
                    phases.next();
                }
                Decoded::Need(need) => {
                    assert!(need.at_least > end - start, "needs no more than it has");
                    break;
                }
            }
        }
    }
    again
}

trait ConcatBytes {
    fn concat_bytes(&self) -> Vec<u8>;
}

impl ConcatBytes for [(Vec<u8>, Phase)] {
    fn concat_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|(bytes, _)| bytes).copied().collect()
    }
}

proptest! {
    #[test]
    fn any_split_of_a_stream_decodes_the_same(
        commands in proptest::collection::vec(any_command(), 1..12),
        pieces in proptest::collection::vec(0..60usize, 0..60),
    ) {
        let stream = commands.concat_bytes();
        prop_assert!(understood(&commands, &pieces) == stream);
        prop_assert!(understood(&commands, &vec![1; stream.len()]) == stream);
    }

    #[test]
    fn any_bytes_decode_without_panic_and_without_greed(
        word in prop_oneof!["", "PUB t\n", "MPUB t\n", "DPUB t 1\n", "IDENTIFY\n", "FIN ", "RDY ", "REQ ", "SUB "],
        bytes: Vec<u8>,
        phase in prop_oneof![Just(Phase::Init), Just(Phase::Subscribed), Just(Phase::Closing)],
    ) {
        let rules = Rules { phase, max_msg_size: 1000, max_body_size: 2000, ..RULES };
        let stream = [word.as_bytes(), &bytes].concat();
        let (mut whole, mut split) = (Decoder::new(), Decoder::new());
        let at_once = whole.decode(&stream, &rules);
        let mut by_bytes = (0..=stream.len()).map(|end| split.decode(&stream[..end], &rules));
        let first = by_bytes.find(|found| !matches!(found, Ok(Decoded::Need(_))));
        match at_once {
            Ok(Decoded::Need(need)) => {
                prop_assert!(first.is_none());
                prop_assert!(need.at_least > stream.len() && need.at_least <= LINE_LEN_MAX + 4 + 2000);
            }
            found => prop_assert_eq!(first, Some(found)),
        }
    }
}
