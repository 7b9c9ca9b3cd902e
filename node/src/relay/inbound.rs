//! What one owner's link has brought: messages that wait for a consumer, and those that consumers have. Pure.

use std::collections::{BTreeMap, VecDeque};

use bruit_wire::{
    MessageId,
    nsq::{self, MessageView},
    relay::{Ask, FINISH_MAX, GiveBack, InvalidRelay},
};
use bytes::{Bytes, BytesMut};

use super::grant::Grant;
use crate::broker::{Flight, NotYours, Output, Slot, Want};

/// While more bytes wait to be sent, an owner that does not read is not told of TOUCH: everything else that is
/// said to it is bounded by the messages that it has sent.
const ASKS_MAX: usize = 256 * 1024;

/// The node's side of a link to an owner.
#[derive(Debug)]
pub(super) struct Inbound {
    /// What the owner's message ids begin with.
    tag: u16,
    /// What they begin with for consumers here: the same, unless two owners have it.
    alias: u16,
    pub(super) grant: Grant,
    /// Messages that wait at the owner for credit, as it last said.
    pub(super) waiting: u64,
    /// Whether consumers that come before those here take them as well.
    pub(super) served: bool,
    /// When messages came last, as a count of such times in the feed.
    pub(super) turn: u64,
    arrived: VecDeque<Arrived>,
    arrived_count: u64,
    flight: Flight,
    /// Finished messages that are not in [`Self::asks`] yet.
    finishing: Option<(u64, u32)>,
    asks: Vec<u8>,
    /// Messages that consumers here have finished.
    pub(super) finished: u64,
}

/// Consecutive messages that have come.
#[derive(Debug)]
struct Arrived {
    first: u64,
    count: u64,
    frames: Bytes,
}

impl Inbound {
    pub(super) fn new(tag: u16, alias: u16) -> Self {
        Self {
            tag,
            alias,
            grant: Grant::default(),
            waiting: 0,
            served: false,
            turn: 0,
            arrived: VecDeque::new(),
            arrived_count: 0,
            flight: Flight::default(),
            finishing: None,
            asks: Vec::new(),
            finished: 0,
        }
    }

    /// What the ids of its messages begin with for consumers here.
    pub(super) const fn alias(&self) -> u16 {
        self.alias
    }

    /// Messages that wait for a consumer.
    pub(super) const fn arrived(&self) -> u64 {
        self.arrived_count
    }

    /// Messages that consumers have.
    pub(super) const fn in_flight(&self) -> u64 {
        self.flight.window.len()
    }

