//! A start on a data directory that was damaged in every way that a disk or a person may think of.

use std::collections::{BTreeMap, BTreeSet};

use bruit_wire::TopicName;
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::{
    super::{
        OpenError, Opened,
        checkpoint::Checkpoint,
        open,
        record::{Held, NewRecord, Op, Record, Span, decode},
        segment::{FileKind, SegmentHeader, checkpoint_name, kind_of, segment_name, spare_name},
        upkeep,
        writer::{Full, Writer},
    },
    Entry, MemoryDisk, frames,
};
use crate::{
    config::JournalConfig,
    env::{ALIGNMENT, Env, real},
};

const SEGMENT: u64 = 16 * 1024;

fn config() -> JournalConfig {
    JournalConfig { segment_size: SEGMENT, ..JournalConfig::default() }
}

type Files = BTreeMap<String, Vec<u8>>;
type Numbers = BTreeMap<String, BTreeSet<u64>>;

async fn opened(disk: &MemoryDisk) -> Result<Opened, OpenError> {
    open(&config(), "data".into(), disk.env()).await
}

/// Every message that can be read, by topic; its content is checked. Also how often something was damaged.
async fn read_all(opened: &Opened) -> (Numbers, u64) {
    let mut numbers = Numbers::new();
    for topic in &opened.recovered.topics {
        let name = TopicName::new(&topic.state.name).unwrap();
        let found = numbers.entry(topic.state.name.clone()).or_default();
        for run in topic.runs.iter() {
            for read in opened.store.read(&name, run).await.unwrap() {
                assert_eq!(read.frames, frames(name.as_str(), read.span.first, read.span.count));
                found.extend(
                    (read.span.first..read.span.end())
                        .filter(|n| (run.span.first..run.span.end()).contains(n)),
                );
            }
        }
    }
    (numbers, opened.store.damaged_records())
}

async fn append(writer: &mut Writer, entry: &Entry) {
    loop {
        let appended = match entry {
            &Entry::Messages { topic, first, count, due } => {
                let name = TopicName::new(topic).unwrap();
                let span = Span { first, count };
                writer.append_messages(&name, span, due, &frames(topic, first, count)).map(|_| ())
            }
            other => other.with(|record| writer.append(record)).map(|_| ()),
        };
        match appended {
            Ok(()) => return,
            Err(Full::Roll) => writer.roll().await.unwrap(),
        }
    }
}

fn control(topic: &'static str, channel: &'static str, op: Op, number: u64, a: u64) -> Entry {
    Entry::Control { topic, channel, op, number, a, b: 0 }
}

/// Round `round` of a little of everything: three topics, of which one is deleted each time.
fn round(round: u64) -> Vec<Entry> {
    let (first, change) = (1 + round * 20, round * 10);
    let messages = |topic, first, count, due| Entry::Messages { topic, first, count, due };
    let mut entries = Vec::new();
    if round == 0 {
        entries.push(control("one", "", Op::TopicCreated, 1, 1));
        entries.push(control("one", "c", Op::ChannelCreated, 2, 1));
        entries.push(control("two", "", Op::TopicCreated, 3, 1));
    }
    entries.push(control("gone", "", Op::TopicCreated, change + 4, first));
    entries.push(messages("gone", first, 10, 0));
    entries.extend((0..4).map(|i| messages("one", first + i * 5, 5, 0)));
    entries.push(messages("two", first, 19, 0));
    entries.push(messages("two", first + 19, 1, 5_000));
    let spans = vec![Span { first, count: 3 }];
    entries.push(Entry::Finished { topic: "one", channel: "c", spans });
    let held = vec![Held { sequence: first + 4, due: 9_000, attempts: 2 }];
    entries.push(Entry::Requeued { topic: "one", channel: "c", held });
    entries.push(control("gone", "", Op::TopicDeleted, change + 5, first + 10));
    entries
}

const ROUNDS: u64 = 7;

fn everything() -> Numbers {
    let all: BTreeSet<u64> = (1..=ROUNDS * 20).collect();
    BTreeMap::from([("one".to_owned(), all.clone()), ("two".to_owned(), all)])
}

