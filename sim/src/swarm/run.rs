//! One run of a swarm: a seed, a scenario and a number of nodes in, a verdict out.

use std::{fmt, time::Duration};

use bruit_gossip::{Mesh, Profile};

use super::{
    check::check,
    net::{HostId, Weather, gossip_address},
    poison::Poison,
    scenario::{Action, Scenario},
    software::Software,
    world::World,
};
use crate::{check::Finding, dice::Dice, panics::PanicWatch, sweep::write_findings};

/// What came of a run.
#[derive(Debug)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// The scenario's name.
    pub scenario: &'static str,
    /// How many nodes there were at first.
    pub nodes: usize,
    /// Everything that was wrong.
    pub findings: Vec<Finding>,
    /// Hash over everything that happened.
    pub trace_hash: u64,
    /// Number of events that the hash covers.
    pub events: u64,
    /// Simulated time.
    pub took: Duration,
    /// Datagrams that were sent.
    pub datagrams: u64,
    /// Exchanges that were begun.
    pub exchanges: u64,
    /// Pairs of nodes of which one took the other for dead, which was healthy.
    pub false_deaths: usize,
}

/// How many nodes a seed has when nobody says it.
#[must_use]
pub fn usual_nodes(seed: u64) -> usize {
    let mut dice = Dice::new(seed).fork(9);
    let most = if dice.chance(200) { 60 } else { 16 };
    usize::try_from(dice.between(3, most)).unwrap_or(3)
}

/// Runs `seed` through `scenario`. With `print`, every event goes to standard output.
#[must_use]
pub fn run(seed: u64, scenario: &Scenario, nodes: usize, print: bool) -> Verdict {
    run_software::<Mesh>(seed, scenario, nodes, print)
}

/// As [`run`], with other software in the mesh's place: the simulator's own tests put a faulty one there.
#[must_use]
pub fn run_software<S: Software>(seed: u64, scenario: &Scenario, nodes: usize, print: bool) -> Verdict {
    let dice = Dice::new(seed);
    let mut plan_dice = dice.fork(4);
    let plan = scenario.plan(&mut plan_dice, nodes);
    let watch = PanicWatch::new();
    let mut world: World<S> = World::new(&dice.fork(5), nodes, plan.weather, print);
    world.profile = plan.profile;
    world.trace().event(format_args!("seed {seed} scenario {} nodes {nodes}", scenario.name));
    let end = Duration::from_millis(plan.end);
    let actions = plan.actions;
    let mut stage = Stage { dice: dice.fork(6), twins: Vec::new() };
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for (at, action) in actions {
            if at <= end {
                stage.step_to(&mut world, at);
                stage.act(&mut world, action);
            }
        }
        stage.step_to(&mut world, end);
        stage.heal(&mut world);
        world.run_until(end + settling(&world));
    }));
    let mut findings: Vec<Finding> =
        watch.take().into_iter().map(|panic| Finding::new("panic", panic)).collect();
    if played.is_ok() {
        findings.append(&mut world.guard.findings);
        findings.extend(check(&world));
        findings.extend(hearsay(&world, scenario));
    }
    Verdict {
        seed,
        scenario: scenario.name,
        nodes,
        findings,
        trace_hash: world.trace().hash(),
        events: world.trace().len(),
        took: world.now(),
        datagrams: (0..world.hosts.len()).map(|host| world.net.sent(host).datagrams).sum(),
        exchanges: world.exchanges_begun,
        false_deaths: world.guard.false_deaths.len(),
    }
}

/// How long a swarm may take to agree after everything has been healed.
fn settling<S: Software>(world: &World<S>) -> Duration {
    let live = world.live().count().max(1);
    let dead = world.hosts.len() - live;
    // Few living take time to find many dead.
    let usual = Duration::from_millis(15_000 + 10 * live as u64 + 200 * (dead / live) as u64);
    match world.profile {
        Profile::Wan => usual * 3,
        Profile::Lan | Profile::Local => usual,
    }
}

