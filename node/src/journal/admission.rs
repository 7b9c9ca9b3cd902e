//! Whether publishes are taken at the moment, and if not, why.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

/// Why a publish or a change was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The node is stopping, or the topic is being deleted.
    Exiting,
    /// The file system has less room than the node keeps free. Deliveries go on; publishes are taken again
    /// by themselves once there is room.
    DiskFull,
    /// There are as many topics, or channels of this topic, as there may be.
    TooMany(&'static str),
    /// The disk failed; the text is what it said. What was refused is not acknowledged, but may still arrive.
    Failed(Arc<str>),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exiting => f.write_str("exiting"),
            Self::DiskFull => f.write_str("disk full: free some space, or lower --min-free-disk"),
            Self::TooMany(what) => write!(f, "too many {what}: delete some, or raise --max-{what}"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refused {}

/// Asked before every publish; one relaxed load when all is well.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    refusing: AtomicBool,
    reasons: Mutex<Reasons>,
}

#[derive(Debug, Default)]
struct Reasons {
    exiting: bool,
    disk_full: bool,
    failed: Option<Arc<str>>,
}

impl Admission {
    /// Takes a publish or says why not.
    ///
    /// # Errors
    /// The reason that holds at the moment.
    pub(crate) fn check(&self) -> Result<(), Refused> {
        if !self.refusing.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.reasons.lock().current().map_or(Ok(()), Err)
    }

    /// As [`Self::check`], for what needs no room on the disk.
    ///
    /// # Errors
    /// The node is stopping, or the journal cannot be written: batches then wait for it.
    pub(crate) fn check_running(&self) -> Result<(), Refused> {
        self.check().or_else(|why| if why == Refused::DiskFull { Ok(()) } else { Err(why) })
    }

    /// The reason for which publishes are refused, if they are.
    pub(crate) fn refusal(&self) -> Option<Refused> {
        self.check().err()
    }

    /// From now on everything is refused.
    pub(crate) fn exit(&self) {
        self.change(|reasons| reasons.exiting = true);
    }

    /// The file system has too little room, or has enough again.
    pub(crate) fn set_disk_full(&self, full: bool) {
        self.change(|reasons| {
            if reasons.disk_full != full {
                if full {
                    tracing::error!("disk full: publishes are refused until there is room");
                } else {
                    tracing::info!("there is room on the disk again: publishes are taken");
                }
            }
            reasons.disk_full = full;
        });
    }

    /// The disk failed, or has written again.
    pub(crate) fn set_failed(&self, why: Option<Arc<str>>) {
        self.change(|reasons| reasons.failed = why);
    }

    fn change(&self, change: impl FnOnce(&mut Reasons)) {
        let mut reasons = self.reasons.lock();
        change(&mut reasons);
        self.refusing.store(reasons.current().is_some(), Ordering::Relaxed);
    }
}

impl Reasons {
    fn current(&self) -> Option<Refused> {
        if self.exiting {
            return Some(Refused::Exiting);
        }
        match &self.failed {
            Some(why) => Some(Refused::Failed(Arc::clone(why))),
            None => self.disk_full.then_some(Refused::DiskFull),
        }
    }
}
