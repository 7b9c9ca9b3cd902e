//! A channel: the lock around its [`Queue`], its consumers, and what it reads back from the journal.

mod preference;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bruit_wire::{ChannelName, TopicName, relay::GiveBack};
use bytes::Bytes;
use parking_lot::Mutex;

use self::preference::signal;
use super::{
    Shared,
    client::{Client, ClientStats, STALLED},
    clock::millis,
    delivery::{Stop, Taken, Want},
    latency::{Latencies, Sketch},
    queue::{Output, Pending, Queue, RequeueError},
    tail::Tail,
    window::NotYours,
};
use crate::journal::{
    Run, Span,
    checkpoint::{ChannelState, HeldRange},
};

/// Shortest and longest pause before a stretch of the journal that could not be read is tried again.
const READ_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A channel of a topic.
#[derive(Debug)]
pub struct Channel {
    number: u64,
    topic: TopicName,
    name: ChannelName,
    shared: Arc<Shared>,
    tail: Arc<Mutex<Tail>>,
    /// As in the state, for those that do not hold the lock.
    ranked: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    clients: Vec<Arc<Client>>,
    /// Consumers that found nothing; each is woken once and then looks again.
    waiting: VecDeque<Arc<Client>>,
    /// Consumers that can take nothing, and want to know when there are messages that nobody takes. Not among
    /// those that wait: two of them would wake each other for ever.
    watching: Vec<Arc<Client>>,
    /// The same while others that come first take the messages: they are to look again now and then whether those
    /// still do.
    idle: Vec<Arc<Client>>,
    /// A stretch of the journal is being read.
    loading: bool,
    /// When the agenda looks at this channel next.
    scheduled: u64,
    /// When those who watch are to look whether others still take the messages.
    look_again: Option<u64>,
    /// The commit loop knows that there is something to write.
    noted: bool,
    deleted: bool,
    /// Some consumers are, or were, preferred to others.
    ranked: bool,
    /// Messages delivered, by how near the consumer is.
    delivered: [u64; 3],
    /// How long messages take; kept only where that is asked for.
    latencies: Option<Latencies>,
}

/// A channel's figures (NSQ reference, section 6.5).
#[derive(Debug, Clone, Copy, Default)]
pub struct ChannelStats {
    /// Messages that wait to be delivered, without those in flight or deferred.
    pub depth: u64,
    /// Those of them that are not in memory.
    pub backend_depth: u64,
    /// Delivered and not answered.
    pub in_flight_count: u64,
    /// Held back until they are due.
    pub deferred_count: u64,
    /// Messages that have reached the channel.
    pub message_count: u64,
    /// REQ commands that were taken.
    pub requeue_count: u64,
    /// Deliveries that timed out.
    pub timeout_count: u64,
    /// Consumers.
    pub client_count: u64,
    /// Whether it is paused.
    pub paused: bool,
    /// Deliveries to consumers in the node's zone, in its region, and to all others (NSQ reference, section
    /// 2.16).
    pub delivered: [u64; 3],
}

/// Why a consumer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubscribeError {
    /// The channel is being deleted.
    Deleted,
    /// It has as many consumers as it may.
    TooManyConsumers,
}

impl Channel {
    pub(super) fn new(
        number: u64,
        topic: TopicName,
        name: ChannelName,
        shared: Arc<Shared>,
        tail: Arc<Mutex<Tail>>,
        queue: Queue,
    ) -> Arc<Self> {
        let latency = &shared.latency;
        let latencies = (!latency.percentiles.is_empty())
            .then(|| Latencies::new(shared.clock.now(), millis(latency.window)));
        let state = State {
            queue,
            clients: Vec::new(),
            waiting: VecDeque::new(),
            watching: Vec::new(),
            idle: Vec::new(),
            loading: false,
            scheduled: u64::MAX,
            look_again: None,
            noted: false,
            deleted: false,
            ranked: false,
            delivered: [0; 3],
            latencies,
        };
        let ranked = AtomicBool::new(false);
        Arc::new(Self { number, topic, name, shared, tail, ranked, state: Mutex::new(state) })
    }

    /// Unique over the node's life.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Its name.
    pub const fn name(&self) -> &ChannelName {
        &self.name
    }

