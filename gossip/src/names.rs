//! Every name that this node knows of, each kept once and called by a number.
//!
//! Names lie in 256 buckets by a hash of their topic, so a topic and its channels are together. A bucket is
//! shared with the views that were made of it and copied when it changes, so that a view costs 256 pointers.
//! A name costs 48 bytes for its slot, 8 for its place in the order and its count of users, and the text
//! (once per channel, once per topic): about 130 bytes with room to grow.

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc};

use bruit_wire::{ChannelName, TopicName};

use crate::{Name, stamp::Stamp};

/// How many buckets there are; a handle names its bucket by its highest byte.
pub(crate) const BUCKETS: usize = 256;

/// Most names of any kind. Beyond it new ones are left out, and counted.
const NAMES_MAX: usize = 1_000_000;

/// Most records that are there only to be remembered for a while. Beyond it the oldest go first.
const PERISHABLE_MAX: usize = 100_000;

const SLOT_BITS: u32 = 24;

/// Calls a name in one catalogue and in the views made of it, as long as somebody uses the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Handle(u32);

impl Handle {
    fn new(bucket: usize, slot: u32) -> Self {
        Self((bucket as u32) << SLOT_BITS | slot)
    }

    pub(crate) const fn bucket(self) -> usize {
        (self.0 >> SLOT_BITS) as usize
    }

    const fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }
}

/// When a name was last made and last deleted. Two of them merge to the later of each, in any order, which
/// is last-writer-wins; at a tie the delete wins. Kept in one spelling: what a delete covers is `NEVER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) made: Stamp,
    pub(crate) gone: Stamp,
}

impl Mark {
    pub(crate) const NONE: Self = Self { made: Stamp::NEVER, gone: Stamp::NEVER };

    /// Whether somebody made the name and nobody has deleted it since.
    pub(crate) fn is_live(self) -> bool {
        self.made > Stamp::NEVER
    }

    /// Whether the name was deleted and nobody has made it since.
    pub(crate) fn is_dead(self) -> bool {
        self.made == Stamp::NEVER && self.gone > Stamp::NEVER
    }

    pub(crate) fn latest(self) -> Stamp {
        self.made.max(self.gone)
    }

    /// The one spelling, given when the topic above was last deleted.
    fn canonical(self, topic_gone: Stamp) -> Self {
        let gone = if self.gone > topic_gone { self.gone } else { Stamp::NEVER };
        let made = if self.made > self.gone.max(topic_gone) { self.made } else { Stamp::NEVER };
        Self { made, gone }
    }

    fn merge(self, other: Self) -> Self {
        Self { made: self.made.max(other.made), gone: self.gone.max(other.gone) }
    }
}

#[derive(Clone, Debug)]
struct Slot {
    name: Option<Name>,
    mark: Mark,
}

/// The names of some topics: slots in no order, and their order by topic, then channel.
#[derive(Clone, Debug, Default)]
struct Bucket {
    slots: Vec<Slot>,
    order: Vec<u32>,
}

impl Bucket {
    fn slot(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot as usize)
    }

    fn compare(&self, slot: u32, topic: &str, channel: Option<&str>) -> Ordering {
        let Some(Slot { name: Some(name), .. }) = self.slot(slot) else { return Ordering::Less };
        let channel_of_slot = name.channel.as_ref().map(ChannelName::as_str);
        (name.topic.as_str(), channel_of_slot).cmp(&(topic, channel))
    }

    /// The place in the order, or where it would be.
    fn place(&self, topic: &str, channel: Option<&str>) -> Result<usize, usize> {
        self.order.binary_search_by(|&slot| self.compare(slot, topic, channel))
    }
}

/// The names as they were at one moment; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Table(Vec<Arc<Bucket>>);

impl Default for Table {
    fn default() -> Self {
        Self(vec![Arc::default(); BUCKETS])
    }
}

impl Table {
    pub(crate) fn find(&self, topic: &str, channel: Option<&str>) -> Option<Handle> {
        let number = bucket_of(topic);
        let bucket = self.0.get(number)?;
        let place = bucket.place(topic, channel).ok()?;
        bucket.order.get(place).map(|&slot| Handle::new(number, slot))
    }

