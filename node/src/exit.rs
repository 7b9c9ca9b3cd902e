//! Word to the tasks of a node that it stops.

use std::sync::Arc;

use crate::rising::Rising;

/// Tells tasks to end; also when it is dropped, as by a start that fails half-way.
#[derive(Debug)]
pub(crate) struct Exit(Arc<Rising>);

/// What a task asks whether to end. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Exiting(Arc<Rising>);

/// One who tells, and one who listens.
pub(crate) fn channel() -> (Exit, Exiting) {
    let told = Arc::new(Rising::default());
    (Exit(Arc::clone(&told)), Exiting(told))
}

impl Exit {
    /// Tells everybody, in the order in which they began to listen.
    pub(crate) fn tell(&self) {
        self.0.raise(1);
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        self.tell();
    }
}

impl Exiting {
    /// Whether it is time to end.
    pub(crate) fn is_told(&self) -> bool {
        self.0.now() > 0
    }

    /// Waits until it is time to end. Nothing is lost when this is dropped.
    pub(crate) async fn told(&self) {
        self.0.reaches(1).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Poll};

    use super::*;

    #[tokio::test]
    async fn everybody_is_told_also_by_one_who_is_dropped() {
        for drops in [false, true] {
            let (exit, exiting) = channel();
            let other = exiting.clone();
            let mut told = pin!(other.told());
            let first = std::future::poll_fn(|cx| Poll::Ready(told.as_mut().poll(cx))).await;
            assert!(first.is_pending() && !exiting.is_told());
            if drops {
                drop(exit)
            } else {
                exit.tell()
            }
            told.await;
            exiting.told().await;
            assert!(exiting.is_told());
        }
    }
}
