//! Opening a data directory: which files there are, what they say, and where writing goes on.

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc};

use super::{
    checkpoint::{Checkpoint, CheckpointError, SealedSegment},
    record::{Found, Record, Walk, stamp_of_first},
    replay::{Recovered, Replay},
    segment::{FORMAT, FileKind, Front, SegmentHeader, checkpoint_name, kind_of, segment_name},
    store::Store,
    writer::Writer,
};
use crate::{
    config::JournalConfig,
    env::{ALIGNMENT, Env, Open},
};

/// Longest list of damages that a report names one by one; all are counted.
const NAMED_MAX: usize = 100;
/// No file is read further than this, bytes: places in a segment are 32 bits wide.
const READ_MAX: u64 = u32::MAX as u64;

/// What a start found in the data directory.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segment files that are in use.
    pub segments: u64,
    /// Records that were replayed behind the checkpoint.
    pub records: u64,
    /// Topics that exist.
    pub topics: u64,
    /// Places that were damaged: each cost at least one record, but never more than the bytes named.
    pub damaged: u64,
    /// Bytes in these places.
    pub damaged_bytes: u64,
    /// The first hundred of them, each with its file and offset.
    pub damages: Vec<String>,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused.
    #[error("cannot {doing} {path}: {error}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
    /// Another version of bruit wrote it.
    #[error(
        "{path} was written in format {found}, and this version of bruit reads format {FORMAT}: start the version that \
         wrote it, or name another --data-path"
    )]
    OtherFormat {
        /// The file that says so.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// A journal that is ready to be written.
pub(crate) struct Opened {
    /// What it says.
    pub(crate) recovered: Recovered,
    /// What was found on the way.
    pub(crate) report: RecoveryReport,
    /// Its files.
    pub(crate) store: Arc<Store>,
    /// Its end.
    pub(crate) writer: Writer,
    /// Where replay started.
    pub(crate) replay_from: u64,
}

/// Opens the journal in `dir`, which must be locked by the caller.
///
/// The newest whole checkpoint is taken; of the segments in front of it only the indexes are read, the
/// others are replayed. A torn end is cut silently: nothing in it was acknowledged. A new segment is begun,
/// so that nothing is ever appended behind bytes of doubtful content.
///
/// # Errors
/// The disk's refusals, and formats of another version. Damage is no error: it is counted and named.
pub(crate) async fn open(config: &JournalConfig, dir: PathBuf, env: Env) -> Result<Opened, OpenError> {
    let store = Arc::new(Store::new(env, dir, config.segment_size));
    let mut opening = Opening::new(Arc::clone(&store));
    let mut files = opening.list().await?;
    let checkpoint = opening.newest_checkpoint(&mut files).await?;
    let replay_from = checkpoint.replay_from;
    opening.listed.clone_from(&checkpoint.segments);
    opening.replay_from = replay_from;
    let mut replay = Replay::new(checkpoint);
    for sealed in opening.listed.clone() {
        if files.segments.contains(&sealed.number) {
            opening.read_old(&mut replay, sealed).await?;
        }
    }
    for (number, newest) in opening.in_order(&files).await? {
        if !opening.replay_segment(&mut replay, number, newest).await? && newest {
            // A node died while it opened it: it is made anew.
            files.segments.retain(|&segment| segment != number);
            files.useless.push(segment_name(number));
        }
    }
    opening.name_missing(&files, &replay);
    opening.tidy(&files).await?;
    let Opening { mut report, .. } = opening;
    let recovered = replay.finish();
    report.segments = store.usage().0;
    report.topics = recovered.topics.len() as u64;
    let writer = Writer::new(Arc::clone(&store), files.next_number());
    Ok(Opened { recovered, report, store, writer, replay_from })
}

#[derive(Default)]
struct Files {
    segments: Vec<u64>,
    checkpoints: Vec<u64>,
    /// Files that are of no use to anyone.
    useless: Vec<String>,
}

impl Files {
    /// The number of the next segment. A checkpoint that was written when the node stopped names the one that
    /// was to come: no number is left out, so that a missing one is noticed.
    fn next_number(&self) -> u64 {
        let behind = self.segments.last().map_or(1, |last| last + 1);
        behind.max(self.checkpoints.last().copied().unwrap_or(0))
    }
}

struct Opening {
    store: Arc<Store>,
    report: RecoveryReport,
    /// The checkpoint's: replay starts at this segment.
    replay_from: u64,
    /// The checkpoint's: the older segments that are needed.
    listed: Vec<SealedSegment>,
}

impl Opening {
    fn new(store: Arc<Store>) -> Self {
        Self { store, report: RecoveryReport::default(), replay_from: 0, listed: Vec::new() }
    }

    async fn list(&mut self) -> Result<Files, OpenError> {
        let mut files = Files::default();
        let entries = self.store.disk().list(&self.store.dir).await;
        for entry in entries.map_err(|error| self.io("list", "", error))? {
            match kind_of(&entry.name) {
                FileKind::Segment(0) => {}
                FileKind::Segment(number) => files.segments.push(number),
                FileKind::Checkpoint(number) => files.checkpoints.push(number),
                FileKind::Unfinished => files.useless.push(entry.name),
                // A spare of another size, or one whose filling was cut off, is no use: it is made anew.
                FileKind::Spare(number) if entry.len == self.store.segment_size => {
                    self.store.add_spare(number, entry.len);
                }
                FileKind::Spare(_) => files.useless.push(entry.name),
                FileKind::Other => {}
            }
        }
        files.segments.sort_unstable();
        files.checkpoints.sort_unstable();
        Ok(files)
    }

    fn note(&mut self, bytes: usize, what: String) {
        self.store.note_damage(&what);
        self.report.damaged += 1;
        self.report.damaged_bytes += bytes as u64;
        if self.report.damages.len() < NAMED_MAX {
            self.report.damages.push(what);
        }
    }

    fn io(&self, doing: &'static str, name: &str, error: io::Error) -> OpenError {
        OpenError::Io { doing, path: self.store.path(name), error }
    }

    async fn read_file(&self, name: &str) -> Result<bytes::Bytes, OpenError> {
        let read = async {
            let file = self.store.disk().open(&self.store.path(name), Open::Read).await?;
            let size = file.size().await?.min(READ_MAX);
            file.read_at(0, usize::try_from(size).map_err(io::Error::other)?).await
        };
        read.await.map_err(|error| self.io("read", name, error))
    }

    /// The newest whole checkpoint. Damaged ones are of no further use.
    async fn newest_checkpoint(&mut self, files: &mut Files) -> Result<Checkpoint, OpenError> {
        for &number in files.checkpoints.iter().rev() {
            let name = checkpoint_name(number);
            let bytes = self.read_file(&name).await?;
            match Checkpoint::decode(&bytes) {
                Ok(checkpoint) => return Ok(checkpoint),
                Err(CheckpointError::Damaged) => {
                    self.note(bytes.len(), format!("{name} is not whole"));
                    files.useless.push(name);
                }
                Err(CheckpointError::OtherFormat(found)) => {
                    return Err(OpenError::OtherFormat { path: self.store.path(&name), found });
                }
            }
        }
        Ok(Checkpoint::default())
    }

    /// Takes up a segment in front of the replayed ones by its index, or by all its records.
    async fn read_old(&mut self, replay: &mut Replay, sealed: SealedSegment) -> Result<(), OpenError> {
        let name = segment_name(sealed.number);
        let path = self.store.path(&name);
        let len = usize::try_from(sealed.end.saturating_sub(sealed.index)).unwrap_or(usize::MAX);
        let open = async {
            let file = self.store.disk().open(&path, Open::Read).await?;
            let size = file.size().await?;
            let bytes =
                if sealed.index > 0 { file.read_at(sealed.index, len).await? } else { bytes::Bytes::new() };
            Ok((size, bytes))
        };
        let (size, bytes) = open.await.map_err(|error| self.io("read", &name, error))?;
        self.store.add(sealed, true, size);
        let mut walk = Walk::new(&bytes, sealed.stamp, 0);
        let mut entries = Vec::new();
        for found in walk.by_ref() {
            let Found::Record { record: Record::Index { topic, runs }, .. } = found else { break };
            entries.push((topic, runs));
        }
        // The length that the checkpoint says, not the one that was read: the file may have been cut.
        if sealed.index > 0 && walk.offset() == len {
            for (topic, runs) in entries {
                replay.index(sealed.number, topic, runs.iter());
            }
            return Ok(());
        }
        if sealed.index > 0 {
            self.note(bytes.len(), format!("{name} at {}: its index is not whole", sealed.index));
        }
        self.walk_old(replay, sealed).await
    }

    async fn walk_old(&mut self, replay: &mut Replay, sealed: SealedSegment) -> Result<(), OpenError> {
        let name = segment_name(sealed.number);
        let bytes = self.read_file(&name).await?;
        let records = &bytes[..bytes.len().min(usize::try_from(sealed.end).unwrap_or(usize::MAX))];
        let mut walk = Walk::new(records, sealed.stamp, ALIGNMENT);
        for found in walk.by_ref() {
            match found {
                Found::Record { offset, len, record } => {
                    let (offset, len) = (place(offset), place(len));
                    replay.old_record(sealed.number, offset, len, &record);
                }
                Found::Damage { offset, len } => {
                    self.note(len, format!("{name} at {offset}: {len} bytes unreadable"));
                }
            }
        }
        // The checkpoint knows where the records end: this is no torn end, it was acknowledged.
        let reached = walk.offset();
        let lost = usize::try_from(sealed.end).unwrap_or(usize::MAX).saturating_sub(reached);
        if lost > 0 {
            self.note(lost, format!("{name} at {reached}: {lost} bytes unreadable, to its end"));
        }
        Ok(())
    }

    /// The segments to replay, in the order in which they were written, and whether each is the newest. Their
    /// front blocks know the order even if someone has mixed up the files' names.
    async fn in_order(&self, files: &Files) -> Result<Vec<(u64, bool)>, OpenError> {
        let newest = files.segments.last();
        let mut ordered = Vec::new();
        for &number in files.segments.iter().filter(|&&number| number >= self.replay_from) {
            let name = segment_name(number);
            let read = async {
                let file = self.store.disk().open(&self.store.path(&name), Open::Read).await?;
                file.read_at(0, ALIGNMENT).await
            };
            let front = read.await.map_err(|error| self.io("read", &name, error))?;
            let written = match SegmentHeader::parse(&front) {
                Front::Segment(header) => header.number,
                Front::OtherFormat(_) | Front::Damaged => number,
            };
            ordered.push((written, number, newest == Some(&number)));
        }
        ordered.sort_unstable();
        Ok(ordered.into_iter().map(|(_, number, newest)| (number, newest)).collect())
    }

    /// Applies every record of a segment. Returns false if it is none.
    async fn replay_segment(
        &mut self,
        replay: &mut Replay,
        number: u64,
        newest: bool,
    ) -> Result<bool, OpenError> {
        let name = segment_name(number);
        let bytes = self.read_file(&name).await?;
        let Some(stamp) = self.stamp_of(&name, number, &bytes, newest)? else { return Ok(false) };
        let mut walk = Walk::new(&bytes, stamp, ALIGNMENT);
        for found in walk.by_ref() {
            match found {
                Found::Record { offset, len, record } => {
                    self.report.records += 1;
                    replay.record(number, place(offset), place(len), &record);
                }
                Found::Damage { offset, len } => {
                    self.note(len, format!("{name} at {offset}: {len} bytes unreadable"));
                }
            }
        }
        let end = walk.offset() as u64;
        let sealed = SealedSegment { number, stamp, end, index: 0 };
        self.store.add(sealed, true, bytes.len() as u64);
        // What was read may not be durable yet, although deliveries will rest on it.
        let synced = async {
            let file = self.store.disk().open(&self.store.path(&name), Open::Write).await?;
            file.sync().await
        };
        synced.await.map_err(|error| self.io("sync", &name, error))?;
        Ok(true)
    }

    /// The stamp that the records of a segment carry. `None` when it holds none.
    fn stamp_of(
        &mut self,
        name: &str,
        number: u64,
        bytes: &[u8],
        newest: bool,
    ) -> Result<Option<u64>, OpenError> {
        match SegmentHeader::parse(bytes) {
            Front::Segment(header) if header.number == number => {
                let made = header.blocks as usize * ALIGNMENT;
                if bytes.len() < made {
                    let lost = made - bytes.len();
                    self.note(lost, format!("{name} at {}: {lost} bytes are missing", bytes.len()));
                }
                return Ok(Some(header.stamp));
            }
            // A spare file that was to become this segment when the node died. What it holds was let go of
            // by everyone before it became a spare.
            Front::Segment(header) if self.is_dead(header) => return Ok(None),
            Front::OtherFormat(found) => {
                return Err(OpenError::OtherFormat { path: self.store.path(name), found });
            }
            Front::Segment(_) | Front::Damaged => {}
        }
        let stamp = stamp_of_first(bytes);
        // A node that died while it opened a segment leaves one that holds nothing yet.
        let blank = newest && !bytes.is_empty() && bytes.iter().all(|&byte| byte == 0);
        if !blank {
            self.note(ALIGNMENT.min(bytes.len()), format!("{name} at 0: its front block is not its own"));
        }
        Ok(stamp)
    }

    /// Whether nobody needs the segment that `header` was written for, and the checkpoint contains its changes.
    fn is_dead(&self, header: SegmentHeader) -> bool {
        header.number < self.replay_from && !self.listed.iter().any(|sealed| sealed.number == header.number)
    }

    fn name_missing(&mut self, files: &Files, replay: &Replay) {
        let there: BTreeSet<u64> = files.segments.iter().copied().collect();
        for number in self.listed.iter().map(|sealed| sealed.number).collect::<Vec<_>>() {
            if !there.contains(&number) && !replay.is_dropped(number) {
                self.note(0, format!("{} is missing", segment_name(number)));
            }
        }
        let mut from = self.replay_from.max(1);
        for &number in there.range(from..) {
            let missing = (number - from).saturating_sub(replay.dropped_in(from, number));
            let name = segment_name(from);
            match missing {
                0 => {}
                1 => self.note(0, format!("a segment from {name} on is missing")),
                _ => self.note(0, format!("{missing} segments from {name} on are missing")),
            }
            from = number + 1;
        }
    }

    /// Removes what is left over from an earlier life.
    async fn tidy(&self, files: &Files) -> Result<(), OpenError> {
        let kept = self.store.sealed_below(u64::MAX);
        let stale = files.segments.iter().filter(|&&number| {
            number < self.replay_from && !kept.iter().any(|sealed| sealed.number == number)
        });
        let names = stale.map(|&number| segment_name(number)).chain(files.useless.iter().cloned());
        for name in names {
            let removed = self.store.disk().remove(&self.store.path(&name)).await;
            removed.map_err(|error| self.io("remove", &name, error))?;
        }
        Ok(())
    }
}

fn place(at: usize) -> u32 {
    u32::try_from(at).expect("a segment is far below 4 GiB")
}
