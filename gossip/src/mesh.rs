//! The mesh as one node sees it: a machine that takes inputs and the time, and says what to do.
//!
//! Membership is foca's (SWIM with suspicion), and the catalogue's deltas travel in the same datagrams. Around
//! it stand what foca has not: the judgement who is dead ([`suspect`]), exchanges that make certain what
//! gossip makes likely ([`exchange`]), and the coming, going and healing of nodes ([`join`]).
//!
//! Time comes in with each call and all timers are here, so the same inputs give the same outputs.

mod exchange;
mod join;
mod spread;
mod suspect;
mod swim;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
pub use exchange::ExchangeError;
use foca::{Foca, Incarnation, NoCustomBroadcast, State};
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    About, Event, Input, Member, MemberState, MeshStats, NodeId, Now, Output, Peer, Profile, View,
    broadcast::Broadcasts,
    catalogue::Catalogue,
    codec::PeerCodec,
    config::Pace,
    health::Health,
    roster::{Entry, Roster},
    suspicion::Cases,
    timers::Timers,
};

/// How long a dead member is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
const SWEEP: Duration = Duration::from_secs(60);
/// How often the same complaint is made at most.
const COMPLAINT: Duration = Duration::from_secs(60);
/// How old round-trip times may be in a view in which nothing else changes.
const RTT_SHOWN: Duration = Duration::from_secs(10);

/// What a [`Mesh`] starts with.
#[derive(Debug)]
pub struct Setup {
    /// This node; its address is the one that others send to.
    pub peer: Peer,
    /// What it says about itself.
    pub about: About,
    /// How quick a network it may expect.
    pub profile: Profile,
    /// Seeds every choice that it makes.
    pub random: [u8; 32],
    /// What [`Mesh::names_to_save`] gave last in an earlier life.
    pub saved: Option<Bytes>,
}

/// A node's part of the mesh. See the [module](self).
pub struct Mesh {
    me: Peer,
    incarnation: Incarnation,
    pace: Pace,
    rng: StdRng,
    foca: Foca<Peer, PeerCodec, StdRng, NoCustomBroadcast>,
    effects: swim::Effects,
    roster: Roster,
    probe: suspect::Probe,
    cases: Cases,
    looks: BTreeMap<SocketAddr, suspect::LookingAt>,
    health: Health,
    /// When somebody was heard last.
    heard: Duration,
    /// How often in a row timers were served late.
    late: u32,
    timers: Timers<Due>,
    catalogue: Catalogue,
    news: Broadcasts<spread::NewsId>,
    bursts: spread::Allowance,
    /// There is something that others should hear at once.
    eager: bool,
    summaries: spread::Summaries,
    exchange: exchange::Exchanging,
    /// Addresses to which a hello is owed, and how many were said.
    joins: BTreeMap<SocketAddr, u32>,
    last_death: Duration,
    renewals: join::Renewals,
    left: bool,
    members_version: u64,
    rtts_shown: Duration,
    shown: Option<(u64, u64)>,
    saved_names: u64,
    complaints: BTreeMap<&'static str, Duration>,
    tally: MeshStats,
    outputs: VecDeque<Output>,
}

/// What timers are for. Those by which others are judged come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Indirect,
    Probe,
    Look(SocketAddr),
    Verdict(SocketAddr),
    Gossip,
    Exchange,
    Heal,
    Join,
    Sweep,
}

impl Due {
    const fn judges(&self) -> bool {
        matches!(self, Self::Indirect | Self::Probe | Self::Look(_) | Self::Verdict(_))
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh")
            .field("me", &self.me)
            .field("nodes", &self.roster.nodes())
            .finish_non_exhaustive()
    }
}

