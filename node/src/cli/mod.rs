//! The command line: reads arguments, calls the library, says what came of it.
//!
//! A node is `bruit serve`, or plain `bruit`. The other commands are clients of a node.

mod argv;
mod bench;
mod client;
mod config;
#[cfg(test)]
mod fake_node;
mod journal;
mod lines;
mod publish;
mod serve;
mod settings;
mod tail;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Exit code of a command that did not succeed.
const FAILED: u8 = 1;
/// Exit code of a command line or a setting that cannot be right.
const USAGE: u8 = 2;

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
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(serve::ServeArgs),
    /// Publish the lines of a file or of standard input
    Pub(publish::PublishArgs),
    /// Print the messages of a topic as they come
    Tail(tail::TailArgs),
    /// Show the settings of a node, and where each comes from
    Config(config::ConfigArgs),
    /// Check or print a data directory
    Journal(journal::JournalArgs),
    /// Measure a server, or what this machine could do at best
    Bench(bench::BenchArgs),
}

/// Runs the command line `argv`, program name included, to its end.
#[must_use]
pub fn main(argv: impl Iterator<Item = OsString>) -> ExitCode {
    let command = Cli::command();
    let argv = argv::rewrite(argv, &command);
    let parsed = command.try_get_matches_from(argv).and_then(|matches| Cli::from_arg_matches(&matches));
    let outcome = match parsed {
        Ok(cli) => run(cli.command),
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

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Pub(args) => publish::run(&args),
        Command::Tail(args) => tail::run(&args),
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
