//! What the mesh and the broker know of each other: which topics have changed here, and which channels a new
//! topic begins with.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use bruit_wire::{ChannelName, TopicName};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::topic::Topic;

/// Tells the lasting channels of a topic that the mesh knows.
pub(crate) type KnownChannels = Arc<dyn Fn(&TopicName) -> Vec<ChannelName> + Send + Sync>;

/// Says whether others have to be asked for the channels of a new topic, and sees to it: then it calls
/// [`Topic::release`] in the end.
pub(crate) type AskFirst = Arc<dyn Fn(&Arc<Topic>) -> bool + Send + Sync>;

/// Topics that came, went, or got or lost channels since the mesh last looked. A name is noted once however
/// often it changes, so this is never larger than the topics that were there.
#[derive(Default)]
pub(crate) struct Holdings {
    changed: Mutex<BTreeSet<TopicName>>,
    woken: Notify,
    known: OnceLock<KnownChannels>,
    ask: OnceLock<AskFirst>,
}

impl Holdings {
    /// From now on changes are noted, and new topics begin with the channels that `known` tells.
    pub(crate) fn follow(&self, known: KnownChannels) {
        // A node has one mesh; a second one would be a mistake of ours and changes nothing.
        let _ = self.known.set(known);
    }

    /// From now on new topics keep their messages from their channels until `ask` has let them go.
    pub(crate) fn ask_first(&self, ask: AskFirst) {
        // As above.
        let _ = self.ask.set(ask);
    }

    /// Whether a new topic has to wait until it is released.
    pub(super) fn is_to_wait(&self, topic: &Arc<Topic>) -> bool {
        self.ask.get().is_some_and(|ask| ask(topic))
    }

    /// Waits until something has changed, and takes the names.
    pub(crate) async fn changed(&self) -> BTreeSet<TopicName> {
        loop {
            let changed = std::mem::take(&mut *self.changed.lock());
            if !changed.is_empty() {
                return changed;
            }
            self.woken.notified().await;
        }
    }

    /// `topic` came, went, or has other channels than before.
    pub(super) fn note(&self, topic: &TopicName) {
        if self.known.get().is_some() && self.changed.lock().insert(topic.clone()) {
            self.woken.notify_one();
        }
    }

    /// The channels with which a new topic begins.
    pub(super) fn known_channels(&self, topic: &TopicName) -> Vec<ChannelName> {
        self.known.get().map_or_else(Vec::new, |known| known(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_are_noted_once_and_only_when_somebody_follows() {
        let (holdings, topic) = (Holdings::default(), TopicName::new("t").unwrap());
        holdings.note(&topic);
        assert!(holdings.known_channels(&topic).is_empty());
        holdings.follow(Arc::new(|_| vec![ChannelName::new("c").unwrap()]));
        assert_eq!(holdings.known_channels(&topic).len(), 1);
        holdings.note(&topic);
        holdings.note(&topic);
        assert_eq!(holdings.changed().await, BTreeSet::from([topic]));
        assert!(holdings.changed.lock().is_empty());
    }
}
