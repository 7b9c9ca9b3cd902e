//! Holds the pure queue against a plain model: a map from sequence number to where the message is.

use std::collections::BTreeMap;

use bruit_wire::{MessageId, nsq};
use bytes::BytesMut;
use proptest::prelude::*;

use super::{
    delivery::{Stop, Want},
    queue::{Output, Queue},
    tail::{Committed, Tail},
};
use crate::journal::{Run, RunList, Span};

const TIMEOUT: u32 = 1000;
const CLIENTS: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Ready,
    InFlight { client: u32, deadline: u64 },
    Deferred { due: u64 },
}

#[derive(Debug, Clone)]
enum Step {
    Publish { count: u32, delay: u64 },
    Take { client: u32, messages: u64, bytes: usize },
    Finish { nth: usize, client: u32 },
    Requeue { nth: usize, delay: u64 },
    Touch { nth: usize },
    Pass { ms: u64 },
    Release { client: u32 },
    Restart,
    Empty,
}

fn step() -> impl Strategy<Value = Step> {
    let client = 1..=CLIENTS;
    prop_oneof![
        4 => (1_u32..20, prop_oneof![3 => Just(0), 1 => 1_u64..3000]).prop_map(|(count, delay)| Step::Publish { count, delay }),
        6 => (client.clone(), 1_u64..15, prop_oneof![Just(1_usize), Just(200), Just(100_000)])
            .prop_map(|(client, messages, bytes)| Step::Take { client, messages, bytes }),
        6 => (any::<usize>(), client.clone()).prop_map(|(nth, client)| Step::Finish { nth, client }),
        2 => (any::<usize>(), prop_oneof![Just(0), 1_u64..3000]).prop_map(|(nth, delay)| Step::Requeue { nth, delay }),
        1 => any::<usize>().prop_map(|nth| Step::Touch { nth }),
        2 => (1_u64..1500).prop_map(|ms| Step::Pass { ms }),
        1 => client.prop_map(|client| Step::Release { client }),
        1 => Just(Step::Restart),
        1 => Just(Step::Empty),
    ]
}

struct World {
    queue: Queue,
    tail: Tail,
    now: u64,
    next: u64,
    places: BTreeMap<u64, Place>,
    attempts: BTreeMap<u64, u16>,
}

impl World {
    fn new() -> Self {
        let tail = Tail::new(RunList::default(), 1, 1);
        Self {
            queue: Queue::new(1, true),
            tail,
            now: 5,
            next: 1,
            places: BTreeMap::new(),
            attempts: BTreeMap::new(),
        }
    }

    fn publish(&mut self, count: u32, delay: u64) {
        let span = Span { first: self.next, count };
        let mut frames = BytesMut::new();
        for sequence in span.first..span.end() {
            nsq::put_message(&mut frames, 1, 1, MessageId::new(7, sequence), &sequence.to_be_bytes());
            let place = if delay > 0 { Place::Deferred { due: self.now + delay } } else { Place::Ready };
            self.places.insert(sequence, place);
        }
        self.next = span.end();
        // Node time and wall time are one clock here.
        let due = if delay > 0 { self.now + delay } else { 0 };
        let place = u32::try_from(span.first).expect("few messages");
        let run = Some(Run { span, segment: 1, offset: place * 100, len: count * 100, due });
        self.tail.push(Committed { span, due, frames: frames.freeze(), run });
        for (span, due) in self.tail.advance().1 {
            self.queue.defer(span, due, due);
        }
    }

    fn take(&mut self, client: u32, messages: u64, bytes: usize) {
        let mut out = Output::new();
        let want = Want { client, messages, bytes, timeout: TIMEOUT, sample: None };
        let taken = self.queue.take(self.now, &self.tail, want, &mut out);
        let mut frames: Vec<u8> = out.into_iter().flatten().collect();
        let mut got = 0;
        while let Some(len) = nsq::message_frame_len(&frames) {
            let rest = frames.split_off(len);
            let message = nsq::MessageView::parse_frame(&frames).expect("a whole frame");
            let sequence = MessageId::from_hex(message.id).expect("our id").sequence();
            assert_eq!(message.body, sequence.to_be_bytes(), "the body is the message's own");
            assert_eq!(self.places.get(&sequence), Some(&Place::Ready), "{sequence} was not to be delivered");
            let attempts = self.attempts.entry(sequence).or_default();
            *attempts += 1;
            assert_eq!(message.attempts, *attempts, "{sequence}");
            self.places.insert(sequence, Place::InFlight { client, deadline: self.now + u64::from(TIMEOUT) });
            frames = rest;
            got += 1;
        }
        assert!(frames.is_empty());
        assert_eq!(got, taken.messages);
        assert!(got <= messages, "never more than asked for");
        if taken.stop == Stop::Empty {
            assert!(
                !self.places.values().any(|place| *place == Place::Ready),
                "something was left: {:?}",
                self.places
            );
        }
    }

