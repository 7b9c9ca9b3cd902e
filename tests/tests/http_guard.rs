//! The HTTP API with a guard: which token opens which path, and what the others are told.

use std::collections::{BTreeMap, BTreeSet};

use bruit_tests::{Answer, AuthServer, Http, Node, Options, Reply, command, wait};
use serde_json::{Value, json};

const TOKENS: &str = r#"
[[tokens]]
token = "producer"
[[tokens.authorizations]]
topic = "^orders$"
permissions = ["publish"]

[[tokens]]
token = "consumer"
[[tokens.authorizations]]
topic = "^orders$"
permissions = ["subscribe"]

[[tokens]]
token = "reader"
scopes = ["read"]

[[tokens]]
token = "admin"
scopes = ["admin"]
"#;

struct Guarded {
    node: Node,
    _dir: tempfile::TempDir,
}

impl Guarded {
    fn start(what: &str) -> Self {
        Self::start_with(what, Options::new())
    }

    fn start_with(what: &str, options: Options) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("tokens.toml");
        std::fs::write(&path, TOKENS).expect("a temporary file can be written");
        let options = options.arg(format!("--auth-tokens-file={}", path.display()));
        Self { node: options.arg(format!("--http-auth={what}")).start(), _dir: dir }
    }

    /// Status, and the message of an error.
    fn ask(&self, token: &str, method: &str, target: &str) -> u16 {
        ask(self.node.http(), token, method, target).status
    }

    /// The HTTP ports of the nodes that have the topic `orders`, and whether they are hidden from its lookups.
    fn listed(&self) -> BTreeMap<u64, bool> {
        let nodes = ask(self.node.http(), "admin", "GET", "/nodes").json();
        let holds = |row: &&Value| row["topics"] == json!(["orders"]);
        let rows = nodes["producers"].as_array().expect("a list of nodes").iter().filter(holds);
        let row = |row: &Value| (row["http_port"].as_u64(), row["tombstones"][0].as_bool());
        rows.map(row).map(|(port, hidden)| (port.expect("a port"), hidden.expect("a flag"))).collect()
    }

    /// The HTTP ports that a lookup of the topic `orders` names.
    fn found(&self) -> BTreeSet<u64> {
        let found = ask(self.node.http(), "admin", "GET", "/lookup?topic=orders").json();
        let rows = found["producers"].as_array().expect("a list of producers").iter();
        rows.map(|row| row["http_port"].as_u64().expect("a port")).collect()
    }
}

fn ask(http: Http, token: &str, method: &str, target: &str) -> Reply {
    let authorization =
        if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\n{authorization}Connection: close\r\nContent-Length: 1\r\n\r\nx"
    );
    http.exchange(request.as_bytes())
}

