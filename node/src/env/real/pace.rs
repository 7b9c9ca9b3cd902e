//! How quick the disk has been of late, which decides where a commit runs.
//!
//! A hop to a blocking thread costs about as much as a whole commit on a quick disk, so a commit is
//! made inline, on the thread that serves the clients, as long as that thread is not held up for long.
//! When the disk slows down, commits hop and the clients are served meanwhile.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Writes are made inline while they took less than this, on average.
const QUICK: Duration = Duration::from_micros(500);
/// No single write counts as longer than this, so that one long stall is forgotten after some thirty
/// quick writes and not after hundreds.
const LONGEST_COUNTED: Duration = Duration::from_millis(20);
/// Weight of the newest write in the mean is one in this many.
const WEIGHT: u64 = 8;

/// An exponentially weighted mean of the time that recent writes took. A new one is taken for quick.
#[derive(Debug, Default)]
pub(super) struct Pace {
    mean_nanos: AtomicU64,
}

impl Pace {
    /// Whether a write may hold up the calling thread.
    pub(super) fn is_quick(&self) -> bool {
        self.mean_nanos.load(Ordering::Relaxed) < QUICK.as_nanos() as u64
    }

    /// Runs `write` and counts the time that it takes.
    pub(super) fn measure<T>(&self, write: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let outcome = write();
        self.record(started.elapsed());
        outcome
    }

    /// Counts a write that took `took`.
    pub(super) fn record(&self, took: Duration) {
        let took = took.min(LONGEST_COUNTED).as_nanos() as u64;
        // Two writes at once may lose one of the samples, which no one will notice.
        let mean = self.mean_nanos.load(Ordering::Relaxed);
        let mean = mean - mean / WEIGHT + took / WEIGHT;
        self.mean_nanos.store(mean, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_turns_slow_is_noticed_and_forgiven() {
        let pace = Pace::default();
        assert!(pace.is_quick(), "a new disk is tried inline");
        for _ in 0..100 {
            pace.record(Duration::from_micros(60));
        }
        assert!(pace.is_quick());
        pace.record(Duration::from_millis(1));
        assert!(pace.is_quick(), "one slow write is no slow disk");
        for _ in 0..10 {
            pace.record(Duration::from_millis(2));
        }
        assert!(!pace.is_quick());
        for _ in 0..15 {
            pace.record(Duration::from_micros(60));
        }
        assert!(pace.is_quick());
    }

    #[test]
    fn a_long_stall_is_forgotten_after_some_quick_writes() {
        let pace = Pace::default();
        pace.record(Duration::from_secs(3600));
        assert!(!pace.is_quick());
        for _ in 0..30 {
            pace.record(Duration::from_micros(60));
        }
        assert!(pace.is_quick());
    }

    #[test]
    fn measuring_counts_the_time_that_passed() {
        let pace = Pace::default();
        let started = Instant::now();
        let answer = pace.measure(|| {
            while started.elapsed() < Duration::from_millis(8) {
                std::hint::spin_loop();
            }
            42
        });
        assert_eq!(answer, 42);
        assert!(!pace.is_quick(), "8 ms weigh 1 ms in the mean");
    }
}
