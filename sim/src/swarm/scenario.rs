//! What can happen to a swarm. A scenario draws a plan from the dice; the same dice draw the same plan.

use std::time::Duration;

use bruit_gossip::{Name, Profile};
use bruit_wire::{ChannelName, TopicName};

use super::{
    host::Wish,
    net::{Distance, HostId, Weather},
    poison::Kind,
};
use crate::dice::Dice;

/// A kind of trouble, by name.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What to call it on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Whether a node to which nothing was done may never be taken for dead in it.
    pub is_strict: bool,
    draw: fn(&mut Plan<'_>),
}

/// Something that is done to a swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a node, or start it again.
    Start(HostId),
    /// Kill its process.
    Kill(HostId),
    /// Take its host away.
    TakeAway(HostId),
    /// Stop its process for a while.
    Pause(HostId, Duration),
    /// Give its process time only now and then, for a while.
    Starve(HostId, Duration),
    /// A user wants something of it.
    Wish(HostId, Wish),
    /// Put a host on a side of the network.
    Put(HostId, usize),
    /// Let nothing get from one side to another.
    Cut(usize, usize),
    /// Make the network whole.
    Heal,
    /// Change the weather.
    Weather(Weather),
    /// Set a wall clock wrong by so many milliseconds.
    Clock(HostId, i64),
    /// Start a copy of the node on another host, for a while.
    Twin(HostId, Duration),
    /// Let it send rubbish.
    Poison(HostId, Kind),
    /// So many nodes come by one seed within a second, and each goes at once.
    Flood(HostId, usize),
}

/// All scenarios; the first is the default.
pub const SCENARIOS: [Scenario; 17] = [
    Scenario { name: "all", about: "a random mix of everything", is_strict: false, draw: all },
    Scenario { name: "calm", about: "no faults", is_strict: true, draw: |_| {} },
    Scenario { name: "join", about: "half of the nodes come at once, later", is_strict: true, draw: join },
    Scenario { name: "crash", about: "processes are killed and started again", is_strict: true, draw: crash },
    Scenario { name: "gone", about: "hosts go, and some come back", is_strict: true, draw: gone },
    Scenario { name: "leave", about: "a third leaves, and some come back", is_strict: true, draw: leave },
    Scenario {
        name: "pause",
        about: "processes are stopped for up to a minute",
        is_strict: true,
        draw: pause,
    },
    Scenario { name: "starve", about: "processes get hardly any time", is_strict: true, draw: starve },
    Scenario {
        name: "split",
        about: "the network falls into two or three parts",
        is_strict: false,
        draw: split,
    },
    Scenario { name: "one-way", about: "packets get through one way only", is_strict: false, draw: one_way },
    Scenario {
        name: "flap",
        about: "the network falls apart and heals again and again",
        is_strict: false,
        draw: flap,
    },
    Scenario {
        name: "weather",
        about: "loss up to 25 %, doubles, late packets",
        is_strict: false,
        draw: weather,
    },
    Scenario { name: "wan", about: "far away, and crashes", is_strict: false, draw: wan },
    Scenario { name: "clock", about: "wall clocks jump, back by up to a year", is_strict: true, draw: clock },
    Scenario { name: "twin", about: "data directories are copied", is_strict: false, draw: twin },
    Scenario {
        name: "flood",
        about: "hundreds of nodes come, and vanish at once",
        is_strict: true,
        draw: flood,
    },
    Scenario { name: "poison", about: "a member sends rubbish", is_strict: true, draw: poison },
];

impl Scenario {
    /// The scenario of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.name == name)
    }

    /// The plan that `dice` draw for so many nodes.
    #[must_use]
    pub fn plan<'d>(&self, dice: &'d mut Dice, nodes: usize) -> Plan<'d> {
        // Larger swarms take longer to settle.
        let begin = 8_000 + nodes as u64 * 10;
        let end = begin + dice.between(20_000, 40_000);
        let mut plan = Plan {
            dice,
            nodes,
            begin,
            end,
            actions: Vec::new(),
            weather: Weather::CALM,
            profile: Profile::Lan,
            spared: 0,
        };
        for host in 0..nodes {
            plan.at(plan.dice.clone().fork(host as u64).below(1_000), Action::Start(host));
        }
        plan.users();
        (self.draw)(&mut plan);
        plan.actions.sort_by_key(|(at, _)| *at);
        plan
    }
}

/// What is going to happen, in order of time.
#[derive(Debug)]
pub struct Plan<'d> {
    /// What happens, and when.
    pub actions: Vec<(Duration, Action)>,
    /// The weather at first.
    pub weather: Weather,
    /// What network the nodes expect.
    pub profile: Profile,
    /// When trouble begins, in milliseconds.
    pub begin: u64,
    /// When it ends, in milliseconds.
    pub end: u64,
    dice: &'d mut Dice,
    nodes: usize,
    /// Nodes from 0 on to which nothing is done.
    spared: usize,
}

