//! Wakes one task, however many things it waits for.

use std::task::Context;

use atomic_waker::AtomicWaker;

/// What a connection waits on: acknowledgements, messages, its own closing. One waker for everything; the
/// woken task looks at all its sources.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    waker: AtomicWaker,
}

impl Signal {
    /// Must be called before the sources are looked at, so that no wake-up falls in between.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// Wakes the task that registered last.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }
}
