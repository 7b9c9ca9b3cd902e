//! How long messages take from publishing to FIN, over a rolling window. Pure; kept only where it is asked for.
//!
//! A [`Sketch`] counts latencies in buckets of which each is 4 % wider than the one before, so that a quantile is
//! right to 2 %, in at most some three kilobytes, and the sketches of several channels add up to their topic's.

use std::collections::BTreeMap;

use bruit_wire::{
    MessageId,
    nsq::{MessageView, message_frame_len},
};
use bytes::Bytes;

/// How much wider each bucket is than the one before.
const GAMMA: f64 = 1.04;
/// Latencies up to this one share a bucket, ns.
const LEAST: f64 = 1_000.0;
/// Buckets: the last one begins at about 70 days.
const BUCKETS: usize = 800;
/// Messages that may be remembered beyond twice those in flight, before the others are forgotten.
const SLACK: usize = 1024;

/// Counts of latencies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sketch {
    /// The bucket that `counts` begins with.
    first: usize,
    counts: Vec<u32>,
}

impl Sketch {
    /// Counts a latency in ns.
    pub fn add(&mut self, latency: u64) {
        self.count(bucket(latency), 1);
    }

    /// Adds what another one has counted.
    pub fn merge(&mut self, other: &Self) {
        for (at, count) in other.counts.iter().enumerate() {
            self.count(other.first + at, *count);
        }
    }

    /// Latencies counted.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// Whether none was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The latency, in ns, that the part `quantile` (from 0 to 1) of them does not exceed; 0 when there are none.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> u64 {
        let wanted = ((quantile * self.len() as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return middle(self.first + at);
            }
        }
        0
    }

    fn count(&mut self, bucket: usize, count: u32) {
        if count == 0 {
            return;
        }
        if self.counts.is_empty() {
            self.first = bucket;
        }
        if bucket < self.first {
            let missing = self.first - bucket;
            self.counts.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = bucket;
        }
        let at = bucket - self.first;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] = self.counts[at].saturating_add(count);
    }
}

fn bucket(latency: u64) -> usize {
    let above = (latency as f64 / LEAST).max(1.0);
    ((above.ln() / GAMMA.ln()).ceil() as usize).min(BUCKETS - 1)
}

/// The value that is at most 2 % from every one in the bucket.
fn middle(bucket: usize) -> u64 {
    (LEAST * GAMMA.powi(bucket as i32) * 2.0 / (1.0 + GAMMA)) as u64
}

/// Each of the quantiles `wanted` with its latency in ns.
#[must_use]
pub fn quantiles(sketch: &Sketch, wanted: &[f64]) -> Vec<(f64, u64)> {
    wanted.iter().map(|quantile| (*quantile, sketch.quantile(*quantile))).collect()
}

/// The latencies of one channel.
#[derive(Debug)]
pub(super) struct Latencies {
    /// When the messages in flight were published, ns since the epoch, by number.
    published: BTreeMap<u64, i64>,
    /// This half of the window, and the one before.
    halves: [Sketch; 2],
    /// Half of the window, ms.
    half: u64,
    /// When this half began, node time in ms.
    began: u64,
}

impl Latencies {
    /// For a window of `window` ms that begins at `now`.
    pub(super) fn new(now: u64, window: u64) -> Self {
        Self { published: BTreeMap::new(), halves: Default::default(), half: (window / 2).max(1), began: now }
    }

