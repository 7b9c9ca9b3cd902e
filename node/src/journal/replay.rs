//! Rebuilds what the journal says from a checkpoint and the records behind it. Pure.
//!
//! Replay may meet a record twice, or one whose effect the checkpoint already contains: every step is
//! idempotent. Finished wins over held, and a change to a topic or channel counts once, by its number.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    checkpoint::{ChannelState, Checkpoint, HeldRange, TopicState},
    index::{Run, RunList},
    ranges::RangeSet,
    record::{IndexRun, Op, Record, Span},
};

/// Topics and channels as they come to be while records are applied.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    control: u64,
    sequence_floor: u64,
    topics: BTreeMap<String, TopicReplay>,
    /// What is known of the last topic of a name that was deleted, so that a copy of an old record does not
    /// bring it back.
    deleted: BTreeMap<String, Deleted>,
    dropped: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Deleted {
    /// The number of the change.
    number: u64,
    /// The sequence number after the topic's last.
    end: u64,
}

#[derive(Debug, Default)]
struct TopicReplay {
    state: TopicState,
    runs: RunList,
    channels: BTreeMap<String, ChannelReplay>,
}

#[derive(Debug, Default)]
struct ChannelReplay {
    paused: bool,
    finished: RangeSet,
    /// What of it the cursor may not have come to: emptied, or delivered by its due time.
    skipped: RangeSet,
    /// Due time and attempts of messages that are not finished, by sequence number.
    known: BTreeMap<u64, (u64, u16)>,
    /// Messages that had reached it when the topic's mark stood at `counted_to`.
    message_count: u64,
    counted_to: u64,
}

/// A topic as it was.
#[derive(Debug)]
pub(crate) struct RecoveredTopic {
    /// Its state and its channels'.
    pub(crate) state: TopicState,
    /// Where its messages lie.
    pub(crate) runs: RunList,
}

/// What a start has to go on with.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// The topics, by name.
    pub(crate) topics: Vec<RecoveredTopic>,
    /// The highest number of a change so far.
    pub(crate) control: u64,
    /// The first sequence number that a new topic may use.
    pub(crate) sequence_floor: u64,
}

impl Replay {
    /// Starts from `checkpoint`.
    pub(crate) fn new(checkpoint: Checkpoint) -> Self {
        let Checkpoint { control, sequence_floor, topics, .. } = checkpoint;
        let topics = topics.into_iter().map(|mut state| {
            let channels = std::mem::take(&mut state.channels).into_iter();
            let channels = channels.map(|channel| ChannelReplay::new(channel, state.mark)).collect();
            (state.name.clone(), TopicReplay { state, runs: RunList::default(), channels })
        });
        Self { control, sequence_floor, topics: topics.collect(), ..Self::default() }
    }

    /// Takes up the index of a segment in front of the replayed ones.
    pub(crate) fn index(&mut self, segment: u64, topic: &str, runs: impl Iterator<Item = IndexRun>) {
        let Some(topic) = self.topics.get_mut(topic) else { return };
        for IndexRun { span, offset, len, due } in runs {
            // What lies at or above the checkpoint's next number belongs to a write that failed. It may share
            // an entry with what was acknowledged before.
            let known = topic.state.next.saturating_sub(span.first);
            let count = u32::try_from(known).unwrap_or(u32::MAX).min(span.count);
            if count > 0 {
                let span = Span { count, ..span };
                topic.runs.push(Run { span, segment, offset, len, due });
            }
        }
    }

    /// Takes up a record of a segment in front of the replayed ones, whose index could not be used.
    pub(crate) fn old_record(&mut self, segment: u64, offset: u32, len: u32, record: &Record<'_>) {
        if let Record::Messages { topic, span, due, .. } = *record {
            self.index(segment, topic, std::iter::once(IndexRun { span, offset, len, due }));
        }
    }

