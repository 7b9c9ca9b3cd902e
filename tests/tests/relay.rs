//! A consumer that is connected to one node gets what all of them hold.

use std::{collections::BTreeSet, time::Duration};

use bruit_tests::{Client, Mesh, Message, Node, Options, wait};

/// Takes and finishes messages until all of `expected` have come.
fn collect(consumer: &mut Client, expected: impl IntoIterator<Item = String>) {
    let mut missing: BTreeSet<String> = expected.into_iter().collect();
    while !missing.is_empty() {
        let message = consumer.message();
        assert!(missing.remove(&message.text()), "{} came unexpectedly; missing {missing:?}", message.text());
        consumer.finish(&message.id);
    }
}

fn consumer(node: &Node, topic: &str, channel: &str, ready: u64) -> Client {
    let mut client = node.client();
    client.subscribe(topic, channel);
    client.ready(ready);
    client
}

/// Waits until the channel at its owner has nothing left to do.
fn wait_until_done(owner: &Node, topic: &str, channel: &str) {
    wait::until(&format!("nothing of {topic}/{channel} is left"), || {
        owner.channel_stats(topic, channel).is_some_and(|stats| {
            ["depth", "in_flight_count", "deferred_count"].iter().all(|count| stats[*count] == 0)
        })
    });
}

fn first(consumer: &mut Client) -> Message {
    consumer.message()
}

#[test]
fn what_is_published_on_any_node_comes_to_a_consumer_on_one() {
    let mesh = Mesh::start(3);
    let mut consumer = consumer(&mesh[0], "t", "c", 10);
    for (place, node) in mesh.iter().enumerate() {
        let mut producer = node.client();
        for number in 0..20 {
            producer.publish("t", format!("{place}-{number}"));
        }
    }
    let all = (0..3).flat_map(|place| (0..20).map(move |number| format!("{place}-{number}")));
    collect(&mut consumer, all);
    for node in mesh.iter() {
        wait_until_done(node, "t", "c");
    }
}
