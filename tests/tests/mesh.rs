//! Several nodes that find each other: who is there, who is gone, and that every node says the same.

use std::collections::BTreeSet;

use bruit_tests::{
    Mesh, Node, Options,
    command::{Ended, bruit},
    datagrams::Stranger,
    wait,
};

/// The command line against a node.
fn told(node: &Node, words: &[&str]) -> Ended {
    let address = node.http_address().to_string();
    let ended = bruit(&[words, &["--http-address", &address]].concat());
    assert_eq!(ended.code, Some(0), "bruit {words:?}: {ended:?}");
    ended
}

fn port(node: &Node) -> BTreeSet<u16> {
    BTreeSet::from([node.tcp_address().port()])
}

#[test]
fn three_nodes_with_one_seed_find_each_other_and_answer_for_all() {
    let mesh = Mesh::start(3);
    for (i, node) in mesh.iter().enumerate() {
        node.client().publish("shared", format!("from {i}"));
        node.client().publish(&format!("own{i}"), "x");
    }
    mesh.wait_for_producers("shared", &[0, 1, 2]);
    for i in 0..3 {
        mesh.wait_for_producers(&format!("own{i}"), &[i]);
    }
    let _consumer = mesh[1].consumer("shared", "readers", 1);
    for node in mesh.iter() {
        node.wait_for_channel_name("shared", "readers");
    }
    let topics = mesh.agreement("/topics").json();
    assert_eq!(topics["topics"], serde_json::json!(["own0", "own1", "own2", "shared"]));
    let channels = mesh.agreement("/channels?topic=shared").json();
    assert_eq!(channels["channels"], serde_json::json!(["readers"]));
    let lookup = mesh.agreement("/lookup?topic=shared").json();
    assert_eq!(lookup["channels"], serde_json::json!(["readers"]));
    let nodes = mesh.agreement("/nodes").json();
    let nodes = nodes["producers"].as_array().expect("a list of nodes");
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    for node in nodes {
        assert_eq!(node["topics"].as_array().map(Vec::len), Some(2), "{node}");
        assert_eq!(node["tombstones"], serde_json::json!([false, false]), "{node}");
    }
}

#[test]
fn a_topic_is_held_only_where_somebody_published() {
    let mesh = Mesh::start(3);
    mesh[0].client().publish("t", "x");
    mesh.wait_for_producers("t", &[0]);
    for node in [&mesh[1], &mesh[2]] {
        assert_eq!(node.topic_stats("t"), None, "gossip has made a topic");
    }
}

#[test]
fn a_killed_node_is_gone_from_every_answer_and_comes_back_as_itself() {
    let mut mesh = Mesh::start(3);
    for node in mesh.iter() {
        node.client().publish("t", "x");
    }
    mesh.wait_for_producers("t", &[0, 1, 2]);
    let (id, gossip) = (mesh[2].id(), mesh[2].gossip_address());
    let generation = |node: &Node| {
        let rows = node.member_rows();
        rows.iter().find(|row| row["id"] == id.as_str()).and_then(|row| row["generation"].as_u64())
    };
    let before = generation(&mesh[0]).expect("it is a member");
    mesh[2].kill();
    let left: BTreeSet<u16> = [&mesh[0], &mesh[1]].map(|node| node.tcp_address().port()).into();
    for node in [&mesh[0], &mesh[1]] {
        node.wait_for_producers("t", &left);
        wait::until("/nodes has forgotten the dead node", || {
            node.http().get("/nodes").json()["producers"].as_array().map(Vec::len) == Some(2)
        });
        node.wait_for_state(&id, "down");
    }

    mesh[2].start_again_with(format!("--gossip-address={gossip}"));
    mesh.wait_until_whole();
    assert_eq!(mesh[2].id(), id);
    mesh.wait_for_producers("t", &[0, 1, 2]);
    for node in mesh.iter() {
        assert!(generation(node).is_some_and(|now| now > before), "it is not known to have started again");
    }
}

#[test]
fn a_node_that_comes_back_elsewhere_is_still_the_same_node() {
    let mut mesh = Mesh::start(3);
    mesh[1].client().publish("t", "x");
    mesh.wait_for_producers("t", &[1]);
    let id = mesh[1].id();
    mesh[1].crash();
    assert_eq!(mesh[1].id(), id);
    mesh.wait_until_whole();
    mesh.wait_for_producers("t", &[1]);
    for node in mesh.iter() {
        assert_eq!(node.members().len(), 3, "one node is listed twice: {:?}", node.member_rows());
    }
}

#[test]
fn even_the_seed_may_go_and_come_back() {
    let mut mesh = Mesh::start(3);
    mesh[0].kill();
    mesh[2].client().publish("t", "x");
    mesh[1].wait_for_producers("t", &port(&mesh[2]));
    // It was told of nobody, and remembers whom it knew.
    mesh[0].start_again();
    mesh.wait_until_whole();
    mesh.wait_for_producers("t", &[2]);
}

