//! Opening a data directory: which files there are, what they say, and where writing goes on.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    checkpoint::{Checkpoint, CheckpointError, SealedSegment},
    record::{Found, Record, Walk},
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
    let mut opening = Opening {
        store: Arc::clone(&store),
        report: RecoveryReport::default(),
        highest: 0,
        missing: Vec::new(),
        empty: Vec::new(),
    };
    let files = opening.list().await?;
    let checkpoint = opening.newest_checkpoint(&files.checkpoints).await?;
    let replay_from = checkpoint.replay_from;
    let listed = checkpoint.segments.clone();
    let mut replay = Replay::new(checkpoint);
    for sealed in listed {
        if files.segments.contains(&sealed.number) {
            opening.read_old(&mut replay, sealed).await?;
        } else {
            opening.missing.push(sealed.number);
        }
    }
    for &number in files.segments.iter().filter(|&&number| number >= replay_from) {
        opening.replay_segment(&mut replay, number, files.segments.last() == Some(&number)).await?;
    }
    let present = files.segments.iter().copied().filter(|&number| number >= replay_from);
    opening.missing.extend(gaps(replay_from.max(1), present));
    opening.name_missing(&replay);
    opening.tidy(&files, replay_from).await?;
    let Opening { mut report, highest, .. } = opening;
    let recovered = replay.finish();
    report.segments = store.usage().0;
    report.topics = recovered.topics.len() as u64;
    let writer = Writer::new(Arc::clone(&store), highest + 1);
    Ok(Opened { recovered, report, store, writer, replay_from })
}

#[derive(Default)]
struct Files {
    segments: Vec<u64>,
    checkpoints: Vec<u64>,
    unfinished: Vec<String>,
}

struct Opening {
    store: Arc<Store>,
    report: RecoveryReport,
    /// The highest number that any file has used.
    highest: u64,
    missing: Vec<u64>,
    /// Segments that hold nothing: a node died while it opened them.
    empty: Vec<String>,
}

impl Opening {
    async fn list(&mut self) -> Result<Files, OpenError> {
        let mut files = Files::default();
        let entries = self.store.disk().list(&self.store.dir).await;
        for entry in entries.map_err(|error| self.io("list", "", error))? {
            match kind_of(&entry.name) {
                FileKind::Segment(0) => {}
                FileKind::Segment(number) => files.segments.push(number),
                FileKind::Checkpoint(number) => files.checkpoints.push(number),
                FileKind::Unfinished => files.unfinished.push(entry.name),
                // A spare of another size, or one whose filling was cut off, is no use: it is made anew.
                FileKind::Spare(number) if entry.len == self.store.segment_size => {
                    self.store.add_spare(number, entry.len);
                }
                FileKind::Spare(_) => files.unfinished.push(entry.name),
                FileKind::Other => {}
            }
        }
        files.segments.sort_unstable();
        files.checkpoints.sort_unstable();
        // A checkpoint bears the number of the segment that follows it, which need not be there yet.
        let highest = files.checkpoints.last().map(|number| number.saturating_sub(1));
        self.highest = highest.max(files.segments.last().copied()).unwrap_or(0);
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
            let size = usize::try_from(file.size().await?).map_err(io::Error::other)?;
            file.read_at(0, size).await
        };
        read.await.map_err(|error| self.io("read", name, error))
    }

    async fn newest_checkpoint(&mut self, numbers: &[u64]) -> Result<Checkpoint, OpenError> {
        for &number in numbers.iter().rev() {
            let name = checkpoint_name(number);
            let bytes = self.read_file(&name).await?;
            match Checkpoint::decode(&bytes) {
                Ok(checkpoint) => return Ok(checkpoint),
                Err(CheckpointError::Damaged) => self.note(bytes.len(), format!("{name} is not whole")),
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
        let open = async {
            let file = self.store.disk().open(&path, Open::Read).await?;
            let size = file.size().await?;
            let len = usize::try_from(sealed.end.saturating_sub(sealed.index)).map_err(io::Error::other)?;
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
        if sealed.index > 0 && walk.offset() == bytes.len() {
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
        for found in Walk::new(records, sealed.stamp, ALIGNMENT) {
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
        Ok(())
    }

    /// Applies every record of a segment.
    async fn replay_segment(
        &mut self,
        replay: &mut Replay,
        number: u64,
        newest: bool,
    ) -> Result<(), OpenError> {
        let name = segment_name(number);
        let bytes = self.read_file(&name).await?;
        let Some(stamp) = self.stamp_of(&name, number, &bytes, newest)? else {
            if newest {
                self.empty.push(name);
                self.highest = number - 1;
            }
            return Ok(());
        };
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
        synced.await.map_err(|error| self.io("sync", &name, error))
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
            Front::Segment(header) if header.number == number => return Ok(Some(header.stamp)),
            Front::OtherFormat(found) => {
                return Err(OpenError::OtherFormat { path: self.store.path(name), found });
            }
            Front::Segment(_) | Front::Damaged => {}
        }
        // The first record repeats the stamp; if it is whole, only the front block is lost.
        let first = bytes.get(ALIGNMENT + 8..).and_then(|rest| rest.first_chunk::<8>());
        let stamp = first.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let whole = stamp != 0 && Walk::new(bytes, stamp, ALIGNMENT).next().is_some();
        // A node that died while it opened a segment leaves one without a front, and nothing in it.
        if !newest || whole {
            self.note(ALIGNMENT, format!("{name} at 0: its front block is not its own"));
        }
        Ok(whole.then_some(stamp))
    }

    fn name_missing(&mut self, replay: &Replay) {
        for number in std::mem::take(&mut self.missing) {
            if !replay.is_dropped(number) {
                self.note(0, format!("{} is missing", segment_name(number)));
            }
        }
    }

    /// Removes what is left over from an earlier life.
    async fn tidy(&self, files: &Files, replay_from: u64) -> Result<(), OpenError> {
        let kept = self.store.sealed_below(u64::MAX);
        let stale = files
            .segments
            .iter()
            .filter(|&&number| number < replay_from && !kept.iter().any(|sealed| sealed.number == number));
        let names = stale
            .map(|&number| segment_name(number))
            .chain(files.unfinished.iter().chain(&self.empty).cloned());
        for name in names {
            let removed = self.store.disk().remove(&self.store.path(&name)).await;
            removed.map_err(|error| self.io("remove", &name, error))?;
        }
        Ok(())
    }
}

/// The numbers from `from` on that are skipped by `numbers`, which are ordered.
fn gaps(from: u64, numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut expected = from;
    let mut gaps = Vec::new();
    for number in numbers {
        // A name that somebody made up must not make a list without end.
        gaps.extend((expected..number).take(NAMED_MAX));
        expected = number + 1;
    }
    gaps
}

fn place(at: usize) -> u32 {
    u32::try_from(at).expect("a segment is far below 4 GiB")
}
