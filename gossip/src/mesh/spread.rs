//! News: who hears of it, when, and how a node finds out that another one knows something else.
//!
//! News goes to three random members at once, and then again and again until it was told often enough. That
//! reaches nearly everybody. Whoever it does not reach finds out by summaries, two numbers on each ping.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use foca::{Member, State};
use rand::{RngExt as _, seq::IteratorRandom as _};

use super::{Due, Mesh};
use crate::{
    Event, NodeId, Now, Output, Peer,
    catalogue::{Heard, NewsKey},
    codec,
    config::FANOUT,
    packet::{Builder, ITEM_MAX, Item, Items},
    roster::Entry,
};

/// How many bursts may follow each other at once, and how far apart they are in the long run.
const BURSTS: u32 = 4;
const BURST_EVERY: Duration = Duration::from_millis(50);
/// How often a node may find that others know something else, although everything is changing, before it acts.
const DIFFERENT_MAX: u32 = 3;

/// What a piece of news is about: a newer one about the same takes its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NewsId {
    Catalogue(NewsKey),
    Accuse(NodeId, NodeId),
    Left(NodeId),
}

/// How many bursts of gossip may go out now.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    since: Duration,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: BURSTS, since: Duration::ZERO }
    }
}

impl Allowance {
    /// Takes one, or says when there will be one.
    fn take(&mut self, now: Duration) -> Result<(), Duration> {
        while self.left < BURSTS && now >= self.since + BURST_EVERY {
            self.left += 1;
            self.since += BURST_EVERY;
        }
        if self.left == BURSTS {
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.since + BURST_EVERY),
        }
    }
}

/// What is known about what others know.
#[derive(Debug, Default)]
pub(super) struct Summaries {
    last_change: Duration,
    /// Something has changed since a peer last knew the same.
    open: bool,
    /// When the oldest own change was made that no peer is known to have.
    unconfirmed: Option<Duration>,
    different: u32,
    version: u64,
}

impl Summaries {
    pub(super) fn changed(&mut self, now: Duration) {
        self.last_change = now;
        self.open = true;
    }

    pub(super) fn unconfirmed_ms(&self, now: Now) -> u64 {
        let age = |since| now.elapsed.saturating_sub(since).as_millis() as u64;
        self.unconfirmed.map_or(0, age)
    }

    pub(super) fn confirm(&mut self) {
        self.unconfirmed = None;
        self.different = 0;
    }
}

impl Mesh {
    /// Tells the broker what it has to do, and sees whether the catalogue has changed.
    pub(super) fn follow_catalogue(&mut self, now: Now) {
        while let Some(command) = self.catalogue.take_command() {
            self.outputs.push_back(Output::Broker(command));
        }
        let version = self.catalogue.changed();
        if std::mem::replace(&mut self.summaries.version, version) != version {
            self.summaries.changed(now.elapsed);
            self.eager = true;
        }
    }

    /// Queues what the catalogue has to tell. Late, so that many changes at once become one piece of news.
    fn take_news(&mut self, now: Now) {
        while let Some((key, bytes)) = self.catalogue.take_news() {
            self.summaries.unconfirmed.get_or_insert(now.elapsed);
            self.tell(NewsId::Catalogue(key), Item::Catalogue(&bytes).to_bytes());
        }
        self.eager = false;
    }

    /// What this node knows about the live members and what they hold, in two numbers.
    fn hashes(&self) -> (u64, u64) {
        let everybody = self.live().chain([(self.me.id, self.me.generation)]);
        (self.roster.hash(), self.catalogue.hash_of(everybody))
    }

    /// Queues news, if there is anybody to hear it: who comes later asks for everything.
    pub(super) fn tell(&mut self, id: NewsId, item: Bytes) {
        if self.roster.count_active() > 0 {
            self.news.push(id, item);
            self.eager = true;
        }
    }

