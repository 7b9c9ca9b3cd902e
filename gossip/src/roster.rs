//! Everybody that this node has heard of, and what became of them.
//!
//! foca keeps the same in a list that it walks for each question. This table follows the same rules, so that
//! what is no news can be left out before foca is asked, and so that each change can be seen.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use foca::{Identity as _, Incarnation, Member, State};

use crate::{NodeId, Now, Peer};

/// Most members, the dead ones included.
pub(crate) const MEMBERS_MAX: usize = 8_192;
/// By how many numbers two nodes compare their members.
pub(crate) const BUCKETS: usize = 64;

/// A member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) peer: Peer,
    pub(crate) incarnation: Incarnation,
    pub(crate) state: State,
    /// It went because it was told to.
    pub(crate) left: bool,
    /// When it came into this state.
    pub(crate) since: Now,
    /// Round-trip time, smoothed.
    pub(crate) rtt: Option<Duration>,
}

impl Entry {
    pub(crate) const fn is_active(&self) -> bool {
        !matches!(self.state, State::Down)
    }

    pub(crate) const fn member(&self) -> Member<Peer> {
        Member::new(self.peer, self.incarnation, self.state)
    }
}

/// What an update did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    /// Who was at this address before.
    pub(crate) before: Option<Entry>,
    /// Who is now.
    pub(crate) after: Entry,
}

/// The table, by address as in foca: one address, one member.
#[derive(Debug)]
pub(crate) struct Roster {
    me: Peer,
    entries: BTreeMap<SocketAddr, Entry>,
    addresses: BTreeMap<NodeId, Vec<SocketAddr>>,
    active: usize,
    suspects: usize,
    buckets: [u32; BUCKETS],
}

impl Roster {
    pub(crate) fn new(me: Peer) -> Self {
        let mut roster = Self {
            me,
            entries: BTreeMap::new(),
            addresses: BTreeMap::new(),
            active: 0,
            suspects: 0,
            buckets: [0; BUCKETS],
        };
        roster.mix(&me);
        roster
    }

    /// This node has another identity now.
    pub(crate) fn set_me(&mut self, me: Peer) {
        let before = std::mem::replace(&mut self.me, me);
        self.mix(&before);
        self.mix(&me);
    }

    /// Whether an update changes anything here. Not for updates about this node's own address.
    pub(crate) fn is_news(&self, update: &Member<Peer>) -> bool {
        let Some(known) = self.entries.get(&update.id().gossip) else { return true };
        if known.peer == *update.id() {
            can_change(known, update)
        } else {
            !known.peer.win_addr_conflict(update.id())
        }
    }

    /// Takes an update; `None` if it was no news. The rules are foca's.
    pub(crate) fn apply(&mut self, now: Now, update: &Member<Peer>) -> Option<Change> {
        if !self.is_news(update) {
            return None;
        }
        let peer = *update.id();
        let before = self.entries.get(&peer.gossip).copied();
        let same = before.filter(|before| before.peer.id == peer.id);
        let after = Entry {
            peer,
            incarnation: update.incarnation(),
            state: update.state(),
            left: false,
            since: same.filter(|before| before.state == update.state()).map_or(now, |before| before.since),
            rtt: same.and_then(|before| before.rtt),
        };
        self.entries.insert(peer.gossip, after);
        self.account(before.as_ref(), Some(&after));
        Some(Change { before, after })
    }

    /// Forgets a member.
    pub(crate) fn remove(&mut self, address: SocketAddr) {
        if let Some(entry) = self.entries.remove(&address) {
            self.account(Some(&entry), None);
        }
    }

    pub(crate) fn at(&self, address: SocketAddr) -> Option<&Entry> {
        self.entries.get(&address)
    }

    pub(crate) fn at_mut(&mut self, address: SocketAddr) -> Option<&mut Entry> {
        self.entries.get_mut(&address)
    }

    /// The entry of exactly this identity.
    pub(crate) fn exactly(&self, peer: &Peer) -> Option<&Entry> {
        self.entries.get(&peer.gossip).filter(|entry| entry.peer == *peer)
    }

