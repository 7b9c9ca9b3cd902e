//! Subscribe anywhere: a consumer that is connected here gets what every node of the mesh holds of its channel.
//!
//! A [`feed`] is one channel with consumers here; it has a [`link`] to every other node that holds the topic.
//! At the other end of a link the [`owner`] treats this node as one more consumer. [`inbound`] is what a link
//! has brought, [`grant`] the credit that it has, [`credit`] how credit is divided, [`pulse`] whether its
//! connection still lives, [`report`] what is shown of all this. This module keeps the links that are wanted: it
//! compares, whenever the view of the mesh changes, a consumer comes or goes, or a pause is over, what there should
//! be with what there is.
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
mod pulse;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bruit_gossip::{NodeId, Peer, View};
use bruit_wire::{ChannelName, TopicName};
use parking_lot::Mutex;
use tokio::{
    select,
    sync::Notify,
    time::{Instant, sleep_until},
};

#[cfg(test)]
pub(crate) use self::report::PeerReport;
pub(crate) use self::{
    feed::Feed,
    report::{LinkReport, RelayReport},
};
use self::{
    link::{Ended, Stop},
    pulse::Pulses,
    report::Totals,
};
use crate::{
    broker::{Broker, Client, Place},
    config::{Config, Limits, Relay},
    env::Env,
    exit::Exiting,
    mesh::MeshHandle,
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
    /// Consumers here that stand for other nodes, by client.
    guests: Mutex<BTreeMap<u32, Standing>>,
    pulses: Pulses,
    /// Links that there was no room for when it was last looked.
    missing: AtomicUsize,
    totals: Mutex<BTreeMap<NodeId, Totals>>,
}

/// A consumer that stands for another node.
struct Standing {
    node: NodeId,
    /// Which start of that node.
    generation: u64,
    client: Arc<Client>,
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

impl Relays {
    /// Begins to serve links of other nodes, and to open links for consumers here unless that is off.
    pub(crate) fn start(
        config: &Config,
        env: &Env,
        broker: &Arc<Broker>,
        mesh: &MeshHandle,
        exit: Exiting,
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
            pulses: Pulses::default(),
            missing: AtomicUsize::new(0),
            totals: Mutex::default(),
        });
        // The mesh does not keep the relays alive, which keep it: a node that has ended lets go of its sockets.
        let serving = Arc::downgrade(&relays);
        relays.mesh.serve_relays(Arc::new(move |from, stream| {
            let Some(relays) = serving.upgrade() else { return };
            // On the thread of the channels.
            let spawn = Arc::clone(&relays.env.spawn);
            spawn.spawn(Box::pin(async move {
                if let Err(error) = owner::serve(&relays, from, stream).await {
                    tracing::debug!("a link of {from} has ended: {error}");
                }
            }));
        }));
        // With many channels in a large mesh a look takes a while.
        relays.env.background.spawn(Box::pin(Arc::clone(&relays).run(exit)));
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

    fn wall_now(&self) -> SystemTime {
        self.env.wall.now()
    }

    /// Which start of this node the others know, or will.
    fn generation(&self) -> u64 {
        let view = self.mesh.view();
        view.member(view.me()).map_or(0, |member| member.peer.generation)
    }

    async fn run(self: Arc<Self>, exit: Exiting) {
        loop {
            // Before the view itself, so that a newer one is not missed.
            let shown = self.mesh.views_shown();
            let view = self.mesh.view();
            let next = self.reconcile(&view);
            self.expel(&view);
            self.feel_pulses(Instant::now());
            self.forget_strangers(&view);
            select! {
                biased;
                () = exit.told() => break,
                () = self.mesh.view_after(shown) => {}
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
        // Without the lock, which consumers that come and go wait for.
        let topics: BTreeSet<TopicName> =
            self.channels.lock().keys().map(|(topic, _)| topic.clone()).collect();
        let owners: BTreeMap<TopicName, BTreeMap<NodeId, Peer>> =
            topics.into_iter().map(|topic| (topic.clone(), owners(view, &topic))).collect();
        let mut channels = self.channels.lock();
        let mut count: usize = channels.values().map(|fed| fed.links.len()).sum();
        let mut missing = 0;
        for (key, fed) in channels.iter_mut() {
            // One that came meanwhile has asked for another look.
            let known = owners.get(&key.0).filter(|_| !fed.feed.is_idle());
            let wanted = known.cloned().unwrap_or_default();
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
                    None if count >= LINKS_MAX => missing += 1,
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
        if missing > 0 && self.missing.swap(missing, Ordering::Relaxed) == 0 {
            tracing::warn!(
                "there are {LINKS_MAX} links to other nodes, and no more are opened: {missing} are missing"
            );
        } else if missing == 0 {
            self.missing.store(0, Ordering::Relaxed);
        }
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
        for Standing { node, generation, client } in guests.values() {
            let Some(member) = view.member(*node) else { continue };
            let known = member.peer.generation;
            if known > *generation || (known == *generation && !member.is_live()) {
                client.close();
            }
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
