//! The mesh for bruit's own tools: who is in it, what it knows, and how it does; joining and leaving.

use std::net::SocketAddr;

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use bruit_gossip::{About, Member, MemberState, NodeId};
use bruit_wire::{ChannelName, TopicName};
use serde::Serialize;

use super::{
    HttpState,
    document::{document, item},
    known::Known,
    query::Query,
    reply::{self, ApiError},
};
use crate::{mesh::MeshReport, relay::RelayReport};

/// `GET /mesh/members`: every node that is or was there, for as long as it is remembered.
pub(super) async fn members(State(state): State<HttpState>) -> Response {
    let known = Known::of(&state);
    let me = known.view().me();
    let mut head = b"{\"node\":".to_vec();
    head.extend_from_slice(&item(&me));
    head.extend_from_slice(b",\"members\":[");
    let rows: Vec<_> = known.view().members().iter().map(|member| item(&Row::of(member, me))).collect();
    document(head, rows.into_iter(), "]}")
}

/// `GET /mesh/topics`: every topic with its channels and the nodes that hold it.
pub(super) async fn topics(State(state): State<HttpState>) -> Response {
    let known = Known::of(&state);
    let topics = known.topics().into_iter().map(move |topic| {
        let producers = known.holders(topic.as_str()).iter().map(|holder| holder.id).collect();
        let channels = known.channels(topic.as_str());
        item(&Topic { topic, channels, producers, deleted: false })
    });
    document(b"{\"topics\":[".to_vec(), topics, "]}")
}

/// `GET /mesh/stats`
pub(super) async fn stats(State(state): State<HttpState>) -> Response {
    #[derive(Serialize)]
    struct Stats {
        #[serde(flatten)]
        mesh: MeshReport,
        relay: RelayReport,
    }
    reply::json(&Stats { mesh: state.mesh.stats(), relay: state.relays.report() })
}

/// `POST /mesh/join?peer=host:port`: says hello to every address of the name, and goes on until it is
/// answered or the process ends.
pub(super) async fn join(State(state): State<HttpState>, uri: Uri) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Joined {
        addresses: Vec<SocketAddr>,
    }
    let peer = Query::of(&uri)?.first("peer").filter(|peer| !peer.is_empty());
    let peer = peer.ok_or(ApiError::bad("MISSING_ARG_PEER"))?;
    match state.mesh.join(peer).await {
        Ok(addresses) => Ok(reply::json(&Joined { addresses })),
        Err(error) => Ok(reply::message(StatusCode::BAD_REQUEST, &error.to_string())),
    }
}

/// `POST /mesh/leave`: the others are told, and the node serves on by itself.
pub(super) async fn leave(State(state): State<HttpState>) -> Response {
    state.mesh.leave();
    reply::empty()
}

/// A member, as `bruit members` shows it.
#[derive(Serialize)]
struct Row<'a> {
    id: NodeId,
    state: MemberState,
    gossip_address: SocketAddr,
    mesh_address: SocketAddr,
    broadcast_addresses: &'a [String],
    hostname: &'a str,
    tcp_port: u16,
    http_port: u16,
    version: &'a str,
    topology_zone: &'a str,
    topology_region: &'a str,
    draining: bool,
    /// Microseconds; `null` if it was not measured yet.
    rtt_us: Option<u64>,
    /// Since when it is in this state, milliseconds since 1970.
    since_ms: u64,
    generation: u64,
    #[serde(rename = "self")]
    is_self: bool,
}

impl<'a> Row<'a> {
    fn of(member: &'a Member, me: NodeId) -> Self {
        static NOTHING_YET: std::sync::LazyLock<About> = std::sync::LazyLock::new(About::default);
        let Member { peer, state, about, rtt, since_ms } = member;
        let about = about.as_deref().unwrap_or(&NOTHING_YET);
        Self {
            id: peer.id,
            state: *state,
            gossip_address: peer.gossip,
            mesh_address: peer.mesh(),
            broadcast_addresses: &about.broadcast_addresses,
            hostname: &about.hostname,
            tcp_port: about.tcp_port,
            http_port: about.http_port,
            version: &about.version,
            topology_zone: &about.topology_zone,
            topology_region: &about.topology_region,
            draining: about.draining,
            rtt_us: rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            since_ms: *since_ms,
            generation: peer.generation,
            is_self: peer.id == me,
        }
    }
}

#[derive(Serialize)]
struct Topic {
    topic: TopicName,
    channels: Vec<ChannelName>,
    producers: Vec<NodeId>,
    deleted: bool,
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use bruit_gossip::Peer;

    use super::*;

    #[test]
    fn a_member_is_shown_with_all_that_is_known_of_it() {
        let peer = Peer {
            id: NodeId::new(1),
            generation: 3,
            renewal: 0,
            gossip: SocketAddr::from(([10, 0, 0, 1], 4160)),
            mesh_port: 4161,
        };
        let about = About {
            broadcast_addresses: vec!["10.0.0.1".to_owned()],
            hostname: "vm".to_owned(),
            tcp_port: 4150,
            http_port: 4151,
            version: "0.3.0".to_owned(),
            topology_zone: "z".to_owned(),
            topology_region: "r".to_owned(),
            draining: false,
            tcp_at_gossip: true,
            ..About::default()
        };
        let mut member = Member {
            peer,
            state: MemberState::Suspect,
            about: Some(Arc::new(about)),
            rtt: Some(Duration::from_micros(180)),
            since_ms: 1_795_242_404_000,
        };
        assert_eq!(
            serde_json::to_string(&Row::of(&member, NodeId::new(1))).unwrap(),
            r#"{"id":"0000000000000001","state":"suspect","gossip_address":"10.0.0.1:4160","mesh_address":"10.0.0.1:4161","broadcast_addresses":["10.0.0.1"],"hostname":"vm","tcp_port":4150,"http_port":4151,"version":"0.3.0","topology_zone":"z","topology_region":"r","draining":false,"rtt_us":180,"since_ms":1795242404000,"generation":3,"self":true}"#
        );
        member.about = None;
        member.rtt = None;
        let shown = serde_json::to_string(&Row::of(&member, NodeId::new(2))).unwrap();
        assert!(shown.contains(r#""broadcast_addresses":[],"hostname":"","tcp_port":0,"#), "{shown}");
        assert!(shown.contains(r#""rtt_us":null,"#) && shown.ends_with(r#""self":false}"#), "{shown}");
    }
}
