//! `/stats` as text, in the columns that people have written scripts for.

use std::{
    fmt::{self, Display, Write},
    time::{Duration, SystemTime},
};

use super::{
    BRUIT_VERSION, GO_MEMORY, NSQ_VERSION,
    stats::{ChannelRow, Latency, Snapshot, TopicRow},
};
use crate::{broker::ClientStats, relay::LinkReport};

/// The text that shows `snapshot`.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_stats(&mut out, snapshot);
    out
}

fn write_stats(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    writeln!(out, "nsqd v{NSQ_VERSION} (built w/bruit {BRUIT_VERSION})")?;
    writeln!(out, "start_time {}", humantime::format_rfc3339_seconds(snapshot.started))?;
    writeln!(out, "uptime {}", GoDuration(snapshot.uptime))?;
    writeln!(out, "\nHealth: {}", snapshot.health)?;
    if snapshot.memory {
        writeln!(out, "\nMemory:")?;
        for name in GO_MEMORY.iter().chain(&["gc_total_runs"]) {
            writeln!(out, "   {name:<25}\t0")?;
        }
    }
    match snapshot.topics.as_deref().unwrap_or_default() {
        [] => writeln!(out, "\nTopics: None")?,
        topics => {
            write!(out, "\nTopics:")?;
            topics.iter().try_for_each(|topic| write_topic(out, topic, snapshot.now))?;
        }
    }
    match snapshot.producers.as_deref().unwrap_or_default() {
        [] => writeln!(out, "\nProducers: None"),
        producers => {
            writeln!(out, "\nProducers:")?;
            producers.iter().try_for_each(|client| write_producer(out, client, snapshot.now))
        }
    }
}

fn write_topic(out: &mut String, topic: &TopicRow, now: SystemTime) -> fmt::Result {
    let stats = &topic.stats;
    writeln!(
        out,
        "\n{}[{:<15}] depth: {:<5} be-depth: {:<5} msgs: {:<8} e2e%: {}",
        if stats.paused { "*P " } else { "   " },
        topic.name.as_str(),
        stats.depth,
        stats.backend_depth,
        stats.message_count,
        percentiles(topic.latency.as_ref()),
    )?;
    topic.channels.iter().try_for_each(|channel| write_channel(out, channel, now))
}

fn write_channel(out: &mut String, channel: &ChannelRow, now: SystemTime) -> fmt::Result {
    let stats = &channel.stats;
    writeln!(
        out,
        "{}[{:<25}] depth: {:<5} be-depth: {:<5} inflt: {:<4} def: {:<4} re-q: {:<5} timeout: {:<5} \
         msgs: {:<8} e2e%: {}",
        if stats.paused { "   *P " } else { "      " },
        channel.name.as_str(),
        stats.depth,
        stats.backend_depth,
        stats.in_flight_count,
        stats.deferred_count,
        stats.requeue_count,
        stats.timeout_count,
        stats.message_count,
        percentiles(channel.latency.as_ref()),
    )?;
    let mut clients = channel.clients.iter().flatten();
    clients.try_for_each(|client| write_consumer(out, client, now))?;
    channel.relays.iter().try_for_each(|link| write_link(out, link))
}

