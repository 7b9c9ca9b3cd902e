//! nsqd and nsqlookupd of the classic kind, written from the NSQ reference alone: what the other end of the
//! legacy protocols sees of them.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "daemons beside the node under test: their sockets and threads are real"
)]

mod lookupd;
mod nsqd;
mod registration;

pub use lookupd::Lookupd;
pub use nsqd::Nsqd;
pub use registration::Registration;
