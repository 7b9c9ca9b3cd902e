//! What may lie between a connection's bytes and its socket: TLS, and compression inside of it.
//!
//! A [`Stack`] is pure: the socket's bytes go in and plain ones come out, and the other way round. [`wrap`] puts
//! one around a [`Conn`](crate::env::Conn), which then looks like any other, so that connections without layers
//! know nothing of them. [`Doorkeeper`] is what the node shows and asks for in a handshake,
//! as the files said that were read last.
//!
//! **Invariant:** whatever comes from the socket, a stack holds at most some 300 KiB: it takes more only when the
//! reader has taken what there was, and gives no more at a time than the reader has room for.

mod doorkeeper;
mod shell;
mod stack;

pub(crate) use self::{
    doorkeeper::{Doorkeeper, keep_up},
    shell::{Handshake, Layered, wrap},
    stack::{Session, Stack},
};
