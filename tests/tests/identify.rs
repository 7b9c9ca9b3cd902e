//! IDENTIFY: what is granted, what is refused, and how forgiving the JSON is (NSQ reference 2.8).

use bruit_tests::{FrameKind, Node, command};

/// The answer to an IDENTIFY that negotiates and asks for nothing else.
const DEFAULTS: &str = concat!(
    r#"{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":60000,"tls_v1":false,"#,
    r#""deflate":false,"deflate_level":6,"max_deflate_level":6,"snappy":false,"sample_rate":0,"#,
    r#""auth_required":false,"output_buffer_size":16384,"output_buffer_timeout":250,"topology_region":"","#,
    r#""topology_zone":""}"#
);

/// The answer to IDENTIFY as JSON.
fn negotiate(node: &Node, fields: &str) -> serde_json::Value {
    let answer = node.client().identify(&format!(r#"{{"feature_negotiation":true{fields}}}"#));
    serde_json::from_str(&answer).expect("the answer is JSON")
}

#[test]
fn the_answer_lists_what_is_granted_in_nsqs_order() {
    let node = Node::start();
    assert_eq!(node.client().identify(r#"{"feature_negotiation":true}"#), DEFAULTS);
}

#[test]
fn without_negotiation_the_answer_is_ok_and_tls_is_not_started() {
    let node = Node::start();
    for body in ["{}", "null", r#"{"feature_negotiation":false,"tls_v1":true,"snappy":true}"#] {
        let mut client = node.client();
        assert_eq!(client.identify(body), "OK", "{body}");
        client.publish("t", "in plain text");
    }
}

#[test]
fn what_the_node_cannot_do_is_not_granted() {
    let node = Node::start();
    let granted = negotiate(&node, r#","tls_v1":true"#);
    assert_eq!(granted["tls_v1"], false);
}

#[test]
fn wishes_within_the_limits_are_granted() {
    let node = Node::start();
    for (wish, key, granted) in [
        (r#","sample_rate":99"#, "sample_rate", 99),
        (r#","msg_timeout":1000"#, "msg_timeout", 1000),
        (r#","msg_timeout":900000"#, "msg_timeout", 900_000),
        (r#","msg_timeout":0"#, "msg_timeout", 60_000),
        (r#","output_buffer_size":64"#, "output_buffer_size", 64),
        (r#","output_buffer_size":65536"#, "output_buffer_size", 65_536),
        (r#","output_buffer_size":0"#, "output_buffer_size", 16_384),
        (r#","output_buffer_size":-1"#, "output_buffer_size", 1),
        (r#","output_buffer_timeout":25"#, "output_buffer_timeout", 25),
        (r#","output_buffer_timeout":30000"#, "output_buffer_timeout", 30_000),
        (r#","output_buffer_timeout":-1"#, "output_buffer_timeout", 0),
        (r#","output_buffer_timeout":0"#, "output_buffer_timeout", 250),
        (r#","deflate_level":3"#, "max_deflate_level", 6),
    ] {
        assert_eq!(negotiate(&node, wish)[key], granted, "{wish}");
    }
}

#[test]
fn wishes_beyond_the_limits_are_fatal() {
    let node = Node::start();
    for (body, error) in [
        (r#"{"heartbeat_interval":999}"#, "IDENTIFY heartbeat interval (999) is invalid"),
        (r#"{"heartbeat_interval":60001}"#, "IDENTIFY heartbeat interval (60001) is invalid"),
        (r#"{"heartbeat_interval":-2}"#, "IDENTIFY heartbeat interval (-2) is invalid"),
        (r#"{"output_buffer_timeout":24}"#, "IDENTIFY output buffer timeout (24) is invalid"),
        (r#"{"output_buffer_timeout":30001}"#, "IDENTIFY output buffer timeout (30001) is invalid"),
        (r#"{"output_buffer_size":63}"#, "IDENTIFY output buffer size (63) is invalid"),
        (r#"{"output_buffer_size":65537}"#, "IDENTIFY output buffer size (65537) is invalid"),
        (r#"{"sample_rate":100}"#, "IDENTIFY sample rate (100) is invalid"),
        (r#"{"sample_rate":-1}"#, "IDENTIFY sample rate (-1) is invalid"),
        (r#"{"msg_timeout":999}"#, "IDENTIFY msg timeout (999) is invalid"),
        (r#"{"msg_timeout":900001}"#, "IDENTIFY msg timeout (900001) is invalid"),
        (r#"{"msg_timeout":-1}"#, "IDENTIFY msg timeout (-1) is invalid"),
        // The first bad one in the order of application is the one that is named.
        (r#"{"msg_timeout":-1,"heartbeat_interval":5}"#, "IDENTIFY heartbeat interval (5) is invalid"),
    ] {
        let mut client = node.client();
        client.send(command("IDENTIFY", body.as_bytes()));
        client.expect_fatal(&format!("E_BAD_BODY {error}"));
    }
}

#[test]
fn json_is_read_as_go_reads_it() {
    let node = Node::start();
    // tokio-nsq sends nulls; pynsq and nsqjs send keys of old.
    let null = r#","client_id":null,"hostname":null,"sample_rate":null,"msg_timeout":null,"user_agent":null"#;
    assert_eq!(negotiate(&node, null)["msg_timeout"], 60_000);
    let old = r#","short_id":"s","long_id":"l","unknown":{"a":[1,2]}"#;
    assert_eq!(negotiate(&node, old)["sample_rate"], 0);
    assert_eq!(negotiate(&node, r#","SAMPLE_rate":7"#)["sample_rate"], 7);
    assert_eq!(negotiate(&node, r#","sample_rate":7,"sample_rate":8"#)["sample_rate"], 8);
}

#[test]
fn wrong_types_and_broken_json_are_fatal() {
    let node = Node::start();
    for body in [
        r#"{"heartbeat_interval":"30000"}"#,
        r#"{"heartbeat_interval":30000.0}"#,
        r#"{"heartbeat_interval":30000.5}"#,
        r#"{"client_id":7}"#,
        r#"{"feature_negotiation":"true"}"#,
        "[]",
        "7",
        "{",
        "not json",
        r#"{"a":1} trailing"#,
    ] {
        let mut client = node.client();
        client.send(command("IDENTIFY", body.as_bytes()));
        let frame = client.frame();
        assert_eq!(frame.kind, FrameKind::Error, "{body}: {frame:?}");
        assert_eq!(frame.body, b"E_BAD_BODY IDENTIFY failed to decode JSON body", "{body}: {frame:?}");
        client.expect_end();
    }
}

#[test]
fn identify_may_come_twice_and_after_a_publish() {
    let node = Node::start();
    let mut client = node.client();
    client.publish("t", "first");
    assert_eq!(client.identify(r#"{"feature_negotiation":true}"#), DEFAULTS);
    assert_eq!(client.identify("{}"), "OK");
    client.publish("t", "second");
}

#[test]
fn what_identify_says_is_shown_in_the_stats() {
    let node = Node::start();
    let mut client = node.client();
    client.identify(r#"{"client_id":"me","hostname":"here","user_agent":"agent/1","sample_rate":5}"#);
    client.subscribe("t", "c");
    let stats = node.channel_stats("t", "c").expect("the channel exists");
    let shown = &stats["clients"][0];
    assert_eq!(shown["client_id"], "me");
    assert_eq!(shown["hostname"], "here");
    assert_eq!(shown["user_agent"], "agent/1");
    assert_eq!(shown["sample_rate"], 5);
    assert_eq!(shown["state"], 3);
    assert_eq!(shown["version"], "V2");
}
