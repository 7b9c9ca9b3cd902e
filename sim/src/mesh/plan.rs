//! What happens to a mesh: how many nodes there are, how they find each other, when each of them starts, and
//! what the saboteurs do to them and to the network.

use std::time::Duration;

use crate::{
    dice::Dice,
    mesh::STRANGER,
    nemesis::{Action, Ending},
    world::Weather,
};

/// The plan of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshPlan {
    /// Number of members.
    pub nodes: usize,
    /// How they find each other.
    pub joining: Joining,
    /// When each of them starts.
    pub starts: Vec<Duration>,
    /// What is done to each of them.
    pub actions: Vec<Vec<(Duration, Action)>>,
    /// What is done to the network, in order of time.
    pub cables: Vec<(Duration, Cable)>,
    /// A node that wants to join and must not.
    pub stranger: Option<Stranger>,
    /// A member that goes for good.
    pub gone: Option<usize>,
    /// Whether all nodes mark the ids of their messages alike.
    pub namesakes: bool,
    /// Whether consumers get what other nodes hold. If they do, whose message one is cannot be told from where
    /// it comes.
    pub relays: bool,
    /// How long faults go on.
    pub chaos: Duration,
}

/// Whom a node is told to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joining {
    /// The first node, which is told to join itself.
    First,
    /// A name that stands for all of them.
    Everyone,
    /// The next one, the last one the first.
    Next,
    /// The first of one half, until somebody tells one half of the other.
    Halves,
}

/// One thing that can be done to the network. Numbers are nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cable {
    /// These nodes are cut off from all others, in both directions.
    Split(Vec<usize>),
    /// These two do not reach each other; all others reach both.
    Part(usize, usize),
    /// Nothing of the first node comes to the second one.
    Deafen(usize, usize),
    /// No QUIC gets through between these two, while they gossip as ever.
    Mute(usize, usize),
    /// Everybody reaches everybody.
    Mend,
    /// Datagrams fare like this.
    Weather(Weather),
}

/// Why a node is no member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// It has another secret.
    OtherSecret,
    /// It has the secret, and names another cluster.
    OtherCluster,
}

impl MeshPlan {
    /// The plan that `dice` and `draw` give.
    pub(crate) fn new(dice: &mut Dice, draw: fn(&mut Self, &mut Dice)) -> Self {
        let nodes = match dice.below(20) {
            0..12 => 3,
            12..18 => dice.between(4, 5),
            _ => dice.between(6, 10),
        };
        let nodes = usize::try_from(nodes).unwrap_or(3);
        let joining = [Joining::First, Joining::Everyone, Joining::Next];
        let joining = dice.pick(&joining).copied().unwrap_or(Joining::First);
        let mut plan = Self {
            nodes,
            joining,
            starts: vec![Duration::ZERO; nodes],
            actions: vec![Vec::new(); nodes],
            cables: Vec::new(),
            stranger: None,
            gone: None,
            namesakes: false,
            relays: false,
            chaos: dice.millis(6_000, 10_000),
        };
        draw(&mut plan, dice);
        for actions in &mut plan.actions {
            actions.sort_by_key(|(at, _)| *at);
        }
        plan.cables.sort_by_key(|(at, _)| *at);
        plan
    }

    /// Number of hosts with a node on them, the stranger's included.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.nodes + usize::from(self.stranger.is_some())
    }

    /// What turmoil calls the host of node `at`.
    #[must_use]
    pub fn host_name(&self, at: usize) -> String {
        if self.is_member(at) { format!("node{at}") } else { STRANGER.to_owned() }
    }

    /// Whether node `at` belongs to the mesh.
    #[must_use]
    pub fn is_member(&self, at: usize) -> bool {
        at < self.nodes
    }

    /// Whether node `at` goes for good.
    #[must_use]
    pub fn is_gone(&self, at: usize) -> bool {
        self.gone == Some(at)
    }

    /// Whether clients use node `at`: a member that stays.
    #[must_use]
    pub fn is_busy(&self, at: usize) -> bool {
        self.is_member(at) && !self.is_gone(at)
    }

    /// Number of nodes in the first half of a mesh that starts in two.
    #[must_use]
    pub fn half(&self) -> usize {
        self.nodes / 2
    }

    /// The host that the second half is told to join.
    #[must_use]
    pub fn second_half_seed(&self) -> String {
        self.host_name(self.half())
    }

    pub(crate) fn some_node(&self, dice: &mut Dice) -> usize {
        usize::try_from(dice.below(self.nodes as u64)).unwrap_or(0)
    }

    fn some_time(&self, dice: &mut Dice) -> Duration {
        dice.millis(0, u64::try_from(self.chaos.as_millis()).unwrap_or(0))
    }

    /// Some of the nodes, at least one and not all.
    pub(crate) fn some_nodes(&self, dice: &mut Dice) -> Vec<usize> {
        let first = self.some_node(dice);
        let mut nodes: Vec<usize> = (0..self.nodes).filter(|at| *at == first || dice.chance(350)).collect();
        nodes.truncate(self.nodes - 1);
        nodes
    }

    fn end(&mut self, dice: &mut Dice, how: Ending) {
        let (node, at) = (self.some_node(dice), self.some_time(dice));
        // Long enough for the others to take it for dead, or too short for that.
        let down = if dice.chance(500) { dice.millis(20, 700) } else { dice.millis(2_000, 6_000) };
        let action = if how != Ending::Stop && dice.chance(300) {
            Action::EndAtOperation { operation: dice.between(1, 100), how, down }
        } else {
            Action::End { how, down }
        };
        self.actions[node].push((at, action));
    }

    pub(crate) fn cable(&mut self, dice: &mut Dice, cable: Cable) {
        let at = self.some_time(dice);
        let until = at + dice.millis(300, 7_000);
        self.cables.push((at, cable));
        self.cables.push((until, Cable::Mend));
    }
}

