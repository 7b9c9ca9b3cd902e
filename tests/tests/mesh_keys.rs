//! The cluster's secret is changed while the mesh is at work: nobody is lost, no message either, and the old
//! secret opens nothing afterwards.

#![expect(clippy::disallowed_methods, reason = "the load runs beside the test, on threads of its own")]

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bruit_tests::{
    Mesh, Node, Options,
    command::{Ended, bruit_with},
    load::{self, Journal},
    mesh::secret_file,
    wait,
};
use serde_json::Value;

/// `bruit key` against a node, let in by the secret in a file.
fn key(node: &Node, secret: &Path, words: &[&str], stdin: &str) -> Ended {
    let address = node.http_address().to_string();
    let file = secret.display().to_string();
    let login = ["--http-address", &address, "--cluster-secret-file", &file, "-o", "json"];
    bruit_with(&[&["key"], words, &login].concat(), &[], stdin.as_bytes())
}

/// The same where it has to succeed on all `count` nodes; returns the key that it was about.
fn key_on_all(node: &Node, secret: &Path, words: &[&str], stdin: &str, count: u64) -> String {
    let ended = key(node, secret, words, stdin);
    assert_eq!(ended.code, Some(0), "bruit key {words:?}: {ended:?}");
    let report = json(&ended);
    assert_eq!((&report["done"], &report["of"]), (&count.into(), &count.into()), "{report}");
    assert!(!ended.stdout.contains(stdin.trim()) || stdin.is_empty(), "a secret is shown: {ended:?}");
    report["fingerprint"].as_str().unwrap_or_default().to_owned()
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// The keys that every node holds, as one node tells: fingerprint and whether it is used.
fn held(node: &Node, secret: &Path) -> BTreeSet<(String, bool)> {
    let report = json(&key(node, secret, &["list"], ""));
    let nodes = report["nodes"].as_array().unwrap_or_else(|| panic!("no nodes: {report}"));
    let keys = |row: &Value| -> BTreeSet<(String, bool)> {
        let keys = row["keys"].as_array().into_iter().flatten();
        keys.map(|key| (key["fingerprint"].as_str().unwrap_or_default().to_owned(), key["used"] == true))
            .collect()
    };
    let first = keys(&nodes[0]);
    assert!(nodes.iter().all(|row| keys(row) == first), "the nodes hold different keys: {report}");
    first
}

fn content(secret: &Path) -> String {
    std::fs::read_to_string(secret).expect("the secret can be read")
}

/// Publishers on every node, until the end.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Journal>>,
}

