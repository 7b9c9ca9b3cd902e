//! Meshes on a small network in memory: enough to see each rule at work. What needs hundreds of nodes, loss
//! and chance is in the simulation.

use std::collections::{BTreeMap, BTreeSet};

use bruit_wire::TopicName;

use super::*;
use crate::{Command, LocalChange, LocalWhat, Name};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const LATENCY: Duration = ms(1);

/// Nodes, and what is on its way between them.
struct Net {
    now: Duration,
    nodes: BTreeMap<SocketAddr, Node>,
    flying: BTreeMap<(Duration, u64), (SocketAddr, SocketAddr, NodeId, Bytes)>,
    sequence: u64,
    /// Pairs that cannot reach each other.
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
    /// Addresses whose host refuses connections.
    refusing: BTreeSet<SocketAddr>,
    events: Vec<(SocketAddr, Event)>,
    commands: Vec<(SocketAddr, Command)>,
    exchanges: usize,
}

struct Node {
    mesh: Mesh,
    /// It gets nothing before this.
    paused: Duration,
}

fn address(node: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, (node >> 8) as u8, node as u8], 4160))
}

fn setup(node: u64, generation: u64) -> Setup {
    let mut random = [7; 32];
    random[..8].copy_from_slice(&node.to_le_bytes());
    random[8] = generation as u8;
    let id = NodeId::new(node + 1_000);
    let peer = Peer { id, generation, renewal: 0, gossip: address(node), mesh_port: 4161 };
    Setup { peer, about: About::default(), profile: Profile::Lan, random, saved: None }
}

impl Net {
    fn empty() -> Self {
        Self {
            now: ms(1_000),
            nodes: BTreeMap::new(),
            flying: BTreeMap::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            refusing: BTreeSet::new(),
            events: Vec::new(),
            commands: Vec::new(),
            exchanges: 0,
        }
    }

    /// So many nodes, all of which know each other.
    fn of(count: u64) -> Self {
        let mut net = Self::empty();
        for node in 0..count {
            net.start(node, 1);
            if node > 0 {
                net.join(node, 0);
            }
        }
        net.run(ms(10_000));
        for node in 0..count {
            assert_eq!(net.alive(node).len(), count as usize, "node {node}");
        }
        net.events.clear();
        net
    }

    const fn clock(&self) -> Now {
        Now { elapsed: self.now, wall_ms: 1_700_000_000_000 + self.now.as_millis() as u64 }
    }

    fn start(&mut self, node: u64, generation: u64) {
        let mesh = Mesh::new(setup(node, generation), self.clock());
        self.nodes.insert(address(node), Node { mesh, paused: Duration::ZERO });
    }

    fn join(&mut self, node: u64, seed: u64) {
        self.input(address(node), Input::Join { address: address(seed) });
    }

    fn node(&mut self, node: u64) -> &mut Mesh {
        &mut self.nodes.get_mut(&address(node)).unwrap().mesh
    }

    /// Ids of the members that a node takes for alive, itself included.
    fn alive(&mut self, node: u64) -> Vec<u64> {
        self.in_state(node, MemberState::Alive)
    }

    fn in_state(&mut self, node: u64, state: MemberState) -> Vec<u64> {
        let now = self.clock();
        let mesh = self.node(node);
        mesh.shown = None;
        let view = mesh.view(now).unwrap();
        let members = view.members().iter().filter(|member| member.state == state);
        members.map(|member| member.peer.id.bits() - 1_000).collect()
    }

    fn input(&mut self, address: SocketAddr, input: Input<'_>) {
        let now = self.clock();
        let Some(node) = self.nodes.get_mut(&address) else { return };
        node.mesh.handle(now, input);
        self.drain(address);
    }

