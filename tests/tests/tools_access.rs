//! How commands and tools get at nodes that do not take everybody: with TLS, compression and tokens.

use std::path::Path;

use bruit_tests::{
    Answer, AuthServer, Node,
    certificates::Authority,
    command::{Ended, bruit, bruit_started, bruit_with},
    texts, wait,
};

const TOKENS: &str = r#"
[[tokens]]
token = "secret-token"
identity = "tools"
scopes = ["read", "admin"]
[[tokens.authorizations]]
topic = ".*"
channels = [".*"]
permissions = ["publish", "subscribe"]
"#;

/// A node that takes only who is encrypted and known, and the flags to get at it.
struct Guarded {
    node: Node,
    authority: Authority,
    directory: tempfile::TempDir,
}

impl Guarded {
    fn start() -> Self {
        let (authority, directory) = (Authority::new("authority"), tempfile::tempdir().unwrap());
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("tokens.toml"), TOKENS).unwrap();
        std::fs::write(path("token"), "secret-token\n").unwrap();
        let options = authority.options().arg("--tls-required").arg("--http-auth=all");
        let node = options.arg(format!("--auth-tokens-file={}", path("tokens.toml").display())).start();
        Self { node, authority, directory }
    }

    fn address(&self) -> String {
        format!("--nsqd-tcp-address={}", self.node.tcp_address())
    }

    fn token(&self) -> String {
        format!("--token-file={}", self.directory.path().join("token").display())
    }

    fn trust(&self) -> String {
        format!("--tls-ca-file={}", self.authority.file().display())
    }

    /// A figure of a channel, asked as a command does.
    fn figure(&self, topic: &str, channel: &str) -> String {
        let http = format!("--nsqd-http-address=https://{}", self.node.https_address());
        let (topic, channel) = (format!("--topic={topic}"), format!("--channel={channel}"));
        let ended = bruit(&["stat", &topic, &channel, "--count=1", &http, &self.token(), &self.trust()]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout
    }
}

fn refused(ended: &Ended, because: &str) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(because), "{ended:?}");
}

