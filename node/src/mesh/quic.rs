//! Streams to and from other nodes, over QUIC with mutual TLS.
//!
//! One endpoint both dials and accepts. Connections are kept, since a handshake costs more than what most
//! exchanges move; SWIM tells who is gone, so they need no keep-alive. Every stream begins with a hello
//! (`bruit_wire::peer`), and what follows is blobs of a known length.

use std::{
    collections::BTreeMap,
    io::{
        self,
        ErrorKind::{ConnectionAborted, Other, PermissionDenied, TimedOut},
    },
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, SystemTime},
};

use bruit_gossip::{NodeId, Peer};
use bruit_wire::peer::{Answer, HELLO_HEAD, Hello, Purpose};
use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{
    AckFrequencyConfig, AsyncUdpSocket, ClientConfig, Connection, ConnectionError, ConnectionId,
    ConnectionIdGenerator, Endpoint, EndpointConfig, MtuDiscoveryConfig, RecvStream, SendStream,
    ServerConfig, TransportConfig, VarInt,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{select, sync::mpsc, time::timeout};

use super::tls;
use crate::{
    env::{Entropy, Env, QuicRuntime, WallClock},
    rising::Rising,
};

/// A connection that nothing used for this long is closed; opening it again costs a handshake.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// Streams that a peer may have open at once, nearly all of them links; more wait at the peer.
const STREAMS_MAX: u32 = 4_096;
/// Connections, dialled and accepted; further ones are refused.
const CONNECTIONS_MAX: usize = 8_192;
/// Connections that were dialled and wait to be served; further ones are used in one direction only.
const DIALLED_MAX: usize = 1_024;
/// Packets are not larger than jumbo frames hold; that smaller ones are the largest that pass is found out.
const MTU_MAX: u16 = 8_952;
/// Packets that come before they are acknowledged, unless no more come.
const ACK_EVERY: u32 = 8;
/// How long a handshake, or one step of a conversation, may take.
const STEP: Duration = Duration::from_secs(5);

/// The QUIC side of a node.
pub(crate) struct Pool {
    endpoint: Endpoint,
    env: Env,
    cluster: String,
    me: NodeId,
    dial: Mutex<ClientConfig>,
    ids: Arc<Mutex<StdRng>>,
    /// By peer; there are two when both sides dialled at once, and streams may be on either.
    connections: Mutex<BTreeMap<SocketAddr, Vec<Connection>>>,
    /// Connections that this side has dialled, on their way to the task that serves streams.
    dialled: mpsc::Sender<Dialled>,
    to_serve: Mutex<Option<mpsc::Receiver<Dialled>>>,
    /// Counts removals of keys; what a new connection is marked with.
    trust: AtomicU64,
    /// Connections with an older mark are closed.
    trusted_since: Rising,
    /// Handshakes that failed, dialled or accepted.
    pub(super) handshakes_failed: AtomicU64,
    /// Streams that another cluster opened.
    pub(super) other_cluster: AtomicU64,
}

/// A connection that was dialled, and its mark.
type Dialled = (Connection, u64);

/// One stream to a peer that has said welcome.
pub(crate) struct PeerStream {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
}

/// A stream that a peer has opened.
pub(super) struct Incoming {
    pub(super) from: NodeId,
    pub(super) purpose: Purpose,
    pub(super) stream: PeerStream,
}

impl Pool {
    /// An endpoint on `socket`.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn new(
        env: &Env,
        socket: Arc<dyn AsyncUdpSocket>,
        cluster: String,
        me: NodeId,
        (server, client): (ServerConfig, ClientConfig),
    ) -> io::Result<Self> {
        let seeded = |entropy: &Arc<dyn Entropy>| {
            let mut seed = [0; 32];
            entropy.fill(&mut seed);
            seed
        };
        let ids = Arc::new(Mutex::new(StdRng::from_seed(seeded(&env.entropy))));
        let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &seeded(&env.entropy));
        let mut config = EndpointConfig::new(Arc::new(reset_key));
        config.rng_seed(Some(seeded(&env.entropy)));
        let shared = Arc::clone(&ids);
        config.cid_generator(move || Box::new(SeededIds(Arc::clone(&shared))));
        let runtime = Arc::new(QuicRuntime::new(Arc::clone(&env.background)));
        let server = prepare_server(server, env, &seeded(&env.entropy));
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime)?;
        let dial = Mutex::new(prepare_client(client, &ids));
        let (dialled, to_serve) = mpsc::channel(DIALLED_MAX);
        Ok(Self {
            endpoint,
            env: env.clone(),
            cluster,
            me,
            dial,
            ids,
            connections: Mutex::default(),
            dialled,
            to_serve: Mutex::new(Some(to_serve)),
            trust: AtomicU64::new(0),
            trusted_since: Rising::default(),
            handshakes_failed: AtomicU64::new(0),
            other_cluster: AtomicU64::new(0),
        })
    }

    /// From now on handshakes use other certificates. Connections that are open stay.
    pub(super) fn set_certificates(&self, (server, client): (ServerConfig, ClientConfig)) {
        let mut key = [0; 32];
        self.env.entropy.fill(&mut key);
        self.endpoint.set_server_config(Some(prepare_server(server, &self.env, &key)));
        *self.dial.lock() = prepare_client(client, &self.ids);
    }

    /// From now on connections count as newer than those that are open: to be called once the certificates
    /// are other ones, and followed by [`distrust_older`](Self::distrust_older).
    pub(super) fn mark_newer(&self) {
        self.trust.fetch_add(1, SeqCst);
    }

    /// Closes every connection from before the last [`mark_newer`](Self::mark_newer), and takes no stream of
    /// theirs any more.
    pub(super) fn distrust_older(&self) {
        self.trusted_since.raise(self.trust.load(SeqCst));
    }

    /// Closes every connection; those that are needed are made again.
    pub(super) fn close_all(&self) {
        for connection in std::mem::take(&mut *self.connections.lock()).into_values().flatten() {
            connection.close(VarInt::from_u32(0), b"closing");
        }
    }

    /// Closes the connections to a node that is gone.
    pub(super) fn close(&self, peer: &Peer) {
        for connection in self.connections.lock().remove(&peer.mesh()).into_iter().flatten() {
            connection.close(VarInt::from_u32(0), b"gone");
        }
    }

    /// Open connections.
    pub(super) fn connections(&self) -> usize {
        self.connections
            .lock()
            .values()
            .flatten()
            .filter(|connection| connection.close_reason().is_none())
            .count()
    }

    /// Sends one blob and waits for one.
    ///
    /// # Errors
    /// The peer cannot be reached, refuses, or takes longer than a few seconds.
    pub(crate) async fn request(
        &self,
        peer: &Peer,
        purpose: Purpose,
        bytes: &[u8],
        max: usize,
    ) -> io::Result<Bytes> {
        let mut stream = self.open(peer, purpose).await?;
        stream.send(bytes).await?;
        stream.recv(max).await
    }

    /// Opens a stream, on a connection that is there or a new one.
    ///
    /// # Errors
    /// The peer cannot be reached, refuses, or takes longer than a few seconds.
    pub(crate) async fn open(&self, peer: &Peer, purpose: Purpose) -> io::Result<PeerStream> {
        let known = self.connections.lock().get(&peer.mesh()).cloned().unwrap_or_default();
        // The newest: an older one may lead to an earlier life of the peer.
        if let Some(connection) = known.into_iter().rfind(|connection| connection.close_reason().is_none()) {
            match self.open_on(&connection, purpose).await {
                Err(error) if matches!(error.kind(), TimedOut | ConnectionAborted) => {
                    // It may lead to an earlier life of the peer, which will never answer.
                    self.forget(&connection);
                }
                outcome => return outcome,
            }
        }
        let connection = self.dial(peer).await?;
        self.open_on(&connection, purpose).await
    }

    /// Has the peer answer on a connection.
    ///
    /// # Errors
    /// It does not within a few seconds.
    pub(super) async fn ping(&self, connection: &Connection) -> io::Result<()> {
        self.open_on(connection, Purpose::Ping).await.map(drop)
    }

    async fn dial(&self, peer: &Peer) -> io::Result<Connection> {
        // Before the certificates, so that no connection counts as newer than those that it was made with.
        let trust = self.trust.load(SeqCst);
        let config = self.dial.lock().clone();
        let connecting = self
            .endpoint
            .connect_with(config, peer.mesh(), &tls::server_name(peer.id))
            .map_err(io::Error::other)?;
        let connection = match timeout(STEP, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                self.handshakes_failed.fetch_add(1, Relaxed);
                return Err(undone(error));
            }
            Err(_) => return Err(timed_out()),
        };
        self.keep(&connection);
        // When there is no room the peer finds nobody who takes its streams on this connection, and dials.
        let _ = self.dialled.try_send((connection.clone(), trust));
        Ok(connection)
    }

    async fn open_on(&self, connection: &Connection, purpose: Purpose) -> io::Result<PeerStream> {
        let hello = Hello { purpose, node: self.me.bits(), cluster: self.cluster.clone() };
        let greet = async {
            let (mut send, mut recv) = connection.open_bi().await.map_err(lost)?;
            send.write_all(&hello.to_bytes()).await.map_err(lost)?;
            let mut answer = [0];
            recv.read_exact(&mut answer).await.map_err(lost)?;
            match Answer::of(answer[0]) {
                Answer::Welcome => Ok(PeerStream { connection: connection.clone(), send, recv }),
                Answer::OtherCluster => Err(io::Error::other("it belongs to another cluster")),
                Answer::Busy => Err(io::Error::other("it is busy")),
                Answer::Unknown => Err(io::Error::other("it speaks another version")),
            }
        };
        timeout(STEP, greet).await.map_err(|_| timed_out())?
    }

    /// Accepts connections and streams until the endpoint is closed; hands each stream to `serve`. Streams come
    /// on connections in both directions, whoever has dialled.
    pub(super) async fn accept<F, S>(self: Arc<Self>, serve: S)
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
    {
        let Some(mut dialled) = self.to_serve.lock().take() else { return };
        loop {
            let next = select! {
                biased;
                incoming = self.endpoint.accept() => incoming.map(Box::new).map(Next::Incoming),
                // The sender is the pool's own.
                Some(dialled) = dialled.recv() => Some(Next::Dialled(dialled)),
            };
            let (pool, serve) = (Arc::clone(&self), serve.clone());
            match next {
                None => return,
                Some(Next::Dialled((connection, trust))) => {
                    self.env.background.spawn(Box::pin(pool.serve_connection(connection, trust, serve)));
                }
                Some(Next::Incoming(incoming)) => {
                    if self.connections.lock().len() >= CONNECTIONS_MAX {
                        incoming.refuse();
                        continue;
                    }
                    self.env.background.spawn(Box::pin(pool.serve_incoming(*incoming, serve)));
                }
            }
        }
    }

    async fn serve_incoming<F, S>(self: Arc<Self>, incoming: quinn::Incoming, serve: S)
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
    {
        // Before the handshake, so that no connection counts as newer than the certificates that it was made
        // with.
        let trust = self.trust.load(SeqCst);
        match timeout(STEP, async { incoming.accept()?.await }).await {
            Ok(Ok(connection)) => {
                self.keep(&connection);
                self.serve_connection(connection, trust, serve).await;
            }
            Ok(Err(_)) | Err(_) => {
                self.handshakes_failed.fetch_add(1, Relaxed);
            }
        }
    }

    async fn serve_connection<F, S>(self: Arc<Self>, connection: Connection, trust: u64, serve: S)
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
    {
        let proven = tls::peer_id(&connection);
        loop {
            let accepted = select! {
                biased;
                () = self.trusted_since.reaches(trust + 1) => break,
                accepted = connection.accept_bi() => accepted,
            };
            let Ok((send, recv)) = accepted else { break };
            let (pool, serve, connection) = (Arc::clone(&self), serve.clone(), connection.clone());
            self.env.background.spawn(Box::pin(async move {
                let stream = PeerStream { connection, send, recv };
                if let Ok(Some(incoming)) = timeout(STEP, pool.welcome(stream, proven)).await {
                    serve(incoming).await;
                }
            }));
        }
        self.forget(&connection);
    }

    /// Reads the hello of a stream and answers it.
    async fn welcome(&self, mut stream: PeerStream, proven: Option<NodeId>) -> Option<Incoming> {
        let mut head = [0; HELLO_HEAD];
        stream.recv.read_exact(&mut head).await.ok()?;
        let mut name = vec![0; Hello::name_len(&head).ok()?];
        stream.recv.read_exact(&mut name).await.ok()?;
        let hello = Hello::parse(&head, &name);
        let (answer, hello) = match hello {
            Err(_) => (Answer::Unknown, None),
            Ok(hello) if hello.cluster != self.cluster => {
                self.other_cluster.fetch_add(1, Relaxed);
                (Answer::OtherCluster, None)
            }
            // Nobody speaks for another node.
            Ok(hello) if proven.is_some_and(|id| id.bits() != hello.node) => (Answer::Unknown, None),
            Ok(hello) => (Answer::Welcome, Some(hello)),
        };
        stream.send.write_all(&[answer.code()]).await.ok()?;
        let hello = hello?;
        Some(Incoming { from: NodeId::new(hello.node), purpose: hello.purpose, stream })
    }

    fn keep(&self, connection: &Connection) {
        let mut connections = self.connections.lock();
        connections.retain(|_, known| {
            known.retain(|connection| connection.close_reason().is_none());
            !known.is_empty()
        });
        connections.entry(connection.remote_address()).or_default().push(connection.clone());
    }

    fn forget(&self, connection: &Connection) {
        let mut connections = self.connections.lock();
        if let Some(known) = connections.get_mut(&connection.remote_address()) {
            known.retain(|other| other.stable_id() != connection.stable_id());
        }
        drop(connections);
        connection.close(VarInt::from_u32(0), b"forgotten");
    }
}

