//! Chance that a seed decides: the same seed throws the same numbers for ever.
//!
//! The generator is SplitMix64, written out here because a seed in a bug report must mean the same run
//! after a dependency has changed its own generators.

use std::time::Duration;

/// A stream of chance.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// The stream that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: mix(seed ^ 0x6272_7569_7421_0001) }
    }

    /// A stream of its own for `label`, so that a change in how one part of the simulation draws does not
    /// move the draws of the others.
    #[must_use]
    pub fn fork(&self, label: u64) -> Self {
        Self { state: mix(self.state ^ mix(label.wrapping_add(0x9e37_79b9))) }
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number in `0..bound`; 0 when `bound` is 0. The bias of the remainder does not matter here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll().checked_rem(bound).unwrap_or(0)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// A whole number of milliseconds in `low..=high`.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// One of `choices`, `None` when there is none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        choices.get(usize::try_from(self.below(choices.len() as u64)).unwrap_or(0))
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.roll().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Spreads every bit of `x` over all 64 (SplitMix64's finaliser).
#[must_use]
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A 64-bit digest of `bytes`: quick, and the same on every machine. Not for adversaries.
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hash = 0x51_7c_c1_b7_27_22_0a_95 ^ bytes.len() as u64;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    for byte in rest {
        hash = (hash.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    mix(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_throws_the_same_numbers_for_ever() {
        let mut dice = Dice::new(1);
        let thrown: Vec<u64> = (0..3).map(|_| dice.roll()).collect();
        assert_eq!(
            thrown,
            [17_960_195_756_386_071_277, 10_528_940_616_282_353_487, 16_598_990_412_057_349_948]
        );
    }

    #[test]
    fn a_fork_differs_from_its_parent_and_its_siblings() {
        let dice = Dice::new(7);
        let first = dice.fork(1).roll();
        assert_ne!(first, dice.fork(2).roll());
        assert_ne!(first, dice.clone().roll());
        assert_eq!(first, dice.fork(1).roll());
    }

    #[test]
    fn one_changed_byte_changes_the_digest() {
        for len in [1, 7, 8, 9, 100] {
            let mut bytes = vec![7_u8; len];
            let before = digest(&bytes);
            bytes[len - 1] ^= 1;
            assert_ne!(digest(&bytes), before, "length {len}");
        }
    }
}