#[test]
fn flags_open_a_node_that_wants_tls_and_a_token_whatever_the_compression() {
    let guarded = Guarded::start();
    let (address, token, trust) = (guarded.address(), guarded.token(), guarded.trust());
    for (topic, compress) in [("plain", None), ("snappy", Some("snappy")), ("deflate", Some("deflate"))] {
        let compress = compress.map(|how| format!("--compress={how}"));
        let flags = [&address, &token, &trust].map(String::as_str);
        let flags: Vec<&str> = flags.into_iter().chain(compress.as_deref()).chain(["--tls"]).collect();
        let lines: String = (0..2000).map(|n| format!("message {n} of {topic}\n")).collect();
        let ended = bruit_with(&[&["pub", topic], &flags[..]].concat(), &[], lines.as_bytes());
        assert!(ended.stdout.contains("2000 acknowledged"), "{ended:?}");
        let ended = bruit(&[&["tail", topic, "--channel=c", "-n", "2000"], &flags[..]].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let mut printed: Vec<&str> = ended.stdout.lines().collect();
        let mut published: Vec<&str> = lines.lines().collect();
        printed.sort_unstable();
        published.sort_unstable();
        assert_eq!(printed, published);
    }
    let http = format!("--http-address=https://{}", guarded.node.https_address());
    let ended = bruit(&["members", &http, &token, &trust]);
    assert!(ended.code == Some(0) && ended.stdout.contains("127.0.0.1"), "{ended:?}");
}

#[test]
fn who_lacks_something_is_told_what() {
    let guarded = Guarded::start();
    let (address, token, trust) = (guarded.address(), guarded.token(), guarded.trust());
    let publish = |flags: &[&str]| bruit_with(&[&["pub", "t", &address], flags].concat(), &[], b"x\n");
    refused(&publish(&[&token]), "E_INVALID cannot AUTH in current state (TLS required)");
    refused(
        &publish(&["--tls", &token]),
        "name the authority that its certificate comes from with --tls-ca-file",
    );
    refused(&publish(&["--tls", &trust]), "wants a token: name a file that holds it with --token-file");
    refused(&publish(&["--tls", "--tls-ca-file=/none", &token]), "cannot read --tls-ca-file /none");
    assert_eq!(publish(&["--tls", "--tls-insecure", &token]).code, Some(0));
    let plain = Node::start();
    let address = format!("--nsqd-tcp-address={}", plain.tcp_address());
    let ended = bruit_with(&["pub", "t", &address, "--tls"], &[], b"x\n");
    refused(&ended, "has no TLS: give it --tls-cert and --tls-key");
    refused(&bruit(&["serve", "--tls-insecure"]), "are for commands that ask a node");
    let http = format!("--http-address={}", guarded.node.https_address());
    refused(&bruit(&["topics", &http, &token]), "https:// before it");
}

#[test]
fn the_load_generator_encrypts_where_it_can_and_says_where_not() {
    let authority = Authority::new("authority");
    let node = authority.options().arg("--tls-required=tcp-https").start();
    let address = format!("--nsqd-tcp-address={}", node.tcp_address());
    let ended = bruit(&["bench", "pub", "--count=1000", "--batch=100", &address, "--tls"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(node.topic_stats("bench").expect("the topic exists")["message_count"], 1000);
    refused(&bruit(&["bench", "sub", &address, "--tls"]), "are for commands that ask a node");
    refused(
        &bruit(&["bench", "pub", &address, "--tls", "--tls-insecure"]),
        "are for commands that ask a node",
    );
}

#[test]
fn a_certificate_is_shown_where_one_is_wanted() {
    let authority = Authority::new("authority");
    let shown = authority.certify("tool");
    let authorities = format!("--tls-root-ca-file={}", authority.file().display());
    let node = authority.options().arg("--tls-client-auth-policy=require-verify").arg(authorities).start();
    let address = format!("--nsqd-tcp-address={}", node.tcp_address());
    let trust = format!("--tls-ca-file={}", authority.file().display());
    let path = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    let (cert, key) = (path("tls-cert-file", &shown.cert_file), path("tls-key-file", &shown.key_file));
    let bare = bruit_with(&["pub", "t", &address, "--tls", &trust], &[], b"x\n");
    assert_eq!(bare.code, Some(1), "{bare:?}");
    let ended = bruit_with(&["pub", "t", &address, "--tls", &trust, &cert, &key], &[], b"x\n");
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn options_of_the_client_library_do_the_same_for_tools() {
    let guarded = Guarded::start();
    let to = Node::start();
    let ended = bruit_with(
        &["pub", "t", &guarded.address(), "--tls", &guarded.trust(), &guarded.token()],
        &[],
        b"one\ntwo\n",
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let authorities = format!("--consumer-opt=tls_root_ca_file,{}", guarded.authority.file().display());
    let destination = format!("--destination-nsqd-tcp-address={}", to.tcp_address());
    let args = [
        "to-mesh",
        "--topic=t",
        &guarded.address(),
        &destination,
        &authorities,
        "--consumer-opt=tls_v1,true",
        "--consumer-opt=deflate",
        "--consumer-opt=auth_secret,secret-token",
        "--producer-opt=snappy,true",
        "--producer-opt=user_agent,copier/1",
    ];
    let tool = bruit_started(&args, b"");
    wait::until("the other node has both", || {
        to.topic_stats("t").is_some_and(|stats| stats["message_count"] == 2)
    });
    let clients = to.http().get("/stats?format=json").json()["producers"].clone();
    assert_eq!(
        (&clients[0]["user_agent"], &clients[0]["snappy"]),
        (&"copier/1".into(), &true.into()),
        "{clients}"
    );
    wait::until("all is finished", || {
        guarded.figure("t", "nsq_to_nsq").contains("0       0       0     0     0")
    });
    tool.signal("TERM");
    assert_eq!(tool.end().code, Some(0));
    assert_eq!(texts(&to.consumer("t", "c", 5).finish_messages(2)), ["one", "two"]);
    let ended = bruit(&["to-file", "--topic=t", "--consumer-opt=snapy,true"]);
    refused(&ended, "has no option \"snapy\"");
}

#[test]
fn other_servers_are_reached_by_https_and_never_see_the_token() {
    let (from, authority) = (Node::start(), Authority::new("authority"));
    let to = authority.options().start();
    let witness = AuthServer::start(Answer::Json("{}".to_owned()));
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "secret-token").unwrap();
    from.client().publish("t", "a message");
    let tool = bruit_started(
        &[
            "to-http",
            "--topic=t",
            "--mode=multicast",
            &format!("--nsqd-tcp-address={}", from.tcp_address()),
            &format!("--post=https://{}/pub?topic=copy", to.https_address()),
            &format!("--post=http://{}/in", witness.address()),
            &format!("--tls-ca-file={}", authority.file().display()),
            &format!("--token-file={}", token.path().display()),
        ],
        b"",
    );
    from.wait_for("t", "nsq_to_http", "client_count", 1);
    wait::until("both have it", || !witness.requests().is_empty() && to.topic_stats("copy").is_some());
    assert_eq!(to.consumer("copy", "c", 1).message().text(), "a message");
    let request = &witness.requests()[0];
    assert!(request.ends_with("a message") && !request.contains("secret-token"), "{request}");
    tool.signal("TERM");
    assert_eq!(tool.end().code, Some(0));
}
