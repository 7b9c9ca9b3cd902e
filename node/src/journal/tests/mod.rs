//! Tests of the journal as a whole: a disk in memory whose writes can be made to fail, and a small vocabulary
//! for records that owns its content.

mod format;
mod opening;
mod records;
mod replays;
mod writing;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bruit_wire::{MessageId, nsq};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::record::{Held, NewRecord, Op, Span};
use crate::env::{AlignedBuf, BoxFut, DirEntry, DirLock, Disk, DiskFile, Entropy, Env, Open, real};

/// A record that owns its content; the frames of messages follow from their numbers.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Messages { topic: &'static str, first: u64, count: u32, due: u64 },
    Finished { topic: &'static str, channel: &'static str, spans: Vec<Span> },
    Requeued { topic: &'static str, channel: &'static str, held: Vec<Held> },
    Control { topic: &'static str, channel: &'static str, op: Op, number: u64, a: u64, b: u64 },
}

impl Entry {
    /// Shows `use_it` the record to write.
    pub(super) fn with<T>(&self, use_it: impl FnOnce(&NewRecord<'_>) -> T) -> T {
        match self {
            &Self::Messages { topic, first, count, due } => {
                let frames = frames(topic, first, count);
                use_it(&NewRecord::Messages { topic, span: Span { first, count }, due, frames: &frames })
            }
            Self::Finished { topic, channel, spans } => {
                use_it(&NewRecord::Finished { topic, channel, spans })
            }
            Self::Requeued { topic, channel, held } => use_it(&NewRecord::Requeued { topic, channel, held }),
            &Self::Control { topic, channel, op, number, a, b } => {
                use_it(&NewRecord::Control { topic, channel, op, number, a, b })
            }
        }
    }
}

/// The message `sequence` of `topic`: of a length that differs from its neighbours'.
pub(super) fn body(topic: &str, sequence: u64) -> Vec<u8> {
    let filler = "x".repeat(usize::try_from(sequence * 7 % 60).unwrap());
    format!("{topic} {sequence} {filler}").into_bytes()
}

pub(super) fn frames(topic: &str, first: u64, count: u32) -> BytesMut {
    let mut frames = BytesMut::new();
    for sequence in first..first + u64::from(count) {
        nsq::put_message(&mut frames, 0, 1, MessageId::new(7, sequence), &body(topic, sequence));
    }
    frames
}

/// What goes wrong, and when.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// So many writes succeed; then one fails, and none after it.
    pub(super) writes_left: Option<u64>,
    /// The write that fails leaves this many of its bytes behind, and they are wrong.
    pub(super) torn: usize,
    /// So many renames succeed; then one fails, and none after it.
    pub(super) renames_left: Option<u64>,
    /// Bytes by which files may still grow.
    pub(super) room: Option<u64>,
}

/// Takes one of what is left; fails once there is none, and stops counting.
fn count_down(left: &mut Option<u64>) -> io::Result<()> {
    match left {
        Some(0) => {
            *left = None;
            Err(io::Error::other("the disk failed"))
        }
        Some(more) => {
            *more -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

type Content = Arc<Mutex<Vec<u8>>>;

/// Files in memory, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct MemoryDisk {
    files: Arc<Mutex<BTreeMap<String, Content>>>,
    pub(super) faults: Arc<Mutex<Faults>>,
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

impl MemoryDisk {
    /// A disk that holds copies of `files`.
    pub(super) fn of(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let copies = files.iter().map(|(name, bytes)| (name.clone(), Arc::new(Mutex::new(bytes.clone()))));
        Self { files: Arc::new(Mutex::new(copies.collect())), faults: Arc::default() }
    }

    /// What it holds now.
    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.files.lock().iter().map(|(name, content)| (name.clone(), content.lock().clone())).collect()
    }

    /// A world whose disk is this one.
    pub(super) fn env(&self) -> Env {
        let entropy = Arc::new(Counting(AtomicU64::new(0x5eed)));
        Env { disk: Arc::new(self.clone()), entropy, ..real::env(Handle::current(), Handle::current()) }
    }
}

/// Draws other numbers each time, and the same ones in each run.
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let count = self.0.fetch_add(1, Ordering::Relaxed);
            chunk.copy_from_slice(&count.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[..chunk.len()]);
        }
    }
}

