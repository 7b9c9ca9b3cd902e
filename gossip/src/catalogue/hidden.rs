//! Producers that a user hid from lookups ("tombstoned"). Not kept for certain: it ends by itself.

use std::{sync::Arc, time::Duration};

use bruit_wire::TopicName;

use super::Catalogue;
use crate::{NodeId, Now, stamp::Stamp};

/// How long a producer stays hidden from lookups (NSQ reference, section 7.3).
const HIDDEN_FOR: Duration = Duration::from_secs(45);
/// How long it is remembered that a producer was hidden, so that a late copy does not hide it again.
const HIDE_REMEMBERED_FOR: Duration = Duration::from_secs(5 * 60);
const HIDDEN_MAX: usize = 4_096;

/// A producer that a user hid from the lookups of a topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hide {
    stamp: Stamp,
    at: Duration,
    /// With which of its changes the producer had come to hold the topic; 0 if that was not known yet.
    version: u64,
    on: bool,
    /// Whether the time that it was meant for has not passed, be it on or not.
    fresh: bool,
}

impl Hide {
    pub(crate) const fn is_on(&self) -> bool {
        self.on
    }

    pub(crate) const fn is_fresh(&self) -> bool {
        self.fresh
    }
}

impl Catalogue {
    /// Hides a producer that has come to hold the topic with this change. One that has got the topic anew
    /// since then is not the one that was meant. Returns whether this is news.
    pub(super) fn hide(
        &mut self,
        now: Now,
        topic: &TopicName,
        node: NodeId,
        stamp: Stamp,
        version: u64,
    ) -> bool {
        let key = (topic.clone(), node);
        let known = self.hidden.get(&key);
        if known.is_some_and(|hide| hide.stamp >= stamp)
            || (known.is_none() && self.hidden.len() >= HIDDEN_MAX)
        {
            return false;
        }
        let since = self.held_since(topic, node).unwrap_or(0);
        let version = if version == 0 { since } else { version };
        let hide = Hide { stamp, at: now.elapsed, version, on: since <= version, fresh: true };
        Arc::make_mut(&mut self.hidden).insert(key, hide);
        self.changed += 1;
        true
    }

    /// Ends hiding that has lasted long enough.
    pub(super) fn unhide(&mut self, now: Now) {
        let age = |hide: &Hide| now.elapsed.saturating_sub(hide.at);
        if self.hidden.values().any(|hide| hide.fresh && age(hide) >= HIDDEN_FOR) {
            for hide in Arc::make_mut(&mut self.hidden).values_mut() {
                hide.fresh &= age(hide) < HIDDEN_FOR;
                hide.on &= hide.fresh;
            }
            self.changed += 1;
        }
        if self.hidden.values().any(|hide| age(hide) >= HIDE_REMEMBERED_FOR) {
            Arc::make_mut(&mut self.hidden).retain(|_, hide| age(hide) < HIDE_REMEMBERED_FOR);
        }
    }

    /// Ends the hiding of a node from topics that it has lost. If it got one again meanwhile, that is a new
    /// one, although news of the loss may have been overtaken on its way.
    pub(super) fn unhide_lost(&mut self, owner: NodeId) {
        let lost = |(topic, node): &(TopicName, NodeId), hide: &Hide| {
            let is_new = |since| hide.version != 0 && since > hide.version;
            *node == owner && hide.on && self.held_since(topic, owner).is_none_or(is_new)
        };
        let lost: Vec<_> =
            self.hidden.iter().filter(|(key, hide)| lost(key, hide)).map(|(key, _)| key.clone()).collect();
        for key in lost {
            if let Some(hide) = Arc::make_mut(&mut self.hidden).get_mut(&key) {
                hide.on = false;
                self.changed += 1;
            }
        }
    }

    /// With which of its changes a node has come to hold a topic that it holds.
    pub(super) fn held_since(&self, topic: &TopicName, owner: NodeId) -> Option<u64> {
        let items = &self.facts.get(&owner)?.items;
        let handle = self.names.find(topic.as_str(), None)?;
        let place = items.binary_search_by_key(&handle, |item| item.handle).ok()?;
        items.get(place).map(|item| item.version)
    }
}