    /// Remembers when the messages in `frames` were published: they are with a consumer now.
    pub(super) fn delivered<'a>(&mut self, frames: impl Iterator<Item = &'a Bytes>) {
        for frames in frames {
            let mut rest: &[u8] = frames;
            while let Some((frame, behind)) =
                message_frame_len(rest).and_then(|len| rest.split_at_checked(len))
            {
                rest = behind;
                let view = MessageView::parse_frame(frame);
                let Some((view, id)) = view.and_then(|view| Some((view, MessageId::from_hex(view.id)?)))
                else {
                    continue;
                };
                self.published.insert(id.sequence(), view.timestamp);
            }
        }
    }

    /// Counts a message that is finished; both times are node time in ms and wall time in ns.
    pub(super) fn finished(&mut self, now: u64, wall: i64, sequence: u64) {
        let Some(published) = self.published.remove(&sequence) else { return };
        self.turn(now);
        // The wall clock may have been set back in between.
        self.halves[0].add(u64::try_from(wall.saturating_sub(published)).unwrap_or_default());
    }

    /// Whether so many messages are remembered that those not in flight should be forgotten.
    pub(super) fn is_crowded(&self, in_flight: u64) -> bool {
        self.published.len() as u64 > 2 * in_flight + SLACK as u64
    }

    /// Forgets messages that are not among `in_flight`, in order of their numbers.
    pub(super) fn keep(&mut self, in_flight: impl Iterator<Item = u64>) {
        let published = std::mem::take(&mut self.published);
        let known = |sequence: u64| Some((sequence, *published.get(&sequence)?));
        self.published = in_flight.filter_map(known).collect();
    }

    /// What was counted in the window that ends at `now`.
    pub(super) fn sketch(&mut self, now: u64) -> Sketch {
        self.turn(now);
        let [current, last] = &self.halves;
        let mut both = current.clone();
        both.merge(last);
        both
    }

    fn turn(&mut self, now: u64) {
        let passed = now.saturating_sub(self.began) / self.half;
        if passed == 0 {
            return;
        }
        self.began += passed * self.half;
        let current = std::mem::take(&mut self.halves[0]);
        self.halves[1] = if passed == 1 { current } else { Sketch::default() };
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quantile_is_right_to_two_percent(
            mut latencies in prop::collection::vec(1_000_u64..100_000_000_000_000, 1..200),
            quantile in 0.01_f64..=1.0,
        ) {
            let (mut whole, mut parts) = (Sketch::default(), [Sketch::default(), Sketch::default()]);
            for (at, latency) in latencies.iter().enumerate() {
                whole.add(*latency);
                parts[at % 2].add(*latency);
            }
            latencies.sort_unstable();
            let rank = ((quantile * latencies.len() as f64).ceil() as usize).max(1);
            let (expected, found) = (latencies[rank - 1] as f64, whole.quantile(quantile) as f64);
            prop_assert!((found - expected).abs() <= expected * 0.0201, "{found} for {expected}");
            let [mut one, other] = parts;
            one.merge(&other);
            prop_assert_eq!(one, whole);
        }
    }

    #[test]
    fn a_sketch_is_bounded_whatever_is_counted() {
        let mut sketch = Sketch::default();
        assert_eq!((sketch.quantile(0.5), sketch.len()), (0, 0));
        for latency in [u64::MAX, 0, 1, 5_000_000] {
            sketch.add(latency);
        }
        assert_eq!((sketch.len(), sketch.counts.len()), (4, BUCKETS));
    }

    #[test]
    fn what_is_finished_counts_for_a_window_and_no_longer() {
        let mut latencies = Latencies::new(0, 1000);
        let mut frames = BytesMut::new();
        for sequence in [5, 6] {
            bruit_wire::nsq::put_message(&mut frames, 1_000, 1, MessageId::new(1, sequence), b"x");
        }
        latencies.delivered([frames.freeze()].iter());
        latencies.finished(10, 2_001_000, 5);
        latencies.finished(10, 2_001_000, 5);
        latencies.finished(10, 9, 7);
        assert_eq!(latencies.sketch(10).len(), 1);
        assert!((1_960_000..2_040_000).contains(&latencies.sketch(10).quantile(0.99)));
        latencies.finished(600, 500, 6);
        assert_eq!(latencies.sketch(999).len(), 2);
        assert_eq!(latencies.sketch(1000).len(), 1);
        assert_eq!(latencies.sketch(5000).len(), 0);
    }

    #[test]
    fn what_left_flight_by_other_ways_is_forgotten() {
        let mut latencies = Latencies::new(0, 1000);
        for sequence in 0..=SLACK as u64 + 2 {
            latencies.published.insert(sequence, 1);
        }
        assert!(latencies.is_crowded(1) && !latencies.is_crowded(2));
        latencies.keep([3, 7, 100_000].into_iter());
        assert_eq!(latencies.published.len(), 2);
    }
}