impl Mesh {
    /// A mesh of one node, which says hello to nobody by itself.
    #[must_use]
    pub fn new(setup: Setup, now: Now) -> Self {
        let me = Peer { gossip: join::plain(setup.peer.gossip), ..setup.peer };
        let pace = Pace::new(setup.profile);
        let mut seed = setup.random;
        let foca_rng = StdRng::from_seed(seed);
        if let Some(byte) = seed.first_mut() {
            *byte ^= 0xff;
        }
        let mut catalogue = Catalogue::new(me.id, me.generation, setup.about);
        if let Some(saved) = setup.saved {
            catalogue.restore(&saved);
        }
        let mut mesh = Self {
            me,
            incarnation: Incarnation::default(),
            pace,
            rng: StdRng::from_seed(seed),
            foca: Foca::new(me, pace.foca(1), foca_rng, PeerCodec::default()),
            effects: swim::Effects::default(),
            roster: Roster::new(me),
            probe: suspect::Probe::default(),
            cases: Cases::default(),
            looks: BTreeMap::new(),
            health: Health::default(),
            heard: Duration::ZERO,
            late: 0,
            timers: Timers::default(),
            saved_names: catalogue.changed_names(),
            catalogue,
            news: Broadcasts::default(),
            bursts: spread::Allowance::default(),
            eager: false,
            summaries: spread::Summaries::default(),
            exchange: exchange::Exchanging::default(),
            joins: BTreeMap::new(),
            last_death: Duration::ZERO,
            renewals: join::Renewals::default(),
            left: false,
            members_version: 0,
            rtts_shown: now.elapsed,
            shown: None,
            complaints: BTreeMap::new(),
            tally: MeshStats::default(),
            outputs: VecDeque::new(),
        };
        mesh.timers.set(Due::Sweep, now.elapsed + SWEEP);
        mesh.follow_catalogue(now);
        mesh
    }

