//! How much the connections of a consumer may have delivered to them.
//!
//! What may be under way is divided over the connections; where there are more of them, they take turns. A
//! message that fails stops all for a while; then a single one has to succeed, and so on for as many times as
//! it took to get there. This is what NSQ's own library does.

use std::{collections::BTreeSet, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::rising::Rising;

/// The greatest RDY that every node takes.
pub(super) const READY_MAX: u64 = 2500;
/// The first pause, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    max_in_flight: u64,
    state: Mutex<State>,
    /// Rises whenever a share may have changed.
    changes: Rising,
}

#[derive(Debug, Default)]
struct State {
    connections: BTreeSet<u64>,
    next: u64,
    /// Rises whenever others have their turn, where not all can have one.
    turn: u64,
    /// How many messages have to succeed one by one before all is well; 0 when it is.
    level: u32,
    /// Until when nothing is to be delivered.
    until: Option<Instant>,
}

impl Pace {
    pub(super) fn new(max_in_flight: u64) -> Self {
        Self { max_in_flight, state: Mutex::default(), changes: Rising::default() }
    }

    /// One more connection; its number.
    pub(super) fn join(&self) -> u64 {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.connections.insert(number);
        drop(state);
        self.changed();
        number
    }

    /// The connection with this number is gone.
    pub(super) fn leave(&self, number: u64) {
        self.state.lock().connections.remove(&number);
        self.changed();
    }

    /// How much this connection may have under way.
    pub(super) fn share(&self, number: u64) -> u64 {
        let state = self.state.lock();
        let count = state.connections.len() as u64;
        let Some(place) = state.connections.iter().position(|known| *known == number) else { return 0 };
        let place = place as u64;
        if state.until.is_some() {
            return 0;
        }
        let turn = state.turn % count;
        if state.level > 0 {
            return u64::from(place == turn);
        }
        match self.max_in_flight / count {
            0 => {
                let first = turn * self.max_in_flight % count;
                u64::from((place + count - first) % count < self.max_in_flight)
            }
            share => share + u64::from(place < self.max_in_flight % count),
        }
    }

    /// The least that a connection which is served may have under way, when all is well.
    pub(super) fn least(&self) -> u64 {
        let count = self.state.lock().connections.len() as u64;
        (self.max_in_flight / count.max(1)).clamp(1, READY_MAX)
    }

    /// A message was done.
    pub(super) fn succeeded(&self) {
        let mut state = self.state.lock();
        // Those that were under way already say nothing about what is to come.
        if state.level == 0 || state.until.is_some() {
            return;
        }
        state.level -= 1;
        if state.level > 0 {
            state.until = Some(now() + pause(state.level));
        }
        drop(state);
        self.changed();
    }

    /// A message was not.
    pub(super) fn failed(&self) {
        let mut state = self.state.lock();
        if state.until.is_some() {
            return;
        }
        state.level = (state.level + 1).min(16);
        state.until = Some(now() + pause(state.level));
        drop(state);
        self.changed();
    }

    /// Lets pauses end and others have their turn; when to do so next.
    pub(super) fn tick(&self, turns: bool) -> Option<Instant> {
        let mut state = self.state.lock();
        if turns {
            state.turn += 1;
        }
        let ends = state.until.is_some_and(|until| until <= now());
        if ends {
            state.until = None;
        }
        let until = state.until;
        drop(state);
        if turns || ends {
            self.changed();
        }
        until
    }

    /// How often shares have changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.now()
    }

    /// Waits until they have changed more often.
    pub(super) async fn changed_after(&self, seen: u64) {
        self.changes.reaches(seen + 1).await;
    }

    fn changed(&self) {
        self.changes.raise(self.changes.now() + 1);
    }
}

fn pause(level: u32) -> Duration {
    PAUSE.0.saturating_mul(1 << (level - 1).min(16)).min(PAUSE.1)
}

fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_under_way_is_divided_and_never_more() {
        let pace = Pace::new(7);
        let numbers: Vec<u64> = (0..3).map(|_| pace.join()).collect();
        let shares = |pace: &Pace| numbers.iter().map(|number| pace.share(*number)).collect::<Vec<_>>();
        assert_eq!(shares(&pace), [3, 2, 2]);
        pace.leave(numbers[1]);
        assert_eq!(shares(&pace), [4, 0, 3]);
        let few = Pace::new(2);
        let many: Vec<u64> = (0..5).map(|_| few.join()).collect();
        let mut served = BTreeSet::new();
        for _ in 0..5 {
            let turn: Vec<u64> = many.iter().copied().filter(|number| few.share(*number) == 1).collect();
            assert_eq!(turn.len(), 2);
            served.extend(turn);
            few.tick(true);
        }
        assert_eq!(served.len(), 5, "everybody has a turn");
        assert_eq!((pace.least(), few.least(), Pace::new(9_999).least()), (3, 1, READY_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_stop_all_and_single_successes_open_the_way_again() {
        let pace = Pace::new(10);
        let (one, other) = (pace.join(), pace.join());
        let shares = || (pace.share(one), pace.share(other));
        pace.failed();
        pace.failed();
        assert_eq!(shares(), (0, 0));
        let until = pace.tick(false).unwrap();
        tokio::time::sleep_until(until).await;
        assert_eq!(pace.tick(false), None);
        assert_eq!(shares(), (1, 0), "one is tried");
        pace.failed();
        let longer = pace.tick(false).unwrap() - now();
        assert!(longer > Duration::from_secs(1), "{longer:?}");
        tokio::time::sleep(longer).await;
        pace.tick(true);
        assert_eq!(shares(), (0, 1), "the other one, should the first have no messages");
        for expected in [(0, 0), (5, 5)] {
            if let Some(until) = pace.tick(false) {
                tokio::time::sleep_until(until).await;
                pace.tick(false);
            }
            pace.succeeded();
            assert_eq!(shares(), expected);
        }
    }
}
