//! Replay against a model of what the broker does: whatever is replayed, and however often, the same messages
//! are left to deliver.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    super::{
        checkpoint::{ChannelState, Checkpoint, HeldRange, TopicState},
        record::{Held, Op, Span, decode},
        replay::{Recovered, Replay, push_held},
    },
    Entry,
};
use crate::env::AlignedBuf;

const STAMP: u64 = 7;
const TOPICS: [&str; 2] = ["a", "b"];
const CHANNELS: [&str; 2] = ["x", "y"];

/// What someone does. Numbers pick among what there is.
#[derive(Debug, Clone, Copy)]
enum Act {
    Publish { count: u32 },
    Defer { count: u32, due: u64 },
    DeleteTopic,
    PauseTopic(bool),
    EmptyTopic,
    CreateChannel,
    DeleteChannel,
    PauseChannel(bool),
    EmptyChannel,
    Deliver { count: u64 },
    Finish { pick: usize },
    Requeue { pick: usize, due: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1_u32..4).prop_map(|count| Act::Publish { count }),
        2 => (1_u32..3, 1_u64..9).prop_map(|(count, due)| Act::Defer { count, due }),
        1 => Just(Act::DeleteTopic),
        2 => any::<bool>().prop_map(Act::PauseTopic),
        2 => Just(Act::EmptyTopic),
        4 => Just(Act::CreateChannel),
        1 => Just(Act::DeleteChannel),
        1 => any::<bool>().prop_map(Act::PauseChannel),
        1 => Just(Act::EmptyChannel),
        6 => (1_u64..5).prop_map(|count| Act::Deliver { count }),
        6 => any::<usize>().prop_map(|pick| Act::Finish { pick }),
        4 => (any::<usize>(), prop_oneof![Just(0_u64), 100_u64..110])
            .prop_map(|(pick, due)| Act::Requeue { pick, due }),
    ]
}

fn acts() -> impl Strategy<Value = Vec<(usize, usize, Act)>> {
    prop::collection::vec((0..TOPICS.len(), 0..CHANNELS.len(), act()), 1..60)
}

/// A message that a channel holds.
#[derive(Debug, Clone, Copy)]
struct Holding {
    due: u64,
    attempts: u16,
    /// What the journal was last told of it: due time and attempts.
    recorded: Option<(u64, u16)>,
}

#[derive(Debug, Default, Clone)]
struct Channel {
    paused: bool,
    next: u64,
    held: BTreeMap<u64, Holding>,
}

#[derive(Debug, Default, Clone)]
struct Topic {
    control: u64,
    paused: bool,
    next: u64,
    mark: u64,
    /// Due times by number; emptied messages are gone from it.
    messages: BTreeMap<u64, u64>,
    channels: BTreeMap<&'static str, Channel>,
}

#[derive(Debug, Clone)]
struct Model {
    control: u64,
    floor: u64,
    topics: BTreeMap<&'static str, Topic>,
}

impl Model {
    fn new() -> Self {
        Self { control: 0, floor: 1, topics: BTreeMap::new() }
    }

