//! Which of several destinations a message goes to, as NSQ's tools choose.

use std::{sync::Mutex, time::Duration};

use clap::ValueEnum;
use tokio::time::Instant;

/// How long a destination that failed is left out.
const OUT: Duration = Duration::from_secs(30);
/// Every so many messages, epsilon-greedy tries another destination than the quickest.
const EXPLORE_EVERY: u64 = 10;
/// How much of the mean latency the last message makes up.
const WEIGHT: f64 = 0.1;

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// In turn
    RoundRobin,
    /// In turn, those that failed lately left out
    Hostpool,
    /// The quickest mostly, those that failed lately left out
    EpsilonGreedy,
    /// Every one
    Multicast,
}

/// The destinations, by their places in a list.
#[derive(Debug)]
pub(super) struct Upstreams {
    mode: Mode,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    each: Vec<One>,
}

#[derive(Debug, Clone, Default)]
struct One {
    out_until: Option<Instant>,
    /// Mean time of a success, seconds.
    latency: Option<f64>,
}

impl Upstreams {
    /// `count` destinations.
    pub(super) fn new(mode: Mode, count: usize) -> Self {
        Self { mode, state: Mutex::new(State { next: 0, each: vec![One::default(); count] }) }
    }

    /// The destinations of the next message.
    pub(super) fn choose(&self) -> Vec<usize> {
        let mut state = self.lock();
        let count = state.each.len();
        if count == 0 || self.mode == Mode::Multicast {
            return (0..count).collect();
        }
        let turn = state.next;
        state.next += 1;
        let now = Instant::now();
        let is_in = |place: &usize| state.each[*place].out_until.is_none_or(|until| until <= now);
        let places: Vec<usize> = match self.mode {
            Mode::RoundRobin | Mode::Multicast => (0..count).collect(),
            Mode::Hostpool | Mode::EpsilonGreedy => (0..count).filter(is_in).collect(),
        };
        // When all have failed, any may be well again.
        let places = if places.is_empty() { (0..count).collect() } else { places };
        let in_turn = places[(turn % places.len() as u64) as usize];
        if self.mode != Mode::EpsilonGreedy || turn.is_multiple_of(EXPLORE_EVERY) {
            return vec![in_turn];
        }
        let latency = |place: &usize| state.each[*place].latency.unwrap_or(0.0);
        let quickest = places.iter().copied().min_by(|one, other| latency(one).total_cmp(&latency(other)));
        vec![quickest.unwrap_or(in_turn)]
    }

    /// What came of a message to the destination at this place, after how long.
    pub(super) fn note(&self, place: usize, succeeded: bool, took: Duration) {
        let mut state = self.lock();
        let Some(one) = state.each.get_mut(place) else { return };
        if succeeded {
            let seconds = took.as_secs_f64();
            one.latency = Some(one.latency.map_or(seconds, |mean| mean + WEIGHT * (seconds - mean)));
            one.out_until = None;
        } else {
            one.out_until = Some(Instant::now() + OUT);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(upstreams: &Upstreams, times: usize) -> Vec<usize> {
        (0..times).flat_map(|_| upstreams.choose()).collect()
    }

    #[test]
    fn each_mode_chooses_in_its_way() {
        let robin = Upstreams::new(Mode::RoundRobin, 3);
        robin.note(1, false, Duration::ZERO);
        assert_eq!(chosen(&robin, 4), [0, 1, 2, 0]);
        let pool = Upstreams::new(Mode::Hostpool, 3);
        pool.note(1, false, Duration::ZERO);
        assert!(!chosen(&pool, 6).contains(&1));
        pool.note(1, true, Duration::ZERO);
        assert!(chosen(&pool, 6).contains(&1));
        for place in 0..3 {
            pool.note(place, false, Duration::ZERO);
        }
        assert_eq!(chosen(&pool, 3).len(), 3, "any is better than none");
        let greedy = Upstreams::new(Mode::EpsilonGreedy, 2);
        greedy.note(0, true, Duration::from_secs(1));
        greedy.note(1, true, Duration::from_millis(1));
        let quick = chosen(&greedy, 100).into_iter().filter(|place| *place == 1).count();
        assert!((90..100).contains(&quick), "{quick}");
        assert_eq!(Upstreams::new(Mode::Multicast, 2).choose(), [0, 1]);
    }
}
