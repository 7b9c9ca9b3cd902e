//! This node's part of the mesh: sockets, tasks and files around the pure machine of `bruit-gossip`.
//!
//! [`start`] puts the parts together. [`gossip`] is the task that owns the socket and does what the machine
//! asks for; [`seeds`] says hello to those who should be there; [`exchange`] makes two nodes equal over
//! [`quic`]; [`hide`] tells a node there what cannot wait for gossip; [`local`] stands between the machine and
//! the broker; [`saved`] keeps names and peers on disk; [`tls`] and [`keys`] hold the cluster's secrets. Everyone
//! else sees a [`MeshHandle`].
//!
//! **Invariants:** gossip never creates a topic. Nothing that happens per message comes here. The machine's
//! lock is held for moments, never over an await.

mod address;
mod core;
mod exchange;
mod gossip;
mod hide;
pub(crate) mod keys;
mod local;
mod quic;
mod report;
mod saved;
mod seeds;
mod socket;
mod tls;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bruit_gossip::{About, Identity, Input, Keyring, Mesh, Name, NodeId, Peer, Sealer, Setup, View};
use bruit_wire::{TopicName, peer::Purpose};
use tokio::{sync::oneshot, time::Instant};

pub use self::keys::KeysError;
pub(crate) use self::quic::PeerStream;
use self::{
    core::{Core, Dropped, State},
    local::Local,
    quic::{Incoming, Pool},
    seeds::Seeds,
    socket::Datagrams,
};
pub(crate) use self::{report::MeshReport, seeds::JoinError};
use crate::{Config, Role, TlsError, broker::Broker, data, env::Env, exit::Exiting};

/// The rest of the node's way to the mesh. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MeshHandle {
    core: Arc<Core>,
    seeds: Arc<Seeds>,
}

/// Where a node takes part in the mesh.
#[derive(Debug, Clone)]
pub struct MeshReady {
    /// Where sealed datagrams are taken.
    pub gossip: SocketAddr,
    /// Where QUIC connections are taken.
    pub mesh: SocketAddr,
    /// The cluster's name.
    pub cluster: String,
    /// Whether a secret protects it.
    pub sealed: bool,
}

/// Why a node cannot take part in the mesh.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// An address cannot be bound.
    #[error("cannot take {flag} {address}: {error}; is another node running there? Name another --{flag}")]
    Bind {
        /// The flag.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        error: io::Error,
    },
    /// Others could talk to it, and nothing proves who they are.
    #[error(
        "--gossip-address {address} can be reached from other machines, and there is no cluster secret: run \
         `bruit key generate > secret`, and start every node with --cluster-secret-file secret; or keep to \
         this machine with --gossip-address 127.0.0.1:4160"
    )]
    Unprotected {
        /// The address.
        address: SocketAddr,
    },
    /// The address under which others reach this node is not known.
    #[error(
        "--gossip-address {address} stands for every address of this machine, and none of them leads to other \
         machines ({error}): name the one that others reach"
    )]
    NoAddress {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        error: io::Error,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The saved keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The files of the mesh cannot be read.
    #[error("cannot read {file} in {dir}: {error}; make it readable for this user", dir = dir.display())]
    Saved {
        /// The file.
        file: &'static str,
        /// Where it is.
        dir: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
}

/// What a mesh needs to start.
pub(crate) struct Opening<'a> {
    pub(crate) config: &'a Config,
    pub(crate) env: &'a Env,
    pub(crate) identity: Identity,
    pub(crate) broker: &'a Arc<Broker>,
    /// The ports that are really bound.
    pub(crate) tcp: SocketAddr,
    pub(crate) http: Option<SocketAddr>,
}

/// A mesh that has started.
pub(crate) struct Started {
    pub(crate) handle: MeshHandle,
    /// `None` when the mesh is off.
    pub(crate) ready: Option<MeshReady>,
    /// Names or addresses to hand out to clients.
    pub(crate) broadcast_addresses: Vec<String>,
    /// Resolve when the tasks have ended: nothing touches the data directory any more.
    pub(crate) ended: [oneshot::Receiver<()>; 3],
}

/// The sockets of a mesh that is on.
struct Bound {
    gossip: Arc<dyn quinn::AsyncUdpSocket>,
    quic: Arc<dyn quinn::AsyncUdpSocket>,
    /// Addresses under which others reach them.
    gossip_address: SocketAddr,
    mesh_address: SocketAddr,
}

