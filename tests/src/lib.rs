//! What the black-box tests are written with: the real binary as a child process, and clients that know nothing
//! of bruit's own code. They have their own idea of the protocol, so that a mistake in `bruit-wire` cannot hide
//! in both ends at once.
//!
//! - [`binary`]: finds the binary, and builds it when nobody has.
//! - [`command`](mod@command): the binary as a command that runs and ends.
//! - [`Node`]: a running node on free ports and a directory of its own; killed when dropped.
//! - [`Client`]: a send/expect script over one TCP connection.
//! - [`Packing`] and [`certificates`]: what a client puts around that, and what it trusts.
//! - [`Http`]: requests whose exact status, headers and body are looked at.
//! - [`wait`]: patience, and waiting for a condition instead of for a time.
//! - [`auth_server`]: an authorisation server that behaves as the test wants.
//! - [`load`]: publishers that remember what was acknowledged, and the drain that looks for it.
//! - [`Mesh`]: several nodes that know of each other, and what each answers about all.
//! - [`datagrams`]: what strangers send to a node's UDP ports.
//! - [`classic`]: an nsqd and an nsqlookupd of the classic kind, as far as the other end can tell.
//! - [`mod@libraries`]: client libraries that others wrote.
//! - [`tree`]: the repository as files, for the tests that guard its shape.
//!
//! Everything here panics when it is disappointed: a panic is how a test fails.

pub mod auth_server;
pub mod binary;
pub mod certificates;
pub mod classic;
mod client;
pub mod command;
pub mod datagrams;
mod http;
mod layers;
mod libraries;
pub mod load;
pub mod mesh;
mod node;
pub mod tree;
pub mod wait;

pub use auth_server::{Answer, AuthServer, allowing};
pub use client::{Client, Frame, FrameKind, Message, command, frame_bytes, multi_publish, texts};
pub use http::{Http, Reply, read_reply};
pub use layers::{Packing, SNAPPY_IDENTIFIER};
pub use libraries::libraries;
pub use mesh::Mesh;
pub use node::{Node, Options};