    fn drain(&mut self, from: SocketAddr) {
        let now = self.clock();
        while let Some(output) = self.nodes.get_mut(&from).and_then(|node| node.mesh.poll_output()) {
            match output {
                Output::Send { to, datagram } => {
                    assert!(datagram.len() <= crate::DATAGRAM_MAX);
                    let id = self.nodes[&from].mesh.me.id;
                    self.sequence += 1;
                    self.flying.insert((self.now + LATENCY, self.sequence), (from, to, id, datagram));
                }
                Output::Exchange { peer } => {
                    let done = self.exchange(from, &peer);
                    let bytes = done.then_some(1);
                    self.nodes.get_mut(&from).unwrap().mesh.exchange_over(now, &peer, bytes);
                }
                Output::Check { peer } => {
                    if self.refusing.contains(&peer.gossip) {
                        self.input(from, Input::Checked { peer, gone: true });
                    }
                }
                Output::Broker(command) => self.commands.push((from, command)),
                Output::Event(event) => self.events.push((from, event)),
            }
        }
    }

    fn exchange(&mut self, from: SocketAddr, peer: &Peer) -> bool {
        let (now, to) = (self.clock(), peer.gossip);
        if self.cut.contains(&(from, to)) || !self.nodes.contains_key(&to) {
            return false;
        }
        let (mine, theirs) = (self.nodes[&from].mesh.me.id, self.nodes[&to].mesh.me.id);
        if theirs != peer.id || self.nodes[&to].paused > self.now {
            return false;
        }
        self.exchanges += 1;
        let leg = self.nodes.get_mut(&from).unwrap().mesh.exchange_open(now, peer);
        let Ok(leg) = self.nodes.get_mut(&to).unwrap().mesh.exchange_answer(now, mine, &leg) else {
            return false;
        };
        self.drain(to);
        let Ok(leg) = self.nodes.get_mut(&from).unwrap().mesh.exchange_close(now, theirs, &leg) else {
            return false;
        };
        let ended = self.nodes.get_mut(&to).unwrap().mesh.exchange_end(now, mine, &leg);
        self.drain(to);
        ended.is_ok()
    }

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timer = self
                .nodes
                .iter()
                .filter_map(|(address, node)| Some((node.mesh.next_timeout()?.max(node.paused), *address)))
                .min();
            let flying = self.flying.first_key_value().map(|(&(at, _), _)| at);
            let next = [timer.map(|(at, _)| at), flying].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if flying == Some(next) {
                self.deliver();
            } else if let Some((_, address)) = timer {
                self.input(address, Input::Timeout);
            }
        }
        self.now = end;
    }

    fn deliver(&mut self) {
        let Some(((_, sequence), (from, to, sender, bytes))) = self.flying.pop_first() else { return };
        let Some(node) = self.nodes.get(&to) else { return };
        if self.cut.contains(&(from, to)) {
            return;
        }
        if node.paused > self.now {
            // It lies in the socket until the process goes on.
            self.flying.insert((node.paused, sequence), (from, to, sender, bytes));
            return;
        }
        self.input(to, Input::Datagram { from, sender, bytes: &bytes });
    }

    fn partition(&mut self, left: &[u64], right: &[u64]) {
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
            self.cut.insert((address(a), address(b)));
            self.cut.insert((address(b), address(a)));
        }
    }

    fn downs(&self) -> Vec<(SocketAddr, Peer)> {
        let down = |(at, event): &(SocketAddr, Event)| match event {
            Event::Down(peer) => Some((*at, *peer)),
            _ => None,
        };
        self.events.iter().filter_map(down).collect()
    }
}

fn created(topic: &str) -> Input<'static> {
    let name = Name::topic(TopicName::new(topic).unwrap());
    Input::Local(LocalChange { name, number: 1, what: LocalWhat::Created })
}

