//! Who gets what, when a channel has consumers on several nodes: RDY, preference, and giving back.

use std::{collections::BTreeMap, time::Duration};

use bruit_tests::{Client, Mesh, Node, Options, texts};

const MOMENT: Duration = Duration::from_millis(50);

/// Makes the topic with its channel on all nodes and links every node with a consumer to the others.
fn shared(mesh: &Mesh) {
    for node in mesh.iter() {
        node.http().post_ok("/topic/create?topic=t", "");
        node.http().post_ok("/channel/create?topic=t&channel=c", "");
    }
}

fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}{number}")).collect()
}

/// What each consumer gets, until `count` messages have come in all.
fn take_turns(consumers: &mut [Client], count: usize) -> Vec<Vec<String>> {
    let mut got = vec![Vec::new(); consumers.len()];
    let mut total = 0;
    let patience = bruit_tests::wait::Stopwatch::start();
    while total < count {
        for (consumer, got) in consumers.iter_mut().zip(&mut got) {
            while let Some(message) = consumer.message_within(MOMENT) {
                consumer.finish(&message.id);
                got.push(message.text());
                total += 1;
            }
        }
        assert!(patience.elapsed() < 2 * bruit_tests::wait::PATIENCE, "{total} of {count} came");
    }
    got
}

fn in_flight(node: &Node) -> u64 {
    let stats = node.channel_stats("t", "c").expect("the channel exists");
    stats["in_flight_count"].as_u64().expect("a number")
}

#[test]
fn consumers_on_two_nodes_share_a_channel_without_duplicates() {
    let mesh = Mesh::start(3);
    shared(&mesh);
    let mut consumers = [mesh[0].consumer("t", "c", 5), mesh[1].consumer("t", "c", 5)];
    mesh[0].wait_for_links("t", "c", 2);
    mesh[1].wait_for_links("t", "c", 2);
    let bodies = numbered("m", 200);
    for body in &bodies {
        mesh[2].client().publish("t", body);
    }
    let got = take_turns(&mut consumers, bodies.len());
    assert!(got.iter().all(|got| !got.is_empty()), "both get some: {got:?}");
    let mut all: Vec<String> = got.concat();
    all.sort();
    let mut expected = bodies;
    expected.sort();
    assert_eq!(all, expected);
    mesh[2].wait_until_done("t", "c");
}

#[test]
fn a_fleet_that_is_connected_to_every_node_gets_each_message_once() {
    let mesh = Mesh::start(3);
    shared(&mesh);
    let mut fleet: Vec<Client> =
        mesh.iter().flat_map(|node| [node.consumer("t", "c", 10), node.consumer("t", "c", 10)]).collect();
    for node in mesh.iter() {
        node.wait_for_links("t", "c", 2);
    }
    let mut expected = Vec::new();
    for (place, node) in mesh.iter().enumerate() {
        let bodies = numbered(&format!("{place}-"), 100);
        node.client().publish_all("t", &bodies);
        expected.extend(bodies);
    }
    let mut all = take_turns(&mut fleet, expected.len()).concat();
    all.sort();
    expected.sort();
    assert_eq!(all, expected);
    for node in mesh.iter() {
        node.wait_until_done("t", "c");
        assert_eq!(node.channel_stats("t", "c").expect("it exists")["requeue_count"], 0);
    }
}

#[test]
fn one_at_a_time_drains_every_owner() {
    let mesh = Mesh::start(4);
    shared(&mesh);
    let mut expected = Vec::new();
    for (place, node) in mesh.iter().enumerate() {
        let bodies = numbered(&format!("{place}-"), 25);
        node.client().publish_all("t", &bodies);
        expected.extend(bodies);
    }
    let mut consumer = mesh[0].consumer("t", "c", 1);
    consumer.collect(expected);
    for node in mesh.iter() {
        node.wait_until_done("t", "c");
    }
}

