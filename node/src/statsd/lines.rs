//! What statsd is told (NSQ reference, section 9): lines, and the datagrams that they are packed into. Pure.

use std::{collections::BTreeMap, fmt::Write};

use bruit_wire::{ChannelName, TopicName};

use crate::{
    broker::{ChannelFigures, TopicFigures, latency_name},
    http::GO_MEMORY,
};

/// What counters were at the last pass, so that their differences can be told. Names that are gone are
/// forgotten with the next pass.
#[derive(Debug, Default)]
pub(super) struct Counters {
    topics: BTreeMap<TopicName, [u64; 2]>,
    channels: BTreeMap<(TopicName, ChannelName), [u64; 3]>,
}

/// The datagrams of one pass: whole lines, together at most `size` bytes each, if no line is longer alone.
pub(super) fn datagrams(
    prefix: &str,
    size: usize,
    rows: &[TopicFigures],
    memory: bool,
    counters: &mut Counters,
) -> Vec<String> {
    let mut packer = Packer { prefix, size, datagrams: Vec::new(), line: String::new() };
    let before = std::mem::take(counters);
    for row in rows {
        let name = format!("topic.{}", row.name.as_str());
        let now = [row.stats.message_count, row.stats.message_bytes];
        let [messages, bytes] = differences(now, before.topics.get(&row.name));
        counters.topics.insert(row.name.clone(), now);
        packer.line(&name, "message_count", messages, 'c');
        packer.line(&name, "message_bytes", bytes, 'c');
        packer.line(&name, "depth", row.stats.depth, 'g');
        packer.line(&name, "backend_depth", row.stats.backend_depth, 'g');
        packer.latency(&name, &row.latency);
        for channel in &row.channels {
            channel_lines(&mut packer, row, channel, &before, counters);
        }
    }
    if memory {
        GO_MEMORY.iter().for_each(|name| packer.line("mem", name, 0, 'g'));
        packer.line("mem", "gc_runs", 0, 'c');
    }
    packer.datagrams
}

fn channel_lines(
    packer: &mut Packer<'_>,
    topic: &TopicFigures,
    channel: &ChannelFigures,
    before: &Counters,
    counters: &mut Counters,
) {
    let name = format!("topic.{}.channel.{}", topic.name.as_str(), channel.name.as_str());
    let key = (topic.name.clone(), channel.name.clone());
    let stats = &channel.stats;
    let now = [stats.message_count, stats.requeue_count, stats.timeout_count];
    let [messages, requeues, timeouts] = differences(now, before.channels.get(&key));
    counters.channels.insert(key, now);
    packer.line(&name, "message_count", messages, 'c');
    packer.line(&name, "depth", stats.depth, 'g');
    packer.line(&name, "backend_depth", stats.backend_depth, 'g');
    packer.line(&name, "in_flight_count", stats.in_flight_count, 'g');
    packer.line(&name, "deferred_count", stats.deferred_count, 'g');
    packer.line(&name, "requeue_count", requeues, 'c');
    packer.line(&name, "timeout_count", timeouts, 'c');
    packer.line(&name, "clients", stats.client_count, 'g');
    packer.latency(&name, &channel.latency);
}

/// What was counted since the last pass. A name that was deleted and made anew counts from nothing.
fn differences<const N: usize>(now: [u64; N], before: Option<&[u64; N]>) -> [u64; N] {
    let before = before.copied().unwrap_or([0; N]);
    let mut since = now;
    for (since, before) in since.iter_mut().zip(before) {
        *since = since.checked_sub(before).unwrap_or(*since);
    }
    since
}

/// The prefix of all lines, from a pattern in which `%s` is the node: its address, with `_` for what graphite
/// takes for a separator.
pub(super) fn prefix(pattern: &str, address: &str, port: u16) -> String {
    let node: String = format!("{address}:{port}").replace(['.', ':'], "_");
    let mut prefix = pattern.replace("%s", &node);
    if !prefix.is_empty() && !prefix.ends_with('.') {
        prefix.push('.');
    }
    prefix
}

struct Packer<'a> {
    prefix: &'a str,
    size: usize,
    datagrams: Vec<String>,
    line: String,
}

