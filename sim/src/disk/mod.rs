//! A disk that forgets what was not synced, fails when told to, and outlives the processes that use it.
//!
//! Each file has two images, the page cache's and the platter's. A crash of the process leaves the cache; a
//! power loss leaves the platter and, sector by sector, what the dice say had already reached it. Names are
//! durable only after their directory was synced. A write or sync that takes time can be caught in the
//! middle, and [`SimDisk::freeze_after`] stops everything at the n-th operation, so that a crash can fall
//! between any two operations of whatever the node does, recovery included.

mod fault;
mod inode;
mod mount;
mod names;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

pub use self::{
    fault::{Failing, Faults, Pace},
    inode::{Inode, SECTOR, Snapshot},
    mount::Mount,
    names::{InodeId, Names},
};
use crate::{dice::Dice, trace::Trace};

/// One machine's disk. Cheap to clone; all clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

/// What has been done to the disk and by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wear {
    /// Operations begun.
    pub operations: u64,
    /// Syncs of files that worked.
    pub syncs: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Writes that failed.
    pub failed_writes: u64,
    /// Writes that found no room.
    pub refused_writes: u64,
    /// Sectors that power losses found unsynced.
    pub unsynced_sectors: u64,
    /// Files made, by creation or under a new name.
    pub files_made: u64,
    /// Files removed.
    pub files_removed: u64,
}

impl Wear {
    /// Adds what was done to another disk.
    pub fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.syncs += other.syncs;
        self.failed_syncs += other.failed_syncs;
        self.failed_writes += other.failed_writes;
        self.refused_writes += other.refused_writes;
        self.unsynced_sectors += other.unsynced_sectors;
        self.files_made += other.files_made;
        self.files_removed += other.files_removed;
    }
}

/// A bit that was flipped at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// The file.
    pub path: PathBuf,
    /// Where in it, bytes.
    pub offset: usize,
    /// What the file held before.
    pub content: Vec<u8>,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    names: Names,
    inodes: BTreeMap<InodeId, Inode>,
    next_inode: InodeId,
    locks: BTreeMap<PathBuf, u64>,
    /// Writes that have begun and not ended: a crash leaves any part of them.
    writing: BTreeMap<u64, Writing>,
    faults: Faults,
    /// Counts the processes that have used the disk; a handle of an earlier one is dead.
    epoch: u64,
    freeze_at: Option<u64>,
    frozen: bool,
    wear: Wear,
}

#[derive(Debug)]
struct Writing {
    inode: InodeId,
    offset: usize,
    data: Vec<u8>,
}

impl SimDisk {
    /// An empty disk on which the operator has made `data_path`.
    #[must_use]
    pub fn new(dice: Dice, trace: Trace, data_path: &Path) -> Self {
        let mut names = Names::default();
        names.prepare_dir(data_path);
        let state = State {
            dice,
            names,
            inodes: BTreeMap::new(),
            next_inode: 1,
            locks: BTreeMap::new(),
            writing: BTreeMap::new(),
            faults: Faults::default(),
            epoch: 0,
            freeze_at: None,
            frozen: false,
            wear: Wear::default(),
        };
        Self { state: Arc::new(Mutex::new(state)), trace }
    }

    /// The disk as the current process sees it.
    #[must_use]
    pub fn mount(&self) -> Mount {
        Mount::new(self.clone(), self.state.lock().epoch)
    }

