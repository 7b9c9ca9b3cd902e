//! A topic: where publishes are staged, what is committed, and its channels.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bruit_wire::{ChannelName, TopicName};
use parking_lot::{Mutex, MutexGuard};

use super::{
    Shared,
    channel::Channel,
    client::Client,
    clock::millis,
    commits::{Change, Ticket},
    latency::Sketch,
    queue::Queue,
    reclaim::Needs,
    signal::Signal,
    stage::{Stage, Staged},
    tail::{Committed, Tail},
};
use crate::{
    config::Durability,
    journal::{Op, Run, admission::Refused, checkpoint::TopicState, replay::RecoveredTopic},
};

/// Deferred publishes that a topic holds at most; each costs about 60 bytes of memory, and as much again in
/// each channel. Further ones are refused.
const DEFERRED_MAX: usize = 1_000_000;

/// A topic.
///
/// Locks, in the order in which they may be taken: `core`, a channel's, `tail`; and `stage`, then the commit
/// loop's. None is held over an await.
#[derive(Debug)]
pub struct Topic {
    number: u64,
    name: TopicName,
    pub(super) durability: Durability,
    shared: Arc<Shared>,
    stage: Mutex<Stage>,
    core: Mutex<Core>,
    tail: Arc<Mutex<Tail>>,
}

#[derive(Debug, Default)]
struct Core {
    channels: BTreeMap<ChannelName, Arc<Channel>>,
    paused: bool,
    /// Others are being asked which channels it begins with.
    waits: bool,
    deleted: bool,
    /// The number of the latest change.
    change: u64,
}

impl Core {
    /// Whether the fan-out mark follows the tail.
    fn flows(&self) -> bool {
        !self.paused && !self.waits && !self.channels.is_empty()
    }
}

/// A topic's figures (NSQ reference, section 6.5).
#[derive(Debug, Clone, Copy, Default)]
pub struct TopicStats {
    /// Messages that no channel sees yet: the topic is paused or has none.
    pub depth: u64,
    /// Those of them that are not in memory.
    pub backend_depth: u64,
    /// Messages published.
    pub message_count: u64,
    /// Bytes of their bodies.
    pub message_bytes: u64,
    /// Whether it is paused.
    pub paused: bool,
}

/// The right to stage messages of one topic; holds its lock.
pub(crate) struct Stager<'a> {
    topic: &'a Arc<Topic>,
    stage: MutexGuard<'a, Stage>,
    before: usize,
    timestamp: i64,
}

impl Stager<'_> {
    /// Stages `bodies` as one unit that a crash keeps whole or not at all. `due` is milliseconds since the
    /// epoch, 0 for at once.
    pub(crate) fn push<'b>(&mut self, due: u64, bodies: impl Iterator<Item = &'b [u8]>) {
        self.stage.push(self.timestamp, due, bodies);
    }

    /// Makes room for `count` messages whose bodies have `bytes` in all.
    pub(crate) fn reserve(&mut self, count: usize, bytes: usize) {
        self.stage.reserve(count, bytes);
    }

    /// Ends staging. `signal`, if given, is woken once the batch is settled.
    pub(crate) fn finish(mut self, signal: Option<&Arc<Signal>>) -> Ticket {
        if self.stage.batch == 0 {
            self.stage.batch = self.topic.shared.commits.note_topic(self.topic);
        }
        if let Some(signal) = signal {
            self.stage.wait(signal);
        }
        self.topic.shared.commits.staged(self.stage.bytes() - self.before);
        Ticket(self.stage.batch)
    }
}

impl Topic {
    /// A topic whose first message will have the number `first`.
    pub(super) fn new(name: TopicName, shared: Arc<Shared>, first: u64) -> Arc<Self> {
        let tail = Tail::new(crate::journal::RunList::default(), first, first);
        Self::build(name, shared, first, tail)
    }

