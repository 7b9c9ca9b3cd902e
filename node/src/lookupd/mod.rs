//! Both directions of the classic world, in its protocol V1.
//!
//! [`registry`] is nsqlookupd's TCP face: nsqds of the classic kind register here, and every node of the mesh
//! shows them. [`lookups`] registers this node at nsqlookupds of the classic kind, as nsqd does, and [`ask`]
//! learns from them with which channels a new topic begins. Everything runs on the background runtime.
//!
//! **Invariant:** the broker knows nothing of it but that a new topic may have to wait for an answer.

mod ask;
mod lookups;
mod registry;

pub(crate) use self::{
    lookups::{LOOKUPDS_MAX, Lookups},
    registry::Registry,
};
