//! One channel's messages from other nodes, for the consumers that are connected here.
//!
//! Consumers hand their capacity to the feed; the feed divides it over the owners ([`credit`]),
//! the node's own channel among them, and hands out what comes. Two bounds hold at any time: the messages that
//! owners may send, those that have come and those that consumers have are together never more than the
//! consumers' RDY allowed when they were granted; and no consumer is given more than its RDY.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bruit_gossip::NodeId;
use bruit_wire::{
    ChannelName, MessageId, TopicName,
    relay::{InvalidRelay, Tell},
};
use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    credit::{self, Owner},
    inbound::Inbound,
};
use crate::broker::{Client, NotYours, Output, Signal, Want};

/// Owners that are remembered by what their messages' ids begin with, at most, beyond those that have a link.
const ALIASES_MAX: usize = 1_024;

/// The consumers here of a channel, and the links to its other owners.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(super) topic: TopicName,
    pub(super) channel: ChannelName,
    /// 16 bits of this node's id: no link's messages go by them.
    tag: u16,
    /// Links that stand; looked at without the lock.
    links: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    consumers: Vec<Arc<Client>>,
    links: BTreeMap<NodeId, Link>,
    /// What the ids of each owner's messages begin with here. Kept when a link is lost: a late FIN must not
    /// finish a message of another owner.
    aliases: BTreeMap<NodeId, u16>,
    /// Counts deliveries, so that it is known who was served last.
    turns: u64,
    /// Whether messages wait in the node's own channel, and when it was served last.
    own_waits: bool,
    own_turn: u64,
}

#[derive(Debug)]
struct Link {
    inbound: Inbound,
    /// Wakes the task that talks to the owner.
    signal: Arc<Signal>,
    /// When that task looks at time-outs next, node time in ms.
    scheduled: u64,
}

/// A link as `/stats` shows it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LinkStats {
    /// Messages that the owner may send yet.
    pub(crate) credit: u64,
    /// Messages that have come and are not answered.
    pub(crate) in_flight: u64,
    /// Messages that have come.
    pub(crate) received: u64,
    /// Messages that were finished here.
    pub(crate) finished: u64,
    /// Messages that wait there for credit, as it last said.
    pub(crate) waiting: u64,
}

/// What a consumer may take next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Handed {
    /// Messages that it got from other nodes.
    pub(crate) messages: u64,
    /// Messages that it may take from the node's own channel.
    pub(crate) own: u64,
}

impl Feed {
    pub(super) fn new(topic: TopicName, channel: ChannelName, tag: u16) -> Self {
        Self { topic, channel, tag, links: AtomicUsize::new(0), state: Mutex::default() }
    }

    /// Whether any link stands: if none does, there is nothing to ask the feed.
    pub(crate) fn is_linked(&self) -> bool {
        self.links.load(Ordering::Relaxed) > 0
    }

    pub(super) fn join(&self, client: &Arc<Client>) {
        self.state.lock().consumers.push(Arc::clone(client));
    }

    /// A consumer is gone; owners get back what it had. Returns whether none is left.
    pub(super) fn leave(&self, client: &Client) -> bool {
        let mut state = self.state.lock();
        state.consumers.retain(|other| other.id != client.id);
        state.links.values_mut().for_each(|link| link.inbound.release(client.id));
        state.balance();
        state.consumers.is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().consumers.is_empty()
    }

