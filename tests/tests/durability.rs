//! What was acknowledged is still there after a stop and after kill -9.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bruit_tests::{
    Message, Node, Options,
    load::{self, Journal},
    texts,
    wait::{self, Stopwatch},
};

/// Both ways to end: politely, and not.
const ENDS: [fn(&mut Node); 2] = [Node::restart, Node::crash];

#[test]
fn queued_messages_survive_with_their_ids_and_timestamps() {
    for end in ENDS {
        let mut node = Node::start();
        let mut consumer = node.consumer("t", "c", 3);
        node.client().publish_all("t", &["1", "2", "3"]);
        node.client().publish("alone", "no channel yet");
        let mut before = [consumer.message(), consumer.message(), consumer.message()];
        drop(consumer);
        end(&mut node);
        let mut after = node.consumer("t", "c", 3).finish_messages(3);
        before.sort_by(|a, b| a.id.cmp(&b.id));
        after.sort_by(|a, b| a.id.cmp(&b.id));
        for (before, after) in before.iter().zip(&after) {
            let identity = |message: &Message| (message.id.clone(), message.timestamp, message.text());
            assert_eq!(identity(before), identity(after));
        }
        assert_eq!(texts(&node.consumer("alone", "c", 1).finish_messages(1)), ["no channel yet"]);
    }
}

#[test]
fn every_kind_of_publish_survives_kill_9_at_once() {
    let mut node = Node::start();
    let mut producer = node.client();
    for topic in 0..20 {
        producer.publish(&format!("t{topic}"), "single");
        producer.publish_all(&format!("t{topic}"), &["one of two", "two of two"]);
        producer.publish_deferred(&format!("t{topic}"), 1, "deferred");
        node.http().post_ok(&format!("/pub?topic=t{topic}"), "over http");
        node.http().post_ok(&format!("/mpub?topic=t{topic}"), "line 1\nline 2\n");
    }
    node.crash();
    for topic in 0..20 {
        let mut consumer = node.consumer(&format!("t{topic}"), "c", 10);
        let expected = ["deferred", "line 1", "line 2", "one of two", "over http", "single", "two of two"];
        assert_eq!(texts(&consumer.finish_messages(7)), expected);
    }
}

#[test]
fn messages_that_a_consumer_held_come_again() {
    for end in ENDS {
        let mut node = Node::start();
        let mut consumer = node.consumer("t", "c", 2);
        node.client().publish_all("t", &["1", "2", "3"]);
        consumer.message();
        consumer.message();
        end(&mut node);
        assert_eq!(texts(&node.consumer("t", "c", 3).finish_messages(3)), ["1", "2", "3"]);
    }
}

#[test]
fn attempts_survive() {
    for end in ENDS {
        let mut node = Node::start();
        let mut consumer = node.consumer("t", "c", 1);
        node.client().publish("t", "x");
        let id = consumer.message().id;
        consumer.requeue(&id, 0);
        assert_eq!(consumer.message().attempts, 2);
        consumer.requeue(&id, 60_000);
        consumer.settle();
        node.client().publish("t", "y");
        let held = consumer.message();
        assert_eq!((held.text().as_str(), held.attempts), ("y", 1));
        node.http().post_ok("/channel/pause?topic=t&channel=c", "");
        drop(consumer);
        node.wait_for("t", "c", "in_flight_count", 0);
        // A REQ, and what a lost connection gives back, is written within 10 ms.
        wait::pause(Duration::from_millis(500));
        end(&mut node);
        node.wait_for("t", "c", "deferred_count", 1);
        let mut consumer = node.consumer("t", "c", 1);
        node.http().post_ok("/channel/unpause?topic=t&channel=c", "");
        let message = consumer.message();
        assert_eq!((message.text().as_str(), message.attempts), ("y", 2));
    }
}

#[test]
fn attempts_of_a_message_in_flight_survive_a_graceful_restart() {
    let mut node = Node::start();
    let mut consumer = node.consumer("t", "c", 1);
    node.client().publish("t", "x");
    let id = consumer.message().id;
    consumer.requeue(&id, 0);
    assert_eq!(consumer.message().attempts, 2);
    node.restart();
    let mut consumer = node.consumer("t", "c", 1);
    let message = consumer.message();
    assert_eq!((message.id, message.attempts), (id, 3));
}

#[test]
fn finished_messages_do_not_come_again() {
    for end in ENDS {
        let mut node = Node::start();
        let mut consumer = node.consumer("t", "c", 1);
        let mut late = node.consumer("t", "late", 0);
        late.settle();
        let bodies: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
        node.client().publish_all("t", &bodies);
        consumer.ready(100);
        let finished = consumer.finish_messages(900);
        consumer.settle();
        // A FIN is written within 10 ms; a crash inside of that window may bring its message back.
        wait::pause(Duration::from_millis(500));
        end(&mut node);
        let mut left = texts(&node.consumer("t", "c", 100).finish_messages(100));
        left.extend(finished.iter().map(Message::text));
        left.sort();
        left.dedup();
        assert_eq!(left.len(), 1000, "a finished message came again in place of one that was not");
        assert_eq!(node.consumer("t", "late", 2500).finish_messages(1000).len(), 1000);
    }
}

