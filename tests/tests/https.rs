//! HTTPS, and what plain HTTP does when TLS is required (NSQ reference, sections 2.9 and 6.1).

#![expect(clippy::disallowed_types, reason = "a client is outside of the node: its sockets are real")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use bruit_tests::{Node, Packing, Reply, certificates::Authority, read_reply, wait::PATIENCE};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

type Secure = StreamOwned<ClientConnection, TcpStream>;

fn connect(node: &Node, config: &Arc<ClientConfig>) -> Secure {
    let name = ServerName::try_from("127.0.0.1").expect("an address is a name");
    let tls = ClientConnection::new(Arc::clone(config), name).expect("a sound configuration");
    let stream = TcpStream::connect(node.https_address()).expect("the node listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    StreamOwned::new(tls, stream)
}

fn request(stream: &mut Secure, method: &str, target: &str, body: &[u8]) -> Reply {
    let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).expect("the node takes a request");
    read_reply(stream)
}

#[test]
fn the_whole_api_is_served_inside_of_tls() {
    let authority = Authority::new("authority");
    let node = authority.options().start();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = connect(&node, &authority.client_of(&[version], None));
        assert_eq!(request(&mut stream, "GET", "/ping", b"").outcome(), (200, "OK".to_owned()));
        let large = vec![b'x'; 1 << 20];
        assert_eq!(request(&mut stream, "POST", "/pub?topic=t", &large).outcome(), (200, "OK".to_owned()));
        assert_eq!(request(&mut stream, "GET", "/nothing", b"").status, 404);
        let refused = request(&mut stream, "POST", "/pub?topic=t", &[b'x'; (1 << 20) + 1]);
        assert_eq!(refused.outcome(), (413, r#"{"message":"MSG_TOO_BIG"}"#.to_owned()));
    }
    // Without a requirement plain HTTP is served beside it.
    assert_eq!(node.topic_stats("t").expect("the topic exists")["message_count"], 2);
    let mut consumer = node.consumer("t", "c", 10);
    assert_eq!(consumer.finish_messages(2)[1].body.len(), 1 << 20);
}

#[test]
fn what_is_no_handshake_is_cut_off() {
    let authority = Authority::new("authority");
    let node = authority.options().start();
    let mut plain = TcpStream::connect(node.https_address()).expect("the node listens");
    plain.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    plain.write_all(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").expect("the node reads");
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    // One that begins and stops.
    let mut stalled = TcpStream::connect(node.https_address()).expect("the node listens");
    stalled.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stalled.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc").expect("the node reads");
    if let Err(error) = stalled.read_to_end(&mut Vec::new()) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the node has to give it up");
    }
    let mut stream = connect(&node, &authority.client(None));
    assert_eq!(request(&mut stream, "GET", "/ping", b"").outcome(), (200, "OK".to_owned()));
}

#[test]
fn plain_http_names_the_port_of_https_where_tls_is_required() {
    let authority = Authority::new("authority");
    let node = authority.options().arg("--tls-required=true").start();
    let port = node.https_address().port();
    let expected = (403, format!(r#"{{"message": "TLS_REQUIRED", "https_port": {port}}}"#));
    for target in ["/ping", "/stats?format=json", "/nothing", "/lookup?topic=t"] {
        let reply = node.http().get(target);
        assert_eq!(reply.outcome(), expected, "{target}");
        assert_eq!(reply.header("x-nsq-content-type"), Some("nsq; version=1.0"));
    }
    assert_eq!(node.http().post("/pub?topic=t", "x").outcome(), expected);
    let mut stream = connect(&node, &authority.client(None));
    assert_eq!(request(&mut stream, "GET", "/ping", b"").outcome(), (200, "OK".to_owned()));
}

#[test]
fn plain_http_stays_open_where_only_tcp_needs_tls() {
    let authority = Authority::new("authority");
    let node = authority.options().arg("--tls-required=tcp-https").start();
    node.http().post_ok("/pub?topic=t", "by plain HTTP");
    let mut plain = node.client();
    plain.send("SUB t c\n");
    plain.expect_fatal("E_INVALID cannot SUB in current state (TLS required)");
    let mut consumer = node.client();
    consumer.negotiate(Some(&authority.client(None)), Packing::None);
    consumer.subscribe("t", "c");
    consumer.ready(1);
    assert_eq!(consumer.message().text(), "by plain HTTP");
}

#[test]
fn certificates_of_clients_are_asked_for_over_https_as_well() {
    let authority = Authority::new("authority");
    let options = authority.options().arg("--tls-client-auth-policy=require-verify");
    let node = options.arg(format!("--tls-root-ca-file={}", authority.file().display())).start();
    let mut known = connect(&node, &authority.client(Some(&authority.certify("client"))));
    assert_eq!(request(&mut known, "GET", "/ping", b"").outcome(), (200, "OK".to_owned()));
    let mut unknown = connect(&node, &authority.client(None));
    // The refusal comes as soon as something is read.
    let _ = unknown.write_all(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(unknown.read(&mut [0; 64]).is_err());
}
