//! A topic's committed messages: where they lie, the recent ones in memory, and the fan-out mark. Pure.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::journal::{Run, RunList, Span, ranges::RangeSet, store::ReadBack};

/// Messages that a commit has added.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    /// The sequence numbers.
    pub(crate) span: Span,
    /// Milliseconds since the epoch, 0 when not deferred.
    pub(crate) due: u64,
    /// Their wire frames.
    pub(crate) frames: Bytes,
    /// Where they lie in the journal; `None` when they are kept in memory only.
    pub(crate) run: Option<Run>,
}

/// What is at one sequence number.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The record that holds it, in memory: its numbers and all its frames.
    Cached(Span, Bytes),
    /// It must be read from the journal.
    Cold(Run),
    /// There is nothing to deliver before this number.
    Skip(u64),
    /// Nothing is there, nor behind.
    End,
}

#[derive(Debug)]
struct Recent {
    span: Span,
    due: u64,
    frames: Bytes,
}

/// The committed end of a topic.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    runs: RunList,
    recent: VecDeque<Recent>,
    /// Deferred messages by first sequence number: how many, and due when.
    deferred: BTreeMap<u64, (u32, u64)>,
    /// The number behind the last committed message.
    end: u64,
    /// Channels read up to here. Stands still while the topic is paused or has no channel.
    mark: u64,
}

impl Tail {
    /// A topic as the journal has it.
    pub(super) fn new(runs: RunList, end: u64, mark: u64) -> Self {
        let deferred = runs.iter().filter(|run| run.due > 0);
        let deferred = deferred.map(|run| (run.span.first, (run.span.count, run.due))).collect();
        Self { runs, recent: VecDeque::new(), deferred, end, mark }
    }

    /// The number behind the last committed message.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Channels read up to here.
    pub(super) const fn mark(&self) -> u64 {
        self.mark
    }

    /// Moves the mark to the end and returns what channels see for the first time: the old mark, and the
    /// deferred messages among them.
    pub(super) fn advance(&mut self) -> (u64, Vec<(Span, u64)>) {
        let old = self.mark;
        self.mark = self.end;
        (old, self.deferred_in(old, self.end))
    }

    /// Drops what no channel sees yet: the mark moves to the end over a gap. Returns where it was and is.
    pub(super) fn drop_backlog(&mut self) -> (u64, u64) {
        let (from, to) = (self.mark, self.end);
        self.mark = to;
        self.runs.remove(from, to);
        // A record never reaches over the mark: the mark stands at the end of a commit, or where one began.
        self.recent.retain(|recent| recent.span.first < from);
        self.deferred.split_off(&from);
        (from, to)
    }

    /// The deferred messages in `from..to`.
    pub(super) fn deferred_in(&self, from: u64, to: u64) -> Vec<(Span, u64)> {
        let range = self.deferred.range(from..to.max(from));
        range.map(|(&first, &(count, due))| (Span { first, count }, due)).collect()
    }

    /// Adds what a commit has written.
    pub(super) fn push(&mut self, committed: Committed) {
        let Committed { span, due, frames, run } = committed;
        self.end = self.end.max(span.end());
        if let Some(run) = run {
            self.runs.push(run);
        }
        if due > 0 {
            self.deferred.insert(span.first, (span.count, due));
        }
        self.recent.push_back(Recent { span, due, frames });
    }

    /// Points the index to where the cleaner has put messages.
    /// Messages that left the old segment for another reason meanwhile stay gone.
    pub(super) fn moved(&mut self, from: u64, run: Run) {
        let last = run.span.end() - 1;
        let there = [run.span.first, last].into_iter().all(|sequence| {
            let holds = |held: &&Run| held.segment == from && held.span.first <= sequence;
            self.runs.at_or_after(sequence).filter(holds).is_some()
        });
        if there {
            self.runs.push(run);
        }
    }

