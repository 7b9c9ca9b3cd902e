//! Numbers about a node's part of the mesh.

use std::collections::BTreeMap;

use serde::Serialize;

/// Counters since the start, and sizes as they are now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MeshStats {
    /// Members that answer, this node among them.
    pub alive: u64,
    /// Members that somebody could not reach.
    pub suspect: u64,
    /// Members that are gone.
    pub down: u64,
    /// Members that went because they were told to.
    pub left: u64,
    /// Suspicions heard of or raised.
    pub suspicions: u64,
    /// Suspicions of this node that proved wrong.
    pub refuted_suspicions: u64,
    /// How often this node was suspected and said no.
    pub refutations: u64,
    /// How often this node was taken for dead and came back.
    pub revivals: u64,
    /// Lifeguard's score of how badly this node itself is doing, 0 (well) to 8.
    pub health: u32,
    /// Datagrams taken.
    pub datagrams_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Their bytes, before sealing.
    pub bytes_in: u64,
    /// Their bytes, before sealing.
    pub bytes_out: u64,
    /// What was left out of what peers sent, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// How often a peer turned out to know the same.
    pub summaries_equal: u64,
    /// How often a peer turned out to know something else.
    pub summaries_different: u64,
    /// Exchanges begun here that came to their end.
    pub exchanges: u64,
    /// Exchanges begun here that did not.
    pub exchanges_failed: u64,
    /// Bytes of the exchanges begun here.
    pub exchange_bytes: u64,
    /// Names known to the mesh.
    pub names: u64,
    /// Deleted names that are remembered as such.
    pub name_tombstones: u64,
    /// Topics and channels held by nodes, each counted once per node.
    pub fact_items: u64,
    /// Nodes that said what they hold.
    pub fact_owners: u64,
    /// Memory that the catalogue takes, bytes, estimated.
    pub catalogue_bytes: u64,
    /// Pieces of news that wait to be told.
    pub news_waiting: u64,
    /// Age of the oldest own change that no peer is known to have, ms; 0 if there is none.
    pub oldest_unconfirmed_ms: u64,
    /// How long it took from the last change until a peer knew the same, ms.
    pub last_convergence_ms: u64,
}
