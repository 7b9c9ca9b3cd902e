//! Consumers: they finish most messages, and with the rest do everything that consumers do: finish late or
//! twice, requeue, touch, forget, fall silent, change their mind about RDY, and leave without a word.

use std::{collections::BTreeMap, io, time::Duration};

use bruit_wire::{
    MessageId,
    nsq::{self, FrameType, MessageView},
};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Everyone, Phase};
use crate::{
    body,
    client::{Client, Wishes},
    dice::Dice,
    history::{Conn, Event, Recorder},
    shape::Place,
};

/// Consumes as long as the run lasts. Reconnects for ever.
pub(crate) async fn run(everyone: Everyone, place: Place, mut dice: Dice) {
    sleep(everyone.shape.channel(place).opens_at).await;
    loop {
        let phase = everyone.phase();
        match phase {
            Phase::Busy | Phase::Drain => {
                let active = everyone.enter();
                // A connection that is lost, or never made, is made again: that is what clients do.
                let _ = connection(&everyone, place, &mut dice, phase).await;
                drop(active);
                sleep(dice.millis(1, 100)).await;
            }
            Phase::Quiet => everyone.phases.end_of(Phase::Quiet).await,
            Phase::Over => return,
        }
    }
}

/// What a consumer means to do later.
#[derive(Debug)]
enum Later {
    Finish(MessageId),
    Ready(u64),
}

struct Consumer<'e> {
    client: Client,
    conn: Conn,
    recorder: &'e Recorder,
    dice: &'e mut Dice,
    trouble_per_mille: u64,
    later: BTreeMap<(Instant, u64), Later>,
    plans: u64,
    silent: bool,
    /// A node that says nothing for so long is gone, although nobody closed the connection.
    given_up_after: Duration,
    heard_at: Instant,
}

async fn connection(everyone: &Everyone, place: Place, dice: &mut Dice, phase: Phase) -> io::Result<()> {
    let wishes = Wishes { msg_timeout: dice.millis(1_000, 3_000), heartbeat: dice.millis(1_000, 4_000) };
    let (topic, channel) = (everyone.shape.topic(place.topic), everyone.shape.channel(place));
    let patience = dice.millis(500, 3_000);
    let host = everyone.target.find(&topic.name, dice).await?;
    let mut client = Client::connect(&host, patience, wishes).await?;
    client.subscribe(&topic.name, &channel.name).await?;
    let (conn, msg_timeout) = (everyone.recorder.new_conn(), client.granted_msg_timeout());
    let recorder = everyone.recorder.clone();
    recorder.record(Event::Subscribed { conn, place, msg_timeout });
    let trouble_per_mille = if phase == Phase::Busy { everyone.shape.trouble_per_mille } else { 0 };
    let consumer = Consumer {
        client,
        conn,
        recorder: &recorder,
        dice,
        trouble_per_mille,
        later: BTreeMap::new(),
        plans: 0,
        silent: false,
        given_up_after: wishes.heartbeat * 3,
        heard_at: Instant::now(),
    };
    let result = consumer.consume(everyone, phase).await;
    recorder.record(Event::Left(conn));
    result
}