impl Plan<'_> {
    fn at(&mut self, millis: u64, action: Action) {
        self.actions.push((Duration::from_millis(millis), action));
    }

    /// Any time while there is trouble, so that there are `left` milliseconds of it still to come.
    fn some_time(&mut self, left: u64) -> u64 {
        self.dice.between(self.begin, self.end.saturating_sub(left).max(self.begin))
    }

    /// Any node that is not spared.
    fn somebody(&mut self) -> HostId {
        let spared = self.spared.min(self.nodes - 1);
        spared + usize::try_from(self.dice.below((self.nodes - spared) as u64)).unwrap_or(0)
    }

    /// About so many per cent of the nodes, one at least.
    fn some(&mut self, percent: u64) -> Vec<HostId> {
        let mut chosen: Vec<HostId> =
            (self.spared..self.nodes).filter(|_| self.dice.chance(percent * 10)).collect();
        if chosen.is_empty() {
            chosen.push(self.somebody());
        }
        chosen
    }

    /// Does something `low` to `high` times.
    fn times(&mut self, low: u64, high: u64, mut what: impl FnMut(&mut Self)) {
        for _ in 0..self.dice.between(low, high) {
            what(self);
        }
    }

    /// What users do: they use topics and channels all the time, and delete some that are not used any more.
    fn users(&mut self) {
        for number in 0..self.nodes.min(40) as u64 * 2 {
            let at = self.dice.between(1_500, self.end);
            let (topic, channel) = (self.dice.below(12), self.dice.below(4));
            let channel = (number % 3 != 0).then(|| format!("channel-{channel}"));
            let user = self.somebody();
            self.at(at, Action::Wish(user, Wish::Use(name(&format!("topic-{topic}"), channel.as_deref()))));
        }
        for number in 0..4 {
            let topic = format!("topic-{number}-to-go");
            self.times(1, 4, |plan| {
                let (at, user) = (plan.dice.between(1_500, plan.begin - 2_000), plan.somebody());
                plan.at(at, Action::Wish(user, Wish::Use(name(&topic, Some("channel-to-go")))));
            });
            let channel = (number % 2 == 1).then_some("channel-to-go");
            let (at, user) = (self.some_time(500), self.somebody());
            self.at(at, Action::Wish(user, Wish::Delete(name(&topic, channel))));
        }
    }
}

/// A name as users write it.
///
/// # Panics
///
/// When it is not valid.
#[must_use]
pub fn name(topic: &str, channel: Option<&str>) -> Name {
    let parsed = TopicName::new(topic).and_then(|topic| match channel {
        None => Ok(Name::topic(topic)),
        Some(channel) => Ok(Name::channel(topic, ChannelName::new(channel)?)),
    });
    parsed.unwrap_or_else(|invalid| panic!("{topic:?}, {channel:?}: {invalid}"))
}

fn join(plan: &mut Plan<'_>) {
    let late = plan.nodes / 2;
    let at = plan.some_time(5_000);
    let is_late = |action: &Action| matches!(action, Action::Start(host) if *host >= late.max(1));
    plan.actions.iter_mut().filter(|(_, action)| is_late(action)).for_each(|(when, _)| {
        *when = Duration::from_millis(at) + *when / 10;
    });
    plan.weather = Weather::CALM.with_loss(10);
}

fn crash(plan: &mut Plan<'_>) {
    plan.times(1, 6, |plan| {
        let (at, host) = (plan.some_time(5_000), plan.somebody());
        plan.at(at, Action::Kill(host));
        let down = [20, 500, 3_000, 15_000][usize::try_from(plan.dice.below(4)).unwrap_or(0)];
        if plan.dice.chance(800) {
            plan.at(at + down, Action::Start(host));
        }
    });
    if plan.dice.chance(200) {
        // All that there are at once, as after an upgrade in a hurry.
        let at = plan.some_time(5_000);
        for host in plan.some(100) {
            plan.at(at, Action::Kill(host));
            let down = plan.dice.below(1_000);
            plan.at(at + 1 + down, Action::Start(host));
        }
    }
}

fn gone(plan: &mut Plan<'_>) {
    for host in plan.some(15) {
        let at = plan.some_time(1_000);
        plan.at(at, Action::TakeAway(host));
        if plan.dice.chance(500) {
            let down = plan.dice.between(100, 20_000);
            plan.at(at + down, Action::Start(host));
        }
    }
}

fn leave(plan: &mut Plan<'_>) {
    let at = plan.some_time(8_000);
    for host in plan.some(30) {
        let delay = plan.dice.below(500);
        plan.at(at + delay, Action::Wish(host, Wish::Leave));
        match plan.dice.below(4) {
            0 => plan.at(at + delay + 300, Action::Kill(host)),
            1 => plan.at(at + delay + 5_000, Action::Wish(host, Wish::Join)),
            _ => {}
        }
    }
}

fn pause(plan: &mut Plan<'_>) {
    for host in plan.some(5) {
        let length = [1_000, 3_000, 10_000, 60_000][usize::try_from(plan.dice.below(4)).unwrap_or(0)];
        let at = plan.some_time(length);
        let length = length.min(plan.end - at);
        plan.at(at, Action::Pause(host, Duration::from_millis(length)));
    }
}

