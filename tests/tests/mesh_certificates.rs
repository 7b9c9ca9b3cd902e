//! A mesh with certificates that an operator made: nodes of one authority exchange what they know, and a node
//! of another one does not get any of it, and says so.

use std::{collections::BTreeSet, path::Path};

use bruit_tests::{
    Node, Options,
    certificates::{Authority, Certified},
    wait,
};

/// The flags of a node with a certificate that is made for it.
fn certified(authority: &Authority, node: &str) -> Options {
    let Certified { cert_file, key_file, .. } =
        authority.certify_for(node, &[format!("{node}.example").as_str()]);
    options(&authority.file(), &cert_file, &key_file)
}

fn options(ca: &Path, cert: &Path, key: &Path) -> Options {
    Options::new()
        .arg(format!("--mesh-ca-file={}", ca.display()))
        .arg(format!("--mesh-cert-file={}", cert.display()))
        .arg(format!("--mesh-key-file={}", key.display()))
}

fn count(node: &Node, figure: &str) -> u64 {
    let stats = node.mesh_stats();
    stats[figure].as_u64().unwrap_or_else(|| panic!("no {figure} in {stats}"))
}

/// More names than news on datagrams tell one by one: only an exchange brings them all.
fn hold_many(node: &Node, prefix: &str) -> Vec<String> {
    let topics: Vec<String> = (0..200).map(|number| format!("{prefix}{number}")).collect();
    for topic in &topics {
        node.http().post_ok(&format!("/topic/create?topic={topic}"), "");
    }
    topics
}

#[test]
fn nodes_with_certificates_of_one_authority_exchange_what_they_know() {
    let authority = Authority::new("operations");
    let first = certified(&authority, "first").start();
    let topics = hold_many(&first, "t");
    let second = certified(&authority, "second").join(&first).start();
    let holder = BTreeSet::from([first.tcp_address().port()]);
    for topic in &topics {
        second.wait_for_producers(topic, &holder);
    }
    wait::until("an exchange is counted", || count(&first, "exchanges") + count(&second, "exchanges") > 0);
    for node in [&first, &second] {
        assert_eq!(node.alive(), BTreeSet::from([first.id(), second.id()]));
        assert_eq!(count(node, "handshakes_failed"), 0, "{}", node.log());
    }
}

#[test]
fn a_node_of_another_authority_gets_no_exchange_and_both_say_why() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let first = certified(&ours, "first").start();
    let second = certified(&ours, "second").join(&first).start();
    let stranger = certified(&theirs, "stranger").join(&first).start();
    let derived = Options::new().join(&first).start();
    hold_many(&first, "t");
    for other in [&stranger, &derived] {
        wait::until("its handshakes fail", || {
            count(other, "handshakes_failed") > 0 && count(other, "exchanges_failed") > 0
        });
        wait::until("it says why", || says(other));
        assert_eq!(count(other, "exchanges"), 0, "{}", other.log());
    }
    wait::until("those whom it asks say why", || says(&first) || says(&second));
    // The two of one authority go on meanwhile.
    let holder = BTreeSet::from([first.tcp_address().port()]);
    second.wait_for_producers("t199", &holder);
    wait::until("they exchange", || count(&first, "exchanges") + count(&second, "exchanges") > 0);
}

fn says(node: &Node) -> bool {
    let log = node.log();
    let lines = log.lines().filter(|line| line.contains("Give both certificates of one authority")).count();
    assert!(lines <= 1, "it is to be said once, and not with every attempt:\n{log}");
    lines == 1
}

#[test]
fn a_certificate_that_others_would_not_accept_is_refused_at_the_start() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (a, b) = (ours.certify("a"), theirs.certify("b"));
    let none = ours.file().with_file_name("none.pem");
    let data = tempfile::tempdir().expect("a temporary directory");
    let (ca, cert_flag, ca_flag) = (&ours.file(), "--mesh-cert-file", "--mesh-ca-file");
    for (ca, cert, key, flag, why) in [
        (ca, &b.cert_file, &b.key_file, cert_flag, "no authority in --mesh-ca-file"),
        (ca, &a.cert_file, &b.key_file, "--mesh-key-file", "not the key of the certificate"),
        (&a.key_file, &a.cert_file, &a.key_file, ca_flag, "no certificate in PEM form"),
        (&none, &a.cert_file, &a.key_file, ca_flag, "none.pem"),
    ] {
        let options = options(ca, cert, key).data_path(data.path().join("data"));
        let (status, said) = options.start_refused();
        assert!(matches!(status.code(), Some(1 | 2)), "{status}\n{said}");
        assert!(said.contains(flag) && said.contains(why), "{flag}, {why}: {said}");
    }
}