    pub(crate) fn name(&self, handle: Handle) -> Option<&Name> {
        self.slot(handle)?.name.as_ref()
    }

    pub(crate) fn mark(&self, handle: Handle) -> Mark {
        self.slot(handle).map_or(Mark::NONE, |slot| slot.mark)
    }

    pub(crate) fn mark_of(&self, topic: &str, channel: Option<&str>) -> Mark {
        self.find(topic, channel).map_or(Mark::NONE, |handle| self.mark(handle))
    }

    /// All names of a bucket, by topic, then channel, a topic before its channels.
    pub(crate) fn bucket(&self, number: usize) -> impl Iterator<Item = (Handle, &Name, Mark)> {
        let bucket = self.0.get(number);
        bucket.into_iter().flat_map(move |bucket| {
            bucket.order.iter().filter_map(move |&slot| {
                let entry = bucket.slot(slot)?;
                Some((Handle::new(number, slot), entry.name.as_ref()?, entry.mark))
            })
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Handle, &Name, Mark)> {
        (0..BUCKETS).flat_map(|number| self.bucket(number))
    }

    /// The channels of a topic by name.
    pub(crate) fn channels(&self, topic: &str) -> impl Iterator<Item = (Handle, &ChannelName, Mark)> {
        let number = bucket_of(topic);
        let bucket = self.0.get(number);
        let start = bucket.map_or(0, |bucket| match bucket.place(topic, None) {
            Ok(place) => place + 1,
            Err(place) => place,
        });
        let slots = bucket.and_then(|bucket| bucket.order.get(start..)).unwrap_or_default();
        slots.iter().map_while(move |&slot| {
            let entry = bucket?.slot(slot)?;
            let name = entry.name.as_ref()?;
            let is_of_topic = name.topic.as_str() == topic;
            name.channel
                .as_ref()
                .filter(|_| is_of_topic)
                .map(|channel| (Handle::new(number, slot), channel, entry.mark))
        })
    }

    fn slot(&self, handle: Handle) -> Option<&Slot> {
        self.0.get(handle.bucket())?.slots.get(handle.slot())
    }
}

/// What is known of a bucket beyond what its readers see.
#[derive(Debug, Default)]
struct Upkeep {
    users: Vec<u32>,
    free: Vec<u32>,
    hash: u64,
}

/// The names, and who may change them. Names come by being used or marked, and go when they are neither.
#[derive(Debug)]
pub(crate) struct Names {
    table: Table,
    upkeep: Vec<Upkeep>,
    /// Records that are kept for a while only: of names that were deleted, and of ephemeral ones.
    perishable: BTreeSet<(Stamp, Handle)>,
    count: usize,
    marked: usize,
    limit: usize,
}

impl Default for Names {
    fn default() -> Self {
        let upkeep = (0..BUCKETS).map(|_| Upkeep::default()).collect();
        let table = Table::default();
        Self { table, upkeep, perishable: BTreeSet::new(), count: 0, marked: 0, limit: NAMES_MAX }
    }
}

impl std::ops::Deref for Names {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.table
    }
}

impl Names {
    /// How many names have a mark, and how many of those are only remembered for a while.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.marked, self.perishable.len())
    }

    /// Over the marks of a bucket: equal for equal marks, in whatever order they came. 0 if there are none.
    pub(crate) fn bucket_hash(&self, number: usize) -> u64 {
        self.upkeep.get(number).map_or(0, |upkeep| upkeep.hash)
    }

    pub(crate) fn snapshot(&self) -> Table {
        self.table.clone()
    }

    /// Finds or adds a valid name and counts one more user of it. `None` if there are too many names.
    pub(crate) fn intern(&mut self, topic: &str, channel: Option<&str>) -> Option<Handle> {
        let handle = match self.table.find(topic, channel) {
            Some(handle) => handle,
            None => self.add(topic, channel)?,
        };
        self.retain(handle);
        Some(handle)
    }

