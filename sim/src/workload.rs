//! Who uses the node, and the parts of a run as they see it.

pub(crate) mod consumer;
pub(crate) mod publisher;

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    task::spawn_local,
    time::{Instant, sleep},
};

use crate::{
    client::get_json,
    dice::Dice,
    gate::Gate,
    history::{Counts, Event, Recorder},
    shape::{Place, Shape},
    world::TCP_PORT,
};

/// Name of the node's host.
pub const NODE: &str = "node";

/// The longest that anything may take once the faults are over: a publish, an answer of the statistics,
/// the delivery of what is left.
pub(crate) const HEALED_WITHIN: Duration = Duration::from_secs(40);

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Publish and consume, with all the trouble that clients make.
    Busy,
    /// Nothing: nobody is connected.
    Quiet,
    /// Consume and finish everything.
    Drain,
    /// The run is over.
    Over,
}

/// The current phase, and word to all when it changes. Not a `watch` channel: that one wakes its receivers
/// in an order that it draws from tokio's own chance.
pub(crate) struct Phases {
    current: Mutex<Phase>,
    changed: Notify,
}

/// The node that clients use, and how consumers find it.
#[derive(Debug, Clone)]
pub struct Target {
    host: Arc<str>,
    lookup: Option<Lookup>,
}

/// Consumers come only when a lookup names the node.
#[derive(Debug, Clone)]
struct Lookup {
    /// Where the node is.
    address: IpAddr,
    /// Whom to ask: any of these.
    hosts: Arc<[String]>,
}

impl Target {
    /// A node whose address everybody knows.
    #[must_use]
    pub fn direct(host: &str) -> Self {
        Self { host: host.into(), lookup: None }
    }

    /// A node at `address` that consumers find by asking any of `hosts` for producers.
    #[must_use]
    pub fn found(host: &str, address: IpAddr, hosts: Arc<[String]>) -> Self {
        Self { host: host.into(), lookup: Some(Lookup { address, hosts }) }
    }

    /// Where a consumer of `topic` connects.
    async fn find(&self, topic: &str, dice: &mut Dice) -> io::Result<String> {
        let Some(Lookup { address, hosts }) = &self.lookup else { return Ok(self.host.to_string()) };
        let asked = dice.pick(hosts).map_or(&*self.host, String::as_str);
        let path = format!("/lookup?topic={}", topic.replace('#', "%23"));
        let found = get_json(asked, &path, Duration::from_secs(2)).await;
        let named = found.as_ref().is_ok_and(|found| {
            let producers = found["producers"].as_array().map_or(&[][..], Vec::as_slice);
            let here = |producer: &serde_json::Value| {
                producer["broadcast_address"] == address.to_string() && producer["tcp_port"] == TCP_PORT
            };
            producers.iter().any(here)
        });
        if named {
            return Ok(address.to_string());
        }
        // Clients ask once a minute; the run has no time for that.
        sleep(dice.millis(100, 300)).await;
        Err(io::ErrorKind::NotFound.into())
    }
}

/// What every client has.
#[derive(Clone)]
pub(crate) struct Everyone {
    pub(crate) shape: Arc<Shape>,
    pub(crate) target: Target,
    pub(crate) recorder: Recorder,
    pub(crate) phases: Arc<Phases>,
    /// Indices of the topics that publishers here publish to.
    pub(crate) published: Arc<[usize]>,
    pub(crate) active: Arc<AtomicUsize>,
}

/// Runs all clients until the node has delivered everything that it holds after `healed` opened, or
/// has failed to.
pub async fn run(shape: Arc<Shape>, target: Target, recorder: Recorder, dice: Dice, healed: Gate) {
    let everyone = Everyone {
        shape: shape.clone(),
        target,
        recorder: recorder.clone(),
        phases: Arc::new(Phases::busy()),
        published: (0..shape.topics.len()).collect(),
        active: Arc::default(),
    };
    let mut label = 0;
    let mut own_dice = || {
        label += 1;
        dice.fork(label)
    };
    for _ in 0..shape.publishers {
        spawn_local(publisher::run(everyone.clone(), own_dice()));
    }
    for place in shape.places() {
        for _ in 0..shape.channel(place).consumers {
            spawn_local(consumer::run(everyone.clone(), place, own_dice()));
        }
    }
    if let Err(why) = finish(&everyone, healed).await {
        recorder.record(Event::Stuck(why));
    }
    everyone.phases.set(Phase::Over);
    // Connections end before their host does, or turmoil would trip over them.
    everyone.all_gone().await;
}