    /// Does what the broker would; returns what it would write.
    fn act(&mut self, topic: &'static str, channel: &'static str, act: Act) -> Vec<Entry> {
        let mut written = Vec::new();
        let Self { control, floor, topics } = self;
        let mut change = |topic: &mut Topic, name, channel, op, a, b| {
            *control += 1;
            topic.control = *control;
            written.push(Entry::Control { topic: name, channel, op, number: *control, a, b });
        };
        if act_needs_topic(act) && !topics.contains_key(topic) {
            let mut created = Topic { next: *floor, mark: *floor, ..Topic::default() };
            change(&mut created, topic, "", Op::TopicCreated, *floor, 0);
            topics.insert(topic, created);
        }
        let Some(state) = topics.get_mut(topic) else { return written };
        let (mark, next) = (state.mark, state.next);
        match act {
            Act::DeleteTopic => {
                change(state, topic, "", Op::TopicDeleted, next, 0);
                *floor = next.max(*floor);
                topics.remove(topic);
                return written;
            }
            Act::PauseTopic(paused) => {
                state.paused = paused;
                change(state, topic, "", Op::TopicPaused, mark, paused.into());
            }
            Act::EmptyTopic => {
                state.messages.split_off(&mark);
                state.mark = next;
                change(state, topic, "", Op::TopicEmptied, mark, next);
            }
            Act::CreateChannel if !state.channels.contains_key(channel) => {
                state.channels.insert(channel, Channel { next: mark, ..Channel::default() });
                change(state, topic, channel, Op::ChannelCreated, mark, 0);
            }
            Act::DeleteChannel if state.channels.remove(channel).is_some() => {
                change(state, topic, channel, Op::ChannelDeleted, mark, 0);
            }
            Act::PauseChannel(paused) => {
                if let Some(found) = state.channels.get_mut(channel) {
                    found.paused = paused;
                    change(state, topic, channel, Op::ChannelPaused, 0, paused.into());
                }
            }
            Act::EmptyChannel => {
                if let Some(found) = state.channels.get_mut(channel) {
                    found.next = found.next.max(mark);
                    found.held.clear();
                    change(state, topic, channel, Op::ChannelEmptied, mark, 0);
                }
            }
            _ => written.extend(state.pass(topic, channel, act)),
        }
        state.flow();
        written
    }

    /// What the broker would write as a checkpoint.
    fn checkpoint(&self) -> Checkpoint {
        let topics = self.topics.iter().map(|(name, topic)| topic.snapshot(name)).collect();
        Checkpoint { control: self.control, sequence_floor: self.floor, topics, ..Checkpoint::default() }
    }
}

fn act_needs_topic(act: Act) -> bool {
    matches!(act, Act::Publish { .. } | Act::Defer { .. } | Act::CreateChannel | Act::PauseTopic(_))
}

impl Topic {
    /// What messages do: they come, go out, and are answered.
    fn pass(&mut self, name: &'static str, channel: &'static str, act: Act) -> Option<Entry> {
        match act {
            Act::Publish { count } => return Some(self.publish(name, count, 0)),
            Act::Defer { count, due } => return Some(self.publish(name, count, due)),
            _ => {}
        }
        let (messages, mark) = (&self.messages, self.mark);
        let found = self.channels.get_mut(channel)?;
        let picked = |pick: usize| found.held.keys().nth(pick % found.held.len().max(1)).copied();
        match act {
            Act::Deliver { count } => {
                for _ in 0..count {
                    let ready = messages.range(found.next..mark.max(found.next)).find(|(_, due)| **due == 0);
                    let Some((&sequence, _)) = ready else { break };
                    found.next = sequence + 1;
                    found.held.insert(sequence, Holding { due: 0, attempts: 1, recorded: None });
                }
                None
            }
            Act::Finish { pick } => {
                let sequence = picked(pick)?;
                found.held.remove(&sequence);
                let spans = vec![Span { first: sequence, count: 1 }];
                Some(Entry::Finished { topic: name, channel, spans })
            }
            Act::Requeue { pick, due } => {
                let sequence = picked(pick)?;
                let holding = found.held.get_mut(&sequence)?;
                let attempts = holding.attempts + 1;
                *holding = Holding { due, attempts, recorded: Some((due, attempts)) };
                Some(Entry::Requeued { topic: name, channel, held: vec![Held { sequence, due, attempts }] })
            }
            _ => None,
        }
    }

    fn publish(&mut self, name: &'static str, count: u32, due: u64) -> Entry {
        let first = self.next;
        self.next += u64::from(count);
        self.messages.extend((first..self.next).map(|sequence| (sequence, due)));
        Entry::Messages { topic: name, first, count, due }
    }

