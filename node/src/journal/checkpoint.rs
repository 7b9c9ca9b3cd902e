//! The state of every topic and channel at a segment boundary, so that a start need not replay the whole
//! journal (see `FORMAT.md`). Encoding and decoding are pure.

use serde::{Deserialize, Serialize};

use super::segment::FORMAT;

const MAGIC: [u8; 8] = *b"bruitchk";
const HEADER_LEN: usize = 24;

/// Everything that replay starts from.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// Replay starts at the front of this segment.
    pub(crate) replay_from: u64,
    /// The highest number of a control record that is contained.
    pub(crate) control: u64,
    /// The first sequence number that a new topic may use: above all that a deleted one has used.
    pub(crate) sequence_floor: u64,
    /// The segments in front of `replay_from` that hold needed messages.
    pub(crate) segments: Vec<SealedSegment>,
    /// Every topic that is kept.
    pub(crate) topics: Vec<TopicState>,
}

/// A segment that is written no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SealedSegment {
    /// Its number.
    pub(crate) number: u64,
    /// The random number that its records carry.
    pub(crate) stamp: u64,
    /// Where its records end, bytes.
    pub(crate) end: u64,
    /// Where its index records start, bytes; 0 when it has none and must be read whole.
    pub(crate) index: u64,
}

/// A topic.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicState {
    /// Its name.
    pub(crate) name: String,
    /// The sequence number that the next message gets, or a lower one (replay raises it).
    pub(crate) next: u64,
    /// Channels read up to here.
    pub(crate) mark: u64,
    /// Whether it is paused.
    pub(crate) paused: bool,
    /// The highest number of a control record of this topic that is contained.
    pub(crate) control: u64,
    /// Messages published over its life.
    pub(crate) message_count: u64,
    /// Bytes published over its life.
    pub(crate) message_bytes: u64,
    /// Its channels.
    pub(crate) channels: Vec<ChannelState>,
}

/// A channel.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChannelState {
    /// Its name.
    pub(crate) name: String,
    /// Everything below is finished, but for what is `held`.
    pub(crate) next: u64,
    /// Whether it is paused.
    pub(crate) paused: bool,
    /// What it is not done with although it lies below `next`, or is held back wherever it lies.
    pub(crate) held: Vec<HeldRange>,
    /// What it is done with although it lies at or above `next`.
    pub(crate) finished: Vec<(u64, u64)>,
    /// Messages that reached it over its life.
    pub(crate) message_count: u64,
}

/// Consecutive messages that a channel is not done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldRange {
    /// The first sequence number.
    pub(crate) first: u64,
    /// How many.
    pub(crate) count: u64,
    /// Milliseconds since the epoch before which they are not delivered; 0 means at once.
    pub(crate) due: u64,
    /// How often they were delivered.
    pub(crate) attempts: u16,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CheckpointError {
    /// The content does not fit its checksum, or makes no sense. An older checkpoint is used.
    #[error("the checkpoint is damaged")]
    Damaged,
    /// Another version of bruit wrote it. The directory is refused.
    #[error("the checkpoint has format {0}, this version reads {FORMAT}")]
    OtherFormat(u32),
}

impl Checkpoint {
    /// The file's content.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes = postcard::to_extend(self, bytes).expect("writing to memory cannot fail");
        let len = (bytes.len() - HEADER_LEN) as u64;
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&len.to_le_bytes());
        let crc = Self::crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a file's content.
    ///
    /// # Errors
    /// Damage, or a format of another version; the state is unchanged.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(CheckpointError::Damaged)?;
        let u32_at =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let len = u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32;
        let body = &bytes[HEADER_LEN..];
        if header[..8] != MAGIC || body.len() as u64 != len || u32_at(12) != Self::crc(bytes) {
            return Err(CheckpointError::Damaged);
        }
        match u32_at(8) {
            FORMAT => postcard::from_bytes(body).map_err(|_| CheckpointError::Damaged),
            version => Err(CheckpointError::OtherFormat(version)),
        }
    }

    /// Covers everything but the checksum itself.
    fn crc(bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[..12]);
        hasher.update(&bytes[16..]);
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        Checkpoint {
            replay_from: 9,
            control: 4,
            sequence_floor: 77,
            segments: vec![SealedSegment { number: 8, stamp: 0xabcd, end: 65_536, index: 60_000 }],
            topics: vec![TopicState {
                name: "t".into(),
                next: 300,
                mark: 300,
                paused: true,
                control: 3,
                message_count: 299,
                message_bytes: 1000,
                channels: vec![ChannelState {
                    name: "c".into(),
                    next: 200,
                    paused: false,
                    held: vec![HeldRange { first: 100, count: 2, due: 5, attempts: 3 }],
                    finished: vec![(250, 260)],
                    message_count: 6,
                }],
            }],
        }
    }

    #[test]
    fn content_survives_the_file() {
        assert_eq!(Checkpoint::decode(&sample().encode()), Ok(sample()));
        assert_eq!(Checkpoint::decode(&Checkpoint::default().encode()), Ok(Checkpoint::default()));
    }

    #[test]
    fn the_layout_of_format_1_never_changes() {
        let bytes = sample().encode();
        assert_eq!(&bytes[..12], b"bruitchk\x01\0\0\0");
        assert_eq!(&bytes[HEADER_LEN..], b"\x09\x04\x4d\x01\x08\xcd\xd7\x02\x80\x80\x04\xe0\xd4\x03\x01\x01t\xac\x02\xac\x02\x01\x03\xab\x02\xe8\x07\x01\x01c\xc8\x01\x00\x01\x64\x02\x05\x03\x01\xfa\x01\x84\x02\x06");
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_damage() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Checkpoint::decode(&flipped), Err(CheckpointError::Damaged), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(Checkpoint::decode(&bytes[..len]), Err(CheckpointError::Damaged), "cut at {len}");
        }
    }

    #[test]
    fn another_format_is_told_apart_from_damage() {
        let mut bytes = sample().encode();
        bytes[8] = 2;
        let crc = Checkpoint::crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Checkpoint::decode(&bytes), Err(CheckpointError::OtherFormat(2)));
    }
}
