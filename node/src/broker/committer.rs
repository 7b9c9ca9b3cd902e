//! The commit loop: everything that waits goes to the journal in one write and one sync.
//!
//! While a batch is written the next one fills; there is no timer and no minimum. The loop is the only
//! holder of the journal's writer.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    channel::Channel,
    commits::{Batch, Change, Move},
    queue::Pending,
    registry::Broker,
    stage::Staged,
    tail::Committed,
    topic::Topic,
};
use crate::{
    config::Durability,
    exit::Exiting,
    journal::{
        NewRecord, Run, Span, Writer, admission::Refused, checkpoint::Checkpoint, upkeep, writer::Full,
    },
};

/// Shortest and longest pause before a disk that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Entries of one record of finished or requeued messages.
const ENTRIES_MAX: usize = 4096;

/// The loop's state.
pub(super) struct Committer {
    broker: Arc<Broker>,
    writer: Writer,
    exit: Exiting,
    /// Which topic's memory to let go first, and how much of it.
    cached: VecDeque<(Arc<Topic>, usize)>,
    cached_bytes: usize,
    /// A segment was sealed since the last checkpoint.
    rolled: bool,
    retry: Option<(Instant, Duration)>,
}

/// A batch on its way to the disk.
#[derive(Default)]
struct Written {
    topics: Vec<(Arc<Topic>, Staged, Vec<Committed>)>,
    moved: Vec<(Arc<Topic>, u64, Run)>,
    pending: Vec<(Arc<Channel>, Pending)>,
    changes: Vec<Change>,
    /// Something goes to disk.
    writes: bool,
    /// It must be synced before anyone is answered.
    syncs: bool,
}

impl Committer {
    pub(super) fn new(broker: Arc<Broker>, writer: Writer, exit: Exiting) -> Self {
        Self { broker, writer, exit, cached: VecDeque::new(), cached_bytes: 0, rolled: false, retry: None }
    }

    /// Commits until the node exits, then writes the rest and a last checkpoint.
    pub(super) async fn run(mut self) {
        self.reopen().await;
        if std::mem::take(&mut self.rolled) {
            self.checkpoint();
        }
        while self.wait().await {
            // Lets every connection that is ready stage its messages first.
            tokio::task::yield_now().await;
            self.commit_batch().await;
        }
        self.commit_batch().await;
        if self.broker.commits().waiting() != (false, None) {
            self.commit_batch().await;
        }
        if let Err(error) = self.writer.seal().await {
            tracing::error!("cannot seal the journal: {error}");
        }
        if let Err(error) = upkeep::write_checkpoint(&self.broker.shared().store, &self.snapshot()).await {
            tracing::error!("cannot write the last checkpoint: {error}; the next start replays more");
        }
    }

    /// Waits until there is something to write. Returns false when the node exits.
    async fn wait(&mut self) -> bool {
        let shared = Arc::clone(self.broker.shared());
        loop {
            if self.exit.is_told() {
                return false;
            }
            if let Some((at, _)) = self.retry.filter(|(at, _)| Instant::now() < *at) {
                tokio::select! {
                    biased;
                    () = self.exit.told() => return false,
                    () = tokio::time::sleep_until(at) => {}
                }
                continue;
            }
            if !self.writer.is_open() {
                self.reopen().await;
                continue;
            }
            let (urgent, finished_since) = shared.commits.waiting();
            if urgent {
                return true;
            }
            let delay = u64::try_from(shared.journal.finish_delay.as_millis()).unwrap_or(u64::MAX);
            let finish_at = finished_since.map(|since| shared.clock.instant(since.saturating_add(delay)));
            tokio::select! {
                biased;
                () = self.exit.told() => return false,
                () = shared.commits.changed.notified() => {}
                () = tokio::time::sleep_until(finish_at.unwrap_or_else(Instant::now)), if finish_at.is_some() => {
                    return true;
                }
            }
        }
    }

    async fn commit_batch(&mut self) {
        let shared = Arc::clone(self.broker.shared());
        let batch = shared.commits.take();
        let (number, waiters) = (batch.number, batch.waiters.clone());
        let (mut written, outcome) = self.write(batch).await;
        match &outcome {
            Ok(()) => self.publish(&mut written),
            Err(_) => self.give_back(&mut written),
        }
        shared.commits.settle(number, outcome);
        for (_, staged, _) in &written.topics {
            staged.waiters.iter().for_each(|signal| signal.wake());
        }
        waiters.iter().for_each(|signal| signal.wake());
        if std::mem::take(&mut self.rolled) {
            self.checkpoint();
        }
    }

