//! Several nodes at once, and what each of them answers about all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::{Index, IndexMut},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{Node, Options, Reply, wait};

/// Running nodes that have been told of each other. The first one is the seed of the rest.
#[derive(Debug)]
pub struct Mesh {
    nodes: Vec<Node>,
}

impl Mesh {
    /// Starts `count` nodes and waits until every one sees every other.
    #[must_use]
    pub fn start(count: usize) -> Self {
        Self::start_with(count, &Options::new())
    }

    /// As [`start`](Self::start), all with these options.
    #[must_use]
    pub fn start_with(count: usize, options: &Options) -> Self {
        let mut mesh = Self { nodes: vec![options.clone().start()] };
        for _ in 1..count {
            mesh.nodes.push(options.clone().join(&mesh[0]).start());
        }
        mesh.wait_until_whole();
        mesh
    }

    /// Puts another running node among them.
    pub fn push(&mut self, node: Node) {
        self.nodes.push(node);
    }

    /// All of them, also those that were killed.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// Waits until every node has all nodes, and nobody else, for alive.
    pub fn wait_until_whole(&self) {
        let all: BTreeSet<String> = self.nodes.iter().map(Node::id).collect();
        for node in &self.nodes {
            wait::until("every node sees every node", || node.alive() == all);
        }
    }

    /// Waits until all nodes give the same answer to a GET; returns it.
    #[must_use]
    pub fn agreement(&self, target: &str) -> Reply {
        let mut answer = None;
        wait::until(&format!("all nodes agree on {target}"), || {
            let answers: Vec<Reply> = self.nodes.iter().map(|node| node.http().get(target)).collect();
            answer = answers.first().cloned();
            answers.iter().all(|reply| reply.outcome() == answers[0].outcome())
        });
        answer.expect("a mesh has nodes")
    }

    /// Waits until a lookup of `topic` on every node names exactly the nodes at these places.
    pub fn wait_for_producers(&self, topic: &str, places: &[usize]) {
        let expected: BTreeSet<u16> = places.iter().map(|place| self[*place].tcp_address().port()).collect();
        for node in &self.nodes {
            node.wait_for_producers(topic, &expected);
        }
    }
}

impl Index<usize> for Mesh {
    type Output = Node;

    fn index(&self, place: usize) -> &Node {
        &self.nodes[place]
    }
}

impl IndexMut<usize> for Mesh {
    fn index_mut(&mut self, place: usize) -> &mut Node {
        &mut self.nodes[place]
    }
}

impl Options {
    /// Names a running node to join.
    #[must_use]
    pub fn join(self, seed: &Node) -> Self {
        self.join_address(seed.gossip_address())
    }

    /// Names an address to join.
    #[must_use]
    pub fn join_address(self, seed: SocketAddr) -> Self {
        self.arg(format!("--join={seed}"))
    }

    /// Takes the cluster's secret from a file.
    #[must_use]
    pub fn secret(self, file: &Path) -> Self {
        self.arg(format!("--cluster-secret-file={}", file.display()))
    }
}

impl Node {
    /// `GET /mesh/members`, the rows.
    #[must_use]
    pub fn member_rows(&self) -> Vec<Value> {
        let reply = self.http().get("/mesh/members");
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()["members"].as_array().expect("a list of members").clone()
    }

    /// This node's id, as it says itself.
    #[must_use]
    pub fn id(&self) -> String {
        let reply = self.http().get("/mesh/members").json();
        reply["node"].as_str().unwrap_or_else(|| panic!("a node has an id: {reply}")).to_owned()
    }

    /// The states of all members that this node remembers, by id.
    #[must_use]
    pub fn members(&self) -> BTreeMap<String, String> {
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        self.member_rows().iter().map(|row| (text(row, "id"), text(row, "state"))).collect()
    }

    /// The ids of those that it has for alive, its own included.
    #[must_use]
    pub fn alive(&self) -> BTreeSet<String> {
        self.members().into_iter().filter(|(_, state)| state == "alive").map(|(id, _)| id).collect()
    }

    /// Where other nodes connect to this one by QUIC.
    #[must_use]
    pub fn mesh_address(&self) -> SocketAddr {
        let rows = self.member_rows();
        let own = rows.iter().find(|row| row["self"] == true).expect("a node is a member of its mesh");
        own["mesh_address"].as_str().and_then(|text| text.parse().ok()).expect("it has a QUIC address")
    }