    /// Takes something that happened. Nothing that a peer sends makes it panic.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        self.notice_lateness(now);
        match input {
            Input::Datagram { from, sender, bytes } => self.datagram(now, from, sender, bytes),
            Input::Timeout => self.timeouts(now),
            Input::Join { address } => self.join(now, address),
            Input::Leave => self.leave(now),
            Input::Local(change) => self.catalogue.local(now, &change),
            Input::About(about) => self.catalogue.set_about(about),
            Input::Register { id, about } => self.catalogue.register(id, about),
            Input::Registered { id, name, held } => self.catalogue.registered(now, id, &name, held),
            Input::Deregister(id) => self.catalogue.deregister(id),
            Input::Create(name) => self.catalogue.create(now, &name),
            Input::Delete(name) => drop(self.catalogue.delete(now, &name)),
            Input::Tombstone { topic, node } => self.catalogue.tombstone(now, &topic, node),
            Input::Checked { peer, gone } => self.checked(now, &peer, gone),
        }
        self.follow_catalogue(now);
        self.spur(now);
    }

    /// The next thing to do. To be called until it gives nothing, after each other call that may change anything.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to give [`Input::Timeout`], in terms of [`Now::elapsed`].
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// A snapshot, if something that it shows has changed since the last one. The first call gives one.
    pub fn view(&mut self, now: Now) -> Option<Arc<View>> {
        let version = (self.members_version, self.catalogue.changed());
        if self.shown == Some(version) {
            return None;
        }
        self.shown = Some(version);
        self.rtts_shown = now.elapsed;
        let mut members: Vec<Member> = self
            .roster
            .ids()
            .filter(|id| *id != self.me.id)
            .filter_map(|id| self.roster.best(id))
            .map(shown)
            .collect();
        members.push(Member {
            peer: self.me,
            state: if self.left { MemberState::Left } else { MemberState::Alive },
            about: None,
            rtt: None,
            since_ms: now.wall_ms.saturating_sub(now.elapsed.as_millis() as u64),
        });
        members.sort_by_key(|member| member.peer.id);
        Some(self.catalogue.view(members))
    }

    /// What to keep on disk for [`Setup::saved`], if it has changed since the last call.
    pub fn names_to_save(&mut self) -> Option<Vec<u8>> {
        let version = self.catalogue.changed_names();
        if std::mem::replace(&mut self.saved_names, version) == version {
            return None;
        }
        Some(self.catalogue.saved())
    }

    /// Numbers about it all.
    #[must_use]
    pub fn stats(&self, now: Now) -> MeshStats {
        let mut stats = self.tally.clone();
        stats.alive = u64::from(!self.left);
        stats.left = u64::from(self.left);
        for entry in self.roster.ids().filter_map(|id| self.roster.best(id)) {
            *match state(entry) {
                MemberState::Alive => &mut stats.alive,
                MemberState::Suspect => &mut stats.suspect,
                MemberState::Down => &mut stats.down,
                MemberState::Left => &mut stats.left,
            } += 1;
        }
        stats.health = self.health.score();
        stats.news_waiting = (self.news.len() + self.foca.updates_backlog()) as u64;
        stats.oldest_unconfirmed_ms = self.summaries.unconfirmed_ms(now);
        let catalogue = self.catalogue.stats();
        stats.names = catalogue.names;
        stats.name_tombstones = catalogue.tombstones;
        stats.fact_items = catalogue.items;
        stats.fact_owners = catalogue.owners;
        stats.catalogue_bytes = catalogue.bytes;
        if catalogue.left_out > 0 {
            stats.refused.insert("too many names", catalogue.left_out);
        }
        stats
    }

    fn timeouts(&mut self, now: Now) {
        while let Some(due) = self.timers.take_due(now.elapsed) {
            if due.judges() {
                self.late = 0;
            }
            match due {
                Due::Indirect => self.probe_indirectly(now),
                Due::Probe => self.probe_next(now),
                Due::Look(address) => self.look_again(now, address),
                Due::Verdict(address) => self.verdict(now, address),
                Due::Gossip => self.gossip(now),
                Due::Exchange => self.exchange_now(now),
                Due::Heal => self.heal(now),
                Due::Join => self.join_again(now),
                Due::Sweep => self.sweep(now),
            }
        }
    }

    /// Forgets whom nobody needs to remember.
    fn sweep(&mut self, now: Now) {
        self.timers.set(Due::Sweep, now.elapsed + SWEEP);
        let old = |entry: &&Entry| {
            !entry.is_active() && now.elapsed.saturating_sub(entry.since.elapsed) > REMEMBERED
        };
        let forgotten: Vec<Peer> = self.roster.iter().filter(old).map(|entry| entry.peer).collect();
        for peer in forgotten {
            self.forget(&peer);
        }
    }

    fn forget(&mut self, peer: &Peer) {
        let forget = foca::Timer::RemoveDown(*peer);
        if let Err(error) = self.foca.handle_timer(forget, &mut self.effects) {
            self.refuse_foca(&error);
        }
        self.roster.remove(peer.gossip);
        self.cases.close(peer.gossip);
        if self.roster.best(peer.id).is_none() && peer.id != self.me.id {
            self.catalogue.forget(peer.id);
        }
        self.members_version += 1;
    }

    fn refuse(&mut self, why: &'static str) {
        *self.tally.refused.entry(why).or_default() += 1;
    }

    /// Whether it is time to make this complaint (again).
    fn may_complain(&mut self, now: Now, about: &'static str) -> bool {
        let may = self.complaints.get(about).is_none_or(|last| now.elapsed >= *last + COMPLAINT);
        if may {
            self.complaints.insert(about, now.elapsed);
        }
        may
    }

    fn same_node(&mut self, now: Now, address: SocketAddr) {
        if self.may_complain(now, "same node") {
            self.outputs.push_back(Output::Event(Event::SameNode { address }));
        }
    }

    fn live(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        let me = self.me.id;
        self.roster
            .active()
            .map(|entry| (entry.peer.id, entry.peer.generation))
            .filter(move |(id, _)| *id != me)
    }
}

const fn state(entry: &Entry) -> MemberState {
    match entry.state {
        State::Alive => MemberState::Alive,
        State::Suspect => MemberState::Suspect,
        State::Down if entry.left => MemberState::Left,
        State::Down => MemberState::Down,
    }
}

fn shown(entry: &Entry) -> Member {
    Member {
        peer: entry.peer,
        state: state(entry),
        about: None,
        rtt: entry.rtt,
        since_ms: entry.since.wall_ms,
    }
}
