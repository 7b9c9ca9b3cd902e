//! The bytes of a journal record (see `FORMAT.md` beside this file, which this module implements).
//!
//! Pure: encodes into a buffer, decodes from a slice, and finds the next whole record after damage.
//! Nothing here panics on any content.

use crate::env::{ALIGNMENT, AlignedBuf};

/// Bytes of the fixed part in front of every record.
pub(crate) const HEADER: usize = 32;
/// Records start at multiples of this many bytes.
pub(crate) const PAD: usize = 8;
/// Longest record body that is believed, bytes. A larger length is damage.
pub(crate) const LENGTH_MAX: usize = 1 << 30;

/// One range of consecutive sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first number of the range.
    pub(crate) first: u64,
    /// How many numbers it holds.
    pub(crate) count: u32,
}

impl Span {
    /// The first number behind the range.
    pub(crate) const fn end(self) -> u64 {
        self.first.saturating_add(self.count as u64)
    }
}

/// A message that a channel holds back, or has delivered before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// Its sequence number.
    pub(crate) sequence: u64,
    /// Milliseconds since the epoch before which it is not delivered; 0 means at once.
    pub(crate) due: u64,
    /// How often it was delivered so far.
    pub(crate) attempts: u16,
}

/// Where one topic's records lie in a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexRun {
    /// The sequence numbers that lie there.
    pub(crate) span: Span,
    /// Offset of the first record, bytes.
    pub(crate) offset: u32,
    /// Bytes from the first record's start to the last one's end.
    pub(crate) len: u32,
    /// Due time of deferred messages, milliseconds since the epoch; 0 otherwise.
    pub(crate) due: u64,
}

/// A change to a topic or channel. Numbered, so that replay after a checkpoint applies each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Op {
    /// The topic exists; `a` is its first sequence number.
    TopicCreated = 1,
    /// The topic is gone; `a` is the number after its last.
    TopicDeleted = 2,
    /// Deliveries of the topic stop at the fan-out mark `a` (`b` = 1) or go on (`b` = 0).
    TopicPaused = 3,
    /// Messages from `a` up to `b` are dropped before they reach any channel.
    TopicEmptied = 4,
    /// The channel exists; `a` is the first sequence number that it receives.
    ChannelCreated = 5,
    /// The channel is gone; `a` is the topic's fan-out mark at that moment.
    ChannelDeleted = 6,
    /// The channel stops delivering (`b` = 1) or goes on (`b` = 0).
    ChannelPaused = 7,
    /// Everything of the channel below `a` is dropped.
    ChannelEmptied = 8,
    /// Segment `a` is no longer needed by any topic and its file may be gone.
    SegmentDropped = 9,
}

impl Op {
    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::TopicCreated,
            2 => Self::TopicDeleted,
            3 => Self::TopicPaused,
            4 => Self::TopicEmptied,
            5 => Self::ChannelCreated,
            6 => Self::ChannelDeleted,
            7 => Self::ChannelPaused,
            8 => Self::ChannelEmptied,
            9 => Self::SegmentDropped,
            _ => return None,
        })
    }
}

