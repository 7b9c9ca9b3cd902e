//! The writer on a disk that fails: what was acknowledged stays, what failed is placed nowhere, and writing
//! goes on.

use std::io;

use bruit_wire::TopicName;

use super::{
    super::{
        Opened, Run, open,
        record::Span,
        segment::{FIRST_RECORD, FileKind, kind_of},
        writer::{Full, Writer},
    },
    MemoryDisk, frames,
};
use crate::config::JournalConfig;

const SEGMENT: u64 = 16 * 1024;

async fn opened(disk: &MemoryDisk) -> Opened {
    let config = JournalConfig { segment_size: SEGMENT, ..JournalConfig::default() };
    open(&config, "data".into(), disk.env()).await.unwrap()
}

/// A journal with its first segment open.
async fn writing(disk: &MemoryDisk) -> Opened {
    let mut journal = opened(disk).await;
    journal.writer.roll().await.unwrap();
    journal
}

fn append(writer: &mut Writer, first: u64, count: u32) -> Result<Run, Full> {
    let topic = TopicName::new("t").unwrap();
    writer.append_messages(&topic, Span { first, count }, 0, &frames("t", first, count))
}

/// The messages that a start finds, and the damage that it names.
async fn found(disk: &MemoryDisk) -> (Vec<u64>, Vec<String>) {
    let opened = opened(disk).await;
    let topic = TopicName::new("t").unwrap();
    let mut numbers = Vec::new();
    for run in opened.recovered.topics.iter().flat_map(|topic| topic.runs.iter()) {
        for read in opened.store.read(&topic, run).await.unwrap() {
            numbers.extend(read.span.first..read.span.end());
        }
    }
    (numbers, opened.report.damages)
}

fn spares(disk: &MemoryDisk) -> usize {
    disk.files().keys().filter(|name| matches!(kind_of(name), FileKind::Spare(_))).count()
}

#[tokio::test]
async fn a_failed_write_ends_the_segment_and_the_next_commit_goes_to_another() {
    let disk = MemoryDisk::default();
    let mut journal = writing(&disk).await;
    append(&mut journal.writer, 1, 3).unwrap();
    journal.writer.commit(true).await.unwrap();
    append(&mut journal.writer, 4, 3).unwrap();
    disk.faults.lock().writes_left = Some(0);
    journal.writer.commit(true).await.unwrap_err();

    assert!(!journal.writer.is_open());
    assert_eq!(append(&mut journal.writer, 7, 1), Err(Full::Roll), "nothing more goes into it");
    journal.writer.commit(true).await.unwrap_err();
    let sealed = journal.store.sealed_below(u64::MAX);
    assert_eq!((sealed.len(), sealed[0].number, sealed[0].index), (1, 1, 0));
    assert!(sealed[0].end > FIRST_RECORD);

    journal.writer.roll().await.unwrap();
    let run = append(&mut journal.writer, 7, 1).unwrap();
    assert_eq!((run.segment, u64::from(run.offset)), (2, FIRST_RECORD));
    journal.writer.commit(true).await.unwrap();
    journal.writer.seal().await.unwrap();
    assert_eq!(journal.store.damaged_records(), 0, "what was committed before was read back");
    assert_eq!(found(&disk).await, (vec![1, 2, 3, 7], vec![]));
}

#[tokio::test]
async fn a_failed_write_that_took_committed_bytes_along_is_noticed_at_once() {
    let disk = MemoryDisk::default();
    let mut journal = writing(&disk).await;
    append(&mut journal.writer, 1, 3).unwrap();
    journal.writer.commit(true).await.unwrap();
    append(&mut journal.writer, 4, 3).unwrap();
    *disk.faults.lock() = super::Faults { writes_left: Some(0), torn: 100, ..Default::default() };
    journal.writer.commit(true).await.unwrap_err();
    assert_eq!(journal.store.damaged_records(), 1);
}

#[tokio::test]
async fn a_failed_write_while_a_segment_is_closed_is_noticed_as_well() {
    let disk = MemoryDisk::default();
    let mut journal = writing(&disk).await;
    append(&mut journal.writer, 1, 3).unwrap();
    journal.writer.commit(true).await.unwrap();
    append(&mut journal.writer, 4, 3).unwrap();
    *disk.faults.lock() = super::Faults { writes_left: Some(0), torn: 100, ..Default::default() };
    journal.writer.seal().await.unwrap_err();
    assert_eq!(journal.store.damaged_records(), 1);
    let sealed = journal.store.sealed_below(u64::MAX);
    assert_eq!((sealed.len(), sealed[0].index), (1, 0));
}

