//! Patience. No test asserts that something is quick; these limits only turn a hang into a failure.

#![expect(clippy::disallowed_methods, reason = "the tests live in real time, outside of the node")]

use std::time::{Duration, Instant};

/// How long anything that should happen may take before the test gives up. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long something that must not happen is watched for, where no later event proves its absence.
pub const QUIET: Duration = Duration::from_millis(300);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not hold within [`PATIENCE`]; `what` says what was waited for.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Stopwatch::start();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        pause(Duration::from_millis(10));
    }
}

/// Lets time pass. For load that runs for a while, and for time that is itself under test (a time-out, a due
/// time); everything else waits with [`until`].
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Measures how long something took, for lower bounds such as "not before its due time".
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