#[test]
fn a_deferred_message_keeps_its_due_time() {
    for end in ENDS {
        let mut node = Node::start();
        node.consumer("t", "c", 0).settle();
        let since = Stopwatch::start();
        let mut producer = node.client();
        producer.publish_deferred("t", 2500, "later");
        producer.publish_deferred("t", 3_600_000, "much later");
        end(&mut node);
        node.wait_for("t", "c", "deferred_count", 2);
        let mut consumer = node.consumer("t", "c", 2);
        assert_eq!(consumer.message().text(), "later");
        assert!(since.elapsed() >= Duration::from_millis(2400), "it came early");
        consumer.expect_silence();
    }
}

#[test]
fn a_deferred_message_that_fell_due_while_the_node_was_down_comes_at_once() {
    let mut node = Node::start();
    node.consumer("t", "c", 0).settle();
    node.client().publish_deferred("t", 200, "overdue");
    node.kill();
    wait::pause(Duration::from_millis(300));
    node.start_again();
    assert_eq!(node.consumer("t", "c", 1).message().text(), "overdue");
}

#[test]
fn a_requeued_message_keeps_its_due_time_and_attempts() {
    for end in ENDS {
        let mut node = Node::start();
        let mut consumer = node.consumer("t", "c", 1);
        node.client().publish("t", "x");
        let id = consumer.message().id;
        let since = Stopwatch::start();
        consumer.requeue(&id, 2500);
        node.wait_for("t", "c", "deferred_count", 1);
        // A REQ is written within 10 ms; a crash inside of that window may bring its message back at once.
        wait::pause(Duration::from_millis(500));
        end(&mut node);
        let message = node.consumer("t", "c", 1).message();
        assert_eq!((message.id, message.attempts), (id, 2));
        assert!(since.elapsed() >= Duration::from_millis(2400), "it came early");
    }
}

#[test]
fn names_and_pauses_survive() {
    for end in ENDS {
        let mut node = Node::start();
        let http = node.http();
        for target in [
            "/topic/create?topic=bare",
            "/topic/create?topic=t",
            "/channel/create?topic=t&channel=open",
            "/channel/create?topic=t&channel=paused",
            "/channel/pause?topic=t&channel=paused",
            "/topic/create?topic=still",
            "/topic/pause?topic=still",
        ] {
            http.post_ok(target, "");
        }
        end(&mut node);
        assert!(node.topic_stats("bare").is_some());
        assert_eq!(node.channel_stats("t", "open").expect("kept")["paused"], false);
        assert_eq!(node.channel_stats("t", "paused").expect("kept")["paused"], true);
        assert_eq!(node.topic_stats("still").expect("kept")["paused"], true);
    }
}

#[test]
fn an_emptied_channel_stays_empty() {
    for end in ENDS {
        let mut node = Node::start();
        node.consumer("t", "c", 0).settle();
        node.client().publish_all("t", &["1", "2"]);
        node.http().post_ok("/channel/empty?topic=t&channel=c", "");
        node.client().publish("t", "3");
        end(&mut node);
        let mut consumer = node.consumer("t", "c", 10);
        assert_eq!(texts(&consumer.finish_messages(1)), ["3"]);
        consumer.expect_silence();
    }
}

#[test]
fn a_restart_with_many_segments_loses_nothing() {
    for end in ENDS {
        let mut node = Options::new().arg("--segment-size=64KiB").start();
        let mut consumer = node.consumer("t", "c", 0);
        consumer.settle();
        let mut producer = node.client();
        let bodies: Vec<String> = (0..3000).map(|i| load::body(&format!("m-{i}"))).collect();
        for batch in bodies.chunks(100) {
            producer.publish_all("t", batch);
        }
        // The first half is finished, so that segments can be reclaimed.
        consumer.ready(500);
        consumer.finish_messages(1500);
        consumer.settle();
        end(&mut node);
        let mut consumer = node.consumer("t", "c", 2500);
        let seen = load::drain(&mut consumer, Duration::from_secs(1));
        assert!(seen.len() >= 1500, "only {} of 1500 are left", seen.len());
        assert!(seen.values().all(|&count| count == 1));
    }
}

