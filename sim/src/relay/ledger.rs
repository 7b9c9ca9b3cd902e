//! The histories of all nodes, sorted by what they are about. A message belongs to the node where it was
//! published, its owner; it is delivered wherever a consumer sits.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bruit_wire::MessageId;

use super::plan::{Cut, RelayPlan};
use crate::{
    body::Key,
    check::{Answer, AnswerKind, Outcome},
    history::{Conn, Counts, Down, Event, Op, Record},
    shape::{Keeping, Place},
};

/// Index of a node.
pub type NodeIndex = usize;

/// For how long after a cut was mended links may still be lost because of it: a node that was taken for dead
/// has to be heard of again.
const AFTERMATH: Duration = Duration::from_secs(10);

/// For how long before its end a process that was asked to stop may have been letting go of its links.
const STOPPING: Duration = Duration::from_secs(2);

/// How much earlier than it arrives a message may have been sent.
const WAY: Duration = Duration::from_millis(10);

/// The histories, ready to be asked.
#[derive(Debug)]
pub struct Ledger<'p> {
    /// What the run was about.
    pub plan: &'p RelayPlan,
    /// Every publishing command.
    pub ops: BTreeMap<Op, Operation>,
    /// The command that published each message.
    pub op_of: BTreeMap<Key, Op>,
    /// Every delivery, in order of arrival.
    pub deliveries: Vec<Delivery>,
    /// Indices of the deliveries of one message on one channel, in order of arrival.
    pub by_message: BTreeMap<(Place, Key), Vec<usize>>,
    /// Every consumer's connection.
    pub conns: BTreeMap<Conn, Consumer>,
    /// When each process of a node was first seen to know a channel, and to hold it.
    known: BTreeMap<(NodeIndex, Place), BTreeMap<u32, Sighting>>,
    /// Every time that a node was seen to hold an ephemeral channel, with its process.
    pub seen: BTreeMap<(NodeIndex, Place), Vec<(Duration, u32)>>,
    /// For each process of a node, when the last publish was sent that it acknowledged as synced.
    witnesses: BTreeMap<(NodeIndex, u32), Duration>,
    /// When and how processes of nodes ended, with their number.
    pub downs: Vec<(NodeIndex, Duration, u32, Down)>,
    /// When a channel was paused on a node, and resumed.
    pub paused: BTreeMap<(NodeIndex, Place), Vec<(Duration, bool)>>,
    /// What each node reported when all was quiet.
    pub quiet: BTreeMap<(NodeIndex, Place), Counts>,
    /// What it reported when all was taken.
    pub drained: BTreeMap<(NodeIndex, Place), Counts>,
    /// When consumers began to take everything that was left.
    pub draining_since: Option<Duration>,
    /// What did not come to its end.
    pub stuck: Vec<String>,
    cuts: Vec<Cut>,
    /// Nodes whose wall clock jumped.
    jumped: BTreeSet<NodeIndex>,
}

#[derive(Debug, Default)]
struct Sighting {
    known_at: Option<Duration>,
    held_at: Option<Duration>,
}

/// A publishing command.
#[derive(Debug)]
pub struct Operation {
    /// The owner of its messages.
    pub owner: NodeIndex,
    /// The owner's process then.
    pub incarnation: u32,
    /// Index of the topic.
    pub topic: usize,
    /// The delay that DPUB asked for.
    pub delay: Option<Duration>,
    /// Its messages.
    pub keys: Vec<Key>,
    /// When it was sent.
    pub sent_at: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// When that was known.
    pub ended_at: Option<Duration>,
}

/// A consumer's connection.
#[derive(Debug)]
pub struct Consumer {
    /// The node that it uses.
    pub node: NodeIndex,
    /// What it subscribed to.
    pub place: Place,
    /// When.
    pub since: Duration,
    /// The message time-out that it was granted.
    pub msg_timeout: Duration,
    /// When it ended.
    pub left_at: Option<Duration>,
    /// The values of RDY, when they were sent.
    pub ready: Vec<(Duration, u64)>,
}

