//! A set of sequence numbers kept as ranges: what a channel has finished.

use std::collections::BTreeMap;

/// Ranges that neither overlap nor touch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// First number of each range, and the number behind it.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds `first..end`.
    pub(crate) fn insert(&mut self, first: u64, end: u64) {
        if first >= end {
            return;
        }
        let (mut first, mut end) = (first, end);
        while let Some((&start, &stop)) = self.ranges.range(..=end).next_back() {
            if stop < first {
                break;
            }
            self.ranges.remove(&start);
            first = first.min(start);
            end = end.max(stop);
        }
        self.ranges.insert(first, end);
    }

    /// Takes `first..end` out.
    pub(crate) fn remove(&mut self, first: u64, end: u64) {
        if first >= end {
            return;
        }
        while let Some((&start, &stop)) = self.ranges.range(..end).next_back() {
            if stop <= first {
                break;
            }
            self.ranges.remove(&start);
            if start < first {
                self.ranges.insert(start, first);
            }
            if end < stop {
                self.ranges.insert(end, stop);
            }
        }
    }

    /// Whether `number` is in the set.
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, &end)| number < end)
    }

    /// The ranges in order, each as its first number and the number behind it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(&first, &end)| (first, end))
    }

    /// The number behind the highest one, or 0.
    pub(crate) fn end(&self) -> u64 {
        self.ranges.last_key_value().map_or(0, |(_, &end)| end)
    }

    /// What of `from..to` is not in the set, as ranges.
    pub(crate) fn missing(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut at = from;
        let mut missing = Vec::new();
        if let Some((_, &end)) = self.ranges.range(..=from).next_back() {
            at = at.max(end);
        }
        for (&start, &end) in self.ranges.range(from..to.max(from)) {
            if at < start {
                missing.push((at, start));
            }
            at = at.max(end);
        }
        if at < to {
            missing.push((at, to));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(steps in prop::collection::vec((any::<bool>(), 0_u64..40, 0_u64..12), 0..40)) {
            let (mut ranges, mut model) = (RangeSet::default(), BTreeSet::new());
            for (add, first, len) in steps {
                if add {
                    ranges.insert(first, first + len);
                    model.extend(first..first + len);
                } else {
                    ranges.remove(first, first + len);
                    (first..first + len).for_each(|n| { model.remove(&n); });
                }
            }
            for n in 0..60 {
                prop_assert_eq!(ranges.contains(n), model.contains(&n));
            }
            prop_assert_eq!(ranges.end(), model.last().map_or(0, |n| n + 1));
            let missing: BTreeSet<u64> = ranges.missing(3, 45).into_iter().flat_map(|(a, b)| a..b).collect();
            let expected: BTreeSet<u64> = (3..45).filter(|n| !model.contains(n)).collect();
            prop_assert_eq!(missing, expected);
            // Ranges that touch are one range.
            let mut last = None;
            for (&start, &end) in &ranges.ranges {
                prop_assert!(last.is_none_or(|last| last < start) && start < end);
                last = Some(end);
            }
        }
    }
}