    /// Lets the mark follow, and enters deferred messages that it passes.
    fn flow(&mut self) {
        if self.paused || self.channels.is_empty() {
            return;
        }
        let deferred = self.messages.range(self.mark..).filter(|(_, due)| **due > 0);
        let deferred: Vec<(u64, u64)> = deferred.map(|(&sequence, &due)| (sequence, due)).collect();
        for channel in self.channels.values_mut() {
            for &(sequence, due) in &deferred {
                channel.held.insert(sequence, Holding { due, attempts: 0, recorded: Some((due, 0)) });
            }
        }
        self.mark = self.next;
    }

    fn snapshot(&self, name: &str) -> TopicState {
        let channels = self.channels.iter().map(|(name, channel)| {
            let mut held = Vec::new();
            for (&first, holding) in &channel.held {
                let Holding { due, attempts, .. } = *holding;
                push_held(&mut held, HeldRange { first, count: 1, due, attempts });
            }
            let ahead = channel.next..self.mark.max(channel.next);
            let done = ahead.filter(|at| match self.messages.get(at) {
                Some(&due) => due > 0 && !channel.held.contains_key(at),
                None => true,
            });
            let finished = done.map(|at| (at, at + 1)).collect();
            let (name, next, paused) = ((*name).to_owned(), channel.next, channel.paused);
            ChannelState { name, next, paused, held, finished, message_count: 0 }
        });
        TopicState {
            name: name.to_owned(),
            next: self.next,
            mark: self.mark,
            paused: self.paused,
            control: self.control,
            channels: channels.collect(),
            ..TopicState::default()
        }
    }

    /// The messages that `channel` still has to deliver.
    fn left(&self, channel: &Channel) -> BTreeSet<u64> {
        let ahead = self.messages.range(channel.next..self.mark.max(channel.next));
        let ahead = ahead.filter(|(_, due)| **due == 0).map(|(&sequence, _)| sequence);
        ahead.chain(channel.held.keys().copied()).collect()
    }
}

/// Writes each entry, and reads it into `replay` as if it lay at a place of its own.
fn feed(replay: &mut Replay, entries: &[Entry], old: bool) {
    for (i, entry) in entries.iter().enumerate() {
        let mut bytes = AlignedBuf::default();
        entry.with(|record| record.encode(STAMP, &mut bytes));
        let (offset, len) = (u32::try_from(i).unwrap() * 10_000, u32::try_from(bytes.len()).unwrap());
        let record = decode(bytes.as_slice(), STAMP).unwrap().record;
        if old {
            replay.old_record(1, offset, len, &record);
        } else {
            replay.record(2, offset, len, &record);
        }
    }
}

/// Whether `recovered` says what the model says.
fn check(recovered: Recovered, model: &Model, exact_cursor: bool) -> Result<(), TestCaseError> {
    let names: Vec<&str> = recovered.topics.iter().map(|topic| topic.state.name.as_str()).collect();
    let expected: Vec<&str> = model.topics.keys().copied().collect();
    prop_assert_eq!(names, expected);
    prop_assert_eq!(recovered.control, model.control);
    prop_assert_eq!(recovered.sequence_floor.max(1), model.floor);
    for (topic, expected) in recovered.topics.iter().zip(model.topics.values()) {
        let state = &topic.state;
        prop_assert_eq!(
            (state.next, state.mark, state.paused),
            (expected.next, expected.mark, expected.paused)
        );
        let backlog = |number: &u64| *number >= state.mark;
        let numbers =
            || topic.runs.iter().flat_map(|run| (run.span.first..run.span.end()).map(|n| (n, run.due)));
        let waiting: Vec<u64> = numbers().map(|(number, _)| number).filter(backlog).collect();
        prop_assert_eq!(waiting, expected.messages.keys().copied().filter(backlog).collect::<Vec<_>>());
        let channels: Vec<&str> = state.channels.iter().map(|channel| channel.name.as_str()).collect();
        prop_assert_eq!(channels, expected.channels.keys().copied().collect::<Vec<_>>());
        for (channel, expected_channel) in state.channels.iter().zip(expected.channels.values()) {
            prop_assert_eq!(channel.paused, expected_channel.paused);
            prop_assert!(channel.next <= expected_channel.next.max(1), "the cursor came no further");
            let held: BTreeMap<u64, (u64, u16)> = channel
                .held
                .iter()
                .flat_map(|range| {
                    let HeldRange { first, count, due, attempts } = *range;
                    (first..first + count).map(move |number| (number, (due, attempts)))
                })
                .collect();
            let ahead = numbers().filter(|(number, due)| {
                *due == 0 && (channel.next..state.mark.max(channel.next)).contains(number)
            });
            let left: BTreeSet<u64> = ahead.map(|(number, _)| number).chain(held.keys().copied()).collect();
            prop_assert_eq!(left, expected.left(expected_channel));
            for (number, holding) in &expected_channel.held {
                let Some(&found) = held.get(number) else {
                    // Delivered once, and the journal knows nothing of it: it is delivered as if for the first time.
                    prop_assert!(!exact_cursor && holding.recorded.is_none(), "{} is not held", number);
                    continue;
                };
                let known = holding.recorded.unwrap_or((0, 1));
                prop_assert!(
                    found == known || found == (holding.due, holding.attempts),
                    "{}: {:?}",
                    number,
                    found
                );
            }
            let untouched = held.keys().filter(|number| !expected_channel.held.contains_key(number));
            prop_assert_eq!(untouched.count(), 0, "nothing is held that was never delivered");
        }
    }
    Ok(())
}

