//! `bruit dev`: a mesh of several nodes in one process on loopback, to try things with.

mod demonstration;
mod nodes;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::{runtime::Builder, select};

use self::nodes::{Nodes, Place};
use super::{FAILED, log, serve, table::Table};
use crate::{Limits, Ready};

/// Arguments of `bruit dev`.
#[derive(Debug, Args)]
#[command(
    after_help = "The nodes are whole ones: each has a journal of its own and talks to the others by gossip and \
    QUIC, as on machines of their own. Ports are free ones, on 127.0.0.1 only.\n\
    At first a message is published on the first node and found through the last, and each step is shown with \
    the time it took."
)]
pub(super) struct DevArgs {
    /// How many nodes, 1 to 32
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=32))]
    nodes: u16,
    /// Keep the messages here; without it, in a temporary directory that goes when the nodes do
    #[arg(long, value_name = "DIR")]
    data_path: Option<PathBuf>,
    /// End after the demonstration, with exit code 1 if it failed
    #[arg(long)]
    once: bool,
    /// What the nodes log: debug, info, warn, error or fatal
    #[arg(long, value_name = "LEVEL", default_value = "warn",
          value_parser = ["debug", "info", "warn", "error", "fatal"])]
    log_level: String,
}

/// Runs a mesh until a signal stops it.
///
/// # Errors
/// Nodes that cannot start, and with `--once` whatever kept the demonstration from succeeding.
pub(super) fn run(args: &DevArgs) -> anyhow::Result<ExitCode> {
    let set_level = log::start(&args.log_level, None);
    let mut limits = Limits::default();
    serve::keep_descriptors(&mut limits);
    limits.max_connections = (limits.max_connections / usize::from(args.nodes)).max(1);
    let background = serve::background()?;
    let stopping = serve::watch_signals(&background).context("cannot listen to signals")?;

    let place = Place::new(args.data_path.as_deref())?;
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        let mut nodes =
            Nodes::start(args.nodes, &place, limits, &set_level, background.handle().clone()).await?;
        let ready = nodes.ready().to_vec();
        let outcome = select! {
            biased;
            // Nobody asks for a stop when the sender is gone.
            _ = stopping => Ok(ExitCode::SUCCESS),
            died = nodes.died() => Err(died),
            shown = show(args, &ready, &place) => shown,
        };
        nodes.stop().await;
        outcome
    });
    background.shutdown_timeout(serve::LAST_OPERATIONS);
    outcome
}

/// Shows the nodes and what they can do, and then waits for ever unless `--once` was asked for.
async fn show(args: &DevArgs, nodes: &[Ready], place: &Place) -> anyhow::Result<ExitCode> {
    let count = args.nodes;
    println!("{count} nodes in one process, {place}\n\n{}", addresses(nodes)?);
    let outcome = demonstration::run(nodes).await;
    if args.once {
        return outcome.map(|()| ExitCode::SUCCESS);
    }
    if let Err(error) = outcome {
        // The nodes may still be what is needed to find out why.
        eprintln!("bruit: the demonstration failed: {error:#}");
    }
    print!("{}", ideas(nodes)?);
    // Whoever reads this does not wait for the buffer to fill.
    if std::io::stdout().flush().is_err() {
        return Ok(ExitCode::from(FAILED));
    }
    std::future::pending().await
}

fn addresses(nodes: &[Ready]) -> anyhow::Result<String> {
    let mut table = Table::new(&["NODE", "ID", "TCP", "HTTP", "GOSSIP (UDP)", "QUIC (UDP)"]);
    for (number, ready) in (1..).zip(nodes) {
        let http = ready.http_address.ok_or_else(nothing_there)?;
        let mesh = ready.mesh.as_ref().ok_or_else(nothing_there)?;
        table.row([
            number.to_string(),
            ready.node_id.to_string(),
            ready.tcp_address.to_string(),
            http.to_string(),
            mesh.gossip.to_string(),
            mesh.mesh.to_string(),
        ]);
    }
    Ok(table.render())
}

/// Commands to paste.
fn ideas(nodes: &[Ready]) -> anyhow::Result<String> {
    let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else {
        return Err(nothing_there());
    };
    let http = last.http_address.ok_or_else(nothing_there)?;
    let (tcp, topic) = (first.tcp_address, demonstration::TOPIC);
    Ok(format!(
        "\nTry, in another terminal:\n\
        \x20 bruit members --http-address {http}\n\
        \x20 seq 1000 | bruit pub {topic} --nsqd-tcp-address {tcp}\n\
        \x20 bruit lookup {topic} --http-address {http}\n\
        \x20 bruit tail {topic} --lookup {http}\n\
        \x20 curl 'http://{http}/lookup?topic={topic}'\n\
         or give {http} to any NSQ consumer as its lookupd address. Ctrl-C ends the mesh.\n"
    ))
}

fn nothing_there() -> anyhow::Error {
    anyhow!("a node runs without the addresses that it was told to take, which only a bug makes it do")
}
