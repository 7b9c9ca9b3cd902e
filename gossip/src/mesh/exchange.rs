//! Exchanges: two nodes tell each other what either lacks, in three legs on a reliable stream.
//!
//! ```text
//! leg 1: who I am, my buckets of members, digest of my catalogue
//! leg 2: who I am, my members in the buckets that differ, digest, what you lack
//! leg 3: who I am, my members in those buckets that you lack,     what you lack
//! ```
//!
//! A leg is `version, number, identity, incarnation` and its parts, each behind its length. What a peer says
//! about the death of somebody whom this node thinks alive is not taken for true (memberlist's rule): he may
//! have been cut off from the peer only.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use foca::{Incarnation, Member, State};
use rand::RngExt as _;
use serde::{Serialize, de::DeserializeOwned};

use super::{Due, Mesh};
use crate::{
    LEG_MAX, NodeId, Now, Output, Peer,
    codec::{
        put_member, put_peer, put_varint, take, take_byte, take_member, take_peer, take_slice, take_varint,
    },
    digest::{Digest, Payload},
    roster::{BUCKETS, Entry, MEMBERS_MAX, bucket_of},
};

const VERSION: u8 = 1;
/// How far apart exchanges are while something is missing.
const APART: Duration = Duration::from_millis(250);
/// How far they get apart when they bring nothing or fail.
const APART_MAX: Duration = Duration::from_secs(4);
/// About so many nodes ask the same one for the facts that only it may have.
const OWNERS_ASKED: usize = 8;
/// After this time an exchange that nobody ended counts as failed.
const LOST: Duration = Duration::from_secs(30);
/// How many members are told at once that somebody thinks them dead.
const DOUBTS_MAX: usize = 1_024;
/// How many hellos are remembered, for the exchange that follows them.
const EXPECTED_MAX: usize = 64;

/// A leg of an exchange was not what it should be. The exchange is to be ended; whatever came before is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// It was cut or garbled.
    #[error("malformed")]
    Malformed,
    /// A program of another version wrote it.
    #[error("of another version")]
    Version,
    /// The leg says that it is from another node than the connection.
    #[error("from another node than the one that was connected")]
    Foreign,
    /// This node has left the mesh.
    #[error("this node has left the mesh")]
    Left,
}

/// When to exchange, and with whom.
#[derive(Debug, Default)]
pub(super) struct Exchanging {
    busy: Option<Duration>,
    wanted: Option<Peer>,
    /// A peer knows something else.
    behind: bool,
    last: Option<Duration>,
    /// How many in a row failed or brought nothing.
    barren: u32,
    /// What the one under way has brought.
    brought: usize,
    /// Addresses to which this node said hello.
    expected: BTreeMap<SocketAddr, ()>,
}

impl Exchanging {
    /// Hello was said to whoever is there.
    pub(super) fn expect(&mut self, address: SocketAddr) {
        if self.expected.len() >= EXPECTED_MAX {
            self.expected.clear();
        }
        self.expected.insert(address, ());
    }

    /// Whether hello was said to him, for the last time that this is asked.
    pub(super) fn expects(&mut self, address: SocketAddr) -> bool {
        self.expected.remove(&address).is_some()
    }

    /// A peer knows the same.
    pub(super) const fn caught_up(&mut self) {
        self.behind = false;
        self.barren = 0;
    }
}

impl Mesh {
    /// An exchange is needed, best with this peer.
    pub(super) fn want_exchange(&mut self, now: Now, peer: Option<Peer>) {
        self.exchange.behind = true;
        if peer.is_some() {
            self.exchange.wanted = peer;
        }
        let earliest = self.exchange.last.map_or(now.elapsed, |last| now.elapsed.max(last + APART));
        self.timers.set_no_later(Due::Exchange, earliest);
    }

