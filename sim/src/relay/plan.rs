//! What a run of the relay is about: which topics there are, where they are published, where consumers sit,
//! and what is done to the nodes and to the links between them.

use std::time::Duration;

use crate::{
    dice::Dice,
    mesh::plan::{self, Cable, Joining, MeshPlan},
    shape::{Channel, Keeping, Place, Shape, Topic},
};

/// The plan of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayPlan {
    /// The nodes, and what is done to them and to the network between them; clients always reach every node.
    pub mesh: MeshPlan,
    /// Topics, channels, and how clients behave.
    pub shape: Shape,
    /// Who publishes.
    pub stalls: Vec<Stall>,
    /// Who consumes.
    pub seats: Vec<Seat>,
    /// A channel that is paused on all nodes for a while.
    pub pause: Option<Pause>,
}

/// A publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// The node that it uses.
    pub node: usize,
    /// Indices of its topics.
    pub topics: Vec<usize>,
    /// When it comes.
    pub opens_at: Duration,
}

/// A consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// The node that it uses, and no other.
    pub node: usize,
    /// Its channel.
    pub place: Place,
}

/// A channel that is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// Which.
    pub place: Place,
    /// From when.
    pub from: Duration,
    /// Until when.
    pub until: Duration,
}

/// A time in which something between two nodes got lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// From when.
    pub since: Duration,
    /// Until when.
    pub until: Duration,
}

/// Index of the topic that nobody publishes to until late.
const LATE: usize = 2;

impl RelayPlan {
    /// The plan that `dice` and `draw` give.
    pub(crate) fn new(dice: &mut Dice, draw: fn(&mut MeshPlan, &mut Dice)) -> Self {
        let mut mesh = MeshPlan::new(&mut dice.fork(1), draw);
        mesh.relays = true;
        mesh.namesakes = dice.chance(200);
        if mesh.joining == Joining::Halves {
            // Nobody here tells one half of the other.
            mesh.joining = Joining::First;
        }
        let shape = shape(dice, mesh.chaos);
        let stalls = stalls(dice, mesh.nodes, mesh.chaos);
        let seats = seats(dice, &shape, mesh.nodes);
        let pause = pause(dice, &shape, mesh.chaos);
        Self { mesh, shape, stalls, seats, pause }
    }

    /// When any way between two nodes was cut, or the weather was bad, in order of time.
    #[must_use]
    pub fn cuts(&self) -> Vec<Cut> {
        let cables = || self.mesh.cables.iter().filter(|(since, _)| *since < self.mesh.chaos);
        let mended = |since: Duration| {
            let mut mends = cables().filter(|(at, cable)| *at >= since && *cable == Cable::Mend);
            mends.next().map_or(self.mesh.chaos, |(at, _)| *at)
        };
        let cut = |(since, cable): &(Duration, Cable)| match cable {
            Cable::Mend => None,
            Cable::Weather(_) => Some(Cut { since: *since, until: self.mesh.chaos }),
            Cable::Split(_) | Cable::Part(..) | Cable::Deafen(..) | Cable::Mute(..) => {
                Some(Cut { since: *since, until: mended(*since) })
            }
        };
        cables().filter_map(cut).collect()
    }

    /// The nodes that have consumers.
    #[must_use]
    pub fn consumer_nodes(&self) -> Vec<usize> {
        (0..self.mesh.nodes).filter(|at| self.seats.iter().any(|seat| seat.node == *at)).collect()
    }
}

fn shape(dice: &mut Dice, chaos: Duration) -> Shape {
    let mut shape = Shape::for_mesh(&mut dice.fork(2), chaos);
    let first = match dice.below(10) {
        0 => Keeping::Memory,
        1 | 2 => Keeping::Os,
        _ => Keeping::Fsync,
    };
    shape.topics = vec![topic("jobs", first, dice), topic("orders", Keeping::Fsync, dice)];
    shape.topics.push(topic("late", Keeping::Fsync, dice));
    shape
}

fn topic(name: &str, keeping: Keeping, dice: &mut Dice) -> Topic {
    let name = match keeping {
        Keeping::Fsync => name.to_owned(),
        Keeping::Os => format!("os-{name}"),
        Keeping::Memory => format!("{name}#ephemeral"),
    };
    let channels = (0..dice.between(1, 3)).map(|index| {
        let ephemeral = index > 0 && dice.chance(300);
        Channel {
            name: if ephemeral { format!("tail{index}#ephemeral") } else { format!("archive{index}") },
            ephemeral,
            consumers: usize::try_from(dice.between(1, 2)).unwrap_or(1),
            opens_at: if dice.chance(600) { Duration::ZERO } else { dice.millis(0, 3_000) },
        }
    });
    Topic { name, keeping, channels: channels.collect() }
}

