//! Panics are violations. tokio swallows those of spawned tasks, so a hook writes all of them down.

use std::{cell::RefCell, panic, sync::Once};

thread_local! {
    /// The panics of the simulation that runs on this thread, `None` when there is none.
    static SEEN: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Watches for panics on this thread, where all of a simulation runs, until it is dropped.
#[derive(Debug)]
pub struct PanicWatch(());

impl PanicWatch {
    /// Begins to watch. Panics on other threads go the usual way.
    #[must_use]
    pub fn new() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                let watched = SEEN.with_borrow_mut(|seen| match seen {
                    Some(seen) => {
                        seen.push(info.to_string());
                        true
                    }
                    None => false,
                });
                if !watched {
                    usual(info);
                }
            }));
        });
        SEEN.set(Some(Vec::new()));
        Self(())
    }

    /// The panics since the last call, each with its place.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        SEEN.with_borrow_mut(|seen| seen.as_mut().map(std::mem::take).unwrap_or_default())
    }
}

impl Default for PanicWatch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PanicWatch {
    fn drop(&mut self) {
        SEEN.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_task_is_seen() {
        let watch = PanicWatch::new();
        #[expect(clippy::disallowed_methods, reason = "the test is about a spawned task")]
        let task = tokio::spawn(async { panic!("on purpose") });
        assert!(task.await.is_err());
        let seen = watch.take();
        assert!(
            seen.len() == 1 && seen[0].contains("on purpose") && seen[0].contains("panics.rs"),
            "{seen:?}"
        );
        assert!(watch.take().is_empty());
    }
}
