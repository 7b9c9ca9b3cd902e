//! Subscribe anywhere: a consumer that is connected here gets what every node of the mesh holds of its channel.
//!
//! A [`feed`] is one channel with consumers here; it has a [`link`] to every other node that holds the topic.
//! At the other end of a link the [`owner`] treats this node as one more consumer. [`inbound`] is what a link
//! has brought, [`grant`] the credit that it has, [`credit`] how credit is divided. This module keeps the
//! links that are wanted: it compares, whenever the view of the mesh changes, a consumer comes or goes, or a
//! pause is over, what there should be with what there is.
//!
//! **Invariants:** a message stays with its owner until the consumer's FIN has reached it. A relay makes no
//! topic, and no channel that lasts, on another node. Consumers of other nodes cause no links, so nothing goes
//! in circles. Nothing here is stored.

mod credit;
mod feed;
mod grant;
mod inbound;
mod link;
mod owner;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bruit_gossip::{NodeId, Peer, View};
use bruit_wire::{ChannelName, TopicName};
use parking_lot::Mutex;
use tokio::{
    select,
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

pub(crate) use self::feed::{Feed, LinkStats};
use self::link::{Ended, Stop};
use crate::{
    broker::{Broker, Client, Place},
    config::{Config, Limits, Relay},
    env::Env,
    mesh::{MeshHandle, PeerStream},
};

/// Links of other nodes to channels here, at most; further ones are told that there is no such channel.
const GUESTS_MAX: usize = 16_384;
/// Links to other nodes, at most; beyond, channels have consumers here that miss some owners, and the log says
/// so.
const LINKS_MAX: usize = 16_384;
/// Shortest and longest pause before a link that was not opened, or was lost, is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// What is wanted is compared with what is there at least so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Key = (TopicName, ChannelName);

/// All relaying of a node, in both directions.
pub(crate) struct Relays {
    env: Env,
    broker: Arc<Broker>,
    mesh: MeshHandle,
    limits: Limits,
    place: Place,
    host: String,
    tag: u16,
    opens_links: bool,
    channels: Mutex<BTreeMap<Key, Fed>>,
    woken: Notify,
    /// Consumers here that stand for other nodes: by client, with their node and which start of it.
    guests: Mutex<BTreeMap<u32, (NodeId, u64, Arc<Client>)>>,
    totals: Mutex<BTreeMap<NodeId, Totals>>,
}

/// Messages relayed from and to a node since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// From it, to consumers here.
    pub(crate) received: u64,
    /// To it, for its consumers.
    pub(crate) sent: u64,
}

/// A channel with consumers here.
struct Fed {
    feed: Arc<Feed>,
    links: BTreeMap<NodeId, Attempt>,
}

/// A link to an owner, or what became of it.
struct Attempt {
    owner: Peer,
    stop: Arc<Stop>,
    state: LinkState,
    pause: Duration,
}

/// How a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Opening,
    Open,
    /// To be tried again.
    Waiting(Instant),
}

/// A link as it is shown.
#[derive(Debug, Clone)]
pub(crate) struct LinkReport {
    /// The owner.
    pub(crate) owner: Peer,
    /// `opening`, `open` or `waiting`.
    pub(crate) state: &'static str,
    /// Its figures; zeros while it does not stand.
    pub(crate) stats: LinkStats,
    /// The round-trip to the owner, if it was measured.
    pub(crate) rtt: Option<Duration>,
}

impl Relays {
    /// Begins to serve links of other nodes, and to open links for consumers here unless that is off.
    pub(crate) fn start(
        config: &Config,
        env: &Env,
        broker: &Arc<Broker>,
        mesh: &MeshHandle,
        exit: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let place = Place { region: config.topology_region.clone(), zone: config.topology_zone.clone() };
        let relays = Arc::new(Self {
            env: env.clone(),
            broker: Arc::clone(broker),
            mesh: mesh.clone(),
            limits: config.limits.clone(),
            place,
            host: config.hostname.clone(),
            tag: broker.tag(),
            opens_links: config.relay == Relay::Auto,
            channels: Mutex::default(),
            woken: Notify::new(),
            guests: Mutex::default(),
            totals: Mutex::default(),
        });
        let serving = Arc::clone(&relays);
        relays.mesh.serve_relays(Arc::new(move |from, stream| {
            let relays = Arc::clone(&serving);
            // On the thread of the channels.
            serving.env.spawn.spawn(Box::pin(async move {
                if let Err(error) = owner::serve(&relays, from, stream).await {
                    tracing::debug!("a link of {from} has ended: {error}");
                }
            }));
        }));
        relays.env.spawn.spawn(Box::pin(Arc::clone(&relays).run(exit)));
        relays
    }

