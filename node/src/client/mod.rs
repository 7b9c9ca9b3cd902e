//! Clients of the NSQ protocol over TCP.
//!
//! [`session`] is what a connection has negotiated and where it stands (pure); [`connection`] is its one
//! task, which reads, delivers and writes; [`commands`] is what each command does to it and
//! [`authorize`] whether it may; [`outbox`] holds what goes to the socket and [`deadlines`] when it is given up;
//! [`upgrade`] puts TLS and compression around it; [`listener`] accepts.

mod authorize;
mod commands;
mod connection;
mod deadlines;
mod listener;
mod outbox;
mod session;
mod upgrade;

pub(crate) use self::{listener::serve, session::ServerFacts};
