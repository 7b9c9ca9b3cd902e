//! Which datagrams have been taken already, so that none is taken twice.
//!
//! A node's start is a *life* (its generation), and within it a *session* has a random salt and counts its
//! datagrams. Per sender there is one window per session of its newest life:
//!
//! - A datagram of an older life is refused: a restart puts everything that was recorded before out of use.
//! - Within a session each number is taken once, in any order, as long as it is at most [`WINDOW`] behind the
//!   highest.
//! - Another salt in the same life means that a data directory was copied or restored, or that a session ran out
//!   of numbers. It is taken, beside the older session whose window stays, so that nothing of either is taken
//!   twice and the mesh above can see and say that a node id is used twice. After [`SESSIONS_MAX`] sessions of
//!   one life no further one is taken until that sender restarts.
//!
//! The table is bounded. Of a sender that is pushed out ([`SENDERS_MAX`], the one heard least recently goes)
//! the life, the session and the highest number stay, which is all it takes to refuse what was recorded of it;
//! it goes on where it was when it is heard again. Only when [`FORGOTTEN_MAX`] senders have been pushed out
//! does the one that went first leave no trace. No outsider gets there: only a datagram with a good seal makes
//! an entry. A window does not outlive the process either; what both cases leave open is closed above, where
//! SWIM's packets name the life of their receiver, and facts and names are ordered and take no harm from being
//! told twice.

use std::collections::BTreeMap;

use crate::NodeId;

/// How far behind the highest number a datagram may come.
pub(crate) const WINDOW: u64 = 1024;
/// Senders whose windows are kept.
pub(crate) const SENDERS_MAX: usize = 4_096;
/// Senders of which only the place is kept.
pub(crate) const FORGOTTEN_MAX: usize = 65_536;
/// Sessions of one life.
const SESSIONS_MAX: usize = 4;
/// One word more than the window has, so that its end need not fall on a word's.
const WORDS: usize = WINDOW as usize / 64 + 1;

/// Where in a sender's datagrams one stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which of the sender's starts.
    pub(crate) generation: u32,
    /// Which session of it.
    pub(crate) salt: u32,
    /// Which datagram of that.
    pub(crate) counter: u64,
}

/// What has been taken, of all senders.
#[derive(Debug)]
pub(crate) struct Taken {
    senders: BTreeMap<NodeId, Sender>,
    forgotten: BTreeMap<NodeId, Forgotten>,
    /// Counts datagrams, to know who was heard least recently.
    heard: u64,
    senders_max: usize,
    forgotten_max: usize,
}

#[derive(Debug)]
struct Sender {
    generation: u32,
    sessions: Vec<Session>,
    /// How many further sessions of this life are taken.
    sessions_left: usize,
    heard: u64,
}

#[derive(Debug)]
struct Session {
    salt: u32,
    window: Window,
}

#[derive(Debug)]
struct Forgotten {
    last: Place,
    heard: u64,
}

impl Taken {
    pub(crate) const fn new() -> Self {
        Self::bounded(SENDERS_MAX, FORGOTTEN_MAX)
    }

    const fn bounded(senders_max: usize, forgotten_max: usize) -> Self {
        Self { senders: BTreeMap::new(), forgotten: BTreeMap::new(), heard: 0, senders_max, forgotten_max }
    }

    /// Takes a datagram whose seal is good. False if it must not be taken.
    pub(crate) fn take(&mut self, sender: NodeId, place: Place) -> bool {
        self.heard += 1;
        if !self.senders.contains_key(&sender) {
            let known = self.recall(sender);
            // Room is made for what will be taken only: a replay pushes nobody out.
            if known.as_ref().is_some_and(|known| !known.would_take(place)) {
                return false;
            }
            self.forgotten.remove(&sender);
            self.make_room();
            self.senders.insert(sender, known.unwrap_or_else(|| Sender::new(place.generation)));
        }
        let Some(known) = self.senders.get_mut(&sender) else { return false };
        let taken = known.take(place);
        if taken {
            known.heard = self.heard;
        }
        taken
    }

    fn recall(&self, sender: NodeId) -> Option<Sender> {
        let Place { generation, salt, counter } = self.forgotten.get(&sender)?.last;
        let mut known = Sender::new(generation);
        // Sessions before the last one are not known any more, and must not pass for new ones.
        known.sessions_left = 0;
        known.sessions.push(Session { salt, window: Window::exhausted(counter) });
        Some(known)
    }