    /// A consumer has subscribed. `None` if this node does not relay for its consumers.
    pub(crate) fn join(
        &self,
        topic: &TopicName,
        channel: &ChannelName,
        client: &Arc<Client>,
    ) -> Option<Arc<Feed>> {
        if !self.opens_links {
            return None;
        }
        let mut channels = self.channels.lock();
        let fed = channels.entry((topic.clone(), channel.clone())).or_insert_with(|| Fed {
            feed: Arc::new(Feed::new(topic.clone(), channel.clone(), self.tag)),
            links: BTreeMap::new(),
        });
        fed.feed.join(client);
        self.woken.notify_one();
        Some(Arc::clone(&fed.feed))
    }

    /// A consumer is gone.
    pub(crate) fn leave(&self, feed: &Feed, client: &Client) {
        if feed.leave(client) {
            self.woken.notify_one();
        }
    }

    /// The links of a channel, by owner.
    pub(crate) fn links_of(&self, topic: &TopicName, channel: &ChannelName) -> Vec<LinkReport> {
        let view = self.mesh.view();
        let channels = self.channels.lock();
        let Some(fed) = channels.get(&(topic.clone(), channel.clone())) else { return Vec::new() };
        let report = |(owner, attempt): (&NodeId, &Attempt)| LinkReport {
            owner: attempt.owner,
            state: attempt.state.as_str(),
            stats: fed.feed.link_stats(*owner).unwrap_or_default(),
            rtt: view.member(*owner).and_then(|member| member.rtt),
        };
        fed.links.iter().map(report).collect()
    }

    /// All links by state, and the credit that every owner has.
    pub(crate) fn summary(&self) -> (BTreeMap<&'static str, u64>, BTreeMap<NodeId, u64>) {
        let (mut states, mut credit) = (BTreeMap::new(), BTreeMap::new());
        for fed in self.channels.lock().values() {
            for (owner, attempt) in &fed.links {
                *states.entry(attempt.state.as_str()).or_default() += 1;
                let stats = fed.feed.link_stats(*owner).unwrap_or_default();
                *credit.entry(*owner).or_default() += stats.credit;
            }
        }
        (states, credit)
    }

    /// Links of other nodes to channels here.
    pub(crate) fn guest_count(&self) -> u64 {
        self.guests.lock().len() as u64
    }

    /// What was relayed, by node.
    pub(crate) fn totals(&self) -> BTreeMap<NodeId, Totals> {
        self.totals.lock().clone()
    }

    fn count_out(&self, to: NodeId, count: u64) {
        self.totals.lock().entry(to).or_default().sent += count;
    }

    fn count_in(&self, from: NodeId, count: u64) {
        self.totals.lock().entry(from).or_default().received += count;
    }

    fn wall_now(&self) -> SystemTime {
        self.env.wall.now()
    }

    /// Which start of this node the others know, or will.
    fn generation(&self) -> u64 {
        let view = self.mesh.view();
        view.member(view.me()).map_or(0, |member| member.peer.generation)
    }

