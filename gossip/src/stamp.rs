//! When a name was made or deleted: hybrid logical clocks (Kulkarni et al., 2014).

use serde::{Deserialize, Serialize};

use crate::Now;

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
    /// When somebody else's stamp last agreed with the time as this node knew it.
    agreed: Option<Now>,
}

impl Clock {
    /// A stamp for what happens now.
    pub(crate) fn next(&mut self, now: Now) -> Stamp {
        self.latest = Stamp::at(self.wall_ms(now)).max(Stamp(self.latest.0.saturating_add(1)));
        self.latest
    }

    /// What time it is, as far as can be told. A wall clock that others agreed with and that then goes back by
    /// days is wrong, and so is everything that this node would write by it; the time has gone on since. One
    /// that nobody agreed with may just have been set right.
    pub(crate) fn wall_ms(&self, now: Now) -> u64 {
        let Some(agreed) = self.agreed else { return now.wall_ms };
        let passed = now.elapsed.saturating_sub(agreed.elapsed).as_millis() as u64;
        let without_step = agreed.wall_ms.saturating_add(passed);
        if without_step > now.wall_ms.saturating_add(AHEAD_MAX_MS) { without_step } else { now.wall_ms }
    }

    /// The greatest stamp that is believed now.
    pub(crate) fn limit(&self, now: Now) -> Stamp {
        Stamp::limit(self.wall_ms(now))
    }

    /// Somebody else's stamp came: if it is from about now, both clocks are right, or wrong together.
    pub(crate) fn compare(&mut self, now: Now, stamp: Stamp) {
        let wall_ms = self.wall_ms(now);
        if stamp <= Stamp::limit(wall_ms) && Stamp::limit(stamp.bits() >> COUNTER_BITS) >= Stamp::at(wall_ms)
        {
            self.agreed = Some(Now { wall_ms, ..now });
        }
    }

    /// Somebody else's stamp was seen; it has been checked against [`limit`](Self::limit).
    pub(crate) fn observe(&mut self, stamp: Stamp) {
        self.latest = self.latest.max(stamp);
    }

    /// Whether the stamps have left what others believe, since the wall clock was set back by days. The
    /// clock then starts again from the wall clock; the caller brings back the stamps that were issued.
    pub(crate) fn has_run_away(&mut self, now: Now) -> bool {
        let away = self.latest > self.limit(now);
        if away {
            self.latest = Stamp::at(self.wall_ms(now));
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
            let stamp = clock.next(at(0, wall_ms));
            assert!(stamp > last, "{stamp:?} after {last:?}");
            last = stamp;
        }
        assert_eq!(Clock::default().next(at(0, 1_000)), Stamp::at(1_000));
    }

    #[test]
    fn a_burst_within_a_millisecond_borrows_from_the_next_ones() {
        let mut clock = Clock::default();
        let stamps: Vec<Stamp> = (0..70_000).map(|_| clock.next(at(0, 5))).collect();
        assert!(stamps.is_sorted_by(|a, b| a < b));
        assert_eq!(stamps.last().unwrap().bits() >> COUNTER_BITS, 6);
    }

    #[test]
    fn a_clock_that_was_days_ahead_starts_again() {
        let mut clock = Clock::default();
        clock.observe(Stamp::at(10 * DAY));
        assert!(!clock.has_run_away(at(0, 8 * DAY)));
        assert!(clock.has_run_away(at(0, 7 * DAY)));
        assert!(clock.next(at(0, 7 * DAY)) <= Stamp::limit(7 * DAY));
    }

    #[test]
    fn a_clock_that_others_agreed_with_is_not_followed_back() {
        let mut clock = Clock::default();
        clock.compare(at(0, 20 * DAY), Stamp::at(16 * DAY));
        assert_eq!(clock.wall_ms(at(1, 5 * DAY)), 5 * DAY, "who disagrees says nothing");
        clock.compare(at(1_000, 20 * DAY), Stamp::at(19 * DAY));
        clock.observe(Stamp::at(21 * DAY));
        assert_eq!(clock.wall_ms(at(5_000, 5 * DAY)), 20 * DAY + 4_000);
        assert!(!clock.has_run_away(at(5_000, 5 * DAY)));
        assert_eq!(clock.limit(at(5_000, 5 * DAY)), Stamp::limit(20 * DAY + 4_000));
        // Others' stamps keep the time as it is; they do not drive it on.
        clock.compare(at(5_000, 5 * DAY), Stamp::at(21 * DAY));
        assert_eq!(clock.wall_ms(at(5_000, 5 * DAY)), 20 * DAY + 4_000);
        assert_eq!(clock.wall_ms(at(5_000, 19 * DAY)), 19 * DAY, "what is near enough is followed");
        assert_eq!(clock.wall_ms(at(5_000, 30 * DAY)), 30 * DAY);
        assert!(clock.next(at(6_000, 5 * DAY)) > Stamp::at(21 * DAY));
    }

    const DAY: u64 = 24 * 60 * 60 * 1000;

    fn at(elapsed_ms: u64, wall_ms: u64) -> Now {
        Now { elapsed: std::time::Duration::from_millis(elapsed_ms), wall_ms }
    }
}
