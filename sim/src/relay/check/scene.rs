//! Histories made by hand, for the tests of the checkers.

use std::time::Duration;

use bruit_wire::MessageId;

use super::super::{
    ledger::{Ledger, NodeIndex},
    plan::RelayPlan,
};
use crate::{
    body::Key,
    check::Finding,
    dice::Dice,
    history::{Conn, Down, Event, Op, Record},
    mesh::plan::{self, Cable},
    shape::{Channel, Keeping, Place, Topic},
};

/// A channel that lasts, of a topic that is synced.
pub(super) const ORDERS: Place = Place { topic: 0, channel: 0 };

/// An ephemeral channel of the same topic.
pub(super) const TAIL: Place = Place { topic: 0, channel: 1 };

/// Number of nodes.
const NODES: usize = 3;

/// A history in the making, of three nodes. Message `key` has the id `key`, marked with its owner.
pub(super) struct Scene {
    plan: RelayPlan,
    nodes: Vec<Vec<Record>>,
    of_all: Vec<Record>,
    processes: [u32; NODES],
    conns: Vec<(Conn, NodeIndex)>,
    owners: Vec<(Key, NodeIndex)>,
    now: Duration,
    ops: Op,
    last_conn: Conn,
}

impl Scene {
    pub(super) fn new() -> Self {
        let mut plan = RelayPlan::new(&mut Dice::new(1), plan::calm);
        let channel = |name: &str, ephemeral| Channel {
            name: name.to_owned(),
            ephemeral,
            consumers: 1,
            opens_at: Duration::ZERO,
        };
        let topic = |name: &str| Topic {
            name: name.to_owned(),
            keeping: Keeping::Fsync,
            channels: vec![channel("archive", false), channel("tail#ephemeral", true)],
        };
        plan.shape.topics = vec![topic("orders"), topic("others")];
        plan.shape.trouble_per_mille = 0;
        plan.mesh.chaos = Duration::from_secs(60);
        let mut scene = Self {
            plan,
            nodes: vec![Vec::new(); NODES],
            of_all: Vec::new(),
            processes: [0; NODES],
            conns: Vec::new(),
            owners: Vec::new(),
            now: Duration::from_secs(1),
            ops: 0,
            last_conn: 0,
        };
        (0..NODES).for_each(|node| scene.start(node));
        scene
    }

    pub(super) fn found(&self, check: fn(&Ledger<'_>) -> Vec<Finding>) -> Vec<&'static str> {
        let ledger = Ledger::new(&self.plan, &self.nodes, &self.of_all);
        check(&ledger).iter().map(|finding| finding.invariant).collect()
    }

    pub(super) fn event(&mut self, node: NodeIndex, event: Event) {
        let record = Record { at: self.now, incarnation: self.processes[node], event };
        self.nodes[node].push(record);
    }

    pub(super) fn draining(&mut self) {
        self.of_all.push(Record { at: self.now, incarnation: 0, event: Event::Draining });
    }

    pub(super) fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// The ways between nodes 0 and 1 are cut for that time, milliseconds.
    pub(super) fn cut(&mut self, since: u64, until: u64) {
        let at = Duration::from_millis;
        self.plan.mesh.cables = vec![(at(since), Cable::Part(0, 1)), (at(until), Cable::Mend)];
    }

    /// `node` is seen to hold a channel.
    pub(super) fn known(&mut self, node: NodeIndex, place: Place) {
        self.event(node, Event::Known { place, held: true });
    }

    /// `owner` acknowledges messages of topic 0.
    pub(super) fn ok(&mut self, owner: NodeIndex, keys: &[Key]) {
        let op = self.publish(owner, 0, keys);
        self.event(owner, Event::Published(op));
    }

    pub(super) fn publish(&mut self, owner: NodeIndex, topic: usize, keys: &[Key]) -> Op {
        self.send(owner, topic, keys, None)
    }

    pub(super) fn defer(&mut self, owner: NodeIndex, key: Key, millis: u64) {
        self.send(owner, 0, &[key], Some(Duration::from_millis(millis)));
    }

    pub(super) fn subscribe(&mut self, node: NodeIndex, place: Place) -> Conn {
        self.last_conn += 1;
        let conn = self.last_conn;
        self.conns.push((conn, node));
        self.event(node, Event::Subscribed { conn, place, msg_timeout: Duration::from_secs(1) });
        self.event(node, Event::Ready(conn, 100));
        conn
    }

    pub(super) fn deliver(&mut self, conn: Conn, key: Key, attempts: u16) {
        let id = self.id(key);
        self.of_conn(conn, Event::Delivered { conn, id, attempts, timestamp: 0, key: Some(key) });
    }

    pub(super) fn finish(&mut self, conn: Conn, key: Key) {
        self.of_conn(conn, Event::Finish(conn, self.id(key)));
    }

    pub(super) fn requeue(&mut self, conn: Conn, key: Key, millis: u64) {
        self.of_conn(conn, Event::Requeue(conn, self.id(key), Duration::from_millis(millis)));
    }

    pub(super) fn touch(&mut self, conn: Conn, key: Key) {
        self.of_conn(conn, Event::Touch(conn, self.id(key)));
    }

    pub(super) fn complain(&mut self, conn: Conn, command: &str, key: Key) {
        let id = self.id(key).to_hex();
        let id = String::from_utf8_lossy(&id);
        let text = format!("E_{command}_FAILED {command} {id} failed ID not in flight");
        self.of_conn(conn, Event::Complaint(conn, text));
    }

    /// `node` goes down, its connections with it, and comes up again.
    pub(super) fn down(&mut self, node: NodeIndex, down: Down) {
        self.event(node, Event::Down(down));
        for (conn, at) in self.conns.clone() {
            if at == node {
                self.event(node, Event::Left(conn));
            }
        }
        self.wait(30);
        self.start(node);
    }

    fn start(&mut self, node: NodeIndex) {
        self.processes[node] += 1;
        self.event(node, Event::Started);
    }

    fn id(&self, key: Key) -> MessageId {
        let owner = self.owners.iter().find(|(other, _)| *other == key).map_or(0, |(_, owner)| *owner);
        MessageId::new(u16::try_from(owner).unwrap_or(0), key)
    }

    fn of_conn(&mut self, conn: Conn, event: Event) {
        let node = self.conns.iter().find(|(other, _)| *other == conn).map_or(0, |(_, node)| *node);
        self.event(node, event);
    }

    fn send(&mut self, owner: NodeIndex, topic: usize, keys: &[Key], delay: Option<Duration>) -> Op {
        self.ops += 1;
        self.owners.extend(keys.iter().map(|key| (*key, owner)));
        self.event(owner, Event::Publish { op: self.ops, topic, delay, keys: keys.to_vec() });
        self.ops
    }
}
