//! News on their way: who has been told how often, and what goes next.

use std::{cmp::Reverse, collections::BTreeMap};

use bytes::Bytes;

/// Most pieces of news that wait to be told. Beyond, the one most often told goes: an exchange makes it true.
pub(crate) const NEWS_MAX: usize = 1_024;
/// How many pieces that do not fit are passed over before a datagram counts as full.
const MISFITS_MAX: usize = 8;

/// Least told first; among equals the newest first.
type Rank = (u32, Reverse<u64>);

/// A queue of news. A newer piece of the same key takes the place of the older one.
#[derive(Debug)]
pub(crate) struct Broadcasts<K> {
    by_rank: BTreeMap<Rank, (K, Bytes)>,
    ranks: BTreeMap<K, Rank>,
    next: u64,
}

impl<K> Default for Broadcasts<K> {
    fn default() -> Self {
        Self { by_rank: BTreeMap::new(), ranks: BTreeMap::new(), next: 0 }
    }
}

impl<K: Ord + Clone> Broadcasts<K> {
    /// Queues a piece of news.
    pub(crate) fn push(&mut self, key: K, bytes: Bytes) {
        if let Some(rank) = self.ranks.remove(&key) {
            self.by_rank.remove(&rank);
        } else if self.ranks.len() >= NEWS_MAX
            && let Some((_, (key, _))) = self.by_rank.pop_last()
        {
            self.ranks.remove(&key);
        }
        self.insert(0, key, bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.ranks.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranks.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.ranks.clear();
        self.by_rank.clear();
    }

    /// Whether a piece of news has not been told to anybody yet.
    pub(crate) fn has_untold(&self) -> bool {
        self.by_rank.first_key_value().is_some_and(|((told, _), _)| *told == 0)
    }

    /// Takes what fits: `room` says how long the next piece may be, `take` takes it. Each piece is told at most
    /// `most` times.
    pub(crate) fn fill<T>(
        &mut self,
        target: &mut T,
        most: u32,
        room: impl Fn(&T) -> usize,
        take: impl Fn(&mut T, &[u8]),
    ) {
        let mut told = Vec::new();
        let mut misfits = 0;
        for (rank, (_, bytes)) in &self.by_rank {
            if bytes.len() <= room(target) {
                take(target, bytes);
                told.push(*rank);
            } else {
                misfits += 1;
                if misfits == MISFITS_MAX {
                    break;
                }
            }
        }
        for rank in told {
            let Some((key, bytes)) = self.by_rank.remove(&rank) else { continue };
            self.ranks.remove(&key);
            if rank.0 + 1 < most {
                self.insert(rank.0 + 1, key, bytes);
            }
        }
    }

    fn insert(&mut self, told: u32, key: K, bytes: Bytes) {
        let rank = (told, Reverse(self.next));
        self.next += 1;
        self.ranks.insert(key.clone(), rank);
        self.by_rank.insert(rank, (key, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(queue: &mut Broadcasts<u32>, len: usize, most: u32) -> Vec<Vec<u8>> {
        let mut taken: Vec<Vec<u8>> = Vec::new();
        let room = |taken: &Vec<Vec<u8>>| len - taken.iter().map(Vec::len).sum::<usize>();
        queue.fill(&mut taken, most, room, |taken, bytes| taken.push(bytes.to_vec()));
        taken
    }

    fn piece(byte: u8, len: usize) -> Bytes {
        vec![byte; len].into()
    }

    #[test]
    fn the_least_told_go_first_and_none_goes_too_often() {
        let mut queue = Broadcasts::default();
        queue.push(1, piece(1, 10));
        queue.push(2, piece(2, 10));
        assert!(queue.has_untold());
        assert_eq!(take(&mut queue, 10, 2), [vec![2; 10]]);
        queue.push(3, piece(3, 10));
        assert_eq!(take(&mut queue, 20, 2), [vec![3; 10], vec![1; 10]]);
        assert!(!queue.has_untold());
        assert_eq!(take(&mut queue, 30, 2).len(), 3);
        assert!(queue.is_empty() && queue.by_rank.is_empty());
    }

    #[test]
    fn the_newer_piece_takes_the_place_of_the_older() {
        let mut queue = Broadcasts::default();
        queue.push(1, piece(1, 10));
        take(&mut queue, 10, 5);
        queue.push(1, piece(9, 10));
        assert_eq!(queue.len(), 1);
        assert_eq!(take(&mut queue, 100, 5), [vec![9; 10]]);
    }

    #[test]
    fn a_small_piece_goes_where_a_large_one_does_not_fit() {
        let mut queue = Broadcasts::default();
        queue.push(1, piece(1, 3));
        queue.push(2, piece(2, 50));
        assert_eq!(take(&mut queue, 10, 5), [vec![1; 3]]);
        assert_eq!(take(&mut queue, 50, 5), [vec![2; 50]]);
    }

    #[test]
    fn the_queue_is_bounded_and_what_was_told_most_goes() {
        let mut queue = Broadcasts::default();
        queue.push(0, piece(0, 1));
        take(&mut queue, 1, 9);
        for key in 1..=NEWS_MAX as u32 {
            queue.push(key, piece(1, 1));
        }
        assert_eq!(queue.len(), NEWS_MAX);
        assert!(!queue.ranks.contains_key(&0));
        queue.clear();
        assert!(queue.is_empty() && !queue.has_untold());
    }
}
