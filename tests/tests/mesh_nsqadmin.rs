//! nsqadmin's way through a mesh: the calls that it makes for each of its pages and buttons, in its order.
//! Every node stands for an nsqlookupd, and so does a port that serves nothing but nsqlookupd's API.

use std::{collections::BTreeSet, net::SocketAddr};

use bruit_tests::{Http, Mesh, Node, Options, wait};
use serde_json::Value;

/// What nsqadmin reads of a producer, and dies without.
const PRODUCER_KEYS: [&str; 8] = [
    "remote_address",
    "hostname",
    "broadcast_address",
    "tcp_port",
    "http_port",
    "version",
    "topology_zone",
    "topology_region",
];

fn get(node: Http, target: &str) -> Value {
    let reply = node.get(target);
    assert_eq!(reply.status, 200, "{target}: {reply:?}");
    assert_eq!(reply.header("x-nsq-content-type"), Some("nsq; version=1.0"), "{target}: {reply:?}");
    reply.json()
}

/// Where nsqadmin finds the nodes that a list of producers names.
fn nsqds(list: &Value) -> Vec<Http> {
    let producers = list["producers"].as_array().unwrap_or_else(|| panic!("no producers: {list}"));
    let address = |producer: &Value| {
        for key in PRODUCER_KEYS {
            assert!(!producer[key].is_null(), "a producer without {key}: {producer}");
        }
        let host = producer["broadcast_address"].as_str().expect("an address is text");
        let port = producer["http_port"].as_u64().expect("a port is a number");
        format!("{host}:{port}").parse::<SocketAddr>().expect("tests run on loopback")
    };
    producers.iter().map(|producer| Http::new(address(producer))).collect()
}

/// Three nodes that hold one topic, and the port of the last one that is nsqlookupd's alone.
struct Cluster {
    mesh: Mesh,
    lookupd: Http,
}

impl Cluster {
    fn start() -> Self {
        let mut mesh = Mesh::start(2);
        let port = free_tcp_address();
        let flag = format!("--lookupd-http-address={port}");
        mesh.push(Options::new().join(&mesh[0]).arg(flag).start());
        mesh.wait_until_whole();
        for node in mesh.iter() {
            node.client().publish("t", "x");
            node.http().post_ok("/channel/create?topic=t&channel=c", "");
        }
        mesh.wait_for_producers("t", &[0, 1, 2]);
        Self { mesh, lookupd: Http::new(port) }
    }

    /// The nodes as nsqlookupd: every node's HTTP address, and that port.
    fn lookupds(&self) -> Vec<Http> {
        self.mesh.iter().map(Node::http).chain([self.lookupd]).collect()
    }
}

/// An address that nobody listens on.
fn free_tcp_address() -> SocketAddr {
    #[expect(clippy::disallowed_types, reason = "only asks the system for a free port")]
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound socket has an address")
}

#[test]
fn its_pages_show_the_same_whichever_node_is_asked() {
    let cluster = Cluster::start();
    let lookupds = cluster.lookupds();
    for lookupd in &lookupds {
        assert_eq!(get(*lookupd, "/topics")["topics"], serde_json::json!(["t"]));
        assert_eq!(get(*lookupd, "/channels?topic=t")["channels"], serde_json::json!(["c"]));
        let found = get(*lookupd, "/lookup?topic=t");
        assert_eq!(found["channels"], serde_json::json!(["c"]));
        let holders = nsqds(&found);
        assert_eq!(holders.len(), 3);
        for holder in holders {
            let stats = get(holder, "/stats?format=json&topic=t&include_clients=false");
            let topic = &stats["topics"][0];
            assert_eq!(topic["topic_name"], "t");
            assert!(topic["e2e_processing_latency"].is_object(), "nsqadmin dies of this: {topic}");
            assert!(topic["channels"][0]["e2e_processing_latency"].is_object(), "nsqadmin dies of this");
        }
        for producer in found["producers"].as_array().expect("checked above") {
            assert!(producer.get("topics").is_none(), "nsqadmin dies of this: {producer}");
        }
        let nodes = get(*lookupd, "/nodes");
        assert_eq!(nsqds(&nodes).len(), 3, "each node is to be listed by each lookupd");
        for node in nodes["producers"].as_array().expect("checked above") {
            let (topics, hidden) = (node["topics"].as_array(), node["tombstones"].as_array());
            assert_eq!(topics.map(Vec::len), hidden.map(Vec::len), "nsqadmin dies of this: {node}");
            assert_eq!(node["topics"], serde_json::json!(["t"]));
        }
        for node in nsqds(&nodes) {
            assert!(get(node, "/info")["http_port"].is_number());
        }
        let debug = get(*lookupd, "/debug");
        for key in ["topic:t:", "channel:t:c"] {
            assert_eq!(debug[key].as_array().map(Vec::len), Some(3), "{key} in {debug}");
        }
        assert_eq!(lookupd.get("/ping").outcome(), (200, "OK".to_owned()));
        assert_eq!(lookupd.get("/lookup?topic=none").status, 404);
        assert_eq!(lookupd.get("/lookup").status, 400);
    }
}

