//! `/stats` as JSON and as text (NSQ reference 6.5 and 6.6), with what nsqadmin would crash on (8.3).

use bruit_tests::{Client, Node, wait};
use serde_json::{Value, json};

/// A node with a topic of two channels, one of them with a consumer that holds one of three messages.
fn busy_node() -> (Node, Vec<Client>) {
    let node = Node::start();
    let mut consumer = node.client();
    consumer.identify(r#"{"client_id":"me","hostname":"here","user_agent":"agent/1"}"#);
    consumer.subscribe("t", "c");
    node.http().post_ok("/channel/create?topic=t&channel=b", "");
    node.http().post_ok("/topic/create?topic=a", "");
    let mut producer = node.client();
    producer.identify(r#"{"client_id":"maker","hostname":"there","user_agent":"agent/2"}"#);
    producer.publish_all("t", &["12345", "12345", "12345"]);
    consumer.ready(1);
    consumer.message();
    node.wait_for("t", "c", "in_flight_count", 1);
    node.wait_for("t", "b", "depth", 3);
    (node, vec![consumer, producer])
}

fn stats(node: &Node, query: &str) -> Value {
    let reply = node.http().get(&format!("/stats?format=json{query}"));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(reply.header("x-nsq-content-type"), Some("nsq; version=1.0"));
    reply.json()
}

/// Whether `actual` has everything that `expected` has; it may have more.
fn assert_contains(actual: &Value, expected: &Value, path: &str) {
    match (actual, expected) {
        (Value::Object(actual), Value::Object(expected)) => {
            for (key, value) in expected {
                let found = actual.get(key).unwrap_or_else(|| panic!("{path}.{key} is missing"));
                assert_contains(found, value, &format!("{path}.{key}"));
            }
        }
        (Value::Array(actual), Value::Array(expected)) => {
            assert_eq!(actual.len(), expected.len(), "{path}: {actual:?}");
            for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
                assert_contains(actual, expected, &format!("{path}[{i}]"));
            }
        }
        _ => assert_eq!(actual, expected, "{path}"),
    }
}

#[test]
fn an_idle_node_has_empty_lists() {
    let node = Node::start();
    let stats = stats(&node, "");
    assert_eq!(stats["version"], "1.3.0");
    assert_eq!(stats["health"], "OK");
    assert!(stats["start_time"].is_u64());
    assert_eq!(stats["topics"], json!([]));
    assert_eq!(stats["producers"], Value::Null);
    let memory = stats["memory"].as_object().expect("memory is an object");
    for key in [
        "heap_objects",
        "heap_idle_bytes",
        "heap_in_use_bytes",
        "heap_released_bytes",
        "gc_pause_usec_100",
        "gc_pause_usec_99",
        "gc_pause_usec_95",
        "next_gc_bytes",
        "gc_total_runs",
    ] {
        assert!(memory[key].is_u64(), "{key}");
    }
}

#[test]
fn every_field_that_nsq_has_is_there() {
    let (node, _clients) = busy_node();
    let client = json!({
        "client_id": "me", "hostname": "here", "version": "V2", "state": 3, "ready_count": 1,
        "in_flight_count": 1, "message_count": 1, "finish_count": 0, "requeue_count": 0, "sample_rate": 0,
        "deflate": false, "snappy": false, "user_agent": "agent/1", "topology_zone": "",
        "topology_region": "", "tls": false, "tls_cipher_suite": "", "tls_version": "",
        "tls_negotiated_protocol": "", "tls_negotiated_protocol_is_mutual": false,
    });
    let latency = json!({"count": 0, "percentiles": null});
    let channel = |name: &str, depth: u64, in_flight: u64, clients: Vec<&Value>| {
        json!({
            "channel_name": name, "depth": depth, "in_flight_count": in_flight, "deferred_count": 0,
            "message_count": 3, "requeue_count": 0, "timeout_count": 0, "client_count": clients.len(),
            "clients": clients, "paused": false, "e2e_processing_latency": latency,
        })
    };
    let expected = json!([
        {
            "topic_name": "a", "channels": [], "depth": 0, "backend_depth": 0, "message_count": 0,
            "message_bytes": 0, "paused": false, "e2e_processing_latency": latency,
        },
        {
            "topic_name": "t", "channels": [channel("b", 3, 0, vec![]), channel("c", 2, 1, vec![&client])],
            "depth": 0, "message_count": 3, "message_bytes": 15, "paused": false,
            "e2e_processing_latency": latency,
        },
    ]);
    let stats = stats(&node, "");
    assert_contains(&stats["topics"], &expected, "topics");
    let shown = &stats["topics"][1]["channels"][1]["clients"][0];
    assert!(shown["remote_address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")));
    assert!(shown["connect_ts"].as_u64() > Some(1_700_000_000));
    assert!(stats["topics"][1]["channels"][0]["backend_depth"].is_u64());
    for key in ["authed", "auth_identity", "auth_identity_url"] {
        assert!(shown.get(key).is_none(), "{key} is shown although it is empty");
    }
}

