//! Clients with an errand: one deletes a channel that has consumers on two nodes, one pauses a channel
//! everywhere, and one publishes to a topic that nobody has published to before, for a consumer elsewhere.

use std::{cell::Cell, collections::BTreeSet, io, rc::Rc, sync::Arc, time::Duration};

use bruit_wire::{
    MessageId,
    nsq::{self, FrameType, MessageView},
};
use tokio::{
    task::spawn_local,
    time::{Instant, sleep, timeout},
};

use super::{
    clients::{Node, Report},
    plan::{Pause, RelayPlan},
};
use crate::{
    body::{self, Key},
    check::Finding,
    client::{Client, Wishes, get_json, http},
    dice::Dice,
    gate::Gate,
    history::Event,
};

/// How long after the faults, or after the last step, all must have come to its end.
const DONE_WITHIN: Duration = Duration::from_secs(30);

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(2);

const WISHES: Wishes = Wishes { msg_timeout: Duration::from_secs(5), heartbeat: Duration::from_secs(1) };

/// A connection on which there is not even a heartbeat for so long is lost.
const SILENCE: Duration = Duration::from_secs(4);

/// The topic with the channel that is deleted.
const DOOMED: (&str, &str) = ("doomed", "goes");

/// All errands of a run.
pub(super) struct Errands {
    plan: Arc<RelayPlan>,
    nodes: Vec<Node>,
    dice: Dice,
    healed: Gate,
    report: Report,
}

impl Errands {
    /// The errands for the nodes of `plan`.
    pub(super) fn new(
        plan: Arc<RelayPlan>,
        nodes: Vec<Node>,
        dice: Dice,
        healed: Gate,
        report: Report,
    ) -> Rc<Self> {
        Rc::new(Self { plan, nodes, dice, healed, report })
    }

    /// Runs all of them, until their ends have been seen.
    pub(super) async fn run(self: Rc<Self>) {
        let mut errands = vec![spawn_local(self.clone().delete(self.dice.fork(1)))];
        for number in 0..2 {
            errands.push(spawn_local(self.clone().first_message(number, self.dice.fork(10 + number))));
        }
        if let Some(pause) = self.plan.pause {
            errands.push(spawn_local(self.clone().pause(pause)));
        }
        for errand in errands {
            // A panic is a finding already.
            if let Ok(Err(finding)) = errand.await {
                self.report.findings.lock().push(finding);
            }
        }
    }

    /// I11: a channel is deleted through any node; its consumers are sent away from all nodes, and it stays
    /// deleted.
    async fn delete(self: Rc<Self>, mut dice: Dice) -> Result<(), Finding> {
        let deleting = Gate::default();
        let mut consumers = Vec::new();
        for node in [self.consumer_node(), self.some_node(&mut dice)] {
            let consumer = Rc::new(Doomed { node, connecting: Cell::new(true), gone: Cell::new(false) });
            consumers.push(consumer.clone());
            spawn_local(self.clone().consume_until_deleted(consumer, deleting.clone()));
        }
        let until = self.now() + dice.millis(1_500, 6_000);
        while self.now() < until {
            // Whoever does not take it is busy dying.
            let node = self.some_node(&mut dice);
            let _ = self.publish_once(DOOMED.0, node).await;
            sleep(dice.millis(5, 100)).await;
        }
        deleting.open();
        while consumers.iter().any(|consumer| consumer.connecting.get()) {
            sleep(Duration::from_millis(5)).await;
        }
        let (topic, channel) = DOOMED;
        self.delete_channel(topic, channel, &mut dice).await?;
        self.healed.pass().await;
        let deadline = Instant::now() + DONE_WITHIN;
        let mut left = Vec::new();
        while Instant::now() < deadline {
            left = self.holders().await;
            let stay = consumers.iter().filter(|consumer| !consumer.gone.get());
            left.extend(stay.map(|consumer| format!("a consumer at node{}", consumer.node)));
            if left.is_empty() {
                return Ok(());
            }
            sleep(Duration::from_millis(200)).await;
        }
        consumers.iter().for_each(|consumer| consumer.gone.set(true));
        Err(Finding::new("I11", format!("{topic}/{channel} was deleted, and there is still {left:?}")))
    }