/// A message that arrived.
#[derive(Debug)]
pub struct Delivery {
    /// When.
    pub at: Duration,
    /// Whose message it is; the consumer's node if nobody published it.
    pub owner: NodeIndex,
    /// At which node.
    pub node: NodeIndex,
    /// From which process of that node.
    pub incarnation: u32,
    /// At which connection.
    pub conn: Conn,
    /// On which channel.
    pub place: Place,
    /// Its id.
    pub id: MessageId,
    /// Its count of deliveries.
    pub attempts: u16,
    /// Its time stamp.
    pub timestamp: i64,
    /// What its body says it is.
    pub key: Option<Key>,
    /// What the consumer said to it, oldest first.
    pub answers: Vec<Answer>,
}

impl<'p> Ledger<'p> {
    /// Sorts the records of each node, and those of nobody in particular.
    #[must_use]
    pub fn new(plan: &'p RelayPlan, nodes: &[Vec<Record>], of_all: &[Record]) -> Self {
        let mut ledger = Self {
            plan,
            ops: BTreeMap::new(),
            op_of: BTreeMap::new(),
            deliveries: Vec::new(),
            by_message: BTreeMap::new(),
            conns: BTreeMap::new(),
            known: BTreeMap::new(),
            seen: BTreeMap::new(),
            witnesses: BTreeMap::new(),
            downs: Vec::new(),
            paused: BTreeMap::new(),
            quiet: BTreeMap::new(),
            drained: BTreeMap::new(),
            draining_since: None,
            stuck: Vec::new(),
            cuts: plan.cuts(),
            jumped: BTreeSet::new(),
        };
        for record in of_all {
            match &record.event {
                Event::Draining => ledger.draining_since = Some(record.at),
                Event::Stuck(why) => ledger.stuck.push(why.clone()),
                _ => {}
            }
        }
        let mut records: Vec<(NodeIndex, &Record)> =
            (0..).zip(nodes).flat_map(|(node, records)| records.iter().map(move |of| (node, of))).collect();
        // Publishes first: what is delivered in the same moment is theirs. Stable, so that what happens on
        // one connection stays in order.
        records.sort_by_key(|(_, record)| (record.at, !matches!(record.event, Event::Publish { .. })));
        let mut latest = BTreeMap::new();
        for (node, record) in records {
            ledger.enter(node, record, &mut latest);
        }
        for operation in ledger.ops.values() {
            let synced = plan.shape.topic(operation.topic).keeping == Keeping::Fsync;
            if synced && operation.outcome == Outcome::Published(operation.incarnation) {
                let process = (operation.owner, operation.incarnation);
                let at = ledger.witnesses.entry(process).or_insert(operation.sent_at);
                *at = (*at).max(operation.sent_at);
            }
        }
        ledger
    }

    /// The command that published `key`, if any did.
    #[must_use]
    pub fn published_by(&self, key: Key) -> Option<&Operation> {
        self.ops.get(self.op_of.get(&key)?)
    }

    /// The messages that were delivered on each channel, each once.
    #[must_use]
    pub fn delivered_keys(&self) -> BTreeMap<Place, BTreeSet<Key>> {
        let mut keys: BTreeMap<Place, BTreeSet<Key>> = BTreeMap::new();
        for delivery in &self.deliveries {
            keys.entry(delivery.place).or_default().extend(delivery.key);
        }
        keys
    }

    /// Whether what is sent to `process` of `node` at `time` belongs to the channel too: that process was seen
    /// to know it, or an earlier one held it, and that was kept.
    #[must_use]
    pub fn exists(&self, node: NodeIndex, place: Place, process: u32, time: Duration) -> bool {
        let sightings = self.known.get(&(node, place)).into_iter().flatten();
        sightings.into_iter().any(|(other, sighting)| match other.cmp(&process) {
            Ordering::Less => sighting.held_at.is_some_and(|at| self.was_kept(node, *other, at)),
            Ordering::Equal => sighting.known_at.is_some_and(|at| at <= time),
            Ordering::Greater => false,
        })
    }

