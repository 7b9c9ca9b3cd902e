//! What the mesh holds and which names exist, as one node knows it.
//!
//! - *Facts* ([`fact`](crate::fact)): per node what it holds and says about itself. One writer each, so there
//!   is nothing to resolve; of two generations of a node the later one counts.
//! - *Names* ([`names`](crate::names)): that a topic or channel was made or deleted. Anybody writes them, the
//!   last writer wins. A delete of a topic covers its channels. What was deleted is remembered for a week.
//!
//! They spread as small items on datagrams ([`news`]), which may be lost, and for certain by the exchange of
//! digests ([`exchange`]). Names outlive the process ([`save`]).
//!
//! An instance of a topic or channel on this node is deleted if its name was deleted after the instance was
//! made. If the instance is the younger one, the name is made again. So a delete reaches a node that was
//! away, and does not destroy what was made after it.
//!
//! **Memory**: an item of a fact costs 16 bytes (32 at worst, while its list grows), a name about 130, a node
//! about 1 KiB. A thousand nodes that all hold the same thousand topics take 17 MB, and a test counts them.
//! While a reader keeps a view, a fact or bucket that changes exists twice.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bruit_wire::{ChannelName, TopicName};
use bytes::Bytes;

use crate::{
    About, Command, LocalChange, LocalWhat, Member, Name, NodeId, Now, View,
    fact::{Fact, Items},
    names::{Handle, Mark, Names},
    stamp::{Clock, Stamp},
    view::Hidden,
};

mod exchange;
mod hidden;
mod instances;
mod news;
mod registrants;
mod save;
#[cfg(test)]
mod tests;

pub use exchange::Merged;
pub(crate) use hidden::Hide;
use instances::Instance;
use news::Outbox;
pub use news::{Heard, NEWS_MAX, NewsKey};
use registrants::Registrants;

/// How long a deleted name is remembered. A node that was away for longer may bring it back.
const TOMBSTONE_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// By when a node has told what it found in its journal.
const RECOVERED_BY: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_secs(1);
/// Most names that are remembered as doomed.
const DOOMED_MAX: usize = 100_000;

/// How much a catalogue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatalogueStats {
    /// Names that somebody made or deleted.
    pub names: u64,
    /// Those of them that are only remembered for a while, mostly since they were deleted.
    pub tombstones: u64,
    /// Names held, summed over nodes.
    pub items: u64,
    /// Nodes of which anything is known.
    pub owners: u64,
    /// An estimate of the memory used.
    pub bytes: u64,
    /// Names left out since there were too many, since the start.
    pub left_out: u64,
}

/// Everything that a node knows about what the mesh holds.
///
/// Changes come in through [`local`](Self::local), [`create`](Self::create), [`delete`](Self::delete),
/// [`tombstone`](Self::tombstone) and [`set_about`](Self::set_about); what others say through
/// [`hear`](Self::hear) and [`merge`](Self::merge). After each of them, drain
/// [`take_command`](Self::take_command); [`take_news`](Self::take_news) is best called when a packet is
/// about to be filled, so that a burst of changes becomes one item.
#[derive(Debug)]
pub struct Catalogue {
    me: NodeId,
    clock: Clock,
    names: Names,
    facts: BTreeMap<NodeId, Fact>,
    /// Generations of nodes whose facts were forgotten, so that others do not teach them again.
    forgotten: BTreeMap<NodeId, u64>,
    local: BTreeMap<Handle, Instance>,
    /// Names of which an instance found in the journal is older than the delete, and until when to believe so.
    doomed: BTreeMap<Name, Duration>,
    hidden: Arc<Hidden>,
    registrants: Registrants,
    outbox: Outbox,
    commands: VecDeque<Command>,
    changed: u64,
    changed_names: u64,
    left_out: u64,
    /// Where the last answer that was cut short ended.
    cursor: (usize, usize),
    /// When the first call was, by both clocks.
    started: Option<Now>,
    ticked: Option<Duration>,
}

impl Catalogue {
    /// What a node knows at its start. `generation` counts its starts; of two the greater is believed.
    #[must_use]
    pub fn new(me: NodeId, generation: u64, about: About) -> Self {
        let mut catalogue = Self {
            me,
            clock: Clock::default(),
            names: Names::default(),
            facts: BTreeMap::from([(me, Fact::new(generation))]),
            forgotten: BTreeMap::new(),
            local: BTreeMap::new(),
            doomed: BTreeMap::new(),
            hidden: Arc::default(),
            registrants: Registrants::default(),
            outbox: Outbox::default(),
            commands: VecDeque::new(),
            changed: 1,
            changed_names: 1,
            left_out: 0,
            cursor: (0, 0),
            started: None,
            ticked: None,
        };
        catalogue.set_about(about);
        catalogue
    }

