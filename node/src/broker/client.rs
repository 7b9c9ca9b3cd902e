//! What the broker knows of a connection: who it is, what it has in flight, how it is reached.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bruit_wire::{TopicName, compress::Compression};
use parking_lot::Mutex;

use super::{
    proximity::{Place, Proximity},
    signal::Signal,
};
use crate::layers::Session;

/// A client that has taken nothing for so long, although it was ready, is stuck, ms.
pub(super) const STALLED: u64 = 1_000;
/// The ranks of relays begin here.
const RELAY_RANK: u8 = 3;

/// A connection. Shared between its task, its channel and the statistics.
#[derive(Debug)]
pub(crate) struct Client {
    /// Unique over the node's life, from 1.
    pub(crate) id: u32,
    /// Wakes the connection's task.
    pub(crate) signal: Arc<Signal>,
    /// Messages that it has and has not answered.
    pub(crate) in_flight: AtomicU64,
    /// The RDY that it has set.
    pub(crate) ready: AtomicU64,
    /// How long it has for a message, ms.
    pub(crate) msg_timeout: AtomicU32,
    /// Its channel will wake it when there are messages.
    pub(super) waiting: AtomicBool,
    /// Its channel will wake it when there are messages that nobody takes.
    pub(super) watching: AtomicBool,
    /// What it waits for is there and being read back from the journal.
    pub(super) reading: AtomicBool,
    /// It takes what there is, or is about to: a client of lower rank leaves messages to it.
    pub(super) able: AtomicBool,
    /// When it took messages last, node time in ms.
    took: AtomicU64,
    /// Lower ones are served first.
    rank: AtomicU8,
    /// Its state as `/stats` shows it: 0 init, 3 subscribed, 4 closing.
    pub(crate) state: AtomicU8,
    /// Messages sent to it.
    pub(crate) message_count: AtomicU64,
    /// Messages that it has finished.
    pub(crate) finish_count: AtomicU64,
    /// Messages that it has requeued.
    pub(crate) requeue_count: AtomicU64,
    closing: AtomicBool,
    remote_ip: IpAddr,
    about: Mutex<About>,
}

/// What a client says of itself, and what it published.
#[derive(Debug)]
struct About {
    remote_address: String,
    client_id: String,
    hostname: String,
    user_agent: String,
    sample_rate: u8,
    topology_region: String,
    topology_zone: String,
    connected: SystemTime,
    published: BTreeMap<TopicName, u64>,
    compression: Option<Compression>,
    session: Option<Session>,
    identity: Option<Identity>,
}

/// Who the owner of a client's secret is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// A name.
    pub name: String,
    /// Where there is more; may be empty.
    pub url: String,
}

/// A connection as `/stats` shows it (NSQ reference, section 6.5).
#[derive(Debug, Clone)]
pub struct ClientStats {
    /// As the client named itself; its address if it never did.
    pub client_id: String,
    /// Its host, likewise.
    pub hostname: String,
    /// Its library.
    pub user_agent: String,
    /// Address and port.
    pub remote_address: String,
    /// 0 init, 3 subscribed, 4 closing.
    pub state: u8,
    /// RDY.
    pub ready_count: u64,
    /// Delivered and not answered.
    pub in_flight_count: u64,
    /// Delivered in all.
    pub message_count: u64,
    /// Finished in all.
    pub finish_count: u64,
    /// Requeued in all.
    pub requeue_count: u64,
    /// When it connected.
    pub connected: SystemTime,
    /// Percentage of messages that it wants; 0 is all.
    pub sample_rate: u8,
    /// Where it says it is.
    pub topology_region: String,
    /// Where it says it is.
    pub topology_zone: String,
    /// Whether its bytes are compressed, and how.
    pub compression: Option<Compression>,
    /// Version and cipher suite of TLS, where its bytes are encrypted.
    pub tls: Option<(&'static str, String)>,
    /// Messages published, by topic.
    pub pub_counts: Vec<(TopicName, u64)>,
    /// Whose secret it has shown.
    pub identity: Option<Identity>,
}

impl Client {
    /// A connection that just came in.
    pub(crate) fn new(id: u32, remote_address: String, remote_ip: String, connected: SystemTime) -> Self {
        let ip = remote_address.parse().map_or(Ipv4Addr::UNSPECIFIED.into(), |from: SocketAddr| from.ip());
        let about = About {
            remote_address,
            client_id: remote_ip.clone(),
            hostname: remote_ip,
            user_agent: String::new(),
            sample_rate: 0,
            topology_region: String::new(),
            topology_zone: String::new(),
            connected,
            published: BTreeMap::new(),
            compression: None,
            session: None,
            identity: None,
        };
        Self {
            id,
            signal: Arc::default(),
            in_flight: AtomicU64::new(0),
            ready: AtomicU64::new(0),
            msg_timeout: AtomicU32::new(0),
            waiting: AtomicBool::new(false),
            watching: AtomicBool::new(false),
            reading: AtomicBool::new(false),
            able: AtomicBool::new(false),
            took: AtomicU64::new(0),
            rank: AtomicU8::new(0),
            state: AtomicU8::new(0),
            message_count: AtomicU64::new(0),
            finish_count: AtomicU64::new(0),
            requeue_count: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            remote_ip: ip,
            about: Mutex::new(about),
        }
    }

    /// Takes over what IDENTIFY said.
    pub(crate) fn identified(&self, identify: &bruit_wire::nsq::Identify) {
        let mut about = self.about.lock();
        about.client_id = identify.client_id.clone().unwrap_or_default();
        about.hostname = identify.hostname.clone().unwrap_or_default();
        about.user_agent.clone_from(&identify.user_agent);
        about.sample_rate = identify.sample_rate;
        about.topology_region.clone_from(&identify.topology_region);
        about.topology_zone.clone_from(&identify.topology_zone);
    }