    /// Whether what a process of `node` knew at `time` was kept for the next one.
    #[must_use]
    pub fn was_kept(&self, node: NodeIndex, process: u32, time: Duration) -> bool {
        let stopped = |&(at_node, at, other, down): &(NodeIndex, Duration, u32, Down)| {
            at_node == node && other == process && down == Down::Stopped && at >= time
        };
        self.witnesses.get(&(node, process)).is_some_and(|sent_at| *sent_at >= time)
            || self.downs.iter().any(stopped)
    }

    /// Whether the power of `node` went at or after `time`.
    #[must_use]
    pub fn power_went_after(&self, node: NodeIndex, time: Duration) -> bool {
        self.downs
            .iter()
            .any(|(at_node, at, _, down)| *at_node == node && *down == Down::Power && *at >= time)
    }

    /// Whether one process of `node` lived from `from` to `until`.
    #[must_use]
    pub fn lived(&self, node: NodeIndex, from: Duration, until: Duration) -> bool {
        let from = from.saturating_sub(WAY);
        !self.downs.iter().any(|(at_node, at, _, down)| {
            let began = if *down == Down::Stopped { at.saturating_sub(STOPPING) } else { *at };
            *at_node == node && began <= until && *at >= from
        })
    }

    /// Whether nothing can have broken what is between two nodes, from `from` to `until`. If they are one, it
    /// has lived.
    #[must_use]
    pub fn held_together(&self, one: NodeIndex, other: NodeIndex, from: Duration, until: Duration) -> bool {
        let disturbs = |cut: &Cut| cut.since <= until && cut.until + AFTERMATH >= from.saturating_sub(WAY);
        self.lived(one, from, until)
            && self.lived(other, from, until)
            && (one == other || !self.cuts.iter().any(disturbs))
    }

    /// Whether `again` may be a copy that was on its way before `first`: its owner gave the message to somebody
    /// else when the link was lost, or time was up, and the relay had not noticed yet. The owner has counted one
    /// attempt more since.
    #[must_use]
    pub fn is_stale(&self, first: &Delivery, again: &Delivery) -> bool {
        again.attempts < first.attempts
            && again.node != first.owner
            && !self.held_together(first.owner, again.node, first.at, again.at)
    }

    /// Whether the wall clock of `node` was meddled with.
    #[must_use]
    pub fn clock_jumped(&self, node: NodeIndex) -> bool {
        self.jumped.contains(&node)
    }

    /// The name of a channel, for findings.
    #[must_use]
    pub fn name(&self, place: Place) -> String {
        let shape = &self.plan.shape;
        format!("{}/{}", shape.topic(place.topic).name, shape.channel(place).name)
    }

    fn enter(&mut self, node: NodeIndex, record: &Record, latest: &mut BTreeMap<(Conn, MessageId), usize>) {
        let (at, incarnation) = (record.at, record.incarnation);
        match &record.event {
            Event::Publish { op, topic, delay, keys } => {
                self.op_of.extend(keys.iter().map(|key| (*key, *op)));
                let operation = Operation {
                    owner: node,
                    incarnation,
                    topic: *topic,
                    delay: *delay,
                    keys: keys.clone(),
                    sent_at: at,
                    outcome: Outcome::Unanswered,
                    ended_at: None,
                };
                self.ops.insert(*op, operation);
            }
            Event::Published(op) => self.end(*op, Outcome::Published(incarnation), at),
            Event::Refused(op, why) => self.end(*op, Outcome::Refused(why.clone()), at),
            Event::Subscribed { conn, place, msg_timeout } => {
                let (place, msg_timeout) = (*place, *msg_timeout);
                let consumer =
                    Consumer { node, place, since: at, msg_timeout, left_at: None, ready: Vec::new() };
                self.conns.insert(*conn, consumer);
                self.sight(node, incarnation, place, true, at);
            }
            Event::Ready(conn, count) => {
                self.conns.entry(*conn).and_modify(|consumer| consumer.ready.push((at, *count)));
            }
            Event::Left(conn) => {
                self.conns.entry(*conn).and_modify(|consumer| {
                    consumer.left_at.get_or_insert(at);
                });
            }
            Event::Delivered { conn, id, attempts, timestamp, key } => {
                let Some(place) = self.conns.get(conn).map(|consumer| consumer.place) else { return };
                let index = self.deliveries.len();
                latest.insert((*conn, *id), index);
                if let Some(key) = key {
                    self.by_message.entry((place, *key)).or_default().push(index);
                }
                self.deliveries.push(Delivery {
                    at,
                    owner: key.and_then(|key| self.published_by(key)).map_or(node, |op| op.owner),
                    node,
                    incarnation,
                    conn: *conn,
                    place,
                    id: *id,
                    attempts: *attempts,
                    timestamp: *timestamp,
                    key: *key,
                    answers: Vec::new(),
                });
            }
            event => self.enter_rest(node, record, event, latest),
        }
    }

