//! What is true of the mesh, and nothing that moves it.
//!
//! Like `bruit-wire` this crate is pure: no IO, no clock, no randomness of its own. For now it knows who a
//! node is; what nodes tell each other comes later.
//!
//! - [`NodeId`]: the name of a node, for life.
//! - [`Identity`]: that name and how often the node has started, as it is kept on disk.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, clippy::expect_used)
)]

mod identity;

pub use identity::{Identity, IdentityError, InvalidNodeId, NodeId};
