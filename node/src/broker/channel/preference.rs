//! Which of a channel's consumers gets a message: who waits longest, of those that come first.

use std::sync::{Arc, atomic::Ordering};

use parking_lot::Mutex;

use super::{Client, State, Tail};

impl State {
    /// Wakes the consumer that waits longest, of those that come first; returns whether there was one. If not,
    /// those who watch hear of it.
    pub(super) fn wake_one(&mut self) -> bool {
        let first = match self.ranked {
            false => 0,
            true => {
                let ranks = self.waiting.iter().map(|client| client.rank()).enumerate();
                ranks.min_by_key(|&(_, rank)| rank).map_or(0, |(at, _)| at)
            }
        };
        let Some(client) = self.waiting.remove(first) else {
            signal(self.watching.drain(..));
            return false;
        };
        client.waiting.store(false, Ordering::Relaxed);
        client.signal.wake();
        true
    }

    /// Whether messages wait, and a consumer that comes before this one can take them. Then this one waits,
    /// and the other is woken.
    pub(super) fn yields(&mut self, client: &Arc<Client>, tail: &Mutex<Tail>) -> bool {
        if !self.comes_after_others(client) || !self.queue.has_more(&tail.lock()) {
            return false;
        }
        self.wait(client);
        let rank = client.rank();
        if self.waiting.iter().any(|other| other.rank() < rank && other.able.load(Ordering::Relaxed)) {
            self.wake_one();
        }
        true
    }

    /// Whether a consumer that comes before this one takes messages.
    fn comes_after_others(&self, client: &Arc<Client>) -> bool {
        let rank = client.rank();
        self.ranked
            && self.clients.iter().any(|other| other.rank() < rank && other.able.load(Ordering::Relaxed))
    }

    /// Whether consumers that come before this one take messages as they come.
    pub(super) fn is_served_before(&self, client: &Arc<Client>, now: u64) -> bool {
        let rank = client.rank();
        self.ranked && self.clients.iter().any(|other| other.rank() < rank && other.is_busy_with(now))
    }

    pub(super) fn wait(&mut self, client: &Arc<Client>) {
        if !client.waiting.swap(true, Ordering::Relaxed) {
            self.waiting.push_back(Arc::clone(client));
        }
    }
}

/// Wakes those that watched.
pub(super) fn signal(clients: impl Iterator<Item = Arc<Client>>) {
    for client in clients {
        client.watching.store(false, Ordering::Relaxed);
        client.signal.wake();
    }
}
