//! `bruit bench pub`.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use super::{
    ServerArgs, clock,
    dialect::Protocol,
    join_all,
    pace::Schedule,
    process::Meter,
    publisher::{PublishArgs, Published, Publisher, Volume},
    report::Report,
};

/// Publishes as fast as acknowledgements come, or at a rate.
#[derive(Debug, Args)]
pub(super) struct PubArgs {
    #[command(flatten)]
    pub(super) server: ServerArgs,
    #[command(flatten)]
    publish: PublishArgs,
    /// Topic, or stream, to publish to
    #[arg(long, default_value = "bench")]
    topic: String,
    /// Messages to publish, rounded up to whole commands
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    count: u64,
    /// Publishes for this long instead
    #[arg(long, conflicts_with = "count", value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Messages a second over all connections, sent when due however slow the server is (--pipeline then does
    /// not apply); latencies count from the due time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// What the server speaks
    #[arg(long, value_enum, default_value_t = Protocol::Nsq)]
    protocol: Protocol,
}

/// Does it and says what was found.
///
/// # Errors
/// The server cannot be reached, refuses a message, or goes away.
pub(super) fn measure(args: &PubArgs) -> Result<Report> {
    let address = &args.server.nsqd_tcp_address;
    let mut publishers = args.publish.open(address, args.protocol, &args.topic, clock::run_id())?;
    // The protocols that can tell are asked before and after: all that is acknowledged must be there.
    let held_before = publishers[0].held()?;
    let meter = Meter::start(&args.server.pid)?;
    let start = clock::now();
    let published = Published::total(publish_all(args, publishers, start)?);
    let seconds = published.last.saturating_duration_since(start).as_secs_f64();
    let mut report = Report::new("pub", describe(args), (published.messages, "message"), seconds, &meter)?;
    report.latency = published.latencies.summary();
    report.latency_is =
        if args.rate.is_some() { "due time to acknowledgement" } else { "command to acknowledgement" };
    report.lateness = published.lateness.summary();
    if let Some(before) = held_before {
        let mut asking = args.publish.open(address, args.protocol, &args.topic, 0)?;
        let after = asking[0].held()?.unwrap_or_default();
        let expected = before + published.messages;
        if after != expected {
            report.faults.push(format!("the server holds {after} messages where {expected} are due"));
        }
    }
    Ok(report)
}

fn publish_all(args: &PubArgs, publishers: Vec<Publisher>, start: Instant) -> Result<Vec<Published>> {
    let batch = u64::from(args.publish.batch);
    let connections = u64::from(args.publish.connections);
    let count = match (args.duration, args.rate) {
        (Some(duration), Some(rate)) => (duration.as_secs_f64() * rate as f64) as u64,
        _ => args.count,
    };
    let shares = args.publish.shares(count);
    std::thread::scope(|scope| {
        let spawn = |(connection, publisher): (usize, Publisher)| {
            let (share, connection) = (shares[connection], connection as u64);
            scope.spawn(move || match (args.rate, args.duration) {
                (Some(rate), _) => {
                    let schedule = Schedule { rate, batch, connections, connection };
                    publisher.publish_paced(schedule, share, start, Duration::ZERO)
                }
                (None, Some(duration)) => publisher.publish(Volume::Until(start + duration)),
                (None, None) => publisher.publish(Volume::Commands(share)),
            })
        };
        join_all(publishers.into_iter().enumerate().map(spawn).collect())
    })
}

fn describe(args: &PubArgs) -> String {
    let PublishArgs { size, connections, batch, pipeline, write_each, tls } = &args.publish;
    let command = match (args.protocol, batch) {
        (Protocol::Nsq, 1) => "PUB".to_owned(),
        (Protocol::Nsq, _) => format!("MPUB x{batch}"),
        (Protocol::Redis, _) => "XADD".to_owned(),
        (Protocol::Nats, _) => "JetStream PUB".to_owned(),
    };
    let pace =
        args.rate.map_or_else(|| format!("{pipeline} in flight each"), |rate| format!("{rate} a second"));
    let writes = if *write_each { ", one write each" } else { "" };
    let tls = if *tls { ", TLS" } else { "" };
    format!("{command}, {size} B, {connections} connections, {pace}{writes}{tls}")
}
