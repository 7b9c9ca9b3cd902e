//! RDY, FIN, REQ, TOUCH, time-outs, delays and disconnects, as a consumer sees them.

use std::time::Duration;

use bruit_tests::{
    Client, Node, Options, command,
    wait::{self, Stopwatch},
};

/// A consumer whose deliveries time out after a second.
fn hasty_consumer(node: &Node) -> Client {
    let mut client = node.client();
    client.identify(r#"{"msg_timeout":1000}"#);
    client.subscribe("t", "c");
    client.ready(1);
    client
}

#[test]
fn a_message_comes_with_its_body_an_id_and_the_first_attempt() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 1);
    let body: Vec<u8> = (0..=255).collect();
    node.client().publish("t", &body);
    let message = consumer.message();
    assert_eq!(message.body, body);
    assert_eq!(message.attempts, 1);
    assert!(message.timestamp > 1_700_000_000_000_000_000, "{} is not nanoseconds", message.timestamp);
}

#[test]
fn every_channel_gets_every_message_with_the_same_id() {
    let node = Node::start();
    let mut one = node.consumer("t", "one", 10);
    let mut two = node.consumer("t", "two", 10);
    node.client().publish_all("t", &["a", "b", "c"]);
    let mut first: Vec<_> = one.finish_messages(3).into_iter().map(|m| (m.id, m.body)).collect();
    let mut second: Vec<_> = two.finish_messages(3).into_iter().map(|m| (m.id, m.body)).collect();
    first.sort();
    second.sort();
    assert_eq!(first, second);
}

#[test]
fn consumers_of_one_channel_share_its_messages() {
    let node = Node::start();
    let mut one = node.consumer("t", "c", 1);
    let mut two = node.consumer("t", "c", 1);
    node.client().publish_all("t", &["a", "b"]);
    let mut texts = [one.message().text(), two.message().text()];
    texts.sort();
    assert_eq!(texts, ["a", "b"]);
}

#[test]
fn the_largest_message_and_the_smallest_arrive_whole() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 1);
    let largest: Vec<u8> = (0..1_048_576_u32).map(|i| i.to_le_bytes()[usize::from(i % 3 == 0)]).collect();
    let mut producer = node.client();
    producer.publish("t", &largest);
    producer.publish("t", "x");
    assert!(consumer.finish_messages(1)[0].body == largest, "the largest body was changed");
    assert_eq!(consumer.message().text(), "x");
}

#[test]
fn a_batch_may_fill_the_largest_body() {
    let node = Node::start();
    let body = "x".repeat(1_048_571);
    let mut producer = node.client();
    // 4 for the count, and 4 for each length: 4 + 5 * (4 + 1048571) = 5242879.
    producer.publish_all("t", &[body.as_str(); 5]);
    let mut consumer = node.consumer("t", "c", 5);
    assert!(consumer.finish_messages(5).iter().all(|message| message.body.len() == body.len()));
}

#[test]
fn rdy_is_a_level_not_a_credit() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 2);
    node.client().publish_all("t", &["1", "2", "3", "4", "5", "6"]);
    let held = [consumer.message(), consumer.message()];
    consumer.expect_silence();
    consumer.ready(3);
    let third = consumer.message();
    consumer.expect_silence();
    consumer.ready(1);
    consumer.finish(&held[0].id);
    consumer.finish(&held[1].id);
    consumer.expect_silence();
    consumer.finish(&third.id);
    let fourth = consumer.message();
    consumer.ready(0);
    consumer.finish(&fourth.id);
    consumer.expect_silence();
    consumer.ready(1);
    consumer.message();
}

#[test]
fn rdy_without_a_number_is_one_and_with_an_empty_one_zero() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 0);
    node.client().publish_all("t", &["1", "2", "3"]);
    consumer.send("RDY\n");
    let first = consumer.message();
    consumer.expect_silence();
    consumer.send("RDY \n");
    consumer.finish(&first.id);
    consumer.expect_silence();
    // 2^64 wraps to 0, and the largest that is allowed is allowed.
    consumer.send("RDY 18446744073709551616\n");
    consumer.expect_silence();
    consumer.send("RDY 2500 surplus\r\n");
    consumer.finish_messages(2);
}

#[test]
fn a_finished_message_is_gone_and_cannot_be_finished_twice() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 1);
    node.client().publish("t", "x");
    let id = consumer.message().id;
    consumer.finish(&id);
    consumer.finish(&id);
    consumer.expect_error(&format!("E_FIN_FAILED FIN {id} failed ID not in flight"));
    drop(consumer);
    node.consumer("t", "c", 1).expect_silence();
    node.wait_for("t", "c", "depth", 0);
    node.wait_for("t", "c", "in_flight_count", 0);
}

