//! What can happen to one node, or to several. A scenario draws a plan from the dice; the same dice draw the same plan.

pub mod regressions;

use std::{collections::VecDeque, time::Duration};

use crate::{
    dice::Dice,
    disk::{Failing, Pace},
    mesh::plan::{self, MeshPlan},
    nemesis::{Action, Ending},
    relay::{self, Play},
};

/// A kind of trouble, by name.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What to call it on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    draw: Draw,
}

/// Draws the plan of several nodes.
type DrawMesh = fn(&mut MeshPlan, &mut Dice);

/// What a scenario is about, and what draws its plan.
#[derive(Debug, Clone, Copy)]
enum Draw {
    /// One node.
    Node(fn(&mut Plan<'_>)),
    /// Several.
    Mesh(fn(&mut MeshPlan, &mut Dice)),
    /// Several, with consumers on few of them.
    Relay(fn(&mut MeshPlan, &mut Dice), Play),
}

/// The scenarios of a node that is alone; the first is the default.
pub const SCENARIOS: [Scenario; 12] = [
    Scenario { name: "all", about: "a random mix of everything but flipped bits", draw: Draw::Node(all) },
    Scenario {
        name: "calm",
        about: "no faults of the machine, only of the clients",
        draw: Draw::Node(|_| {}),
    },
    Scenario {
        name: "crash",
        about: "the process is killed, also between two disk operations",
        draw: Draw::Node(crash),
    },
    Scenario {
        name: "power",
        about: "power is lost, and with it what was not synced",
        draw: Draw::Node(power),
    },
    Scenario { name: "stop", about: "the node is asked to stop, and started again", draw: Draw::Node(stop) },
    Scenario {
        name: "recovery",
        about: "crashes and power losses in the middle of recovery",
        draw: Draw::Node(recovery),
    },
    Scenario {
        name: "fsync",
        about: "syncs fail, then the process or the power goes",
        draw: Draw::Node(fsync),
    },
    Scenario { name: "io", about: "reads and writes fail", draw: Draw::Node(io) },
    Scenario { name: "full", about: "the disk fills up and has room again", draw: Draw::Node(full) },
    Scenario { name: "flip", about: "bits flip at rest while the node is down", draw: Draw::Node(flip) },
    Scenario { name: "slow", about: "the disk is slow, up to seconds a sync", draw: Draw::Node(slow) },
    Scenario {
        name: "clock",
        about: "the wall clock jumps, and the process is killed",
        draw: Draw::Node(clock),
    },
];

/// The scenarios of several nodes that find each other.
pub const MESH_SCENARIOS: [Scenario; 12] = [
    mesh("mesh-all", "a random mix of what can happen to a mesh", plan::all),
    mesh("mesh-calm", "nodes find each other, and nothing goes wrong", plan::calm),
    mesh("mesh-join", "nodes start one after the other, or in two halves", plan::join),
    mesh("mesh-crash", "processes are killed, for moments or long enough to be taken for dead", plan::crash),
    mesh("mesh-power", "machines lose power, alone or all at once", plan::power),
    mesh("mesh-stop", "nodes are asked to stop, and started again", plan::stop),
    mesh("mesh-split", "the network falls apart, and heals", plan::split),
    mesh("mesh-oneway", "packets get through in one direction only", plan::one_way),
    mesh("mesh-weather", "datagrams are lost, doubled, damaged, and must be short", plan::weather),
    mesh("mesh-clock", "wall clocks jump, each for itself", plan::clock),
    mesh("mesh-stranger", "a node with another secret or cluster name wants to join", plan::stranger),
    mesh("mesh-gone", "a node goes for good", plan::gone),
];

const fn mesh(name: &'static str, about: &'static str, draw: fn(&mut MeshPlan, &mut Dice)) -> Scenario {
    Scenario { name, about, draw: Draw::Mesh(draw) }
}

/// The scenarios of consumers that use one node of several.
pub const RELAY_SCENARIOS: [Scenario; 10] = [
    relay("relay-all", "a random mix of what can happen to nodes and links", relay::plan::all),
    relay("relay-calm", "nothing goes wrong but for what clients do", plan::calm),
    relay("relay-crash", "processes are killed: owners, relays, or both", plan::crash),
    relay("relay-power", "machines lose power, alone or all at once", plan::power),
    relay("relay-stop", "nodes are asked to stop, and started again", plan::stop),
    relay("relay-partition", "links are cut while clients reach both ends", relay::plan::partition),
    relay("relay-mute", "QUIC alone is cut between two nodes, while they gossip", relay::plan::mute),
    relay("relay-oneway", "packets get through in one direction only", plan::one_way),
    relay("relay-clock", "wall clocks jump, each for itself", plan::clock),
    Scenario {
        name: "relay-fair",
        about: "ten owners with unequal backlogs, and one consumer",
        draw: Draw::Relay(relay::plan::fair, Play::Fair),
    },
];

const fn relay(name: &'static str, about: &'static str, draw: fn(&mut MeshPlan, &mut Dice)) -> Scenario {
    Scenario { name, about, draw: Draw::Relay(draw, Play::Everybody) }
}

impl Scenario {
    /// The scenario of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        SCENARIOS
            .into_iter()
            .chain(MESH_SCENARIOS)
            .chain(RELAY_SCENARIOS)
            .find(|scenario| scenario.name == name)
    }

    /// What draws the plan of several nodes; `None` if the scenario is about one.
    pub(crate) fn of_mesh(&self) -> Option<fn(&mut MeshPlan, &mut Dice)> {
        match self.draw {
            Draw::Node(_) | Draw::Relay(..) => None,
            Draw::Mesh(draw) => Some(draw),
        }
    }

    /// What draws the plan of several nodes with consumers on few, and who uses them; `None` if the scenario is
    /// about something else.
    pub(crate) fn of_relay(&self) -> Option<(DrawMesh, Play)> {
        match self.draw {
            Draw::Node(_) | Draw::Mesh(_) => None,
            Draw::Relay(draw, play) => Some((draw, play)),
        }
    }

    /// The plan that `dice` draw for one node, for so long; in order of time. None for a mesh.
    #[must_use]
    pub fn plan(&self, dice: &mut Dice, chaos: Duration) -> Vec<(Duration, Action)> {
        let millis = u64::try_from(chaos.as_millis()).unwrap_or(u64::MAX);
        let mut plan = Plan { dice, millis, actions: Vec::new() };
        if let Draw::Node(draw) = self.draw {
            draw(&mut plan);
        }
        let mut actions = plan.actions;
        // Stable, so that actions at the same time keep the order in which they were drawn.
        actions.sort_by_key(|(at, _)| *at);
        actions
    }
}

/// A plan in the making.
struct Plan<'d> {
    dice: &'d mut Dice,
    millis: u64,
    actions: Vec<(Duration, Action)>,
}

