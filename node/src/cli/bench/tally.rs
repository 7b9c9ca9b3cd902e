//! Which messages a channel delivered: how many were missing, repeated, damaged or of somebody else.

use serde::Serialize;

use super::body::{BodyReader, Stamp};

/// Sequences above this are not from a load generator (512 MiB of marks for one publisher).
const SEQUENCE_MAX: u64 = 1 << 32;

/// More publishers than this in one channel are not from a load generator either.
const PUBLISHERS_MAX: usize = 4096;

/// What one consumer received. Those of a channel's consumers are merged at the end.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Only messages of this run count; with `None` those of any run.
    run: Option<u32>,
    reader: BodyReader,
    publishers: Vec<Publisher>,
    latest: usize,
    ids: Vec<u64>,
    received: u64,
    foreign: u64,
    damaged: u64,
    redelivered: u64,
    repeated: u64,
}

impl Tally {
    /// An empty tally for the messages of `run`, or of any run, of which about `expected` will come.
    pub(super) fn new(run: Option<u32>, expected: u64) -> Self {
        let ids = Vec::with_capacity(expected.min(1 << 24) as usize);
        Self { run, ids, ..Self::default() }
    }

    /// Enters one delivery. Returns its stamp when it is the first delivery of a message that counts.
    pub(super) fn record(&mut self, id: u64, attempts: u16, body: &[u8]) -> Option<Stamp> {
        self.received += 1;
        let Some(stamp) = self.reader.read(body) else {
            self.damaged += 1;
            return None;
        };
        if self.run.is_some_and(|run| run != stamp.run) {
            self.foreign += 1;
            return None;
        }
        self.redelivered += u64::from(attempts > 1);
        let Some(publisher) = self.publisher(&stamp) else {
            self.damaged += 1;
            return None;
        };
        if !publisher.mark(stamp.sequence) {
            self.repeated += 1;
            return None;
        }
        self.ids.push(id);
        Some(stamp)
    }

    /// Adds what another consumer of the same channel received.
    pub(super) fn merge(&mut self, other: Self) {
        self.received += other.received;
        self.foreign += other.foreign;
        self.damaged += other.damaged;
        self.redelivered += other.redelivered;
        self.repeated += other.repeated;
        self.ids.extend(other.ids);
        for theirs in other.publishers {
            match self.publishers.iter_mut().find(|ours| ours.origin == theirs.origin) {
                Some(ours) => self.repeated += ours.merge(theirs),
                None => self.publishers.push(theirs),
            }
        }
    }

    /// Judges the whole. `expected` is the number of messages sent, by all publishers together; with `None`
    /// whatever lies between the first and the last one seen of each publisher must have come.
    pub(super) fn verdict(mut self, expected: Option<u64>) -> Verdict {
        self.ids.sort_unstable();
        let shared_ids = self.ids.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
        let distinct: u64 = self.publishers.iter().map(|publisher| publisher.distinct).sum();
        let gaps: u64 = self.publishers.iter().map(Publisher::gaps).sum();
        let publishers = self.publishers.iter().map(|publisher| publisher.distinct).collect();
        Verdict {
            received: self.received,
            distinct,
            missing: expected.map_or(gaps, |sent| sent.saturating_sub(distinct).max(gaps)),
            repeated: self.repeated,
            redelivered: self.redelivered,
            damaged: self.damaged,
            foreign: self.foreign,
            shared_ids,
            publishers,
        }
    }

    fn publisher(&mut self, stamp: &Stamp) -> Option<&mut Publisher> {
        let origin = (stamp.run, stamp.publisher);
        if stamp.sequence >= SEQUENCE_MAX {
            return None;
        }
        if self.publishers.get(self.latest).is_none_or(|publisher| publisher.origin != origin) {
            let known = self.publishers.iter().position(|publisher| publisher.origin == origin);
            self.latest = known.unwrap_or(self.publishers.len());
            if known.is_none() {
                if self.publishers.len() == PUBLISHERS_MAX {
                    return None;
                }
                self.publishers.push(Publisher::new(origin));
            }
        }
        self.publishers.get_mut(self.latest)
    }
}

/// What is left to say about a channel when it has been read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    /// Deliveries, of any kind.
    pub(super) received: u64,
    /// Different messages of the run among them.
    pub(super) distinct: u64,
    /// Messages that were sent and did not come.
    pub(super) missing: u64,
    /// Deliveries of a message that had come before.
    pub(super) repeated: u64,
    /// Deliveries that the server marked as a further attempt.
    pub(super) redelivered: u64,
    /// Bodies that are not what any load generator sends.
    pub(super) damaged: u64,
    /// Messages of another run.
    pub(super) foreign: u64,
    /// Different messages that carried the same id.
    pub(super) shared_ids: u64,
    /// Different messages by publisher, in the order in which these were first seen.
    pub(super) publishers: Vec<u64>,
}

impl Verdict {
    /// Whether the server kept its promise. A repetition is allowed to a server that says so in `attempts`.
    pub(super) fn is_good(&self) -> bool {
        self.missing == 0 && self.damaged == 0 && self.shared_ids == 0 && self.repeated <= self.redelivered
    }
}