    /// Appends everything and commits it.
    async fn write(&mut self, batch: Batch) -> (Written, Result<(), Refused>) {
        let mut written = Written { changes: batch.changes, ..Written::default() };
        // Taken before anything can fail, so that nothing is left half in the batch.
        let topics = batch.topics.into_iter().map(|topic| (topic.take_staged(), topic));
        let topics: Vec<_> = topics.map(|((staged, closed), topic)| (topic, staged, closed)).collect();
        written.pending = batch
            .channels
            .into_iter()
            .map(|channel| (Arc::clone(&channel), channel.take_pending()))
            .collect();
        let result = self.append(&mut written, topics, batch.moves).await;
        let result = match result {
            Ok(()) if written.writes => self.sync(written.syncs).await,
            other => other,
        };
        (written, result.map_err(|error| self.failed(&error)))
    }

    async fn append(
        &mut self,
        written: &mut Written,
        topics: Vec<(Arc<Topic>, Staged, bool)>,
        moves: Vec<Move>,
    ) -> io::Result<()> {
        // The order matters: a change precedes the messages that rely on it.
        for change in &written.changes {
            let Change { topic, channel, op, number, a, b } = change;
            let record = NewRecord::Control { topic, channel, op: *op, number: *number, a: *a, b: *b };
            append(&mut self.writer, &mut self.rolled, &record).await?;
            (written.writes, written.syncs) = (true, true);
        }
        let mut failed = Ok(());
        for (topic, staged, closed) in topics {
            // A topic that was deleted meanwhile takes its messages along.
            let mut parts = Vec::new();
            if !closed && failed.is_ok() {
                failed = self.append_topic(&topic, &staged, &mut parts).await;
                written.writes |= topic.durability != Durability::Memory;
                written.syncs |= topic.durability == Durability::Fsync;
            }
            written.topics.push((topic, staged, parts));
        }
        failed?;
        for Move { topic, from, span, due, frames } in
            moves.into_iter().filter(|moved| !moved.topic.is_closed())
        {
            let run = self.append_messages(&topic, span, due, &frames).await?;
            written.moved.push((topic, from, run));
            (written.writes, written.syncs) = (true, true);
        }
        for (channel, pending) in &written.pending {
            let (topic, name) = (channel.topic().as_str(), channel.name().as_str());
            for spans in pending.finished.chunks(ENTRIES_MAX) {
                let record = NewRecord::Finished { topic, channel: name, spans };
                append(&mut self.writer, &mut self.rolled, &record).await?;
            }
            for held in pending.held.chunks(ENTRIES_MAX) {
                let record = NewRecord::Requeued { topic, channel: name, held };
                append(&mut self.writer, &mut self.rolled, &record).await?;
            }
            written.writes |= !pending.is_empty();
            written.syncs |=
                !pending.is_empty() && self.broker.shared().journal.durability == Durability::Fsync;
        }
        Ok(())
    }

    async fn append_topic(
        &mut self,
        topic: &Arc<Topic>,
        staged: &Staged,
        parts: &mut Vec<Committed>,
    ) -> io::Result<()> {
        for (span, due, frames) in staged.parts() {
            let journalled = topic.durability != Durability::Memory;
            let run =
                if journalled { Some(self.append_messages(topic, span, due, &frames).await?) } else { None };
            parts.push(Committed { span, due, frames, run });
        }
        Ok(())
    }

    async fn append_messages(
        &mut self,
        topic: &Topic,
        span: Span,
        due: u64,
        frames: &Bytes,
    ) -> io::Result<Run> {
        loop {
            match self.writer.append_messages(topic.name(), span, due, frames) {
                Ok(run) => return Ok(run),
                Err(Full::Roll) => self.roll().await?,
            }
        }
    }

    async fn sync(&mut self, sync: bool) -> io::Result<()> {
        self.writer.commit(sync).await?;
        self.broker.commit_count.fetch_add(1, Ordering::Relaxed);
        self.broker.sync_count.fetch_add(u64::from(sync), Ordering::Relaxed);
        Ok(())
    }

    async fn roll(&mut self) -> io::Result<()> {
        roll(&mut self.writer, &mut self.rolled).await
    }

