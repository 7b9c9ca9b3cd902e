//! What those who draw graphs are told of a topic and its channels: statsd, and Prometheus under the same names.
//!
//! No lock is held but that of one channel at a time.

use bruit_wire::{ChannelName, TopicName};

use super::{Channel, ChannelStats, Topic, TopicStats, latency};

/// One topic at one time.
#[derive(Debug)]
pub(crate) struct TopicFigures {
    pub(crate) name: TopicName,
    pub(crate) stats: TopicStats,
    /// Quantile and latency in ns; none without channels.
    pub(crate) latency: Vec<(f64, u64)>,
    pub(crate) channels: Vec<ChannelFigures>,
}

/// One channel at the same time.
#[derive(Debug)]
pub(crate) struct ChannelFigures {
    pub(crate) name: ChannelName,
    pub(crate) stats: ChannelStats,
    pub(crate) latency: Vec<(f64, u64)>,
}

impl TopicFigures {
    /// Those of `topic`, and of its channels that are `wanted`.
    pub(crate) fn take(topic: &Topic, wanted: impl Fn(&Channel) -> bool) -> Self {
        let percentiles = topic.percentiles();
        let of = |sketch: Option<_>| {
            sketch.map(|sketch| latency::quantiles(&sketch, percentiles)).unwrap_or_default()
        };
        let channels = topic.channels();
        let channels = channels.iter().filter(|channel| wanted(channel)).map(|channel| ChannelFigures {
            name: channel.name().clone(),
            stats: channel.stats(),
            latency: of(channel.latency()),
        });
        Self {
            name: topic.name().clone(),
            stats: topic.stats(),
            latency: of(topic.latency()),
            channels: channels.collect(),
        }
    }
}

/// What nsqd calls the figure of a quantile. Two that differ by less than a percent may have one name.
pub(crate) fn latency_name(quantile: f64) -> String {
    format!("e2e_processing_latency_{:.0}", quantile * 100.0)
}
