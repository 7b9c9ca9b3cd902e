//! Topics and channels as names of the whole mesh: how they come, how long they stay, and how they go.

use std::collections::BTreeSet;

use bruit_tests::{Mesh, Node, Options, texts, wait};

/// A topic on a node with a channel that nobody listens to any more.
fn publish_with_channel(node: &Node, topic: &str, channel: &str) {
    node.client().publish(topic, "first");
    node.http().post_ok(&format!("/channel/create?topic={topic}&channel={channel}"), "");
}

fn holds(node: &Node, topic: &str) -> bool {
    node.topic_stats(topic).is_some()
}

fn wait_until_given_up(node: &Node, topic: &str) {
    wait::until(&format!("{topic} is deleted"), || !holds(node, topic));
}

/// Waits until the node names these channels of a topic and no others. It may not have heard yet that another
/// node has given one up.
fn wait_for_channels(node: &Node, topic: &str, channels: &[&str]) {
    let expected: BTreeSet<String> = channels.iter().map(ToString::to_string).collect();
    wait::until(&format!("{topic} has the channels {channels:?}"), || node.channel_names(topic) == expected);
}

#[test]
fn a_topic_deleted_on_one_node_is_gone_on_all() {
    let mesh = Mesh::start(3);
    for node in mesh.iter() {
        publish_with_channel(node, "t", "c");
        publish_with_channel(node, "stays", "c");
    }
    mesh.wait_for_producers("t", &[0, 1, 2]);
    mesh[1].http().post_ok("/topic/delete?topic=t", "");
    for node in mesh.iter() {
        node.wait_until_unknown("t");
        wait_until_given_up(node, "t");
        assert_eq!(node.topic_names(), BTreeSet::from(["stays".to_owned()]));
        assert!(holds(node, "stays"));
    }
    // Whoever walks over all nodes, as nsqadmin does, finds it deleted already, and that is no error.
    for node in mesh.iter() {
        node.http().post_ok("/topic/delete?topic=t", "");
    }
    assert_eq!(mesh[0].http().post("/topic/delete?topic=never", "").status, 404);
}

#[test]
fn a_deleted_topic_can_be_made_again() {
    let mesh = Mesh::start(3);
    for round in 0..3 {
        for node in mesh.iter() {
            publish_with_channel(node, "t", &format!("c{round}"));
        }
        mesh.wait_for_producers("t", &[0, 1, 2]);
        let made = format!("c{round}");
        for node in mesh.iter() {
            wait_for_channels(node, "t", &[&made]);
        }
        mesh[round].http().post_ok("/topic/delete?topic=t", "");
        for node in mesh.iter() {
            node.wait_until_unknown("t");
            wait_until_given_up(node, "t");
        }
    }
}

#[test]
fn a_delete_reaches_a_node_that_was_down() {
    let mut mesh = Mesh::start(3);
    for node in [&mesh[1], &mesh[2]] {
        publish_with_channel(node, "t", "c");
        publish_with_channel(node, "stays", "c");
        publish_with_channel(node, "stays", "goes");
    }
    mesh.wait_for_producers("t", &[1, 2]);
    mesh[2].kill();
    let left = BTreeSet::from([mesh[1].tcp_address().port()]);
    mesh[0].wait_for_producers("t", &left);
    mesh[0].http().post_ok("/topic/delete?topic=t", "");
    mesh[0].http().post_ok("/channel/delete?topic=stays&channel=goes", "");
    wait_until_given_up(&mesh[1], "t");

    mesh[2].start_again();
    mesh.wait_until_whole();
    wait_until_given_up(&mesh[2], "t");
    wait::until("the channel is deleted, too", || mesh[2].channel_stats("stays", "goes").is_none());
    assert!(mesh[2].channel_stats("stays", "c").is_some());
    for node in mesh.iter() {
        node.wait_until_unknown("t");
        wait_for_channels(node, "stays", &["c"]);
    }
    // Nobody was promised that the delete is on this node's disk yet; if it is not, it comes once more.
    mesh[2].crash();
    mesh.wait_until_whole();
    wait_until_given_up(&mesh[2], "t");
    wait::until("the channel is away", || mesh[2].channel_stats("stays", "goes").is_none());
    for node in mesh.iter() {
        node.wait_until_unknown("t");
    }
}

#[test]
fn a_delete_is_remembered_by_whoever_made_it() {
    let mut mesh = Mesh::start(2);
    publish_with_channel(&mesh[1], "t", "c");
    mesh.wait_for_producers("t", &[1]);
    mesh[1].kill();
    mesh[0].wait_for_producers("t", &BTreeSet::new());
    mesh[0].http().post_ok("/topic/delete?topic=t", "");
    // The answer meant that it is on disk.
    mesh[0].crash();
    assert_eq!(mesh[0].producers("t"), None);
    let seed = mesh[0].gossip_address();
    mesh[1].start_again_with(format!("--join={seed}"));
    mesh.wait_until_whole();
    wait_until_given_up(&mesh[1], "t");
    mesh[0].wait_until_unknown("t");
}

