//! `/stats`: what every topic, channel and client is doing.

use std::time::{Duration, SystemTime};

use axum::{extract::State, http::Uri, response::Response};
use bruit_gossip::NodeId;
use bruit_wire::{ChannelName, TopicName};

use super::{
    HttpState,
    query::Query,
    reply::{self, ApiError},
    stats_json, stats_text,
};
use crate::{
    Durability,
    broker::{Channel, ChannelStats, ClientStats, JournalStats, Sketch, Topic, TopicStats, quantiles},
    mesh::MeshReport,
    relay::LinkReport,
};

/// `GET /stats?format=&topic=&channel=&include_clients=&include_mem=`
pub(super) async fn stats(State(state): State<HttpState>, uri: Uri) -> Result<Response, ApiError> {
    let query = Query::of(&uri)?;
    let named = |key| query.first(key).filter(|name| !name.is_empty());
    let filter = Filter {
        topic: named("topic"),
        channel: named("channel"),
        clients: query.flag("include_clients", true),
        memory: query.flag("include_mem", true),
    };
    let snapshot = Snapshot::take(&state, &filter);
    match query.first("format").as_deref() {
        Some("json") => Ok(stats_json::render(&snapshot)),
        _ => Ok(reply::text(stats_text::render(&snapshot))),
    }
}

struct Filter {
    topic: Option<String>,
    channel: Option<String>,
    clients: bool,
    memory: bool,
}

/// What both renderings show.
pub(super) struct Snapshot {
    pub(super) now: SystemTime,
    pub(super) started: SystemTime,
    pub(super) uptime: Duration,
    /// `OK`, or `NOK - ` and the reason.
    pub(super) health: String,
    /// Sorted by name. `None` when a topic was asked for that does not exist.
    pub(super) topics: Option<Vec<TopicRow>>,
    /// Connections that have published. `None` when there are none, or they are not wanted.
    pub(super) producers: Option<Vec<ClientStats>>,
    /// Whether the block about memory is wanted.
    pub(super) memory: bool,
    pub(super) durability: Durability,
    pub(super) journal: JournalStats,
    pub(super) node: NodeId,
    pub(super) mesh: MeshReport,
}

pub(super) struct TopicRow {
    pub(super) name: TopicName,
    pub(super) durability: Durability,
    pub(super) stats: TopicStats,
    /// Sorted by name.
    pub(super) channels: Vec<ChannelRow>,
    /// `None` where it is not kept, and without channels.
    pub(super) latency: Option<Latency>,
}

/// How long messages took lately.
pub(super) struct Latency {
    pub(super) count: u64,
    /// Each quantile with its latency in ns.
    pub(super) quantiles: Vec<(f64, u64)>,
}

pub(super) struct ChannelRow {
    pub(super) name: ChannelName,
    pub(super) stats: ChannelStats,
    /// `None` when clients are not wanted.
    pub(super) clients: Option<Vec<ClientStats>>,
    /// To the other nodes that hold the topic, while there are consumers here.
    pub(super) relays: Vec<LinkReport>,
    /// `None` where it is not kept.
    pub(super) latency: Option<Latency>,
}

impl Snapshot {
    fn take(state: &HttpState, filter: &Filter) -> Self {
        let broker = &state.broker;
        let topics = match &filter.topic {
            None => Some(broker.topics()),
            Some(name) => broker.topic(name).map(|topic| vec![topic]),
        };
        let topics = topics.map(|topics| {
            topics.iter().filter_map(|topic| TopicRow::take(state, topic, filter)).collect::<Vec<_>>()
        });
        let producers = match filter.clients && topics.is_some() {
            true => published_to(broker.producers(), filter.topic.as_deref()),
            false => Vec::new(),
        };
        Self {
            now: state.env.wall.now(),
            started: state.started,
            uptime: state.started_at.elapsed(),
            health: broker.health().map_or_else(|error| format!("NOK - {error}"), |()| "OK".to_owned()),
            topics,
            producers: (!producers.is_empty()).then_some(producers),
            memory: filter.memory,
            durability: state.config.journal.durability,
            journal: broker.journal_stats(),
            node: state.mesh.node_id(),
            mesh: state.mesh.stats(),
        }
    }
}

