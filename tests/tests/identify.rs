//! IDENTIFY: what is granted, what is refused, and how forgiving the JSON is (NSQ reference 2.8).

use bruit_tests::{FrameKind, Node, Options, command, frame_bytes};

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
        (r#"{"msg_timeout":-2}"#, "IDENTIFY msg timeout (-2) is invalid"),
        (r#"{"output_buffer_timeout":-2}"#, "IDENTIFY output buffer timeout (-2) is invalid"),
        (r#"{"output_buffer_size":-2}"#, "IDENTIFY output buffer size (-2) is invalid"),
        (
            r#"{"heartbeat_interval":9223372036854775807}"#,
            "IDENTIFY heartbeat interval (9223372036854775807) is invalid",
        ),
    ] {
        refused(&node, body, error);
    }
}

/// IDENTIFY with `body` is answered with exactly this, and nothing follows.
fn refused(node: &Node, body: &str, error: &str) {
    let mut client = node.client();
    client.send([command("IDENTIFY", body.as_bytes()), b"NOP\n".to_vec()].concat());
    let answer = client.raw_rest();
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer == frame_bytes(FrameKind::Error, &format!("E_BAD_BODY {error}")), "{body}: {text:?}");
}

#[test]
fn of_several_bad_wishes_the_first_in_nsqds_order_is_named() {
    let node = Node::start();
    let mut wishes = vec![
        ("heartbeat_interval", "heartbeat interval"),
        ("output_buffer_timeout", "output buffer timeout"),
        ("output_buffer_size", "output buffer size"),
        ("sample_rate", "sample rate"),
        ("msg_timeout", "msg timeout"),
    ];
    while let Some((_, named)) = wishes.first() {
        // In the order of the bytes the last one comes first.
        let fields: Vec<String> = wishes.iter().rev().map(|(key, _)| format!(r#""{key}":-7"#)).collect();
        refused(&node, &format!("{{{}}}", fields.join(",")), &format!("IDENTIFY {named} (-7) is invalid"));
        wishes.remove(0);
    }
}

#[test]
fn every_heartbeat_interval_within_the_limits_is_taken() {
    let node = Node::start();
    for (interval, may_subscribe) in
        [("1000", true), ("30000", true), ("60000", true), ("0", true), ("null", true), ("-1", false)]
    {
        let mut client = node.client();
        assert_eq!(client.identify(&format!(r#"{{"heartbeat_interval":{interval}}}"#)), "OK");
        match may_subscribe {
            true => client.subscribe("t", "c"),
            false => client.publish("t", "no heartbeats, no SUB"),
        }
    }
}

#[test]
fn the_limits_are_those_of_the_node() {
    let node = Options::new()
        .arg("--max-heartbeat-interval=5s")
        .arg("--min-output-buffer-timeout=10ms")
        .arg("--max-output-buffer-timeout=1s")
        .arg("--max-output-buffer-size=1000")
        .arg("--msg-timeout=2s")
        .arg("--max-msg-timeout=3s")
        .arg("--max-rdy-count=7")
        .arg("--client-timeout=8s")
        .start();
    let granted = negotiate(
        &node,
        r#","heartbeat_interval":5000,"output_buffer_timeout":10,"output_buffer_size":1000,"msg_timeout":3000"#,
    );
    assert_eq!(
        (&granted["output_buffer_timeout"], &granted["output_buffer_size"]),
        (&10.into(), &1000.into())
    );
    assert_eq!((&granted["msg_timeout"], &granted["max_msg_timeout"]), (&3000.into(), &3000.into()));
    assert_eq!(granted["max_rdy_count"], 7);
    assert_eq!(negotiate(&node, "")["msg_timeout"], 2000);
    for (field, error) in [
        (r#""heartbeat_interval":5001"#, "heartbeat interval (5001)"),
        (r#""output_buffer_timeout":9"#, "output buffer timeout (9)"),
        (r#""output_buffer_timeout":1001"#, "output buffer timeout (1001)"),
        (r#""output_buffer_size":1001"#, "output buffer size (1001)"),
        (r#""msg_timeout":3001"#, "msg timeout (3001)"),
    ] {
        refused(&node, &format!("{{{field}}}"), &format!("IDENTIFY {error} is invalid"));
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
        r#"{"heartbeat_interval":9223372036854775808}"#,
        r#"{"sample_rate":2147483648}"#,
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
        refused(&node, body, "IDENTIFY failed to decode JSON body");
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
fn only_the_first_identify_changes_how_a_connection_works() {
    let node = Node::start();
    let mut client = node.client();
    client.identify(r#"{"client_id":"first","heartbeat_interval":60000,"msg_timeout":1000}"#);
    client
        .identify(r#"{"client_id":"second","heartbeat_interval":1000,"msg_timeout":900000,"sample_rate":1}"#);
    client.subscribe("t", "c");
    client.ready(100);
    let bodies: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    node.client().publish_all("t", &bodies);
    // No heartbeat comes in between, none is left out as a sample, and all time out after a second.
    let first: Vec<_> = (0..100).map(|_| client.raw_frame()).collect();
    assert!(first.iter().all(|frame| frame.kind == FrameKind::Message), "{first:?}");
    let again = client.raw_frame();
    assert_eq!((again.kind, &again.body[8..10]), (FrameKind::Message, &[0, 2][..]), "{again:?}");
    let stats = node.channel_stats("t", "c").expect("the channel exists");
    assert_eq!(stats["clients"][0]["client_id"], "second");
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