impl PeerStream {
    /// Both directions, for a conversation that is not made of blobs, and the connection that carries them.
    pub(crate) fn into_halves(self) -> (SendStream, RecvStream, Connection) {
        (self.send, self.recv, self.connection)
    }

    /// Sends a blob.
    ///
    /// # Errors
    /// The connection is lost, or the peer does not read.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a blob beyond 4 GiB"))?;
        let write = async {
            self.send.write_all(&len.to_le_bytes()).await?;
            self.send.write_all(bytes).await
        };
        timeout(STEP, write).await.map_err(|_| timed_out())?.map_err(io::Error::other)
    }

    /// Receives a blob of at most `max` bytes.
    ///
    /// # Errors
    /// The connection is lost, the peer says nothing for a few seconds, or wants to send more.
    pub(crate) async fn recv(&mut self, max: usize) -> io::Result<Bytes> {
        let read = async {
            let mut len = [0; 4];
            self.recv.read_exact(&mut len).await.map_err(io::Error::other)?;
            let len = u32::from_le_bytes(len) as usize;
            if len > max {
                return Err(io::Error::other(format!("a blob of {len} bytes where {max} are the most")));
            }
            let mut bytes = Vec::new();
            while bytes.len() < len {
                // Memory grows with what really comes, not with what was announced.
                let chunk = self.recv.read_chunk(len - bytes.len(), true).await.map_err(io::Error::other)?;
                let chunk = chunk.ok_or(io::ErrorKind::UnexpectedEof)?;
                bytes.extend_from_slice(&chunk.bytes);
            }
            Ok(Bytes::from(bytes))
        };
        timeout(STEP, read).await.map_err(|_| timed_out())?
    }

    /// Waits until the peer has everything, so that dropping the stream cuts nothing off.
    pub(crate) async fn finish(mut self) {
        // The peer may be gone, and then nothing is left to wait for.
        let _ = self.send.finish();
        let _ = timeout(STEP, self.send.stopped()).await;
    }
}

