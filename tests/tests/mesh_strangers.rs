//! Who is kept out of a mesh, what is dropped on its ports, and that the nodes say so and go on.

use std::{collections::BTreeSet, net::SocketAddr, path::Path};

use bruit_tests::{Mesh, Node, Options, datagrams::Stranger, mesh::secret_file, wait};

/// Longest datagram that a node looks at, bytes: 1,150 before the seal, and the seal.
const SEALED_MAX: usize = 1_191;

/// Lets each of two nodes say hello to the other again and again.
fn introduce(a: &Node, b: &Node) {
    for (node, other) in [(a, b), (b, a)] {
        let joined = node.http().post(&format!("/mesh/join?peer={}", other.gossip_address()), "");
        assert_eq!(joined.status, 200, "{joined:?}");
    }
}

/// Two nodes that hear each other, and neither takes the other in.
fn stay_strangers(a: &Node, b: &Node) {
    introduce(a, b);
    for (node, other) in [(a, b), (b, a)] {
        wait::until("several packets are refused", || {
            let _ = other.http().post(&format!("/mesh/join?peer={}", node.gossip_address()), "");
            node.dropped("key") >= 5
        });
        assert_eq!(node.alive(), BTreeSet::from([node.id()]));
        let log = node.log();
        let lines = log.lines().filter(|line| line.contains("cannot open")).count();
        assert_eq!(lines, 1, "it is to be said once, and not with every packet:\n{log}");
        assert!(log.contains("another cluster name or secret"), "{log}");
    }
}

/// Publishes on every node and finds it from every other.
fn works(mesh: &Mesh, topic: &str) {
    for node in mesh.iter() {
        node.client().publish(topic, "x");
    }
    let all: Vec<usize> = (0..mesh.iter().count()).collect();
    mesh.wait_for_producers(topic, &all);
}

#[test]
fn another_secret_is_refused_on_both_sides() {
    let ((_kept, one), (_kept_too, other)) = (secret_file('1'), secret_file('2'));
    let a = Options::new().secret(&one).start();
    let b = Options::new().secret(&other).join(&a).start();
    stay_strangers(&a, &b);
    let c = Options::new().start();
    stay_strangers(&a, &c);
    let d = Options::new().secret(&one).join(&a).start();
    wait::until("those with one secret find each other", || a.alive().contains(&d.id()));
}

#[test]
fn another_cluster_name_is_refused_on_both_sides() {
    let (_kept, secret) = secret_file('1');
    let named = |name: &str| Options::new().secret(&secret).arg(format!("--cluster-name={name}")).start();
    let (a, b) = (named("one"), named("two"));
    stay_strangers(&a, &b);
    let open = |name: &str| Options::new().arg(format!("--cluster-name={name}")).start();
    let (a, b) = (open("one"), open("two"));
    stay_strangers(&a, &b);
}

#[test]
fn an_address_that_others_reach_needs_a_secret() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for flags in [
        ["--gossip-address=0.0.0.0:0", "--mesh-address=0.0.0.0:0"],
        ["--gossip-address=127.0.0.1:0", "--mesh-address=0.0.0.0:0"],
        ["--gossip-address=[::]:0", "--mesh-address=[::]:0"],
    ] {
        let options = Options::new().data_path(directory.path().join("data"));
        let (status, said) = flags.iter().fold(options, |options, flag| options.arg(*flag)).start_refused();
        assert!(matches!(status.code(), Some(1 | 2)), "{flags:?}: {status}\n{said}");
        for hint in ["secret", "bruit key generate", "--cluster-secret-file"] {
            assert!(said.contains(hint), "{flags:?} does not say `{hint}`:\n{said}");
        }
    }
    let (_kept, secret) = secret_file('a');
    let options = Options::new().secret(&secret).arg("--gossip-address=0.0.0.0:0");
    let node = options.arg("--mesh-address=0.0.0.0:0").arg("--broadcast-address=127.0.0.1").start();
    assert_eq!(node.alive().len(), 1);
}

