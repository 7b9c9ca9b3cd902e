//! The command line and the mesh: what any node tells, how settings open a node to others, and the whole of it
//! in one process.

use bruit_tests::{
    Mesh, Node, Options,
    command::{Ended, bruit, bruit_started, bruit_with},
    mesh::secret_file,
    wait,
};
use serde_json::Value;

/// The command line against a node.
fn asked(node: &Node, words: &[&str]) -> Ended {
    let address = node.http_address().to_string();
    bruit(&[words, &["--http-address", &address]].concat())
}

fn json(ended: &Ended) -> Value {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

#[test]
fn members_are_a_table_for_people_and_json_for_programs() {
    let mesh = Mesh::start(2);
    let told = json(&asked(&mesh[0], &["members"]));
    assert_eq!(told["members"].as_array().map(Vec::len), Some(2), "a pipe gets JSON: {told}");
    assert_eq!(told["node"], mesh[0].id());
    let table = asked(&mesh[1], &["members", "-o", "table"]);
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert!(lines[0].starts_with("NODE") && lines[0].contains("SINCE"), "{table:?}");
    let own = lines.iter().find(|line| line.contains(&format!("{}*", mesh[1].id())));
    assert!(own.is_some_and(|line| line.contains("alive")), "{table:?}");
    let other = lines.iter().find(|line| line.contains(&mesh[0].gossip_address().to_string()));
    assert!(other.is_some_and(|line| line.contains(&mesh[0].id())), "{table:?}");
    assert_eq!(lines.last(), Some(&"2 alive of 2"));
    let wide = asked(&mesh[1], &["members", "-o", "wide"]);
    assert!(wide.stdout.contains(&mesh[0].mesh_address().to_string()), "{wide:?}");
}

#[test]
fn topics_and_lookups_are_answered_by_any_node() {
    let mesh = Mesh::start(2);
    mesh[0].client().publish("orders", "x");
    let _consumer = mesh[0].consumer("orders", "billing", 1);
    mesh[1].wait_for_channel_name("orders", "billing");
    let address = mesh[0].tcp_address().to_string();
    let table = asked(&mesh[1], &["lookup", "orders", "-o", "table"]);
    assert!(table.stdout.contains(&address) && table.stdout.ends_with("channels: billing\n"), "{table:?}");
    let found = json(&asked(&mesh[1], &["lookup", "orders"]));
    assert_eq!(found["producers"][0]["tcp_port"], mesh[0].tcp_address().port());
    let topics = asked(&mesh[1], &["topics", "-o", "table"]);
    let words: Vec<Vec<&str>> = topics.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [vec!["TOPIC", "NODES", "CHANNELS"], vec!["orders", "1", "billing"]]);
    let nobody = asked(&mesh[1], &["lookup", "nobody"]);
    assert_eq!(nobody.code, Some(3), "{nobody:?}");
    assert!(nobody.stdout.is_empty() && nobody.stderr.contains("nobody"), "{nobody:?}");
}

#[test]
fn tail_reads_from_every_node_that_holds_the_topic_and_prints_no_more_than_it_was_asked_for() {
    let mesh = Mesh::start(3);
    for (node, letter) in mesh.iter().zip(["a", "b", "c"]) {
        let bodies: Vec<String> = (0..50).map(|i| format!("{letter}{i}")).collect();
        node.client().publish_all("t", &bodies);
    }
    mesh.wait_for_producers("t", &[0, 1, 2]);
    let tail = |count: &str| {
        let address = mesh[2].http_address().to_string();
        let ended = bruit(&["tail", "t", "--channel", "c", "-n", count, "--lookupd-http-address", &address]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    let mut printed = tail("40");
    assert_eq!(printed.len(), 40);
    printed.extend(tail("110"));
    printed.sort();
    let mut all: Vec<String> =
        ["a", "b", "c"].iter().flat_map(|l| (0..50).map(move |i| format!("{l}{i}"))).collect();
    all.sort();
    assert_eq!(printed, all, "each message is printed once, whichever node holds it");
}

#[test]
fn tail_finds_a_node_that_holds_the_topic_later() {
    let mesh = Mesh::start(2);
    let address = mesh[1].http_address().to_string();
    let tailing = bruit_started(&["tail", "late", "-n", "1", "--lookup", &address, "--channel", "c"], b"");
    mesh[0].client().publish("late", "x");
    let ended = tailing.end();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "x\n"), "{ended:?}");
}

#[test]
fn a_node_that_was_told_nothing_is_found_from_its_own_machine_without_a_resolver() {
    let node = Options::new().arg("--broadcast-address=").start();
    node.client().publish("t", "x");
    let found = json(&asked(&node, &["lookup", "t"]));
    assert_eq!(found["producers"][0]["broadcast_address"], "127.0.0.1");
    let info = node.http().get("/info").json();
    assert_eq!(info["broadcast_address"], info["hostname"], "as nsqd tells it");
}

