//! `/stats` as JSON.
//!
//! nsqadmin and nsq_stat crash when a latency object is missing or a count is not an integer, so the shape is
//! exactly nsqd's. What bruit adds are new keys, which every reader passes over.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::response::Response;
use bruit_gossip::NodeId;
use bruit_wire::compress::Compression;
use serde::{Serialize, Serializer};

use super::{
    BRUIT_VERSION, NSQ_VERSION, reply,
    stats::{ChannelRow, Latency, Snapshot, TopicRow},
};
use crate::{
    Durability,
    broker::{ClientStats, JournalStats},
    relay::LinkReport,
};

/// The reply that shows `snapshot`.
pub(super) fn render(snapshot: &Snapshot) -> Response {
    reply::json(&Stats::of(snapshot))
}

#[derive(Serialize)]
struct Stats<'a> {
    version: &'a str,
    health: &'a str,
    start_time: u64,
    topics: Option<Vec<TopicJson<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    producers: Option<Vec<ClientJson<'a>>>,
    bruit_version: &'a str,
    durability: &'a str,
    journal: JournalJson<'a>,
    mesh: MeshJson,
}

impl<'a> Stats<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let clients = |clients: &'a Vec<ClientStats>| clients.iter().map(ClientJson::of).collect();
        Self {
            version: NSQ_VERSION,
            health: &snapshot.health,
            start_time: unix_seconds(snapshot.started),
            topics: snapshot.topics.as_ref().map(|topics| topics.iter().map(TopicJson::of).collect()),
            memory: snapshot.memory.then(Memory::default),
            producers: snapshot.producers.as_ref().map(clients),
            bruit_version: BRUIT_VERSION,
            durability: word(snapshot.durability),
            journal: JournalJson::of(&snapshot.journal),
            mesh: MeshJson::of(snapshot),
        }
    }
}

#[derive(Serialize)]
struct TopicJson<'a> {
    topic_name: &'a str,
    channels: Vec<ChannelJson<'a>>,
    depth: u64,
    backend_depth: u64,
    message_count: u64,
    message_bytes: u64,
    paused: bool,
    e2e_processing_latency: LatencyJson,
    durability: &'a str,
}

impl<'a> TopicJson<'a> {
    fn of(topic: &'a TopicRow) -> Self {
        Self {
            topic_name: topic.name.as_str(),
            channels: topic.channels.iter().map(ChannelJson::of).collect(),
            depth: topic.stats.depth,
            backend_depth: topic.stats.backend_depth,
            message_count: topic.stats.message_count,
            message_bytes: topic.stats.message_bytes,
            paused: topic.stats.paused,
            e2e_processing_latency: LatencyJson::of(topic.latency.as_ref()),
            durability: word(topic.durability),
        }
    }
}

#[derive(Serialize)]
struct ChannelJson<'a> {
    channel_name: &'a str,
    depth: u64,
    backend_depth: u64,
    in_flight_count: u64,
    deferred_count: u64,
    message_count: u64,
    /// Deliveries to consumers in this node's zone, then in its region, then to all others.
    #[serde(skip_serializing_if = "is_zero")]
    zone_local_msg_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    region_local_msg_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    global_msg_count: u64,
    requeue_count: u64,
    timeout_count: u64,
    client_count: u64,
    clients: Option<Vec<ClientJson<'a>>>,
    paused: bool,
    e2e_processing_latency: LatencyJson,
    /// What comes from other nodes.
    #[serde(skip_serializing_if = "<[LinkReport]>::is_empty")]
    relays: &'a [LinkReport],
}

impl<'a> ChannelJson<'a> {
    fn of(channel: &'a ChannelRow) -> Self {
        let stats = &channel.stats;
        let [zone_local_msg_count, region_local_msg_count, global_msg_count] = stats.delivered;
        Self {
            channel_name: channel.name.as_str(),
            depth: stats.depth,
            backend_depth: stats.backend_depth,
            in_flight_count: stats.in_flight_count,
            deferred_count: stats.deferred_count,
            message_count: stats.message_count,
            zone_local_msg_count,
            region_local_msg_count,
            global_msg_count,
            requeue_count: stats.requeue_count,
            timeout_count: stats.timeout_count,
            client_count: stats.client_count,
            clients: channel.clients.as_ref().map(|clients| clients.iter().map(ClientJson::of).collect()),
            paused: stats.paused,
            e2e_processing_latency: LatencyJson::of(channel.latency.as_ref()),
            relays: &channel.relays,
        }
    }
}

#[derive(Serialize)]
struct ClientJson<'a> {
    client_id: &'a str,
    hostname: &'a str,
    version: &'a str,
    remote_address: &'a str,
    state: u8,
    ready_count: u64,
    in_flight_count: u64,
    message_count: u64,
    finish_count: u64,
    requeue_count: u64,
    connect_ts: u64,
    sample_rate: u8,
    deflate: bool,
    snappy: bool,
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authed: Option<bool>,
    #[serde(skip_serializing_if = "str::is_empty")]
    auth_identity: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    auth_identity_url: &'a str,
    topology_zone: &'a str,
    topology_region: &'a str,
    tls: bool,
    tls_cipher_suite: &'a str,
    tls_version: &'a str,
    tls_negotiated_protocol: &'a str,
    tls_negotiated_protocol_is_mutual: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub_counts: Vec<PubCount<'a>>,
}

