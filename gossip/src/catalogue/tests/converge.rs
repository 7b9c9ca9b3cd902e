//! Whatever happens, in whatever order things are heard, all nodes come to know the same.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 7] = ["t", "t/a", "t/b", "t/tail#ephemeral", "u", "u/a", "v#ephemeral"];

#[derive(Clone, Debug)]
enum Step {
    Make(usize, usize),
    Lose(usize, usize),
    Create(usize, usize),
    Delete(usize, usize),
    /// A piece of news, any that was ever sent, reaches a node.
    Deliver(prop::sample::Index, usize),
    Exchange(usize, usize),
    Save(usize),
    Restart(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..5usize;
    let name = || 0..NAMES.len();
    prop_oneof![
        4 => (node(), name()).prop_map(|(node, name)| Step::Make(node, name)),
        2 => (node(), name()).prop_map(|(node, name)| Step::Lose(node, name)),
        1 => (node(), name()).prop_map(|(node, name)| Step::Create(node, name)),
        2 => (node(), name()).prop_map(|(node, name)| Step::Delete(node, name)),
        8 => (any::<prop::sample::Index>(), node()).prop_map(|(item, node)| Step::Deliver(item, node)),
        3 => (node(), node()).prop_map(|(one, other)| Step::Exchange(one, other)),
        1 => node().prop_map(Step::Save),
        1 => node().prop_map(Step::Restart),
        2 => (0..2_000u64).prop_map(Step::Wait),
    ]
}

struct World {
    nodes: Vec<Node>,
    sent: Vec<Bytes>,
    ms: u64,
    limit: usize,
}

impl World {
    fn new(count: usize, limit: usize) -> Self {
        let nodes = (1..=count as u64).map(Node::new).collect();
        Self { nodes, sent: Vec::new(), ms: 0, limit }
    }

    fn take(&mut self, step: &Step) {
        let count = self.nodes.len();
        let now = now(self.ms);
        match *step {
            Step::Make(node, text) => self.nodes[node % count].make(now, &name(NAMES[text])),
            Step::Lose(node, text) => {
                // A lasting channel goes only with its topic or by a delete.
                let name = name(NAMES[text]);
                if name.channel.is_none() || name.is_ephemeral() {
                    self.nodes[node % count].lose(now, &name);
                }
            }
            Step::Create(node, text) => self.nodes[node % count].catalogue.create(now, &name(NAMES[text])),
            Step::Delete(node, text) => drop(self.nodes[node % count].delete(now, &name(NAMES[text]))),
            Step::Deliver(item, node) => {
                if !self.sent.is_empty() {
                    let item = item.get(&self.sent).clone();
                    let heard = self.nodes[node % count].hear(now, &item);
                    assert!(!matches!(heard, Heard::Refused(why) if why != "a peer speaks for this node"));
                }
            }
            Step::Exchange(one, other) => self.exchange(one % count, other % count),
            Step::Save(node) => self.nodes[node % count].save(),
            Step::Restart(node) => self.nodes[node % count].restart(now),
            Step::Wait(ms) => self.ms += ms,
        }
        for node in &mut self.nodes {
            node.obey(now);
            self.sent.extend(node.news());
        }
    }

    fn exchange(&mut self, one: usize, other: usize) {
        let (low, high) = (one.min(other), one.max(other));
        if low < high {
            let (before, after) = self.nodes.split_at_mut(high);
            exchange(now(self.ms), &mut before[low], &mut after[0], self.limit);
        }
    }

    /// What a node shows of everything.
    fn shown(&self, node: &Node) -> String {
        let live: Vec<&Node> = self.nodes.iter().collect();
        let view = node.view(&live);
        let topics = view.topics();
        let of_topic = |topic: &TopicName| {
            let producers: Vec<NodeId> =
                view.producers(topic.as_str()).iter().map(|producer| producer.member.peer.id).collect();
            (view.channels(topic.as_str()), view.lasting_channels(topic.as_str()), producers)
        };
        let details: Vec<_> = topics.iter().map(of_topic).collect();
        let holdings: Vec<_> = live.iter().map(|node| view.holdings(node.id)).collect();
        format!("{topics:?} {details:?} {holdings:?}")
    }