    /// One more user.
    pub(crate) fn retain(&mut self, handle: Handle) {
        if let Some(users) = self.users(handle) {
            *users = users.saturating_add(1);
        }
    }

    /// One user less.
    pub(crate) fn release(&mut self, handle: Handle) {
        if let Some(users) = self.users(handle) {
            *users = users.saturating_sub(1);
            self.remove_if_idle(handle);
        }
    }

    /// Merges what somebody says about a name that has at least one user; returns whether that was new.
    pub(crate) fn apply(&mut self, handle: Handle, theirs: Mark) -> bool {
        let Some(name) = self.table.name(handle).cloned() else { return false };
        let old = self.table.mark(handle);
        let new = old.merge(theirs).canonical(self.topic_gone(&name));
        if new == old {
            return false;
        }
        self.write(handle, &name, new);
        if name.channel.is_none() && new.gone > old.gone {
            self.cover_channels(&name.topic, new.gone);
        }
        while self.perishable.len() > PERISHABLE_MAX {
            self.forget_oldest();
        }
        true
    }

    /// Whether a record would be thrown away at once, being older than all that there is room for.
    pub(crate) fn is_too_old(&self, stamp: Stamp) -> bool {
        self.perishable.len() >= PERISHABLE_MAX
            && self.perishable.first().is_some_and(|&(oldest, _)| stamp < oldest)
    }

    /// Forgets the records that were kept for a while, up to this stamp.
    pub(crate) fn forget_until(&mut self, limit: Stamp) -> bool {
        let mut any = false;
        while self.perishable.first().is_some_and(|&(stamp, _)| stamp <= limit) {
            self.forget_oldest();
            any = true;
        }
        any
    }

    /// Replaces the mark of a name, which has at least one user or a mark.
    pub(crate) fn write(&mut self, handle: Handle, name: &Name, new: Mark) {
        let old = self.table.mark(handle);
        let perishes = |mark: Mark| mark.is_dead() || (mark != Mark::NONE && name.is_ephemeral());
        if perishes(old) {
            self.perishable.remove(&(old.latest(), handle));
        }
        if perishes(new) {
            self.perishable.insert((new.latest(), handle));
        }
        self.marked = self.marked + usize::from(new != Mark::NONE) - usize::from(old != Mark::NONE);
        if let Some(upkeep) = self.upkeep.get_mut(handle.bucket()) {
            upkeep.hash ^= mark_hash(name, old) ^ mark_hash(name, new);
        }
        if let Some(slot) = self.slot_mut(handle) {
            slot.mark = new;
        }
        self.remove_if_idle(handle);
    }

    /// An upper bound of the bytes that the names use, their text included.
    pub(crate) fn bytes(&self) -> usize {
        let mut bytes = self.perishable.len() * 32;
        for (bucket, upkeep) in self.table.0.iter().zip(&self.upkeep) {
            bytes += bucket.slots.capacity() * size_of::<Slot>();
            bytes += (bucket.order.capacity() + upkeep.users.capacity() + upkeep.free.capacity()) * 4;
            for name in bucket.slots.iter().filter_map(|slot| slot.name.as_ref()) {
                // A text's allocation has two counts before it; a topic's is shared with its channels.
                let text = name.channel.as_ref().map_or(name.topic.as_str(), ChannelName::as_str);
                bytes += 16 + text.len().next_multiple_of(8);
            }
        }
        bytes
    }

    #[cfg(test)]
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn topic_gone(&self, name: &Name) -> Stamp {
        match name.channel {
            Some(_) => self.table.mark_of(name.topic.as_str(), None).gone,
            None => Stamp::NEVER,
        }
    }

    fn cover_channels(&mut self, topic: &TopicName, gone: Stamp) {
        let marked: Vec<(Handle, Name, Mark)> = self
            .table
            .channels(topic.as_str())
            .filter(|(_, _, mark)| *mark != mark.canonical(gone))
            .map(|(handle, channel, mark)| (handle, Name::channel(topic.clone(), channel.clone()), mark))
            .collect();
        for (handle, name, mark) in marked {
            self.write(handle, &name, mark.canonical(gone));
        }
    }

