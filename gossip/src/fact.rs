//! What one node says that it holds. Only that node changes it; everybody else copies it.
//!
//! The owner numbers its changes from 1. A copy knows which changes it has seen: all up to `contiguous`, and
//! a few above. An item costs 16 bytes: the name's handle and the number of the change that brought it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    About, NodeId,
    names::{Handle, Names, mix},
};

/// Most names that one node may hold. Beyond it new ones are left out, and counted.
pub(crate) const ITEMS_MAX: usize = 200_000;
/// How many changes may be known above a missing one. Beyond it an exchange has to bring them.
const AHEAD_MAX: usize = 256;
/// How many losses of names are remembered, so that a copy that lacks only these need not be sent whole.
const GONE_MAX: usize = 64;
/// No node makes as many changes; a greater number is a lie.
pub(crate) const VERSION_MAX: u64 = 1 << 48;

/// A name that a node holds, and with which of its changes it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) handle: Handle,
    pub(crate) version: u64,
}

/// The items of a node, by handle; shared with views.
pub(crate) type Items = Arc<Vec<Item>>;

/// Whether the node holds this name.
pub(crate) fn holds(items: &[Item], handle: Handle) -> bool {
    items.binary_search_by_key(&handle, |item| item.handle).is_ok()
}

/// Why a change was not taken over.
pub(crate) const TOO_MANY_ITEMS: &str = "a node holds too many names";

/// One node's statements, as far as they are known here.
#[derive(Debug, Default)]
pub(crate) struct Fact {
    pub(crate) generation: u64,
    pub(crate) about: Option<Arc<About>>,
    pub(crate) about_version: u64,
    pub(crate) items: Items,
    /// Every change up to this one is in `items`, `gone` or `about`, or was overtaken by a later one.
    pub(crate) contiguous: u64,
    /// The latest change that anybody mentioned.
    pub(crate) head: u64,
    /// If above `contiguous`: no item up to `contiguous` was lost by a change up to this one, although the
    /// other changes up to it are not all known yet.
    pub(crate) clean: u64,
    /// Losses up to this change may have been forgotten.
    pub(crate) floor: u64,
    /// Names lost, and by which change.
    pub(crate) gone: BTreeMap<Handle, u64>,
    ahead: BTreeSet<u64>,
}

/// Part of a fact as it comes in an exchange: what it says about the changes in `(base, upto]`.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub(crate) base: u64,
    pub(crate) upto: u64,
    /// Up to which of them nothing is missing.
    pub(crate) sure: u64,
    /// How far the sender knows the fact.
    pub(crate) all: u64,
    pub(crate) floor: u64,
    /// Whether it names everything held up to `upto`, so that whatever else is known up to there is lost.
    pub(crate) full: bool,
    pub(crate) about: Option<(u64, About)>,
    /// Names, numbers, and whether they are held.
    pub(crate) changes: Vec<(Handle, u64, bool)>,
}

impl Fact {
    pub(crate) fn new(generation: u64) -> Self {
        Self { generation, ..Self::default() }
    }

    /// Whether this change is known already.
    pub(crate) fn has(&self, version: u64) -> bool {
        version <= self.contiguous || self.ahead.contains(&version)
    }

    /// Notes that a change is known now, before what it says is taken over. `false` if too many are known
    /// above a missing one: then it must not be taken over.
    pub(crate) fn note(&mut self, version: u64) -> bool {
        self.head = self.head.max(version);
        if version == self.contiguous + 1 {
            self.advance(version);
            return true;
        }
        if self.ahead.len() >= AHEAD_MAX {
            return false;
        }
        self.ahead.insert(version)
    }