impl Load {
    fn start(mesh: &Mesh, topic: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = mesh.iter().enumerate().map(|(i, node)| {
            let (address, stop) = (node.tcp_address(), Arc::clone(&stop));
            std::thread::spawn(move || load::publish_until(address, topic, &format!("p{i}"), &stop))
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    fn end(self) -> Vec<Journal> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a publisher does not panic")).collect()
    }
}

/// Each node finds a new topic of each other.
fn all_hear_each_other(mesh: &Mesh, topic: &str) {
    for (i, node) in mesh.iter().enumerate() {
        let topic = format!("{topic}{i}");
        node.client().publish(&topic, "x");
        mesh.wait_for_producers(&topic, &[i]);
    }
}

#[test]
fn the_secret_changes_under_load_and_nothing_is_lost() {
    let ((_kept, old), (_kept_too, new)) = (secret_file('3'), secret_file('4'));
    let mut mesh = Mesh::start_with(3, &Options::new().secret(&old));
    let load = Load::start(&mesh, "t");
    mesh.wait_for_producers("t", &[0, 1, 2]);
    let before = held(&mesh[0], &old);
    let stale = before.first().expect("a node holds a key").0.clone();
    assert_eq!(before, BTreeSet::from([(stale.clone(), true)]));

    let fresh = key_on_all(&mesh[0], &old, &["install", "-"], &content(&new), 3);
    assert_eq!(held(&mesh[1], &new), BTreeSet::from([(stale.clone(), true), (fresh.clone(), false)]));
    all_hear_each_other(&mesh, "installed");
    let _ = key_on_all(&mesh[1], &old, &["use", &fresh], "", 3);
    assert_eq!(held(&mesh[2], &new), BTreeSet::from([(stale.clone(), false), (fresh.clone(), true)]));
    all_hear_each_other(&mesh, "used");
    let _ = key_on_all(&mesh[2], &new, &["remove", &stale], "", 3);
    assert_eq!(held(&mesh[0], &new), BTreeSet::from([(fresh, true)]));
    all_hear_each_other(&mesh, "removed");
    mesh.wait_until_whole();

    let mut all = Journal::default();
    for journal in load.end() {
        assert!(!journal.acknowledged.is_empty());
        all.merge(journal);
    }
    // A consumer on one node gets what the others hold as well, over connections with the new certificates.
    let mut consumer = mesh[1].consumer("t", "c", 1000);
    load::check(&all, &load::drain(&mut consumer, wait::QUIET));

    // The old secret opens nothing any more, and the new one does.
    let refused = key(&mesh[0], &old, &["list"], "");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let late = Options::new().secret(&old).join(&mesh[0]).start();
    wait::until("the late node is refused", || mesh[0].dropped("key") >= 3);
    assert_eq!(late.alive().len(), 1);
    drop(late);
    mesh.push(Options::new().secret(&new).join(&mesh[0]).start());
    mesh.wait_until_whole();
    all_hear_each_other(&mesh, "joined");
}

#[test]
fn a_node_that_starts_again_keeps_the_new_secret() {
    let ((_kept, old), (_kept_too, new)) = (secret_file('5'), secret_file('6'));
    let mut mesh = Mesh::start_with(3, &Options::new().secret(&old));
    let stale = held(&mesh[0], &old).first().expect("a node holds a key").0.clone();
    let fresh = key_on_all(&mesh[0], &old, &["install", "-"], &content(&new), 3);
    let _ = key_on_all(&mesh[0], &old, &["use", &fresh], "", 3);
    let _ = key_on_all(&mesh[0], &new, &["remove", &stale], "", 3);
    // It is still started with the old one; what the cluster agreed on wins.
    mesh[2].crash();
    mesh.wait_until_whole();
    all_hear_each_other(&mesh, "t");
    assert_eq!(held(&mesh[2], &new), BTreeSet::from([(fresh, true)]));
}

#[test]
fn a_key_in_use_stays_and_strangers_change_nothing() {
    let ((_kept, used), (_kept_too, other)) = (secret_file('8'), secret_file('9'));
    let mesh = Mesh::start_with(2, &Options::new().secret(&used));
    let fingerprint = held(&mesh[0], &used).first().expect("a node holds a key").0.clone();
    for (secret, words, stdin) in [
        (&used, vec!["remove", fingerprint.as_str()], String::new()),
        (&used, vec!["use", "00000000"], String::new()),
        (&other, vec!["list"], String::new()),
        (&other, vec!["install", "-"], content(&other)),
        (&other, vec!["remove", fingerprint.as_str()], String::new()),
    ] {
        let ended = key(&mesh[0], secret, &words, &stdin);
        assert_eq!(ended.code, Some(1), "bruit key {words:?}: {ended:?}");
    }
    for (method, target) in [("POST", "/mesh/keys"), ("PUT", "/mesh/keys"), ("DELETE", "/mesh/keys")] {
        let reply = mesh[0].http().request(method, target, b"{\"install\":\"x\"}");
        assert!((400..500).contains(&reply.status), "{method}: {reply:?}");
    }
    let listing = mesh[0].http().get("/mesh/keys").text();
    assert!(!listing.contains(content(&used).trim()) && !listing.contains(&fingerprint), "{listing}");
    assert_eq!(held(&mesh[1], &used), BTreeSet::from([(fingerprint, true)]));
}
