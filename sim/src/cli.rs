//! The command line: runs seeds, says what came of them, and how to see a failure again.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    run::{Verdict, run},
    scenario::{MESH_SCENARIOS, RELAY_SCENARIOS, SCENARIOS, Scenario},
    swarm::{
        self,
        cli::{SwarmArgs, swarm},
    },
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
    /// The seed to run, or the first one with --seeds.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds to run, from --seed or 1 on.
    #[arg(long, conflicts_with = "trace")]
    seeds: Option<u64>,
    /// What happens to the node; see `bruit-sim list`. `every` takes each of one node in turn, which is the
    /// default with --seeds; without, it is `all`. `mesh` and `relay` take each of several nodes in turn.
    #[arg(long)]
    scenario: Option<String>,
    /// How many seeds to run at a time.
    #[arg(long, default_value_t = 2)]
    workers: u64,
    /// Print every event of the run.
    #[arg(long)]
    trace: bool,
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
    let usual = if args.seeds.is_some() { "every" } else { "all" };
    let scenarios = match args.scenario.as_deref().unwrap_or(usual) {
        "every" => SCENARIOS.to_vec(),
        "mesh" => MESH_SCENARIOS.to_vec(),
        "relay" => RELAY_SCENARIOS.to_vec(),
        name => vec![Scenario::find(name).ok_or_else(|| {
            io::Error::other(format!("there is no scenario {name:?}; see `bruit-sim list`"))
        })?],
    };
    if let Some(level) = args.log {
        tracing_subscriber::fmt().with_max_level(level).without_time().init();
    }
    let first = args.seed.unwrap_or(1);
    let jobs: Vec<(u64, Scenario)> = (0..args.seeds.unwrap_or(1))
        .map(|index| (first + index, scenarios[usize::try_from(index).unwrap_or(0) % scenarios.len()]))
        .collect();
    match jobs.as_slice() {
        [(seed, scenario)] => {
            let verdict = run(*seed, scenario, args.trace);
            write!(io::stdout(), "{verdict}")?;
            Ok(exit_code(usize::from(!verdict.is_good())))
        }
        jobs => sweep(jobs, args.workers),
    }
}

/// Runs all `jobs`, some at a time. A run is deterministic by itself, so it does not matter which thread it
/// is on or what runs beside it.
fn sweep(jobs: &[(u64, Scenario)], workers: u64) -> io::Result<ExitCode> {
    let next = AtomicU64::new(0);
    let done = Mutex::new(Sum::default());
    let result: io::Result<()> = thread::scope(|scope| {
        let work = || -> io::Result<()> {
            loop {
                let index = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                let Some((seed, scenario)) = jobs.get(index) else { return Ok(()) };
                let verdict = run(*seed, scenario, false);
                let mut sum = done.lock().unwrap_or_else(PoisonError::into_inner);
                sum.add(&verdict, jobs.len())?;
            }
        };
        let threads: Vec<_> = (0..workers.max(1)).map(|_| scope.spawn(work)).collect();
        // A worker that panics outside of a simulation is a fault of this program.
        let mut joined = threads.into_iter().map(|thread| thread.join());
        joined.try_for_each(|joined| joined.unwrap_or_else(|_| Err(io::Error::other("a worker panicked"))))
    });
    result?;
    let sum = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (runs, failed, simulated) = (sum.runs, sum.failed, sum.simulated_seconds);
    writeln!(
        io::stdout(),
        "{} passed, {failed} failed; {} messages acked, {} crashes, {simulated:.0} s simulated",
        runs - failed,
        sum.acked,
        sum.crashes,
    )?;
    Ok(exit_code(failed))
}

#[derive(Default)]
struct Sum {
    runs: usize,
    failed: usize,
    acked: usize,
    crashes: usize,
    simulated_seconds: f64,
}

impl Sum {
    fn add(&mut self, verdict: &Verdict, of: usize) -> io::Result<()> {
        self.runs += 1;
        self.failed += usize::from(!verdict.is_good());
        self.acked += verdict.tally.acked;
        self.crashes += verdict.tally.crashes;
        self.simulated_seconds += verdict.took.as_secs_f64();
        if !verdict.is_good() {
            write!(io::stdout(), "{verdict}")?;
        }
        if self.runs.is_multiple_of(20) {
            writeln!(io::stdout(), "{} of {of} seeds, {} failed", self.runs, self.failed)?;
        }
        Ok(())
    }
}

fn exit_code(failed: usize) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
