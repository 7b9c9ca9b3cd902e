//! What a run is about: topics, channels, clients, and how they behave. Each seed has its own shape, so
//! that seeds differ in kind and not only in order.

use std::time::Duration;

use crate::dice::Dice;

/// A channel, as indices into [`Shape::topics`] and [`Topic::channels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index of the topic.
    pub topic: usize,
    /// Index of the channel in its topic.
    pub channel: usize,
}

/// How the node was told to keep a topic's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Synced before `OK`.
    Fsync,
    /// Written before `OK`: a power loss may take it.
    Os,
    /// In memory: nothing is promised.
    Memory,
}

/// One topic of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name on the wire.
    pub name: String,
    /// What `OK` promises.
    pub keeping: Keeping,
    /// Its channels.
    pub channels: Vec<Channel>,
}

/// One channel of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its name on the wire.
    pub name: String,
    /// Whether it goes with its last consumer, so that nothing is promised.
    pub ephemeral: bool,
    /// How many consumers it has while the run is in its first part.
    pub consumers: usize,
    /// When its first consumer comes.
    pub opens_at: Duration,
}

/// The whole of a run's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The topics.
    pub topics: Vec<Topic>,
    /// Number of publishers.
    pub publishers: usize,
    /// Longest pause between two bursts of one publisher, milliseconds.
    pub pause_millis: u64,
    /// Most commands that a publisher sends before it waits for their answers.
    pub window: u64,
    /// Longest body in common use, bytes; one in fifty is up to 20 times that.
    pub body_len: u64,
    /// Of a thousand messages, how many a consumer does not simply finish.
    pub trouble_per_mille: u64,
    /// Size of a segment, bytes.
    pub segment_size: u64,
    /// Memory for recent messages, bytes.
    pub cache_bytes: usize,
    /// How long faults go on.
    pub chaos: Duration,
}

impl Shape {
    /// The shape that `dice` give.
    #[must_use]
    pub fn new(dice: &mut Dice) -> Self {
        let topics = (0..dice.between(1, 3)).map(|index| topic(index, dice)).collect();
        Self {
            topics,
            publishers: usize::try_from(dice.between(1, 3)).unwrap_or(1),
            pause_millis: dice.between(10, 80),
            window: dice.between(1, 12),
            body_len: dice.between(40, 600),
            trouble_per_mille: [0, 30, 150, 400][usize::try_from(dice.below(4)).unwrap_or(0)],
            segment_size: 4096 * [16, 32, 64][usize::try_from(dice.below(3)).unwrap_or(0)],
            cache_bytes: [0, 16, 256, 4096][usize::try_from(dice.below(4)).unwrap_or(0)] * 1024,
            chaos: dice.millis(4_000, 8_000),
        }
    }

    /// The shape that `dice` give for each node of a mesh: less of everything, as there are several.
    #[must_use]
    pub fn for_mesh(dice: &mut Dice, chaos: Duration) -> Self {
        let mut shape = Self::new(dice);
        shape.topics.truncate(2);
        for topic in &mut shape.topics {
            topic.channels.truncate(2);
            for channel in &mut topic.channels {
                channel.consumers = 1;
            }
        }
        let pause_millis = dice.between(50, 300);
        Self { publishers: 1, pause_millis, window: dice.between(1, 4), chaos, ..shape }
    }

    /// The topic at `index`.
    ///
    /// # Panics
    /// When there is no such topic: an index comes from this shape.
    #[must_use]
    pub fn topic(&self, index: usize) -> &Topic {
        &self.topics[index]
    }

    /// The channel at `place`.
    ///
    /// # Panics
    /// When there is no such channel: a place comes from this shape.
    #[must_use]
    pub fn channel(&self, place: Place) -> &Channel {
        &self.topics[place.topic].channels[place.channel]
    }

    /// All channels, in order.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let channels = |(topic, of): (usize, &Topic)| {
            (0..of.channels.len()).map(move |channel| Place { topic, channel })
        };
        self.topics.iter().enumerate().flat_map(channels)
    }

    /// The channels about which something is promised.
    pub fn kept_places(&self) -> impl Iterator<Item = Place> {
        self.places().filter(|place| self.is_kept(*place))
    }

    /// Whether anything is promised about a channel's messages.
    #[must_use]
    pub fn is_kept(&self, place: Place) -> bool {
        self.topic(place.topic).keeping != Keeping::Memory && !self.channel(place).ephemeral
    }
}

fn topic(index: u64, dice: &mut Dice) -> Topic {
    let keeping = match dice.below(10) {
        0 => Keeping::Memory,
        1 | 2 => Keeping::Os,
        _ => Keeping::Fsync,
    };
    let name = match keeping {
        Keeping::Fsync => format!("orders{index}"),
        Keeping::Os => format!("os-clicks{index}"),
        Keeping::Memory => format!("live{index}#ephemeral"),
    };
    let channels = (0..dice.between(1, 3)).map(|index| channel(index, dice)).collect();
    Topic { name, keeping, channels }
}

fn channel(index: u64, dice: &mut Dice) -> Channel {
    // The first channel stays, so that every topic has one that its backlog can go to.
    let ephemeral = index > 0 && dice.chance(150);
    Channel {
        name: if ephemeral { format!("tail{index}#ephemeral") } else { format!("archive{index}") },
        ephemeral,
        consumers: usize::try_from(dice.between(1, 3)).unwrap_or(1),
        opens_at: if dice.chance(700) { Duration::ZERO } else { dice.millis(0, 3_000) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_a_channel_that_stays_and_seeds_differ() {
        let shapes: Vec<Shape> = (0..50).map(|seed| Shape::new(&mut Dice::new(seed))).collect();
        for shape in &shapes {
            assert!(shape.topics.iter().all(|topic| topic.channels.iter().any(|channel| !channel.ephemeral)));
            assert!(shape.segment_size.is_multiple_of(4096));
        }
        assert!(shapes.iter().any(|shape| shape.places().count() > shape.kept_places().count()));
        assert!(shapes.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
