//! Who a node is: a random number drawn once, and a count of its starts.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{fmt, str::FromStr};

/// A node's name for life: 64 random bits, written as 16 lower-case hex characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The node that drew `random`.
    pub const fn new(random: u64) -> Self {
        Self(random)
    }

    /// All 64 bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The low 16 bits, which stand for the node in its messages' ids. Two nodes may share them.
    pub const fn tag(self) -> u16 {
        self.0 as u16
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// The text is no node id. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node id is 16 characters, each one of 0-9 or a-f")]
pub struct InvalidNodeId;

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<Self, InvalidNodeId> {
        parse_hex(text).map(Self).ok_or(InvalidNodeId)
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => self.0.to_le_bytes().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 8]>::deserialize(deserializer).map(|bytes| Self(u64::from_le_bytes(bytes)));
        }
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What a node keeps on disk about itself, so that others know it again, and know that it was away.
///
/// The form is one line of text, for people to read:
///
/// ```text
/// bruit-identity 1 node=0123456789abcdef generation=000000000000002a
/// ```
///
/// It has one spelling and one length, so that a cut or overwritten file is noticed. It carries no
/// checksum: the node replaces the whole file at each start, and writes it before it takes anybody's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node's name, drawn at its first start.
    pub id: NodeId,
    /// How often the node has started, the first time being 1. Of two statements by a node, the one from
    /// the higher generation is the newer.
    pub generation: u64,
}

/// The stored identity cannot be used. The node must not start, for under a new name it would lose its
/// messages' ids; the file was not touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A newer program wrote the file.
    #[error(
        "the node's identity is of version {version}, and this program reads version 1: start the newer program that wrote it"
    )]
    UnknownVersion {
        /// The version that the file names.
        version: u32,
    },
    /// The content is not what any program wrote.
    #[error(
        "the node's identity is damaged (found {len} bytes, starting {start:?}): restore the file from a backup; or, if this node's messages may be lost, move its data directory away and start afresh"
    )]
    Damaged {
        /// How many bytes were found.
        len: usize,
        /// The first few of them, what is not text replaced.
        start: String,
    },
}

impl Identity {
    /// The most bytes that [`from_bytes`](Self::from_bytes) can use: read no more than one byte above it.
    pub const LEN: usize = "bruit-identity 1 node=0123456789abcdef generation=0123456789abcdef\n".len();

    /// A node that starts for the first time and has drawn `random`.
    pub const fn first(random: u64) -> Self {
        Self { id: NodeId::new(random), generation: 1 }
    }

    /// The same node, started once more. To be on disk before the node speaks to anybody.
    #[must_use]
    pub const fn restarted(self) -> Self {
        // At one start a nanosecond this takes five hundred years to saturate.
        Self { id: self.id, generation: self.generation.saturating_add(1) }
    }

    /// The line to keep, [`LEN`](Self::LEN) bytes with its newline.
    pub fn to_bytes(self) -> Vec<u8> {
        format!("bruit-identity 1 node={} generation={:016x}\n", self.id, self.generation).into_bytes()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let text = std::str::from_utf8(bytes).map_err(|_| damaged(bytes))?;
        let (version, fields) = text
            .strip_prefix("bruit-identity ")
            .and_then(|rest| rest.split_once(' '))
            .and_then(|(version, fields)| Some((version.parse::<u32>().ok()?, fields)))
            .ok_or_else(|| damaged(bytes))?;
        if version != 1 {
            return Err(IdentityError::UnknownVersion { version });
        }
        let identity = parse_fields(fields).ok_or_else(|| damaged(bytes))?;
        // One spelling only: whatever else parses has been changed by something.
        if identity.to_bytes() == bytes { Ok(identity) } else { Err(damaged(bytes)) }
    }
}

fn parse_fields(fields: &str) -> Option<Identity> {
    let (id, generation) = fields.strip_prefix("node=")?.split_once(" generation=")?;
    let id = NodeId(parse_hex(id)?);
    let generation = parse_hex(generation.strip_suffix('\n')?).filter(|generation| *generation > 0)?;
    Some(Identity { id, generation })
}

