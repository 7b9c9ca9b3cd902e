//! A node of bruit: a message queue that speaks NSQ and keeps what it acknowledged.
//!
//! In reading order: [`run`] is the only wiring. [`env`] is the outside world. A message comes in through
//! [`client`] or [`http`], is staged in a topic of the [`broker`], written by its commit loop to the
//! [`journal`], and goes out through [`client`] again. [`cli`] is everything that a person types.

pub mod broker;
pub mod cli;
mod client;
mod config;
mod data;
pub mod env;
mod http;
pub mod journal;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use bruit_gossip::NodeId;
use tokio::{sync::watch, time::Instant};

pub use self::config::{Config, Durability, DurabilityRule, JournalConfig, Limits, LogControl};
pub use self::data::DataError;
use self::{
    broker::{Broker, Opening},
    client::ServerFacts,
    env::Env,
    http::{HttpState, Ports},
    journal::{OpenError, RecoveryReport},
};

/// How long connections get to close when the node stops.
const CLOSING: Duration = Duration::from_millis(100);

/// What a node says once it serves.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Where clients connect.
    pub tcp_address: SocketAddr,
    /// Where HTTP is served, if it is.
    pub http_address: Option<SocketAddr>,
    /// The node's id, for life.
    pub node_id: NodeId,
    /// How long the start took.
    pub took: Duration,
    /// What was found in the data directory.
    pub recovery: RecoveryReport,
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
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}; is another node running there? name another --{flag}-address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// `tcp` or `http`.
        flag: &'static str,
        /// What the operating system said.
        error: io::Error,
    },
}

/// Runs a node until `shutdown` resolves, then stops gracefully: no new connections, the open ones are
/// closed, what was received is written. `ready` is called once, when it serves.
///
/// Polled on the runtime of the data plane. Simulation and production call this and nothing else.
///
/// # Errors
/// The data directory or an address cannot be used. Nothing was changed then.
pub async fn run(
    config: Config,
    env: Env,
    shutdown: impl Future<Output = ()> + Send,
    ready: impl FnOnce(&Ready) + Send,
) -> Result<(), RunError> {
    let began = Instant::now();
    let data = data::open(&env, &config.data_path).await?;
    let node_id = data.identity.id;
    let (exit, exiting) = watch::channel(false);
    let tcp = listen(&env, config.tcp_address, "tcp").await?;
    let tcp_address = tcp.local_addr().unwrap_or(config.tcp_address);
    let opening = Opening {
        env: env.clone(),
        dir: config.data_path.clone(),
        node: node_id.tag(),
        limits: config.limits.clone(),
        journal: config.journal.clone(),
    };
    let (commit_exit, commit_exiting) = watch::channel(false);
    let (broker, committed, recovery) = Broker::open(opening, commit_exiting).await?;
    let http_address = serve_http(&config, &env, &broker, tcp_address, exiting.clone()).await?;
    let facts = Arc::new(ServerFacts {
        limits: config.limits.clone(),
        version: http::NSQ_VERSION,
        topology_region: config.topology_region.clone(),
        topology_zone: config.topology_zone.clone(),
    });
    let clients = client::serve(tcp, Arc::clone(&broker), facts, env.clone(), node_id.tag(), exiting);
    env.spawn.spawn(Box::pin(clients));
    ready(&Ready { tcp_address, http_address, node_id, took: began.elapsed(), recovery });

    shutdown.await;
    exit.send_replace(true);
    broker.refuse();
    broker.close_clients();
    // Connections that are gone have put back what they had in flight; the last checkpoint then has it.
    let _ = tokio::time::timeout(CLOSING, broker.drained()).await;
    commit_exit.send_replace(true);
    // An error means that the commit loop is gone, which only happens when its runtime ends.
    let _ = committed.await;
    drop(data);
    Ok(())
}

async fn listen(env: &Env, address: SocketAddr, flag: &'static str) -> Result<Box<dyn env::Listener>, RunError> {
    env.net.listen(address).await.map_err(|error| RunError::Listen { address, flag, error })
}

/// Serves HTTP on the background runtime; returns the address that is really bound.
async fn serve_http(
    config: &Config,
    env: &Env,
    broker: &Arc<Broker>,
    tcp_address: SocketAddr,
    exiting: watch::Receiver<bool>,
) -> Result<Option<SocketAddr>, RunError> {
    let Some(address) = config.http_address else { return Ok(None) };
    let (bound, binding) = tokio::sync::oneshot::channel();
    let (config, task_env, broker) = (Arc::new(config.clone()), env.clone(), Arc::clone(broker));
    // A socket belongs to the runtime that opened it.
    env.background.spawn(Box::pin(async move {
        let listener = match task_env.net.listen(address).await {
            Ok(listener) => listener,
            Err(error) => return drop(bound.send(Err(error))),
        };
        let http_address = listener.local_addr().unwrap_or(address);
        if bound.send(Ok(http_address)).is_err() {
            return;
        }
        let ports = Ports { tcp: tcp_address.port(), http: http_address.port() };
        let (level, set) = (config.log.level.clone(), Arc::clone(&config.log.set));
        let state = HttpState::new(broker, config, task_env, ports, &level, set);
        http::serve(listener, state, exiting).await;
    }));
    let gone = || io::Error::other("the background runtime has ended");
    let outcome = binding.await.unwrap_or_else(|_| Err(gone()));
    outcome.map(Some).map_err(|error| RunError::Listen { address, flag: "http", error })
}
