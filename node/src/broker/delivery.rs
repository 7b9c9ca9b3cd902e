//! Taking a batch of messages from a channel. Pure.
//!
//! A first delivery is a slice of the bytes that were journalled: no copy, no allocation per message. Only a
//! redelivery copies the frame, because its attempts differ.

use bruit_wire::nsq;
use bytes::{Bytes, BytesMut};

use super::{
    queue::{Output, Queue},
    tail::{Lookup, Tail},
    window::Slot,
};
use crate::journal::Run;

/// Once fewer bytes than this are read ahead of the cursor, the next stretch is fetched.
const AHEAD_LOW: usize = 512 * 1024;

/// What a consumer can take now.
pub(crate) struct Want<'a> {
    /// The client's number.
    pub(crate) client: u32,
    /// RDY minus what it has in flight.
    pub(crate) messages: u64,
    /// Room in its output, bytes; at least one message is given.
    pub(crate) bytes: usize,
    /// Its message time-out, ms.
    pub(crate) timeout: u32,
    /// Decides for each message whether the consumer gets it; `None` gives all.
    pub(crate) sample: Option<&'a mut dyn FnMut() -> bool>,
}

/// Why a batch ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The consumer has as much as it can take.
    Full,
    /// Nothing is left to deliver now.
    Empty,
    /// The next messages must be read back first; for redelivery if the flag is set.
    Cold(Run, bool),
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Messages that the consumer got.
    pub(crate) messages: u64,
    /// Why there are not more.
    pub(crate) stop: Stop,
    /// What should be read back ahead of need.
    pub(crate) prefetch: Option<Run>,
}

/// A record of which some messages were delivered.
#[derive(Debug)]
pub(crate) struct Current {
    next: u64,
    end: u64,
    frames: Bytes,
}

impl Queue {
    /// Gives messages to a consumer: what was requeued first, then what lies at the cursor.
    pub(super) fn take(&mut self, now: u64, tail: &Tail, mut want: Want<'_>, out: &mut Output) -> Taken {
        let mut taken = 0;
        let stop = loop {
            if want.messages == 0 || want.bytes == 0 {
                break Stop::Full;
            }
            if self.paused {
                break Stop::Empty;
            }
            let step = if self.requeued.is_empty() {
                self.step(now, tail, &mut want, out)
            } else {
                self.redeliver(now, tail, &mut want, out)
            };
            match step {
                Ok(count) => taken += count,
                Err(stop) => break stop,
            }
        };
        Taken { messages: taken, stop, prefetch: self.prefetch(tail) }
    }

    /// Delivers from the record at the cursor.
    fn step(&mut self, now: u64, tail: &Tail, want: &mut Want<'_>, out: &mut Output) -> Result<u64, Stop> {
        let Some(mut current) = self.record_at_cursor(tail)? else { return Ok(0) };
        let available = current.end - current.next;
        let whole = want.sample.is_none() && available <= want.messages && current.frames.len() <= want.bytes;
        let (count, len) = if whole { (available, current.frames.len()) } else { some(&current, want) };
        if count == 0 {
            // Frames that cannot be told apart: the checksum fits but the content does not. Step over it.
            self.next = current.end;
            return Ok(0);
        }
        let frames = current.frames.split_to(len);
        let slot = Slot { client: want.client, attempts: 1, delivered: now, timeout: want.timeout };
        let given = match &mut want.sample {
            None => {
                self.deliver(current.next, count, slot);
                want.bytes = want.bytes.saturating_sub(len);
                out.push_back(frames);
                count
            }
            Some(_) => self.sample(current.next, frames, slot, want, out),
        };
        want.messages -= given;
        current.next += count;
        self.next = current.next;
        if current.next < current.end {
            self.current = Some(current);
        }
        Ok(given)
    }

    /// Of the frames from `first` on, delivers those that the sample keeps; the others are finished.
    fn sample(
        &mut self,
        first: u64,
        mut frames: Bytes,
        slot: Slot,
        want: &mut Want<'_>,
        out: &mut Output,
    ) -> u64 {
        let mut given = 0;
        let mut sequence = first;
        while let Some(len) = nsq::message_frame_len(&frames) {
            let frame = frames.split_to(len);
            if want.sample.as_mut().is_none_or(|keep| keep()) {
                self.deliver(sequence, 1, slot);
                want.bytes = want.bytes.saturating_sub(len);
                out.push_back(frame);
                given += 1;
            } else if self.journalled {
                self.pending.finish(sequence, 1);
            }
            sequence += 1;
        }
        given
    }

