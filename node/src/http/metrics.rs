//! `/metrics`: figures for Prometheus, as its text format has them.
//!
//! **Bounded:** no series is about a client, those about topics and channels are counted (`series`), and the
//! number of others depends on this code, and on how many nodes the mesh has.

use std::{
    fmt::{Display, Write},
    time::UNIX_EPOCH,
};

use axum::{extract::State, http::Uri, response::Response};

use super::{
    BRUIT_VERSION, HttpState, NSQ_VERSION,
    query::Query,
    reply::{self, ApiError},
    series::Series,
};
use crate::{auth::Auth, broker::JournalStats, mesh::MeshReport, relay::RelayReport};

/// `GET /metrics?topic=`: everything, of all topics or of one.
pub(super) async fn metrics(State(state): State<HttpState>, uri: Uri) -> Result<Response, ApiError> {
    let topic = Query::of(&uri)?.first("topic");
    let mut out = Exposition::default();
    out.family("build_info", GAUGE, "The versions of bruit and of the nsqd that it behaves like.");
    out.sample("build_info", &[("version", BRUIT_VERSION), ("nsq_version", NSQ_VERSION)], 1);
    process(&mut out, &state);
    journal(&mut out, &state.broker.journal_stats());
    mesh(&mut out, &state.mesh.stats());
    relay(&mut out, &state.relays.report());
    auth(&mut out, state.auth.as_deref());
    let series = Series::take(&state.broker, state.config.limits.max_metrics_series, topic.as_deref());
    let help = "Series of topics and channels that found no room here (see --max-metrics-series).";
    out.single("metrics_omitted_series", GAUGE, help, series.omitted);
    series.write(&mut out.0);
    Ok(reply::metrics(out.0))
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

fn process(out: &mut Exposition, state: &HttpState) {
    let started = state.started.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    out.single("start_time_seconds", GAUGE, "When the node started, seconds since 1970.", started);
    out.single("connections", GAUGE, "Connections of clients.", state.broker.connections());
    out.single("topics", GAUGE, "Topics on this node.", state.broker.topic_count());
    let (waiting, unfinished) = (state.broker.waiting_output(), state.broker.unfinished_input());
    out.single("waiting_output_bytes", GAUGE, "Bytes that wait for clients to take them.", waiting);
    out.single("unfinished_input_bytes", GAUGE, "Bytes of commands that have come in part.", unfinished);
    let healthy = u8::from(state.broker.health().is_ok());
    out.single(
        "healthy",
        GAUGE,
        "1 if publishes are taken and the last write to the journal succeeded, else 0.",
        healthy,
    );
}

fn journal(out: &mut Exposition, journal: &JournalStats) {
    out.single("journal_segments", GAUGE, "Files of the journal.", journal.segments);
    out.single("journal_bytes", GAUGE, "Bytes that the journal takes on disk.", journal.bytes);
    out.single("journal_live_bytes", GAUGE, "Bytes of it that a channel still needs.", journal.live_bytes);
    let damaged = journal.damaged_records;
    out.single("journal_damaged_records", GAUGE, "Damaged records found since the start.", damaged);
    out.single("journal_commits_total", COUNTER, "Batches written.", journal.commits);
    out.single("journal_syncs_total", COUNTER, "Batches synced to disk.", journal.syncs);
    let refusing = u8::from(journal.refusing.is_some());
    out.single("journal_refusing", GAUGE, "1 while publishes are refused, else 0.", refusing);
}

fn mesh(out: &mut Exposition, report: &MeshReport) {
    let mesh = &report.mesh;
    out.family("mesh_members", GAUGE, "Nodes of the mesh by state, this one included.");
    for (state, count) in
        [("alive", mesh.alive), ("suspect", mesh.suspect), ("down", mesh.down), ("left", mesh.left)]
    {
        out.sample("mesh_members", &[("state", state)], count);
    }
    out.single("mesh_suspicions_total", COUNTER, "Suspicions that this node raised.", mesh.suspicions);
    let refuted = mesh.refuted_suspicions;
    out.single("mesh_refuted_suspicions_total", COUNTER, "Those of them that proved wrong.", refuted);
    out.single("mesh_health", GAUGE, "Lifeguard's local health score; 0 is healthy.", mesh.health);
    out.family("mesh_gossip_packets_total", COUNTER, "Sealed datagrams.");
    out.sample("mesh_gossip_packets_total", &[("direction", "in")], report.packets_in);
    out.sample("mesh_gossip_packets_total", &[("direction", "out")], report.packets_out);
    out.family("mesh_gossip_bytes_total", COUNTER, "Bytes of sealed datagrams.");
    out.sample("mesh_gossip_bytes_total", &[("direction", "in")], report.sealed_bytes_in);
    out.sample("mesh_gossip_bytes_total", &[("direction", "out")], report.sealed_bytes_out);
    out.family("mesh_dropped_packets_total", COUNTER, "Datagrams that were not taken, by reason.");
    for (reason, count) in &report.dropped_packets {
        out.sample("mesh_dropped_packets_total", &[("reason", reason)], count);
    }
    out.family("mesh_refused_total", COUNTER, "Statements of peers that were left out, by reason.");
    for (reason, count) in &mesh.refused {
        out.sample("mesh_refused_total", &[("reason", reason)], count);
    }
    out.family("mesh_exchanges_total", COUNTER, "Exchanges with a peer over QUIC, by outcome.");
    out.sample("mesh_exchanges_total", &[("outcome", "done")], mesh.exchanges);
    out.sample("mesh_exchanges_total", &[("outcome", "failed")], mesh.exchanges_failed);
    out.single("mesh_quic_connections", GAUGE, "Open connections to peers.", report.quic_connections);
    out.single("mesh_catalogue_names", GAUGE, "Topics and channels that the mesh knows.", mesh.names);
    let tombstones = mesh.name_tombstones;
    out.single("mesh_catalogue_tombstones", GAUGE, "Deleted ones that are remembered.", tombstones);
    out.single("mesh_catalogue_items", GAUGE, "Statements of nodes about what they hold.", mesh.fact_items);
    out.single("mesh_catalogue_bytes", GAUGE, "Memory of all this, about.", mesh.catalogue_bytes);
    let help = "Age of the oldest change here that no peer has confirmed.";
    out.single("mesh_oldest_unconfirmed_seconds", GAUGE, help, seconds(mesh.oldest_unconfirmed_ms));
    let help = "From the last change until a peer knew the same.";
    out.single("mesh_convergence_seconds", GAUGE, help, seconds(mesh.last_convergence_ms));
}

fn relay(out: &mut Exposition, report: &RelayReport) {
    out.family("relay_links", GAUGE, "Links to other nodes for consumers here, by state.");
    for (state, count) in &report.links {
        out.sample("relay_links", &[("state", state)], count);
    }
    out.single("relay_guests", GAUGE, "Links of other nodes to channels here.", report.guests);
    let peers: Vec<_> = report.peers.iter().map(|peer| (peer.node.to_string(), peer)).collect();
    out.family("relay_messages_received_total", COUNTER, "Messages from other nodes for consumers here.");
    for (node, peer) in &peers {
        out.sample("relay_messages_received_total", &[("peer", node)], peer.received);
    }
    out.family("relay_messages_sent_total", COUNTER, "Messages to other nodes for their consumers.");
    for (node, peer) in &peers {
        out.sample("relay_messages_sent_total", &[("peer", node)], peer.sent);
    }
    out.family("relay_credit", GAUGE, "Messages that other nodes may send yet.");
    for (node, peer) in &peers {
        out.sample("relay_credit", &[("peer", node)], peer.credit);
    }
    out.family("relay_rtt_seconds", GAUGE, "The time that a datagram takes to a node and back.");
    for (node, rtt) in peers.iter().filter_map(|(node, peer)| Some((node, peer.rtt?))) {
        out.sample("relay_rtt_seconds", &[("peer", node)], rtt.as_secs_f64());
    }
}

fn auth(out: &mut Exposition, auth: Option<&Auth>) {
    let Some(auth) = auth else { return };
    out.family("auth_decisions_total", COUNTER, "Secrets that were judged, by what came of it.");
    for (outcome, count) in auth.counts() {
        out.sample("auth_decisions_total", &[("outcome", outcome)], count);
    }
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

/// Prometheus' text format, version 0.0.4. Every name begins with `bruit_`.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP bruit_{name} {help}\n# TYPE bruit_{name} {kind}");
    }

    /// No value of a label needs an escape: all are words of this program.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let _ = match labels.as_slice() {
            [] => writeln!(self.0, "bruit_{name} {value}"),
            labels => writeln!(self.0, "bruit_{name}{{{}}} {value}", labels.join(",")),
        };
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::PeerReport;

    #[test]
    fn every_sample_follows_the_type_of_its_family() {
        let mut out = Exposition::default();
        let mut report = MeshReport::default();
        report.dropped_packets.insert("forged", 3);
        report.mesh.oldest_unconfirmed_ms = 1500;
        mesh(&mut out, &report);
        journal(&mut out, &JournalStats::default());
        let rtt = Some(std::time::Duration::from_micros(1500));
        let node = bruit_gossip::NodeId::new(2);
        let peer = PeerReport { node, received: 5, sent: 6, credit: 7, rtt };
        let links = [("open", 2)].into();
        relay(&mut out, &RelayReport { links, guests: 3, peers: vec![peer] });
        for expected in [
            "relay_links{state=\"open\"} 2",
            "relay_guests 3",
            "relay_messages_received_total{peer=\"0000000000000002\"} 5",
            "relay_messages_sent_total{peer=\"0000000000000002\"} 6",
            "relay_credit{peer=\"0000000000000002\"} 7",
            "relay_rtt_seconds{peer=\"0000000000000002\"} 0.0015",
        ] {
            assert!(out.0.contains(&format!("\nbruit_{expected}\n")), "no {expected} in {}", out.0);
        }
        assert!(out.0.contains("\nbruit_mesh_members{state=\"alive\"} 0\n"), "{}", out.0);
        assert!(out.0.contains("\nbruit_mesh_dropped_packets_total{reason=\"forged\"} 3\n"), "{}", out.0);
        assert!(out.0.contains("\nbruit_mesh_oldest_unconfirmed_seconds 1.5\n"), "{}", out.0);
        let mut families = Vec::new();
        for line in out.0.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let name = family.split(' ').next().unwrap();
                assert!(!families.contains(&name), "{name} comes twice");
                families.push(name);
            } else if !line.starts_with("# HELP ") {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(families.last(), Some(&name), "{line}");
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
        }
    }
}
