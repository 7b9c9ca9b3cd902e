//! The journal: every topic's messages in one append-only log of segment files.
//!
//! `FORMAT.md` beside this file specifies the bytes. In reading order: [`record`] and [`segment`] encode and
//! decode, [`index`] finds, [`checkpoint`] and [`replay`] rebuild (all pure); [`store`] owns the files,
//! [`writer`] appends, [`mod@open`] starts, [`upkeep`] prepares and releases files.
//!
//! **Invariant:** the journal knows no topic, only names and sequence numbers. Only the commit loop of the
//! broker holds the [`writer::Writer`].

pub(crate) mod admission;
pub(crate) mod checkpoint;
pub(crate) mod index;
mod open;
pub(crate) mod ranges;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod segment;
pub(crate) mod store;
#[cfg(test)]
mod tests;
pub(crate) mod upkeep;
pub(crate) mod writer;

pub use self::open::{OpenError, RecoveryReport};
pub(crate) use self::{
    index::{Run, RunList},
    open::{Opened, open},
    record::{Held, NewRecord, Op, Span},
    store::Store,
    writer::Writer,
};