    /// Applies a record of a replayed segment.
    pub(crate) fn record(&mut self, segment: u64, offset: u32, len: u32, record: &Record<'_>) {
        match *record {
            Record::Messages { topic, span, due, frames } => {
                let gone = self.deleted.get(topic).is_some_and(|deleted| span.end() <= deleted.end);
                if gone && !self.topics.contains_key(topic) {
                    return;
                }
                let topic = self.topic(topic, span.first);
                let fresh = span.first >= topic.state.next;
                topic.state.next = topic.state.next.max(span.end());
                topic.runs.push(Run { span, segment, offset, len, due });
                if fresh {
                    topic.state.message_count += u64::from(span.count);
                    let overhead = bruit_wire::nsq::MESSAGE_OVERHEAD * span.count as usize;
                    topic.state.message_bytes += frames.len().saturating_sub(overhead) as u64;
                }
            }
            Record::Finished { topic, channel, spans } => {
                self.pass_over(topic, spans.iter().map(|span| span.end()).max());
                let Some(channel) = self.channel(topic, channel) else { return };
                for span in spans.iter() {
                    channel.finish(span.first, span.end());
                }
            }
            Record::Requeued { topic, channel, held } => {
                self.pass_over(topic, held.iter().map(|held| held.sequence.saturating_add(1)).max());
                let Some(channel) = self.channel(topic, channel) else { return };
                for held in held.iter().filter(|held| !channel.finished.contains(held.sequence)) {
                    channel.known.insert(held.sequence, (held.due, held.attempts));
                }
            }
            Record::Control { topic, channel, op, number, a, b } => {
                self.control = self.control.max(number);
                self.change(topic, channel, op, number, a, b);
            }
            Record::Index { .. } => {}
        }
    }

    fn change(&mut self, name: &str, channel: &str, op: Op, number: u64, a: u64, b: u64) {
        if op == Op::SegmentDropped {
            self.dropped.insert(a);
            return;
        }
        if op == Op::TopicDeleted {
            self.sequence_floor = self.sequence_floor.max(a);
            if self.topics.get(name).is_none_or(|topic| topic.state.control < number) {
                self.topics.remove(name);
                self.deleted.insert(name.to_owned(), Deleted { number, end: a });
            }
            return;
        }
        let Some(topic) = self.changed(name, op, number, a) else { return };
        if topic.state.control >= number {
            return;
        }
        topic.state.control = number;
        match op {
            Op::TopicCreated | Op::TopicDeleted | Op::SegmentDropped => {}
            Op::TopicPaused => {
                topic.state.paused = b != 0;
                topic.state.mark = a;
            }
            Op::TopicEmptied => {
                topic.state.mark = topic.state.mark.max(b);
                for channel in topic.channels.values_mut() {
                    channel.finish(a, b);
                    channel.skipped.insert(a, b);
                }
            }
            Op::ChannelCreated => {
                let mut created = ChannelReplay { counted_to: a, ..ChannelReplay::default() };
                created.finish(0, a);
                topic.channels.insert(channel.to_owned(), created);
            }
            Op::ChannelDeleted => {
                topic.channels.remove(channel);
                topic.state.mark = a;
            }
            Op::ChannelPaused => {
                if let Some(channel) = topic.channels.get_mut(channel) {
                    channel.paused = b != 0;
                }
            }
            Op::ChannelEmptied => {
                if let Some(channel) = topic.channels.get_mut(channel) {
                    channel.finish(0, a);
                }
            }
        }
    }

    /// The topic that a change is about. `None` if it is gone, and the change a copy of an old one or one that
    /// crossed with the deletion.
    fn changed(&mut self, name: &str, op: Op, number: u64, a: u64) -> Option<&mut TopicReplay> {
        if !self.topics.contains_key(name) {
            let deleted = self.deleted.get(name);
            // These begin a topic, or show that one had begun: the record of that was lost to damage.
            let begins = match op {
                Op::TopicCreated | Op::ChannelCreated => {
                    deleted.is_none_or(|deleted| deleted.number < number)
                }
                Op::TopicPaused => deleted.is_none(),
                _ => false,
            };
            if !begins {
                return None;
            }
        }
        Some(self.topic(name, a))
    }

