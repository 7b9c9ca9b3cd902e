//! nsqlookupd's API on one node, to the letter (NSQ reference 7.2, 7.3 and 8.3), and bruit's own answers beside it.

use bruit_tests::{Http, Mesh, Node, Options, Reply};
use serde_json::{Value, json};

fn assert_json(reply: &Reply, expected: &Value, what: &str) {
    assert_eq!((reply.status, &reply.json()), (200, expected), "{what}");
    assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"), "{what}");
    assert_eq!(reply.header("x-nsq-content-type"), Some("nsq; version=1.0"), "{what}");
}

fn assert_error(reply: &Reply, status: u16, code: &str, what: &str) {
    assert_eq!(reply.outcome(), (status, format!(r#"{{"message":"{code}"}}"#)), "{what}");
    assert_eq!(reply.header("x-nsq-content-type"), Some("nsq; version=1.0"), "{what}");
}

/// A node with a second port, which serves nsqlookupd's API alone.
fn node_and_lookupd() -> (Node, Http) {
    let node = Options::new().arg("--lookupd-http-address=127.0.0.1:0").start();
    let marker = "lookup: nsqlookupd's HTTP on ";
    let log = node.log();
    let line = log.lines().find_map(|line| line.strip_prefix(marker)).expect("the node says where");
    let lookupd = Http::new(line.parse().expect("an address"));
    (node, lookupd)
}

#[test]
fn a_lookup_has_the_keys_of_nsqlookupd_and_no_others() {
    let node = Node::start();
    node.client().publish("t", "x");
    node.http().post_ok("/channel/create?topic=t&channel=c", "");
    let reply = node.http().get("/lookup?topic=t");
    let found = reply.json();
    let producer = &found["producers"][0];
    let heard = producer["remote_address"].as_str().expect("a text").to_owned();
    assert!(heard.parse::<std::net::SocketAddr>().is_ok(), "{heard}");
    let hostname = node.http().get("/info").json()["hostname"].clone();
    let expected = json!({
        "remote_address": heard, "hostname": hostname, "broadcast_address": "127.0.0.1",
        "tcp_port": node.tcp_address().port(), "http_port": node.http_address().port(),
        "version": "1.3.0", "topology_zone": "", "topology_region": "",
    });
    assert_json(&reply, &json!({"channels": ["c"], "producers": [expected]}), "/lookup");
    let mut listed = expected;
    listed["tombstones"] = json!([false]);
    listed["topics"] = json!(["t"]);
    assert_json(&node.http().get("/nodes"), &json!({"producers": [listed]}), "/nodes");
    assert_json(&node.http().get("/topics"), &json!({"topics": ["t"]}), "/topics");
    assert_json(&node.http().get("/channels?topic=t"), &json!({"channels": ["c"]}), "/channels");
    assert_json(&node.http().get("/channels?topic=none"), &json!({"channels": []}), "/channels");
}

#[test]
fn an_idle_node_has_empty_lists_and_no_nulls() {
    let node = Options::new().arg("--topology-zone=z").arg("--topology-region=r").start();
    let listed = &node.http().get("/nodes").json()["producers"][0];
    assert_eq!((&listed["tombstones"], &listed["topics"]), (&json!([]), &json!([])));
    assert_eq!((&listed["topology_zone"], &listed["topology_region"]), (&json!("z"), &json!("r")));
    assert_json(&node.http().get("/topics"), &json!({"topics": []}), "/topics");
    let debug = node.http().get("/debug").json();
    assert_eq!(debug["client::"].as_array().map(Vec::len), Some(1), "{debug}");
}

#[test]
fn what_is_wrong_with_a_question_is_named() {
    let (node, lookupd) = node_and_lookupd();
    for http in [node.http(), lookupd] {
        assert_error(&http.get("/lookup"), 400, "MISSING_ARG_TOPIC", "/lookup");
        assert_error(&http.get("/lookup?topic=none"), 404, "TOPIC_NOT_FOUND", "/lookup");
        assert_error(&http.get("/lookup?topic=a%zz"), 400, "INVALID_REQUEST", "/lookup");
        assert_error(&http.get("/channels"), 400, "MISSING_ARG_TOPIC", "/channels");
        assert_error(&http.post("/topic/tombstone", ""), 400, "MISSING_ARG_TOPIC", "/topic/tombstone");
        assert_error(&http.post("/topic/tombstone?topic=t", ""), 400, "MISSING_ARG_NODE", "/topic/tombstone");
        http.post_ok("/topic/tombstone?topic=none&node=nobody:1", "");
        assert_error(&http.post("/lookup?topic=t", ""), 405, "METHOD_NOT_ALLOWED", "/lookup");
    }
}

#[test]
fn the_second_port_keeps_the_rules_of_nsqlookupd() {
    let (node, lookupd) = node_and_lookupd();
    for (target, status, code) in [
        ("/topic/create", 400, "MISSING_ARG_TOPIC"),
        ("/topic/create?topic=bad%24", 400, "INVALID_ARG_TOPIC"),
        ("/topic/delete", 400, "MISSING_ARG_TOPIC"),
        ("/channel/create?topic=t", 400, "MISSING_ARG_CHANNEL"),
        ("/channel/create?topic=bad%24&channel=c", 400, "INVALID_ARG_TOPIC"),
        ("/channel/create?topic=t&channel=bad%24", 400, "INVALID_ARG_CHANNEL"),
        ("/channel/delete?topic=t&channel=none", 404, "CHANNEL_NOT_FOUND"),
        ("/pub?topic=t", 404, "NOT_FOUND"),
    ] {
        assert_error(&lookupd.post(target, ""), status, code, target);
    }
    assert_json(&lookupd.get("/info"), &json!({"version": "1.3.0"}), "/info");
    lookupd.post_ok("/topic/delete?topic=none", "");
    lookupd.post_ok("/channel/create?topic=t&channel=c", "");
    assert_json(&lookupd.get("/lookup?topic=t"), &json!({"channels": ["c"], "producers": []}), "a name");
    assert_eq!(node.topic_stats("t"), None);
    // The first message meets the channel that was a name until now.
    node.client().publish("t", "x");
    assert_eq!(node.channel_stats("t", "c").map(|stats| stats["depth"].clone()), Some(1.into()));
    lookupd.post_ok("/channel/delete?topic=t&channel=c", "");
    assert_eq!(node.channel_stats("t", "c"), None);
    lookupd.post_ok("/topic/delete?topic=t", "");
    assert_eq!(node.topic_stats("t"), None);
    assert_error(&lookupd.get("/lookup?topic=t"), 404, "TOPIC_NOT_FOUND", "after the delete");
}

#[test]
fn deleting_twice_is_no_error_but_deleting_nothing_is() {
    let node = Node::start();
    let http = node.http();
    http.post_ok("/topic/create?topic=t", "");
    http.post_ok("/channel/create?topic=t&channel=c", "");
    for _ in 0..2 {
        http.post_ok("/channel/delete?topic=t&channel=c", "");
    }
    for _ in 0..2 {
        http.post_ok("/topic/delete?topic=t", "");
    }
    assert_error(&http.post("/topic/delete?topic=none", ""), 404, "TOPIC_NOT_FOUND", "never heard of");
}

#[test]
fn whoever_hides_a_producer_may_delete_there_at_once() {
    let mesh = Mesh::start(3);
    for node in mesh.iter() {
        for topic in 0..5 {
            node.client().publish(&format!("t{topic}"), "x");
        }
    }
    for topic in 0..5 {
        mesh.wait_for_producers(&format!("t{topic}"), &[0, 1, 2]);
    }
    let victim = mesh[2].http_address();
    for topic in 0..5 {
        // One node is told, and another is asked right after that.
        mesh[0].http().post_ok(&format!("/topic/tombstone?topic=t{topic}&node={victim}"), "");
        mesh[2].http().post_ok(&format!("/topic/delete?topic=t{topic}"), "");
    }
    for topic in 0..5 {
        let topic = format!("t{topic}");
        assert_eq!(mesh[2].topic_stats(&topic), None);
        mesh.wait_for_producers(&topic, &[0, 1]);
        assert!(mesh[0].topic_stats(&topic).is_some() && mesh[1].topic_stats(&topic).is_some());
    }
}

#[test]
fn a_node_is_told_that_it_is_hidden_also_where_its_http_cannot_be_reached() {
    let first = Node::start();
    // As behind an address translation, or with a port that wants TLS.
    let second = Options::new().join(&first).arg("--broadcast-http-port=1").start();
    let topics: Vec<String> = (0..20).map(|number| format!("t{number}")).collect();
    for topic in &topics {
        first.client().publish(topic, "x");
        second.client().publish(topic, "x");
    }
    let both = [&first, &second].map(|node| node.tcp_address().port()).into();
    for topic in &topics {
        first.wait_for_producers(topic, &both);
        second.wait_for_producers(topic, &both);
        first.http().post_ok(&format!("/topic/tombstone?topic={topic}&node=127.0.0.1:1"), "");
        second.http().post_ok(&format!("/topic/delete?topic={topic}"), "");
    }
    for topic in &topics {
        assert_eq!(second.topic_stats(topic), None);
        first.wait_for_producers(topic, &[first.tcp_address().port()].into());
        assert!(first.topic_stats(topic).is_some(), "{topic} is deleted where nobody asked for it");
    }
}

#[test]
fn an_asker_is_told_the_address_that_it_can_reach() {
    let node = Options::new().arg("--broadcast-address=203.0.113.9,127.0.0.1").start();
    node.client().publish("t", "x");
    let found = node.http().get("/lookup?topic=t").json();
    assert_eq!(found["producers"][0]["broadcast_address"], "127.0.0.1", "the asker is on this host");
    assert_eq!(node.http().get("/info").json()["broadcast_address"], "203.0.113.9");
}

#[test]
fn metrics_are_what_prometheus_reads() {
    // With no room for series of topics: what is left depends on the mesh alone.
    let node = Options::new().arg("--max-metrics-series=0").start();
    node.client().publish("t", "x");
    let reply = node.http().get("/metrics");
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = reply.text();
    for line in [
        "bruit_mesh_members{state=\"alive\"} 1",
        "bruit_mesh_members{state=\"down\"} 0",
        "bruit_topics 1",
        "bruit_healthy 1",
        "# TYPE bruit_mesh_gossip_bytes_total counter",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    for topic in 0..20 {
        node.http().post_ok(&format!("/topic/create?topic=t{topic}"), "");
    }
    let again = node.http().get("/metrics").text();
    assert_eq!(
        again.lines().filter(|line| !line.starts_with('#')).count(),
        series,
        "topics make series beyond the limit"
    );
}

#[test]
fn the_mesh_tells_who_is_in_it() {
    let node = Node::start();
    let members = node.http().get("/mesh/members").json();
    let own = &members["members"][0];
    assert_eq!((&own["id"], &own["self"], &own["state"]), (&members["node"], &json!(true), &json!("alive")));
    assert_eq!(own["rtt_us"], Value::Null);
    assert_eq!(own["tcp_port"], node.tcp_address().port());
    node.http().post_ok("/topic/create?topic=t", "");
    node.http().post_ok("/channel/create?topic=t&channel=c", "");
    let topic = json!({"topic": "t", "channels": ["c"], "producers": [members["node"]], "deleted": false});
    assert_json(&node.http().get("/mesh/topics"), &json!({"topics": [topic]}), "/mesh/topics");
    assert_error(&node.http().post("/mesh/join", ""), 400, "MISSING_ARG_PEER", "/mesh/join");
    let reply = node.http().post("/mesh/join?peer=no%20host", "");
    assert_eq!(reply.status, 400);
    assert!(reply.json()["message"].as_str().is_some_and(|text| text.contains("no host")), "{reply:?}");
    let stats = node.http().get("/stats?format=json").json();
    assert_eq!((&stats["mesh"]["node"], &stats["mesh"]["alive"]), (&members["node"], &json!(1)));
}
