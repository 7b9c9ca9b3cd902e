//! Snappy and deflate: the very bytes, and what damaged or malicious ones come to (NSQ reference, section 2.9).

use std::io::Write as _;

use bruit_tests::{Client, Node, Options, Packing, SNAPPY_IDENTIFIER, command};

fn granted(node: &Node, packing: &str) -> Client {
    let mut client = node.client();
    client
        .send(command("IDENTIFY", format!(r#"{{"feature_negotiation":true,"{packing}":true}}"#).as_bytes()));
    client
}

/// The highest amount of memory that the node has ever used, KiB.
fn memory_peak(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("a Linux system");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel tells");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn snappy_begins_with_the_bytes_of_nsqd() {
    let node = Node::start();
    let mut client = granted(&node, "snappy");
    let ok = b"\x01\x0e\x00\x00\x26\x98\x2b\xcf\x00\x00\x00\x06\x00\x00\x00\x00OK";
    let tail = [SNAPPY_IDENTIFIER, ok].concat();
    let mut bytes = Vec::new();
    while !bytes.ends_with(&tail) {
        bytes.extend(client.raw_bytes(1));
    }
    let json = String::from_utf8_lossy(&bytes[8..bytes.len() - tail.len()]).into_owned();
    assert!(json.contains(r#""deflate":false"#) && json.contains(r#""snappy":true"#), "{json}");
}

#[test]
fn deflate_is_raw_and_ends_each_flush_with_a_sync_marker() {
    let node = Node::start();
    let mut client = granted(&node, "deflate");
    let marker = [0, 0, 0xff, 0xff];
    let mut bytes = Vec::new();
    while !bytes.ends_with(&marker) {
        bytes.extend(client.raw_bytes(1));
    }
    let size = u32::from_be_bytes(bytes[..4].try_into().expect("4 bytes")) as usize;
    let mut plain = Vec::with_capacity(64);
    let mut decompress = flate2::Decompress::new(false);
    let flush = flate2::FlushDecompress::None;
    decompress.decompress_vec(&bytes[4 + size..], &mut plain, flush).expect("sound");
    assert_eq!(plain, b"\x00\x00\x00\x06\x00\x00\x00\x00OK");
}

#[test]
fn messages_of_all_sizes_pass_through() {
    let node = Node::start();
    for packing in [Packing::Snappy, Packing::Deflate] {
        let topic = format!("{packing:?}");
        let (mut producer, mut consumer) = (node.client(), node.client());
        producer.negotiate(None, packing);
        consumer.negotiate(None, packing);
        consumer.subscribe(&topic, "c");
        consumer.ready(2500);
        for size in [1, 100, 65_535, 65_536, 65_537, 1_048_576] {
            let body: Vec<u8> = (0..size).map(|n: usize| (n / 3 * 7) as u8).collect();
            producer.publish(&topic, &body);
            let message = consumer.message();
            assert_eq!(message.body.len(), size);
            assert_eq!(message.body, body);
            consumer.finish(&message.id);
        }
        let many: Vec<String> = (0..2000).map(|n| format!("message {n}")).collect();
        producer.publish_all(&topic, &many);
        consumer.collect(&many);
        node.wait_for(&topic, "c", "in_flight_count", 0);
        let shown = &node.channel_stats(&topic, "c").expect("the channel exists")["clients"][0];
        assert_eq!(shown["snappy"], packing == Packing::Snappy, "{shown}");
        assert_eq!(shown["deflate"], packing == Packing::Deflate, "{shown}");
    }
}

#[test]
fn one_identifier_is_enough_and_any_number_of_them_is_taken() {
    let node = Node::start();
    // As pynsq has it: before every command, and even twice in a row.
    let mut client = node.client();
    client.negotiate(None, Packing::Snappy);
    for body in ["one", "two"] {
        client.try_send_packed(SNAPPY_IDENTIFIER).expect("the node reads");
        client.publish("repeated", body);
    }
    // As Go has it: once, in front of everything.
    let mut client = node.client();
    client.negotiate(None, Packing::Snappy);
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    for body in [b"one", b"two"] {
        encoder.write_all(&command("PUB once", body)).expect("memory takes all");
        encoder.flush().expect("memory takes all");
        client.try_send_packed(&std::mem::take(encoder.get_mut())).expect("the node reads");
        client.expect_ok();
    }
    for topic in ["repeated", "once"] {
        node.consumer(topic, "c", 2).collect(["one", "two"]);
    }
}

#[test]
fn both_at_once_are_refused_unless_only_one_is_offered() {
    let both = r#"{"feature_negotiation":true,"snappy":true,"deflate":true}"#;
    let node = Node::start();
    let mut client = node.client();
    client.send(command("IDENTIFY", both.as_bytes()));
    client.expect_fatal("E_IDENTIFY_FAILED cannot enable both deflate and snappy compression");
    let node = Options::new().arg("--snappy=false").arg("--max-deflate-level=3").start();
    let mut client = node.client();
    let answer = client.identify(both);
    let expected = r#""deflate":true,"deflate_level":3,"max_deflate_level":3,"snappy":false"#;
    assert!(answer.contains(expected), "{answer}");
    client.pack(Packing::Deflate);
    client.expect_ok();
    client.publish("t", "one");
}

#[test]
fn compressed_noise_ends_the_connection_and_nothing_else() {
    let node = Node::start();
    let mut served = node.client();
    served.negotiate(None, Packing::Snappy);
    let ok_chunk = |kind: u8, body: &[u8]| {
        let length = u32::try_from(body.len()).expect("short").to_le_bytes();
        [&[kind], &length[..3], body].concat()
    };
    let noise: Vec<u8> = (0..5000_u32).map(|n| (n.wrapping_mul(2_246_822_519) >> 11) as u8).collect();
    let snappy: [Vec<u8>; 5] = [
        noise.clone(),
        b"NOP\n".to_vec(),
        [SNAPPY_IDENTIFIER, &ok_chunk(0x02, b"reserved")].concat(),
        [SNAPPY_IDENTIFIER, &ok_chunk(0x01, b"\0\0\0\0PUB")].concat(),
        [SNAPPY_IDENTIFIER, b"\x00\xff\xff\xff"].concat(),
    ];
    let deflate: [Vec<u8>; 2] = [[&[0x06][..], &noise].concat(), b"\x03\x00 behind the end".to_vec()];
    let all = snappy.iter().map(|bytes| (Packing::Snappy, bytes));
    for (packing, bytes) in all.chain(deflate.iter().map(|bytes| (Packing::Deflate, bytes))) {
        let mut client = node.client();
        client.negotiate(None, packing);
        // The node may close before it has taken all.
        let _ = client.try_send_packed(bytes);
        client.expect_end();
    }
    // One that stops in the middle of a chunk and goes away.
    let mut client = node.client();
    client.negotiate(None, Packing::Snappy);
    client.try_send_packed(&[SNAPPY_IDENTIFIER, b"\x00\x10"].concat()).expect("the node reads");
    drop(client);
    served.publish("t", "served");
}

#[test]
fn a_bomb_costs_no_more_memory_than_other_bytes() {
    let node = Node::start();
    let mut served = node.client();
    served.negotiate(None, Packing::Deflate);
    served.publish("t", "before");
    let before = memory_peak(&node);
    for _ in 0..4 {
        let mut client = node.client();
        client.negotiate(None, Packing::Deflate);
        let mut bomb = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        // 256 MiB without the end of a line, in some 256 KiB.
        for _ in 0..256 {
            bomb.write_all(&vec![b'x'; 1 << 20]).expect("memory takes all");
        }
        let bomb = bomb.finish().expect("memory takes all");
        assert!(bomb.len() < 1 << 20, "{}", bomb.len());
        let _ = client.try_send_packed(&bomb);
        client.expect_end();
    }
    let grown = memory_peak(&node) - before;
    assert!(grown < 16 << 10, "the node has grown by {grown} KiB");
    served.publish("t", "after");
}

#[test]
fn a_consumer_with_compression_that_does_not_read_holds_up_nobody() {
    let node = Node::start();
    let mut stuck = node.client();
    stuck.negotiate(None, Packing::Snappy);
    stuck.subscribe("t", "c");
    stuck.ready(2500);
    let noise: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut other = node.consumer("t", "other", 100);
    let mut producer = node.client();
    for _ in 0..60 {
        producer.publish("t", &noise);
    }
    for _ in 0..60 {
        let message = other.message();
        other.finish(&message.id);
    }
    let messages = stuck.finish_messages(60);
    assert!(messages.iter().all(|message| message.body == noise));
}