    pub(super) fn hear_all(&mut self, now: Now, sender: NodeId, items: Items<'_>) {
        for bytes in items {
            if bytes.len() > ITEM_MAX {
                self.refuse("news too long");
                continue;
            }
            let news = match Item::parse(bytes) {
                None => {
                    self.refuse("malformed news");
                    continue;
                }
                Some(Item::Catalogue(item)) => self.hear_catalogue(now, sender, item),
                Some(Item::Accuse { accuser, subject, incarnation }) => {
                    self.hear_accusation(now, accuser, &subject, incarnation)
                }
                Some(Item::Left(peer)) => self.hear_left(now, &peer),
                Some(Item::Summary { members, catalogue }) => {
                    self.hear_summary(now, sender, members, catalogue);
                    None
                }
            };
            if let Some(id) = news {
                self.tell(id, Bytes::copy_from_slice(bytes));
            }
        }
    }

    fn hear_catalogue(&mut self, now: Now, sender: NodeId, item: &[u8]) -> Option<NewsId> {
        match self.catalogue.hear(now, sender, item) {
            Heard::News(key) => return Some(NewsId::Catalogue(key)),
            Heard::Known => {}
            Heard::Gap(key) => {
                self.expect_facts(now);
                return Some(NewsId::Catalogue(key));
            }
            Heard::Refused(why) => self.refuse_from(now, sender, why),
        }
        None
    }

    pub(super) fn refuse_from(&mut self, now: Now, sender: NodeId, why: &'static str) {
        self.refuse(why);
        if self.may_complain(now, why) {
            self.outputs.push_back(Output::Event(Event::Refused { sender, why }));
        }
    }

    fn hear_accusation(
        &mut self,
        now: Now,
        accuser: NodeId,
        subject: &Peer,
        incarnation: foca::Incarnation,
    ) -> Option<NewsId> {
        if *subject == self.me {
            self.hear_about_me(now, incarnation, State::Suspect);
            return None;
        }
        let news = accuser != self.me.id && self.hear_suspicion(now, subject, incarnation, Some(accuser));
        news.then_some(NewsId::Accuse(subject.id, accuser))
    }

    fn hear_left(&mut self, now: Now, peer: &Peer) -> Option<NewsId> {
        let entry = self.roster.exactly(peer)?;
        if entry.left || *peer == self.me {
            return None;
        }
        self.mark_left(now, peer);
        Some(NewsId::Left(peer.id))
    }

    /// A member has left by its own will.
    pub(super) fn mark_left(&mut self, now: Now, peer: &Peer) {
        self.apply_updates(now, vec![Member::down(*peer)], true);
        if self.roster.exactly(peer).is_some()
            && let Some(entry) = self.roster.at_mut(peer.gossip)
        {
            entry.left = true;
            self.members_version += 1;
        }
    }

    fn hear_summary(&mut self, now: Now, sender: NodeId, members: u64, catalogue: u64) {
        if (members, catalogue) == self.hashes() {
            self.tally.summaries_equal += 1;
            self.summaries.confirm();
            self.exchange.caught_up();
            if std::mem::take(&mut self.summaries.open) {
                let took = now.elapsed.saturating_sub(self.summaries.last_change);
                self.tally.last_convergence_ms = took.as_millis() as u64;
            }
            return;
        }
        self.tally.summaries_different += 1;
        self.summaries.different += 1;
        // While news is on its way everybody differs from everybody, and it will pass.
        let settled = now.elapsed >= self.summaries.last_change + self.pace.settled();
        if settled || self.summaries.different >= DIFFERENT_MAX {
            let peer = self.roster.best(sender).filter(|entry| entry.is_active()).map(|entry| entry.peer);
            self.want_exchange(now, peer);
        }
    }

    /// After each input: if it brought news, others hear it at once, within reason.
    pub(super) fn spur(&mut self, now: Now) {
        if !std::mem::take(&mut self.eager) || self.left {
            return;
        }
        if self.roster.count_active() == 0 {
            self.take_news(now);
            self.news.clear();
            return;
        }
        match self.bursts.take(now.elapsed) {
            Ok(()) => self.gossip(now),
            Err(later) => self.timers.set_no_later(Due::Gossip, later),
        }
    }

    /// Tells a few members what there is to tell.
    pub(super) fn gossip(&mut self, now: Now) {
        if self.left || self.roster.count_active() == 0 {
            return;
        }
        self.take_news(now);
        if self.foca.updates_backlog() > 0 || !self.news.is_empty() {
            if let Err(error) = self.foca.gossip(&mut self.effects) {
                self.refuse_foca(&error);
            }
            self.settle(now);
            if self.news.has_untold() {
                self.gossip_news(FANOUT);
            }
        }
        if self.foca.updates_backlog() > 0 || !self.news.is_empty() {
            self.timers.set_no_later(Due::Gossip, now.elapsed + self.pace.gossip());
        }
    }

