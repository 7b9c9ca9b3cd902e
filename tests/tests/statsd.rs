//! What statsd is told, and how long messages take.

#![expect(clippy::disallowed_types, reason = "statsd is outside of the node: its socket is real")]

use std::{collections::BTreeSet, net::UdpSocket};

use bruit_tests::{Node, Options, command, wait};

/// A statsd that only listens.
struct Statsd(UdpSocket);

impl Statsd {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_read_timeout(Some(wait::PATIENCE)).expect("a socket option");
        Self(socket)
    }

    fn address(&self) -> String {
        self.0.local_addr().expect("a bound socket has an address").to_string()
    }

    fn datagram(&self) -> String {
        let mut buffer = vec![0; 65_536];
        let length = self.0.recv(&mut buffer).expect("a datagram comes");
        String::from_utf8(buffer[..length].to_vec()).expect("lines are text")
    }

    /// Lines until one has come that ends with `last`, each datagram no longer than `max`.
    fn lines(&self, last: &str, max: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while !lines.iter().any(|line: &String| line.ends_with(last)) {
            let datagram = self.datagram();
            assert!(datagram.len() <= max && datagram.ends_with('\n'), "{datagram:?}");
            lines.extend(datagram.lines().map(str::to_owned));
        }
        lines
    }
}

fn options(statsd: &Statsd) -> Options {
    Options::new().arg(format!("--statsd-address={}", statsd.address())).arg("--statsd-interval=1s")
}

/// Names without their prefix and value.
fn names(node: &Node, lines: &[String]) -> BTreeSet<String> {
    let prefix = format!("nsq.127_0_0_1_{}.", node.http_address().port());
    let name = |line: &String| {
        let rest = line.strip_prefix(&prefix).unwrap_or_else(|| panic!("{line} has not the prefix {prefix}"));
        rest.split(':').next().unwrap_or_default().to_owned()
    };
    lines.iter().map(name).collect()
}

#[test]
fn every_figure_is_told_under_nsqds_name() {
    let statsd = Statsd::start();
    let node = options(&statsd).arg("--e2e-processing-latency-percentile=1.0,0.95").start();
    let mut consumer = node.consumer("a.b", "c", 10);
    let mut producer = node.client();
    producer.send(command("PUB a.b", b"12345"));
    producer.expect_ok();
    consumer.finish_messages(1);
    node.wait_for("a.b", "c", "in_flight_count", 0);

    let mut seen = Vec::new();
    wait::until("the message was counted", || {
        seen = statsd.lines("mem.gc_runs:0|c", 508);
        seen.iter().any(|line| line.ends_with("topic.a.b.message_bytes:5|c"))
    });
    let topic =
        ["message_count", "message_bytes", "depth", "backend_depth"].map(|name| format!("topic.a.b.{name}"));
    let channel = [
        "message_count",
        "depth",
        "backend_depth",
        "in_flight_count",
        "deferred_count",
        "requeue_count",
        "timeout_count",
        "clients",
    ]
    .map(|name| format!("topic.a.b.channel.c.{name}"));
    let latency = ["topic.a.b", "topic.a.b.channel.c"]
        .map(|of| ["100", "95"].map(|p| format!("{of}.e2e_processing_latency_{p}")))
        .concat();
    let memory = [
        "heap_objects",
        "heap_idle_bytes",
        "heap_in_use_bytes",
        "heap_released_bytes",
        "gc_pause_usec_100",
        "gc_pause_usec_99",
        "gc_pause_usec_95",
        "next_gc_bytes",
        "gc_runs",
    ]
    .map(|name| format!("mem.{name}"));
    let expected: BTreeSet<String> = topic.into_iter().chain(channel).chain(latency).chain(memory).collect();
    assert_eq!(names(&node, &seen), expected);
    assert!(seen.iter().any(|line| line.ends_with("topic.a.b.channel.c.clients:1|g")), "{seen:?}");
    // Counters are differences: nothing more was published.
    let later = statsd.lines("mem.gc_runs:0|c", 508);
    assert!(later.iter().any(|line| line.ends_with("topic.a.b.message_count:0|c")), "{later:?}");
}