    fn make_room(&mut self) {
        if self.senders.len() < self.senders_max {
            return;
        }
        // Scanned only when a stranger comes to a full table.
        let least = self.senders.iter().min_by_key(|(_, sender)| sender.heard).map(|(id, _)| *id);
        let Some((id, sender)) = least.and_then(|id| self.senders.remove_entry(&id)) else { return };
        if self.forgotten.len() >= self.forgotten_max {
            let first = self.forgotten.iter().min_by_key(|(_, gone)| gone.heard).map(|(id, _)| *id);
            first.and_then(|id| self.forgotten.remove(&id));
        }
        if let Some(last) = sender.last() {
            self.forgotten.insert(id, Forgotten { last, heard: sender.heard });
        }
    }
}

impl Sender {
    const fn new(generation: u32) -> Self {
        Self { generation, sessions: Vec::new(), sessions_left: SESSIONS_MAX, heard: 0 }
    }

    fn would_take(&self, place: Place) -> bool {
        if place.generation != self.generation {
            return place.generation > self.generation;
        }
        match self.sessions.iter().find(|session| session.salt == place.salt) {
            Some(session) => session.window.lacks(place.counter),
            None => self.sessions_left > 0,
        }
    }

    fn take(&mut self, place: Place) -> bool {
        if !self.would_take(place) {
            return false;
        }
        if place.generation > self.generation {
            *self = Self::new(place.generation);
        }
        match self.sessions.iter_mut().find(|session| session.salt == place.salt) {
            Some(session) => session.window.mark(place.counter),
            None => {
                self.sessions_left -= 1;
                self.sessions.push(Session { salt: place.salt, window: Window::starting(place.counter) });
            }
        }
        true
    }

    /// The place after which it goes on when it has been pushed out.
    fn last(&self) -> Option<Place> {
        let session = self.sessions.last()?;
        Some(Place { generation: self.generation, salt: session.salt, counter: session.window.highest })
    }
}

/// The numbers of a session that were taken: all below the window count as taken.
#[derive(Debug)]
struct Window {
    highest: u64,
    /// A ring of bits; number n is bit n % 64 of word n / 64.
    words: [u64; WORDS],
}

impl Window {
    /// Has taken one number.
    fn starting(counter: u64) -> Self {
        let mut window = Self { highest: counter, words: [0; WORDS] };
        window.mark(counter);
        window
    }

    /// Has taken every number up to this one.
    const fn exhausted(counter: u64) -> Self {
        Self { highest: counter, words: [u64::MAX; WORDS] }
    }

    fn lacks(&self, counter: u64) -> bool {
        if counter > self.highest {
            return true;
        }
        let (word, bit) = position(counter);
        self.highest - counter <= WINDOW && self.words.get(word).is_some_and(|word| word & bit == 0)
    }

    fn mark(&mut self, counter: u64) {
        if counter > self.highest {
            // Words that come into the window anew hold bits of numbers long past.
            let passed = (counter / 64 - self.highest / 64).min(WORDS as u64);
            for step in 1..=passed {
                if let Some(word) = self.words.get_mut(position((self.highest / 64 + step) * 64).0) {
                    *word = 0;
                }
            }
            self.highest = counter;
        }
        let (word, bit) = position(counter);
        if let Some(word) = self.words.get_mut(word) {
            *word |= bit;
        }
    }
}

