//! News: one change each, small enough to ride on a datagram.

use std::collections::{BTreeSet, VecDeque};

use bruit_wire::{ChannelName, TopicName, is_valid_name};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Catalogue;
use crate::{
    ADDRESSES_MAX, About, Name, NodeId, Now, REGISTRANTS_MAX, TEXT_MAX,
    digest::OWNERS_MAX,
    fact::{Fact, VERSION_MAX},
    names::{Handle, Mark, mix, text_hash},
    stamp::Stamp,
};

/// Most bytes of a piece of news.
pub const NEWS_MAX: usize = 400;

/// How many of its own changes a node tells one by one. If more wait, it only says how many it has made, and
/// others come and fetch them.
const OWN_NEWS_MAX: usize = 64;

/// What a piece of news is about: later news with the same key overtakes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NewsKey(u8, u64, u64);

/// What became of a piece of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was new: pass it on.
    News(NewsKey),
    /// It was new: pass it on. Something before it is missing, which an exchange will bring.
    Gap(NewsKey),
    /// There is nothing in it that was not known, or could not be kept.
    Known,
    /// It cannot be, for this reason; nothing was changed.
    Refused(&'static str),
}

/// As it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum News<'a> {
    /// A node holds a name since this change of its, or no longer does.
    Held {
        owner: NodeId,
        generation: u64,
        version: u64,
        topic: &'a str,
        channel: Option<&'a str>,
        held: bool,
    },
    /// With this change a node says something else about itself.
    About { owner: NodeId, generation: u64, version: u64, about: About },
    /// A node has made that many changes.
    Head { owner: NodeId, generation: u64, version: u64 },
    /// When a name was made and deleted.
    Mark { topic: &'a str, channel: Option<&'a str>, made: Stamp, gone: Stamp },
    /// A user hid a producer, which had come to hold the topic with this change; 0 if nobody knew.
    Hide { topic: &'a str, node: NodeId, stamp: Stamp, version: u64 },
}

impl News<'_> {
    fn key(&self) -> NewsKey {
        match *self {
            // Changes of one name must not overtake each other, or a gap would be left.
            News::Held { owner, generation, version, .. }
            | News::About { owner, generation, version, .. } => {
                NewsKey(0, owner.bits(), mix(generation) ^ version)
            }
            News::Head { owner, .. } => NewsKey(1, owner.bits(), 0),
            News::Mark { topic, channel, .. } => NewsKey(2, text_hash(topic, channel), 0),
            News::Hide { topic, node, .. } => NewsKey(3, text_hash(topic, None), node.bits()),
        }
    }

    /// `None` if it is too long to travel so.
    fn to_bytes(&self) -> Option<Bytes> {
        let mut bytes = [0; NEWS_MAX];
        postcard::to_slice(self, &mut bytes).ok().map(|bytes| Bytes::copy_from_slice(bytes))
    }
}

/// This node's own changes, and those of its registrants, that have not been broadcast yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<(NewsKey, Bytes)>,
    /// There were too many: only their number is told.
    only_head: bool,
    /// Whose changes wait here, or were too many.
    owners: BTreeSet<NodeId>,
}

impl Outbox {
    pub(super) fn push_held(
        &mut self,
        owner: NodeId,
        generation: u64,
        version: u64,
        name: &Name,
        held: bool,
    ) {
        let (topic, channel) = texts(name);
        self.owners.insert(owner);
        self.push(&News::Held { owner, generation, version, topic, channel, held });
    }

    pub(super) fn push_about(&mut self, owner: NodeId, generation: u64, version: u64, about: About) {
        self.owners.insert(owner);
        self.push(&News::About { owner, generation, version, about });
    }

    pub(super) fn push_mark(&mut self, name: &Name, mark: Mark) {
        let (topic, channel) = texts(name);
        self.push(&News::Mark { topic, channel, made: mark.made, gone: mark.gone });
    }

    pub(super) fn push_hide(&mut self, topic: &TopicName, node: NodeId, stamp: Stamp, version: u64) {
        self.push(&News::Hide { topic: topic.as_str(), node, stamp, version });
    }