fn damaged(bytes: &[u8]) -> IdentityError {
    let start = bytes.get(..24).unwrap_or(bytes);
    IdentityError::Damaged { len: bytes.len(), start: String::from_utf8_lossy(start).into_owned() }
}

/// Sixteen lower-case hex characters, no other spelling.
fn parse_hex(text: &str) -> Option<u64> {
    let is_hex = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = b"bruit-identity 1 node=0123456789abcdef generation=000000000000002a\n";

    #[test]
    fn golden_identity() {
        let identity = Identity { id: NodeId::new(0x0123_4567_89ab_cdef), generation: 42 };
        assert_eq!(identity.to_bytes(), GOLDEN);
        assert_eq!(Identity::from_bytes(GOLDEN), Ok(identity));
        assert_eq!(GOLDEN.len(), Identity::LEN);
    }

    #[test]
    fn generations_count_starts_and_the_name_stays() {
        let first = Identity::first(7);
        assert_eq!((first.id, first.generation), (NodeId::new(7), 1));
        assert_eq!(first.restarted(), Identity { id: first.id, generation: 2 });
        let last = Identity { generation: u64::MAX, ..first };
        assert_eq!(last.restarted(), last);
        for identity in [first, last, Identity::first(u64::MAX)] {
            assert_eq!(Identity::from_bytes(&identity.to_bytes()), Ok(identity));
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_outside_the_numbers_is_noticed() {
        for cut in 0..GOLDEN.len() {
            let found = Identity::from_bytes(&GOLDEN[..cut]);
            assert!(matches!(found, Err(IdentityError::Damaged { len, .. }) if len == cut), "{found:?}");
        }
        for place in 0..GOLDEN.len() {
            for bit in 0..8 {
                let mut bytes = GOLDEN.to_vec();
                bytes[place] ^= 1 << bit;
                match Identity::from_bytes(&bytes) {
                    Ok(identity) => assert_eq!(identity.to_bytes(), bytes, "a hex digit became another"),
                    Err(IdentityError::UnknownVersion { .. }) => assert_eq!(place, 15),
                    Err(IdentityError::Damaged { .. }) => {}
                }
            }
        }
        for bytes in [&b""[..], &[0; 67], &[0xff; 4096], &[GOLDEN, b"\n"].concat()] {
            assert!(matches!(Identity::from_bytes(bytes), Err(IdentityError::Damaged { .. })));
        }
        let never_started = b"bruit-identity 1 node=0123456789abcdef generation=0000000000000000\n";
        assert!(Identity::from_bytes(never_started).is_err());
    }

    #[test]
    fn errors_say_what_to_do_and_stay_short() {
        let newer = Identity::from_bytes(b"bruit-identity 2 whatever comes\n").unwrap_err();
        assert_eq!(newer, IdentityError::UnknownVersion { version: 2 });
        assert!(newer.to_string().contains("start the newer program"));
        let damaged = Identity::from_bytes(&[0; 100_000]).unwrap_err().to_string();
        assert!(damaged.contains("100000 bytes") && damaged.contains("restore the file from a backup"));
        assert!(damaged.len() < 400, "{damaged}");
    }

    #[test]
    fn node_ids_have_one_spelling() {
        let id: NodeId = "0123456789abcdef".parse().unwrap();
        assert_eq!((id.bits(), id.tag()), (0x0123_4567_89ab_cdef, 0xcdef));
        assert_eq!(id.to_string(), "0123456789abcdef");
        assert_eq!(NodeId::new(1).to_string(), "0000000000000001");
        for bad in ["", "0", "0123456789ABCDEF", "+123456789abcdef", "0123456789abcdef0", "0123456789abcdé"]
        {
            assert_eq!(bad.parse::<NodeId>(), Err(InvalidNodeId), "{bad}");
        }
    }
}
