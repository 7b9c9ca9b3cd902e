//! Who is dead: probes, looks, suspicions, and the doubt whether this node itself is the slow one.
//!
//! foca probes a random member each period, directly and then through others. What follows a failed probe is
//! decided here. The node accuses: it tells everybody, and asks the suspect again and again, saying that he
//! is suspected. A few of those who hear an accusation look for themselves and accuse too if they get no
//! answer. Only an accuser passes a verdict, the sooner the more others accuse, and not if he got an answer
//! in the meantime. A node whose timers are served late adds the lost time to all of them: it must not judge
//! others by time that it did not live.

use std::{net::SocketAddr, time::Duration};

use foca::{Incarnation, Member, Message, State, Timer, TimerToken};
use rand::RngExt as _;

use super::{Due, Mesh, RTT_SHOWN, spread::NewsId};
use crate::{
    NodeId, Now, Output, Peer,
    packet::{self, Item, Look},
    suspicion::CONFIRMATIONS,
};

/// How often somebody is asked before that counts as no answer.
const LOOKS: u32 = 2;
/// Most members that are asked at a time.
const LOOKS_MAX: usize = 256;
/// Up to this many nodes the first missing answer is reason enough to ask the suspect's host.
const CHECK_EARLY: usize = 16;
/// If more than this part of the mesh is suspected, or so many probes in a row have failed, many have died at
/// once. A node then looks at more members with each probe, the more the longer that goes on, up to a limit.
const MANY: usize = 8;
const MANY_IN_A_ROW: u32 = 2;
const MORE_LOOKS: u32 = 4;
const MORE_LOOKS_MAX: u32 = 16;
/// For how many periods a node may hear nothing until it doubts itself.
const SILENCE: u32 = 4;
/// How far lateness may be forgiven before timers run all the same, in doublings of the tolerance.
const LATE_MAX: u32 = 6;

/// foca's probe that is under way.
#[derive(Debug, Default)]
pub(super) struct Probe {
    pub(super) token: Option<TimerToken>,
    pub(super) indirect: Option<Timer<Peer>>,
    target: Option<(Peer, u8)>,
    /// When the ping went; `None` once it was answered, or if the time since then means nothing.
    sent: Option<Duration>,
    answered: bool,
    /// How many in a row were not answered by anybody.
    failed: u32,
}

impl Probe {
    pub(super) fn begin(&mut self, now: Duration, peer: Peer, number: u8) {
        self.target = Some((peer, number));
        self.sent = Some(now);
        self.answered = false;
    }
}

/// Somebody who was asked whether he is there.
#[derive(Debug)]
pub(super) struct LookingAt {
    peer: Peer,
    nonce: u32,
    sent: Duration,
    times: u32,
}

impl Mesh {
    pub(super) fn probe_next(&mut self, now: Now) {
        let Some(token) = self.probe.token.take() else { return };
        if let Err(error) = self.foca.handle_timer(Timer::ProbeRandomMember(token), &mut self.effects) {
            self.refuse_foca(&error);
        }
        self.settle(now);
        // Where many have died at once, one probe at a time would take minutes to find them all.
        if self.have_many_died() && self.health.score() <= 1 {
            // One who should answer, so that the silence of the others is not taken for this node's own fault.
            if let Some(peer) = self.anybody() {
                self.look_at(now, &peer);
            }
            for _ in 0..(MORE_LOOKS * self.probe.failed.max(1)).min(MORE_LOOKS_MAX) {
                let unknown = self.choose(|entry| entry.rtt.is_none());
                if let Some(peer) = unknown.or_else(|| self.anybody()) {
                    self.look_at(now, &peer);
                }
            }
        }
    }

    /// Whether so many members seem to be dead that whoever has never answered probably is.
    pub(super) fn have_many_died(&self) -> bool {
        self.roster.suspects() * MANY > self.roster.nodes() || self.probe.failed >= MANY_IN_A_ROW
    }

    pub(super) fn probe_indirectly(&mut self, now: Now) {
        let Some(timer) = self.probe.indirect.take() else { return };
        if let Err(error) = self.foca.handle_timer(timer, &mut self.effects) {
            self.refuse_foca(&error);
        }
        if let Some((peer, _)) = self.probe.target
            && !self.probe.answered
            && self.roster.nodes() <= CHECK_EARLY
            && self.roster.is_active(&peer)
        {
            self.outputs.push_back(Output::Check { peer });
        }
        self.settle(now);
    }

    /// A probe was not answered. While this node hears others, it is not the one that is cut off.
    pub(super) fn probe_missed(&mut self, now: Now) {
        if now.elapsed > self.heard + self.pace.period(self.roster.nodes()) * SILENCE {
            self.health.worsen();
        }
    }

