//! Real client libraries against a real node. They are installed below the target directory, at pinned
//! versions; where that fails the test fails, since a test that skips itself proves nothing.

use std::{path::Path, process::Command};

use bruit_tests::{Mesh, Node, command::run, libraries, tree};

/// Runs a script of `tests/clients` against a new node; it ends with 0 when it is content.
fn round_trip(interpreter: &Path, script: &str, topic: &str) {
    let node = Node::start();
    let mut command = Command::new(interpreter);
    command.arg(tree::root().join("tests/clients").join(script)).arg(node.tcp_address().to_string());
    command.env("NODE_PATH", libraries().join("js/node_modules"));
    let ended = run(command, b"");
    assert_eq!(ended.code, Some(0), "{script}: {}\n{}", ended.stdout, ended.stderr);
    println!("{}", ended.stdout.trim());
    let stats = node.channel_stats(topic, "test").expect("the channel exists");
    assert_eq!(stats["message_count"], 401, "{stats}");
    node.wait_for(topic, "test", "depth", 0);
    node.wait_for(topic, "test", "in_flight_count", 0);
}

/// A consumer that knows nothing but one node's HTTP address gets what was published on every node.
fn found_by_lookup(interpreter: &Path, script: &str) {
    let mesh = Mesh::start(3);
    for (i, node) in mesh.iter().enumerate() {
        let bodies: Vec<String> = (0..50).map(|n| format!("{i}-{n}")).collect();
        node.client().publish_all("t", &bodies);
    }
    mesh.wait_for_producers("t", &[0, 1, 2]);
    let mut command = Command::new(interpreter);
    command.arg(tree::root().join("tests/clients").join(script)).arg(mesh[2].http_address().to_string());
    command.args(["t", "test", "150"]).env("NODE_PATH", libraries().join("js/node_modules"));
    let ended = run(command, b"");
    assert_eq!(ended.code, Some(0), "{script}: {}\n{}", ended.stdout, ended.stderr);
    for node in mesh.iter() {
        node.wait_for("t", "test", "depth", 0);
        node.wait_for("t", "test", "in_flight_count", 0);
        let stats = node.channel_stats("t", "test").expect("the channel exists");
        assert_eq!(stats["message_count"], 50, "{stats}");
    }
}

#[test]
fn pynsq_finds_every_producer_through_one_node() {
    found_by_lookup(&libraries().join("py/bin/python"), "pynsq_lookup.py");
}

#[test]
fn nsqjs_finds_every_producer_through_one_node() {
    found_by_lookup(Path::new("node"), "nsqjs_lookup.js");
}

#[test]
fn pynsq_publishes_consumes_and_requeues() {
    round_trip(&libraries().join("py/bin/python"), "pynsq_round_trip.py", "pynsq");
}

#[test]
fn nsqjs_publishes_consumes_and_requeues() {
    round_trip(Path::new("node"), "nsqjs_round_trip.js", "nsqjs");
}
