//! `bruit journal`: looks at a data directory without changing it, for when one is in doubt.

use std::{
    fmt::Display,
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use bruit_wire::{
    TopicName,
    nsq::{MessageView, message_frame_len},
};
use clap::{Args, Subcommand};

use super::{IN_PART, NOT_FOUND};
use crate::env::ALIGNMENT;
use crate::journal::{
    checkpoint::{Checkpoint, CheckpointError},
    record::{Found, Record, Walk, stamp_of_first},
    segment::{FIRST_RECORD, FORMAT, FileKind, Front, SegmentHeader, kind_of},
};

/// Exit code when something is damaged.
const UNHEALTHY: u8 = 5;

/// Arguments of `bruit journal`.
#[derive(Debug, Args)]
#[command(
    after_help = "Neither command changes anything. Both may be used beside a running node, and then see its \
    last records or not.\n\nExit codes: 0 whole, 3 no journal there, 4 a dump left out what is damaged, 5 verify \
    found damage."
)]
pub(super) struct JournalArgs {
    #[command(subcommand)]
    command: JournalCommand,
}

#[derive(Debug, Subcommand)]
enum JournalCommand {
    /// Check every record of a data directory, and name what is damaged
    Verify {
        /// The data directory
        dir: PathBuf,
    },
    /// Print a line for every record, or the messages themselves
    Dump {
        /// The data directory
        dir: PathBuf,
        /// Print the messages, a line each, whether finished or not: `bruit pub` takes them back
        #[arg(long)]
        bodies: bool,
        /// Only records of this topic
        #[arg(long)]
        topic: Option<TopicName>,
    },
}

/// Verifies or dumps.
///
/// # Errors
/// Files that cannot be read.
pub(super) fn run(args: &JournalArgs) -> anyhow::Result<ExitCode> {
    let dir = match &args.command {
        JournalCommand::Verify { dir } | JournalCommand::Dump { dir, .. } => dir,
    };
    let Some(files) = list(dir)? else {
        eprintln!("bruit: there is no journal in {}", dir.display());
        return Ok(ExitCode::from(NOT_FOUND));
    };
    let mut output = BufWriter::new(io::stdout());
    let outcome = match &args.command {
        JournalCommand::Verify { .. } => verify(&files, &mut output),
        JournalCommand::Dump { bodies, topic, .. } => dump(&files, *bodies, topic.as_ref(), &mut output),
    };
    match outcome.and_then(|code| Ok(output.flush().map(|()| code)?)) {
        Ok(code) => Ok(ExitCode::from(code)),
        // The reader has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A file of the journal.
struct JournalFile {
    path: PathBuf,
    name: String,
    kind: FileKind,
}

/// The checkpoints and segments of `dir`, each by number, checkpoints first. `None` when there are none.
fn list(dir: &Path) -> anyhow::Result<Option<Vec<JournalFile>>> {
    let wrong = || format!("cannot list {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.with_context(wrong)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.with_context(wrong)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let kind = kind_of(&name);
        if matches!(kind, FileKind::Segment(_) | FileKind::Checkpoint(_)) {
            files.push(JournalFile { path: entry.path(), name, kind });
        }
    }
    files.sort_by(|a, b| {
        let order = |file: &JournalFile| (matches!(file.kind, FileKind::Segment(_)), file.name.clone());
        order(a).cmp(&order(b))
    });
    Ok((!files.is_empty()).then_some(files))
}

fn verify(files: &[JournalFile], output: &mut impl Write) -> anyhow::Result<u8> {
    let (mut segments, mut records, mut messages, mut damages) = (0_u64, 0_u64, 0_u64, 0_u64);
    read(files, |name, found| {
        match found {
            Content::Segment => segments += 1,
            Content::Checkpoint(_) => {}
            Content::Record { record, .. } => {
                records += 1;
                if let Record::Messages { span, .. } = record {
                    messages += u64::from(span.count);
                }
            }
            Content::Damage(what) => {
                damages += 1;
                writeln!(output, "{name}{what}")?;
            }
        }
        Ok(())
    })?;
    let verdict = if damages == 0 { "whole".to_owned() } else { format!("{damages} damaged") };
    writeln!(output, "{verdict}: {segments} segments, {records} records, {messages} messages")?;
    Ok(if damages == 0 { 0 } else { UNHEALTHY })
}

fn dump(
    files: &[JournalFile],
    bodies: bool,
    only: Option<&TopicName>,
    output: &mut impl Write,
) -> anyhow::Result<u8> {
    let mut damaged = false;
    read(files, |name, content| {
        match content {
            Content::Damage(what) => {
                damaged = true;
                eprintln!("bruit: {name}{what}");
            }
            Content::Record { record, .. } if only.is_some_and(|only| topic_of(record) != only.as_str()) => {}
            Content::Record { record: Record::Messages { frames, .. }, .. } if bodies => {
                for frame in each_frame(frames) {
                    if let Some(message) = MessageView::parse_frame(frame) {
                        output.write_all(message.body)?;
                        output.write_all(b"\n")?;
                    }
                }
            }
            Content::Record { offset, record } if !bodies => line(output, name, offset, record)?,
            Content::Checkpoint(checkpoint) if !bodies && only.is_none() => {
                let (topics, from) = (checkpoint.topics.len(), checkpoint.replay_from);
                writeln!(output, "{name} checkpoint topics={topics} replay_from={from}")?;
            }
            Content::Record { .. } | Content::Checkpoint(_) | Content::Segment => {}
        }
        Ok(())
    })?;
    Ok(if damaged { IN_PART } else { 0 })
}

fn topic_of<'a>(record: &Record<'a>) -> &'a str {
    match record {
        Record::Messages { topic, .. }
        | Record::Finished { topic, .. }
        | Record::Requeued { topic, .. }
        | Record::Control { topic, .. }
        | Record::Index { topic, .. } => topic,
    }
}

