//! What waits for the next commit, and what became of earlier ones. Shared by everyone who publishes or
//! changes something; the commit loop empties it.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{channel::Channel, signal::Signal, topic::Topic};
use crate::journal::{Op, Span, admission::Refused};

/// Bytes that may wait for a commit, over all topics. Beyond, connections stop reading publishes until a
/// commit is done.
const STAGED_MAX: usize = 64 * 1024 * 1024;
/// Failed ranges of batches that are remembered. Whoever asks later than that is told of a failure.
const FAILURES_MAX: usize = 1024;

/// The batch in which a change is committed. Batches are settled in order.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// A change to a topic or channel, as the journal will have it.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) topic: String,
    pub(super) channel: String,
    pub(super) op: Op,
    pub(super) number: u64,
    pub(super) a: u64,
    pub(super) b: u64,
}

/// Messages that the cleaner copies forward.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) topic: Arc<Topic>,
    /// The segment that they leave.
    pub(super) from: u64,
    pub(super) span: Span,
    pub(super) due: u64,
    pub(super) frames: bytes::Bytes,
}

/// Everything of one batch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) topics: Vec<Arc<Topic>>,
    pub(super) channels: Vec<Arc<Channel>>,
    pub(super) changes: Vec<Change>,
    pub(super) moves: Vec<Move>,
    pub(super) waiters: Vec<Arc<Signal>>,
}

#[derive(Debug, Default)]
struct Dirty {
    batch: Batch,
    /// When the first FIN came, node time in ms.
    finished_since: Option<u64>,
    /// Something else than FINs waits.
    urgent: bool,
}

/// The meeting point of publishers and the commit loop.
#[derive(Debug)]
pub(crate) struct Commits {
    dirty: Mutex<Dirty>,
    pub(super) changed: Arc<Notify>,
    settled: AtomicU64,
    staged: AtomicUsize,
    failed: AtomicU64,
    failures: Mutex<VecDeque<Failure>>,
    changes: AtomicU64,
}

#[derive(Debug, Clone)]
struct Failure {
    first: u64,
    last: u64,
    why: Refused,
}

impl Commits {
    /// `changes` is the highest number of a change in the journal.
    pub(super) fn new(changes: u64) -> Self {
        let dirty = Dirty { batch: Batch { number: 1, ..Batch::default() }, ..Dirty::default() };
        Self {
            dirty: Mutex::new(dirty),
            changed: Arc::default(),
            settled: AtomicU64::new(0),
            staged: AtomicUsize::new(0),
            failed: AtomicU64::new(0),
            failures: Mutex::default(),
            changes: AtomicU64::new(changes),
        }
    }

    /// Notes that `topic` has staged something; called under its stage lock when it had nothing staged
    /// before. Returns the batch that will take it.
    pub(super) fn note_topic(&self, topic: &Arc<Topic>) -> u64 {
        let mut dirty = self.dirty.lock();
        dirty.batch.topics.push(Arc::clone(topic));
        self.urge(&mut dirty)
    }

    /// Notes that `channel` has finished or requeued something.
    pub(super) fn note_channel(&self, channel: &Arc<Channel>, now: u64) {
        let mut dirty = self.dirty.lock();
        dirty.batch.channels.push(Arc::clone(channel));
        if dirty.finished_since.is_none() {
            dirty.finished_since = Some(now);
            if !dirty.urgent {
                self.changed.notify_one();
            }
        }
    }