#[test]
fn a_secret_that_is_none_is_refused_and_never_repeated() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("secret");
    let data = directory.path().join("data");
    for content in ["", "correct horse battery staple", &"0".repeat(63), &"G".repeat(64)] {
        std::fs::write(&file, content).expect("a file can be written");
        let (status, said) = Options::new().secret(&file).data_path(&data).start_refused();
        assert!(matches!(status.code(), Some(1 | 2)), "{status}");
        assert!(said.contains("secret") && said.contains(&file.display().to_string()), "{said}");
        assert!(content.is_empty() || !said.contains(content), "the secret is in the log:\n{said}");
    }
}

/// A copy of a node's data directory, as somebody who clones a machine makes it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for entry in std::fs::read_dir(from).expect("the directory can be read") {
        let entry = entry.expect("the directory can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

#[test]
fn a_copied_data_directory_is_noticed_and_said() {
    let mut mesh = Mesh::start(2);
    works(&mesh, "before");
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let twin_path = elsewhere.path().join("data");
    mesh[1].kill();
    copy(mesh[1].data_path(), &twin_path);
    mesh[1].start_again();
    mesh.wait_until_whole();

    let twin = Options::new().data_path(&twin_path).join(&mesh[0]).start();
    introduce(&mesh[1], &twin);
    let says = |node: &Node| node.log().contains("is a copy of this one's");
    wait::until("one of the two says that it has a twin", || says(&mesh[1]) || says(&twin));
    wait::until("the packets of the twin are counted", || {
        mesh[1].dropped("same-node") + twin.dropped("same-node") > 0
    });
    // It is said, not with every packet.
    for node in [&mesh[1], &twin] {
        let log = node.log();
        assert!(log.lines().filter(|line| line.contains("is a copy of")).count() <= 2, "{log}");
    }
    drop(twin);
    let log = mesh[0].log();
    assert!(!log.contains("panicked"), "{log}");
    mesh[0].client().publish("after", "x");
    mesh[1].wait_for_producers("after", &BTreeSet::from([mesh[0].tcp_address().port()]));
}

/// Bytes that look random and are the same in every run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn garbage_is_dropped_and_counted_and_all_go_on() {
    let mesh = Mesh::start(3);
    let stranger = Stranger::new();
    let addresses: Vec<SocketAddr> = mesh.iter().map(Node::gossip_address).collect();
    for round in 0..200_u64 {
        for address in &addresses {
            let len = usize::try_from(round * 7).unwrap_or_default();
            stranger.send(*address, &noise(round, len));
        }
    }
    let versioned = |seed, len| [&[1][..], &noise(seed, len)].concat();
    let kinds = [
        ("version", noise(2, 60_000)),
        ("oversized", versioned(1, SEALED_MAX + 1)),
        ("truncated", vec![1]),
        ("key", versioned(3, 1000)),
    ];
    for node in mesh.iter() {
        stranger.send(node.gossip_address(), b"");
        for (reason, packet) in &kinds {
            // The system may drop one in the crowd.
            wait::until(&format!("{reason} is counted"), || {
                stranger.send(node.gossip_address(), packet);
                node.dropped(reason) > 0
            });
        }
    }
    works(&mesh, "t");
    mesh.wait_until_whole();
    for node in mesh.iter() {
        assert!(!node.log().contains("panicked"), "{}", node.log());
    }
}

