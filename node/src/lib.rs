//! A node of bruit: a message queue that speaks NSQ and keeps what it acknowledged.
//!
//! In reading order: [`run`] is the only wiring. [`mod@env`] is the outside world. A message comes in through
//! [`client`] or [`http`], is staged in a topic of the [`broker`], written by its commit loop to the
//! [`journal`], and goes out through [`client`] again. Other nodes are found, and told what is here, by the
//! [`mesh`]; what they hold comes through the [`relay`]. [`cli`] is everything that a person types.

mod auth;
pub mod broker;
mod certificates;
pub mod cli;
mod client;
mod config;
mod data;
pub mod env;
mod exit;
mod http;
pub mod journal;
mod layers;
mod lookupd;
mod mesh;
mod relay;
mod rising;
mod statsd;
mod web;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use bruit_gossip::NodeId;
use tokio::{sync::oneshot, time::Instant};

pub use self::auth::{AuthConfig, AuthError, AuthMethod, AuthServer, HttpGuard};
pub use self::certificates::TlsError;
pub use self::config::{
    ClassicConfig, ClientAuth, Config, Durability, DurabilityRule, JournalConfig, LatencyConfig, Limits,
    LogControl, MeshConfig, Pki, Relay, Reload, Role, StatsdConfig, TlsConfig, TlsRequired, TlsVersion,
};
pub use self::data::DataError;
pub use self::mesh::{KeysError, MeshError, MeshReady};
use self::{
    auth::Auth,
    broker::{Broker, Opening, Place, Tasks},
    client::ServerFacts,
    env::Env,
    exit::Exiting,
    http::{Face, HttpState, Ports},
    journal::{OpenError, RecoveryReport},
    layers::Doorkeeper,
    lookupd::{Lookups, Registry},
    mesh::MeshHandle,
    relay::Relays,
    web::Web,
};

/// How long connections get to close when the node stops.
const CLOSING: Duration = Duration::from_millis(100);
/// How long HTTP requests under way get to end then.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a node says once it serves.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Where clients connect; port 0 if they may not.
    pub tcp_address: SocketAddr,
    /// Where HTTP is served, if it is.
    pub http_address: Option<SocketAddr>,
    /// Where HTTPS is served, if it is.
    pub https_address: Option<SocketAddr>,
    /// Where nsqlookupd's HTTP API is served by itself, if it is.
    pub lookup_http_address: Option<SocketAddr>,
    /// Where nsqds of the classic kind register, if they may.
    pub registry_address: Option<SocketAddr>,
    /// The node's id, for life.
    pub node_id: NodeId,
    /// How long the start took.
    pub took: Duration,
    /// What was found in the data directory.
    pub recovery: RecoveryReport,
    /// Where it takes part in the mesh, if it does.
    pub mesh: Option<MeshReady>,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The journal in it cannot be used.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The certificates for clients cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It cannot be said who may do what.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The node cannot take part in the mesh.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {error}; is another node running there? name another --{flag}-address"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// `tcp`, `http`, `https`, `lookupd-http` or `lookupd-listen-tcp`.
        flag: &'static str,
        /// What the operating system said.
        error: io::Error,
    },
    /// The commit loop has ended by itself, which only a bug makes it do. The node stops at once rather than
    /// go on without it; what it acknowledged is on disk.
    #[error(
        "the commit loop has ended unexpectedly; the log says why. Start the node again: nothing that was acknowledged is lost"
    )]
    CommitLoop,
}

