//! What goes into a [`Mesh`](crate::Mesh) and what comes out of it.

use std::{net::SocketAddr, time::Duration};

use bruit_wire::{ChannelName, TopicName};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{NodeId, Peer};

/// Both clocks, as the shell has just read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the node started, by the clock that never steps. Every time-out goes by it.
    pub elapsed: Duration,
    /// Milliseconds since 1970 by the wall clock, which may jump. Only the stamps of names go by it.
    pub wall_ms: u64,
}

/// What a node says about itself, beyond what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Names or addresses under which clients reach it; the first one where nothing better is known. At most
    /// [`ADDRESSES_MAX`], each at most [`TEXT_MAX`] bytes.
    pub broadcast_addresses: Vec<String>,
    /// The host's name.
    pub hostname: String,
    /// The port for clients.
    pub tcp_port: u16,
    /// The port for HTTP; 0 if it is off.
    pub http_port: u16,
    /// bruit's version.
    pub version: String,
    /// Its zone, or nothing.
    pub topology_zone: String,
    /// Its region, or nothing.
    pub topology_region: String,
    /// Whether it is about to go and wants no new work.
    pub draining: bool,
    /// Whether the port for clients is open at the gossip address too, so that a refused connection there
    /// means that the process is gone.
    pub tcp_at_gossip: bool,
    /// Producers of the classic kind that have registered at this node. What each holds is a fact of its own,
    /// which this node writes. At most [`REGISTRANTS_MAX`].
    pub registrants: Vec<NodeId>,
    /// Of such a producer: from where it registered. `None` for a node.
    pub registered_from: Option<SocketAddr>,
}

impl About {
    /// Where clients reach it: each of its names and addresses, with its port for them.
    pub fn endpoints(&self) -> impl Iterator<Item = (&str, u16)> {
        let addresses = self.broadcast_addresses.iter().filter(|_| self.tcp_port != 0);
        addresses.map(|address| (address.as_str(), self.tcp_port))
    }
}

/// Most addresses that a node hands out.
pub const ADDRESSES_MAX: usize = 8;
/// Most producers that may have registered at one node: with them, what a node says about itself still fits
/// into one record of an exchange.
pub const REGISTRANTS_MAX: usize = 256;
/// Longest text about a node, bytes (the longest host name, RFC 1035).
pub const TEXT_MAX: usize = 255;

/// A topic, or one of its channels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    /// The topic.
    pub topic: TopicName,
    /// The channel; `None` means the topic itself.
    pub channel: Option<ChannelName>,
}

impl Name {
    /// A topic itself.
    #[must_use]
    pub const fn topic(topic: TopicName) -> Self {
        Self { topic, channel: None }
    }

    /// A channel of a topic.
    #[must_use]
    pub const fn channel(topic: TopicName, channel: ChannelName) -> Self {
        Self { topic, channel: Some(channel) }
    }

    /// Whether it goes when nobody uses it any more; such names are facts of their node only, never names of
    /// the mesh.
    #[must_use]
    pub fn is_ephemeral(&self) -> bool {
        self.topic.is_ephemeral() || self.channel.as_ref().is_some_and(ChannelName::is_ephemeral)
    }
}

/// A topic or channel came or went on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalChange {
    /// Which one.
    pub name: Name,
    /// Tells it from an earlier one of the same name on this node.
    pub number: u64,
    /// What became of it.
    pub what: LocalWhat,
}

/// What became of a topic or channel on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalWhat {
    /// Made just now.
    Created,
    /// Found in the journal at the start, so that a delete while the node was away is newer.
    Recovered,
    /// Gone, for whatever reason. This is no wish of a user: see [`Input::Delete`].
    Gone,
}