    async fn run(self: Arc<Self>, mut exit: watch::Receiver<bool>) {
        let mut views = self.mesh.view_changes();
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            let next = self.reconcile(&view);
            self.expel(&view);
            select! {
                biased;
                // The sender lives as long as the node runs.
                _ = exit.wait_for(|exit| *exit) => break,
                _ = views.changed() => {}
                () = self.woken.notified() => {}
                () = sleep_until(next) => {}
            }
        }
        let channels = self.channels.lock();
        channels.values().flat_map(|fed| fed.links.values()).for_each(|attempt| attempt.stop.stop());
    }

    /// Opens links that are missing and ends those that nobody wants. Returns when to look again.
    fn reconcile(self: &Arc<Self>, view: &View) -> Instant {
        let now = Instant::now();
        let mut next = now + LOOK_EVERY;
        let mut channels = self.channels.lock();
        let mut count: usize = channels.values().map(|fed| fed.links.len()).sum();
        for (key, fed) in channels.iter_mut() {
            let wanted = if fed.feed.is_idle() { BTreeMap::new() } else { owners(view, &key.0) };
            for (owner, attempt) in &fed.links {
                if wanted.get(owner).is_none_or(|peer| peer.generation != attempt.owner.generation) {
                    attempt.stop.stop();
                }
            }
            fed.links.retain(|owner, attempt| {
                !matches!(attempt.state, LinkState::Waiting(_)) || wanted.contains_key(owner)
            });
            for (owner, peer) in wanted {
                match fed.links.get(&owner).map(|attempt| attempt.state) {
                    Some(LinkState::Waiting(until)) if until > now => next = next.min(until),
                    Some(LinkState::Opening | LinkState::Open) => {}
                    None if count >= LINKS_MAX => {
                        tracing::warn!("no link to {owner} for {}/{}: there are {LINKS_MAX}", key.0, key.1);
                    }
                    known => {
                        count += usize::from(known.is_none());
                        let pause = fed.links.get(&owner).map_or(PAUSE.0, |attempt| attempt.pause);
                        let attempt =
                            Attempt { owner: peer, stop: Arc::default(), state: LinkState::Opening, pause };
                        self.open(key.clone(), Arc::clone(&fed.feed), &attempt);
                        fed.links.insert(owner, attempt);
                    }
                }
            }
        }
        channels.retain(|_, fed| !fed.links.is_empty() || !fed.feed.is_idle());
        next
    }

    /// Starts the task of a link.
    fn open(self: &Arc<Self>, key: Key, feed: Arc<Feed>, attempt: &Attempt) {
        let (relays, owner, stop) = (Arc::clone(self), attempt.owner, Arc::clone(&attempt.stop));
        // On the thread of the consumers.
        self.env.spawn.spawn(Box::pin(async move {
            let stood = || {
                relays.with_attempt(&key, &stop, |attempt| {
                    attempt.state = LinkState::Open;
                    attempt.pause = PAUSE.0;
                })
            };
            let ended = link::run(&relays, &feed, &owner, &stop, stood).await;
            if let Ended::Lost(error) = &ended {
                tracing::debug!("the link to {} for {}/{} is lost: {error}", owner.id, key.0, key.1);
            }
            relays.with_attempt(&key, &stop, |attempt| {
                attempt.state = LinkState::Waiting(Instant::now() + attempt.pause);
                attempt.pause = (attempt.pause * 2).min(PAUSE.1);
            });
            relays.woken.notify_one();
        }));
    }

    /// Changes the attempt that has this stop, if it is still the one.
    fn with_attempt(&self, key: &Key, stop: &Arc<Stop>, change: impl FnOnce(&mut Attempt)) {
        let mut channels = self.channels.lock();
        let attempts = channels.get_mut(key).into_iter().flat_map(|fed| fed.links.values_mut());
        if let Some(attempt) = attempts.into_iter().find(|attempt| Arc::ptr_eq(&attempt.stop, stop)) {
            change(attempt);
        }
    }

    /// Ends links of nodes that are gone, or have started again since: what they had is delivered again.
    fn expel(&self, view: &View) {
        let guests = self.guests.lock();
        for (from, generation, client) in guests.values() {
            let Some(member) = view.member(*from) else { continue };
            let known = member.peer.generation;
            if known > *generation || (known == *generation && !member.is_live()) {
                client.close();
            }
        }
    }
}

impl LinkState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Waiting(_) => "waiting",
        }
    }
}

/// The other live nodes that hold a topic.
fn owners(view: &View, topic: &TopicName) -> BTreeMap<NodeId, Peer> {
    let producers = view.producers(topic.as_str());
    let others = producers.iter().map(|producer| producer.member.peer).filter(|peer| peer.id != view.me());
    others.map(|peer| (peer.id, peer)).collect()
}

impl std::fmt::Debug for Relays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relays").field("opens_links", &self.opens_links).finish_non_exhaustive()
    }
}
