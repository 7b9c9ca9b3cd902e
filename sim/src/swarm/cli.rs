//! `bruit-sim swarm`: runs seeds of a swarm, or measures its figures.

use std::{fmt, io, process::ExitCode, time::Duration};

use clap::Args;

use super::{
    report::report,
    run::{Verdict, run, usual_nodes},
    scenario::{SCENARIOS, Scenario},
};
use crate::sweep::{Outcome, Seeds, no_scenario};

/// What `bruit-sim swarm` is told.
#[derive(Debug, Args)]
pub struct SwarmArgs {
    /// How many nodes; 3 to 60 by default, as the seed decides.
    #[arg(long)]
    nodes: Option<usize>,
    #[command(flatten)]
    seeds: Seeds,
    /// What happens to the swarm; see `bruit-sim list`. `every` takes each in turn, which is the default with
    /// --seeds; without, it is `all`.
    #[arg(long)]
    scenario: Option<String>,
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
    let seeds = &args.seeds;
    if let Some(only) = &args.report {
        report(only, seeds.first(), seeds.count(), seeds.workers())?;
        return Ok(ExitCode::SUCCESS);
    }
    let scenarios = match args.scenario.as_deref().unwrap_or(seeds.usual_scenario()) {
        "every" => SCENARIOS.to_vec(),
        name => vec![Scenario::find(name).ok_or_else(|| no_scenario(name))?],
    };
    let nodes = |seed| args.nodes.unwrap_or_else(|| usual_nodes(seed)).max(1);
    seeds.run(&scenarios, |seed, scenario, print| run(seed, scenario, nodes(seed), print))
}

/// What runs of swarms add up to.
#[derive(Default)]
pub(crate) struct Sum {
    nodes: usize,
    datagrams: u64,
    exchanges: u64,
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nodes, {} datagrams, {} exchanges", self.nodes, self.datagrams, self.exchanges)
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
        sum.nodes += self.nodes;
        sum.datagrams += self.datagrams;
        sum.exchanges += self.exchanges;
    }
}