#[test]
fn a_node_that_stops_says_so() {
    let mut mesh = Mesh::start(3);
    mesh[2].client().publish("t", "x");
    mesh.wait_for_producers("t", &[2]);
    let id = mesh[2].id();
    assert!(mesh[2].terminate().success());
    for node in [&mesh[0], &mesh[1]] {
        node.wait_for_state(&id, "left");
        node.wait_for_producers("t", &BTreeSet::new());
    }
    mesh[2].start_again();
    mesh.wait_until_whole();
    mesh.wait_for_producers("t", &[2]);
}

#[test]
fn a_node_can_leave_serve_on_and_join_again() {
    let mesh = Mesh::start(3);
    mesh[2].client().publish("t", "x");
    mesh.wait_for_producers("t", &[2]);
    let id = mesh[2].id();
    let _ = told(&mesh[2], &["leave"]);
    for node in [&mesh[0], &mesh[1]] {
        node.wait_for_state(&id, "left");
        node.wait_for_producers("t", &BTreeSet::new());
    }
    mesh[2].client().publish("t", "y");
    mesh[2].wait_for_producers("t", &port(&mesh[2]));
    let _ = told(&mesh[2], &["join", &mesh[1].gossip_address().to_string()]);
    mesh.wait_until_whole();
    mesh.wait_for_producers("t", &[2]);
}

#[test]
fn halves_that_started_apart_merge_when_one_hears_of_the_other() {
    let mut mesh = Mesh::start(2);
    let other = Mesh::start(2);
    mesh[1].client().publish("here", "x");
    other[1].client().publish("there", "x");
    mesh.wait_for_producers("here", &[1]);
    other.wait_for_producers("there", &[1]);
    assert_eq!(mesh[0].producers("there"), None);

    let ended = told(&mesh[1], &["join", &other[1].gossip_address().to_string()]);
    assert!(ended.stdout.contains(&other[1].gossip_address().to_string()), "{ended:?}");
    let theirs = port(&other[1]);
    let ours = port(&mesh[1]);
    for node in mesh.iter().chain(other.iter()) {
        node.wait_for_producers("here", &ours);
        node.wait_for_producers("there", &theirs);
        wait::until("all four are alive", || node.alive().len() == 4);
    }
    mesh.push(Options::new().join(&other[0]).start());
    mesh[2].wait_for_producers("here", &ours);
}

#[test]
fn nobody_waits_for_a_seed_that_comes_late() {
    let seat = Stranger::new();
    let address = seat.address();
    // Serves although its seed is silent, as it would if every node of a cluster started at once.
    let early = Options::new().join_address(address).start();
    early.client().publish("t", "x");
    wait::until("the node says whom it misses", || early.log().contains("no answer yet from"));
    drop(seat);
    let late = Options::new().arg(format!("--gossip-address={address}")).start();
    let both = BTreeSet::from([early.id(), late.id()]);
    for node in [&early, &late] {
        wait::until("both see both", || node.alive() == both);
        node.wait_for_producers("t", &port(&early));
    }
}

#[test]
fn a_mesh_of_seven_agrees_on_everything() {
    let mut mesh = Mesh::start(7);
    for (i, node) in mesh.iter().enumerate() {
        for topic in 0..3 {
            node.client().publish(&format!("t{topic}-{}", i % 3), "x");
            let _consumer = node.consumer(&format!("t{topic}-{}", i % 3), &format!("c{i}"), 1);
        }
    }
    for topic in 0..3 {
        mesh.wait_for_producers(&format!("t{topic}-0"), &[0, 3, 6]);
        mesh.wait_for_producers(&format!("t{topic}-2"), &[2, 5]);
    }
    let _ = mesh.agreement("/nodes");
    mesh[3].kill();
    let left: BTreeSet<u16> = [&mesh[0], &mesh[6]].map(|node| node.tcp_address().port()).into();
    for node in mesh.iter().enumerate().filter(|(i, _)| *i != 3).map(|(_, node)| node) {
        node.wait_for_producers("t0-0", &left);
        for i in [0, 3, 6] {
            node.wait_for_channel_name("t0-0", &format!("c{i}"));
        }
    }
}

#[test]
fn a_node_that_keeps_to_itself_answers_for_itself() {
    let node = Options::new().arg("--gossip-address=").start();
    node.client().publish("t", "x");
    node.wait_for_producers("t", &port(&node));
    assert_eq!(node.alive(), BTreeSet::from([node.id()]));
    assert_eq!(node.http().post("/mesh/join?peer=127.0.0.1:4160", "").status, 400);
    assert_eq!(node.mesh_stats()["enabled"], false);
}
