//! What the tasks of the mesh share: the machine, the seals, and the doors to everything else.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64},
    },
    time::{Duration, UNIX_EPOCH},
};

use bruit_gossip::{Input, Keyring, Mesh, NodeId, Now, Peer, SealError, Sealer, View};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    keys::Keys,
    quic::{PeerStream, Pool},
    saved::Saves,
};
use crate::{MeshConfig, broker::Broker, env::Env, rising::Rising};

/// Senders of refused packets are named in the log this often, and no more.
const NAMED_EVERY: Duration = Duration::from_secs(60);

/// Serves a link that a peer has opened.
pub(crate) type ServeRelay = Arc<dyn Fn(NodeId, PeerStream) + Send + Sync>;

/// Shared by the tasks of a node's mesh.
pub(super) struct Core {
    pub(super) env: Env,
    pub(super) config: MeshConfig,
    pub(super) dir: PathBuf,
    pub(super) me: Peer,
    pub(super) broker: Arc<Broker>,
    /// `None` when the mesh is off: then this is a mesh of one.
    pub(super) pool: Option<Arc<Pool>>,
    pub(super) view: watch::Sender<Arc<View>>,
    /// Counts views.
    pub(super) views_shown: Rising,
    pub(super) state: Mutex<State>,
    /// Wakes the gossip task: something was put into the machine by another task.
    pub(super) woken: Notify,
    pub(super) saves: Saves,
    pub(super) keys: Keys,
    /// Rises whenever this node's own topics or channels have changed.
    pub(super) own_changes: Rising,
    /// Who serves the links that peers open.
    pub(super) relays: OnceLock<ServeRelay>,
    /// Whether the node has left, and joins nobody by itself until it is told to.
    pub(super) left: AtomicBool,
    /// Sealed datagrams and bytes, in and out.
    pub(super) traffic: Traffic,
    start: Instant,
}

/// Held for moments only, never over an await.
pub(super) struct State {
    pub(super) mesh: Mesh,
    pub(super) sealer: Sealer,
    pub(super) keyring: Keyring,
    pub(super) dropped: Dropped,
}

/// Counters of what crosses the gossip socket.
#[derive(Default)]
pub(super) struct Traffic {
    pub(super) packets_in: AtomicU64,
    pub(super) packets_out: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    /// Packets that the system did not take.
    pub(super) unsent: AtomicU64,
}

/// Packets that were dropped, by reason.
#[derive(Default)]
pub(super) struct Dropped {
    pub(super) counts: BTreeMap<&'static str, u64>,
    named: BTreeMap<&'static str, Instant>,
}

impl Core {
    #[expect(clippy::too_many_arguments, reason = "the one place that puts the parts together")]
    pub(super) fn new(
        env: Env,
        config: MeshConfig,
        dir: PathBuf,
        me: Peer,
        broker: Arc<Broker>,
        pool: Option<Arc<Pool>>,
        state: State,
        start: Instant,
    ) -> Self {
        let view = watch::Sender::new(Arc::new(View::empty(me.id)));
        Self {
            keys: Keys::new(&env),
            env,
            config,
            dir,
            me,
            broker,
            pool,
            view,
            views_shown: Rising::default(),
            state: Mutex::new(state),
            woken: Notify::new(),
            saves: Saves::default(),
            own_changes: Rising::default(),
            relays: OnceLock::new(),
            left: AtomicBool::new(false),
            traffic: Traffic::default(),
            start,
        }
    }

    /// Both clocks, read now.
    pub(super) fn now(&self) -> Now {
        now(&self.env, self.start)
    }

    /// When the monotonic clock will show `elapsed`.
    pub(super) fn instant(&self, elapsed: Duration) -> Instant {
        self.start + elapsed
    }

    /// Puts something into the machine; the gossip task does what comes of it.
    pub(super) fn input(&self, input: Input<'_>) {
        let now = self.now();
        self.state.lock().mesh.handle(now, input);
        self.woken.notify_one();
    }

    /// Uses the machine; the gossip task does what comes of it.
    pub(super) fn with_mesh<T>(&self, act: impl FnOnce(&mut Mesh, Now) -> T) -> T {
        let now = self.now();
        let outcome = act(&mut self.state.lock().mesh, now);
        self.woken.notify_one();
        outcome
    }

    /// The latest view.
    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// This node's name.
    pub(super) const fn id(&self) -> NodeId {
        self.me.id
    }
}

/// Both clocks; `start` is when the node started.
pub(super) fn now(env: &Env, start: Instant) -> Now {
    let wall = env.wall.now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { elapsed: start.elapsed(), wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
}

impl Dropped {
    /// Counts a packet that was not opened, and names its sender in the log now and then.
    pub(super) fn note(&mut self, from: SocketAddr, why: SealError) {
        let reason = why.as_str();
        let count = self.counts.entry(reason).or_default();
        *count += 1;
        let count = *count;
        if !self.may_name(reason) {
            return;
        }
        match why {
            SealError::Key => tracing::warn!(
                "{from} sends packets that this node cannot open ({count} so far): it has another cluster name \
                 or secret. Give it this cluster's, or stop it from joining here"
            ),
            SealError::SameNode => tracing::error!(
                "{from} runs under this node's id: its data directory is a copy of this one's. Stop it and \
                 give it an empty --data-path"
            ),
            other => tracing::warn!("a packet from {from} was dropped ({count} so far): {}", other.as_str()),
        }
    }

    /// Says now and then that a peer which knows the secret has other certificates.
    pub(super) fn note_certificates(&mut self, peer: &Peer, error: &std::io::Error) {
        if self.may_name("certificate") {
            tracing::warn!(
                "no connection to node {} at {}: the certificate of one is not accepted by the other ({error}). \
                 Give both certificates of one authority, or stop it from joining here",
                peer.id,
                peer.mesh()
            );
        }
    }

    fn may_name(&mut self, reason: &'static str) -> bool {
        let now = Instant::now();
        let may = self.named.get(reason).is_none_or(|named| now - *named >= NAMED_EVERY);
        if may {
            self.named.insert(reason, now);
        }
        may
    }
}
