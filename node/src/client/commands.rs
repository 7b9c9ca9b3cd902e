//! What each command does to a connection: the part of [`Connection`] that stages publishes and applies
//! answers.

use std::sync::{Arc, atomic::Ordering};

use bruit_wire::{
    ChannelName, MessageId, TopicName,
    nsq::{self, ClientError, Command, Decoded, FrameType, MAGIC_V2},
};
use bytes::Bytes;
use tokio::time::Instant;

use super::{
    connection::{Connection, Subscription, clamp},
    outbox::refused,
    session::Effect,
    upgrade::Upgrade,
};
use crate::broker::{NotYours, Refused, SubscribeError, Ticket, Topic};

/// Bytes of publishes that are staged under one lock.
const GROUP_MAX: usize = 256 * 1024;

impl Connection {
    /// Takes the commands at the front of `bytes`; returns how many bytes they were.
    pub(super) fn take_commands(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if !self.opened {
            match self.open(bytes) {
                Some(taken) => at = taken,
                None => return 0,
            }
        }
        let start = at;
        self.need = None;
        while !self.ending && !self.upgrade.holds_reading() {
            let waits = self.is_stuffed() || self.authorization.is_asking();
            if waits || self.broker.commits().is_full(&self.client.signal) {
                self.blocked = at < bytes.len();
                break;
            }
            match self.decoder.decode(&bytes[at..], &self.session.rules) {
                Ok(Decoded::Command { command, .. }) if !self.may(&command) => {
                    self.blocked = !self.ending;
                    break;
                }
                Ok(Decoded::Command { command, consumed }) => {
                    at += consumed;
                    at += self.apply(command, &bytes[at..]);
                }
                Ok(Decoded::Need(need)) => {
                    self.need = Some(need);
                    if let Some(error) = self.premature(&bytes[at..], need) {
                        self.fail(&error);
                    }
                    break;
                }
                Err(error) => {
                    let error = self.complaint(&bytes[at..], error);
                    self.fail(&error);
                }
            }
        }
        self.apply_finished();
        if self.upgrade.holds_reading() {
            // A client has to wait for the answer. What it sent before, in clear text, is not to be taken for what
            // comes protected.
            at = bytes.len();
        }
        if at > start {
            self.deadlines.command(Instant::now());
        }
        at
    }

    /// Checks the first four bytes; returns how many were taken once they are there.
    fn open(&mut self, bytes: &[u8]) -> Option<usize> {
        let magic = bytes.first_chunk()?;
        if *magic != MAGIC_V2 {
            self.fail(&ClientError::bad_protocol());
            return None;
        }
        self.opened = true;
        self.deadlines.opened(Instant::now());
        Some(magic.len())
    }

    /// Does what a command asks; returns how many of the bytes behind it were taken along.
    fn apply(&mut self, command: Command<'_>, behind: &[u8]) -> usize {
        if !matches!(command, Command::Finish { .. }) {
            self.apply_finished();
        }
        let effect = match self.session.handle(command) {
            Ok(effect) => effect,
            Err(error) => {
                self.fail(&error);
                return 0;
            }
        };
        let mut taken = 0;
        let done = match effect {
            Effect::None => Ok(()),
            Effect::Finish(id) => self.finish(id),
            Effect::Publish { topic, body } => self.publish(topic, body, behind).map(|more| taken = more),
            Effect::DeferredPublish { topic, body, delay } => {
                self.stage(topic, delay, std::iter::once(body), "DPUB", (1, body.len()))
            }
            Effect::MultiPublish { topic, messages } => {
                let size = (messages.len(), messages.body_bytes());
                self.stage(topic, 0, messages.iter(), "MPUB", size)
            }
            Effect::Ready => {
                self.client.ready.store(self.session.ready, Ordering::Relaxed);
                Ok(())
            }
            Effect::Requeue(id, delay) => self.requeue(id, delay),
            Effect::Touch(id) => self.touch(id),
            Effect::Subscribe { topic, channel } => self.subscribe(topic, channel),
            Effect::Identified(identify, reply, granted) => {
                self.client.identified(&identify);
                self.client.msg_timeout.store(clamp(self.session.msg_timeout), Ordering::Relaxed);
                let (region, zone) = (&identify.topology_region, &identify.topology_zone);
                self.client.locate(&self.facts.place, region, zone, false);
                self.deadlines.set_interval(Instant::now(), self.session.heartbeat);
                self.reply(FrameType::Response, &reply);
                self.upgrade = Upgrade::to(granted);
                Ok(())
            }
            Effect::Authenticate(secret) => self.authenticate(secret),
            Effect::CloseWait => {
                self.client.ready.store(0, Ordering::Relaxed);
                self.client.state.store(self.session.state(), Ordering::Relaxed);
                self.outbox.reply(Bytes::from_static(&nsq::CLOSE_WAIT_FRAME));
                Ok(())
            }
        };
        if let Err(error) = done {
            self.fail(&error);
        }
        taken
    }

