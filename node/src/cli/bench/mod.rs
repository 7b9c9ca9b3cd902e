//! `bruit bench`: a load generator for every server that speaks NSQ, and the ceilings to hold results against.
//!
//! The same client measures every server, with as little CPU of its own as it can, because client and server
//! share the machine. Every message carries its identity, and every run checks that all arrived, once and
//! whole: a number of a run that lost messages is not a number.
//!
//! Start reading at `publisher` and `consumer`, the two kinds of connection; the commands are put together
//! from them.

mod body;
mod clock;
mod consumer;
mod dialect;
mod disk;
mod e2e;
#[cfg(test)]
mod fake_broker;
mod flow;
mod idle;
mod latency;
mod nats;
mod nsq;
mod null;
mod pace;
mod process;
mod publish;
mod publisher;
mod redis;
mod report;
mod socket;
mod subscribe;
mod tally;
mod tls;

use std::{process::ExitCode, thread::ScopedJoinHandle};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};

/// Measures a server, or what this machine could do at best.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    bench: Bench,
}

impl BenchArgs {
    /// Whether it publishes by connections that may be encrypted.
    pub(super) const fn may_encrypt(&self) -> bool {
        matches!(self.bench, Bench::Pub(_) | Bench::Flow(_))
    }
}

/// Runs a benchmark and prints its result on stdout.
///
/// The exit code is a failure when messages were lost, repeated without notice, or damaged.
///
/// # Errors
/// The server cannot be reached, refuses a command, or goes away.
pub(super) fn run(args: BenchArgs) -> Result<ExitCode> {
    match args.bench {
        Bench::Pub(args) => publish::measure(&args)?.print(args.server.json),
        Bench::Sub(args) => subscribe::measure(&args)?.print(args.server.json),
        Bench::Flow(args) => flow::measure(&args)?.print(args.server.json),
        Bench::E2e(args) => e2e::measure(&args)?.print(args.server.json),
        Bench::Idle(args) => idle::measure(&args)?.print(args.server.json),
        Bench::Null(args) => null::run(&args),
        Bench::Disk(args) => disk::run(&args),
    }
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Publishes as fast as acknowledgements come, or at a rate
    Pub(publish::PubArgs),
    /// Drains a channel and checks what comes
    Sub(subscribe::SubArgs),
    /// Publishes and consumes at once, over one or more channels, until all has arrived everywhere
    Flow(flow::FlowArgs),
    /// Publishes at a rate and measures the time from when each message was due to its arrival
    E2e(e2e::E2eArgs),
    /// Opens subscribers that receive nothing, and measures the memory that each one costs the server
    Idle(idle::IdleArgs),
    /// Runs a server that reads commands and keeps nothing: the ceiling of the protocol and the client
    Null(null::NullArgs),
    /// Writes and syncs batches in a loop: the ceiling of the disk
    Disk(disk::DiskArgs),
}

/// Which server, and how results are told.
#[derive(Debug, Clone, Args)]
struct ServerArgs {
    /// The server's address
    #[arg(long, default_value = "127.0.0.1:4150", value_name = "HOST:PORT")]
    nsqd_tcp_address: String,
    /// The server's process, on this machine: adds its CPU time and memory to the result. Repeated for a mesh:
    /// what all of them use
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Prints the result as one line of JSON
    #[arg(long)]
    json: bool,
}

/// The results of several threads, or the first error among them.
fn join_all<T>(threads: Vec<ScopedJoinHandle<'_, Result<T>>>) -> Result<Vec<T>> {
    // All are joined first: leaving the scope with an error would wait for them anyway.
    let results: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
    results.into_iter().map(|result| result.unwrap_or_else(|_| Err(anyhow!("a thread panicked")))).collect()
}
