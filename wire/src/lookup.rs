//! What nsqlookupd's HTTP API says about producers, as JSON.
//!
//! Consumers and nsqadmin read these shapes, and nsqadmin ends with an index error when one is off: a list of
//! topics without as many tombstones. So the two go in together, or not at all.

use serde::Serialize;

use crate::TopicName;

/// A node that consumers may connect to, as `/lookup` names it. It has no `topics` key, and must not get one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Producer<'a> {
    /// From where the node is heard, `host:port`; for people to read.
    pub remote_address: String,
    /// The host's name.
    pub hostname: &'a str,
    /// A name or an address under which clients reach it.
    pub broadcast_address: &'a str,
    /// The port for clients.
    pub tcp_port: u16,
    /// The port for HTTP.
    pub http_port: u16,
    /// The version of nsqd that it behaves like.
    pub version: &'a str,
    /// Its zone, or nothing.
    pub topology_zone: &'a str,
    /// Its region, or nothing.
    pub topology_region: &'a str,
}

/// A node with what it holds, as `/nodes` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node<'a> {
    #[serde(flatten)]
    producer: Producer<'a>,
    tombstones: Vec<bool>,
    topics: Vec<TopicName>,
}

impl<'a> Node<'a> {
    /// The node `producer` with its topics, and whether each is hidden from `/lookup`.
    pub fn new(producer: Producer<'a>, topics: impl Iterator<Item = (TopicName, bool)>) -> Self {
        let (topics, tombstones) = topics.unzip();
        Self { producer, tombstones, topics }
    }
}

/// A registration, as `/debug` lists it under the topic or channel. The keys are sorted, as Go sorts those of
/// a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Registration<'a> {
    /// A name or an address under which clients reach the node.
    pub broadcast_address: &'a str,
    /// The host's name.
    pub hostname: &'a str,
    /// The port for HTTP.
    pub http_port: u16,
    /// The node's name for life.
    pub id: String,
    /// When it was heard last, nanoseconds since 1970.
    pub last_update: u64,
    /// The port for clients.
    pub tcp_port: u16,
    /// Whether it is hidden from `/lookup` for this topic.
    pub tombstoned: bool,
    /// Since when, nanoseconds since 1970; 0 if it is not, or if that is not known.
    pub tombstoned_at: u64,
    /// The version of nsqd that it behaves like.
    pub version: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producer() -> Producer<'static> {
        Producer {
            remote_address: "127.0.0.1:38108".to_owned(),
            hostname: "vm",
            broadcast_address: "127.0.0.1",
            tcp_port: 4150,
            http_port: 4151,
            version: "1.3.0",
            topology_zone: "",
            topology_region: "",
        }
    }

    #[test]
    fn a_producer_has_the_keys_of_nsqlookupd_and_no_others() {
        assert_eq!(
            serde_json::to_string(&producer()).unwrap(),
            r#"{"remote_address":"127.0.0.1:38108","hostname":"vm","broadcast_address":"127.0.0.1","tcp_port":4150,"http_port":4151,"version":"1.3.0","topology_zone":"","topology_region":""}"#
        );
    }

    #[test]
    fn a_node_has_a_tombstone_for_every_topic() {
        let topic = |name| TopicName::new(name).unwrap();
        let node = Node::new(producer(), [(topic("a"), false), (topic("b#ephemeral"), true)].into_iter());
        assert_eq!(
            serde_json::to_string(&node).unwrap(),
            r##"{"remote_address":"127.0.0.1:38108","hostname":"vm","broadcast_address":"127.0.0.1","tcp_port":4150,"http_port":4151,"version":"1.3.0","topology_zone":"","topology_region":"","tombstones":[false,true],"topics":["a","b#ephemeral"]}"##
        );
        let idle = serde_json::to_string(&Node::new(producer(), std::iter::empty())).unwrap();
        assert!(idle.ends_with(r#","tombstones":[],"topics":[]}"#), "{idle}");
    }

    #[test]
    fn the_keys_of_a_registration_are_sorted() {
        let registration = Registration {
            broadcast_address: "127.0.0.1",
            hostname: "vm",
            http_port: 4151,
            id: "0123456789abcdef".to_owned(),
            last_update: 1_795_242_404_000_000_000,
            tcp_port: 4150,
            tombstoned: false,
            tombstoned_at: 0,
            version: "1.3.0",
        };
        assert_eq!(
            serde_json::to_string(&registration).unwrap(),
            r#"{"broadcast_address":"127.0.0.1","hostname":"vm","http_port":4151,"id":"0123456789abcdef","last_update":1795242404000000000,"tcp_port":4150,"tombstoned":false,"tombstoned_at":0,"version":"1.3.0"}"#
        );
    }
}
