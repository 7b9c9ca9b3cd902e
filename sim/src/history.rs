//! What happened, as the clients and the saboteur saw it. Checkers read nothing else.

use std::{fmt, sync::Arc, time::Duration};

use bruit_wire::MessageId;
use parking_lot::Mutex;

use crate::{body::Key, record::Hit, shape::Place, trace::Trace};

/// Number of a publishing command, unique in a run.
pub type Op = u32;
/// Number of a client connection, unique in a run.
pub type Conn = u32;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client is about to send PUB, MPUB or DPUB.
    Publish {
        /// The command.
        op: Op,
        /// Index of the topic.
        topic: usize,
        /// The delay that DPUB asks for.
        delay: Option<Duration>,
        /// Its messages.
        keys: Vec<Key>,
    },
    /// The command was answered OK.
    Published(Op),
    /// The command was answered with an error.
    Refused(Op, String),
    /// The connection was lost, or patience, before an answer came.
    Unanswered(Op),
    /// SUB was answered OK.
    Subscribed {
        /// The connection.
        conn: Conn,
        /// The channel.
        place: Place,
        /// The message time-out that was granted.
        msg_timeout: Duration,
    },
    /// A consumer is about to send RDY.
    Ready(Conn, u64),
    /// A message arrived.
    Delivered {
        /// The connection.
        conn: Conn,
        /// Its id.
        id: MessageId,
        /// Its count of deliveries.
        attempts: u16,
        /// Its time stamp, nanoseconds since 1970.
        timestamp: i64,
        /// What the body says it is, `None` when it is damaged.
        key: Option<Key>,
    },
    /// A consumer is about to send FIN.
    Finish(Conn, MessageId),
    /// A consumer is about to send REQ with a delay.
    Requeue(Conn, MessageId, Duration),
    /// A consumer is about to send TOUCH.
    Touch(Conn, MessageId),
    /// A non-fatal error arrived.
    Complaint(Conn, String),
    /// The node knows a channel, so that what is published here from now on belongs to it.
    Known {
        /// The channel.
        place: Place,
        /// Whether the node holds it, and does not only name it.
        held: bool,
    },
    /// The node was told to pause a channel, and has; or is about to be told to resume it.
    Paused(Place, bool),
    /// The connection ended, whoever ended it.
    Left(Conn),
    /// A process of the node began.
    Started,
    /// The node serves.
    Serving,
    /// The process of the node ended.
    Down(Down),
    /// The saboteur did something else.
    Fault(String),
    /// The disk has next to no room, or plenty again.
    DiskFull(bool),
    /// The wall clock jumped.
    ClockJumped,
    /// A bit was flipped at rest.
    Flipped(Hit),
    /// All faults are over and publishers have stopped; the node reports these messages on a channel.
    Quiet(Place, Counts),
    /// Consumers begin to take everything that is left.
    Draining,
    /// Consumers have taken everything; the node reports these messages on a channel.
    Drained(Place, Counts),
    /// Nothing moved any more although not everything had been taken.
    Stuck(String),
}

/// How a process of the node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// It was killed.
    Crash,
    /// The power went.
    Power,
    /// It was asked to stop, and did, on a sound disk.
    Stopped,
    /// It gave up by itself, with an error; or it stopped and had had trouble with its disk.
    GaveUp,
}

/// What `/stats` says of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages that wait.
    pub depth: u64,
    /// Messages that consumers have.
    pub in_flight: u64,
    /// Messages that wait for their time.
    pub deferred: u64,
}

impl Counts {
    /// Messages that nobody has finished.
    #[must_use]
    pub fn total(self) -> u64 {
        self.depth + self.in_flight + self.deferred
    }
}

/// An event with its time and the number of the node's process at that time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Simulated time.
    pub at: Duration,
    /// The node's processes so far.
    pub incarnation: u32,
    /// What happened.
    pub event: Event,
}

/// Where everyone writes down what happens. Cheap to clone; all clones write to the same history.
#[derive(Clone)]
pub struct Recorder {
    trace: Trace,
    /// Stands before its events in the trace.
    label: Arc<str>,
    numbers: Arc<Mutex<Numbers>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    incarnation: u32,
}

/// What is unique in a run, whichever node it is about.
#[derive(Default)]
struct Numbers {
    keys: Key,
    ops: Op,
    conns: Conn,
}

impl Recorder {
    /// An empty history; what is recorded goes into `trace` too.
    #[must_use]
    pub fn new(trace: Trace) -> Self {
        Self { trace, label: "".into(), numbers: Arc::default(), state: Arc::default() }
    }

    /// An empty history of another node of the same run, called `label` in the trace.
    #[must_use]
    pub fn sibling(&self, label: &str) -> Self {
        let label = format!("{label} ").into();
        Self { trace: self.trace.clone(), label, numbers: self.numbers.clone(), state: Arc::default() }
    }

    /// Writes down `event`.
    pub fn record(&self, event: Event) {
        self.trace.event(format_args!("{}{event:?}", self.label));
        let mut state = self.state.lock();
        if event == Event::Started {
            state.incarnation += 1;
        }
        let record = Record { at: self.now(), incarnation: state.incarnation, event };
        state.records.push(record);
    }

    /// The trace that everything goes into.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Simulated time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.trace.clock().now()
    }

    /// Number of the node's current process, from 1.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.state.lock().incarnation
    }

    /// A key that no message has yet.
    #[must_use]
    pub fn new_key(&self) -> Key {
        let mut numbers = self.numbers.lock();
        numbers.keys += 1;
        numbers.keys
    }

    /// A number that no command has yet.
    #[must_use]
    pub fn new_op(&self) -> Op {
        let mut numbers = self.numbers.lock();
        numbers.ops += 1;
        numbers.ops
    }

    /// A number that no connection has yet.
    #[must_use]
    pub fn new_conn(&self) -> Conn {
        let mut numbers = self.numbers.lock();
        numbers.conns += 1;
        numbers.conns
    }

    /// Everything so far, oldest first; the recorder is empty afterwards.
    #[must_use]
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut self.state.lock().records)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::SimClock;

    #[test]
    fn records_know_their_time_and_the_nodes_process() {
        let clock = SimClock::default();
        let recorder = Recorder::new(Trace::new(clock.clone(), false));
        recorder.record(Event::Started);
        clock.set(Duration::from_millis(7));
        recorder.record(Event::Left(recorder.new_conn()));
        recorder.record(Event::Started);
        let records = recorder.take();
        let times: Vec<_> = records.iter().map(|r| (r.at.as_millis(), r.incarnation)).collect();
        assert_eq!(times, [(0, 1), (7, 1), (7, 2)]);
        assert_eq!(records[1].event, Event::Left(1));
        assert_eq!(recorder.new_conn(), 2);
        let sibling = recorder.sibling("other");
        assert_eq!((sibling.new_conn(), sibling.incarnation()), (3, 0));
    }
}
