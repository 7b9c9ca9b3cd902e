//! The figures of topics and channels for Prometheus, under the names that dashboards for NSQ use: those that
//! statsd's figures get from `statsd_exporter`.
//!
//! **Bounded:** as many series as `--max-metrics-series` allows, topics in order of their names; the caller
//! tells how many were left out. No lock is held but that of one channel at a time.

use std::fmt::{Display, Write};

use bruit_wire::{ChannelName, TopicName};

use crate::broker::{Broker, ChannelStats, TopicFigures, TopicStats, latency_name};

/// One figure of a topic or a channel: its name, whether it counts up, and what it says.
type Figure<S> = (&'static str, bool, &'static str, fn(&S) -> u64);

const TOPIC: [Figure<TopicStats>; 4] = [
    ("message_count", true, "Messages published.", |stats| stats.message_count),
    ("message_bytes", true, "Bytes of their bodies.", |stats| stats.message_bytes),
    ("depth", false, "Messages that no channel sees yet.", |stats| stats.depth),
    ("backend_depth", false, "Those of them that are not in memory.", |stats| stats.backend_depth),
];

const CHANNEL: [Figure<ChannelStats>; 8] = [
    ("message_count", true, "Messages that have reached the channel.", |stats| stats.message_count),
    ("depth", false, "Messages that wait to be delivered.", |stats| stats.depth),
    ("backend_depth", false, "Those of them that are not in memory.", |stats| stats.backend_depth),
    ("in_flight_count", false, "Messages delivered and not answered.", |stats| stats.in_flight_count),
    ("deferred_count", false, "Messages held back until they are due.", |stats| stats.deferred_count),
    ("requeue_count", true, "Messages that consumers put back.", |stats| stats.requeue_count),
    ("timeout_count", true, "Deliveries that timed out.", |stats| stats.timeout_count),
    ("clients", false, "Consumers.", |stats| stats.client_count),
];

/// What is shown.
pub(super) struct Series {
    rows: Vec<TopicFigures>,
    percentiles: Vec<f64>,
    /// Series that found no room.
    pub(super) omitted: usize,
}

impl Series {
    /// At most `max` series of the topics, or of the one that is named.
    pub(super) fn take(broker: &Broker, max: usize, topic: Option<&str>) -> Self {
        let topics = match topic {
            None => broker.topics(),
            Some(name) => broker.topic(name).into_iter().collect(),
        };
        let percentiles = topics.first().map(|topic| topic.percentiles().to_vec()).unwrap_or_default();
        let (mut rows, mut room, mut omitted) = (Vec::new(), max, 0);
        for topic in &topics {
            let channels = topic.channels();
            let size = TOPIC.len() + percentiles.len() + channels.len() * (CHANNEL.len() + percentiles.len());
            match room.checked_sub(size) {
                Some(left) => {
                    room = left;
                    rows.push(TopicFigures::take(topic, |_| true));
                }
                None => omitted += size,
            }
        }
        Self { rows, percentiles, omitted }
    }

    /// The figures of quantiles with their places. Two that statsd cannot tell apart have one name, and a family
    /// may come only once.
    fn latencies(&self) -> impl Iterator<Item = (usize, String)> {
        let name = |quantile: &f64| latency_name(*quantile);
        let names: Vec<String> = self.percentiles.iter().map(name).collect();
        let is_first = move |(at, name): &(usize, String)| !names[..*at].contains(name);
        self.percentiles.iter().map(name).enumerate().filter(is_first)
    }

    /// Appends the series, one family after the other.
    pub(super) fn write(&self, out: &mut String) {
        for (name, counts, help, value) in TOPIC {
            family(out, &format!("nsq_topic_{name}"), counts, help);
            for row in &self.rows {
                sample(out, "nsq_topic_", name, &row.name, None, value(&row.stats));
            }
        }
        for (at, name) in self.latencies() {
            family(out, &format!("nsq_topic_{name}"), false, "Nanoseconds from publishing to FIN.");
            for (row, value) in self.rows.iter().filter_map(|row| Some((row, row.latency.get(at)?.1))) {
                sample(out, "nsq_topic_", &name, &row.name, None, value);
            }
        }
        let channels =
            || self.rows.iter().flat_map(|row| row.channels.iter().map(|channel| (&row.name, channel)));
        for (name, counts, help, value) in CHANNEL {
            family(out, &format!("nsq_topic_channel_{name}"), counts, help);
            for (topic, channel) in channels() {
                sample(out, "nsq_topic_channel_", name, topic, Some(&channel.name), value(&channel.stats));
            }
        }
        for (at, name) in self.latencies() {
            family(out, &format!("nsq_topic_channel_{name}"), false, "Nanoseconds from publishing to FIN.");
            for (topic, channel) in channels() {
                if let Some((_, value)) = channel.latency.get(at) {
                    sample(out, "nsq_topic_channel_", &name, topic, Some(&channel.name), value);
                }
            }
        }
    }
}

fn family(out: &mut String, name: &str, counts: bool, help: &str) {
    let kind = if counts { "counter" } else { "gauge" };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Names of topics and channels hold nothing that would need an escape.
fn sample(
    out: &mut String,
    prefix: &str,
    name: &str,
    topic: &TopicName,
    channel: Option<&ChannelName>,
    value: impl Display,
) {
    let topic = topic.as_str();
    // Writing to a string cannot fail.
    let _ = match channel {
        None => writeln!(out, "{prefix}{name}{{topic=\"{topic}\"}} {value}"),
        Some(channel) => {
            writeln!(out, "{prefix}{name}{{topic=\"{topic}\",channel=\"{}\"}} {value}", channel.as_str())
        }
    };
}
