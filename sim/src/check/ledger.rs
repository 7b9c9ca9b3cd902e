//! The history, sorted by what it is about: messages, deliveries, connections, and the node's life.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bruit_wire::MessageId;

use crate::{
    body::Key,
    history::{Conn, Counts, Down, Event, Op, Record},
    record::Hit,
    shape::{Keeping, Place, Shape},
};

/// A history, ready to be asked.
#[derive(Debug)]
pub struct Ledger<'s> {
    /// What the run was about.
    pub shape: &'s Shape,
    /// Every publishing command.
    pub ops: BTreeMap<Op, Operation>,
    /// The command that published each message.
    pub op_of: BTreeMap<Key, Op>,
    /// Every delivery, in order of arrival.
    pub deliveries: Vec<Delivery>,
    /// Indices of the deliveries of one message on one channel, in order of arrival.
    pub by_message: BTreeMap<(Place, MessageId), Vec<usize>>,
    /// Every consumer's connection.
    pub conns: BTreeMap<Conn, Consumer>,
    /// When a consumer of each process of the node first knew that a channel exists.
    pub subscribed: BTreeMap<Place, BTreeMap<u32, Duration>>,
    /// For each process of the node, when the last publish was sent that it acknowledged as synced. All that
    /// it had answered before that publish was kept with it.
    pub witnesses: BTreeMap<u32, Duration>,
    /// When and how processes of the node ended, with their number.
    pub downs: Vec<(Duration, u32, Down)>,
    /// When the disk became full, or had room again, with the number of the process.
    pub disk_full: Vec<(Duration, u32, bool)>,
    /// When the wall clock jumped.
    pub jumps: Vec<Duration>,
    /// Messages whose record had a bit flipped.
    pub suspects: BTreeSet<Key>,
    /// Whether any bit was flipped.
    pub flipped: bool,
    /// Whether one was in a record that holds no messages, so that nobody knows what is forgotten.
    pub amnesia: bool,
    /// What the node reported when all was quiet.
    pub quiet: BTreeMap<Place, Counts>,
    /// What it reported when all was taken.
    pub drained: BTreeMap<Place, Counts>,
    /// When consumers began to take everything that was left.
    pub draining_since: Option<Duration>,
    /// Why not everything was taken in the end.
    pub stuck: Option<String>,
    process_at_end: u32,
}

/// A publishing command.
#[derive(Debug)]
pub struct Operation {
    /// Index of the topic.
    pub topic: usize,
    /// The delay that DPUB asked for.
    pub delay: Option<Duration>,
    /// Its messages.
    pub keys: Vec<Key>,
    /// When it was sent.
    pub sent_at: Duration,
    /// The node's process then.
    pub incarnation: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// When that was known.
    pub ended_at: Option<Duration>,
}

/// How a publishing command ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The run ended first, or the connection.
    Unanswered,
    /// OK, from this process of the node.
    Published(u32),
    /// An error.
    Refused(String),
}

/// A consumer's connection.
#[derive(Debug)]
pub struct Consumer {
    /// What it subscribed to.
    pub place: Place,
    /// The node's process then.
    pub incarnation: u32,
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
    /// From which process of the node.
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

/// What a consumer said to a delivery.
#[derive(Debug)]
pub struct Answer {
    /// When.
    pub at: Duration,
    /// The node's process then.
    pub incarnation: u32,
    /// What.
    pub kind: AnswerKind,
    /// Whether the node complained.
    pub refused: bool,
}

/// The kinds of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// FIN.
    Finish,
    /// REQ with its delay.
    Requeue(Duration),
    /// TOUCH.
    Touch,
}