/// Writes the log through the operating system; the node then stops, or dies if not `clean`. Between, it
/// writes checkpoints as the broker does.
async fn write_log(clean: bool) -> Files {
    let dir = TempDir::new().unwrap();
    let env = || Env { ..real::env(Handle::current(), Handle::current()) };
    for part in [0..3, 3..5, 5..ROUNDS] {
        let mut journal = open(&config(), dir.path().to_owned(), env()).await.unwrap();
        journal.writer.roll().await.unwrap();
        if part.start > 0 {
            let mut checkpoint = Checkpoint {
                replay_from: journal.writer.segment(),
                control: journal.recovered.control,
                sequence_floor: journal.recovered.sequence_floor,
                segments: journal.store.sealed_below(journal.writer.segment()),
                topics: Vec::new(),
            };
            checkpoint.topics.extend(journal.recovered.topics.iter().map(|topic| topic.state.clone()));
            upkeep::write_checkpoint(&journal.store, &checkpoint).await.unwrap();
            upkeep::remove_old_checkpoints(&journal.store).await.unwrap();
        }
        for number in part.clone() {
            for entry in round(number) {
                append(&mut journal.writer, &entry).await;
            }
            journal.writer.commit(true).await.unwrap();
        }
        if part.end < ROUNDS || clean {
            journal.writer.seal().await.unwrap();
        }
    }
    let disk = real::env(Handle::current(), Handle::current()).disk;
    let mut files = Files::new();
    for entry in disk.list(dir.path()).await.unwrap() {
        let file = disk.open(&dir.path().join(&entry.name), crate::env::Open::Read).await.unwrap();
        files
            .insert(entry.name, file.read_at(0, usize::try_from(entry.len).unwrap()).await.unwrap().to_vec());
    }
    files
}

/// A record of a log, and where it lies.
struct Place {
    range: std::ops::Range<usize>,
    /// The messages that go with it.
    messages: Option<(String, Span)>,
    is_index: bool,
}

fn places(bytes: &[u8]) -> Vec<Place> {
    let Some(stamp) = super::super::record::stamp_of_first(bytes) else { return Vec::new() };
    let mut places = Vec::new();
    let mut at = ALIGNMENT;
    while let Some(found) = decode(&bytes[at..], stamp) {
        // What follows the body up to the next record is padding, and checked by nobody.
        let used = 32 + u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
        let messages = match found.record {
            Record::Messages { topic, span, .. } => Some((topic.to_owned(), span)),
            _ => None,
        };
        let is_index = matches!(found.record, Record::Index { .. });
        places.push(Place { range: at..at + used, messages, is_index });
        at += found.len;
    }
    places
}

/// What a start may lose when byte `at` of a file is wrong, and whether it must say so, or must not.
fn expectation(name: &str, places: &[Place], at: usize, newest: bool, old: bool) -> (Numbers, Option<bool>) {
    let mut expected = everything();
    if matches!(kind_of(name), FileKind::Checkpoint(_)) {
        return (expected, Some(true));
    }
    let Some(hit) = places.iter().position(|place| place.range.contains(&at)) else {
        // The front block of an old segment is not looked at: the checkpoint knows what it says.
        return (expected, Some(at < 36 && !old));
    };
    let last = hit + 1 == places.len();
    if let Some((topic, span)) = &places[hit].messages
        && let Some(numbers) = expected.get_mut(topic)
    {
        (span.first..span.end()).for_each(|number| {
            numbers.remove(&number);
        });
    }
    // The last record of a segment that was not closed looks like a write that was cut off: so it was not
    // acknowledged, for all that anyone can tell. A last index is of no use in a replay.
    let torn = last && (newest || places[hit].is_index) && !old;
    // What else an old segment holds has done its service; whether it is looked at depends on its neighbours.
    let needed =
        places[hit].is_index || places[hit].messages.as_ref().is_some_and(|(topic, _)| topic != "gone");
    (expected, (!old || needed).then_some(!torn))
}

