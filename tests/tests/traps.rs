//! What real client libraries do that is easily got wrong. Each was seen on the wire.

use bruit_tests::{Node, command, multi_publish, texts};

#[test]
fn pynsq_and_gnsq_glue_the_magic_to_the_first_command() {
    let node = Node::start();
    let mut client = node.silent_client();
    let identify =
        br#"{"client_id":"host","feature_negotiation":true,"short_id":"host","long_id":"host.local"}"#;
    client.send([b"  V2".as_slice(), &command("IDENTIFY", identify)].concat());
    assert!(client.frame().body.starts_with(b"{\"max_rdy_count\":2500"));
    client.publish("t", "x");
}

#[test]
fn nsqjs_sends_the_magic_alone_and_waits_for_nothing() {
    let node = Node::start();
    let mut client = node.silent_client();
    client.send("  V2");
    client.expect_silence();
    assert!(client.identify(r#"{"feature_negotiation":true,"heartbeat_interval":30000}"#).starts_with('{'));
}

#[test]
fn tokio_nsq_identifies_with_nulls() {
    let node = Node::start();
    let mut client = node.client();
    let answer = client.identify(concat!(
        r#"{"client_id":null,"hostname":"h","user_agent":null,"feature_negotiation":true,"tls_v1":false,"#,
        r#""deflate":null,"deflate_level":null,"snappy":null,"sample_rate":null,"heartbeat_interval":null,"#,
        r#""output_buffer_size":null,"output_buffer_timeout":null,"msg_timeout":null}"#
    ));
    assert!(answer.contains(r#""msg_timeout":60000"#), "{answer}");
    client.subscribe("t", "c");
}

#[test]
fn go_nsq_sends_everything_up_to_rdy_in_one_write() {
    let node = Node::start();
    node.client().publish("t", "x");
    let mut client = node.silent_client();
    client.send([b"  V2".as_slice(), &command("IDENTIFY", b"{}"), b"SUB t c\nRDY 1\n"].concat());
    client.expect_ok();
    client.expect_ok();
    assert_eq!(client.message().text(), "x");
}

#[test]
fn gnsq_asks_http_with_a_malformed_accept_header() {
    let node = Node::start();
    for target in ["/ping", "/stats?format=json", "/info"] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nAccept: application/vnd.nsq version=1.0\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(node.http().exchange(request.as_bytes()).status, 200, "{target}");
    }
}

#[test]
fn pipelined_publishes_are_answered_in_order() {
    let node = Node::start();
    let mut client = node.client();
    let mut bytes = Vec::new();
    for round in 0..50 {
        bytes.extend(command(&format!("PUB a{}", round % 3), b"x"));
        bytes.extend(multi_publish("b", &["x", "y"]));
        bytes.extend(command("DPUB a0 10", b"x"));
        bytes.extend(b"NOP\n");
    }
    // The error of the last one comes after all of the answers.
    bytes.extend(command("PUB bad$", b"x"));
    client.send(bytes);
    for _ in 0..150 {
        client.expect_ok();
    }
    client.expect_fatal(r#"E_BAD_TOPIC PUB topic name "bad$" is not valid"#);
}

#[test]
fn crlf_and_surplus_parameters_are_accepted() {
    let node = Node::start();
    let mut client = node.client();
    client.send(command("PUB t\r", b"x"));
    client.expect_ok();
    client.send(command("PUB t surplus parameters", b"y"));
    client.expect_ok();
    client.send("NOP\r\nSUB t c surplus\r\n");
    client.expect_ok();
    client.send("RDY 2\r\n");
    let messages = client.finish_messages(2);
    assert_eq!(texts(&messages), ["x", "y"]);
}

#[test]
fn an_empty_delay_is_none() {
    let node = Node::start();
    let mut client = node.client();
    client.send(command("DPUB t ", b"x"));
    client.expect_ok();
    client.subscribe("t", "c");
    client.ready(1);
    let id = client.message().id;
    client.send(format!("REQ {id} \n"));
    assert_eq!(client.message().attempts, 2);
}

#[test]
fn gnsq_toggles_rdy_and_sends_fin_rdy_touch_in_one_segment() {
    let node = Node::start();
    let mut client = node.consumer("t", "c", 2);
    node.client().publish_all("t", &["1", "2", "3", "4"]);
    let (first, second) = (client.message(), client.message());
    let toggles = "RDY 0\nRDY 1\n".repeat(100);
    client.send(format!("TOUCH {}\n{toggles}RDY 2\nFIN {}\nTOUCH {}\n", second.id, first.id, second.id));
    let third = client.message();
    client.send(format!("FIN {}\nFIN {}\nRDY 1\n", second.id, third.id));
    let fourth = client.message();
    client.finish(&fourth.id);
    assert_eq!(texts(&[first, second, third, fourth]), ["1", "2", "3", "4"]);
    node.wait_for("t", "c", "in_flight_count", 0);
}

#[test]
fn answers_to_publishes_are_not_mixed_with_unasked_frames() {
    let node = Node::start();
    let mut client = node.client();
    client.identify(r#"{"heartbeat_interval":1000,"output_buffer_timeout":-1}"#);
    for i in 0..200 {
        client.publish("t", format!("{i}"));
    }
    // Nothing but the heartbeat is left to come.
    assert_eq!(client.raw_frame().body, b"_heartbeat_");
}

#[test]
fn a_sparse_message_does_not_wait_in_an_output_buffer() {
    let node = Node::start();
    let mut consumer = node.client();
    // nsqd would keep the message back until its next heartbeat, half a minute later.
    consumer.identify(r#"{"output_buffer_timeout":-1,"output_buffer_size":65536}"#);
    consumer.subscribe("t", "c");
    consumer.ready(100);
    node.client().publish("t", "sparse");
    assert_eq!(consumer.raw_frame().body.get(26..), Some(b"sparse".as_slice()));
}
