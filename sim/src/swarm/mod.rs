//! Hundreds of nodes' gossip, and nothing else of them, on a network of our own.
//!
//! turmoil's cost grows with the cube of the hosts, so that it is for whole nodes, and few of them. Here only
//! the pure [`Mesh`](bruit_gossip::Mesh) runs: one [`queue`] of events, one thread, no tasks.
//!
//! Read in this order: [`run`] is one run; [`scenario`] plans what happens in it; [`world`] is the hosts and
//! the time, [`mod@host`] one of them, [`carry`] what a shell does for its mesh, [`net`] what lies between
//! them; [`guard`] watches all the time and [`mod@check`] judges at the end. [`figures`] and [`report`]
//! measure instead of judging.

mod carry;
pub mod check;
pub mod cli;
pub mod figures;
pub mod guard;
pub mod host;
pub mod net;
pub mod poison;
pub mod queue;
pub mod regressions;
pub mod report;
pub mod run;
pub mod scenario;
pub mod software;
pub mod world;
