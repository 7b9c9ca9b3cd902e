//! All topics by name, and all connections; the broker as the rest of the node sees it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bruit_wire::TopicName;
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{
    Shared,
    agenda::Agenda,
    client::{Client, ClientStats},
    clock::Clock,
    commits::{Commits, Ticket},
    committer::Committer,
    holdings::Holdings,
    reclaim,
    topic::Topic,
};
use crate::{
    config::{Durability, JournalConfig, LatencyConfig, Limits},
    env::{Env, Spawn},
    exit::Exiting,
    journal::{self, OpenError, RecoveryReport, admission::Admission, admission::Refused, upkeep},
};

/// Bytes of an unfinished command that every connection may hold whatever the others do.
const UNFINISHED_FREE: usize = 64 * 1024;

/// The topics of a node.
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    topics: DashMap<TopicName, Arc<Topic>>,
    /// Serialises the making and unmaking of topics; holds the first sequence number that a new one gets.
    floors: Mutex<Floors>,
    clients: Mutex<BTreeMap<u32, Arc<Client>>>,
    next_client: AtomicU32,
    /// Bytes of commands that have come in part, over all connections.
    unfinished: AtomicUsize,
    /// Bytes that wait for clients to take them.
    waiting_output: AtomicUsize,
    pub(super) commit_count: AtomicU64,
    pub(super) sync_count: AtomicU64,
    pub(super) live_bytes: AtomicU64,
    last_error: Mutex<Option<Arc<str>>>,
    /// Where replay starts from the checkpoint before the newest, and from the newest.
    checkpoints: Mutex<(u64, u64)>,
    checkpointed: Notify,
}

/// The first sequence numbers that new topics may use: above all that deleted ones have used, so that under
/// one name none is used twice.
#[derive(Debug)]
struct Floors {
    /// Of topics in the journal, which remembers it.
    journalled: u64,
    /// Of ephemeral topics; begins with the time of the start, for nothing remembers earlier ones.
    ephemeral: u64,
}

/// What a broker needs at start.
pub(crate) struct Opening {
    /// The outside world.
    pub(crate) env: Env,
    /// Holds the journal; locked by the caller.
    pub(crate) dir: PathBuf,
    /// 16 bits of the node's id, for message ids.
    pub(crate) node: u16,
    /// What clients may do.
    pub(crate) limits: Limits,
    /// How messages are kept.
    pub(crate) journal: JournalConfig,
    /// Which latencies are kept.
    pub(crate) latency: LatencyConfig,
}

/// The broker's own tasks.
#[derive(Debug)]
pub(crate) struct Tasks {
    /// Resolves when the commit loop has ended.
    pub(crate) committed: oneshot::Receiver<()>,
    /// Resolve when nothing touches the data directory in the background any more.
    pub(crate) helpers: [oneshot::Receiver<()>; 2],
}

/// Starts a task; what is returned resolves when it ends, with an error if it panicked.
fn watched(spawn: &Arc<dyn Spawn>, task: impl Future<Output = ()> + Send + 'static) -> oneshot::Receiver<()> {
    let (done, ended) = oneshot::channel();
    spawn.spawn(Box::pin(async move {
        task.await;
        // Nobody may wait for it; then nothing is to be told.
        let _ = done.send(());
    }));
    ended
}

/// The journal's figures.
#[derive(Debug, Clone, Default)]
pub struct JournalStats {
    /// Segment files.
    pub segments: u64,
    /// Bytes that they take on disk.
    pub bytes: u64,
    /// Bytes in them that some channel still needs, at the last look.
    pub live_bytes: u64,
    /// Damaged records that were found since the start.
    pub damaged_records: u64,
    /// Batches that were written.
    pub commits: u64,
    /// Those of them that were synced.
    pub syncs: u64,
    /// The node's durability: `fsync` or `os`.
    pub durability: &'static str,
    /// Why publishes are refused at the moment.
    pub refusing: Option<String>,
}