    /// What a channel's cursor meets at `sequence`. Deferred messages are stepped over: they come by their
    /// due time.
    pub(super) fn at_cursor(&self, sequence: u64) -> Lookup {
        if sequence >= self.mark {
            return Lookup::End;
        }
        match self.recent_at(sequence) {
            Some(recent) if recent.due > 0 => return Lookup::Skip(recent.span.end()),
            Some(recent) => return Lookup::Cached(recent.span, recent.frames.clone()),
            None => {}
        }
        match self.runs.at_or_after(sequence) {
            Some(run) if run.span.first <= sequence && run.due > 0 => Lookup::Skip(run.span.end()),
            Some(run) if run.span.first <= sequence => Lookup::Cold(*run),
            Some(run) => Lookup::Skip(run.span.first.min(self.recent_from(sequence))),
            None => Lookup::Skip(self.recent_from(sequence)),
        }
    }

    /// Where the message `sequence` is, deferred or not.
    pub(super) fn message(&self, sequence: u64) -> Lookup {
        if let Some(recent) = self.recent_at(sequence) {
            return Lookup::Cached(recent.span, recent.frames.clone());
        }
        match self.runs.at_or_after(sequence) {
            Some(run) if run.span.first <= sequence => Lookup::Cold(*run),
            _ => Lookup::End,
        }
    }

    fn recent_at(&self, sequence: u64) -> Option<&Recent> {
        // Almost always the newest one is asked for.
        let newest = self.recent.back().filter(|recent| recent.span.first <= sequence);
        let found = newest.or_else(|| {
            let at = self.recent.partition_point(|recent| recent.span.end() <= sequence);
            self.recent.get(at)
        });
        found.filter(|recent| recent.span.first <= sequence && sequence < recent.span.end())
    }

    /// The first number at or behind `sequence` that is in memory, or the mark.
    fn recent_from(&self, sequence: u64) -> u64 {
        let at = self.recent.partition_point(|recent| recent.span.end() <= sequence);
        self.recent.get(at).map_or(self.mark, |recent| recent.span.first.max(sequence)).min(self.mark)
    }

    /// Forgets the oldest messages in memory; those that the journal has can be read again. Returns the
    /// bytes that were let go.
    pub(super) fn evict_oldest(&mut self) -> usize {
        self.recent.pop_front().map_or(0, |recent| recent.frames.len())
    }

    /// Forgets what should have been among the `records` that were read back from `run` and was not: it is
    /// damaged. A run that the cleaner has moved meanwhile is left as it is.
    pub(super) fn forget_unread(&mut self, run: &Run, records: &[ReadBack]) {
        let mut at = run.span.first;
        let mut missing = Vec::new();
        for record in records {
            if at < record.span.first {
                missing.push((at, record.span.first));
            }
            at = at.max(record.span.end());
        }
        if at < run.span.end() {
            missing.push((at, run.span.end()));
        }
        for (first, end) in missing {
            let unmoved = self.runs.at_or_after(first).is_some_and(|now| now.segment == run.segment);
            if unmoved {
                self.runs.remove(first, end);
                self.deferred.retain(|first_due, (count, _)| {
                    *first_due + u64::from(*count) <= first || end <= *first_due
                });
            }
        }
    }

    /// For a topic in memory: forgets what nobody needs below `needed`, and the oldest beyond `keep`.
    pub(super) fn trim_memory(&mut self, needed: u64, keep: u64) {
        let keep_from = needed.max(self.end.saturating_sub(keep));
        while self.recent.front().is_some_and(|recent| recent.span.end() <= keep_from) {
            self.recent.pop_front();
        }
        self.deferred = self.deferred.split_off(&keep_from);
    }

    /// Forgets the runs for which `needed` is false.
    pub(super) fn retain_runs(&mut self, needed: impl FnMut(&Run) -> bool) {
        self.runs.retain(needed);
        let lowest = self.runs.iter().next().map_or(self.end, |run| run.span.first);
        self.deferred = self.deferred.split_off(&lowest);
    }

    /// The numbers in `from..to` at which there is nothing, as ranges: emptied, or never written.
    pub(super) fn gaps(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut gaps = RangeSet::default();
        self.runs.missing(from, to).into_iter().for_each(|(first, end)| gaps.insert(first, end));
        self.recent.iter().for_each(|recent| gaps.remove(recent.span.first, recent.span.end()));
        gaps.iter().collect()
    }

    /// All runs, for reclaim.
    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    /// Records of deferred messages that the journal still holds.
    pub(super) fn deferred_records(&self) -> usize {
        self.deferred.len()
    }