    /// Makes what was written visible to channels, and lets go of memory beyond the budget.
    fn publish(&mut self, written: &mut Written) {
        for (topic, _, parts) in &mut written.topics {
            if topic.durability != Durability::Memory {
                for part in parts.iter() {
                    self.cached_bytes += part.frames.len();
                    self.cached.push_back((Arc::clone(topic), part.frames.len()));
                }
            }
            topic.committed(parts.drain(..));
        }
        for (topic, from, run) in written.moved.drain(..) {
            topic.moved(from, run);
        }
        while self.cached_bytes > self.broker.shared().journal.cache_bytes {
            let Some((topic, bytes)) = self.cached.pop_front() else { break };
            topic.evict_oldest();
            self.cached_bytes -= bytes;
        }
        if written.writes {
            self.retry = None;
            self.broker.set_last_error(None);
        }
    }

    /// Keeps for the next batch what a failed one was to write. Its publishes are lost: their publishers
    /// are told so.
    fn give_back(&mut self, written: &mut Written) {
        for (channel, pending) in written.pending.drain(..) {
            channel.restore_pending(pending);
        }
        self.broker.commits().restore(std::mem::take(&mut written.changes));
    }

    /// Takes note of a failure and says how it is told to publishers.
    fn failed(&mut self, error: &io::Error) -> Refused {
        self.writer.rollback();
        let admission = &self.broker.shared().admission;
        let why: Arc<str> = error.to_string().into();
        self.broker.set_last_error(Some(Arc::clone(&why)));
        if error.kind() == io::ErrorKind::StorageFull {
            // What is small may still find room: tried again soon, and upkeep says when there is more.
            admission.set_disk_full(true);
            self.retry = Some((Instant::now() + RETRY.0, RETRY.0));
            return Refused::DiskFull;
        }
        tracing::error!("cannot write to the journal: {error}");
        let pause = self.retry.map_or(RETRY.0, |(_, pause)| (pause * 2).min(RETRY.1));
        self.retry = Some((Instant::now() + pause, pause));
        // When the failure was in sealing the last segment, the next one is open already. Nothing would then
        // come by that takes publishes again.
        if !self.writer.is_open() {
            admission.set_failed(Some(Arc::clone(&why)));
        }
        Refused::Failed(why)
    }

    /// Tries to begin a new segment after a failure.
    async fn reopen(&mut self) {
        match self.roll().await {
            Ok(()) => {
                self.broker.shared().admission.set_failed(None);
                self.broker.set_last_error(None);
                self.retry = None;
            }
            Err(error) => {
                self.failed(&error);
            }
        }
    }

    fn snapshot(&self) -> Checkpoint {
        let shared = self.broker.shared();
        let replay_from = self.writer.segment();
        // The topics come first: one that is deleted meanwhile must find its numbers below the floor.
        let topics = self.broker.topics().iter().filter_map(|topic| topic.snapshot()).collect();
        Checkpoint {
            replay_from,
            control: shared.commits.last_change(),
            sequence_floor: self.broker.sequence_floor(),
            segments: shared.store.sealed_below(replay_from),
            topics,
        }
    }

    /// Takes the state of everything now, between two batches, and writes it in the background.
    fn checkpoint(&self) {
        let checkpoint = self.snapshot();
        let broker = Arc::clone(&self.broker);
        let shared = Arc::clone(broker.shared());
        let background = Arc::clone(&shared.env.background);
        background.spawn(Box::pin(async move {
            let written = upkeep::write_checkpoint(&shared.store, &checkpoint).await;
            match written {
                Ok(()) => {
                    broker.checkpointed(checkpoint.replay_from);
                    if let Err(error) = upkeep::remove_old_checkpoints(&shared.store).await {
                        tracing::warn!("cannot remove old checkpoints: {error}");
                    }
                }
                Err(error) => tracing::warn!("cannot write a checkpoint: {error}; the next one will do"),
            }
        }));
    }
}

async fn append(writer: &mut Writer, rolled: &mut bool, record: &NewRecord<'_>) -> io::Result<()> {
    loop {
        match writer.append(record) {
            Ok(_) => return Ok(()),
            Err(Full::Roll) => roll(writer, rolled).await?,
        }
    }
}

async fn roll(writer: &mut Writer, rolled: &mut bool) -> io::Result<()> {
    let result = writer.roll().await;
    // Also after a failure: the sealed segments are then best described by a new checkpoint.
    *rolled |= writer.is_open();
    result
}