impl Broker {
    /// Opens the journal and begins to commit. Ends when `exit` says so: then what was staged is written, a
    /// last checkpoint too, and the tasks end.
    pub(crate) async fn open(
        opening: Opening,
        exit: Exiting,
    ) -> Result<(Arc<Self>, Tasks, RecoveryReport), OpenError> {
        let Opening { env, dir, node, limits, journal, latency } = opening;
        let clock = Clock::start(Arc::clone(&env.wall), limits.max_req_timeout.max(limits.max_defer_timeout));
        let opened = journal::open(&journal, dir, env.clone()).await?;
        let journal::Opened { recovered, report, store, writer, replay_from } = opened;
        let shared = Arc::new(Shared {
            node,
            env: env.clone(),
            clock: clock.clone(),
            limits,
            journal,
            latency,
            commits: Commits::new(recovered.control),
            agenda: Arc::new(Agenda::default()),
            store,
            admission: Arc::new(Admission::default()),
            holdings: Holdings::default(),
            numbers: AtomicU64::new(1),
        });
        // Seconds and 16 bits: below this no start used a number, at less than 65,536 messages a second.
        let floors =
            Floors { journalled: recovered.sequence_floor.max(1), ephemeral: (clock.wall() / 1000) << 16 };
        let broker = Arc::new(Self::new(Arc::clone(&shared), floors, replay_from));
        for topic in recovered.topics {
            let Ok(name) = TopicName::new(&topic.state.name) else { continue };
            broker.topics.insert(name.clone(), Topic::recovered(name, &shared, topic));
        }
        let committer = Committer::new(Arc::clone(&broker), writer, exit.clone());
        let committed = watched(&env.spawn, committer.run());
        env.spawn.spawn(Box::pin(Arc::clone(&shared.agenda).run(clock)));
        let (store, admission) = (Arc::clone(&shared.store), Arc::clone(&shared.admission));
        let (min_free, changed) = (shared.journal.min_free_bytes, Arc::clone(&shared.commits.changed));
        let upkeep = upkeep::keep(store, admission, min_free, changed, exit.clone());
        let helpers = [
            watched(&env.background, upkeep),
            watched(&env.background, reclaim::run(Arc::clone(&broker), exit)),
        ];
        Ok((broker, Tasks { committed, helpers }, report))
    }

    fn new(shared: Arc<Shared>, floors: Floors, replay_from: u64) -> Self {
        Self {
            shared,
            topics: DashMap::new(),
            floors: Mutex::new(floors),
            clients: Mutex::default(),
            next_client: AtomicU32::new(1),
            unfinished: AtomicUsize::new(0),
            waiting_output: AtomicUsize::new(0),
            commit_count: AtomicU64::new(0),
            sync_count: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            last_error: Mutex::default(),
            checkpoints: Mutex::new((0, replay_from)),
            checkpointed: Notify::new(),
        }
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What waits for the next commit and what became of earlier ones.
    pub(crate) fn commits(&self) -> &Commits {
        &self.shared.commits
    }

    /// What the mesh has to know of this node's topics.
    pub(crate) fn holdings(&self) -> &Holdings {
        &self.shared.holdings
    }

    /// What the ids of this node's messages begin with.
    pub(crate) fn tag(&self) -> u16 {
        self.shared.node
    }

    /// The node's clocks.
    pub(crate) fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// The topic `name`.
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.get(name).map(|topic| Arc::clone(&topic))
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        let mut topics: Vec<Arc<Topic>> = self.topics.iter().map(|topic| Arc::clone(&topic)).collect();
        topics.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        topics
    }

    /// Number of topics.
    pub(crate) fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// The topic `name`; made now if there is none.
    ///
    /// # Errors
    /// The node is stopping, or the disk takes nothing new.
    pub fn topic_or_create(&self, name: &TopicName) -> Result<Arc<Topic>, Refused> {
        if let Some(topic) = self.topic(name.as_str()) {
            return Ok(topic);
        }
        let floors = self.floors.lock();
        if let Some(topic) = self.topic(name.as_str()) {
            return Ok(topic);
        }
        self.shared.admission.check_running()?;
        if self.topics.len() >= self.shared.limits.max_topics {
            return Err(Refused::TooMany("topics"));
        }
        let first = if name.is_ephemeral() { floors.ephemeral } else { floors.journalled };
        let topic = Topic::new(name.clone(), Arc::clone(&self.shared), first);
        topic.created(first);
        for channel in self.shared.holdings.known_channels(name) {
            // What the mesh knows beyond this node's limits, it has to keep elsewhere.
            if let Err(refused) = topic.channel_or_create(&channel) {
                tracing::warn!("the new topic {name} begins without the channel {channel}: {refused}");
            }
        }
        // Before anybody can find it: what is published must not pass a channel by that is still to come. The
        // answer may be there before the question is put, so the topic waits first.
        topic.wait();
        if !self.shared.holdings.is_to_wait(&topic) {
            topic.release();
        }
        self.topics.insert(name.clone(), Arc::clone(&topic));
        self.shared.holdings.note(name);
        Ok(topic)
    }

    /// Deletes a topic with its channels and all they hold. `None` if there is none.
    pub fn delete_topic(&self, name: &str) -> Option<Ticket> {
        self.delete_topic_if(name, |_| true)
    }

    /// Deletes the topic if it still is the one with this number.
    pub(crate) fn delete_topic_numbered(&self, name: &str, number: u64) -> Option<Ticket> {
        self.delete_topic_if(name, |topic| topic.number() == number)
    }

    fn delete_topic_if(&self, name: &str, condition: impl Fn(&Topic) -> bool) -> Option<Ticket> {
        let mut floors = self.floors.lock();
        let (_, topic) = self.topics.remove_if(name, |_, topic| condition(topic))?;
        self.shared.holdings.note(topic.name());
        let (ticket, next) = topic.delete();
        let floor = if topic.name().is_ephemeral() { &mut floors.ephemeral } else { &mut floors.journalled };
        *floor = next.max(*floor);
        Some(ticket)
    }

