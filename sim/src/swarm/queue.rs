//! What is still to happen, in order of time; what is due at the same time happens in the order in which it
//! was planned.

use std::{cmp::Ordering, collections::BinaryHeap, time::Duration};

/// The future of a simulation.
#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Due<T>>,
    planned: u64,
}

#[derive(Debug)]
struct Due<T> {
    at: Duration,
    turn: u64,
    what: T,
}

impl<T> Queue<T> {
    /// Nothing is to happen.
    #[must_use]
    pub const fn new() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0 }
    }

    /// Plans `what` for the time `at`.
    pub fn plan(&mut self, at: Duration, what: T) {
        self.planned += 1;
        self.heap.push(Due { at, turn: self.planned, what });
    }

    /// When the next thing happens.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        self.heap.peek().map(|due| due.at)
    }

    /// Takes the next thing, with its time.
    pub fn take(&mut self) -> Option<(Duration, T)> {
        self.heap.pop().map(|due| (due.at, due.what))
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        (other.at, other.turn).cmp(&(self.at, self.turn))
    }
}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Due<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_equals_keep_their_order() {
        let mut queue = Queue::new();
        for (at, what) in [(5, "d"), (1, "a"), (3, "b"), (3, "c"), (9, "e")] {
            queue.plan(Duration::from_millis(at), what);
        }
        assert_eq!(queue.next_at(), Some(Duration::from_millis(1)));
        let order: String = std::iter::from_fn(|| queue.take()).map(|(_, what)| what).collect();
        assert_eq!(order, "abcde");
    }
}
