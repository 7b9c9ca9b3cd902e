//! One node that is published to: a connection that is made again when it is lost.

use std::{collections::VecDeque, time::Duration};

use bruit_wire::{TopicName, nsq};
use bytes::Bytes;
use tokio::{
    runtime::Handle,
    select,
    sync::{mpsc, oneshot},
    time::sleep,
};

use super::super::client::{Client, Introduction, Reply};

/// How long to wait before connecting again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Bytes of commands that may wait to be sent; beyond it no more messages are taken.
const UNSENT_MAX: usize = 4 << 20;

/// A message, and who waits for what comes of it.
struct Wanted {
    topic: TopicName,
    body: Bytes,
    done: oneshot::Sender<Result<(), String>>,
}

/// See the module.
pub(super) struct Destination(mpsc::UnboundedSender<Wanted>);

impl Destination {
    /// Connects to the node at `address`. To be called on a runtime.
    pub(super) fn start(address: &str, introduction: &Introduction) -> Self {
        let (wanted, wishes) = mpsc::unbounded_channel();
        Handle::current().spawn(keep(address.to_owned(), introduction.clone(), wishes));
        Self(wanted)
    }

    /// Publishes a message; returns once the node has acknowledged it.
    ///
    /// # Errors
    /// Why it has not.
    pub(super) async fn publish(&self, topic: TopicName, body: Bytes) -> Result<(), String> {
        let (done, outcome) = oneshot::channel();
        if self.0.send(Wanted { topic, body, done }).is_err() {
            return Err("the command ends".to_owned());
        }
        outcome.await.unwrap_or_else(|_| Err("the connection was lost before the answer".to_owned()))
    }
}

/// Keeps a connection until nobody publishes any more. While there is none, messages are refused.
async fn keep(address: String, introduction: Introduction, mut wishes: mpsc::UnboundedReceiver<Wanted>) {
    let mut pause = PAUSE.0;
    loop {
        let why = match Client::connect(&address, &introduction).await {
            Ok(client) => {
                pause = PAUSE.0;
                match publish(client, &mut wishes).await {
                    Ok(()) => return,
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        let over = sleep(pause);
        pause = (pause * 2).min(PAUSE.1);
        tokio::pin!(over);
        loop {
            select! {
                biased;
                () = &mut over => break,
                wish = wishes.recv() => match wish {
                    // Nobody waits for it any more when the command ends.
                    Some(wish) => drop(wish.done.send(Err(why.clone()))),
                    None => return,
                },
            }
        }
    }
}

/// Publishes what is wanted, in order, until nothing more is.
async fn publish(mut client: Client, wishes: &mut mpsc::UnboundedReceiver<Wanted>) -> anyhow::Result<()> {
    let mut waiting: VecDeque<oneshot::Sender<Result<(), String>>> = VecDeque::new();
    loop {
        while let Some(reply) = client.take()? {
            let outcome = match reply {
                Reply::Ok => Ok(()),
                Reply::Error(text) => Err(text),
                other => anyhow::bail!("the node answers a publish with {other:?}"),
            };
            let refused = outcome.clone().err();
            if let Some(done) = waiting.pop_front() {
                let _ = done.send(outcome);
            }
            // Every error of a publish ends the connection.
            if let Some(text) = refused {
                anyhow::bail!("the node refuses: {text}");
            }
        }
        let has_room = client.unsent() < UNSENT_MAX;
        select! {
            biased;
            wish = wishes.recv(), if has_room => match wish {
                Some(Wanted { topic, body, done }) => {
                    nsq::put_publish(client.out(), topic.as_str(), &body);
                    waiting.push_back(done);
                }
                None => return Ok(()),
            },
            moved = client.progress() => moved?,
        }
    }
}
