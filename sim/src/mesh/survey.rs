//! What a node answers when it is asked for everything that it knows of the mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use serde_json::Value;

use crate::client::{get_json, http};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The answers of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Members by their gossip address, with their state.
    pub members: BTreeMap<String, String>,
    /// Every topic that it names.
    pub topics: BTreeSet<String>,
    /// The channels that it names for each.
    pub channels: BTreeMap<String, BTreeSet<String>>,
    /// The producers of each, as `address:port`. No entry: it says that there is no such topic.
    pub producers: BTreeMap<String, BTreeSet<String>>,
    /// Every node that it names, as `address:port`, with its topics.
    pub nodes: BTreeMap<String, BTreeSet<String>>,
    /// The topics that it holds itself, with their channels.
    pub held: BTreeMap<String, BTreeSet<String>>,
}

impl Survey {
    /// Asks `host`. Producers are asked for every topic that it names, and for `others`.
    ///
    /// # Errors
    /// When the node does not answer, or not in the form that NSQ has.
    pub async fn take(host: &str, others: &BTreeSet<String>) -> io::Result<Self> {
        let members = get_json(host, "/mesh/members", PATIENCE).await?;
        let members = entries(&members, "members")?
            .map(|member| (text(&member["gossip_address"]), text(&member["state"])));
        let topics: BTreeSet<String> = texts(&get_json(host, "/topics", PATIENCE).await?, "topics")?;
        let (mut channels, mut producers) = (BTreeMap::new(), BTreeMap::new());
        for topic in topics.union(others) {
            let query = topic.replace('#', "%23");
            let (status, body) = http("GET", host, &format!("/lookup?topic={query}"), PATIENCE).await?;
            if status == 404 {
                continue;
            }
            let found: Value = serde_json::from_slice(&body)?;
            producers.insert(topic.clone(), entries(&found, "producers")?.map(address).collect());
            let listed = get_json(host, &format!("/channels?topic={query}"), PATIENCE).await?;
            channels.insert(topic.clone(), texts(&listed, "channels")?);
        }
        let nodes = get_json(host, "/nodes", PATIENCE).await?;
        let nodes = entries(&nodes, "producers")?;
        let nodes: io::Result<_> = nodes.map(|node| Ok((address(node), texts(node, "topics")?))).collect();
        let stats = get_json(host, "/stats?format=json&include_clients=false", PATIENCE).await?;
        let held = entries(&stats, "topics")?.map(|topic| {
            let channels = entries(topic, "channels")?.map(|channel| text(&channel["channel_name"]));
            Ok((text(&topic["topic_name"]), channels.collect()))
        });
        let held: io::Result<_> = held.collect();
        Ok(Self { members: members.collect(), topics, channels, producers, nodes: nodes?, held: held? })
    }

    /// The topics that the node names.
    ///
    /// # Errors
    /// As [`Survey::take`].
    pub async fn topics(host: &str) -> io::Result<BTreeSet<String>> {
        texts(&get_json(host, "/topics", PATIENCE).await?, "topics")
    }

    /// The channels that the node names for `topic`.
    ///
    /// # Errors
    /// As [`Survey::take`], and when there is no such topic.
    pub async fn channels(host: &str, topic: &str) -> io::Result<BTreeSet<String>> {
        texts(&get_json(host, &format!("/channels?topic={topic}"), PATIENCE).await?, "channels")
    }
}

fn entries<'v>(value: &'v Value, key: &str) -> io::Result<impl Iterator<Item = &'v Value>> {
    let missing = || io::Error::other(format!("there is no list {key:?} in {value}"));
    Ok(value[key].as_array().ok_or_else(missing)?.iter())
}

fn texts(value: &Value, key: &str) -> io::Result<BTreeSet<String>> {
    Ok(entries(value, key)?.map(text).collect())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn address(producer: &Value) -> String {
    format!("{}:{}", text(&producer["broadcast_address"]), producer["tcp_port"])
}
