//! Numbers that only rise, and tasks that wait for them. Not `watch` channels: those wake who waits in an order
//! that they draw from tokio's own chance, so that two simulated runs of one seed would differ.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tokio::sync::Notify;

/// A number that only rises, 0 at first.
#[derive(Debug, Default)]
pub(crate) struct Rising {
    value: AtomicU64,
    risen: Notify,
}

impl Rising {
    /// The number as it is now.
    pub(crate) fn now(&self) -> u64 {
        self.value.load(SeqCst)
    }

    /// Makes it `value`, unless it is that or more already. Who waits goes on in the order in which it came.
    pub(crate) fn raise(&self, value: u64) {
        if self.value.fetch_max(value, SeqCst) < value {
            self.risen.notify_waiters();
        }
    }

    /// Waits until it is `value` or more. Nothing is lost when this is dropped.
    pub(crate) async fn reaches(&self, value: u64) {
        loop {
            // Before the look, so that no rise falls in between.
            let risen = self.risen.notified();
            if self.now() >= value {
                return;
            }
            risen.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::task::{JoinSet, yield_now};

    use super::*;

    #[tokio::test]
    async fn who_waits_goes_on_in_the_order_in_which_it_came_and_not_before() {
        let rising = Arc::new(Rising::default());
        let passed = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        // More tasks than a `watch` channel has queues.
        let wanted: Vec<u64> = (0..40).map(|task| 1 + task % 2).collect();
        for (task, wanted) in wanted.iter().copied().enumerate() {
            let (rising, passed) = (Arc::clone(&rising), Arc::clone(&passed));
            tasks.spawn(async move {
                rising.reaches(wanted).await;
                passed.lock().unwrap().push(task);
            });
        }
        yield_now().await;
        assert!(passed.lock().unwrap().is_empty());
        rising.raise(1);
        while passed.lock().unwrap().len() < 20 {
            yield_now().await;
        }
        rising.raise(0);
        assert_eq!(rising.now(), 1);
        rising.raise(5);
        while tasks.join_next().await.is_some() {}
        let of = |number| (0..40).filter(|task| wanted[*task] == number).collect::<Vec<usize>>();
        let expected = [of(1), of(2)].concat();
        assert_eq!(*passed.lock().unwrap(), expected);
    }
}
