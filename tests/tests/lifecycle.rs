//! Topics and channels coming, going, pausing and being emptied, with live clients.

use bruit_tests::{Node, Options, texts, wait};

#[test]
fn the_first_channel_gets_the_backlog_and_later_ones_only_what_follows() {
    let node = Node::start();
    let mut producer = node.client();
    producer.publish_all("t", &["1", "2", "3"]);
    assert_eq!(node.topic_stats("t").expect("the topic exists")["depth"], 3);
    let mut first = node.consumer("t", "first", 10);
    assert_eq!(texts(&first.finish_messages(3)), ["1", "2", "3"]);
    let mut second = node.consumer("t", "second", 10);
    second.expect_silence();
    producer.publish("t", "4");
    assert_eq!(first.message().text(), "4");
    assert_eq!(second.message().text(), "4");
    assert_eq!(node.topic_stats("t").expect("the topic exists")["depth"], 0);
}

#[test]
fn a_channel_gathers_messages_without_a_consumer() {
    let node = Node::start();
    let http = node.http();
    http.post_ok("/topic/create?topic=t", "");
    http.post_ok("/channel/create?topic=t&channel=c", "");
    node.client().publish_all("t", &["1", "2"]);
    node.wait_for("t", "c", "depth", 2);
    assert_eq!(texts(&node.consumer("t", "c", 2).finish_messages(2)), ["1", "2"]);
}

#[test]
fn after_the_last_channel_is_deleted_messages_wait_at_the_topic_again() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 1);
    node.http().post_ok("/channel/delete?topic=t&channel=c", "");
    consumer.expect_end();
    node.client().publish_all("t", &["1", "2"]);
    assert_eq!(node.topic_stats("t").expect("the topic exists")["depth"], 2);
    assert_eq!(texts(&node.consumer("t", "new", 2).finish_messages(2)), ["1", "2"]);
}

#[test]
fn a_paused_channel_delivers_nothing_until_it_is_unpaused() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 10);
    let mut producer = node.client();
    producer.publish("t", "before");
    let held = consumer.message();
    let http = node.http();
    http.post_ok("/channel/pause?topic=t&channel=c", "");
    http.post_ok("/channel/pause?topic=t&channel=c", "");
    producer.publish_all("t", &["1", "2"]);
    consumer.expect_silence();
    consumer.finish(&held.id);
    node.wait_for("t", "c", "in_flight_count", 0);
    let stats = node.channel_stats("t", "c").expect("the channel exists");
    assert_eq!((stats["paused"].as_bool(), stats["depth"].as_u64()), (Some(true), Some(2)));
    http.post_ok("/channel/unpause?topic=t&channel=c", "");
    assert_eq!(texts(&consumer.finish_messages(2)), ["1", "2"]);
}

#[test]
fn a_paused_topic_keeps_new_messages_while_its_channels_serve_what_they_have() {
    let node = Node::start();
    let http = node.http();
    let mut consumer = node.consumer("t", "c", 0);
    let mut producer = node.client();
    producer.publish("t", "before");
    node.wait_for("t", "c", "depth", 1);
    http.post_ok("/topic/pause?topic=t", "");
    producer.publish_all("t", &["1", "2"]);
    consumer.ready(10);
    assert_eq!(texts(&consumer.finish_messages(1)), ["before"]);
    consumer.expect_silence();
    let stats = node.topic_stats("t").expect("the topic exists");
    assert_eq!((stats["paused"].as_bool(), stats["depth"].as_u64()), (Some(true), Some(2)));
    http.post_ok("/topic/unpause?topic=t", "");
    assert_eq!(texts(&consumer.finish_messages(2)), ["1", "2"]);
}

#[test]
fn emptying_a_channel_drops_what_waits_is_held_or_is_deferred() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 1);
    let mut other = node.consumer("t", "other", 0);
    let mut producer = node.client();
    producer.publish_all("t", &["1", "2", "3"]);
    producer.publish_deferred("t", 60_000, "deferred");
    let held = consumer.message();
    node.wait_for("t", "c", "depth", 2);
    node.wait_for("t", "c", "deferred_count", 1);
    node.http().post_ok("/channel/empty?topic=t&channel=c", "");
    for key in ["depth", "in_flight_count", "deferred_count"] {
        node.wait_for("t", "c", key, 0);
    }
    consumer.finish(&held.id);
    consumer.expect_error(&format!("E_FIN_FAILED FIN {} failed ID not in flight", held.id));
    // What was held no longer counts against RDY.
    producer.publish("t", "4");
    assert_eq!(consumer.message().text(), "4");
    other.ready(10);
    assert_eq!(texts(&other.finish_messages(4)), ["1", "2", "3", "4"], "another channel was emptied too");
}

#[test]
fn emptying_a_topic_drops_only_what_no_channel_has_yet() {
    let node = Node::start();
    let http = node.http();
    let mut consumer = node.consumer("t", "c", 0);
    let mut producer = node.client();
    producer.publish("t", "in the channel");
    node.wait_for("t", "c", "depth", 1);
    http.post_ok("/topic/pause?topic=t", "");
    producer.publish_all("t", &["1", "2"]);
    http.post_ok("/topic/empty?topic=t", "");
    assert_eq!(node.topic_stats("t").expect("the topic exists")["depth"], 0);
    http.post_ok("/topic/unpause?topic=t", "");
    producer.publish("t", "after");
    consumer.ready(10);
    assert_eq!(texts(&consumer.finish_messages(2)), ["after", "in the channel"]);
    consumer.expect_silence();
}