const fn position(counter: u64) -> (usize, u64) {
    ((counter / 64 % WORDS as u64) as usize, 1 << (counter % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: NodeId = NodeId::new(1);

    const fn at(generation: u32, salt: u32, counter: u64) -> Place {
        Place { generation, salt, counter }
    }

    #[test]
    fn each_number_is_taken_once_in_any_order() {
        let mut taken = Taken::new();
        for counter in [5, 3, 4, 1, 0, 1029, 700] {
            assert!(taken.take(A, at(1, 9, counter)), "{counter}");
            assert!(!taken.take(A, at(1, 9, counter)), "{counter} twice");
        }
        assert!(!taken.take(A, at(1, 9, 4)), "just beyond the window, and taken");
        assert!(taken.take(A, at(1, 9, 6)), "within the window");
        assert!(taken.take(NodeId::new(2), at(1, 9, 5)), "another sender counts by itself");
    }

    #[test]
    fn what_is_behind_the_window_is_refused_untaken() {
        let mut taken = Taken::new();
        assert!(taken.take(A, at(1, 9, WINDOW + 1)));
        assert!(!taken.take(A, at(1, 9, 0)));
        assert!(taken.take(A, at(1, 9, 1)));
        assert!(taken.take(A, at(1, 9, u64::MAX)), "a leap clears the window");
        assert!(!taken.take(A, at(1, 9, WINDOW)));
        assert!(taken.take(A, at(1, 9, u64::MAX - WINDOW)));
    }

    #[test]
    fn a_restart_puts_older_lives_out_of_use() {
        let mut taken = Taken::new();
        assert!(taken.take(A, at(1, 9, 1000)));
        assert!(taken.take(A, at(2, 8, 0)));
        assert!(!taken.take(A, at(1, 9, 1001)));
        assert!(!taken.take(A, at(1, 7, 0)));
        assert!(!taken.take(A, at(2, 8, 0)));
        assert!(taken.take(A, at(2, 8, 1)));
    }

    #[test]
    fn sessions_of_one_life_stand_beside_each_other_up_to_a_few() {
        let mut taken = Taken::new();
        for salt in 0..SESSIONS_MAX as u32 {
            assert!(taken.take(A, at(1, salt, 7)), "{salt}");
        }
        for salt in 0..SESSIONS_MAX as u32 {
            assert!(!taken.take(A, at(1, salt, 7)), "{salt} again");
            assert!(taken.take(A, at(1, salt, 8)), "{salt} goes on");
        }
        assert!(!taken.take(A, at(1, 99, 7)), "no further session");
        assert!(taken.take(A, at(2, 99, 7)), "until it restarts");
    }

    #[test]
    fn a_sender_that_is_pushed_out_goes_on_where_it_was_and_replays_nothing() {
        let mut taken = Taken::bounded(2, 10);
        for counter in 0..10 {
            assert!(taken.take(A, at(3, 9, counter)));
        }
        for other in 2..5 {
            assert!(taken.take(NodeId::new(other), at(1, 0, 0)));
        }
        assert!(!taken.senders.contains_key(&A) && taken.senders.len() == 2);
        let (kept, heard): (Vec<_>, _) = (taken.senders.keys().copied().collect(), taken.forgotten.len());
        for counter in 0..10 {
            assert!(!taken.take(A, at(3, 9, counter)), "{counter} was taken");
        }
        assert!(!taken.take(A, at(2, 1, 50)), "an older life");
        assert!(!taken.take(A, at(3, 1, 50)), "perhaps a session that was before");
        assert_eq!(taken.senders.keys().copied().collect::<Vec<_>>(), kept, "replays push nobody out");
        assert_eq!(taken.forgotten.len(), heard);
        assert!(taken.take(A, at(3, 9, 10)), "it goes on");
        assert!(!taken.take(A, at(3, 9, 9)));
        assert!(taken.take(A, at(4, 1, 0)), "and restarts");
        assert!(taken.take(A, at(4, 2, 0)));
    }

    #[test]
    fn both_tables_stay_bounded() {
        let mut taken = Taken::bounded(4, 8);
        for id in 0..100 {
            assert!(taken.take(NodeId::new(id), at(1, 0, 0)));
            assert!(taken.senders.len() <= 4 && taken.forgotten.len() <= 8);
        }
        for id in 88..100 {
            assert!(!taken.take(NodeId::new(id), at(1, 0, 0)), "{id} is remembered");
        }
    }

    proptest! {
        #[test]
        fn a_window_agrees_with_a_set(
            steps in prop::collection::vec((any::<bool>(), 0_u64..3000), 1..400), start in 0_u64..5000,
        ) {
            let mut taken = Taken::new();
            let (mut seen, mut highest) = (BTreeSet::from([start]), start);
            prop_assert!(taken.take(A, at(1, 1, start)));
            for (forward, distance) in steps {
                let counter =
                    if forward { highest + distance / 20 } else { highest.saturating_sub(distance) };
                let expected = !seen.contains(&counter) && counter + WINDOW >= highest;
                prop_assert_eq!(taken.take(A, at(1, 1, counter)), expected, "{} at {}", counter, highest);
                seen.insert(counter);
                highest = highest.max(counter);
            }
        }
    }
}