impl TopicRow {
    /// `None` when a channel was asked for that this topic does not have.
    fn take(state: &HttpState, topic: &Topic, filter: &Filter) -> Option<Self> {
        let channels = match &filter.channel {
            None => topic.channels(),
            Some(name) => vec![topic.channel(name)?],
        };
        let percentiles = topic.percentiles();
        let row = |channel: &Channel| ChannelRow {
            name: channel.name().clone(),
            stats: channel.stats(),
            clients: filter.clients.then(|| channel.clients()),
            relays: state.relays.links_of(topic.name(), channel.name()),
            latency: channel.latency().map(|sketch| Latency::of(&sketch, percentiles)),
        };
        Some(Self {
            name: topic.name().clone(),
            durability: state.config.journal.durability_of(topic.name()),
            stats: topic.stats(),
            channels: channels.iter().map(|channel| row(channel)).collect(),
            latency: topic.latency().map(|sketch| Latency::of(&sketch, percentiles)),
        })
    }
}

impl Latency {
    fn of(sketch: &Sketch, percentiles: &[f64]) -> Self {
        Self { count: sketch.len(), quantiles: quantiles(sketch, percentiles) }
    }
}

/// The producers, with their counts cut down to the one topic that was asked for.
fn published_to(mut producers: Vec<ClientStats>, topic: Option<&str>) -> Vec<ClientStats> {
    if let Some(wanted) = topic {
        for producer in &mut producers {
            producer.pub_counts.retain(|(topic, _)| topic.as_str() == wanted);
        }
    }
    producers
}

/// A snapshot with one of everything, for the tests of both renderings.
#[cfg(test)]
pub(super) mod example {
    use std::time::UNIX_EPOCH;

    use super::*;

    pub(in crate::http) fn snapshot() -> Snapshot {
        let started = UNIX_EPOCH + Duration::from_secs(1_795_242_404);
        let connected = started + Duration::from_secs(60);
        let consumer = client("h2", "u/2", 46524, connected);
        let mut producer = client("h1", "u/1", 46508, connected);
        let topic = TopicName::new("t").unwrap();
        producer.pub_counts = vec![(topic.clone(), 3)];
        let channel = ChannelRow {
            name: ChannelName::new("s").unwrap(),
            stats: ChannelStats {
                depth: 7,
                in_flight_count: 216,
                message_count: 1001,
                client_count: 1,
                paused: true,
                ..ChannelStats::default()
            },
            clients: Some(vec![consumer]),
            relays: Vec::new(),
            latency: None,
        };
        let stats = TopicStats { message_count: 1001, message_bytes: 2891, ..TopicStats::default() };
        Snapshot {
            now: connected + Duration::from_millis(61_900),
            started,
            uptime: Duration::new(428, 766_760_254),
            health: "OK".to_owned(),
            topics: Some(vec![TopicRow {
                name: topic,
                durability: Durability::Fsync,
                stats,
                channels: vec![channel],
                latency: None,
            }]),
            producers: Some(vec![producer]),
            memory: true,
            durability: Durability::Fsync,
            journal: JournalStats::default(),
            node: NodeId::new(1),
            mesh: MeshReport::default(),
        }
    }

    pub(in crate::http) fn link() -> LinkReport {
        LinkReport {
            node: NodeId::new(2),
            address: ([127, 0, 0, 1], 4161).into(),
            state: "open",
            credit: 50,
            in_flight: 3,
            received: 20,
            finished: 17,
            waiting: 4,
            rtt: Some(Duration::from_micros(180)),
        }
    }

    fn client(hostname: &str, user_agent: &str, port: u16, connected: SystemTime) -> ClientStats {
        ClientStats {
            client_id: hostname.to_owned(),
            hostname: hostname.to_owned(),
            user_agent: user_agent.to_owned(),
            remote_address: format!("127.0.0.1:{port}"),
            state: 3,
            ready_count: 1,
            in_flight_count: 1,
            message_count: 1,
            finish_count: 0,
            requeue_count: 0,
            connected,
            sample_rate: 0,
            topology_region: String::new(),
            topology_zone: String::new(),
            compression: None,
            tls: None,
            pub_counts: Vec::new(),
            identity: None,
        }
    }
}
