//! nsqds of the classic kind that register at a node, in protocol V1 (reference, section 7.1).

use std::collections::BTreeSet;

use bruit_tests::{Mesh, Node, Options, classic::Registration, wait};
use serde_json::{Value, json};

const HOST: &str = "old.example";

fn with_registry() -> Options {
    Options::new().arg("--lookupd-listen-tcp-address=127.0.0.1:0")
}

/// What a node lists under `/nodes` for the nsqd on this port.
fn listed(node: &Node, port: u16) -> Option<Value> {
    let nodes = node.http().get("/nodes").json();
    let rows: Vec<Value> = nodes["producers"].as_array().unwrap().clone();
    let mut found = rows.into_iter().filter(|row| row["tcp_port"] == port);
    let first = found.next();
    assert!(found.next().is_none(), "listed more than once: {nodes}");
    first
}

#[test]
fn an_nsqd_that_registers_is_found_on_every_node_and_goes_when_its_connection_ends() {
    let mesh = Mesh::start_with(3, &with_registry());
    let mut nsqd = Registration::identified(mesh[1].registry_address(), HOST, 5150);
    nsqd.ok("REGISTER t");
    // Whoever has the answer finds it on the node that gave it.
    assert_eq!(mesh[1].producers("t"), Some(BTreeSet::from([5150])));
    nsqd.ok("REGISTER t c");
    nsqd.ok("REGISTER u c#ephemeral");
    nsqd.ok("PING");
    for node in mesh.iter() {
        node.wait_for_producers("t", &BTreeSet::from([5150]));
        node.wait_for_channel_name("t", "c");
        node.wait_for_channel_name("u", "c#ephemeral");
        wait::until("all topics are listed", || {
            listed(node, 5150).is_some_and(|row| row["topics"] == json!(["t", "u"]))
        });
        let row = listed(node, 5150).unwrap();
        assert_eq!(row["tombstones"], json!([false, false]));
        for (key, value) in [
            ("broadcast_address", json!(HOST)),
            ("http_port", json!(5151)),
            ("version", json!("1.2.1")),
            ("hostname", json!("old")),
        ] {
            assert_eq!(row[key], value, "{row}");
        }
        assert!(row["remote_address"].as_str().unwrap().starts_with("127.0.0.1:"), "{row}");
        let debug = node.http().get("/debug").json();
        assert_eq!(debug["channel:t:c"][0]["tcp_port"], 5150, "{debug}");
        assert!(node.topic_stats("t").is_none(), "a registration makes no topic");
    }
    // Neither a channel that it has not registered nor a topic takes another name along.
    for line in ["REGISTER ua x", "UNREGISTER ua a", "UNREGISTER u"] {
        nsqd.ok(line);
    }
    for node in mesh.iter() {
        node.wait_for_producers("ua", &BTreeSet::from([5150]));
        node.wait_for_channel_name("ua", "x");
        node.wait_for_producers("u", &BTreeSet::new());
        wait::until("the channel is forgotten", || node.channel_names("u").is_empty());
    }
    drop(nsqd);
    for node in mesh.iter() {
        node.wait_for_producers("t", &BTreeSet::new());
        assert!(node.topic_names().contains("t") && node.channel_names("t").contains("c"), "names stay");
        wait::until("it is listed no more", || listed(node, 5150).is_none());
    }
}

#[test]
fn it_goes_with_the_node_where_it_registered_and_is_there_once_if_it_registered_twice() {
    let mut mesh = Mesh::start_with(3, &with_registry());
    let mut first = Registration::identified(mesh[1].registry_address(), HOST, 5150);
    let mut second = Registration::identified(mesh[2].registry_address(), HOST, 5150);
    first.ok("REGISTER both c");
    second.ok("REGISTER both c");
    first.ok("REGISTER one");
    for node in mesh.iter() {
        wait::until("both topics are listed", || {
            listed(node, 5150).is_some_and(|row| row["topics"] == json!(["both", "one"]))
        });
        let producers = node.http().get("/lookup?topic=both").json();
        assert_eq!(producers["producers"].as_array().unwrap().len(), 1, "{producers}");
    }
    mesh[1].kill();
    for place in [0, 2] {
        mesh[place].wait_for_producers("one", &BTreeSet::new());
        assert_eq!(mesh[place].producers("both"), Some(BTreeSet::from([5150])));
    }
}

