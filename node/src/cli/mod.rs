//! The command line: reads arguments, calls the library, says what came of it.
//!
//! A node is `bruit serve`, or plain `bruit`. The other commands are clients of a node.

mod argv;
mod bench;
mod classic;
mod client;
mod config;
mod consumer;
mod dev;
#[cfg(test)]
mod fake_node;
mod http;
mod join;
mod journal;
mod key;
mod lines;
mod log;
mod lookup;
mod members;
mod publish;
mod serve;
mod settings;
mod stat;
mod table;
mod tail;
mod to_file;
mod to_http;
mod to_mesh;
mod upstreams;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::{client::AccessArgs, settings::Persona};

/// Exit code of a command that did not succeed.
const FAILED: u8 = 1;
/// Exit code of a command line or a setting that cannot be right.
const USAGE: u8 = 2;
/// Exit code when what was asked for does not exist.
const NOT_FOUND: u8 = 3;
/// Exit code of a command that could do only a part.
const IN_PART: u8 = 4;

/// A message queue that speaks NSQ and keeps what it acknowledged
#[derive(Debug, Parser)]
#[command(
    name = "bruit",
    version,
    propagate_version = true,
    override_usage = "bruit [COMMAND] [OPTIONS]",
    after_help = "Without a command, `bruit` is `bruit serve` and takes its flags, which `bruit serve --help` \
        lists.\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 not found, 4 done in part, 5 unhealthy; \
        130 or 143 after a second SIGINT or SIGTERM."
)]
struct Cli {
    #[command(flatten)]
    access: AccessArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(serve::ServeArgs),
    /// Run a node with nsqd's command line, as under the name nsqd
    Nsqd(serve::ServeArgs),
    /// Answer lookups alone, with nsqlookupd's command line, as under the name nsqlookupd
    Nsqlookupd(serve::ServeArgs),
    /// Run a mesh of several nodes in one process, to try things with
    Dev(dev::DevArgs),
    /// Publish the lines of a file or of standard input
    Pub(publish::PublishArgs),
    /// Print the messages of a topic as they come
    Tail(tail::TailArgs),
    /// Write the messages of topics to files
    ToFile(to_file::ToFileArgs),
    /// Hand the messages of topics to HTTP servers
    ToHttp(to_http::ToHttpArgs),
    /// Publish the messages of topics to other nodes
    ToMesh(to_mesh::ToMeshArgs),
    /// Show the rates and depths of a channel, a line at a time
    Stat(stat::StatArgs),
    /// Show who is in the mesh
    Members(members::MembersArgs),
    /// Show the topics that the mesh knows
    Topics(lookup::TopicsArgs),
    /// Show which nodes hold a topic
    Lookup(lookup::LookupArgs),
    /// Join a running node to the mesh of another
    Join(join::JoinArgs),
    /// Take a running node out of its mesh; it serves on by itself
    Leave(join::LeaveArgs),
    /// Make a cluster secret, or change the one of a running mesh
    Key(key::KeyArgs),
    /// Show the settings of a node, and where each comes from
    Config(config::ConfigArgs),
    /// Check or print a data directory
    Journal(journal::JournalArgs),
    /// Measure a server, or what this machine could do at best
    Bench(bench::BenchArgs),
}

impl Command {
    /// Whether it is a client of nodes, in the way of all commands.
    const fn asks_nodes(&self) -> bool {
        !matches!(
            self,
            Self::Serve(_)
                | Self::Nsqd(_)
                | Self::Nsqlookupd(_)
                | Self::Dev(_)
                | Self::Config(_)
                | Self::Journal(_)
                | Self::Bench(_)
        )
    }
}

/// Runs the command line `argv`, program name included, to its end.
#[must_use]
pub fn main(argv: impl Iterator<Item = OsString>) -> ExitCode {
    let command = Cli::command();
    let (argv, version) = classic::unfold(argv);
    if let Some(version) = version {
        println!("{version}");
        return ExitCode::SUCCESS;
    }
    let argv = argv::rewrite(argv.into_iter(), &command);
    let parsed = command.try_get_matches_from(argv).and_then(|matches| Cli::from_arg_matches(&matches));
    let outcome = match parsed {
        Ok(cli) => start(cli),
        Err(error) => {
            // Help goes to standard output with code 0, a mistake to standard error with code 2. There is
            // nobody left to tell if even that fails.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::from(USAGE), ExitCode::from);
        }
    };
    outcome.unwrap_or_else(|error| {
        for line in format!("{error:#}").lines() {
            eprintln!("bruit: {line}");
        }
        ExitCode::from(if error.is::<settings::SettingsError>() { USAGE } else { FAILED })
    })
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let fits = match &cli.command {
        Command::Bench(args) => cli.access.is_empty() || (args.may_encrypt() && cli.access.is_tls_alone()),
        command => cli.access.is_empty() || command.asks_nodes(),
    };
    if !fits {
        anyhow::bail!(
            "--token-file, --tls, --compress and the like are for commands that ask a node; a node itself takes \
             --auth-tokens-file, --tls-cert and --tls-key"
        );
    }
    cli.access.choose()?;
    run(cli.command)
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Nsqd(args) => serve::run_as(Persona::Nsqd, &args),
        Command::Nsqlookupd(args) => serve::run_as(Persona::Nsqlookupd, &args),
        Command::Dev(args) => dev::run(&args),
        Command::Pub(args) => publish::run(&args),
        Command::Tail(args) => tail::run(&args),
        Command::ToFile(args) => to_file::run(&args),
        Command::ToHttp(args) => to_http::run(&args),
        Command::ToMesh(args) => to_mesh::run(&args),
        Command::Stat(args) => stat::run(&args),
        Command::Members(args) => members::run(&args),
        Command::Topics(args) => lookup::topics(&args),
        Command::Lookup(args) => lookup::run(&args),
        Command::Join(args) => join::join(&args),
        Command::Leave(args) => join::leave(&args),
        Command::Key(args) => key::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Journal(args) => journal::run(&args),
        Command::Bench(args) => bench::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_one_that_clap_finds_sound() {
        Cli::command().debug_assert();
    }
}
