//! A member as SWIM knows it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// Which node, in which life, and where it is reached: the identity that SWIM gossips (SWIM paper, section 4).
///
/// A node that was declared dead and is not takes the next `renewal`, since death is final for an identity. A
/// restart takes the next `generation`. Of two identities at one address the later one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Peer {
    /// Which node.
    pub id: NodeId,
    /// How often it has started.
    pub generation: u64,
    /// How often it had to come back to life since then.
    pub renewal: u32,
    /// Where it takes sealed datagrams.
    pub gossip: SocketAddr,
    /// The port where it takes QUIC connections, at the same IP address.
    pub mesh_port: u16,
}

impl Peer {
    /// Where it takes QUIC connections.
    #[must_use]
    pub const fn mesh(&self) -> SocketAddr {
        SocketAddr::new(self.gossip.ip(), self.mesh_port)
    }

    /// Orders the lives of one node, or of nodes at one address.
    #[must_use]
    pub const fn life(&self) -> (u64, u32) {
        (self.generation, self.renewal)
    }
}

impl foca::Identity for Peer {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        Some(Self { renewal: self.renewal.checked_add(1)?, ..*self })
    }

    fn addr(&self) -> SocketAddr {
        self.gossip
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        // Two nodes may have had one address, one after the other; any order will do, if all use the same.
        (self.life(), self.id) > (other.life(), other.id)
    }
}