    fn enter_rest(
        &mut self,
        node: NodeIndex,
        record: &Record,
        event: &Event,
        latest: &BTreeMap<(Conn, MessageId), usize>,
    ) {
        let (at, incarnation) = (record.at, record.incarnation);
        let mut answer = |conn: Conn, id: MessageId, kind| {
            let delivery = latest.get(&(conn, id)).and_then(|index| self.deliveries.get_mut(*index));
            if let Some(delivery) = delivery {
                delivery.answers.push(Answer { at, incarnation, kind, refused: false });
            }
        };
        match event {
            Event::Finish(conn, id) => answer(*conn, *id, AnswerKind::Finish),
            Event::Requeue(conn, id, delay) => answer(*conn, *id, AnswerKind::Requeue(*delay)),
            Event::Touch(conn, id) => answer(*conn, *id, AnswerKind::Touch),
            Event::Complaint(conn, text) => self.complain(*conn, text),
            Event::Down(down) => self.downs.push((node, at, incarnation, *down)),
            Event::ClockJumped => drop(self.jumped.insert(node)),
            Event::Known { place, held } => self.sight(node, incarnation, *place, *held, at),
            Event::Paused(place, paused) => {
                self.paused.entry((node, *place)).or_default().push((at, *paused));
            }
            Event::Quiet(place, counts) => {
                self.quiet.insert((node, *place), *counts);
            }
            Event::Drained(place, counts) => {
                self.drained.insert((node, *place), *counts);
            }
            Event::Stuck(why) => self.stuck.push(format!("node{node}: {why}")),
            _ => {}
        }
    }

    fn sight(&mut self, node: NodeIndex, incarnation: u32, place: Place, held: bool, at: Duration) {
        if self.plan.shape.is_kept(place) {
            let processes = self.known.entry((node, place)).or_default();
            let sighting = processes.entry(incarnation).or_default();
            sighting.known_at.get_or_insert(at);
            if held {
                sighting.held_at.get_or_insert(at);
            }
        } else if held {
            self.seen.entry((node, place)).or_default().push((at, incarnation));
        }
    }

    fn end(&mut self, op: Op, outcome: Outcome, at: Duration) {
        self.ops.entry(op).and_modify(|operation| {
            operation.outcome = outcome;
            operation.ended_at = Some(at);
        });
    }

    /// Marks the answer that a complaint such as `E_FIN_FAILED FIN <id> failed ...` is about: the latest one
    /// of its kind, on this connection, that is not marked yet.
    fn complain(&mut self, conn: Conn, text: &str) {
        let mut words = text.split(' ').skip(1);
        let (Some(command), Some(id)) = (words.next(), words.next()) else { return };
        let id = id.as_bytes().first_chunk::<16>().and_then(MessageId::from_hex);
        let about = |answer: &Answer| match answer.kind {
            AnswerKind::Finish => command == "FIN",
            AnswerKind::Requeue(_) => command == "REQ",
            AnswerKind::Touch => command == "TOUCH",
        };
        let of_conn = self.deliveries.iter_mut().filter(|d| d.conn == conn && Some(d.id) == id);
        let answers = of_conn.flat_map(|delivery| &mut delivery.answers);
        if let Some(answer) = answers.filter(|answer| about(answer) && !answer.refused).last() {
            answer.refused = true;
        }
    }
}