    /// Neither he nor anybody on his behalf has answered.
    pub(super) fn probe_failed(&mut self, now: Now, peer: &Peer) {
        self.probe.failed = self.probe.failed.saturating_add(1);
        if self.roster.nodes() > CHECK_EARLY {
            self.outputs.push_back(Output::Check { peer: *peer });
        }
        self.accuse(now, peer);
    }

    /// A packet came that may answer something this node asked.
    pub(super) fn note_answer(&mut self, now: Now, header: &foca::Header<Peer>) {
        let (who, number, direct) = match &header.message {
            Message::Ack(number) => (header.src, *number, true),
            Message::ForwardedAck { origin, probe_number } => (*origin, *probe_number, false),
            Message::IndirectAck { .. } => return self.answered(now, header.src.gossip),
            _ => return,
        };
        if self.probe.target == Some((who, number)) && !self.probe.answered {
            self.probe.answered = true;
            self.probe.failed = 0;
            self.health.improve();
            if let Some(sent) = self.probe.sent.take().filter(|_| direct) {
                self.note_rtt(now, who.gossip, now.elapsed.saturating_sub(sent));
            }
        }
        self.answered(now, who.gossip);
        // foca's probe does not tell him that he is suspected, and an ack refutes nothing: a suspicion whose
        // news he never got would last for ever.
        let entry = self.roster.at(who.gossip).copied();
        if let Some(suspect) = entry.filter(|entry| entry.state == State::Suspect) {
            self.look_at(now, &suspect.peer);
        }
    }

    /// Asks somebody outside of foca's probes.
    pub(super) fn look_at(&mut self, now: Now, peer: &Peer) {
        if self.looks.contains_key(&peer.gossip) || self.looks.len() >= LOOKS_MAX {
            return;
        }
        let looking = LookingAt { peer: *peer, nonce: self.rng.random(), sent: now.elapsed, times: 1 };
        self.ask(now, &looking);
        self.looks.insert(peer.gossip, looking);
    }

    fn ask(&mut self, now: Now, looking: &LookingAt) {
        let peer = looking.peer;
        let entry = self.roster.exactly(&peer);
        let suspected = entry.filter(|entry| entry.state == State::Suspect).map(|entry| entry.incarnation);
        let look = Look { nonce: looking.nonce, subject: peer, suspected };
        self.send(peer.gossip, packet::look(&look));
        let rtt = self.pace.rtt(self.roster.nodes()) * self.health.factor();
        self.timers.set(Due::Look(peer.gossip), now.elapsed + rtt);
    }

    /// He did not answer in time.
    pub(super) fn look_again(&mut self, now: Now, address: SocketAddr) {
        let Some(mut looking) = self.looks.remove(&address) else { return };
        if !self.roster.is_active(&looking.peer) {
            return;
        }
        if looking.times >= LOOKS {
            self.accuse(now, &looking.peer);
        }
        looking.times = looking.times.saturating_add(1);
        looking.sent = now.elapsed;
        self.ask(now, &looking);
        self.looks.insert(address, looking);
    }

    /// Somebody asks whether this node is there.
    pub(super) fn looked_at(&mut self, now: Now, from: SocketAddr, look: &Look) {
        if look.subject == self.me
            && let Some(incarnation) = look.suspected
        {
            self.hear_about_me(now, incarnation, State::Suspect);
        }
        self.send(from, packet::looked(look.nonce, &self.me, self.incarnation));
    }

    pub(super) fn look_answered(&mut self, now: Now, nonce: u32, peer: &Peer, incarnation: Incarnation) {
        let Some(looking) = self.looks.get(&peer.gossip).filter(|looking| looking.nonce == nonce) else {
            return;
        };
        let (rtt, times) = (now.elapsed.saturating_sub(looking.sent), looking.times);
        if times == 1 {
            self.note_rtt(now, peer.gossip, rtt);
        }
        self.answered(now, peer.gossip);
        self.apply_updates(now, vec![Member::new(*peer, incarnation, State::Alive)], true);
    }

    /// He is there: whatever this node had against him was wrong.
    fn answered(&mut self, _now: Now, address: SocketAddr) {
        self.looks.remove(&address);
        self.timers.cancel(&Due::Look(address));
        self.timers.cancel(&Due::Verdict(address));
        if self.cases.withdraw(address) {
            self.tally.refuted_suspicions += 1;
            self.health.worsen();
        }
    }