#[test]
fn nodes_that_join_one_find_all_and_what_they_hold() {
    let mut net = Net::of(20);
    net.input(address(7), created("orders"));
    net.run(ms(300));
    for node in 0..20 {
        let now = net.clock();
        net.node(node).shown = None;
        let view = net.node(node).view(now).unwrap();
        let producers: Vec<_> = view.producers("orders").iter().map(|it| it.member.peer.gossip).collect();
        assert_eq!(producers, [address(7)], "node {node}");
        assert!(net.node(node).view(now).is_none(), "nothing has changed since");
    }
    net.run(ms(5_000));
    let now = net.clock();
    for node in 0..20 {
        let stats = net.node(node).stats(now);
        assert_eq!((stats.alive, stats.suspect, stats.down), (20, 0, 0));
        assert_eq!(stats.refused, BTreeMap::new());
        assert!(stats.summaries_equal > 0 && stats.oldest_unconfirmed_ms == 0, "{stats:?}");
        assert_eq!((stats.fact_owners, stats.fact_items, stats.names), (20, 1, 1));
    }
    assert_eq!(net.downs(), []);
}

#[test]
fn a_node_is_joined_at_any_address_that_leads_to_it() {
    let mut net = Net::empty();
    net.start(0, 1);
    net.start(1, 1);
    net.input(address(1), Input::Join { address: address(99) });
    // As a second address of the host, or a port that is mapped to it.
    for (_, to, ..) in net.flying.values_mut().filter(|(_, to, ..)| *to == address(99)) {
        *to = address(0);
    }
    net.run(ms(2_000));
    for node in [0, 1] {
        assert_eq!(net.alive(node), [0, 1]);
    }
}

#[test]
fn a_quiet_mesh_sends_only_its_probes() {
    let mut net = Net::of(20);
    net.run(ms(30_000));
    let (before, exchanges) = (net.sequence, net.exchanges);
    net.run(ms(10_000));
    assert_eq!(net.exchanges, exchanges);
    let each = (net.sequence - before) as f64 / 20.0 / 10.0;
    assert!((1.8..2.2).contains(&each), "a ping and an answer each second, not {each}");
    let now = net.clock();
    let rtt = net.node(3).roster.active().map(|entry| entry.rtt).collect::<Vec<_>>();
    assert!(rtt.iter().all(|rtt| *rtt == Some(LATENCY * 2)), "{rtt:?}");
    assert_eq!(net.node(3).stats(now).health, 0);
}

#[test]
fn a_host_that_is_gone_is_found_dead_by_all() {
    let mut net = Net::of(20);
    let start = net.now;
    net.nodes.remove(&address(5));
    let dead = NodeId::new(1_005);
    while (0..20).filter(|node| *node != 5).any(|node| net.node(node).roster.best(dead).unwrap().is_active())
    {
        net.run(ms(100));
        assert!(net.now - start < ms(10_000));
    }
    assert!(net.now - start > ms(1_000), "it had time to say no");
    assert!(net.downs().iter().all(|(_, peer)| peer.id == dead));
    assert_eq!(net.in_state(3, MemberState::Down), [5]);
}

#[test]
fn a_process_that_is_gone_is_found_dead_at_once() {
    let mut net = Net::of(3);
    let start = net.now;
    net.nodes.remove(&address(2));
    net.refusing.insert(address(2));
    while net.downs().len() < 2 {
        net.run(ms(10));
        assert!(net.now - start < ms(1_500));
    }
}

#[test]
fn a_node_that_was_paused_accuses_nobody_and_comes_back() {
    let mut net = Net::of(32);
    let until = net.now + ms(30_000);
    net.nodes.get_mut(&address(9)).unwrap().paused = until;
    net.run(ms(29_000));
    assert!(net.downs().iter().all(|(_, peer)| peer.id == NodeId::new(1_009)));
    assert_eq!(net.alive(3).len(), 31);
    net.run(ms(6_000));
    for node in 0..32 {
        assert_eq!(net.alive(node).len(), 32, "node {node}");
    }
    assert!(net.downs().iter().all(|(_, peer)| peer.id == NodeId::new(1_009)), "{:?}", net.downs());
    let now = net.clock();
    let stats = net.node(9).stats(now);
    assert!(stats.revivals >= 1 && stats.refuted_suspicions == 0, "{stats:?}");
}

