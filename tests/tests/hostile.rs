//! Clients that are silent, slow, noisy, or many.

use std::time::Duration;

use bruit_tests::{
    FrameKind, Node, Options, command, multi_publish,
    wait::{self, Stopwatch},
};

/// A node whose heartbeats come each second, so that a silent client is cut after two.
fn impatient_node() -> Node {
    Options::new().arg("--client-timeout=2s").start()
}

#[test]
fn a_client_that_never_sends_the_magic_is_closed() {
    let node = Node::start();
    for part in ["", " ", "  V"] {
        let mut client = node.silent_client();
        client.send(part);
        client.expect_end();
    }
}

#[test]
fn a_magic_in_four_pieces_is_accepted() {
    let node = Node::start();
    let mut client = node.silent_client();
    for byte in ["  V2", "N", "O", "P\n", "PUB t\n\0\0", "\0\x02h", "i"].concat().bytes() {
        client.send([byte]);
    }
    client.expect_ok();
}

#[test]
fn half_a_line_and_silence_is_closed_without_a_frame() {
    let node = impatient_node();
    let mut client = node.client();
    client.send("PUB t");
    assert!(client.frame_or_end().is_none(), "nothing but heartbeats comes before the end");
}

#[test]
fn half_a_body_and_silence_is_told_what_was_missing() {
    let node = impatient_node();
    for (bytes, error) in [
        (b"PUB t\n".as_slice(), "E_BAD_MESSAGE PUB failed to read message body size"),
        (b"PUB t\n\0\0\0\x05four", "E_BAD_MESSAGE PUB failed to read message body"),
        (b"MPUB t\n\0\0\0\x20\0\0", "E_BAD_BODY MPUB failed to read message count"),
        (b"IDENTIFY\n\0\0\0\x09{", "E_BAD_BODY IDENTIFY failed to read body"),
    ] {
        let mut client = node.client();
        client.send(bytes);
        let frame = client.frame_or_end().expect("an error before the end");
        assert_eq!((frame.kind, String::from_utf8_lossy(&frame.body).as_ref()), (FrameKind::Error, error));
        client.expect_end();
    }
}