    /// The topic that it belongs to.
    pub(super) const fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Adds a consumer.
    ///
    /// # Errors
    /// The channel is deleted or full.
    pub(crate) fn subscribe(&self, client: &Arc<Client>) -> Result<(), SubscribeError> {
        let mut state = self.state.lock();
        if state.deleted {
            return Err(SubscribeError::Deleted);
        }
        let limit = self.shared.limits.max_channel_consumers;
        if limit > 0 && state.clients.len() >= limit {
            return Err(SubscribeError::TooManyConsumers);
        }
        state.clients.push(Arc::clone(client));
        if state.clients.iter().any(|other| other.rank() != client.rank()) {
            state.ranked = true;
            self.ranked.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether some consumers are, or were, preferred to others. Then one that can take no more, and did not
    /// say so by taking, has to [`wake`](Self::wake) another.
    pub(crate) fn is_ranked(&self) -> bool {
        self.ranked.load(Ordering::Relaxed)
    }

    /// Removes a consumer whose connection is gone; what it had in flight is available again at once.
    /// Returns whether it was the last one.
    pub(super) fn leave(self: &Arc<Self>, client: &Arc<Client>) -> bool {
        let mut state = self.state.lock();
        state.clients.retain(|other| other.id != client.id);
        state.waiting.retain(|other| other.id != client.id);
        state.watching.retain(|other| other.id != client.id);
        state.idle.retain(|other| other.id != client.id);
        let released = state.queue.release(client.id);
        if released > 0 {
            self.note_pending(&mut state);
        }
        state.wake_one();
        state.clients.is_empty()
    }

    /// Gives `client` messages, appended to `out`. If there are none, or more must be read first, it is woken
    /// when it is worth asking again. Returns how many it got.
    pub(crate) fn take(self: &Arc<Self>, client: &Arc<Client>, want: Want<'_>, out: &mut Output) -> u64 {
        let (now, before) = (self.shared.clock.now(), out.len());
        let mut state = self.state.lock();
        if state.yields(client, &self.tail) {
            client.reading.store(false, Ordering::Relaxed);
            return 0;
        }
        let (Taken { messages, stop, prefetch }, more) = {
            let tail = self.tail.lock();
            let taken = state.queue.take(now, &tail, want, out);
            (taken, state.queue.has_more(&tail))
        };
        state.note_delivered(out.range(before..));
        client.in_flight.fetch_add(messages, Ordering::Relaxed);
        client.message_count.fetch_add(messages, Ordering::Relaxed);
        if state.ranked && messages > 0 {
            client.took(now);
        }
        if let Some(count) = state.delivered.get_mut(client.proximity() as usize) {
            *count += messages;
        }
        client.reading.store(matches!(stop, Stop::Cold(..)), Ordering::Relaxed);
        match stop {
            // Another consumer should not sleep while messages lie there.
            Stop::Full if more => drop(state.wake_one()),
            Stop::Full => {}
            Stop::Empty => state.wait(client),
            Stop::Cold(run, again) => {
                state.wait(client);
                self.load(&mut state, run, again);
            }
        }
        if let Some(run) = prefetch {
            self.load(&mut state, run, false);
        }
        self.schedule(&mut state);
        if !state.queue.pending.is_empty() {
            self.note_pending(&mut state);
        }
        messages
    }

    /// Finishes messages of one read under one lock; `refused` gets those that are not the client's.
    pub(crate) fn finish(
        self: &Arc<Self>,
        client: &Client,
        sequences: &[u64],
        mut refused: impl FnMut(u64, NotYours),
    ) {
        let mut state = self.state.lock();
        let measured = state.latencies.is_some();
        let times = measured.then(|| (self.shared.clock.now(), self.shared.clock.timestamp()));
        let mut finished = 0;
        for &sequence in sequences {
            match state.queue.finish(sequence, client.id) {
                Ok(()) => {
                    finished += 1;
                    if let (Some(latencies), Some((now, wall))) = (&mut state.latencies, times) {
                        latencies.finished(now, wall, sequence);
                    }
                }
                Err(error) => refused(sequence, error),
            }
        }
        self.note_pending(&mut state);
        // Under the lock: emptying the channel sets the count to nothing.
        client.in_flight.fetch_sub(finished, Ordering::Relaxed);
        client.finish_count.fetch_add(finished, Ordering::Relaxed);
    }

    /// Puts a message back, at once or after `delay` ms.
    ///
    /// # Errors
    /// It is not the client's, or too many are deferred.
    pub(crate) fn requeue(
        self: &Arc<Self>,
        client: &Client,
        sequence: u64,
        delay: u64,
    ) -> Result<(), RequeueError> {
        // Both clocks are cut to whole milliseconds, and a delay is never cut short.
        let (now, wall) = (self.shared.clock.now() + 1, self.shared.clock.wall() + 1);
        let mut state = self.state.lock();
        state.queue.requeue(now, wall, sequence, client.id, delay)?;
        client.in_flight.fetch_sub(1, Ordering::Relaxed);
        client.requeue_count.fetch_add(1, Ordering::Relaxed);
        self.note_pending(&mut state);
        self.schedule(&mut state);
        state.wake_one();
        Ok(())
    }

    /// How many messages wait for a client that can take none now, and whether others that come first take them.
    /// If there are none it is woken when there are some that nobody takes; if others take them, when they may
    /// have stopped.
    pub(crate) fn await_more(self: &Arc<Self>, client: &Arc<Client>) -> (u64, bool) {
        let now = self.shared.clock.now();
        let mut state = self.state.lock();
        let tail = self.tail.lock();
        let waiting = if state.queue.has_more(&tail) { state.queue.depth(&tail) } else { 0 };
        drop(tail);
        let served = waiting > 0 && state.is_served_before(client, now);
        if waiting > 0 && !served {
            return (waiting, false);
        }
        if !client.watching.swap(true, Ordering::Relaxed) {
            let list = if served { &mut state.idle } else { &mut state.watching };
            list.push(Arc::clone(client));
        }
        if served && state.look_again.is_none() {
            state.look_again = Some(now + STALLED);
            self.schedule(&mut state);
        }
        (waiting, served)
    }

    /// Puts a message back that a client hands back without an answer.
    ///
    /// # Errors
    /// It is not the client's.
    pub(crate) fn give_back(
        self: &Arc<Self>,
        client: &Client,
        sequence: u64,
        how: GiveBack,
    ) -> Result<(), NotYours> {
        let mut state = self.state.lock();
        state.queue.take_back(sequence, client.id, how)?;
        client.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.note_pending(&mut state);
        state.wake_one();
        Ok(())
    }

    /// Gives the client more time for a message.
    ///
    /// # Errors
    /// It is not the client's.
    pub(crate) fn touch(
        &self,
        client: &Client,
        sequence: u64,
        timeout: u32,
        max: u32,
    ) -> Result<(), NotYours> {
        let now = self.shared.clock.now();
        self.state.lock().queue.touch(now, sequence, client.id, timeout, max)
    }

    /// Looks at deadlines; called by the agenda.
    pub(super) fn expire(self: &Arc<Self>) {
        let now = self.shared.clock.now();
        let mut state = self.state.lock();
        state.scheduled = u64::MAX;
        let lost = state.queue.expire(now);
        for client in &state.clients {
            if let Some(count) = lost.get(&client.id) {
                client.lost(*count);
            }
        }
        if state.look_again.is_some_and(|at| at <= now) {
            state.look_again = None;
            signal(state.idle.drain(..));
        }
        self.note_pending(&mut state);
        self.schedule(&mut state);
        state.wake_one();
    }

    /// Enters deferred messages that the fan-out mark has passed.
    pub(super) fn defer(self: &Arc<Self>, deferred: &[(Span, u64)]) {
        if deferred.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for &(span, due) in deferred {
            state.queue.defer(span, self.shared.clock.monotonic(due), due);
        }
        self.schedule(&mut state);
    }

    /// Wakes a consumer: there is something new, or one that was woken cannot take it.
    pub(crate) fn wake(&self) {
        self.state.lock().wake_one();
    }

    /// For an ephemeral channel: drops the oldest messages beyond `keep`.
    pub(super) fn keep_newest(&self, mark: u64, keep: u64) {
        self.state.lock().queue.keep_newest(mark, keep);
    }

    /// Stops or resumes deliveries.
    pub(super) fn set_paused(&self, paused: bool) {
        let mut state = self.state.lock();
        state.queue.paused = paused;
        while state.wake_one() {}
    }

    /// Drops everything that the channel holds or would deliver next.
    pub(super) fn empty(&self, mark: u64) {
        let mut state = self.state.lock();
        let lost = state.queue.empty(mark);
        for client in &state.clients {
            client.lost(lost.get(&client.id).copied().unwrap_or_default());
        }
    }

    /// Ends the channel: its consumers' connections are closed, nothing is written for it any more.
    pub(super) fn delete(&self) {
        let mut state = self.state.lock();
        state.deleted = true;
        state.queue.empty(u64::MAX);
        state.queue.take_pending();
        state.waiting.clear();
        state.watching.clear();
        state.idle.clear();
        state.clients.iter().for_each(|client| client.close());
    }

    /// What the next commit must write.
    pub(super) fn take_pending(&self) -> Pending {
        let mut state = self.state.lock();
        state.noted = false;
        state.queue.take_pending()
    }

    /// Puts back what a failed commit was to write; the next one tries again.
    pub(super) fn restore_pending(self: &Arc<Self>, pending: Pending) {
        let mut state = self.state.lock();
        if !state.deleted {
            state.queue.restore_pending(pending);
            self.note_pending(&mut state);
        }
    }

    /// What is held outside the cursor and where the cursor is; for reclaim.
    pub(super) fn needs(&self) -> (u64, Vec<HeldRange>) {
        let state = self.state.lock();
        (state.queue.next, state.queue.held())
    }

    /// The lowest message that is not finished.
    pub(super) fn floor(&self) -> u64 {
        self.state.lock().queue.floor()
    }

    /// The state for a checkpoint.
    pub(super) fn snapshot(&self) -> ChannelState {
        let state = self.state.lock();
        let tail = self.tail.lock();
        state.queue.snapshot(self.name.as_str(), &tail)
    }

    /// Puts a recovered channel on the agenda.
    pub(super) fn start(self: &Arc<Self>) {
        self.schedule(&mut self.state.lock());
    }

    /// A snapshot for `/stats`.
    pub fn stats(&self) -> ChannelStats {
        let state = self.state.lock();
        let tail = self.tail.lock();
        let queue = &state.queue;
        let depth = queue.depth(&tail);
        ChannelStats {
            depth,
            backend_depth: depth.saturating_sub(tail.in_memory(queue.next)),
            in_flight_count: queue.flight.window.len(),
            deferred_count: queue.deferred_count(),
            message_count: queue.message_count(tail.mark()),
            requeue_count: queue.requeue_count,
            timeout_count: queue.timeout_count,
            client_count: state.clients.len() as u64,
            paused: queue.paused,
            delivered: state.delivered,
        }
    }

    /// How long the messages that were finished lately took, from publishing to FIN; `None` where that is not
    /// kept.
    pub fn latency(&self) -> Option<Sketch> {
        let now = self.shared.clock.now();
        self.state.lock().latencies.as_mut().map(|latencies| latencies.sketch(now))
    }

    /// Its consumers.
    pub fn clients(&self) -> Vec<ClientStats> {
        self.state.lock().clients.iter().map(|client| client.stats()).collect()
    }

    fn note_pending(self: &Arc<Self>, state: &mut State) {
        if !state.noted && !state.queue.pending.is_empty() {
            state.noted = true;
            self.shared.commits.note_channel(self, self.shared.clock.now());
        }
    }

    fn schedule(self: &Arc<Self>, state: &mut State) {
        let next = state.queue.next_deadline().into_iter().chain(state.look_again).min();
        if let Some(at) = next.filter(|at| *at < state.scheduled) {
            state.scheduled = at;
            self.shared.agenda.schedule(at, self);
        }
    }

    /// Reads a stretch of the journal in the background, one at a time.
    fn load(self: &Arc<Self>, state: &mut State, run: Run, again: bool) {
        if std::mem::replace(&mut state.loading, true) {
            return;
        }
        let channel = Arc::clone(self);
        self.shared.env.spawn.spawn(Box::pin(async move { channel.read_back(run, again).await }));
    }

    async fn read_back(self: Arc<Self>, run: Run, again: bool) {
        let mut pause = READ_PAUSE.0;
        // A disk that cannot be read says nothing about what is on it: nothing is given up, the channel waits.
        let records = loop {
            match self.shared.store.read(&self.topic, &run).await {
                Ok(records) => break records,
                // The cleaner has moved the messages meanwhile, and the index says so; or their file is gone.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break Vec::new(),
                Err(error) => {
                    tracing::error!(
                        "cannot read back topic {}: {error}; trying again in {pause:?}",
                        self.topic
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(READ_PAUSE.1);
                }
            }
            if self.state.lock().deleted {
                return;
            }
        };
        let mut state = self.state.lock();
        let mut tail = self.tail.lock();
        tail.forget_unread(&run, &records);
        drop(tail);
        state.queue.loaded(again, records);
        state.loading = false;
        while state.wake_one() {}
    }
}

impl State {
    /// Remembers when these messages were published, where latencies are kept.
    fn note_delivered<'a>(&mut self, frames: impl Iterator<Item = &'a Bytes>) {
        let Some(latencies) = &mut self.latencies else { return };
        latencies.delivered(frames);
        let window = &self.queue.flight.window;
        if latencies.is_crowded(window.len()) {
            latencies.keep(window.iter().map(|(sequence, _)| sequence));
        }
    }
}
