//! Topic, channel, config and debug endpoints, and the manners of the HTTP side (NSQ reference 6.1 and 6.2).

use bruit_tests::{Node, Options, Reply, wait::Stopwatch};

fn error(code: &str) -> String {
    format!(r#"{{"message":"{code}"}}"#)
}

/// Success that has nothing to say: an empty body, and no type for it.
fn assert_nothing(reply: &Reply, what: &str) {
    assert_eq!(reply.outcome(), (200, String::new()), "{what}");
    assert_eq!(reply.header("content-type"), None, "{what}");
    assert_eq!(reply.header("x-nsq-content-type"), Some("nsq; version=1.0"), "{what}");
}

fn assert_error(reply: &Reply, status: u16, code: &str, what: &str) {
    assert_eq!(reply.outcome(), (status, error(code)), "{what}");
    assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"), "{what}");
    assert_eq!(reply.header("x-nsq-content-type"), Some("nsq; version=1.0"), "{what}");
}

#[test]
fn ping_answers_ok_as_plain_text() {
    let node = Node::start();
    let reply = node.http().get("/ping");
    assert_eq!(reply.outcome(), (200, "OK".to_owned()));
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
}

#[test]
fn info_tells_ports_and_limits() {
    let node = Options::new().arg("--topology-region=r").arg("--topology-zone=z").start();
    let reply = node.http().get("/info");
    assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(reply.header("x-nsq-content-type"), Some("nsq; version=1.0"));
    let info = reply.json();
    assert_eq!(info["version"], "1.3.0");
    assert_eq!(info["broadcast_address"], "127.0.0.1");
    assert_eq!(info["tcp_port"], node.tcp_address().port());
    assert_eq!(info["http_port"], node.http_address().port());
    assert_eq!(info["max_heartbeat_interval"], 60_000_000_000_u64);
    assert_eq!(info["max_output_buffer_size"], 65_536);
    assert_eq!(info["max_output_buffer_timeout"], 30_000_000_000_u64);
    assert_eq!(info["max_deflate_level"], 6);
    assert_eq!(info["topology_region"], "r");
    assert_eq!(info["topology_zone"], "z");
    assert!(info["start_time"].as_u64() > Some(1_700_000_000));
    assert!(info["hostname"].is_string());
}

#[test]
fn topics_and_channels_are_made_and_unmade() {
    let node = Node::start();
    let http = node.http();
    for target in [
        "/topic/create?topic=t",
        "/topic/create?topic=t",
        "/topic/create?topic=t%23ephemeral",
        "/channel/create?topic=t&channel=c",
        "/channel/create?topic=t&channel=c",
        "/channel/pause?topic=t&channel=c",
        "/channel/unpause?topic=t&channel=c",
        "/channel/unpause?topic=t&channel=c",
        "/channel/empty?topic=t&channel=c",
        "/topic/pause?topic=t",
        "/topic/unpause?topic=t",
        "/topic/empty?topic=t",
        "/channel/delete?topic=t&channel=c",
        "/topic/delete?topic=t",
    ] {
        assert_nothing(&http.post(target, ""), target);
    }
    assert_nothing(&http.post("/topic/create?topic=t", "a body is ignored"), "with a body");
}

#[test]
fn topic_endpoints_name_what_is_wrong() {
    let node = Node::start();
    let http = node.http();
    for (target, status, code) in [
        ("/topic/create", 400, "MISSING_ARG_TOPIC"),
        ("/topic/create?topic=bad%24", 400, "INVALID_TOPIC"),
        ("/topic/create?topic=t;", 400, "INVALID_REQUEST"),
        ("/topic/delete", 400, "MISSING_ARG_TOPIC"),
        ("/topic/delete?topic=none", 404, "TOPIC_NOT_FOUND"),
        ("/topic/delete?topic=bad%24", 404, "TOPIC_NOT_FOUND"),
        ("/topic/empty", 400, "MISSING_ARG_TOPIC"),
        ("/topic/empty?topic=bad%24", 400, "INVALID_TOPIC"),
        ("/topic/empty?topic=none", 404, "TOPIC_NOT_FOUND"),
        ("/topic/pause", 400, "MISSING_ARG_TOPIC"),
        ("/topic/pause?topic=none", 404, "TOPIC_NOT_FOUND"),
        ("/topic/pause?topic=bad%24", 404, "TOPIC_NOT_FOUND"),
        ("/topic/unpause", 400, "MISSING_ARG_TOPIC"),
        ("/topic/unpause?topic=none", 404, "TOPIC_NOT_FOUND"),
    ] {
        assert_error(&http.post(target, ""), status, code, target);
    }
}

#[test]
fn channel_endpoints_name_what_is_wrong() {
    let node = Node::start();
    let http = node.http();
    http.post_ok("/topic/create?topic=t", "");
    for verb in ["create", "delete", "empty", "pause", "unpause"] {
        for (query, status, code) in [
            ("", 400, "MISSING_ARG_TOPIC"),
            ("?topic=bad%24&channel=c", 400, "INVALID_ARG_TOPIC"),
            ("?topic=t", 400, "MISSING_ARG_CHANNEL"),
            ("?topic=t&channel=bad%24", 400, "INVALID_ARG_CHANNEL"),
            ("?topic=none&channel=c", 404, "TOPIC_NOT_FOUND"),
            ("?topic=t&channel=none", 404, "CHANNEL_NOT_FOUND"),
        ] {
            if verb == "create" && code == "CHANNEL_NOT_FOUND" {
                continue;
            }
            let target = format!("/channel/{verb}{query}");
            assert_error(&http.post(&target, ""), status, code, &target);
        }
    }
    assert!(node.topic_stats("none").is_none(), "a topic was made by the way");
}

#[test]
fn unknown_paths_and_wrong_methods_are_told_apart() {
    let node = Node::start();
    let http = node.http();
    for target in ["/", "/nothing", "/topic", "/topic/nothing?topic=t", "/pub/more"] {
        assert_error(&http.get(target), 404, "NOT_FOUND", target);
    }
    for (method, target, allow) in [
        ("GET", "/pub?topic=t", "OPTIONS, POST"),
        ("GET", "/mpub?topic=t", "OPTIONS, POST"),
        ("DELETE", "/topic/create?topic=t", "OPTIONS, POST"),
        ("POST", "/ping", "GET, OPTIONS"),
        ("POST", "/stats", "GET, OPTIONS"),
        ("PUT", "/info", "GET, OPTIONS"),
    ] {
        let reply = http.request(method, target, b"");
        assert_error(&reply, 405, "METHOD_NOT_ALLOWED", target);
        assert_eq!(reply.header("allow"), Some(allow), "{method} {target}");
    }
    // The answer to HEAD has no body, whatever its header says.
    let answer = http.send_and_end(b"HEAD /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 405 "), "{text}");
    assert!(text.contains("\r\nallow: get, options\r\n") && text.ends_with("\r\n\r\n"), "{text}");
}

