//! The topics and channels on this node: what is said of them, and how they follow their names.
//!
//! Which of two is meant, a delete or an instance, is told by their stamps. After a crash the stamps of
//! instances are lost, so names that were deleted are saved with whether an instance of theirs had to go
//! (*doomed*): what else the journal brings back under such a name was made later.

use std::time::Duration;

use bruit_wire::{ChannelName, TopicName};

use super::{Catalogue, DOOMED_MAX, RECOVERED_BY};
use crate::{
    Command, LocalChange, Name, Now,
    names::{Handle, Mark},
    stamp::Stamp,
};

/// How long after its end a deleted instance may still come back from the journal of a node that crashed.
const JOURNALLED_AFTER: Duration = Duration::from_secs(5);

/// A topic or channel on this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instance {
    pub(super) number: u64,
    /// When it was made; a delete after this is meant for it.
    pub(super) since: Stamp,
}

/// What this node's own changes, and changed names, lead to.
impl Catalogue {
    pub(super) fn created(&mut self, now: Now, handle: Handle, change: &LocalChange) -> Option<bool> {
        let mark = self.names.mark(handle);
        // A channel under a living name is one more of what has that name: gossip makes it wherever its topic
        // is. It must not outlive a delete that is on its way here.
        let joins = change.name.channel.is_some() && mark.is_live();
        let since = if joins { mark.made } else { self.clock.next(now) };
        self.local.insert(handle, Instance { number: change.number, since });
        if self.doomed.remove(&change.name).is_some() {
            self.names_changed();
        }
        // Everybody hears when a topic was made on one more node: whoever deletes it then does so later, also
        // by a clock that is slow.
        if !joins && (mark.is_dead() || !change.name.is_ephemeral()) {
            self.mark(now, handle, &change.name, Mark { made: since, gone: Stamp::NEVER });
            self.announce(handle, &change.name);
        }
        self.want_channels(&change.name);
        Some(true)
    }

    pub(super) fn recovered(&mut self, now: Now, handle: Handle, change: &LocalChange) -> Option<bool> {
        let name = &change.name;
        let mark = self.names.mark(handle);
        let was_deleted = self.deleted_at(name) > Stamp::NEVER;
        let is_new = !mark.is_live() && was_deleted && !self.is_doomed(name);
        let since = match mark.is_live() {
            true => mark.made,
            // It was made after the delete, and the node crashed before it had saved that.
            false if is_new => self.clock.next(now),
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

    pub(super) fn gone(&mut self, now: Now, handle: Handle, change: &LocalChange) -> Option<bool> {
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
    pub(super) fn state(&mut self, handle: Handle, held: bool) {
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

    pub(super) fn make(&mut self, now: Now, name: &Name) {
        let Some(handle) = self.intern(name) else { return };
        if !self.names.mark(handle).is_live() {
            let made = self.clock.next(now);
            self.mark(now, handle, name, Mark { made, gone: Stamp::NEVER });
            self.announce(handle, name);
        }
        self.names.release(handle);
    }

    /// Merges a mark into a name and does what follows from it here. Whether it was new.
    pub(super) fn mark(&mut self, now: Now, handle: Handle, name: &Name, mark: Mark) -> bool {
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
    pub(super) fn announce(&mut self, handle: Handle, name: &Name) {
        self.outbox.push_mark(name, self.names.mark(handle));
    }

    /// The wall clock was days ahead and is right again: brings back the stamps that it made.
    pub(super) fn calm(&mut self, now: Now) {
        let limit = self.clock.limit(now);
        let wild: Vec<(Handle, Name, Mark)> = self
            .names
            .iter()
            .filter(|(_, _, mark)| mark.latest() > limit)
            .map(|(handle, name, mark)| (handle, name.clone(), mark))
            .collect();
        for (handle, name, mark) in wild {
            let gone = if mark.gone > limit { self.clock.next(now) } else { mark.gone };
            let made = if mark.is_live() { self.clock.next(now) } else { Stamp::NEVER };
            self.names.write(handle, &name, Mark { made, gone });
        }
        let since = self.clock.next(now);
        for instance in self.local.values_mut().filter(|instance| instance.since > limit) {
            instance.since = since;
        }
        self.names_changed();
    }
}
