//! The tasks of a simulated process, so that they can be ended in the order in which they began.

use std::{
    collections::BTreeMap,
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Poll, ready},
};

use bruit::env::{BoxFut, Spawn};
use parking_lot::Mutex;

/// A task, until it ends or its process does.
type Slot = Arc<Mutex<Option<BoxFut<'static, ()>>>>;

/// The tasks of a process, in the order in which they began.
#[derive(Clone, Default)]
pub(super) struct Tasks(Arc<Mutex<BTreeMap<u64, Slot>>>);

impl Tasks {
    /// Ends all of them, in the order in which they began.
    pub(super) fn end(&self) {
        let tasks = std::mem::take(&mut *self.0.lock());
        for task in tasks.into_values() {
            drop(task.lock().take());
        }
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tasks", self.0.lock().len())
    }
}

#[derive(Debug)]
pub(super) struct SimSpawn(pub(super) Tasks);

impl Spawn for SimSpawn {
    fn spawn(&self, task: BoxFut<'static, ()>) {
        let slot: Slot = Arc::new(Mutex::new(Some(task)));
        let number = {
            let mut tasks = self.0.0.lock();
            let number = tasks.last_key_value().map_or(0, |(last, _)| last + 1);
            tasks.insert(number, slot.clone());
            number
        };
        let tasks = self.0.clone();
        let task = poll_fn(move |cx| {
            let mut held = slot.lock();
            let Some(task) = held.as_mut() else { return Poll::Ready(()) };
            ready!(task.as_mut().poll(cx));
            let ended = held.take();
            drop(held);
            drop(ended);
            tasks.0.lock().remove(&number);
            Poll::Ready(())
        });
        #[expect(clippy::disallowed_methods, reason = "this is the simulated Env, which ends the ban here")]
        tokio::spawn(task);
    }
}
