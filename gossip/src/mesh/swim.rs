//! foca, and what goes in and out of it.
//!
//! A packet is read here before foca gets it: only its header goes in as it is, and of its updates only those
//! that are news, since foca walks all members for each.

use std::net::SocketAddr;

use foca::{Header, Identity as _, Incarnation, Member, Message, Notification, State, Timer};

use super::{Due, Mesh, join::SOMEBODY};
use crate::{
    Event, NodeId, Now, Output, Peer, codec,
    packet::{Datagram, Items},
    roster::{Change, MEMBERS_MAX},
};

/// What foca wants done, until [`Mesh::settle`] does it.
#[derive(Debug, Default)]
pub(super) struct Effects {
    sends: Vec<(SocketAddr, Vec<u8>)>,
    /// foca took the packet: it was for this identity.
    accepted: bool,
    pinged: Option<(Peer, u8)>,
    probe_next: Option<foca::TimerToken>,
    probe_indirectly: Option<Timer<Peer>>,
    missed: bool,
    failed: Vec<(Peer, Incarnation)>,
    rejoined: Option<Peer>,
}

impl foca::Runtime<Peer> for Effects {
    fn notify(&mut self, notification: Notification<'_, Peer>) {
        match notification {
            Notification::DataReceived(_) => self.accepted = true,
            Notification::DataSent(header) => {
                if let Message::Ping(number) = header.message {
                    self.pinged = Some((header.dst, number));
                }
            }
            Notification::ProbeFailed(..) => self.missed = true,
            Notification::Rejoin(me) => self.rejoined = Some(*me),
            // Changes of members are seen in the roster, which knows more about them.
            _ => {}
        }
    }

    fn send_to(&mut self, to: Peer, data: &[u8]) {
        self.sends.push((to.gossip, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Peer>, _after: std::time::Duration) {
        match event {
            Timer::ProbeRandomMember(token) => self.probe_next = Some(token),
            Timer::SendIndirectProbe { .. } => self.probe_indirectly = Some(event),
            Timer::ChangeSuspectToDown { member_id, incarnation, .. } => {
                self.failed.push((member_id, incarnation));
            }
            // These are off, or the mesh does them itself.
            Timer::PeriodicAnnounce(_)
            | Timer::PeriodicAnnounceDown(_)
            | Timer::PeriodicGossip(_)
            | Timer::RemoveDown(_) => {}
        }
    }
}

/// A packet of foca's, read but not judged.
struct Packet<'a> {
    header: Header<Peer>,
    /// The header's bytes.
    bytes: &'a [u8],
    updates: Vec<Member<Peer>>,
}

impl<'a> Packet<'a> {
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let mut rest = packet;
        let header = codec::take_header(&mut rest)?;
        let bytes = packet.get(..packet.len() - rest.len())?;
        let mut updates = Vec::new();
        if !rest.is_empty() {
            let count = u16::from_be_bytes(codec::take(&mut rest)?);
            for _ in 0..count {
                // The count may lie: the vector grows by what is there, and that is one datagram.
                updates.push(codec::take_member(&mut rest)?);
            }
        }
        rest.is_empty().then_some(Self { header, bytes, updates })
    }
}

impl Mesh {
    pub(super) fn datagram(&mut self, now: Now, from: SocketAddr, sender: NodeId, bytes: &[u8]) {
        self.tally.datagrams_in += 1;
        self.tally.bytes_in += bytes.len() as u64;
        if self.left {
            return;
        }
        if sender == self.me.id {
            self.refuse("from another node with this node's id");
            self.same_node(now, from);
            return;
        }
        let datagram = Datagram::parse(bytes);
        if datagram.is_some() {
            self.heard = now.elapsed;
        }
        match datagram {
            Some(Datagram::Swim { packet, items }) => self.swim(now, sender, packet, items),
            Some(Datagram::News(items)) => self.hear_all(now, sender, items),
            Some(Datagram::Look(look)) => self.looked_at(now, from, &look),
            Some(Datagram::Looked { nonce, peer, incarnation }) if peer.id == sender => {
                self.look_answered(now, nonce, &peer, incarnation);
            }
            Some(Datagram::Looked { .. }) => self.refuse("sealed by somebody else"),
            Some(Datagram::Revive(peer)) => self.taken_for_dead(now, from, &peer),
            None => self.refuse("malformed datagram"),
        }
    }

