//! The command line: runs seeds, says what came of them, and how to see a failure again.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    run::{Verdict, run},
    scenario::{MESH_SCENARIOS, RELAY_SCENARIOS, SCENARIOS, Scenario},
    swarm::{
        self,
        cli::{SwarmArgs, swarm},
    },
    sweep::{Outcome, Seeds, no_scenario},
};

/// The whole node, sockets, disk and clock included, in a deterministic simulation.
#[derive(Debug, Parser)]
#[command(name = "bruit-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one seed or many. Exits with 1 when an invariant was broken.
    Run(RunArgs),
    /// Run the gossip of many nodes, and nothing else of them. Exits with 1 when an invariant was broken.
    Swarm(SwarmArgs),
    /// List the scenarios.
    List,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    seeds: Seeds,
    /// What happens to the node; see `bruit-sim list`. `every` takes each of one node in turn, which is the
    /// default with --seeds; without, it is `all`. `mesh` and `relay` take each of several nodes in turn.
    #[arg(long)]
    scenario: Option<String>,
    /// Print the node's log, from this level on.
    #[arg(long, value_name = "LEVEL", conflicts_with = "seeds")]
    log: Option<tracing::Level>,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run_command(&args),
        Command::Swarm(args) => swarm(&args),
        Command::List => list(),
    };
    match result {
        Ok(code) => code,
        // Whoever reads the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Without standard error there is nobody to tell.
            let _ = writeln!(io::stderr(), "bruit-sim: {error}");
            ExitCode::from(2)
        }
    }
}

fn list() -> io::Result<ExitCode> {
    for scenario in SCENARIOS.into_iter().chain(MESH_SCENARIOS).chain(RELAY_SCENARIOS) {
        writeln!(io::stdout(), "{:15} {}", scenario.name, scenario.about)?;
    }
    writeln!(io::stdout(), "\nof `bruit-sim swarm`:")?;
    for scenario in swarm::scenario::SCENARIOS {
        writeln!(io::stdout(), "{:10} {}", scenario.name, scenario.about)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run_command(args: &RunArgs) -> io::Result<ExitCode> {
    let scenarios = match args.scenario.as_deref().unwrap_or(args.seeds.usual_scenario()) {
        "every" => SCENARIOS.to_vec(),
        "mesh" => MESH_SCENARIOS.to_vec(),
        "relay" => RELAY_SCENARIOS.to_vec(),
        name => vec![Scenario::find(name).ok_or_else(|| no_scenario(name))?],
    };
    if let Some(level) = args.log {
        tracing_subscriber::fmt().with_max_level(level).without_time().init();
    }
    args.seeds.run(&scenarios, run)
}

/// What runs of nodes add up to.
#[derive(Default)]
pub(crate) struct Sum {
    acked: usize,
    crashes: usize,
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} messages acked, {} crashes", self.acked, self.crashes)
    }
}

impl Outcome for Verdict {
    type Sum = Sum;

    fn is_good(&self) -> bool {
        self.is_good()
    }

    fn took(&self) -> Duration {
        self.took
    }

    fn add_to(&self, sum: &mut Sum) {
        sum.acked += self.tally.acked;
        sum.crashes += self.tally.crashes;
    }
}