/// What the accepting task does next.
enum Next {
    Incoming(Box<quinn::Incoming>),
    Dialled(Dialled),
}

fn lost(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ConnectionAborted, error)
}

/// A handshake that failed. If one side did not accept the other's certificate, nobody has permission.
fn undone(error: ConnectionError) -> io::Error {
    let code = match &error {
        ConnectionError::TransportError(error) => u64::from(error.code),
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        _ => 0,
    };
    // RFC 9001, section 4.8: an alert of TLS.
    let kind = if (0x100..0x200).contains(&code) { PermissionDenied } else { Other };
    io::Error::new(kind, error)
}

fn timed_out() -> io::Error {
    io::Error::new(TimedOut, "no answer within 5 s")
}

fn transport() -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY));
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .max_idle_timeout(quinn::IdleTimeout::try_from(IDLE).ok())
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    Arc::new(transport)
}

fn prepare_server(mut server: ServerConfig, env: &Env, key: &[u8; 32]) -> ServerConfig {
    let salt = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]);
    server
        .transport_config(transport())
        .token_key(Arc::new(salt.extract(key)))
        .time_source(Arc::new(WallTime(Arc::clone(&env.wall))))
        .migration(false)
        .max_incoming(1_024);
    server
}

fn prepare_client(mut client: ClientConfig, ids: &Arc<Mutex<StdRng>>) -> ClientConfig {
    let ids = Arc::clone(ids);
    client.transport_config(transport()).initial_dst_cid_provider(Arc::new(move || random_id(&ids)));
    client
}

fn random_id(ids: &Mutex<StdRng>) -> ConnectionId {
    ConnectionId::new(&ids.lock().random::<[u8; 8]>())
}

/// Connection ids from the node's own randomness.
struct SeededIds(Arc<Mutex<StdRng>>);

impl ConnectionIdGenerator for SeededIds {
    fn generate_cid(&mut self) -> ConnectionId {
        random_id(&self.0)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

struct WallTime(Arc<dyn WallClock>);

impl quinn::TimeSource for WallTime {
    fn now(&self) -> SystemTime {
        self.0.now()
    }
}

#[cfg(test)]
mod tests;
