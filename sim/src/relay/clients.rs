//! Everybody who uses the nodes of a run: publishers on all of them, consumers on a few, somebody who watches
//! what each node knows, and the end of the run as they see it.

use std::{
    collections::BTreeSet,
    io,
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    task::spawn_local,
    time::{Instant, sleep},
};

use super::{errands::Errands, plan::RelayPlan};
use crate::{
    check::Finding,
    client::get_json,
    dice::Dice,
    gate::Gate,
    history::{Counts, Event, Recorder},
    mesh::survey::Survey,
    shape::Place,
    workload::{Everyone, HEALED_WITHIN, Phase, Phases, Target, consumer, publisher},
};

/// How long after the last consumer has gone a node may still count messages as in flight.
const LET_GO_WITHIN: Duration = Duration::from_secs(10);

/// How long after the last consumer has gone ephemeral channels may still be there.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(10);

/// How often each node is asked what it knows.
const WATCHED_EVERY: Duration = Duration::from_millis(150);

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A node as clients know it.
#[derive(Debug, Clone)]
pub struct Node {
    /// turmoil's name of its host.
    pub name: String,
    /// What happens on it and to it.
    pub recorder: Recorder,
}

/// What clients report beside the histories.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What they found wrong.
    pub findings: Arc<Mutex<Vec<Finding>>>,
    /// What they measured.
    pub notes: Arc<Mutex<Vec<String>>>,
}

/// Runs all clients until everything that the nodes hold after `healed` opened is delivered, or failed to be.
pub(super) async fn run(
    plan: Arc<RelayPlan>,
    nodes: Vec<Node>,
    recorder: Recorder,
    dice: Dice,
    healed: Gate,
    report: Report,
) {
    let shape = Arc::new(plan.shape.clone());
    let (phases, active) = (Arc::new(Phases::busy()), Arc::new(AtomicUsize::new(0)));
    let at = |node: usize, published: Vec<usize>| Everyone {
        shape: shape.clone(),
        target: Target::direct(&nodes[node].name),
        recorder: nodes[node].recorder.clone(),
        phases: phases.clone(),
        published: published.into(),
        active: active.clone(),
    };
    let mut label = 0;
    let mut own_dice = || {
        label += 1;
        dice.fork(label)
    };
    for stall in &plan.stalls {
        let (everyone, opens_at, dice) = (at(stall.node, stall.topics.clone()), stall.opens_at, own_dice());
        spawn_local(async move {
            sleep(opens_at).await;
            publisher::run(everyone, dice).await;
        });
    }
    for seat in &plan.seats {
        spawn_local(consumer::run(at(seat.node, Vec::new()), seat.place, own_dice()));
    }
    let everywhere: Rc<[Everyone]> = (0..nodes.len()).map(|node| at(node, Vec::new())).collect();
    for everyone in everywhere.iter() {
        spawn_local(watch(everyone.clone()));
    }
    let errands = Errands::new(plan.clone(), nodes.clone(), own_dice(), healed.clone(), report.clone());
    let errands = spawn_local(errands.run());
    let end = End { plan, everywhere, recorder };
    if let Err(why) = end.reach(healed, errands).await {
        end.recorder.record(Event::Stuck(why));
    }
    phases.set(Phase::Over);
    // Connections end before their host does, or turmoil would trip over them.
    end.everywhere[0].all_gone().await;
    if let Err(why) = end.forgotten().await {
        report.findings.lock().push(Finding::new("I24", why));
    }
}

/// The end of a run.
struct End {
    plan: Arc<RelayPlan>,
    /// One for each node.
    everywhere: Rc<[Everyone]>,
    recorder: Recorder,
}

impl End {
    /// Everybody leaves, the nodes are asked what they hold, then consumers, where they were before, take all
    /// of that.
    async fn reach(&self, healed: Gate, errands: tokio::task::JoinHandle<()>) -> Result<(), String> {
        healed.pass().await;
        // A panic is a finding already.
        let _ = errands.await;
        let deadline = Instant::now() + HEALED_WITHIN;
        for stall in &self.plan.stalls {
            for topic in &stall.topics {
                publisher::probe(&self.everywhere[stall.node], *topic, deadline).await?;
            }
        }
        sleep(Duration::from_millis(300)).await;
        self.everywhere[0].phases.set(Phase::Quiet);
        self.everywhere[0].all_gone().await;
        for (node, held) in self.let_go(Instant::now() + LET_GO_WITHIN).await?.into_iter().enumerate() {
            for (place, counts) in held {
                self.everywhere[node].recorder.record(Event::Quiet(place, counts));
            }
        }
        // Nothing that is delivered before this moment is later than it.
        sleep(Duration::from_millis(5)).await;
        self.recorder.record(Event::Draining);
        self.everywhere[0].phases.set(Phase::Drain);
        self.drained(Instant::now() + HEALED_WITHIN).await
    }