    /// The topic `name`; one that no record has created begins at `first`: its record was lost to damage.
    fn topic(&mut self, name: &str, first: u64) -> &mut TopicReplay {
        self.topics.entry(name.to_owned()).or_insert_with(|| TopicReplay {
            state: TopicState { name: name.to_owned(), next: first, mark: first, ..TopicState::default() },
            ..TopicReplay::default()
        })
    }

    /// Never gives the numbers below `end` to new messages. When the record that held a topic's last messages
    /// is damaged, later ones still say that they were delivered; a new message with such a number would
    /// count as finished.
    fn pass_over(&mut self, topic: &str, end: Option<u64>) {
        if let (Some(topic), Some(end)) = (self.topics.get_mut(topic), end) {
            topic.state.next = topic.state.next.max(end);
        }
    }

    fn channel(&mut self, topic: &str, channel: &str) -> Option<&mut ChannelReplay> {
        self.topics.get_mut(topic)?.channels.get_mut(channel)
    }

    /// Whether a record says that segment `number` is no longer needed.
    pub(crate) fn is_dropped(&self, number: u64) -> bool {
        self.dropped.contains(&number)
    }

    /// How many segments of `from..to` are no longer needed, as records say.
    pub(crate) fn dropped_in(&self, from: u64, to: u64) -> u64 {
        self.dropped.range(from..to.max(from)).count() as u64
    }

    /// What came of it.
    pub(crate) fn finish(self) -> Recovered {
        let topics = self.topics.into_values().map(TopicReplay::finish).collect();
        Recovered { topics, control: self.control, sequence_floor: self.sequence_floor }
    }
}

impl ChannelReplay {
    fn new(state: ChannelState, mark: u64) -> (String, Self) {
        let mut finished = RangeSet::default();
        finished.insert(0, state.next);
        let mut known = BTreeMap::new();
        for HeldRange { first, count, due, attempts } in state.held {
            let end = first.saturating_add(count);
            finished.remove(first, end);
            if due > 0 || attempts > 0 {
                known.extend((first..end).map(|sequence| (sequence, (due, attempts))));
            }
        }
        let mut skipped = RangeSet::default();
        for (first, end) in state.finished {
            finished.insert(first, end);
            skipped.insert(first, end);
        }
        let message_count = state.message_count;
        (state.name, Self { paused: state.paused, finished, skipped, known, message_count, counted_to: mark })
    }

    fn finish(&mut self, first: u64, end: u64) {
        self.finished.insert(first, end);
        // Emptying names a huge range, so the numbers that are known are walked, not the range.
        let gone: Vec<u64> = self.known.range(first..end.max(first)).map(|(&sequence, _)| sequence).collect();
        for sequence in gone {
            self.known.remove(&sequence);
        }
    }

    fn state(self, name: String, runs: &RunList, mark: u64) -> ChannelState {
        // The cursor had passed what is finished, and what was given back or put off: it was delivered.
        let mut by_cursor = self.finished.clone();
        self.known.keys().for_each(|&sequence| by_cursor.insert(sequence, sequence.saturating_add(1)));
        // Deferred messages are delivered by their due time, not by the cursor: they say nothing about how
        // far it came.
        for run in runs.iter().filter(|run| run.due > 0) {
            by_cursor.remove(run.span.first, run.span.end());
        }
        // Nor does what was dropped before it came there.
        self.skipped.iter().for_each(|(first, end)| by_cursor.remove(first, end));
        let next = by_cursor.end();
        let mut held = Vec::new();
        for run in runs.iter().take_while(|run| run.span.first < mark) {
            let end = if run.due > 0 { run.span.end().min(mark) } else { run.span.end().min(next) };
            for (first, end) in self.finished.missing(run.span.first, end) {
                // Below the cursor and not finished means that it was delivered at least once.
                let fallback = if run.due > 0 { (run.due, 0) } else { (0, 1) };
                for sequence in first..end {
                    let (due, attempts) = self.known.get(&sequence).copied().unwrap_or(fallback);
                    push_held(&mut held, HeldRange { first: sequence, count: 1, due, attempts });
                }
            }
        }
        let message_count = self.message_count + mark.saturating_sub(self.counted_to);
        ChannelState { name, next, paused: self.paused, held, finished: Vec::new(), message_count }
    }
}