impl<'a> ClientJson<'a> {
    fn of(client: &'a ClientStats) -> Self {
        let counts = client.pub_counts.iter();
        Self {
            client_id: &client.client_id,
            hostname: &client.hostname,
            version: "V2",
            remote_address: &client.remote_address,
            state: client.state,
            ready_count: client.ready_count,
            in_flight_count: client.in_flight_count,
            message_count: client.message_count,
            finish_count: client.finish_count,
            requeue_count: client.requeue_count,
            connect_ts: unix_seconds(client.connected),
            sample_rate: client.sample_rate,
            deflate: matches!(client.compression, Some(Compression::Deflate { .. })),
            snappy: client.compression == Some(Compression::Snappy),
            user_agent: &client.user_agent,
            authed: client.identity.as_ref().map(|_| true),
            auth_identity: client.identity.as_ref().map_or("", |identity| &identity.name),
            auth_identity_url: client.identity.as_ref().map_or("", |identity| &identity.url),
            topology_zone: &client.topology_zone,
            topology_region: &client.topology_region,
            tls: client.tls.is_some(),
            tls_cipher_suite: client.tls.as_ref().map(|(_, suite)| suite.as_str()).unwrap_or_default(),
            tls_version: client.tls.as_ref().map(|(version, _)| *version).unwrap_or_default(),
            tls_negotiated_protocol: "",
            // Go says so of every handshake.
            tls_negotiated_protocol_is_mutual: client.tls.is_some(),
            pub_counts: counts
                .map(|(topic, count)| PubCount { topic: topic.as_str(), count: *count })
                .collect(),
        }
    }
}

#[derive(Serialize)]
struct PubCount<'a> {
    topic: &'a str,
    count: u64,
}

/// Always an object, with `null` for no percentiles.
#[derive(Serialize)]
struct LatencyJson {
    count: u64,
    percentiles: Option<Vec<Percentile>>,
}

#[derive(Serialize)]
struct Percentile {
    /// As Go writes it: 1 is not 1.0.
    #[serde(serialize_with = "shortest")]
    quantile: f64,
    /// Nanoseconds.
    value: u64,
}

impl LatencyJson {
    fn of(latency: Option<&Latency>) -> Self {
        let percentile = |&(quantile, value): &(f64, u64)| Percentile { quantile, value };
        Self {
            count: latency.map_or(0, |latency| latency.count),
            percentiles: latency.map(|latency| latency.quantiles.iter().map(percentile).collect()),
        }
    }
}

fn shortest<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if number.fract() == 0.0 {
        serializer.serialize_u64(*number as u64)
    } else {
        serializer.serialize_f64(*number)
    }
}

/// What Go's runtime would say of its heap. Readers want the keys; here the values have no meaning.
#[derive(Serialize, Default)]
struct Memory {
    heap_objects: u64,
    heap_idle_bytes: u64,
    heap_in_use_bytes: u64,
    heap_released_bytes: u64,
    gc_pause_usec_100: u64,
    gc_pause_usec_99: u64,
    gc_pause_usec_95: u64,
    next_gc_bytes: u64,
    gc_total_runs: u64,
}

/// The journal that all durable topics share.
#[derive(Serialize)]
struct JournalJson<'a> {
    segments: u64,
    bytes: u64,
    live_bytes: u64,
    damaged_records: u64,
    commits: u64,
    syncs: u64,
    /// Why publishes are refused; `null` while they are not.
    refusing: Option<&'a str>,
}

impl<'a> JournalJson<'a> {
    fn of(stats: &'a JournalStats) -> Self {
        Self {
            segments: stats.segments,
            bytes: stats.bytes,
            live_bytes: stats.live_bytes,
            damaged_records: stats.damaged_records,
            commits: stats.commits,
            syncs: stats.syncs,
            refusing: stats.refusing.as_deref(),
        }
    }
}

/// This node among the others; `/mesh/stats` has more.
#[derive(Serialize)]
struct MeshJson {
    node: NodeId,
    enabled: bool,
    alive: u64,
    suspect: u64,
    down: u64,
    left: u64,
    /// Lifeguard's local health score; 0 is healthy.
    health: u32,
}

impl MeshJson {
    fn of(snapshot: &Snapshot) -> Self {
        let mesh = &snapshot.mesh.mesh;
        Self {
            node: snapshot.node,
            enabled: snapshot.mesh.enabled,
            alive: mesh.alive,
            suspect: mesh.suspect,
            down: mesh.down,
            left: mesh.left,
            health: mesh.health,
        }
    }
}

const fn is_zero(count: &u64) -> bool {
    *count == 0
}

