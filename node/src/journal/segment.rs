//! Segment files: their names and the block at their front (see `FORMAT.md`). Pure.

use crate::env::ALIGNMENT;

/// Offset of the first record, bytes.
pub(crate) const FIRST_RECORD: u64 = ALIGNMENT as u64;
/// Version of everything that `FORMAT.md` describes. A directory of another version is refused.
pub(crate) const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"bruitjnl";
const HEADER_LEN: usize = 36;

/// The front of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The segment's number, which its file name repeats.
    pub(crate) number: u64,
    /// Random number that every record of this segment carries.
    pub(crate) stamp: u64,
    /// Length of the file when the segment was begun, in blocks of [`ALIGNMENT`] bytes. It may grow, for a
    /// record that is larger than a segment; a file that is shorter was cut.
    pub(crate) blocks: u32,
}

/// What the front of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front {
    /// It is a segment.
    Segment(SegmentHeader),
    /// It is a segment of a format that this version does not know.
    OtherFormat(u32),
    /// It is not, or no longer, a segment's front.
    Damaged,
}

impl SegmentHeader {
    /// The block as it lies at the front of the file.
    pub(crate) fn encode(self) -> [u8; ALIGNMENT] {
        let mut block = [0; ALIGNMENT];
        block[..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        block[12..16].copy_from_slice(&self.blocks.to_le_bytes());
        block[16..24].copy_from_slice(&self.number.to_le_bytes());
        block[24..32].copy_from_slice(&self.stamp.to_le_bytes());
        let crc = crc32fast::hash(&block[..32]);
        block[32..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads the front of a file.
    pub(crate) fn parse(bytes: &[u8]) -> Front {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else { return Front::Damaged };
        let u32_at =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if header[..8] != MAGIC {
            return Front::Damaged;
        }
        // A version is believed only with a checksum that fits: a flipped bit in it is damage.
        if crc32fast::hash(&header[..32]) != u32_at(32) {
            return Front::Damaged;
        }
        match u32_at(8) {
            FORMAT => Front::Segment(Self { number: u64_at(16), stamp: u64_at(24), blocks: u32_at(12) }),
            version => Front::OtherFormat(version),
        }
    }
}

/// What a file in the data directory is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A segment, by number.
    Segment(u64),
    /// A checkpoint: replay starts at the segment of this number.
    Checkpoint(u64),
    /// A prepared segment that holds nothing yet.
    Spare(u64),
    /// A file that was being written when the node died.
    Unfinished,
    /// Not the journal's.
    Other,
}

/// Name of segment `number`'s file.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:020}.segment")
}

/// Name of the checkpoint from which replay starts at segment `number`.
pub(crate) fn checkpoint_name(number: u64) -> String {
    format!("{number:020}.checkpoint")
}

/// Name of a prepared file.
pub(crate) fn spare_name(number: u64) -> String {
    format!("{number:020}.spare")
}

/// Suffix of files that are renamed once they are whole.
pub(crate) const UNFINISHED: &str = ".unfinished";

/// No journal gets so far; a file with a higher number is not the journal's.
const NUMBER_MAX: u64 = 1 << 48;

/// What the file `name` is.
pub(crate) fn kind_of(name: &str) -> FileKind {
    if name.ends_with(UNFINISHED) {
        return FileKind::Unfinished;
    }
    let Some((number, suffix)) = name.split_once('.') else { return FileKind::Other };
    let digits = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| number.parse().ok()).flatten().filter(|number| *number <= NUMBER_MAX);
    match (number, suffix) {
        (Some(number), "segment") => FileKind::Segment(number),
        (Some(number), "checkpoint") => FileKind::Checkpoint(number),
        (Some(number), "spare") => FileKind::Spare(number),
        _ => FileKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_they_were_made_for() {
        assert_eq!(kind_of(&segment_name(7)), FileKind::Segment(7));
        assert_eq!(kind_of(&checkpoint_name(NUMBER_MAX)), FileKind::Checkpoint(NUMBER_MAX));
        assert_eq!(kind_of(&segment_name(u64::MAX)), FileKind::Other);
        assert_eq!(kind_of(&spare_name(1)), FileKind::Spare(1));
        assert_eq!(kind_of("00000000000000000007.segment.unfinished"), FileKind::Unfinished);
        for other in
            ["", "7.segment", "lock", "node", "99999999999999999999.segment", "0000000000000000000x.spare"]
        {
            assert_eq!(kind_of(other), FileKind::Other, "{other}");
        }
    }

    #[test]
    fn the_front_block_never_changes() {
        let header = SegmentHeader { number: 0x0102_0304, stamp: 0x1122_3344_5566_7788, blocks: 0x4000 };
        let block = header.encode();
        let golden = b"bruitjnl\x01\0\0\0\0\x40\0\0\x04\x03\x02\x01\0\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11";
        assert_eq!(block[..32], golden[..]);
        assert!(block[HEADER_LEN..].iter().all(|&byte| byte == 0));
        assert_eq!(SegmentHeader::parse(&block), Front::Segment(header));
    }

    #[test]
    fn any_flipped_bit_of_the_front_is_damage() {
        let block = SegmentHeader { number: 3, stamp: 4, blocks: 5 }.encode();
        for bit in 0..HEADER_LEN * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::parse(&flipped), Front::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn another_format_is_told_apart_from_damage() {
        let mut block = SegmentHeader { number: 3, stamp: 4, blocks: 5 }.encode();
        block[8] = 2;
        let crc = crc32fast::hash(&block[..32]);
        block[32..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::parse(&block), Front::OtherFormat(2));
    }
}