/// Runs a node until `shutdown` resolves, then stops gracefully: no new connections, the open ones are
/// closed, what was received is written. `ready` is called once, when it serves.
///
/// Polled on the runtime of the data plane. Simulation and production call this and nothing else.
///
/// # Errors
/// The data directory or an address cannot be used, or the commit loop has died of a bug.
pub async fn run(
    mut config: Config,
    env: Env,
    shutdown: impl Future<Output = ()> + Send,
    ready: impl FnOnce(&Ready) + Send,
) -> Result<(), RunError> {
    let began = Instant::now();
    let data = data::open(&env, &config.data_path).await?;
    let node_id = data.identity.id;
    let (exit, exiting) = exit::channel();
    let auth = Auth::open(&config.auth, config.tls.root_ca.as_deref(), &env, exiting.clone()).await?;
    let (tcp, tcp_address) = listen_to_clients(&config, &env).await?;
    let web = Web::open(&config, &env).await?;
    let (http_address, https_address) = (web.http_address(), web.https_address());
    let lookup_http_address = web.lookup_http_address();
    let registry = listen_http(&env, config.classic.listen, "lookupd-listen-tcp").await?;
    let opening = Opening {
        env: env.clone(),
        dir: config.data_path.clone(),
        node: node_id.tag(),
        limits: config.limits.clone(),
        journal: config.journal.clone(),
        latency: config.latency.clone(),
    };
    let (commit_exit, commit_exiting) = exit::channel();
    let (broker, tasks, recovery) = Broker::open(opening, commit_exiting).await?;
    let joining = mesh::Opening {
        config: &config,
        env: &env,
        identity: data.identity,
        broker: &broker,
        tcp: tcp_address,
        http: http_address,
    };
    let mesh::Started { handle: mesh, ready: mesh_ready, broadcast_addresses, ended: parted } =
        mesh::start(joining, &exiting).await?;
    config.broadcast_addresses = broadcast_addresses;
    let ports = Ports { tcp: tcp_address.port(), http: http_address.map_or(0, |address| address.port()) };
    let relays = Relays::start(&config, &env, &broker, &mesh, exiting.clone());
    start_statsd(&config, &env, &broker, ports, exiting.clone());
    let lookup_port = lookup_http_address.or(http_address).map_or(0, |address| address.port());
    let registry_address = serve_registry(registry, &config, &env, &mesh, lookup_port, &exiting);
    let lookups = Lookups::start(&config, &env, &broker, &mesh, ports, &exiting);
    let state = http_state(&config, &env, &broker, mesh, &relays, lookups, ports, auth.clone());
    let facts = server_facts(&config, auth, web.doorkeeper.clone());
    let served = web.serve(&env, &state, &config, &exiting);
    if let Some(tcp) = tcp {
        let clients = client::serve(tcp, Arc::clone(&broker), relays, facts, env.clone(), exiting);
        env.spawn.spawn(Box::pin(clients));
    }
    ready(&Ready {
        tcp_address,
        http_address,
        https_address,
        lookup_http_address,
        registry_address,
        node_id,
        took: began.elapsed(),
        recovery,
        mesh: mesh_ready,
    });

    let Tasks { mut committed, helpers } = tasks;
    let died = tokio::select! {
        biased;
        _ = &mut committed => true,
        () = shutdown => false,
    };
    exit.tell();
    broker.refuse();
    broker.close_clients();
    // Connections that are gone have put back what they had in flight; the last checkpoint then has it.
    let _ = tokio::time::timeout(CLOSING, broker.drained()).await;
    // Requests under way get their answer, if they do not take too long.
    let farewell = Instant::now() + FAREWELL;
    for served in served {
        let _ = tokio::time::timeout_at(farewell, served).await;
    }
    commit_exit.tell();
    if died {
        return Err(RunError::CommitLoop);
    }
    // An error means that the commit loop is gone: then nothing more is written.
    let ended = committed.await;
    for helper in helpers.into_iter().chain(parted) {
        // One that has panicked is gone as well.
        let _ = helper.await;
    }
    drop(data);
    ended.map_err(|_| RunError::CommitLoop)
}