fn starve(plan: &mut Plan<'_>) {
    let (at, host) = (plan.some_time(15_000), plan.somebody());
    let length = plan.end - at;
    plan.at(at, Action::Starve(host, Duration::from_millis(length)));
}

fn split(plan: &mut Plan<'_>) {
    let at = plan.some_time(10_000);
    let sides = plan.dice.between(2, 3);
    for host in 0..plan.nodes {
        let side = usize::try_from(plan.dice.below(sides)).unwrap_or(0);
        plan.at(at, Action::Put(host, side));
    }
    // With three sides, the one in the middle may reach both others.
    let is_bridge = plan.dice.chance(500);
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        if !is_bridge || a == 0 {
            plan.at(at, Action::Cut(a, b));
            plan.at(at, Action::Cut(b, a));
        }
    }
}

fn one_way(plan: &mut Plan<'_>) {
    let at = plan.some_time(10_000);
    for host in plan.some(20) {
        plan.at(at, Action::Put(host, 1));
    }
    let (from, to) = if plan.dice.chance(500) { (0, 1) } else { (1, 0) };
    plan.at(at, Action::Cut(from, to));
}

fn flap(plan: &mut Plan<'_>) {
    let mut at = plan.some_time(12_000);
    while at < plan.end {
        for host in plan.some(30) {
            plan.at(at, Action::Put(host, 1));
        }
        plan.at(at, Action::Cut(0, 1));
        plan.at(at, Action::Cut(1, 0));
        plan.at(at + 1_000, Action::Heal);
        at += 2_000;
    }
}

fn weather(plan: &mut Plan<'_>) {
    plan.times(1, 3, |plan| {
        let pick =
            |plan: &mut Plan<'_>, from: [u64; 3]| from[usize::try_from(plan.dice.below(3)).unwrap_or(0)];
        let (loss, twice, late) =
            (pick(plan, [10, 50, 250]), pick(plan, [0, 50, 300]), pick(plan, [0, 50, 300]));
        let at = plan.some_time(5_000);
        plan.at(at, Action::Weather(Weather { distance: plan.weather.distance, loss, twice, late }));
    });
}

fn wan(plan: &mut Plan<'_>) {
    plan.weather = Weather { distance: Distance::Wan, loss: 10, twice: 1, late: 10 };
    plan.profile = Profile::Wan;
    crash(plan);
}

fn clock(plan: &mut Plan<'_>) {
    const HOUR: i64 = 3_600_000;
    plan.times(1, 6, |plan| {
        // Further ahead than 48 hours a clock is not believed, by design.
        let jumps = [-8_766 * HOUR, -HOUR, -5_000, 5_000, HOUR, 40 * HOUR];
        let jump = plan.dice.pick(&jumps).copied().unwrap_or(0);
        let (at, host) = (plan.some_time(0), plan.somebody());
        plan.at(at, Action::Clock(host, jump));
    });
}

fn twin(plan: &mut Plan<'_>) {
    let (at, host) = (plan.some_time(15_000), plan.somebody());
    let length = plan.dice.millis(3_000, 12_000);
    plan.at(at, Action::Twin(host, length));
}

fn flood(plan: &mut Plan<'_>) {
    let (at, host, count) = (plan.some_time(10_000), plan.somebody(), plan.dice.between(50, 300));
    plan.at(at, Action::Flood(host, usize::try_from(count).unwrap_or(0)));
}

fn poison(plan: &mut Plan<'_>) {
    let (at, host) = (plan.some_time(10_000), plan.somebody());
    let kind = plan.dice.pick(&Kind::ALL).copied().unwrap_or(Kind::Noise);
    plan.at(at, Action::Poison(host, kind));
    if plan.dice.chance(500) {
        plan.at(at, Action::Clock(host, 87_660 * 3_600_000));
    }
}

fn all(plan: &mut Plan<'_>) {
    let parts =
        [crash, gone, leave, pause, starve, split, one_way, flap, weather, clock, twin, flood, poison];
    plan.times(2, 4, |plan| {
        let part = usize::try_from(plan.dice.below(parts.len() as u64)).unwrap_or(0);
        parts[part](plan);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_in_order_and_the_same_for_the_same_dice() {
        for scenario in SCENARIOS {
            for seed in 0..20 {
                let draw = || scenario.plan(&mut Dice::new(seed), 9).actions;
                let plan = draw();
                assert!(plan.is_sorted_by_key(|(at, _)| *at), "{}", scenario.name);
                assert_eq!(plan, draw());
                assert!(plan.iter().any(|(_, action)| matches!(action, Action::Wish(_, Wish::Delete(_)))));
            }
        }
    }

    #[test]
    fn a_deleted_name_is_never_used_again() {
        for scenario in SCENARIOS {
            let plan = scenario.plan(&mut Dice::new(3), 30).actions;
            let deleted_from =
                plan.iter().position(|(_, action)| matches!(action, Action::Wish(_, Wish::Delete(_))));
            let to_go = |action: &Action| matches!(action, Action::Wish(_, Wish::Use(name)) if name.topic.as_str().ends_with("to-go"));
            let last_use = plan.iter().rposition(|(_, action)| to_go(action));
            assert!(last_use < deleted_from, "{}", scenario.name);
        }
    }
}
