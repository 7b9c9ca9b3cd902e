//! The segment files of a data directory: which there are, reading them, and the spare ones.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bruit_wire::TopicName;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    checkpoint::SealedSegment,
    index::Run,
    record::{Found, Record, Span, Walk},
    segment::{segment_name, spare_name},
};
use crate::env::{AlignedBuf, Disk, DiskFile, Env, Open};

/// Files that are kept open for reading; the one opened longest ago is closed for a new one.
const OPEN_MAX: usize = 64;
/// Prepared segments that are kept ahead of a busy writer. A node that writes little keeps none.
const SPARES_MAX: usize = 2;
/// Bytes that are zeroed in one write while a spare is prepared.
const FILL_STEP: usize = 1024 * 1024;

/// The segments of a data directory, shared by the writer, readers and reclaim.
pub(crate) struct Store {
    pub(super) env: Env,
    pub(super) dir: PathBuf,
    pub(crate) segment_size: u64,
    segments: Mutex<BTreeMap<u64, Known>>,
    readers: Mutex<VecDeque<(u64, Arc<dyn DiskFile>)>>,
    spares: Mutex<VecDeque<Spare>>,
    next_spare: AtomicU64,
    spares_wanted: AtomicUsize,
    /// Told when a spare was taken, so that another one is prepared.
    pub(super) spare_taken: Notify,
    damaged_records: AtomicU64,
    /// Held while a checkpoint is written: two may bear the same name.
    pub(super) checkpointing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    sealed: SealedSegment,
    /// False for the one that is being written.
    is_sealed: bool,
    len: u64,
}

/// A segment that nobody needs any more.
#[derive(Debug)]
pub(crate) struct Retired(Known);

/// A prepared file that holds nothing yet.
pub(super) struct Spare {
    pub(super) path: PathBuf,
    pub(super) len: u64,
}

/// Messages of one topic as they were read back: consecutive numbers, their due time, their frames.
#[derive(Debug, Clone)]
pub(crate) struct ReadBack {
    /// The sequence numbers.
    pub(crate) span: Span,
    /// Milliseconds since the epoch, 0 when not deferred.
    pub(crate) due: u64,
    /// The wire frames.
    pub(crate) frames: Bytes,
}