impl Disk for MemoryDisk {
    fn open<'a>(&'a self, path: &'a Path, how: Open) -> BoxFut<'a, io::Result<Arc<dyn DiskFile>>> {
        Box::pin(async move {
            let mut files = self.files.lock();
            let known = files.get(&name_of(path)).cloned();
            let content = match known {
                Some(content) => content,
                None if how == Open::Write || how == Open::Direct => {
                    Arc::clone(files.entry(name_of(path)).or_default())
                }
                None => return Err(io::ErrorKind::NotFound.into()),
            };
            let file: Arc<dyn DiskFile> = Arc::new(MemoryFile { content, faults: Arc::clone(&self.faults) });
            Ok(file)
        })
    }

    fn list<'a>(&'a self, _dir: &'a Path) -> BoxFut<'a, io::Result<Vec<DirEntry>>> {
        let files = self.files.lock();
        let entry = |(name, content): (&String, &Content)| DirEntry {
            name: name.clone(),
            len: content.lock().len() as u64,
        };
        let entries = files.iter().map(entry).collect();
        Box::pin(async move { Ok(entries) })
    }

    fn create_dir_all<'a>(&'a self, _dir: &'a Path) -> BoxFut<'a, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFut<'a, io::Result<()>> {
        Box::pin(async move {
            count_down(&mut self.faults.lock().renames_left)?;
            let mut files = self.files.lock();
            let content = files.remove(&name_of(from)).ok_or(io::ErrorKind::NotFound)?;
            files.insert(name_of(to), content);
            Ok(())
        })
    }

    fn remove<'a>(&'a self, path: &'a Path) -> BoxFut<'a, io::Result<()>> {
        let removed = self.files.lock().remove(&name_of(path));
        Box::pin(async move { removed.map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into()) })
    }

    fn sync_dir<'a>(&'a self, _dir: &'a Path) -> BoxFut<'a, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn lock(&self, _path: PathBuf) -> BoxFut<'_, io::Result<Box<dyn DirLock>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn free_bytes<'a>(&'a self, _dir: &'a Path) -> BoxFut<'a, io::Result<u64>> {
        Box::pin(async { Ok(u64::MAX) })
    }
}

struct MemoryFile {
    content: Content,
    faults: Arc<Mutex<Faults>>,
}

impl MemoryFile {
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut faults = self.faults.lock();
        let mut content = self.content.lock();
        let start = usize::try_from(offset).unwrap();
        let end = start + data.len();
        if let Err(error) = count_down(&mut faults.writes_left) {
            let torn = faults.torn.min(content.len().saturating_sub(start));
            content[start..start + torn].fill(0xdd);
            return Err(error);
        }
        let growth = end.saturating_sub(content.len());
        if let Some(room) = &mut faults.room {
            *room = room.checked_sub(growth as u64).ok_or(io::ErrorKind::StorageFull)?;
        }
        let len = content.len().max(end);
        content.resize(len, 0);
        content[start..end].copy_from_slice(data);
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn write_at(
        &self,
        offset: u64,
        data: AlignedBuf,
        _sync: bool,
    ) -> BoxFut<'_, (AlignedBuf, io::Result<()>)> {
        let outcome = self.write(offset, data.as_slice());
        Box::pin(async move { (data, outcome) })
    }

    fn read_at(&self, offset: u64, len: usize) -> BoxFut<'_, io::Result<Bytes>> {
        let content = self.content.lock();
        let start = usize::try_from(offset).unwrap().min(content.len());
        let end = start.saturating_add(len).min(content.len());
        let bytes = Bytes::copy_from_slice(&content[start..end]);
        Box::pin(async move { Ok(bytes) })
    }

    fn sync(&self) -> BoxFut<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn set_len(&self, len: u64) -> BoxFut<'_, io::Result<()>> {
        self.content.lock().resize(usize::try_from(len).unwrap(), 0);
        Box::pin(async { Ok(()) })
    }

    fn size(&self) -> BoxFut<'_, io::Result<u64>> {
        let len = self.content.lock().len() as u64;
        Box::pin(async move { Ok(len) })
    }
}