/// All records, how many there were after each act, and the model after each act.
fn play(acts: &[(usize, usize, Act)]) -> (Vec<Entry>, Vec<usize>, Vec<Model>) {
    let (mut entries, mut ends, mut models) = (Vec::new(), Vec::new(), Vec::new());
    let mut model = Model::new();
    for &(topic, channel, act) in acts {
        entries.extend(model.act(TOPICS[topic], CHANNELS[channel], act));
        ends.push(entries.len());
        models.push(model.clone());
    }
    (entries, ends, models)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn replay_of_everything_gives_back_what_was_left(acts in acts()) {
        let (entries, _, models) = play(&acts);
        let mut replay = Replay::default();
        feed(&mut replay, &entries, false);
        check(replay.finish(), models.last().unwrap(), false)?;
    }

    #[test]
    fn a_checkpoint_stands_for_all_records_before_it_and_some_behind(
        acts in acts(),
        at in any::<prop::sample::Index>(),
        overlap in 0_usize..20,
    ) {
        let (entries, ends, models) = play(&acts);
        let at = at.index(models.len());
        let from = ends[at].saturating_sub(overlap);
        let mut replay = Replay::new(models[at].checkpoint());
        // The segments in front of the checkpoint are taken up by their indexes, which know no changes.
        feed(&mut replay, &entries[..from], true);
        feed(&mut replay, &entries[from..], false);
        check(replay.finish(), models.last().unwrap(), false)?;
    }

    #[test]
    fn a_checkpoint_alone_keeps_everything(acts in acts()) {
        let (entries, _, models) = play(&acts);
        let model = models.last().unwrap();
        let checkpoint = Checkpoint::decode(&model.checkpoint().encode()).unwrap();
        let mut replay = Replay::new(checkpoint);
        feed(&mut replay, &entries, true);
        check(replay.finish(), model, true)?;
    }

    #[test]
    fn records_may_be_met_twice(acts in acts(), from in any::<prop::sample::Index>()) {
        let (entries, _, models) = play(&acts);
        let mut replay = Replay::default();
        feed(&mut replay, &entries, false);
        if !entries.is_empty() {
            feed(&mut replay, &entries[from.index(entries.len())..], false);
        }
        check(replay.finish(), models.last().unwrap(), false)?;
    }
}

fn control(op: Op, channel: &'static str, number: u64, a: u64, b: u64) -> Entry {
    Entry::Control { topic: "t", channel, op, number, a, b }
}