#[tokio::test]
async fn an_index_that_cannot_be_written_costs_only_time() {
    let disk = MemoryDisk::default();
    let mut journal = writing(&disk).await;
    append(&mut journal.writer, 1, 3).unwrap();
    journal.writer.commit(true).await.unwrap();
    disk.faults.lock().writes_left = Some(0);
    journal.writer.seal().await.unwrap();
    let sealed = journal.store.sealed_below(u64::MAX);
    assert_eq!((sealed[0].index, journal.store.damaged_records()), (0, 0));
    assert_eq!(found(&disk).await, (vec![1, 2, 3], vec![]));
}

#[tokio::test]
async fn a_full_disk_at_the_end_of_a_segment_leaves_it_usable() {
    let disk = MemoryDisk::default();
    let mut journal = writing(&disk).await;
    append(&mut journal.writer, 1, 3).unwrap();
    journal.writer.commit(true).await.unwrap();
    disk.faults.lock().room = Some(0);
    let error = journal.writer.roll().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(journal.writer.is_open());
    assert_eq!(append(&mut journal.writer, 4, 1).unwrap().segment, 1);
    journal.writer.commit(true).await.unwrap();
    assert_eq!(spares(&disk), 0, "the one that found no room is gone");
    disk.faults.lock().room = None;
    journal.writer.roll().await.unwrap();
    assert_eq!(append(&mut journal.writer, 5, 1).unwrap().segment, 2);
    journal.writer.commit(true).await.unwrap();
    assert_eq!(found(&disk).await, (vec![1, 2, 3, 4, 5], vec![]));
}

#[tokio::test]
async fn a_segment_that_cannot_be_begun_costs_no_number_and_no_file() {
    let disk = MemoryDisk::default();
    let mut journal = writing(&disk).await;
    append(&mut journal.writer, 1, 1).unwrap();
    journal.writer.commit(true).await.unwrap();
    disk.faults.lock().renames_left = Some(0);
    journal.writer.roll().await.unwrap_err();
    assert_eq!(spares(&disk), 1, "the spare file is still one");
    // Sealing found the segment closed already; now the front block fails, after the rename.
    disk.faults.lock().writes_left = Some(0);
    journal.writer.roll().await.unwrap_err();
    let before = disk.files().len();
    journal.writer.roll().await.unwrap();
    assert_eq!(disk.files().len(), before, "the half-made file was replaced");
    assert_eq!(append(&mut journal.writer, 2, 1).unwrap().segment, 2);
    journal.writer.commit(true).await.unwrap();
    assert_eq!(found(&disk).await, (vec![1, 2], vec![]));
}

#[tokio::test]
async fn a_record_larger_than_a_segment_goes_alone_into_one() {
    let disk = MemoryDisk::default();
    let mut journal = writing(&disk).await;
    append(&mut journal.writer, 1, 1).unwrap();
    assert_eq!(append(&mut journal.writer, 2, 1000), Err(Full::Roll));
    journal.writer.roll().await.unwrap();
    let run = append(&mut journal.writer, 2, 1000).unwrap();
    assert!((run.segment, u64::from(run.offset)) == (2, FIRST_RECORD) && u64::from(run.len) > SEGMENT);
    assert_eq!(append(&mut journal.writer, 1002, 1), Err(Full::Roll));
    journal.writer.commit(true).await.unwrap();
    journal.writer.roll().await.unwrap();
    append(&mut journal.writer, 1002, 1).unwrap();
    journal.writer.commit(true).await.unwrap();
    assert_eq!(found(&disk).await, ((1..=1002).collect(), vec![]));
}

#[tokio::test]
async fn what_is_rolled_back_was_never_there() {
    let disk = MemoryDisk::default();
    let mut journal = writing(&disk).await;
    append(&mut journal.writer, 1, 3).unwrap();
    journal.writer.commit(true).await.unwrap();
    let place = append(&mut journal.writer, 4, 50).unwrap();
    journal.writer.rollback();
    let again = append(&mut journal.writer, 9, 1).unwrap();
    assert_eq!(again.offset, place.offset);
    journal.writer.commit(true).await.unwrap();
    journal.writer.seal().await.unwrap();
    assert_eq!(found(&disk).await, (vec![1, 2, 3, 9], vec![]));
}