#[test]
fn only_the_connection_that_holds_a_message_may_answer_for_it() {
    let node = Node::start();
    let mut owner = node.consumer("t", "c", 1);
    node.client().publish("t", "mine");
    let id = owner.message().id;
    let mut other = node.consumer("t", "c", 1);
    other.finish(&id);
    other.expect_error(&format!("E_FIN_FAILED FIN {id} failed client does not own message"));
    other.requeue(&id, 0);
    other.expect_error(&format!("E_REQ_FAILED REQ {id} failed client does not own message"));
    other.touch(&id);
    other.expect_error(&format!("E_TOUCH_FAILED TOUCH {id} failed client does not own message"));
    let mut elsewhere = node.consumer("t", "another", 1);
    elsewhere.finish(&id);
    elsewhere.expect_error(&format!("E_FIN_FAILED FIN {id} failed ID not in flight"));
    owner.finish(&id);
    node.wait_for("t", "c", "in_flight_count", 0);
}

#[test]
fn a_requeued_message_comes_back_with_the_next_attempt() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 1);
    node.client().publish("t", "again");
    let first = consumer.message();
    consumer.requeue(&first.id, 0);
    let second = consumer.message();
    assert_eq!(second.attempts, 2);
    assert_eq!((&second.id, &second.body, second.timestamp), (&first.id, &first.body, first.timestamp));
    consumer.requeue(&second.id, 0);
    assert_eq!(consumer.message().attempts, 3);
    let stats = node.channel_stats("t", "c").expect("the channel exists");
    assert_eq!(stats["requeue_count"], 2);
}

#[test]
fn a_requeue_with_a_delay_waits_for_it() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 1);
    node.client().publish("t", "later");
    let id = consumer.message().id;
    let since = Stopwatch::start();
    consumer.requeue(&id, 700);
    node.wait_for("t", "c", "deferred_count", 1);
    consumer.requeue(&id, 0);
    consumer.expect_error(&format!("E_REQ_FAILED REQ {id} failed ID not in flight"));
    let again = consumer.message();
    assert!(since.elapsed() >= Duration::from_millis(700), "it came back early");
    assert_eq!((again.id, again.attempts), (id, 2));
}

#[test]
fn a_requeue_delay_beyond_the_limit_is_clamped() {
    let node = Options::new().arg("--max-req-timeout=500ms").start();
    let mut consumer = node.consumer("t", "c", 1);
    node.client().publish("t", "x");
    for attempts in [1, 2, 3] {
        let message = consumer.message();
        assert_eq!(message.attempts, attempts);
        // The second one would overflow a signed count of nanoseconds.
        consumer.requeue(&message.id, [3_600_001, u64::MAX / 1_000_000, 0][usize::from(attempts - 1)]);
    }
    assert_eq!(consumer.message().attempts, 4);
}

#[test]
fn a_deferred_publish_waits_for_its_time() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 10);
    let since = Stopwatch::start();
    let mut producer = node.client();
    producer.publish_deferred("t", 700, "later");
    producer.publish("t", "now");
    producer.publish_deferred("t", 0, "now as well");
    let mut texts = consumer.finish_messages(2).iter().map(bruit_tests::Message::text).collect::<Vec<_>>();
    texts.sort();
    assert_eq!(texts, ["now", "now as well"]);
    node.wait_for("t", "c", "deferred_count", 1);
    let message = consumer.message();
    assert!(since.elapsed() >= Duration::from_millis(700), "it came early");
    assert_eq!((message.text().as_str(), message.attempts), ("later", 1));
}

#[test]
fn deferred_messages_come_in_the_order_of_their_due_times() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 10);
    let mut producer = node.client();
    for (delay, text) in [(900, "third"), (300, "first"), (600, "second")] {
        producer.publish_deferred("t", delay, text);
    }
    let texts: Vec<String> = consumer.finish_messages(3).iter().map(bruit_tests::Message::text).collect();
    assert_eq!(texts, ["first", "second", "third"]);
}

#[test]
fn an_unanswered_message_times_out_and_comes_again() {
    let node = Node::start();
    let mut consumer = hasty_consumer(&node);
    node.client().publish("t", "x");
    let first = consumer.message();
    let since = Stopwatch::start();
    let second = consumer.message();
    assert!(since.elapsed() >= Duration::from_millis(900), "it timed out early");
    assert_eq!((second.id.as_str(), second.attempts), (first.id.as_str(), 2));
    let stats = node.channel_stats("t", "c").expect("the channel exists");
    assert_eq!(stats["timeout_count"], 1);
    consumer.finish(&second.id);
    consumer.finish(&second.id);
    consumer.expect_error(&format!("E_FIN_FAILED FIN {} failed ID not in flight", second.id));
}

#[test]
fn a_late_fin_fails_without_ending_the_connection() {
    let node = Node::start();
    let mut consumer = hasty_consumer(&node);
    node.client().publish("t", "x");
    let message = consumer.message();
    consumer.ready(0);
    node.wait_for("t", "c", "timeout_count", 1);
    consumer.finish(&message.id);
    consumer.expect_error(&format!("E_FIN_FAILED FIN {} failed ID not in flight", message.id));
    consumer.ready(1);
    assert_eq!(consumer.message().attempts, 2);
}

