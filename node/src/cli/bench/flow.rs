//! `bruit bench flow`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;

use super::{
    ServerArgs, clock,
    consumer::{Arrivals, Consumed, Consumer},
    dialect::Protocol,
    join_all,
    process::Meter,
    publisher::{PublishArgs, Published, Publisher, Volume},
    report::Report,
    tally::Tally,
};

/// Publishes and consumes at once until all has arrived everywhere. Figures are per published message,
/// however many channels deliver it.
#[derive(Debug, Args)]
pub(super) struct FlowArgs {
    #[command(flatten)]
    pub(super) server: ServerArgs,
    /// Where the consumers connect, if not where messages are published: another node of the mesh
    #[arg(long, value_name = "HOST:PORT")]
    consume_from: Option<String>,
    #[command(flatten)]
    publish: PublishArgs,
    /// Topic; a new one unless it is given
    #[arg(long)]
    topic: Option<String>,
    /// Channels, each of which receives every message
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    channels: u32,
    /// Connections that consume each channel
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    consumers: u32,
    /// Messages that may be in flight to each consumer
    #[arg(long, default_value_t = 2500, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rdy: u64,
    /// Messages to publish, rounded up to whole commands
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    count: u64,
    /// How long nothing may come before the rest counts as missing
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = humantime::parse_duration)]
    idle_timeout: Duration,
}

/// One channel and those who consume it.
struct Channel {
    arrivals: Arc<Arrivals>,
    consumers: Vec<Consumer>,
}

/// Does it and says what was found.
///
/// # Errors
/// The server cannot be reached, refuses, or goes away.
pub(super) fn measure(args: &FlowArgs) -> Result<Report> {
    let run = clock::run_id();
    let topic = args.topic.clone().unwrap_or_else(|| format!("bench-{run:08x}"));
    let shares = args.publish.shares(args.count);
    let messages = shares.iter().sum::<u64>() * u64::from(args.publish.batch);
    let channels = open_channels(args, &topic, run, messages)?;
    let publishers = args.publish.open(&args.server.nsqd_tcp_address, Protocol::Nsq, &topic, run)?;
    let meter = Meter::start(&args.server.pid)?;
    let start = clock::now();
    let (published, consumed) = exchange(publishers, &shares, channels)?;
    let last = consumed.iter().flatten().filter_map(|consumed| consumed.last).max().unwrap_or(start);
    let seconds = last.saturating_duration_since(start).as_secs_f64();
    let mut report = Report::new("flow", describe(args), (messages, "message"), seconds, &meter)?;
    report.latency = published.latencies.summary();
    report.latency_is = "command to acknowledgement";
    for consumed in consumed {
        let mut tally = Tally::new(Some(run), 0);
        consumed.into_iter().for_each(|consumed| tally.merge(consumed.tally));
        report.add_channel(tally.verdict(Some(messages)));
    }
    Ok(report)
}

/// Subscribes to every channel before anything is published, so that each receives everything.
fn open_channels(args: &FlowArgs, topic: &str, run: u32, messages: u64) -> Result<Vec<Channel>> {
    (0..args.channels)
        .map(|number| {
            let arrivals = Arrivals::new(messages, args.idle_timeout);
            let channel = format!("bench-{number}");
            let open = |_| {
                let address = args.consume_from.as_ref().unwrap_or(&args.server.nsqd_tcp_address);
                Consumer::open(address, (topic, &channel), args.rdy, Some(run), &arrivals)
            };
            let consumers = (0..args.consumers).map(open).collect::<Result<_>>()?;
            Ok(Channel { arrivals, consumers })
        })
        .collect()
}

/// Lets everybody loose and waits until all has arrived. The consumed are grouped by channel.
fn exchange(
    publishers: Vec<Publisher>,
    shares: &[u64],
    channels: Vec<Channel>,
) -> Result<(Published, Vec<Vec<Consumed>>)> {
    let arrivals: Vec<_> = channels.iter().map(|channel| Arc::clone(&channel.arrivals)).collect();
    std::thread::scope(|scope| {
        let consuming: Vec<Vec<_>> = channels
            .into_iter()
            .map(|channel| {
                let drain = |consumer: Consumer| scope.spawn(move || consumer.drain(|_, _: Instant| ()));
                channel.consumers.into_iter().map(drain).collect()
            })
            .collect();
        let publish = |(publisher, share): (Publisher, &u64)| {
            let share = *share;
            scope.spawn(move || publisher.publish(Volume::Commands(share)))
        };
        let published = join_all(publishers.into_iter().zip(shares).map(publish).collect());
        if published.is_err() {
            arrivals.iter().for_each(|arrivals| arrivals.stop());
        }
        let consumed: Vec<_> = consuming.into_iter().map(join_all).collect();
        Ok((Published::total(published?), consumed.into_iter().collect::<Result<_>>()?))
    })
}

fn describe(args: &FlowArgs) -> String {
    let PublishArgs { size, connections, batch, pipeline, .. } = &args.publish;
    let command = if *batch == 1 { "PUB".to_owned() } else { format!("MPUB x{batch}") };
    let (channels, consumers, rdy) = (args.channels, args.consumers, args.rdy);
    format!(
        "{command}, {size} B, {connections} publishers with {pipeline} in flight each, to {channels} channels \
         with {consumers} consumers of RDY {rdy} each"
    )
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
        args: FlowArgs,
    }

    fn flow(fault: Fault, line: &str) -> Report {
        let broker = FakeBroker::start(fault);
        let fixed = ["flow", "--nsqd-tcp-address", &broker.address, "--idle-timeout", "300ms"];
        measure(&Line::parse_from(fixed.into_iter().chain(line.split(' '))).args).unwrap()
    }

    #[test]
    fn an_honest_broker_passes_on_every_channel() {
        for line in ["--count 1000 --channels 3", "--count 1000 --batch 7 --pipeline 2 --write-each"] {
            let report = flow(Fault::None, line);
            assert_eq!(report.faults, [""; 0], "{line}");
            assert!(report.count >= 1000 && report.per_second > 0.0);
            for channel in &report.channels {
                assert_eq!((channel.distinct, channel.received), (report.count, report.count));
                assert_eq!(channel.publishers.len(), 2);
            }
        }
    }

    #[test]
    fn a_broker_that_breaks_its_promise_is_found_out() {
        for (fault, missing, repeated, damaged, shared_ids) in [
            (Fault::Lose, 10, 0, 0, 0),
            (Fault::Repeat, 0, 10, 0, 0),
            (Fault::Damage, 10, 0, 10, 0),
            (Fault::SameId, 0, 0, 0, 10),
        ] {
            let report = flow(fault, "--count 100 --batch 10 --connections 1");
            let channel = &report.channels[0];
            assert_eq!(
                (channel.missing, channel.repeated, channel.damaged, channel.shared_ids),
                (missing, repeated, damaged, shared_ids),
                "{fault:?}"
            );
            assert_eq!(report.faults.len(), 1, "{fault:?}");
        }
    }
}