#[test]
fn a_client_that_leaves_heartbeats_unanswered_is_closed() {
    let node = Node::start();
    let mut client = node.client();
    client.identify(r#"{"heartbeat_interval":1000}"#);
    client.subscribe("t", "c");
    let silence = Stopwatch::start();
    assert_eq!(client.raw_frame().body, b"_heartbeat_");
    assert!(client.frame_or_end().is_none(), "nothing but heartbeats comes before the end");
    assert!(silence.elapsed() >= Duration::from_millis(1900), "closed before two intervals had passed");
    node.wait_for("t", "c", "client_count", 0);
}

#[test]
fn a_client_that_answers_heartbeats_stays() {
    let node = Node::start();
    let mut client = node.client();
    client.identify(r#"{"heartbeat_interval":1000}"#);
    client.subscribe("t", "c");
    for _ in 0..4 {
        assert_eq!(client.raw_frame().body, b"_heartbeat_");
        client.send("NOP\n");
    }
    client.ready(1);
    node.client().publish("t", "still here");
    assert_eq!(client.message().text(), "still here");
}

#[test]
fn a_producer_gets_heartbeats_too() {
    let node = Node::start();
    let mut client = node.client();
    client.identify(r#"{"heartbeat_interval":1000}"#);
    assert_eq!(client.raw_frame().body, b"_heartbeat_");
}

#[test]
fn a_batch_that_lies_about_its_length_is_read_by_its_count() {
    let node = Node::start();
    let mut batch = multi_publish("t", &["one", "two"]);
    // The length says 60 bytes; the count says two messages; what follows is the next command.
    batch[7..11].copy_from_slice(&60_u32.to_be_bytes());
    batch.extend(command("PUB t", b"three"));
    let mut client = node.client();
    client.send(batch);
    client.expect_ok();
    client.expect_ok();
    let mut consumer = node.consumer("t", "c", 10);
    let mut texts: Vec<String> = consumer.finish_messages(3).iter().map(|message| message.text()).collect();
    texts.sort();
    assert_eq!(texts, ["one", "three", "two"]);
}

#[test]
fn a_batch_that_goes_on_for_ever_is_cut_at_the_largest_body() {
    let node = Options::new().arg("--max-body-size=65536").start();
    let mut client = node.client();
    let mut batch = b"MPUB t\n".to_vec();
    batch.extend(65_536_u32.to_be_bytes());
    batch.extend(13_000_u32.to_be_bytes());
    for _ in 0..13_000 {
        batch.extend(8_u32.to_be_bytes());
        batch.extend(b"12345678");
    }
    // The node may close before it has taken all of it.
    let _ = client.try_send(batch);
    if let Some(frame) = client.frame_or_end() {
        let text = String::from_utf8_lossy(&frame.body).into_owned();
        assert!(text.starts_with("E_BAD_BODY MPUB body too big "), "{text}");
        client.expect_end();
    }
    assert!(node.topic_stats("t").is_none_or(|stats| stats["message_count"] == 0));
}

#[test]
fn a_consumer_that_never_reads_does_not_stop_the_others() {
    let node = Options::new().arg("--client-timeout=4s").start();
    let mut producer = node.client();
    let body = "x".repeat(100_000);
    let bodies = vec![body.as_str(); 40];
    for _ in 0..5 {
        producer.publish_all("t", &bodies);
    }
    let mut deaf = node.consumer("t", "c", 2500);
    wait::until("the deaf consumer holds messages", || {
        node.channel_stats("t", "c").is_some_and(|stats| stats["in_flight_count"].as_u64() > Some(0))
    });
    // It goes on talking, so only the writes to it can tell that it is deaf.
    let mut other = node.consumer("other", "c", 1);
    for round in 0..20 {
        deaf.try_send("NOP\n").ok();
        producer.publish("other", format!("{round}"));
        assert_eq!(other.finish_messages(1)[0].text(), format!("{round}"));
    }
    node.wait_for("t", "c", "client_count", 0);
    let mut good = node.consumer("t", "c", 100);
    assert_eq!(good.finish_messages(200).len(), 200);
}

#[test]
fn a_publisher_that_never_reads_its_answers_does_not_grow_the_node() {
    let node = Options::new().arg("--client-timeout=4s").start();
    let mut deaf = node.client();
    let publishes = command("PUB flood#ephemeral", b"x").repeat(1000);
    // The node stops reading from a client that does not take its answers, so the flood comes to a halt.
    let sent = deaf.flood(&publishes, 1 << 30, Duration::from_secs(2));
    assert!(sent < 1 << 30, "the node took {sent} bytes without its answers being read");
    node.client().publish("t", "others are served");
}

#[test]
fn three_hundred_connections_at_once_are_all_served() {
    let node = Node::start();
    let mut consumers: Vec<_> = (0..300).map(|i| node.consumer("t", &format!("c{i}"), 1)).collect();
    node.client().publish("t", "for everyone");
    for consumer in &mut consumers {
        let message = consumer.message();
        assert_eq!(message.text(), "for everyone");
        consumer.finish(&message.id);
    }
    let stats = node.topic_stats("t").expect("the topic exists");
    assert_eq!(stats["channels"].as_array().map(Vec::len), Some(300));
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    let node = Options::new().arg("--max-connections=2").start();
    let mut first = node.client();
    let mut second = node.client();
    first.publish("t", "a");
    second.publish("t", "b");
    let mut third = node.silent_client();
    third.expect_end();
    first.publish("t", "c");
    drop(second);
    wait::until("the place is free again", || {
        let mut client = node.silent_client();
        let _ = client.try_send(b"  V2PUB t\n\0\0\0\x01x");
        client.frame_or_end().is_some()
    });
}

#[test]
fn a_node_that_runs_out_of_files_goes_on_when_there_are_some_again() {
    let mut node = Options::new().open_files_max(60).start();
    let mut producer = node.client();
    let crowd: Vec<_> = (0..120).map(|_| node.silent_client()).collect();
    // Whoever is in is served, or told why not: a new journal file cannot be opened either.
    let mut acknowledged = 0;
    while acknowledged < 20 {
        producer.send(command("PUB t", b"x"));
        match producer.frame_or_end() {
            Some(frame) if frame.body == b"OK" => acknowledged += 1,
            Some(frame) => {
                let text = String::from_utf8_lossy(&frame.body).into_owned();
                assert!(text.starts_with("E_PUB_FAILED PUB failed "), "{text}");
                break;
            }
            None => panic!("closed without a word"),
        }
    }
    drop(crowd);
    wait::until("newcomers are served again", || {
        let mut client = node.silent_client();
        let _ = client.try_send(b"  V2PUB t\n\0\0\0\x01x");
        client.frame_or_end().is_some_and(|frame| frame.body == b"OK")
    });
    node.crash();
    // What was refused may have been stored all the same.
    let seen = node.consumer("t", "c", 100).finish_messages(acknowledged + 1);
    assert!(seen.iter().all(|message| message.body == b"x"), "{seen:?}");
}

#[test]
fn random_bytes_do_not_kill_the_node() {
    let mut node = Node::start();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for round in 0..200 {
        let mut noise = Vec::new();
        for _ in 0..64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend(state.to_le_bytes());
        }
        let mut client = node.client();
        // Behind a good command, too, where lengths and numbers are read from noise.
        let lead =
            ["", "PUB t\n", "MPUB t\n", "IDENTIFY\n", "DPUB t 5\n", "AUTH\n", "SUB t c\nRDY 1\n"][round % 7];
        let _ = client.try_send([lead.as_bytes(), noise.as_slice(), b"\n"].concat());
    }
    assert!(node.is_running());
    node.client().publish("t", "alive");
    assert!(!node.log().contains("panicked"), "{}", node.log());
}