pub(crate) fn calm(_: &mut MeshPlan, _: &mut Dice) {}

pub(crate) fn join(plan: &mut MeshPlan, dice: &mut Dice) {
    if dice.chance(300) {
        plan.joining = Joining::Halves;
    }
    plan.starts = (0..plan.nodes).map(|_| dice.millis(1, 4_000)).collect();
}

pub(crate) fn crash(plan: &mut MeshPlan, dice: &mut Dice) {
    for _ in 0..dice.between(1, 5) {
        plan.end(dice, Ending::Crash);
    }
}

pub(crate) fn power(plan: &mut MeshPlan, dice: &mut Dice) {
    for _ in 0..dice.between(1, 4) {
        plan.end(dice, Ending::Power);
    }
    if dice.chance(300) {
        // The whole site at once.
        let (at, down) = (plan.some_time(dice), dice.millis(20, 2_000));
        plan.actions
            .iter_mut()
            .for_each(|actions| actions.push((at, Action::End { how: Ending::Power, down })));
    }
}

pub(crate) fn stop(plan: &mut MeshPlan, dice: &mut Dice) {
    for _ in 0..dice.between(1, 4) {
        plan.end(dice, Ending::Stop);
    }
}

pub(crate) fn split(plan: &mut MeshPlan, dice: &mut Dice) {
    for _ in 0..dice.between(1, 2) {
        let cable = Cable::Split(plan.some_nodes(dice));
        plan.cable(dice, cable);
    }
}

pub(crate) fn one_way(plan: &mut MeshPlan, dice: &mut Dice) {
    for _ in 0..dice.between(1, 4) {
        let (from, to) = (plan.some_node(dice), plan.some_node(dice));
        if from != to {
            plan.cable(dice, Cable::Deafen(from, to));
        }
    }
}

pub(crate) fn weather(plan: &mut MeshPlan, dice: &mut Dice) {
    let lost_per_mille = [10, 50, 250][usize::try_from(dice.below(3)).unwrap_or(0)];
    let (doubled_per_mille, damaged_per_mille) = (dice.below(100), dice.below(50));
    let len_max = usize::try_from(dice.between(1_232, 1_472)).unwrap_or(1_472);
    let weather = Weather { lost_per_mille, doubled_per_mille, damaged_per_mille, len_max };
    plan.cables.push((plan.some_time(dice) / 2, Cable::Weather(weather)));
}

pub(crate) fn clock(plan: &mut MeshPlan, dice: &mut Dice) {
    for _ in 0..dice.between(1, 4) {
        let (node, at) = (plan.some_node(dice), plan.some_time(dice));
        let which = usize::try_from(dice.below(4)).unwrap_or(0);
        let jump = if dice.chance(500) {
            -[40, 700, 3_000, 9_000][which]
        } else {
            [40, 700, 9_000, 3_600_000][which]
        };
        plan.actions[node].push((at, Action::ClockJump(jump)));
    }
    if dice.chance(500) {
        // A day, once: two would be beyond what others believe.
        let (node, at) = (plan.some_node(dice), plan.some_time(dice));
        plan.actions[node].push((at, Action::ClockJump(86_400_000)));
    }
    if dice.chance(500) {
        plan.end(dice, Ending::Crash);
    }
}

pub(crate) fn stranger(plan: &mut MeshPlan, dice: &mut Dice) {
    plan.stranger = Some(if dice.chance(500) { Stranger::OtherSecret } else { Stranger::OtherCluster });
}

pub(crate) fn gone(plan: &mut MeshPlan, dice: &mut Dice) {
    // Not the first one: others may know nobody else.
    let node = 1 + usize::try_from(dice.below(plan.nodes as u64 - 1)).unwrap_or(0);
    let how = if dice.chance(500) { Ending::Crash } else { Ending::Power };
    plan.gone = Some(node);
    let down = Duration::from_secs(3600);
    let at = Duration::from_millis(3_000) + plan.some_time(dice) / 2;
    plan.actions[node].push((at, Action::End { how, down }));
}

pub(crate) fn all(plan: &mut MeshPlan, dice: &mut Dice) {
    let parts: [fn(&mut MeshPlan, &mut Dice); 8] = [join, crash, power, stop, split, one_way, weather, clock];
    for _ in 0..dice.between(2, 4) {
        let part = usize::try_from(dice.below(parts.len() as u64)).unwrap_or(0);
        parts[part](plan, dice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_in_order_the_same_for_the_same_dice_and_about_nodes_that_exist() {
        for draw in [calm, join, crash, power, stop, split, one_way, weather, clock, stranger, gone, all] {
            for seed in 0..50 {
                let plan = MeshPlan::new(&mut Dice::new(seed), draw);
                assert_eq!(plan, MeshPlan::new(&mut Dice::new(seed), draw));
                assert!((3..=10).contains(&plan.nodes));
                assert!(plan.cables.is_sorted_by_key(|(at, _)| *at));
                assert!(plan.actions.iter().all(|actions| actions.is_sorted_by_key(|(at, _)| *at)));
                assert_eq!((plan.actions.len(), plan.starts.len()), (plan.nodes, plan.nodes));
                for (_, cable) in &plan.cables {
                    if let Cable::Split(part) = cable {
                        assert!(!part.is_empty() && part.len() < plan.nodes, "{part:?}");
                    }
                }
            }
        }
    }
}