    fn swim(&mut self, now: Now, sender: NodeId, packet: &[u8], items: Items<'_>) {
        let Some(packet) = Packet::parse(packet) else {
            return self.refuse("malformed packet");
        };
        let header = packet.header;
        if header.src.id != sender {
            return self.refuse("sealed by somebody else");
        }
        if header.src.gossip == self.me.gossip {
            return self.refuse("from this node's address");
        }
        if !self.make_room_for(&header.src) {
            return self.refuse("too many members");
        }
        if header.message == Message::TurnUndead {
            // Nodes say this by another datagram, which says more.
            return self.refuse("malformed packet");
        }
        // A hello may come to an address that this node does not have for its own: another one of its host, or
        // one that is translated on the way. foca answers if it is told that it is meant.
        let mut hello = Vec::new();
        if header.message == Message::Announce && header.dst.id == SOMEBODY {
            codec::put_header(&mut hello, &Header { dst: self.me, ..header.clone() });
        }
        let bytes = if hello.is_empty() { packet.bytes } else { &hello };
        self.effects.accepted = false;
        if let Err(error) = self.foca.handle_data(bytes, &mut self.effects) {
            self.refuse_foca(&error);
        }
        if std::mem::take(&mut self.effects.accepted) {
            let alive = Member::new(header.src, header.src_incarnation, State::Alive);
            if let Some(change) = self.roster.apply(now, &alive) {
                self.applied(now, &change);
            }
            self.settle(now);
            self.note_answer(now, &header);
            if self.roster.is_active(&header.src) {
                self.apply_updates(now, packet.updates, true);
            }
        } else if matches!(header.message, Message::Ping(_)) && self.me.win_addr_conflict(&header.dst) {
            // He probes an earlier life, and would find it dead.
            self.hello(now, header.src);
        }
        self.hear_all(now, sender, items);
    }

    /// Takes what somebody says about members. `broadcast`: others should hear it too.
    pub(super) fn apply_updates(&mut self, now: Now, updates: Vec<Member<Peer>>, broadcast: bool) {
        let mut news = Vec::new();
        for update in updates {
            if *update.id() == self.me {
                self.hear_about_me(now, update.incarnation(), update.state());
            } else if update.id().gossip == self.me.gossip {
                // Whoever had this address before is certainly gone.
                let down = Member::down(*update.id());
                if self.roster.is_news(&down) {
                    news.push(down);
                }
            } else if self.roster.is_news(&update) && self.make_room_for(update.id()) {
                news.push(update);
            }
        }
        if news.is_empty() {
            return;
        }
        if let Err(error) = self.foca.apply_many(news.iter().cloned(), broadcast, &mut self.effects) {
            self.refuse_foca(&error);
        }
        for update in news {
            if let Some(change) = self.roster.apply(now, &update) {
                self.applied(now, &change);
            }
        }
        self.settle(now);
    }

    /// Somebody says something about this very identity.
    pub(super) fn hear_about_me(&mut self, now: Now, incarnation: Incarnation, state: State) {
        if state == State::Alive || (state == State::Suspect && incarnation < self.incarnation) {
            return;
        }
        if state == State::Down && !self.renewals.take(now.elapsed) {
            return;
        }
        if state == State::Suspect {
            self.tally.refutations += 1;
            self.health.worsen();
            self.incarnation = incarnation.saturating_add(1);
            self.eager = true;
        }
        let update = Member::new(self.me, incarnation, state);
        if let Err(error) = self.foca.apply_many(std::iter::once(update), true, &mut self.effects) {
            self.refuse_foca(&error);
        }
        self.settle(now);
    }

    /// Does what foca wanted done.
    pub(super) fn settle(&mut self, now: Now) {
        if let Some(me) = self.effects.rejoined.take() {
            self.become_known_as(now, me);
            self.tally.revivals += 1;
            self.outputs.push_back(Output::Event(Event::Revived(me)));
        }
        if let Some(token) = self.effects.probe_next.take() {
            self.probe.token = Some(token);
            let jitter = rand::RngExt::random_range(&mut self.rng, 0.95..1.05);
            let period = self.pace.period(self.roster.nodes()) * self.health.factor();
            self.timers.set(Due::Probe, now.elapsed + period.mul_f64(jitter));
        }
        if let Some(timer) = self.effects.probe_indirectly.take() {
            self.probe.indirect = Some(timer);
            let rtt = self.pace.rtt(self.roster.nodes()) * self.health.factor();
            self.timers.set(Due::Indirect, now.elapsed + rtt);
        }
        if std::mem::take(&mut self.effects.missed) {
            self.probe_missed(now);
        }
        if let Some((peer, number)) = self.effects.pinged.take() {
            self.probe.begin(now.elapsed, peer, number);
        }
        for (to, packet) in std::mem::take(&mut self.effects.sends) {
            self.send_packet(to, &packet);
        }
        for (peer, incarnation) in std::mem::take(&mut self.effects.failed) {
            let suspect = Member::new(peer, incarnation, State::Suspect);
            if let Some(change) = self.roster.apply(now, &suspect) {
                self.applied(now, &change);
            }
            self.probe_failed(now, &peer);
        }
    }