    fn forget_oldest(&mut self) {
        let Some(&(_, handle)) = self.perishable.first() else { return };
        match self.table.name(handle).cloned() {
            Some(name) => self.write(handle, &name, Mark::NONE),
            None => drop(self.perishable.pop_first()),
        }
    }

    fn add(&mut self, topic: &str, channel: Option<&str>) -> Option<Handle> {
        if self.count >= self.limit {
            return None;
        }
        let name = self.make_name(topic, channel)?;
        let number = bucket_of(topic);
        let upkeep = self.upkeep.get_mut(number)?;
        let bucket = Arc::make_mut(self.table.0.get_mut(number)?);
        let place = bucket.place(topic, channel).err()?;
        let slot = match upkeep.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(bucket.slots.len()).ok().filter(|slot| slot >> SLOT_BITS == 0)?;
                bucket.slots.push(Slot { name: None, mark: Mark::NONE });
                upkeep.users.push(0);
                slot
            }
        };
        if let Some(entry) = bucket.slots.get_mut(slot as usize) {
            entry.name = Some(name);
        }
        bucket.order.insert(place, slot);
        self.count += 1;
        Some(Handle::new(number, slot))
    }

    /// The name, sharing its topic's text with the other names of that topic.
    fn make_name(&self, topic: &str, channel: Option<&str>) -> Option<Name> {
        let channel = channel.map(ChannelName::new).transpose().ok()?;
        let known = self.table.find(topic, None).and_then(|handle| self.table.name(handle));
        let topic = match known {
            Some(known) => known.topic.clone(),
            None => TopicName::new(topic).ok()?,
        };
        Some(Name { topic, channel })
    }

    fn remove_if_idle(&mut self, handle: Handle) {
        if self.table.mark(handle) != Mark::NONE || self.users(handle).is_none_or(|users| *users > 0) {
            return;
        }
        let Some(name) = self.table.name(handle).cloned() else { return };
        let Some(bucket) = self.table.0.get_mut(handle.bucket()) else { return };
        let bucket = Arc::make_mut(bucket);
        if let Ok(place) = bucket.place(name.topic.as_str(), name.channel.as_ref().map(ChannelName::as_str)) {
            bucket.order.remove(place);
        }
        if let Some(slot) = bucket.slots.get_mut(handle.slot()) {
            slot.name = None;
        }
        if let Some(upkeep) = self.upkeep.get_mut(handle.bucket()) {
            upkeep.free.push(handle.slot() as u32);
        }
        self.count -= 1;
    }

    fn users(&mut self, handle: Handle) -> Option<&mut u32> {
        self.upkeep.get_mut(handle.bucket())?.users.get_mut(handle.slot())
    }

    fn slot_mut(&mut self, handle: Handle) -> Option<&mut Slot> {
        Arc::make_mut(self.table.0.get_mut(handle.bucket())?).slots.get_mut(handle.slot())
    }
}

/// Spreads every bit of `value` over all bits of the result (the finaliser of splitmix64). Nodes compare
/// what it gives, so it must not change.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A name's text as a number; the same on every node.
pub(crate) fn text_hash(topic: &str, channel: Option<&str>) -> u64 {
    // 0xff occurs in no name, so that no two names look alike.
    let bytes = topic
        .bytes()
        .chain(channel.into_iter().flat_map(|channel| [0xff].into_iter().chain(channel.bytes())));
    mix(bytes
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)))
}

fn bucket_of(topic: &str) -> usize {
    (text_hash(topic, None) >> 56) as usize
}

fn mark_hash(name: &Name, mark: Mark) -> u64 {
    if mark == Mark::NONE {
        return 0;
    }
    let text = text_hash(name.topic.as_str(), name.channel.as_ref().map(ChannelName::as_str));
    mix(mix(text ^ mix(mark.made.bits())) ^ mark.gone.bits())
}
