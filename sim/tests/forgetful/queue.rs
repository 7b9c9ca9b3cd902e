//! The smallest queue that keeps NSQ's promises as long as it lives, and nothing beyond.

use std::{collections::BTreeMap, time::Duration};

use bruit_wire::MessageId;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

/// A message on one channel.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) id: MessageId,
    pub(super) timestamp: i64,
    pub(super) attempts: u16,
    pub(super) body: Bytes,
    pub(super) due: Instant,
}

#[derive(Default)]
pub(super) struct Queue {
    topics: BTreeMap<String, Topic>,
    sequence: u64,
}

#[derive(Default)]
struct Topic {
    backlog: Vec<Message>,
    channels: BTreeMap<String, Channel>,
}

#[derive(Default)]
struct Channel {
    waiting: Vec<Message>,
    in_flight: BTreeMap<MessageId, InFlight>,
}

struct InFlight {
    message: Message,
    owner: u64,
    deadline: Instant,
}

impl Queue {
    pub(super) fn publish(&mut self, topic: &str, body: &[u8], timestamp: i64, delay: Duration) {
        self.sequence += 1;
        let message = Message {
            id: MessageId::new(1, self.sequence),
            timestamp,
            attempts: 0,
            body: Bytes::copy_from_slice(body),
            due: Instant::now() + delay,
        };
        let topic = self.topics.entry(topic.to_owned()).or_default();
        for channel in topic.channels.values_mut() {
            channel.waiting.push(message.clone());
        }
        if topic.channels.is_empty() {
            topic.backlog.push(message);
        }
    }

    pub(super) fn subscribe(&mut self, topic: &str, channel: &str) {
        let topic = self.topics.entry(topic.to_owned()).or_default();
        let backlog = std::mem::take(&mut topic.backlog);
        topic.channels.entry(channel.to_owned()).or_default().waiting.extend(backlog);
    }

    /// A message that is due, for `owner`, which may hold `ready` of them.
    pub(super) fn take(
        &mut self,
        place: &(String, String),
        owner: u64,
        ready: u64,
        timeout: Duration,
    ) -> Option<Message> {
        let channel = self.channel(place)?;
        let now = Instant::now();
        let late: Vec<MessageId> =
            channel.in_flight.iter().filter(|(_, held)| held.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            channel.waiting.extend(channel.in_flight.remove(&id).map(|held| held.message));
        }
        let held = channel.in_flight.values().filter(|held| held.owner == owner).count();
        if held as u64 >= ready {
            return None;
        }
        let index = channel.waiting.iter().position(|message| message.due <= now)?;
        let mut message = channel.waiting.remove(index);
        message.attempts += 1;
        let deadline = now + timeout;
        channel.in_flight.insert(message.id, InFlight { message: message.clone(), owner, deadline });
        Some(message)
    }

    pub(super) fn finish(&mut self, place: &(String, String), owner: u64, id: MessageId) -> bool {
        self.release(place, owner, id).is_some()
    }

    pub(super) fn requeue(
        &mut self,
        place: &(String, String),
        owner: u64,
        id: MessageId,
        delay: Duration,
    ) -> bool {
        let Some(mut message) = self.release(place, owner, id) else { return false };
        message.due = Instant::now() + delay;
        self.channel(place).map(|channel| channel.waiting.push(message)).is_some()
    }

    pub(super) fn touch(
        &mut self,
        place: &(String, String),
        owner: u64,
        id: MessageId,
        timeout: Duration,
    ) -> bool {
        let held = self.channel(place).and_then(|channel| channel.in_flight.get_mut(&id));
        held.filter(|held| held.owner == owner).map(|held| held.deadline = Instant::now() + timeout).is_some()
    }

    /// Puts back everything that `owner` holds.
    pub(super) fn leave(&mut self, place: &(String, String), owner: u64) {
        let Some(channel) = self.channel(place) else { return };
        let (gone, held) =
            std::mem::take(&mut channel.in_flight).into_iter().partition(|(_, held)| held.owner == owner);
        let gone: BTreeMap<MessageId, InFlight> = gone;
        channel.in_flight = held;
        channel.waiting.extend(gone.into_values().map(|held| held.message));
    }

    pub(super) fn stats(&self) -> Value {
        let channel = |(name, channel): (&String, &Channel)| {
            let deferred = channel.waiting.iter().filter(|message| message.due > Instant::now()).count();
            json!({
                "channel_name": name,
                "depth": channel.waiting.len() - deferred,
                "in_flight_count": channel.in_flight.len(),
                "deferred_count": deferred,
            })
        };
        let topic = |(name, topic): (&String, &Topic)| json!({ "topic_name": name, "channels": topic.channels.iter().map(channel).collect::<Vec<_>>() });
        json!({ "topics": self.topics.iter().map(topic).collect::<Vec<_>>() })
    }

    fn release(&mut self, place: &(String, String), owner: u64, id: MessageId) -> Option<Message> {
        let channel = self.channel(place)?;
        if channel.in_flight.get(&id)?.owner != owner {
            return None;
        }
        channel.in_flight.remove(&id).map(|held| held.message)
    }

    fn channel(&mut self, place: &(String, String)) -> Option<&mut Channel> {
        self.topics.get_mut(&place.0)?.channels.get_mut(&place.1)
    }
}