/// What happens to a node's part of the mesh.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram came, and its seal was good.
    Datagram {
        /// From where.
        from: SocketAddr,
        /// Who sealed it.
        sender: NodeId,
        /// What was in the seal.
        bytes: &'a [u8],
    },
    /// The time that [`Mesh::next_timeout`](crate::Mesh::next_timeout) named has come. Harmless when early.
    Timeout,
    /// Somebody may be at this address: say hello.
    Join {
        /// Where datagrams are taken.
        address: SocketAddr,
    },
    /// Leave the mesh: others are told, and nothing is sent afterwards until the next [`Input::Join`].
    Leave,
    /// Something came or went on this node.
    Local(LocalChange),
    /// What the node says about itself has changed.
    About(About),
    /// A producer of the classic kind has registered here. It is shown on every node until
    /// [`Deregister`](Self::Deregister), or for as long as this node is there.
    Register {
        /// An id that was drawn for this registration; no node and no other registration has it.
        id: NodeId,
        /// What it says about itself, and from where.
        about: About,
    },
    /// A registered producer holds a name now, or no longer does.
    Registered {
        /// The registration.
        id: NodeId,
        /// The topic or channel.
        name: Name,
        /// Whether it holds it.
        held: bool,
    },
    /// A registered producer is gone.
    Deregister(NodeId),
    /// A user wants a topic or channel to be known, without a node that holds it.
    Create(Name),
    /// A user deletes a topic with its channels, or a channel, in the whole mesh.
    Delete(Name),
    /// A user hides a producer of a topic from lookups for a while (NSQ reference, section 7.3).
    Tombstone {
        /// The topic.
        topic: TopicName,
        /// The producer.
        node: NodeId,
    },
    /// The answer to [`Output::Check`].
    Checked {
        /// Who was looked at.
        peer: Peer,
        /// Whether its host says that no process listens there.
        gone: bool,
    },
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Output {
    /// Seal this datagram and send it. At most [`DATAGRAM_MAX`] bytes.
    Send {
        /// Where to.
        to: SocketAddr,
        /// The bytes, not sealed yet.
        datagram: Bytes,
    },
    /// Exchange what both know with this peer: [`Mesh::exchange_open`](crate::Mesh::exchange_open) and what
    /// follows it, then [`Mesh::exchange_over`](crate::Mesh::exchange_over) in any case.
    Exchange {
        /// With whom.
        peer: Peer,
    },
    /// Probes of this peer fail: see whether its host refuses TCP connections to the node's ports, which
    /// means that the process is gone; answer with [`Input::Checked`]. No answer is an answer as well.
    Check {
        /// Whom to look at.
        peer: Peer,
    },
    /// The broker has to follow.
    Broker(Command),
    /// Something that people may want to read in the log.
    Event(Event),
}

/// What the broker has to do because the mesh says so. Nothing else comes from the mesh to the broker:
/// gossip never creates a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make a channel of a topic that this node holds, if it is missing.
    CreateChannel {
        /// The topic.
        topic: TopicName,
        /// The channel, never an ephemeral one.
        channel: ChannelName,
    },
    /// Delete the topic or channel if it still is the one with this number.
    Delete {
        /// Which one.
        name: Name,
        /// Its number, from [`LocalChange::number`].
        number: u64,
    },
}

/// Something to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node has come, or come back.
    Up(Peer),
    /// A node does not answer.
    Suspected(Peer),
    /// A node is gone.
    Down(Peer),
    /// Others took this node for dead; it has told them otherwise.
    Revived(Peer),
    /// Another process has this node's id: a data directory was copied.
    SameNode {
        /// Where the other one is.
        address: SocketAddr,
    },
    /// A peer sent something that cannot be; it was left out, the rest was used.
    Refused {
        /// Who.
        sender: NodeId,
        /// What was wrong, in a few words.
        why: &'static str,
    },
}

/// Most bytes of a datagram before it is sealed.
pub const DATAGRAM_MAX: usize = 1_150;
/// Most bytes of one leg of an exchange.
pub const LEG_MAX: usize = 4 * 1024 * 1024;