    /// Stages a message, and with it every publish to the same topic that has already been read: one lock,
    /// one record.
    fn publish(&mut self, name: &str, body: &[u8], behind: &[u8]) -> Result<usize, ClientError> {
        let failed = |why: Refused| refused("PUB", &why);
        let topic = self.topic(name).map_err(failed)?;
        let mut stager = topic.stager(self.broker.clock().timestamp()).map_err(failed)?;
        stager.push(0, std::iter::once(body));
        let (mut count, mut taken, mut bytes) = (1, 0, body.len());
        let mut error = None;
        while bytes < GROUP_MAX {
            // What is not a publish to this topic is decoded again by the caller; the decoder allows that.
            match self.decoder.decode(&behind[taken..], &self.session.rules) {
                Ok(Decoded::Command { command: Command::Publish { topic: other, body }, consumed })
                    if other == name =>
                {
                    stager.push(0, std::iter::once(body));
                    count += 1;
                    taken += consumed;
                    bytes += body.len();
                }
                Ok(_) => break,
                Err(found) => {
                    error = Some(found);
                    break;
                }
            }
        }
        let ticket = stager.finish(Some(&self.client.signal));
        self.outbox.acknowledge(ticket, count, "PUB");
        self.published += count as u64;
        error.map_or(Ok(taken), Err)
    }

