//! nsqlookupd's answers about nodes: who is there with what, and hiding one of them.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Extension, extract::State, http::Uri, response::Response};
use bruit_gossip::{About, Member, MemberState, NodeId};
use bruit_wire::{TopicName, lookup};

use super::{
    HttpState,
    document::{document, item},
    known::{Known, version},
    lookup::named_topic,
    query::Query,
    reply::{self, ApiError},
    serve::Asker,
};

/// `GET /nodes`: every node that is there, with its topics.
pub(super) async fn nodes(State(state): State<HttpState>, asker: Option<Extension<Asker>>) -> Response {
    let asker = asker.map(|Extension(asker)| asker.0);
    let known = Known::of(&state);
    let ids = live_ids(&known);
    let nodes = ids.into_iter().filter_map(move |id| {
        let (member, about) = known.find(id)?;
        let topics = known.holdings(id).into_iter().map(|held| (held.topic, held.tombstoned));
        Some(item(&lookup::Node::new(known.producer(member, about, asker), topics)))
    });
    document(b"{\"producers\":[".to_vec(), nodes, "]}")
}

/// `GET /debug`: every registration, as nsqlookupd keeps them.
pub(super) async fn debug(State(state): State<HttpState>, asker: Option<Extension<Asker>>) -> Response {
    let rows = Rows {
        known: Known::of(&state),
        asker: asker.map(|Extension(asker)| asker.0),
        now: nanoseconds(state.env.wall.now()),
    };
    let mut categories = vec![None];
    categories.extend(rows.known.topics().into_iter().map(Some));
    let entries = categories.into_iter().filter_map(move |topic| match topic {
        None => rows.clients(),
        Some(topic) => rows.topic(topic.as_str()),
    });
    document(b"{".to_vec(), entries, "}")
}

/// `POST /topic/tombstone?topic=&node=`: hides a producer, named `broadcast_address:http_port`, from lookups
/// of the topic for a while. Success also when nothing is named so.
pub(super) async fn tombstone(State(state): State<HttpState>, uri: Uri) -> Result<Response, ApiError> {
    let query = Query::of(&uri)?;
    let topic = named_topic(&query)?;
    let node = query.first("node").ok_or(ApiError::bad("MISSING_ARG_NODE"))?;
    let Ok(topic) = TopicName::new(&topic) else { return Ok(reply::empty()) };
    let known = Known::of(&state);
    let holders = known.registrations(topic.as_str());
    let named: Vec<NodeId> =
        holders.iter().filter(|holder| is_named(holder.about, &node)).map(|holder| holder.id).collect();
    for id in named {
        state.mesh.tombstone(topic.clone(), id).await;
    }
    Ok(reply::empty())
}

fn live_ids(known: &Known) -> Vec<NodeId> {
    known.live().map(|(member, _)| member.peer.id).collect()
}

/// Whether `node` is one of the addresses of a node with its HTTP port.
fn is_named(about: &About, node: &str) -> bool {
    let Some((host, port)) = node.rsplit_once(':') else { return false };
    // Go puts an IPv6 address into brackets when it joins it with a port.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let mut names = about.broadcast_addresses.iter().chain([&about.hostname]);
    port.parse() == Ok(about.http_port) && names.any(|name| name == host)
}

/// Makes the entries of `/debug`.
struct Rows {
    known: Known,
    asker: Option<SocketAddr>,
    now: u64,
}

impl Rows {
    /// The nodes themselves. `None` when there are none: an empty entry is left out.
    fn clients(&self) -> Option<Vec<u8>> {
        let rows = self.known.live().map(|(member, about)| self.row(member, about, false));
        entry("client::", &rows.collect::<Vec<_>>())
    }

    /// A topic, and each of its channels.
    fn topic(&self, topic: &str) -> Option<Vec<u8>> {
        let holders = self.known.holders(topic);
        let rows = holders.iter().map(|holder| self.row(holder.member, holder.about, holder.tombstoned));
        let mut entries = vec![entry(&format!("topic:{topic}:"), &rows.collect::<Vec<_>>())?];
        for channel in self.known.channels(topic) {
            let with_it =
                holders.iter().filter(|holder| self.known.holds_channel(holder.id, topic, channel.as_str()));
            let rows = with_it.map(|holder| self.row(holder.member, holder.about, false));
            entries.extend(entry(&format!("channel:{topic}:{channel}"), &rows.collect::<Vec<_>>()));
        }
        Some(entries.join(&b','))
    }

    fn row<'a>(&self, member: &Member, about: &'a About, tombstoned: bool) -> lookup::Registration<'a> {
        // Gossip hears of every node all the time; one that it has doubts about it heard some time ago.
        let last_update = match member.state {
            MemberState::Alive => self.now,
            _ => member.since_ms.saturating_mul(1_000_000),
        };
        lookup::Registration {
            broadcast_address: self.known.address(member, about, self.asker),
            hostname: &about.hostname,
            http_port: about.http_port,
            id: member.peer.id.to_string(),
            last_update,
            tcp_port: about.tcp_port,
            tombstoned,
            tombstoned_at: 0,
            version: version(about),
        }
    }
}