/// A record, borrowed from the bytes that hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// Messages of one topic as wire frames, with consecutive sequence numbers.
    Messages { topic: &'a str, span: Span, due: u64, frames: &'a [u8] },
    /// Messages that a channel is done with.
    Finished { topic: &'a str, channel: &'a str, spans: Spans<'a> },
    /// Messages that a channel holds back or has delivered before.
    Requeued { topic: &'a str, channel: &'a str, held: HeldList<'a> },
    /// A change to a topic or channel.
    Control { topic: &'a str, channel: &'a str, op: Op, number: u64, a: u64, b: u64 },
    /// Where a topic's records lie in this segment; written when it is sealed.
    Index { topic: &'a str, runs: Runs<'a> },
}

const KIND_MESSAGES: u8 = 1;
const KIND_FINISHED: u8 = 2;
const KIND_REQUEUED: u8 = 3;
const KIND_CONTROL: u8 = 4;
const KIND_INDEX: u8 = 5;

const SPAN_LEN: usize = 12;
const HELD_LEN: usize = 18;
const RUN_LEN: usize = 28;

macro_rules! entries {
    ($(#[$doc:meta])* $list:ident, $item:ty, $len:expr, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $list<'a>(&'a [u8]);

        impl<'a> $list<'a> {
            /// The entries, in the order in which they were written.
            pub(crate) fn iter(self) -> impl Iterator<Item = $item> + 'a {
                self.0.chunks_exact($len).filter_map($parse)
            }
        }
    };
}

entries!(/// Ranges of sequence numbers.
    Spans, Span, SPAN_LEN, parse_span);
entries!(/// Messages held by a channel.
HeldList, Held, HELD_LEN, |bytes| {
    Some(Held { sequence: u64_at(bytes, 0)?, due: u64_at(bytes, 8)?, attempts: u16_at(bytes, 16)? })
});
entries!(/// Places in a segment.
Runs, IndexRun, RUN_LEN, |bytes| {
    Some(IndexRun {
        span: parse_span(bytes)?,
        offset: u32_at(bytes, 12)?,
        len: u32_at(bytes, 16)?,
        due: u64_at(bytes, 20)?,
    })
});

fn parse_span(bytes: &[u8]) -> Option<Span> {
    Some(Span { first: u64_at(bytes, 0)?, count: u32_at(bytes, 8)? })
}

/// What to write; the mirror of [`Record`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum NewRecord<'a> {
    /// See [`Record::Messages`].
    Messages { topic: &'a str, span: Span, due: u64, frames: &'a [u8] },
    /// See [`Record::Finished`].
    Finished { topic: &'a str, channel: &'a str, spans: &'a [Span] },
    /// See [`Record::Requeued`].
    Requeued { topic: &'a str, channel: &'a str, held: &'a [Held] },
    /// See [`Record::Control`].
    Control { topic: &'a str, channel: &'a str, op: Op, number: u64, a: u64, b: u64 },
    /// See [`Record::Index`].
    Index { topic: &'a str, runs: &'a [IndexRun] },
}

impl NewRecord<'_> {
    /// Bytes that the record takes in the segment, padding included.
    pub(crate) fn encoded_len(&self) -> usize {
        let (topic, channel, _) = self.names();
        let body = match self {
            Self::Messages { frames, .. } => 8 + frames.len(),
            Self::Finished { spans, .. } => spans.len() * SPAN_LEN,
            Self::Requeued { held, .. } => held.len() * HELD_LEN,
            Self::Control { .. } => 24,
            Self::Index { runs, .. } => runs.len() * RUN_LEN,
        };
        (HEADER + topic.len() + channel.len() + body).next_multiple_of(PAD)
    }

    /// Appends the record, padded, as it lies in the segment whose records carry `stamp`.
    pub(crate) fn encode(&self, stamp: u64, out: &mut AlignedBuf) {
        let start = out.len();
        let (topic, channel, kind) = self.names();
        let (op, count, first) = match *self {
            Self::Messages { span, .. } => (0, span.count, span.first),
            Self::Finished { spans, .. } => (0, entry_count(spans.len()), 0),
            Self::Requeued { held, .. } => (0, entry_count(held.len()), 0),
            Self::Control { op, number, .. } => (op as u8, 1, number),
            Self::Index { runs, .. } => (0, entry_count(runs.len()), 0),
        };
        let mut header = [0_u8; HEADER];
        header[8..16].copy_from_slice(&stamp.to_le_bytes());
        header[16..20].copy_from_slice(&[kind, op, name_len(topic), name_len(channel)]);
        header[20..24].copy_from_slice(&count.to_le_bytes());
        header[24..32].copy_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(topic.as_bytes());
        out.extend_from_slice(channel.as_bytes());
        self.encode_body(out);
        let end = out.len();
        let record = &mut out.as_mut_slice()[start..end];
        let len = u32::try_from(record.len() - HEADER).expect("a record body is bounded by LENGTH_MAX");
        record[..4].copy_from_slice(&len.to_le_bytes());
        let crc = crc32fast::hash(&record[8..]);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + (end - start).next_multiple_of(PAD));
    }

    fn encode_body(&self, out: &mut AlignedBuf) {
        match *self {
            Self::Messages { due, frames, .. } => {
                out.extend_from_slice(&due.to_le_bytes());
                out.extend_from_slice(frames);
            }
            Self::Finished { spans, .. } => spans.iter().for_each(|span| put_span(out, *span)),
            Self::Requeued { held, .. } => {
                for entry in held {
                    out.extend_from_slice(&entry.sequence.to_le_bytes());
                    out.extend_from_slice(&entry.due.to_le_bytes());
                    out.extend_from_slice(&entry.attempts.to_le_bytes());
                }
            }
            Self::Control { a, b, .. } => {
                out.extend_from_slice(&a.to_le_bytes());
                out.extend_from_slice(&b.to_le_bytes());
                out.extend_from_slice(&[0; 8]);
            }
            Self::Index { runs, .. } => {
                for run in runs {
                    put_span(out, run.span);
                    out.extend_from_slice(&run.offset.to_le_bytes());
                    out.extend_from_slice(&run.len.to_le_bytes());
                    out.extend_from_slice(&run.due.to_le_bytes());
                }
            }
        }
    }

    const fn names(&self) -> (&str, &str, u8) {
        match self {
            Self::Messages { topic, .. } => (topic, "", KIND_MESSAGES),
            Self::Finished { topic, channel, .. } => (topic, channel, KIND_FINISHED),
            Self::Requeued { topic, channel, .. } => (topic, channel, KIND_REQUEUED),
            Self::Control { topic, channel, .. } => (topic, channel, KIND_CONTROL),
            Self::Index { topic, .. } => (topic, "", KIND_INDEX),
        }
    }
}