    /// The first sequence number that a new topic would get.
    pub(super) fn sequence_floor(&self) -> u64 {
        self.floors.lock().journalled
    }

    /// A ticket for everything that was published or changed so far.
    pub fn barrier(&self) -> Ticket {
        self.shared.commits.barrier()
    }

    /// Waits until a change, or what was published, is as durable as promised.
    ///
    /// # Errors
    /// It was not written.
    pub async fn settled(&self, ticket: Ticket) -> Result<(), Refused> {
        self.shared.commits.wait(ticket).await
    }

    /// Enters a connection.
    pub(crate) fn connect(
        &self,
        remote_address: String,
        remote_ip: String,
        connected: SystemTime,
    ) -> Arc<Client> {
        let id = self.next_client.fetch_add(1, Ordering::Relaxed);
        let client = Arc::new(Client::new(id, remote_address, remote_ip, connected));
        self.clients.lock().insert(id, Arc::clone(&client));
        client
    }

    /// A connection holds `now` bytes of a command that has come in part, and held `before`. Returns whether
    /// that is too much.
    pub(crate) fn holds_unfinished(&self, before: usize, now: usize) -> bool {
        if now <= before {
            self.unfinished.fetch_sub(before - now, Ordering::Relaxed);
            return false;
        }
        let total = self.unfinished.fetch_add(now - before, Ordering::Relaxed) + now - before;
        total > self.shared.limits.max_unfinished_input && now > UNFINISHED_FREE
    }

    /// Bytes of commands that have come in part.
    pub(crate) fn unfinished_input(&self) -> usize {
        self.unfinished.load(Ordering::Relaxed)
    }

    /// `now` bytes wait for a client, where `before` waited.
    pub(crate) fn holds_output(&self, before: usize, now: usize) {
        if now >= before {
            self.waiting_output.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.waiting_output.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Bytes that wait for clients.
    pub(crate) fn waiting_output(&self) -> usize {
        self.waiting_output.load(Ordering::Relaxed)
    }

    /// Whether so many bytes wait for clients that none should be given more than it reads.
    pub(crate) fn is_output_tight(&self) -> bool {
        self.waiting_output() >= self.shared.limits.max_waiting_output
    }

    /// Removes a connection.
    pub(crate) fn disconnect(&self, client: &Client) {
        self.clients.lock().remove(&client.id);
    }

    /// Number of connections.
    pub(crate) fn connections(&self) -> usize {
        self.clients.lock().len()
    }

    /// Asks all connections to close.
    pub(crate) fn close_clients(&self) {
        self.clients.lock().values().for_each(|client| client.close());
    }

    /// Resolves once no connection is left.
    pub(crate) async fn drained(&self) {
        while self.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// From now on everything that would change something is refused.
    pub(crate) fn refuse(&self) {
        self.shared.admission.exit();
    }

    /// The connections that have published.
    pub fn producers(&self) -> Vec<ClientStats> {
        let clients = self.clients.lock();
        let stats = clients.values().map(|client| client.stats());
        stats.filter(|client| !client.pub_counts.is_empty()).collect()
    }

    /// Whether the last write to the journal succeeded, and publishes are not refused for want of room.
    ///
    /// # Errors
    /// What the disk said, or that it is full: nsqd would find that out with the next publish.
    pub fn health(&self) -> Result<(), String> {
        if let Some(error) = &*self.last_error.lock() {
            return Err(error.to_string());
        }
        match self.shared.admission.refusal() {
            None | Some(Refused::Exiting) => Ok(()),
            Some(why) => Err(why.to_string()),
        }
    }

    pub(super) fn set_last_error(&self, error: Option<Arc<str>>) {
        *self.last_error.lock() = error;
    }

    /// A checkpoint from which replay starts at segment `replay_from` is on disk.
    pub(super) fn checkpointed(&self, replay_from: u64) {
        let mut checkpoints = self.checkpoints.lock();
        if checkpoints.1 < replay_from {
            *checkpoints = (checkpoints.1, replay_from);
        }
        drop(checkpoints);
        self.checkpointed.notify_one();
    }

    /// Where replay would start if the newest checkpoint were found damaged. Only what lies in front of that
    /// may go.
    pub(super) fn replay_from(&self) -> u64 {
        self.checkpoints.lock().0
    }

    /// Waits for the next checkpoint.
    pub(super) async fn checkpoint_written(&self) {
        self.checkpointed.notified().await;
    }

    /// The journal's figures.
    pub fn journal_stats(&self) -> JournalStats {
        let (segments, bytes) = self.shared.store.usage();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        JournalStats {
            segments,
            bytes,
            live_bytes: load(&self.live_bytes),
            damaged_records: self.shared.store.damaged_records(),
            commits: load(&self.commit_count),
            syncs: load(&self.sync_count),
            durability: if self.shared.journal.durability == Durability::Fsync { "fsync" } else { "os" },
            refusing: self.shared.admission.refusal().map(|why| why.to_string()),
        }
    }
}