#[test]
fn no_more_come_than_the_consumer_is_ready_for() {
    let mesh = Mesh::start(3);
    shared(&mesh);
    let mut consumer = mesh[0].consumer("t", "c", 4);
    mesh[0].wait_for_links("t", "c", 2);
    for node in mesh.iter() {
        node.client().publish_all("t", &numbered("m", 20));
    }
    let held: Vec<_> = (0..4).map(|_| consumer.message()).collect();
    consumer.expect_silence();
    consumer.ready(1);
    for message in &held[..3] {
        consumer.finish(&message.id);
    }
    consumer.expect_silence();
    consumer.finish(&held[3].id);
    let next = consumer.message();
    consumer.expect_silence();
    consumer.ready(0);
    consumer.finish(&next.id);
    consumer.expect_silence();
    assert_eq!(mesh.iter().map(in_flight).sum::<u64>(), 0, "what it cannot take lies at its owner");
    consumer.ready(2);
    for _ in 5..60 {
        let message = consumer.message();
        consumer.finish(&message.id);
    }
    for node in mesh.iter() {
        node.wait_until_done("t", "c");
    }
}

#[test]
fn a_consumer_that_vanishes_gives_back_at_once() {
    let mesh = Mesh::start(2);
    shared(&mesh);
    let mut gone = mesh[0].consumer("t", "c", 5);
    mesh[0].wait_for_links("t", "c", 1);
    let bodies = numbered("m", 5);
    mesh[1].client().publish_all("t", &bodies);
    (0..5).for_each(|_| drop(gone.message()));
    let mut other = mesh[0].consumer("t", "c", 5);
    other.expect_silence();
    // Long before the minute that it had for each of them.
    drop(gone);
    let messages = other.finish_messages(5);
    assert_eq!(texts(&messages), bodies);
    assert!(messages.iter().all(|message| message.attempts == 2), "{messages:?}");
    drop(other);
    mesh[1].wait_until_done("t", "c");
    mesh[1].wait_for("t", "c", "client_count", 0);
    assert_eq!(mesh[1].channel_stats("t", "c").expect("it exists")["timeout_count"], 0);
}

#[test]
fn what_was_finished_before_the_consumer_left_does_not_come_again() {
    let mesh = Mesh::start(2);
    shared(&mesh);
    for round in 0..20 {
        let bodies = numbered(&format!("{round}-"), 50);
        mesh[1].client().publish_all("t", &bodies);
        let mut consumer = mesh[0].consumer("t", "c", 50);
        consumer.collect(bodies);
        drop(consumer);
        mesh[1].wait_until_done("t", "c");
    }
}

#[test]
fn a_consumer_that_says_goodbye_keeps_what_it_has_and_gets_no_more() {
    let mesh = Mesh::start(2);
    shared(&mesh);
    let mut leaving = mesh[0].consumer("t", "c", 1);
    mesh[0].wait_for_links("t", "c", 1);
    mesh[1].client().publish_all("t", &["held", "other"]);
    let held = leaving.message();
    leaving.send(b"CLS\n");
    leaving.expect_response("CLOSE_WAIT");
    leaving.finish(&held.id);
    leaving.expect_silence();
    let mut next = mesh[0].consumer("t", "c", 1);
    let other = next.message();
    assert_ne!(other.id, held.id);
    next.finish(&other.id);
    mesh[1].wait_until_done("t", "c");
}

