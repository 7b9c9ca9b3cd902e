//! What can be wrong with a disk, and for how long.

use std::{io, time::Duration};

use crate::dice::Dice;

/// How often an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failing {
    /// Not at all.
    #[default]
    Never,
    /// The next time only.
    Once,
    /// Until told otherwise.
    Always,
    /// So many times in a thousand.
    PerMille(u64),
}

impl Failing {
    /// Whether this time is one of them.
    pub fn strikes(&mut self, dice: &mut Dice) -> bool {
        match *self {
            Self::Never => false,
            Self::Once => {
                *self = Self::Never;
                true
            }
            Self::Always => true,
            Self::PerMille(times) => dice.chance(times),
        }
    }
}

/// How long operations take, milliseconds. Nothing happens in real time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Of a thousand operations, how many take any time at all.
    pub per_mille: u64,
    /// The longest that a read or write takes.
    pub transfer_millis: u64,
    /// The longest that a sync takes.
    pub sync_millis: u64,
}

impl Pace {
    /// An ordinary disk. It takes a little time now and then, so that others get in between.
    pub const USUAL: Self = Self { per_mille: 300, transfer_millis: 1, sync_millis: 2 };

    pub(super) fn transfer(self, dice: &mut Dice) -> Duration {
        self.delay(dice, self.transfer_millis)
    }

    pub(super) fn sync(self, dice: &mut Dice) -> Duration {
        self.delay(dice, self.sync_millis)
    }

    fn delay(self, dice: &mut Dice, longest: u64) -> Duration {
        if dice.chance(self.per_mille) { dice.millis(1, longest) } else { Duration::ZERO }
    }
}

/// Everything that is wrong with the disk at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// Syncs of files and directories that fail.
    pub sync: Failing,
    /// Writes that fail.
    pub write: Failing,
    /// Reads that fail.
    pub read: Failing,
    /// Room for files, bytes; `None` is plenty.
    pub capacity: Option<u64>,
    /// Speed.
    pub pace: Pace,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            sync: Failing::Never,
            write: Failing::Never,
            read: Failing::Never,
            capacity: None,
            pace: Pace::USUAL,
        }
    }
}

/// `EIO`, as the kernel reports it.
pub(super) fn input_output_error() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// `ENOSPC`, whose kind is [`io::ErrorKind::StorageFull`].
pub(super) fn storage_full() -> io::Error {
    io::Error::from_raw_os_error(28)
}

/// What a handle of a process that is no more gets: nothing can observe it.
pub(super) fn stale_handle() -> io::Error {
    io::Error::from_raw_os_error(116)
}
