//! A mesh whose nodes reach each other by IPv6.

use std::collections::BTreeSet;

use bruit_tests::{Mesh, Options};

const ADDRESSES: [&str; 4] = ["tcp", "http", "gossip", "mesh"];

#[test]
#[expect(clippy::disallowed_types, reason = "asks the machine whether it has IPv6 at all")]
fn a_mesh_lives_on_ipv6_loopback() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no IPv6 loopback: not tested");
        return;
    }
    let options = ADDRESSES
        .iter()
        .fold(Options::new(), |options, name| options.arg(format!("--{name}-address=[::1]:0")))
        .arg("--broadcast-address=::1");
    let mut mesh = Mesh::start_with(2, &options);
    mesh[0].client().publish("before", "x");
    // One that comes later gets what it missed by an exchange.
    mesh.push(options.join(&mesh[0]).start());
    mesh.wait_until_whole();
    for node in mesh.iter() {
        assert!(node.gossip_address().is_ipv6() && node.mesh_address().is_ipv6(), "{}", node.log());
        node.client().publish("t", "x");
    }
    mesh.wait_for_producers("before", &[0]);
    mesh.wait_for_producers("t", &[0, 1, 2]);
    let exchanges: u64 = mesh.iter().filter_map(|node| node.mesh_stats()["exchanges"].as_u64()).sum();
    assert!(exchanges > 0, "nothing was exchanged over QUIC");

    // What a lookup says is where a consumer connects, put together as client libraries do it.
    let found = mesh[2].http().get("/lookup?topic=t").json();
    let producers = found["producers"].as_array().expect("a list of producers");
    let mut reached = BTreeSet::new();
    for producer in producers {
        let (host, port) = (&producer["broadcast_address"], &producer["tcp_port"]);
        assert_eq!(host, "::1", "{producer}");
        let address: std::net::SocketAddr = format!("[{}]:{port}", host.as_str().unwrap_or_default())
            .parse()
            .unwrap_or_else(|error| panic!("{producer}: {error}"));
        let node = mesh.iter().find(|node| node.tcp_address() == address);
        let node = node.unwrap_or_else(|| panic!("nobody listens at {address}"));
        assert_eq!(node.consumer("t", "c", 1).finish_messages(1).len(), 1);
        reached.insert(address);
    }
    assert_eq!(reached.len(), 3, "{found}");
    let remote = producers[0]["remote_address"].as_str().unwrap_or_default();
    assert!(remote.starts_with("[::1]:"), "{remote}");
}
