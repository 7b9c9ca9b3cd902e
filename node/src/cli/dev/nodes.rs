//! The nodes of `bruit dev`: each on a thread of its own, as a process of its own would run it.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, anyhow};
use bruit_gossip::Profile;
use tokio::{
    runtime::{Builder, Handle},
    sync::{mpsc, oneshot},
};

use crate::{
    Config, JournalConfig, Limits, LogControl, MeshConfig, Ready, RunError,
    env::real,
    exit::{self, Exit, Exiting},
};

/// Size of a journal file, bytes: small, since there are many nodes and one disk.
const SEGMENT_SIZE: u64 = 4 << 20;
/// How much of the disk stays free, bytes.
const FREE_DISK: u64 = 16 << 20;

/// Where the nodes keep their data.
pub(super) struct Place {
    path: PathBuf,
    /// Removed with everything in it when it is dropped.
    temporary: Option<tempfile::TempDir>,
}

impl Place {
    /// The directory `kept`, or a temporary one.
    ///
    /// # Errors
    /// No temporary directory can be made.
    pub(super) fn new(kept: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = kept {
            return Ok(Self { path: path.to_owned(), temporary: None });
        }
        let temporary = tempfile::Builder::new().prefix("bruit-dev-").tempdir();
        let temporary = temporary.context("cannot make a temporary directory; name one with --data-path")?;
        Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary) })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = if self.temporary.is_some() { ", which goes when they do" } else { "" };
        write!(f, "data in {}{until}", self.path.display())
    }
}

/// Nodes that run.
pub(super) struct Nodes {
    ready: Vec<Ready>,
    threads: Vec<JoinHandle<()>>,
    stop: Exit,
    ended: mpsc::UnboundedReceiver<Ended>,
}

/// A node's number, and why it ended.
type Ended = (u16, anyhow::Result<()>);

impl Nodes {
    /// Starts `count` nodes; all but the first join the first.
    ///
    /// # Errors
    /// What keeps one of them from starting. The others have stopped then.
    pub(super) async fn start(
        count: u16,
        place: &Place,
        limits: Limits,
        set_level: &Arc<dyn Fn(&str) -> bool + Send + Sync>,
        background: Handle,
    ) -> anyhow::Result<Self> {
        let (sender, ended) = mpsc::unbounded_channel();
        let (stop, stopping) = exit::channel();
        let mut nodes = Self { ready: Vec::new(), threads: Vec::new(), stop, ended };
        for number in 1..=count {
            let seed = nodes.ready.first().and_then(|first| first.mesh.as_ref()).map(|mesh| mesh.gossip);
            let mut config = config(place.path.join(format!("node-{number}")), seed);
            config.limits = limits.clone();
            config.log = LogControl { level: "warn".to_owned(), set: Arc::clone(set_level), prefix: None };
            let (greet, greeted) = oneshot::channel();
            let (sender, background, stopping) = (sender.clone(), background.clone(), stopping.clone());
            let thread = thread::Builder::new().name(format!("bruit-node-{number}")).spawn(move || {
                let outcome = live(config, background, stopping, greet);
                // Nobody listens any more when the process is about to end.
                let _ = sender.send((number, outcome));
            });
            nodes.threads.push(thread.context("cannot start a thread")?);
            match greeted.await {
                Ok(ready) => nodes.ready.push(ready),
                // It has ended without a greeting, and says why as its last word.
                Err(_) => {
                    let why = nodes.died().await;
                    nodes.stop().await;
                    return Err(why);
                }
            }
        }
        Ok(nodes)
    }

    /// What the nodes said when they were ready, in order.
    pub(super) fn ready(&self) -> &[Ready] {
        &self.ready
    }

    /// Waits until a node has ended by itself.
    pub(super) async fn died(&mut self) -> anyhow::Error {
        match self.ended.recv().await {
            Some((number, Err(error))) => error.context(format!("node {number}")),
            Some((number, Ok(()))) => anyhow!("node {number} has ended"),
            None => anyhow!("all nodes have ended"),
        }
    }

    /// Stops the nodes and waits until they have.
    pub(super) async fn stop(mut self) {
        self.stop.tell();
        // Ends when the last thread has dropped its sender; none of them waits for this one.
        self.ended.close();
        while self.ended.recv().await.is_some() {}
        for thread in self.threads {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Runs a node on this thread until it ends.
fn live(
    config: Config,
    background: Handle,
    stopping: Exiting,
    greet: oneshot::Sender<Ready>,
) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let env = real::env(runtime.handle().clone(), background);
    let ready = |ready: &Ready| drop(greet.send(ready.clone()));
    let outcome: Result<(), RunError> = runtime.block_on(crate::run(config, env, stopping.told(), ready));
    Ok(outcome?)
}

fn config(data_path: PathBuf, seed: Option<SocketAddr>) -> Config {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        tcp_address: free,
        http_address: Some(free),
        data_path,
        broadcast_addresses: vec!["127.0.0.1".to_owned()],
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        journal: JournalConfig {
            segment_size: SEGMENT_SIZE,
            min_free_bytes: FREE_DISK,
            ..JournalConfig::default()
        },
        mesh: MeshConfig {
            gossip_address: Some(free),
            mesh_address: free,
            cluster_name: "bruit-dev".to_owned(),
            join: seed.iter().map(SocketAddr::to_string).collect(),
            profile: Profile::Local,
            ..MeshConfig::default()
        },
        ..Config::default()
    }
}