    fn build(name: TopicName, shared: Arc<Shared>, next: u64, tail: Tail) -> Arc<Self> {
        let durability = shared.journal.durability_of(&name);
        let stage = Mutex::new(Stage::new(shared.node, next));
        let tail = Arc::new(Mutex::new(tail));
        let number = shared.numbers.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, name, durability, shared, stage, core: Mutex::default(), tail })
    }

    /// A topic as the journal has it.
    pub(super) fn recovered(name: TopicName, shared: &Arc<Shared>, recovered: RecoveredTopic) -> Arc<Self> {
        let RecoveredTopic { state, runs } = recovered;
        let tail = Tail::new(runs, state.next, state.mark);
        let topic = Self::build(name, Arc::clone(shared), state.next, tail);
        let mut stage = topic.stage.lock();
        stage.message_count = state.message_count;
        stage.message_bytes = state.message_bytes;
        drop(stage);
        let mut core = topic.core.lock();
        core.paused = state.paused;
        core.change = state.control;
        for channel in &state.channels {
            let Ok(name) = ChannelName::new(&channel.name) else { continue };
            let queue = Queue::recovered(channel, state.mark, |due| shared.clock.monotonic(due));
            let channel = topic.make_channel(name.clone(), queue);
            channel.start();
            core.channels.insert(name, channel);
        }
        drop(core);
        topic
    }

    /// Tells it from earlier topics of the same name on this node.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Its name.
    pub const fn name(&self) -> &TopicName {
        &self.name
    }

    /// Whether it is kept on disk.
    pub(super) fn is_journalled(&self) -> bool {
        self.durability != Durability::Memory
    }

    /// Begins to stage messages with `timestamp`, nanoseconds since the epoch.
    ///
    /// # Errors
    /// Publishes are refused at the moment, or the topic is being deleted.
    pub(crate) fn stager(self: &Arc<Self>, timestamp: i64) -> Result<Stager<'_>, Refused> {
        if self.is_journalled() {
            self.shared.admission.check()?;
        } else {
            self.shared.admission.check_running()?;
        }
        let stage = self.stage.lock();
        if stage.closed {
            return Err(Refused::Exiting);
        }
        let before = stage.bytes();
        Ok(Stager { topic: self, stage, before, timestamp })
    }

    /// Publishes `bodies` as one unit, to be delivered at once or after `delay`. They are as durable as the
    /// topic promises once the ticket is settled.
    ///
    /// # Errors
    /// Publishes are refused at the moment, or the topic is being deleted.
    pub fn publish<'a>(
        self: &Arc<Self>,
        bodies: impl Iterator<Item = &'a [u8]>,
        delay: Option<Duration>,
    ) -> Result<Ticket, Refused> {
        let due = self.due(delay.map_or(0, millis))?;
        let mut stager = self.stager(self.shared.clock.timestamp())?;
        stager.push(due, bodies);
        Ok(stager.finish(None))
    }

    /// `delay` ms from now, in milliseconds since the epoch; 0 for no delay.
    ///
    /// # Errors
    /// The topic holds as many deferred messages as it may.
    pub(crate) fn due(&self, delay: u64) -> Result<u64, Refused> {
        if delay == 0 {
            return Ok(0);
        }
        if self.tail.lock().deferred_records() >= DEFERRED_MAX {
            return Err(Refused::Failed("too many deferred messages in this topic".into()));
        }
        // The clock is cut to whole milliseconds, and a delay is never cut short.
        Ok(self.shared.clock.wall().saturating_add(delay).saturating_add(1))
    }

    /// The channel `name`.
    pub fn channel(&self, name: &str) -> Option<Arc<Channel>> {
        self.core.lock().channels.get(name).cloned()
    }

    /// Its channels, by name.
    pub fn channels(&self) -> Vec<Arc<Channel>> {
        self.core.lock().channels.values().cloned().collect()
    }

    /// The channel `name`; made now if there is none. The first channel of a topic gets what was published
    /// before, later ones only what follows (NSQ reference, section 4).
    ///
    /// # Errors
    /// The topic is being deleted, or has as many channels as it may.
    pub fn channel_or_create(self: &Arc<Self>, name: &ChannelName) -> Result<Arc<Channel>, Refused> {
        let mut core = self.core.lock();
        if let Some(channel) = core.channels.get(name) {
            return Ok(Arc::clone(channel));
        }
        if core.deleted {
            return Err(Refused::Exiting);
        }
        if core.channels.len() >= self.shared.limits.max_channels {
            return Err(Refused::TooMany("channels"));
        }
        let start = self.tail.lock().mark();
        let journalled = self.is_journalled() && !name.is_ephemeral();
        let channel = self.make_channel(name.clone(), Queue::new(start, journalled));
        core.channels.insert(name.clone(), Arc::clone(&channel));
        if journalled {
            self.change(&mut core, name.as_str(), Op::ChannelCreated, start, 0);
        }
        self.advance(&core);
        drop(core);
        self.shared.holdings.note(&self.name);
        Ok(channel)
    }

    fn make_channel(&self, name: ChannelName, queue: Queue) -> Arc<Channel> {
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        Channel::new(number, self.name.clone(), name, Arc::clone(&self.shared), Arc::clone(&self.tail), queue)
    }

    /// Deletes a channel with all it holds and closes its consumers' connections. `None` if there is none.
    pub fn delete_channel(self: &Arc<Self>, name: &str) -> Option<Ticket> {
        self.delete_channel_if(name, |_| true)
    }

    /// Deletes the channel if it still is the one with this number.
    pub(crate) fn delete_channel_numbered(self: &Arc<Self>, name: &str, number: u64) -> Option<Ticket> {
        self.delete_channel_if(name, |channel| channel.number() == number)
    }

    fn delete_channel_if(
        self: &Arc<Self>,
        name: &str,
        condition: impl Fn(&Channel) -> bool,
    ) -> Option<Ticket> {
        let mut core = self.core.lock();
        if !condition(core.channels.get(name)?) {
            return None;
        }
        let channel = core.channels.remove(name)?;
        self.shared.holdings.note(&self.name);
        channel.delete();
        let mark = self.tail.lock().mark();
        let journalled = self.is_journalled() && !channel.name().is_ephemeral();
        let ticket = journalled.then(|| self.change(&mut core, name, Op::ChannelDeleted, mark, 0));
        Some(ticket.unwrap_or_else(|| self.shared.commits.barrier()))
    }

    /// Removes a consumer whose connection is gone. An ephemeral channel goes with its last one; returns
    /// whether an ephemeral topic has lost its last channel by that.
    pub(crate) fn leave(self: &Arc<Self>, channel: &Arc<Channel>, client: &Arc<Client>) -> bool {
        let last = channel.leave(client);
        if !last || !channel.name().is_ephemeral() {
            return false;
        }
        self.delete_channel(channel.name().as_str());
        self.name.is_ephemeral() && self.core.lock().channels.is_empty()
    }

    /// Pauses or resumes fan-out to the channels.
    pub fn set_paused(self: &Arc<Self>, paused: bool) -> Ticket {
        let mut core = self.core.lock();
        core.paused = paused;
        let mark = self.tail.lock().mark();
        let ticket = self.change(&mut core, "", Op::TopicPaused, mark, u64::from(paused));
        self.advance(&core);
        ticket
    }

    /// No channel sees a message until [`release`](Self::release). Not kept: a restart ends it.
    pub(super) fn wait(&self) {
        self.core.lock().waits = true;
    }

    /// All channels that are there by now see the messages so far.
    pub(crate) fn release(&self) {
        let mut core = self.core.lock();
        core.waits = false;
        self.advance(&core);
    }

    /// Drops what no channel sees yet.
    pub fn empty(self: &Arc<Self>) -> Ticket {
        let mut core = self.core.lock();
        let mut tail = self.tail.lock();
        let (from, to) = tail.drop_backlog();
        drop(tail);
        self.change(&mut core, "", Op::TopicEmptied, from, to)
    }

    /// Pauses or resumes a channel.
    pub fn set_channel_paused(self: &Arc<Self>, channel: &Channel, paused: bool) -> Ticket {
        let mut core = self.core.lock();
        channel.set_paused(paused);
        self.change(&mut core, channel.name().as_str(), Op::ChannelPaused, 0, u64::from(paused))
    }

    /// Drops all that a channel holds, in flight and deferred messages included.
    pub fn empty_channel(self: &Arc<Self>, channel: &Channel) -> Ticket {
        let mut core = self.core.lock();
        let mark = self.tail.lock().mark();
        channel.empty(mark);
        self.change(&mut core, channel.name().as_str(), Op::ChannelEmptied, mark, 0)
    }

    /// Ends the topic: nothing is staged any more, its channels are deleted.
    pub(super) fn delete(self: &Arc<Self>) -> (Ticket, u64) {
        let mut stage = self.stage.lock();
        stage.closed = true;
        let next = stage.next();
        drop(stage);
        let mut core = self.core.lock();
        core.deleted = true;
        std::mem::take(&mut core.channels).into_values().for_each(|channel| channel.delete());
        (self.change(&mut core, "", Op::TopicDeleted, next, 0), next)
    }

    /// Takes note in the journal that the topic exists.
    pub(super) fn created(self: &Arc<Self>, first: u64) {
        let mut core = self.core.lock();
        self.change(&mut core, "", Op::TopicCreated, first, 0);
    }

    fn change(&self, core: &mut Core, channel: &str, op: Op, a: u64, b: u64) -> Ticket {
        let ephemeral =
            !channel.is_empty() && ChannelName::new(channel).is_ok_and(|name| name.is_ephemeral());
        if !self.is_journalled() || ephemeral {
            return self.shared.commits.barrier();
        }
        let number = self.shared.commits.next_change();
        core.change = number;
        let (topic, channel) = (self.name.as_str().to_owned(), channel.to_owned());
        self.shared.commits.change(Change { topic, channel, op, number, a, b })
    }

    /// Lets the channels see everything that is committed, if the topic flows.
    fn advance(&self, core: &Core) {
        if !core.flows() {
            return;
        }
        let mut tail = self.tail.lock();
        let (_, deferred) = tail.advance();
        let mark = tail.mark();
        drop(tail);
        for channel in core.channels.values() {
            channel.defer(&deferred);
            if channel.name().is_ephemeral() || !self.is_journalled() {
                channel.keep_newest(mark, self.shared.limits.mem_queue_size as u64);
            }
            channel.wake();
        }
    }

    /// Takes what was staged, for a commit.
    pub(super) fn take_staged(&self) -> (Staged, bool) {
        let mut stage = self.stage.lock();
        self.shared.commits.unstaged(stage.bytes());
        (stage.take(), stage.closed)
    }

    /// Makes visible what a commit has written.
    pub(super) fn committed(&self, parts: impl Iterator<Item = Committed>) {
        let core = self.core.lock();
        let mut tail = self.tail.lock();
        parts.for_each(|part| tail.push(part));
        drop(tail);
        self.advance(&core);
        if !self.is_journalled() {
            let floors = core.channels.values().map(|channel| channel.floor());
            let mut tail = self.tail.lock();
            let needed = floors.min().unwrap_or_else(|| tail.mark());
            tail.trim_memory(needed, self.shared.limits.mem_queue_size as u64);
        }
    }

    /// Points the index to where the cleaner has put messages.
    pub(super) fn moved(&self, from: u64, run: Run) {
        self.tail.lock().moved(from, run);
    }

    /// Whether it was deleted.
    pub(crate) fn is_closed(&self) -> bool {
        self.stage.lock().closed
    }

    /// What its channels still need.
    pub(super) fn needs(&self) -> Needs {
        // The mark is read first: it only grows, and what lies behind it is needed anyway.
        let mark = self.tail.lock().mark();
        Needs { mark, channels: self.channels().iter().map(|channel| channel.needs()).collect() }
    }

    /// Lets go of the oldest messages in memory.
    pub(super) fn evict_oldest(&self) -> usize {
        self.tail.lock().evict_oldest()
    }

    /// The index, for reclaim.
    pub(super) fn with_tail<T>(&self, look: impl FnOnce(&mut Tail) -> T) -> T {
        look(&mut self.tail.lock())
    }

    /// The state for a checkpoint; `None` if the topic is not journalled or gone.
    pub(super) fn snapshot(&self) -> Option<TopicState> {
        let core = self.core.lock();
        if core.deleted || !self.is_journalled() {
            return None;
        }
        let stage = self.stage.lock();
        let (message_count, message_bytes) = (stage.message_count, stage.message_bytes);
        drop(stage);
        let journalled = core.channels.values().filter(|channel| !channel.name().is_ephemeral());
        let channels: Vec<Arc<Channel>> = journalled.cloned().collect();
        // Each channel is looked at under its own lock, then the tail's: the order of the locks.
        let channels = channels.iter().map(|channel| channel.snapshot()).collect();
        let tail = self.tail.lock();
        Some(TopicState {
            name: self.name.as_str().to_owned(),
            next: tail.end(),
            mark: tail.mark(),
            paused: core.paused,
            control: core.change,
            message_count,
            message_bytes,
            channels,
        })
    }

    /// How long the messages that were finished lately took, over all channels; `None` where that is not kept,
    /// and without channels.
    pub fn latency(&self) -> Option<Sketch> {
        let mut channels = self.channels().into_iter().filter_map(|channel| channel.latency());
        let mut whole = channels.next()?;
        channels.for_each(|part| whole.merge(&part));
        Some(whole)
    }

    /// The quantiles of latency that are to be shown.
    pub fn percentiles(&self) -> &[f64] {
        &self.shared.latency.percentiles
    }

    /// A snapshot for `/stats`.
    pub fn stats(&self) -> TopicStats {
        let core = self.core.lock();
        let stage = self.stage.lock();
        let (message_count, message_bytes) = (stage.message_count, stage.message_bytes);
        drop(stage);
        let tail = self.tail.lock();
        let depth = tail.count_all(tail.mark(), tail.end());
        let backend_depth = depth.saturating_sub(tail.in_memory(tail.mark()));
        TopicStats { depth, backend_depth, message_count, message_bytes, paused: core.paused }
    }
}