#[test]
fn each_path_opens_to_the_tokens_that_may() {
    let guarded = Guarded::start("all");
    let tokens = ["", "wrong", "producer", "consumer", "reader", "admin"];
    for (method, target, expected) in [
        ("GET", "/ping", [200; 6]),
        ("POST", "/topic/create?topic=orders", [401, 401, 403, 403, 403, 200]),
        ("POST", "/pub?topic=orders", [401, 401, 200, 403, 403, 403]),
        ("POST", "/mpub?topic=orders", [401, 401, 200, 403, 403, 403]),
        ("POST", "/pub?topic=other", [401, 401, 403, 403, 403, 403]),
        ("POST", "/pub", [401, 401, 400, 400, 400, 400]),
        ("GET", "/stats", [401, 401, 403, 403, 200, 200]),
        ("GET", "/metrics", [401, 401, 403, 403, 200, 200]),
        ("GET", "/lookup?topic=orders", [401, 401, 403, 200, 200, 200]),
        ("GET", "/config/log_level", [401, 401, 403, 403, 200, 200]),
        ("GET", "/mesh/members", [401, 401, 403, 403, 200, 200]),
        ("POST", "/channel/create?topic=orders&channel=c", [401, 401, 403, 403, 403, 200]),
        ("GET", "/no/such/path", [404; 6]),
    ] {
        for (token, expected) in tokens.iter().zip(expected) {
            assert_eq!(guarded.ask(token, method, target), expected, "{method} {target} with {token:?}");
        }
    }
    let refused = ask(guarded.node.http(), "", "GET", "/stats");
    assert_eq!(refused.text(), r#"{"message":"UNAUTHORIZED"}"#);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    let refused = ask(guarded.node.http(), "producer", "GET", "/stats");
    assert_eq!(refused.text(), r#"{"message":"FORBIDDEN"}"#);
    // Only the one publish of each kind that was allowed has happened.
    let stats = ask(guarded.node.http(), "admin", "GET", "/stats?format=json").json();
    assert_eq!(stats["topics"].as_array().map(Vec::len), Some(1));
    assert_eq!(stats["topics"][0]["message_count"], 2);
}

#[test]
fn with_a_guard_of_changes_everybody_may_look() {
    let guarded = Guarded::start("changes");
    assert_eq!(guarded.ask("", "GET", "/stats"), 200);
    assert_eq!(guarded.ask("", "GET", "/lookup?topic=x"), 404);
    assert_eq!(guarded.ask("", "POST", "/pub?topic=orders"), 401);
    assert_eq!(guarded.ask("reader", "PUT", "/config/log_level"), 403);
    assert_eq!(guarded.ask("producer", "POST", "/pub?topic=orders"), 200);
}

#[test]
fn without_a_guard_http_is_open_as_with_nsqd() {
    let guarded = Guarded::start("off");
    assert_eq!(guarded.ask("", "POST", "/pub?topic=orders"), 200);
    let mut client = guarded.node.client();
    client.send(command("PUB orders", b"x"));
    client.expect_fatal("E_AUTH_FIRST AUTH required before PUB");
}

#[test]
fn servers_decide_for_http_too_and_are_not_asked_each_time() {
    let reply = r#"{"ttl":3600,"scopes":["read"],"authorizations":[{"topic":"^t$","channels":[".*"],"permissions":["publish"]}]}"#;
    let server = AuthServer::start(Answer::Json(reply.to_owned()));
    let node = Options::new()
        .arg(format!("--auth-http-address={}", server.address()))
        .arg("--http-auth=all")
        .start();
    for (method, target, expected) in
        [("POST", "/pub?topic=t", 200), ("POST", "/pub?topic=u", 403), ("GET", "/stats", 200)]
    {
        assert_eq!(ask(node.http(), "secret", method, target).status, expected, "{target}");
    }
    assert_eq!(server.requests().len(), 1);
    server.answer(Answer::Status(500, String::new()));
    assert_eq!(ask(node.http(), "secret", "GET", "/stats").status, 200);
    let refused = ask(node.http(), "other", "GET", "/stats");
    assert_eq!(refused.outcome(), (503, r#"{"message":"AUTH_FAILED"}"#.to_owned()));
}

#[test]
fn commands_show_the_token_of_a_file_or_of_the_environment() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let guarded = Guarded::start("all");
    let http = format!("--http-address={}", guarded.node.http_address());
    let file = dir.path().join("token");
    std::fs::write(&file, "reader\n").expect("a temporary file can be written");
    let file = format!("--token-file={}", file.display());
    let run = |args: &[&str], token: Option<&str>| {
        let mut command = std::process::Command::new(bruit_tests::binary::bruit());
        command.args(args).env_remove("BRUIT_TOKEN").stdin(std::process::Stdio::null());
        if let Some(token) = token {
            command.env("BRUIT_TOKEN", token);
        }
        let output = command.output().expect("the binary can be started");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(run(&["members", &http, &file], None).0);
    assert!(run(&["topics", &http], Some("admin")).0);
    let (succeeded, said) = run(&["members", &http], None);
    assert!(!succeeded && said.contains("401 UNAUTHORIZED") && said.contains("--token-file"), "{said}");
    let (succeeded, said) = run(&["members", &http], Some("producer"));
    assert!(!succeeded && said.contains("does not allow this"), "{said}");

    let tcp = format!("--nsqd-tcp-address={}", guarded.node.tcp_address());
    let (succeeded, said) = run(&["pub", "orders", &tcp], None);
    assert!(!succeeded && said.contains("wants a token"), "{said}");
    let (succeeded, said) = run(&["pub", "orders", &tcp], Some("wrong"));
    assert!(!succeeded && said.contains("does not take the token: E_UNAUTHORIZED"), "{said}");
    assert!(run(&["pub", "orders", &tcp], Some("producer")).0);
    wait::until("the node is still there", || guarded.ask("", "GET", "/ping") == 200);
}

#[test]
fn an_administrator_hides_a_producer_through_another_node() {
    for what in ["changes", "all"] {
        let first = Guarded::start(what);
        let second = Guarded::start_with(what, Options::new().join(&first.node));
        let ports = [&first, &second].map(|guarded| u64::from(guarded.node.http_address().port()));
        for guarded in [&first, &second] {
            assert_eq!(guarded.ask("producer", "POST", "/pub?topic=orders"), 200);
        }
        let nobody_hidden = BTreeMap::from(ports.map(|port| (port, false)));
        for guarded in [&first, &second] {
            wait::until("both are found", || guarded.listed() == nobody_hidden);
        }
        let target = format!("/topic/tombstone?topic=orders&node={}", second.node.http_address());
        for guarded in [&first, &second] {
            for (token, expected) in
                [("", 401), ("wrong", 401), ("producer", 403), ("consumer", 403), ("reader", 403)]
            {
                assert_eq!(guarded.ask(token, "POST", &target), expected, "{what} with {token:?}");
            }
        }
        assert_eq!((first.listed(), second.listed()), (nobody_hidden.clone(), nobody_hidden));

        assert_eq!(first.ask("admin", "POST", &target), 200);
        // Both know by now: the one was asked, and has told the other.
        for guarded in [&first, &second] {
            assert_eq!(guarded.listed(), BTreeMap::from([(ports[0], false), (ports[1], true)]));
            assert_eq!(guarded.found(), BTreeSet::from([ports[0]]));
        }
        // So what nsqadmin does next concerns that node alone.
        assert_eq!(second.ask("admin", "POST", "/topic/delete?topic=orders"), 200);
        for (guarded, left) in [(&first, 1), (&second, 0)] {
            let stats = ask(guarded.node.http(), "admin", "GET", "/stats?format=json").json();
            assert_eq!(stats["topics"].as_array().map(Vec::len), Some(left), "{stats}");
        }
    }
}
