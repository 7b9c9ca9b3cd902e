//! When a name was made or deleted: hybrid logical clocks (Kulkarni et al., 2014).

use serde::{Deserialize, Serialize};

/// How far ahead of this node's wall clock a stamp may be. Beyond it a peer's clock is wrong, and believing
/// it would let nobody with a right clock change that name again.
const AHEAD_MAX_MS: u64 = 48 * 60 * 60 * 1000;

const COUNTER_BITS: u32 = 16;

/// A moment: milliseconds since 1970 in the upper 48 bits, and a counter below for what happened within one.
/// Of two writes to one name the one with the greater stamp wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Stamp(u64);

impl Stamp {
    /// Before everything: nothing has been written.
    pub(crate) const NEVER: Self = Self(0);
    /// What a name gets that was found in a journal and that nobody remembers: it loses against any delete.
    pub(crate) const LOWEST: Self = Self(1);

    /// The first stamp of a millisecond.
    pub(crate) const fn at(wall_ms: u64) -> Self {
        let ms = if wall_ms >> (64 - COUNTER_BITS) == 0 { wall_ms } else { u64::MAX >> COUNTER_BITS };
        Self(ms << COUNTER_BITS)
    }

    /// The greatest stamp that is believed at this time.
    pub(crate) const fn limit(wall_ms: u64) -> Self {
        Self::at(wall_ms.saturating_add(AHEAD_MAX_MS))
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// Issues stamps that rise from one to the next and above every stamp seen, however the wall clock jumps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    latest: Stamp,
}

impl Clock {
    /// A stamp for what happens now.
    pub(crate) fn next(&mut self, wall_ms: u64) -> Stamp {
        self.latest = Stamp::at(wall_ms).max(Stamp(self.latest.0.saturating_add(1)));
        self.latest
    }

    /// Somebody else's stamp was seen; it has been checked against [`Stamp::limit`].
    pub(crate) fn observe(&mut self, stamp: Stamp) {
        self.latest = self.latest.max(stamp);
    }

    /// Whether the stamps have left what others believe, since the wall clock was set back by days. The
    /// clock then starts again from the wall clock; the caller brings back the stamps that were issued.
    pub(crate) fn has_run_away(&mut self, wall_ms: u64) -> bool {
        let away = self.latest > Stamp::limit(wall_ms);
        if away {
            self.latest = Stamp::at(wall_ms);
        }
        away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_while_the_wall_clock_jumps() {
        let mut clock = Clock::default();
        let mut last = Stamp::NEVER;
        for wall_ms in [1_000, 1_000, 500, 0, 2_000, u64::MAX, 7] {
            let stamp = clock.next(wall_ms);
            assert!(stamp > last, "{stamp:?} after {last:?}");
            last = stamp;
        }
        assert_eq!(Clock::default().next(1_000), Stamp::at(1_000));
    }

    #[test]
    fn a_burst_within_a_millisecond_borrows_from_the_next_ones() {
        let mut clock = Clock::default();
        let stamps: Vec<Stamp> = (0..70_000).map(|_| clock.next(5)).collect();
        assert!(stamps.is_sorted_by(|a, b| a < b));
        assert_eq!(stamps.last().unwrap().bits() >> COUNTER_BITS, 6);
    }

    #[test]
    fn a_clock_that_was_days_ahead_starts_again() {
        let mut clock = Clock::default();
        let day = 24 * 60 * 60 * 1000;
        clock.observe(Stamp::at(10 * day));
        assert!(!clock.has_run_away(8 * day));
        assert!(clock.has_run_away(7 * day));
        assert!(clock.next(7 * day) <= Stamp::limit(7 * day));
    }
}
