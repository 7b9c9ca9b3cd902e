//! What the mesh knows, with this node's own part as it is at this moment.
//!
//! The view of the mesh is some milliseconds old. For other nodes nothing newer is to be had; but whoever has
//! just made a topic here is to find it here, so what this node holds is asked of its broker.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bruit_gossip::{About, Holding, Member, NodeId, View};
use bruit_wire::{ChannelName, TopicName, lookup};

use super::{HttpState, NSQ_VERSION, reach::Vantage};
use crate::broker::Broker;

/// A snapshot for one request.
pub(super) struct Known {
    view: Arc<View>,
    broker: Arc<Broker>,
    /// The addresses of this host, as far as the mesh names them.
    here: Vec<IpAddr>,
}

/// A node that holds a topic.
pub(super) struct Holder<'a> {
    pub(super) id: NodeId,
    pub(super) member: &'a Member,
    pub(super) about: &'a About,
    /// Whether it is hidden from `/lookup` for this topic.
    pub(super) tombstoned: bool,
}

/// A member, or who registered at one, with what is said of it.
type Shown<'a> = (&'a Member, &'a About);

impl Known {
    pub(super) fn of(state: &HttpState) -> Self {
        let view = state.mesh.view();
        let here = view.member(view.me()).map(addresses).unwrap_or_default();
        Self { view, broker: Arc::clone(&state.broker), here }
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Whether the topic exists on this node.
    pub(super) fn is_held_here(&self, topic: &str) -> bool {
        self.broker.topic(topic).is_some()
    }

    /// Whether anybody knows the topic.
    pub(super) fn knows(&self, topic: &str) -> bool {
        self.is_held_here(topic) || self.view.knows(topic)
    }

    /// All topics, sorted.
    pub(super) fn topics(&self) -> Vec<TopicName> {
        let here = self.broker.topics();
        union(self.view.topics(), here.iter().map(|topic| topic.name().clone()))
    }

    /// All channels of a topic, sorted.
    pub(super) fn channels(&self, topic: &str) -> Vec<ChannelName> {
        union(self.view.channels(topic), self.channels_here(topic).into_iter())
    }

    /// The nodes that are there and take clients, by id, then the nsqds that registered at them.
    pub(super) fn live(&self) -> impl Iterator<Item = Shown<'_>> {
        let me = self.view.me();
        let live = move |member: &&Member| member.peer.id == me || member.is_live();
        let members = self.view.members().iter().filter(live).filter_map(shown);
        let members = members.filter(|(_, about)| about.tcp_port != 0);
        let mut seen = BTreeSet::new();
        members.chain(self.registrants().filter(move |(_, about)| seen.insert(about.endpoints().next())))
    }

