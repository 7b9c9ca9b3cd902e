//! The bytes that cross a socket, and nothing that moves them.
//!
//! This crate turns bytes into commands and frames, and back. It refuses to do IO, to keep time, to
//! spawn, and to hold a connection's state: whoever owns the socket owns those. Every byte that comes in
//! is hostile: lengths are capped before anything waits for them, and nothing here panics on input.
//!
//! In reading order:
//!
//! - [`TopicName`], [`ChannelName`]: a name in hand is a valid one.
//! - [`MessageId`]: 64 bits on our side, 16 hex characters on the wire.
//! - [`go_quote`]: Go's `%q`, which NSQ's error texts are made of.
//! - [`nsq`]: the V2 protocol between a node and its clients.
//! - [`compress`]: snappy and deflate around that protocol.
//! - [`peer`]: how a stream between two nodes begins.
//! - [`relay`]: how one node consumes a channel of another.
//! - [`auth`]: what an authorisation server says that a secret allows.
//! - [`lookup`]: how nsqlookupd's HTTP API describes a node.
//! - [`registration`]: protocol V1, in which a classic nsqd tells an nsqlookupd what it holds.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, clippy::expect_used)
)]

pub mod auth;
pub mod compress;
mod id;
pub mod lookup;
mod name;
pub mod nsq;
pub mod peer;
mod quote;
pub mod registration;
pub mod relay;

pub use id::MessageId;
pub use name::{ChannelName, InvalidName, TopicName, is_valid_name};
pub use quote::go_quote;
