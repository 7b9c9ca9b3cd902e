//! What this node holds, told to the mesh; and what the mesh says, done in the broker.

use std::collections::{BTreeMap, BTreeSet};

use bruit_gossip::{Command, Input, LocalChange, LocalWhat, Name};
use bruit_wire::{ChannelName, TopicName};

use super::core::Core;
use crate::broker::Broker;

/// What the mesh was last told of this node's topics.
#[derive(Default)]
pub(super) struct Local {
    told: BTreeMap<TopicName, Held>,
}

/// A topic's number and those of its channels.
#[derive(Clone, Default, PartialEq, Eq)]
struct Held {
    number: u64,
    channels: BTreeMap<ChannelName, u64>,
}

impl Local {
    /// Tells the mesh what was found in the journal.
    pub(super) fn recovered(&mut self, core: &Core) {
        for topic in core.broker.topics() {
            self.compare(core, topic.name(), LocalWhat::Recovered);
        }
    }

    /// Tells the mesh what became of these topics.
    pub(super) fn changed(&mut self, core: &Core, changed: BTreeSet<TopicName>) {
        for topic in changed {
            self.compare(core, &topic, LocalWhat::Created);
        }
        core.own_changes.raise(core.own_changes.now() + 1);
    }

    /// Does in the broker what the mesh wants.
    pub(super) fn obey(&mut self, core: &Core, command: Command) {
        match command {
            Command::CreateChannel { topic, channel } => {
                // Gossip never creates a topic.
                let Some(topic) = core.broker.topic(topic.as_str()) else { return };
                if let Err(refused) = topic.channel_or_create(&channel) {
                    tracing::warn!("cannot make channel {channel} of topic {}: {refused}", topic.name());
                }
            }
            Command::Delete { name: Name { topic, channel: None }, number } => {
                if core.broker.delete_topic_numbered(topic.as_str(), number).is_some() {
                    tracing::info!("topic {topic} was deleted in the mesh");
                }
            }
            Command::Delete { name: Name { topic, channel: Some(channel) }, number } => {
                let Some(held) = core.broker.topic(topic.as_str()) else { return };
                if held.delete_channel_numbered(channel.as_str(), number).is_some() {
                    tracing::info!("channel {channel} of topic {topic} was deleted in the mesh");
                }
            }
        }
    }

    /// Tells the mesh how a topic differs from what it was last told.
    fn compare(&mut self, core: &Core, topic: &TopicName, came: LocalWhat) {
        let held = held(&core.broker, topic);
        let told = self.told.get(topic);
        for change in differences(topic, told, held.as_ref(), came) {
            core.input(Input::Local(change));
        }
        match held {
            Some(held) => self.told.insert(topic.clone(), held),
            None => self.told.remove(topic),
        };
    }
}

fn held(broker: &Broker, topic: &TopicName) -> Option<Held> {
    let topic = broker.topic(topic.as_str())?;
    let channels =
        topic.channels().iter().map(|channel| (channel.name().clone(), channel.number())).collect();
    Some(Held { number: topic.number(), channels })
}

/// The changes that lead from `told` to `held`; what went comes before what came.
fn differences(
    topic: &TopicName,
    told: Option<&Held>,
    held: Option<&Held>,
    came: LocalWhat,
) -> Vec<LocalChange> {
    let mut changes = Vec::new();
    let mut change = |name, number, what| changes.push(LocalChange { name, number, what });
    let channel_name = |channel: &ChannelName| Name::channel(topic.clone(), channel.clone());
    let empty = Held::default();
    let (before, after) = (told.unwrap_or(&empty), held.unwrap_or(&empty));
    let another = told.is_none() || held.is_none() || before.number != after.number;
    for (channel, number) in &before.channels {
        if another || after.channels.get(channel) != Some(number) {
            change(channel_name(channel), *number, LocalWhat::Gone);
        }
    }
    if another && told.is_some() {
        change(Name::topic(topic.clone()), before.number, LocalWhat::Gone);
    }
    if another && held.is_some() {
        change(Name::topic(topic.clone()), after.number, came);
    }
    for (channel, number) in &after.channels {
        if another || before.channels.get(channel) != Some(number) {
            change(channel_name(channel), *number, came);
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(number: u64, channels: &[(&str, u64)]) -> Held {
        let channels = channels.iter().map(|(name, number)| (ChannelName::new(name).unwrap(), *number));
        Held { number, channels: channels.collect() }
    }

    fn told(before: Option<Held>, after: Option<Held>) -> Vec<String> {
        let topic = TopicName::new("t").unwrap();
        let changes = differences(&topic, before.as_ref(), after.as_ref(), LocalWhat::Created);
        let channel = |name: &Name| name.channel.as_ref().map_or_else(String::new, |c| format!("/{c}"));
        let text =
            |c: &LocalChange| format!("{:?} {}{} {}", c.what, c.name.topic, channel(&c.name), c.number);
        changes.iter().map(text).collect()
    }

    #[test]
    fn only_what_differs_is_told() {
        let one = held(1, &[("a", 2), ("b", 3)]);
        assert_eq!(told(None, Some(one.clone())), ["Created t 1", "Created t/a 2", "Created t/b 3"]);
        assert_eq!(told(Some(one.clone()), Some(one.clone())), [""; 0]);
        let other = held(1, &[("a", 4), ("c", 5)]);
        let expected = ["Gone t/a 2", "Gone t/b 3", "Created t/a 4", "Created t/c 5"];
        assert_eq!(told(Some(one.clone()), Some(other)), expected);
        assert_eq!(told(Some(one), None), ["Gone t/a 2", "Gone t/b 3", "Gone t 1"]);
    }

    #[test]
    fn a_topic_made_anew_is_another_one_with_all_its_channels() {
        let changes = told(Some(held(1, &[("a", 2)])), Some(held(7, &[("a", 8)])));
        assert_eq!(changes, ["Gone t/a 2", "Gone t 1", "Created t 7", "Created t/a 8"]);
    }
}