    /// When [`Self::expire`] has something to do, node time in ms.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.flight.next_deadline()
    }

    /// Takes messages that came over the link.
    ///
    /// # Errors
    /// They are not what was announced, or nobody allowed them; the link is of no use any more.
    pub(super) fn arrive(&mut self, mut frames: Bytes, count: u32) -> Result<(), InvalidRelay> {
        self.grant.receive(u64::from(count))?;
        self.waiting = self.waiting.saturating_sub(u64::from(count));
        self.arrived_count += u64::from(count);
        let (mut left, mut run, mut len) = (count, None::<(u64, u64)>, 0);
        while left > 0 {
            let rest = frames.get(len..).unwrap_or_default();
            let frame = nsq::message_frame_len(rest).and_then(|len| rest.get(..len)).ok_or(InvalidRelay)?;
            let id = MessageView::parse_frame(frame).and_then(|view| MessageId::from_hex(view.id));
            let id = id.filter(|id| id.node() == self.tag).ok_or(InvalidRelay)?;
            run = match run {
                Some((first, count)) if first + count == id.sequence() => Some((first, count + 1)),
                Some((first, count)) => {
                    self.keep(first, count, frames.split_to(len));
                    len = 0;
                    Some((id.sequence(), 1))
                }
                None => Some((id.sequence(), 1)),
            };
            len += nsq::message_frame_len(frames.get(len..).unwrap_or_default()).ok_or(InvalidRelay)?;
            left -= 1;
        }
        if len != frames.len() {
            return Err(InvalidRelay);
        }
        if let Some((first, count)) = run {
            self.keep(first, count, frames);
        }
        Ok(())
    }

    fn keep(&mut self, first: u64, count: u64, frames: Bytes) {
        let frames = if self.alias == self.tag { frames } else { self.renamed(first, &frames) };
        self.arrived.push_back(Arrived { first, count, frames });
    }

    /// A copy with ids that no other link's messages have.
    fn renamed(&self, first: u64, frames: &[u8]) -> Bytes {
        let mut copy = BytesMut::from(frames);
        let (mut at, mut sequence) = (0, first);
        while let Some(frame) = copy.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let Some(len) = nsq::message_frame_len(frame) else { break };
            nsq::set_message_id(frame, MessageId::new(self.alias, sequence));
            at += len;
            sequence += 1;
        }
        copy.freeze()
    }

    /// Gives a consumer what has come, appended to `out`. Returns how many messages it got, and whom an owner
    /// has taken messages from that it sends again.
    pub(super) fn hand_over(
        &mut self,
        now: u64,
        want: &mut Want<'_>,
        out: &mut Output,
    ) -> (u64, BTreeMap<u32, u64>) {
        let (mut given, mut lost) = (0, BTreeMap::new());
        while want.messages > 0 && want.bytes > 0 {
            let Some(mut run) = self.arrived.pop_front() else { break };
            while run.count > 0 && want.messages > 0 && want.bytes > 0 {
                let whole =
                    want.sample.is_none() && run.count <= want.messages && run.frames.len() <= want.bytes;
                let len =
                    if whole { run.frames.len() } else { nsq::message_frame_len(&run.frames).unwrap_or(0) };
                let count = if whole { run.count } else { 1 };
                let frames = run.frames.split_to(len);
                let first = run.first;
                run.first += count;
                run.count -= count;
                self.arrived_count -= count;
                for (_, slot) in self.flight.window.extract(first, first + count, |_| true) {
                    *lost.entry(slot.client).or_default() += 1;
                }
                if want.sample.as_mut().is_some_and(|keep| !keep()) {
                    self.finish_one(first);
                    continue;
                }
                let slot = Slot { client: want.client, attempts: 1, delivered: now, timeout: want.timeout };
                self.flight.deliver(first, count, slot);
                want.messages -= count;
                want.bytes = want.bytes.saturating_sub(len);
                out.push_back(frames);
                given += count;
            }
            if run.count > 0 {
                self.arrived.push_front(run);
            }
        }
        (given, lost)
    }

    /// Gives up to `count` messages that wait for a consumer back to the owner, the latest first. Returns how
    /// many there were.
    pub(super) fn give_back(&mut self, count: u64) -> u64 {
        let mut left = count;
        while left > 0 {
            let Some(mut run) = self.arrived.pop_back() else { break };
            let back = run.count.min(left);
            run.count -= back;
            left -= back;
            self.arrived_count -= back;
            for sequence in run.first + run.count..run.first + run.count + back {
                self.put(Ask::GiveBack { sequence, how: GiveBack::Unseen });
            }
            if run.count > 0 {
                let mut len = 0;
                for _ in 0..run.count {
                    let rest = run.frames.get(len..).unwrap_or_default();
                    len += nsq::message_frame_len(rest).unwrap_or(0);
                }
                run.frames.truncate(len);
                self.arrived.push_back(run);
            }
        }
        count - left
    }

    /// A consumer has finished a message.
    ///
    /// # Errors
    /// It does not have it.
    pub(super) fn finish(&mut self, sequence: u64, client: u32) -> Result<(), NotYours> {
        self.flight.window.take(sequence, client)?;
        self.finished += 1;
        self.finish_one(sequence);
        Ok(())
    }

    /// A consumer wants a message again.
    ///
    /// # Errors
    /// It does not have it.
    pub(super) fn requeue(&mut self, sequence: u64, client: u32, delay: u64) -> Result<(), NotYours> {
        self.flight.window.take(sequence, client)?;
        self.put(Ask::Requeue { sequence, delay });
        Ok(())
    }

    /// A consumer needs more time for a message.
    ///
    /// # Errors
    /// It does not have it.
    pub(super) fn touch(
        &mut self,
        now: u64,
        sequence: u64,
        client: u32,
        timeout: u32,
        max: u32,
    ) -> Result<(), NotYours> {
        self.flight.touch(now, sequence, client, timeout, max)?;
        if self.asks.len() < ASKS_MAX {
            self.put(Ask::Touch { sequence, timeout });
        }
        Ok(())
    }

    /// Gives what has timed out back to the owner. Returns how many messages each consumer lost.
    pub(super) fn expire(&mut self, now: u64) -> BTreeMap<u32, u64> {
        let mut lost = BTreeMap::new();
        for (sequence, slot) in self.flight.expire(now) {
            *lost.entry(slot.client).or_default() += 1;
            self.put(Ask::GiveBack { sequence, how: GiveBack::TimedOut });
        }
        lost
    }

    /// A consumer is gone: the owner gets back what it had.
    pub(super) fn release(&mut self, client: u32) {
        for (sequence, _) in self.flight.window.extract(0, u64::MAX, |slot| slot.client == client) {
            self.put(Ask::GiveBack { sequence, how: GiveBack::Lost });
        }
    }

    /// The link is gone: how many messages each consumer had of it.
    pub(super) fn holders(&self) -> BTreeMap<u32, u64> {
        let mut held = BTreeMap::new();
        self.flight.window.iter().for_each(|(_, slot)| *held.entry(slot.client).or_default() += 1);
        held
    }

    /// Has something said to the owner.
    pub(super) fn put(&mut self, ask: Ask) {
        self.flush_finished();
        ask.put(&mut self.asks);
    }

    /// Whether there is something to say.
    pub(super) const fn has_asks(&self) -> bool {
        self.finishing.is_some() || !self.asks.is_empty()
    }

    /// Takes what is to be said.
    pub(super) fn take_asks(&mut self) -> Vec<u8> {
        self.flush_finished();
        std::mem::take(&mut self.asks)
    }

    fn finish_one(&mut self, sequence: u64) {
        match &mut self.finishing {
            Some((first, count)) if *first + u64::from(*count) == sequence && *count < FINISH_MAX => {
                *count += 1
            }
            _ => {
                self.flush_finished();
                self.finishing = Some((sequence, 1));
            }
        }
    }

    fn flush_finished(&mut self) {
        if let Some((first, count)) = self.finishing.take() {
            Ask::Finish { first, count }.put(&mut self.asks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: u16 = 7;

    fn frames(sequences: &[u64]) -> Bytes {
        let mut bytes = BytesMut::new();
        for sequence in sequences {
            nsq::put_message(&mut bytes, 1, 1, MessageId::new(TAG, *sequence), b"body");
        }
        bytes.freeze()
    }

    fn inbound(alias: u16, sequences: &[u64]) -> Inbound {
        let mut inbound = Inbound::new(TAG, alias);
        inbound.grant.raise(100, 1_000);
        inbound.arrive(frames(sequences), sequences.len() as u32).unwrap();
        inbound
    }

    fn want(client: u32, messages: u64) -> Want<'static> {
        Want { client, messages, bytes: 10_000, timeout: 1_000, sample: None }
    }

    fn asks(inbound: &mut Inbound) -> Vec<Ask> {
        let bytes = inbound.take_asks();
        let (mut at, mut asks) = (0, Vec::new());
        while let Some((ask, len)) = Ask::decode(&bytes[at..]).unwrap() {
            at += len;
            asks.push(ask);
        }
        assert_eq!(at, bytes.len());
        asks
    }

    fn ids(out: &Output) -> Vec<MessageId> {
        let mut ids = Vec::new();
        for frames in out {
            let mut rest = &frames[..];
            while let Some(len) = nsq::message_frame_len(rest) {
                ids.push(MessageId::from_hex(MessageView::parse_frame(&rest[..len]).unwrap().id).unwrap());
                rest = &rest[len..];
            }
        }
        ids
    }

    #[test]
    fn messages_go_to_who_wants_them_and_answers_to_the_owner() {
        let mut inbound = inbound(TAG, &[5, 6, 7, 9]);
        let mut out = Output::new();
        assert_eq!(inbound.hand_over(0, &mut want(1, 2), &mut out), (2, BTreeMap::new()));
        assert_eq!(inbound.hand_over(0, &mut want(2, 9), &mut out), (2, BTreeMap::new()));
        assert_eq!(ids(&out), [5, 6, 7, 9].map(|sequence| MessageId::new(TAG, sequence)));
        assert_eq!((inbound.arrived(), inbound.in_flight()), (0, 4));
        assert_eq!(inbound.finish(7, 1), Err(NotYours::OtherClient));
        inbound.finish(5, 1).unwrap();
        inbound.finish(6, 1).unwrap();
        assert_eq!(inbound.finish(6, 1), Err(NotYours::NotInFlight));
        inbound.requeue(7, 2, 30).unwrap();
        inbound.touch(10, 9, 2, 500, 800).unwrap();
        inbound.release(2);
        let lost = GiveBack::Lost;
        let expected = [
            Ask::Finish { first: 5, count: 2 },
            Ask::Requeue { sequence: 7, delay: 30 },
            Ask::Touch { sequence: 9, timeout: 500 },
            Ask::GiveBack { sequence: 9, how: lost },
        ];
        assert_eq!(asks(&mut inbound), expected);
        assert_eq!((inbound.in_flight(), inbound.finished), (0, 2));
    }

    #[test]
    fn ids_of_two_owners_with_one_tag_differ() {
        let mut inbound = inbound(8, &[1, 2]);
        let mut out = Output::new();
        inbound.hand_over(0, &mut want(1, 9), &mut out);
        assert_eq!(ids(&out), [1, 2].map(|sequence| MessageId::new(8, sequence)));
        inbound.finish(2, 1).unwrap();
        assert_eq!(asks(&mut inbound), [Ask::Finish { first: 2, count: 1 }]);
    }

    #[test]
    fn what_nobody_can_take_goes_back_unseen_the_latest_first() {
        let mut inbound = inbound(TAG, &[1, 2, 3]);
        assert_eq!(inbound.give_back(2), 2);
        let unseen = |sequence| Ask::GiveBack { sequence, how: GiveBack::Unseen };
        assert_eq!(asks(&mut inbound), [unseen(2), unseen(3)]);
        let mut out = Output::new();
        assert_eq!(inbound.hand_over(0, &mut want(1, 9), &mut out).0, 1);
        assert_eq!(ids(&out), [MessageId::new(TAG, 1)]);
        assert_eq!(inbound.give_back(2), 0);
    }

    #[test]
    fn a_delivery_times_out_and_a_touched_one_later() {
        let mut inbound = inbound(TAG, &[1, 2]);
        inbound.hand_over(0, &mut want(1, 9), &mut Output::new());
        inbound.touch(900, 2, 1, 1_000, 5_000).unwrap();
        asks(&mut inbound);
        assert_eq!(inbound.expire(1_100), BTreeMap::from([(1, 1)]));
        assert_eq!(asks(&mut inbound), [Ask::GiveBack { sequence: 1, how: GiveBack::TimedOut }]);
        assert_eq!(inbound.expire(2_000), BTreeMap::from([(1, 1)]));
    }

    #[test]
    fn what_the_owner_sends_again_is_taken_from_whoever_had_it() {
        let mut inbound = inbound(TAG, &[1]);
        inbound.hand_over(0, &mut want(1, 9), &mut Output::new());
        inbound.arrive(frames(&[1]), 1).unwrap();
        assert_eq!(inbound.hand_over(0, &mut want(2, 9), &mut Output::new()), (1, BTreeMap::from([(1, 1)])));
        assert_eq!(inbound.finish(1, 1), Err(NotYours::OtherClient));
    }

    #[test]
    fn a_sample_finishes_what_it_leaves_out() {
        let mut inbound = inbound(TAG, &[1, 2, 3]);
        let mut keep = [true, false, true].into_iter();
        let mut sample = || keep.next().unwrap();
        let mut want = Want { sample: Some(&mut sample), ..want(1, 9) };
        assert_eq!(inbound.hand_over(0, &mut want, &mut Output::new()).0, 2);
        assert_eq!(asks(&mut inbound), [Ask::Finish { first: 2, count: 1 }]);
        assert_eq!(inbound.holders(), BTreeMap::from([(1, 2)]));
    }

    #[test]
    fn what_was_not_announced_or_allowed_is_refused() {
        let fresh = || {
            let mut inbound = Inbound::new(TAG, TAG);
            inbound.grant.raise(3, 1_000);
            inbound
        };
        assert_eq!(fresh().arrive(frames(&[1, 2]), 1), Err(InvalidRelay));
        assert_eq!(fresh().arrive(frames(&[1]), 2), Err(InvalidRelay));
        assert_eq!(fresh().arrive(frames(&[1, 2, 3, 4]), 4), Err(InvalidRelay));
        assert_eq!(fresh().arrive(Bytes::from_static(b"nonsense"), 1), Err(InvalidRelay));
        let mut other = BytesMut::new();
        nsq::put_message(&mut other, 1, 1, MessageId::new(9, 1), b"");
        assert_eq!(fresh().arrive(other.freeze(), 1), Err(InvalidRelay));
        assert_eq!(fresh().arrive(Bytes::new(), 0), Ok(()));
    }
}