    /// The next one. `head` tells a node's generation and the number of its changes.
    pub(super) fn take(&mut self, head: impl Fn(NodeId) -> Option<(u64, u64)>) -> Option<(NewsKey, Bytes)> {
        while self.only_head {
            let Some(owner) = self.owners.pop_first() else {
                self.only_head = false;
                break;
            };
            let Some((generation, version)) = head(owner) else { continue };
            let head = News::Head { owner, generation, version };
            return Some((head.key(), head.to_bytes()?));
        }
        let news = self.queue.pop_front();
        if self.queue.is_empty() {
            self.owners.clear();
        }
        news
    }

    fn push(&mut self, news: &News<'_>) {
        if self.only_head {
            return;
        }
        match news.to_bytes() {
            Some(bytes) if self.queue.len() < OWN_NEWS_MAX => self.queue.push_back((news.key(), bytes)),
            _ => {
                self.queue.clear();
                self.only_head = true;
            }
        }
    }

    /// Drops what waits: `me` tells how many changes it has made, and so do the others that had any here.
    pub(super) fn tell_only_head(&mut self, me: NodeId) {
        self.queue.clear();
        self.owners.insert(me);
        self.only_head = true;
    }
}

fn texts(name: &Name) -> (&str, Option<&str>) {
    (name.topic.as_str(), name.channel.as_ref().map(ChannelName::as_str))
}