#[test]
fn short_pauses_hurt_nobody() {
    let mut net = Net::of(32);
    for _ in 0..20 {
        let until = net.now + ms(1_500);
        net.nodes.get_mut(&address(9)).unwrap().paused = until;
        net.run(ms(4_000));
    }
    assert_eq!(net.downs(), []);
}

#[test]
fn a_restarted_node_replaces_its_earlier_life_also_at_another_address() {
    let mut net = Net::of(5);
    net.start(4, 2);
    net.join(4, 0);
    net.run(ms(1_000));
    let generations = |net: &mut Net, node| {
        let id = NodeId::new(1_004);
        net.node(node)
            .roster
            .of(id)
            .filter(|it| it.is_active())
            .map(|it| it.peer.generation)
            .collect::<Vec<_>>()
    };
    for node in 0..4 {
        assert_eq!(generations(&mut net, node), [2]);
    }
    let mut moved = setup(4, 3);
    moved.peer.gossip = address(77);
    net.nodes.remove(&address(4));
    let mesh = Mesh::new(moved, net.clock());
    net.nodes.insert(address(77), Node { mesh, paused: Duration::ZERO });
    net.join(77, 0);
    net.run(ms(1_000));
    for node in 0..4 {
        assert_eq!(generations(&mut net, node), [3], "node {node}");
    }
}

#[test]
fn a_node_with_fewer_lives_than_others_remember_outranks_them() {
    let mut net = Net::of(5);
    net.start(4, 9);
    net.join(4, 0);
    net.run(ms(2_000));
    // Its data directory comes back from a backup.
    net.start(4, 3);
    net.join(4, 0);
    net.input(address(4), created("orders"));
    net.run(ms(3_000));
    for node in 0..5 {
        assert_eq!(net.alive(node).len(), 5, "node {node}");
        let now = net.clock();
        net.node(node).shown = None;
        assert_eq!(net.node(node).view(now).unwrap().producers("orders").len(), 1, "node {node}");
    }
    // Another node gets the address.
    let mut other = setup(4, 1);
    other.peer.id = NodeId::new(1_099);
    let mesh = Mesh::new(other, net.clock());
    net.nodes.insert(address(4), Node { mesh, paused: Duration::ZERO });
    net.join(4, 0);
    net.run(ms(10_000));
    for node in 0..5 {
        assert_eq!(net.alive(node), [0, 1, 2, 3, 99], "node {node}");
    }
}

#[test]
fn what_a_node_says_after_a_restart_counts_also_if_it_had_to_outrank_another_one() {
    let mut net = Net::of(5);
    let mut other = |generation, topics: &[&str]| {
        let mut other = setup(4, generation);
        other.peer.id = NodeId::new(999);
        let mesh = Mesh::new(other, net.clock());
        net.nodes.insert(address(4), Node { mesh, paused: Duration::ZERO });
        net.join(4, 0);
        topics.iter().for_each(|topic| net.input(address(4), created(topic)));
        net.run(ms(10_000));
        let now = net.clock();
        net.node(0).shown = None;
        net.node(0).view(now).unwrap()
    };
    let first = other(1, &["a", "b", "c"]);
    assert_eq!(first.producers("c").len(), 1);
    let second = other(2, &["d"]);
    assert_eq!((second.producers("c").len(), second.producers("d").len()), (0, 1));
}

#[test]
fn two_halves_that_were_cut_off_know_each_other_again() {
    let mut net = Net::of(20);
    let (left, right): (Vec<u64>, Vec<u64>) = (0..20).partition(|node| *node < 10);
    net.partition(&left, &right);
    net.run(ms(60_000));
    for node in 0..20 {
        assert_eq!(net.alive(node).len(), 10, "node {node}");
    }
    net.input(address(3), created("left"));
    net.input(address(13), created("right"));
    net.run(ms(10_000));
    net.cut.clear();
    let healed = net.now;
    let whole = |net: &mut Net| {
        (0..20).all(|node| {
            let now = net.clock();
            net.node(node).shown = None;
            let view = net.node(node).view(now).unwrap();
            net.alive(node).len() == 20
                && view.producers("left").len() == 1
                && view.producers("right").len() == 1
        })
    };
    while !whole(&mut net) {
        net.run(ms(100));
        assert!(net.now - healed < ms(10_000), "{:?}", net.events);
    }
}

