//! Every error of the TCP protocol that a client can provoke: its exact bytes, and whether the connection
//! survives it (NSQ reference, section 2.7). `parity` says where the others are.

use bruit_tests::{Client, FrameKind, Node, Options, command, frame_bytes, multi_publish};

/// Sends each row on a connection of its own; each must be answered with that error, and closed.
fn all_fatal<B: AsRef<[u8]>>(node: &Node, rows: &[(B, &str)]) {
    for (bytes, error) in rows {
        let mut client = node.client();
        client.send(bytes);
        expect_fatal(client, bytes.as_ref(), error);
    }
}

/// As [`all_fatal`], on a connection that has subscribed.
fn all_fatal_when_subscribed<B: AsRef<[u8]>>(node: &Node, rows: &[(B, &str)]) {
    for (bytes, error) in rows {
        let mut client = node.consumer("subscribed", "c", 0);
        client.send(bytes);
        expect_fatal(client, bytes.as_ref(), error);
    }
}

/// As [`all_fatal`], when the client hangs up its sending side after the bytes.
fn all_fatal_when_cut<B: AsRef<[u8]>>(node: &Node, rows: &[(B, &str)]) {
    for (bytes, error) in rows {
        let mut client = node.client();
        client.send(bytes);
        client.finish_sending();
        expect_fatal(client, bytes.as_ref(), error);
    }
}

fn expect_fatal(mut client: Client, sent: &[u8], error: &str) {
    let shown = String::from_utf8_lossy(&sent[..sent.len().min(60)]).into_owned();
    let answer = client.raw_rest();
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer == frame_bytes(FrameKind::Error, error),
        "the answer to {shown:?}: {text:?}, not {error:?}"
    );
}

#[test]
fn noise_instead_of_the_magic_is_a_bad_protocol() {
    let node = Node::start();
    for noise in ["  V1", "GET ", "    ", "\0\0\0\0", "V2  "] {
        let mut client = node.silent_client();
        client.send(noise);
        client.expect_fatal("E_BAD_PROTOCOL");
    }
}

#[test]
fn an_unknown_command_is_fatal() {
    let node = Node::start();
    all_fatal(
        &node,
        &[
            ("FOO\n", "E_INVALID invalid command FOO"),
            ("FOO bar baz\n", "E_INVALID invalid command FOO"),
            ("pub t\n", "E_INVALID invalid command pub"),
            ("Sub t c\n", "E_INVALID invalid command Sub"),
            ("\n", "E_INVALID invalid command "),
            ("\r\n", "E_INVALID invalid command "),
            (" PUB t\n", "E_INVALID invalid command "),
            ("NOPE\n", "E_INVALID invalid command NOPE"),
        ],
    );
}

#[test]
fn commands_of_a_consumer_are_refused_before_sub() {
    let node = Node::start();
    all_fatal(
        &node,
        &[
            ("RDY 1\n", "E_INVALID cannot RDY in current state"),
            ("RDY\n", "E_INVALID cannot RDY in current state"),
            ("FIN 0123456789abcdef\n", "E_INVALID cannot FIN in current state"),
            ("FIN\n", "E_INVALID cannot FIN in current state"),
            ("REQ 0123456789abcdef 0\n", "E_INVALID cannot REQ in current state"),
            ("TOUCH 0123456789abcdef\n", "E_INVALID cannot TOUCH in current state"),
            ("CLS\n", "E_INVALID cannot CLS in current state"),
        ],
    );
}

#[test]
fn commands_of_the_opening_are_refused_after_sub() {
    let node = Node::start();
    all_fatal_when_subscribed(
        &node,
        &[
            (command("IDENTIFY", b"{}"), "E_INVALID cannot IDENTIFY in current state"),
            (command("AUTH", b"secret"), "E_INVALID cannot AUTH in current state"),
            (b"SUB t c\n".to_vec(), "E_INVALID cannot SUB in current state"),
        ],
    );
}

#[test]
fn a_closing_consumer_may_not_start_again() {
    let node = Node::start();
    for (bytes, error) in [
        (command("IDENTIFY", b"{}"), "E_INVALID cannot IDENTIFY in current state"),
        (command("AUTH", b"secret"), "E_INVALID cannot AUTH in current state"),
        (b"SUB t c\n".to_vec(), "E_INVALID cannot SUB in current state"),
        (b"CLS\n".to_vec(), "E_INVALID cannot CLS in current state"),
    ] {
        let mut client = node.consumer("t", "c", 1);
        client.send("CLS\n");
        client.expect_response("CLOSE_WAIT");
        client.send(&bytes);
        expect_fatal(client, &bytes, error);
    }
}