impl Plan<'_> {
    /// Adds an action at any time.
    fn some_time(&mut self, action: Action) {
        let at = self.dice.millis(0, self.millis);
        self.actions.push((at, action));
    }

    /// Adds an action at any time, and another one up to `longest` milliseconds later.
    fn for_a_while(&mut self, longest: u64, begin: Action, end: Action) {
        let at = self.dice.millis(0, self.millis);
        let until = at + self.dice.millis(50, longest);
        self.actions.push((at, begin));
        self.actions.push((until, end));
    }

    /// Does something `low` to `high` times.
    fn times(&mut self, low: u64, high: u64, mut what: impl FnMut(&mut Self)) {
        for _ in 0..self.dice.between(low, high) {
            what(self);
        }
    }

    /// An end of the process, at any time or in the middle of any disk operation.
    fn ending(&mut self, how: Ending) {
        let down = self.dice.millis(20, 700);
        let action = if how != Ending::Stop && self.dice.chance(600) {
            let operation = self.dice.between(1, 300);
            Action::EndAtOperation { operation, how, down }
        } else {
            Action::End { how, down }
        };
        self.some_time(action);
    }

    fn crash_or_power(&mut self) -> Ending {
        if self.dice.chance(500) { Ending::Crash } else { Ending::Power }
    }
}

fn crash(plan: &mut Plan<'_>) {
    plan.times(2, 6, |plan| plan.ending(Ending::Crash));
}

fn power(plan: &mut Plan<'_>) {
    plan.times(2, 6, |plan| plan.ending(Ending::Power));
}

fn stop(plan: &mut Plan<'_>) {
    plan.times(2, 4, |plan| plan.ending(Ending::Stop));
}

fn recovery(plan: &mut Plan<'_>) {
    plan.times(1, 3, |plan| {
        let operations: VecDeque<u64> =
            (0..plan.dice.between(1, 3)).map(|_| plan.dice.between(1, 60)).collect();
        let how = plan.crash_or_power();
        plan.some_time(Action::EndInRecovery { operations, how });
    });
}

