//! The messages of a channel that are with consumers, by sequence number. Pure.
//!
//! Slots lie in chunks that exist only while one of their messages is in flight, so that a single stuck
//! message does not keep memory for the millions that pass it.

use std::collections::BTreeMap;

/// Messages of one chunk.
const CHUNK: u64 = 256;

/// One delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The client that has it; 0 means that the slot is free.
    pub(crate) client: u32,
    /// This delivery's number, from 1.
    pub(crate) attempts: u16,
    /// When it was delivered, node time in ms.
    pub(crate) delivered: u64,
    /// When it times out, ms after `delivered`.
    pub(crate) timeout: u32,
}

impl Slot {
    const FREE: Self = Self { client: 0, attempts: 0, delivered: 0, timeout: 0 };

    /// When it times out, node time in ms.
    pub(crate) fn deadline(&self) -> u64 {
        self.delivered + u64::from(self.timeout)
    }
}

#[derive(Debug)]
struct Chunk {
    used: u32,
    slots: [Slot; CHUNK as usize],
}

/// The window of in-flight messages.
#[derive(Debug, Default)]
pub(crate) struct Window {
    chunks: BTreeMap<u64, Box<Chunk>>,
    /// An emptied chunk that is kept for the next one.
    spare: Option<Box<Chunk>>,
    used: u64,
}

/// Why an answer to a message is refused (NSQ reference, section 2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotYours {
    /// It was never delivered, is finished, or timed out.
    #[error("ID not in flight")]
    NotInFlight,
    /// Another connection has it.
    #[error("client does not own message")]
    OtherClient,
}

impl Window {
    /// Number of messages in flight.
    pub(crate) const fn len(&self) -> u64 {
        self.used
    }

    /// Marks `count` messages from `first` on as delivered. They must not be in flight.
    pub(crate) fn insert(&mut self, first: u64, count: u64, slot: Slot) {
        assert!(slot.client != 0, "client numbers start at 1");
        let (mut at, end) = (first, first + count);
        while at < end {
            let stop = end.min((at / CHUNK + 1) * CHUNK);
            let spare = &mut self.spare;
            let chunk = self.chunks.entry(at / CHUNK).or_insert_with(|| {
                spare
                    .take()
                    .unwrap_or_else(|| Box::new(Chunk { used: 0, slots: [Slot::FREE; CHUNK as usize] }))
            });
            for free in &mut chunk.slots[index(at)..=index(stop - 1)] {
                assert!(free.client == 0, "a message is in flight once at a time");
                *free = slot;
            }
            chunk.used += (stop - at) as u32;
            at = stop;
        }
        self.used += count;
    }

    /// The delivery of `sequence`, if `client` has it.
    ///
    /// # Errors
    /// It is not in flight, or with another client.
    pub(crate) fn owned(&mut self, sequence: u64, client: u32) -> Result<&mut Slot, NotYours> {
        let chunk = self.chunks.get_mut(&(sequence / CHUNK)).ok_or(NotYours::NotInFlight)?;
        let slot = &mut chunk.slots[index(sequence)];
        match slot.client {
            0 => Err(NotYours::NotInFlight),
            owner if owner == client => Ok(slot),
            _ => Err(NotYours::OtherClient),
        }
    }

    /// Takes `sequence` out of flight, if `client` has it.
    ///
    /// # Errors
    /// It is not in flight, or with another client; nothing has changed.
    pub(crate) fn take(&mut self, sequence: u64, client: u32) -> Result<Slot, NotYours> {
        let slot = *self.owned(sequence, client)?;
        self.free(sequence);
        Ok(slot)
    }

    fn free(&mut self, sequence: u64) {
        let number = sequence / CHUNK;
        let Some(chunk) = self.chunks.get_mut(&number) else { return };
        chunk.slots[index(sequence)] = Slot::FREE;
        chunk.used -= 1;
        self.used -= 1;
        if chunk.used == 0 {
            self.spare = self.chunks.remove(&number);
        }
    }

    /// The messages in flight in `first..end`, in order.
    pub(crate) fn range(&self, first: u64, end: u64) -> impl Iterator<Item = (u64, &Slot)> {
        let chunks = self.chunks.range(first / CHUNK..=end.saturating_sub(1).max(first) / CHUNK);
        let slots = chunks.flat_map(|(number, chunk)| (number * CHUNK..).zip(&chunk.slots));
        slots.filter(move |(sequence, slot)| slot.client != 0 && (first..end).contains(sequence))
    }

    /// All messages in flight, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Slot)> {
        self.range(0, u64::MAX)
    }

    /// Takes the messages for which `wanted` holds out of flight and returns them in order.
    pub(crate) fn extract(
        &mut self,
        first: u64,
        end: u64,
        mut wanted: impl FnMut(&Slot) -> bool,
    ) -> Vec<(u64, Slot)> {
        let taken: Vec<_> =
            self.range(first, end).filter(|(_, slot)| wanted(slot)).map(|(at, slot)| (at, *slot)).collect();
        taken.iter().for_each(|(sequence, _)| self.free(*sequence));
        taken
    }
}

const fn index(sequence: u64) -> usize {
    (sequence % CHUNK) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot(client: u32) -> Slot {
        Slot { client, attempts: 1, delivered: 10, timeout: 5 }
    }

    #[test]
    fn only_the_owner_may_answer_and_only_once() {
        let mut window = Window::default();
        window.insert(250, 20, slot(3));
        assert_eq!(window.take(260, 4), Err(NotYours::OtherClient));
        assert_eq!(window.take(260, 3), Ok(slot(3)));
        assert_eq!(window.take(260, 3), Err(NotYours::NotInFlight));
        assert_eq!(window.take(270, 3), Err(NotYours::NotInFlight));
        assert_eq!(window.len(), 19);
    }

    #[test]
    fn a_stuck_message_keeps_one_chunk_only() {
        let mut window = Window::default();
        window.insert(0, 1, slot(1));
        for batch in 0..1000 {
            window.insert(1 + batch * 100, 100, slot(2));
            for sequence in 0..100 {
                window.take(1 + batch * 100 + sequence, 2).expect("it was just delivered");
            }
        }
        assert_eq!((window.len(), window.chunks.len()), (1, 1));
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((0_u64..2000, 1_u64..300, 1_u32..4), 1..40)) {
            let (mut window, mut model) = (Window::default(), BTreeMap::new());
            for (first, count, client) in steps {
                if (first..first + count).any(|at| model.contains_key(&at)) {
                    let taken = window.extract(first, first + count, |slot| slot.client == client);
                    let expected: Vec<_> =
                        model.range(first..first + count).filter(|(_, c)| **c == client).map(|(at, _)| *at).collect();
                    expected.iter().for_each(|at| { model.remove(at); });
                    prop_assert_eq!(taken.into_iter().map(|(at, _)| at).collect::<Vec<_>>(), expected);
                } else {
                    window.insert(first, count, slot(client));
                    model.extend((first..first + count).map(|at| (at, client)));
                }
                prop_assert_eq!(window.len(), model.len() as u64);
                let held: Vec<_> = window.iter().map(|(at, slot)| (at, slot.client)).collect();
                prop_assert_eq!(held, model.iter().map(|(at, client)| (*at, *client)).collect::<Vec<_>>());
            }
        }
    }
}