#[test]
fn two_nodes_find_each_other_again() {
    let mut net = Net::of(2);
    net.partition(&[0], &[1]);
    net.run(ms(30_000));
    assert_eq!((net.alive(0), net.alive(1)), (vec![0], vec![1]));
    net.cut.clear();
    net.run(ms(12_000));
    assert_eq!((net.alive(0), net.alive(1)), (vec![0, 1], vec![0, 1]));
}

#[test]
fn who_leaves_is_known_to_have_left_and_may_come_back() {
    let mut net = Net::of(12);
    net.input(address(3), Input::Leave);
    net.run(ms(1_000));
    for node in (0..12).filter(|node| *node != 3) {
        assert_eq!(net.in_state(node, MemberState::Left), [3], "node {node}");
    }
    let before = net.sequence;
    assert_eq!(net.in_state(3, MemberState::Left), [3]);
    net.run(ms(60_000));
    let sent = net.sequence;
    net.input(address(3), created("silent"));
    assert_eq!(net.sequence, sent, "who has left says nothing");
    assert!(sent > before);
    net.join(3, 0);
    net.run(ms(3_000));
    for node in 0..12 {
        assert_eq!(net.alive(node).len(), 12, "node {node}");
    }
}

#[test]
fn who_comes_back_finds_out_that_the_others_have_left() {
    let mut net = Net::of(3);
    for node in [2, 1, 0] {
        net.input(address(node), Input::Leave);
        net.run(ms(500));
    }
    net.join(2, 0);
    net.run(ms(30_000));
    assert_eq!(net.alive(2), [2]);
}

#[test]
fn a_second_node_with_this_ones_id_is_noticed() {
    let mut net = Net::of(3);
    let mut copy = setup(1, 1);
    copy.peer.gossip = address(50);
    let mesh = Mesh::new(copy, net.clock());
    net.nodes.insert(address(50), Node { mesh, paused: Duration::ZERO });
    net.join(50, 0);
    net.run(ms(5_000));
    let same = |(_, event): &&(SocketAddr, Event)| matches!(event, Event::SameNode { .. });
    let count = net.events.iter().filter(same).count();
    assert!((1..=2).contains(&count), "once a minute at each of the two, not {count}");
}

#[test]
fn whatever_comes_in_a_datagram_or_a_leg_does_no_harm() {
    use rand::RngExt as _;
    let mut net = Net::of(3);
    let mut rng = StdRng::seed_from_u64(5);
    let now = net.clock();
    let peer = net.node(1).me;
    let leg = net.node(1).exchange_open(now, &peer);
    for round in 0..20_000 {
        let mut bytes: Vec<u8> = match round % 3 {
            0 => leg.to_vec(),
            1 => vec![1, rng.random_range(0..6)],
            _ => crate::packet::revive(&peer).to_vec(),
        };
        bytes.extend((0..rng.random_range(0..60)).map(|_| rng.random::<u8>()));
        for _ in 0..rng.random_range(0..4) {
            let place = rng.random_range(0..bytes.len());
            bytes[place] ^= rng.random::<u8>();
        }
        let sender = NodeId::new(1_001);
        net.node(0).handle(now, Input::Datagram { from: address(1), sender, bytes: &bytes });
        let _ = net.node(0).exchange_answer(now, sender, &bytes);
        let _ = net.node(0).exchange_close(now, sender, &bytes);
        let _ = net.node(0).exchange_end(now, sender, &bytes);
    }
    assert!(net.node(0).stats(now).refused.len() > 1);
    net.drain(address(0));
    net.run(ms(20_000));
    let alive = net.alive(0);
    assert!(alive.contains(&0) && alive.contains(&1) && alive.contains(&2), "{alive:?}");
}