#[test]
fn options_tells_what_is_allowed() {
    let node = Node::start();
    for (target, allow) in [
        ("/ping", "GET, OPTIONS"),
        ("/pub", "OPTIONS, POST"),
        ("/topic/delete", "OPTIONS, POST"),
        ("/config/log_level", "GET, OPTIONS, PUT"),
    ] {
        let reply = node.http().request("OPTIONS", target, b"");
        assert_eq!(reply.status, 200, "{target}");
        assert_eq!(reply.header("allow"), Some(allow), "{target}");
    }
}

#[test]
fn paths_that_are_nearly_right_are_redirected() {
    let node = Node::start();
    let http = node.http();
    for (method, target, status, location) in [
        ("GET", "/ping/", 301, "/ping"),
        ("GET", "/PING", 301, "/ping"),
        ("GET", "//ping", 301, "/ping"),
        ("GET", "/stats/?format=json", 301, "/stats?format=json"),
        ("POST", "/pub/?topic=t", 307, "/pub?topic=t"),
        ("POST", "/Topic/Create?topic=t", 307, "/topic/create?topic=t"),
    ] {
        let reply = http.request(method, target, b"");
        assert_eq!(reply.status, status, "{method} {target}");
        assert_eq!(reply.header("location"), Some(location), "{method} {target}");
    }
}