    /// How many messages lie in `from..to`, the deferred ones not counted.
    pub(super) fn count(&self, from: u64, to: u64) -> u64 {
        let deferred = self.deferred_in(from, to).into_iter().map(|(span, _)| u64::from(span.count));
        self.count_all(from, to).saturating_sub(deferred.sum())
    }

    /// How many messages lie in `from..to`.
    pub(super) fn count_all(&self, from: u64, to: u64) -> u64 {
        if to <= from {
            return 0;
        }
        if self.runs.len() == 0 { self.count_recent(from, to) } else { self.runs.covered(from, to) }
    }

    /// Messages at or behind `sequence` that are in memory.
    pub(super) fn in_memory(&self, sequence: u64) -> u64 {
        self.count_recent(sequence, self.end)
    }

    fn count_recent(&self, from: u64, to: u64) -> u64 {
        let spans = self.recent.iter().map(|recent| recent.span);
        spans.map(|span| span.end().min(to).saturating_sub(span.first.max(from))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(first: u64, count: u32, due: u64) -> Committed {
        let span = Span { first, count };
        let run = Run { span, segment: 1, offset: first as u32 * 100, len: 100 * count, due };
        Committed { span, due, frames: Bytes::from(vec![b'x'; 10 * count as usize]), run: Some(run) }
    }

    fn tail() -> Tail {
        let mut tail = Tail::new(RunList::default(), 1, 1);
        tail.push(committed(1, 3, 0));
        tail.push(committed(4, 1, 99));
        tail.push(committed(7, 2, 0));
        tail
    }

    #[test]
    fn nothing_is_seen_beyond_the_mark() {
        let mut tail = tail();
        assert!(matches!(tail.at_cursor(1), Lookup::End));
        assert_eq!(tail.advance(), (1, vec![(Span { first: 4, count: 1 }, 99)]));
        assert!(matches!(tail.at_cursor(1), Lookup::Cached(Span { first: 1, count: 3 }, _)));
        assert!(matches!(tail.at_cursor(9), Lookup::End));
    }

    #[test]
    fn the_cursor_steps_over_deferred_messages_and_gaps() {
        let mut tail = tail();
        tail.advance();
        assert!(matches!(tail.at_cursor(4), Lookup::Skip(5)));
        assert!(matches!(tail.at_cursor(5), Lookup::Skip(7)));
        assert!(matches!(tail.message(4), Lookup::Cached(Span { first: 4, count: 1 }, _)));
        assert!(matches!(tail.message(5), Lookup::End));
        assert_eq!(tail.count(1, 9), 5);
    }

    #[test]
    fn what_was_evicted_is_read_from_the_journal() {
        let mut tail = tail();
        tail.advance();
        assert_eq!(tail.evict_oldest(), 30);
        assert!(matches!(tail.at_cursor(2), Lookup::Cold(run) if run.span.first == 1));
        assert!(matches!(tail.at_cursor(7), Lookup::Cached(..)));
        tail.evict_oldest();
        assert!(matches!(tail.at_cursor(4), Lookup::Skip(5)));
    }

    #[test]
    fn what_was_emptied_leaves_a_gap_for_the_checkpoint() {
        let mut tail = tail();
        tail.advance();
        tail.push(committed(9, 3, 0));
        assert_eq!(tail.drop_backlog(), (9, 12));
        assert_eq!(tail.gaps(2, 12), [(5, 7), (9, 12)]);
        tail.evict_oldest();
        assert_eq!(tail.gaps(2, 12), [(5, 7), (9, 12)], "the journal has what is no longer in memory");
    }

    #[test]
    fn a_topic_in_memory_keeps_the_newest() {
        let mut tail = Tail::new(RunList::default(), 1, 1);
        for first in [1, 4, 7] {
            tail.push(Committed { run: None, ..committed(first, 3, 0) });
        }
        tail.advance();
        tail.trim_memory(0, 5);
        assert!(matches!(tail.at_cursor(1), Lookup::Skip(4)));
        assert_eq!(tail.count(1, 10), 6);
        tail.trim_memory(10, 100);
        assert!(matches!(tail.at_cursor(4), Lookup::Skip(10)));
    }
}