const fn word(durability: Durability) -> &'static str {
    match durability {
        Durability::Memory => "memory",
        Durability::Os => "os",
        Durability::Fsync => "fsync",
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::http::stats::example;

    fn shown(snapshot: &Snapshot) -> Value {
        serde_json::to_value(Stats::of(snapshot)).unwrap()
    }

    #[test]
    fn the_keys_come_in_the_order_of_nsqd() {
        let text = serde_json::to_string(&Stats::of(&example::snapshot())).unwrap();
        let keys = [
            "version",
            "health",
            "start_time",
            "topics",
            "topic_name",
            "channels",
            "channel_name",
            "depth",
            "backend_depth",
            "in_flight_count",
            "deferred_count",
            "message_count",
            "requeue_count",
            "timeout_count",
            "client_count",
            "clients",
            "client_id",
            "hostname",
            "remote_address",
            "state",
            "ready_count",
            "finish_count",
            "connect_ts",
            "sample_rate",
            "deflate",
            "snappy",
            "user_agent",
            "topology_zone",
            "topology_region",
            "tls",
            "tls_cipher_suite",
            "tls_version",
            "tls_negotiated_protocol",
            "tls_negotiated_protocol_is_mutual",
            "paused",
            "e2e_processing_latency",
            "message_bytes",
            "memory",
            "heap_objects",
            "gc_total_runs",
            "producers",
            "pub_counts",
        ];
        let first_seen =
            keys.map(|key| text.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key}")));
        assert!(first_seen.is_sorted(), "{text}");
    }

    #[test]
    fn what_bruit_adds_comes_after_what_nsqd_says() {
        let text = serde_json::to_string(&Stats::of(&example::snapshot())).unwrap();
        let mesh = r#""mesh":{"node":"0000000000000001","enabled":false,"alive":0,"suspect":0,"down":0,"left":0,"health":0}}"#;
        assert!(text.ends_with(mesh), "{text}");
    }

    #[test]
    fn latency_is_always_an_object() {
        let shown = shown(&example::snapshot());
        let expected = json!({"count": 0, "percentiles": null});
        assert_eq!(shown["topics"][0]["e2e_processing_latency"], expected);
        assert_eq!(shown["topics"][0]["channels"][0]["e2e_processing_latency"], expected);
    }

    #[test]
    fn percentiles_are_shown_as_go_shows_them() {
        let mut snapshot = example::snapshot();
        let latency = Latency { count: 3, quantiles: vec![(1.0, 7_000), (0.99, 6_000)] };
        snapshot.topics.as_mut().unwrap()[0].latency = Some(latency);
        let text = serde_json::to_string(&Stats::of(&snapshot)).unwrap();
        let expected = r#""e2e_processing_latency":{"count":3,"percentiles":[{"quantile":1,"value":7000},{"quantile":0.99,"value":6000}]}"#;
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn nothing_is_told_apart_from_not_asked_for() {
        let mut snapshot = example::snapshot();
        snapshot.topics.as_mut().unwrap()[0].channels[0].clients = None;
        snapshot.producers = None;
        snapshot.memory = false;
        let without = shown(&snapshot);
        assert_eq!(without["topics"][0]["channels"][0]["clients"], Value::Null);
        assert_eq!(without["topics"][0]["channels"][0]["client_count"], 1);
        assert_eq!(without["producers"], Value::Null);
        assert_eq!(without.get("memory"), None);
        snapshot.topics = Some(Vec::new());
        assert_eq!(shown(&snapshot)["topics"], json!([]));
        snapshot.topics = None;
        assert_eq!(shown(&snapshot)["topics"], Value::Null);
    }

    #[test]
    fn deliveries_are_counted_by_distance_and_only_where_there_were_any() {
        let mut snapshot = example::snapshot();
        let keys = ["zone_local_msg_count", "region_local_msg_count", "global_msg_count"];
        let none = shown(&snapshot)["topics"][0]["channels"][0].clone();
        assert!(keys.iter().all(|key| none.get(key).is_none()), "{none}");
        snapshot.topics.as_mut().unwrap()[0].channels[0].stats.delivered = [1, 2, 3];
        let text = serde_json::to_string(&Stats::of(&snapshot)).unwrap();
        let expected = r#""message_count":1001,"zone_local_msg_count":1,"region_local_msg_count":2,"global_msg_count":3,"requeue_count":0,"#;
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn links_are_shown_only_where_there_are_any() {
        let mut snapshot = example::snapshot();
        assert_eq!(shown(&snapshot)["topics"][0]["channels"][0].get("relays"), None);
        snapshot.topics.as_mut().unwrap()[0].channels[0].relays = vec![example::link()];
        let expected = json!([{
            "node": "0000000000000002", "address": "127.0.0.1:4161", "state": "open", "credit": 50,
            "in_flight": 3, "received": 20, "finished": 17, "waiting": 4, "rtt_us": 180,
        }]);
        assert_eq!(shown(&snapshot)["topics"][0]["channels"][0]["relays"], expected);
    }

    #[test]
    fn a_consumer_has_no_publish_counts() {
        let shown = shown(&example::snapshot());
        assert_eq!(shown["topics"][0]["channels"][0]["clients"][0].get("pub_counts"), None);
        assert_eq!(shown["producers"][0]["pub_counts"], json!([{"topic": "t", "count": 3}]));
    }
}