/// Binds the sockets and starts the tasks; they end when `exit` says so, with a word of farewell to others.
///
/// # Errors
/// An address, a key or a file cannot be used.
pub(crate) async fn start(opening: Opening<'_>, exit: &Exiting) -> Result<Started, MeshError> {
    let Opening { config, env, identity, broker, .. } = opening;
    let began = Instant::now();
    let (dir, me) = (&config.data_path, identity.id);
    let bound = bind(config, env).await?;
    let keyring = match &bound {
        Some(_) => keys::load(env, dir, &config.mesh).await?,
        None => Keyring::open(),
    };
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let peer = Peer {
        id: me,
        generation: identity.generation,
        renewal: 0,
        gossip: bound.as_ref().map_or(nowhere, |bound| bound.gossip_address),
        mesh_port: bound.as_ref().map_or(0, |bound| bound.mesh_address.port()),
    };
    let about = about(&opening, peer);
    let broadcast_addresses = about.broadcast_addresses.clone();
    let pool = match &bound {
        Some(bound) => {
            let certificates = tls::build(&config.mesh, &keyring, me, env).await?;
            let quic = Arc::clone(&bound.quic);
            let pool = Pool::new(env, quic, config.mesh.cluster_name.clone(), me, certificates);
            let wrong = |error| MeshError::Bind { flag: "mesh-address", address: bound.mesh_address, error };
            Some(Arc::new(pool.map_err(wrong)?))
        }
        None => None,
    };
    let remembered = read(env, dir, saved::PEERS, saved::PEERS_MAX).await?;
    let remembered = remembered.map_or_else(Vec::new, |text| saved::parse_peers(&text));
    let mut random = [0; 36];
    env.entropy.fill(&mut random);
    let [seed @ .., s0, s1, s2, s3] = random;
    let setup = Setup {
        peer,
        about,
        profile: config.mesh.profile,
        random: seed,
        saved: read(env, dir, saved::CATALOGUE, saved::CATALOGUE_MAX).await?,
    };
    let salt = u32::from_le_bytes([s0, s1, s2, s3]);
    let ready = bound.as_ref().map(|bound| MeshReady {
        gossip: bound.gossip_address,
        mesh: bound.mesh_address,
        cluster: config.mesh.cluster_name.clone(),
        sealed: !keyring.is_open(),
    });
    let state = State {
        mesh: Mesh::new(setup, core::now(env, began)),
        sealer: Sealer::new(&config.mesh.cluster_name, &keyring, me, identity.generation, salt),
        keyring,
        dropped: Dropped::default(),
    };
    let core = Core::new(
        env.clone(),
        config.mesh.clone(),
        dir.clone(),
        peer,
        Arc::clone(broker),
        pool,
        state,
        began,
    );
    let handle = MeshHandle { core: Arc::new(core), seeds: Arc::new(Seeds::new(&config.mesh.join)) };
    let socket = bound.map(|bound| Datagrams::new(bound.gossip));
    let ended = spawn(&handle, socket, remembered, exit);
    Ok(Started { handle, ready, broadcast_addresses, ended })
}

/// Starts the tasks. When this returns, the view already shows what the node itself holds.
fn spawn(
    handle: &MeshHandle,
    socket: Option<Datagrams>,
    remembered: Vec<SocketAddr>,
    exit: &Exiting,
) -> [oneshot::Receiver<()>; 3] {
    let MeshHandle { core, seeds } = handle;
    let view = core.view.subscribe();
    let known = move |topic: &TopicName| view.borrow().lasting_channels(topic.as_str());
    core.broker.holdings().follow(Arc::new(known));
    let mut local = Local::default();
    local.recovered(core);
    core.show();
    if let Some(pool) = &core.pool {
        let (pool, core) = (Arc::clone(pool), Arc::clone(core));
        let spawn = Arc::clone(&core.env.background);
        spawn.spawn(Box::pin(pool.accept(move |incoming| serve(Arc::clone(&core), incoming))));
    }
    let seeding = seeds::run(Arc::clone(core), Arc::clone(seeds), remembered, exit.clone());
    [
        watched(&core.env, gossip::run(Arc::clone(core), socket, local, exit.clone())),
        watched(&core.env, saved::run(Arc::clone(core), exit.clone())),
        watched(&core.env, seeding),
    ]
}

fn watched(env: &Env, task: impl Future<Output = ()> + Send + 'static) -> oneshot::Receiver<()> {
    let (done, ended) = oneshot::channel();
    env.background.spawn(Box::pin(async move {
        task.await;
        // Nobody waits when the start was given up.
        let _ = done.send(());
    }));
    ended
}