    /// Gives a consumer what has come from other nodes, appended to `out`, and says how much it may take from
    /// the node's own channel besides.
    pub(crate) fn hand_over(
        &self,
        now: u64,
        client: &Client,
        want: &mut Want<'_>,
        out: &mut Output,
    ) -> Handed {
        let mut state = self.state.lock();
        let mut messages = 0;
        // Who was served longest ago comes first, as with credit.
        let mut due: Vec<(u64, NodeId)> = state
            .links
            .iter()
            .filter(|(_, link)| link.inbound.arrived() > 0)
            .map(|(owner, link)| (link.inbound.turn, *owner))
            .collect();
        due.sort_unstable();
        for (_, owner) in due {
            let Some(link) = state.links.get_mut(&owner) else { continue };
            let (given, lost) = link.inbound.hand_over(now, want, out);
            messages += given;
            if let Some(at) = link.inbound.next_deadline().filter(|at| *at < link.scheduled) {
                link.scheduled = at;
                link.signal.wake();
            }
            state.lose(&lost);
        }
        client.in_flight.fetch_add(messages, Ordering::Relaxed);
        client.message_count.fetch_add(messages, Ordering::Relaxed);
        Handed { messages, own: state.own_share() }
    }

    /// Divides what the consumers can take anew. `own_waits` says whether messages wait in the node's own
    /// channel; `taken` how many were just taken from it.
    pub(crate) fn balance(&self, own_waits: bool, taken: u64) {
        let mut state = self.state.lock();
        state.own_waits = own_waits;
        if taken > 0 {
            state.turns += 1;
            state.own_turn = state.turns;
        }
        state.balance();
    }

    /// Finishes messages; `refused` gets those that the client does not have.
    pub(crate) fn finish(
        &self,
        client: &Client,
        ids: &[MessageId],
        mut refused: impl FnMut(MessageId, NotYours),
    ) {
        let mut state = self.state.lock();
        let mut finished = 0;
        for &id in ids {
            let link = state.link_of(id).ok_or(NotYours::NotInFlight);
            match link.and_then(|link| link.inbound.finish(id.sequence(), client.id)) {
                Ok(()) => finished += 1,
                Err(why) => refused(id, why),
            }
        }
        client.in_flight.fetch_sub(finished, Ordering::Relaxed);
        client.finish_count.fetch_add(finished, Ordering::Relaxed);
    }

