//! Message bodies that check themselves: each carries its key and a digest over all of it, so that a body
//! that was changed, cut or mixed up shows it.

use crate::dice::{Dice, digest};

/// The number of one published message, unique in a run.
pub type Key = u64;

const MAGIC: [u8; 8] = *b"bruitsim";
/// Magic, key and digest.
const LEN_MIN: usize = 24;

/// The body of message `key`, `len` bytes long, or a little longer when that is too short for its check.
#[must_use]
pub fn write(key: Key, len: usize) -> Vec<u8> {
    let mut body = vec![0; len.max(LEN_MIN)];
    let check_at = body.len() - 8;
    Dice::new(key).fill(&mut body[16..check_at]);
    body[..8].copy_from_slice(&MAGIC);
    body[8..16].copy_from_slice(&key.to_le_bytes());
    let check = digest(&body[..check_at]);
    body[check_at..].copy_from_slice(&check.to_le_bytes());
    body
}

/// The key of an undamaged body, else `None`.
#[must_use]
pub fn read(body: &[u8]) -> Option<Key> {
    let (content, check) = body.split_last_chunk::<8>()?;
    if u64::from_le_bytes(*check) != digest(content) {
        return None;
    }
    key_after_magic(content)
}

/// The keys of all bodies that begin somewhere in `bytes`, damaged or not.
#[must_use]
pub fn keys_in(bytes: &[u8]) -> Vec<Key> {
    let starts = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(&MAGIC));
    starts.filter_map(|at| key_after_magic(&bytes[at..])).collect()
}

fn key_after_magic(bytes: &[u8]) -> Option<Key> {
    let key = bytes.strip_prefix(&MAGIC)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_knows_its_key_at_any_length() {
        for len in [0, 24, 25, 31, 32, 1000] {
            assert_eq!(read(&write(7, len)), Some(7), "length {len}");
        }
    }

    #[test]
    fn any_flipped_bit_and_any_cut_shows() {
        let body = write(7, 60);
        for at in 0..body.len() {
            let mut damaged = body.clone();
            damaged[at] ^= 4;
            assert_eq!(read(&damaged), None, "flip at {at}");
            assert_eq!(read(&body[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn keys_are_found_in_a_file() {
        let mut file = vec![0; 10];
        file.extend(write(1, 30));
        file.extend(write(2, 40));
        assert_eq!(keys_in(&file), [1, 2]);
    }
}