    /// Something should come by gossip; if it does not, an exchange has to bring it.
    pub(super) fn expect_facts(&mut self, now: Now) {
        if !self.timers.is_set(&Due::Exchange) {
            let wait = self.pace.settled().mul_f64(self.rng.random_range(1.0..2.5));
            self.timers.set(Due::Exchange, now.elapsed + wait);
        }
    }

    pub(super) fn exchange_now(&mut self, now: Now) {
        if self.left {
            return;
        }
        if self.exchange.busy.is_some_and(|since| now.elapsed < since + LOST) {
            self.timers.set(Due::Exchange, now.elapsed + APART);
            return;
        }
        self.exchange.busy = None;
        let missing = self.catalogue.missing(self.live());
        if !self.exchange.behind && missing.is_none() {
            return;
        }
        let wanted = self.exchange.wanted.take().filter(|peer| self.roster.is_active(peer));
        // Who misses a fact may ask its owner, but in a large mesh not all should do so at once.
        let ask_owner = self.rng.random_range(0..self.roster.nodes()) < OWNERS_ASKED;
        let owner = missing.filter(|_| ask_owner).and_then(|owner| self.roster.best(owner));
        let wanted = wanted.or_else(|| owner.map(|entry| entry.peer));
        let Some(peer) = wanted.or_else(|| self.anybody()) else { return };
        self.exchange.busy = Some(now.elapsed);
        self.exchange.last = Some(now.elapsed);
        self.exchange.brought = 0;
        self.outputs.push_back(Output::Exchange { peer });
    }

    /// The first leg, at the node that begins.
    pub fn exchange_open(&mut self, now: Now, _peer: &Peer) -> Bytes {
        let mut leg = self.leg(1);
        put_buckets(&mut leg, self.roster.buckets());
        put_part(&mut leg, &self.catalogue.digest());
        self.spur(now);
        leg.into()
    }