    /// Has the owner put a message back, at once or after `delay` ms.
    ///
    /// # Errors
    /// The client does not have it.
    pub(crate) fn requeue(&self, client: &Client, id: MessageId, delay: u64) -> Result<(), NotYours> {
        let mut state = self.state.lock();
        let link = state.link_of(id).ok_or(NotYours::NotInFlight)?;
        link.inbound.requeue(id.sequence(), client.id, delay)?;
        client.in_flight.fetch_sub(1, Ordering::Relaxed);
        client.requeue_count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the client more time for a message.
    ///
    /// # Errors
    /// The client does not have it.
    pub(crate) fn touch(
        &self,
        now: u64,
        client: &Client,
        id: MessageId,
        timeout: u32,
        max: u32,
    ) -> Result<(), NotYours> {
        let mut state = self.state.lock();
        let link = state.link_of(id).ok_or(NotYours::NotInFlight)?;
        link.inbound.touch(now, id.sequence(), client.id, timeout, max)
    }

    /// A link to an owner stands. `tag` is what its message ids begin with.
    pub(super) fn open(&self, owner: NodeId, tag: u16, signal: Arc<Signal>) {
        let mut state = self.state.lock();
        let alias = state.alias(owner, tag, self.tag);
        state.links.insert(owner, Link { inbound: Inbound::new(tag, alias), signal, scheduled: u64::MAX });
        self.links.store(state.links.len(), Ordering::Relaxed);
        state.balance();
    }

    /// A link is gone: what consumers had of it is no longer theirs.
    pub(super) fn close(&self, owner: NodeId) {
        let mut state = self.state.lock();
        if let Some(link) = state.links.remove(&owner) {
            self.links.store(state.links.len(), Ordering::Relaxed);
            state.lose(&link.inbound.holders());
            state.balance();
            state.wake_all();
        }
    }

    /// Messages came over a link.
    ///
    /// # Errors
    /// They are not what they should be; the link is of no use any more.
    pub(super) fn arrive(&self, owner: NodeId, frames: Bytes, count: u32) -> Result<(), InvalidRelay> {
        let mut state = self.state.lock();
        state.turns += 1;
        let turn = state.turns;
        let link = state.links.get_mut(&owner).ok_or(InvalidRelay)?;
        link.inbound.arrive(frames, count)?;
        link.inbound.turn = turn;
        state.wake_free(u64::from(count));
        Ok(())
    }

    /// An owner says how it stands.
    ///
    /// # Errors
    /// It cannot be; the link is of no use any more.
    pub(super) fn told(&self, owner: NodeId, tell: Tell) -> Result<(), InvalidRelay> {
        let Tell::State { serial, limit, waiting, served } = tell else { return Err(InvalidRelay) };
        let mut state = self.state.lock();
        let link = state.links.get_mut(&owner).ok_or(InvalidRelay)?;
        let was_lowering = link.inbound.grant.is_lowering();
        link.inbound.grant.confirm(serial, limit)?;
        (link.inbound.waiting, link.inbound.served) = (waiting, served);
        let freed = was_lowering && !link.inbound.grant.is_lowering();
        state.balance();
        if freed && state.own_waits {
            state.wake_all();
        }
        Ok(())
    }

    /// Gives back what has timed out, and takes what is to be said to an owner. Returns that, if there is
    /// anything, and when it is time to ask again, node time in ms.
    pub(super) fn take_asks(&self, now: u64, owner: NodeId) -> (Option<Vec<u8>>, Option<u64>) {
        let mut state = self.state.lock();
        let Some(link) = state.links.get_mut(&owner) else { return (None, None) };
        let lost = link.inbound.expire(now);
        let asks = link.inbound.has_asks().then(|| link.inbound.take_asks());
        let next = link.inbound.next_deadline();
        link.scheduled = next.unwrap_or(u64::MAX);
        if !lost.is_empty() {
            state.lose(&lost);
            state.balance();
        }
        (asks, next)
    }

    /// Whether there is something to say to an owner, and when the next time-out is, node time in ms.
    pub(super) fn pending(&self, owner: NodeId) -> (bool, u64) {
        let state = self.state.lock();
        let link = state.links.get(&owner);
        link.map_or((false, u64::MAX), |link| (link.inbound.has_asks(), link.scheduled))
    }

    /// A link's figures, if it stands.
    pub(super) fn link_stats(&self, owner: NodeId) -> Option<LinkStats> {
        let state = self.state.lock();
        let inbound = &state.links.get(&owner)?.inbound;
        Some(LinkStats {
            credit: inbound.grant.outstanding(),
            in_flight: inbound.in_flight() + inbound.arrived(),
            received: inbound.grant.received(),
            finished: inbound.finished,
            waiting: inbound.waiting,
        })
    }
}

impl State {
    /// What the ids of an owner's messages begin with here, if they begin with `tag` there; never `own`.
    fn alias(&mut self, owner: NodeId, tag: u16, own: u16) -> u16 {
        if self.aliases.len() >= ALIASES_MAX {
            let links = &self.links;
            self.aliases.retain(|owner, _| links.contains_key(owner));
        }
        let others = || self.aliases.iter().filter(|(other, _)| **other != owner);
        let is_free = |alias: &u16| *alias != own && others().all(|(_, taken)| taken != alias);
        let known = self.aliases.get(&owner).copied();
        let wanted = known.into_iter().chain((0..=u16::MAX).map(|step| tag.wrapping_add(step)));
        // There are fewer links than numbers.
        let alias = wanted.into_iter().find(is_free).unwrap_or(tag);
        self.aliases.insert(owner, alias);
        alias
    }

    fn link_of(&mut self, id: MessageId) -> Option<&mut Link> {
        self.links.values_mut().find(|link| link.inbound.alias() == id.node())
    }

    /// How many more messages the consumers are ready for.
    fn free(&self) -> u64 {
        self.consumers.iter().map(|client| client.free()).sum()
    }

