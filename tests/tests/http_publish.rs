//! `/pub` and `/mpub`: bodies, limits, and the error table of the NSQ reference, 6.2 and 6.3.

use std::io::Write;

use bruit_tests::{Node, Options, Reply, read_reply, texts};

/// The body of an error.
fn error(code: &str) -> String {
    format!(r#"{{"message":"{code}"}}"#)
}

fn assert_outcome(reply: &Reply, status: u16, body: &str, what: &str) {
    assert_eq!(reply.outcome(), (status, body.to_owned()), "{what}");
    assert_eq!(reply.header("x-nsq-content-type"), Some("nsq; version=1.0"), "{what}");
}

fn binary(parts: &[&[u8]]) -> Vec<u8> {
    let mut body = u32::try_from(parts.len()).expect("few").to_be_bytes().to_vec();
    for part in parts {
        body.extend(u32::try_from(part.len()).expect("short").to_be_bytes());
        body.extend_from_slice(part);
    }
    body
}

#[test]
fn pub_takes_any_bytes_and_says_ok() {
    let node = Node::start();
    let body: Vec<u8> = (0..=255).chain([b'\n'; 3]).collect();
    let reply = node.http().post("/pub?topic=t", &body);
    assert_outcome(&reply, 200, "OK", "/pub");
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(node.consumer("t", "c", 1).message().body, body);
}

#[test]
fn pub_names_what_is_wrong() {
    let node = Options::new().arg("--max-msg-size=1000").start();
    let http = node.http();
    let long = "x".repeat(1001);
    for (target, body, status, code) in [
        ("/pub", "x", 400, "MISSING_ARG_TOPIC"),
        ("/pub?top=t", "x", 400, "MISSING_ARG_TOPIC"),
        ("/pub?topic=", "x", 400, "INVALID_TOPIC"),
        ("/pub?topic=bad%24", "x", 400, "INVALID_TOPIC"),
        ("/pub?topic=t%23ephemera", "x", 400, "INVALID_TOPIC"),
        ("/pub?topic=t", "", 400, "MSG_EMPTY"),
        ("/pub", "", 400, "MSG_EMPTY"),
        ("/pub?topic=t", long.as_str(), 413, "MSG_TOO_BIG"),
        ("/pub?topic=t&defer=x", "x", 400, "INVALID_DEFER"),
        ("/pub?topic=t&defer=-1", "x", 400, "INVALID_DEFER"),
        ("/pub?topic=t&defer=3600001", "x", 400, "INVALID_DEFER"),
        ("/pub?topic=t&defer=1.5", "x", 400, "INVALID_DEFER"),
        ("/pub?topic=%zz", "x", 400, "INVALID_REQUEST"),
        ("/pub?topic=t;defer=1", "x", 400, "INVALID_REQUEST"),
    ] {
        assert_outcome(&http.post(target, body), status, &error(code), target);
    }
    assert_eq!(http.post("/pub?topic=t", "x".repeat(1000)).status, 200);
}

#[test]
fn the_first_value_of_a_repeated_parameter_counts() {
    let node = Node::start();
    node.http().post_ok("/pub?topic=first&topic=second", "x");
    assert!(node.topic_stats("first").is_some());
    assert!(node.topic_stats("second").is_none());
}

#[test]
fn a_deferred_pub_waits() {
    let node = Node::start();
    node.consumer("t", "c", 0).settle();
    node.http().post_ok("/pub?topic=t&defer=60000", "x");
    node.wait_for("t", "c", "deferred_count", 1);
    node.http().post_ok("/mpub?topic=t&defer=60000", "y\nz\n");
    node.wait_for("t", "c", "deferred_count", 3);
    node.http().post_ok("/pub?topic=t&defer=0", "now");
    assert_eq!(node.consumer("t", "c", 1).message().text(), "now");
}

#[test]
fn mpub_text_is_one_message_a_line() {
    let node = Node::start();
    let reply = node.http().post("/mpub?topic=t", "one\n\ntwo\r\nlast without newline");
    assert_outcome(&reply, 200, "OK", "/mpub");
    let messages = node.consumer("t", "c", 10).finish_messages(3);
    assert_eq!(texts(&messages), ["last without newline", "one", "two\r"]);
}

#[test]
fn an_empty_mpub_text_publishes_nothing() {
    let node = Node::start();
    assert_outcome(&node.http().post("/mpub?topic=t", ""), 200, "OK", "/mpub");
    assert!(node.topic_stats("t").is_none_or(|stats| stats["message_count"] == 0));
}

#[test]
fn mpub_binary_is_counted_and_sized() {
    let node = Node::start();
    let body = binary(&[b"one", b"t\nwo", b"\0"]);
    for value in ["true", "1", "", "anything"] {
        node.http().post_ok(&format!("/mpub?topic=t&binary={value}"), &body);
    }
    let messages = node.consumer("t", "c", 100).finish_messages(12);
    assert_eq!(messages.iter().filter(|message| message.body == b"t\nwo").count(), 4);
    for value in ["false", "0"] {
        node.http().post_ok(&format!("/mpub?topic=text&binary={value}"), "a\nb");
    }
    assert_eq!(texts(&node.consumer("text", "c", 10).finish_messages(4)), ["a", "a", "b", "b"]);
}

#[test]
fn mpub_names_what_is_wrong() {
    let node = Options::new().arg("--max-msg-size=1000").arg("--max-body-size=5000").start();
    let http = node.http();
    let long_line = "x".repeat(1001);
    let long_body = "short\n".repeat(1000);
    for (target, body, status, code) in [
        ("/mpub", "x", 400, "MISSING_ARG_TOPIC"),
        ("/mpub?topic=bad%24", "x", 400, "INVALID_TOPIC"),
        ("/mpub?topic=t;", "x", 400, "INVALID_REQUEST"),
        ("/mpub?topic=t", long_line.as_str(), 413, "MSG_TOO_BIG"),
        ("/mpub?topic=t", long_body.as_str(), 413, "BODY_TOO_BIG"),
        ("/mpub?topic=t&binary=true", "", 413, "BAD_BODY"),
        ("/mpub?topic=t&binary=true", "\0\0", 413, "BAD_BODY"),
        ("/mpub?topic=t&binary=true", "\0\0\0\0", 413, "BAD_BODY"),
        ("/mpub?topic=t&binary=true", "\u{7f}\0\0\0", 413, "BAD_BODY"),
        ("/mpub?topic=t&binary=true", "\0\0\0\x01", 413, "BAD_MESSAGE"),
        ("/mpub?topic=t&binary=true", "\0\0\0\x01\0\0\0\0", 413, "BAD_MESSAGE"),
        ("/mpub?topic=t&binary=true", "\0\0\0\x01\0\0\x10\0x", 413, "BAD_MESSAGE"),
        ("/mpub?topic=t&binary=true", "\0\0\0\x02\0\0\0\x01x", 413, "BAD_MESSAGE"),
    ] {
        let shown = format!("{target} {:?}", &body[..body.len().min(20)]);
        assert_outcome(&http.post(target, body), status, &error(code), &shown);
    }
    assert!(node.topic_stats("t").is_none_or(|stats| stats["message_count"] == 0));
}

#[test]
fn a_body_that_is_declared_too_large_is_refused_before_it_is_sent() {
    let node = Node::start();
    for (target, code) in [("/pub?topic=t", "MSG_TOO_BIG"), ("/mpub?topic=t", "BODY_TOO_BIG")] {
        let head = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n");
        let reply = node.http().exchange(head.as_bytes());
        assert_eq!(reply.outcome(), (413, error(code)), "{target}");
    }
}

#[test]
fn a_chunked_body_that_grows_too_large_is_refused() {
    let node = Options::new().arg("--max-msg-size=1000").start();
    let mut stream = node.http().connect();
    stream
        .write_all(b"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .expect("the header is taken");
    for _ in 0..50 {
        // The node may answer, and close, before all of it is sent.
        let _ = stream.write_all(b"64\r\n").and_then(|()| stream.write_all(&[b'x'; 100]));
        let _ = stream.write_all(b"\r\n");
    }
    assert_eq!(read_reply(&mut stream).outcome(), (413, error("MSG_TOO_BIG")));
}

#[test]
fn chunked_bodies_and_expect_continue_work() {
    let node = Node::start();
    let chunked = concat!(
        "POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        "3\r\none\r\n4\r\n two\r\n0\r\n\r\n"
    );
    assert_eq!(node.http().exchange(chunked.as_bytes()).outcome(), (200, "OK".to_owned()));
    let mut stream = node.http().connect();
    stream
        .write_all(
            b"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        )
        .expect("the header is taken");
    assert_eq!(read_continue(&mut stream), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"three").expect("the body is taken");
    assert_eq!(read_reply(&mut stream).outcome(), (200, "OK".to_owned()));
    assert_eq!(texts(&node.consumer("t", "c", 2).finish_messages(2)), ["one two", "three"]);
}

#[test]
fn one_connection_serves_many_requests() {
    let node = Node::start();
    let mut stream = node.http().connect();
    for i in 0..50 {
        let body = format!("message {i}");
        let request =
            format!("POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).expect("the connection is kept");
        assert_eq!(read_reply(&mut stream).outcome(), (200, "OK".to_owned()));
    }
    assert_eq!(node.consumer("t", "c", 50).finish_messages(50).len(), 50);
}

/// Reads up to the end of the interim answer and not a byte more.
fn read_continue(stream: &mut impl std::io::Read) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an interim answer");
        text.push(byte[0]);
    }
    String::from_utf8_lossy(&text).into_owned()
}
