//! The little that the simulator knows of the journal's format (`FORMAT.md` in the node): what a flipped bit
//! may cost. Every record of a segment starts at a multiple of 8 and carries, at its offset 8, the random
//! stamp that the segment's front block has at its offset 24. So records can be told apart without trusting
//! any length.

use std::path::Path;

use crate::body::{self, Key};

/// Length of a segment's front block, bytes.
const FRONT: usize = 4096;

/// What a flipped bit hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hit {
    /// Nothing that may be lost: a checkpoint, of which there is another, or a segment's front block.
    Nothing,
    /// A record with these messages.
    Messages(Vec<Key>),
    /// A record of something else: a name, a FIN. What follows from its loss cannot be told from outside.
    Other,
}

/// What the bit at `offset` of a file with this content belongs to.
#[must_use]
pub fn hit(path: &Path, content: &[u8], offset: usize) -> Hit {
    let is_segment = path.extension().is_some_and(|extension| extension == SEGMENT);
    let Some(stamp) = content.get(24..32).filter(|_| is_segment && offset >= FRONT) else {
        return Hit::Nothing;
    };
    let starts = |at: &usize| content.get(at + 8..at + 16) == Some(stamp);
    let Some(start) = (FRONT..=offset).rev().filter(|at| at.is_multiple_of(8)).find(starts) else {
        return Hit::Nothing;
    };
    let next = (start + 8..content.len()).step_by(8).find(starts).unwrap_or(content.len());
    let keys = body::keys_in(&content[start..next]);
    if keys.is_empty() { Hit::Other } else { Hit::Messages(keys) }
}

/// Whether a file is a checkpoint.
#[must_use]
pub fn is_checkpoint(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "checkpoint")
}

/// The extension of a segment's file name.
const SEGMENT: &str = "segment";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flip_costs_the_messages_of_its_record_only() {
        let mut content = vec![0; FRONT];
        content[24..32].copy_from_slice(b"stampxyz");
        let mut record = |keys: &[Key]| {
            let start = content.len();
            content.extend(b"12345678stampxyz");
            keys.iter().for_each(|key| content.extend(body::write(*key, 100)));
            content.resize(content.len().next_multiple_of(8), 0);
            start
        };
        let (first, second, third) = (record(&[1, 2]), record(&[]), record(&[3]));
        content.resize(content.len() + 100, 0);
        let hit = |name: &str, offset| hit(Path::new(name), &content, offset);
        assert_eq!(hit("1.segment", 25), Hit::Nothing);
        assert_eq!(hit("1.segment", first), Hit::Messages(vec![1, 2]));
        assert_eq!(hit("1.segment", second - 1), Hit::Messages(vec![1, 2]));
        assert_eq!(hit("1.segment", second), Hit::Other);
        assert_eq!(hit("1.segment", third + 70), Hit::Messages(vec![3]));
        assert_eq!(hit("1.checkpoint", third), Hit::Nothing);
    }
}
