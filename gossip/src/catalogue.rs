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
mod news;
mod save;
#[cfg(test)]
mod tests;

pub use exchange::Merged;
use news::Outbox;
pub use news::{Heard, NEWS_MAX, NewsKey};

/// How long a producer stays hidden from lookups (NSQ reference, section 7.3).
const HIDDEN_FOR: Duration = Duration::from_secs(45);
/// How long it is remembered that a producer was hidden, so that a late copy does not hide it again.
const HIDE_REMEMBERED_FOR: Duration = Duration::from_secs(5 * 60);
const HIDDEN_MAX: usize = 4_096;
/// How long a deleted name is remembered. A node that was away for longer may bring it back.
const TOMBSTONE_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// By when a node has told what it found in its journal.
const RECOVERED_BY: Duration = Duration::from_secs(60);
/// How long after its end a deleted instance may still come back from the journal of a node that crashed.
const JOURNALLED_AFTER: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);
const DOOMED_MAX: usize = 100_000;

/// A topic or channel on this node.
#[derive(Clone, Copy, Debug)]
struct Instance {
    number: u64,
    /// When it was made; a delete after this is meant for it.
    since: Stamp,
}

/// A producer that a user hid from the lookups of a topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hide {
    stamp: Stamp,
    at: Duration,
    on: bool,
}