#[test]
fn recorded_packets_are_of_no_use() {
    let (_kept, secret) = secret_file('7');
    let a = Options::new().secret(&secret).start();
    let wire = Stranger::new();
    let b = Options::new().secret(&secret).join_address(wire.address()).start();
    let both = BTreeSet::from([a.id(), b.id()]);
    let what = "the nodes meet through the relay";
    let recorded =
        wire.relay(a.gossip_address(), b.gossip_address(), what, || a.alive() == both && b.alive() == both);
    let hello = &recorded[0];
    let attacker = Stranger::new();
    let send = |node: &Node, packet: &[u8], reason: &str| {
        let before = node.dropped(reason);
        attacker.send(node.gossip_address(), packet);
        wait::until(&format!("{reason} is counted"), || node.dropped(reason) > before);
    };
    send(&a, hello, "replayed");
    send(&b, hello, "reflected");
    let mut damaged = hello.clone();
    *damaged.last_mut().expect("a packet is not empty") ^= 1;
    send(&a, &damaged, "forged");
    send(&a, &hello[..hello.len() - 1], "forged");
    send(&a, &hello[..20], "truncated");
    send(&a, &[hello.as_slice(), &[0]].concat(), "forged");
    let mut newer = hello.clone();
    newer[0] = newer[0].wrapping_add(1);
    send(&a, &newer, "version");

    // What was recorded before its sender started again is of no use after it.
    let mut b = b;
    // The seed that it was given leads nowhere any more.
    let address = a.gossip_address().to_string();
    wait::until("it has saved where the other one is", || {
        std::fs::read_to_string(b.data_path().join("peers")).is_ok_and(|peers| peers.contains(&address))
    });
    b.crash();
    for node in [&a, &b] {
        wait::until("the nodes are together again", || node.alive() == both);
    }
    send(&a, hello, "replayed");
    // A receiver that starts again knows no numbers. What is told to it twice does no harm.
    let mut a = a;
    let before = a.gossip_address();
    a.kill();
    a.start_again_with(format!("--gossip-address={before}"));
    attacker.send(a.gossip_address(), hello);
    for node in [&a, &b] {
        wait::until("the nodes are together again", || node.alive() == both);
    }
    attacker.send(a.gossip_address(), hello);
    b.client().publish("t", "x");
    a.wait_for_producers("t", &BTreeSet::from([b.tcp_address().port()]));
    assert_eq!(a.alive(), both);
}

#[test]
fn garbage_on_the_quic_port_harms_nobody() {
    let mut mesh = Mesh::start(2);
    works(&mesh, "before");
    let stranger = Stranger::new();
    for round in 0..300_u64 {
        for node in [&mesh[0], &mesh[1]] {
            let mut bytes = noise(round, 1_200);
            match round % 4 {
                // As a first packet of QUIC version 1 begins.
                0 => bytes[..7].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8, 1]),
                1 => bytes[..6].copy_from_slice(&[0xc0, 0xba, 0xba, 0xba, 0xba, 8]),
                2 => bytes.truncate(usize::try_from(round % 64).unwrap_or_default()),
                _ => {}
            }
            stranger.send(node.mesh_address(), &bytes);
        }
    }
    // A node that joins now gets everything over that port.
    mesh.push(Options::new().join(&mesh[0]).start());
    mesh.wait_until_whole();
    let both: BTreeSet<u16> = [&mesh[0], &mesh[1]].map(|node| node.tcp_address().port()).into();
    mesh[2].wait_for_producers("before", &both);
    for node in mesh.iter() {
        assert!(!node.log().contains("panicked"), "{}", node.log());
    }
}

#[test]
fn a_node_that_lies_dead_does_not_stop_the_others() {
    let mesh = Mesh::start(3);
    works(&mesh, "before");
    let id = mesh[2].id();
    mesh[2].signal("STOP");
    for node in [&mesh[0], &mesh[1]] {
        node.wait_for_state(&id, "down");
    }
    mesh[0].client().publish("meanwhile", "x");
    mesh[1].wait_for_producers("meanwhile", &BTreeSet::from([mesh[0].tcp_address().port()]));
    mesh[2].signal("CONT");
    mesh.wait_until_whole();
    mesh.wait_for_producers("meanwhile", &[0]);
    works(&mesh, "after");
}