#[test]
fn a_tombstone_hides_a_registered_nsqd_on_every_node_until_it_unregisters() {
    let mesh = Mesh::start_with(2, &with_registry());
    let mut nsqd = Registration::identified(mesh[0].registry_address(), HOST, 5150);
    nsqd.ok("REGISTER t");
    mesh[1].wait_for_producers("t", &BTreeSet::from([5150]));
    mesh[1].http().post_ok(&format!("/topic/tombstone?topic=t&node={HOST}:5151"), "");
    for node in mesh.iter() {
        node.wait_for_producers("t", &BTreeSet::new());
        assert_eq!(listed(node, 5150).unwrap()["tombstones"], json!([true]));
    }
    nsqd.ok("REGISTER t");
    assert_eq!(mesh[0].producers("t"), Some(BTreeSet::new()), "registering again changes nothing");
    nsqd.ok("UNREGISTER t");
    nsqd.ok("REGISTER t");
    for node in mesh.iter() {
        node.wait_for_producers("t", &BTreeSet::from([5150]));
    }
}

#[test]
fn a_topic_that_an_nsqd_registered_begins_with_its_channels_here() {
    let node = with_registry().start();
    let mut nsqd = Registration::identified(node.registry_address(), HOST, 5150);
    nsqd.ok("REGISTER t one");
    nsqd.ok("REGISTER t two");
    node.client().publish("t", "m");
    for channel in ["one", "two"] {
        assert_eq!(node.consumer("t", channel, 1).message().text(), "m", "{channel}");
    }
}

#[test]
fn a_node_that_registers_at_another_of_its_mesh_is_there_once() {
    let first = with_registry().start();
    let at = format!("--lookupd-tcp-address={}", first.registry_address());
    let second = Options::new().join(&first).arg(&at).start();
    wait::until("it has registered", || second.log().contains("registered at nsqlookupd"));
    second.client().publish("t", "m");
    let port = second.tcp_address().port();
    for node in [&first, &second] {
        node.wait_for_producers("t", &BTreeSet::from([port]));
        let found = node.http().get("/lookup?topic=t").json();
        assert_eq!(found["producers"].as_array().unwrap().len(), 1, "{found}");
        assert!(listed(node, port).is_some());
    }
}

#[test]
fn refusals_are_told_in_the_words_of_nsqlookupd_and_end_the_connection() {
    let node = with_registry().start();
    let registry = node.registry_address();
    for (line, expected) in [
        ("FOO", "E_INVALID invalid command FOO"),
        ("REGISTER", "E_INVALID REGISTER insufficient number of params"),
        ("UNREGISTER", "E_INVALID UNREGISTER insufficient number of params"),
        ("REGISTER b$d", "E_BAD_TOPIC REGISTER topic name 'b$d' is not valid"),
        ("REGISTER t b$d", "E_BAD_CHANNEL REGISTER channel name 'b$d' is not valid"),
        ("UNREGISTER b$d", "E_BAD_TOPIC UNREGISTER topic name 'b$d' is not valid"),
        ("UNREGISTER t b$d", "E_BAD_CHANNEL UNREGISTER channel name 'b$d' is not valid"),
        ("ping", "E_INVALID invalid command ping"),
        ("", "E_INVALID invalid command "),
        ("IDENTIFY", "E_INVALID cannot IDENTIFY again"),
    ] {
        let mut nsqd = Registration::identified(registry, HOST, 5150);
        nsqd.ok("REGISTER kept");
        // Space around a line is none of it, and a name that is not known may be unregistered.
        nsqd.ok(" PING\t\r");
        nsqd.ok("UNREGISTER unknown unknown \r");
        nsqd.send(format!("{line}\n"));
        assert_eq!(nsqd.answer(), expected);
        assert_eq!(nsqd.answer_or_end(), None, "{line}");
    }
    let body = |body: &str| [b"IDENTIFY\n", &(body.len() as u32).to_be_bytes()[..], body.as_bytes()].concat();
    for (bytes, expected) in [
        (b"REGISTER t\n".to_vec(), "E_INVALID client must IDENTIFY"),
        (body("{}"), "E_BAD_BODY IDENTIFY missing fields"),
        (body("no json"), "E_BAD_BODY IDENTIFY failed to decode JSON body"),
        (b"IDENTIFY\n\xff\xff\xff\xff".to_vec(), "E_BAD_BODY IDENTIFY failed to read body"),
        (b"IDENTIFY\n\x7f\xff\xff\xff".to_vec(), "E_BAD_BODY IDENTIFY failed to read body"),
    ] {
        let mut nsqd = Registration::connect(registry);
        nsqd.ok("PING");
        nsqd.send(bytes);
        assert_eq!(nsqd.answer(), expected);
        assert_eq!(nsqd.answer_or_end(), None, "{expected}");
    }
    for (bytes, expected) in [("IDENTIFY\n\0", "body size"), ("IDENTIFY\n\0\0\0\x09{", "body")] {
        let mut nsqd = Registration::connect(registry);
        nsqd.send(bytes);
        nsqd.finish_sending();
        assert_eq!(nsqd.answer(), format!("E_BAD_BODY IDENTIFY failed to read {expected}"));
    }
    let mut stranger = Registration::silent(registry);
    stranger.send(b"  V2");
    assert_eq!((stranger.answer(), stranger.answer_or_end()), ("E_BAD_PROTOCOL".to_owned(), None));
}

