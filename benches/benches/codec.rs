//! What the protocol costs by itself: runs of commands read, runs of frames written. Each figure is for a
//! whole run; the counter beside it is per message.

use bruit_wire::{
    MessageId,
    nsq::{
        Command, Decoded, Decoder, FrameDecoder, MessageView, Phase, Rules, put_finish, put_message,
        put_multi_publish, put_publish,
    },
};
use bytes::BytesMut;
use divan::{Bencher, black_box, counter::ItemsCount};

const MESSAGES: u64 = 1000;
const BODY: [u8; 200] = [b'x'; 200];

fn main() {
    divan::main();
}

/// A run of PUBs, as one read of a busy publisher brings them.
#[divan::bench]
fn decode_pub(bencher: Bencher<'_, '_>) {
    let mut input = Vec::new();
    (0..MESSAGES).for_each(|_| put_publish(&mut input, "orders", &BODY));
    decode(bencher, &input, Phase::Init);
}

/// MPUBs of as many messages.
#[divan::bench(args = [10, 200, 1000])]
fn decode_mpub(bencher: Bencher<'_, '_>, batch: usize) {
    let mut input = Vec::new();
    for _ in 0..MESSAGES as usize / batch {
        put_multi_publish(&mut input, "orders", std::iter::repeat_n(&BODY[..], batch));
    }
    decode(bencher, &input, Phase::Init);
}

/// A run of FINs, as a busy consumer sends them.
#[divan::bench]
fn decode_fin(bencher: Bencher<'_, '_>) {
    let mut input = Vec::new();
    (0..MESSAGES).for_each(|sequence| put_finish(&mut input, &MessageId::new(1, sequence).to_hex()));
    decode(bencher, &input, Phase::Subscribed);
}

/// Messages as frames, as a topic stages them.
#[divan::bench]
fn encode_messages(bencher: Bencher<'_, '_>) {
    let mut out = BytesMut::with_capacity(MESSAGES as usize * 300);
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(|| {
        out.clear();
        for sequence in 0..MESSAGES {
            put_message(&mut out, 1, 1, MessageId::new(1, sequence), black_box(&BODY));
        }
        out.len()
    });
}

/// A run of message frames, as a consumer reads them.
#[divan::bench]
fn read_messages(bencher: Bencher<'_, '_>) {
    let mut input = BytesMut::new();
    for sequence in 0..MESSAGES {
        put_message(&mut input, 1, 1, MessageId::new(1, sequence), &BODY);
    }
    let decoder = FrameDecoder::new(1024);
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(|| {
        let (mut at, mut bytes) = (0, 0);
        while let Ok(Some((frame, len))) = decoder.decode(black_box(&input[at..])) {
            bytes += MessageView::parse_payload(frame.body).map_or(0, |message| message.body.len());
            at += len;
        }
        bytes
    });
}

/// Message ids to text and back.
#[divan::bench]
fn message_ids(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(|| {
        (0..MESSAGES).filter_map(|i| MessageId::from_hex(&black_box(MessageId::new(1, i)).to_hex())).count()
    });
}

/// Reads the whole of `input` as commands and walks over every body in it.
fn decode(bencher: Bencher<'_, '_>, input: &[u8], phase: Phase) {
    let rules = Rules {
        phase,
        heartbeats: true,
        max_msg_size: 1024 * 1024,
        max_body_size: 5 * 1024 * 1024,
        max_rdy_count: 2500,
        max_req_timeout_ms: 3_600_000,
        max_defer_timeout_ms: 3_600_000,
    };
    let mut decoder = Decoder::new();
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(|| {
        let (mut at, mut found) = (0, 0);
        while let Ok(Decoded::Command { command, consumed }) = decoder.decode(black_box(&input[at..]), &rules)
        {
            at += consumed;
            found += match command {
                Command::MultiPublish { messages, .. } => messages.iter().map(<[u8]>::len).sum(),
                Command::Publish { body, .. } => body.len(),
                _ => 1,
            };
        }
        assert_eq!(at, input.len());
        found
    });
}