impl Hide {
    pub(crate) const fn is_on(&self) -> bool {
        self.on
    }
}

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
        let gone = self.clock.next(now.wall_ms);
        self.mark(now, handle, name, Mark { made: Stamp::NEVER, gone });
        self.announce(handle, name);
        self.names.release(handle);
        true
    }

    /// A user hides a producer of a topic from lookups: for 45 seconds, or until it no longer holds it.
    pub fn tombstone(&mut self, now: Now, topic: &TopicName, node: NodeId) {
        self.tick(now);
        let stamp = self.clock.next(now.wall_ms);
        if self.hide(now, topic, node, stamp) {
            self.outbox.push_hide(topic, node, stamp);
        }
    }

    /// What the broker has to do, oldest first.
    pub fn take_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The next item to be broadcast: this node's own changes, and nothing else. Whoever hears one for the
    /// first time passes it on as it came.
    pub fn take_news(&mut self) -> Option<(NewsKey, Bytes)> {
        let head = self.facts.get(&self.me).map_or((0, 0), |fact| (fact.generation, fact.contiguous));
        self.outbox.take(self.me, head)
    }

    /// Others know of a later life of this node, or of another one at its address: what it says counts from
    /// this generation on.
    pub fn raise_generation(&mut self, generation: u64) {
        let Some(fact) = self.facts.get_mut(&self.me).filter(|fact| fact.generation < generation) else {
            return;
        };
        fact.generation = generation;
        // What waits there names the earlier generation.
        self.outbox.tell_only_head();
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
        if self.clock.has_run_away(now.wall_ms) {
            self.calm(now);
        }
        self.unhide(now);
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
        live.fold(names, |hash, (owner, generation)| match self.facts.get(&owner) {
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
        let is_missing = |&(owner, generation): &(NodeId, u64)| match self.facts.get(&owner) {
            // A later generation is known already: the membership will follow.
            Some(fact) if fact.generation > generation => false,
            Some(fact) => fact.generation < generation || fact.contiguous == 0 || fact.head > fact.contiguous,
            None => true,
        };
        live.find(is_missing).map(|(owner, _)| owner)
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
        let with_held = members.into_iter().map(|mut member| {
            let fact = self.facts.get(&member.peer.id);
            let fact = fact.filter(|fact| fact.generation == member.peer.generation);
            if let Some(about) = fact.and_then(|fact| fact.about.as_ref()) {
                member.about = Some(Arc::clone(about));
            }
            let held =
                fact.filter(|_| member.is_live()).map_or_else(Items::default, |fact| Arc::clone(&fact.items));
            (member, held)
        });
        Arc::new(View::new(self.me, with_held.collect(), self.names.snapshot(), Arc::clone(&self.hidden)))
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
}

/// What this node's own changes, and changed names, lead to.
impl Catalogue {
    fn created(&mut self, now: Now, handle: Handle, change: &LocalChange) -> Option<bool> {
        let since = self.clock.next(now.wall_ms);
        self.local.insert(handle, Instance { number: change.number, since });
        if self.doomed.remove(&change.name).is_some() {
            self.names_changed();
        }
        let mark = self.names.mark(handle);
        if !mark.is_live() && (mark.is_dead() || !change.name.is_ephemeral()) {
            self.mark(now, handle, &change.name, Mark { made: since, gone: Stamp::NEVER });
            self.announce(handle, &change.name);
        }
        self.want_channels(&change.name);
        Some(true)
    }

    fn recovered(&mut self, now: Now, handle: Handle, change: &LocalChange) -> Option<bool> {
        let name = &change.name;
        let mark = self.names.mark(handle);
        let was_deleted = self.deleted_at(name) > Stamp::NEVER;
        let is_new = !mark.is_live() && was_deleted && !self.is_doomed(name);
        let since = match mark.is_live() {
            true => mark.made,
            // It was made after the delete, and the node crashed before it had saved that.
            false if is_new => self.clock.next(now.wall_ms),
            false => Stamp::LOWEST,
        };
        self.local.insert(handle, Instance { number: change.number, since });
        if is_new || (mark == Mark::NONE && !was_deleted && !name.is_ephemeral()) {
            self.mark(now, handle, name, Mark { made: since, gone: Stamp::NEVER });
        }
        if is_new {
            self.announce(handle, name);
        }
        self.settle(now, handle, name);
        self.want_channels(name);
        Some(true)
    }

    fn gone(&mut self, now: Now, handle: Handle, change: &LocalChange) -> Option<bool> {
        if self.local.get(&handle).is_some_and(|instance| instance.number != change.number) {
            return None;
        }
        self.local.remove(&handle);
        let is_of_change = |name: &Name| name == &change.name || change.name.channel.is_none();
        let same_topic = self.doomed.range_mut(Name::topic(change.name.topic.clone())..);
        for (name, until) in same_topic.take_while(|(name, _)| name.topic == change.name.topic) {
            if is_of_change(name) {
                *until = now.elapsed + JOURNALLED_AFTER;
            }
        }
        if change.name.channel.is_none() {
            for (channel, _) in self.channels_of(&change.name.topic) {
                self.local.remove(&channel);
                self.state(channel, false);
            }
        }
        Some(false)
    }

    /// States that this node holds a name, or no longer does.
    fn state(&mut self, handle: Handle, held: bool) {
        let Some(fact) = self.facts.get_mut(&self.me) else { return };
        if crate::fact::holds(&fact.items, handle) == held {
            return;
        }
        let version = fact.contiguous + 1;
        fact.note(version);
        if fact.set(handle, version, held, &mut self.names).is_err() {
            self.left_out += 1;
        }
        if let Some(name) = self.names.name(handle) {
            self.outbox.push_held(self.me, fact.generation, version, name, held);
        }
        self.changed += 1;
        self.unhide_lost(self.me);
    }

    fn make(&mut self, now: Now, name: &Name) {
        let Some(handle) = self.intern(name) else { return };
        if !self.names.mark(handle).is_live() {
            let made = self.clock.next(now.wall_ms);
            self.mark(now, handle, name, Mark { made, gone: Stamp::NEVER });
            self.announce(handle, name);
        }
        self.names.release(handle);
    }

    /// Merges a mark into a name and does what follows from it here. Whether it was new.
    fn mark(&mut self, now: Now, handle: Handle, name: &Name, mark: Mark) -> bool {
        let is_news = self.names.apply(handle, mark);
        if is_news {
            self.clock.observe(mark.latest());
            self.names_changed();
            self.settle(now, handle, name);
        }
        is_news
    }

    /// Makes the instances on this node follow what is known of their names.
    fn settle(&mut self, now: Now, handle: Handle, name: &Name) {
        self.settle_one(now, handle, name);
        if name.channel.is_none() {
            for (channel, channel_name) in self.channels_of(&name.topic) {
                if self.local.contains_key(&channel) {
                    self.settle_one(now, channel, &channel_name);
                }
            }
        }
    }

    fn settle_one(&mut self, now: Now, handle: Handle, name: &Name) {
        let gone = self.deleted_at(name);
        let mark = self.names.mark(handle);
        let Some(instance) = self.local.get(&handle).copied() else {
            if mark.is_live() {
                self.want_channel(name);
            } else if gone > Stamp::NEVER && now.elapsed < RECOVERED_BY {
                self.doom(name, RECOVERED_BY);
            }
            return;
        };
        if gone >= instance.since {
            // Channels go with their topic.
            if name.channel.is_none() || self.holds_topic(&name.topic) {
                self.commands.push_back(Command::Delete { name: name.clone(), number: instance.number });
            }
            self.local.remove(&handle);
            self.doom(name, Duration::MAX);
            // Made again meanwhile, a channel is missing here now; a topic comes with its first message.
            if mark.is_live() {
                self.want_channel(name);
            }
        } else if mark.is_dead() || (!mark.is_live() && gone > Stamp::NEVER && !name.is_ephemeral()) {
            self.names.apply(handle, Mark { made: instance.since, gone: Stamp::NEVER });
            self.names_changed();
            self.announce(handle, name);
        }
    }

    /// When the name, or its topic, was last deleted.
    fn deleted_at(&self, name: &Name) -> Stamp {
        let topic = self.names.mark_of(name.topic.as_str(), None).gone;
        let channel = name.channel.as_ref().map(ChannelName::as_str);
        topic.max(self.names.mark_of(name.topic.as_str(), channel).gone)
    }

    fn is_doomed(&self, name: &Name) -> bool {
        self.doomed.contains_key(name) || self.doomed.contains_key(&Name::topic(name.topic.clone()))
    }

    fn doom(&mut self, name: &Name, until: Duration) {
        if self.doomed.len() < DOOMED_MAX || self.doomed.contains_key(name) {
            self.doomed.insert(name.clone(), until);
            self.names_changed();
        }
    }

    fn holds_topic(&self, topic: &TopicName) -> bool {
        self.names.find(topic.as_str(), None).is_some_and(|handle| self.local.contains_key(&handle))
    }

    /// A topic on this node has every lasting channel that the mesh knows.
    fn want_channels(&mut self, name: &Name) {
        if name.channel.is_some() {
            return;
        }
        for (handle, channel) in self.channels_of(&name.topic) {
            if self.names.mark(handle).is_live() && !self.local.contains_key(&handle) {
                self.want_channel(&channel);
            }
        }
    }

    fn want_channel(&mut self, name: &Name) {
        let Some(channel) = name.channel.clone().filter(|_| !name.is_ephemeral()) else { return };
        if self.holds_topic(&name.topic) {
            self.commands.push_back(Command::CreateChannel { topic: name.topic.clone(), channel });
        }
    }

    fn channels_of(&self, topic: &TopicName) -> Vec<(Handle, Name)> {
        let channels = self.names.channels(topic.as_str());
        channels.map(|(handle, channel, _)| (handle, Name::channel(topic.clone(), channel.clone()))).collect()
    }

    /// Broadcasts what is known of a name, since this node has changed it.
    fn announce(&mut self, handle: Handle, name: &Name) {
        self.outbox.push_mark(name, self.names.mark(handle));
    }

    fn hide(&mut self, now: Now, topic: &TopicName, node: NodeId, stamp: Stamp) -> bool {
        let key = (topic.clone(), node);
        let known = self.hidden.get(&key);
        if known.is_some_and(|hide| hide.stamp >= stamp)
            || (known.is_none() && self.hidden.len() >= HIDDEN_MAX)
        {
            return false;
        }
        Arc::make_mut(&mut self.hidden).insert(key, Hide { stamp, at: now.elapsed, on: true });
        self.changed += 1;
        true
    }

    /// Ends hiding that has lasted long enough.
    fn unhide(&mut self, now: Now) {
        let age = |hide: &Hide| now.elapsed.saturating_sub(hide.at);
        if self.hidden.values().any(|hide| hide.on && age(hide) >= HIDDEN_FOR) {
            for hide in Arc::make_mut(&mut self.hidden).values_mut() {
                hide.on &= age(hide) < HIDDEN_FOR;
            }
            self.changed += 1;
        }
        if self.hidden.values().any(|hide| age(hide) >= HIDE_REMEMBERED_FOR) {
            Arc::make_mut(&mut self.hidden).retain(|_, hide| age(hide) < HIDE_REMEMBERED_FOR);
        }
    }

    /// Ends the hiding of a node from topics that it has lost: if it gets one again, that is a new one.
    fn unhide_lost(&mut self, owner: NodeId) {
        if !self.hidden.iter().any(|((_, node), hide)| *node == owner && hide.on) {
            return;
        }
        let Some(fact) = self.facts.get(&owner) else { return };
        for ((topic, node), hide) in Arc::make_mut(&mut self.hidden) {
            let handle = self.names.find(topic.as_str(), None);
            if *node == owner && !handle.is_some_and(|handle| crate::fact::holds(&fact.items, handle)) {
                hide.on = false;
            }
        }
        self.changed += 1;
    }

    /// The wall clock was days ahead and is right again: brings back the stamps that it made.
    fn calm(&mut self, now: Now) {
        let limit = Stamp::limit(now.wall_ms);
        let wild: Vec<(Handle, Name, Mark)> = self
            .names
            .iter()
            .filter(|(_, _, mark)| mark.latest() > limit)
            .map(|(handle, name, mark)| (handle, name.clone(), mark))
            .collect();
        for (handle, name, mark) in wild {
            let gone = if mark.gone > limit { self.clock.next(now.wall_ms) } else { mark.gone };
            let made = if mark.is_live() { self.clock.next(now.wall_ms) } else { Stamp::NEVER };
            self.names.write(handle, &name, Mark { made, gone });
        }
        let since = self.clock.next(now.wall_ms);
        for instance in self.local.values_mut().filter(|instance| instance.since > limit) {
            instance.since = since;
        }
        self.names_changed();
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
