//! What is due when. One table for everything, so that time which the node did not live can be added to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// When each thing is due, in [`Now::elapsed`](crate::Now::elapsed) terms. A thing is due once at a time.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    order: BTreeSet<(Duration, K)>,
    at: BTreeMap<K, Duration>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { order: BTreeSet::new(), at: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Timers<K> {
    /// Sets when `what` is due, whatever was set before.
    pub(crate) fn set(&mut self, what: K, at: Duration) {
        if let Some(before) = self.at.insert(what.clone(), at) {
            self.order.remove(&(before, what.clone()));
        }
        self.order.insert((at, what));
    }

    /// Makes `what` due at `at`, unless it is due earlier anyway.
    pub(crate) fn set_no_later(&mut self, what: K, at: Duration) {
        if self.at.get(&what).is_none_or(|before| *before > at) {
            self.set(what, at);
        }
    }

    pub(crate) fn cancel(&mut self, what: &K) {
        if let Some(before) = self.at.remove(what) {
            self.order.remove(&(before, what.clone()));
        }
    }

    pub(crate) fn is_set(&self, what: &K) -> bool {
        self.at.contains_key(what)
    }

    /// When something is due next.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }

    /// When the next of those is due for which `which` holds.
    pub(crate) fn next_of(&self, which: impl Fn(&K) -> bool) -> Option<Duration> {
        self.order.iter().find(|(_, what)| which(what)).map(|(at, _)| *at)
    }

    /// Takes something that is due.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<K> {
        let (at, what) = self.order.first().filter(|(at, _)| *at <= now)?.clone();
        self.order.remove(&(at, what.clone()));
        self.at.remove(&what);
        Some(what)
    }

    /// Puts off everything for which `which` holds.
    pub(crate) fn delay(&mut self, by: Duration, which: impl Fn(&K) -> bool) {
        let late: Vec<_> = self.order.iter().filter(|(_, what)| which(what)).cloned().collect();
        for (at, what) in late {
            self.set(what, at.saturating_add(by));
        }
    }

    pub(crate) fn clear(&mut self) {
        self.order.clear();
        self.at.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn things_are_due_in_order_and_once() {
        let mut timers = Timers::default();
        timers.set('b', ms(20));
        timers.set('a', ms(30));
        timers.set('a', ms(10));
        timers.set_no_later('b', ms(25));
        timers.set('c', ms(20));
        timers.cancel(&'c');
        assert!(timers.is_set(&'b') && !timers.is_set(&'c'));
        assert_eq!((timers.next(), timers.next_of(|what| *what == 'b')), (Some(ms(10)), Some(ms(20))));
        assert_eq!(timers.take_due(ms(9)), None);
        assert_eq!(timers.take_due(ms(100)), Some('a'));
        assert_eq!(timers.take_due(ms(100)), Some('b'));
        assert_eq!((timers.take_due(ms(100)), timers.next()), (None, None));
    }

    #[test]
    fn some_can_be_put_off() {
        let mut timers = Timers::default();
        timers.set('a', ms(10));
        timers.set('b', ms(20));
        timers.set('c', ms(15));
        timers.delay(ms(100), |what| *what != 'c');
        assert_eq!(timers.take_due(ms(109)), Some('c'));
        assert_eq!(timers.take_due(ms(109)), None);
        assert_eq!(timers.take_due(ms(110)), Some('a'));
        assert_eq!(timers.take_due(ms(120)), Some('b'));
    }
}
