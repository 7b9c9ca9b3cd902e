//! What happened, as one number: every event of a run goes into a hash, so that two runs of one seed can
//! be compared by comparing 16 hex digits; and, if asked for, as lines to read.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::dice::mix;

/// The simulated time, told to everyone by the loop that steps the simulation.
///
/// A host's own clock is not used for this: it does not exist while a host is being torn down, which is
/// just when some of the interesting events happen. One tick, 1 ms, is the resolution.
#[derive(Debug, Clone, Default)]
pub struct SimClock {
    millis: Arc<AtomicU64>,
}

impl SimClock {
    /// Time since the simulation began.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }

    /// Moves the time on to `now`.
    pub fn set(&self, now: Duration) {
        self.millis.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The trace of one run. Cheap to clone; all clones write to the same trace.
#[derive(Debug, Clone)]
pub struct Trace {
    clock: SimClock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    hash: u64,
    events: u64,
    print: bool,
}

impl Trace {
    /// An empty trace that takes its times from `clock`; `print` also writes each event to standard output.
    #[must_use]
    pub fn new(clock: SimClock, print: bool) -> Self {
        Self { clock, state: Arc::new(Mutex::new(State { hash: 0, events: 0, print })) }
    }

    /// The clock that times the events.
    #[must_use]
    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// Adds one event.
    pub fn event(&self, what: fmt::Arguments<'_>) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.events += 1;
        let mut hasher = Hasher(state.hash ^ u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        // Writing into a hash cannot fail.
        let _ = hasher.write_fmt(what);
        state.hash = mix(hasher.0);
        if state.print {
            // A closed pipe (`--trace | head`) is no reason to stop the run.
            let _ = writeln!(std::io::stdout(), "{:>9.3} {what}", now.as_secs_f64());
        }
    }

    /// The hash over all events so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.state.lock().hash
    }

    /// Number of events so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.state.lock().events
    }

    /// True when nothing has happened yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

struct Hasher(u64);

impl fmt::Write for Hasher {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(events: &[(u64, &str)]) -> u64 {
        let clock = SimClock::default();
        let trace = Trace::new(clock.clone(), false);
        for (millis, what) in events {
            clock.set(Duration::from_millis(*millis));
            trace.event(format_args!("{what}"));
        }
        assert_eq!(trace.len(), events.len() as u64);
        trace.hash()
    }

    #[test]
    fn the_hash_knows_what_happened_when_and_in_which_order() {
        let base = hash_of(&[(1, "a"), (2, "b")]);
        assert_eq!(hash_of(&[(1, "a"), (2, "b")]), base);
        for other in [&[(1, "b"), (2, "a")][..], &[(1, "a"), (3, "b")], &[(1, "a")], &[(1, "ab")]] {
            assert_ne!(hash_of(other), base, "{other:?}");
        }
    }
}