impl Packer<'_> {
    fn line(&mut self, name: &str, metric: &str, value: u64, kind: char) {
        self.line.clear();
        // Writing to a string cannot fail.
        let _ = writeln!(self.line, "{}{name}.{metric}:{value}|{kind}", self.prefix);
        match self.datagrams.last_mut() {
            Some(last) if last.len() + self.line.len() <= self.size => last.push_str(&self.line),
            _ => self.datagrams.push(self.line.clone()),
        }
    }

    fn latency(&mut self, name: &str, latency: &[(f64, u64)]) {
        for (quantile, value) in latency {
            self.line(name, &latency_name(*quantile), *value, 'g');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{ChannelStats, TopicStats};

    fn row() -> TopicFigures {
        let channel = ChannelFigures {
            name: ChannelName::new("c").unwrap(),
            stats: ChannelStats {
                message_count: 5,
                requeue_count: 1,
                client_count: 2,
                ..ChannelStats::default()
            },
            latency: vec![(1.0, 7), (0.99, 6)],
        };
        TopicFigures {
            name: TopicName::new("a.b").unwrap(),
            stats: TopicStats { message_count: 10, message_bytes: 100, depth: 3, ..TopicStats::default() },
            latency: vec![(0.5, 9)],
            channels: vec![channel],
        }
    }

    #[test]
    fn lines_are_those_of_nsqd() {
        let mut counters = Counters::default();
        let first = datagrams("nsq.h_1.", 10_000, &[row()], true, &mut counters).concat();
        let expected = "nsq.h_1.topic.a.b.message_count:10|c\n\
            nsq.h_1.topic.a.b.message_bytes:100|c\n\
            nsq.h_1.topic.a.b.depth:3|g\n\
            nsq.h_1.topic.a.b.backend_depth:0|g\n\
            nsq.h_1.topic.a.b.e2e_processing_latency_50:9|g\n\
            nsq.h_1.topic.a.b.channel.c.message_count:5|c\n\
            nsq.h_1.topic.a.b.channel.c.depth:0|g\n\
            nsq.h_1.topic.a.b.channel.c.backend_depth:0|g\n\
            nsq.h_1.topic.a.b.channel.c.in_flight_count:0|g\n\
            nsq.h_1.topic.a.b.channel.c.deferred_count:0|g\n\
            nsq.h_1.topic.a.b.channel.c.requeue_count:1|c\n\
            nsq.h_1.topic.a.b.channel.c.timeout_count:0|c\n\
            nsq.h_1.topic.a.b.channel.c.clients:2|g\n\
            nsq.h_1.topic.a.b.channel.c.e2e_processing_latency_100:7|g\n\
            nsq.h_1.topic.a.b.channel.c.e2e_processing_latency_99:6|g\n\
            nsq.h_1.mem.heap_objects:0|g\n";
        assert!(first.starts_with(expected), "{first}");
        assert!(first.ends_with("nsq.h_1.mem.next_gc_bytes:0|g\nnsq.h_1.mem.gc_runs:0|c\n"), "{first}");
    }

    #[test]
    fn counters_are_differences_and_start_anew_with_a_name() {
        let mut counters = Counters::default();
        let mut told = |rows: &[TopicFigures]| datagrams("", 10_000, rows, false, &mut counters).concat();
        told(&[row()]);
        let mut more = row();
        more.stats.message_count = 12;
        more.channels[0].stats.requeue_count = 4;
        let second = told(&[more]);
        assert!(second.contains("topic.a.b.message_count:2|c\n"), "{second}");
        assert!(
            second.contains(".c.requeue_count:3|c\n") && second.contains(".c.message_count:0|c\n"),
            "{second}"
        );
        let mut anew = row();
        anew.stats.message_count = 4;
        assert!(told(&[anew]).contains("topic.a.b.message_count:4|c\n"));
        assert_eq!(told(&[]), "");
        assert!(told(&[row()]).contains("topic.a.b.message_count:10|c\n"));
    }

    #[test]
    fn no_line_is_split_and_no_datagram_is_too_large() {
        let whole = datagrams("p.", usize::MAX, &[row()], true, &mut Counters::default()).concat();
        let datagrams = datagrams("p.", 90, &[row()], true, &mut Counters::default());
        assert!(datagrams.len() > 5 && datagrams.iter().all(|datagram| datagram.len() <= 90));
        assert!(datagrams.iter().all(|datagram| datagram.ends_with('\n')));
        assert_eq!(datagrams.concat(), whole);
    }

    #[test]
    fn the_prefix_names_the_node() {
        assert_eq!(prefix("nsq.%s", "127.0.0.1", 4151), "nsq.127_0_0_1_4151.");
        assert_eq!(prefix("x.", "h", 1), "x.");
        assert_eq!(prefix("", "h", 1), "");
    }
}