/// The end of a run: everybody leaves, the node is asked what it holds, then all of that is taken.
async fn finish(everyone: &Everyone, healed: Gate) -> Result<(), String> {
    healed.pass().await;
    let deadline = Instant::now() + HEALED_WITHIN;
    for topic in 0..everyone.shape.topics.len() {
        publisher::probe(everyone, topic, deadline).await?;
    }
    sleep(Duration::from_millis(300)).await;
    everyone.phases.set(Phase::Quiet);
    everyone.all_gone().await;
    sleep(Duration::from_millis(200)).await;
    for (place, counts) in everyone.counts(deadline).await? {
        everyone.recorder.record(Event::Quiet(place, counts));
    }
    // Nothing that is delivered before this moment is later than it.
    sleep(Duration::from_millis(5)).await;
    everyone.recorder.record(Event::Draining);
    everyone.phases.set(Phase::Drain);
    everyone.drained(Instant::now() + HEALED_WITHIN).await
}

impl Phases {
    /// A run begins.
    pub(crate) fn busy() -> Self {
        Self { current: Mutex::new(Phase::Busy), changed: Notify::new() }
    }

    pub(crate) fn set(&self, phase: Phase) {
        *self.current.lock() = phase;
        self.changed.notify_waiters();
    }

    /// Waits until the phase is another than `phase`.
    async fn end_of(&self, phase: Phase) {
        loop {
            let changed = self.changed.notified();
            if *self.current.lock() != phase {
                return;
            }
            changed.await;
        }
    }
}

impl Everyone {
    /// Waits until no client is connected or about to be.
    pub(crate) async fn all_gone(&self) {
        while self.active.load(Ordering::Relaxed) > 0 {
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until every channel about which something is promised is known and empty.
    async fn drained(&self, deadline: Instant) -> Result<(), String> {
        loop {
            sleep(Duration::from_millis(100)).await;
            let counts = self.counts(deadline).await?;
            let left: u64 = counts.iter().map(|(_, counts)| counts.total()).sum();
            let all_known = counts.len() == self.shape.kept_places().count();
            if left == 0 && all_known {
                for (place, counts) in counts {
                    self.recorder.record(Event::Drained(place, counts));
                }
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{HEALED_WITHIN:?} after the faults not all was delivered: {counts:?}"));
            }
        }
    }

    /// What the node says of the channels about which something is promised.
    pub(crate) async fn counts(&self, deadline: Instant) -> Result<Vec<(Place, Counts)>, String> {
        loop {
            let stats = get_json(
                &self.target.host,
                "/stats?format=json&include_clients=false",
                Duration::from_secs(5),
            )
            .await;
            match stats {
                Ok(stats) => return Ok(self.read_counts(&stats)),
                Err(error) if Instant::now() > deadline => return Err(format!("no statistics: {error}")),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn read_counts(&self, stats: &serde_json::Value) -> Vec<(Place, Counts)> {
        let named = |list: &serde_json::Value, key: &str, name: &str| {
            list.as_array().and_then(|list| list.iter().find(|entry| entry[key] == name).cloned())
        };
        let of = |place: Place| {
            let topic = named(&stats["topics"], "topic_name", &self.shape.topic(place.topic).name)?;
            let channel = named(&topic["channels"], "channel_name", &self.shape.channel(place).name)?;
            let count = |key: &str| channel[key].as_u64().unwrap_or(u64::MAX >> 8);
            let (depth, in_flight) = (count("depth"), count("in_flight_count"));
            Some((place, Counts { depth, in_flight, deferred: count("deferred_count") }))
        };
        self.shape.kept_places().filter_map(of).collect()
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phases.current.lock()
    }

    /// turmoil's name of the node's host.
    pub(crate) fn host(&self) -> &str {
        &self.target.host
    }

    /// Counts the caller among the active until the returned value is dropped.
    pub(crate) fn enter(&self) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active(self.active.clone())
    }
}

pub(crate) struct Active(Arc<AtomicUsize>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