fn fsync(plan: &mut Plan<'_>) {
    plan.times(1, 4, |plan| match plan.dice.below(3) {
        0 => plan.some_time(Action::Sync(Failing::Once)),
        1 => plan.for_a_while(1_000, Action::Sync(Failing::Always), Action::Sync(Failing::Never)),
        _ => plan.for_a_while(3_000, Action::Sync(Failing::PerMille(30)), Action::Sync(Failing::Never)),
    });
    plan.times(1, 3, |plan| {
        let how = plan.crash_or_power();
        plan.ending(how);
    });
}

fn io(plan: &mut Plan<'_>) {
    plan.times(1, 3, |plan| match plan.dice.below(3) {
        0 => plan.some_time(Action::Write(Failing::Once)),
        1 => plan.for_a_while(800, Action::Write(Failing::Always), Action::Write(Failing::Never)),
        _ => plan.for_a_while(3_000, Action::Write(Failing::PerMille(30)), Action::Write(Failing::Never)),
    });
    plan.times(0, 3, |plan| match plan.dice.below(2) {
        0 => plan.some_time(Action::Read(Failing::Once)),
        _ => plan.for_a_while(1_000, Action::Read(Failing::PerMille(200)), Action::Read(Failing::Never)),
    });
    plan.times(0, 2, |plan| {
        let how = plan.crash_or_power();
        plan.ending(how);
    });
}

fn full(plan: &mut Plan<'_>) {
    plan.times(1, 3, |plan| {
        let room = plan.dice.below(400 * 1024);
        plan.for_a_while(2_500, Action::Room(Some(room)), Action::Room(None));
    });
    plan.times(0, 2, |plan| {
        let how = plan.crash_or_power();
        plan.ending(how);
    });
}

fn flip(plan: &mut Plan<'_>) {
    plan.times(1, 3, |plan| {
        let bits = plan.dice.between(1, 3);
        plan.some_time(Action::Flip(bits));
    });
}

fn slow(plan: &mut Plan<'_>) {
    plan.times(1, 3, |plan| {
        let sync_millis = [20, 100, 500, 2_500][usize::try_from(plan.dice.below(4)).unwrap_or(0)];
        let pace = Pace { per_mille: 900, transfer_millis: plan.dice.between(1, 30), sync_millis };
        plan.for_a_while(4_000, Action::Pace(pace), Action::Pace(Pace::USUAL));
    });
    plan.times(0, 2, |plan| {
        let how = plan.crash_or_power();
        plan.ending(how);
    });
}

fn clock(plan: &mut Plan<'_>) {
    plan.times(1, 5, |plan| {
        let which = usize::try_from(plan.dice.below(5)).unwrap_or(0);
        // A due time has to survive a restart, so it is a time of day: back by an hour, and what is deferred
        // would come in an hour. The run does not wait for that.
        let jump = if plan.dice.chance(500) {
            -[1, 40, 700, 3_000, 9_000][which]
        } else {
            [1, 40, 700, 3_600_000, 86_400_000][which]
        };
        plan.some_time(Action::ClockJump(jump));
    });
    plan.times(0, 3, |plan| plan.ending(Ending::Crash));
}

fn all(plan: &mut Plan<'_>) {
    let parts = [crash, power, stop, recovery, fsync, io, full, slow, clock];
    plan.times(1, 3, |plan| {
        if let Some(part) = plan.dice.clone().pick(&parts) {
            plan.dice.roll();
            part(plan);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_in_order_and_the_same_for_the_same_dice() {
        for scenario in SCENARIOS {
            for seed in 0..20 {
                let draw = || scenario.plan(&mut Dice::new(seed), Duration::from_secs(5));
                let plan = draw();
                assert!(plan.is_sorted_by_key(|(at, _)| *at), "{}", scenario.name);
                assert_eq!(plan, draw());
                assert_eq!(plan.is_empty(), scenario.name == "calm", "{}", scenario.name);
            }
        }
    }

    #[test]
    fn scenarios_are_found_by_their_names() {
        for scenario in SCENARIOS {
            assert_eq!(Scenario::find(scenario.name).map(|found| found.about), Some(scenario.about));
        }
        assert!(Scenario::find("peace").is_none());
    }
}
