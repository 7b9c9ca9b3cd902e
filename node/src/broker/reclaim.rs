//! Gives disk back: drops segments that nobody needs, and copies the survivors of mostly dead ones forward.
//!
//! Most messages die young. Those that do not would each pin a segment; copied, they end up together, and
//! disk use stays within a small factor of what is live.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bruit_wire::nsq;

use super::{commits::Move, registry::Broker, topic::Topic};
use crate::{
    exit::Exiting,
    journal::{
        Op, Run, Span,
        checkpoint::{HeldRange, SealedSegment},
        store::ReadBack,
    },
};

/// How often the need for segments is looked at, besides after every checkpoint.
const INTERVAL: Duration = Duration::from_secs(5);
/// A segment is cleaned when less than one part in this many of it is needed.
const LIVE_PART: u64 = 2;
/// Nothing is cleaned while the sealed segments take less than this many times their needed bytes...
const SLACK_FACTOR: u64 = 2;
/// ...and this many segments more.
const SLACK_SEGMENTS: u64 = 2;
/// Bytes that are copied forward in one commit.
const MOVE_MAX: usize = 1024 * 1024;

/// What the channels of a topic still need.
pub(super) struct Needs {
    /// No channel has seen anything from here on.
    pub(super) mark: u64,
    /// Each channel's cursor, and what it holds below or beside it.
    pub(super) channels: Vec<(u64, Vec<HeldRange>)>,
}

/// How much of a segment is needed.
#[derive(Debug, Default)]
struct Live {
    bytes: u64,
}

/// Looks for segments to drop or clean until the node exits.
pub(super) async fn run(broker: Arc<Broker>, exit: Exiting) {
    loop {
        tokio::select! {
            biased;
            () = exit.told() => return,
            () = next_pass(&broker) => {}
        }
    }
}

async fn next_pass(broker: &Arc<Broker>) {
    tokio::select! {
        biased;
        () = broker.checkpoint_written() => {}
        () = tokio::time::sleep(INTERVAL) => {}
    }
    pass(broker).await;
}

async fn pass(broker: &Arc<Broker>) {
    let shared = broker.shared();
    let sealed = shared.store.sealed_below(broker.replay_from());
    if sealed.is_empty() {
        return;
    }
    let mut live: BTreeMap<u64, Live> = BTreeMap::new();
    for topic in broker.topics().into_iter().filter(|topic| topic.is_journalled()) {
        let needs = topic.needs();
        topic.with_tail(|tail| {
            tail.retain_runs(|run| needs.needs(run));
            for run in tail.runs() {
                live.entry(run.segment).or_default().bytes += needs.live_bytes(run);
            }
        });
    }
    broker.live_bytes.store(live.values().map(|live| live.bytes).sum(), Ordering::Relaxed);
    let (dead, used): (Vec<_>, Vec<_>) =
        sealed.into_iter().partition(|sealed| !live.contains_key(&sealed.number));
    for segment in dead {
        drop_segment(broker, segment.number).await;
    }
    if let Some(number) = worst(&used, &live, shared.store.segment_size) {
        clean(broker, number).await;
    }
}

/// Says in the journal that a segment is gone, then lets it go: a start then knows that it is not missing.
async fn drop_segment(broker: &Arc<Broker>, number: u64) {
    let shared = broker.shared();
    // From here on no checkpoint names it; should the node die now, the next start removes the file.
    let Some(retired) = shared.store.retire(number) else { return };
    let change = super::commits::Change {
        topic: String::new(),
        channel: String::new(),
        op: Op::SegmentDropped,
        number: shared.commits.next_change(),
        a: number,
        b: 0,
    };
    let ticket = shared.commits.change(change);
    if broker.settled(ticket).await.is_err() {
        shared.store.restore(retired);
        return;
    }
    if let Err(error) = shared.store.release(&retired).await {
        tracing::warn!("cannot remove segment {number}: {error}; the next start will");
    }
}

/// The segment whose cleaning gives back most, if any is worth it.
fn worst(sealed: &[SealedSegment], live: &BTreeMap<u64, Live>, segment_size: u64) -> Option<u64> {
    let needed = |segment: &SealedSegment| live.get(&segment.number).map_or(0, |live| live.bytes);
    let taken: u64 = sealed.iter().map(|segment| segment.end.max(segment_size)).sum();
    let needed_in_all: u64 = sealed.iter().map(needed).sum();
    if taken <= SLACK_FACTOR * needed_in_all + SLACK_SEGMENTS * segment_size {
        return None;
    }
    let sparse = sealed.iter().filter(|segment| needed(segment) * LIVE_PART < segment.end.max(segment_size));
    sparse.min_by_key(|segment| (needed(segment), segment.number)).map(|segment| segment.number)
}

/// Copies what is needed of a segment forward. The next pass then finds nothing in it.
async fn clean(broker: &Arc<Broker>, number: u64) {
    for topic in broker.topics() {
        let needs = topic.needs();
        let here = |run: &&Run| run.segment == number;
        let runs: Vec<Run> = topic.with_tail(|tail| tail.runs().filter(here).copied().collect());
        let mut moves = Moves { broker, topic: &topic, from: number, moves: Vec::new(), bytes: 0 };
        for run in runs {
            let Ok(records) = broker.shared().store.read(topic.name(), &run).await else { return };
            for record in &records {
                for span in needs.needed(&run, record) {
                    if !moves.add(record, span).await {
                        return;
                    }
                }
            }
        }
        if !moves.flush().await {
            return;
        }
    }
}

struct Moves<'a> {
    broker: &'a Arc<Broker>,
    topic: &'a Arc<Topic>,
    from: u64,
    moves: Vec<Move>,
    bytes: usize,
}

