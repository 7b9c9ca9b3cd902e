//! Publishers: bursts of PUB, MPUB and DPUB, several on their way at once.

use std::time::Duration;

use bruit_wire::nsq::{self, FrameType};
use tokio::time::{Instant, sleep};

use super::{Everyone, Phase};
use crate::{
    body,
    client::{Client, Wishes},
    dice::Dice,
    history::{Event, Op},
};

/// A publisher's heartbeats are far apart: it asks for answers itself.
const WISHES: Wishes = Wishes { msg_timeout: Duration::from_secs(60), heartbeat: Duration::from_secs(30) };

/// Publishes as long as clients are busy. Reconnects for ever.
pub(crate) async fn run(everyone: Everyone, mut dice: Dice) {
    while everyone.phase() == Phase::Busy {
        let active = everyone.enter();
        let patience = dice.millis(300, 4_000);
        if let Ok(client) = Client::connect(&everyone.target.host, patience, WISHES).await {
            connection(&everyone, &mut dice, client).await;
        }
        drop(active);
        sleep(dice.millis(5, 200)).await;
    }
}

/// Publishes one message to `topic`, again and again until one is acknowledged.
pub(crate) async fn probe(everyone: &Everyone, topic: usize, deadline: Instant) -> Result<(), String> {
    let mut last = "no answer".to_owned();
    while Instant::now() < deadline {
        let mut out = Vec::new();
        let op = put_one(everyone, topic, None, 100, &mut out);
        match Client::connect(&everyone.target.host, Duration::from_secs(5), WISHES).await {
            Ok(mut client) => {
                if client.send(&out).await.is_ok() && settle(everyone, &mut client, op).await {
                    return Ok(());
                }
            }
            Err(error) => last = error.to_string(),
        }
        everyone.recorder.record(Event::Unanswered(op));
        sleep(Duration::from_millis(100)).await;
    }
    Err(format!("with the faults over, a publish to topic {topic} was not acknowledged: {last}"))
}

async fn connection(everyone: &Everyone, dice: &mut Dice, mut client: Client) {
    while everyone.phase() == Phase::Busy {
        let mut out = Vec::new();
        let burst = dice.between(1, everyone.shape.window);
        let ops: Vec<Op> = (0..burst).map(|_| put_any(everyone, dice, &mut out)).collect();
        let sent = client.send(&out).await.is_ok();
        // Now and then a publisher dies without waiting for its answers.
        let mut waits = sent && !dice.chance(5);
        for op in ops {
            if waits {
                waits = settle(everyone, &mut client, op).await;
            } else {
                everyone.recorder.record(Event::Unanswered(op));
            }
        }
        if !waits || dice.chance(20) {
            return;
        }
        sleep(dice.millis(0, everyone.shape.pause_millis)).await;
    }
}

/// Waits for the answer to `op` and writes it down; false when the connection is of no more use.
async fn settle(everyone: &Everyone, client: &mut Client, op: Op) -> bool {
    let (event, goes_on) = match client.answer().await {
        Ok((FrameType::Response, body)) if body == b"OK" => (Event::Published(op), true),
        Ok((_, body)) => (Event::Refused(op, String::from_utf8_lossy(&body).into_owned()), false),
        Err(_) => (Event::Unanswered(op), false),
    };
    everyone.recorder.record(event);
    goes_on
}

/// Writes any publishing command for any topic.
fn put_any(everyone: &Everyone, dice: &mut Dice, out: &mut Vec<u8>) -> Op {
    let topic = dice.pick(&everyone.published).copied().unwrap_or(0);
    match dice.below(10) {
        0 | 1 => {
            let count = dice.between(2, 20);
            put_many(everyone, topic, dice, count, out)
        }
        2 => {
            let delay = Some(dice.millis(0, 2_500));
            let len = body_len(everyone, dice);
            put_one(everyone, topic, delay, len, out)
        }
        _ => {
            let len = body_len(everyone, dice);
            put_one(everyone, topic, None, len, out)
        }
    }
}

fn put_one(everyone: &Everyone, topic: usize, delay: Option<Duration>, len: usize, out: &mut Vec<u8>) -> Op {
    let recorder = &everyone.recorder;
    let (op, key) = (recorder.new_op(), recorder.new_key());
    recorder.record(Event::Publish { op, topic, delay, keys: vec![key] });
    let (name, body) = (&everyone.shape.topic(topic).name, body::write(key, len));
    match delay {
        None => nsq::put_publish(out, name, &body),
        Some(delay) => {
            let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            nsq::put_deferred_publish(out, name, millis, &body);
        }
    }
    op
}

fn put_many(everyone: &Everyone, topic: usize, dice: &mut Dice, count: u64, out: &mut Vec<u8>) -> Op {
    let recorder = &everyone.recorder;
    let op = recorder.new_op();
    let keys: Vec<_> = (0..count).map(|_| recorder.new_key()).collect();
    let bodies: Vec<_> = keys.iter().map(|key| body::write(*key, body_len(everyone, dice))).collect();
    recorder.record(Event::Publish { op, topic, delay: None, keys });
    nsq::put_multi_publish(out, &everyone.shape.topic(topic).name, bodies.iter().map(Vec::as_slice));
    op
}

fn body_len(everyone: &Everyone, dice: &mut Dice) -> usize {
    let longest = everyone.shape.body_len * if dice.chance(20) { 20 } else { 1 };
    usize::try_from(dice.below(longest)).unwrap_or(0)
}