impl Store {
    pub(super) fn new(env: Env, dir: PathBuf, segment_size: u64) -> Self {
        Self {
            env,
            dir,
            segment_size,
            segments: Mutex::default(),
            readers: Mutex::default(),
            spares: Mutex::default(),
            next_spare: AtomicU64::new(1),
            spares_wanted: AtomicUsize::new(0),
            spare_taken: Notify::new(),
            damaged_records: AtomicU64::new(0),
            checkpointing: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.env.disk
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Takes note of a segment that is being written, or was.
    pub(super) fn add(&self, sealed: SealedSegment, is_sealed: bool, len: u64) {
        self.segments.lock().insert(sealed.number, Known { sealed, is_sealed, len });
    }

    /// The segments that are written no more, below `number`.
    pub(crate) fn sealed_below(&self, number: u64) -> Vec<SealedSegment> {
        let segments = self.segments.lock();
        segments.range(..number).filter(|(_, known)| known.is_sealed).map(|(_, known)| known.sealed).collect()
    }

    /// Number of segments, and bytes that their files take.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let segments = self.segments.lock();
        (segments.len() as u64, segments.values().map(|known| known.len).sum())
    }

    /// Records that were found damaged since the start, the recovery included.
    pub(crate) fn damaged_records(&self) -> u64 {
        self.damaged_records.load(Ordering::Relaxed)
    }

    /// Counts damage and names it in the log.
    pub(crate) fn note_damage(&self, what: &str) {
        self.damaged_records.fetch_add(1, Ordering::Relaxed);
        tracing::error!("journal damaged: {what}");
    }

    async fn reader(&self, number: u64) -> io::Result<(Arc<dyn DiskFile>, u64)> {
        let stamp = self.segments.lock().get(&number).map(|known| known.sealed.stamp);
        let stamp = stamp.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such segment"))?;
        let known =
            self.readers.lock().iter().find(|(open, _)| *open == number).map(|(_, file)| Arc::clone(file));
        if let Some(file) = known {
            return Ok((file, stamp));
        }
        // A backlog is read once by each channel: in the page cache it would cost a copy and displace others
        // (measured: a third of the CPU of a drain without it).
        let file = self.disk().open(&self.path(&segment_name(number)), Open::ReadDirect).await?;
        let mut readers = self.readers.lock();
        if readers.len() >= OPEN_MAX {
            readers.pop_front();
        }
        readers.push_back((number, Arc::clone(&file)));
        Ok((file, stamp))
    }

    /// Reads the messages of `topic` that lie in `run`. Damaged records are counted and left out.
    ///
    /// # Errors
    /// What the disk reports; the run is as it was.
    pub(crate) async fn read(&self, topic: &TopicName, run: &Run) -> io::Result<Vec<ReadBack>> {
        let (file, stamp) = self.reader(run.segment).await?;
        let bytes = file.read_at(u64::from(run.offset), run.len as usize).await?;
        // A segment may be let go while it is read; its file then holds something else.
        if !self.segments.lock().contains_key(&run.segment) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut found = Vec::new();
        let mut walk = Walk::new(&bytes, stamp, 0);
        for item in walk.by_ref() {
            match item {
                Found::Record { record: Record::Messages { topic: name, span, due, frames }, .. } => {
                    let wanted = span.first < run.span.end() && run.span.first < span.end();
                    if name == topic.as_str() && wanted {
                        found.push(ReadBack { span, due, frames: bytes.slice_ref(frames) });
                    }
                }
                Found::Record { .. } => {}
                Found::Damage { offset, len } => self.note_damaged_run(topic, run, offset, len),
            }
        }
        let rest = bytes.len().saturating_sub(walk.offset());
        if rest > 0 || bytes.len() < run.len as usize {
            self.note_damaged_run(topic, run, walk.offset(), rest);
        }
        Ok(found)
    }

    fn note_damaged_run(&self, topic: &TopicName, run: &Run, offset: usize, len: usize) {
        let at = u64::from(run.offset) + offset as u64;
        self.note_damage(&format!(
            "segment {} at {at}: {len} bytes unreadable in topic {topic}",
            run.segment
        ));
    }

    /// Takes a prepared file.
    pub(super) fn take_spare(&self) -> Option<Spare> {
        let spare = self.spares.lock().pop_front();
        self.spare_taken.notify_one();
        spare
    }

    /// Puts back one that could not be used after all.
    pub(super) fn return_spare(&self, spare: Spare) {
        self.spares.lock().push_front(spare);
    }

    /// Asks for `count` prepared files from now on: one when the first segment fills, more once a segment was
    /// filled.
    pub(super) fn want_spares(&self, count: usize) {
        if self.spares_wanted.fetch_max(count.min(SPARES_MAX), Ordering::Relaxed) < count {
            self.spare_taken.notify_one();
        }
    }

    /// How many prepared files there should be.
    pub(super) fn spares_wanted(&self) -> usize {
        self.spares_wanted.load(Ordering::Relaxed)
    }

    /// Number of prepared files.
    pub(super) fn spares(&self) -> usize {
        self.spares.lock().len()
    }

    /// Adds an existing file to the prepared ones.
    pub(super) fn add_spare(&self, number: u64, len: u64) {
        self.next_spare.fetch_max(number + 1, Ordering::Relaxed);
        let path = self.path(&spare_name(number));
        self.spares.lock().push_back(Spare { path, len });
    }

    /// Prepares one more file: zeroes are really written, so that later commits neither allocate blocks nor
    /// change metadata (measured: half the CPU of a growing file).
    ///
    /// # Errors
    /// What the disk reports; the unfinished file is removed.
    pub(super) async fn prepare_spare(&self) -> io::Result<()> {
        let number = self.next_spare.fetch_add(1, Ordering::Relaxed);
        let path = self.path(&spare_name(number));
        let filled = self.fill(&path).await;
        if filled.is_err() {
            // Best effort: what stays behind is found and used or removed at the next start.
            drop(self.disk().remove(&path).await);
        }
        filled?;
        self.spares.lock().push_back(Spare { path, len: self.segment_size });
        Ok(())
    }

    async fn fill(&self, path: &Path) -> io::Result<()> {
        let file = self.disk().open(path, Open::Direct).await?;
        let step = FILL_STEP.min(usize::try_from(self.segment_size).unwrap_or(FILL_STEP));
        let mut zeros = AlignedBuf::zeroed(step);
        let mut offset = 0;
        while offset < self.segment_size {
            let left = usize::try_from(self.segment_size - offset).unwrap_or(step);
            zeros.resize(step.min(left));
            let (back, written) = file.write_at(offset, zeros, false).await;
            written?;
            zeros = back;
            offset += zeros.len() as u64;
        }
        file.sync().await
    }

    /// Takes a segment that nobody needs off the list.
    pub(crate) fn retire(&self, number: u64) -> Option<Retired> {
        let known = self.segments.lock().remove(&number)?;
        self.readers.lock().retain(|(open, _)| *open != number);
        Some(Retired(known))
    }

    /// Puts it back.
    pub(crate) fn restore(&self, Retired(known): Retired) {
        self.segments.lock().insert(known.sealed.number, known);
    }

    /// Lets go of its file: it becomes a spare one, or is removed.
    ///
    /// # Errors
    /// What the disk reports; the file stays and is found at the next start.
    pub(crate) async fn release(&self, Retired(known): &Retired) -> io::Result<()> {
        let path = self.path(&segment_name(known.sealed.number));
        let reusable = known.len == self.segment_size;
        if reusable && self.spares() < SPARES_MAX {
            let spare = self.next_spare.fetch_add(1, Ordering::Relaxed);
            self.disk().rename(&path, &self.path(&spare_name(spare))).await?;
            self.add_spare(spare, self.segment_size);
            return Ok(());
        }
        self.disk().remove(&path).await
    }
}
