//! One subscription at one node.

use std::{sync::Arc, time::Duration};

use anyhow::{anyhow, bail};
use bruit_wire::{ChannelName, TopicName, nsq};
use tokio::{select, sync::mpsc, time::timeout};

use super::{
    super::client::{Client, Delivery, Introduction, Reply},
    Answer, Message,
    pace::{Pace, READY_MAX},
};

/// How much more than was asked for a node may have delivered. A message that takes too long counts no more there,
/// and here until it is answered.
const BEYOND: u64 = 4;
/// How long to wait for the node to say that it is done with us.
const FAREWELL: Duration = Duration::from_secs(5);

/// What all connections of a consumer have in common.
#[derive(Debug, Clone)]
pub(super) struct Supply {
    pub(super) channel: ChannelName,
    pub(super) introduction: Introduction,
    pub(super) messages: mpsc::UnboundedSender<Message>,
    pub(super) pace: Arc<Pace>,
}

/// A place among those who divide what may be under way, for as long as it lives.
struct Place<'a> {
    pace: &'a Pace,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pace.leave(self.number);
    }
}

/// Consumes `topic` from the node at `address` until the connection ends.
///
/// # Errors
/// Why it ended.
pub(super) async fn run(address: &str, topic: &TopicName, supply: &Supply) -> anyhow::Result<()> {
    let mut client = Client::connect(address, &supply.introduction).await?;
    nsq::put_subscribe(client.out(), topic.as_str(), supply.channel.as_str());
    match client.next().await? {
        Reply::Ok => {}
        Reply::Error(text) => bail!("the node refuses the subscription: {text}"),
        other => bail!("the node answers the subscription with {other:?}"),
    }
    let (answers, mut answered) = mpsc::unbounded_channel();
    let pace = &supply.pace;
    let place = Place { pace, number: pace.join() };
    let (mut ready, mut under_way, mut most) = (0, 0_u64, 0);
    loop {
        let seen = pace.changes();
        let share = pace.share(place.number).min(READY_MAX);
        if share != ready {
            nsq::put_ready(client.out(), share);
            // What was allowed before may still be on its way.
            most = most.max(ready).max(share);
            ready = share;
        }
        while let Some(reply) = client.take()? {
            match reply {
                Reply::Message(Delivery { id, body }) => {
                    under_way += 1;
                    if under_way > BEYOND * most {
                        bail!("the node delivers more than was asked for");
                    }
                    let (topic, answers, pace) = (topic.clone(), answers.clone(), Arc::clone(pace));
                    if supply.messages.send(Message { topic, body, id, answers, pace }).is_err() {
                        return take_leave(client, answered).await;
                    }
                }
                // It took too long, and somebody else has it.
                Reply::Error(text) if is_harmless(&text) => eprintln!("bruit: {address}: {text}"),
                Reply::Error(text) => bail!("the node reports {text}"),
                Reply::Ok | Reply::CloseWait => bail!("the node gave an answer to no question: {reply:?}"),
            }
        }
        select! {
            biased;
            Some(answer) = answered.recv() => {
                put(&mut client, answer, &mut under_way);
                while let Ok(answer) = answered.try_recv() {
                    put(&mut client, answer, &mut under_way);
                }
            }
            () = pace.changed_after(seen) => {}
            () = supply.messages.closed() => return take_leave(client, answered).await,
            moved = client.progress() => moved?,
        }
    }
}

/// Sends the answers that were given, and waits until the node has seen them. What is not answered goes back.
async fn take_leave(mut client: Client, mut answered: mpsc::UnboundedReceiver<Answer>) -> anyhow::Result<()> {
    while let Ok(answer) = answered.try_recv() {
        put(&mut client, answer, &mut 0);
    }
    nsq::put_close(client.out());
    let farewell = timeout(FAREWELL, async {
        while client.next().await? != Reply::CloseWait {}
        anyhow::Ok(())
    });
    farewell.await.map_err(|_| anyhow!("the node does not confirm that the messages are finished"))?
}

fn put(client: &mut Client, answer: Answer, under_way: &mut u64) {
    match answer {
        Answer::Finish(id) => nsq::put_finish(client.out(), &id),
        Answer::Requeue(id, delay) => {
            nsq::put_requeue(client.out(), &id, u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        }
    }
    *under_way = under_way.saturating_sub(1);
}

fn is_harmless(text: &str) -> bool {
    ["E_FIN_FAILED", "E_REQ_FAILED", "E_TOUCH_FAILED"].iter().any(|code| text.starts_with(code))
}