impl Moves<'_> {
    /// Adds a part of a record. Returns false when the journal takes nothing at the moment.
    async fn add(&mut self, record: &ReadBack, span: Span) -> bool {
        let Some(frames) = part(record, span) else { return true };
        self.bytes += frames.len();
        self.moves.push(Move {
            topic: Arc::clone(self.topic),
            from: self.from,
            span,
            due: record.due,
            frames,
        });
        self.bytes < MOVE_MAX || self.flush().await
    }

    async fn flush(&mut self) -> bool {
        if self.moves.is_empty() {
            return true;
        }
        self.bytes = 0;
        let ticket = self.broker.shared().commits.relocate(std::mem::take(&mut self.moves));
        self.broker.settled(ticket).await.is_ok()
    }
}

/// The frames of `span` in a record. `None` if they cannot be told apart.
fn part(record: &ReadBack, span: Span) -> Option<bytes::Bytes> {
    let skip = |frames: &[u8], count: u64| {
        (0..count).try_fold(0, |at, _| Some(at + nsq::message_frame_len(frames.get(at..)?)?))
    };
    let start = skip(&record.frames, span.first.checked_sub(record.span.first)?)?;
    let len = skip(&record.frames[start..], u64::from(span.count))?;
    Some(record.frames.slice(start..start + len))
}

impl Needs {
    /// Whether any message of `run` is needed.
    fn needs(&self, run: &Run) -> bool {
        let (first, end) = (run.span.first, run.span.end());
        let ahead =
            |(next, held): &(u64, Vec<HeldRange>)| end > *next || overlap(held, first, end).next().is_some();
        end > self.mark || self.channels.iter().any(ahead)
    }

    /// Roughly how many bytes of `run` are needed.
    fn live_bytes(&self, run: &Run) -> u64 {
        let (first, end) = (run.span.first, run.span.end());
        let from = self.channels.iter().map(|(next, _)| *next).chain([self.mark]).min().unwrap_or(self.mark);
        if first >= from {
            return run.len.into();
        }
        let ahead = end.saturating_sub(from);
        let held = self.channels.iter().flat_map(|(_, held)| overlap(held, first, end));
        let held: u64 = held.map(|(first, end)| end - first).sum();
        let count = u64::from(run.span.count).max(1);
        u64::from(run.len) * (ahead + held).min(count) / count
    }

    /// The messages of `record`, as far as `run` speaks for it, that are needed.
    fn needed(&self, run: &Run, record: &ReadBack) -> Vec<Span> {
        let first = run.span.first.max(record.span.first);
        let end = run.span.end().min(record.span.end());
        let from = self.channels.iter().map(|(next, _)| *next).chain([self.mark]).min().unwrap_or(self.mark);
        let ahead = (from.max(first) < end).then(|| (from.max(first), end));
        let held = self.channels.iter().flat_map(|(_, held)| overlap(held, first, end));
        let numbers: BTreeSet<u64> = held.chain(ahead).flat_map(|(first, end)| first..end).collect();
        let mut spans: Vec<Span> = Vec::new();
        for number in numbers {
            match spans.last_mut().filter(|last| last.end() == number) {
                Some(last) => last.count += 1,
                None => spans.push(Span { first: number, count: 1 }),
            }
        }
        spans
    }
}

/// The parts of `held`, which is ordered, that lie in `first..end`.
fn overlap(held: &[HeldRange], first: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
    let from = held.partition_point(|range| range.first + range.count <= first);
    let within = held[from..].iter().take_while(move |range| range.first < end);
    within.map(move |range| (range.first.max(first), (range.first + range.count).min(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u32) -> Run {
        Run { span: Span { first, count }, segment: 1, offset: 0, len: count * 10, due: 0 }
    }

    fn held(first: u64, count: u64) -> HeldRange {
        HeldRange { first, count, due: 0, attempts: 1 }
    }

    #[test]
    fn a_run_is_needed_by_a_cursor_a_held_message_or_the_mark() {
        let needs = Needs { mark: 100, channels: vec![(80, vec![held(5, 1)]), (90, vec![])] };
        assert!(needs.needs(&run(0, 10)));
        assert!(!needs.needs(&run(10, 70)));
        assert!(needs.needs(&run(70, 11)));
        assert!(needs.needs(&run(100, 5)));
        let unread = Needs { mark: 3, channels: vec![] };
        assert!(!unread.needs(&run(0, 3)));
        assert!(unread.needs(&run(2, 2)));
    }

    #[test]
    fn only_survivors_are_copied() {
        let needs = Needs { mark: 100, channels: vec![(20, vec![held(3, 2), held(9, 1)])] };
        let record = ReadBack { span: Span { first: 0, count: 30 }, due: 0, frames: bytes::Bytes::new() };
        let spans = needs.needed(&run(0, 25), &record);
        assert_eq!(
            spans,
            [Span { first: 3, count: 2 }, Span { first: 9, count: 1 }, Span { first: 20, count: 5 }]
        );
        assert_eq!(needs.live_bytes(&run(0, 25)), 250 * 8 / 25);
    }

    #[test]
    fn the_emptiest_segment_is_cleaned_once_there_is_slack() {
        let sealed = |number| SealedSegment { number, stamp: 1, end: 1000, index: 0 };
        let live = |bytes: &[u64]| (1..).zip(bytes.iter().map(|&bytes| Live { bytes })).collect();
        let segments: Vec<_> = (1..=5).map(sealed).collect();
        assert_eq!(worst(&segments, &live(&[900, 100, 50, 900, 900]), 1000), None);
        assert_eq!(worst(&segments, &live(&[100, 100, 50, 100, 100]), 1000), Some(3));
        assert_eq!(worst(&segments[..1], &live(&[1]), 1000), None);
    }
}
