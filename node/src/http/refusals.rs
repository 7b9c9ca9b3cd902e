//! Logging refused publishes without letting them flood the log of a node whose disk is full.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::broker::Refused;

/// At most one line is logged per this long.
const QUIET: Duration = Duration::from_secs(10);

/// Counts the refusals that are not logged.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    last: Option<Instant>,
    unlogged: u64,
}

impl Refusals {
    /// Logs `refused`, unless a line was logged only just now: then it is counted in the next line.
    pub(super) fn log(&self, refused: &Refused) {
        if let Some(unlogged) = self.count(Instant::now()) {
            tracing::warn!(reason = %refused, unlogged, "publishes over HTTP are refused");
        }
    }

    /// Counts a refusal; gives the number of those before it that went unlogged, if it is to be logged.
    fn count(&self, now: Instant) -> Option<u64> {
        let mut log = self.0.lock();
        if log.last.is_some_and(|last| now < last + QUIET) {
            log.unlogged += 1;
            return None;
        }
        log.last = Some(now);
        Some(std::mem::take(&mut log.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_quick_succession_are_counted_into_the_next_line() {
        let refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(refusals.count(start), Some(0));
        assert_eq!(refusals.count(start), None);
        assert_eq!(refusals.count(start + QUIET / 2), None);
        assert_eq!(refusals.count(start + QUIET), Some(2));
        assert_eq!(refusals.count(start + QUIET * 3), Some(0));
    }
}