    fn stage<'a>(
        &mut self,
        name: &str,
        delay: u64,
        bodies: impl Iterator<Item = &'a [u8]>,
        command: &'static str,
        (count, bytes): (usize, usize),
    ) -> Result<(), ClientError> {
        let failed = |why: Refused| refused(command, &why);
        let topic = self.topic(name).map_err(failed)?;
        let due = topic.due(delay).map_err(failed)?;
        let mut stager = topic.stager(self.broker.clock().timestamp()).map_err(failed)?;
        stager.reserve(count, bytes);
        stager.push(due, bodies);
        let ticket = stager.finish(Some(&self.client.signal));
        self.outbox.acknowledge(ticket, 1, command);
        self.published += count as u64;
        Ok(())
    }

    /// The topic to publish to. The last one is remembered; most connections need no other.
    fn topic(&mut self, name: &str) -> Result<Arc<Topic>, Refused> {
        let last = self.topic.as_ref().filter(|topic| topic.name().as_str() == name && !topic.is_closed());
        if let Some(topic) = last {
            return Ok(Arc::clone(topic));
        }
        self.count_published();
        let name = TopicName::new(name).map_err(|error| Refused::Failed(error.to_string().into()))?;
        let topic = self.broker.topic_or_create(&name)?;
        self.topic = Some(Arc::clone(&topic));
        Ok(topic)
    }

    pub(super) fn count_published(&mut self) {
        if let Some(topic) = self.topic.as_ref().filter(|_| self.published > 0) {
            self.client.published(topic.name(), std::mem::take(&mut self.published));
        }
    }

    fn subscribe(&mut self, topic: &str, channel: &str) -> Result<(), ClientError> {
        let failed = |why: Refused| refused("SUB", &why);
        let topic_name =
            TopicName::new(topic).map_err(|_| ClientError::bad_topic("SUB", topic.as_bytes()))?;
        let channel_name =
            ChannelName::new(channel).map_err(|_| ClientError::bad_channel(channel.as_bytes()))?;
        // An ephemeral channel may be going just now; the second time it is made anew.
        for _ in 0..2 {
            let found = self.broker.topic_or_create(&topic_name).map_err(failed)?;
            let known = found.channel(channel).is_some() || channel_name.is_ephemeral();
            let entered = match found.channel_or_create(&channel_name) {
                Ok(channel) => channel,
                Err(Refused::Exiting) => continue,
                Err(why) => return Err(failed(why)),
            };
            match entered.subscribe(&self.client) {
                Ok(()) => {
                    self.session.subscribed();
                    self.client.state.store(self.session.state(), Ordering::Relaxed);
                    let mut durable = Ticket::default();
                    if known {
                        self.outbox.reply(Bytes::from_static(&nsq::OK_FRAME));
                    } else {
                        // The channel is new: OK means that a restart will know it.
                        durable = self.broker.barrier();
                        self.broker.commits().wake_after(durable, &self.client.signal);
                        self.outbox.acknowledge(durable, 1, "SUB");
                    }
                    let feed = self.relays.join(&topic_name, &channel_name, &self.client);
                    self.subscription =
                        Some(Subscription { topic: found, channel: entered, durable, waited: false, feed });
                    return Ok(());
                }
                Err(SubscribeError::Deleted) => {}
                Err(SubscribeError::TooManyConsumers) => {
                    let limit = self.facts.limits.max_channel_consumers as u64;
                    return Err(ClientError::too_many_consumers(topic, channel, limit));
                }
            }
        }
        Err(ClientError::subscribe_failed_deleted())
    }

    /// Whether the message is one of this node.
    fn is_own(&self, id: MessageId) -> bool {
        id.node() == self.broker.tag()
    }

    /// Collects a FIN; all of one read are applied under one lock.
    fn finish(&mut self, id: &[u8; 16]) -> Result<(), ClientError> {
        let failed = || ClientError::finish_failed(id, ClientError::NOT_IN_FLIGHT);
        let id = MessageId::from_hex(id).ok_or_else(failed)?;
        if self.is_own(id) {
            self.finished.push(id.sequence());
        } else {
            self.finished_elsewhere.push(id);
        }
        Ok(())
    }

    pub(super) fn apply_finished(&mut self) {
        if self.finished.is_empty() && self.finished_elsewhere.is_empty() {
            return;
        }
        let mut refused = Vec::new();
        let mut refuse = |id: MessageId, why: NotYours| {
            refused.push(ClientError::finish_failed(&id.to_hex(), &why.to_string()));
        };
        let (subscription, tag) = (self.subscription.as_ref(), self.broker.tag());
        if let Some(subscription) = subscription.filter(|_| !self.finished.is_empty()) {
            let own = |sequence, why| refuse(MessageId::new(tag, sequence), why);
            subscription.channel.finish(&self.client, &self.finished, own);
        }
        match subscription.and_then(|subscription| subscription.feed.as_ref()) {
            Some(feed) => feed.finish(&self.client, &self.finished_elsewhere, refuse),
            None => self.finished_elsewhere.iter().for_each(|id| refuse(*id, NotYours::NotInFlight)),
        }
        self.finished.clear();
        self.finished_elsewhere.clear();
        refused.iter().for_each(|error| self.fail(error));
    }

    fn requeue(&mut self, id: &[u8; 16], delay: u64) -> Result<(), ClientError> {
        let failed = |why: &str| ClientError::requeue_failed(id, why);
        let none = || failed(ClientError::NOT_IN_FLIGHT);
        let id = MessageId::from_hex(id).ok_or_else(none)?;
        let subscription = self.subscription.as_ref().ok_or_else(none)?;
        if self.is_own(id) {
            let requeued = subscription.channel.requeue(&self.client, id.sequence(), delay);
            return requeued.map_err(|error| failed(&error.to_string()));
        }
        let feed = subscription.feed.as_ref().ok_or_else(none)?;
        feed.requeue(&self.client, id, delay).map_err(|error| failed(&error.to_string()))
    }

    fn touch(&mut self, id: &[u8; 16]) -> Result<(), ClientError> {
        let failed = |why: &str| ClientError::touch_failed(id, why);
        let none = || failed(ClientError::NOT_IN_FLIGHT);
        let id = MessageId::from_hex(id).ok_or_else(none)?;
        let subscription = self.subscription.as_ref().ok_or_else(none)?;
        let timeout = clamp(self.session.msg_timeout);
        let max = clamp(self.facts.limits.max_msg_timeout);
        let touched = if self.is_own(id) {
            subscription.channel.touch(&self.client, id.sequence(), timeout, max)
        } else {
            let feed = subscription.feed.as_ref().ok_or_else(none)?;
            feed.touch(self.broker.clock().now(), &self.client, id, timeout, max)
        };
        touched.map_err(|error| failed(&error.to_string()))
    }
}
