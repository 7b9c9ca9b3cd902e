//! A consumer that is connected to one node gets what all of them hold, and what it answers counts where the
//! message is. The consumers here are on node 0, the messages on others, unless a test says otherwise.

use std::time::Duration;

use bruit_tests::{
    Client, Mesh, Node,
    wait::{self, Stopwatch},
};
use serde_json::Value;

fn stats(node: &Node) -> Value {
    node.channel_stats("t", "c").expect("the channel exists")
}

/// Two nodes; a consumer on the first with this IDENTIFY and RDY, linked to the second, which holds `bodies`.
fn elsewhere(identify: &str, ready: u64, bodies: &[&str]) -> (Mesh, Client) {
    let mesh = Mesh::start(2);
    let mut consumer = mesh[0].client();
    consumer.identify(identify);
    consumer.subscribe("t", "c");
    mesh[1].http().post_ok("/topic/create?topic=t", "");
    mesh[0].wait_for_links("t", "c", 1);
    consumer.ready(ready);
    for body in bodies {
        mesh[1].client().publish("t", body);
    }
    (mesh, consumer)
}

#[test]
fn what_is_published_on_any_node_comes_to_a_consumer_on_one() {
    let mesh = Mesh::start(3);
    let mut consumer = mesh[0].consumer("t", "c", 10);
    for (place, node) in mesh.iter().enumerate() {
        let mut producer = node.client();
        for number in 0..20 {
            producer.publish("t", format!("{place}-{number}"));
        }
    }
    consumer.collect((0..3).flat_map(|place| (0..20).map(move |number| format!("{place}-{number}"))));
    for node in mesh.iter() {
        node.wait_until_done("t", "c");
    }
}

#[test]
fn the_message_is_the_one_that_a_direct_consumer_gets() {
    let (mesh, mut consumer) = elsewhere("{}", 1, &[]);
    let mut direct = mesh[1].consumer("t", "direct", 1);
    let body: Vec<u8> = (0..=255).collect();
    mesh[1].client().publish("t", &body);
    let (here, there) = (consumer.message(), direct.message());
    assert_eq!(here, there, "body, time, attempts and id are the owner's");
    assert_eq!((here.body, here.attempts), (body, 1));
}

#[test]
fn a_message_stays_with_its_owner_until_it_is_finished() {
    let (mesh, mut consumer) = elsewhere("{}", 1, &["x"]);
    let id = consumer.message().id;
    mesh[1].wait_for("t", "c", "in_flight_count", 1);
    assert_eq!(stats(&mesh[0])["message_count"], 0, "nothing is stored on the way");
    consumer.finish(&id);
    mesh[1].wait_until_done("t", "c");
    let clients = stats(&mesh[1])["clients"].clone();
    assert_eq!(clients[0]["finish_count"], 1, "{clients}");
    assert_eq!(clients[0]["in_flight_count"], 0, "{clients}");
}

#[test]
fn a_requeued_message_goes_back_to_its_owner_and_comes_with_the_next_attempt() {
    let (mesh, mut consumer) = elsewhere("{}", 1, &["x"]);
    let first = consumer.message();
    consumer.requeue(&first.id, 0);
    let second = consumer.message();
    assert_eq!(second.attempts, 2);
    assert_eq!((&second.id, &second.body, second.timestamp), (&first.id, &first.body, first.timestamp));
    assert_eq!(stats(&mesh[1])["requeue_count"], 1);
    let since = Stopwatch::start();
    consumer.requeue(&second.id, 700);
    mesh[1].wait_for("t", "c", "deferred_count", 1);
    let third = consumer.message();
    assert!(since.elapsed() >= Duration::from_millis(700), "it came after {:?}", since.elapsed());
    assert_eq!((third.attempts, &third.id), (3, &first.id));
    assert_eq!(stats(&mesh[1])["requeue_count"], 2);
    consumer.finish(&third.id);
    mesh[1].wait_until_done("t", "c");
}

