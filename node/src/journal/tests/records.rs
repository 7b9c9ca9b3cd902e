//! The bytes of records: pinned, whole, damaged, forged.

use proptest::prelude::*;

use super::super::record::{
    Decoded, Found, HEADER, Held, IndexRun, NewRecord, Op, PAD, Record, Span, Walk, decode, stamp_of_first,
};
use crate::env::{ALIGNMENT, AlignedBuf};

const STAMP: u64 = 0x1122_3344_5566_7788;

fn encoded(record: &NewRecord<'_>, stamp: u64) -> Vec<u8> {
    let mut out = AlignedBuf::default();
    record.encode(stamp, &mut out);
    assert_eq!(out.len(), record.encoded_len());
    out.as_slice().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    let words = bytes.chunks(8).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_layout_of_format_1_never_changes() {
    let golden = |record: NewRecord<'_>, bytes: &str| assert_eq!(hex(&encoded(&record, STAMP)), bytes);
    golden(
        NewRecord::Messages { topic: "t", span: Span { first: 3, count: 2 }, due: 9, frames: b"frames" },
        "0f000000f8acef06 8877665544332211 0100010002000000 0300000000000000 7409000000000000 006672616d657300",
    );
    golden(
        NewRecord::Finished { topic: "t", channel: "cc", spans: &[Span { first: 3, count: 2 }] },
        "0f0000008faa35ac 8877665544332211 0200010201000000 0000000000000000 7463630300000000 0000000200000000",
    );
    golden(
        NewRecord::Requeued {
            topic: "t",
            channel: "c",
            held: &[Held { sequence: 5, due: 0x0102, attempts: 7 }],
        },
        "140000004fcd23f1 8877665544332211 0300010101000000 0000000000000000 7463050000000000 0000020100000000 0000070000000000",
    );
    golden(
        NewRecord::Control { topic: "t", channel: "", op: Op::TopicEmptied, number: 6, a: 7, b: 8 },
        "190000005923c718 8877665544332211 0404010001000000 0600000000000000 7407000000000000 0008000000000000 0000000000000000 0000000000000000",
    );
    golden(
        NewRecord::Index {
            topic: "t",
            runs: &[IndexRun { span: Span { first: 1, count: 2 }, offset: 0x1000, len: 0x40, due: 9 }],
        },
        "1d000000b2948ebc 8877665544332211 0500010001000000 0000000000000000 7401000000000000 0002000000001000 0040000000090000 0000000000000000",
    );
}

/// A record of any kind with any content, kept apart from what borrows it.
#[derive(Debug, Clone)]
struct Parts {
    kind: u8,
    topic: String,
    channel: String,
    spans: Vec<Span>,
    held: Vec<Held>,
    runs: Vec<IndexRun>,
    frames: Vec<u8>,
    op: Op,
    numbers: (u64, u64, u64),
}

impl Parts {
    fn record(&self) -> NewRecord<'_> {
        let (topic, channel) = (self.topic.as_str(), self.channel.as_str());
        let (number, a, b) = self.numbers;
        match self.kind {
            0 => {
                let span = self.spans.first().copied().unwrap_or(Span { first: a, count: 1 });
                NewRecord::Messages { topic, span, due: b, frames: &self.frames }
            }
            1 => NewRecord::Finished { topic, channel, spans: &self.spans },
            2 => NewRecord::Requeued { topic, channel, held: &self.held },
            3 => NewRecord::Control { topic, channel, op: self.op, number, a, b },
            _ => NewRecord::Index { topic, runs: &self.runs },
        }
    }

    fn is(&self, record: &Record<'_>) -> bool {
        match (self.record(), *record) {
            (NewRecord::Messages { topic, span, due, frames }, read) => {
                read == Record::Messages { topic, span, due, frames }
            }
            (
                NewRecord::Finished { topic, channel, spans },
                Record::Finished { topic: t, channel: c, spans: read },
            ) => (topic, channel) == (t, c) && read.iter().eq(spans.iter().copied()),
            (
                NewRecord::Requeued { topic, channel, held },
                Record::Requeued { topic: t, channel: c, held: read },
            ) => (topic, channel) == (t, c) && read.iter().eq(held.iter().copied()),
            (NewRecord::Control { topic, channel, op, number, a, b }, read) => {
                read == Record::Control { topic, channel, op, number, a, b }
            }
            (NewRecord::Index { topic, runs }, Record::Index { topic: t, runs: read }) => {
                topic == t && read.iter().eq(runs.iter().copied())
            }
            _ => false,
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop::sample::select(vec![
        Op::TopicCreated,
        Op::TopicDeleted,
        Op::TopicPaused,
        Op::TopicEmptied,
        Op::ChannelCreated,
        Op::ChannelDeleted,
        Op::ChannelPaused,
        Op::ChannelEmptied,
        Op::SegmentDropped,
    ])
}

prop_compose! {
    fn parts()(
        kind in 0_u8..5,
        (topic, channel) in ("[a-z]{1,64}", "[a-z]{0,64}"),
        spans in prop::collection::vec((any::<u64>(), any::<u32>()), 0..6),
        held in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u16>()), 0..6),
        runs in prop::collection::vec((any::<u64>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>()), 0..6),
        frames in prop::collection::vec(any::<u8>(), 0..200),
        op in op(),
        numbers in any::<(u64, u64, u64)>(),
    ) -> Parts {
        let span = |first, count| Span { first, count };
        Parts {
            kind, topic, channel, frames, op, numbers,
            spans: spans.into_iter().map(|(first, count)| span(first, count)).collect(),
            held: held.into_iter().map(|(sequence, due, attempts)| Held { sequence, due, attempts }).collect(),
            runs: runs.into_iter().map(|(first, count, offset, len, due)| {
                IndexRun { span: span(first, count), offset, len, due }
            }).collect(),
        }
    }
}

