//! What a node can tell of its links: for `/stats`, `/mesh/stats` and `/metrics`.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bruit_gossip::{NodeId, View};
use bruit_wire::{ChannelName, TopicName};
use serde::{Serialize, Serializer};

use super::{Attempt, LinkState, Relays};

/// Messages relayed from and to a node since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// From it, to consumers here.
    pub(super) received: u64,
    /// To it, for its consumers.
    pub(super) sent: u64,
}

/// A link to an owner as `/stats` shows it. The figures are zeros while it does not stand.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LinkReport {
    /// The owner.
    pub(crate) node: NodeId,
    /// Where it is reached.
    pub(crate) address: SocketAddr,
    /// `opening`, `open` or `waiting`.
    pub(crate) state: &'static str,
    /// Messages that the owner may send yet.
    pub(crate) credit: u64,
    /// Messages that have come and are not answered.
    pub(crate) in_flight: u64,
    /// Messages that have come over this link.
    pub(crate) received: u64,
    /// Messages of it that consumers here have finished.
    pub(crate) finished: u64,
    /// Messages that wait there for credit, as the owner last said.
    pub(crate) waiting: u64,
    /// The round-trip to the owner, if it was measured.
    #[serde(rename = "rtt_us", serialize_with = "in_microseconds")]
    pub(crate) rtt: Option<Duration>,
}

/// All relaying of a node, in both directions.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct RelayReport {
    /// Links to other nodes, by state.
    pub(crate) links: BTreeMap<&'static str, u64>,
    /// Links of other nodes to channels here.
    pub(crate) guests: u64,
    /// The nodes that messages went to or came from, or could.
    pub(crate) peers: Vec<PeerReport>,
}

/// What was relayed to and from one other node.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PeerReport {
    /// The other node.
    pub(crate) node: NodeId,
    /// Messages from it, since this node was started.
    pub(crate) received: u64,
    /// Messages to it, likewise.
    pub(crate) sent: u64,
    /// Messages that it may send yet, over all links to it.
    pub(crate) credit: u64,
    /// The round-trip to it, if it was measured.
    #[serde(rename = "rtt_us", serialize_with = "in_microseconds")]
    pub(crate) rtt: Option<Duration>,
}

impl Relays {
    /// The links of a channel, by owner.
    pub(crate) fn links_of(&self, topic: &TopicName, channel: &ChannelName) -> Vec<LinkReport> {
        let view = self.mesh.view();
        let channels = self.channels.lock();
        let Some(fed) = channels.get(&(topic.clone(), channel.clone())) else { return Vec::new() };
        let report = |(owner, attempt): (&NodeId, &Attempt)| {
            let stats = fed.feed.link_stats(*owner).unwrap_or_default();
            LinkReport {
                node: *owner,
                address: attempt.owner.mesh(),
                state: attempt.state.as_str(),
                credit: stats.credit,
                in_flight: stats.in_flight,
                received: stats.received,
                finished: stats.finished,
                waiting: stats.waiting,
                rtt: rtt(&view, *owner),
            }
        };
        fed.links.iter().map(report).collect()
    }

    /// Everything at once.
    pub(crate) fn report(&self) -> RelayReport {
        let view = self.mesh.view();
        let mut links = BTreeMap::from(LinkState::WORDS.map(|word| (word, 0)));
        let mut peers = BTreeMap::new();
        let peer = |node, totals: Totals| PeerReport {
            node,
            received: totals.received,
            sent: totals.sent,
            credit: 0,
            rtt: rtt(&view, node),
        };
        for (node, totals) in &*self.totals.lock() {
            peers.insert(*node, peer(*node, *totals));
        }
        for fed in self.channels.lock().values() {
            for (owner, attempt) in &fed.links {
                *links.entry(attempt.state.as_str()).or_default() += 1;
                let stats = fed.feed.link_stats(*owner).unwrap_or_default();
                peers.entry(*owner).or_insert_with(|| peer(*owner, Totals::default())).credit += stats.credit;
            }
        }
        let guests = self.guests.lock().len() as u64;
        RelayReport { links, guests, peers: peers.into_values().collect() }
    }

    pub(super) fn count_out(&self, to: NodeId, count: u64) {
        self.totals.lock().entry(to).or_default().sent += count;
    }

    pub(super) fn count_in(&self, from: NodeId, count: u64) {
        self.totals.lock().entry(from).or_default().received += count;
    }

    /// Drops the figures of nodes that the mesh has forgotten.
    pub(super) fn forget_strangers(&self, view: &View) {
        self.totals.lock().retain(|node, _| view.member(*node).is_some());
    }
}

impl LinkState {
    const WORDS: [&'static str; 3] = ["opening", "open", "waiting"];

    const fn as_str(self) -> &'static str {
        let [opening, open, waiting] = Self::WORDS;
        match self {
            Self::Opening => opening,
            Self::Open => open,
            Self::Waiting(_) => waiting,
        }
    }
}

fn rtt(view: &View, node: NodeId) -> Option<Duration> {
    view.member(node).and_then(|member| member.rtt)
}

fn in_microseconds<S: Serializer>(rtt: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)).serialize(serializer)
}