impl<'s> Ledger<'s> {
    /// Sorts `records`, which are in order of time.
    #[must_use]
    pub fn new(shape: &'s Shape, records: &[Record]) -> Self {
        let mut ledger = Self {
            shape,
            ops: BTreeMap::new(),
            op_of: BTreeMap::new(),
            deliveries: Vec::new(),
            by_message: BTreeMap::new(),
            conns: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            witnesses: BTreeMap::new(),
            downs: Vec::new(),
            disk_full: Vec::new(),
            jumps: Vec::new(),
            suspects: BTreeSet::new(),
            flipped: false,
            amnesia: false,
            quiet: BTreeMap::new(),
            drained: BTreeMap::new(),
            draining_since: None,
            stuck: None,
            process_at_end: records.last().map_or(0, |record| record.incarnation),
        };
        let mut latest = BTreeMap::new();
        for record in records {
            ledger.enter(record, &mut latest);
        }
        for operation in ledger.ops.values() {
            let synced = shape.topic(operation.topic).keeping == Keeping::Fsync;
            if synced && operation.outcome == Outcome::Published(operation.incarnation) {
                let at = ledger.witnesses.entry(operation.incarnation).or_insert(operation.sent_at);
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

    /// Whether a channel existed when `process` was sent something at `time`: a consumer of that process had
    /// subscribed to it, or one of an earlier process had, and the channel was kept.
    #[must_use]
    pub fn exists(&self, place: Place, process: u32, time: Duration) -> bool {
        let subscribed = self.subscribed.get(&place).into_iter().flatten();
        subscribed.into_iter().any(|(other, at)| match other.cmp(&process) {
            Ordering::Less => self.was_kept(*other, *at),
            Ordering::Equal => *at <= time,
            Ordering::Greater => false,
        })
    }

    /// The node's last process.
    #[must_use]
    pub fn process_at_end(&self) -> u32 {
        self.process_at_end
    }

    /// Whether what `process` knew at `time` was kept for the next one.
    #[must_use]
    pub fn was_kept(&self, process: u32, time: Duration) -> bool {
        let stopped = |&(at, other, down): &(Duration, u32, Down)| {
            other == process && down == Down::Stopped && at >= time
        };
        self.witnesses.get(&process).is_some_and(|sent_at| *sent_at >= time) || self.downs.iter().any(stopped)
    }

    /// Whether the power went at or after `time`, or anything else that takes what was only written.
    #[must_use]
    pub fn power_went_after(&self, time: Duration) -> bool {
        self.downs.iter().any(|(at, _, down)| *down == Down::Power && *at >= time)
    }

    fn enter(&mut self, record: &Record, latest: &mut BTreeMap<(Conn, MessageId), usize>) {
        let (at, incarnation) = (record.at, record.incarnation);
        match &record.event {
            Event::Publish { op, topic, delay, keys } => {
                self.op_of.extend(keys.iter().map(|key| (*key, *op)));
                let (topic, delay, keys, outcome) = (*topic, *delay, keys.clone(), Outcome::Unanswered);
                let op_entry =
                    Operation { topic, delay, keys, sent_at: at, incarnation, outcome, ended_at: None };
                self.ops.insert(*op, op_entry);
            }
            Event::Published(op) => self.end(*op, Outcome::Published(incarnation), at),
            Event::Refused(op, why) => self.end(*op, Outcome::Refused(why.clone()), at),
            Event::Subscribed { conn, place, msg_timeout } => {
                self.subscribed.entry(*place).or_default().entry(incarnation).or_insert(at);
                let (place, msg_timeout, ready) = (*place, *msg_timeout, Vec::new());
                let consumer = Consumer { place, incarnation, msg_timeout, left_at: None, ready };
                self.conns.insert(*conn, consumer);
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
                self.by_message.entry((place, *id)).or_default().push(index);
                self.deliveries.push(Delivery {
                    at,
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
            event => self.enter_rest(record, event, latest),
        }
    }

    fn enter_rest(&mut self, record: &Record, event: &Event, latest: &BTreeMap<(Conn, MessageId), usize>) {
        let mut answer = |conn: Conn, id: MessageId, kind| {
            let delivery = latest.get(&(conn, id)).and_then(|index| self.deliveries.get_mut(*index));
            if let Some(delivery) = delivery {
                let (at, incarnation) = (record.at, record.incarnation);
                delivery.answers.push(Answer { at, incarnation, kind, refused: false });
            }
        };
        match event {
            Event::Finish(conn, id) => answer(*conn, *id, AnswerKind::Finish),
            Event::Requeue(conn, id, delay) => answer(*conn, *id, AnswerKind::Requeue(*delay)),
            Event::Touch(conn, id) => answer(*conn, *id, AnswerKind::Touch),
            Event::Complaint(conn, text) => self.complain(*conn, text),
            Event::Down(down) => self.downs.push((record.at, record.incarnation, *down)),
            Event::DiskFull(full) => self.disk_full.push((record.at, record.incarnation, *full)),
            Event::ClockJumped => self.jumps.push(record.at),
            Event::Flipped(hit) => {
                self.flipped = true;
                match hit {
                    Hit::Nothing => {}
                    Hit::Messages(keys) => self.suspects.extend(keys),
                    Hit::Other => self.amnesia = true,
                }
            }
            Event::Quiet(place, counts) => {
                self.quiet.insert(*place, *counts);
            }
            Event::Drained(place, counts) => {
                self.drained.insert(*place, *counts);
            }
            Event::Draining => self.draining_since = Some(record.at),
            Event::Stuck(why) => self.stuck = Some(why.clone()),
            _ => {}
        }
    }

    fn end(&mut self, op: Op, outcome: Outcome, at: Duration) {
        self.ops.entry(op).and_modify(|operation| {
            operation.outcome = outcome;
            operation.ended_at = Some(at);
        });
    }

    /// Marks the answer that a complaint such as `E_FIN_FAILED FIN <id> failed ...` is about: the oldest one
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