#[test]
fn touch_extends_the_time() {
    let node = Node::start();
    let mut consumer = hasty_consumer(&node);
    node.client().publish("t", "x");
    let id = consumer.message().id;
    let since = Stopwatch::start();
    while since.elapsed() < Duration::from_millis(2500) {
        consumer.touch(&id);
        if let Some(message) = consumer.message_within(Duration::from_millis(300)) {
            panic!("it timed out although it was touched: {message:?}");
        }
    }
    consumer.finish(&id);
    node.wait_for("t", "c", "in_flight_count", 0);
    assert_eq!(node.channel_stats("t", "c").expect("the channel exists")["timeout_count"], 0);
}

#[test]
fn touch_does_not_extend_beyond_the_longest_time_out() {
    let node = Options::new().arg("--msg-timeout=1s").arg("--max-msg-timeout=2s").start();
    let mut consumer = node.consumer("t", "c", 1);
    node.client().publish("t", "x");
    let id = consumer.message().id;
    let since = Stopwatch::start();
    wait::until("the message comes again although it is touched", || {
        consumer.touch(&id);
        consumer.message_within(Duration::from_millis(200)).is_some_and(|message| message.attempts == 2)
    });
    assert!(since.elapsed() >= Duration::from_millis(1900), "touching did not extend");
}

#[test]
fn a_lost_connection_gives_its_messages_back_at_once() {
    let node = Node::start();
    let mut first = node.consumer("t", "c", 10);
    node.client().publish_all("t", &["a", "b"]);
    first.message();
    first.message();
    drop(first);
    // The default time-out is a minute, longer than any test waits.
    let mut second = node.consumer("t", "c", 10);
    let messages = second.finish_messages(2);
    assert!(messages.iter().all(|message| message.attempts == 2), "{messages:?}");
}

#[test]
fn after_cls_nothing_new_comes_and_what_is_held_can_be_answered() {
    let node = Node::start();
    let mut consumer = node.consumer("t", "c", 2);
    node.client().publish_all("t", &["a", "b", "c"]);
    let held = [consumer.message(), consumer.message()];
    consumer.send("CLS\n");
    consumer.expect_response("CLOSE_WAIT");
    consumer.touch(&held[0].id);
    consumer.finish(&held[0].id);
    consumer.requeue(&held[1].id, 0);
    consumer.expect_silence();
    node.wait_for("t", "c", "in_flight_count", 0);
    assert_eq!(node.channel_stats("t", "c").expect("the channel exists")["clients"][0]["state"], 4);
    let mut texts: Vec<_> = node.consumer("t", "c", 2).finish_messages(2).iter().map(|m| m.text()).collect();
    texts.sort();
    let mut left = vec!["c".to_owned(), held[1].text()];
    left.sort();
    assert_eq!(texts, left);
}

#[test]
fn a_sampling_consumer_discards_the_rest_for_its_channel() {
    let node = Node::start();
    let mut consumer = node.client();
    consumer.identify(r#"{"sample_rate":20}"#);
    consumer.subscribe("t", "c");
    consumer.ready(2500);
    let bodies: Vec<String> = (0..2000).map(|i| i.to_string()).collect();
    node.client().publish_all("t", &bodies);
    node.wait_for("t", "c", "depth", 0);
    let mut count = 0;
    while let Some(message) = consumer.message_within(Duration::from_millis(500)) {
        consumer.finish(&message.id);
        count += 1;
    }
    assert!((280..=560).contains(&count), "{count} of 2000 passed a rate of 20 %");
    node.wait_for("t", "c", "in_flight_count", 0);
    drop(consumer);
    node.consumer("t", "c", 1).expect_silence();
}

#[test]
fn one_connection_may_publish_and_consume() {
    let node = Node::start();
    let mut client = node.consumer("t", "c", 0);
    client.publish("t", "to myself");
    client.ready(1);
    assert_eq!(client.message().text(), "to myself");
}

#[test]
fn ten_thousand_pipelined_publishes_are_all_answered_and_arrive() {
    let node = Node::start();
    let mut producer = node.client();
    let mut bytes = Vec::new();
    for i in 0..10_000 {
        bytes.extend(command("PUB t", format!("{i}").as_bytes()));
    }
    producer.send(&bytes);
    for _ in 0..10_000 {
        producer.expect_ok();
    }
    let mut consumer = node.consumer("t", "c", 2500);
    let mut numbers: Vec<u32> =
        consumer.finish_messages(10_000).iter().map(|m| m.text().parse().expect("a number")).collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..10_000), "some came twice or not at all");
}

#[test]
fn a_backlog_larger_than_memory_arrives_whole() {
    let node = Options::new().arg("--cache-size=1MiB").start();
    let mut producer = node.client();
    let filler = "x".repeat(1000);
    for batch in 0..80 {
        let bodies: Vec<String> = (0..200).map(|i| format!("{}:{filler}", batch * 200 + i)).collect();
        producer.publish_all("t", &bodies);
    }
    let mut consumer = node.consumer("t", "c", 500);
    let mut seen = vec![0_u8; 16_000];
    for message in consumer.finish_messages(16_000) {
        let text = message.text();
        let (number, rest) = text.split_once(':').expect("a number and the filler");
        assert_eq!(rest, filler);
        seen[number.parse::<usize>().expect("a number")] += 1;
    }
    assert!(seen.iter().all(|&count| count == 1), "some came twice or not at all");
}
