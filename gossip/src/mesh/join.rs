//! Coming, going, and coming back together.

use std::{net::SocketAddr, time::Duration};

use foca::{Identity as _, State};
use rand::{RngExt as _, seq::IteratorRandom as _};

use super::{Due, Mesh, spread::NewsId};
use crate::{Event, NodeId, Now, Output, Peer, packet::Item};

/// Whoever is at an address: a hello to somebody whose name is not known yet.
pub(super) const SOMEBODY: NodeId = NodeId::new(0);
/// Most addresses to which a hello is owed.
const JOINS_MAX: usize = 64;
/// How often a hello is said to an address that does not answer, until somebody asks for it again.
const HELLOS: u32 = 5;
const HELLO_AGAIN: Duration = Duration::from_millis(300);
/// How far apart hellos to the dead are: at first, and after a long time.
const HEAL_FIRST: Duration = Duration::from_millis(1_000);
const HEAL_LATER: Duration = Duration::from_secs(10);
/// To how many members besides foca's choice a leaving node says goodbye.
const GOODBYES: usize = 5;

/// By how many generations at most a node outranks the one that others remember.
const OUTRANKED_BY: u64 = 1 << 20;

/// How far apart a node's lives are at least; twice as far with each that follows soon, so many times.
const RENEWAL_APART: Duration = Duration::from_millis(200);
const RENEWALS_MAX: u32 = 6;
const RENEWALS_FORGOTTEN: Duration = Duration::from_secs(60);

impl Mesh {
    pub(super) fn join(&mut self, now: Now, address: SocketAddr) {
        let address = plain(address);
        if address == self.me.gossip || address.port() == 0 || address.ip().is_unspecified() {
            return;
        }
        if self.left {
            self.come_back(now);
        }
        if self.is_active_at(address) || self.joins.len() >= JOINS_MAX {
            return;
        }
        self.joins.insert(address, 1);
        self.hello_to(now, address);
        self.timers.set_no_later(Due::Join, now.elapsed + HELLO_AGAIN);
    }

    pub(super) fn join_again(&mut self, now: Now) {
        let pending: Vec<_> = std::mem::take(&mut self.joins).into_iter().collect();
        for (address, times) in pending {
            if times >= HELLOS || self.is_active_at(address) {
                continue;
            }
            self.hello_to(now, address);
            self.joins.insert(address, times + 1);
        }
        if let Some(times) = self.joins.values().min() {
            self.timers.set(Due::Join, now.elapsed + HELLO_AGAIN * *times);
        }
    }

    fn is_active_at(&self, address: SocketAddr) -> bool {
        self.roster.at(address).is_some_and(|entry| entry.is_active())
    }

    fn hello_to(&mut self, now: Now, address: SocketAddr) {
        let somebody = Peer { id: SOMEBODY, generation: 0, renewal: 0, gossip: address, mesh_port: 0 };
        let peer = self.roster.at(address).map_or(somebody, |entry| entry.peer);
        self.hello(now, peer);
    }

    pub(super) fn hello(&mut self, now: Now, peer: Peer) {
        self.exchange.expect(peer.gossip);
        if let Err(error) = self.foca.announce(peer, &mut self.effects) {
            self.refuse_foca(&error);
        }
        self.settle(now);
    }

    pub(super) fn leave(&mut self, now: Now) {
        if self.left {
            return;
        }
        self.tell(NewsId::Left(self.me.id), Item::Left(self.me).to_bytes());
        if let Err(error) = self.foca.leave_cluster(&mut self.effects) {
            self.refuse_foca(&error);
        }
        self.settle(now);
        self.gossip_news(GOODBYES);
        self.left = true;
        self.eager = false;
        self.news.clear();
        self.timers.clear();
        self.cases.clear();
        self.looks.clear();
        self.joins.clear();
        self.exchange = super::exchange::Exchanging::default();
        self.members_version += 1;
        self.timers.set(Due::Sweep, now.elapsed + super::SWEEP);
    }

    /// The next life of a node that has left.
    fn come_back(&mut self, now: Now) {
        let Some(me) = self.me.renew() else { return };
        self.left = false;
        self.change_identity(now, me);
    }

