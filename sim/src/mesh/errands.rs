//! Clients that use the mesh as one: they make topics and channels on one node and delete them on another,
//! publish where nobody has published before, and ask everybody what is known.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bruit_wire::{
    MessageId,
    nsq::{self, FrameType, MessageView},
};
use parking_lot::Mutex;
use tokio::{
    task::{JoinHandle, spawn_local},
    time::{Instant, sleep, timeout_at},
};

use super::{
    plan::{Joining, MeshPlan},
    survey::Survey,
    verdict::{Truth, at_rest, soon},
};
use crate::{
    body::{self, Key},
    check::Finding,
    client::{Client, Wishes, http},
    dice::Dice,
    gate::Gate,
    history::{Event, Recorder},
};

/// How long after the faults, or after the last change, all nodes may take to agree.
const AGREED_WITHIN: Duration = Duration::from_secs(10);

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(2);

const WISHES: Wishes = Wishes { msg_timeout: Duration::from_secs(60), heartbeat: Duration::from_secs(30) };

/// A topic that only the stranger has.
const INTRUDER: &str = "intruder";

/// A node as clients know it.
#[derive(Debug, Clone)]
pub struct Node {
    /// turmoil's name of its host.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Knows its processes.
    pub recorder: Recorder,
}

/// All errands of a run.
pub struct Errands {
    plan: Arc<MeshPlan>,
    nodes: Vec<Node>,
    dice: Dice,
    healed: Gate,
    recorder: Recorder,
    findings: Arc<Mutex<Vec<Finding>>>,
}

/// What an errand has brought about.
#[derive(Debug)]
enum Done {
    TopicDeleted(String),
    ChannelDeleted(String, String),
    /// Messages that every channel of a topic owes, on this node.
    Owed {
        topic: String,
        node: usize,
        keys: BTreeSet<Key>,
    },
    Nothing,
}

/// The channels of a topic that nobody has published to yet.
const FRESH: [&str; 2] = ["one", "two"];

type Outcome = Result<Done, Finding>;

impl Errands {
    /// The errands for the nodes of `plan`; what goes wrong is added to `findings`.
    pub(super) fn new(
        plan: Arc<MeshPlan>,
        nodes: Vec<Node>,
        dice: Dice,
        healed: Gate,
        recorder: Recorder,
        findings: Arc<Mutex<Vec<Finding>>>,
    ) -> Rc<Self> {
        Rc::new(Self { plan, nodes, dice, healed, recorder, findings })
    }

    /// Runs all errands that fall into the time of the faults and sees whether the mesh is whole soon after.
    /// What is true then comes back.
    pub(super) async fn run(self: &Rc<Self>) -> Truth {
        let busy = || (0..self.nodes.len()).filter(|at| self.plan.is_busy(*at));
        let members = (0..self.nodes.len()).filter(|at| self.plan.is_member(*at));
        let mut truth = Truth::default();
        for at in members {
            let side = if self.plan.is_gone(at) { &mut truth.dead } else { &mut truth.alive };
            side.insert(self.nodes[at].address.to_string());
        }
        let busy: Vec<usize> = busy().collect();
        let mut owed = Vec::new();
        for errand in self.start(&busy) {
            match errand.await {
                Ok(Ok(Done::TopicDeleted(topic))) => drop(truth.deleted_topics.insert(topic)),
                Ok(Ok(Done::ChannelDeleted(topic, channel))) => {
                    truth.deleted_channels.insert((topic, channel));
                }
                Ok(Ok(Done::Owed { topic, node, keys })) => {
                    truth.known.insert(topic.clone(), FRESH.map(str::to_owned).into());
                    owed.push((topic, node, keys));
                }
                Ok(Ok(Done::Nothing)) => {}
                Ok(Err(finding)) => self.findings.lock().push(finding),
                // A panic is a finding already.
                Err(_) => {}
            }
        }
        if self.plan.stranger.is_some() {
            truth.foreign.insert(INTRUDER.to_owned());
        }
        self.healed.pass().await;
        self.agree(&truth, soon).await;
        for (topic, node, keys) in owed {
            for channel in FRESH {
                self.collect(&topic, channel, node, keys.clone()).await;
            }
        }
        truth
    }

