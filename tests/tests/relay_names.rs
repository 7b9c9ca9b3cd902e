//! Topics and channels that come and go while consumers elsewhere listen to them.

use bruit_tests::{Client, Mesh, wait};

/// Makes the topic on all nodes.
fn with_topic(count: usize) -> Mesh {
    let mesh = Mesh::start(count);
    for node in mesh.iter() {
        node.http().post_ok("/topic/create?topic=t", "");
    }
    mesh
}

fn has_channel(mesh: &Mesh, place: usize, channel: &str) -> bool {
    mesh[place].channel_stats("t", channel).is_some()
}

#[test]
fn a_topic_that_is_new_on_another_node_reaches_who_waits_for_it() {
    let mesh = Mesh::start(3);
    let mut consumer = mesh[0].consumer("t", "c", 10);
    mesh[1].wait_for_channel_name("t", "c");
    mesh[1].client().publish("t", "first");
    consumer.collect(["first"]);
    mesh[2].client().publish("t", "second");
    consumer.collect(["second"]);
    mesh[0].wait_for_links("t", "c", 2);
}

#[test]
fn a_relay_makes_no_topic() {
    let mesh = Mesh::start(2);
    let mut consumer = mesh[0].consumer("t", "c", 10);
    mesh[1].wait_for_channel_name("t", "c");
    mesh[0].client().publish("t", "here");
    consumer.collect(["here"]);
    assert!(mesh[0].links("t", "c").is_empty());
    assert!(mesh[1].topic_stats("t").is_none());
}

#[test]
fn an_ephemeral_channel_lives_while_anybody_listens_anywhere() {
    let mesh = with_topic(3);
    let mut first = mesh[0].consumer("t", "c#ephemeral", 10);
    mesh[0].wait_for_links("t", "c#ephemeral", 2);
    let mut second = mesh[1].consumer("t", "c#ephemeral", 10);
    mesh[1].wait_for_links("t", "c#ephemeral", 2);
    mesh[2].wait_for("t", "c#ephemeral", "client_count", 2);
    first.ready(0);
    first.settle();
    mesh[2].client().publish("t", "x");
    second.collect(["x"]);
    drop(second);
    mesh[2].wait_for("t", "c#ephemeral", "client_count", 1);
    mesh[2].client().publish("t", "kept for the other");
    first.ready(1);
    first.collect(["kept for the other"]);
    drop(first);
    for place in 0..3 {
        wait::until("the channel is gone with its last consumer", || {
            !has_channel(&mesh, place, "c#ephemeral")
        });
    }
}

#[test]
fn a_channel_that_is_deleted_anywhere_closes_its_consumers_everywhere() {
    for channel in ["c", "c#ephemeral"] {
        let mesh = with_topic(3);
        let mut consumers: Vec<Client> =
            [0, 0, 1].iter().map(|place| mesh[*place].consumer("t", channel, 1)).collect();
        mesh[0].wait_for_links("t", channel, 2);
        mesh[1].wait_for_links("t", channel, 2);
        let mut stays = mesh[0].consumer("t", "stays", 1);
        mesh[0].wait_for_links("t", "stays", 2);
        mesh[2].client().publish("t", "held");
        let target = format!("/channel/delete?topic=t&channel={}", channel.replace('#', "%23"));
        mesh[2].http().post_ok(&target, "");
        if channel == "c" {
            for consumer in &mut consumers {
                // One of them may have the message.
                while consumer.frame_or_end().is_some() {}
            }
            for place in 0..3 {
                wait::until("the channel is gone", || !has_channel(&mesh, place, channel));
            }
        }
        stays.collect(["held"]);
        mesh[2].client().publish("t", "more");
        stays.collect(["more"]);
        if channel == "c" {
            assert!((0..3).all(|place| !has_channel(&mesh, place, channel)), "it came back");
        }
    }
}

#[test]
fn a_topic_that_is_deleted_anywhere_closes_its_consumers_everywhere() {
    let mesh = with_topic(3);
    let mut consumers = [mesh[0].consumer("t", "c", 1), mesh[1].consumer("t", "d", 1)];
    mesh[0].wait_for_links("t", "c", 2);
    mesh[1].wait_for_links("t", "d", 2);
    mesh[2].http().post_ok("/topic/delete?topic=t", "");
    for consumer in &mut consumers {
        consumer.expect_end();
    }
    for node in mesh.iter() {
        wait::until("the topic is gone", || node.topic_stats("t").is_none());
        node.wait_until_unknown("t");
    }
    // It can be made again, and nothing of the old one is left.
    let mut consumer = mesh[0].consumer("t", "new", 1);
    mesh[1].wait_for_channel_name("t", "new");
    mesh[2].client().publish("t", "fresh");
    consumer.collect(["fresh"]);
    assert_eq!(mesh[2].channel_names("t").into_iter().collect::<Vec<_>>(), ["new"]);
}