fn line(output: &mut impl Write, name: &str, offset: usize, record: &Record<'_>) -> io::Result<()> {
    write!(output, "{name}:{offset} ")?;
    match record {
        Record::Messages { topic, span, due, frames } => {
            let (first, count, bytes) = (span.first, span.count, frames.len());
            writeln!(output, "messages topic={topic} first={first} count={count} due={due} bytes={bytes}")
        }
        Record::Finished { topic, channel, spans } => {
            let spans: Vec<String> =
                spans.iter().map(|span| format!("{}+{}", span.first, span.count)).collect();
            writeln!(output, "finished topic={topic} channel={channel} messages={}", spans.join(","))
        }
        Record::Requeued { topic, channel, held } => {
            let held: Vec<String> =
                held.iter().map(|held| format!("{}@{}x{}", held.sequence, held.due, held.attempts)).collect();
            writeln!(output, "requeued topic={topic} channel={channel} messages={}", held.join(","))
        }
        Record::Control { topic, channel, op, number, a, b } => {
            writeln!(output, "control topic={topic} channel={channel} op={op:?} number={number} a={a} b={b}")
        }
        Record::Index { topic, runs } => {
            let runs: Vec<String> = runs
                .iter()
                .map(|run| format!("{}+{}@{}", run.span.first, run.span.count, run.offset))
                .collect();
            writeln!(output, "index topic={topic} messages={}", runs.join(","))
        }
    }
}