#[test]
fn a_time_out_counts_at_the_owner_and_a_late_answer_costs_nothing() {
    let (mesh, mut consumer) = elsewhere(r#"{"msg_timeout":1000}"#, 1, &["x"]);
    let id = consumer.message().id;
    consumer.ready(0);
    mesh[1].wait_for("t", "c", "timeout_count", 1);
    mesh[1].wait_for("t", "c", "depth", 1);
    consumer.finish(&id);
    consumer.expect_error(&format!("E_FIN_FAILED FIN {id} failed ID not in flight"));
    consumer.touch(&id);
    consumer.expect_error(&format!("E_TOUCH_FAILED TOUCH {id} failed ID not in flight"));
    consumer.requeue(&id, 0);
    consumer.expect_error(&format!("E_REQ_FAILED REQ {id} failed ID not in flight"));
    consumer.ready(1);
    let again = consumer.message();
    assert_eq!((again.attempts, &again.id), (2, &id));
    consumer.finish(&again.id);
    mesh[1].wait_until_done("t", "c");
    assert_eq!(stats(&mesh[1])["timeout_count"], 1, "the owner's own time-out is only for the worst case");
}

#[test]
fn touch_extends_the_time() {
    let (mesh, mut consumer) = elsewhere(r#"{"msg_timeout":2000}"#, 1, &["x"]);
    let id = consumer.message().id;
    let since = Stopwatch::start();
    // Beyond what the owner would add by itself.
    while since.elapsed() < Duration::from_millis(5500) {
        consumer.touch(&id);
        if let Some(message) = consumer.message_within(Duration::from_millis(300)) {
            panic!("it timed out although it was touched: {message:?}");
        }
    }
    consumer.finish(&id);
    mesh[1].wait_until_done("t", "c");
    assert_eq!(stats(&mesh[1])["timeout_count"], 0);
}

#[test]
fn each_consumer_has_its_own_time() {
    let (mesh, mut patient) = elsewhere(r#"{"msg_timeout":60000}"#, 1, &["held"]);
    let held = patient.message();
    let mut hasty = mesh[0].client();
    hasty.identify(r#"{"msg_timeout":1000}"#);
    hasty.subscribe("t", "c");
    hasty.ready(1);
    mesh[1].client().publish("t", "slow");
    let first = hasty.message();
    let second = hasty.message();
    assert_eq!((second.attempts, &second.id), (2, &first.id));
    hasty.finish(&second.id);
    mesh[1].wait_for("t", "c", "in_flight_count", 1);
    patient.finish(&held.id);
    mesh[1].wait_until_done("t", "c");
    assert_eq!(stats(&mesh[1])["timeout_count"], 1);
}

#[test]
fn what_was_answered_cannot_be_answered_again_nor_by_another() {
    let (mesh, mut consumer) = elsewhere("{}", 1, &["x"]);
    let mut other = mesh[0].consumer("t", "c", 1);
    // Either of them gets it.
    let (mut holder, mut other, id) = match consumer.message_within(Duration::from_secs(2)) {
        Some(message) => (consumer, other, message.id),
        None => {
            let id = other.message().id;
            (other, consumer, id)
        }
    };
    other.finish(&id);
    other.expect_error(&format!("E_FIN_FAILED FIN {id} failed client does not own message"));
    other.requeue(&id, 0);
    other.expect_error(&format!("E_REQ_FAILED REQ {id} failed client does not own message"));
    other.touch(&id);
    other.expect_error(&format!("E_TOUCH_FAILED TOUCH {id} failed client does not own message"));
    holder.finish(&id);
    holder.finish(&id);
    holder.expect_error(&format!("E_FIN_FAILED FIN {id} failed ID not in flight"));
    mesh[1].wait_until_done("t", "c");
}

#[test]
fn large_messages_and_large_batches_pass() {
    let (mesh, mut consumer) = elsewhere("{}", 2500, &[]);
    let large: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
    let mut producer = mesh[1].client();
    producer.publish("t", &large);
    let message = consumer.message();
    assert!(message.body == large, "the body was changed on its way");
    consumer.finish(&message.id);
    let bodies: Vec<String> = (0..1000).map(|number| format!("m{number}")).collect();
    for _ in 0..3 {
        producer.publish_all("t", &bodies);
        consumer.collect(&bodies);
    }
    mesh[1].wait_until_done("t", "c");
}

#[test]
fn a_backlog_that_never_shrinks_is_served_on() {
    let (mesh, mut consumer) = elsewhere("{}", 1, &[]);
    let mut producer = mesh[1].client();
    for number in 0..20 {
        producer.publish("t", format!("m{number}"));
    }
    // For each message that goes a new one comes, so that the owner has nothing new to say of its backlog.
    for number in 20..120 {
        let message = consumer.message();
        producer.publish("t", format!("m{number}"));
        consumer.finish(&message.id);
    }
    consumer.collect((100..120).map(|number| format!("m{number}")));
    mesh[1].wait_until_done("t", "c");
}

#[test]
fn a_channel_that_was_emptied_goes_on() {
    let (mesh, mut consumer) = elsewhere("{}", 1, &["held", "dropped"]);
    let held = consumer.message();
    mesh[1].http().post_ok("/channel/empty?topic=t&channel=c", "");
    mesh[1].wait_until_done("t", "c");
    consumer.finish(&held.id);
    mesh[1].client().publish("t", "next");
    consumer.collect(["next"]);
    mesh[1].wait_until_done("t", "c");
}

#[test]
fn a_paused_channel_or_topic_of_the_owner_sends_nothing() {
    let (mesh, mut consumer) = elsewhere("{}", 10, &[]);
    for what in ["/channel/pause?topic=t&channel=c", "/topic/pause?topic=t"] {
        mesh[1].http().post_ok(what, "");
        mesh[1].client().publish("t", "later");
        consumer.expect_silence();
        mesh[1].http().post_ok(&what.replace("/pause", "/unpause"), "");
        consumer.collect(["later"]);
    }
    wait::until("nothing is left", || stats(&mesh[1])["depth"] == 0);
}
