//! Which nodes a consumer is connected to: those that were named, or those that lookups name.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bruit_wire::TopicName;
use tokio::{
    select,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    super::{http::Http, lookup},
    connection::{self, Supply},
};

/// How often to ask lookups, less up to a third.
pub(super) const LOOK: Duration = Duration::from_secs(60);
/// How long to wait before a lost connection is looked for again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often turns change where not all connections can be served at once.
const TURN: Duration = Duration::from_secs(5);

/// Where nodes are found.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) fixed: Vec<String>,
    pub(super) lookups: Vec<Http>,
    pub(super) interval: Duration,
}

/// A topic at a node.
type Spot = (TopicName, String);

/// Keeps a connection for each topic that is wanted at each node that is known to hold it. Ends when nobody
/// wants messages any more.
pub(super) async fn run(places: Places, supply: Supply, mut wanted: mpsc::UnboundedReceiver<TopicName>) {
    let places = Arc::new(places);
    let (mut topics, mut open, mut connections) = (BTreeSet::new(), BTreeSet::new(), JoinSet::new());
    let mut lost: BTreeMap<Spot, Duration> = BTreeMap::new();
    let (mut look, mut turn) = (Instant::now(), Instant::now() + TURN);
    // One look at a time; a lookup that hangs keeps nothing else waiting.
    let mut looking = JoinSet::new();
    loop {
        let pause = supply.pace.tick(false);
        let seen = supply.pace.changes();
        select! {
            biased;
            () = supply.messages.closed() => break,
            topic = wanted.recv() => {
                let Some(topic) = topic else { break };
                topics.insert(topic);
                look = Instant::now();
            }
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                let Ok((spot, began, outcome)) = ended else { continue };
                let (spot, began, outcome): (Spot, Instant, anyhow::Result<()>) = (spot, began, outcome);
                open.remove(&spot);
                let before = lost.get(&spot).copied().filter(|_| began.elapsed() < AGAIN.1);
                let next = before.map_or(AGAIN.0, |before| (before * 2).min(AGAIN.1));
                if let Err(error) = outcome {
                    eprintln!("bruit: {} at {}: {error:#}; looking again in {next:?}", spot.0, spot.1);
                }
                lost.insert(spot, next);
                look = look.min(Instant::now() + next);
            }
            Some(found) = looking.join_next(), if !looking.is_empty() => {
                for spot in found.unwrap_or_default() {
                    if open.insert(Spot::clone(&spot)) {
                        let supply = supply.clone();
                        connections.spawn(async move {
                            let began = Instant::now();
                            let outcome = connection::run(&spot.1, &spot.0, &supply).await;
                            (spot, began, outcome)
                        });
                    }
                }
            }
            () = sleep_until(look), if looking.is_empty() => {
                let (places, topics) = (Arc::clone(&places), topics.clone());
                look = Instant::now() + places.interval.mul_f64(jitter());
                looking.spawn(async move { places.find(&topics).await });
            }
            () = sleep_until(pause.unwrap_or(turn)), if pause.is_some() => {}
            () = supply.pace.changed_after(seen) => {}
            () = sleep_until(turn) => {
                supply.pace.tick(true);
                turn = Instant::now() + TURN;
            }
        }
    }
    // Those that are still being opened are given up with this.
    while let Some(ended) = connections.join_next().await {
        if let Ok((spot, _, Err(error))) = ended {
            eprintln!("bruit: {} at {}: {error:#}", spot.0, spot.1);
        }
    }
}

impl Places {
    async fn find(&self, topics: &BTreeSet<TopicName>) -> BTreeSet<Spot> {
        let mut spots = BTreeSet::new();
        for topic in topics {
            spots.extend(self.fixed.iter().map(|address| (topic.clone(), address.clone())));
            for http in &self.lookups {
                match lookup::lookup(http, topic).await {
                    Ok(found) => {
                        let found = found.iter().flat_map(lookup::producers);
                        spots.extend(found.map(|address| (topic.clone(), address)));
                    }
                    Err(error) => eprintln!("bruit: {error:#}; asking again"),
                }
            }
        }
        spots
    }
}

/// A factor from 0.7 to 1, so that consumers which start together do not ask together for ever.
fn jitter() -> f64 {
    let random = RandomState::new().build_hasher().finish() % 1024;
    0.7 + 0.3 * random as f64 / 1024.0
}