    /// One of them.
    pub(super) fn find(&self, id: NodeId) -> Option<Shown<'_>> {
        let member = self.view.member(id).and_then(shown);
        member.or_else(|| self.registrants().find(|(member, _)| member.peer.id == id))
    }

    fn registrants(&self) -> impl Iterator<Item = Shown<'_>> {
        self.view.registrants().filter_map(shown)
    }

    /// The registrations of the nsqd that made this one: it may have registered at several nodes.
    fn twins(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let own = self.registrants().find(|(member, _)| member.peer.id == id);
        let endpoint = own.and_then(|(_, about)| about.endpoints().next());
        let twins = self.registrants().filter(move |(_, about)| about.endpoints().next() == endpoint);
        twins.map(|(member, _)| member.peer.id)
    }

    /// The nodes that hold the topic, by id, then the registrations of nsqds that do; one that has registered
    /// at several nodes is there as often.
    pub(super) fn registrations(&self, topic: &str) -> Vec<Holder<'_>> {
        let mut holders = self.nodes_with(topic);
        let registered = self.view.registered_producers(topic).into_iter();
        holders.extend(registered.filter_map(|producer| {
            let (member, about) = shown(producer.member)?;
            Some(Holder { id: member.peer.id, member, about, tombstoned: producer.tombstoned })
        }));
        holders
    }

    /// As [`registrations`](Self::registrations), each nsqd once.
    pub(super) fn holders(&self, topic: &str) -> Vec<Holder<'_>> {
        let mut seen = BTreeSet::new();
        let mut holders = self.registrations(topic);
        holders.retain(|holder| {
            holder.about.registered_from.is_none() || seen.insert(holder.about.endpoints().next())
        });
        holders
    }

    /// The nodes that are there and hold the topic, by id.
    fn nodes_with(&self, topic: &str) -> Vec<Holder<'_>> {
        let me = self.view.me();
        let others = self.view.producers(topic).into_iter().map(|producer| producer.member);
        let others = others.filter(|member| member.peer.id != me);
        let own = self.view.member(me).filter(|_| self.is_held_here(topic));
        let mut holders: Vec<Holder<'_>> = others
            .chain(own)
            .filter_map(|member| {
                let (id, about) = (member.peer.id, member.about.as_deref()?);
                Some(Holder { id, member, about, tombstoned: self.view.is_tombstoned(topic, id) })
            })
            .collect();
        holders.sort_unstable_by_key(|holder| holder.id);
        holders
    }

    /// The node's topics, sorted, and whether each is hidden from `/lookup`.
    pub(super) fn holdings(&self, id: NodeId) -> Vec<Holding> {
        if id != self.view.me() {
            let mut holdings = self.view.holdings(id);
            for twin in self.twins(id).filter(|twin| *twin != id) {
                holdings.extend(self.view.holdings(twin));
            }
            holdings.sort_by(|one, other| one.topic.cmp(&other.topic));
            holdings.dedup_by(|later, first| later.topic == first.topic);
            return holdings;
        }
        let topics = self.broker.topics();
        let holding = |topic: &TopicName| Holding {
            topic: topic.clone(),
            channels: self.channels_here(topic.as_str()),
            tombstoned: self.view.is_tombstoned(topic.as_str(), id),
        };
        topics.iter().map(|topic| holding(topic.name())).collect()
    }

    /// How `asker` is told of a node.
    pub(super) fn producer<'a>(
        &self,
        member: &Member,
        about: &'a About,
        asker: Option<SocketAddr>,
    ) -> lookup::Producer<'a> {
        lookup::Producer {
            remote_address: member.peer.gossip.to_string(),
            hostname: &about.hostname,
            broadcast_address: self.address(member, about, asker),
            tcp_port: about.tcp_port,
            http_port: about.http_port,
            version: version(about),
            topology_zone: &about.topology_zone,
            topology_region: &about.topology_region,
        }
    }

    /// Under which name or address `asker` is told to find a node.
    pub(super) fn address<'a>(
        &self,
        member: &Member,
        about: &'a About,
        asker: Option<SocketAddr>,
    ) -> &'a str {
        let vantage = Vantage::new(asker, &self.here);
        vantage.choose(&about.broadcast_addresses, member.peer.gossip.ip()).unwrap_or(&about.hostname)
    }

    /// Whether the node has this channel.
    pub(super) fn holds_channel(&self, id: NodeId, topic: &str, channel: &str) -> bool {
        if id != self.view.me() {
            return self.view.holds_channel(id, topic, channel);
        }
        self.broker.topic(topic).is_some_and(|topic| topic.channel(channel).is_some())
    }

    fn channels_here(&self, topic: &str) -> Vec<ChannelName> {
        let topic = self.broker.topic(topic);
        topic.iter().flat_map(|topic| topic.channels()).map(|channel| channel.name().clone()).collect()
    }
}

/// The version of nsqd that it is, or behaves like.
pub(super) fn version(about: &About) -> &str {
    if about.registered_from.is_some() { &about.version } else { NSQ_VERSION }
}

fn shown(member: &Member) -> Option<Shown<'_>> {
    Some((member, member.about.as_deref()?))
}

/// The IP addresses that a member is known by.
fn addresses(member: &Member) -> Vec<IpAddr> {
    let handed_out = member.about.iter().flat_map(|about| &about.broadcast_addresses);
    let mut addresses: Vec<IpAddr> = handed_out.filter_map(|text| text.parse().ok()).collect();
    addresses.push(member.peer.gossip.ip());
    addresses.iter().map(IpAddr::to_canonical).collect()
}

fn union<T: Ord>(sorted: Vec<T>, more: impl Iterator<Item = T>) -> Vec<T> {
    let missing: BTreeSet<T> = more.filter(|name| sorted.binary_search(name).is_err()).collect();
    if missing.is_empty() {
        return sorted;
    }
    let mut all = sorted;
    all.extend(missing);
    all.sort_unstable();
    all
}
