//! One seed or many of them, some at a time, and what came of them all: what the commands that run seeds have
//! in common.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Args;

use crate::check::Finding;

/// Which seeds to run, and how.
#[derive(Debug, Args)]
pub struct Seeds {
    /// The seed to run, or the first one with --seeds.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds to run, from --seed or 1 on.
    #[arg(long, conflicts_with = "trace")]
    seeds: Option<u64>,
    /// How many seeds to run at a time.
    #[arg(long, default_value_t = 2)]
    workers: u64,
    /// Print every event of the run.
    #[arg(long)]
    trace: bool,
}

/// What came of a run, as far as a sweep wants to know.
pub(crate) trait Outcome: fmt::Display {
    /// What several runs add up to. Shown after the numbers of those that passed and failed.
    type Sum: Default + Send + fmt::Display;

    /// True when nothing was wrong.
    fn is_good(&self) -> bool;

    /// Simulated time.
    fn took(&self) -> Duration;

    /// Adds this run.
    fn add_to(&self, sum: &mut Self::Sum);
}

impl Seeds {
    /// The first of them.
    pub(crate) fn first(&self) -> u64 {
        self.seed.unwrap_or(1)
    }

    /// How many, if anybody has said it.
    pub(crate) const fn count(&self) -> Option<u64> {
        self.seeds
    }

    /// How many at a time.
    pub(crate) const fn workers(&self) -> u64 {
        self.workers
    }

    /// The scenario that is meant by none: many seeds are for all of them in turn.
    pub(crate) const fn usual_scenario(&self) -> &'static str {
        if self.seeds.is_some() { "every" } else { "all" }
    }

    /// Runs the seeds, each with the next of the `scenarios`, of which there is at least one. `run` gets a seed,
    /// its scenario, and whether to print every event.
    ///
    /// # Errors
    /// Standard output's.
    pub(crate) fn run<S: Copy + Sync, V: Outcome>(
        &self,
        scenarios: &[S],
        run: impl Fn(u64, &S, bool) -> V + Sync,
    ) -> io::Result<ExitCode> {
        let jobs: Vec<(u64, S)> =
            (self.first()..).zip(scenarios.iter().copied().cycle()).take(self.wanted()).collect();
        match jobs.as_slice() {
            [(seed, scenario)] => {
                let verdict = run(*seed, scenario, self.trace);
                write!(io::stdout(), "{verdict}")?;
                Ok(exit_code(usize::from(!verdict.is_good())))
            }
            jobs => self.sweep(jobs, |(seed, scenario)| run(*seed, scenario, false)),
        }
    }

    fn wanted(&self) -> usize {
        usize::try_from(self.seeds.unwrap_or(1)).unwrap_or(usize::MAX)
    }

    /// Runs all `jobs`, some at a time. A run is deterministic by itself, so it does not matter which thread
    /// it is on or what runs beside it.
    fn sweep<J: Sync, V: Outcome>(&self, jobs: &[J], run: impl Fn(&J) -> V + Sync) -> io::Result<ExitCode> {
        let next = AtomicU64::new(0);
        let done = Mutex::new(Done::<V::Sum>::default());
        let work = || -> io::Result<()> {
            loop {
                let index = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                let Some(job) = jobs.get(index) else { return Ok(()) };
                let verdict = run(job);
                done.lock().unwrap_or_else(PoisonError::into_inner).add(&verdict, jobs.len())?;
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.workers.max(1)).map(|_| scope.spawn(work)).collect();
            // A worker that panics outside of a simulation is a fault of this program.
            let mut joined = threads.into_iter().map(|thread| thread.join());
            joined
                .try_for_each(|joined| joined.unwrap_or_else(|_| Err(io::Error::other("a worker panicked"))))
        })?;
        let Done { runs, failed, sum, seconds } = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        writeln!(io::stdout(), "{} passed, {failed} failed; {sum}, {seconds:.0} s simulated", runs - failed)?;
        Ok(exit_code(failed))
    }
}

#[derive(Default)]
struct Done<S> {
    runs: usize,
    failed: usize,
    sum: S,
    seconds: f64,
}

impl<S> Done<S> {
    fn add<V: Outcome<Sum = S>>(&mut self, verdict: &V, of: usize) -> io::Result<()> {
        self.runs += 1;
        self.failed += usize::from(!verdict.is_good());
        self.seconds += verdict.took().as_secs_f64();
        verdict.add_to(&mut self.sum);
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

/// What to say about a scenario that does not exist.
pub(crate) fn no_scenario(name: &str) -> io::Error {
    io::Error::other(format!("there is no scenario {name:?}; see `bruit-sim list`"))
}

/// How many findings a verdict shows; the first is usually the cause of the others.
const SHOWN: usize = 8;

/// Writes the first of the `findings` of a run, and the command that does the run again.
pub(crate) fn write_findings(f: &mut fmt::Formatter<'_>, findings: &[Finding], replay: &str) -> fmt::Result {
    for finding in findings.iter().take(SHOWN) {
        writeln!(f, "  {finding}")?;
    }
    if findings.len() > SHOWN {
        writeln!(f, "  and {} more", findings.len() - SHOWN)?;
    }
    if findings.is_empty() { Ok(()) } else { writeln!(f, "  replay: {replay}") }
}
