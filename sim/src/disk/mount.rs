//! The disk as one process sees it: the node's `Disk` and `DiskFile`, with time, chance and faults.

use std::{
    future::{Future, pending},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bruit::env::{ALIGNMENT, AlignedBuf, BoxFut, DirEntry, DirLock, Disk, DiskFile, Open};
use bytes::Bytes;

use super::{
    SimDisk, State, Writing,
    fault::{input_output_error, stale_handle, storage_full},
    names::InodeId,
};
use crate::dice::digest;

/// What a process gets as its disk. Dead as soon as the process is.
#[derive(Debug, Clone)]
pub struct Mount {
    disk: SimDisk,
    epoch: u64,
}

/// An operation, as the trace shows it.
#[derive(Debug)]
#[expect(dead_code, reason = "the fields are there for the trace, which prints them with Debug")]
enum Op<'a> {
    Open(&'a Path, Open),
    List(&'a Path),
    MakeDir(&'a Path),
    Rename(&'a Path, &'a Path),
    Remove(&'a Path),
    SyncDir(&'a Path),
    Lock,
    FreeBytes,
    Write { file: InodeId, offset: usize, len: usize, digest: u64 },
    Sync(InodeId),
    Read { file: InodeId, offset: u64, len: usize },
    SetLen { file: InodeId, len: u64 },
    Size(InodeId),
}

/// Where in an operation the disk stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freeze {
    /// It does not.
    Not,
    /// In the middle: a write is done in any part, of anything else nothing is done.
    MidEffect,
    /// The operation's effect is there, its answer never comes.
    AfterEffect,
}

impl Mount {
    pub(super) fn new(disk: SimDisk, epoch: u64) -> Self {
        Self { disk, epoch }
    }

    /// Begins an operation: counts it, traces it, and never returns when the disk stands still before it.
    async fn begin(&self, op: Op<'_>) -> io::Result<Freeze> {
        let freeze = {
            let mut state = self.state()?;
            state.wear.operations += 1;
            self.disk.trace.event(format_args!("disk {op:?}"));
            let now = state.freeze_at.is_some_and(|at| state.wear.operations >= at);
            let already = state.frozen;
            state.frozen |= now;
            match (already, now) {
                (true, _) => None,
                (false, true) if state.dice.chance(500) => Some(Freeze::AfterEffect),
                (false, true) => Some(Freeze::MidEffect),
                (false, false) => Some(Freeze::Not),
            }
        };
        match freeze {
            Some(freeze) => Ok(freeze),
            None => pending().await,
        }
    }

    /// Lets the time pass that the operation takes; never returns when the disk froze meanwhile.
    async fn take(&self, delay: Duration, freeze: Freeze) {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if freeze == Freeze::MidEffect || (freeze == Freeze::Not && self.disk.is_frozen()) {
            pending::<()>().await;
        }
    }

    /// The state, as long as the process lives that this handle belongs to.
    fn state(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.disk.state.lock();
        if state.epoch == self.epoch { Ok(state) } else { Err(stale_handle()) }
    }

    /// An operation that takes no time of its own: names and lengths.
    async fn quick<T>(&self, op: Op<'_>, effect: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let freeze = self.begin(op).await?;
        self.take(Duration::ZERO, freeze).await;
        let result = effect(&mut *self.state()?);
        freeze.hold().await;
        result
    }
}

impl Freeze {
    async fn hold(self) {
        if self == Self::AfterEffect {
            pending::<()>().await;
        }
    }
}

impl Disk for Mount {
    fn open<'a>(&'a self, path: &'a Path, how: Open) -> BoxFut<'a, io::Result<Arc<dyn DiskFile>>> {
        boxed(async move {
            let found = self.quick(Op::Open(path, how), |state| state.open(path, how));
            let inode = found.await?;
            let file = File { mount: self.clone(), inode, how };
            Ok(Arc::new(file) as Arc<dyn DiskFile>)
        })
    }

    fn list<'a>(&'a self, dir: &'a Path) -> BoxFut<'a, io::Result<Vec<DirEntry>>> {
        boxed(self.quick(Op::List(dir), move |state| {
            if !state.names.is_dir(dir) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let entry = |(path, id): (&Path, InodeId)| DirEntry {
                name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                len: state.inodes.get(&id).map_or(0, |inode| inode.len() as u64),
            };
            Ok(state.names.files_in(dir).map(entry).collect())
        }))
    }

    fn create_dir_all<'a>(&'a self, dir: &'a Path) -> BoxFut<'a, io::Result<()>> {
        boxed(self.quick(Op::MakeDir(dir), move |state| {
            state.names.make_dir(dir);
            Ok(())
        }))
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFut<'a, io::Result<()>> {
        boxed(async move {
            let effect = |state: &mut State| {
                state.wear.files_made += 1;
                found(state.names.rename(from, to))
            };
            self.quick(Op::Rename(from, to), effect).await
        })
    }

    fn remove<'a>(&'a self, path: &'a Path) -> BoxFut<'a, io::Result<()>> {
        boxed(async move {
            let effect = |state: &mut State| {
                state.wear.files_removed += 1;
                found(state.names.unlink(path))
            };
            self.quick(Op::Remove(path), effect).await
        })
    }

    fn sync_dir<'a>(&'a self, dir: &'a Path) -> BoxFut<'a, io::Result<()>> {
        boxed(async move {
            let freeze = self.begin(Op::SyncDir(dir)).await?;
            let delay = {
                let mut state = self.state()?;
                let pace = state.faults.pace;
                pace.sync(&mut state.dice)
            };
            self.take(delay, freeze).await;
            {
                let mut state = self.state()?;
                if state.strikes(|faults| &mut faults.sync) {
                    state.wear.failed_syncs += 1;
                    return Err(input_output_error());
                }
                state.names.sync_dir(dir);
            }
            freeze.hold().await;
            Ok(())
        })
    }

    fn lock(&self, path: PathBuf) -> BoxFut<'_, io::Result<Box<dyn DirLock>>> {
        boxed(async move {
            let effect = |state: &mut State| {
                if state.locks.contains_key(&path) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                state.locks.insert(path.clone(), state.epoch);
                Ok(())
            };
            self.quick(Op::Lock, effect).await?;
            Ok(Box::new(Lock { mount: self.clone(), path }) as Box<dyn DirLock>)
        })
    }

    fn free_bytes<'a>(&'a self, _dir: &'a Path) -> BoxFut<'a, io::Result<u64>> {
        boxed(self.quick(Op::FreeBytes, |state| Ok(state.free_bytes())))
    }
}

struct Lock {
    mount: Mount,
    path: PathBuf,
}

impl DirLock for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        // After a crash the lock was already released, perhaps taken by the next process: not ours.
        if let Ok(mut state) = self.mount.state() {
            state.locks.remove(&self.path);
        }
    }
}

struct File {
    mount: Mount,
    inode: InodeId,
    how: Open,
}

impl File {
    fn effect<T>(&self, effect: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        effect(&mut *self.mount.state()?)
    }

    async fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.how == Open::Direct {
            let block = ALIGNMENT as u64;
            assert!(offset.is_multiple_of(block), "direct write at {offset}");
            assert!((data.len() as u64).is_multiple_of(block), "direct write of {} bytes", data.len());
        }
        if !self.how.writes() {
            return Err(io::Error::from_raw_os_error(9));
        }
        let offset = usize::try_from(offset).map_err(|_| storage_full())?;
        let op = Op::Write { file: self.inode, offset, len: data.len(), digest: digest(data) };
        let freeze = self.mount.begin(op).await?;
        let (ticket, delay) = self.effect(|state| {
            let delay = state.faults.pace.transfer(&mut state.dice);
            let ticket = state.wear.operations;
            if !delay.is_zero() || freeze == Freeze::MidEffect {
                state.writing.insert(ticket, Writing { inode: self.inode, offset, data: data.to_vec() });
            }
            Ok((ticket, delay))
        })?;
        self.mount.take(delay, freeze).await;
        self.effect(|state| {
            state.writing.remove(&ticket);
            state.write(self.inode, offset, data)
        })?;
        freeze.hold().await;
        Ok(())
    }

    async fn sync_data(&self) -> io::Result<()> {
        let freeze = self.mount.begin(Op::Sync(self.inode)).await?;
        let (snapshot, delay) = self.effect(|state| {
            let delay = state.faults.pace.sync(&mut state.dice);
            Ok((state.inodes.get(&self.inode).map(super::Inode::begin_sync), delay))
        })?;
        self.mount.take(delay, freeze).await;
        self.effect(|state| {
            let failed = state.strikes(|faults| &mut faults.sync);
            let State { dice, inodes, wear, .. } = state;
            let (Some(inode), Some(snapshot)) = (inodes.get_mut(&self.inode), snapshot) else {
                return Ok(());
            };
            if failed {
                wear.failed_syncs += 1;
                inode.fail_sync(&snapshot, dice);
                self.mount.disk.trace.event(format_args!("disk sync {} failed", self.inode));
                return Err(input_output_error());
            }
            wear.syncs += 1;
            inode.finish_sync(&snapshot);
            Ok(())
        })?;
        freeze.hold().await;
        Ok(())
    }
}