#[test]
fn prefix_size_memory_and_ephemeral_names_are_as_asked() {
    let statsd = Statsd::start();
    let node = options(&statsd)
        .arg("--statsd-prefix=mine")
        .arg("--statsd-mem-stats=false")
        .arg("--statsd-exclude-ephemeral")
        .arg("--statsd-udp-packet-size=1000")
        .start();
    let _consumers = [node.consumer("t", "c#ephemeral", 1), node.consumer("e#ephemeral", "c", 1)];
    node.http().post_ok("/channel/create?topic=t&channel=kept", "");
    let lines = statsd.lines("mine.topic.t.channel.kept.clients:0|g", 1000);
    let unwanted = lines.iter().filter(|line| line.contains("ephemeral") || line.contains(".mem."));
    assert_eq!(unwanted.count(), 0, "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("mine.topic.t.")), "{lines:?}");
}

#[test]
fn a_statsd_that_cannot_be_found_disturbs_nothing() {
    let node =
        Options::new().arg("--statsd-address=nobody.invalid:8125").arg("--statsd-interval=100ms").start();
    wait::until("it is said once", || node.log().contains("nothing can be sent to statsd"));
    let mut producer = node.client();
    producer.send(command("PUB t", b"x"));
    producer.expect_ok();
    assert_eq!(node.log().matches("nothing can be sent to statsd").count(), 1);
}

#[test]
fn latencies_are_shown_where_they_are_asked_for_and_nowhere_else() {
    let node = Options::new().arg("--e2e-processing-latency-percentile=0.99,0.5").start();
    let mut consumer = node.consumer("t", "c", 10);
    let mut producer = node.client();
    producer.send(command("PUB t", b"slow"));
    producer.expect_ok();
    let message = consumer.message();
    wait::pause(std::time::Duration::from_millis(60));
    consumer.requeue(&message.id, 0);
    let again = consumer.message();
    assert_eq!(again.id, message.id);
    consumer.finish(&again.id);
    node.wait_for("t", "c", "in_flight_count", 0);
    let stats = node.channel_stats("t", "c").expect("it is there");
    let latency = &stats["e2e_processing_latency"];
    assert_eq!(latency["count"], 1);
    assert_eq!(
        (&latency["percentiles"][0]["quantile"], &latency["percentiles"][1]["quantile"]),
        (&0.99.into(), &0.5.into())
    );
    // From publishing, not from the last delivery.
    let value = latency["percentiles"][0]["value"].as_u64().expect("a number");
    assert!(value >= 58_000_000, "{value}");
    assert_eq!(node.topic_stats("t").expect("it is there")["e2e_processing_latency"], *latency);
    let text = node.http().get("/stats").text();
    assert!(text.lines().any(|line| line.contains("[c   ") && line.contains("ms, ")), "{text}");
    let metrics = node.http().get("/metrics").text();
    let sample = "nsq_topic_channel_e2e_processing_latency_99{topic=\"t\",channel=\"c\"} ";
    assert!(
        metrics.contains(sample) && metrics.contains("nsq_topic_e2e_processing_latency_50{topic=\"t\"} "),
        "{metrics}"
    );

    let plain = Node::start();
    let _consumer = plain.consumer("t", "c", 1);
    let expected = serde_json::json!({"count": 0, "percentiles": null});
    assert_eq!(plain.channel_stats("t", "c").expect("it is there")["e2e_processing_latency"], expected);
}

#[test]
fn metrics_have_the_names_of_dashboards_and_stay_bounded() {
    let node = Options::new().arg("--max-metrics-series=30").start();
    let mut consumer = node.consumer("a", "c", 5);
    let mut producer = node.client();
    producer.send(command("PUB a", b"12345"));
    producer.expect_ok();
    let held = consumer.message();
    assert_eq!(held.text(), "12345");
    for topic in ["b", "d"] {
        node.http().post_ok(&format!("/topic/create?topic={topic}"), "");
        node.http().post_ok(&format!("/channel/create?topic={topic}&channel=c"), "");
    }
    let text = node.http().get("/metrics").text();
    for sample in [
        "nsq_topic_message_count{topic=\"a\"} 1",
        "nsq_topic_message_bytes{topic=\"a\"} 5",
        "nsq_topic_depth{topic=\"b\"} 0",
        "nsq_topic_backend_depth{topic=\"a\"} 0",
        "nsq_topic_channel_message_count{topic=\"a\",channel=\"c\"} 1",
        "nsq_topic_channel_depth{topic=\"a\",channel=\"c\"} 0",
        "nsq_topic_channel_backend_depth{topic=\"a\",channel=\"c\"} 0",
        "nsq_topic_channel_in_flight_count{topic=\"a\",channel=\"c\"} 1",
        "nsq_topic_channel_deferred_count{topic=\"a\",channel=\"c\"} 0",
        "nsq_topic_channel_requeue_count{topic=\"a\",channel=\"c\"} 0",
        "nsq_topic_channel_timeout_count{topic=\"a\",channel=\"c\"} 0",
        "nsq_topic_channel_clients{topic=\"a\",channel=\"c\"} 1",
        // Twelve for each topic: of three there is room for two.
        "bruit_metrics_omitted_series 12",
    ] {
        assert!(text.contains(&format!("\n{sample}\n")), "no {sample} in {text}");
    }
    assert!(!text.contains("topic=\"d\""), "{text}");
    let one = node.http().get("/metrics?topic=d").text();
    assert!(one.contains("nsq_topic_depth{topic=\"d\"} 0") && !one.contains("topic=\"a\""), "{one}");
}