    /// Sees whether everybody says the same now that nobody changes anything any more.
    pub(super) async fn end(self: &Rc<Self>, truth: &Truth) {
        self.agree(truth, at_rest).await;
        if self.plan.stranger.is_some() {
            self.look_at_the_stranger(truth).await;
        }
    }

    fn start(self: &Rc<Self>, busy: &[usize]) -> Vec<JoinHandle<Outcome>> {
        let dice = |label| self.dice.fork(label);
        let some = |dice: &mut Dice| dice.pick(busy).copied().unwrap_or(0);
        let mut errands = Vec::new();
        for number in 0..2 {
            let mut dice = dice(10 + number);
            let (first, second) = (some(&mut dice), some(&mut dice));
            let topic = format!("doomed{number}");
            errands.push(spawn_local(self.clone().doomed_topic(topic, [first, second], busy.to_vec(), dice)));
        }
        for number in 0..2 {
            let mut dice = dice(20 + number);
            let node = some(&mut dice);
            let topic = format!("shop{number}");
            errands.push(spawn_local(self.clone().doomed_channel(topic, node, busy.to_vec(), dice)));
        }
        for number in 0..2 {
            let mut dice = dice(30 + number);
            let (here, there) = (some(&mut dice), some(&mut dice));
            if here != there {
                errands.push(spawn_local(self.clone().fresh_topic(
                    format!("fresh{number}"),
                    here,
                    there,
                    dice,
                )));
            }
        }
        for number in 0..2 {
            let mut dice = dice(50 + number);
            let node = some(&mut dice);
            errands.push(spawn_local(self.clone().flash(format!("flash{number}#ephemeral"), node, dice)));
        }
        if self.plan.joining == Joining::Halves {
            errands.push(spawn_local(self.clone().introduce(dice(40))));
        }
        if self.plan.stranger.is_some() {
            errands.push(spawn_local(self.clone().intrude()));
        }
        errands
    }

    /// A topic is made and filled on two nodes, and deleted through any.
    async fn doomed_topic(
        self: Rc<Self>,
        topic: String,
        holders: [usize; 2],
        busy: Vec<usize>,
        mut dice: Dice,
    ) -> Outcome {
        let deadline = self.deadline();
        sleep(dice.millis(0, 2_000)).await;
        self.publish(&topic, holders[0], deadline).await?;
        // Only once it knows the topic: of two nodes that make it independently, one may do so with a clock
        // that is ahead, and then its topic is the later one.
        let second = holders[1];
        let patience = Instant::now() + Duration::from_secs(5);
        if self
            .until(patience, || async { Ok(Survey::topics(self.host(second)).await?.contains(&topic)) })
            .await
        {
            self.publish(&topic, second, deadline).await?;
        }
        sleep(dice.millis(0, 6_000)).await;
        self.post(&format!("/topic/delete?topic={topic}"), &busy, &mut dice).await?;
        Ok(Done::TopicDeleted(topic))
    }

    /// A topic with two channels is made on one node, and one channel deleted through any.
    async fn doomed_channel(
        self: Rc<Self>,
        topic: String,
        node: usize,
        busy: Vec<usize>,
        mut dice: Dice,
    ) -> Outcome {
        sleep(dice.millis(0, 2_000)).await;
        self.post(&format!("/topic/create?topic={topic}"), &[node], &mut dice).await?;
        for channel in ["stays", "goes"] {
            self.post(&format!("/channel/create?topic={topic}&channel={channel}"), &[node], &mut dice)
                .await?;
        }
        self.publish(&topic, node, self.deadline()).await?;
        sleep(dice.millis(0, 6_000)).await;
        let path = format!("/channel/delete?topic={topic}&channel=goes");
        self.post(&path, &busy, &mut dice).await?;
        Ok(Done::ChannelDeleted(topic, "goes".to_owned()))
    }

