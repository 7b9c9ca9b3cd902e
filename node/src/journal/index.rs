//! The sparse index of one topic: which part of which segment holds which sequence numbers.
//!
//! Pure. Records that lie close together in one segment share an entry, so that a backlog of millions of
//! messages costs a few bytes a megabyte; a reader steps over the records of other topics in between.

use std::collections::VecDeque;

use super::record::Span;

/// Longest stretch of a segment that one entry covers when the records lie back to back, bytes: what a
/// reader of a backlog fetches at once.
const ADJACENT_MAX: u32 = 1024 * 1024;
/// Longest stretch when records of other topics lie in between, bytes.
const SPARSE_MAX: u32 = 256 * 1024;

/// Consecutive sequence numbers in one stretch of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The sequence numbers.
    pub(crate) span: Span,
    /// The segment's number.
    pub(crate) segment: u64,
    /// Offset of the first record, bytes.
    pub(crate) offset: u32,
    /// Bytes from the first record's start to the last one's end.
    pub(crate) len: u32,
    /// Due time of deferred messages, milliseconds since the epoch; 0 otherwise. Deferred messages share no
    /// entry with others.
    pub(crate) due: u64,
}

impl Run {
    /// The first offset behind the run.
    const fn end_offset(&self) -> u32 {
        self.offset + self.len
    }

    /// Whether `next` may share this run's entry.
    fn takes(&self, next: &Self) -> bool {
        let follows = self.segment == next.segment
            && self.span.end() == next.span.first
            && self.end_offset() <= next.offset
            && self.due == 0
            && next.due == 0;
        let stretch = next.end_offset().saturating_sub(self.offset);
        let adjacent = self.end_offset() == next.offset;
        follows && stretch <= if adjacent { ADJACENT_MAX } else { SPARSE_MAX }
    }
}

/// The runs of one topic, ordered by sequence number, without overlaps.
#[derive(Debug, Default, Clone)]
pub(crate) struct RunList {
    runs: VecDeque<Run>,
}

impl RunList {
    /// Adds a run behind all others, or extends the last one with it.
    ///
    /// A run that overlaps earlier ones replaces them there: the cleaner moves messages that way.
    pub(crate) fn push(&mut self, run: Run) {
        match self.runs.back_mut() {
            Some(last) if last.takes(&run) => {
                last.len = run.end_offset() - last.offset;
                last.span.count += run.span.count;
            }
            Some(last) if last.span.end() > run.span.first => self.replace(run),
            _ => self.runs.push_back(run),
        }
    }

    /// Puts `run` where its sequence numbers belong, in place of what was there.
    fn replace(&mut self, run: Run) {
        self.remove(run.span.first, run.span.end());
        self.runs.insert(self.position(run.span.first), run);
    }

    /// Index of the first run that ends behind `sequence`.
    fn position(&self, sequence: u64) -> usize {
        self.runs.partition_point(|run| run.span.end() <= sequence)
    }

    /// The run that holds `sequence`, or the first one behind it.
    pub(crate) fn at_or_after(&self, sequence: u64) -> Option<&Run> {
        self.runs.get(self.position(sequence))
    }

    /// All runs in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Forgets the runs for which `needed` is false.
    pub(crate) fn retain(&mut self, mut needed: impl FnMut(&Run) -> bool) {
        self.runs.retain(|run| needed(run));
        self.runs.shrink_to(self.runs.len() * 2);
    }

    /// Forgets the numbers `first..end`; runs that reach over them are cut.
    pub(crate) fn remove(&mut self, first: u64, end: u64) {
        let from = self.position(first);
        let mut rest = Vec::new();
        let mut to = from;
        while let Some(old) = self.runs.get(to).filter(|old| old.span.first < end) {
            // A cut run keeps its whole stretch: a reader finds its records by their numbers.
            if old.span.first < first {
                rest.push(cut(old, old.span.first, first));
            }
            if end < old.span.end() {
                rest.push(cut(old, end, old.span.end()));
            }
            to += 1;
        }
        self.runs.drain(from..to);
        for (i, run) in rest.into_iter().enumerate() {
            self.runs.insert(from + i, run);
        }
    }