    fn check_equal(&self) {
        let shown = self.shown(&self.nodes[0]);
        let live = || self.nodes.iter().map(|node| (node.id, node.generation));
        for node in &self.nodes {
            assert_eq!(self.shown(node), shown);
            assert!(!node.catalogue.misses(live()));
            let view = node.view(&self.nodes.iter().collect::<Vec<_>>());
            // What a node says is what it has, and nothing lives on under a name that is deleted.
            let said: BTreeSet<Name> = view
                .holdings(node.id)
                .into_iter()
                .flat_map(|holding| {
                    let topic = holding.topic;
                    let channels = holding.channels.into_iter().map({
                        let topic = topic.clone();
                        move |channel| Name::channel(topic.clone(), channel)
                    });
                    [Name::topic(topic)].into_iter().chain(channels).collect::<Vec<_>>()
                })
                .collect();
            assert_eq!(said, node.held.keys().cloned().collect());
            // Who holds a topic holds every lasting channel of it.
            for topic in node.held.keys().filter(|name| name.channel.is_none()) {
                for channel in view.lasting_channels(topic.topic.as_str()) {
                    assert!(node.held.contains_key(&Name::channel(topic.topic.clone(), channel)));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn all_nodes_come_to_know_the_same(
        count in 3..=5usize,
        steps in prop::collection::vec(step(), 1..80),
        limit in prop_oneof![Just(600usize), Just(1 << 20)],
    ) {
        let mut world = World::new(count, limit);
        steps.iter().for_each(|step| world.take(step));
        settle(now(world.ms), &mut world.nodes, limit);
        world.check_equal();
        // And they are done: nothing more is to be sent.
        for place in 1..count {
            let digest = world.nodes[place].catalogue.digest();
            prop_assert!(world.nodes[0].catalogue.answer(now(world.ms), &digest, limit).is_empty());
        }
    }

    /// After everybody has heard of a delete, no old news and no restart brings the name back.
    #[test]
    fn a_delete_that_all_know_is_final(
        steps in prop::collection::vec(step(), 1..60),
        stale in prop::collection::vec((any::<prop::sample::Index>(), 0..3usize), 0..40),
        restarted in prop::option::of(0..3usize),
    ) {
        let mut world = World::new(3, 1 << 20);
        steps.iter().for_each(|step| world.take(step));
        settle(now(world.ms), &mut world.nodes, 1 << 20);
        world.ms += 1;
        let was_known = world.nodes[0].delete(now(world.ms), &name("t"));
        settle(now(world.ms), &mut world.nodes, 1 << 20);
        for (item, node) in stale {
            world.take(&Step::Deliver(item, node));
        }
        if let Some(node) = restarted {
            world.nodes[node].save();
            world.nodes[node].restart(now(world.ms));
        }
        settle(now(world.ms), &mut world.nodes, 1 << 20);
        world.check_equal();
        prop_assert!(world.nodes.iter().all(|node| !node.holds("t")));
        prop_assert!(!world.shown(&world.nodes[1]).contains("\"t\"") || !was_known);
    }

    /// Equal hashes mean equal content, and the other way round.
    #[test]
    fn a_hash_tells_whether_two_know_the_same(
        steps in prop::collection::vec(step(), 1..40),
        heard in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let mut world = World::new(3, 1 << 20);
        steps.iter().for_each(|step| world.take(step));
        let (mut one, mut other) = (Node::new(8), Node::new(9));
        for item in heard.iter().filter(|_| !world.sent.is_empty()) {
            one.hear(now(world.ms), item.get::<Bytes>(&world.sent));
        }
        for item in heard.iter().rev().filter(|_| !world.sent.is_empty()) {
            other.hear(now(world.ms), item.get::<Bytes>(&world.sent));
        }
        let shown = |node: &Node| {
            let names: BTreeMap<Name, Mark> =
                node.catalogue.names.iter().filter(|(_, _, mark)| *mark != Mark::NONE).map(|(_, name, mark)| (name.clone(), mark)).collect();
            let facts: Vec<_> = world.nodes.iter().map(|owner| {
                let live = [owner.member()];
                let known = node.catalogue.digest().knows(owner.id);
                (known, node.catalogue.view(live.to_vec()).holdings(owner.id))
            }).collect();
            format!("{names:?} {facts:?}")
        };
        let live = || world.nodes.iter().map(|node| (node.id, node.generation));
        let is_equal = one.catalogue.hash_of(live()) == other.catalogue.hash_of(live());
        if is_equal {
            prop_assert_eq!(shown(&one), shown(&other));
        } else {
            // The same was heard in another order; only what lies above a gap, or was overtaken, may differ.
            settle(now(world.ms), &mut [one, other], 1 << 20);
        }
    }
}
