//! What must be true of a swarm some time after everything has been healed.

use std::{collections::BTreeMap, fmt::Write as _};

use bruit_gossip::{MemberState, Name, NodeId, View};

use super::{
    guard::{knows, was_deleted},
    host::Host,
    net::HostId,
    software::Software,
    world::World,
};
use crate::{check::Finding, dice::digest};

/// Everything that is wrong now: I11, I12, I13 and I14 of the reliability catalogue.
#[must_use]
pub fn check<S: Software>(world: &World<S>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let truth = Truth::new(world);
    for host in world.live() {
        findings.extend(disagreement(&truth, host));
        findings.extend(missing_channel(host));
    }
    findings.extend(unequal_names(world));
    findings.extend(graves(world));
    findings
}

/// What every node ought to see.
#[derive(Debug)]
pub struct Truth {
    /// The live nodes: which life, and what they hold.
    live: BTreeMap<NodeId, (u64, Vec<Name>)>,
}

impl Truth {
    /// As things are now.
    #[must_use]
    pub fn new<S: Software>(world: &World<S>) -> Self {
        let entry = |host: &Host<S>| (host.node, (life(host), host.holds.keys().cloned().collect()));
        Self { live: world.live().map(entry).collect() }
    }

    /// How many nodes live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Whether a view has all live nodes, and no others, as alive.
    #[must_use]
    pub fn members_agree(&self, view: &View) -> bool {
        self.wrong_member(view).is_none()
    }

    fn wrong_member(&self, view: &View) -> Option<String> {
        let mut seen = 0;
        for member in view.members() {
            let is_alive = matches!(member.state, MemberState::Alive | MemberState::Suspect);
            match self.live.get(&member.peer.id) {
                Some((generation, _)) if is_alive && member.peer.generation == *generation => seen += 1,
                Some((generation, _)) => {
                    return Some(format!(
                        "shows the live {} (generation {generation}) as {:?} (generation {}, renewal {})",
                        member.peer.id, member.state, member.peer.generation, member.peer.renewal
                    ));
                }
                None if is_alive => {
                    return Some(format!("shows the dead {} as {:?}", member.peer.id, member.state));
                }
                None => {}
            }
        }
        (seen != self.live.len()).then(|| format!("shows {seen} of {} live nodes", self.live.len()))
    }

    fn wrong_holding(&self, view: &View) -> Option<String> {
        for (node, (_, holds)) in &self.live {
            let shown = names_held(view, *node);
            if shown != *holds {
                let missing: Vec<_> = holds.iter().filter(|name| !shown.contains(name)).take(3).collect();
                let extra: Vec<_> = shown.iter().filter(|name| !holds.contains(name)).take(3).collect();
                return Some(format!(
                    "shows {} names at {node}, which holds {}; missing {missing:?}, too many {extra:?}",
                    shown.len(),
                    holds.len()
                ));
            }
        }
        None
    }
}

/// What is wrong with what a node sees, of the members and of what they hold.
#[must_use]
pub fn disagreement<S>(truth: &Truth, host: &Host<S>) -> Option<Finding> {
    let view = &host.process.as_ref()?.view;
    let finding = |invariant, text: String| Finding::new(invariant, format!("host {} {text}", host.id));
    let member = truth.wrong_member(view).map(|text| finding("I14", text));
    member.or_else(|| truth.wrong_holding(view).map(|text| finding("I13", text)))
}

/// Which life a node is in. It may have had to outrank somebody with more lives at its address, or the lie of a
/// member that has gone wrong: what it says of itself counts.
fn life<S: Software>(host: &Host<S>) -> u64 {
    let shown = host.process.as_ref().and_then(|process| process.view.member(host.node));
    shown.map_or(host.generation, |member| member.peer.generation.max(host.generation))
}

fn names_held(view: &View, node: NodeId) -> Vec<Name> {
    let mut names = Vec::new();
    for holding in view.holdings(node) {
        names.push(Name::topic(holding.topic.clone()));
        names.extend(
            holding.channels.into_iter().map(|channel| Name::channel(holding.topic.clone(), channel)),
        );
    }
    names.sort();
    names
}

/// I12: who holds a topic holds all its lasting channels that he knows of.
fn missing_channel<S>(host: &Host<S>) -> Option<Finding> {
    let view = &host.process.as_ref()?.view;
    for topic in host.holds.keys().filter(|name| name.channel.is_none() && !name.is_ephemeral()) {
        for channel in view.lasting_channels(topic.topic.as_str()) {
            let name = Name::channel(topic.topic.clone(), channel);
            if !host.holds.contains_key(&name) {
                return Some(Finding::new("I12", format!("host {} has not made {name:?}", host.id)));
            }
        }
    }
    None
}

/// I13 for names: all live nodes know the same ones.
fn unequal_names<S: Software>(world: &World<S>) -> Option<Finding> {
    let mut versions: BTreeMap<u64, Vec<HostId>> = BTreeMap::new();
    for host in world.live() {
        let view = host.process.as_ref().map(|process| process.view.clone())?;
        versions.entry(names_digest(&view)).or_default().push(host.id);
    }
    let summary: Vec<_> =
        versions.values().map(|hosts| (hosts.len(), &hosts[..hosts.len().min(3)])).collect();
    let differs = || {
        let example = |hosts: &Vec<HostId>| hosts.first().and_then(|id| world.hosts[*id].process.as_ref());
        let mut texts = versions.values().filter_map(example).map(|process| names_text(&process.view));
        let (first, second) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        let mut lines = first.lines().filter(|line| !second.contains(line)).map(|line| format!("-{line}"));
        let mut others = second.lines().filter(|line| !first.contains(line)).map(|line| format!("+{line}"));
        format!("{:?} {:?}", lines.next(), others.next())
    };
    (versions.len() > 1).then(|| {
        let count = versions.len();
        Finding::new("I13", format!("there are {count} versions of the names, at {summary:?}: {}", differs()))
    })
}

/// A number that differs when the names differ.
#[must_use]
pub fn names_digest(view: &View) -> u64 {
    digest(names_text(view).as_bytes())
}

fn names_text(view: &View) -> String {
    let mut text = String::new();
    for topic in view.topics() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{topic} {:?}", view.channels(topic.as_str()));
    }
    text
}

/// I11: a deleted name is known nowhere and held nowhere; unless the only node that knew is gone for good.
fn graves<S: Software>(world: &World<S>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, by) in world.guard.deletions() {
        let views = || world.live().filter_map(|host| Some((host, &host.process.as_ref()?.view)));
        let is_known = world.hosts[by].is_member() || views().any(|(_, view)| was_deleted(view, name));
        if !is_known {
            continue;
        }
        if let Some((host, _)) = views().find(|(_, view)| knows(view, name)) {
            findings.push(Finding::new("I11", format!("host {} still knows the deleted {name:?}", host.id)));
        }
        if let Some(host) = world.live().find(|host| host.holds.contains_key(name)) {
            findings.push(Finding::new("I11", format!("host {} still holds the deleted {name:?}", host.id)));
        }
    }
    findings
}
