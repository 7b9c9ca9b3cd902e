//! One channel's state: what it has yet to deliver, what is with consumers, what waits. Pure: time is an
//! argument, messages come from the topic's [`Tail`], and what must be journalled is collected for the next
//! commit.
//!
//! Every message of the topic below `next` is in exactly one place: in flight, requeued, deferred, or
//! finished (which is kept nowhere). Deferred messages of the topic are entered in `deferred` when the
//! fan-out mark passes them, so the cursor steps over them.

use std::collections::{BTreeMap, VecDeque};

use bruit_wire::relay::GiveBack;
use bytes::Bytes;

use super::{
    delivery::Current,
    flight::Flight,
    tail::Tail,
    window::{NotYours, Slot},
};
use crate::journal::{
    Held, Span,
    checkpoint::{ChannelState, HeldRange},
    replay::push_held,
    store::ReadBack,
};

/// Deferred messages that a channel holds in memory at most by REQ (about 64 bytes each). Beyond, a REQ with
/// a delay is refused with the non-fatal error.
const DEFERRED_MAX: usize = 4_000_000;

/// The state of a channel.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// The cursor: the next number to deliver for the first time.
    pub(super) next: u64,
    /// No deliveries while set.
    pub(super) paused: bool,
    pub(super) flight: Flight,
    pub(super) requeued: VecDeque<Requeued>,
    pub(super) requeued_count: u64,
    deferred: BTreeMap<(u64, u64), Deferred>,
    /// The rest of the record in hand.
    pub(super) current: Option<Current>,
    /// Records that were read back for the cursor.
    pub(super) ahead: VecDeque<ReadBack>,
    /// Records that were read back for redelivery.
    pub(super) again: Vec<ReadBack>,
    pub(super) journalled: bool,
    pub(super) pending: Pending,
    pub(super) requeue_count: u64,
    pub(super) timeout_count: u64,
    /// The fan-out mark minus the messages that have reached the channel.
    count_base: u64,
}

/// Consecutive messages that go out again, first come first served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Requeued {
    pub(super) first: u64,
    pub(super) count: u64,
    /// Deliveries so far.
    pub(super) attempts: u16,
}

#[derive(Debug, Clone, Copy)]
struct Deferred {
    attempts: u16,
    /// The due time by the wall clock, for the journal.
    due: u64,
}

/// What the next commit must write for this channel.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Finished messages.
    pub(crate) finished: Vec<Span>,
    /// Requeued and deferred messages.
    pub(crate) held: Vec<Held>,
}

impl Pending {
    /// Whether there is nothing to write.
    pub(crate) const fn is_empty(&self) -> bool {
        self.finished.is_empty() && self.held.is_empty()
    }

    pub(super) fn finish(&mut self, first: u64, count: u64) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        match self.finished.last_mut() {
            Some(last) if last.end() == first && last.count.checked_add(count).is_some() => {
                last.count += count
            }
            _ => self.finished.push(Span { first, count }),
        }
    }
}

/// Why a REQ is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequeueError {
    /// The message is not this client's.
    #[error(transparent)]
    NotYours(#[from] NotYours),
    /// The channel holds as many deferred messages as it may.
    #[error("too many deferred messages")]
    Full,
}

impl Queue {
    /// A channel that gets everything from `start` on.
    pub(super) fn new(start: u64, journalled: bool) -> Self {
        Self { next: start, count_base: start, journalled, ..Self::default() }
    }

    /// A channel as the journal has it. `monotonic` turns due times of the wall clock into node time.
    pub(super) fn recovered(state: &ChannelState, mark: u64, monotonic: impl Fn(u64) -> u64) -> Self {
        let mut queue = Self::new(state.next, true);
        queue.paused = state.paused;
        queue.count_base = mark.saturating_sub(state.message_count);
        for &HeldRange { first, count, due, attempts } in &state.held {
            if due == 0 {
                queue.push_requeued(first, count, attempts);
                continue;
            }
            let at = monotonic(due);
            for sequence in first..first + count {
                queue.deferred.insert((at, sequence), Deferred { attempts, due });
            }
        }
        queue
    }

    /// Finishes a message.
    ///
    /// # Errors
    /// It is not in flight, or with another client.
    pub(super) fn finish(&mut self, sequence: u64, client: u32) -> Result<(), NotYours> {
        self.flight.window.take(sequence, client)?;
        if self.journalled {
            self.pending.finish(sequence, 1);
        }
        Ok(())
    }