    /// Some message that is in flight, with its client.
    fn in_flight(&self, nth: usize) -> Option<(u64, u32)> {
        let held = self.places.iter().filter_map(|(sequence, place)| match place {
            Place::InFlight { client, .. } => Some((*sequence, *client)),
            _ => None,
        });
        let held: Vec<_> = held.collect();
        held.get(nth % held.len().max(1)).copied()
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Publish { count, delay } => self.publish(count, delay),
            Step::Take { client, messages, bytes } => self.take(client, messages, bytes),
            Step::Finish { nth, client } => {
                let Some((sequence, owner)) = self.in_flight(nth) else { return };
                assert_eq!(self.queue.finish(sequence, client).is_ok(), owner == client);
                if owner == client {
                    self.places.remove(&sequence);
                    assert!(self.queue.finish(sequence, client).is_err(), "finished is finished");
                }
            }
            Step::Requeue { nth, delay } => {
                let Some((sequence, owner)) = self.in_flight(nth) else { return };
                self.queue.requeue(self.now, self.now, sequence, owner, delay).expect("it is in flight");
                let later = Place::Deferred { due: self.now + delay };
                self.places.insert(sequence, if delay > 0 { later } else { Place::Ready });
            }
            Step::Touch { nth } => {
                let Some((sequence, client)) = self.in_flight(nth) else { return };
                self.queue.touch(self.now, sequence, client, TIMEOUT, 10 * TIMEOUT).expect("it is in flight");
                let delivered =
                    self.queue.flight.window.owned(sequence, client).expect("it is in flight").delivered;
                let deadline = (self.now + u64::from(TIMEOUT)).min(delivered + u64::from(10 * TIMEOUT));
                self.places.insert(sequence, Place::InFlight { client, deadline });
            }
            Step::Pass { ms } => self.pass(ms),
            Step::Release { client } => {
                self.queue.release(client);
                for place in self.places.values_mut() {
                    if matches!(place, Place::InFlight { client: owner, .. } if *owner == client) {
                        *place = Place::Ready;
                    }
                }
            }
            Step::Restart => self.restart(),
            Step::Empty => {
                self.queue.empty(self.tail.mark());
                self.places.clear();
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.queue.expire(self.now);
        let (queue, now) = (&self.queue, self.now);
        for (sequence, place) in &mut self.places {
            match *place {
                Place::Deferred { due } if due <= now => *place = Place::Ready,
                Place::InFlight { deadline, .. } => {
                    let held = queue.flight.window.range(*sequence, sequence + 1).next().is_some();
                    assert!(held || deadline <= now, "{sequence} timed out early");
                    assert!(!held || deadline + 32 > now, "{sequence} timed out late");
                    if !held {
                        *place = Place::Ready;
                    }
                }
                _ => {}
            }
        }
    }

    /// What a checkpoint keeps must be all there is.
    fn restart(&mut self) {
        let state = self.queue.snapshot("c", &self.tail);
        let finished = state.finished.clone();
        for (first, end) in finished {
            assert!(
                (first..end).all(|sequence| !self.places.contains_key(&sequence)),
                "{first}..{end} is not finished"
            );
        }
        self.queue = Queue::recovered(&state, self.tail.mark(), |due| due);
        for place in self.places.values_mut() {
            if matches!(place, Place::InFlight { .. }) {
                *place = Place::Ready;
            }
        }
    }

    fn check(&self) {
        let count =
            |wanted: fn(&Place) -> bool| self.places.values().filter(|place| wanted(place)).count() as u64;
        assert_eq!(self.queue.flight.window.len(), count(|place| matches!(place, Place::InFlight { .. })));
        assert_eq!(self.queue.deferred_count(), count(|place| matches!(place, Place::Deferred { .. })));
        assert_eq!(self.queue.depth(&self.tail), count(|place| *place == Place::Ready));
        assert_eq!(self.queue.message_count(self.tail.mark()), self.next - 1);
        if let Some(lowest) = self.places.keys().next() {
            assert!(self.queue.floor() <= *lowest, "a message below the floor is still needed");
        }
    }
}

proptest! {
    #[test]
    fn every_message_is_in_exactly_one_place(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            world.check();
        }
    }
}