/// A publisher on each node, and one for the topic that comes late.
fn stalls(dice: &mut Dice, nodes: usize, chaos: Duration) -> Vec<Stall> {
    let mut stalls: Vec<Stall> = (0..nodes)
        .map(|node| {
            let topics = (0..LATE).filter(|topic| node % LATE == *topic || dice.chance(600)).collect();
            Stall { node, topics, opens_at: dice.millis(0, 500) }
        })
        .collect();
    let late_by = u64::try_from(chaos.as_millis() / 3).unwrap_or(0);
    stalls.push(Stall {
        node: usize::try_from(dice.below(nodes as u64)).unwrap_or(0),
        topics: vec![LATE],
        opens_at: dice.millis(late_by, 2 * late_by),
    });
    stalls
}

/// All consumers on one node; or on two; or a few on every node.
fn seats(dice: &mut Dice, shape: &Shape, nodes: usize) -> Vec<Seat> {
    let number = match dice.below(20) {
        0..11 => 1,
        11..18 => 2,
        _ => nodes.min(4),
    };
    let first = usize::try_from(dice.below(nodes as u64)).unwrap_or(0);
    let mut seats = Vec::new();
    for place in shape.places() {
        for other in 0..number {
            let node = (first + other) % nodes;
            seats.extend((0..shape.channel(place).consumers).map(|_| Seat { node, place }));
        }
    }
    seats
}

fn pause(dice: &mut Dice, shape: &Shape, chaos: Duration) -> Option<Pause> {
    let places: Vec<Place> = shape.kept_places().collect();
    let place = dice.pick(&places).copied()?;
    let from = dice.millis(500, u64::try_from(chaos.as_millis() / 2).unwrap_or(0));
    let until = from + dice.millis(500, 3_000);
    dice.chance(400).then_some(Pause { place, from, until })
}

pub(crate) fn partition(plan: &mut MeshPlan, dice: &mut Dice) {
    for _ in 0..dice.between(1, 3) {
        let (one, other) = (plan.some_node(dice), plan.some_node(dice));
        if one != other && dice.chance(700) {
            plan.cable(dice, Cable::Part(one, other));
        } else {
            let cable = Cable::Split(plan.some_nodes(dice));
            plan.cable(dice, cable);
        }
    }
}

pub(crate) fn mute(plan: &mut MeshPlan, dice: &mut Dice) {
    for _ in 0..dice.between(1, 3) {
        let (one, other) = (plan.some_node(dice), plan.some_node(dice));
        if one != other {
            plan.cable(dice, Cable::Mute(one, other));
        }
    }
}

pub(crate) fn all(plan: &mut MeshPlan, dice: &mut Dice) {
    let parts: [fn(&mut MeshPlan, &mut Dice); 9] = [
        plan::join,
        plan::crash,
        plan::power,
        plan::stop,
        partition,
        mute,
        plan::one_way,
        plan::weather,
        plan::clock,
    ];
    for _ in 0..dice.between(2, 4) {
        let part = usize::try_from(dice.below(parts.len() as u64)).unwrap_or(0);
        parts[part](plan, dice);
    }
}

/// Ten owners and a node without messages.
pub(crate) fn fair(plan: &mut MeshPlan, _: &mut Dice) {
    plan.nodes = 11;
    plan.starts = vec![Duration::ZERO; plan.nodes];
    plan.actions = vec![Vec::new(); plan.nodes];
    plan.chaos = Duration::from_millis(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_the_same_for_the_same_dice_and_every_topic_is_published_and_consumed() {
        for draw in [plan::calm, plan::crash, partition, all] {
            for seed in 0..50 {
                let plan = RelayPlan::new(&mut Dice::new(seed), draw);
                assert_eq!(plan, RelayPlan::new(&mut Dice::new(seed), draw));
                for topic in 0..plan.shape.topics.len() {
                    assert!(plan.stalls.iter().any(|stall| stall.topics.contains(&topic)));
                }
                for place in plan.shape.places() {
                    assert!(plan.seats.iter().any(|seat| seat.place == place));
                }
                assert!(plan.seats.iter().all(|seat| seat.node < plan.mesh.nodes));
                assert!(plan.cuts().iter().all(|cut| cut.since <= cut.until));
            }
        }
    }

    #[test]
    fn seeds_differ_in_where_consumers_are() {
        let plans = (0..50).map(|seed| RelayPlan::new(&mut Dice::new(seed), plan::calm));
        let numbers: std::collections::BTreeSet<usize> =
            plans.map(|plan| plan.consumer_nodes().len()).collect();
        assert!(numbers.contains(&1) && numbers.contains(&2) && numbers.len() > 2, "{numbers:?}");
    }
}