    /// The numbers in `from..to` that are not held, as ranges.
    pub(crate) fn missing(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut at = from;
        let mut missing = Vec::new();
        for run in self.runs.range(self.position(from)..).take_while(|run| run.span.first < to) {
            if at < run.span.first {
                missing.push((at, run.span.first));
            }
            at = run.span.end();
        }
        if at < to {
            missing.push((at, to));
        }
        missing
    }

    /// How many numbers in `from..to` are held.
    pub(crate) fn covered(&self, from: u64, to: u64) -> u64 {
        let runs = self.runs.range(self.position(from)..);
        let runs = runs.take_while(|run| run.span.first < to);
        runs.map(|run| run.span.end().min(to).saturating_sub(run.span.first.max(from))).sum()
    }
}

fn cut(run: &Run, first: u64, end: u64) -> Run {
    let count = u32::try_from(end - first).expect("a part of a run is no longer than the run");
    Run { span: Span { first, count }, ..*run }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u32, segment: u64, offset: u32, len: u32) -> Run {
        Run { span: Span { first, count }, segment, offset, len, due: 0 }
    }

    fn spans(list: &RunList) -> Vec<(u64, u64, u64)> {
        list.iter().map(|run| (run.span.first, run.span.end(), run.segment)).collect()
    }

    #[test]
    fn adjacent_records_share_an_entry_up_to_a_megabyte() {
        let mut list = RunList::default();
        for i in 0..40_u32 {
            list.push(run(u64::from(i) * 10, 10, 1, i * 100_000, 100_000));
        }
        assert_eq!(list.len(), 4);
        assert!(list.iter().all(|run| run.len <= ADJACENT_MAX));
        assert_eq!(list.covered(0, 1000), 400);
    }

    #[test]
    fn records_of_other_topics_may_lie_in_between() {
        let mut list = RunList::default();
        list.push(run(1, 1, 1, 0, 100));
        list.push(run(2, 1, 1, 100_000, 100));
        list.push(run(3, 1, 1, 300_000, 100));
        assert_eq!(spans(&list), [(1, 3, 1), (3, 4, 1)]);
    }

    #[test]
    fn a_gap_in_the_numbers_or_another_segment_starts_an_entry() {
        let mut list = RunList::default();
        list.push(run(1, 1, 1, 0, 100));
        list.push(run(3, 1, 1, 100, 100));
        list.push(run(4, 1, 2, 200, 100));
        list.push(Run { due: 7, ..run(5, 1, 2, 300, 100) });
        assert_eq!(list.len(), 4);
        assert_eq!(list.covered(0, 10), 4);
        assert_eq!(list.at_or_after(2).map(|run| run.span.first), Some(3));
        assert_eq!(list.at_or_after(6), None);
    }

    #[test]
    fn a_moved_part_replaces_the_old_place() {
        let mut list = RunList::default();
        list.push(run(0, 100, 1, 0, 1000));
        list.push(run(100, 100, 2, 0, 1000));
        list.push(run(90, 20, 9, 0, 100));
        assert_eq!(spans(&list), [(0, 90, 1), (90, 110, 9), (110, 200, 2)]);
        list.push(run(0, 90, 9, 500, 100));
        assert_eq!(spans(&list), [(0, 90, 9), (90, 110, 9), (110, 200, 2)]);
        assert_eq!(list.covered(0, 200), 200);
        list.push(run(200, 1, 3, 0, 10));
        assert_eq!(list.at_or_after(200).map(|run| run.segment), Some(3));
    }

    #[test]
    fn forgetting_keeps_what_is_still_needed() {
        let mut list = RunList::default();
        list.push(run(0, 10, 1, 0, 100));
        list.push(run(10, 10, 2, 0, 100));
        list.remove(5, 13);
        assert_eq!(list.missing(3, 25), [(5, 13), (20, 25)]);
        assert_eq!(spans(&list), [(0, 5, 1), (13, 20, 2)]);
        list.retain(|run| run.segment == 2);
        assert_eq!(spans(&list), [(13, 20, 2)]);
    }
}