/// What a file holds.
enum Content<'a> {
    /// A segment begins.
    Segment,
    /// A whole checkpoint.
    Checkpoint(&'a Checkpoint),
    /// A whole record.
    Record { offset: usize, record: &'a Record<'a> },
    /// Something else, as the end of a sentence that the file's name begins.
    Damage(&'a dyn Display),
}

/// Shows `visit` what each file holds, in the order in which it was written.
fn read(
    files: &[JournalFile],
    mut visit: impl FnMut(&str, Content<'_>) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut newest = Checkpoint::default();
    for JournalFile { path, name, kind } in files {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            // A running node removes what it needs no more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        match kind {
            FileKind::Checkpoint(_) => match Checkpoint::decode(&bytes) {
                Ok(checkpoint) => {
                    visit(name, Content::Checkpoint(&checkpoint))?;
                    newest = checkpoint;
                }
                Err(CheckpointError::Damaged) => visit(name, Content::Damage(&" is not whole"))?,
                Err(CheckpointError::OtherFormat(found)) => {
                    visit(name, Content::Damage(&other_format(found)))?;
                }
            },
            FileKind::Segment(number) => {
                visit(name, Content::Segment)?;
                // Of these the checkpoint knows the end, so that a lost end is told from a torn one.
                let sealed = newest.segments.iter().find(|sealed| sealed.number == *number);
                let end = sealed.and_then(|sealed| usize::try_from(sealed.end).ok()).unwrap_or(0);
                read_segment(name, *number, &bytes, end, &mut visit)?;
            }
            FileKind::Spare(_) | FileKind::Unfinished | FileKind::Other => {}
        }
    }
    Ok(())
}

fn other_format(found: u32) -> String {
    format!(" was written in format {found}, and this version of bruit reads format {FORMAT}")
}

fn read_segment(
    name: &str,
    number: u64,
    bytes: &[u8],
    end: usize,
    visit: &mut impl FnMut(&str, Content<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let first = FIRST_RECORD as usize;
    let stamp = match SegmentHeader::parse(bytes) {
        Front::Segment(header) if header.number == number => {
            let made = header.blocks as usize * ALIGNMENT;
            if bytes.len() < made {
                let lost = made - bytes.len();
                visit(name, Content::Damage(&format!(":{} {lost} bytes are missing", bytes.len())))?;
            }
            header.stamp
        }
        Front::OtherFormat(found) => return visit(name, Content::Damage(&other_format(found))),
        Front::Segment(_) | Front::Damaged => {
            // A node that dies while it opens a segment leaves one without a front and without a record.
            let Some(stamp) = stamp_of_first(bytes) else { return Ok(()) };
            visit(name, Content::Damage(&":0 its front block is not its own"))?;
            stamp
        }
    };
    let mut walk = Walk::new(bytes, stamp, first);
    for found in walk.by_ref() {
        match found {
            Found::Record { offset, record, .. } => {
                if let Record::Messages { span, frames, .. } = &record
                    && each_frame(frames).count() as u64 != u64::from(span.count)
                {
                    visit(name, Content::Damage(&format!(":{offset} its messages do not add up")))?;
                }
                visit(name, Content::Record { offset, record: &record })?;
            }
            Found::Damage { offset, len } => {
                visit(name, Content::Damage(&format!(":{offset} {len} bytes unreadable")))?;
            }
        }
    }
    let reached = walk.offset();
    if reached < end {
        let lost = end - reached;
        visit(name, Content::Damage(&format!(":{reached} {lost} bytes unreadable, to the segment's end")))?;
    }
    Ok(())
}

/// The message frames in a run of them; stops where they stop to be whole.
fn each_frame(mut frames: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = message_frame_len(frames)?;
        let (frame, rest) = frames.split_at_checked(len)?;
        frames = rest;
        Some(frame)
    })
}