#[test]
fn producers_are_listed_with_their_counts() {
    let (node, mut clients) = busy_node();
    clients[1].publish("a", "x");
    let producers = stats(&node, "")["producers"].clone();
    assert_eq!(producers.as_array().map(Vec::len), Some(1), "{producers}");
    assert_eq!(producers[0]["client_id"], "maker");
    let counts = producers[0]["pub_counts"].as_array().expect("pub_counts is a list").clone();
    assert!(counts.contains(&json!({"topic": "t", "count": 3})), "{counts:?}");
    drop(clients.remove(1));
    wait::until("the producer is no longer listed", || stats(&node, "")["producers"].is_null());
}

#[test]
fn filters_tell_an_unknown_topic_from_an_empty_answer() {
    let (node, _clients) = busy_node();
    assert_eq!(stats(&node, "&topic=none")["topics"], Value::Null);
    assert_eq!(stats(&node, "&topic=t&channel=none")["topics"], json!([]));
    let names = |query: &str| -> Vec<String> {
        let stats = stats(&node, query);
        let topics = stats["topics"].as_array().expect("a list").clone();
        topics
            .iter()
            .map(|topic| {
                let channels = topic["channels"].as_array().expect("a list");
                let channels: Vec<&str> =
                    channels.iter().filter_map(|c| c["channel_name"].as_str()).collect();
                format!("{}:{}", topic["topic_name"].as_str().unwrap_or_default(), channels.join(","))
            })
            .collect()
    };
    assert_eq!(names(""), ["a:", "t:b,c"]);
    assert_eq!(names("&topic=t"), ["t:b,c"]);
    assert_eq!(names("&topic=t&channel=c"), ["t:c"]);
    assert_eq!(names("&channel=c"), ["t:c"]);
    assert_eq!(names("&topic=a"), ["a:"]);
}

#[test]
fn clients_and_memory_can_be_left_out() {
    let (node, _clients) = busy_node();
    for value in ["false", "0"] {
        let stats = stats(&node, &format!("&include_clients={value}&include_mem={value}"));
        assert_eq!(stats["producers"], Value::Null);
        assert!(stats.get("memory").is_none());
        let channel = &stats["topics"][1]["channels"][1];
        assert_eq!(channel["clients"], Value::Null);
        assert_eq!(channel["client_count"], 1);
    }
    for value in ["true", "1", "", "anything"] {
        let stats = stats(&node, &format!("&include_clients={value}&include_mem={value}"));
        assert!(stats["topics"][1]["channels"][1]["clients"].is_array());
        assert!(stats["memory"].is_object());
    }
}

#[test]
fn a_bad_query_is_refused() {
    let node = Node::start();
    for query in ["?a=1;b=2", "?topic=%zz"] {
        let reply = node.http().get(&format!("/stats{query}"));
        assert_eq!(reply.outcome(), (400, r#"{"message":"INVALID_REQUEST"}"#.to_owned()));
    }
}

#[test]
fn the_text_form_is_laid_out_as_nsqds() {
    let (node, _clients) = busy_node();
    node.http().post_ok("/channel/pause?topic=t&channel=b", "");
    let reply = node.http().get("/stats");
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    let text = reply.text();
    for expected in [
        "nsqd v1.3.0 (built w/",
        "\nstart_time 20",
        "\nuptime ",
        "\n\nHealth: OK\n",
        "\n\nMemory:\n   heap_objects             \t",
        "\n   gc_total_runs            \t",
        "\n\nTopics:\n",
        "\n   [a              ] depth: 0     be-depth: 0     msgs: 0        e2e%: \n",
        "\n   [t              ] depth: 0     be-depth: ",
        " msgs: 3        e2e%: \n",
        "\n   *P [b                        ] depth: 3     be-depth: ",
        "\n      [c                        ] depth: 2     be-depth: ",
        " inflt: 1    def: 0    re-q: 0     timeout: 0     msgs: 3        e2e%: \n",
        "\n        [V2 here:",
        "] state: 3 inflt: 1    rdy: 1    fin: 0        re-q: 0        msgs: 1        connected: ",
        "\n\nProducers:\n   [V2 there:",
        " topics: t=3 connected: ",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    let text = node.http().get("/stats?include_mem=false&include_clients=false&topic=none").text();
    assert!(!text.contains("Memory:"), "{text}");
    assert!(text.contains("Topics: None"), "{text}");
    assert!(text.contains("Producers: None"), "{text}");
}

#[test]
fn the_node_says_how_hard_it_keeps_things() {
    let (node, _clients) = busy_node();
    let stats = stats(&node, "");
    assert_eq!(stats["durability"], "fsync");
    assert!(stats["journal"].is_object(), "{stats}");
    assert!(stats["bruit_version"].is_string());
}