#[test]
fn emptying_a_topic_without_channels_drops_its_backlog() {
    let node = Node::start();
    let mut producer = node.client();
    producer.publish_all("t", &["1", "2"]);
    node.http().post_ok("/topic/empty?topic=t", "");
    producer.publish("t", "3");
    let mut consumer = node.consumer("t", "c", 10);
    assert_eq!(texts(&consumer.finish_messages(1)), ["3"]);
    consumer.expect_silence();
}

#[test]
fn deleting_a_channel_closes_its_consumers_and_forgets_its_messages() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 1);
    let mut spared = node.consumer("t", "spared", 10);
    node.client().publish_all("t", &["1", "2"]);
    consumer.message();
    node.http().post_ok("/channel/delete?topic=t&channel=c", "");
    consumer.expect_end();
    assert!(node.channel_stats("t", "c").is_none());
    let mut again = node.consumer("t", "c", 10);
    again.expect_silence();
    assert_eq!(texts(&spared.finish_messages(2)), ["1", "2"]);
}

#[test]
fn deleting_a_topic_closes_its_consumers_and_leaves_its_producers() {
    let node = Node::start();
    let mut producer = node.client();
    let mut consumer = node.consumer("t", "c", 0);
    producer.publish_all("t", &["1", "2"]);
    node.http().post_ok("/topic/delete?topic=t", "");
    consumer.expect_end();
    assert!(node.topic_stats("t").is_none());
    producer.publish("t", "in the new topic");
    let mut consumer = node.consumer("t", "c", 10);
    assert_eq!(texts(&consumer.finish_messages(1)), ["in the new topic"]);
    consumer.expect_silence();
}

#[test]
fn a_deleted_topic_stays_deleted_across_a_restart() {
    let mut node = Node::start();
    let mut producer = node.client();
    producer.publish("doomed", "x");
    producer.publish("t", "x");
    node.consumer("t", "doomed", 0).settle();
    node.http().post_ok("/topic/delete?topic=doomed", "");
    node.http().post_ok("/channel/delete?topic=t&channel=doomed", "");
    for crash in [true, false] {
        if crash {
            node.crash()
        } else {
            node.restart()
        }
        assert!(node.topic_stats("doomed").is_none());
        assert!(node.channel_stats("t", "doomed").is_none());
        assert!(node.topic_stats("t").is_some());
    }
}

#[test]
fn an_ephemeral_channel_goes_with_its_last_consumer() {
    let node = Node::start();
    let first = node.consumer("t", "c#ephemeral", 0);
    let second = node.consumer("t", "c#ephemeral", 0);
    drop(first);
    node.wait_for("t", "c#ephemeral", "client_count", 1);
    drop(second);
    wait::until("the ephemeral channel is gone", || node.channel_stats("t", "c#ephemeral").is_none());
    assert!(node.topic_stats("t").is_some(), "its topic stays");
}

#[test]
fn an_ephemeral_topic_goes_with_its_last_channel() {
    let node = Node::start();
    node.client().publish("never#ephemeral", "a topic that never had a channel stays");
    let mut consumer = node.consumer("t#ephemeral", "c#ephemeral", 1);
    node.client().publish("t#ephemeral", "x");
    assert_eq!(consumer.message().text(), "x");
    drop(consumer);
    wait::until("the ephemeral topic is gone", || node.topic_stats("t#ephemeral").is_none());
    assert!(node.topic_stats("never#ephemeral").is_some());
}

#[test]
fn nothing_ephemeral_survives_a_restart() {
    let mut node = Node::start();
    node.client().publish("t#ephemeral", "x");
    node.http().post_ok("/topic/create?topic=t", "");
    node.http().post_ok("/channel/create?topic=t&channel=kept", "");
    node.http().post_ok("/channel/create?topic=t&channel=c%23ephemeral", "");
    node.client().publish("t", "x");
    node.restart();
    assert!(node.topic_stats("t#ephemeral").is_none());
    assert!(node.channel_stats("t", "c#ephemeral").is_none());
    assert_eq!(node.channel_stats("t", "kept").expect("the channel exists")["depth"], 1);
}

#[test]
fn an_ephemeral_topic_forgets_rather_than_grow() {
    let node = Options::new().arg("--mem-queue-size=10").start();
    let mut producer = node.client();
    for i in 0..100 {
        producer.publish("t#ephemeral", i.to_string());
    }
    let mut consumer = node.consumer("t#ephemeral", "c#ephemeral", 2500);
    let mut count = 0;
    while let Some(message) = consumer.message_within(wait::QUIET) {
        consumer.finish(&message.id);
        count += 1;
    }
    assert!((1..=20).contains(&count), "{count} messages were kept by a queue of 10");
}

#[test]
fn a_deferred_ephemeral_message_is_delivered_when_due() {
    let node = Node::start();
    let mut consumer = node.consumer("t#ephemeral", "c#ephemeral", 1);
    node.client().publish_deferred("t#ephemeral", 300, "later");
    assert_eq!(consumer.message().text(), "later");
}