/// The sequences seen of one publisher, a bit each.
#[derive(Debug)]
struct Publisher {
    origin: (u32, u32),
    marks: Vec<u64>,
    distinct: u64,
    lowest: u64,
    highest: u64,
}

impl Publisher {
    fn new(origin: (u32, u32)) -> Self {
        Self { origin, marks: Vec::new(), distinct: 0, lowest: u64::MAX, highest: 0 }
    }

    /// Marks a sequence; false when it was marked already.
    fn mark(&mut self, sequence: u64) -> bool {
        let (word, bit) = ((sequence / 64) as usize, 1 << (sequence % 64));
        if word >= self.marks.len() {
            self.marks.resize(word + 1, 0);
        }
        if self.marks[word] & bit != 0 {
            return false;
        }
        self.marks[word] |= bit;
        self.distinct += 1;
        self.lowest = self.lowest.min(sequence);
        self.highest = self.highest.max(sequence);
        true
    }

    /// Joins the marks of both and returns how many sequences had been marked in both.
    fn merge(&mut self, other: Self) -> u64 {
        let both = self.distinct + other.distinct;
        self.marks.resize(self.marks.len().max(other.marks.len()), 0);
        self.marks.iter_mut().zip(&other.marks).for_each(|(ours, theirs)| *ours |= theirs);
        self.distinct = self.marks.iter().map(|word| u64::from(word.count_ones())).sum();
        self.lowest = self.lowest.min(other.lowest);
        self.highest = self.highest.max(other.highest);
        both - self.distinct
    }

    /// Sequences between the lowest and the highest seen that were not.
    fn gaps(&self) -> u64 {
        if self.distinct == 0 { 0 } else { self.highest - self.lowest + 1 - self.distinct }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::body::blank, *};

    fn body(publisher: u32, sequence: u64) -> Vec<u8> {
        let mut body = blank(50);
        Stamp { run: 1, publisher, sequence, intended_ns: 0 }.put(&mut body);
        body
    }

    fn tally_of(deliveries: impl IntoIterator<Item = (u64, u16, u32, u64)>) -> Tally {
        let mut tally = Tally::new(Some(1), 0);
        for (id, attempts, publisher, sequence) in deliveries {
            tally.record(id, attempts, &body(publisher, sequence));
        }
        tally
    }

    #[test]
    fn every_message_once_is_good_in_any_order() {
        let verdict = tally_of((0..200).rev().map(|i| (i, 1, (i % 2) as u32, i / 2))).verdict(Some(200));
        assert!(verdict.is_good());
        assert_eq!((verdict.received, verdict.distinct), (200, 200));
        assert_eq!(verdict.publishers, [100, 100]);
    }

    #[test]
    fn a_lost_message_is_missing_with_and_without_a_known_count() {
        let deliveries = || (0..100).filter(|i| *i != 64).map(|i| (i, 1, 0, i));
        assert_eq!(tally_of(deliveries()).verdict(Some(100)).missing, 1);
        let verdict = tally_of(deliveries()).verdict(None);
        assert_eq!(verdict.missing, 1);
        assert!(!verdict.is_good());
        assert_eq!(tally_of((0..99).map(|i| (i, 1, 0, i))).verdict(Some(100)).missing, 1);
    }

    #[test]
    fn a_repetition_is_forgiven_only_to_a_server_that_admits_it() {
        let honest = tally_of([(0, 1, 0, 0), (0, 2, 0, 0)]).verdict(Some(1));
        assert_eq!((honest.repeated, honest.redelivered, honest.is_good()), (1, 1, true));
        let silent = tally_of([(0, 1, 0, 0), (0, 1, 0, 0)]).verdict(Some(1));
        assert_eq!((silent.repeated, silent.is_good()), (1, false));
    }

    #[test]
    fn a_repetition_over_two_consumers_is_found_when_they_are_merged() {
        let mut tally = tally_of((0..100).map(|i| (i, 1, 0, i)));
        tally.merge(tally_of((99..150).map(|i| (i, 1, 0, i))));
        tally.merge(tally_of([(1000, 1, 5, 0)]));
        let verdict = tally.verdict(Some(151));
        assert_eq!((verdict.distinct, verdict.repeated, verdict.missing), (151, 1, 0));
        assert!(!verdict.is_good());
    }

    #[test]
    fn two_messages_with_one_id_are_found() {
        let verdict = tally_of([(7, 1, 0, 0), (7, 1, 0, 1)]).verdict(Some(2));
        assert_eq!((verdict.shared_ids, verdict.is_good()), (1, false));
    }

    #[test]
    fn messages_of_others_do_not_count_and_do_not_harm() {
        let mut tally = Tally::new(Some(2), 0);
        tally.record(1, 1, &body(0, 0));
        tally.record(2, 1, b"not one of ours");
        let verdict = tally.verdict(Some(0));
        assert_eq!((verdict.received, verdict.distinct, verdict.foreign, verdict.damaged), (2, 0, 1, 1));
        let mut any = Tally::new(None, 0);
        assert!(any.record(1, 1, &body(0, 0)).is_some());
    }

    #[test]
    fn an_absurd_sequence_allocates_nothing() {
        let mut tally = Tally::new(Some(1), 0);
        assert_eq!(tally.record(1, 1, &body(0, u64::MAX)), None);
        assert_eq!(tally.verdict(Some(0)).damaged, 1);
    }
}