/// The bytes of a record that are not padding.
fn used(bytes: &[u8]) -> usize {
    HEADER + u32::from_le_bytes(*bytes.first_chunk().unwrap()) as usize
}

proptest! {
    #[test]
    fn what_was_written_is_read(parts in parts(), stamp in 1_u64..) {
        let bytes = encoded(&parts.record(), stamp);
        let Decoded { record, len } = decode(&bytes, stamp).unwrap();
        prop_assert!(parts.is(&record), "{record:?}");
        prop_assert_eq!(len, bytes.len());
        prop_assert_eq!(len % PAD, 0);
        prop_assert_eq!(decode(&bytes, stamp ^ 1), None, "another segment's record");
        prop_assert_eq!(decode(&bytes[..used(&bytes) - 1], stamp), None, "a cut record");
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), sealed in any::<bool>()) {
        if sealed && bytes.len() >= HEADER {
            // As far as the checks that come first let it: a right stamp, length and checksum.
            bytes[8..16].copy_from_slice(&STAMP.to_le_bytes());
            let len = u32::try_from(bytes.len() - HEADER).unwrap();
            bytes[..4].copy_from_slice(&len.to_le_bytes());
            bytes[16] %= 7;
            let crc = crc32fast::hash(&bytes[8..]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        }
        let found = Walk::new(&bytes, STAMP, 0).count();
        prop_assert!(found <= bytes.len());
        stamp_of_first(&bytes);
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed(parts in parts()) {
        let bytes = encoded(&parts.record(), STAMP);
        for bit in 0..used(&bytes) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&flipped, STAMP), None, "bit {}", bit);
        }
    }

    #[test]
    fn damage_in_the_middle_costs_the_damaged_record(
        records in prop::collection::vec(parts(), 2..6),
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        damage in 1_u8..,
    ) {
        let pieces: Vec<Vec<u8>> = records.iter().map(|parts| encoded(&parts.record(), STAMP)).collect();
        let hit = which.index(pieces.len() - 1);
        let offset: usize = pieces[..hit].iter().map(Vec::len).sum();
        let mut bytes = pieces.concat();
        bytes[offset + at.index(used(&pieces[hit]))] ^= damage;
        let mut expected = records.iter().zip(&pieces).enumerate();
        for found in Walk::new(&bytes, STAMP, 0) {
            let (i, (parts, piece)) = expected.next().unwrap();
            match found {
                Found::Record { record, len, .. } => {
                    prop_assert!(i != hit && parts.is(&record));
                    prop_assert_eq!(len, piece.len());
                }
                Found::Damage { offset: from, len } => {
                    prop_assert_eq!((i, from, len), (hit, offset, piece.len()));
                }
            }
        }
        prop_assert!(expected.next().is_none());
    }
}

#[test]
fn a_damaged_end_is_where_the_walk_stops() {
    let first = NewRecord::Messages { topic: "t", span: Span { first: 1, count: 1 }, due: 0, frames: b"one" };
    let mut bytes = encoded(&first, STAMP);
    let end = bytes.len();
    bytes.extend(encoded(&first, STAMP));
    bytes[end + 20] ^= 1;
    bytes.extend([0; 500]);
    let mut walk = Walk::new(&bytes, STAMP, 0);
    assert_eq!(walk.by_ref().count(), 1);
    assert_eq!(walk.offset(), end);
}

#[test]
fn a_record_made_up_in_a_message_is_never_believed() {
    let lie = NewRecord::Control { topic: "t", channel: "", op: Op::TopicDeleted, number: 99, a: 0, b: 0 };
    // Whoever publishes does not know the stamp, so they try: none, and one of another segment.
    for guess in [0, 1, STAMP ^ 1, u64::MAX] {
        let forged = encoded(&lie, guess);
        for shift in 0..PAD {
            let frames = [vec![b'.'; shift], forged.repeat(3)].concat();
            let span = Span { first: 1, count: 1 };
            let mut bytes =
                encoded(&NewRecord::Messages { topic: "t", span, due: 0, frames: &frames }, STAMP);
            let len = bytes.len();
            let last = NewRecord::Finished { topic: "t", channel: "c", spans: &[span] };
            bytes.extend(encoded(&last, STAMP));
            bytes[HEADER] ^= 1;
            let found: Vec<Found<'_>> = Walk::new(&bytes, STAMP, 0).collect();
            assert_eq!(found[0], Found::Damage { offset: 0, len });
            assert!(matches!(found[1..], [Found::Record { record: Record::Finished { .. }, .. }]));
        }
    }
}

#[test]
fn a_lost_front_block_is_made_up_for_by_the_first_record() {
    let record = NewRecord::Finished { topic: "t", channel: "c", spans: &[Span { first: 1, count: 1 }] };
    let mut segment = vec![0; ALIGNMENT];
    assert_eq!(stamp_of_first(&segment), None);
    segment.extend(encoded(&record, STAMP));
    assert_eq!(stamp_of_first(&segment), Some(STAMP));
    segment[ALIGNMENT + 8] ^= 1;
    assert_eq!(stamp_of_first(&segment), None, "a stamp that no record bears");
    assert_eq!(stamp_of_first(&[0; 2 * ALIGNMENT]), None);
}