    /// What every node holds, once nothing is in flight anywhere, or it is too late for that.
    async fn let_go(&self, deadline: Instant) -> Result<Vec<Vec<(Place, Counts)>>, String> {
        loop {
            sleep(Duration::from_millis(200)).await;
            let held = self.counts(Instant::now() + HEALED_WITHIN).await?;
            let in_flight: u64 = held.iter().flatten().map(|(_, counts)| counts.in_flight).sum();
            if in_flight == 0 || Instant::now() > deadline {
                return Ok(held);
            }
        }
    }

    /// Waits until every node has every channel of the topics that are published there, and nothing in it.
    async fn drained(&self, deadline: Instant) -> Result<(), String> {
        let expected: BTreeSet<(usize, Place)> = self
            .plan
            .stalls
            .iter()
            .flat_map(|stall| {
                let places = self.plan.shape.kept_places();
                places.filter(|place| stall.topics.contains(&place.topic)).map(|place| (stall.node, place))
            })
            .collect();
        loop {
            sleep(Duration::from_millis(100)).await;
            let held = self.counts(deadline).await?;
            let all = (0..).zip(&held).flat_map(|(node, held)| held.iter().map(move |of| (node, *of)));
            let there: BTreeSet<(usize, Place)> =
                all.clone().map(|(node, (place, _))| (node, place)).collect();
            let left: Vec<_> = all.filter(|(_, (_, counts))| counts.total() > 0).collect();
            if left.is_empty() && expected.is_subset(&there) {
                for (node, held) in held.into_iter().enumerate() {
                    for (place, counts) in held {
                        self.everywhere[node].recorder.record(Event::Drained(place, counts));
                    }
                }
                return Ok(());
            }
            if Instant::now() > deadline {
                let missing: Vec<_> = expected.difference(&there).collect();
                return Err(format!(
                    "{HEALED_WITHIN:?} after the faults not all was delivered: left {left:?}, channels missing {missing:?}"
                ));
            }
        }
    }

    async fn counts(&self, deadline: Instant) -> Result<Vec<Vec<(Place, Counts)>>, String> {
        let mut all = Vec::new();
        for (node, everyone) in self.everywhere.iter().enumerate() {
            all.push(everyone.counts(deadline).await.map_err(|why| format!("node{node}: {why}"))?);
        }
        Ok(all)
    }

    /// Waits until no node has an ephemeral channel any more: everybody has gone.
    async fn forgotten(&self) -> Result<(), String> {
        let deadline = Instant::now() + FORGOTTEN_WITHIN;
        loop {
            let mut left = Vec::new();
            for (node, everyone) in self.everywhere.iter().enumerate() {
                let held = held(everyone).await.unwrap_or_default();
                let tails = held.into_iter().filter(|(_, channel)| channel.ends_with("#ephemeral"));
                left.extend(tails.map(|(topic, channel)| format!("{topic}/{channel} on node{node}")));
            }
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "nobody has consumed for {FORGOTTEN_WITHIN:?}, and there is still {left:?}"
                ));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Asks a node again and again which channels it knows, and writes down those that it did not know before; the
/// ephemeral ones each time, as they come and go.
async fn watch(everyone: Everyone) {
    let mut seen = BTreeSet::new();
    while matches!(everyone.phase(), Phase::Busy) {
        let active = everyone.enter();
        let process = everyone.recorder.incarnation();
        let known = known(&everyone).await.unwrap_or_default();
        if process == everyone.recorder.incarnation() {
            for (place, held) in known {
                if !everyone.shape.is_kept(place) || seen.insert((process, place, held)) {
                    everyone.recorder.record(Event::Known { place, held });
                }
            }
        }
        drop(active);
        sleep(WATCHED_EVERY).await;
    }
}

/// The channels of the run that a node holds, and those that it does not hold but names, of topics that it
/// does not hold either.
async fn known(everyone: &Everyone) -> io::Result<Vec<(Place, bool)>> {
    let held = held(everyone).await?;
    let mut known = Vec::new();
    for (index, topic) in everyone.shape.topics.iter().enumerate() {
        let is_held = held.iter().any(|(name, _)| *name == topic.name);
        let named = match is_held {
            true => BTreeSet::new(),
            // Nobody may know the topic yet.
            false => {
                Survey::channels(everyone.host(), &topic.name.replace('#', "%23")).await.unwrap_or_default()
            }
        };
        for (channel, of) in topic.channels.iter().enumerate() {
            let place = Place { topic: index, channel };
            let here = held.iter().any(|(name, channel)| *name == topic.name && *channel == of.name);
            if here || (named.contains(&of.name) && !of.ephemeral) {
                known.push((place, here));
            }
        }
    }
    Ok(known)
}

/// The channels that a node holds, with their topics. A topic without channels has one without a name.
async fn held(everyone: &Everyone) -> io::Result<Vec<(String, String)>> {
    let stats = get_json(everyone.host(), "/stats?format=json&include_clients=false", PATIENCE).await?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut held = Vec::new();
    for topic in list(&stats["topics"]) {
        let name = text(&topic["topic_name"]);
        held.push((name.clone(), String::new()));
        held.extend(list(&topic["channels"]).iter().map(|of| (name.clone(), text(&of["channel_name"]))));
    }
    Ok(held)
}