#[test]
fn noise_ends_its_own_connection_and_no_other() {
    let node = with_registry().start();
    let registry = node.registry_address();
    let mut nsqd = Registration::identified(registry, HOST, 5150);
    nsqd.ok("REGISTER t");
    let mut endless = Registration::connect(registry);
    endless.send(vec![b'x'; 1 << 16]);
    assert_eq!(endless.answer_or_end(), None);
    let mut noise = Registration::connect(registry);
    noise.send([*b"\n\xff\xfe\0"; 64].concat());
    assert!(noise.answer().starts_with("E_INVALID invalid command"));
    // More than may register: the others are told why, and the first ones stay.
    let mut crowd: Vec<Registration> =
        (0..255).map(|port| Registration::identified(registry, HOST, 6000 + 2 * port)).collect();
    let mut late = Registration::connect(registry);
    let body = br#"{"version":"1","tcp_port":1,"http_port":2,"broadcast_address":"a"}"#;
    late.send([b"IDENTIFY\n", &(body.len() as u32).to_be_bytes()[..], &body[..]].concat());
    let answer = late.answer();
    assert!(answer.starts_with("E_INVALID 256 producers have registered"), "{answer}");
    crowd.pop();
    wait::until("there is room again", || {
        let mut next = Registration::connect(registry);
        next.send([b"IDENTIFY\n", &(body.len() as u32).to_be_bytes()[..], &body[..]].concat());
        next.answer().starts_with('{')
    });
    nsqd.ok("PING");
    assert_eq!(node.producers("t"), Some(BTreeSet::from([5150])));
}

#[test]
fn an_nsqd_registers_as_many_names_as_it_may_and_no_more() {
    let node = with_registry().start();
    let mut nsqd = Registration::identified(node.registry_address(), HOST, 5150);
    // A topic counts as one name, and each of its channels as one more.
    nsqd.ok("REGISTER t c");
    for batch in (2..20_000).collect::<Vec<u32>>().chunks(1_000) {
        nsqd.send(batch.iter().map(|number| format!("REGISTER t{number}\n")).collect::<String>());
        for number in batch {
            assert_eq!(nsqd.answer(), "OK", "{number}");
        }
    }
    nsqd.ok("REGISTER t c");
    nsqd.send("REGISTER one-too-many\n");
    let answer = nsqd.answer();
    assert!(answer.starts_with("E_INVALID too many topics and channels"), "{answer}");
    assert_eq!(nsqd.answer_or_end(), None);
    node.wait_for_producers("t", &BTreeSet::new());
    let mut next = Registration::identified(node.registry_address(), HOST, 5150);
    next.ok("REGISTER one-too-many");
}

#[test]
fn an_nsqd_that_falls_silent_is_taken_for_gone() {
    let node = with_registry().arg("--inactive-producer-timeout=1s").start();
    let mut nsqd = Registration::identified(node.registry_address(), HOST, 5150);
    nsqd.ok("REGISTER t");
    assert_eq!(nsqd.answer_or_end(), None);
    node.wait_for_producers("t", &BTreeSet::new());
}