/// Flips one bit of every byte of every file that is in use, or of every so many, and opens what then is there.
async fn flip_every_byte(files: &Files, newest_is_open: bool, step: usize) {
    let checkpoint = files.keys().rfind(|name| matches!(kind_of(name), FileKind::Checkpoint(_))).unwrap();
    let replay_from = Checkpoint::decode(&files[checkpoint]).unwrap().replay_from;
    let newest = files.keys().rfind(|name| matches!(kind_of(name), FileKind::Segment(_))).unwrap();
    let mut checked = 0;
    for (name, bytes) in files {
        let number = match kind_of(name) {
            FileKind::Segment(number) => number,
            FileKind::Checkpoint(_) if name == checkpoint => u64::MAX,
            _ => continue,
        };
        let places = places(bytes);
        let mut damaged = files.clone();
        // Every byte that is in use and, of those behind the last record, which nothing reads, some.
        let used = places.last().map_or(bytes.len(), |place| place.range.end);
        let telling = |at: &usize| {
            at.is_multiple_of(step) && (*at < 64 || (ALIGNMENT..used + 16).contains(at))
                || at.is_multiple_of(509)
        };
        let all = matches!(kind_of(name), FileKind::Checkpoint(_));
        for at in (0..bytes.len()).filter(|at| all || telling(at)) {
            let bit = 1 << (at * 5 % 8);
            damaged.get_mut(name).unwrap()[at] ^= bit;
            let opened = opened(&MemoryDisk::of(&damaged)).await.unwrap();
            let (found, count) = read_all(&opened).await;
            let (expected, noticed) =
                expectation(name, &places, at, newest_is_open && name == newest, number < replay_from);
            let lost = |topic: &str| expected[topic].difference(&found[topic]).count();
            assert_eq!((lost("one"), lost("two")), (0, 0), "{name} at {at}: {:?}", opened.report.damages);
            assert_eq!(
                count > 0,
                noticed.unwrap_or(count > 0),
                "{name} at {at}: {:?}",
                opened.report.damages
            );
            assert_eq!(opened.report.damaged, opened.report.damages.len() as u64);
            damaged.get_mut(name).unwrap()[at] ^= bit;
            checked += 1;
        }
    }
    assert!(checked > 20_000 / step, "the log is large enough to tell something: {checked}");
}

#[tokio::test]
async fn a_whole_log_is_read_whole() {
    for clean in [false, true] {
        let files = write_log(clean).await;
        let total: usize = files.values().map(Vec::len).sum();
        assert!(total < 200_000, "small enough to flip every byte: {total}");
        let opened = opened(&MemoryDisk::of(&files)).await.unwrap();
        assert_eq!(opened.report.damages, Vec::<String>::new());
        assert_eq!(read_all(&opened).await, (everything(), 0));
        let one = &opened.recovered.topics[0].state;
        assert_eq!((one.next, one.mark, one.channels[0].held[0].attempts), (141, 141, 1));
        assert_eq!(opened.recovered.topics.len(), 2);
        assert_eq!(opened.recovered.sequence_floor, (ROUNDS - 1) * 20 + 11);
    }
}

#[tokio::test]
async fn a_flipped_bit_in_any_byte_costs_its_record_only_when_the_node_died() {
    flip_every_byte(&write_log(false).await, true, 1).await;
}

#[tokio::test]
async fn a_flipped_bit_in_any_byte_costs_its_record_only_when_the_node_stopped() {
    flip_every_byte(&write_log(true).await, false, 7).await;
}

#[tokio::test]
async fn a_file_that_is_cut_keeps_what_is_left_of_it() {
    let files = write_log(true).await;
    for (name, bytes) in &files {
        let FileKind::Segment(_) = kind_of(name) else { continue };
        let places = places(bytes);
        // Every length within the first records and around the end of each block, a seventh of the others.
        let telling = |len: &usize| len.is_multiple_of(7) || len % 512 < 2 || *len < ALIGNMENT + 200;
        for len in (0..bytes.len()).filter(telling) {
            let mut cut = files.clone();
            cut.get_mut(name).unwrap().truncate(len);
            let opened = opened(&MemoryDisk::of(&cut)).await.unwrap();
            let (found, count) = read_all(&opened).await;
            let mut expected = everything();
            for place in places.iter().filter(|place| place.range.end > len) {
                let Some((topic, span)) = &place.messages else { continue };
                let Some(numbers) = expected.get_mut(topic) else { continue };
                (span.first..span.end()).for_each(|number| {
                    numbers.remove(&number);
                });
            }
            for (topic, expected) in &expected {
                let lost: Vec<&u64> = expected.difference(&found[topic]).collect();
                assert!(lost.is_empty(), "{name} cut to {len}: {lost:?} of {topic}");
            }
            let end = places.last().map_or(0, |place| place.range.end);
            assert!(count > 0 || len >= end, "{name} cut to {len} is noticed");
        }
    }
}

/// The segments of a log, oldest first.
fn segments(files: &Files) -> Vec<String> {
    files.keys().filter(|name| matches!(kind_of(name), FileKind::Segment(_))).cloned().collect()
}

fn newest_checkpoint(files: &Files) -> String {
    files.keys().rfind(|name| matches!(kind_of(name), FileKind::Checkpoint(_))).unwrap().clone()
}

fn messages_in(bytes: &[u8]) -> Numbers {
    let mut numbers = Numbers::new();
    for (topic, span) in places(bytes).into_iter().filter_map(|place| place.messages) {
        numbers.entry(topic).or_default().extend(span.first..span.end());
    }
    numbers
}