#[test]
fn joining_says_whether_somebody_answered() {
    let (one, other) = (Node::start(), Node::start());
    let silent = "127.0.0.1:9";
    let part = asked(&one, &["join", &other.gossip_address().to_string(), silent]);
    assert_eq!(part.code, Some(4), "{part:?}");
    assert!(part.stdout.contains("in the mesh, which has 2 nodes alive"), "{part:?}");
    assert!(part.stderr.contains(&format!("nobody answers at {silent}")), "{part:?}");
    wait::until("both are there", || other.alive().len() == 2);
    for wrong in ["no.such.host.invalid", "a b", "host:0"] {
        let ended = asked(&one, &["join", wrong]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{ended:?}");
    }
    let left = asked(&one, &["leave"]);
    assert_eq!(left.code, Some(0), "{left:?}");
    other.wait_for_state(&one.id(), "left");
}

#[test]
fn commands_say_when_no_node_is_there() {
    for words in [["members"].as_slice(), &["topics"], &["lookup", "t"], &["join", "a"], &["leave"]] {
        let ended = bruit(&[words, &["--http-address", "127.0.0.1:1"]].concat());
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("127.0.0.1:1") && ended.stderr.contains("bruit serve"), "{ended:?}");
    }
}

#[test]
fn watching_prints_a_line_for_each_change() {
    let mut mesh = Mesh::start(2);
    let address = mesh[0].http_address().to_string();
    let watching = bruit_started(&["members", "--watch", "--http-address", &address], b"");
    let gone = mesh[1].id();
    let _ = mesh[1].terminate();
    mesh[0].wait_for_state(&gone, "left");
    // Long enough for the last state to be seen; the watch ends with its node.
    wait::pause(std::time::Duration::from_millis(1500));
    mesh[0].kill();
    let ended = watching.end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().expect("at least one line");
    let state =
        last["members"].as_array().and_then(|rows| rows.iter().find(|row| row["id"] == gone.as_str()));
    assert_eq!(state.map(|row| &row["state"]), Some(&Value::from("left")), "{ended:?}");
}

#[test]
fn the_banner_has_a_line_that_starts_another_node() {
    let node = Node::start();
    let log = node.log();
    let line = log.lines().find_map(|line| line.strip_prefix("join: bruit ")).expect("a line to paste");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut options = Options::new().data_path(directory.path().join("data"));
    let mut words = line.split(' ');
    while let (Some(flag), Some(value)) = (words.next(), words.next()) {
        if flag != "--data-path" {
            options = options.arg(format!("{flag}={value}"));
        }
    }
    let other = options.start();
    wait::until("the pasted line has joined", || node.alive().len() == 2 && other.alive().len() == 2);
}

#[test]
fn a_secret_opens_a_node_and_is_never_shown() {
    let (_kept, path) = secret_file('7');
    let refused = bruit(&["serve", "--gossip-address=0.0.0.0:0"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("bruit key generate") && refused.stderr.contains("--cluster-secret-file")
    );
    let secret = "7".repeat(64);
    let file = format!("--cluster-secret-file={}", path.display());
    let by_file = bruit(&["config", "show", "-o", "json", &file]);
    let by_variable =
        bruit_with(&["config", "show", "-o", "json"], &[("BRUIT_CLUSTER_SECRET", &secret)], b"");
    for shown in [by_file, by_variable] {
        assert_eq!(json(&shown)["gossip-address"]["value"], "0.0.0.0:4160");
        assert!(!format!("{shown:?}").contains(&secret), "{shown:?}");
    }
    let node = Options::new().secret(&path).start();
    assert!(!node.log().contains(&secret));
    assert!(node.log().contains("--cluster-secret-file FILE"), "{}", node.log());
}

#[test]
fn dev_shows_a_message_found_through_another_node() {
    for nodes in ["1", "3"] {
        let ended = bruit(&["dev", "--once", "--nodes", nodes]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let steps: Vec<&str> = ended.stdout.lines().filter(|line| line.contains(" ms  ")).collect();
        assert_eq!(steps.len(), 5, "{ended:?}");
        assert!(steps[2].contains(&format!("node {nodes} was asked /lookup")), "{ended:?}");
        assert!(steps[3].contains("hello from node 1"), "{ended:?}");
        let directory = ended.stdout.split("data in ").nth(1).and_then(|rest| rest.split(',').next());
        let directory = directory.expect("it says where the data is");
        assert!(!std::path::Path::new(directory).exists(), "{directory} is left behind");
    }
    assert_eq!(bruit(&["dev", "--nodes", "0"]).code, Some(2));
}

#[test]
fn dev_keeps_what_it_is_told_to_keep() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().to_str().expect("a path of plain characters");
    for _ in 0..2 {
        let ended = bruit(&["dev", "--once", "--nodes", "2", "--data-path", path]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    assert!(directory.path().join("node-2").is_dir());
}