    /// Takes over what came or went on this node. What was found in the journal should be told before
    /// anything is heard.
    pub fn local(&mut self, now: Now, change: &LocalChange) {
        self.tick(now);
        let Some(handle) = self.intern(&change.name) else { return };
        let held = match change.what {
            LocalWhat::Created => self.created(now, handle, change),
            LocalWhat::Recovered => self.recovered(now, handle, change),
            LocalWhat::Gone => self.gone(now, handle, change),
        };
        if let Some(held) = held {
            self.state(handle, held);
        }
        self.names.release(handle);
    }

    /// Takes over what this node says about itself.
    pub fn set_about(&mut self, about: About) {
        let about = About { registrants: self.registrants.own(), ..about };
        let Some(fact) = self.facts.get_mut(&self.me) else { return };
        if fact.about.as_deref() == Some(&about) {
            return;
        }
        let version = fact.contiguous + 1;
        fact.note(version);
        fact.set_about(version, about.clone());
        self.outbox.push_about(self.me, fact.generation, version, about);
        self.changed += 1;
    }

    /// A user wants this name to exist. A channel's topic is made with it. Nothing happens to an ephemeral
    /// name, which exists while a node holds it.
    pub fn create(&mut self, now: Now, name: &Name) {
        self.tick(now);
        if name.is_ephemeral() {
            return;
        }
        if name.channel.is_some() {
            self.make(now, &Name::topic(name.topic.clone()));
        }
        self.make(now, name);
    }

    /// A user deletes this name in the whole mesh, a topic with its channels. `false`, and nothing is
    /// changed, if no node that is known holds it and nobody made it.
    pub fn delete(&mut self, now: Now, name: &Name) -> bool {
        self.tick(now);
        let channel = name.channel.as_ref().map(ChannelName::as_str);
        let Some(handle) = self.names.find(name.topic.as_str(), channel) else { return false };
        let is_held = || self.facts.values().any(|fact| crate::fact::holds(&fact.items, handle));
        if !self.names.mark(handle).is_live() && !is_held() {
            return false;
        }
        self.names.retain(handle);
        let gone = self.clock.next(now);
        self.mark(now, handle, name, Mark { made: Stamp::NEVER, gone });
        self.announce(handle, name);
        self.names.release(handle);
        true
    }

    /// A user hides a producer of a topic from lookups: for 45 seconds, or until it no longer holds it.
    pub fn tombstone(&mut self, now: Now, topic: &TopicName, node: NodeId) {
        self.tick(now);
        let stamp = self.clock.next(now);
        let version = self.held_since(topic, node).unwrap_or(0);
        if self.hide(now, topic, node, stamp, version) {
            self.outbox.push_hide(topic, node, stamp, version);
        }
    }

    /// What the broker has to do, oldest first.
    pub fn take_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The next item to be broadcast: this node's own changes, and nothing else. Whoever hears one for the
    /// first time passes it on as it came.
    pub fn take_news(&mut self) -> Option<(NewsKey, Bytes)> {
        let facts = &self.facts;
        self.outbox.take(|owner| facts.get(&owner).map(|fact| (fact.generation, fact.contiguous)))
    }

    /// Others know of a later life of this node, or of another one at its address: what it says counts from
    /// this generation on.
    pub fn raise_generation(&mut self, generation: u64) {
        let Some(fact) = self.facts.get_mut(&self.me).filter(|fact| fact.generation < generation) else {
            return;
        };
        fact.generation = generation;
        // What waits there names the earlier generation.
        self.outbox.tell_only_head(self.me);
        self.changed += 1;
    }

    /// Forgets what a node held that is long gone; what it says in a later generation is taken again.
    pub fn forget(&mut self, owner: NodeId) {
        if owner == self.me {
            return;
        }
        let Some(mut fact) = self.facts.remove(&owner) else { return };
        fact.clear(&mut self.names);
        if self.forgotten.len() >= crate::digest::OWNERS_MAX {
            self.forgotten.pop_first();
        }
        self.forgotten.insert(owner, fact.generation);
        self.changed += 1;
    }

    /// Lets time-outs happen; wanted at every time-out of the mesh, and done by most other calls as well.
    pub fn tick(&mut self, now: Now) {
        self.started.get_or_insert(now);
        if self.ticked.is_some_and(|ticked| now.elapsed < ticked + TICK) {
            return;
        }
        self.ticked = Some(now.elapsed);
        if self.names.forget_until(self.week_ago(now)) {
            self.names_changed();
        }
        let known = self.doomed.len();
        self.doomed.retain(|_, until| *until > now.elapsed);
        if self.doomed.len() != known {
            self.names_changed();
        }
        if self.clock.has_run_away(now) {
            self.calm(now);
        }
        self.unhide(now);
        self.forget_orphans(now);
    }