    /// Sends nothing but news, for which foca's packets left no room.
    pub(super) fn gossip_news(&mut self, count: usize) {
        let trusted = self.roster.active().filter(|entry| entry.state == State::Alive);
        let mut chosen: Vec<SocketAddr> = trusted.map(|entry| entry.peer.gossip).sample(&mut self.rng, count);
        while let Some(to) = chosen.pop() {
            let mut builder = Builder::news();
            self.add_news(&mut builder);
            if builder.has_news() {
                self.send(to, builder.finish());
            }
        }
    }

    /// Sends foca's packet, with news behind it.
    pub(super) fn send_packet(&mut self, to: SocketAddr, packet: &[u8]) {
        let redirected = self.redirect(to, packet);
        let (to, packet) = redirected.as_ref().map_or((to, packet), |(to, packet)| (*to, packet.as_slice()));
        let mut builder = Builder::swim(packet);
        match packet.first() {
            Some(&codec::PING) => {
                let (members, catalogue) = self.hashes();
                builder.push(&Item::Summary { members, catalogue }.to_bytes());
                self.add_news(&mut builder);
            }
            Some(&codec::TURN_UNDEAD) => {
                // foca says no more than this, but who is at an address where somebody else was, or who
                // has fewer lives than others remember, has to know whom to outrank.
                if let Some(entry) = self.roster.at(to) {
                    self.send(to, crate::packet::revive(&entry.peer));
                }
                return;
            }
            // Who gets it may be no member.
            Some(&codec::ANNOUNCE) => {}
            _ => self.add_news(&mut builder),
        }
        self.send(to, builder.finish());
    }

    /// foca tells news to suspects as well. Where many have died at once, nearly all of it would be lost: it goes
    /// to somebody else instead.
    fn redirect(&mut self, to: SocketAddr, packet: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let many_died = self.have_many_died();
        let is_lost = |entry: &Entry| entry.state == State::Suspect || (many_died && entry.rtt.is_none());
        let goes_lost = self.roster.at(to).is_some_and(is_lost);
        if packet.first() != Some(&codec::GOSSIP) || !goes_lost || self.roster.trusted() < 2 {
            return None;
        }
        let dst = self.anybody()?;
        let mut rest = packet;
        let header = codec::take_header(&mut rest)?;
        let mut redirected = Vec::with_capacity(packet.len());
        codec::put_header(&mut redirected, &foca::Header { dst, ..header });
        redirected.extend_from_slice(rest);
        Some((dst.gossip, redirected))
    }

    fn add_news(&mut self, builder: &mut Builder) {
        let most = self.pace.tellings(self.roster.nodes()).into();
        self.news.fill(builder, most, Builder::room, Builder::push);
    }

    pub(super) fn send(&mut self, to: SocketAddr, datagram: Bytes) {
        if to == self.me.gossip {
            return;
        }
        self.tally.datagrams_out += 1;
        self.tally.bytes_out += datagram.len() as u64;
        self.outputs.push_back(Output::Send { to, datagram });
    }

    /// A random member that nobody suspects and for which `which` holds.
    pub(super) fn choose(&mut self, which: impl Fn(&Entry) -> bool) -> Option<Peer> {
        let suited = |entry: &&Entry| entry.state == State::Alive && which(entry);
        self.roster.active().filter(suited).choose(&mut self.rng).map(|entry| entry.peer)
    }

    /// A random live member, if possible one that nobody suspects, and that has answered where many are dead.
    pub(super) fn anybody(&mut self) -> Option<Peer> {
        if self.have_many_died()
            && let Some(peer) = self.choose(|entry| entry.rtt.is_some())
        {
            return Some(peer);
        }
        let count = self.roster.trusted() - 1;
        if count == 0 {
            return self.roster.active().choose(&mut self.rng).map(|entry| entry.peer);
        }
        let place = self.rng.random_range(0..count);
        let mut trusted = self.roster.active().filter(|entry| entry.state == State::Alive);
        trusted.nth(place).map(|entry| entry.peer)
    }
}
