//! The only writer of the journal: appends records to a buffer and commits the buffer in one write.
//!
//! The last block of a commit is rarely full. It stays at the front of the buffer and is written again with
//! the next commit, so that every write covers whole blocks and can pass the page cache by. The part of it
//! that was committed before is written unchanged, so a torn write of that block loses nothing (disks write
//! a sector of 512 bytes whole or not at all).

use std::{collections::BTreeMap, io, sync::Arc};

use bruit_wire::TopicName;

use super::{
    checkpoint::SealedSegment,
    index::{Run, RunList},
    record::{Found, IndexRun, NewRecord, Span, Walk},
    segment::{FIRST_RECORD, SegmentHeader, segment_name},
    store::{Spare, Store},
};
use crate::env::{ALIGNMENT, AlignedBuf, DiskFile, Open};

/// The next segment is prepared once this part of the first one is used.
const SPARE_AT: u64 = 4;
/// Buffer that is kept between commits, bytes; a larger one that a burst has left behind is let go.
const BUFFER_KEPT: usize = 4 * 1024 * 1024;
/// Entries of one index record.
const INDEX_ENTRIES: usize = 4096;

/// Appends to the newest segment.
pub(crate) struct Writer {
    store: Arc<Store>,
    active: Option<Active>,
    next_number: u64,
    spare_buffer: Option<AlignedBuf>,
}

/// The segment that is being written.
struct Active {
    header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    capacity: u64,
    /// Bytes from offset `base` on: the committed part of the last block, then what is new.
    buffer: AlignedBuf,
    base: u64,
    /// Everything below is committed.
    committed: u64,
    /// Where the last commit began; what is read back after a failed write.
    last_commit: u64,
    index: BTreeMap<TopicName, RunList>,
    /// Records of messages that were appended since the last commit.
    unplaced: Vec<(TopicName, Run)>,
}

/// Why a record was not appended. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The segment has no room; roll and append again.
    Roll,
}

impl Writer {
    pub(super) const fn new(store: Arc<Store>, next_number: u64) -> Self {
        Self { store, active: None, next_number, spare_buffer: None }
    }

    /// The segment that is being written, or the one that will be.
    pub(crate) fn segment(&self) -> u64 {
        self.active.as_ref().map_or(self.next_number, |active| active.header.number)
    }

    /// Whether a segment is open.
    pub(crate) const fn is_open(&self) -> bool {
        self.active.is_some()
    }

    /// Adds a record of messages to the buffer and tells where it will lie.
    ///
    /// # Errors
    /// [`Full`] when the segment has no room for it.
    pub(crate) fn append_messages(
        &mut self,
        topic: &TopicName,
        span: Span,
        due: u64,
        frames: &[u8],
    ) -> Result<Run, Full> {
        let (offset, len) = self.append(&NewRecord::Messages { topic: topic.as_str(), span, due, frames })?;
        let active = self.active.as_mut().ok_or(Full::Roll)?;
        let place = |bytes: u64| u32::try_from(bytes).expect("a segment is far below 4 GiB");
        let segment = active.header.number;
        let run = Run { span, segment, offset: place(offset), len: place(len), due };
        active.unplaced.push((topic.clone(), run));
        Ok(run)
    }

    /// Adds a record to the buffer; returns its offset and length.
    ///
    /// # Errors
    /// [`Full`] when the segment has no room for it.
    pub(crate) fn append(&mut self, record: &NewRecord<'_>) -> Result<(u64, u64), Full> {
        let active = self.active.as_mut().ok_or(Full::Roll)?;
        let offset = active.end();
        let len = record.encoded_len() as u64;
        // A record that is larger than a segment goes alone into one, whose file then grows.
        if offset + len > active.capacity && offset > FIRST_RECORD {
            return Err(Full::Roll);
        }
        record.encode(active.header.stamp, &mut active.buffer);
        Ok((offset, len))
    }

    /// Forgets what was appended since the last commit.
    pub(crate) fn rollback(&mut self) {
        if let Some(active) = &mut self.active {
            let keep = usize::try_from(active.committed - active.base).expect("the buffer is in memory");
            active.buffer.resize(keep);
            active.unplaced.clear();
        }
    }

    /// Writes what was appended; with `sync` it is durable afterwards.
    ///
    /// # Errors
    /// What the disk reports. The segment is then closed for good: nothing that this commit contained may be
    /// called written, and no later sync of that file would prove anything (the kernel forgets which pages
    /// it failed to write). Its earlier content is read back and checked.
    pub(crate) async fn commit(&mut self, sync: bool) -> io::Result<()> {
        let Some(active) = self.active.as_mut() else {
            return Err(io::Error::other("no segment could be opened"));
        };
        let written = active.write(sync).await;
        if active.committed > active.capacity / SPARE_AT {
            self.store.want_spares(1);
        }
        if written.is_err() {
            self.abandon().await;
        }
        written
    }

    /// Closes the segment after a failed write, and reads back what was committed last: the failed write
    /// covered the block in which it ends.
    async fn abandon(&mut self) {
        let Some(active) = self.active.take() else { return };
        let number = active.header.number;
        let sealed = SealedSegment { number, stamp: active.header.stamp, end: active.committed, index: 0 };
        self.store.add(sealed, true, active.capacity);
        let from = active.last_commit;
        let len = usize::try_from(active.committed - from).expect("a commit is in memory");
        let intact = match active.file.read_at(from, len).await {
            Ok(bytes) => {
                let mut walk = Walk::new(&bytes, active.header.stamp, 0);
                let whole = walk.by_ref().all(|found| matches!(found, Found::Record { .. }));
                whole && walk.offset() == len
            }
            Err(_) => false,
        };
        if !intact {
            self.store
                .note_damage(&format!("segment {number} at {from}: a failed write took {len} bytes along"));
        }
    }

