//! AUTH by external servers: what is asked, what is allowed, and what becomes of servers that misbehave.

use std::time::Duration;

use bruit_tests::{
    Answer, AuthServer, Client, FrameKind, Node, Options, Packing, allowing, certificates::Authority,
    command, wait,
};

const BOTH: &str = r#""publish","subscribe""#;

fn node_asking(server: &AuthServer) -> Node {
    Options::new().arg(format!("--auth-http-address={}", server.address())).start()
}

/// A connection that has shown its secret and was let in.
fn authorized(node: &Node) -> Client {
    let mut client = node.client();
    client.send(command("AUTH", b"secret"));
    client.expect_response(r#"{"identity":"me","identity_url":"http://u","permission_count":1}"#);
    client
}

fn refused(node: &Node, bytes: impl AsRef<[u8]>, error: &str) {
    let mut client = node.client();
    client.send(bytes);
    client.expect_fatal(error);
}

#[test]
fn identify_says_that_auth_is_due_and_a_good_secret_opens_everything() {
    let server = AuthServer::allowing(BOTH);
    let node = node_asking(&server);
    let mut client = node.client();
    client.send(command("IDENTIFY", br#"{"feature_negotiation":true}"#));
    let frame = client.frame();
    let reply: serde_json::Value = serde_json::from_slice(&frame.body).expect("JSON");
    assert_eq!(reply["auth_required"], true);
    // All at once: what follows AUTH waits for the server.
    let mut bytes = command("AUTH", b"s3&cret");
    bytes.extend_from_slice(b"SUB t c\nRDY 1\n");
    bytes.extend_from_slice(&command("PUB t", b"one"));
    client.send(bytes);
    client.expect_response(r#"{"identity":"me","identity_url":"http://u","permission_count":1}"#);
    client.expect_ok();
    let frames = [client.frame(), client.frame()];
    let kinds = frames.map(|frame| frame.kind);
    assert!(kinds.contains(&FrameKind::Response) && kinds.contains(&FrameKind::Message), "{kinds:?}");

    let request = server.requests().concat();
    let line = "GET /auth?common_name=&remote_ip=127.0.0.1&secret=s3%26cret&tls=false HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
    assert!(request.contains("Accept: application/vnd.nsq; version=1.0\r\n"), "{request}");
    let stats = node.channel_stats("t", "c").expect("the channel is there");
    let shown = &stats["clients"][0];
    assert_eq!((&shown["authed"], &shown["auth_identity"]), (&true.into(), &"me".into()));
    assert_eq!(shown["auth_identity_url"], "http://u");
    assert_eq!(server.requests().len(), 1, "an answer holds for its ttl");
}

#[test]
fn a_server_is_told_of_tls_and_whose_certificate_was_shown() {
    let (server, authority) = (AuthServer::allowing(BOTH), Authority::new("authority"));
    let options = authority.options().arg(format!("--auth-http-address={}", server.address()));
    let node = options.arg("--tls-client-auth-policy=require").start();
    let certified = authority.certify("billing service");
    let mut client = node.client();
    client.negotiate(Some(&authority.client(Some(&certified))), Packing::None);
    client.send(command("AUTH", b"secret"));
    client.expect_response(r#"{"identity":"me","identity_url":"http://u","permission_count":1}"#);
    client.publish("t", "x");
    let request = server.requests().concat();
    let line =
        "GET /auth?common_name=billing+service&remote_ip=127.0.0.1&secret=secret&tls=true HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
}

#[test]
fn post_asks_with_lists_in_a_json_object() {
    let server = AuthServer::allowing(BOTH);
    let url = format!("--auth-http-address=http://{}/who?x=y", server.address());
    let node = Options::new().arg(url).arg("--auth-http-request-method=post").start();
    drop(authorized(&node));
    let request = server.requests().concat();
    assert!(request.starts_with("POST /who?x=y HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("Content-Type: application/json\r\n"), "{request}");
    let body = r#"{"common_name":[""],"remote_ip":["127.0.0.1"],"secret":["secret"],"tls":["false"]}"#;
    assert!(request.ends_with(body), "{request}");
}

#[test]
fn without_auth_commands_are_refused_and_so_is_a_second_auth() {
    let server = AuthServer::allowing(BOTH);
    let node = node_asking(&server);
    refused(&node, command("PUB t", b"x"), "E_AUTH_FIRST AUTH required before PUB");
    refused(&node, command("DPUB t 1", b"x"), "E_AUTH_FIRST AUTH required before DPUB");
    let messages = bruit_tests::multi_publish("t", &["x"]);
    refused(&node, messages, "E_AUTH_FIRST AUTH required before MPUB");
    refused(&node, "SUB t c\n", "E_AUTH_FIRST AUTH required before SUB");
    // An MPUB is refused by its line, whatever its body is or will be; a PUB once it is whole.
    for body in [&b""[..], b"\0\0", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x09\0\0\0\0"] {
        refused(&node, [b"MPUB t\n", body].concat(), "E_AUTH_FIRST AUTH required before MPUB");
    }
    refused(&node, "PUB t\n\0\0\0\0", "E_BAD_MESSAGE PUB invalid message body size 0");
    refused(&node, "MPUB t$\n", r#"E_BAD_TOPIC E_BAD_TOPIC MPUB topic name "t$" is not valid"#);
    refused(&node, "AUTH x\n", "E_INVALID AUTH invalid number of parameters");
    refused(&node, command("AUTH", b""), "E_BAD_BODY AUTH invalid body size 0");
    let mut client = authorized(&node);
    client.send(command("AUTH", b"again"));
    client.expect_fatal("E_INVALID AUTH already set");
    refused(&Node::start(), command("AUTH", b"x"), "E_AUTH_DISABLED AUTH disabled");
    // What was refused has left nothing behind, not even a topic.
    assert_eq!(node.topic_stats("t"), None);
}

#[test]
fn strangers_may_not_fill_the_room_of_large_publishes() {
    let server = AuthServer::allowing(BOTH);
    let node = node_asking(&server);
    let large = "x".repeat(100 << 10);
    // Refused by their length, before the body is there.
    for (line, name) in [("PUB t", "PUB"), ("MPUB t", "MPUB"), ("DPUB t 5", "DPUB")] {
        let begun = command(line, large.as_bytes());
        refused(&node, &begun[..line.len() + 5], &format!("E_AUTH_FIRST AUTH required before {name}"));
    }
    // What nobody may send has its own answer.
    refused(&node, b"PUB t\n\0\x20\0\0", "E_BAD_MESSAGE PUB message too big 2097152 > 65536");
    refused(&node, b"AUTH\n\0\x02\0\0", "E_BAD_BODY AUTH body too big 131072 > 65536");
    let mut client = authorized(&node);
    client.send(command("PUB t", large.as_bytes()));
    client.expect_ok();
}

#[test]
fn patterns_are_unanchored_and_publishing_needs_a_channel_that_may_be_empty() {
    let reply = r#"{"ttl":60,"authorizations":[
        {"topic":"t1","channels":["^c1$"],"permissions":["subscribe","publish"]},
        {"topic":"^p$","channels":[".*"],"permissions":["publish"]}]}"#;
    let server = AuthServer::start(Answer::Json(reply.to_owned()));
    let node = node_asking(&server);
    let attempt = |bytes: &[u8], error: Option<&str>| {
        let mut client = node.client();
        client.send(command("AUTH", b"secret"));
        client.expect_response(r#"{"identity":"","identity_url":"","permission_count":2}"#);
        client.send(bytes);
        match error {
            None => client.expect_ok(),
            Some(error) => client.expect_fatal(error),
        }
    };
    attempt(b"SUB xt1x c1\n", None);
    attempt(b"SUB t1 c2\n", Some(r#"E_UNAUTHORIZED AUTH failed for SUB on "t1" "c2""#));
    attempt(b"SUB p c1\n", Some(r#"E_UNAUTHORIZED AUTH failed for SUB on "p" "c1""#));
    attempt(&command("PUB p", b"x"), None);
    attempt(&command("PUB t1", b"x"), Some(r#"E_UNAUTHORIZED AUTH failed for PUB on "t1" """#));
    attempt(&command("DPUB q 5", b"x"), Some(r#"E_UNAUTHORIZED AUTH failed for DPUB on "q" """#));
    let messages = bruit_tests::multi_publish("q", &["x"]);
    attempt(&messages, Some(r#"E_UNAUTHORIZED AUTH failed for MPUB on "q" """#));
}

#[test]
fn replies_that_make_no_sense_let_nobody_in() {
    let server = AuthServer::allowing(BOTH);
    let node = node_asking(&server);
    let json = |text: &str| Answer::Json(text.to_owned());
    let raw = |text: &str| Answer::Raw(text.as_bytes().to_vec());
    for answer in [
        json(""),
        json("no JSON"),
        json(&allowing(0, BOTH)),
        json(r#"{"identity":"no ttl","authorizations":[]}"#),
        json(&allowing(60, r#""publish","administer""#)),
        json(r#"{"ttl":60,"authorizations":[{"topic":"(","channels":[],"permissions":[]}]}"#),
        Answer::Status(403, r#"{"message":"NOT_AUTHORIZED"}"#.to_owned()),
        Answer::Status(500, String::new()),
        raw(""),
        raw("SSH-2.0-OpenSSH\r\n"),
        raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"ttl\":60"),
        raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ] {
        server.answer(answer.clone());
        let mut client = node.client();
        client.send(command("AUTH", b"secret"));
        let frame = client.frame();
        assert_eq!(String::from_utf8_lossy(&frame.body), "E_AUTH_FAILED AUTH failed", "{answer:?}");
        client.expect_end();
    }
    server.answer(json(r#"{"ttl":60,"identity":"known","authorizations":[]}"#));
    refused(&node, command("AUTH", b"secret"), "E_UNAUTHORIZED AUTH no authorizations found");
    assert!(node.log().contains("an authorisation server is of no use"), "{}", node.log());
}

#[test]
fn an_answer_of_a_megabyte_is_refused_long_before_its_end() {
    let padding = " ".repeat(1 << 20);
    let whole = format!("{}{padding}", allowing(60, BOTH));
    let server = AuthServer::start(Answer::Json(whole));
    let node = node_asking(&server);
    refused(&node, command("AUTH", b"secret"), "E_AUTH_FAILED AUTH failed");
    let mut endless = b"HTTP/1.1 200 OK\r\nX-Long: ".to_vec();
    endless.resize(1 << 20, b'x');
    server.answer(Answer::Raw(endless));
    refused(&node, command("AUTH", b"secret"), "E_AUTH_FAILED AUTH failed");
    server.answer(Answer::Json(allowing(60, BOTH)));
    drop(authorized(&node));
}

#[test]
fn a_server_that_hangs_holds_up_nobody_but_who_asked() {
    let server = AuthServer::allowing(BOTH);
    let node = Options::new()
        .arg(format!("--auth-http-address={}", server.address()))
        .arg("--http-client-request-timeout=2s")
        .start();
    let mut before = authorized(&node);
    server.answer(Answer::Hang);
    let mut stuck = node.client();
    let mut bytes = command("AUTH", b"secret");
    bytes.extend_from_slice(b"NOP\nSUB t c\n");
    stuck.send(bytes);
    wait::until("the question is put", || server.requests().len() == 2);
    before.send(command("PUB t", b"meanwhile"));
    before.expect_ok();
    assert_eq!(node.http().get("/ping").outcome(), (200, "OK".to_owned()));
    stuck.expect_fatal("E_AUTH_FAILED AUTH failed");
}

#[test]
fn of_several_servers_one_that_answers_is_found() {
    let (broken, hanging) = (AuthServer::start(Answer::Raw(Vec::new())), AuthServer::start(Answer::Hang));
    let good = AuthServer::allowing(BOTH);
    let node = Options::new()
        .arg(format!("--auth-http-address={}", broken.address()))
        .arg(format!("--auth-http-address={},{}", hanging.address(), good.address()))
        .arg("--http-client-request-timeout=2s")
        .start();
    for _ in 0..3 {
        drop(authorized(&node));
    }
    assert_eq!(good.requests().len(), 3);
}

#[test]
fn an_answer_that_has_expired_is_asked_for_again() {
    let server = AuthServer::start(Answer::Json(allowing(3, BOTH)));
    let node = node_asking(&server);
    let mut producer = authorized(&node);
    producer.send(command("PUB t", b"one"));
    producer.expect_ok();
    let mut consumer = authorized(&node);
    consumer.subscribe("t", "c");
    consumer.ready(5);
    assert_eq!(consumer.message().text(), "one");
    assert_eq!(server.requests().len(), 2);
    wait::pause(Duration::from_millis(3100));
    producer.send(command("PUB t", b"two"));
    producer.expect_ok();
    assert_eq!(server.requests().len(), 3);
    // A subscription is not looked at again.
    assert_eq!(consumer.message().text(), "two");

    server.answer(Answer::Json(allowing(60, r#""subscribe""#)));
    wait::pause(Duration::from_millis(3100));
    producer.send(command("PUB t", b"three"));
    producer.expect_fatal(r#"E_UNAUTHORIZED AUTH failed for PUB on "t" """#);

    server.answer(Answer::Json(allowing(3, BOTH)));
    let mut producer = authorized(&node);
    server.answer(Answer::Status(500, String::new()));
    wait::pause(Duration::from_millis(3100));
    producer.send(command("PUB t", b"four"));
    producer.expect_fatal("E_AUTH_FAILED AUTH failed");
    assert_eq!(node.channel_stats("t", "c").expect("it is there")["message_count"], 2);
}

#[test]
fn heartbeats_go_on_while_a_server_is_asked() {
    let server = AuthServer::start(Answer::Hang);
    let node = Options::new()
        .arg(format!("--auth-http-address={}", server.address()))
        .arg("--http-client-request-timeout=4s")
        .start();
    let mut client = node.client();
    client.send(command("IDENTIFY", br#"{"heartbeat_interval":1000}"#));
    client.expect_ok();
    client.send(command("AUTH", b"secret"));
    for _ in 0..2 {
        assert_eq!(client.raw_frame().body, b"_heartbeat_");
        client.send("NOP\n");
    }
    client.expect_fatal("E_AUTH_FAILED AUTH failed");
}

#[test]
fn who_hangs_up_leaves_its_place_to_those_who_wait() {
    let server = AuthServer::start(Answer::Hang);
    let node = Options::new()
        .arg(format!("--auth-http-address={}", server.address()))
        .arg("--http-client-request-timeout=10m")
        .start();
    // As many as are asked for at a time.
    let strangers: Vec<Client> = (0..256)
        .map(|_| {
            let mut stranger = node.client();
            stranger.send(command("AUTH", b"noise"));
            stranger
        })
        .collect();
    wait::until("all of them are asked for", || server.requests().len() == 256);
    server.answer(Answer::Json(allowing(60, BOTH)));
    drop(strangers);
    drop(authorized(&node));
}

#[test]
fn a_server_is_asked_by_https_and_has_to_show_a_certificate_that_is_trusted() {
    let authority = Authority::new("authority");
    let server = AuthServer::start_secure(Answer::Json(allowing(60, BOTH)), &authority.certify("auth"));
    let asking = |authority: &Authority| {
        Options::new()
            .arg(format!("--auth-http-address=https://{}/auth", server.address()))
            .arg(format!("--tls-root-ca-file={}", authority.file().display()))
            .start()
    };
    drop(authorized(&asking(&authority)));
    assert!(server.requests()[0].starts_with("GET /auth?common_name=&"), "{:?}", server.requests());
    let stranger = asking(&Authority::new("another"));
    refused(&stranger, command("AUTH", b"secret"), "E_AUTH_FAILED AUTH failed");
    wait::until("the log says why", || stranger.log().contains("UnknownIssuer"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let missing = Options::new()
        .arg("--auth-http-address=https://127.0.0.1:1/")
        .arg("--tls-root-ca-file=/none")
        .data_path(directory.path());
    let (status, log) = missing.start_refused();
    assert!(!status.success() && log.contains("cannot read --tls-root-ca-file /none"), "{log}");
}

#[test]
fn a_server_that_wants_https_is_asked_once_more() {
    let authority = Authority::new("authority");
    let secure = AuthServer::start_secure(Answer::Json(allowing(60, BOTH)), &authority.certify("auth"));
    let port = secure.address().rsplit_once(':').map(|(_, port)| port.to_owned()).expect("a port");
    let told = format!(r#"{{"message": "TLS_REQUIRED", "https_port": {port}}}"#);
    let plain = AuthServer::start(Answer::Status(403, told));
    let node = Options::new()
        .arg(format!("--auth-http-address={}", plain.address()))
        .arg(format!("--tls-root-ca-file={}", authority.file().display()))
        .start();
    drop(authorized(&node));
    assert_eq!((plain.requests().len(), secure.requests().len()), (1, 1));
    // A server by HTTPS that says so as well is not believed.
    secure.answer(Answer::Status(403, format!(r#"{{"https_port": {port}}}"#)));
    refused(&node, command("AUTH", b"secret"), "E_AUTH_FAILED AUTH failed");
    assert_eq!(secure.requests().len(), 2);
}