    /// This node has another identity from now on.
    pub(super) fn become_known_as(&mut self, now: Now, me: Peer) {
        self.me = me;
        self.incarnation = Incarnation::default();
        self.roster.set_me(me);
        self.members_changed(now);
    }

    fn members_changed(&mut self, now: Now) {
        self.members_version += 1;
        self.summaries.changed(now.elapsed);
        self.eager = true;
    }

    /// The roster has changed, and foca knows.
    fn applied(&mut self, now: Now, change: &Change) {
        let (after, peer) = (&change.after, change.after.peer);
        let replaced = change.before.filter(|before| before.peer != peer);
        let before = change.before.filter(|before| before.peer == peer);
        let was_active = before.is_some_and(|before| before.is_active());
        self.members_changed(now);
        if replaced.is_some() || after.state != State::Suspect {
            self.close_case(peer.gossip, after.state == State::Alive && replaced.is_none());
        }
        if let Some(gone) = replaced.filter(|gone| gone.is_active() && gone.peer.id != peer.id) {
            self.outputs.push_back(Output::Event(Event::Down(gone.peer)));
        }
        match after.state {
            State::Down if was_active => {
                self.last_death = now.elapsed;
                self.timers.set_no_later(Due::Heal, now.elapsed + self.heal_interval(now));
                self.outputs.push_back(Output::Event(Event::Down(peer)));
            }
            State::Down => {}
            State::Alive | State::Suspect => {
                if !was_active {
                    self.outputs.push_back(Output::Event(Event::Up(peer)));
                    self.arrived(now, &peer);
                }
                if after.state == State::Suspect {
                    self.tally.suspicions += 1;
                    self.outputs.push_back(Output::Event(Event::Suspected(peer)));
                    self.hear_suspicion(now, &peer, after.incarnation, None);
                }
            }
        }
        if was_active != after.is_active() {
            let config = self.pace.foca(self.roster.nodes());
            if let Err(error) = self.foca.set_config(config) {
                self.refuse_foca(&error);
            }
        }
    }

    /// A member is there that was not.
    fn arrived(&mut self, now: Now, peer: &Peer) {
        if self.roster.count_active() == 1 || self.exchange.expects(peer.gossip) {
            // The first one that this node meets, or one that was lost: either knows what the other does not.
            self.want_exchange(now, Some(*peer));
        } else {
            self.expect_facts(now);
        }
        if peer.id == self.me.id {
            if peer.generation < self.me.generation {
                self.apply_updates(now, vec![Member::down(*peer)], true);
            } else {
                self.same_node(now, peer.gossip);
            }
            return;
        }
        // A node that moved: its earlier lives are over, though nobody may have seen them end.
        let lives = || self.roster.of(peer.id).filter(|entry| entry.is_active()).map(|entry| entry.peer);
        let newest = lives().map(|life| life.generation).max();
        let over = lives().filter(|life| Some(life.generation) < newest).map(Member::down).collect();
        self.apply_updates(now, over, true);
    }

    /// Whether there is room for a member; the one longest dead may have to go.
    fn make_room_for(&mut self, peer: &Peer) -> bool {
        if self.roster.len() < MEMBERS_MAX || self.roster.at(peer.gossip).is_some() {
            return true;
        }
        let dead = self.roster.iter().filter(|entry| !entry.is_active());
        let oldest = dead.min_by_key(|entry| entry.since.elapsed).map(|entry| entry.peer);
        if let Some(oldest) = oldest {
            self.forget(&oldest);
        }
        oldest.is_some()
    }

    pub(super) fn refuse_foca(&mut self, error: &foca::Error) {
        self.refuse(match error {
            foca::Error::DataTooBig => "foca: too big",
            foca::Error::DataFromOurselves => "foca: from ourselves",
            foca::Error::IndirectForOurselves => "foca: indirect probe by ourselves",
            foca::Error::MalformedPacket => "foca: malformed packet",
            foca::Error::Decode(_) => "foca: decode",
            foca::Error::Encode(_) => "foca: encode",
            foca::Error::NotConnected => "foca: not connected",
            foca::Error::IncompleteProbeCycle => "foca: incomplete probe",
            _ => "foca: other",
        });
    }
}
