//! Nodes that die or stop while messages are on loan from one to the other.

use std::collections::BTreeSet;

use bruit_tests::{Client, Mesh, Node, texts, wait};

/// Nodes that all hold the topic and its channel; a consumer on the first, linked to all others.
fn linked(count: usize, ready: u64) -> (Mesh, Client) {
    let mesh = Mesh::start(count);
    for node in mesh.iter() {
        node.http().post_ok("/topic/create?topic=t", "");
        node.http().post_ok("/channel/create?topic=t&channel=c", "");
    }
    let consumer = mesh[0].consumer("t", "c", ready);
    mesh[0].wait_for_links("t", "c", count - 1);
    (mesh, consumer)
}

/// Waits until a node has no open link for the channel.
fn wait_until_unlinked(node: &Node) {
    wait::until("no link is open", || node.links("t", "c").iter().all(|link| link["state"] != "open"));
}

#[test]
fn an_owner_that_was_killed_sends_again_what_was_not_finished() {
    let (mut mesh, mut consumer) = linked(2, 3);
    let bodies = ["one", "three", "two"];
    mesh[1].client().publish_all("t", &bodies);
    let held: Vec<_> = (0..3).map(|_| consumer.message()).collect();
    mesh[1].kill();
    wait_until_unlinked(&mesh[0]);
    // The answer comes too late, which is no reason to lose the connection.
    consumer.finish(&held[0].id);
    consumer.expect_error(&format!("E_FIN_FAILED FIN {} failed ID not in flight", held[0].id));
    mesh[0].client().publish("t", "local");
    consumer.collect(["local"]);
    mesh[1].start_again();
    let again = consumer.finish_messages(3);
    assert_eq!(texts(&again), bodies);
    let ids = |messages: &[bruit_tests::Message]| -> BTreeSet<String> {
        messages.iter().map(|message| message.id.clone()).collect()
    };
    assert_eq!(ids(&again), ids(&held));
    mesh[1].wait_until_done("t", "c");
}

#[test]
fn what_was_finished_stays_finished_when_the_owner_is_killed() {
    let (mut mesh, mut consumer) = linked(2, 10);
    let bodies: Vec<String> = (0..10).map(|number| format!("m{number}")).collect();
    mesh[1].client().publish_all("t", &bodies);
    consumer.collect(&bodies);
    mesh[1].wait_until_done("t", "c");
    // A clean stop writes what a crash may forget.
    mesh[1].restart();
    mesh[1].client().publish("t", "next");
    consumer.collect(["next"]);
    mesh[1].crash();
    mesh[1].client().publish("t", "last");
    while consumer.finish_messages(1)[0].text() != "last" {}
    mesh[1].wait_until_done("t", "c");
}

#[test]
fn what_a_killed_node_had_on_loan_goes_to_others() {
    let (mut mesh, mut consumer) = linked(3, 5);
    let bodies: Vec<String> = (0..5).map(|number| format!("m{number}")).collect();
    mesh[2].client().publish_all("t", &bodies);
    (0..5).for_each(|_| drop(consumer.message()));
    let mut other = mesh[1].consumer("t", "c", 5);
    mesh[1].wait_for_links("t", "c", 2);
    other.expect_silence();
    mesh[0].kill();
    // Long before the minute that each delivery has.
    let messages = other.finish_messages(5);
    assert_eq!(texts(&messages), bodies);
    assert!(messages.iter().all(|message| message.attempts == 2), "{messages:?}");
    mesh[2].wait_until_done("t", "c");
    assert_eq!(mesh[2].channel_stats("t", "c").expect("it exists")["timeout_count"], 0);
}

#[test]
fn a_node_that_stops_gives_back_what_it_had_on_loan() {
    let (mut mesh, mut consumer) = linked(3, 5);
    mesh[2].client().publish_all("t", &["a", "b", "c"]);
    let held: Vec<_> = (0..3).map(|_| consumer.message()).collect();
    consumer.finish(&held[0].id);
    mesh[2].wait_for("t", "c", "in_flight_count", 2);
    let mut other = mesh[1].consumer("t", "c", 5);
    mesh[1].wait_for_links("t", "c", 2);
    assert!(mesh[0].terminate().success());
    let mut expected = [held[1].text(), held[2].text()];
    expected.sort();
    assert_eq!(texts(&other.finish_messages(2)), expected);
    mesh[2].wait_until_done("t", "c");
}

#[test]
fn an_owner_that_is_started_anew_is_found_again() {
    let (mut mesh, mut consumer) = linked(2, 1);
    for round in 0..3 {
        mesh[1].restart();
        mesh[1].client().publish("t", format!("after {round}"));
        consumer.collect([format!("after {round}")]);
        // Else its FIN may be lost with the owner, and it comes again.
        mesh[1].wait_until_done("t", "c");
    }
    mesh[0].wait_for_links("t", "c", 1);
    mesh[1].wait_for("t", "c", "client_count", 1);
}
