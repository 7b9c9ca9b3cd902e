//! Figures of the mesh, for `/mesh/stats` and metrics.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use bruit_gossip::MeshStats;
use serde::Serialize;

use super::core::Core;

/// What a node can tell of its part in the mesh. Counters are since the start.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct MeshReport {
    /// Whether the node talks to others at all.
    pub(crate) enabled: bool,
    /// The machine's own figures.
    #[serde(flatten)]
    pub(crate) mesh: MeshStats,
    /// Sealed datagrams that came.
    pub(crate) packets_in: u64,
    /// Sealed datagrams that went.
    pub(crate) packets_out: u64,
    /// Bytes of those that came.
    pub(crate) sealed_bytes_in: u64,
    /// Bytes of those that went.
    pub(crate) sealed_bytes_out: u64,
    /// Datagrams that the system did not take.
    pub(crate) packets_unsent: u64,
    /// Datagrams that were dropped before anybody looked inside, by reason.
    pub(crate) dropped_packets: BTreeMap<&'static str, u64>,
    /// QUIC connections that are open.
    pub(crate) quic_connections: u64,
    /// QUIC handshakes that failed, in either direction.
    pub(crate) handshakes_failed: u64,
    /// Streams that another cluster opened.
    pub(crate) other_cluster: u64,
}

impl Core {
    pub(super) fn report(&self) -> MeshReport {
        let now = self.now();
        let state = self.state.lock();
        let (mesh, dropped_packets) = (state.mesh.stats(now), state.dropped.counts.clone());
        drop(state);
        let pool = self.pool.as_deref();
        let count = |read: fn(&super::quic::Pool) -> u64| pool.map_or(0, read);
        let traffic = &self.traffic;
        MeshReport {
            enabled: pool.is_some(),
            mesh,
            packets_in: traffic.packets_in.load(Relaxed),
            packets_out: traffic.packets_out.load(Relaxed),
            sealed_bytes_in: traffic.bytes_in.load(Relaxed),
            sealed_bytes_out: traffic.bytes_out.load(Relaxed),
            packets_unsent: traffic.unsent.load(Relaxed),
            dropped_packets,
            quic_connections: count(|pool| pool.connections() as u64),
            handshakes_failed: count(|pool| pool.handshakes_failed.load(Relaxed)),
            other_cluster: count(|pool| pool.other_cluster.load(Relaxed)),
        }
    }
}