/// Serves a stream that a peer has opened.
async fn serve(core: Arc<Core>, incoming: Incoming) {
    let Incoming { from, purpose, stream } = incoming;
    let outcome = match purpose {
        Purpose::Exchange => exchange::follow(&core, from, stream).await,
        Purpose::Keys => keys::serve(&core, from, stream).await,
        Purpose::Hide => hide::serve(&core, stream).await,
        Purpose::Ping => Ok(()),
        Purpose::Relay => {
            // Before the node serves, there is nobody to hand it to: the peer tries again.
            if let Some(relays) = core.relays.get() {
                relays(from, stream);
            }
            Ok(())
        }
    };
    if let Err(error) = outcome {
        tracing::debug!("a stream from {from} broke off: {error}");
    }
}

/// Binds both sockets on the background runtime, which polls them.
async fn bind(config: &Config, env: &Env) -> Result<Option<Bound>, MeshError> {
    let mesh = &config.mesh;
    let Some(wanted) = mesh.gossip_address else { return Ok(None) };
    let protected = mesh.secret.is_some() || keys::are_saved(env, &config.data_path).await;
    let local = wanted.ip().is_loopback() && mesh.mesh_address.ip().is_loopback();
    if !protected && !local {
        return Err(MeshError::Unprotected { address: wanted });
    }
    let (gossip, gossip_port) = bind_some(env, "gossip-address", wanted, mesh.any_port).await?;
    let (quic, mesh_port) = bind_some(env, "mesh-address", mesh.mesh_address, mesh.any_port).await?;
    let ip = address::reachable(config, env, wanted).await?;
    Ok(Some(Bound {
        gossip,
        quic,
        gossip_address: SocketAddr::new(ip, gossip_port),
        mesh_address: SocketAddr::new(ip, mesh_port),
    }))
}

/// Binds `address`, or a free port if it is taken and `any_port` allows that.
async fn bind_some(
    env: &Env,
    flag: &'static str,
    address: SocketAddr,
    any_port: bool,
) -> Result<(Arc<dyn quinn::AsyncUdpSocket>, u16), MeshError> {
    let outcome = bind_one(env, flag, address).await;
    let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    match outcome {
        Err(MeshError::Bind { error, .. }) if any_port && is_taken(&error) => {
            tracing::warn!(
                "UDP {address} is taken; this node takes a free port instead. Name another --{flag} if others \
                 are to join it"
            );
            bind_one(env, flag, SocketAddr::new(address.ip(), 0)).await
        }
        outcome => outcome,
    }
}

async fn bind_one(
    env: &Env,
    flag: &'static str,
    address: SocketAddr,
) -> Result<(Arc<dyn quinn::AsyncUdpSocket>, u16), MeshError> {
    let (bound, binding) = oneshot::channel();
    let net = Arc::clone(&env.net);
    env.background.spawn(Box::pin(async move {
        // Nobody waits any more when the start was given up.
        let _ = bound.send(net.bind_udp(address).await);
    }));
    let gone = || io::Error::other("the background runtime has ended");
    let socket = binding.await.unwrap_or_else(|_| Err(gone()));
    let named = socket.and_then(|socket| Ok((socket.local_addr()?.port(), socket)));
    let (port, socket) = named.map_err(|error| MeshError::Bind { flag, address, error })?;
    Ok((socket, port))
}

async fn read(
    env: &Env,
    dir: &Path,
    file: &'static str,
    max: usize,
) -> Result<Option<bytes::Bytes>, MeshError> {
    let content = data::read_file(env, dir, file, max).await;
    content.map_err(|error| MeshError::Saved { file, dir: dir.to_owned(), error })
}

/// What the node says about itself.
fn about(opening: &Opening<'_>, peer: Peer) -> About {
    let Opening { config, tcp, http, .. } = opening;
    let ip = peer.gossip.ip();
    let broadcast_addresses = match config.broadcast_addresses.as_slice() {
        // The name is what nsqd tells; who asks from this machine needs no resolver that knows it.
        [] if ip.is_loopback() => vec![config.hostname.clone(), ip.to_string()],
        [] => vec![ip.to_string()],
        given => given.to_vec(),
    };
    About {
        broadcast_addresses,
        hostname: config.hostname.clone(),
        tcp_port: match config.role {
            Role::Node => config.broadcast_tcp_port.unwrap_or(tcp.port()),
            Role::Lookup => 0,
        },
        http_port: config.broadcast_http_port.unwrap_or(http.map_or(0, |http| http.port())),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        topology_zone: config.topology_zone.clone(),
        topology_region: config.topology_region.clone(),
        draining: false,
        tcp_at_gossip: config.role == Role::Node
            && config.broadcast_tcp_port.is_none()
            && (tcp.ip().is_unspecified() || tcp.ip() == ip),
        registrants: Vec::new(),
        registered_from: None,
    }
}

impl std::fmt::Debug for MeshHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MeshHandle").field(&self.core.me).finish()
    }
}