impl DiskFile for File {
    fn write_at(
        &self,
        offset: u64,
        data: AlignedBuf,
        sync: bool,
    ) -> BoxFut<'_, (AlignedBuf, io::Result<()>)> {
        boxed(async move {
            let mut result = self.write(offset, data.as_slice()).await;
            if sync && result.is_ok() {
                result = self.sync_data().await;
            }
            (data, result)
        })
    }

    fn read_at(&self, offset: u64, len: usize) -> BoxFut<'_, io::Result<Bytes>> {
        boxed(async move {
            let op = Op::Read { file: self.inode, offset, len };
            let freeze = self.mount.begin(op).await?;
            let delay = self.effect(|state| Ok(state.faults.pace.transfer(&mut state.dice)))?;
            self.mount.take(delay, freeze).await;
            let bytes = self.effect(|state| {
                if state.strikes(|faults| &mut faults.read) {
                    return Err(input_output_error());
                }
                let cache = state.inodes.get(&self.inode).map_or(&[][..], super::Inode::cache);
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(cache.len());
                Ok(Bytes::copy_from_slice(&cache[start..start.saturating_add(len).min(cache.len())]))
            })?;
            freeze.hold().await;
            Ok(bytes)
        })
    }

    fn sync(&self) -> BoxFut<'_, io::Result<()>> {
        boxed(self.sync_data())
    }

    fn set_len(&self, len: u64) -> BoxFut<'_, io::Result<()>> {
        boxed(async move {
            let effect =
                |state: &mut State| state.set_len(self.inode, usize::try_from(len).unwrap_or(usize::MAX));
            self.mount.quick(Op::SetLen { file: self.inode, len }, effect).await
        })
    }

    fn size(&self) -> BoxFut<'_, io::Result<u64>> {
        let inode = self.inode;
        boxed(self.mount.quick(Op::Size(inode), move |state| {
            Ok(state.inodes.get(&inode).map_or(0, |inode| inode.len() as u64))
        }))
    }
}