    /// The number of the next change.
    pub(super) fn next_change(&self) -> u64 {
        self.changes.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number of the latest change.
    pub(super) fn last_change(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Adds a change.
    pub(super) fn change(&self, change: Change) -> Ticket {
        let mut dirty = self.dirty.lock();
        dirty.batch.changes.push(change);
        Ticket(self.urge(&mut dirty))
    }

    /// Adds messages that are copied forward.
    pub(super) fn relocate(&self, moves: Vec<Move>) -> Ticket {
        let mut dirty = self.dirty.lock();
        dirty.batch.moves.extend(moves);
        Ticket(self.urge(&mut dirty))
    }

    /// A ticket for everything that was staged or changed so far.
    pub(super) fn barrier(&self) -> Ticket {
        let mut dirty = self.dirty.lock();
        Ticket(self.urge(&mut dirty))
    }

    /// Puts changes back in front, after a commit that failed.
    pub(super) fn restore(&self, mut changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut dirty = self.dirty.lock();
        changes.append(&mut dirty.batch.changes);
        dirty.batch.changes = changes;
        self.urge(&mut dirty);
    }

    fn urge(&self, dirty: &mut Dirty) -> u64 {
        if !std::mem::replace(&mut dirty.urgent, true) {
            self.changed.notify_one();
        }
        dirty.batch.number
    }

    /// Whether a commit should begin at once, or since when FINs wait.
    pub(super) fn waiting(&self) -> (bool, Option<u64>) {
        let dirty = self.dirty.lock();
        (dirty.urgent, dirty.finished_since)
    }

    /// Takes everything that waits; what comes now belongs to the next batch.
    pub(super) fn take(&self) -> Batch {
        let mut dirty = self.dirty.lock();
        dirty.urgent = false;
        dirty.finished_since = None;
        let number = dirty.batch.number;
        std::mem::replace(&mut dirty.batch, Batch { number: number + 1, ..Batch::default() })
    }

    /// Adds to, or takes from, the bytes that wait.
    pub(super) fn staged(&self, bytes: usize) {
        self.staged.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The bytes that a commit has taken.
    pub(super) fn unstaged(&self, bytes: usize) {
        self.staged.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether so much waits that nothing more should be read. `signal` is then woken after the next batch.
    pub(crate) fn is_full(&self, signal: &Arc<Signal>) -> bool {
        if self.staged.load(Ordering::Relaxed) < STAGED_MAX {
            return false;
        }
        let mut dirty = self.dirty.lock();
        dirty.batch.waiters.push(Arc::clone(signal));
        self.urge(&mut dirty);
        true
    }

    /// Marks batch `number` as done, or failed.
    pub(super) fn settle(&self, number: u64, outcome: Result<(), Refused>) {
        if let Err(why) = outcome {
            let mut failures = self.failures.lock();
            match failures.back_mut() {
                Some(last) if last.last + 1 == number && last.why == why => last.last = number,
                _ => failures.push_back(Failure { first: number, last: number, why }),
            }
            if failures.len() > FAILURES_MAX {
                failures.pop_front();
            }
            self.failed.store(number, Ordering::Release);
        }
        self.settled.store(number, Ordering::Release);
    }

    /// The latest batch that is settled.
    pub(crate) fn settled(&self) -> Ticket {
        Ticket(self.settled.load(Ordering::Acquire))
    }

    /// What became of a settled batch.
    ///
    /// # Errors
    /// It was not written.
    pub(crate) fn outcome(&self, ticket: Ticket) -> Result<(), Refused> {
        if ticket.0 > self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let failures = self.failures.lock();
        let unknown =
            failures.len() >= FAILURES_MAX && failures.front().is_some_and(|oldest| ticket.0 < oldest.first);
        if unknown {
            return Err(Refused::Failed("the outcome is no longer known".into()));
        }
        let failure =
            failures.iter().rev().find(|failure| (failure.first..=failure.last).contains(&ticket.0));
        failure.map_or(Ok(()), |failure| Err(failure.why.clone()))
    }

    /// Waits until a batch is settled.
    ///
    /// # Errors
    /// It was not written.
    pub(super) async fn wait(&self, ticket: Ticket) -> Result<(), Refused> {
        let signal = Arc::new(Signal::default());
        let mut entered = false;
        poll_fn(|cx| {
            signal.register(cx);
            if !entered {
                entered = true;
                self.wake_after(ticket, &signal);
            }
            if self.settled() >= ticket { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.outcome(ticket)
    }

    /// `signal` is woken when the batch is settled, and once more if it is being written right now.
    pub(crate) fn wake_after(&self, ticket: Ticket, signal: &Arc<Signal>) {
        let mut dirty = self.dirty.lock();
        if ticket.0 < dirty.batch.number {
            // It is being written: the next batch, which comes for certain, wakes as well.
            self.urge(&mut dirty);
        }
        dirty.batch.waiters.push(Arc::clone(signal));
    }
}