    pub(crate) fn is_active(&self, peer: &Peer) -> bool {
        self.exactly(peer).is_some_and(Entry::is_active)
    }

    /// All that is known of a node, which may have had several addresses.
    pub(crate) fn of(&self, id: NodeId) -> impl Iterator<Item = &Entry> {
        let addresses = self.addresses.get(&id).map_or(&[][..], Vec::as_slice);
        addresses.iter().filter_map(|address| self.entries.get(address))
    }

    /// The entry that stands for a node: a live one rather than a dead one, then the latest.
    pub(crate) fn best(&self, id: NodeId) -> Option<&Entry> {
        self.of(id).max_by_key(|entry| (entry.is_active(), entry.peer.life(), entry.peer.gossip))
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.addresses.keys().copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(crate) fn active(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|entry| entry.is_active())
    }

    /// How many are there besides this node.
    pub(crate) const fn count_active(&self) -> usize {
        self.active
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many nodes the mesh has, this one included.
    pub(crate) const fn nodes(&self) -> usize {
        self.active + 1
    }

    /// How many of them somebody suspects.
    pub(crate) const fn suspects(&self) -> usize {
        self.suspects
    }

    /// How many of them nobody suspects, this one included.
    pub(crate) const fn trusted(&self) -> usize {
        self.nodes() - self.suspects
    }

    /// Numbers that are equal on two nodes with the same live members.
    pub(crate) const fn buckets(&self) -> &[u32; BUCKETS] {
        &self.buckets
    }

    /// All buckets in one number.
    pub(crate) fn hash(&self) -> u64 {
        self.buckets.iter().fold(0, |hash, bucket| stir(hash ^ u64::from(*bucket)))
    }

    fn account(&mut self, before: Option<&Entry>, after: Option<&Entry>) {
        let is_suspect = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.state == State::Suspect);
        self.suspects += usize::from(is_suspect(after));
        self.suspects -= usize::from(is_suspect(before));
        if let Some(before) = before {
            if before.is_active() {
                self.active -= 1;
                self.mix(&before.peer);
            }
            if let Some(addresses) = self.addresses.get_mut(&before.peer.id) {
                addresses.retain(|address| *address != before.peer.gossip);
                if addresses.is_empty() {
                    self.addresses.remove(&before.peer.id);
                }
            }
        }
        if let Some(after) = after {
            if after.is_active() {
                self.active += 1;
                self.mix(&after.peer);
            }
            self.addresses.entry(after.peer.id).or_default().push(after.peer.gossip);
        }
    }

    /// Adds a member to its bucket, or takes it out.
    fn mix(&mut self, peer: &Peer) {
        let mut hash = stir(peer.id.bits());
        let bucket = bucket_of(peer.id);
        hash = stir(hash ^ peer.generation);
        hash = stir(hash ^ u64::from(peer.renewal) << 32 ^ u64::from(peer.gossip.port()));
        hash = match peer.gossip.ip() {
            std::net::IpAddr::V4(ip) => stir(hash ^ u64::from(ip.to_bits())),
            std::net::IpAddr::V6(ip) => {
                let bits = ip.to_bits();
                stir(stir(hash ^ bits as u64) ^ (bits >> 64) as u64)
            }
        };
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket ^= hash as u32;
        }
    }
}

/// In which bucket a node is counted.
pub(crate) const fn bucket_of(id: NodeId) -> usize {
    (stir(id.bits()) >> 32) as usize % BUCKETS
}

/// Which states may follow each other for one identity (SWIM paper, section 4.2).
const fn can_change(known: &Entry, update: &Member<Peer>) -> bool {
    match (known.state, update.state()) {
        (State::Down, _) => false,
        (_, State::Down) => true,
        (State::Alive, State::Suspect) => update.incarnation() >= known.incarnation,
        (_, State::Alive | State::Suspect) => update.incarnation() > known.incarnation,
    }
}