    /// Changes what is wrong with the disk.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        let mut state = self.state.lock();
        change(&mut state.faults);
        self.trace.event(format_args!("disk faults {:?}", state.faults));
    }

    /// Stops the disk for good at the `operations`-th operation from now, until the next crash.
    pub fn freeze_after(&self, operations: u64) {
        let mut state = self.state.lock();
        state.freeze_at = Some(state.wear.operations + operations.max(1));
    }

    /// Takes back [`SimDisk::freeze_after`], unless the disk is frozen already.
    pub fn thaw(&self) {
        self.state.lock().freeze_at = None;
    }

    /// True once the operation has come at which the disk was to freeze.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.state.lock().frozen
    }

    /// The process is killed: what it wrote stays in the page cache, a write that it was in the middle of
    /// is done in part, its handles and locks are dead.
    pub fn crash_process(&self) {
        let mut state = self.state.lock();
        state.end_process();
        self.trace.event(format_args!("disk process crash"));
    }

    /// The power goes: only what was synced is sure to be left.
    pub fn lose_power(&self) {
        let mut state = self.state.lock();
        state.end_process();
        let State { dice, names, inodes, wear, .. } = &mut *state;
        names.lose_power(dice);
        let reachable = names.reachable();
        inodes.retain(|id, _| reachable.contains(id));
        for inode in inodes.values_mut() {
            wear.unsynced_sectors += inode.unsynced_sectors() as u64;
            inode.lose_power(dice);
        }
        self.trace.event(format_args!("disk power loss {:?}", state.wear));
    }

    /// Flips one bit at rest, in a part of a file that is not all zeros, and says where. `None` when nothing
    /// is stored. Only files whose names have an extension are hit: the node's identity, which has none, is
    /// refused with advice when it is damaged, and that is for a person to read. Only while no process is running: a running one may have the sector in its cache.
    pub fn flip(&self) -> Option<Flip> {
        let mut state = self.state.lock();
        let State { dice, names, inodes, .. } = &mut *state;
        let files: Vec<(&Path, InodeId)> =
            names.files().filter(|(path, _)| path.extension().is_some()).collect();
        for _ in 0..64 {
            let (path, id) = *dice.pick(&files)?;
            let Some(inode) = inodes.get_mut(&id) else { continue };
            let offset = usize::try_from(dice.below(inode.len() as u64)).unwrap_or(0);
            let sector = offset / SECTOR * SECTOR;
            let cache = inode.cache();
            if cache.get(sector..(sector + SECTOR).min(cache.len())).is_none_or(|s| s.iter().all(|&b| b == 0))
            {
                continue;
            }
            let content = cache.to_vec();
            let bit = u8::try_from(dice.below(8)).unwrap_or(0);
            inode.flip(offset, bit);
            self.trace.event(format_args!("disk flip {} at {offset} bit {bit}", path.display()));
            return Some(Flip { path: path.to_owned(), offset, content });
        }
        None
    }

    /// Bytes that the files take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// The files and their lengths, as a process sees them.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, usize)> {
        let state = self.state.lock();
        let len = |id| state.inodes.get(&id).map_or(0, Inode::len);
        state.names.files().map(|(path, id)| (path.to_owned(), len(id))).collect()
    }

    /// Operations that failed so far.
    #[must_use]
    pub fn failures(&self) -> u64 {
        let wear = self.wear();
        wear.failed_syncs + wear.failed_writes + wear.refused_writes
    }

    /// What has been done to the disk so far.
    #[must_use]
    pub fn wear(&self) -> Wear {
        self.state.lock().wear
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        let len = |id| self.inodes.get(&id).map_or(0, |inode| inode.len() as u64);
        self.names.files().map(|(_, id)| len(id)).sum()
    }

    fn end_process(&mut self) {
        self.epoch += 1;
        self.locks.clear();
        self.frozen = false;
        self.freeze_at = None;
        for (_, writing) in std::mem::take(&mut self.writing) {
            let data = writing.data;
            let done = match self.dice.below(3) {
                0 => 0,
                1 => data.len(),
                _ => usize::try_from(self.dice.below(data.len() as u64)).unwrap_or(0) / SECTOR * SECTOR,
            };
            if let Some(inode) = self.inodes.get_mut(&writing.inode) {
                inode.write(writing.offset, &data[..done]);
            }
        }
        let reachable = self.names.reachable();
        self.inodes.retain(|id, _| reachable.contains(id));
    }
}