impl MeshHandle {
    /// What the mesh looks like, as far as this node knows.
    pub(crate) fn view(&self) -> Arc<View> {
        self.core.view()
    }

    /// How many views there have been.
    pub(crate) fn views_shown(&self) -> u64 {
        self.core.views_shown.now()
    }

    /// Waits until there have been more views than these.
    pub(crate) async fn view_after(&self, shown: u64) {
        self.core.views_shown.reaches(shown + 1).await;
    }

    /// How often this node's own topics or channels have changed, as far as the mesh has noticed.
    pub(crate) fn own_changes(&self) -> u64 {
        self.core.own_changes.now()
    }

    /// Waits until they have changed more often than that.
    pub(crate) async fn own_change_after(&self, seen: u64) {
        self.core.own_changes.reaches(seen + 1).await;
    }

    /// A producer of the classic kind has registered here, under an id that was drawn for it.
    pub(crate) fn register(&self, id: NodeId, about: About) {
        self.core.input(Input::Register { id, about });
    }

    /// It holds a name now, or no longer does.
    pub(crate) fn registered(&self, id: NodeId, name: Name, held: bool) {
        self.core.input(Input::Registered { id, name, held });
    }

    /// It is gone.
    pub(crate) fn deregister(&self, id: NodeId) {
        self.core.input(Input::Deregister(id));
        self.core.show();
    }

    /// Shows what was put in, at once.
    pub(crate) fn show(&self) {
        self.core.show();
    }

    /// Hands every link that a peer opens to `serve`. To be called once.
    pub(crate) fn serve_relays(&self, serve: core::ServeRelay) {
        // A second one would find the first in its place.
        let _ = self.core.relays.set(serve);
    }

    /// Opens a link to a peer.
    ///
    /// # Errors
    /// The mesh is off, or the peer cannot be reached, refuses, or takes longer than a few seconds.
    pub(crate) async fn open_relay(&self, peer: &Peer) -> io::Result<PeerStream> {
        let pool = self.core.pool.as_ref().ok_or_else(|| io::Error::other("the mesh is off"))?;
        pool.open(peer, Purpose::Relay).await
    }

    /// Has the peer at the other end of a connection answer.
    ///
    /// # Errors
    /// It does not within a few seconds.
    pub(crate) async fn ping(&self, connection: &quinn::Connection) -> io::Result<()> {
        let pool = self.core.pool.as_ref().ok_or_else(|| io::Error::other("the mesh is off"))?;
        pool.ping(connection).await
    }

    /// This node.
    pub(crate) fn node_id(&self) -> NodeId {
        self.core.id()
    }

    /// Figures.
    pub(crate) fn stats(&self) -> MeshReport {
        self.core.report()
    }

    /// Deletes a topic with its channels, or a channel, in the whole mesh; returns once this node will not
    /// forget it, and whether anybody ever heard of the name.
    pub(crate) async fn delete(&self, name: Name) -> bool {
        let view = self.core.view();
        let topic = name.topic.as_str();
        let known = match &name.channel {
            None => view.knows(topic) || view.was_deleted(topic),
            Some(channel) => {
                let channel = channel.as_str();
                view.knows_channel(topic, channel) || view.channel_was_deleted(topic, channel)
            }
        };
        self.change(Input::Delete(name)).await;
        known
    }

    /// Makes a name known without a node that holds it.
    pub(crate) async fn create(&self, name: Name) {
        self.change(Input::Create(name)).await;
    }

    /// Hides a producer of a topic from lookups for a while. Returns once the producer knows as well, if it can be
    /// told within a few seconds.
    pub(crate) async fn tombstone(&self, topic: TopicName, node: NodeId) {
        self.core.input(Input::Tombstone { topic: topic.clone(), node });
        self.core.show();
        if node != self.core.id() {
            hide::tell(&self.core, node, &topic).await;
        }
    }

    /// Says hello to every address of `peer`, now and for as long as the node runs.
    ///
    /// # Errors
    /// The mesh is off, or the name has no address.
    pub(crate) async fn join(&self, peer: String) -> Result<Vec<SocketAddr>, JoinError> {
        self.seeds.join(&self.core, peer).await
    }

    /// Takes leave of the mesh. The node goes on serving its clients, by itself.
    pub(crate) fn leave(&self) {
        self.core.left.store(true, Relaxed);
        self.core.input(Input::Leave);
        self.core.show();
    }

    /// Puts a change of names in, shows it, and waits until it is on disk.
    async fn change(&self, input: Input<'_>) {
        self.core.input(input);
        self.core.show();
        if !self.core.saves.settled().await {
            tracing::warn!("a change of names is not on disk yet; a crash now may undo it");
        }
    }
}