    /// Takes over that a name came or went with this change, unless a later change of that name is known.
    pub(crate) fn set(
        &mut self,
        handle: Handle,
        version: u64,
        held: bool,
        names: &mut Names,
    ) -> Result<bool, &'static str> {
        let place = self.items.binary_search_by_key(&handle, |item| item.handle);
        let known = place.ok().and_then(|place| self.items.get(place)).map_or(0, |item| item.version);
        if version <= known.max(self.gone.get(&handle).copied().unwrap_or(0)) {
            return Ok(false);
        }
        if held && place.is_err() && self.items.len() >= ITEMS_MAX {
            return Err(TOO_MANY_ITEMS);
        }
        names.retain(handle);
        let items = Arc::make_mut(&mut self.items);
        let replaced = match (place, held) {
            (Ok(place), true) => items.get_mut(place).map(|item| item.version = version).is_some(),
            (Ok(place), false) => {
                items.remove(place);
                true
            }
            (Err(place), true) => {
                items.insert(place, Item { handle, version });
                false
            }
            (Err(_), false) => false,
        };
        let was_gone = if held { self.gone.remove(&handle) } else { self.gone.insert(handle, version) };
        for _ in 0..usize::from(replaced) + usize::from(was_gone.is_some()) {
            names.release(handle);
        }
        self.trim(names);
        Ok(true)
    }

    /// Takes over what the owner says about itself with this change, unless something later is known.
    pub(crate) fn set_about(&mut self, version: u64, about: About) -> bool {
        let is_news = version > self.about_version;
        if is_news {
            self.about_version = version;
            self.about = Some(Arc::new(about));
        }
        is_news
    }

    /// Takes over a segment, and says how many changes it brought; what could not be taken goes to `refuse`.
    pub(crate) fn take(
        &mut self,
        mut segment: Segment,
        names: &mut Names,
        mut refuse: impl FnMut(&'static str),
    ) -> usize {
        let is_new = if segment.full { segment.all } else { segment.upto } > self.contiguous;
        if !is_new || (!segment.full && segment.base > self.contiguous) {
            return 0;
        }
        let mut news = 0;
        if let Some((version, about)) = segment.about.take() {
            news += usize::from(self.set_about(version, about));
        }
        if segment.full {
            news += self.replace(&segment, names, &mut refuse);
        } else {
            for &(handle, version, held) in &segment.changes {
                match self.set(handle, version, held, names) {
                    Ok(changed) => news += usize::from(changed),
                    Err(why) => refuse(why),
                }
            }
            if segment.floor > self.contiguous {
                self.floor = self.floor.max(segment.floor);
            }
        }
        let sure = segment.sure.min(segment.upto);
        self.contiguous = if segment.full { sure } else { self.contiguous.max(sure) };
        self.head = self.head.max(segment.all);
        self.advance(self.contiguous);
        self.trim(names);
        news
    }

    /// Gives back all names, since the fact is to be forgotten.
    pub(crate) fn clear(&mut self, names: &mut Names) {
        for item in std::mem::take(&mut self.items).iter() {
            names.release(item.handle);
        }
        for handle in std::mem::take(&mut self.gone).into_keys() {
            names.release(handle);
        }
    }

    /// Equal on two nodes that know the same changes of this owner: since only the owner makes changes, their
    /// numbers say what they are.
    pub(crate) fn hash(&self, owner: NodeId) -> u64 {
        let life = mix(owner.bits() ^ mix(self.generation));
        self.ahead.iter().fold(mix(life ^ self.contiguous), |hash, version| hash ^ mix(life ^ !version))
    }

    /// An estimate of the bytes used, names left out.
    pub(crate) fn bytes(&self) -> usize {
        let about = self.about.as_ref().map_or(0, |about| {
            let texts = [&about.hostname, &about.version, &about.topology_zone, &about.topology_region];
            let addresses =
                about.broadcast_addresses.iter().map(|text| text.capacity() + size_of::<String>());
            size_of::<About>()
                + about.registrants.capacity() * size_of::<NodeId>()
                + addresses.sum::<usize>()
                + texts.iter().map(|text| text.capacity()).sum::<usize>()
        });
        // A B-tree is at least half full, and a fact is a value in one.
        2 * size_of::<Self>()
            + self.items.capacity() * size_of::<Item>()
            + self.gone.len() * 32
            + self.ahead.len() * 16
            + about
    }

    /// Replaces what is known up to `all` by what the segment lists.
    fn replace(
        &mut self,
        segment: &Segment,
        names: &mut Names,
        refuse: &mut impl FnMut(&'static str),
    ) -> usize {
        // A segment that was cut short says nothing about what lies between its end and what the sender
        // knows; whatever is known here of that may be lost by now, and comes again if it is not.
        let later = segment.all;
        let mut listed: BTreeMap<Handle, u64> = BTreeMap::new();
        for &(handle, version, held) in &segment.changes {
            if held && self.gone.get(&handle).is_none_or(|&gone| gone < version) {
                listed.insert(handle, version);
            }
        }
        for item in self.items.iter().filter(|item| item.version > later) {
            listed.insert(item.handle, item.version);
        }
        let mut items = Vec::with_capacity(listed.len().min(ITEMS_MAX));
        for (handle, version) in listed {
            if items.len() >= ITEMS_MAX {
                refuse(TOO_MANY_ITEMS);
                continue;
            }
            names.retain(handle);
            items.push(Item { handle, version });
        }
        let old = std::mem::replace(&mut self.items, Arc::new(items));
        let stale: Vec<Handle> =
            self.gone.iter().filter(|(_, version)| **version <= later).map(|(handle, _)| *handle).collect();
        for handle in stale {
            self.gone.remove(&handle);
            names.release(handle);
        }
        let news = usize::from(*old != *self.items) * segment.changes.len().max(1);
        for item in old.iter() {
            names.release(item.handle);
        }
        self.ahead.retain(|version| *version > later);
        self.clean = later;
        self.floor = later;
        news
    }

    /// Everything up to `version` is known; so may be what follows.
    fn advance(&mut self, version: u64) {
        self.contiguous = version;
        while let Some(&next) = self.ahead.first() {
            if next > self.contiguous + 1 {
                break;
            }
            self.contiguous = self.contiguous.max(next);
            self.ahead.pop_first();
        }
        self.head = self.head.max(self.contiguous);
    }

    fn trim(&mut self, names: &mut Names) {
        while self.gone.len() > GONE_MAX {
            let oldest = self.gone.iter().map(|(handle, version)| (*version, *handle)).min();
            let Some((version, handle)) = oldest.filter(|(version, _)| *version <= self.contiguous) else {
                break;
            };
            self.gone.remove(&handle);
            self.floor = self.floor.max(version);
            names.release(handle);
        }
    }
}