    fn arrived(&self) -> u64 {
        self.links.values().map(|link| link.inbound.arrived()).sum()
    }

    fn outstanding(&self) -> u64 {
        self.links.values().map(|link| link.inbound.grant.outstanding()).sum()
    }

    /// What is left for the node's own channel.
    fn own_share(&self) -> u64 {
        self.free().saturating_sub(self.arrived() + self.outstanding())
    }

    /// Gives back what nobody can take, and changes what owners may send.
    fn balance(&mut self) {
        let free = self.free();
        let mut surplus = self.arrived().saturating_sub(free);
        for link in self.links.values_mut().filter(|link| link.inbound.arrived() > 0) {
            surplus -= link.inbound.give_back(surplus);
        }
        let capacity = free.saturating_sub(self.arrived());
        let owners: Vec<Owner> = self
            .links
            .values()
            .map(|link| Owner {
                waiting: link.inbound.waiting,
                served: link.inbound.served,
                held: link.inbound.grant.outstanding(),
                turn: link.inbound.turn,
            })
            .collect();
        let ready = self.consumers.iter().map(|client| client.ready.load(Ordering::Relaxed)).sum();
        let own = self.own_waits.then_some(self.own_turn);
        let shares = credit::divide(capacity, credit::chunk(ready), own, &owners);
        self.grant(capacity, &shares);
        self.links.values().filter(|link| link.inbound.has_asks()).for_each(|link| link.signal.wake());
    }

    /// Raises what may be raised at once; where that is not enough, has others lowered.
    fn grant(&mut self, capacity: u64, shares: &[u64]) {
        let timeout = self.consumers.iter().map(|client| client.msg_timeout.load(Ordering::Relaxed)).max();
        let timeout = timeout.unwrap_or_default();
        let outstanding = self.outstanding();
        let mut pool = capacity.saturating_sub(outstanding);
        let mut missing = outstanding.saturating_sub(capacity);
        let own = capacity - shares.iter().sum::<u64>();
        for (link, &share) in self.links.values_mut().zip(shares) {
            let now = link.inbound.grant.outstanding();
            // A little more is not worth a word while half of it is there.
            let raised = if now > share / 2 { now } else { share.min(now + pool) };
            pool -= raised.saturating_sub(now);
            if link.inbound.waiting > 0 {
                missing += share.saturating_sub(raised.max(now));
            }
            if let Some(ask) = link.inbound.grant.raise(raised, timeout) {
                link.inbound.put(ask);
            }
        }
        if self.own_waits {
            missing += own.saturating_sub(pool);
        }
        if missing == 0 {
            return;
        }
        for (link, &share) in self.links.values_mut().zip(shares) {
            if let Some(ask) = link.inbound.grant.lower(share, timeout) {
                link.inbound.put(ask);
            }
        }
    }

    /// Takes messages off what consumers have in flight, and wakes them: they may take more.
    fn lose(&self, lost: &BTreeMap<u32, u64>) {
        for client in self.consumers.iter().filter(|_| !lost.is_empty()) {
            if let Some(count) = lost.get(&client.id) {
                client.lost(*count);
            }
        }
    }

    /// Wakes consumers that together have room for `count` messages, the one with most room first.
    fn wake_free(&self, count: u64) {
        let mut free: Vec<(u64, &Arc<Client>)> = self
            .consumers
            .iter()
            .map(|client| (client.free(), client))
            .filter(|(free, _)| *free > 0)
            .collect();
        free.sort_by_key(|(free, _)| std::cmp::Reverse(*free));
        let mut left = count;
        for (room, client) in free {
            client.signal.wake();
            left = left.saturating_sub(room);
            if left == 0 {
                return;
            }
        }
    }

    fn wake_all(&self) {
        self.consumers.iter().for_each(|client| client.signal.wake());
    }
}

#[cfg(test)]
mod tests;
