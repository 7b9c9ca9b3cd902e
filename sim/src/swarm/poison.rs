//! What a member that has gone wrong sends: it knows the secret, so that nobody can refuse it at the door.

use bruit_gossip::{DATAGRAM_MAX, LEG_MAX};
use bytes::Bytes;

use crate::dice::Dice;

/// What is wrong with what a host sends.
#[derive(Debug, Clone)]
pub struct Poison {
    dice: Dice,
    kind: Kind,
}

/// A way to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Random bytes in place of every third packet.
    Noise,
    /// Flipped, missing and repeated bytes in every third packet.
    Garbled,
    /// Names that cannot be: bytes of names changed to ones that are not allowed.
    Names,
    /// Legs of exchanges as large as is let through, and larger, and packets that are full of nothing.
    Huge,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Noise, Self::Garbled, Self::Names, Self::Huge];
}

impl Poison {
    /// Something wrong, as `dice` decide.
    #[must_use]
    pub const fn new(kind: Kind, dice: Dice) -> Self {
        Self { dice, kind }
    }

    /// What becomes of a datagram.
    pub fn datagram(&mut self, bytes: Bytes) -> Bytes {
        self.spoil(bytes, DATAGRAM_MAX)
    }

    /// What becomes of a leg of an exchange.
    pub fn leg(&mut self, bytes: Bytes) -> Bytes {
        self.spoil(bytes, LEG_MAX + 1)
    }

    fn spoil(&mut self, bytes: Bytes, longest: usize) -> Bytes {
        if self.dice.below(3) != 0 {
            return bytes;
        }
        match self.kind {
            Kind::Noise => {
                let mut noise = vec![0; usize::try_from(self.dice.below(1_200)).unwrap_or(0)];
                self.dice.fill(&mut noise);
                // What starts as it should is read further.
                let kept =
                    usize::try_from(self.dice.below(24)).unwrap_or(0).min(noise.len()).min(bytes.len());
                noise[..kept].copy_from_slice(&bytes[..kept]);
                noise.into()
            }
            Kind::Garbled => self.garble(bytes.to_vec()).into(),
            Kind::Names => {
                let mut bytes = bytes.to_vec();
                while let Some(at) = bytes.windows(6).position(|window| window == b"topic-") {
                    bytes[at + 5] = b'\0';
                }
                bytes.into()
            }
            Kind::Huge => {
                let mut bytes = bytes.to_vec();
                let fill = [0x00, 0x01, 0x7f, 0xff][usize::try_from(self.dice.below(4)).unwrap_or(0)];
                bytes.resize(longest, fill);
                bytes.into()
            }
        }
    }

    fn garble(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.dice.between(1, 4) {
            let Some(at) =
                usize::try_from(self.dice.below(bytes.len() as u64)).ok().filter(|_| !bytes.is_empty())
            else {
                return bytes;
            };
            match self.dice.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_within(at..),
                2 => bytes[at] = 0xff,
                // No name is valid with it. A lie that looks like the truth cannot be told from it.
                _ => bytes[at] ^= 0x80,
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_packets_is_spoilt_and_none_is_larger_than_the_shell_would_send() {
        for kind in Kind::ALL {
            let mut poison = Poison::new(kind, Dice::new(5));
            let good = Bytes::from_static(b"something about topic-1 and topic-2");
            let spoilt = (0..300).filter(|_| poison.datagram(good.clone()) != good).count();
            assert!((70..130).contains(&spoilt), "{kind:?}: {spoilt}");
            let longest = (0..50).map(|_| poison.leg(good.clone()).len()).max();
            assert_eq!(longest == Some(LEG_MAX + 1), kind == Kind::Huge);
        }
    }
}