    /// Its bytes are compressed from now on.
    pub(crate) fn packed(&self, compression: Option<Compression>) {
        self.about.lock().compression = compression;
    }

    /// Its bytes are encrypted from now on, if a handshake has said how.
    pub(crate) fn secured(&self, session: Option<Session>) {
        self.about.lock().session = session;
    }

    /// What its handshake of TLS agreed on. `None` without TLS.
    pub(crate) fn session(&self) -> Option<Session> {
        self.about.lock().session.clone()
    }

    /// Takes note of whose secret it has shown.
    pub(crate) fn authorized(&self, identity: Identity) {
        self.about.lock().identity = Some(identity);
    }

    /// Where it connects from.
    pub(crate) const fn remote_ip(&self) -> IpAddr {
        self.remote_ip
    }

    /// Says where it is, seen from a node that is `here`. All that are connected directly come before relays.
    pub(crate) fn locate(&self, here: &Place, region: &str, zone: &str, relay: bool) {
        let rank = here.proximity(region, zone) as u8 + if relay { RELAY_RANK } else { 0 };
        self.rank.store(rank, Ordering::Relaxed);
    }

    /// Introduces a node that consumes for its own clients.
    pub(crate) fn relays_for(&self, host: &str, region: &str, zone: &str) {
        let mut about = self.about.lock();
        host.clone_into(&mut about.client_id);
        host.clone_into(&mut about.hostname);
        about.user_agent = concat!("bruit-relay/", env!("CARGO_PKG_VERSION")).to_owned();
        region.clone_into(&mut about.topology_region);
        zone.clone_into(&mut about.topology_zone);
    }

    /// Lower ones are served first.
    pub(super) fn rank(&self) -> u8 {
        self.rank.load(Ordering::Relaxed)
    }

    /// Where it is, seen from the node.
    pub(super) fn proximity(&self) -> Proximity {
        match self.rank() % RELAY_RANK {
            0 => Proximity::Zone,
            1 => Proximity::Region,
            _ => Proximity::Any,
        }
    }

    /// Says whether it takes what there is, or is about to. Returns whether it did until now and no longer does.
    pub(crate) fn set_able(&self, able: bool) -> bool {
        self.able.load(Ordering::Relaxed) != able && self.able.swap(able, Ordering::Relaxed)
    }

    /// Takes note that it has taken messages, node time in ms.
    pub(super) fn took(&self, now: u64) {
        self.took.store(now, Ordering::Relaxed);
    }

    /// Whether it takes messages as they come: it could now, or did a moment ago.
    pub(super) fn is_busy_with(&self, now: u64) -> bool {
        let ready = self.ready.load(Ordering::Relaxed) > 0;
        ready && (self.able.load(Ordering::Relaxed) || now < self.took.load(Ordering::Relaxed) + STALLED)
    }

    /// How many more messages it is ready for.
    pub(crate) fn free(&self) -> u64 {
        self.ready.load(Ordering::Relaxed).saturating_sub(self.in_flight.load(Ordering::Relaxed))
    }

    /// Counts publishes.
    pub(crate) fn published(&self, topic: &TopicName, count: u64) {
        *self.about.lock().published.entry(topic.clone()).or_default() += count;
    }

    /// Asks the connection to close.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.signal.wake();
    }

    /// Whether it was asked to.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Takes `count` messages off what it has in flight and wakes it: it may take more.
    pub(crate) fn lost(&self, count: u64) {
        self.in_flight.fetch_sub(count, Ordering::Relaxed);
        self.signal.wake();
    }

    /// Whether its channel will wake it.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether its channel will wake it because there are none, and not because they are still being read.
    pub(crate) fn has_nothing(&self) -> bool {
        self.is_waiting() && !self.reading.load(Ordering::Relaxed)
    }

    /// Whether its channel will wake it when there are messages that nobody takes.
    pub(crate) fn is_watching(&self) -> bool {
        self.watching.load(Ordering::Relaxed)
    }

    /// A snapshot for `/stats`.
    pub(crate) fn stats(&self) -> ClientStats {
        let about = self.about.lock();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ClientStats {
            client_id: about.client_id.clone(),
            hostname: about.hostname.clone(),
            user_agent: about.user_agent.clone(),
            remote_address: about.remote_address.clone(),
            state: self.state.load(Ordering::Relaxed),
            ready_count: load(&self.ready),
            in_flight_count: load(&self.in_flight),
            message_count: load(&self.message_count),
            finish_count: load(&self.finish_count),
            requeue_count: load(&self.requeue_count),
            connected: about.connected,
            sample_rate: about.sample_rate,
            topology_region: about.topology_region.clone(),
            topology_zone: about.topology_zone.clone(),
            compression: about.compression,
            tls: about.session.as_ref().map(|session| (session.version, session.cipher_suite.clone())),
            pub_counts: about.published.iter().map(|(topic, count)| (topic.clone(), *count)).collect(),
            identity: about.identity.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_busy_while_it_can_take_or_did_a_moment_ago() {
        let client = Client::new(1, String::new(), String::new(), SystemTime::UNIX_EPOCH);
        assert!(!client.is_busy_with(0), "it was never ready");
        client.ready.store(1, Ordering::Relaxed);
        client.set_able(true);
        assert!(client.is_busy_with(1_000_000));
        client.took(5_000);
        client.set_able(false);
        assert!(client.is_busy_with(5_000 + STALLED - 1), "it is full, and may soon not be");
        assert!(!client.is_busy_with(5_000 + STALLED), "it is stuck");
        client.ready.store(0, Ordering::Relaxed);
        assert!(!client.is_busy_with(5_001), "it wants none");
    }
}
