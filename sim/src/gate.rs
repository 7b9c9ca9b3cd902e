//! A gate that opens once. Not a `watch` channel: that one wakes its receivers in an order that it draws from
//! tokio's own chance.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Closed until somebody opens it. Cheap to clone; all clones are the same gate.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: AtomicBool,
    opened: Notify,
}

impl Gate {
    /// Opens it, for good. Those who wait go on in the order in which they came.
    pub fn open(&self) {
        if !self.0.open.swap(true, Ordering::Relaxed) {
            self.0.opened.notify_waiters();
        }
    }

    /// Whether it is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.open.load(Ordering::Relaxed)
    }

    /// Waits until it is open.
    pub async fn pass(&self) {
        let opened = self.0.opened.notified();
        if !self.is_open() {
            opened.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_lets_everybody_pass_once_it_is_open() {
        let gate = Gate::default();
        assert!(!gate.is_open());
        let waiting = gate.pass();
        gate.clone().open();
        waiting.await;
        gate.pass().await;
        assert!(gate.is_open());
    }
}
