//! The whole node, sockets, disk and clock included, in one deterministic process.
//!
//! Read in this order: [`run`] is one run; [`disk`] is the disk that forgets and fails; [`world`] gives it,
//! turmoil's network, a clock and chance to a node; [`workload`] is the clients, whose kind and number
//! [`shape`] decides; [`nemesis`] does the damage that a [`scenario`] plans; [`history`] is what the
//! clients saw; [`mod@check`] says what must be true of it. [`mesh`] and [`relay`] run several nodes, [`swarm`] is the gossip of many nodes without
//! the nodes.
//!
//! **Invariant:** this is the only crate that names turmoil, and nothing in it or under it takes a
//! decision that the seed does not make.

pub mod body;
pub mod check;
pub mod cli;
pub mod client;
pub mod dice;
pub mod disk;
pub mod gate;
pub mod history;
pub mod mesh;
pub mod nemesis;
pub mod panics;
pub mod process;
pub mod record;
pub mod relay;
pub mod run;
pub mod scenario;
pub mod shape;
pub mod swarm;
pub mod sweep;
pub mod trace;
pub mod workload;
pub mod world;
