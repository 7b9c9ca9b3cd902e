//! How well this node itself is doing (Lifeguard, section IV-A): who misses answers may be the slow one.

/// Highest score.
const WORST: u32 = 8;

/// A score: 0 is healthy. All time-outs by which this node judges others are scaled by one more than it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    score: u32,
}

impl Health {
    /// Something hints that this node is slow or cut off: an answer that is missing or late, a suspicion
    /// against it or by it that was wrong, a timer that was served late.
    pub(crate) fn worsen(&mut self) {
        self.score = (self.score + 1).min(WORST);
    }

    /// An answer came in time.
    pub(crate) fn improve(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    pub(crate) const fn score(self) -> u32 {
        self.score
    }

    /// By what time-outs are multiplied.
    pub(crate) const fn factor(self) -> u32 {
        self.score + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_stays_in_its_bounds() {
        let mut health = Health::default();
        health.improve();
        assert_eq!((health.score(), health.factor()), (0, 1));
        for _ in 0..20 {
            health.worsen();
        }
        assert_eq!((health.score(), health.factor()), (WORST, WORST + 1));
        health.improve();
        assert_eq!(health.score(), WORST - 1);
    }
}
