//! The mesh as one node knows it at one moment: who is there, what they hold, which names exist.
//!
//! A view shares names and facts with the catalogue, so that making one costs a pointer per node and per
//! bucket of names. There is no index from topics to nodes: a lookup asks each node's sorted items.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bruit_wire::{ChannelName, TopicName};
use serde::{Deserialize, Serialize};

use crate::{
    About, Name, NodeId, Peer,
    catalogue::Hide,
    fact::{Items, holds},
    names::{Handle, Mark, Table},
    stamp::Stamp,
};

/// A node of the mesh.
#[derive(Clone, Debug)]
pub struct Member {
    /// Which node, and where it is reached.
    pub peer: Peer,
    /// What is believed of it.
    pub state: MemberState,
    /// What it says about itself; `None` until that has come.
    pub about: Option<Arc<About>>,
    /// The time that a datagram takes to it and back; `None` for this node, and until one was measured.
    pub rtt: Option<Duration>,
    /// Since when it is in this state: milliseconds since 1970, by this node's wall clock.
    pub since_ms: u64,
}

impl Member {
    /// Whether it counts as there: what it holds is shown.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.state, MemberState::Alive | MemberState::Suspect)
    }
}

/// What is believed of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer lately, and may yet say that it lives.
    Suspect,
    /// It is gone without a word.
    Down,
    /// It said that it goes.
    Left,
}

/// A live node that holds a topic.
#[derive(Clone, Copy, Debug)]
pub struct Producer<'a> {
    /// Which one.
    pub member: &'a Member,
    /// Whether a user hides it from lookups of this topic for now.
    pub tombstoned: bool,
}

/// A topic that a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Which one.
    pub topic: TopicName,
    /// Its channels there, by name.
    pub channels: Vec<ChannelName>,
    /// Whether a user hides the node from lookups of this topic for now.
    pub tombstoned: bool,
}

/// Which producers of which topics are hidden from lookups.
pub(crate) type Hidden = BTreeMap<(TopicName, NodeId), Hide>;

/// An immutable snapshot of the mesh.
#[derive(Clone, Debug)]
pub struct View {
    me: NodeId,
    members: Vec<Member>,
    /// Per member what it holds; nothing for those that are not live.
    held: Vec<Items>,
    /// Producers that registered at one of them, by id, each with what it holds.
    registrants: Vec<(Member, Items)>,
    names: Table,
    hidden: Arc<Hidden>,
}

impl View {
    /// What a node knows before it knows anything, not even itself.
    #[must_use]
    pub fn empty(me: NodeId) -> Self {
        Self {
            me,
            members: Vec::new(),
            held: Vec::new(),
            registrants: Vec::new(),
            names: Table::default(),
            hidden: Arc::default(),
        }
    }

    /// Members by id, each with what it holds if it is live; and who registered at those that are.
    pub(crate) fn new(
        me: NodeId,
        members: Vec<(Member, Items)>,
        mut registrants: Vec<(Member, Items)>,
        names: Table,
        hidden: Arc<Hidden>,
    ) -> Self {
        let (members, held): (Vec<Member>, _) = members.into_iter().unzip();
        if !registrants.is_empty() {
            registrants.sort_unstable_by_key(|(registrant, _)| registrant.peer.id);
            registrants.dedup_by_key(|(registrant, _)| registrant.peer.id);
            // A node may register at others too, as a classic one; it is a member once it is known as such.
            let known = endpoints(&members);
            registrants.retain(|(registrant, _)| {
                let mut own = registrant.about.iter().flat_map(|about| about.endpoints());
                !own.any(|endpoint| known.contains(&endpoint))
            });
        }
        Self { me, members, held, registrants, names, hidden }
    }