    /// Puts a message back, to be delivered again at once or `delay` ms after `now`; `wall` is now by the
    /// wall clock.
    ///
    /// # Errors
    /// It is not this client's, or too many are deferred; nothing has changed.
    pub(super) fn requeue(
        &mut self,
        now: u64,
        wall: u64,
        sequence: u64,
        client: u32,
        delay: u64,
    ) -> Result<(), RequeueError> {
        self.flight.window.owned(sequence, client)?;
        if delay > 0 && self.deferred.len() >= DEFERRED_MAX {
            return Err(RequeueError::Full);
        }
        let slot = self.flight.window.take(sequence, client)?;
        self.requeue_count += 1;
        if delay == 0 {
            self.give_back(sequence, slot.attempts);
            return Ok(());
        }
        let due = wall + delay;
        self.deferred.insert((now + delay, sequence), Deferred { attempts: slot.attempts, due });
        self.journal_held(sequence, due, slot.attempts);
        Ok(())
    }

    /// Extends a delivery: it times out `timeout` ms after `now`, but never later than `max` ms after it was
    /// delivered.
    ///
    /// # Errors
    /// It is not in flight, or with another client.
    pub(super) fn touch(
        &mut self,
        now: u64,
        sequence: u64,
        client: u32,
        timeout: u32,
        max: u32,
    ) -> Result<(), NotYours> {
        self.flight.touch(now, sequence, client, timeout, max)
    }

    /// Puts back everything that `client` has in flight: its connection is gone. Returns how many.
    pub(super) fn release(&mut self, client: u32) -> u64 {
        let lost = self.flight.window.extract(0, u64::MAX, |slot| slot.client == client);
        for (sequence, slot) in &lost {
            self.give_back(*sequence, slot.attempts);
        }
        lost.len() as u64
    }

    /// Puts back a message that a client hands back without an answer.
    ///
    /// # Errors
    /// It is not in flight, or with another client.
    pub(super) fn take_back(&mut self, sequence: u64, client: u32, how: GiveBack) -> Result<(), NotYours> {
        let slot = self.flight.window.take(sequence, client)?;
        self.timeout_count += u64::from(how == GiveBack::TimedOut);
        self.give_back(sequence, slot.attempts - u16::from(how == GiveBack::Unseen));
        Ok(())
    }

    /// Enters deferred messages of the topic that the fan-out mark has passed; `at` is their due time in
    /// node time, `due` by the wall clock.
    pub(super) fn defer(&mut self, span: Span, at: u64, due: u64) {
        for sequence in span.first..span.end() {
            self.deferred.insert((at, sequence), Deferred { attempts: 0, due });
        }
    }

