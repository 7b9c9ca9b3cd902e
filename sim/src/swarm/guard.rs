//! What is watched all the time, at each change of a node's view.

use std::{collections::BTreeMap, time::Duration};

use bruit_gossip::{MemberState, Name, NodeId, View};

use super::{net::HostId, software::Software, world::World};
use crate::check::Finding;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Guard {
    /// What was wrong.
    pub findings: Vec<Finding>,
    /// Nodes that were taken for dead although nothing was ever done to them, and the network whole: who
    /// believed it of whom, and when first.
    pub false_deaths: BTreeMap<(HostId, NodeId), Duration>,
    /// How often a node said that another one has its id.
    pub same_node: u64,
    /// How often a node said that it was taken for dead.
    pub revived: u64,
    deletions: BTreeMap<Name, HostId>,
}

impl Guard {
    /// A user has deleted a name on this host, and nobody will use it again.
    pub(super) fn deleted(&mut self, host: HostId, name: Name) {
        self.deletions.entry(name).or_insert(host);
    }

    /// All names that were deleted, each with the host on which.
    pub fn deletions(&self) -> impl Iterator<Item = (&Name, HostId)> {
        self.deletions.iter().map(|(name, host)| (name, *host))
    }
}

/// Whether a view knows this name.
#[must_use]
pub fn knows(view: &View, name: &Name) -> bool {
    match &name.channel {
        None => view.knows(name.topic.as_str()),
        Some(channel) => view.knows_channel(name.topic.as_str(), channel.as_str()),
    }
}

/// Whether a view knows that this name was deleted.
#[must_use]
pub fn was_deleted(view: &View, name: &Name) -> bool {
    match &name.channel {
        None => view.was_deleted(name.topic.as_str()),
        Some(channel) => view.channel_was_deleted(name.topic.as_str(), channel.as_str()),
    }
}

impl<S: Software> World<S> {
    /// A node's view has changed.
    pub(super) fn watch(&mut self, id: HostId) {
        self.watch_deaths(id);
        self.watch_graves(id);
    }

    fn watch_deaths(&mut self, id: HostId) {
        let Some(process) = &self.hosts[id].process else { return };
        if self.net.is_cut() || process.has_left || self.hosts[id].poison.is_some() {
            return;
        }
        let gone = |state| matches!(state, MemberState::Down | MemberState::Left);
        let dead =
            process.view.members().iter().filter(|member| gone(member.state)).map(|member| member.peer.id);
        let healthy =
            |node: &NodeId| self.host_with(*node).is_some_and(|host| host.is_member() && !host.was_hurt);
        for node in dead.filter(healthy).collect::<Vec<_>>() {
            let at = self.now();
            self.guard.false_deaths.entry((id, node)).or_insert_with(|| {
                self.trace.event(format_args!("{id} takes {node} for dead"));
                at
            });
        }
    }

    /// I11: what a node knows to be deleted is never shown by it again.
    fn watch_graves(&mut self, id: HostId) {
        let Some(process) = &mut self.hosts[id].process else { return };
        let mut risen = Vec::new();
        for (name, _) in self.guard.deletions() {
            let is_known = knows(&process.view, name);
            if is_known && process.buried.remove(name) {
                risen.push(name.clone());
            } else if !is_known && was_deleted(&process.view, name) {
                process.buried.insert(name.clone());
            }
        }
        for name in risen {
            self.found("I11", format!("host {id} shows the deleted {name:?} again"));
        }
    }
}