#[cfg(test)]
mod tests {
    use bruit_wire::{MessageId, nsq};
    use bytes::BytesMut;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        env::AlignedBuf,
        journal::{
            checkpoint::SealedSegment,
            record::{NewRecord, Span},
            segment::{checkpoint_name, segment_name},
        },
    };

    const STAMP: u64 = 77;

    fn frames(bodies: &[&[u8]]) -> BytesMut {
        let mut frames = BytesMut::new();
        for (sequence, body) in bodies.iter().enumerate() {
            nsq::put_message(&mut frames, 0, 1, MessageId::new(0, sequence as u64), body);
        }
        frames
    }

    /// A directory with a segment of two records, the second one at the returned offset.
    fn journal() -> (TempDir, usize, usize) {
        let dir = TempDir::new().unwrap();
        let mut bytes = AlignedBuf::default();
        bytes.extend_from_slice(&SegmentHeader { number: 1, stamp: STAMP, blocks: 1 }.encode());
        let (one, two) = (frames(&[b"a", b"b"]), frames(&[b"c"]));
        let span = Span { first: 0, count: 2 };
        NewRecord::Messages { topic: "t", span, due: 0, frames: &one }.encode(STAMP, &mut bytes);
        let second = bytes.len();
        let span = Span { first: 2, count: 1 };
        NewRecord::Messages { topic: "u", span, due: 0, frames: &two }.encode(STAMP, &mut bytes);
        let end = bytes.len();
        bytes.resize(end + 4096);
        fs::write(dir.path().join(segment_name(1)), bytes.as_slice()).unwrap();
        fs::write(dir.path().join("lock"), "not of the journal").unwrap();
        (dir, second, end)
    }

    fn flip(dir: &TempDir, offset: usize) {
        let path = dir.path().join(segment_name(1));
        let mut bytes = fs::read(&path).unwrap();
        bytes[offset] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    fn verified(dir: &TempDir) -> (u8, String) {
        let mut output = Vec::new();
        let code = verify(&list(dir.path()).unwrap().unwrap(), &mut output).unwrap();
        (code, String::from_utf8(output).unwrap())
    }

    fn dumped(dir: &TempDir, bodies: bool, topic: Option<&str>) -> (u8, String) {
        let topic = topic.map(|topic| TopicName::new(topic).unwrap());
        let mut output = Vec::new();
        let code = dump(&list(dir.path()).unwrap().unwrap(), bodies, topic.as_ref(), &mut output).unwrap();
        (code, String::from_utf8(output).unwrap())
    }

    #[test]
    fn a_whole_journal_is_counted() {
        let (dir, ..) = journal();
        assert_eq!(verified(&dir), (0, "whole: 1 segments, 2 records, 3 messages\n".to_owned()));
    }

    #[test]
    fn damage_is_named_with_its_place_and_the_rest_is_still_read() {
        let (dir, second, _) = journal();
        flip(&dir, 4096 + 40);
        let (code, output) = verified(&dir);
        assert_eq!(code, UNHEALTHY);
        let place = format!("{}:4096 {} bytes unreadable\n", segment_name(1), second - 4096);
        assert_eq!(output, place + "1 damaged: 1 segments, 1 records, 1 messages\n");
        assert_eq!(dumped(&dir, true, None), (IN_PART, "c\n".to_owned()));
    }

    #[test]
    fn a_damaged_front_costs_no_record() {
        let (dir, ..) = journal();
        flip(&dir, 0);
        let (code, output) = verified(&dir);
        assert_eq!(code, UNHEALTHY);
        assert!(output.contains(":0 its front block") && output.contains("2 records"), "{output}");
    }

    #[test]
    fn a_lost_end_is_damage_when_a_checkpoint_knows_of_it_and_a_torn_one_otherwise() {
        let (dir, second, end) = journal();
        flip(&dir, second + 40);
        assert_eq!(verified(&dir), (0, "whole: 1 segments, 1 records, 2 messages\n".to_owned()));
        let sealed = SealedSegment { number: 1, stamp: STAMP, end: end as u64, index: 0 };
        let checkpoint = Checkpoint { replay_from: 2, segments: vec![sealed], ..Checkpoint::default() };
        fs::write(dir.path().join(checkpoint_name(2)), checkpoint.encode()).unwrap();
        let (code, output) = verified(&dir);
        assert_eq!(code, UNHEALTHY);
        assert!(output.contains(&format!(":{second} {} bytes unreadable, to", end - second)), "{output}");
    }

    #[test]
    fn a_damaged_checkpoint_is_named() {
        let (dir, ..) = journal();
        fs::write(dir.path().join(checkpoint_name(2)), b"bruitchk").unwrap();
        let (code, output) = verified(&dir);
        assert_eq!(code, UNHEALTHY);
        assert!(output.starts_with(&format!("{} is not whole\n", checkpoint_name(2))), "{output}");
    }

    #[test]
    fn dumps_tell_records_or_messages_of_all_topics_or_one() {
        let (dir, ..) = journal();
        assert_eq!(dumped(&dir, true, None), (0, "a\nb\nc\n".to_owned()));
        assert_eq!(dumped(&dir, true, Some("u")), (0, "c\n".to_owned()));
        let (_, lines) = dumped(&dir, false, Some("t"));
        let name = segment_name(1);
        assert_eq!(lines, format!("{name}:4096 messages topic=t first=0 count=2 due=0 bytes=70\n"));
    }

    #[test]
    fn no_journal_is_no_journal() {
        let dir = TempDir::new().unwrap();
        assert!(list(dir.path()).unwrap().is_none());
        assert!(list(&dir.path().join("missing")).unwrap().is_none());
    }
}