/// SplitMix64's finaliser.
const fn stir(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Now = Now { elapsed: Duration::ZERO, wall_ms: 0 };

    fn peer(id: u64, generation: u64, port: u16) -> Peer {
        Peer {
            id: NodeId::new(id),
            generation,
            renewal: 0,
            gossip: SocketAddr::from(([10, 0, 0, 1], port)),
            mesh_port: 1,
        }
    }

    #[test]
    fn death_is_final_for_a_life_and_the_next_life_replaces_it() {
        let mut roster = Roster::new(peer(0, 1, 1));
        let empty = roster.hash();
        let first = peer(1, 1, 2);
        assert!(roster.apply(NOW, &Member::alive(first)).is_some());
        assert!(roster.apply(NOW, &Member::alive(first)).is_none());
        assert!(roster.apply(NOW, &Member::new(first, 0, State::Suspect)).is_some());
        let suspect = roster.hash();
        assert!(roster.apply(NOW, &Member::new(first, 1, State::Alive)).is_some());
        assert_eq!(roster.hash(), suspect, "only who is there counts");
        assert!(roster.apply(NOW, &Member::down(first)).is_some());
        assert_eq!((roster.hash(), roster.count_active()), (empty, 0));
        assert!(roster.apply(NOW, &Member::new(first, 9, State::Alive)).is_none());
        let second = peer(1, 2, 2);
        let change = roster.apply(NOW, &Member::alive(second)).unwrap();
        assert_eq!(change.before.unwrap().peer, first);
        assert!(roster.is_active(&second) && !roster.is_active(&first));
        assert!(roster.apply(NOW, &Member::alive(first)).is_none(), "an older life is no news");
    }

    #[test]
    fn a_node_with_two_addresses_is_found_at_the_live_one() {
        let mut roster = Roster::new(peer(0, 1, 1));
        roster.apply(NOW, &Member::down(peer(1, 5, 2)));
        roster.apply(NOW, &Member::alive(peer(1, 4, 3)));
        assert_eq!(roster.best(NodeId::new(1)).unwrap().peer.gossip.port(), 3);
        roster.apply(NOW, &Member::down(peer(1, 4, 3)));
        assert_eq!(roster.best(NodeId::new(1)).unwrap().peer.gossip.port(), 2);
        roster.remove(peer(1, 5, 2).gossip);
        roster.remove(peer(1, 4, 3).gossip);
        assert!(roster.best(NodeId::new(1)).is_none() && roster.ids().next().is_none());
    }

    struct Deaf;

    impl foca::Runtime<Peer> for Deaf {
        fn notify(&mut self, _: foca::Notification<'_, Peer>) {}
        fn send_to(&mut self, _: Peer, _: &[u8]) {}
        fn submit_after(&mut self, _: foca::Timer<Peer>, _: Duration) {}
    }

    proptest! {
        /// Whatever comes in whatever order, the table and foca agree.
        #[test]
        fn the_table_follows_focas_rules(updates in prop::collection::vec((0u64..3, 0u64..3, 2u16..5, 0u16..3, 0..3), 0..60)) {
            use rand::SeedableRng as _;
            let me = peer(9, 1, 1);
            let config = crate::config::Pace::new(crate::Profile::Lan).foca(1);
            let rng = rand::rngs::StdRng::seed_from_u64(1);
            let mut foca = foca::Foca::new(me, config, rng, crate::codec::PeerCodec::default());
            let mut roster = Roster::new(me);
            for (id, generation, port, incarnation, state) in updates {
                let state = [State::Alive, State::Suspect, State::Down][state as usize];
                let update = Member::new(peer(id, generation, port), incarnation, state);
                foca.apply_many(std::iter::once(update.clone()), true, Deaf).unwrap();
                roster.apply(NOW, &update);
                let mut theirs: Vec<_> = foca.iter_membership_state().cloned().collect();
                theirs.sort_by_key(|member| member.id().gossip);
                let ours: Vec<_> = roster.iter().map(Entry::member).collect();
                prop_assert_eq!(ours, theirs);
                prop_assert_eq!(roster.count_active(), foca.num_members());
                let suspects = roster.iter().filter(|entry| entry.state == State::Suspect).count();
                prop_assert_eq!(roster.trusted(), roster.nodes() - suspects);
                prop_assert_eq!(roster.iter().count(), roster.ids().map(|id| roster.of(id).count()).sum::<usize>());
            }
        }
    }
}