#[tokio::test]
async fn a_missing_segment_costs_its_messages_and_is_named() {
    let files = write_log(false).await;
    let names = segments(&files);
    for name in &names[..names.len() - 1] {
        let mut fewer = files.clone();
        let gone = messages_in(&fewer.remove(name).unwrap());
        let opened = opened(&MemoryDisk::of(&fewer)).await.unwrap();
        assert!(opened.report.damages.iter().any(|damage| damage.contains(name)), "{:?}", opened.report);
        let (found, _) = read_all(&opened).await;
        for (topic, all) in everything() {
            let gone = gone.get(&topic).cloned().unwrap_or_default();
            let kept: BTreeSet<u64> = all.difference(&gone).copied().collect();
            assert_eq!(found[&topic], kept, "{topic} without {name}");
        }
    }
}

#[tokio::test]
async fn segments_with_swapped_names_are_named_and_replayed_in_the_order_in_which_they_were_written() {
    let mut files = write_log(false).await;
    // Without checkpoints everything is replayed.
    files.retain(|name, _| matches!(kind_of(name), FileKind::Segment(_)));
    let names = segments(&files);
    let whole = opened(&MemoryDisk::of(&files)).await.unwrap();
    for (a, b) in [(0, 1), (1, names.len() - 1), (0, names.len() - 1)] {
        let mut swapped = files.clone();
        swapped.insert(names[a].clone(), files[&names[b]].clone());
        swapped.insert(names[b].clone(), files[&names[a]].clone());
        let opened = opened(&MemoryDisk::of(&swapped)).await.unwrap();
        assert_eq!(opened.report.damaged, 2, "{:?}", opened.report);
        assert_eq!(read_all(&opened).await, (everything(), 2));
        let states = |opened: &Opened| -> Vec<_> {
            opened.recovered.topics.iter().map(|topic| topic.state.clone()).collect()
        };
        assert_eq!(states(&opened), states(&whole));
    }
}

#[tokio::test]
async fn a_copy_of_a_segment_brings_nothing_back() {
    let files = write_log(false).await;
    let names = segments(&files);
    for name in &names {
        let mut more = files.clone();
        more.insert(segment_name(names.len() as u64 + 1), files[name].clone());
        let opened = opened(&MemoryDisk::of(&more)).await.unwrap();
        assert_eq!(read_all(&opened).await.0, everything(), "a copy of {name}");
    }
}

#[tokio::test]
async fn a_spare_file_that_was_about_to_become_a_segment_is_no_segment() {
    let files = write_log(true).await;
    let next = segment_name(segments(&files).len() as u64 + 1);
    // The node died between the rename and the front block. A fresh spare is blank, a used one still holds a
    // segment that everyone had let go of: here with a topic that was deleted since.
    let mut old = vec![0; usize::try_from(SEGMENT).unwrap()];
    old[..ALIGNMENT].copy_from_slice(&SegmentHeader { number: 0, stamp: 99, blocks: 4 }.encode());
    let mut record = crate::env::AlignedBuf::default();
    let frames = frames("gone", 1, 10);
    NewRecord::Messages { topic: "gone", span: Span { first: 1, count: 10 }, due: 0, frames: &frames }
        .encode(99, &mut record);
    old[ALIGNMENT..ALIGNMENT + record.len()].copy_from_slice(record.as_slice());
    for content in [vec![0; old.len()], old.clone()] {
        let mut more = files.clone();
        more.insert(next.clone(), content);
        more.insert(spare_name(3), old.clone());
        let mut opened = opened(&MemoryDisk::of(&more)).await.unwrap();
        assert_eq!(opened.report.damages, Vec::<String>::new());
        assert_eq!(read_all(&opened).await, (everything(), 0));
        // What a spare holds never shows through in the segment that it becomes.
        opened.writer.roll().await.unwrap();
        append(&mut opened.writer, &Entry::Messages { topic: "one", first: 141, count: 1, due: 0 }).await;
        opened.writer.commit(true).await.unwrap();
    }
}

#[tokio::test]
async fn a_used_spare_shows_nothing_of_its_past() {
    let mut files = write_log(true).await;
    let names = segments(&files);
    files.insert(spare_name(1), files[&names[0]].clone());
    let disk = MemoryDisk::of(&files);
    let mut journal = opened(&disk).await.unwrap();
    let before = journal.report.records;
    journal.writer.roll().await.unwrap();
    append(&mut journal.writer, &Entry::Messages { topic: "one", first: 141, count: 1, due: 0 }).await;
    journal.writer.commit(true).await.unwrap();
    assert!(!disk.files().contains_key(&spare_name(1)), "it was used");
    let again = opened(&disk).await.unwrap();
    let mut expected = everything();
    expected.get_mut("one").unwrap().insert(141);
    assert_eq!(read_all(&again).await, (expected, 0));
    assert_eq!(again.report.records, before + 1);
}

