//! `bruit bench idle`.

use std::time::Duration;

use anyhow::{Context, Result};
use bruit_wire::nsq::put_ready;
use clap::Args;

use super::{
    ServerArgs, clock, nsq,
    process::Meter,
    report::Report,
    socket::{Received, Socket},
};

/// Opens subscribers that receive nothing, and measures the memory that each one costs the server.
#[derive(Debug, Args)]
pub(super) struct IdleArgs {
    #[command(flatten)]
    pub(super) server: ServerArgs,
    /// Topic to subscribe to; a new one unless it is given
    #[arg(long)]
    topic: Option<String>,
    /// Subscribers; both processes need as many descriptors (`ulimit -n`)
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Messages that may be in flight to each
    #[arg(long, default_value_t = 2500, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rdy: u64,
    /// How long to stay idle before memory is read; less than two heartbeats
    #[arg(long, default_value = "3s", value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Duration,
}

/// Does it and says what was found.
///
/// # Errors
/// The server cannot be reached, refuses, or goes away.
pub(super) fn measure(args: &IdleArgs) -> Result<Report> {
    let topic = args.topic.clone().unwrap_or_else(|| format!("bench-{:08x}", clock::run_id()));
    let meter = Meter::start(&args.server.pid)?;
    let start = clock::now();
    let mut ready = Vec::new();
    put_ready(&mut ready, args.rdy);
    let mut sockets = (0..args.connections)
        .map(|number| {
            open(args, &topic, &ready).with_context(|| format!("subscriber {number} of {}", args.connections))
        })
        .collect::<Result<Vec<_>>>()?;
    let seconds = (clock::now() - start).as_secs_f64();
    clock::sleep_until(clock::now() + args.duration, false);
    let what = format!(
        "{} subscribers of one channel, then {:?} without a message",
        args.connections, args.duration
    );
    let mut report = Report::new("idle", what, (args.connections.into(), "subscriber"), seconds, &meter)?;
    // The last one answers for all: a server that has run out of something closes the newest first.
    if let Some(last) = sockets.last_mut()
        && last.receive()? == Received::Closed
    {
        report.faults.push("the server closed a subscriber".to_owned());
    }
    Ok(report)
}

fn open(args: &IdleArgs, topic: &str, ready: &[u8]) -> Result<Socket> {
    let mut socket = Socket::connect(&args.server.nsqd_tcp_address)?;
    nsq::subscribe(&mut socket, topic, "bench", args.rdy)?;
    socket.send(ready)?;
    socket.shrink();
    Ok(socket)
}
