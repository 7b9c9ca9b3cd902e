//! The broker: topics, channels, and the commit loop that makes publishes durable.
//!
//! In reading order: a publish is staged ([`stage`], [`topic`]), waits in [`commits`], and is written by the
//! [`committer`]; the topic's [`tail`] then advances and its channels see it. A [`channel`] hands messages to
//! consumers; its state is the pure [`queue`] with the messages in [`flight`]; [`proximity`] says whom it prefers. [`agenda`] is the
//! one timer, [`reclaim`] frees disk, [`registry`] knows all topics.
//!
//! **Invariants:** no message body is copied between the journal's buffer and a consumer's socket on first
//! delivery. No lock is held over an await. No task or timer exists per message.

mod agenda;
mod channel;
mod client;
mod clock;
mod commits;
mod committer;
mod delivery;
mod figures;
mod flight;
mod holdings;
mod latency;
mod proximity;
mod queue;
#[cfg(test)]
mod queue_model;
mod reclaim;
mod registry;
mod signal;
mod stage;
mod tail;
mod timeouts;
mod topic;
mod window;

use std::sync::{Arc, atomic::AtomicU64};

use self::{agenda::Agenda, commits::Commits, holdings::Holdings};
pub(crate) use self::{
    channel::SubscribeError,
    client::Client,
    clock::{Clock, millis},
    delivery::Want,
    figures::{ChannelFigures, TopicFigures, latency_name},
    flight::Flight,
    proximity::Place,
    queue::Output,
    registry::{Opening, Tasks},
    signal::Signal,
    window::{NotYours, Slot},
};
pub use self::{
    channel::{Channel, ChannelStats},
    client::{ClientStats, Identity},
    commits::Ticket,
    latency::{Sketch, quantiles},
    registry::{Broker, JournalStats},
    topic::{Topic, TopicStats},
};
pub use crate::journal::admission::Refused;
use crate::{
    config::{JournalConfig, LatencyConfig, Limits},
    env::Env,
    journal::{Store, admission::Admission},
};

/// What every topic and channel shares.
pub(crate) struct Shared {
    /// 16 bits of the node's id, for message ids.
    node: u16,
    env: Env,
    clock: Clock,
    limits: Limits,
    journal: JournalConfig,
    latency: LatencyConfig,
    commits: Commits,
    agenda: Arc<Agenda>,
    store: Arc<Store>,
    admission: Arc<Admission>,
    holdings: Holdings,
    /// Numbers topics and channels over the node's life.
    numbers: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("node", &self.node).finish_non_exhaustive()
    }
}
