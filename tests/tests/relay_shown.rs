//! What a relay looks like from outside: `/stats`, `/mesh/stats`, `/metrics`, and the command line.

use bruit_tests::{
    Client, Mesh,
    command::{bruit, bruit_with},
    wait,
};
use serde_json::Value;

/// A consumer on node 0 that has finished three messages of node 1 and holds a fourth.
fn busy() -> (Mesh, Client) {
    let mesh = Mesh::start(2);
    let mut consumer = mesh[0].client();
    consumer.identify(r#"{"client_id":"me","hostname":"here","user_agent":"agent/1"}"#);
    consumer.subscribe("t", "c");
    mesh[1].http().post_ok("/topic/create?topic=t", "");
    mesh[0].wait_for_links("t", "c", 1);
    consumer.ready(1);
    mesh[1].client().publish_all("t", &["m"; 5]);
    consumer.finish_messages(3);
    consumer.message();
    mesh[1].wait_for("t", "c", "in_flight_count", 1);
    wait::until("the owner has said that one waits", || mesh[0].links("t", "c")[0]["waiting"] == 1);
    (mesh, consumer)
}

fn metric(mesh: &Mesh, place: usize, series: &str) -> Option<f64> {
    let text = mesh[place].http().get("/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(series).map(str::to_owned));
    line.map(|value| value.trim().parse().expect("a number"))
}

#[test]
fn a_channel_shows_where_its_messages_come_from() {
    let (mesh, _consumer) = busy();
    let links = mesh[0].links("t", "c");
    assert_eq!(links.len(), 1);
    let link = &links[0];
    assert_eq!(link["node"], mesh[1].id());
    assert_eq!(link["address"], mesh[1].mesh_address().to_string());
    for (key, value) in [("in_flight", 1), ("received", 4), ("finished", 3), ("credit", 0)] {
        assert_eq!(link[key], value, "{key} in {link}");
    }
    assert!(link["rtt_us"].is_u64() || link["rtt_us"].is_null(), "{link}");
    let text = mesh[0].http().get("/stats").text();
    let line = text.lines().find(|line| line.contains("[relay ")).expect("a line for the link");
    assert!(line.contains(&mesh[1].mesh_address().to_string()) && line.contains("state: open"), "{line}");
    let owner = mesh[1].channel_stats("t", "c").expect("it exists");
    assert!(owner.get("relays").is_none(), "nobody consumes there: {owner}");
    assert_eq!(owner["global_msg_count"], 4);
    assert!(owner.get("zone_local_msg_count").is_none(), "{owner}");
}

#[test]
fn at_the_owner_a_relay_is_a_client() {
    let (mesh, consumer) = busy();
    let hostname = |place: usize| {
        let rows = mesh[0].member_rows();
        let row = rows.iter().find(|row| row["id"] == mesh[place].id()).expect("a member");
        row["hostname"].clone()
    };
    let stats = mesh[1].channel_stats("t", "c").expect("it exists");
    assert_eq!(stats["client_count"], 1);
    let client = &stats["clients"][0];
    assert_eq!((&client["client_id"], &client["hostname"]), (&hostname(0), &hostname(0)));
    assert!(client["user_agent"].as_str().is_some_and(|agent| agent.starts_with("bruit-relay/")), "{client}");
    assert_eq!(client["remote_address"], mesh[0].mesh_address().to_string());
    for (key, value) in [("state", 3), ("in_flight_count", 1), ("message_count", 4), ("finish_count", 3)] {
        assert_eq!(client[key], value, "{key} in {client}");
    }
    let own = &mesh[0].channel_stats("t", "c").expect("it exists")["clients"][0];
    assert_eq!((&own["client_id"], &own["message_count"]), (&Value::from("me"), &Value::from(4)));
    drop(consumer);
    mesh[1].wait_for("t", "c", "client_count", 0);
    wait::until("the links are gone", || mesh[0].links("t", "c").is_empty());
}

#[test]
fn figures_say_what_went_to_whom() {
    let (mesh, _consumer) = busy();
    let (here, there) = (mesh[0].id(), mesh[1].id());
    assert_eq!(metric(&mesh, 0, "bruit_relay_links{state=\"open\"}"), Some(1.0));
    assert_eq!(metric(&mesh, 0, "bruit_relay_guests"), Some(0.0));
    assert_eq!(metric(&mesh, 1, "bruit_relay_guests"), Some(1.0));
    let received = format!("bruit_relay_messages_received_total{{peer=\"{there}\"}}");
    let sent = format!("bruit_relay_messages_sent_total{{peer=\"{here}\"}}");
    assert_eq!(metric(&mesh, 0, &received), Some(4.0));
    assert_eq!(metric(&mesh, 1, &sent), Some(4.0));
    assert_eq!(metric(&mesh, 0, &format!("bruit_relay_credit{{peer=\"{there}\"}}")), Some(0.0));
    wait::until("the round-trip was measured", || {
        metric(&mesh, 0, &format!("bruit_relay_rtt_seconds{{peer=\"{there}\"}}")).is_some_and(|rtt| rtt > 0.0)
    });
    let shown = mesh[0].mesh_stats()["relay"].clone();
    assert_eq!(shown["links"], serde_json::json!({"opening": 0, "open": 1, "waiting": 0}), "{shown}");
    assert_eq!(shown["guests"], 0);
    let peer = &shown["peers"][0];
    assert_eq!((&peer["node"], &peer["received"], &peer["sent"]), (&there.into(), &4.into(), &0.into()));
}

#[test]
fn a_node_alone_shows_no_links() {
    let node = bruit_tests::Options::new().arg("--gossip-address=").start();
    let mut consumer = node.consumer("t", "c", 1);
    node.client().publish("t", "x");
    consumer.collect(["x"]);
    let stats = node.channel_stats("t", "c").expect("it exists");
    assert!(stats.get("relays").is_none(), "{stats}");
    assert_eq!(stats["global_msg_count"], 1, "as nsqd counts");
    assert!(!node.http().get("/stats").text().contains("[relay"));
}

#[test]
fn tail_and_pub_work_against_any_node() {
    let mesh = Mesh::start(3);
    let addresses: Vec<String> = mesh.iter().map(|node| node.tcp_address().to_string()).collect();
    for address in &addresses {
        let input = format!("from {address}\n");
        let arguments = ["pub", "t", "--nsqd-tcp-address", address];
        let ended = bruit_with(&arguments, &[], input.as_bytes());
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    for node in mesh.iter() {
        node.http().post_ok("/channel/create?topic=t&channel=c", "");
    }
    let arguments = ["tail", "t", "--channel", "c", "-n", "3", "--nsqd-tcp-address", &addresses[1]];
    let ended = bruit(&arguments);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut lines: Vec<&str> = ended.stdout.lines().collect();
    lines.sort_unstable();
    let mut expected: Vec<String> = addresses.iter().map(|address| format!("from {address}")).collect();
    expected.sort();
    assert_eq!(lines, expected);
}