#[tokio::test]
async fn leftovers_of_writes_that_were_cut_off_are_removed() {
    let mut files = write_log(true).await;
    let unfinished = format!("{}.unfinished", checkpoint_name(99));
    files.insert(unfinished.clone(), b"half".to_vec());
    files.insert(spare_name(7), vec![0; 100]);
    let disk = MemoryDisk::of(&files);
    let opened = opened(&disk).await.unwrap();
    assert_eq!(read_all(&opened).await, (everything(), 0));
    assert!(!disk.files().contains_key(&unfinished) && !disk.files().contains_key(&spare_name(7)));
}

#[tokio::test]
async fn an_older_checkpoint_serves_when_the_newest_is_damaged_and_none_when_both_are() {
    let mut files = write_log(false).await;
    let whole = opened(&MemoryDisk::of(&files)).await.unwrap();
    for round in 1..=2 {
        let name = newest_checkpoint(&files);
        files.insert(name.clone(), b"bruitchk and nonsense".to_vec());
        let disk = MemoryDisk::of(&files);
        let opened = opened(&disk).await.unwrap();
        assert_eq!(opened.report.damages, [format!("{name} is not whole")], "round {round}");
        assert_eq!(read_all(&opened).await, (everything(), 1));
        let controls = |opened: &Opened| (opened.recovered.control, opened.recovered.sequence_floor);
        assert_eq!(controls(&opened), controls(&whole));
        assert!(!disk.files().contains_key(&name), "so that it takes no whole one's place");
        files.remove(&name);
    }
    assert!(!files.keys().any(|name| matches!(kind_of(name), FileKind::Checkpoint(_))));
}

#[tokio::test]
async fn another_version_is_refused_with_a_sentence() {
    let files = write_log(true).await;
    let names = segments(&files);
    let sealed = |crc_at: usize, covered: std::ops::Range<usize>, bytes: &mut Vec<u8>| {
        bytes[8] = 2;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[..covered.start]);
        hasher.update(&bytes[covered.end..]);
        let crc = hasher.finalize();
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    };
    let checkpoint = newest_checkpoint(&files);
    let mut newer = files.clone();
    sealed(12, 12..16, newer.get_mut(&checkpoint).unwrap());
    let error = opened(&MemoryDisk::of(&newer)).await.err().unwrap().to_string();
    assert!(
        error.contains(&checkpoint) && error.contains("format 2") && error.contains("--data-path"),
        "{error}"
    );

    let mut newer = files.clone();
    newer.retain(|name, _| matches!(kind_of(name), FileKind::Segment(_)));
    let segment = newer.get_mut(&names[1]).unwrap();
    segment[8] = 2;
    let crc = crc32fast::hash(&segment[..32]);
    segment[32..36].copy_from_slice(&crc.to_le_bytes());
    let error = opened(&MemoryDisk::of(&newer)).await.err().unwrap().to_string();
    assert!(error.contains(&names[1]) && error.contains("format 2"), "{error}");
}

#[tokio::test]
async fn a_number_is_left_out_only_when_a_file_is_lost() {
    let mut files = write_log(true).await;
    let last = segments(&files).len() as u64;
    // The checkpoint of a node that stopped names the segment that was to come.
    let mut checkpoint = Checkpoint::decode(&files[&newest_checkpoint(&files)]).unwrap();
    checkpoint.replay_from = last + 1;
    files.insert(checkpoint_name(last + 1), checkpoint.encode());
    let disk = MemoryDisk::of(&files);
    let mut journal = opened(&disk).await.unwrap();
    journal.writer.roll().await.unwrap();
    assert_eq!(journal.writer.segment(), last + 1);
    assert_eq!(opened(&disk).await.unwrap().report.damages, Vec::<String>::new());
}

#[tokio::test]
async fn two_checkpoints_are_kept() {
    let disk = MemoryDisk::default();
    let store = opened(&disk).await.unwrap().store;
    for replay_from in [1, 2, 5, 5, 6] {
        let checkpoint = Checkpoint { replay_from, ..Checkpoint::default() };
        upkeep::write_checkpoint(&store, &checkpoint).await.unwrap();
        upkeep::remove_old_checkpoints(&store).await.unwrap();
    }
    assert_eq!(disk.files().into_keys().collect::<Vec<_>>(), [checkpoint_name(5), checkpoint_name(6)]);
}