#[test]
fn a_channel_made_on_one_node_exists_wherever_the_topic_is() {
    let mesh = Mesh::start(3);
    for node in [&mesh[0], &mesh[1]] {
        node.client().publish("t", "x");
    }
    mesh.wait_for_producers("t", &[0, 1]);
    drop(mesh[0].consumer("t", "by_consumer", 1));
    mesh[0].http().post_ok("/channel/create?topic=t&channel=by_http", "");
    for channel in ["by_consumer", "by_http"] {
        wait::until(&format!("{channel} is made"), || mesh[1].channel_stats("t", channel).is_some());
        for node in mesh.iter() {
            node.wait_for_channel_name("t", channel);
        }
    }
    assert!(!holds(&mesh[2], "t"), "a channel has made a topic");

    mesh[1].http().post_ok("/channel/delete?topic=t&channel=by_http", "");
    for node in [&mesh[0], &mesh[1]] {
        wait::until("the channel is gone", || node.channel_stats("t", "by_http").is_none());
        assert!(node.channel_stats("t", "by_consumer").is_some());
    }
    for node in mesh.iter() {
        wait::until("its name is gone", || {
            node.channel_names("t") == BTreeSet::from(["by_consumer".to_owned()])
        });
    }
}

#[test]
fn the_first_message_on_another_node_meets_every_known_channel() {
    let mesh = Mesh::start(3);
    for channel in ["a", "b", "c"] {
        publish_with_channel(&mesh[0], "t", channel);
    }
    for channel in ["a", "b", "c"] {
        mesh[2].wait_for_channel_name("t", channel);
    }
    mesh[2].client().publish("t", "only here");
    for channel in ["a", "b", "c"] {
        let stats = mesh[2].channel_stats("t", channel);
        let stats = stats.unwrap_or_else(|| panic!("{channel} was not there for the first message"));
        assert_eq!(stats["depth"], 1, "{channel}: {stats}");
    }
    // A consumer that comes later still gets it.
    let messages = mesh[2].consumer("t", "b", 1).finish_messages(1);
    assert_eq!(texts(&messages), ["only here"]);
}

#[test]
fn a_channel_made_for_a_topic_of_others_waits_for_its_first_message() {
    let mesh = Mesh::start(2);
    publish_with_channel(&mesh[0], "t", "a");
    mesh[1].wait_for_channel_name("t", "a");
    // This node does not hold the topic: the name is enough.
    mesh[1].http().post_ok("/channel/create?topic=t&channel=named", "");
    wait::until("the holder has made it", || mesh[0].channel_stats("t", "named").is_some());
    assert!(!holds(&mesh[1], "t"));
    mesh[1].client().publish("t", "x");
    for channel in ["a", "named"] {
        assert_eq!(mesh[1].channel_stats("t", channel).map(|stats| stats["depth"].clone()), Some(1.into()));
    }
}

#[test]
fn names_stay_after_their_producer_is_gone_until_they_are_deleted() {
    let mut mesh = Mesh::start(3);
    publish_with_channel(&mesh[2], "t", "c");
    publish_with_channel(&mesh[2], "kept", "c");
    for node in mesh.iter() {
        node.wait_for_channel_name("t", "c");
        node.wait_for_channel_name("kept", "c");
    }
    mesh[2].kill();
    for node in [&mesh[0], &mesh[1]] {
        node.wait_for_producers("t", &BTreeSet::new());
        assert_eq!(node.channel_names("t"), BTreeSet::from(["c".to_owned()]));
    }
    // Names outlive those who knew them.
    mesh[0].restart();
    mesh[1].crash();
    for node in [&mesh[0], &mesh[1]] {
        assert_eq!(node.producers("t"), Some(BTreeSet::new()));
        assert_eq!(node.channel_names("t"), BTreeSet::from(["c".to_owned()]));
    }
    // The seed has a new port, so its peer is told of it.
    let seed = mesh[0].gossip_address();
    let joined = mesh[1].http().post(&format!("/mesh/join?peer={seed}"), "");
    assert_eq!(joined.status, 200, "{joined:?}");
    let both = BTreeSet::from([mesh[0].id(), mesh[1].id()]);
    wait::until("both are together again", || mesh[0].alive() == both && mesh[1].alive() == both);
    mesh[0].http().post_ok("/topic/delete?topic=t", "");
    for node in [&mesh[0], &mesh[1]] {
        node.wait_until_unknown("t");
        assert_eq!(node.producers("kept"), Some(BTreeSet::new()));
    }
}

#[test]
fn ephemeral_names_go_with_their_last_holder() {
    // A relay would be a consumer on the other node.
    let mesh = Mesh::start_with(2, &Options::new().arg("--relay=off"));
    mesh[0].client().publish("t", "x");
    let consumer = mesh[0].consumer("t", "passing#ephemeral", 1);
    mesh[1].wait_for_channel_name("t", "passing#ephemeral");
    // Others are not to make it: nobody would listen there.
    mesh[1].client().publish("t", "y");
    mesh.wait_for_producers("t", &[0, 1]);
    assert_eq!(mesh[1].channel_stats("t", "passing#ephemeral"), None);
    drop(consumer);
    for node in mesh.iter() {
        wait::until("it is gone", || node.channel_names("t").is_empty());
    }
    let consumer = mesh[0].consumer("brief#ephemeral", "c#ephemeral", 1);
    mesh.wait_for_producers("brief#ephemeral", &[0]);
    drop(consumer);
    mesh[1].wait_until_unknown("brief#ephemeral");
}