    /// The record that holds the cursor, from the cursor on. `Ok(None)` means that the cursor has moved over
    /// a gap; look again.
    fn record_at_cursor(&mut self, tail: &Tail) -> Result<Option<Current>, Stop> {
        if let Some(current) = self.current.take().filter(|current| current.next == self.next) {
            return Ok(Some(current));
        }
        while self.ahead.front().is_some_and(|record| record.span.end() <= self.next) {
            self.ahead.pop_front();
        }
        if let Some(record) = self.ahead.front().filter(|record| record.span.first <= self.next) {
            let current = from(self.next, record.span.first, record.span.end(), &record.frames);
            self.next = if current.is_some() { self.next } else { record.span.end() };
            return Ok(current);
        }
        match tail.at_cursor(self.next) {
            Lookup::Cached(span, frames) => {
                let current = from(self.next, span.first, span.end(), &frames);
                self.next = if current.is_some() { self.next } else { span.end() };
                Ok(current)
            }
            Lookup::Skip(to) => {
                assert!(to > self.next, "the cursor only moves forward");
                self.next = to;
                Ok(None)
            }
            Lookup::Cold(run) => Err(Stop::Cold(run, false)),
            Lookup::End => Err(Stop::Empty),
        }
    }

    /// Delivers the messages that were requeued first.
    fn redeliver(
        &mut self,
        now: u64,
        tail: &Tail,
        want: &mut Want<'_>,
        out: &mut Output,
    ) -> Result<u64, Stop> {
        let Some(&range) = self.requeued.front() else { return Ok(0) };
        let found = match tail.message(range.first) {
            Lookup::Cached(span, frames) => from(range.first, span.first, span.end(), &frames),
            Lookup::Cold(run) => Some(self.read_back(range.first).ok_or(Stop::Cold(run, true))?),
            Lookup::Skip(_) | Lookup::End => None,
        };
        let Some(mut record) = found else {
            // Its bytes were found damaged, or an ephemeral topic has dropped it: nothing can be delivered.
            self.forget_requeued(1);
            return Ok(0);
        };
        let attempts = range.attempts.saturating_add(1);
        let slot = Slot { client: want.client, attempts, delivered: now, timeout: want.timeout };
        let mut count = 0;
        while count < range.count && record.next < record.end && want.messages > 0 && want.bytes > 0 {
            let Some(len) = nsq::message_frame_len(&record.frames) else { break };
            let frame = record.frames.split_to(len);
            let frame = if attempts == 1 { frame } else { with_attempts(&frame, attempts) };
            want.messages -= 1;
            want.bytes = want.bytes.saturating_sub(len);
            out.push_back(frame);
            record.next += 1;
            count += 1;
        }
        if count == 0 {
            self.forget_requeued(1);
            return Ok(0);
        }
        self.drop_requeued(count);
        self.deliver(range.first, count, slot);
        Ok(count)
    }

    /// The record that holds `sequence`, from it on, among those that were read back.
    fn read_back(&self, sequence: u64) -> Option<Current> {
        let records = self.again.iter().chain(&self.ahead);
        let mut holding =
            records.filter(|record| record.span.first <= sequence && sequence < record.span.end());
        holding.find_map(|record| from(sequence, record.span.first, record.span.end(), &record.frames))
    }

    fn forget_requeued(&mut self, count: u64) {
        if let Some(front) = self.requeued.front().filter(|_| self.journalled) {
            self.pending.finish(front.first, count);
        }
        self.drop_requeued(count);
    }

    fn drop_requeued(&mut self, count: u64) {
        let Some(front) = self.requeued.front_mut() else { return };
        front.first += count;
        front.count -= count;
        self.requeued_count -= count;
        if front.count == 0 {
            self.requeued.pop_front();
        }
    }

    /// What to read back while the consumer is busy with what is there.
    fn prefetch(&self, tail: &Tail) -> Option<Run> {
        let last = self.ahead.back().filter(|_| self.ahead_bytes() < AHEAD_LOW)?;
        match tail.at_cursor(last.span.end()) {
            Lookup::Cold(run) => Some(run),
            _ => None,
        }
    }
}

/// The frames of a record from `sequence` on. `None` if they cannot be told apart.
fn from(sequence: u64, first: u64, end: u64, frames: &Bytes) -> Option<Current> {
    let mut frames = frames.clone();
    for _ in first..sequence {
        let len = nsq::message_frame_len(&frames)?;
        frames = frames.split_off(len);
    }
    Some(Current { next: sequence, end, frames })
}

/// How many messages fit what the consumer wants, and their bytes.
fn some(current: &Current, want: &Want<'_>) -> (u64, usize) {
    let (mut count, mut len) = (0, 0);
    while count < want.messages && count < current.end - current.next && (len < want.bytes || count == 0) {
        let Some(frame) = current.frames.get(len..).and_then(nsq::message_frame_len) else { break };
        len += frame;
        count += 1;
    }
    (count, len)
}

fn with_attempts(frame: &[u8], attempts: u16) -> Bytes {
    let mut copy = BytesMut::from(frame);
    nsq::set_attempts(&mut copy, attempts);
    copy.freeze()
}