    /// The node that this view is of.
    #[must_use]
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// All nodes by id, this one included, and those that went not long ago.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// One of them.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.get(self.place(id)?)
    }

    /// The topics that the mesh knows, by name: those that somebody made and nobody deleted since, whether a
    /// node holds them or not, and whatever live nodes hold.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicName> {
        let names = self.names.iter().filter(|(_, name, _)| name.channel.is_none());
        let known = names.filter(|&(handle, _, mark)| self.is_known(handle, mark));
        let mut topics: Vec<TopicName> = known.map(|(_, name, _)| name.topic.clone()).collect();
        topics.sort_unstable();
        topics
    }

    /// The channels that the mesh knows of a topic, by name; ephemeral ones while a live node holds them.
    #[must_use]
    pub fn channels(&self, topic: &str) -> Vec<ChannelName> {
        if self.was_deleted(topic) {
            return Vec::new();
        }
        let channels = self.names.channels(topic);
        let known = channels.filter(|&(handle, _, mark)| self.is_known(handle, mark));
        known.map(|(_, channel, _)| channel.clone()).collect()
    }

    /// The channels with which a topic begins on a node that has not held it, ephemeral ones left out: those
    /// that somebody made and nobody deleted since. By name. That a node holds one may be known before that it
    /// was made; after a delete of the topic that says nothing, for the node may not have heard of it.
    #[must_use]
    pub fn lasting_channels(&self, topic: &str) -> Vec<ChannelName> {
        let never_deleted = self.names.mark_of(topic, None).gone == Stamp::NEVER;
        let lasting = self.names.channels(topic).filter(|&(handle, channel, mark)| {
            let known = mark.is_live() || (never_deleted && self.is_known(handle, mark));
            known && !channel.is_ephemeral()
        });
        lasting.map(|(_, channel, _)| channel.clone()).collect()
    }

    /// Whether the mesh knows this topic.
    #[must_use]
    pub fn knows(&self, topic: &str) -> bool {
        self.names.find(topic, None).is_some_and(|handle| self.is_known(handle, self.names.mark(handle)))
    }

    /// Whether the topic was deleted not long ago, and nobody has made it since.
    #[must_use]
    pub fn was_deleted(&self, topic: &str) -> bool {
        self.names.mark_of(topic, None).is_dead()
    }

    /// Whether the mesh knows this channel.
    #[must_use]
    pub fn knows_channel(&self, topic: &str, channel: &str) -> bool {
        !self.was_deleted(topic)
            && self
                .names
                .find(topic, Some(channel))
                .is_some_and(|handle| self.is_known(handle, self.names.mark(handle)))
    }

    /// Whether the channel, or its topic, was deleted not long ago, and nobody has made it since.
    #[must_use]
    pub fn channel_was_deleted(&self, topic: &str, channel: &str) -> bool {
        let mark = self.names.mark_of(topic, Some(channel));
        mark.is_dead() || (!mark.is_live() && self.was_deleted(topic))
    }

    /// The live nodes that hold a topic, by id. None if it was deleted, whatever they say.
    #[must_use]
    pub fn producers(&self, topic: &str) -> Vec<Producer<'_>> {
        let Some(handle) = self.names.find(topic, None) else { return Vec::new() };
        if self.names.mark(handle).is_dead() {
            return Vec::new();
        }
        let members = self.members.iter().zip(&self.held);
        let holders = members.filter(|(_, held)| holds(held, handle));
        holders
            .map(|(member, _)| Producer { member, tombstoned: self.is_tombstoned(topic, member.peer.id) })
            .collect()
    }

    /// The producers of the classic kind that registered at a live node, by id. [`Peer::gossip`] is the address
    /// that they registered from; they speak no gossip. One that registered at several nodes is here as often.
    pub fn registrants(&self) -> impl Iterator<Item = &Member> {
        self.registrants.iter().map(|(registrant, _)| registrant)
    }

    /// Those of them that hold a topic, by id. None if it was deleted, whatever they say.
    #[must_use]
    pub fn registered_producers(&self, topic: &str) -> Vec<Producer<'_>> {
        let Some(handle) = self.names.find(topic, None) else { return Vec::new() };
        if self.names.mark(handle).is_dead() {
            return Vec::new();
        }
        let holders = self.registrants.iter().filter(|(_, held)| holds(held, handle));
        holders
            .map(|(member, _)| Producer { member, tombstoned: self.is_tombstoned(topic, member.peer.id) })
            .collect()
    }

    /// Whether a user hides this node from lookups of this topic for now.
    #[must_use]
    pub fn is_tombstoned(&self, topic: &str, node: NodeId) -> bool {
        self.hide(topic, node).is_some_and(Hide::is_on)
    }

    /// Whether a user has hidden this node from lookups of this topic in the last 45 seconds. It may have
    /// lost the topic since.
    #[must_use]
    pub fn was_tombstoned(&self, topic: &str, node: NodeId) -> bool {
        self.hide(topic, node).is_some_and(Hide::is_fresh)
    }

    fn hide(&self, topic: &str, node: NodeId) -> Option<&Hide> {
        // Hardly ever is there anything hidden at all.
        let mut hidden = self.hidden.iter();
        hidden
            .find(|((hidden, producer), _)| *producer == node && hidden.as_str() == topic)
            .map(|(_, hide)| hide)
    }

    /// What a live node, or a registrant, holds, by topic; names that were deleted are left out, whatever it says.
    #[must_use]
    pub fn holdings(&self, id: NodeId) -> Vec<Holding> {
        let held = self.held_by(id);
        let shown =
            held.into_iter().flat_map(|items| items.iter()).filter_map(|item| self.shown(item.handle));
        let mut names: Vec<&Name> = shown.collect();
        names.sort_unstable();
        let mut holdings: Vec<Holding> = Vec::new();
        for name in names {
            if holdings.last().is_none_or(|last| last.topic != name.topic) {
                let tombstoned = self.is_tombstoned(name.topic.as_str(), id);
                holdings.push(Holding { topic: name.topic.clone(), channels: Vec::new(), tombstoned });
            }
            if let (Some(last), Some(channel)) = (holdings.last_mut(), &name.channel) {
                last.channels.push(channel.clone());
            }
        }
        holdings
    }

    /// Whether a live node, or a registrant, says that it holds a channel.
    #[must_use]
    pub fn holds_channel(&self, id: NodeId, topic: &str, channel: &str) -> bool {
        let held = self.held_by(id);
        let handle = self.names.find(topic, Some(channel));
        held.zip(handle).is_some_and(|(held, handle)| holds(held, handle))
    }

    fn held_by(&self, id: NodeId) -> Option<&Items> {
        if let Some(place) = self.place(id) {
            return self.held.get(place);
        }
        let place = self.registrants.binary_search_by_key(&id, |(registrant, _)| registrant.peer.id).ok()?;
        self.registrants.get(place).map(|(_, held)| held)
    }

    fn place(&self, id: NodeId) -> Option<usize> {
        self.members.binary_search_by_key(&id, |member| member.peer.id).ok()
    }

    /// The name, unless it was deleted.
    fn shown(&self, handle: Handle) -> Option<&Name> {
        let name = self.names.name(handle)?;
        let topic_is_dead = name.channel.is_some() && self.was_deleted(name.topic.as_str());
        (!topic_is_dead && !self.names.mark(handle).is_dead()).then_some(name)
    }

    /// A name is known if it was made, or nothing is known of it but that a live node holds it.
    fn is_known(&self, handle: Handle, mark: Mark) -> bool {
        let is_ephemeral = || self.names.name(handle).is_none_or(Name::is_ephemeral);
        match mark.is_live() {
            true if !is_ephemeral() => true,
            _ => {
                let registered = self.registrants.iter().map(|(_, held)| held);
                !mark.is_dead() && self.held.iter().chain(registered).any(|held| holds(held, handle))
            }
        }
    }
}

/// Where clients reach the live ones of these nodes.
fn endpoints(members: &[Member]) -> BTreeSet<(&str, u16)> {
    let live = members.iter().filter(|member| member.is_live());
    live.filter_map(|member| member.about.as_deref()).flat_map(About::endpoints).collect()
}
