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
    on: bool,
}

impl Hide {
    pub(crate) const fn is_on(&self) -> bool {
        self.on
    }
}

impl Catalogue {
    pub(super) fn hide(&mut self, now: Now, topic: &TopicName, node: NodeId, stamp: Stamp) -> bool {
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
    pub(super) fn unhide(&mut self, now: Now) {
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
    pub(super) fn unhide_lost(&mut self, owner: NodeId) {
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
}