impl Catalogue {
    /// Takes over one piece of news. `from` is who passed it on, not whom it is about.
    pub fn hear(&mut self, now: Now, from: NodeId, item: &[u8]) -> Heard {
        self.tick(now);
        // Whoever speaks is not long gone.
        self.forgotten.remove(&from);
        let Ok((news, [])) = postcard::take_from_bytes::<News<'_>>(item) else {
            return Heard::Refused("malformed news");
        };
        let key = news.key();
        match self.take_over(now, news) {
            Ok(Taken::New) => Heard::News(key),
            Ok(Taken::AboveGap) => Heard::Gap(key),
            Ok(Taken::Known) => Heard::Known,
            Err(why) => Heard::Refused(why),
        }
    }

    fn take_over(&mut self, now: Now, news: News<'_>) -> Result<Taken, &'static str> {
        match news {
            News::Held { owner, generation, version, topic, channel, held } => {
                check_name(topic, channel)?;
                self.hear_change(owner, generation, version, |fact, names| {
                    let handle = names.intern(topic, channel).ok_or(TOO_MANY_NAMES)?;
                    let result = fact.set(handle, version, held, names).map(|_| ());
                    names.release(handle);
                    result
                })
            }
            News::About { owner, generation, version, about } => {
                check_about(&about)?;
                self.hear_change(owner, generation, version, |fact, _| {
                    fact.set_about(version, about);
                    Ok(())
                })
            }
            News::Head { owner, generation, version } => {
                let Some(fact) = self.fact_mut(owner, generation, version)? else { return Ok(Taken::Known) };
                let is_news = version > fact.head;
                fact.head = fact.head.max(version);
                Ok(if is_news { Taken::AboveGap } else { Taken::Known })
            }
            News::Mark { topic, channel, made, gone } => {
                check_name(topic, channel)?;
                let mark = Mark { made, gone };
                self.check_mark(now, mark)?;
                let handle = self.names.intern(topic, channel).ok_or(TOO_MANY_NAMES)?;
                let is_news = self.accept_mark(now, handle, mark);
                self.names.release(handle);
                Ok(if is_news { Taken::New } else { Taken::Known })
            }
            News::Hide { topic, node, stamp, version } => {
                let topic = TopicName::new(topic).map_err(|_| INVALID_NAME)?;
                self.check_mark(now, Mark { made: stamp, gone: Stamp::NEVER })?;
                self.clock.observe(stamp);
                Ok(if self.hide(now, &topic, node, stamp, version) { Taken::New } else { Taken::Known })
            }
        }
    }

    fn hear_change(
        &mut self,
        owner: NodeId,
        generation: u64,
        version: u64,
        apply: impl FnOnce(&mut Fact, &mut crate::names::Names) -> Result<(), &'static str>,
    ) -> Result<Taken, &'static str> {
        if self.fact_mut(owner, generation, version)?.is_none_or(|fact| fact.has(version)) {
            return Ok(Taken::Known);
        }
        let Some(fact) = self.facts.get_mut(&owner) else { return Ok(Taken::Known) };
        if !fact.note(version) {
            return Ok(Taken::Known);
        }
        let has_gap = fact.head > fact.contiguous;
        let applied = apply(fact, &mut self.names);
        self.changed += 1;
        self.left_out += u64::from(applied.is_err());
        self.unhide_lost(owner);
        Ok(if has_gap { Taken::AboveGap } else { Taken::New })
    }

    /// The fact that a statement about this generation of a node belongs to, made if it is the first one.
    /// `None` if the statement is out of date.
    pub(super) fn fact_mut(
        &mut self,
        owner: NodeId,
        generation: u64,
        version: u64,
    ) -> Result<Option<&mut Fact>, &'static str> {
        if version == 0 || version > VERSION_MAX {
            return Err("a change has an impossible number");
        }
        // A registrant never speaks itself: that some node lists it again is enough.
        let is_forgotten = self.forgotten.get(&owner).is_some_and(|&forgotten| generation <= forgotten);
        if is_forgotten && !self.is_listed(owner) {
            return Ok(None);
        }
        let is_full = self.facts.len() >= OWNERS_MAX;
        match self.facts.get(&owner) {
            Some(fact) if owner == self.me || self.registrants.is_own(owner) => {
                let claims = (generation, version) > (fact.generation, fact.contiguous);
                return if claims { Err("a peer speaks for this node") } else { Ok(None) };
            }
            Some(fact) if generation < fact.generation => return Ok(None),
            None if is_full => return Err("too many nodes"),
            _ => {}
        }
        self.forgotten.remove(&owner);
        let fact = self.facts.entry(owner).or_insert_with(|| Fact::new(generation));
        if generation > fact.generation {
            fact.clear(&mut self.names);
            *fact = Fact::new(generation);
            self.changed += 1;
        }
        Ok(Some(fact))
    }

    /// Refuses a mark that only a clock that is wrong by days can have made.
    pub(super) fn check_mark(&mut self, now: Now, mark: Mark) -> Result<(), &'static str> {
        if mark.latest() > self.clock.limit(now) {
            return Err("a stamp is from the future");
        }
        self.clock.compare(now, mark.latest());
        Ok(())
    }

    /// Merges a mark that has been checked, unless it would be forgotten at once. Whether it was new.
    pub(super) fn accept_mark(&mut self, now: Now, handle: Handle, mark: Mark) -> bool {
        let is_dead = mark.made <= mark.gone;
        if is_dead && (mark.gone <= self.week_ago(now) || self.names.is_too_old(mark.gone)) {
            return false;
        }
        let Some(name) = self.names.name(handle).cloned() else { return false };
        self.mark(now, handle, &name, mark)
    }
}

enum Taken {
    New,
    AboveGap,
    Known,
}

pub(super) const TOO_MANY_NAMES: &str = "too many names";
const INVALID_NAME: &str = "an invalid name";

pub(super) fn check_name(topic: &str, channel: Option<&str>) -> Result<(), &'static str> {
    let is_valid =
        is_valid_name(topic.as_bytes()) && channel.is_none_or(|channel| is_valid_name(channel.as_bytes()));
    if is_valid { Ok(()) } else { Err(INVALID_NAME) }
}

/// Refuses what is too long, or would do harm to a terminal.
pub(super) fn check_about(about: &About) -> Result<(), &'static str> {
    let texts = [&about.hostname, &about.version, &about.topology_zone, &about.topology_region];
    let is_text = |text: &String| text.len() <= TEXT_MAX && !text.chars().any(char::is_control);
    let is_valid = about.broadcast_addresses.len() <= ADDRESSES_MAX
        && about.registrants.len() <= REGISTRANTS_MAX
        && about.broadcast_addresses.iter().chain(texts).all(is_text);
    if is_valid { Ok(()) } else { Err("an impossible description of a node") }
}
