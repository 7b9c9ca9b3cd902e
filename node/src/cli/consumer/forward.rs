//! Handing messages on, many at a time, until a signal says that it is enough.

use std::time::Duration;

use anyhow::Context;
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::Instant,
};

use super::{Consumer, Message};

/// Gives the messages of `consumer` to `serve`, which answers them, up to `at_once` at a time; says after every
/// `status_every` of them how long they took, unless that is 0. The first SIGTERM or SIGINT ends it once what is
/// under way is answered, the second one at once.
///
/// # Errors
/// Signals cannot be listened to.
pub(in crate::cli) async fn forward<F>(
    mut consumer: Consumer,
    at_once: usize,
    status_every: u64,
    serve: impl Fn(Message) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to signals")?;
    let (mut under_way, mut status) = (JoinSet::new(), Status::new(status_every));
    loop {
        let has_room = under_way.len() < at_once;
        select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                if let Ok(took) = done {
                    status.note(took);
                }
            }
            message = consumer.next(), if has_room => {
                let Some(message) = message else { break };
                let (began, serving) = (Instant::now(), serve(message));
                under_way.spawn(async move {
                    serving.await;
                    began.elapsed()
                });
            }
        }
    }
    while !under_way.is_empty() {
        select! {
            biased;
            // Who asks twice does not want to wait.
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = under_way.join_next() => {}
        }
    }
    consumer.close().await;
    Ok(())
}

/// Says now and then how it goes.
struct Status {
    every: u64,
    count: u64,
    took: Duration,
}

impl Status {
    fn new(every: u64) -> Self {
        Self { every, count: 0, took: Duration::ZERO }
    }

    fn note(&mut self, took: Duration) {
        self.count += 1;
        self.took += took;
        if self.every > 0 && self.count == self.every {
            eprintln!("bruit: {} messages, {:?} each", self.count, self.took / self.count as u32);
            (self.count, self.took) = (0, Duration::ZERO);
        }
    }
}