/// The latencies of the quantiles, as nsqd prints them for people.
fn percentiles(latency: Option<&Latency>) -> String {
    let shown = latency.into_iter().flat_map(|latency| &latency.quantiles).map(|(_, value)| {
        let (mut value, mut unit) = (*value as f64, "ns");
        for larger in ["us", "ms", "s"] {
            if value > 1000.0 {
                (value, unit) = (value / 1000.0, larger);
            }
        }
        format!("{value:.1}{unit}")
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn write_consumer(out: &mut String, client: &ClientStats, now: SystemTime) -> fmt::Result {
    writeln!(
        out,
        "        [V2 {:<21}] state: {} inflt: {:<4} rdy: {:<4} fin: {:<8} re-q: {:<8} msgs: {:<8} connected: {}",
        identity(client),
        client.state,
        client.in_flight_count,
        client.ready_count,
        client.finish_count,
        client.requeue_count,
        client.message_count,
        connected(client, now),
    )
}

/// What comes from another node: in the columns of a consumer, whose reverse it is.
fn write_link(out: &mut String, link: &LinkReport) -> fmt::Result {
    writeln!(
        out,
        "        [relay {:<18}] state: {} inflt: {:<4} credit: {:<4} fin: {:<8} waiting: {:<8} msgs: {:<8} \
         rtt: {} node: {}",
        link.address,
        link.state,
        link.in_flight,
        link.credit,
        link.finished,
        link.waiting,
        link.received,
        link.rtt.map_or_else(|| "-".to_owned(), |rtt| GoDuration(rtt).to_string()),
        link.node,
    )
}

fn write_producer(out: &mut String, client: &ClientStats, now: SystemTime) -> fmt::Result {
    let total: u64 = client.pub_counts.iter().map(|(_, count)| count).sum();
    let topics: Vec<_> = client.pub_counts.iter().map(|(topic, count)| format!("{topic}={count}")).collect();
    writeln!(
        out,
        "   [V2 {:<21}] msgs: {total:<8} topics: {} connected: {}",
        identity(client),
        topics.join(","),
        connected(client, now),
    )
}

/// Host, port and user agent, of which a client says the first and the last itself: control characters in
/// them would be obeyed by the reader's terminal.
fn identity(client: &ClientStats) -> String {
    let port = client.remote_address.rsplit_once(':').map_or("", |(_, port)| port);
    let said = format!("{}:{port} {}", client.hostname, client.user_agent);
    said.replace(char::is_control, "\u{fffd}")
}

fn connected(client: &ClientStats, now: SystemTime) -> GoDuration {
    let since = now.duration_since(client.connected).unwrap_or_default();
    GoDuration(Duration::from_secs(since.as_secs()))
}

/// A duration as Go prints one: `7m8.766760254s`, `1.5ms`, `0s`.
struct GoDuration(Duration);

impl Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let nanos = self.0.subsec_nanos();
        if seconds == 0 {
            return match nanos {
                0 => f.write_str("0s"),
                1..1_000 => write!(f, "{nanos}ns"),
                1_000..1_000_000 => write!(f, "{}µs", decimal(u64::from(nanos), 3)),
                _ => write!(f, "{}ms", decimal(u64::from(nanos), 6)),
            };
        }
        if seconds >= 3600 {
            write!(f, "{}h", seconds / 3600)?;
        }
        if seconds >= 60 {
            write!(f, "{}m", seconds / 60 % 60)?;
        }
        write!(f, "{}s", decimal(seconds % 60 * 1_000_000_000 + u64::from(nanos), 9))
    }
}

/// `value / 10^places`, without trailing zeros.
fn decimal(value: u64, places: u32) -> String {
    let scale = 10_u64.pow(places);
    let fraction = format!("{:0width$}", value % scale, width = places as usize);
    let text = format!("{}.{fraction}", value / scale);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::stats::example;

    #[test]
    fn latencies_have_the_unit_that_suits_them() {
        let quantiles = vec![(1.0, 2_500_000_000), (0.99, 3_440_000), (0.95, 1_500), (0.5, 0)];
        assert_eq!(percentiles(Some(&Latency { count: 9, quantiles })), "2.5s, 3.4ms, 1.5us, 0.0ns");
        assert_eq!(percentiles(None), "");
    }

    #[test]
    fn the_whole_text_is_as_nsqd_prints_it() {
        let expected = "\
nsqd v1.3.0 (built w/bruit VERSION)
start_time 2026-11-21T06:26:44Z
uptime 7m8.766760254s

Health: OK

Memory:
   heap_objects             \t0
   heap_idle_bytes          \t0
   heap_in_use_bytes        \t0
   heap_released_bytes      \t0
   gc_pause_usec_100        \t0
   gc_pause_usec_99         \t0
   gc_pause_usec_95         \t0
   next_gc_bytes            \t0
   gc_total_runs            \t0

Topics:
   [t              ] depth: 0     be-depth: 0     msgs: 1001     e2e%: 
   *P [s                        ] depth: 7     be-depth: 0     inflt: 216  def: 0    re-q: 0     timeout: 0     msgs: 1001     e2e%: 
        [V2 h2:46524 u/2         ] state: 3 inflt: 1    rdy: 1    fin: 0        re-q: 0        msgs: 1        connected: 1m1s

Producers:
   [V2 h1:46508 u/1         ] msgs: 3        topics: t=3 connected: 1m1s
";
        let shown = render(&example::snapshot());
        assert_eq!(shown, expected.replace("VERSION", BRUIT_VERSION));
    }

    #[test]
    fn a_link_is_a_line_below_the_consumers() {
        let mut snapshot = example::snapshot();
        let mut unmeasured = example::link();
        unmeasured.rtt = None;
        snapshot.topics.as_mut().unwrap()[0].channels[0].relays = vec![example::link(), unmeasured];
        let shown = render(&snapshot);
        let lines: Vec<&str> = shown.lines().skip_while(|line| !line.contains("[V2 h2:")).collect();
        assert_eq!(
            lines[1],
            "        [relay 127.0.0.1:4161    ] state: open inflt: 3    credit: 50   fin: 17       waiting: 4        \
             msgs: 20       rtt: 180µs node: 0000000000000002"
        );
        assert!(lines[2].contains(" rtt: - node: "), "{}", lines[2]);
    }

    #[test]
    fn empty_sections_say_none() {
        let mut snapshot = example::snapshot();
        snapshot.topics = None;
        snapshot.producers = None;
        snapshot.memory = false;
        let shown = render(&snapshot);
        assert!(shown.ends_with("\nHealth: OK\n\nTopics: None\n\nProducers: None\n"), "{shown}");
    }

    #[test]
    fn what_clients_say_of_themselves_cannot_steer_a_terminal() {
        let mut snapshot = example::snapshot();
        snapshot.producers.as_mut().unwrap()[0].user_agent = "\x1b[2J\nx".to_owned();
        assert!(render(&snapshot).contains("[V2 h1:46508 \u{fffd}[2J\u{fffd}x"));
    }

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for (nanos, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (1_000_000, "1ms"),
            (999_999_999, "999.999999ms"),
            (1_000_000_000, "1s"),
            (10_050_000_000, "10.05s"),
            (60_000_000_000, "1m0s"),
            (3_600_000_000_001, "1h0m0.000000001s"),
            (90_061_000_000_000, "25h1m1s"),
        ] {
            assert_eq!(GoDuration(Duration::from_nanos(nanos)).to_string(), expected);
        }
    }
}
