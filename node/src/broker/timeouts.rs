//! When deliveries of a channel may time out: ranges of sequence numbers by coarse deadline. Pure.
//!
//! An entry is one batch of deliveries, not one message, and is only a hint: the slot in the window says
//! whether a message is still in flight and until when.

use std::collections::BTreeMap;

/// Deadlines are rounded up to this many milliseconds, so that batches share entries.
const TICK: u64 = 32;

/// The hints, by deadline.
#[derive(Debug, Default)]
pub(crate) struct Timeouts {
    ticks: BTreeMap<u64, Vec<(u64, u64)>>,
    ranges: usize,
}

impl Timeouts {
    /// Notes that `count` messages from `first` on may time out at `deadline`, node time in ms.
    pub(crate) fn add(&mut self, deadline: u64, first: u64, count: u64) {
        let ranges = self.ticks.entry(deadline.div_ceil(TICK)).or_default();
        match ranges.last_mut() {
            Some((start, len)) if *start + *len == first => *len += count,
            _ => {
                ranges.push((first, count));
                self.ranges += 1;
            }
        }
    }

    /// When the earliest entry is due, node time in ms.
    pub(crate) fn next(&self) -> Option<u64> {
        self.ticks.first_key_value().map(|(tick, _)| tick * TICK)
    }

    /// Takes the entries of the earliest tick if it is due at `now`.
    pub(crate) fn take_due(&mut self, now: u64) -> Option<Vec<(u64, u64)>> {
        let first = self.ticks.first_entry().filter(|entry| entry.key() * TICK <= now)?;
        let ranges = first.remove();
        self.ranges -= ranges.len();
        Some(ranges)
    }

    /// Number of entries; when it far exceeds the messages in flight, they are rebuilt from the window.
    pub(crate) const fn len(&self) -> usize {
        self.ranges
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_early_and_at_most_a_tick_late() {
        let mut timeouts = Timeouts::default();
        for deadline in 1..200 {
            timeouts.clear();
            timeouts.add(deadline, 5, 1);
            let due = timeouts.next().expect("one entry");
            assert!(due >= deadline && due < deadline + TICK, "{deadline} {due}");
            assert_eq!(timeouts.take_due(due - 1), None);
            assert_eq!(timeouts.take_due(due), Some(vec![(5, 1)]));
            assert_eq!(timeouts.len(), 0);
        }
    }

    #[test]
    fn consecutive_batches_share_an_entry() {
        let mut timeouts = Timeouts::default();
        timeouts.add(100, 0, 10);
        timeouts.add(101, 10, 10);
        timeouts.add(102, 30, 1);
        assert_eq!(timeouts.len(), 2);
        assert_eq!(timeouts.take_due(128), Some(vec![(0, 20), (30, 1)]));
    }
}
