//! Messages that are with consumers, and when that ends by itself. Pure.

use super::{
    timeouts::Timeouts,
    window::{NotYours, Slot, Window},
};

/// A window of deliveries and their deadlines.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    pub(crate) window: Window,
    timeouts: Timeouts,
}

impl Flight {
    /// Marks `count` messages from `first` on as delivered. They must not be in flight.
    pub(crate) fn deliver(&mut self, first: u64, count: u64, slot: Slot) {
        self.window.insert(first, count, slot);
        self.note(slot.deadline(), first, count);
    }

    /// Extends a delivery: it times out `timeout` ms after `now`, but never later than `max` ms after it was
    /// delivered.
    ///
    /// # Errors
    /// It is not in flight, or with another client.
    pub(crate) fn touch(
        &mut self,
        now: u64,
        sequence: u64,
        client: u32,
        timeout: u32,
        max: u32,
    ) -> Result<(), NotYours> {
        let slot = self.window.owned(sequence, client)?;
        let extended = (now + u64::from(timeout)).saturating_sub(slot.delivered);
        slot.timeout = u32::try_from(extended).unwrap_or(u32::MAX).min(max);
        Ok(())
    }

    /// Takes out what has timed out at `now`, in the order of the deadlines.
    pub(crate) fn expire(&mut self, now: u64) -> Vec<(u64, Slot)> {
        let mut expired = Vec::new();
        while let Some(ranges) = self.timeouts.take_due(now) {
            for (first, count) in ranges {
                expired.extend(self.window.extract(first, first + count, |slot| slot.deadline() <= now));
                // What is still in flight was touched, or delivered again: it has a later deadline.
                let later = self.window.range(first, first + count);
                let later: Vec<_> = later.map(|(at, slot)| (at, slot.deadline())).collect();
                later.into_iter().for_each(|(sequence, deadline)| self.timeouts.add(deadline, sequence, 1));
            }
        }
        expired
    }

    /// When [`Self::expire`] has something to do next, node time in ms.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.timeouts.next()
    }

    /// Takes everything out.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Notes a deadline. Bounded: entries whose messages are long finished are dropped when they outnumber
    /// the messages in flight.
    fn note(&mut self, deadline: u64, first: u64, count: u64) {
        self.timeouts.add(deadline, first, count);
        if self.timeouts.len() as u64 > 4 * self.window.len() + 4096 {
            self.timeouts.clear();
            let live: Vec<_> = self.window.iter().map(|(at, slot)| (slot.deadline(), at)).collect();
            live.into_iter().for_each(|(deadline, at)| self.timeouts.add(deadline, at, 1));
        }
    }
}