    /// Puts back what has timed out and what has come due. Returns how many messages each client lost.
    pub(super) fn expire(&mut self, now: u64) -> BTreeMap<u32, u64> {
        let mut lost = BTreeMap::new();
        for (sequence, slot) in self.flight.expire(now) {
            self.timeout_count += 1;
            *lost.entry(slot.client).or_default() += 1;
            self.give_back(sequence, slot.attempts);
        }
        while let Some(entry) = self.deferred.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, sequence), Deferred { attempts, .. }) = entry.remove_entry();
            self.push_requeued(sequence, 1, attempts);
        }
        lost
    }

    /// When [`Self::expire`] has something to do next, node time in ms.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let due = self.deferred.first_key_value().map(|((at, _), _)| *at);
        self.flight.next_deadline().into_iter().chain(due).min()
    }

    /// Drops everything below `mark`. Returns how many messages each client had in flight.
    pub(super) fn empty(&mut self, mark: u64) -> BTreeMap<u32, u64> {
        let mut lost = BTreeMap::new();
        self.flight.window.iter().for_each(|(_, slot)| *lost.entry(slot.client).or_default() += 1);
        self.next = self.next.max(mark);
        self.flight.clear();
        self.requeued.clear();
        self.requeued_count = 0;
        self.deferred.clear();
        self.forget_records();
        lost
    }

    /// For an ephemeral channel: drops the oldest messages beyond `keep`.
    pub(super) fn keep_newest(&mut self, mark: u64, keep: u64) {
        let from = mark.saturating_sub(keep);
        if self.next < from {
            self.next = from;
            self.forget_records();
        }
    }

    fn forget_records(&mut self) {
        self.current = None;
        self.ahead.clear();
        self.again.clear();
    }

    /// Makes a delivered message available again and keeps its attempts over a restart.
    fn give_back(&mut self, sequence: u64, attempts: u16) {
        self.push_requeued(sequence, 1, attempts);
        self.journal_held(sequence, 0, attempts);
    }

    fn journal_held(&mut self, sequence: u64, due: u64, attempts: u16) {
        if self.journalled {
            self.pending.held.push(Held { sequence, due, attempts });
        }
    }

    pub(super) fn push_requeued(&mut self, first: u64, count: u64, attempts: u16) {
        self.requeued_count += count;
        match self.requeued.back_mut() {
            Some(last) if last.first + last.count == first && last.attempts == attempts => {
                last.count += count
            }
            _ => self.requeued.push_back(Requeued { first, count, attempts }),
        }
    }

    /// Takes what the next commit must write.
    pub(super) fn take_pending(&mut self) -> Pending {
        std::mem::take(&mut self.pending)
    }

    /// Puts back what a failed commit was to write.
    pub(super) fn restore_pending(&mut self, mut pending: Pending) {
        pending.finished.append(&mut self.pending.finished);
        pending.held.append(&mut self.pending.held);
        self.pending = pending;
    }

    /// The lowest number that is not finished.
    pub(super) fn floor(&self) -> u64 {
        let in_flight = self.flight.window.iter().next().map(|(sequence, _)| sequence);
        let requeued = self.requeued.iter().map(|requeued| requeued.first).min();
        let deferred = self.deferred.keys().map(|(_, sequence)| *sequence).min();
        [in_flight, requeued, deferred, Some(self.next)].into_iter().flatten().min().unwrap_or(0)
    }

    /// What is held outside the cursor, in order of its numbers.
    pub(super) fn held(&self) -> Vec<HeldRange> {
        let at_once = |first, count, attempts| HeldRange { first, count, due: 0, attempts };
        let in_flight = self.flight.window.iter().map(|(sequence, slot)| at_once(sequence, 1, slot.attempts));
        let requeued =
            self.requeued.iter().map(|requeued| at_once(requeued.first, requeued.count, requeued.attempts));
        let deferred = self.deferred.iter().map(|((_, sequence), deferred)| HeldRange {
            first: *sequence,
            count: 1,
            due: deferred.due,
            attempts: deferred.attempts,
        });
        let mut held: Vec<HeldRange> = in_flight.chain(requeued).chain(deferred).collect();
        held.sort_unstable_by_key(|range| range.first);
        let mut merged = Vec::with_capacity(held.len().min(1024));
        held.into_iter().for_each(|range| push_held(&mut merged, range));
        merged
    }

    /// The state for a checkpoint.
    pub(super) fn snapshot(&self, name: &str, tail: &Tail) -> ChannelState {
        let held = self.held();
        // Deferred messages ahead of the cursor that are no longer held were delivered and finished.
        // What was emptied ahead of it must not come back either: the segments still hold it.
        let mut finished = tail.gaps(self.next, tail.mark());
        for (span, _) in tail.deferred_in(self.next, tail.mark()) {
            let mut at = span.first;
            let from = held.partition_point(|range| range.first + range.count <= span.first);
            for range in held[from..].iter().take_while(|range| range.first < span.end()) {
                if at < range.first {
                    finished.push((at, range.first));
                }
                at = range.first + range.count;
            }
            if at < span.end() {
                finished.push((at, span.end()));
            }
        }
        let message_count = self.message_count(tail.mark());
        ChannelState {
            name: name.to_owned(),
            next: self.next,
            paused: self.paused,
            held,
            finished,
            message_count,
        }
    }

    /// Messages that have reached the channel while the topic's fan-out mark came to `mark`.
    pub(super) const fn message_count(&self, mark: u64) -> u64 {
        mark.saturating_sub(self.count_base)
    }

    /// Messages that are deferred.
    pub(super) fn deferred_count(&self) -> u64 {
        self.deferred.len() as u64
    }

    /// Messages that wait to be delivered.
    pub(super) fn depth(&self, tail: &Tail) -> u64 {
        tail.count(self.next, tail.mark()) + self.requeued_count
    }

    /// Whether something is left to deliver now.
    pub(super) fn has_more(&self, tail: &Tail) -> bool {
        !self.paused && (!self.requeued.is_empty() || self.next < tail.mark())
    }

    /// Marks messages as delivered to `client` at `now`.
    pub(super) fn deliver(&mut self, first: u64, count: u64, slot: Slot) {
        self.flight.deliver(first, count, slot);
    }

    /// Adds records that were read back.
    pub(super) fn loaded(&mut self, again: bool, records: Vec<ReadBack>) {
        if again {
            self.again = records;
        } else {
            self.ahead.extend(records.into_iter().filter(|record| record.span.end() > self.next));
        }
    }

    /// Bytes that were read back for the cursor and are not delivered yet.
    pub(super) fn ahead_bytes(&self) -> usize {
        self.ahead.iter().map(|record| record.frames.len()).sum()
    }
}

/// Delivered frames, in order, as they go to the socket.
pub(crate) type Output = VecDeque<Bytes>;