    /// `GET /mesh/stats`.
    #[must_use]
    pub fn mesh_stats(&self) -> Value {
        self.http().get("/mesh/stats").json()
    }

    /// How many datagrams were dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: &str) -> u64 {
        self.mesh_stats()["dropped_packets"][reason].as_u64().unwrap_or_default()
    }

    /// The TCP ports that `GET /lookup` names for a topic; `None` if the topic is not known.
    #[must_use]
    pub fn producers(&self, topic: &str) -> Option<BTreeSet<u16>> {
        let reply = self.http().get(&format!("/lookup?topic={}", topic.replace('#', "%23")));
        if reply.status == 404 {
            return None;
        }
        let found = reply.json();
        let producers = found["producers"].as_array().unwrap_or_else(|| panic!("no producers in {found}"));
        let port = |producer: &Value| producer["tcp_port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Some(producers.iter().map(|producer| port(producer).expect("a producer has a port")).collect())
    }

    /// Waits until a lookup of `topic` names exactly these TCP ports.
    pub fn wait_for_producers(&self, topic: &str, expected: &BTreeSet<u16>) {
        wait::until(&format!("{topic} is found at {expected:?}"), || {
            self.producers(topic).is_some_and(|found| found == *expected)
        });
    }

    /// Waits until a lookup of `topic` finds nothing, not even its name.
    pub fn wait_until_unknown(&self, topic: &str) {
        wait::until(&format!("{topic} is not known any more"), || self.producers(topic).is_none());
    }

    /// `GET /topics`.
    #[must_use]
    pub fn topic_names(&self) -> BTreeSet<String> {
        names(&self.http().get("/topics").json()["topics"])
    }

    /// `GET /channels` of a topic.
    #[must_use]
    pub fn channel_names(&self, topic: &str) -> BTreeSet<String> {
        names(&self.http().get(&format!("/channels?topic={topic}")).json()["channels"])
    }

    /// Waits until `GET /channels` of a topic has this one.
    pub fn wait_for_channel_name(&self, topic: &str, channel: &str) {
        wait::until(&format!("{topic}/{channel} is known"), || self.channel_names(topic).contains(channel));
    }

    /// What `/stats` says of the links by which this node gets a channel's messages from others.
    #[must_use]
    pub fn links(&self, topic: &str, channel: &str) -> Vec<Value> {
        let stats = self.channel_stats(topic, channel);
        let links = stats.as_ref().and_then(|stats| stats["relays"].as_array());
        links.cloned().unwrap_or_default()
    }

    /// Waits until a channel has exactly `count` links, all of them open.
    pub fn wait_for_links(&self, topic: &str, channel: &str, count: usize) {
        wait::until(&format!("{topic}/{channel} has {count} links"), || {
            let links = self.links(topic, channel);
            links.len() == count && links.iter().all(|link| link["state"] == "open")
        });
    }

    /// Waits until this node has exactly `count` consumers of a channel, of its own or relayed, and all of them
    /// can take messages.
    pub fn wait_for_ready(&self, topic: &str, channel: &str, count: usize) {
        wait::until(&format!("{count} consumers of {topic}/{channel} are ready"), || {
            let stats = self.channel_stats(topic, channel);
            let clients = stats.as_ref().and_then(|stats| stats["clients"].as_array());
            clients.is_some_and(|clients| {
                clients.len() == count && clients.iter().all(|client| client["ready_count"] != 0)
            })
        });
    }

    /// Waits until nothing of a channel is left on this node: delivered, answered, and not put off.
    pub fn wait_until_done(&self, topic: &str, channel: &str) {
        wait::until(&format!("nothing of {topic}/{channel} is left"), || {
            self.channel_stats(topic, channel).is_some_and(|stats| {
                ["depth", "in_flight_count", "deferred_count"].iter().all(|count| stats[*count] == 0)
            })
        });
    }

    /// Waits until this node has another one in a state.
    pub fn wait_for_state(&self, id: &str, state: &str) {
        wait::until(&format!("node {id} is {state}"), || {
            self.members().get(id).is_some_and(|found| found == state)
        });
    }
}

/// A file with a cluster's secret in it, made of one hexadecimal digit; gone with the returned directory.
#[must_use]
pub fn secret_file(digit: char) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("secret");
    std::fs::write(&path, format!("{}\n", digit.to_string().repeat(64))).expect("a file can be written");
    (directory, path)
}

fn names(list: &Value) -> BTreeSet<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("{list} is no list of names"));
    list.iter().map(|name| name.as_str().expect("a name is text").to_owned()).collect()
}