    fn note_rtt(&mut self, now: Now, address: SocketAddr, sample: Duration) {
        let Some(entry) = self.roster.at_mut(address) else { return };
        entry.rtt = Some(entry.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        if now.elapsed >= self.rtts_shown + RTT_SHOWN {
            self.rtts_shown = now.elapsed;
            self.members_version += 1;
        }
    }

    /// Somebody suspects a member: perhaps this node should look for itself. Returns whether that was news.
    pub(super) fn hear_suspicion(
        &mut self,
        now: Now,
        peer: &Peer,
        incarnation: Incarnation,
        accuser: Option<NodeId>,
    ) -> bool {
        let Some(entry) = self.roster.exactly(peer).filter(|entry| entry.is_active()) else { return false };
        if incarnation < entry.incarnation {
            return false;
        }
        let known = self.cases.of(peer.gossip).is_some_and(|case| case.peer == *peer);
        let news = self.cases.hear(*peer, incarnation, accuser);
        if self.cases.of(peer.gossip).is_some_and(|case| case.mine.is_some()) {
            self.set_verdict(now, peer.gossip);
        } else if news && !known {
            // So many look that enough of them can confirm, and not all at once.
            let others = self.roster.trusted().saturating_sub(1).max(1);
            if self.rng.random_range(0..others) < CONFIRMATIONS + 2 {
                self.look_at(now, peer);
            }
        }
        news
    }

    /// This node could not reach a member.
    fn accuse(&mut self, now: Now, peer: &Peer) {
        let Some(entry) = self.roster.exactly(peer).copied().filter(|entry| entry.is_active()) else {
            return;
        };
        if self.cases.accuse(now.elapsed, *peer, entry.incarnation) {
            let item = Item::Accuse { accuser: self.me.id, subject: *peer, incarnation: entry.incarnation };
            self.tell(NewsId::Accuse(peer.id, self.me.id), item.to_bytes());
            if entry.state == State::Alive {
                self.apply_updates(now, vec![Member::new(*peer, entry.incarnation, State::Suspect)], true);
            }
            self.set_verdict(now, peer.gossip);
        }
        self.look_at(now, peer);
    }

    fn set_verdict(&mut self, now: Now, address: SocketAddr) {
        let nodes = self.roster.nodes();
        let (min, max) = (self.pace.suspicion_min(nodes), self.pace.suspicion_max(nodes));
        let Some(case) = self.cases.of(address) else { return };
        let Some(since) = case.mine else { return };
        // The suspect is not among those who are trusted, but this node is.
        let others = self.roster.trusted().saturating_sub(1);
        // A little ill health is no reason: every failed probe leaves one in it. And what others find too is
        // not this node's own fault.
        let doubt = if case.is_confirmed(others) { 1 } else { 1 + self.health.score().saturating_sub(2) };
        // What others say may shorten the wait to less than has passed. That makes no timer late.
        let at = (since + case.lasts(others, min, max) * doubt).max(now.elapsed);
        self.timers.set(Due::Verdict(address), at);
    }

    pub(super) fn verdict(&mut self, now: Now, address: SocketAddr) {
        let Some(case) = self.cases.of(address).filter(|case| case.mine.is_some()) else { return };
        let (peer, incarnation) = (case.peer, case.incarnation);
        let guilty = self
            .roster
            .exactly(&peer)
            .is_some_and(|entry| entry.state == State::Suspect && entry.incarnation == incarnation);
        if guilty {
            self.apply_updates(now, vec![Member::new(peer, incarnation, State::Down)], true);
        }
    }

    /// His host was asked.
    pub(super) fn checked(&mut self, now: Now, peer: &Peer, gone: bool) {
        let answered = self.probe.answered && self.probe.target.is_some_and(|(target, _)| target == *peer);
        let Some(entry) = self.roster.exactly(peer).copied().filter(|entry| entry.is_active()) else {
            return;
        };
        if gone && !answered && !self.left {
            self.apply_updates(now, vec![Member::new(*peer, entry.incarnation, State::Down)], true);
        }
    }

    /// A case is settled, by whatever came. `refuted`: the suspect is alive.
    pub(super) fn close_case(&mut self, address: SocketAddr, refuted: bool) {
        let case = self.cases.close(address);
        self.looks.remove(&address);
        self.timers.cancel(&Due::Look(address));
        self.timers.cancel(&Due::Verdict(address));
        match (refuted, case.is_some_and(|case| case.mine.is_some())) {
            (true, true) => {
                self.tally.refuted_suspicions += 1;
                self.health.worsen();
            }
            // He is dead: that he did not answer says nothing about this node.
            (false, true) => self.health.improve(),
            _ => {}
        }
    }

    /// If timers are served late, this node was away or is starved: the lost time is added to whatever it
    /// judges others by, and a little more, so that what waits in its sockets is taken first.
    pub(super) fn notice_lateness(&mut self, now: Now) {
        let Some(due) = self.timers.next_of(Due::judges) else { return };
        let late = now.elapsed.saturating_sub(due);
        let tolerance = self.pace.tolerance(self.roster.nodes());
        if late <= tolerance * (1 << self.late.min(LATE_MAX)) {
            return;
        }
        self.late += 1;
        self.health.worsen();
        self.probe.sent = None;
        let lost = late + tolerance;
        self.timers.delay(lost, Due::judges);
        self.cases.delay(lost);
    }
}