#[test]
fn messages_larger_than_a_segment_survive() {
    for end in ENDS {
        let mut node = Options::new().arg("--segment-size=64KiB").start();
        let mut producer = node.client();
        let large: Vec<String> = (0..4).map(|i| i.to_string().repeat(1_000_000)).collect();
        producer.publish("t", "before");
        producer.publish("t", &large[0]);
        producer.publish_all("t", &large[1..]);
        producer.publish("t", "after");
        end(&mut node);
        let mut expected = large.clone();
        expected.extend(["after".to_owned(), "before".to_owned()]);
        assert!(
            texts(&node.consumer("t", "c", 10).finish_messages(6)) == expected,
            "a large message was changed"
        );
    }
}

#[test]
fn hundreds_of_topics_and_channels_survive() {
    for end in ENDS {
        let mut node = Options::new().arg("--segment-size=64KiB").start();
        let http = node.http();
        let mut producer = node.client();
        for i in 0..300 {
            http.post_ok(&format!("/topic/create?topic=t{i}"), "");
            http.post_ok(&format!("/channel/create?topic=t{i}&channel=c"), "");
            producer.publish(&format!("t{i}"), load::body(&format!("m-{i}")));
        }
        end(&mut node);
        let stats = node.http().get("/stats?format=json").json();
        assert_eq!(stats["topics"].as_array().map(Vec::len), Some(300));
        for i in (0..300).step_by(7) {
            let message = node.consumer(&format!("t{i}"), "c", 1).message();
            assert_eq!(load::key_of(&message), format!("m-{i}"));
        }
    }
}

#[test]
fn without_a_sync_messages_survive_the_end_of_the_process() {
    let mut node = Options::new().arg("--durability=fsync").arg("--topic-durability=fast*=os").start();
    node.client().publish("fast.t", "handed to the system");
    node.client().publish("t", "synced");
    node.crash();
    assert_eq!(node.consumer("fast.t", "c", 1).message().text(), "handed to the system");
    assert_eq!(node.consumer("t", "c", 1).message().text(), "synced");
}

#[test]
fn a_drained_node_gives_its_disk_space_back() {
    let node = Options::new().arg("--segment-size=256KiB").start();
    let mut consumer = node.consumer("t", "c", 2500);
    let mut producer = node.client();
    let body = "x".repeat(1000);
    for _ in 0..100 {
        producer.publish_all("t", &vec![body.as_str(); 200]);
        consumer.finish_messages(200);
    }
    // 20 MB went through; what remains is the segment in use, spares and what is being given back.
    wait::until("the journal has shrunk", || used(&node) < 4 << 20);
}

/// Bytes in the files of the data directory.
fn used(node: &Node) -> u64 {
    let entries = std::fs::read_dir(node.data_path()).expect("the data directory can be listed");
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn nothing_acknowledged_is_lost_over_many_kills_under_load() {
    let rounds: usize = std::env::var("BRUIT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let mut node = Options::new().arg("--segment-size=256KiB").start();
    node.consumer("t", "c", 0).settle();
    let mut journal = Journal::default();
    for round in 0..rounds {
        let stop = AtomicBool::new(false);
        let address = node.tcp_address();
        std::thread::scope(|scope| {
            let publishers: Vec<_> = (0..3)
                .map(|publisher| {
                    let (name, stop) = (format!("{round}-{publisher}"), &stop);
                    scope.spawn(move || load::publish_until(address, "t", &name, stop))
                })
                .collect();
            // Not the same moment each time, and sometimes while the first segment is still being made.
            wait::pause(Duration::from_millis(100 + 83 * (round as u64 % 7)));
            node.kill();
            stop.store(true, Ordering::Relaxed);
            for publisher in publishers {
                journal.merge(publisher.join().expect("a publisher does not panic"));
            }
        });
        node.start_again();
    }
    assert!(
        journal.acknowledged.len() > rounds,
        "hardly anything was published: {}",
        journal.acknowledged.len()
    );
    let mut consumer = node.consumer("t", "c", 2500);
    let delivered = load::drain(&mut consumer, Duration::from_secs(3));
    load::check(&journal, &delivered);
    println!("{} acknowledged, {} delivered, {rounds} kills", journal.acknowledged.len(), delivered.len());
}

#[test]
fn a_kill_during_recovery_does_no_harm() {
    let mut node = Options::new().arg("--segment-size=256KiB").start();
    node.consumer("t", "c", 0).settle();
    let bodies: Vec<String> = (0..2000).map(|i| load::body(&format!("m-{i}"))).collect();
    for batch in bodies.chunks(100) {
        node.client().publish_all("t", batch);
    }
    node.kill();
    for delay in 0..6 {
        node.interrupt_start(Duration::from_millis(5 * delay));
    }
    node.start_again();
    let mut consumer = node.consumer("t", "c", 2500);
    assert_eq!(load::drain(&mut consumer, Duration::from_secs(1)).len(), 2000);
}