/// I14 all the time: who is not cut off and was not touched is never taken for dead by who was not touched.
fn hearsay<S: Software>(world: &World<S>, scenario: &Scenario) -> Option<Finding> {
    let mut wrong = world.guard.false_deaths.iter().filter(|((by, _), _)| !world.hosts[*by].was_hurt);
    let ((by, whom), at) = wrong.next().filter(|_| scenario.is_strict)?;
    let text = format!(
        "at {:.3} s host {by} took the healthy {whom} for dead, and so did {} others",
        at.as_secs_f64(),
        wrong.count()
    );
    Some(Finding::new("I14", text))
}

/// What the run has to remember of its actions.
struct Stage {
    dice: Dice,
    /// Hosts with nodes that have to go, and when.
    twins: Vec<(Duration, HostId)>,
}

impl Stage {
    fn step_to<S: Software>(&mut self, world: &mut World<S>, end: Duration) {
        self.twins.sort();
        while let Some((at, host)) = self.twins.first().copied().filter(|(at, _)| *at <= end) {
            self.twins.remove(0);
            world.run_until(at);
            world.take_away(host);
        }
        world.run_until(end);
    }

    fn act<S: Software>(&mut self, world: &mut World<S>, action: Action) {
        world.trace().event(format_args!("{action:?}"));
        match action {
            Action::Start(host) => world.start(host),
            Action::Kill(host) => world.kill(host),
            Action::TakeAway(host) => world.take_away(host),
            Action::Pause(host, length) => world.pause(host, length),
            Action::Starve(host, length) => world.starve(host, length),
            Action::Wish(host, wish) => world.wish(host, wish),
            Action::Put(host, side) => world.net.put(host, side),
            Action::Cut(from, to) => world.net.cut(from, to),
            Action::Heal => world.net.heal(),
            Action::Weather(weather) => world.net.weather = weather,
            Action::Clock(host, error) => world.hosts[host].wall_error = error,
            Action::Twin(host, length) => {
                if world.hosts[host].process.is_some() {
                    let twin = world.start_twin(host);
                    self.twins.push((world.now() + length, twin));
                }
            }
            Action::Poison(host, kind) => {
                world.hosts[host].was_hurt = true;
                world.hosts[host].poison = Some(Poison::new(kind, self.dice.fork(host as u64)));
            }
            Action::Flood(seed, count) => {
                for _ in 0..count {
                    let host = world.add_host();
                    world.hosts[host].seeds = vec![gossip_address(seed)];
                    world.start(host);
                    let goes = world.now() + self.dice.millis(5, 1_000);
                    self.twins.push((goes, host));
                }
            }
        }
    }

    /// Ends all trouble. What is dead stays dead, or comes back now; rubbish is taken away by its operators.
    fn heal<S: Software>(&mut self, world: &mut World<S>) {
        world.trace().event(format_args!("all is healed"));
        world.net.heal();
        world.net.weather = Weather { loss: 0, twice: 0, late: 0, ..world.net.weather };
        for (_, host) in std::mem::take(&mut self.twins) {
            world.take_away(host);
        }
        for host in 0..world.hosts.len() {
            world.hosts[host].wall_error = 0;
            if world.hosts[host].poison.is_some() {
                world.take_away(host);
            }
        }
    }
}

impl Verdict {
    /// True when nothing was wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    /// The command that does this run again.
    #[must_use]
    pub fn replay(&self) -> String {
        format!(
            "cargo run -p bruit-sim -- swarm --seed {} --scenario {} --nodes {}",
            self.seed, self.scenario, self.nodes
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "swarm seed {} {}, {} nodes: {}; {} datagrams, {} exchanges, {} false deaths; {:.1} s simulated; \
             trace {:016x} of {} events",
            self.seed,
            self.scenario,
            self.nodes,
            if self.is_good() { "ok" } else { "FAILED" },
            self.datagrams,
            self.exchanges,
            self.false_deaths,
            self.took.as_secs_f64(),
            self.trace_hash,
            self.events,
        )?;
        write_findings(f, &self.findings, &self.replay())
    }
}
