//! `bruit bench e2e`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;

use super::{
    ServerArgs, clock,
    consumer::{Arrivals, Consumed, Consumer},
    dialect::Protocol,
    join_all,
    latency::Latencies,
    pace::Schedule,
    process::Meter,
    publisher::{PublishArgs, Published, Publisher},
    report::Report,
    tally::Tally,
};

/// How often acknowledgements are looked for, as it is not they that are timed.
const ANSWER_PAUSE: Duration = Duration::from_millis(2);

/// Publishes at a rate and measures from the time at which each message was due until it arrives, so that a
/// server (or a generator) that falls behind is not flattered.
#[derive(Debug, Args)]
pub(super) struct E2eArgs {
    #[command(flatten)]
    pub(super) server: ServerArgs,
    /// Where the consumers connect, if not where messages are published: another node of the mesh
    #[arg(long, value_name = "HOST:PORT")]
    consume_from: Option<String>,
    /// Topic; a new one unless it is given
    #[arg(long)]
    topic: Option<String>,
    /// Messages a second
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: u64,
    /// How long to measure
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// How long to run before measuring
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = humantime::parse_duration)]
    warm_up: Duration,
    /// Bytes of a message's body (32 or more)
    #[arg(long, default_value_t = 200, value_name = "BYTES")]
    size: usize,
    /// Connections that publish, in turn
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: u32,
    /// Messages that may be in flight to the consumer
    #[arg(long, default_value_t = 2500, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rdy: u64,
    /// How long nothing may come before the rest counts as missing
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = humantime::parse_duration)]
    idle_timeout: Duration,
}

/// Does it and says what was found.
///
/// # Errors
/// The server cannot be reached, refuses, or goes away.
pub(super) fn measure(args: &E2eArgs) -> Result<Report> {
    let run = clock::run_id();
    let topic = args.topic.clone().unwrap_or_else(|| format!("bench-{run:08x}"));
    let total = ((args.warm_up + args.duration).as_secs_f64() * args.rate as f64) as u64;
    let measured = (args.duration.as_secs_f64() * args.rate as f64) as u64;
    ensure!(measured > 0, "--rate and --duration leave no message to measure");
    let publish = PublishArgs {
        size: args.size,
        connections: args.connections,
        batch: 1,
        pipeline: 1000,
        write_each: false,
        tls: false,
    };
    let address = &args.server.nsqd_tcp_address;
    let arrivals = Arrivals::new(total, args.idle_timeout);
    let consume_from = args.consume_from.as_ref().unwrap_or(address);
    let consumer = Consumer::open(consume_from, (&topic, "bench"), args.rdy, Some(run), &arrivals)?;
    let publishers = publish.open(address, Protocol::Nsq, &topic, run)?;
    let outcome = exchange(args, publishers, publish.shares(total), consumer, &arrivals)?;

    let E2eArgs { rate, size, rdy, warm_up, .. } = args;
    let what = format!("PUB, {size} B, {rate} a second, RDY {rdy}, after a warm-up of {warm_up:?}");
    let seconds = outcome
        .consumed
        .last
        .map_or(Duration::ZERO, |last| last.saturating_duration_since(outcome.measured_from));
    let mut report = Report::new("e2e", what, (measured, "message"), seconds.as_secs_f64(), &outcome.meter)?;
    report.latency = outcome.latencies.summary();
    report.latency_is = "due time to arrival";
    report.lateness = outcome.published.lateness.summary();
    let mut tally = Tally::new(Some(run), 0);
    tally.merge(outcome.consumed.tally);
    report.add_channel(tally.verdict(Some(total)));
    Ok(report)
}

struct Outcome {
    published: Published,
    consumed: Consumed,
    latencies: Latencies,
    meter: Meter,
    measured_from: Instant,
}

fn exchange(
    args: &E2eArgs,
    publishers: Vec<Publisher>,
    shares: Vec<u64>,
    consumer: Consumer,
    arrivals: &Arrivals,
) -> Result<Outcome> {
    // The threads need a moment to start; without it the first messages would be late.
    let start = clock::now() + Duration::from_millis(50);
    let measured_from = start + args.warm_up;
    std::thread::scope(|scope| {
        let consuming = scope.spawn(move || {
            let mut latencies = Latencies::new();
            let consumed = consumer.drain(|stamp, at| {
                let due = start + Duration::from_nanos(stamp.intended_ns);
                if due >= measured_from {
                    latencies.record(at.saturating_duration_since(due), 1);
                }
            })?;
            Ok((consumed, latencies))
        });
        let connections = u64::from(args.connections);
        let publish = |(connection, (publisher, share)): (usize, (Publisher, u64))| {
            let connection = connection as u64;
            let schedule = Schedule { rate: args.rate, batch: 1, connections, connection };
            scope.spawn(move || publisher.publish_paced(schedule, share, start, ANSWER_PAUSE))
        };
        let publishing = publishers.into_iter().zip(shares).enumerate().map(publish).collect();
        clock::sleep_until(measured_from, false);
        let meter = Meter::start(&args.server.pid);
        let published = join_all(publishing);
        if published.is_err() {
            arrivals.stop();
        }
        let (consumed, latencies) = join_all(vec![consuming])?.remove(0);
        Ok(Outcome {
            published: Published::total(published?),
            consumed,
            latencies,
            meter: meter?,
            measured_from,
        })
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{
        super::fake_broker::{FakeBroker, Fault},
        *,
    };

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: E2eArgs,
    }

    fn measured(fault: Fault) -> Report {
        let broker = FakeBroker::start(fault);
        let line = "e2e --rate 2000 --duration 200ms --warm-up 100ms --idle-timeout 300ms --connections 2";
        let address = ["--nsqd-tcp-address", &broker.address];
        measure(&Line::parse_from(line.split(' ').chain(address)).args).unwrap()
    }

    #[test]
    fn every_message_after_the_warm_up_is_timed() {
        let report = measured(Fault::None);
        assert_eq!(report.faults, [""; 0]);
        assert_eq!((report.count, report.channels[0].distinct), (400, 600));
        let latency = report.latency.unwrap();
        assert_eq!(latency.count, 400);
        assert!(latency.p50_us <= latency.p99_us && latency.p99_us <= latency.max_us, "{latency}");
        assert_eq!(report.lateness.unwrap().count, 600);
    }

    #[test]
    fn lost_messages_are_told() {
        assert_eq!(measured(Fault::Lose).channels[0].missing, 60);
    }
}
