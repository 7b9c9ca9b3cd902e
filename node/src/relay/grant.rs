//! The credit of one link, seen from the side that gives it. Pure.

use bruit_wire::relay::{Ask, InvalidRelay};

/// What an owner may send over a link, and what has come.
#[derive(Debug, Default)]
pub(super) struct Grant {
    serial: u32,
    /// The highest limit that the owner may act on.
    limit: u64,
    /// Messages that have come.
    received: u64,
    /// A lower limit that the owner was asked to keep to and has not confirmed, by its serial.
    lowering: Option<u32>,
    /// The time-out that was sent last, ms.
    timeout: u32,
}

impl Grant {
    /// Messages that may come yet.
    pub(super) const fn outstanding(&self) -> u64 {
        self.limit - self.received
    }

    /// Messages that have come.
    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    /// Whether an answer to a lower limit is awaited. Until it comes nothing else can be asked.
    pub(super) const fn is_lowering(&self) -> bool {
        self.lowering.is_some()
    }

    /// Counts messages that have come.
    ///
    /// # Errors
    /// They are more than were allowed.
    pub(super) fn receive(&mut self, count: u64) -> Result<(), InvalidRelay> {
        if count > self.outstanding() {
            return Err(InvalidRelay);
        }
        self.received += count;
        Ok(())
    }

    /// Allows `outstanding` messages; as many as now, or more.
    pub(super) fn raise(&mut self, outstanding: u64, timeout: u32) -> Option<Ask> {
        if self.is_lowering() || (outstanding <= self.outstanding() && timeout == self.timeout) {
            return None;
        }
        self.limit = self.limit.max(self.received + outstanding);
        Some(self.ask(self.limit, timeout))
    }

    /// Asks to have no more than `outstanding` messages sent. What was allowed before counts until the owner
    /// has confirmed.
    pub(super) fn lower(&mut self, outstanding: u64, timeout: u32) -> Option<Ask> {
        if self.is_lowering() || outstanding >= self.outstanding() {
            return None;
        }
        let ask = self.ask(self.received + outstanding, timeout);
        self.lowering = Some(self.serial);
        Some(ask)
    }

    /// Takes the owner's word for the limit that holds.
    ///
    /// # Errors
    /// It cannot be: lower than what has come, or higher than what was allowed.
    pub(super) fn confirm(&mut self, serial: u32, limit: u64) -> Result<(), InvalidRelay> {
        if self.lowering != Some(serial) {
            return Ok(());
        }
        if !(self.received..=self.limit).contains(&limit) {
            return Err(InvalidRelay);
        }
        self.limit = limit;
        self.lowering = None;
        Ok(())
    }

    fn ask(&mut self, limit: u64, timeout: u32) -> Ask {
        self.serial = self.serial.wrapping_add(1);
        self.timeout = timeout;
        Ask::Credit { serial: self.serial, limit, timeout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_limit_counts_once_it_is_confirmed() {
        let mut grant = Grant::default();
        assert_eq!(grant.raise(10, 5), Some(Ask::Credit { serial: 1, limit: 10, timeout: 5 }));
        grant.receive(3).unwrap();
        assert_eq!(grant.lower(2, 5), Some(Ask::Credit { serial: 2, limit: 5, timeout: 5 }));
        assert_eq!(grant.outstanding(), 7, "they may be on their way");
        assert_eq!((grant.raise(100, 5), grant.lower(0, 5)), (None, None));
        grant.receive(4).unwrap();
        grant.confirm(1, 10).unwrap();
        assert!(grant.is_lowering(), "that was the answer to something else");
        grant.confirm(2, 7).unwrap();
        assert_eq!((grant.outstanding(), grant.is_lowering()), (0, false));
        assert_eq!(grant.raise(1, 5), Some(Ask::Credit { serial: 3, limit: 8, timeout: 5 }));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut grant = Grant::default();
        assert_eq!(grant.receive(1), Err(InvalidRelay));
        grant.raise(4, 5);
        grant.receive(2).unwrap();
        grant.lower(0, 5);
        assert_eq!(grant.confirm(2, 1), Err(InvalidRelay));
        assert_eq!(grant.confirm(2, 5), Err(InvalidRelay));
    }

    #[test]
    fn another_time_out_is_told_and_nothing_is_told_twice() {
        let mut grant = Grant::default();
        assert!(grant.raise(4, 5).is_some());
        assert_eq!(grant.raise(4, 5), None);
        assert_eq!(grant.raise(0, 6), Some(Ask::Credit { serial: 2, limit: 4, timeout: 6 }));
    }
}
