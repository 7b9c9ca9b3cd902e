//! `bruit bench sub`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{
    ServerArgs, clock,
    consumer::{Arrivals, Consumer},
    join_all,
    process::Meter,
    report::Report,
    tally::Tally,
};

/// Drains a channel and checks what comes.
#[derive(Debug, Args)]
pub(super) struct SubArgs {
    #[command(flatten)]
    pub(super) server: ServerArgs,
    /// Topic to consume
    #[arg(long, default_value = "bench")]
    topic: String,
    /// Channel to consume
    #[arg(long, default_value = "bench")]
    channel: String,
    /// Messages that may be in flight to each connection
    #[arg(long, default_value_t = 2500, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rdy: u64,
    /// One more server to consume from, as clients do that look up all producers; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    and_from: Vec<String>,
    /// Connections that consume from each server, each on a thread of its own
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Messages to wait for; without it, until none comes any more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How long nothing may come before the rest counts as missing
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = humantime::parse_duration)]
    idle_timeout: Duration,
}

/// Does it and says what was found.
///
/// # Errors
/// The server cannot be reached, refuses, or goes away.
pub(super) fn measure(args: &SubArgs) -> Result<Report> {
    let arrivals = Arrivals::new(args.count.unwrap_or(u64::MAX), args.idle_timeout);
    let servers = std::iter::once(&args.server.nsqd_tcp_address).chain(&args.and_from);
    let consumers: Vec<Consumer> = servers
        .flat_map(|address| (0..args.connections).map(move |_| address))
        .map(|address| Consumer::open(address, (&args.topic, &args.channel), args.rdy, None, &arrivals))
        .collect::<Result<_>>()?;
    let meter = Meter::start(&args.server.pid)?;
    let start = clock::now();
    let consumed = std::thread::scope(|scope| {
        let spawn = |consumer: Consumer| scope.spawn(move || consumer.drain(|_, _| ()));
        join_all(consumers.into_iter().map(spawn).collect())
    })?;
    let last = consumed.iter().filter_map(|consumed| consumed.last).max().unwrap_or(start);
    let mut tally = Tally::new(None, 0);
    consumed.into_iter().for_each(|consumed| tally.merge(consumed.tally));
    let verdict = tally.verdict(args.count);
    let SubArgs { topic, channel, rdy, .. } = args;
    let connections = args.connections as usize * (1 + args.and_from.len());
    let what = format!("{topic}/{channel}, {connections} connections, RDY {rdy} each, FIN for each message");
    let seconds = last.saturating_duration_since(start).as_secs_f64();
    let mut report = Report::new("sub", what, (verdict.distinct, "message"), seconds, &meter)?;
    report.add_channel(verdict);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{
        super::{
            fake_broker::{FakeBroker, Fault},
            publish,
        },
        *,
    };

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SubArgs,
    }

    #[derive(Parser)]
    struct PubLine {
        #[command(flatten)]
        args: publish::PubArgs,
    }

    fn drained(fault: Fault, line: &str) -> Report {
        let broker = FakeBroker::start(fault);
        let address = ["--nsqd-tcp-address", &broker.address];
        let publish = "pub --count 1000 --batch 50".split(' ').chain(address);
        let published = publish::measure(&PubLine::parse_from(publish).args).unwrap();
        assert_eq!(published.count, 1000);
        assert_eq!(published.latency.unwrap().count, 20);
        measure(&Line::parse_from(line.split(' ').chain(address)).args).unwrap()
    }

    #[test]
    fn a_backlog_is_drained_and_whole() {
        for line in ["sub --count 1000", "sub --idle-timeout 300ms"] {
            let report = drained(Fault::None, line);
            assert_eq!((report.count, &report.channels[0].publishers), (1000, &vec![500, 500]), "{line}");
            assert_eq!(report.faults, [""; 0]);
        }
    }

    #[test]
    fn what_is_missing_of_a_backlog_is_told_with_and_without_a_count() {
        // Of the last publisher the last message may be among the lost, which is no gap.
        let counted = drained(Fault::Lose, "sub --count 1000 --idle-timeout 300ms");
        assert_eq!(counted.channels[0].missing, 100);
        let open = drained(Fault::Lose, "sub --idle-timeout 300ms");
        assert!((98..=100).contains(&open.channels[0].missing), "{:?}", open.channels);
        assert_eq!((counted.faults.len(), open.faults.len()), (1, 1));
    }
}