impl Consumer<'_> {
    async fn consume(mut self, everyone: &Everyone, phase: Phase) -> io::Result<()> {
        let ready = self.some_ready();
        self.ready(ready).await?;
        while everyone.phase() == phase {
            let given_up_at = self.heard_at + self.given_up_after;
            let planned_at = self.later.keys().next().map_or(given_up_at, |(at, _)| *at);
            tokio::select! {
                biased;
                () = everyone.phases.end_of(phase) => {}
                frame = self.client.frame() => {
                    let (kind, body) = frame?;
                    self.heard_at = Instant::now();
                    self.take(kind, &body).await?;
                }
                () = sleep_until(planned_at.min(given_up_at)) => {
                    if Instant::now() >= given_up_at {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    self.do_planned().await?;
                }
            }
        }
        Ok(())
    }

    async fn take(&mut self, kind: FrameType, body: &[u8]) -> io::Result<()> {
        match kind {
            FrameType::Message => self.message(body).await,
            FrameType::Response if body == b"_heartbeat_" && !self.silent => self.send(nsq::put_nop).await,
            FrameType::Response => Ok(()),
            FrameType::Error => {
                let text = String::from_utf8_lossy(body).into_owned();
                self.recorder.record(Event::Complaint(self.conn, text));
                Ok(())
            }
        }
    }

    async fn message(&mut self, payload: &[u8]) -> io::Result<()> {
        let view = MessageView::parse_payload(payload).ok_or(io::ErrorKind::InvalidData)?;
        let id = MessageId::from_hex(view.id).ok_or(io::ErrorKind::InvalidData)?;
        let (conn, attempts, timestamp) = (self.conn, view.attempts, view.timestamp);
        let key = body::read(view.body);
        self.recorder.record(Event::Delivered { conn, id, attempts, timestamp, key });
        if self.silent {
            return Ok(());
        }
        if !self.dice.chance(self.trouble_per_mille) {
            return self.finish(id).await;
        }
        self.trouble(id).await
    }

    async fn trouble(&mut self, id: MessageId) -> io::Result<()> {
        match self.dice.below(100) {
            0..30 => {
                let delay = self.dice.millis(5, 900);
                self.plan(delay, Later::Finish(id));
            }
            30..45 => self.requeue(id, Duration::ZERO).await?,
            45..65 => {
                let delay = self.dice.millis(1, 1_500);
                self.requeue(id, delay).await?;
            }
            65..75 => {
                self.recorder.record(Event::Touch(self.conn, id));
                self.send(|out| nsq::put_touch(out, &id.to_hex())).await?;
                let delay = self.dice.millis(5, 900);
                self.plan(delay, Later::Finish(id));
            }
            75..82 => {
                self.finish(id).await?;
                self.finish(id).await?;
            }
            82..90 => {
                let (pause, ready) = (self.dice.millis(1, 300), self.some_ready());
                self.ready(0).await?;
                self.plan(pause, Later::Ready(ready));
                self.finish(id).await?;
            }
            90..93 => {
                // Perhaps after its time is up.
                let delay = self.dice.millis(900, 4_000);
                self.plan(delay, Later::Finish(id));
            }
            93..96 => {}
            96..98 => self.silent = true,
            _ => return Err(io::ErrorKind::Interrupted.into()),
        }
        Ok(())
    }

    fn plan(&mut self, delay: Duration, what: Later) {
        self.plans += 1;
        self.later.insert((Instant::now() + delay, self.plans), what);
    }

    async fn do_planned(&mut self) -> io::Result<()> {
        match self.later.pop_first() {
            Some((_, Later::Finish(id))) if !self.silent => self.finish(id).await,
            Some((_, Later::Ready(count))) if !self.silent => self.ready(count).await,
            _ => Ok(()),
        }
    }

    fn some_ready(&mut self) -> u64 {
        match self.dice.below(4) {
            0 => 1,
            1 => self.dice.between(2, 10),
            _ => self.dice.between(10, 300),
        }
    }

    async fn finish(&mut self, id: MessageId) -> io::Result<()> {
        self.recorder.record(Event::Finish(self.conn, id));
        self.send(|out| nsq::put_finish(out, &id.to_hex())).await
    }

    async fn requeue(&mut self, id: MessageId, delay: Duration) -> io::Result<()> {
        self.recorder.record(Event::Requeue(self.conn, id, delay));
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.send(|out| nsq::put_requeue(out, &id.to_hex(), millis)).await
    }

    async fn ready(&mut self, count: u64) -> io::Result<()> {
        self.recorder.record(Event::Ready(self.conn, count));
        self.send(|out| nsq::put_ready(out, count)).await
    }

    async fn send(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut out = Vec::new();
        put(&mut out);
        self.client.send(&out).await
    }
}
