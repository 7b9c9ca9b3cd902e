//! When which channel has something to do: one timer for the whole node.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{channel::Channel, clock::Clock};

/// Channels by the time at which they want to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    entries: Mutex<BTreeMap<(u64, u64), Weak<Channel>>>,
    changed: Notify,
}

impl Agenda {
    /// Looks at `channel` at `at`, node time in ms. An earlier entry of the channel stays.
    pub(super) fn schedule(&self, at: u64, channel: &Arc<Channel>) {
        let mut entries = self.entries.lock();
        let earliest = entries.first_key_value().is_none_or(|((first, _), _)| at < *first);
        entries.insert((at, channel.number()), Arc::downgrade(channel));
        drop(entries);
        if earliest {
            self.changed.notify_one();
        }
    }

    /// Times out deliveries and makes deferred messages available, for ever.
    pub(super) async fn run(self: Arc<Self>, clock: Clock) {
        loop {
            let next = self.entries.lock().first_key_value().map(|((at, _), _)| *at);
            let until = clock.instant(next.unwrap_or_default());
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(until), if next.is_some() => {
                    for channel in self.take_due(clock.now()) {
                        channel.expire();
                    }
                }
            }
        }
    }

    fn take_due(&self, now: u64) -> Vec<Arc<Channel>> {
        let mut entries = self.entries.lock();
        let later = entries.split_off(&(now + 1, 0));
        let due = std::mem::replace(&mut *entries, later);
        due.into_values().filter_map(|channel| channel.upgrade()).collect()
    }
}