    fn change_identity(&mut self, now: Now, me: Peer) {
        if let Err(error) = self.foca.change_identity(me, &mut self.effects) {
            self.refuse_foca(&error);
        }
        self.become_known_as(now, me);
        // foca probes nobody under its new identity until an update makes it look whether there is anybody. None
        // may come from those whom this node still takes for members.
        if let Err(error) = self.foca.apply_many(std::iter::empty(), false, &mut self.effects) {
            self.refuse_foca(&error);
        }
        self.settle(now);
    }

    /// Somebody takes the node at this address for dead, or for somebody else.
    pub(super) fn taken_for_dead(&mut self, now: Now, from: SocketAddr, peer: &Peer) {
        if peer.gossip != self.me.gossip {
            return;
        }
        let before = self.me;
        if *peer == self.me {
            self.hear_about_me(now, 0, State::Down);
        } else if peer.win_addr_conflict(&self.me) && self.renewals.take(now.elapsed) {
            self.outrank(now, peer);
        }
        // If both took each other for dead, the next life of either has to be known to the other.
        if self.me != before || before.win_addr_conflict(peer) {
            self.hello_to(now, plain(from));
        }
    }

    /// Others remember somebody at this address with more lives than this node has: another node had it
    /// before, or this one's own count went back with a backup. Nobody would ever listen to this node.
    fn outrank(&mut self, now: Now, peer: &Peer) {
        // The next start counts on from what is on disk: it must not come to this very number, or what the node
        // says then would be taken for what it said before.
        let generation = peer.generation.saturating_add(self.rng.random_range(1..=OUTRANKED_BY));
        let me = Peer { generation, renewal: 0, ..self.me };
        self.catalogue.raise_generation(me.generation);
        self.change_identity(now, me);
        self.tally.revivals += 1;
        self.outputs.push_back(Output::Event(Event::Revived(me)));
    }

    /// Says hello to somebody who is thought dead: he may have been cut off, and not be any more.
    pub(super) fn heal(&mut self, now: Now) {
        let me = self.me.id;
        let lost = self
            .roster
            .iter()
            .filter(|entry| entry.state == State::Down && !entry.left && entry.peer.id != me);
        let Some(peer) = lost.choose(&mut self.rng).map(|entry| entry.peer) else { return };
        let jitter = self.rng.random_range(0.8..1.2);
        self.timers.set(Due::Heal, now.elapsed + self.heal_interval(now).mul_f64(jitter));
        let moved = self.roster.best(peer.id).is_some_and(|best| best.peer != peer && best.is_active());
        if !moved {
            self.hello(now, peer);
        }
    }

    pub(super) fn heal_interval(&self, now: Now) -> Duration {
        let age = now.elapsed.saturating_sub(self.last_death);
        (age / 10).clamp(HEAL_FIRST, HEAL_LATER)
    }

    /// A member that another one thinks dead is alive, as far as this node knows: he is told, so that he can
    /// begin another life, and this node makes sure. Who thinks him dead is one more who accuses him: without
    /// that, a node that nobody heard for a while would be alone with its suspicion, long after the others.
    pub(super) fn doubt_death(&mut self, now: Now, by: NodeId, peer: &Peer) {
        self.send(peer.gossip, crate::packet::revive(peer));
        if let Some(entry) = self.roster.exactly(peer).copied() {
            self.hear_suspicion(now, peer, entry.incarnation, Some(by));
        }
        self.look_at(now, peer);
    }
}

/// How often this node may begin another life. If two nodes have one id, each kills the other as often as it
/// may.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    last: Option<Duration>,
    row: u32,
}

impl Renewals {
    pub(super) fn take(&mut self, now: Duration) -> bool {
        let Some(last) = self.last else {
            self.last = Some(now);
            return true;
        };
        let since = now.saturating_sub(last);
        if since > RENEWALS_FORGOTTEN {
            self.row = 0;
        }
        if since < RENEWAL_APART * (1 << self.row) {
            return false;
        }
        self.row = (self.row + 1).min(RENEWALS_MAX);
        self.last = Some(now);
        true
    }
}

/// An address without what only its host understands.
pub(super) const fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}