/// What clients are told, and what they may do.
fn server_facts(
    config: &Config,
    auth: Option<Arc<Auth>>,
    doorkeeper: Option<Arc<Doorkeeper>>,
) -> Arc<ServerFacts> {
    Arc::new(ServerFacts {
        limits: config.limits.clone(),
        version: http::NSQ_VERSION,
        place: Place { region: config.topology_region.clone(), zone: config.topology_zone.clone() },
        auth,
        doorkeeper,
        tls_required: config.tls.required != TlsRequired::No,
    })
}

/// Listens for clients, if the node takes any.
async fn listen_to_clients(
    config: &Config,
    env: &Env,
) -> Result<(Option<Box<dyn env::Listener>>, SocketAddr), RunError> {
    let tcp = match config.role {
        Role::Node => Some(listen(env, config.tcp_address, "tcp").await?),
        Role::Lookup => None,
    };
    let bound = tcp.as_ref().and_then(|listener| listener.local_addr().ok());
    Ok((tcp, bound.unwrap_or(SocketAddr::new(config.tcp_address.ip(), 0))))
}

async fn listen(
    env: &Env,
    address: SocketAddr,
    flag: &'static str,
) -> Result<Box<dyn env::Listener>, RunError> {
    env.net.listen(address).await.map_err(|error| RunError::Listen { address, flag, error })
}

/// Lets nsqds of the classic kind register, if they may; where.
fn serve_registry(
    listener: Option<Box<dyn env::Listener>>,
    config: &Config,
    env: &Env,
    mesh: &MeshHandle,
    http_port: u16,
    exiting: &Exiting,
) -> Option<SocketAddr> {
    let listener = listener?;
    let address = listener.local_addr().ok();
    let registry = Registry::new(config, env, mesh, http_port, &*listener);
    env.background.spawn(Box::pin(registry.serve(listener, exiting.clone())));
    address
}

/// Listens for HTTP on the background runtime: a socket belongs to the runtime that opened it.
async fn listen_http(
    env: &Env,
    address: Option<SocketAddr>,
    flag: &'static str,
) -> Result<Option<Box<dyn env::Listener>>, RunError> {
    let Some(address) = address else { return Ok(None) };
    let (bound, binding) = oneshot::channel();
    let net = Arc::clone(&env.net);
    env.background.spawn(Box::pin(async move {
        // Nobody waits any more when the start was given up.
        let _ = bound.send(net.listen(address).await);
    }));
    let gone = || io::Error::other("the background runtime has ended");
    let listener = binding.await.unwrap_or_else(|_| Err(gone()));
    listener.map(Some).map_err(|error| RunError::Listen { address, flag, error })
}

#[expect(clippy::too_many_arguments, reason = "as the function that it calls")]
fn http_state(
    config: &Config,
    env: &Env,
    broker: &Arc<Broker>,
    mesh: MeshHandle,
    relays: &Arc<Relays>,
    lookups: Arc<Lookups>,
    ports: Ports,
    auth: Option<Arc<Auth>>,
) -> HttpState {
    let (broker, relays, config) = (Arc::clone(broker), Arc::clone(relays), Arc::new(config.clone()));
    HttpState::new(broker, mesh, relays, lookups, config, env.clone(), ports, auth)
}

fn start_statsd(config: &Config, env: &Env, broker: &Arc<Broker>, ports: Ports, exit: Exiting) {
    if config.statsd.address.is_some() {
        let port = config.broadcast_http_port.unwrap_or(ports.http);
        let address = config.broadcast_address().to_owned();
        let told = statsd::run(config.statsd.clone(), address, port, Arc::clone(broker), env.clone(), exit);
        env.background.spawn(Box::pin(told));
    }
}

fn serve_http(
    env: &Env,
    state: HttpState,
    listener: Box<dyn env::Listener>,
    face: Face,
    exiting: Exiting,
) -> oneshot::Receiver<()> {
    let (done, ended) = oneshot::channel();
    env.background.spawn(Box::pin(async move {
        http::serve(listener, state, face, exiting).await;
        // Nobody waits any more when the farewell took too long.
        let _ = done.send(());
    }));
    ended
}