    /// Equal on two nodes that know the same names and facts. Facts of nodes that are not live count as well;
    /// see [`hash_of`](Self::hash_of).
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash_of(self.facts.iter().map(|(owner, fact)| (*owner, fact.generation)))
    }

    /// Equal on two nodes that know the same names, and the same facts of these nodes in these generations.
    /// To compare only live ones spares exchanges about the dead, which every node forgets in its own time.
    #[must_use]
    pub fn hash_of(&self, live: impl Iterator<Item = (NodeId, u64)>) -> u64 {
        let names = (0..crate::names::BUCKETS).fold(0, |hash, bucket| hash ^ self.names.bucket_hash(bucket));
        let owners = live.flat_map(|live| self.with_registrants(live));
        owners.fold(names, |hash, (owner, generation)| match self.facts.get(&owner) {
            Some(fact) if fact.generation == generation => hash ^ fact.hash(owner),
            _ => hash,
        })
    }

    /// Whether anything is known to be missing: a live node's fact, or a change of one before a known one.
    #[must_use]
    pub fn misses(&self, live: impl Iterator<Item = (NodeId, u64)>) -> bool {
        self.missing(live).is_some()
    }

    /// The first live node of which something is known to be missing; it can tell itself.
    #[must_use]
    pub fn missing(&self, mut live: impl Iterator<Item = (NodeId, u64)>) -> Option<NodeId> {
        let is_missing = |(owner, generation): (NodeId, u64)| match self.facts.get(&owner) {
            // A later generation is known already: the membership will follow.
            Some(fact) if fact.generation > generation => false,
            Some(fact) => fact.generation < generation || fact.contiguous == 0 || fact.head > fact.contiguous,
            None => true,
        };
        let lacks = |live: &(NodeId, u64)| self.with_registrants(*live).any(is_missing);
        live.find(lacks).map(|(owner, _)| owner)
    }

    /// How many changes this node has made since it started.
    #[must_use]
    pub fn own_version(&self) -> u64 {
        self.facts.get(&self.me).map_or(0, |fact| fact.contiguous)
    }

    /// What a node says about itself in this generation.
    #[must_use]
    pub fn about(&self, owner: NodeId, generation: u64) -> Option<Arc<About>> {
        self.facts.get(&owner).filter(|fact| fact.generation == generation)?.about.clone()
    }

    /// Shows what is known, given who is there. `about` need not be filled in.
    #[must_use]
    pub fn view(&self, mut members: Vec<Member>) -> Arc<View> {
        members.sort_unstable_by_key(|member| member.peer.id);
        members.dedup_by_key(|member| member.peer.id);
        let mut registrants = Vec::new();
        let with_held = members.into_iter().map(|mut member| {
            let fact = self.facts.get(&member.peer.id);
            let fact = fact.filter(|fact| fact.generation == member.peer.generation);
            if let Some(about) = fact.and_then(|fact| fact.about.as_ref()) {
                member.about = Some(Arc::clone(about));
            }
            let held =
                fact.filter(|_| member.is_live()).map_or_else(Items::default, |fact| Arc::clone(&fact.items));
            self.show_registrants(&member, &mut registrants);
            (member, held)
        });
        let members = with_held.collect();
        let names = self.names.snapshot();
        Arc::new(View::new(self.me, members, registrants, names, Arc::clone(&self.hidden)))
    }

    /// Rises whenever something changes that a view shows, members left out.
    #[must_use]
    pub const fn changed(&self) -> u64 {
        self.changed
    }

    /// Rises whenever [`saved`](Self::saved) would give something else.
    #[must_use]
    pub const fn changed_names(&self) -> u64 {
        self.changed_names
    }

    /// How much it holds. Looks at every name.
    #[must_use]
    pub fn stats(&self) -> CatalogueStats {
        let (names, tombstones) = self.names.counts();
        let items = self.facts.values().map(|fact| fact.items.len() as u64).sum();
        let facts: usize = self.facts.values().map(Fact::bytes).sum();
        CatalogueStats {
            names: names as u64,
            tombstones: tombstones as u64,
            items,
            owners: self.facts.len() as u64,
            bytes: (facts + self.names.bytes() + self.local.len() * 48) as u64,
            left_out: self.left_out,
        }
    }

    /// What was deleted before this is forgotten. The wall clock may jump; a week goes by the clock that does
    /// not.
    fn week_ago(&self, now: Now) -> Stamp {
        let started = self.started.unwrap_or(now);
        let passed = now.elapsed.saturating_sub(started.elapsed).as_millis() as u64;
        Stamp::at(started.wall_ms.saturating_add(passed).saturating_sub(TOMBSTONE_MS))
    }

    fn intern(&mut self, name: &Name) -> Option<Handle> {
        let handle = self.names.intern(name.topic.as_str(), name.channel.as_ref().map(ChannelName::as_str));
        self.left_out += u64::from(handle.is_none());
        handle
    }

    fn names_changed(&mut self) {
        self.changed += 1;
        self.changed_names += 1;
    }
}