fn entry_count(entries: usize) -> u32 {
    u32::try_from(entries).expect("entry lists are cut into records well below this")
}

fn name_len(name: &str) -> u8 {
    u8::try_from(name.len()).expect("names are at most 64 bytes")
}

fn put_span(out: &mut AlignedBuf, span: Span) {
    out.extend_from_slice(&span.first.to_le_bytes());
    out.extend_from_slice(&span.count.to_le_bytes());
}

/// A record and the bytes that it takes, padding included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decoded<'a> {
    /// The record.
    pub(crate) record: Record<'a>,
    /// Bytes from its start to the next record's.
    pub(crate) len: usize,
}

/// Decodes the record at the start of `bytes`. `None` means that no whole, undamaged record of the segment
/// whose records carry `stamp` starts here.
///
/// The stamp is random for each segment, so that neither what a recycled file held before nor a message
/// body that a publisher has made up to look like a record is ever taken for one.
pub(crate) fn decode(bytes: &[u8], stamp: u64) -> Option<Decoded<'_>> {
    if u64_at(bytes, 8)? != stamp {
        return None;
    }
    let len = u32_at(bytes, 0)? as usize;
    if len > LENGTH_MAX {
        return None;
    }
    let whole = bytes.get(..HEADER + len)?;
    if crc32fast::hash(whole.get(8..)?) != u32_at(whole, 4)? {
        return None;
    }
    let [kind, op, topic_len, channel_len] = *whole.get(16..20)?.first_chunk::<4>()?;
    let count = u32_at(whole, 20)?;
    let first = u64_at(whole, 24)?;
    let (topic, rest) = whole.get(HEADER..)?.split_at_checked(topic_len.into())?;
    let (channel, body) = rest.split_at_checked(channel_len.into())?;
    let topic = std::str::from_utf8(topic).ok()?;
    let channel = std::str::from_utf8(channel).ok()?;
    let entries = |size: usize| (body.len() == count as usize * size).then_some(body);
    let record = match kind {
        KIND_MESSAGES => {
            let (due, frames) = (u64_at(body, 0)?, body.get(8..)?);
            Record::Messages { topic, span: Span { first, count }, due, frames }
        }
        KIND_FINISHED => Record::Finished { topic, channel, spans: Spans(entries(SPAN_LEN)?) },
        KIND_REQUEUED => Record::Requeued { topic, channel, held: HeldList(entries(HELD_LEN)?) },
        KIND_CONTROL => {
            let op = Op::from_byte(op)?;
            Record::Control { topic, channel, op, number: first, a: u64_at(body, 0)?, b: u64_at(body, 8)? }
        }
        KIND_INDEX => Record::Index { topic, runs: Runs(entries(RUN_LEN)?) },
        _ => return None,
    };
    Some(Decoded { record, len: (HEADER + len).next_multiple_of(PAD) })
}

/// What lies at one place of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A whole record.
    Record { offset: usize, len: usize, record: Record<'a> },
    /// Bytes that are no record although whole records follow them.
    Damage { offset: usize, len: usize },
}

/// Walks over the records of a segment. Damage in the middle is reported and stepped over; damage that no
/// whole record follows is the torn end, where the walk stops.
pub(crate) struct Walk<'a> {
    bytes: &'a [u8],
    stamp: u64,
    offset: usize,
}

impl<'a> Walk<'a> {
    /// Starts at `offset` of a segment's `bytes`.
    pub(crate) const fn new(bytes: &'a [u8], stamp: u64, offset: usize) -> Self {
        Self { bytes, stamp, offset }
    }

    /// The end of the last whole record so far.
    pub(crate) const fn offset(&self) -> usize {
        self.offset
    }

    fn at(&self, offset: usize) -> Option<Decoded<'a>> {
        decode(self.bytes.get(offset..)?, self.stamp)
    }

    /// The next offset behind `from` at which a whole record starts.
    fn resync(&self, from: usize) -> Option<usize> {
        let mut offset = from.next_multiple_of(PAD);
        while offset + HEADER <= self.bytes.len() {
            // The stamp is compared first: it rules out all but real records at little cost.
            if u64_at(self.bytes, offset + 8) == Some(self.stamp) && self.at(offset).is_some() {
                return Some(offset);
            }
            offset += PAD;
        }
        None
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let offset = self.offset;
        if let Some(Decoded { record, len }) = self.at(offset) {
            self.offset = offset + len;
            return Some(Found::Record { offset, len, record });
        }
        let next = self.resync(offset + PAD)?;
        self.offset = next;
        Some(Found::Damage { offset, len: next - offset })
    }
}

/// The stamp of a segment whose front block is lost: the first record repeats it. `None` if none does.
pub(crate) fn stamp_of_first(segment: &[u8]) -> Option<u64> {
    let stamp = u64_at(segment, ALIGNMENT + 8).filter(|&stamp| stamp != 0)?;
    Walk::new(segment, stamp, ALIGNMENT).next().map(|_| stamp)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