    /// Channels are made on one node. Once another one knows them, what is published there belongs to them.
    async fn fresh_topic(
        self: Rc<Self>,
        topic: String,
        here: usize,
        there: usize,
        mut dice: Dice,
    ) -> Outcome {
        sleep(dice.millis(0, 4_000)).await;
        let deadline = self.deadline();
        let (mut keys, mut last) = (BTreeSet::new(), String::new());
        while keys.len() < 5 {
            if self.is_late(deadline) {
                let name = &self.nodes[there].name;
                return Err(Finding::new(
                    "I12",
                    format!("{name} does not take {topic} with {FRESH:?}: {last}"),
                ));
            }
            let process = self.nodes[there].recorder.incarnation();
            match self.publish_if_known(&topic, here, there).await {
                // A process that began in between may not have known them.
                Ok(key) if process == self.nodes[there].recorder.incarnation() => drop(keys.insert(key)),
                Ok(_) => {}
                Err(error) => {
                    last = error.to_string();
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        self.note(format!("{topic} owes {keys:?}"));
        Ok(Done::Owed { topic, node: there, keys })
    }

    async fn publish_if_known(&self, topic: &str, here: usize, there: usize) -> io::Result<Key> {
        let known = Survey::channels(self.host(there), topic).await.unwrap_or_default();
        if !FRESH.iter().all(|channel| known.contains(*channel)) {
            for channel in FRESH {
                let mut client = Client::connect(self.host(here), PATIENCE, WISHES).await?;
                client.subscribe(topic, channel).await?;
            }
            return Err(io::Error::other(format!("it knows {known:?}")));
        }
        self.publish_once(topic, there).await
    }

    /// A topic that no later process of the node has: who goes on naming the node as its producer believes an
    /// earlier life.
    async fn flash(self: Rc<Self>, topic: String, node: usize, mut dice: Dice) -> Outcome {
        sleep(dice.millis(0, 4_000)).await;
        self.publish(&topic, node, self.deadline()).await?;
        Ok(Done::Nothing)
    }

    /// Tells one half of the mesh of the other one.
    async fn introduce(self: Rc<Self>, mut dice: Dice) -> Outcome {
        sleep(dice.millis(2_000, 6_000)).await;
        let half = self.plan.half();
        self.post("/mesh/join?peer=node0:4160", &[half], &mut dice).await?;
        Ok(Done::Nothing)
    }

    /// Fills a topic on the node that is no member.
    async fn intrude(self: Rc<Self>) -> Outcome {
        self.publish(INTRUDER, self.plan.nodes, self.deadline()).await?;
        Ok(Done::Nothing)
    }

    /// Takes messages until all of `keys` have come.
    async fn collect(&self, topic: &str, channel: &str, node: usize, mut keys: BTreeSet<Key>) {
        let deadline = Instant::now() + AGREED_WITHIN;
        let name = &self.nodes[node].name;
        let taken = timeout_at(deadline, async {
            while !keys.is_empty() {
                // A connection that is lost is made again.
                let _ = self.collect_some(topic, channel, node, &mut keys).await;
                sleep(Duration::from_millis(100)).await;
            }
        });
        if taken.await.is_err() {
            let text =
                format!("{name} published {keys:?} when it knew {topic}/{channel}, which never had them");
            self.findings.lock().push(Finding::new("I12", text));
        }
    }

    async fn collect_some(
        &self,
        topic: &str,
        channel: &str,
        node: usize,
        keys: &mut BTreeSet<Key>,
    ) -> io::Result<()> {
        let mut client = Client::connect(self.host(node), PATIENCE, WISHES).await?;
        client.subscribe(topic, channel).await?;
        let mut out = Vec::new();
        nsq::put_ready(&mut out, 100);
        client.send(&out).await?;
        while !keys.is_empty() {
            let (kind, payload) = client.answer().await?;
            let message = MessageView::parse_payload(&payload).filter(|_| kind == FrameType::Message);
            let message = message.ok_or(io::ErrorKind::InvalidData)?;
            let id = MessageId::from_hex(message.id).ok_or(io::ErrorKind::InvalidData)?;
            if let Some(key) = body::read(message.body) {
                keys.remove(&key);
            }
            let mut out = Vec::new();
            nsq::put_finish(&mut out, &id.to_hex());
            client.send(&out).await?;
        }
        Ok(())
    }

    /// Asks everybody, until nothing is wrong with the answers or time is up.
    async fn agree(&self, truth: &Truth, judge: fn(&Truth, &BTreeMap<String, Survey>) -> Vec<Finding>) {
        let began = Instant::now();
        loop {
            let late = began.elapsed() > AGREED_WITHIN;
            let wrong = match self.ask_everybody(truth).await {
                Ok(surveys) => judge(truth, &surveys),
                Err(error) => vec![Finding::new("I13", format!("not everybody answers: {error}"))],
            };
            if wrong.is_empty() {
                self.note(format!("all agree after {:?}", began.elapsed()));
                return;
            }
            if late {
                self.note(format!("{wrong:?}"));
                self.findings.lock().extend(wrong);
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn ask_everybody(&self, truth: &Truth) -> io::Result<BTreeMap<String, Survey>> {
        let others: BTreeSet<String> =
            truth.deleted_topics.iter().chain(truth.known.keys()).chain(&truth.foreign).cloned().collect();
        let mut surveys = BTreeMap::new();
        for (at, node) in self.nodes.iter().enumerate().filter(|(at, _)| self.plan.is_busy(*at)) {
            let survey = Survey::take(self.host(at), &others).await?;
            surveys.insert(format!("{} {}", node.name, node.address), survey);
        }
        Ok(surveys)
    }

    /// The stranger knows itself, its own topic, and nothing else.
    async fn look_at_the_stranger(&self, truth: &Truth) {
        let address = self.nodes[self.plan.nodes].address.to_string();
        let survey = Survey::take(self.host(self.plan.nodes), &truth.foreign).await;
        let knows = survey.map(|survey| (survey.topics, survey.nodes.len(), survey.members.len()));
        if knows.as_ref().ok() != Some(&(truth.foreign.clone(), 1, 1)) {
            let text = format!("the stranger at {address} knows more, or less, than itself: {knows:?}");
            self.findings.lock().push(Finding::new("I21", text));
        }
    }

    /// Posts to one of `nodes` after the other until one says 200.
    async fn post(&self, path: &str, nodes: &[usize], dice: &mut Dice) -> Result<(), Finding> {
        let deadline = self.deadline();
        loop {
            let node = dice.pick(nodes).copied().unwrap_or(0);
            let answer = http("POST", self.host(node), path, PATIENCE).await;
            if matches!(answer, Ok((200, _))) {
                self.note(format!("{path} done by {}", self.nodes[node].name));
                return Ok(());
            }
            if self.is_late(deadline) {
                return Err(Finding::new("I24", format!("POST {path} is never answered: {answer:?}")));
            }
            sleep(dice.millis(50, 300)).await;
        }
    }

    /// Publishes a few messages to a node, each until it is acknowledged.
    async fn publish(&self, topic: &str, node: usize, deadline: Duration) -> Result<(), Finding> {
        for _ in 0..3 {
            while let Err(error) = self.publish_once(topic, node).await {
                if self.is_late(deadline) {
                    let name = &self.nodes[node].name;
                    return Err(Finding::new(
                        "I24",
                        format!("{name} does not take a message for {topic}: {error}"),
                    ));
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    async fn publish_once(&self, topic: &str, node: usize) -> io::Result<Key> {
        let key = self.recorder.new_key();
        let mut client = Client::connect(self.host(node), PATIENCE, WISHES).await?;
        let mut out = Vec::new();
        nsq::put_publish(&mut out, topic, &body::write(key, 40));
        client.send(&out).await?;
        match client.answer().await? {
            (FrameType::Response, body) if body == b"OK" => Ok(key),
            (_, body) => Err(io::Error::other(String::from_utf8_lossy(&body).into_owned())),
        }
    }

    /// Waits until `what` is true; false when it is not in time. Errors count as not yet.
    async fn until<F: Future<Output = io::Result<bool>>>(
        &self,
        deadline: Instant,
        what: impl Fn() -> F,
    ) -> bool {
        while !what().await.unwrap_or(false) {
            if Instant::now() > deadline {
                return false;
            }
            sleep(Duration::from_millis(100)).await;
        }
        true
    }

    fn host(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    fn note(&self, what: String) {
        self.recorder.record(Event::Fault(what));
    }

    /// When everything that can be done must be done, in simulated time.
    fn deadline(&self) -> Duration {
        // Faults are over then, and nodes may take a while to come up.
        self.plan.chaos + Duration::from_secs(30) + AGREED_WITHIN
    }

    fn is_late(&self, deadline: Duration) -> bool {
        self.recorder.now() > deadline
    }
}

impl std::fmt::Debug for Errands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Errands").finish_non_exhaustive()
    }
}
