//! Producers of the classic kind that have registered at a node, as an nsqd registers at an nsqlookupd.
//!
//! They speak no gossip, so the node where one registered says what it holds: in a fact of its own, under an
//! id that was drawn for the registration. The fact spreads as every other one does. What the node says about
//! itself lists the ids; whoever is not listed any more, or whose node is gone, is not shown, and is forgotten
//! a little later.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Catalogue;
use crate::{
    About, Member, Name, NodeId, Now, Peer, REGISTRANTS_MAX,
    digest::OWNERS_MAX,
    fact::{Fact, Items},
};

/// Registrations are numbered by their ids alone, so that each has one life.
const GENERATION: u64 = 1;
/// How long a registrant that no node lists is kept: what lists it may still be on its way.
const ORPHANED_FOR: Duration = Duration::from_secs(60);

/// Who registered where.
#[derive(Debug, Default)]
pub(super) struct Registrants {
    /// At this node.
    own: BTreeSet<NodeId>,
    /// Those that no node lists, and since when.
    orphans: BTreeMap<NodeId, Duration>,
}

impl Registrants {
    /// Those of this node.
    pub(super) fn own(&self) -> Vec<NodeId> {
        self.own.iter().copied().collect()
    }

    /// Whether this node writes the fact of `id`.
    pub(super) fn is_own(&self, id: NodeId) -> bool {
        self.own.contains(&id)
    }
}

impl Catalogue {
    /// A producer registers at this node, under an id that nobody has had before. Nothing happens if there are
    /// as many as there may be.
    pub fn register(&mut self, id: NodeId, about: About) {
        if self.registrants.own.len() >= REGISTRANTS_MAX || self.facts.len() >= OWNERS_MAX {
            self.left_out += 1;
            return;
        }
        if self.facts.contains_key(&id) {
            return;
        }
        let mut fact = Fact::new(GENERATION);
        fact.note(1);
        fact.set_about(1, about.clone());
        self.facts.insert(id, fact);
        self.outbox.push_about(id, GENERATION, 1, about);
        self.registrants.own.insert(id);
        self.list_registrants();
    }

    /// A producer that registered here holds a name now, or no longer does. A name that it holds is known from
    /// then on, as if somebody had made it.
    pub fn registered(&mut self, now: Now, id: NodeId, name: &Name, held: bool) {
        if !self.registrants.is_own(id) {
            return;
        }
        if held {
            self.create(now, name);
        }
        let Some(handle) = self.intern(name) else { return };
        let Some(fact) = self.facts.get_mut(&id) else { return };
        if crate::fact::holds(&fact.items, handle) != held {
            let version = fact.contiguous + 1;
            fact.note(version);
            if fact.set(handle, version, held, &mut self.names).is_err() {
                self.left_out += 1;
            }
            self.outbox.push_held(id, GENERATION, version, name, held);
            self.changed += 1;
            self.unhide_lost(id);
        }
        self.names.release(handle);
    }

    /// A producer that registered here is gone.
    pub fn deregister(&mut self, id: NodeId) {
        if self.registrants.own.remove(&id) {
            self.list_registrants();
            self.forget(id);
        }
    }

    fn list_registrants(&mut self) {
        let about = self.facts.get(&self.me).and_then(|fact| fact.about.as_deref().cloned());
        self.set_about(about.unwrap_or_default());
    }

    /// A node in one of its lives, and then who registered at it.
    pub(super) fn with_registrants(
        &self,
        (owner, generation): (NodeId, u64),
    ) -> impl Iterator<Item = (NodeId, u64)> + use<'_> {
        let listed = self.listed(owner, generation).iter().map(|&id| (id, GENERATION));
        std::iter::once((owner, generation)).chain(listed)
    }

    /// Who registered at a node, as far as it says so.
    fn listed(&self, owner: NodeId, generation: u64) -> &[NodeId] {
        let fact = self.facts.get(&owner).filter(|fact| fact.generation == generation);
        let about = fact.and_then(|fact| fact.about.as_deref());
        about.map_or(&[], |about| &about.registrants)
    }

    /// Whether a node says that `id` has registered there. Looks at every node.
    pub(super) fn is_listed(&self, id: NodeId) -> bool {
        let mut abouts = self.facts.values().filter_map(|fact| fact.about.as_deref());
        abouts.any(|about| about.registrants.contains(&id))
    }

    /// Adds those who registered at `host` to `shown`, if it is live.
    pub(super) fn show_registrants(&self, host: &Member, shown: &mut Vec<(Member, Items)>) {
        if !host.is_live() {
            return;
        }
        for id in self.listed(host.peer.id, host.peer.generation) {
            let Some(fact) = self.facts.get(id) else { continue };
            let from = fact.about.as_ref().and_then(|about| about.registered_from);
            let Some(gossip) = from else { continue };
            let peer = Peer { id: *id, generation: GENERATION, renewal: 0, gossip, mesh_port: 0 };
            let (about, since_ms) = (fact.about.clone(), host.since_ms);
            let registrant = Member { peer, state: host.state, about, rtt: None, since_ms };
            shown.push((registrant, Items::clone(&fact.items)));
        }
    }

    /// Forgets registrants that no node lists any more.
    pub(super) fn forget_orphans(&mut self, now: Now) {
        let is_registrant = |fact: &Fact| fact.about.as_ref().is_some_and(|a| a.registered_from.is_some());
        let mut unlisted: BTreeSet<NodeId> =
            self.facts.iter().filter(|(_, fact)| is_registrant(fact)).map(|(id, _)| *id).collect();
        if unlisted.is_empty() {
            self.registrants.orphans.clear();
            return;
        }
        for about in self.facts.values().filter_map(|fact| fact.about.as_deref()) {
            for id in &about.registrants {
                unlisted.remove(id);
            }
        }
        let orphans = &mut self.registrants.orphans;
        orphans.retain(|id, _| unlisted.contains(id));
        for id in unlisted {
            orphans.entry(id).or_insert(now.elapsed);
        }
        let old = |since: &Duration| now.elapsed.saturating_sub(*since) >= ORPHANED_FOR;
        let forgotten: Vec<NodeId> =
            orphans.iter().filter(|(_, since)| old(since)).map(|(id, _)| *id).collect();
        for id in forgotten {
            self.forget(id);
        }
    }
}
