//! Histories made by hand, for the tests of the checkers.

use std::time::Duration;

use bruit_wire::MessageId;

use super::{Finding, Ledger};
use crate::{
    body::Key,
    history::{Conn, Down, Event, Op, Record},
    shape::{Channel, Keeping, Place, Shape, Topic},
};

/// A history in the making. Message `key` has the id `key`.
pub(super) struct Scene {
    shape: Shape,
    records: Vec<Record>,
    now: Duration,
    incarnation: u32,
    ops: Op,
    conns: Conn,
}

impl Scene {
    /// Topic 0 is synced, topic 1 is only written; each has two channels. The node is up.
    pub(super) fn new() -> Self {
        let channel = |name: &str| Channel {
            name: name.to_owned(),
            ephemeral: false,
            consumers: 1,
            opens_at: Duration::ZERO,
        };
        let topic = |name: &str, keeping| Topic {
            name: name.to_owned(),
            keeping,
            channels: vec![channel("first"), channel("second")],
        };
        let shape = Shape {
            topics: vec![topic("synced", Keeping::Fsync), topic("written", Keeping::Os)],
            publishers: 1,
            pause_millis: 1,
            window: 1,
            body_len: 1,
            trouble_per_mille: 0,
            segment_size: 4096,
            cache_bytes: 0,
            chaos: Duration::ZERO,
        };
        let now = Duration::from_secs(1);
        let mut scene = Self { shape, records: Vec::new(), now, incarnation: 0, ops: 0, conns: 0 };
        scene.start();
        scene
    }

    pub(super) fn found(&self, check: fn(&Ledger<'_>) -> Vec<Finding>) -> Vec<&'static str> {
        let ledger = Ledger::new(&self.shape, &self.records);
        check(&ledger).iter().map(|finding| finding.invariant).collect()
    }

    pub(super) fn event(&mut self, event: Event) {
        self.records.push(Record { at: self.now, incarnation: self.incarnation, event });
    }

    pub(super) fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    pub(super) fn publish(&mut self, topic: usize, keys: &[Key]) -> Op {
        self.send(topic, keys, None)
    }

    pub(super) fn defer(&mut self, topic: usize, key: Key, millis: u64) -> Op {
        self.send(topic, &[key], Some(Duration::from_millis(millis)))
    }

    pub(super) fn ok(&mut self, op: Op) {
        self.event(Event::Published(op));
    }

    pub(super) fn subscribe(&mut self, topic: usize, channel: usize) -> Conn {
        self.conns += 1;
        let (conn, place) = (self.conns, Place { topic, channel });
        self.event(Event::Subscribed { conn, place, msg_timeout: Duration::from_secs(1) });
        self.event(Event::Ready(conn, 100));
        conn
    }

    pub(super) fn deliver(&mut self, conn: Conn, key: Key, attempts: u16) {
        let id = MessageId::new(1, key);
        self.event(Event::Delivered { conn, id, attempts, timestamp: 0, key: Some(key) });
    }

    pub(super) fn finish(&mut self, conn: Conn, key: Key) {
        self.event(Event::Finish(conn, MessageId::new(1, key)));
    }

    pub(super) fn requeue(&mut self, conn: Conn, key: Key, millis: u64) {
        self.event(Event::Requeue(conn, MessageId::new(1, key), Duration::from_millis(millis)));
    }

    pub(super) fn touch(&mut self, conn: Conn, key: Key) {
        self.event(Event::Touch(conn, MessageId::new(1, key)));
    }

    pub(super) fn complain(&mut self, conn: Conn, command: &str, key: Key) {
        let id = MessageId::new(1, key).to_hex();
        let id = String::from_utf8_lossy(&id);
        let text = format!("E_{command}_FAILED {command} {id} failed ID not in flight");
        self.event(Event::Complaint(conn, text));
    }

    /// The node goes down, all connections with it, and comes up again.
    pub(super) fn down(&mut self, down: Down) {
        self.event(Event::Down(down));
        self.wait(30);
        for conn in 1..=self.conns {
            self.event(Event::Left(conn));
        }
        self.start();
    }

    fn start(&mut self) {
        self.incarnation += 1;
        self.event(Event::Started);
    }

    fn send(&mut self, topic: usize, keys: &[Key], delay: Option<Duration>) -> Op {
        self.ops += 1;
        self.event(Event::Publish { op: self.ops, topic, delay, keys: keys.to_vec() });
        self.ops
    }
}
