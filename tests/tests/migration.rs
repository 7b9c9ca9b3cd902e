//! A classic cluster of nsqd and nsqlookupd becomes a mesh, node by node, while messages are published and
//! consumed all the time, and none is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use bruit_tests::{
    Client, Http, Node, Options,
    classic::{Lookupd, Nsqd},
    wait,
};

const TOPIC: &str = "orders";

/// A consumer as client libraries are: it asks lookups for producers, and keeps a connection to each.
struct Consumer {
    channel: &'static str,
    lookups: Vec<SocketAddr>,
    connections: BTreeMap<u16, Client>,
    got: BTreeSet<String>,
}

impl Consumer {
    fn new(channel: &'static str, lookups: &[SocketAddr]) -> Self {
        Self { channel, lookups: lookups.to_vec(), connections: BTreeMap::new(), got: BTreeSet::new() }
    }

    /// Connects to producers that are new, leaves those that are gone, and finishes what has come.
    fn poll(&mut self) {
        let mut found = BTreeSet::new();
        for lookup in &self.lookups {
            let answer = Http::new(*lookup).get(&format!("/lookup?topic={TOPIC}"));
            if answer.status == 200 {
                let answer = answer.json();
                let producers = answer["producers"].as_array().unwrap().iter();
                found.extend(producers.map(|producer| producer["tcp_port"].as_u64().unwrap() as u16));
            }
        }
        self.connections.retain(|port, _| found.contains(port));
        for port in found {
            let channel = self.channel;
            let client = self.connections.entry(port).or_insert_with(|| {
                let mut client = Client::connect(([127, 0, 0, 1], port).into());
                client.send(b"  V2");
                client.identify(r#"{"feature_negotiation":true}"#);
                client.subscribe(TOPIC, channel);
                client.ready(100);
                client
            });
            // An nsqd that has nothing to say is asked.
            let _ = client.try_send(b"NOP\n");
            while let Some(message) = client.message_within(Duration::from_millis(20)) {
                client.finish(&message.id);
                self.got.insert(message.text());
            }
        }
    }
}

/// Everything that was acknowledged.
#[derive(Default)]
struct Published(BTreeSet<String>);

impl Published {
    /// Publishes ten messages to each of these.
    fn publish(&mut self, round: &str, to: &[SocketAddr]) {
        for address in to {
            let mut client = Client::connect(*address);
            client.send(b"  V2");
            for number in 0..10 {
                let body = format!("{round}-{}-{number}", address.port());
                client.publish(TOPIC, &body);
                self.0.insert(body);
            }
        }
    }
}

fn drained(consumers: &mut [Consumer], published: &Published) {
    wait::until("every channel has every message", || {
        consumers.iter_mut().for_each(Consumer::poll);
        consumers.iter().all(|consumer| consumer.got == published.0)
    });
}

/// A node under the name nsqd, with the flags of the nsqd that it replaces and one of the mesh at most.
fn takes_over(dir: &tempfile::TempDir, lookups: &[SocketAddr], join: Option<&Node>) -> Node {
    let mut options = Options::new()
        .program("nsqd")
        .arg("-tcp-address=127.0.0.1:0")
        .arg("-http-address=127.0.0.1:0")
        .arg("-broadcast-address=127.0.0.1")
        .arg("-gossip-address=127.0.0.1:0")
        .arg(format!("-data-path={}", dir.path().display()));
    for lookup in lookups {
        options = options.arg(format!("-lookupd-tcp-address={lookup}"));
    }
    if let Some(seed) = join {
        options = options.arg(format!("-join={}", gossip_address(seed)));
    }
    options.start()
}

/// Where a node under a classic name is heard.
fn gossip_address(node: &Node) -> String {
    let log = node.log();
    let line = log.lines().find_map(|line| line.split_once("MESH: gossip on ")).expect("it says so").1;
    line.split(' ').next().unwrap().to_owned()
}

#[test]
fn a_classic_cluster_becomes_a_mesh_without_losing_a_message() {
    // Two nsqds, one nsqlookupd, two channels.
    let old_lookup = Lookupd::start();
    let first = Nsqd::start(&[old_lookup.tcp_address()]);
    let second = Nsqd::start(&[old_lookup.tcp_address()]);
    let mut published = Published::default();
    let mut consumers =
        ["archive", "metrics"].map(|channel| Consumer::new(channel, &[old_lookup.http_address()]));
    // Both channels are there before the first message, as in any cluster that has been running for a while.
    for nsqd in [&first, &second] {
        for channel in ["archive", "metrics"] {
            let mut client = Client::connect(nsqd.address());
            client.send(b"  V2");
            client.subscribe(TOPIC, channel);
        }
    }
    published.publish("classic", &[first.address(), second.address()]);
    drained(&mut consumers, &published);

    // One node beside them, that registers where they do. Nobody consumes from it yet, and still every channel
    // gets what is published to it.
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let new_first = takes_over(&dirs[0], &[old_lookup.tcp_address()], None);
    published.publish("beside", &[first.address(), new_first.tcp_address(), second.address()]);
    drained(&mut consumers, &published);

    // The first nsqd is emptied and goes.
    assert_eq!([0, 0], ["archive", "metrics"].map(|channel| first.unfinished(TOPIC, channel)));
    drop(first);
    wait::until("it is registered no more", || old_lookup.producers(TOPIC, "").len() == 2);

    // A lookup of the mesh beside the classic one. The other nsqd is told of it, as is done with every new one.
    let new_lookup = Options::new()
        .program("nsqlookupd")
        .arg("-tcp-address=127.0.0.1:0")
        .arg("-http-address=127.0.0.1:0")
        .arg("-broadcast-address=127.0.0.1")
        .arg("-gossip-address=127.0.0.1:0")
        .arg(format!("-join={}", gossip_address(&new_first)))
        .start();
    drained(&mut consumers, &published);
    drop(second);
    let second = Nsqd::start(&[old_lookup.tcp_address(), new_lookup.tcp_address()]);
    published.publish("both", &[second.address(), new_first.tcp_address()]);
    // The mesh knows of the nsqd that is left, on each of its nodes.
    let both = BTreeSet::from([second.address().port(), new_first.tcp_address().port()]);
    for node in [&new_lookup, &new_first] {
        node.wait_for_producers(TOPIC, &both);
    }

    // Consumers are given the new lookup, one after the other, and the classic one goes.
    consumers[0].lookups = vec![new_lookup.http_address()];
    drained(&mut consumers, &published);
    consumers[1].lookups = vec![new_first.http_address()];
    drop(old_lookup);
    published.publish("mesh", &[second.address(), new_first.tcp_address()]);
    drained(&mut consumers, &published);

    // The last nsqd is replaced, by a node that knows of no nsqlookupd at all.
    let new_second = takes_over(&dirs[1], &[], Some(&new_first));
    // Producers are moved to it once it has met the others: until then it knows of no channel.
    for channel in ["archive", "metrics"] {
        new_second.wait_for_channel_name(TOPIC, channel);
    }
    published.publish("last", &[second.address(), new_second.tcp_address()]);
    drained(&mut consumers, &published);
    drop(second);
    let nodes = BTreeSet::from([new_first.tcp_address().port(), new_second.tcp_address().port()]);
    for node in [&new_lookup, &new_first, &new_second] {
        node.wait_for_producers(TOPIC, &nodes);
    }
    published.publish("end", &[new_first.tcp_address(), new_second.tcp_address()]);
    drained(&mut consumers, &published);
}
