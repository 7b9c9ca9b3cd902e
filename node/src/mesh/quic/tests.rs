//! Two endpoints on loopback.

use bruit_gossip::{Keyring, Secret};
use tokio::runtime::Handle;

use super::*;
use crate::{MeshConfig, env::real};

/// A node that answers each blob with the same one, backwards.
struct Node {
    pool: Arc<Pool>,
    peer: Peer,
}

impl Node {
    async fn start(id: u64, cluster: &str, secret: u8) -> Self {
        let env = real::env(Handle::current(), Handle::current());
        let socket = env.net.bind_udp(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = socket.local_addr().unwrap();
        let me = NodeId::new(id);
        let config = MeshConfig { cluster_name: cluster.to_owned(), ..MeshConfig::default() };
        let keyring = Keyring::new(Secret::new([secret; 32]));
        let certificates = tls::build(&config, &keyring, me, &env).await.unwrap();
        let pool = Arc::new(Pool::new(&env, socket, cluster.to_owned(), me, certificates).unwrap());
        env.background.spawn(Box::pin(Arc::clone(&pool).accept(|incoming: Incoming| async {
            let mut stream = incoming.stream;
            let Ok(blob) = stream.recv(1_000).await else { return };
            let mirrored: Vec<u8> = blob.iter().rev().copied().collect();
            // A test that has ended does not read any more.
            let _ = stream.send(&mirrored).await;
            stream.finish().await;
        })));
        let peer = Peer { id: me, generation: 1, renewal: 0, gossip: address, mesh_port: address.port() };
        Self { pool, peer }
    }

    async fn ask(&self, other: &Self, blob: &[u8]) -> io::Result<Bytes> {
        self.pool.request(&other.peer, Purpose::Exchange, blob, 1_000).await
    }
}

#[tokio::test]
async fn nodes_of_one_cluster_talk_on_one_connection() {
    let (a, b) = (Node::start(1, "c", 7).await, Node::start(2, "c", 7).await);
    assert_eq!(a.ask(&b, b"abc").await.unwrap(), "cba");
    assert_eq!(a.ask(&b, b"").await.unwrap(), "");
    // The way back uses the same connection.
    assert_eq!(b.ask(&a, b"xy").await.unwrap(), "yx");
    assert_eq!((a.pool.connections(), b.pool.connections()), (1, 1));
    a.pool.close(&b.peer);
    assert_eq!(a.ask(&b, b"again").await.unwrap(), "niaga");
}

#[tokio::test]
async fn no_connection_outlives_the_trust_that_it_was_made_with() {
    let (a, b) = (Node::start(1, "c", 7).await, Node::start(2, "c", 7).await);
    assert_eq!(a.ask(&b, b"abc").await.unwrap(), "cba");
    // Two from one address: both are served.
    let first = a.pool.connections.lock().remove(&b.peer.mesh()).unwrap().remove(0);
    assert_eq!(a.ask(&b, b"abc").await.unwrap(), "cba");
    b.pool.set_certificates(certificates(&b, 9).await);
    b.pool.mark_newer();
    assert_eq!(a.ask(&b, b"abc").await.unwrap(), "cba", "until the answer to the removal is out");
    b.pool.distrust_older();
    assert!(a.ask(&b, b"abc").await.is_err());
    assert!(a.pool.open_on(&first, Purpose::Exchange).await.is_err());
    a.pool.set_certificates(certificates(&a, 9).await);
    assert_eq!(a.ask(&b, b"abc").await.unwrap(), "cba");
    b.pool.distrust_older();
    assert_eq!(a.ask(&b, b"abc").await.unwrap(), "cba", "a newer one stays");
    assert_eq!(b.pool.connections(), 1);
}

#[tokio::test]
async fn strangers_are_refused() {
    let node = Node::start(1, "c", 7).await;
    for stranger in [Node::start(2, "c", 8).await, Node::start(3, "other", 7).await] {
        assert!(stranger.ask(&node, b"hello").await.is_err());
        assert!(node.ask(&stranger, b"hello").await.is_err());
        assert!(stranger.pool.handshakes_failed.load(Relaxed) > 0);
    }
    assert_eq!(node.pool.connections(), 0);
}

#[tokio::test]
async fn nobody_answers_in_the_name_of_another_node() {
    let (a, b) = (Node::start(1, "c", 7).await, Node::start(2, "c", 7).await);
    let other = Peer { id: NodeId::new(3), ..b.peer };
    assert!(a.pool.request(&other, Purpose::Exchange, b"hello", 1_000).await.is_err());
}

#[tokio::test]
async fn a_blob_beyond_the_limit_is_refused() {
    let (a, b) = (Node::start(1, "c", 7).await, Node::start(2, "c", 7).await);
    assert!(a.ask(&b, &[0; 1_001]).await.is_err());
    assert_eq!(a.ask(&b, &[1; 1_000]).await.unwrap().len(), 1_000);
}

#[tokio::test]
async fn certificates_change_while_connections_stay() {
    let (a, b) = (Node::start(1, "c", 7).await, Node::start(2, "c", 7).await);
    assert_eq!(a.ask(&b, b"abc").await.unwrap(), "cba");
    let change = async |node: &Node| node.pool.set_certificates(certificates(node, 9).await);
    change(&b).await;
    assert_eq!(a.ask(&b, b"abc").await.unwrap(), "cba");
    b.pool.close_all();
    a.pool.close_all();
    assert!(a.ask(&b, b"abc").await.is_err(), "a node with the old secret only got in");
    change(&a).await;
    assert_eq!(a.ask(&b, b"abc").await.unwrap(), "cba");
}

/// Those of a node in the cluster `c` with another secret.
async fn certificates(node: &Node, secret: u8) -> (ServerConfig, ClientConfig) {
    let env = real::env(Handle::current(), Handle::current());
    let config = MeshConfig { cluster_name: "c".to_owned(), ..MeshConfig::default() };
    let keyring = Keyring::new(Secret::new([secret; 32]));
    tls::build(&config, &keyring, node.peer.id, &env).await.unwrap()
}
