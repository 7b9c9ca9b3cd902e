//! `bruit bench flow`.

use std::{
    process::ExitCode,
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
    server: ServerArgs,
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

/// Runs the benchmark.
///
/// # Errors
/// The server cannot be reached, refuses, or goes away.
pub(super) fn run(args: &FlowArgs) -> Result<ExitCode> {
    let run = clock::run_id();
    let topic = args.topic.clone().unwrap_or_else(|| format!("bench-{run:08x}"));
    let shares = args.publish.shares(args.count);
    let messages = shares.iter().sum::<u64>() * u64::from(args.publish.batch);
    let channels = open_channels(args, &topic, run, messages)?;
    let publishers = args.publish.open(&args.server.nsqd_tcp_address, Protocol::Nsq, &topic, run)?;
    let meter = Meter::start(args.server.pid)?;
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
    report.print(args.server.json)
}

/// Subscribes to every channel before anything is published, so that each receives everything.
fn open_channels(args: &FlowArgs, topic: &str, run: u32, messages: u64) -> Result<Vec<Channel>> {
    (0..args.channels)
        .map(|number| {
            let arrivals = Arrivals::new(messages, args.idle_timeout);
            let channel = format!("bench-{number}");
            let open = |_| {
                let address = &args.server.nsqd_tcp_address;
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