    /// Consumes the doomed channel, and connects again until it is about to be deleted.
    async fn consume_until_deleted(self: Rc<Self>, consumer: Rc<Doomed>, deleting: Gate) {
        while !deleting.is_open() {
            consumer.connecting.set(true);
            let client = self.subscribe(DOOMED.0, DOOMED.1, consumer.node).await;
            consumer.connecting.set(false);
            if let Ok(mut client) = client {
                while !consumer.gone.get() && self.take(&mut client).await.is_ok() {}
            }
            sleep(Duration::from_millis(50)).await;
        }
        consumer.connecting.set(false);
        consumer.gone.set(true);
    }

    /// The nodes that hold the doomed channel.
    async fn holders(&self) -> Vec<String> {
        let mut holders = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let path = format!("/stats?format=json&include_clients=false&topic={}", DOOMED.0);
            match get_json(&node.name, &path, PATIENCE).await {
                Ok(stats) if !stats.to_string().contains(&format!("\"{}\"", DOOMED.1)) => {}
                Ok(_) => holders.push(format!("the channel on node{at}")),
                Err(error) => holders.push(format!("no answer of node{at}: {error}")),
            }
        }
        holders
    }

    /// A channel is paused on all nodes for a while.
    async fn pause(self: Rc<Self>, pause: Pause) -> Result<(), Finding> {
        let shape = &self.plan.shape;
        let (topic, channel) = (&shape.topic(pause.place.topic).name, &shape.channel(pause.place).name);
        let query = format!("topic={topic}&channel={channel}");
        sleep(pause.from.saturating_sub(self.now())).await;
        for node in &self.nodes {
            let path = format!("/channel/pause?{query}");
            if let Ok((200, _)) = http("POST", &node.name, &path, PATIENCE).await {
                node.recorder.record(Event::Paused(pause.place, true));
            }
        }
        sleep(pause.until.saturating_sub(self.now())).await;
        // Also where nobody said that it is paused: the answer may have been lost.
        for (at, node) in self.nodes.iter().enumerate() {
            node.recorder.record(Event::Paused(pause.place, false));
            let path = format!("/channel/unpause?{query}");
            loop {
                let answer = http("POST", &node.name, &path, PATIENCE).await;
                if matches!(answer, Ok((200 | 404, _))) {
                    break;
                }
                if self.is_late() {
                    return Err(Finding::new("I24", format!("node{at} does not resume {query}: {answer:?}")));
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// I24: the first message of a topic gets to a consumer that waits for it on another node.
    async fn first_message(self: Rc<Self>, number: u64, mut dice: Dice) -> Result<(), Finding> {
        let (topic, channel) = (format!("new{number}"), "waiting");
        let here = self.consumer_node();
        let there = (here + 1 + self.some_node(&mut dice) % (self.nodes.len() - 1)) % self.nodes.len();
        sleep(dice.millis(500, 5_000)).await;
        let mut client = self.subscribe_in_time(&topic, channel, here).await?;
        sleep(dice.millis(100, 1_000)).await;
        let (mut keys, mut taken) = (BTreeSet::new(), BTreeSet::new());
        let sent_at = self.now();
        while keys.is_empty() {
            match self.publish_once(&topic, there).await {
                Ok(key) => drop(keys.insert(key)),
                Err(error) if self.is_late() => {
                    return Err(Finding::new("I24", format!("node{there} does not take {topic}: {error}")));
                }
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
        while keys.is_disjoint(&taken) {
            match self.take(&mut client).await {
                Ok(key) => taken.extend(key),
                Err(_) => client = self.subscribe_in_time(&topic, channel, here).await?,
            }
            if self.is_late() {
                let text = format!(
                    "the first message of {topic}, published on node{there} at {sent_at:?}, never came to its consumer on node{here}"
                );
                return Err(Finding::new("I24", text));
            }
        }
        let took = self.now().saturating_sub(sent_at);
        self.report
            .notes
            .lock()
            .push(format!("first message of a topic, elsewhere: {} ms", took.as_millis()));
        Ok(())
    }

    async fn subscribe_in_time(&self, topic: &str, channel: &str, node: usize) -> Result<Client, Finding> {
        loop {
            match self.subscribe(topic, channel, node).await {
                Ok(client) => return Ok(client),
                Err(error) if self.is_late() => {
                    let text = format!("node{node} lets nobody subscribe to {topic}/{channel}: {error}");
                    return Err(Finding::new("I24", text));
                }
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn subscribe(&self, topic: &str, channel: &str, node: usize) -> io::Result<Client> {
        let mut client = Client::connect(&self.nodes[node].name, PATIENCE, WISHES).await?;
        client.subscribe(topic, channel).await?;
        let mut out = Vec::new();
        nsq::put_ready(&mut out, 10);
        client.send(&out).await?;
        Ok(client)
    }

    /// Takes whatever comes next, and finishes it if it is a message, whose key comes back.
    async fn take(&self, client: &mut Client) -> io::Result<Option<Key>> {
        let (kind, payload) =
            timeout(SILENCE, client.frame()).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))?;
        let mut out = Vec::new();
        if kind != FrameType::Message {
            nsq::put_nop(&mut out);
            client.send(&out).await?;
            return Ok(None);
        }
        let message = MessageView::parse_payload(&payload).ok_or(io::ErrorKind::InvalidData)?;
        let id = MessageId::from_hex(message.id).ok_or(io::ErrorKind::InvalidData)?;
        nsq::put_finish(&mut out, &id.to_hex());
        client.send(&out).await?;
        Ok(body::read(message.body))
    }

    async fn publish_once(&self, topic: &str, node: usize) -> io::Result<Key> {
        let key = self.nodes[node].recorder.new_key();
        let mut client = Client::connect(&self.nodes[node].name, PATIENCE, WISHES).await?;
        let mut out = Vec::new();
        nsq::put_publish(&mut out, topic, &body::write(key, 40));
        client.send(&out).await?;
        match client.answer().await? {
            (FrameType::Response, body) if body == b"OK" => Ok(key),
            (_, body) => Err(io::Error::other(String::from_utf8_lossy(&body).into_owned())),
        }
    }

    /// Asks one node after the other to delete a channel, until one says that it has, or it is gone everywhere:
    /// an answer may have been lost.
    async fn delete_channel(&self, topic: &str, channel: &str, dice: &mut Dice) -> Result<(), Finding> {
        let path = format!("/channel/delete?topic={topic}&channel={channel}");
        loop {
            let node = self.some_node(dice);
            let answer = http("POST", &self.nodes[node].name, &path, PATIENCE).await;
            let is_done = match answer {
                Ok((200, _)) => true,
                Ok((404, _)) => self.holders().await.is_empty(),
                _ => false,
            };
            if is_done {
                self.nodes[node].recorder.record(Event::Fault(format!("{path} done")));
                return Ok(());
            }
            if self.is_late() {
                return Err(Finding::new("I24", format!("POST {path} is never answered: {answer:?}")));
            }
            sleep(dice.millis(50, 300)).await;
        }
    }

    fn consumer_node(&self) -> usize {
        self.plan.seats.first().map_or(0, |seat| seat.node)
    }

    fn some_node(&self, dice: &mut Dice) -> usize {
        usize::try_from(dice.below(self.nodes.len() as u64)).unwrap_or(0)
    }

    fn now(&self) -> Duration {
        self.nodes[0].recorder.now()
    }

    /// Whether everything should be over: nodes may take a while to come up after the last fault.
    fn is_late(&self) -> bool {
        self.now() > self.plan.mesh.chaos + DONE_WITHIN + Duration::from_secs(10)
    }
}

/// A consumer of the channel that is deleted.
struct Doomed {
    node: usize,
    /// It is about to subscribe, or has not begun.
    connecting: Cell<bool>,
    /// It is not coming back.
    gone: Cell<bool>,
}
