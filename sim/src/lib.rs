//! The whole node, sockets, disk and clock included, in one deterministic process.
//!
//! Read in this order: [`disk`] is the disk that forgets and fails; [`world`] gives it, turmoil's network,
//! a clock and chance to a node; [`workload`] is the clients; [`nemesis`] does the damage that a
//! [`scenario`] plans; [`history`] is what the clients saw; [`check`] says what must be true of it.
//!
//! **Invariant:** this is the only crate that names turmoil, and nothing in it or under it takes a
//! decision that the seed does not make.

pub mod body;
pub mod check;
pub mod dice;
pub mod disk;
pub mod history;
pub mod panics;
pub mod shape;
pub mod trace;
pub mod world;
