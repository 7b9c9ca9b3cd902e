//! Latencies in a histogram that keeps three significant digits from a microsecond to a minute.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart, nanoseconds; longer ones count as this.
const HIGHEST: u64 = 60_000_000_000;

/// A growing collection of latencies.
#[derive(Debug, Clone)]
pub(super) struct Latencies {
    histogram: Histogram<u64>,
}

impl Latencies {
    /// An empty one.
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1000, HIGHEST, 3);
        Self { histogram: histogram.expect("the bounds are constants that the histogram accepts") }
    }

    /// Enters `latency` for `count` events.
    pub(super) fn record(&mut self, latency: Duration, count: u64) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(HIGHEST).min(HIGHEST);
        self.histogram.saturating_record_n(nanos, count);
    }

    /// Enters all events of another collection.
    pub(super) fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("both have the same bounds");
    }

    /// The usual percentiles, or `None` when there was no event.
    pub(super) fn summary(&self) -> Option<LatencySummary> {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let at = |quantile: f64| micros(self.histogram.value_at_quantile(quantile));
        (!self.histogram.is_empty()).then(|| LatencySummary {
            count: self.histogram.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(self.histogram.max()),
        })
    }
}

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct LatencySummary {
    /// Number of events.
    pub(super) count: u64,
    /// Median.
    pub(super) p50_us: f64,
    /// 90 of 100 were as quick or quicker.
    pub(super) p90_us: f64,
    /// 99 of 100.
    pub(super) p99_us: f64,
    /// 999 of 1,000.
    pub(super) p999_us: f64,
    /// The slowest.
    pub(super) max_us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_entered() {
        let mut latencies = Latencies::new();
        for micros in 1..=1000 {
            latencies.record(Duration::from_micros(micros), 1);
        }
        let summary = latencies.summary().unwrap();
        assert_eq!(summary.count, 1000);
        for (got, expected) in [
            (summary.p50_us, 500.0),
            (summary.p90_us, 900.0),
            (summary.p99_us, 990.0),
            (summary.p999_us, 999.0),
            (summary.max_us, 1000.0),
        ] {
            assert!((got - expected).abs() <= expected * 0.002, "{got} for {expected}");
        }
    }

    #[test]
    fn counts_weigh_and_merge() {
        let mut slow = Latencies::new();
        slow.record(Duration::from_millis(5), 1);
        let mut all = Latencies::new();
        all.record(Duration::from_micros(10), 99);
        all.merge(&slow);
        let summary = all.summary().unwrap();
        assert_eq!(summary.count, 100);
        assert!(summary.p99_us < 11.0 && summary.max_us > 4990.0, "{summary:?}");
    }

    #[test]
    fn an_hour_counts_as_the_longest_and_nothing_as_none() {
        assert_eq!(Latencies::new().summary(), None);
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(3600), 1);
        let max = latencies.summary().unwrap().max_us;
        assert!((max - 60e6).abs() < 60e3, "{max}");
    }
}