impl State {
    fn strikes(&mut self, which: impl FnOnce(&mut super::Faults) -> &mut super::Failing) -> bool {
        which(&mut self.faults).strikes(&mut self.dice)
    }

    fn free_bytes(&self) -> u64 {
        const PLENTY: u64 = 1 << 40;
        self.faults.capacity.map_or(PLENTY, |capacity| capacity.saturating_sub(self.used_bytes()))
    }

    fn open(&mut self, path: &Path, how: Open) -> io::Result<InodeId> {
        if let Some(inode) = self.names.find(path) {
            return Ok(inode);
        }
        if !how.writes() || !path.parent().is_some_and(|dir| self.names.is_dir(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.wear.files_made += 1;
        self.inodes.insert(inode, super::Inode::default());
        self.names.link(path, inode);
        Ok(inode)
    }

    /// Writes, or as much as fits before it reports that there is no room, as `write(2)` in a loop does.
    fn write(&mut self, inode: InodeId, offset: usize, data: &[u8]) -> io::Result<()> {
        if self.strikes(|faults| &mut faults.write) {
            let done = usize::try_from(self.dice.below(data.len() as u64 + 1)).unwrap_or(0);
            let done = done / super::SECTOR * super::SECTOR;
            self.inodes.entry(inode).or_default().write(offset, &data[..done]);
            self.wear.failed_writes += 1;
            return Err(input_output_error());
        }
        let free = usize::try_from(self.free_bytes()).unwrap_or(usize::MAX);
        let file = self.inodes.entry(inode).or_default();
        let room = file.len().saturating_add(free).saturating_sub(offset);
        if data.len() > room {
            file.write(offset, &data[..room / super::SECTOR * super::SECTOR]);
            self.wear.refused_writes += 1;
            return Err(storage_full());
        }
        file.write(offset, data);
        Ok(())
    }

    fn set_len(&mut self, inode: InodeId, len: usize) -> io::Result<()> {
        let free = usize::try_from(self.free_bytes()).unwrap_or(usize::MAX);
        let file = self.inodes.entry(inode).or_default();
        if len > file.len().saturating_add(free) {
            self.wear.refused_writes += 1;
            return Err(storage_full());
        }
        file.set_len(len);
        Ok(())
    }
}

fn found(found: bool) -> io::Result<()> {
    if found { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn boxed<'a, T>(future: impl Future<Output = T> + Send + 'a) -> BoxFut<'a, T> {
    Box::pin(future)
}