fn entry(key: &str, rows: &[lookup::Registration<'_>]) -> Option<Vec<u8>> {
    if rows.is_empty() {
        return None;
    }
    let mut entry = item(&key);
    entry.push(b':');
    entry.extend_from_slice(&item(&rows));
    Some(entry)
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::http::fixture::{Fixture, error, ok};

    #[tokio::test]
    async fn a_node_is_listed_with_and_without_topics() {
        let node = Fixture::start().await;
        let listed = |tombstones, topics| {
            format!(
                r#"{{"producers":[{{"remote_address":"127.0.0.1:0","hostname":"vm","broadcast_address":"127.0.0.1","tcp_port":4150,"http_port":4151,"version":"1.3.0","topology_zone":"","topology_region":"","tombstones":{tombstones},"topics":{topics}}}]}}"#
            )
        };
        assert_eq!(node.read("/nodes").await, ok(&listed("[]", "[]")));
        for topic in ["b", "a"] {
            assert_eq!(node.post(&format!("/topic/create?topic={topic}"), "").await, ok(""));
        }
        assert_eq!(node.read("/nodes").await, ok(&listed("[false,false]", r#"["a","b"]"#)));
        assert_eq!(node.post("/topic/tombstone?topic=b&node=127.0.0.1:4151", "").await, ok(""));
        assert_eq!(node.lookup_read("/nodes").await, ok(&listed("[false,true]", r#"["a","b"]"#)));
    }

    #[tokio::test]
    async fn a_tombstone_hides_a_producer_from_lookups_of_one_topic() {
        let node = Fixture::start().await;
        for topic in ["a", "b"] {
            assert_eq!(node.post(&format!("/topic/create?topic={topic}"), "").await, ok(""));
        }
        for nobody in ["127.0.0.1:4150", "127.0.0.1", "10.0.0.1:4151", ""] {
            assert_eq!(node.post(&format!("/topic/tombstone?topic=a&node={nobody}"), "").await, ok(""));
            assert!(node.read("/lookup?topic=a").await.1.contains("\"tcp_port\":4150"), "{nobody}");
        }
        assert_eq!(node.post("/topic/tombstone?topic=a&node=127.0.0.1%3A4151", "").await, ok(""));
        assert_eq!(node.read("/lookup?topic=a").await, ok(r#"{"channels":[],"producers":[]}"#));
        assert!(node.read("/lookup?topic=b").await.1.contains("\"tcp_port\":4150"));
        for (query, code) in
            [("", "MISSING_ARG_TOPIC"), ("?node=x:1", "MISSING_ARG_TOPIC"), ("?topic=a", "MISSING_ARG_NODE")]
        {
            assert_eq!(node.post(&format!("/topic/tombstone{query}"), "").await, error(400, code), "{query}");
        }
        for unknown in ["none", "bad%24", ""] {
            let target = format!("/topic/tombstone?topic={unknown}&node=127.0.0.1:4151");
            assert_eq!(node.post(&target, "").await, ok(""), "{unknown}");
        }
    }

    #[tokio::test]
    async fn debug_lists_every_registration() {
        let node = Fixture::start().await;
        for target in [
            "/topic/create?topic=t",
            "/channel/create?topic=t&channel=c",
            "/topic/create?topic=u%23ephemeral",
        ] {
            assert_eq!(node.post(target, "").await, ok(""), "{target}");
        }
        assert_eq!(node.lookup_post("/topic/create?topic=nobody").await, ok(""));
        let (status, body) = node.read("/debug").await;
        let debug: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 200);
        let keys: Vec<&String> = debug.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["channel:t:c", "client::", "topic:t:", "topic:u#ephemeral:"]);
        let row = &debug["channel:t:c"][0];
        assert_eq!(row["id"], "0000000000000001");
        assert_eq!(row["tombstoned"], json!(false));
        assert!(row["last_update"].as_u64() > Some(1_700_000_000_000_000_000), "{row}");
    }

    #[test]
    fn a_node_is_named_by_any_of_its_addresses_and_its_http_port() {
        let about = About {
            broadcast_addresses: vec!["10.0.0.1".to_owned(), "::1".to_owned()],
            hostname: "vm".to_owned(),
            http_port: 4151,
            ..About::default()
        };
        for name in ["10.0.0.1:4151", "[::1]:4151", "::1:4151", "vm:4151"] {
            assert!(is_named(&about, name), "{name}");
        }
        for name in ["10.0.0.1:4150", "10.0.0.1", "", ":4151", "10.0.0.1:", "10.0.0.2:4151", "[10.0.0.1:4151"]
        {
            assert!(!is_named(&about, name), "{name}");
        }
    }
}