#[test]
fn the_extra_port_serves_nothing_else() {
    let Cluster { mesh: _mesh, lookupd } = Cluster::start();
    assert_eq!(get(lookupd, "/info"), serde_json::json!({"version": "1.3.0"}));
    assert_eq!(lookupd.get("/stats").status, 404);
    assert_eq!(lookupd.post("/pub?topic=t", "x").status, 404);
}

#[test]
fn it_creates_a_topic_with_a_channel() {
    let Cluster { mesh, lookupd } = Cluster::start();
    for lookupd in [mesh[0].http(), lookupd] {
        lookupd.post_ok("/topic/create?topic=new", "");
        lookupd.post_ok("/channel/create?topic=new&channel=c", "");
    }
    for node in mesh.iter() {
        node.wait_for_channel_name("new", "c");
    }
    for holder in nsqds(&get(mesh[0].http(), "/lookup?topic=new")) {
        holder.post_ok("/channel/create?topic=new&channel=c", "");
    }
    // The one that answers as nsqlookupd alone has a name, and no topic.
    assert_eq!(mesh[2].topic_stats("new"), None);
    mesh[2].client().publish("new", "x");
    assert_eq!(mesh[2].channel_stats("new", "c").map(|stats| stats["depth"].clone()), Some(1.into()));
}

#[test]
fn it_pauses_and_empties_on_every_node() {
    let Cluster { mesh, .. } = Cluster::start();
    for action in ["pause", "empty", "unpause"] {
        for holder in nsqds(&get(mesh[1].http(), "/lookup?topic=t")) {
            holder.post_ok(&format!("/channel/{action}?topic=t&channel=c"), "");
            holder.post_ok(&format!("/topic/{action}?topic=t"), "");
        }
        for node in mesh.iter().filter(|_| action == "pause") {
            assert_eq!(node.channel_stats("t", "c").map(|stats| stats["paused"].clone()), Some(true.into()));
        }
    }
    for node in mesh.iter() {
        assert_eq!(node.channel_stats("t", "c").map(|stats| stats["depth"].clone()), Some(0.into()));
    }
}

#[test]
fn it_deletes_a_channel_and_then_the_topic() {
    let cluster = Cluster::start();
    let (mesh, lookupds) = (&cluster.mesh, cluster.lookupds());
    // The buttons: whom to ask comes first, then every lookupd is told, then every holder.
    let holders = nsqds(&get(lookupds[0], "/lookup?topic=t"));
    for server in lookupds.iter().chain(&holders) {
        server.post_ok("/channel/delete?topic=t&channel=c", "");
    }
    for node in mesh.iter() {
        wait::until("the channel is gone", || node.channel_stats("t", "c").is_none());
        assert!(node.topic_stats("t").is_some());
    }
    let holders = nsqds(&get(lookupds[0], "/lookup?topic=t"));
    for server in lookupds.iter().chain(&holders) {
        server.post_ok("/topic/delete?topic=t", "");
    }
    for node in mesh.iter() {
        node.wait_until_unknown("t");
        assert_eq!(node.topic_stats("t"), None);
        assert_eq!(node.topic_names(), BTreeSet::new());
    }
}

#[test]
fn it_takes_a_topic_from_one_node_alone() {
    let cluster = Cluster::start();
    let mesh = &cluster.mesh;
    let victim = mesh[1].http_address();
    for lookupd in cluster.lookupds() {
        lookupd.post_ok(&format!("/topic/tombstone?topic=t&node={victim}"), "");
    }
    mesh.wait_for_producers("t", &[0, 2]);
    for node in mesh.iter() {
        let listed = get(node.http(), "/nodes");
        let producers = listed["producers"].as_array().expect("a list of nodes");
        let hidden = producers.iter().filter(|producer| producer["tombstones"] == serde_json::json!([true]));
        let hidden: Vec<&Value> = hidden.collect();
        assert_eq!(hidden.len(), 1, "{listed}");
        assert_eq!(hidden[0]["http_port"], victim.port());
    }
    let nsqd = Http::new(victim);
    let _ = get(nsqd, "/info");
    let _ = get(nsqd, "/stats?format=json");
    nsqd.post_ok("/topic/delete?topic=t", "");
    assert_eq!(mesh[1].topic_stats("t"), None);
    for node in [&mesh[0], &mesh[2]] {
        assert!(node.channel_stats("t", "c").is_some(), "it is deleted on the others, too");
    }
    mesh.wait_for_producers("t", &[0, 2]);
    for node in mesh.iter() {
        assert_eq!(node.channel_names("t"), BTreeSet::from(["c".to_owned()]));
    }
    // What is published there now is a new topic, and is found.
    mesh[1].client().publish("t", "again");
    mesh.wait_for_producers("t", &[0, 1, 2]);
}
