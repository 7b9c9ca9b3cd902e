//! The node's own time: milliseconds since it started, which nothing but time itself moves.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::env::WallClock;

/// Reads both clocks for the shells; the pure parts get what it read.
#[derive(Clone)]
pub(crate) struct Clock {
    start: Instant,
    wall: Arc<dyn WallClock>,
    /// No message is held back longer, ms, whatever the wall clock says.
    delay_max: u64,
}

impl Clock {
    /// Starts at zero, now.
    pub(crate) fn start(wall: Arc<dyn WallClock>, delay_max: Duration) -> Self {
        Self { start: Instant::now(), wall, delay_max: millis(delay_max) }
    }

    /// Milliseconds since the start, monotonic.
    pub(crate) fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }

    /// When the monotonic clock will show `at`.
    pub(crate) fn instant(&self, at: u64) -> Instant {
        self.start + Duration::from_millis(at)
    }

    /// Milliseconds since the epoch, by the wall clock.
    pub(crate) fn wall(&self) -> u64 {
        millis(self.since_epoch())
    }

    /// Nanoseconds since the epoch, as messages carry them.
    pub(crate) fn timestamp(&self) -> i64 {
        i64::try_from(self.since_epoch().as_nanos()).unwrap_or(i64::MAX)
    }

    /// When, on the monotonic clock, a due time of the wall clock comes, if the wall clock is not stepped
    /// until then: never earlier, so the milliseconds that both clocks cut are rounded up. Later steps do not
    /// move it, and one that was stepped back before a restart does not hold messages back longer than anyone
    /// may ask for.
    pub(crate) fn monotonic(&self, due: u64) -> u64 {
        self.now() + 1 + due.saturating_sub(self.wall()).min(self.delay_max)
    }

    fn since_epoch(&self) -> Duration {
        self.wall.now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// `duration` in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    /// A wall clock that runs with tokio's and is between two milliseconds at the start.
    struct Between(Instant, Duration);

    impl WallClock for Between {
        fn now(&self) -> SystemTime {
            UNIX_EPOCH + self.1 + self.0.elapsed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_delay_is_cut_short_by_the_milliseconds_that_clocks_cut() {
        for (start, published, seen) in [(100, 900, 999), (999, 0, 1), (500, 499, 501), (0, 0, 0)] {
            let begin = Instant::now();
            let wall = Between(begin, Duration::from_micros(1_000_000 + start));
            let clock = Clock::start(Arc::new(wall), Duration::from_secs(60));
            tokio::time::advance(Duration::from_micros(published)).await;
            let (published, due) = (Instant::now(), clock.wall() + 1 + 700);
            tokio::time::advance(Duration::from_micros(seen)).await;
            let at = clock.instant(clock.monotonic(due));
            assert!(at - published >= Duration::from_millis(700), "{:?} early", at - published);
        }
    }
}