#[test]
fn config_options_are_read() {
    let node = Options::new().arg("--msg-timeout=90s").start();
    let http = node.http();
    for (option, value) in [
        ("max_rdy_count", "2500"),
        ("max_msg_size", "1048576"),
        ("max_body_size", "5242880"),
        ("msg_timeout", "90000000000"),
        ("max_msg_timeout", "900000000000"),
        ("max_req_timeout", "3600000000000"),
        ("broadcast_address", "127.0.0.1"),
        ("log_level", "2"),
        ("nsqlookupd_tcp_addresses", "[]"),
    ] {
        let reply = http.get(&format!("/config/{option}"));
        assert_eq!(reply.outcome(), (200, value.to_owned()), "{option}");
    }
    assert_error(&http.get("/config/nothing"), 400, "INVALID_OPTION", "unknown option");
}

#[test]
fn the_log_level_and_the_lookup_addresses_can_be_set() {
    let node = Node::start();
    let http = node.http();
    for (level, number) in [("debug", "1"), ("WARN", "3"), ("error", "4"), ("fatal", "5"), ("info", "2")] {
        let reply = http.put("/config/log_level", level);
        assert_eq!(reply.outcome(), (200, number.to_owned()), "{level}");
        assert_eq!(http.get("/config/log_level").text(), number);
    }
    let addresses = r#"["127.0.0.1:4160","127.0.0.1:5160"]"#;
    let reply = http.put("/config/nsqlookupd_tcp_addresses", addresses);
    assert_eq!(reply.outcome(), (200, addresses.to_owned()));
    assert_eq!(http.get("/config/nsqlookupd_tcp_addresses").text(), addresses);
    for (target, body, status, code) in [
        ("/config/log_level", "loud", 400, "INVALID_VALUE"),
        ("/config/log_level", "", 413, "INVALID_VALUE"),
        ("/config/nsqlookupd_tcp_addresses", "not json", 400, "INVALID_VALUE"),
        ("/config/max_rdy_count", "7", 400, "INVALID_OPTION"),
        ("/config/nothing", "7", 400, "INVALID_OPTION"),
    ] {
        assert_error(&http.put(target, body), status, code, target);
    }
}

#[test]
fn debug_endpoints_that_scripts_call_answer() {
    let node = Node::start();
    let http = node.http();
    assert_eq!(http.put("/debug/setblockrate?rate=1", "").status, 200);
    assert_eq!(http.post("/debug/freememory", "").status, 200);
}

#[test]
fn a_slow_request_is_cut() {
    let node = Node::start();
    let since = Stopwatch::start();
    let answer = node.http().send_and_stall(b"POST /pub?topic=t HTTP/1.1\r\nHos");
    println!("a stalled header was cut after {:?}: {:?}", since.elapsed(), String::from_utf8_lossy(&answer));
    let request = b"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf";
    let answer = node.http().send_and_stall(request);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "half a body was published");
    assert!(node.topic_stats("t").is_none_or(|stats| stats["message_count"] == 0));
}

#[test]
fn a_huge_header_is_refused() {
    let node = Node::start();
    let request = format!("GET /ping HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(2 << 20));
    let reply = node.http().send_and_end(request.as_bytes());
    assert!(!reply.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&reply));
    assert_eq!(node.http().get("/ping").status, 200);
}

#[test]
fn http_can_be_turned_off() {
    let node = Options::new().arg("--http-address=").start();
    node.client().publish("t", "x");
    assert!(!node.log().contains("HTTP: listening"));
}
