//! What is true of the mesh, and nothing that moves it.
//!
//! Like `bruit-wire` this crate is pure: no IO, no clock, no randomness of its own.
//!
//! - [`NodeId`]: the name of a node, for life.
//! - [`Identity`]: that name and how often the node has started, as it is kept on disk.
//! - [`Peer`]: a node as SWIM knows it.
//! - [`Keyring`], [`Sealer`]: the secrets of a cluster, and the seals that keep others out.
//! - [`Catalogue`]: what the mesh holds and which names exist; [`View`]: a snapshot of it.
//! - [`Mesh`]: the machine that finds the other nodes and keeps up with what they hold.
//! - [`Input`], [`Output`]: what goes into the mesh machine, and what comes out of it.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, clippy::expect_used)
)]

mod broadcast;
mod catalogue;
mod codec;
mod config;
mod digest;
mod event;
mod fact;
mod health;
mod identity;
mod keyring;
mod mesh;
mod names;
mod packet;
mod peer;
mod profile;
mod replay;
mod roster;
mod seal;
mod secret;
mod stamp;
mod stats;
mod suspicion;
mod timers;
mod view;

pub use catalogue::{Catalogue, CatalogueStats, Heard, Merged, NEWS_MAX, NewsKey};
pub use digest::{Digest, Payload};
pub use event::{
    ADDRESSES_MAX, About, Command, DATAGRAM_MAX, Event, Input, LEG_MAX, LocalChange, LocalWhat, Name, Now,
    Output, REGISTRANTS_MAX, TEXT_MAX,
};
pub use identity::{Identity, IdentityError, InvalidNodeId, NodeId};
pub use keyring::{Fingerprint, InvalidFingerprint, KEYS_MAX, Keyring, KeyringError};
pub use mesh::{ExchangeError, Mesh, Setup};
pub use peer::Peer;
pub use profile::{InvalidProfile, Profile};
pub use seal::{Opened, SEAL_OVERHEAD, SEALED_MAX, SealError, Sealer};
pub use secret::{InvalidSecret, Secret};
pub use stats::MeshStats;
pub use view::{Holding, Member, MemberState, Producer, View};