#[test]
fn a_closing_consumer_may_publish_and_its_rdy_is_ignored() {
    let node = Node::start();
    let mut client = node.consumer("t", "c", 1);
    client.send("CLS\n");
    client.expect_response("CLOSE_WAIT");
    client.send("RDY 1\nRDY 9999999\nNOP\n");
    client.publish("t", "after CLS");
    client.expect_silence();
}

#[test]
fn sub_needs_heartbeats() {
    let node = Node::start();
    let mut client = node.client();
    assert_eq!(client.identify(r#"{"heartbeat_interval":-1}"#), "OK");
    client.send("SUB t c\n");
    client.expect_fatal("E_INVALID cannot SUB with heartbeats disabled");
}

#[test]
fn missing_parameters_are_fatal() {
    let node = Node::start();
    all_fatal(
        &node,
        &[
            ("PUB\n", "E_INVALID PUB insufficient number of parameters"),
            ("MPUB\n", "E_INVALID MPUB insufficient number of parameters"),
            ("DPUB\n", "E_INVALID DPUB insufficient number of parameters"),
            ("DPUB t\n", "E_INVALID DPUB insufficient number of parameters"),
            ("SUB\n", "E_INVALID SUB insufficient number of parameters"),
            ("SUB t\n", "E_INVALID SUB insufficient number of parameters"),
            ("AUTH x\n", "E_INVALID AUTH invalid number of parameters"),
        ],
    );
    all_fatal_when_subscribed(
        &node,
        &[
            ("FIN\n", "E_INVALID FIN insufficient number of params"),
            ("REQ\n", "E_INVALID REQ insufficient number of params"),
            ("REQ 0123456789abcdef\n", "E_INVALID REQ insufficient number of params"),
            ("TOUCH\n", "E_INVALID TOUCH insufficient number of params"),
        ],
    );
}

#[test]
fn malformed_message_ids_are_fatal() {
    let node = Node::start();
    all_fatal_when_subscribed(
        &node,
        &[
            ("FIN 0123\n", "E_INVALID invalid message ID"),
            ("FIN \n", "E_INVALID invalid message ID"),
            ("FIN 0123456789abcdef0\n", "E_INVALID invalid message ID"),
            ("REQ 0123 0\n", "E_INVALID invalid message ID"),
            ("TOUCH 0123456789abcde\n", "E_INVALID invalid message ID"),
        ],
    );
}

#[test]
fn numbers_are_plain_digits() {
    let node = Node::start();
    all_fatal_when_subscribed(
        &node,
        &[
            ("RDY x\n", "E_INVALID RDY could not parse count x"),
            ("RDY -1\n", "E_INVALID RDY could not parse count -1"),
            ("RDY +1\n", "E_INVALID RDY could not parse count +1"),
            ("RDY 1.5\n", "E_INVALID RDY could not parse count 1.5"),
            ("RDY 2501\n", "E_INVALID RDY count 2501 out of range 0-2500"),
            ("REQ 0123456789abcdef x\n", "E_INVALID REQ could not parse timeout x"),
            ("REQ 0123456789abcdef -1\n", "E_INVALID REQ could not parse timeout -1"),
        ],
    );
    all_fatal(
        &node,
        &[
            ("DPUB t x\n", "E_INVALID DPUB could not parse timeout x"),
            ("DPUB t -1\n", "E_INVALID DPUB could not parse timeout -1"),
            ("DPUB t 3600001\n", "E_INVALID DPUB timeout 3600001 out of range 0-3600000"),
        ],
    );
}

#[test]
fn bad_names_are_quoted_as_go_quotes_them() {
    let node = Node::start();
    let long = "x".repeat(65);
    let too_long = format!("E_BAD_TOPIC PUB topic name \"{long}\" is not valid");
    all_fatal(
        &node,
        &[
            (b"PUB \n".as_slice(), r#"E_BAD_TOPIC PUB topic name "" is not valid"#),
            (b"PUB  t\n", r#"E_BAD_TOPIC PUB topic name "" is not valid"#),
            (b"PUB bad$name\n", r#"E_BAD_TOPIC PUB topic name "bad$name" is not valid"#),
            (b"PUB quo\"te\n", r#"E_BAD_TOPIC PUB topic name "quo\"te" is not valid"#),
            (b"PUB a\\b\n", r#"E_BAD_TOPIC PUB topic name "a\\b" is not valid"#),
            (b"PUB tab\there\n", r#"E_BAD_TOPIC PUB topic name "tab\there" is not valid"#),
            (b"PUB \x01\xff\n", r#"E_BAD_TOPIC PUB topic name "\x01\xff" is not valid"#),
            (b"PUB t#ephemera\n", r#"E_BAD_TOPIC PUB topic name "t#ephemera" is not valid"#),
            (b"PUB #ephemeral\n", r##"E_BAD_TOPIC PUB topic name "#ephemeral" is not valid"##),
            (b"DPUB bad$ 1\n", r#"E_BAD_TOPIC DPUB topic name "bad$" is not valid"#),
            (b"MPUB bad$\n", r#"E_BAD_TOPIC E_BAD_TOPIC MPUB topic name "bad$" is not valid"#),
            (b"SUB bad$ c\n", r#"E_BAD_TOPIC SUB topic name "bad$" is not valid"#),
            (b"SUB t bad$\n", r#"E_BAD_CHANNEL SUB channel name "bad$" is not valid"#),
            (b"SUB t \n", r#"E_BAD_CHANNEL SUB channel name "" is not valid"#),
            (format!("PUB {long}\n").as_bytes(), &too_long),
        ],
    );
}

#[test]
fn names_may_have_64_bytes_with_their_suffix() {
    let node = Node::start();
    let longest = "x".repeat(64);
    let ephemeral = format!("{}#ephemeral", "x".repeat(54));
    let mut client = node.client();
    client.publish(&longest, "fits");
    client.publish(&ephemeral, "fits");
    client.publish("a.B-c_9", "fits");
    client.subscribe(&longest, &ephemeral);
    let longer = format!("{}#ephemeral", "x".repeat(55));
    let line = format!("PUB {longer}\n");
    all_fatal(&node, &[(line, &format!("E_BAD_TOPIC PUB topic name \"{longer}\" is not valid"))]);
}

#[test]
fn lengths_that_no_message_has_are_fatal() {
    let node = Node::start();
    let line = |text: &str, length: i32| [text.as_bytes(), b"\n", &length.to_be_bytes()].concat();
    all_fatal(
        &node,
        &[
            (line("PUB t", 0), "E_BAD_MESSAGE PUB invalid message body size 0"),
            (line("PUB t", -1), "E_BAD_MESSAGE PUB invalid message body size -1"),
            (line("PUB t", i32::MIN), "E_BAD_MESSAGE PUB invalid message body size -2147483648"),
            (line("PUB t", i32::MAX), "E_BAD_MESSAGE PUB message too big 2147483647 > 1048576"),
            (line("PUB t", 1_048_577), "E_BAD_MESSAGE PUB message too big 1048577 > 1048576"),
            (line("DPUB t 0", 0), "E_BAD_MESSAGE DPUB invalid message body size 0"),
            (line("DPUB t 0", -1), "E_BAD_MESSAGE DPUB invalid message body size -1"),
            (line("DPUB t 0", i32::MAX), "E_BAD_MESSAGE DPUB message too big 2147483647 > 1048576"),
            (line("MPUB t", 0), "E_BAD_BODY MPUB invalid body size 0"),
            (line("MPUB t", -1), "E_BAD_BODY MPUB invalid body size -1"),
            (line("MPUB t", i32::MAX), "E_BAD_BODY MPUB body too big 2147483647 > 5242880"),
            (line("IDENTIFY", 0), "E_BAD_BODY IDENTIFY invalid body size 0"),
            (line("IDENTIFY", -1), "E_BAD_BODY IDENTIFY invalid body size -1"),
            (line("IDENTIFY", i32::MAX), "E_BAD_BODY IDENTIFY body too big 2147483647 > 5242880"),
            (line("AUTH", 0), "E_BAD_BODY AUTH invalid body size 0"),
            (line("AUTH", -1), "E_BAD_BODY AUTH invalid body size -1"),
            (line("AUTH", i32::MAX), "E_BAD_BODY AUTH body too big 2147483647 > 5242880"),
        ],
    );
}

#[test]
fn lying_batches_are_fatal_and_store_nothing() {
    let node = Node::start();
    let batch = |parts: &[i32]| {
        let body: Vec<u8> = parts.iter().flat_map(|part| part.to_be_bytes()).collect();
        command("MPUB lies", &body)
    };
    let mut second_is_bad = multi_publish("lies", &["good", "bad!"]);
    let at = second_is_bad.len() - 8;
    second_is_bad[at..at + 4].copy_from_slice(&0_i32.to_be_bytes());
    all_fatal(
        &node,
        &[
            (batch(&[0]), "E_BAD_BODY MPUB invalid message count 0"),
            (batch(&[-1]), "E_BAD_BODY MPUB invalid message count -1"),
            (batch(&[1_048_576]), "E_BAD_BODY MPUB invalid message count 1048576"),
            (batch(&[i32::MAX]), "E_BAD_BODY MPUB invalid message count 2147483647"),
            (batch(&[1, 0]), "E_BAD_MESSAGE MPUB invalid message(0) body size 0"),
            (batch(&[1, -1]), "E_BAD_MESSAGE MPUB invalid message(0) body size -1"),
            (batch(&[1, 1_048_577]), "E_BAD_MESSAGE MPUB message too big 1048577 > 1048576"),
            (batch(&[1, i32::MAX]), "E_BAD_MESSAGE MPUB message too big 2147483647 > 1048576"),
            (second_is_bad, "E_BAD_MESSAGE MPUB invalid message(1) body size 0"),
        ],
    );
    let stats = node.topic_stats("lies");
    assert!(stats.is_none_or(|stats| stats["message_count"] == 0), "a part of a bad batch was stored");
}

#[test]
fn a_client_that_hangs_up_inside_a_command_is_told_what_was_missing() {
    let node = Node::start();
    let cut = |text: &str, rest: &[u8]| [text.as_bytes(), b"\n", rest].concat();
    all_fatal_when_cut(
        &node,
        &[
            (cut("PUB t", b""), "E_BAD_MESSAGE PUB failed to read message body size"),
            (cut("PUB t", b"\0\0"), "E_BAD_MESSAGE PUB failed to read message body size"),
            (cut("PUB t", b"\0\0\0\x05four"), "E_BAD_MESSAGE PUB failed to read message body"),
            (cut("DPUB t 5", b"\0"), "E_BAD_MESSAGE DPUB failed to read message body size"),
            (cut("DPUB t 5", b"\0\0\0\x05four"), "E_BAD_MESSAGE DPUB failed to read message body"),
            (cut("MPUB t", b"\0\0"), "E_BAD_BODY MPUB failed to read body size"),
            (cut("MPUB t", b"\0\0\0\x20\0\0"), "E_BAD_BODY MPUB failed to read message count"),
            (
                cut("MPUB t", b"\0\0\0\x20\0\0\0\x02\0"),
                "E_BAD_MESSAGE MPUB failed to read message(0) body size",
            ),
            (
                cut("MPUB t", b"\0\0\0\x20\0\0\0\x02\0\0\0\x01x\0\0"),
                "E_BAD_MESSAGE MPUB failed to read message(1) body size",
            ),
            (
                cut("MPUB t", b"\0\0\0\x20\0\0\0\x02\0\0\0\x04abc"),
                "E_BAD_MESSAGE MPUB failed to read message body",
            ),
            (cut("IDENTIFY", b"\0"), "E_BAD_BODY IDENTIFY failed to read body size"),
            (cut("IDENTIFY", b"\0\0\0\x09{"), "E_BAD_BODY IDENTIFY failed to read body"),
            (cut("AUTH", b"\0"), "E_BAD_BODY AUTH failed to read body size"),
            (cut("AUTH", b"\0\0\0\x09secret"), "E_BAD_BODY AUTH failed to read body"),
        ],
    );
}

#[test]
fn auth_is_refused_while_no_auth_server_is_set() {
    let node = Node::start();
    all_fatal(&node, &[(command("AUTH", b"secret"), "E_AUTH_DISABLED AUTH disabled")]);
}

#[test]
fn answers_about_messages_that_are_not_in_flight_do_not_end_the_connection() {
    let node = Node::start();
    let mut client = node.consumer("t", "c", 1);
    let id = "0123456789abcdef";
    client.finish(id);
    client.expect_error(&format!("E_FIN_FAILED FIN {id} failed ID not in flight"));
    client.requeue(id, 5);
    client.expect_error(&format!("E_REQ_FAILED REQ {id} failed ID not in flight"));
    client.touch(id);
    client.expect_error(&format!("E_TOUCH_FAILED TOUCH {id} failed ID not in flight"));
    client.finish("not-hex-but-16-b");
    client.expect_error("E_FIN_FAILED FIN not-hex-but-16-b failed ID not in flight");
    node.client().publish("t", "still works");
    assert_eq!(client.message().text(), "still works");
}

#[test]
fn the_consumer_limit_of_a_channel_is_said() {
    let node = Options::new().arg("--max-channel-consumers=1").start();
    let _first = node.consumer("t", "c", 1);
    let mut second = node.client();
    second.send("SUB t c\n");
    second.expect_fatal("E_SUB_FAILED SUB failed consumers for t:c exceeds limit of 1");
    node.client().subscribe("t", "another");
}

#[test]
fn a_line_that_never_ends_is_dropped_without_a_word() {
    let node = Node::start();
    let mut client = node.client();
    // The node may close before it has taken all of it.
    let _ = client.try_send("x".repeat(20_000));
    client.expect_end();
    let mut client = node.client();
    client.send(format!("NOP {}\n", "x".repeat(16_000)));
    client.publish("t", "a long line of 16,000 bytes is fine");
}