#[test]
fn a_sample_is_a_part_and_the_rest_is_done_with() {
    let mesh = Mesh::start(2);
    shared(&mesh);
    let mut consumer = mesh[0].client();
    consumer.identify(r#"{"sample_rate":20}"#);
    consumer.subscribe("t", "c");
    consumer.ready(100);
    mesh[0].wait_for_links("t", "c", 1);
    mesh[1].client().publish_all("t", &numbered("m", 1000));
    let mut count = 0;
    while mesh[1].channel_stats("t", "c").expect("it exists")["depth"] != 0 || in_flight(&mesh[1]) != 0 {
        while let Some(message) = consumer.message_within(MOMENT) {
            consumer.finish(&message.id);
            count += 1;
        }
    }
    // Nearer to none or to all than chance ever comes.
    assert!((60..600).contains(&count), "{count} of 1000 came");
}

#[test]
fn who_is_connected_directly_comes_first() {
    let mesh = Mesh::start(2);
    shared(&mesh);
    let mut relayed = mesh[0].consumer("t", "c", 100);
    mesh[0].wait_for_links("t", "c", 1);
    let mut direct = mesh[1].consumer("t", "c", 100);
    mesh[1].wait_for_ready("t", "c", 2);
    let bodies = numbered("m", 50);
    for body in &bodies {
        mesh[1].client().publish("t", body);
    }
    direct.collect(&bodies);
    relayed.expect_silence();
    direct.ready(0);
    direct.settle();
    mesh[1].client().publish("t", "away");
    relayed.collect(["away"]);
    mesh[1].wait_until_done("t", "c");
}

// RDY is 1 from the start: of a higher one that is lowered, a part may still be lent to the other node, and until
// it has been called back the direct consumer has no room here and both messages go to the relay.
#[test]
fn what_a_direct_consumer_has_no_room_for_goes_to_another() {
    let mesh = Mesh::start(2);
    shared(&mesh);
    let mut relayed = mesh[0].consumer("t", "c", 100);
    mesh[0].wait_for_links("t", "c", 1);
    let mut direct = mesh[1].consumer("t", "c", 1);
    mesh[1].wait_for_ready("t", "c", 2);
    mesh[1].client().publish_all("t", &["first", "second"]);
    let held = direct.message();
    relayed.collect([if held.text() == "first" { "second" } else { "first" }]);
    direct.finish(&held.id);
    mesh[1].wait_until_done("t", "c");
}

#[test]
fn the_nearest_node_comes_first() {
    let place = |region: &str, zone: &str| {
        Options::new().arg(format!("--topology-region={region}")).arg(format!("--topology-zone={zone}"))
    };
    let mut mesh = Mesh::start_with(1, &place("eu", "a"));
    for (region, zone) in [("eu", "a"), ("eu", "b"), ("us", "c")] {
        let node = place(region, zone).join(&mesh[0]).start();
        mesh.push(node);
    }
    mesh.wait_until_whole();
    shared(&mesh);
    // The farthest is there first.
    let mut consumers: BTreeMap<usize, Client> =
        [3, 2, 1].into_iter().map(|place| (place, mesh[place].consumer("t", "c", 10))).collect();
    // Credit follows when a link is open, and nobody is preferred who has none.
    mesh[0].wait_for_ready("t", "c", 3);
    let keys = ["zone_local_msg_count", "region_local_msg_count", "global_msg_count"];
    for (at, key) in keys.iter().enumerate() {
        let body = format!("at {at}");
        mesh[0].client().publish("t", &body);
        let consumer = consumers.get_mut(&(at + 1)).expect("made above");
        consumer.collect([&body]);
        consumer.ready(0);
        consumer.settle();
        mesh[0].wait_until_done("t", "c");
        mesh[0].wait_for("t", "c", key, 1);
    }
}

#[test]
fn of_consumers_that_say_where_they_are_the_nearest_comes_first() {
    let node = Options::new().arg("--topology-region=eu").arg("--topology-zone=a").start();
    // The farthest is there first.
    let places = [("us", "c"), ("eu", "b"), ("eu", "a")];
    let mut consumers = places.map(|(region, zone)| {
        let mut client = node.client();
        client.identify(&format!(r#"{{"topology_region":"{region}","topology_zone":"{zone}"}}"#));
        client.subscribe("t", "c");
        client.ready(10);
        client
    });
    node.wait_for_ready("t", "c", 3);
    let keys = ["zone_local_msg_count", "region_local_msg_count", "global_msg_count"];
    for (consumer, key) in consumers.iter_mut().rev().zip(keys) {
        node.client().publish_all("t", &["one", "two", "three"]);
        consumer.collect(["one", "two", "three"]);
        node.wait_for("t", "c", key, 3);
        consumer.ready(0);
        consumer.settle();
    }
    node.wait_until_done("t", "c");
}

#[test]
fn a_node_that_does_not_relay_gives_its_consumers_what_it_has_itself() {
    let mut mesh = Mesh::start(1);
    let off = Options::new().arg("--relay=off").join(&mesh[0]).start();
    mesh.push(off);
    mesh.wait_until_whole();
    shared(&mesh);
    let mut local = mesh[1].consumer("t", "c", 10);
    mesh[0].client().publish("t", "elsewhere");
    mesh[1].client().publish("t", "here");
    local.collect(["here"]);
    local.expect_silence();
    assert!(mesh[1].links("t", "c").is_empty());
    drop(local);
    mesh[1].client().publish("t", "here again");
    // Others may still consume what it holds.
    mesh[0].consumer("t", "c", 10).collect(["elsewhere", "here again"]);
    mesh[1].wait_until_done("t", "c");
}