    /// Answers the first leg.
    ///
    /// # Errors
    ///
    /// If the leg cannot be read or this node has left.
    pub fn exchange_answer(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<Bytes, ExchangeError> {
        let mut rest = leg;
        let (peer, incarnation) = self.begin(from, 1, &mut rest)?;
        let buckets = take_buckets(&mut rest).ok_or(ExchangeError::Malformed)?;
        let digest: Digest = take_part(&mut rest).ok_or(ExchangeError::Malformed)?;
        let differing = differing(self.roster.buckets(), &buckets);
        self.apply_updates(now, vec![Member::new(peer, incarnation, State::Alive)], true);
        let mut rows = self.rows(&differing);
        if let Some(entry) = self.roster.at(peer.gossip).filter(|entry| !entry.is_active()) {
            // He has to know that this node takes him for dead.
            rows.push((entry.member(), entry.left));
        }
        let mut leg = self.leg(2);
        put_buckets(&mut leg, self.roster.buckets());
        put_rows(&mut leg, &rows);
        put_part(&mut leg, &self.catalogue.digest());
        let room = LEG_MAX.saturating_sub(leg.len() + 16);
        put_part(&mut leg, &self.catalogue.answer(now, &digest, room));
        self.spur(now);
        Ok(leg.into())
    }

    /// Takes the second leg, at the node that began, and gives the third.
    ///
    /// # Errors
    ///
    /// If the leg cannot be read or this node has left.
    pub fn exchange_close(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<Bytes, ExchangeError> {
        let mut rest = leg;
        let (peer, incarnation) = self.begin(from, 2, &mut rest)?;
        let buckets = take_buckets(&mut rest).ok_or(ExchangeError::Malformed)?;
        let theirs = take_rows(&mut rest).ok_or(ExchangeError::Malformed)?;
        let digest: Digest = take_part(&mut rest).ok_or(ExchangeError::Malformed)?;
        let payload: Payload = take_part(&mut rest).ok_or(ExchangeError::Malformed)?;
        let mut rows = self.rows(&differing(self.roster.buckets(), &buckets));
        let known: BTreeMap<_, _> =
            theirs.iter().map(|(member, left)| (member.id().gossip, (member, *left))).collect();
        rows.retain(|(member, left)| known.get(&member.id().gossip) != Some(&(member, *left)));
        let mut leg = self.leg(3);
        put_rows(&mut leg, &rows);
        self.apply_updates(now, vec![Member::new(peer, incarnation, State::Alive)], true);
        self.merge_members(now, from, theirs);
        self.merge_payload(now, from, payload);
        let room = LEG_MAX.saturating_sub(leg.len() + 16);
        put_part(&mut leg, &self.catalogue.answer(now, &digest, room));
        self.follow_catalogue(now);
        self.spur(now);
        Ok(leg.into())
    }

    /// Takes the third leg.
    ///
    /// # Errors
    ///
    /// If the leg cannot be read or this node has left.
    pub fn exchange_end(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<(), ExchangeError> {
        let mut rest = leg;
        let (peer, incarnation) = self.begin(from, 3, &mut rest)?;
        let theirs = take_rows(&mut rest).ok_or(ExchangeError::Malformed)?;
        let payload: Payload = take_part(&mut rest).ok_or(ExchangeError::Malformed)?;
        self.apply_updates(now, vec![Member::new(peer, incarnation, State::Alive)], true);
        self.merge_members(now, from, theirs);
        self.merge_payload(now, from, payload);
        self.follow_catalogue(now);
        self.spur(now);
        Ok(())
    }

    /// An [`Output::Exchange`] has come to its end, with so many bytes in both directions, or failed.
    pub fn exchange_over(&mut self, now: Now, _peer: &Peer, bytes: Option<u64>) {
        self.exchange.busy = None;
        match bytes {
            Some(bytes) => {
                self.tally.exchanges += 1;
                self.tally.exchange_bytes += bytes;
                self.summaries.confirm();
                self.exchange.behind = false;
            }
            None => self.tally.exchanges_failed += 1,
        }
        let barren = bytes.is_none() || self.exchange.brought == 0;
        self.exchange.barren = if barren { (self.exchange.barren + 1).min(8) } else { 0 };
        if self.left {
            return;
        }
        if self.exchange.behind || self.exchange.wanted.is_some() || self.catalogue.misses(self.live()) {
            let apart = (APART * (1 << self.exchange.barren)).min(APART_MAX);
            let apart = apart.mul_f64(self.rng.random_range(0.8..1.2));
            self.timers.set(Due::Exchange, now.elapsed + apart);
        }
    }

    fn leg(&self, number: u8) -> Vec<u8> {
        let mut leg = vec![VERSION, number];
        put_peer(&mut leg, &self.me);
        put_varint(&mut leg, self.incarnation.into());
        leg
    }

    fn begin(
        &self,
        from: NodeId,
        number: u8,
        rest: &mut &[u8],
    ) -> Result<(Peer, Incarnation), ExchangeError> {
        if self.left {
            return Err(ExchangeError::Left);
        }
        if take_byte(rest) != Some(VERSION) {
            return Err(ExchangeError::Version);
        }
        if take_byte(rest) != Some(number) {
            return Err(ExchangeError::Malformed);
        }
        let peer = take_peer(rest).ok_or(ExchangeError::Malformed)?;
        let incarnation = take_varint(rest).and_then(|number| number.try_into().ok());
        if peer.id != from || peer.gossip == self.me.gossip {
            return Err(ExchangeError::Foreign);
        }
        Ok((peer, incarnation.ok_or(ExchangeError::Malformed)?))
    }

    fn rows(&self, buckets: &[bool; BUCKETS]) -> Vec<(Member<Peer>, bool)> {
        let wanted = |entry: &&Entry| buckets.get(bucket_of(entry.peer.id)) == Some(&true);
        self.roster.iter().filter(wanted).map(|entry| (entry.member(), entry.left)).collect()
    }

    fn merge_members(&mut self, now: Now, from: NodeId, rows: Vec<(Member<Peer>, bool)>) {
        let (mut lasting, mut hearsay) = (Vec::new(), Vec::new());
        let (mut doubts, mut left) = (Vec::new(), Vec::new());
        for (member, has_left) in rows {
            let down = member.state() == State::Down;
            if has_left && down {
                left.push(*member.id());
            } else if down && self.roster.is_active(member.id()) {
                doubts.push(member);
            } else if down && *member.id() != self.me {
                // Its death is no news to anybody else, but no older gossip shall bring it back.
                hearsay.push(self.milder(member));
            } else {
                lasting.push(member);
            }
        }
        self.exchange.brought += lasting.iter().filter(|member| self.roster.is_news(member)).count();
        self.apply_updates(now, lasting, true);
        self.apply_updates(now, hearsay, false);
        for peer in left {
            if self.roster.is_active(&peer) || self.roster.at(peer.gossip).is_none() {
                self.mark_left(now, &peer);
            }
        }
        for member in doubts.iter().take(DOUBTS_MAX) {
            self.doubt_death(now, from, member.id());
        }
    }

    /// If a peer knows of the death of a later life than this node knows of at all, that life counts as suspect.
    fn milder(&self, member: Member<Peer>) -> Member<Peer> {
        let earlier = self.roster.at(member.id().gossip).filter(|entry| entry.is_active());
        match earlier.is_some_and(|entry| entry.peer.id == member.id().id) {
            true => Member::new(*member.id(), member.incarnation(), State::Suspect),
            false => member,
        }
    }

    fn merge_payload(&mut self, now: Now, from: NodeId, payload: Payload) {
        let merged = self.catalogue.merge(now, from, &payload);
        self.exchange.brought += merged.news;
        for (why, count) in merged.refused {
            *self.tally.refused.entry(why).or_default() += count;
        }
        if merged.more {
            self.want_exchange(now, self.roster.best(from).map(|entry| entry.peer));
        }
    }
}

fn differing(mine: &[u32; BUCKETS], theirs: &[u32; BUCKETS]) -> [bool; BUCKETS] {
    let mut differing = [false; BUCKETS];
    for (differs, (mine, theirs)) in differing.iter_mut().zip(mine.iter().zip(theirs)) {
        *differs = mine != theirs;
    }
    differing
}

fn put_buckets(leg: &mut Vec<u8>, buckets: &[u32; BUCKETS]) {
    buckets.iter().for_each(|bucket| leg.extend_from_slice(&bucket.to_le_bytes()));
}

fn take_buckets(rest: &mut &[u8]) -> Option<[u32; BUCKETS]> {
    let mut buckets = [0; BUCKETS];
    for bucket in &mut buckets {
        *bucket = u32::from_le_bytes(take(rest)?);
    }
    Some(buckets)
}

const LEFT: u8 = 1;

fn put_rows(leg: &mut Vec<u8>, rows: &[(Member<Peer>, bool)]) {
    put_varint(leg, rows.len() as u64);
    for (member, left) in rows {
        leg.push(if *left { LEFT } else { 0 });
        put_member(leg, member);
    }
}

fn take_rows(rest: &mut &[u8]) -> Option<Vec<(Member<Peer>, bool)>> {
    let count = take_varint(rest)?;
    if count > MEMBERS_MAX as u64 + 1 {
        return None;
    }
    let mut rows = Vec::new();
    for _ in 0..count {
        let left = take_byte(rest)? == LEFT;
        rows.push((take_member(rest)?, left));
    }
    Some(rows)
}

fn put_part(leg: &mut Vec<u8>, part: &impl Serialize) {
    // Serialising into memory cannot fail; an empty part is refused where it is read.
    let bytes = postcard::to_allocvec(part).unwrap_or_default();
    leg.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    leg.extend_from_slice(&bytes);
}

fn take_part<T: DeserializeOwned>(rest: &mut &[u8]) -> Option<T> {
    let len = u32::from_le_bytes(take(rest)?);
    let bytes = take_slice(rest, len as usize)?;
    postcard::from_bytes(bytes).ok()
}
