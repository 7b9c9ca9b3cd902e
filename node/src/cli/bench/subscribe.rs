//! `bruit bench sub`.

use std::{process::ExitCode, time::Duration};

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
    server: ServerArgs,
    /// Topic to consume
    #[arg(long, default_value = "bench")]
    topic: String,
    /// Channel to consume
    #[arg(long, default_value = "bench")]
    channel: String,
    /// Messages that may be in flight to each connection
    #[arg(long, default_value_t = 2500, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rdy: u64,
    /// Connections that consume, each on a thread of its own
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Messages to wait for; without it, until none comes any more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How long nothing may come before the rest counts as missing
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = humantime::parse_duration)]
    idle_timeout: Duration,
}

/// Runs the benchmark.
///
/// # Errors
/// The server cannot be reached, refuses, or goes away.
pub(super) fn run(args: &SubArgs) -> Result<ExitCode> {
    let arrivals = Arrivals::new(args.count.unwrap_or(u64::MAX), args.idle_timeout);
    let consumers: Vec<Consumer> = (0..args.connections)
        .map(|_| {
            let address = &args.server.nsqd_tcp_address;
            Consumer::open(address, (&args.topic, &args.channel), args.rdy, None, &arrivals)
        })
        .collect::<Result<_>>()?;
    let meter = Meter::start(args.server.pid)?;
    let start = clock::now();
    let consumed = std::thread::scope(|scope| {
        let spawn = |consumer: Consumer| scope.spawn(move || consumer.drain(|_, _| ()));
        join_all(consumers.into_iter().map(spawn).collect())
    })?;
    let last = consumed.iter().filter_map(|consumed| consumed.last).max().unwrap_or(start);
    let mut tally = Tally::new(None, 0);
    consumed.into_iter().for_each(|consumed| tally.merge(consumed.tally));
    let verdict = tally.verdict(args.count);
    let SubArgs { topic, channel, connections, rdy, .. } = args;
    let what = format!("{topic}/{channel}, {connections} connections, RDY {rdy} each, FIN for each message");
    let seconds = last.saturating_duration_since(start).as_secs_f64();
    let mut report = Report::new("sub", what, (verdict.distinct, "message"), seconds, &meter)?;
    report.add_channel(verdict);
    report.print(args.server.json)
}