fn messages(first: u64, count: u32) -> Entry {
    Entry::Messages { topic: "t", first, count, due: 0 }
}

fn replayed(entries: &[Entry]) -> Recovered {
    let mut replay = Replay::default();
    feed(&mut replay, entries, false);
    replay.finish()
}

#[test]
fn the_first_channel_gets_the_backlog_and_a_later_one_what_follows() {
    let recovered = replayed(&[
        control(Op::TopicCreated, "", 1, 1, 0),
        messages(1, 5),
        control(Op::ChannelCreated, "first", 2, 1, 0),
        control(Op::ChannelCreated, "later", 3, 6, 0),
        messages(6, 1),
    ]);
    let state = &recovered.topics[0].state;
    let cursors: Vec<_> =
        state.channels.iter().map(|channel| (channel.name.as_str(), channel.next)).collect();
    assert_eq!(cursors, [("first", 1), ("later", 6)]);
    assert_eq!((state.mark, state.next), (7, 7));
}

#[test]
fn a_change_that_crossed_with_a_deletion_does_not_bring_the_topic_back() {
    let recovered = replayed(&[
        control(Op::TopicCreated, "", 1, 1, 0),
        messages(1, 5),
        control(Op::TopicDeleted, "", 2, 6, 0),
        control(Op::TopicPaused, "", 3, 6, 1),
        control(Op::ChannelEmptied, "c", 4, 6, 0),
    ]);
    assert!(recovered.topics.is_empty());
    assert_eq!(recovered.sequence_floor, 6);
}

#[test]
fn a_lost_record_of_creation_costs_no_messages() {
    let recovered = replayed(&[messages(5, 3), control(Op::ChannelCreated, "c", 2, 5, 0), messages(8, 1)]);
    let state = &recovered.topics[0].state;
    assert_eq!((state.next, state.mark, state.channels[0].next), (9, 9, 5));
    let recovered = replayed(&[
        control(Op::TopicDeleted, "", 2, 6, 0),
        control(Op::ChannelCreated, "c", 4, 6, 0),
        messages(6, 2),
    ]);
    assert_eq!(recovered.topics[0].state.channels[0].next, 6, "made anew after the deletion");
}

#[test]
fn a_deferred_message_that_every_channel_finished_says_nothing_of_their_cursors() {
    let finished =
        |channel| Entry::Finished { topic: "t", channel, spans: vec![Span { first: 4, count: 1 }] };
    let state = |name: &str| ChannelState {
        name: name.to_owned(),
        next: 1,
        finished: vec![(4, 5)],
        ..ChannelState::default()
    };
    let channels = vec![state("x"), ChannelState { finished: Vec::new(), ..state("y") }];
    let topic = TopicState { name: "t".into(), next: 5, mark: 5, channels, ..TopicState::default() };
    let mut replay = Replay::new(Checkpoint { topics: vec![topic], ..Checkpoint::default() });
    feed(&mut replay, &[messages(1, 3), Entry::Messages { topic: "t", first: 4, count: 1, due: 9 }], true);
    feed(&mut replay, &[finished("y")], false);
    let recovered = replay.finish();
    let cursors: Vec<u64> = recovered.topics[0].state.channels.iter().map(|channel| channel.next).collect();
    assert_eq!(cursors, [1, 1]);
    assert_eq!(recovered.topics[0].runs.missing(1, 5), [(4, 5)], "nobody needs it any more");
}

#[test]
fn an_entry_of_an_index_that_a_failed_write_has_lengthened_is_cut_not_dropped() {
    let state = TopicState { name: "t".into(), next: 10, mark: 5, ..TopicState::default() };
    let mut replay = Replay::new(Checkpoint { topics: vec![state], ..Checkpoint::default() });
    feed(&mut replay, &[messages(5, 7), messages(20, 1)], true);
    let recovered = replay.finish();
    let spans: Vec<Span> = recovered.topics[0].runs.iter().map(|run| run.span).collect();
    assert_eq!(spans, [Span { first: 5, count: 5 }]);
}