impl TopicReplay {
    fn finish(self) -> RecoveredTopic {
        let Self { mut state, mut runs, channels } = self;
        let dead = emptied(&channels);
        if !channels.is_empty() && !state.paused {
            state.mark = state.next;
        }
        let channels = channels.into_iter();
        state.channels = channels.map(|(name, channel)| channel.state(name, &runs, state.mark)).collect();
        // Only now: the channels had to see which of it was deferred.
        dead.iter().for_each(|(first, end)| runs.remove(first, end));
        RecoveredTopic { state, runs }
    }
}

/// What some channel is to skip and no other one needs: a cursor must not meet it again.
fn emptied(channels: &BTreeMap<String, ChannelReplay>) -> RangeSet {
    let mut dead = RangeSet::default();
    for (first, end) in channels.values().flat_map(|channel| channel.skipped.iter()) {
        dead.insert(first, end);
    }
    for channel in channels.values() {
        let needed: Vec<(u64, u64)> =
            dead.iter().flat_map(|(first, end)| channel.finished.missing(first, end)).collect();
        needed.into_iter().for_each(|(first, end)| dead.remove(first, end));
    }
    dead
}

/// Appends `entry`, merged with the last one where it continues it.
pub(crate) fn push_held(list: &mut Vec<HeldRange>, entry: HeldRange) {
    if let Some(last) = list.last_mut() {
        let follows = last.first + last.count == entry.first;
        if follows && last.due == entry.due && last.attempts == entry.attempts {
            last.count += entry.count;
            return;
        }
    }
    list.push(entry);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        env::AlignedBuf,
        journal::record::{Found, NewRecord, Walk},
    };

    const STAMP: u64 = 7;

    fn replayed(records: &[NewRecord<'_>]) -> Recovered {
        let mut bytes = AlignedBuf::default();
        records.iter().for_each(|record| record.encode(STAMP, &mut bytes));
        let mut replay = Replay::new(Checkpoint::default());
        for found in Walk::new(bytes.as_slice(), STAMP, 0) {
            let Found::Record { offset, len, record } = found else { panic!("damaged") };
            replay.record(1, offset as u32, len as u32, &record);
        }
        replay.finish()
    }

    fn control(channel: &str, op: Op, number: u64) -> NewRecord<'_> {
        NewRecord::Control { topic: "t", channel, op, number, a: 1, b: 0 }
    }

    #[test]
    fn numbers_of_finished_messages_are_not_used_again_although_their_record_is_lost() {
        let recovered = replayed(&[
            control("", Op::TopicCreated, 1),
            control("c", Op::ChannelCreated, 2),
            NewRecord::Finished { topic: "t", channel: "c", spans: &[Span { first: 1, count: 3 }] },
        ]);
        let topic = &recovered.topics[0].state;
        assert_eq!(topic.next, 4);
        assert!(topic.channels[0].next <= topic.next, "the cursor is beyond what will be published");
    }

    #[test]
    fn the_cursor_had_passed_what_was_given_back() {
        let mut runs = RunList::default();
        let run =
            |first, count, due| Run { span: Span { first, count }, segment: 1, offset: 0, len: 100, due };
        runs.push(run(1, 5, 0));
        runs.push(run(6, 1, 99));
        let mut channel = ChannelReplay::default();
        channel.known.insert(3, (0, 2));
        channel.known.insert(6, (99, 0));
        let state = channel.state("c".to_owned(), &runs, 7);
        assert_eq!(state.next, 4, "what follows it was not delivered");
        let held = |first, count, due, attempts| HeldRange { first, count, due, attempts };
        assert_eq!(state.held, [held(1, 2, 0, 1), held(3, 1, 0, 2), held(6, 1, 99, 0)]);
    }
}
