//! Message ids: 64 bits inside, 16 lower-case hex characters on the wire.

use std::fmt;

const SEQUENCE_BITS: u32 = 48;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;

/// Names one message: the low 16 bits of its node's id, then its place in its topic on that node.
///
/// Unique for a topic on a node, for ever: sequences are never used again. Ordered by node, then by place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u64);

impl MessageId {
    /// The `sequence`th message of a topic of `node`. Only the low 48 bits of `sequence` count: a million
    /// messages a second take nine years to use them up.
    pub const fn new(node: u16, sequence: u64) -> Self {
        Self((node as u64) << SEQUENCE_BITS | (sequence & SEQUENCE_MASK))
    }

    /// The tag of the node that took the message in.
    pub const fn node(self) -> u16 {
        (self.0 >> SEQUENCE_BITS) as u16
    }

    /// The message's place in its topic, below 2^48.
    pub const fn sequence(self) -> u64 {
        self.0 & SEQUENCE_MASK
    }

    /// The id as it travels: 16 lower-case hex characters.
    pub fn to_hex(self) -> [u8; 16] {
        let mut hex = [0; 16];
        let (high, low) = hex.split_at_mut(8);
        high.copy_from_slice(&hex_of((self.0 >> 32) as u32).to_be_bytes());
        low.copy_from_slice(&hex_of(self.0 as u32).to_be_bytes());
        hex
    }

    /// Reads what [`to_hex`](Self::to_hex) wrote; `None` for anything else, capitals included, so that each
    /// id has one spelling.
    pub fn from_hex(hex: &[u8; 16]) -> Option<Self> {
        let both = u128::from_be_bytes(*hex);
        let high = unhex((both >> 64) as u64)?;
        let low = unhex(both as u64)?;
        Some(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

const fn repeat(byte: u8) -> u64 {
    u64::from_be_bytes([byte; 8])
}

/// The eight hex characters of `value`, first character in the highest byte. Works on all eight nibbles at
/// once: an id is written for every message taken in, and read for every one finished.
fn hex_of(value: u32) -> u64 {
    let x = u64::from(value);
    let x = (x << 16 | x) & 0x0000_ffff_0000_ffff;
    let x = (x << 8 | x) & 0x00ff_00ff_00ff_00ff;
    let x = (x << 4 | x) & repeat(0x0f);
    // A nibble above 9 carries into bit 4 when 6 is added to it, and is a letter.
    let letters = ((x + repeat(6)) >> 4) & repeat(1);
    x + repeat(b'0') + letters * u64::from(b'a' - b'0' - 10)
}

/// The reverse of [`hex_of`], or `None` if `hex` is not what it would write.
fn unhex(hex: u64) -> Option<u32> {
    let letters = (hex >> 6) & repeat(1);
    let x = (hex & repeat(0x0f)).wrapping_add(letters * 9) & repeat(0x0f);
    let x = (x >> 4 | x) & 0x00ff_00ff_00ff_00ff;
    let x = (x >> 8 | x) & 0x0000_ffff_0000_ffff;
    let value = (x >> 16 | x) as u32;
    (hex_of(value) == hex).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_ids() {
        assert_eq!(&MessageId::new(0x0123, 0x4567_89ab_cdef).to_hex(), b"0123456789abcdef");
        assert_eq!(&MessageId::new(0, 0).to_hex(), b"0000000000000000");
        assert_eq!(&MessageId::new(u16::MAX, u64::MAX).to_hex(), b"ffffffffffffffff");
        assert_eq!(MessageId::new(0xa, 0x1f).to_string(), "000a00000000001f");
    }

    #[test]
    fn a_sequence_cannot_touch_the_node() {
        let id = MessageId::new(7, 1 << 48 | 5);
        assert_eq!((id.node(), id.sequence()), (7, 5));
    }

    #[test]
    fn every_byte_that_is_not_lower_case_hex_is_refused_at_every_place() {
        for place in 0..16 {
            for byte in 0..=255u8 {
                let mut hex = *b"0123456789abcdef";
                hex[place] = byte;
                let good = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                assert_eq!(MessageId::from_hex(&hex).is_some(), good, "{byte:#x} at {place}");
            }
        }
    }

    proptest! {
        #[test]
        fn hex_round_trips_and_agrees_with_the_formatter(node: u16, sequence: u64) {
            let id = MessageId::new(node, sequence);
            prop_assert_eq!(MessageId::from_hex(&id.to_hex()), Some(id));
            prop_assert_eq!(id.to_hex().to_vec(), id.to_string().into_bytes());
        }
    }
}