    /// Seals the segment, if there is one, and opens the next.
    ///
    /// # Errors
    /// What the disk reports; [`io::ErrorKind::StorageFull`] when no file could be had. A segment that was
    /// open stays open if the next one could not be had.
    pub(crate) async fn roll(&mut self) -> io::Result<()> {
        let spare = match self.store.take_spare() {
            Some(spare) => spare,
            None => {
                self.store.prepare_spare().await?;
                let none = || io::Error::new(io::ErrorKind::StorageFull, "no room for another segment");
                self.store.take_spare().ok_or_else(none)?
            }
        };
        if self.active.is_some() {
            self.store.want_spares(2);
        }
        let sealing = self.seal().await;
        self.active = Some(self.begin(spare).await?);
        // Only now: after a failure half-way the number is used again and its file replaced, so that a start
        // which finds a number left out knows that a file is gone.
        self.next_number += 1;
        sealing
    }

    /// Makes the segment of the next number from a spare file.
    async fn begin(&mut self, spare: Spare) -> io::Result<Active> {
        let number = self.next_number;
        let path = self.store.path(&segment_name(number));
        if let Err(error) = self.store.disk().rename(&spare.path, &path).await {
            self.store.return_spare(spare);
            return Err(error);
        }
        let file = self.store.disk().open(&path, Open::Direct).await?;
        let blocks = u32::try_from(spare.len / ALIGNMENT as u64).unwrap_or(u32::MAX);
        let header = SegmentHeader { number, stamp: self.random_stamp(), blocks };
        let mut buffer = self.spare_buffer.take().unwrap_or_else(|| AlignedBuf::with_capacity(64 * 1024));
        buffer.resize(0);
        buffer.extend_from_slice(&header.encode());
        let (buffer, written) = file.write_at(0, buffer, true).await;
        written?;
        self.store.disk().sync_dir(&self.store.dir).await?;
        let mut buffer = buffer;
        buffer.resize(0);
        let sealed = SealedSegment { number, stamp: header.stamp, end: FIRST_RECORD, index: 0 };
        self.store.add(sealed, false, spare.len);
        Ok(Active {
            header,
            file,
            capacity: spare.len,
            buffer,
            base: FIRST_RECORD,
            committed: FIRST_RECORD,
            last_commit: FIRST_RECORD,
            index: BTreeMap::new(),
            unplaced: Vec::new(),
        })
    }

    /// Ends the segment with the index of its messages.
    ///
    /// # Errors
    /// What the disk reports for what was appended and not committed; a missing index only costs time at
    /// the next start.
    pub(crate) async fn seal(&mut self) -> io::Result<()> {
        let Some(mut active) = self.active.take() else { return Ok(()) };
        let (number, stamp) = (active.header.number, active.header.stamp);
        let pending = if active.end() > active.committed { active.write(true).await } else { Ok(()) };
        let end = active.committed;
        let indexed = match &pending {
            Ok(()) => {
                active.append_index();
                active.write(true).await.is_ok()
            }
            Err(_) => false,
        };
        if !indexed {
            self.active = Some(active);
            self.abandon().await;
            return pending;
        }
        let sealed = SealedSegment { number, stamp, index: end, end: active.committed };
        self.store.add(sealed, true, active.capacity.max(active.committed));
        self.spare_buffer = Some(active.buffer);
        pending
    }

    fn random_stamp(&self) -> u64 {
        let mut bytes = [0; 8];
        self.store.env.entropy.fill(&mut bytes);
        // Zero is what an empty file holds.
        u64::from_le_bytes(bytes).max(1)
    }
}

impl Active {
    /// Where the next record goes.
    fn end(&self) -> u64 {
        self.base + self.buffer.len() as u64
    }

    async fn write(&mut self, sync: bool) -> io::Result<()> {
        let end = self.end();
        let used = self.buffer.len();
        self.buffer.resize(used.next_multiple_of(ALIGNMENT));
        let buffer = std::mem::take(&mut self.buffer);
        let (buffer, written) = self.file.write_at(self.base, buffer, sync).await;
        self.buffer = buffer;
        written?;
        let tail = used % ALIGNMENT;
        self.buffer.resize(used);
        self.buffer.keep_last(tail);
        if self.buffer.capacity() > BUFFER_KEPT {
            let mut smaller = AlignedBuf::with_capacity(BUFFER_KEPT / 2);
            smaller.extend_from_slice(self.buffer.as_slice());
            self.buffer = smaller;
        }
        self.base = end - tail as u64;
        self.last_commit = self.committed;
        self.committed = end;
        for (topic, run) in self.unplaced.drain(..) {
            self.index.entry(topic).or_default().push(run);
        }
        Ok(())
    }

    fn append_index(&mut self) {
        for (topic, list) in &std::mem::take(&mut self.index) {
            let entry =
                |run: &Run| IndexRun { span: run.span, offset: run.offset, len: run.len, due: run.due };
            let runs: Vec<IndexRun> = list.iter().map(entry).collect();
            for runs in runs.chunks(INDEX_ENTRIES) {
                NewRecord::Index { topic: topic.as_str(), runs }.encode(self.header.stamp, &mut self.buffer);
            }
        }
    }
}
