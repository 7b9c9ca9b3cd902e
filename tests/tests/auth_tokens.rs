//! The file of tokens: what it allows, how a change is taken over, and what becomes of a mistake.

use std::path::Path;

use bruit_tests::{Answer, AuthServer, Client, Node, Options, allowing, command, wait};

const TOKENS: &str = r#"
[[tokens]]
token = "orders-token"
identity = "orders"
[[tokens.authorizations]]
topic = "^orders$"
permissions = ["publish", "subscribe"]
"#;

/// Replaces the file at once: a node that looks meanwhile finds the one or the other, and none in part.
fn write(path: &Path, content: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, content).expect("a temporary file can be written");
    std::fs::rename(&beside, path).expect("a temporary file can be renamed");
}

fn node_with(path: &Path) -> Node {
    Options::new().arg(format!("--auth-tokens-file={}", path.display())).start()
}

fn with_secret(node: &Node, secret: &str) -> Client {
    let mut client = node.client();
    client.send(command("AUTH", secret.as_bytes()));
    client
}

const ORDERS: &str = r#"{"identity":"orders","identity_url":"","permission_count":1}"#;

#[test]
fn a_token_opens_what_its_entry_says() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("tokens.toml");
    write(&path, TOKENS);
    let node = node_with(&path);
    let mut client = with_secret(&node, "orders-token");
    client.expect_response(ORDERS);
    client.send(command("PUB orders", b"x"));
    client.expect_ok();
    client.subscribe("orders", "c");
    client.ready(1);
    assert_eq!(client.message().text(), "x");
    client.send(command("PUB other", b"x"));
    client.expect_fatal(r#"E_UNAUTHORIZED AUTH failed for PUB on "other" """#);
    with_secret(&node, "orders-toke").expect_fatal("E_UNAUTHORIZED AUTH no authorizations found");
    let mut bare = node.client();
    bare.send("SUB orders c\n");
    bare.expect_fatal("E_AUTH_FIRST AUTH required before SUB");
}

#[test]
fn a_change_is_taken_over_and_a_mistake_is_not() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("tokens.toml");
    write(&path, TOKENS);
    let node = node_with(&path);
    let mut producer = with_secret(&node, "orders-token");
    producer.expect_response(ORDERS);

    write(&path, &format!("{TOKENS}\n[[tokens]]\ntoken = \"new\"\nidenttiy = \"typo\"\n"));
    let mistake = format!("{}:11: unknown field `identtiy`", path.display());
    wait::until("the mistake is named with its line", || node.log().contains(&mistake));
    assert!(node.log().contains("the tokens that were read before hold on"), "{}", node.log());
    producer.send(command("PUB orders", b"x"));
    producer.expect_ok();

    write(&path, &TOKENS.replace("orders-token", "another-token"));
    wait::until("the new tokens hold", || {
        let mut client = with_secret(&node, "another-token");
        client.frame().body == ORDERS.as_bytes()
    });
    // Who was let in by a token that is gone may do nothing more.
    producer.send(command("PUB orders", b"x"));
    producer.expect_fatal(r#"E_UNAUTHORIZED AUTH failed for PUB on "orders" """#);
    with_secret(&node, "orders-token").expect_fatal("E_UNAUTHORIZED AUTH no authorizations found");

    std::fs::remove_file(&path).expect("it is there");
    wait::until("the missing file is missed", || node.log().contains("No such file"));
    with_secret(&node, "another-token").expect_response(ORDERS);
}

#[test]
fn a_subscription_ends_with_the_token_that_it_came_by() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("tokens.toml");
    let other = TOKENS.replace("orders-token", "other-token");
    write(&path, &format!("{TOKENS}{other}"));
    let node = node_with(&path);
    let mut consumers = ["orders-token", "other-token"].map(|token| {
        let mut client = node.client();
        client.send(command("IDENTIFY", br#"{"heartbeat_interval":1000}"#));
        client.expect_ok();
        client.send(command("AUTH", token.as_bytes()));
        client.expect_response(ORDERS);
        client.subscribe("orders", "c");
        client.ready(1);
        client
    });
    write(&path, &other);
    consumers[0].expect_fatal(r#"E_UNAUTHORIZED AUTH failed for SUB on "orders" "c""#);
    consumers[1].send(command("PUB orders", b"x"));
    consumers[1].expect_ok();
    assert_eq!(consumers[1].message().text(), "x");
}

#[test]
fn a_node_does_not_start_with_a_mistake() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("tokens.json");
    let refused = || {
        let options = Options::new().data_path(dir.path().join("data"));
        options.arg(format!("--auth-tokens-file={}", path.display())).start_refused()
    };
    let (status, said) = refused();
    assert!(!status.success() && said.contains("tokens.json: No such file"), "{said}");
    write(&path, "{\"tokens\": [\n  {\"token\": \"a\",\n   \"permissions\": []}]}");
    let (status, said) = refused();
    assert!(!status.success() && said.contains("tokens.json:3: unknown field `permissions`"), "{said}");
    write(&path, "{\"tokens\": []}");
    drop(node_with(&path));
}

#[test]
fn what_the_file_does_not_know_is_asked_of_a_server() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("tokens.toml");
    write(&path, TOKENS);
    let server = AuthServer::start(Answer::Json(allowing(60, "\"publish\"")));
    let node = Options::new()
        .arg(format!("--auth-tokens-file={}", path.display()))
        .arg(format!("--auth-http-address={}", server.address()))
        .start();
    with_secret(&node, "orders-token").expect_response(ORDERS);
    assert_eq!(server.requests().len(), 0);
    let expected = r#"{"identity":"me","identity_url":"http://u","permission_count":1}"#;
    with_secret(&node, "elsewhere").expect_response(expected);
    assert_eq!(server.requests().len(), 1);
}
