//! `bruit-sim swarm`: runs seeds of a swarm, or measures its figures.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use clap::Args;

use super::{
    report::report,
    run::{Verdict, run, usual_nodes},
    scenario::{SCENARIOS, Scenario},
};

/// What `bruit-sim swarm` is told.
#[derive(Debug, Args)]
pub struct SwarmArgs {
    /// How many nodes; 3 to 60 by default, as the seed decides.
    #[arg(long)]
    nodes: Option<usize>,
    /// The seed to run, or the first one with --seeds.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds to run, from --seed or 1 on.
    #[arg(long, conflicts_with = "trace")]
    seeds: Option<u64>,
    /// What happens to the swarm; see `bruit-sim list`. `every` takes each in turn, which is the default with
    /// --seeds; without, it is `all`.
    #[arg(long)]
    scenario: Option<String>,
    /// How many seeds to run at a time.
    #[arg(long, default_value_t = 2)]
    workers: u64,
    /// Print every event of the run.
    #[arg(long)]
    trace: bool,
    /// Measure instead of judging: the figure of this name, those whose names start with it, or all.
    #[arg(long, value_name = "FIGURE", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["nodes", "scenario", "trace"])]
    report: Option<String>,
}

/// Runs `bruit-sim swarm`.
///
/// # Errors
///
/// When standard output does, or no scenario has the name.
pub fn swarm(args: &SwarmArgs) -> io::Result<ExitCode> {
    let first = args.seed.unwrap_or(1);
    if let Some(only) = &args.report {
        report(only, first, args.seeds, args.workers)?;
        return Ok(ExitCode::SUCCESS);
    }
    let usual = if args.seeds.is_some() { "every" } else { "all" };
    let scenarios = match args.scenario.as_deref().unwrap_or(usual) {
        "every" => SCENARIOS.to_vec(),
        name => vec![Scenario::find(name).ok_or_else(|| {
            io::Error::other(format!("there is no scenario {name:?}; see `bruit-sim list`"))
        })?],
    };
    let jobs: Vec<(u64, Scenario)> = (0..args.seeds.unwrap_or(1))
        .map(|index| (first + index, scenarios[usize::try_from(index).unwrap_or(0) % scenarios.len()]))
        .collect();
    let nodes = |seed| args.nodes.unwrap_or_else(|| usual_nodes(seed)).max(1);
    match jobs.as_slice() {
        [(seed, scenario)] => {
            let verdict = run(*seed, scenario, nodes(*seed), args.trace);
            write!(io::stdout(), "{verdict}")?;
            Ok(exit_code(u64::from(!verdict.is_good())))
        }
        jobs => sweep(jobs, nodes, args.workers),
    }
}

/// Runs all `jobs`, some at a time.
fn sweep(
    jobs: &[(u64, Scenario)],
    nodes: impl Fn(u64) -> usize + Sync,
    workers: u64,
) -> io::Result<ExitCode> {
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Sum::default());
    let work = || -> io::Result<()> {
        loop {
            let index = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
            let Some((seed, scenario)) = jobs.get(index) else { return Ok(()) };
            let verdict = run(*seed, scenario, nodes(*seed), false);
            sum.lock().unwrap_or_else(PoisonError::into_inner).add(&verdict)?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers.max(1)).map(|_| scope.spawn(work)).collect();
        // A worker that panics outside of a simulation is a fault of this program.
        let mut joined = threads.into_iter().map(|thread| thread.join());
        joined.try_for_each(|joined| joined.unwrap_or_else(|_| Err(io::Error::other("a worker panicked"))))
    })?;
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    writeln!(
        io::stdout(),
        "{} swarms passed, {} failed; {} nodes, {} datagrams, {} exchanges, {:.0} s simulated",
        sum.runs - sum.failed,
        sum.failed,
        sum.nodes,
        sum.datagrams,
        sum.exchanges,
        sum.seconds,
    )?;
    Ok(exit_code(sum.failed))
}

#[derive(Default)]
struct Sum {
    runs: u64,
    failed: u64,
    nodes: usize,
    datagrams: u64,
    exchanges: u64,
    seconds: f64,
}

impl Sum {
    fn add(&mut self, verdict: &Verdict) -> io::Result<()> {
        self.runs += 1;
        self.failed += u64::from(!verdict.is_good());
        self.nodes += verdict.nodes;
        self.datagrams += verdict.datagrams;
        self.exchanges += verdict.exchanges;
        self.seconds += verdict.took.as_secs_f64();
        if verdict.is_good() { Ok(()) } else { write!(io::stdout(), "{verdict}") }
    }
}

fn exit_code(failed: u64) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
