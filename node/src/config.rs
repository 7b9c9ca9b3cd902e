//! What a node is told at start. Values here are already checked; reading flags, environment and file
//! is the business of `cli::settings`.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bruit_gossip::{Profile, Secret};
use bruit_wire::TopicName;

use crate::{auth::AuthConfig, rising::Rising};

/// What a node is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It takes messages, keeps them and hands them out.
    Node,
    /// It answers lookups, as nsqlookupd does: it listens to no clients, holds no topic and stores nothing.
    Lookup,
}

/// Everything that one node needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the node is there for.
    pub role: Role,
    /// Where clients connect; port 0 takes a free one.
    pub tcp_address: SocketAddr,
    /// Where HTTP is served; `None` turns it off.
    pub http_address: Option<SocketAddr>,
    /// Where HTTPS is served, if there is a certificate; `None` turns it off.
    pub https_address: Option<SocketAddr>,
    /// How connections are encrypted.
    pub tls: TlsConfig,
    /// Holds the journal, the checkpoints, the lock and the node's identity.
    pub data_path: PathBuf,
    /// Names or addresses that `/info` and discovery hand out; `/lookup` answers with the one that suits the
    /// asker, `/info` with the first. Empty: the address that peers use if others can reach it, else the
    /// host's name.
    pub broadcast_addresses: Vec<String>,
    /// The TCP port to hand out, when it is not the one that is bound.
    pub broadcast_tcp_port: Option<u16>,
    /// The HTTP port to hand out, when it is not the one that is bound.
    pub broadcast_http_port: Option<u16>,
    /// The host's name, as `/info` shows it.
    pub hostname: String,
    /// Region of this node, echoed to clients.
    pub topology_region: String,
    /// Zone of this node, echoed to clients.
    pub topology_zone: String,
    /// Whether consumers here get what other nodes hold.
    pub relay: Relay,
    /// What clients may do.
    pub limits: Limits,
    /// How messages are kept.
    pub journal: JournalConfig,
    /// Which latencies are kept.
    pub latency: LatencyConfig,
    /// What statsd is told.
    pub statsd: StatsdConfig,
    /// Who may do what.
    pub auth: AuthConfig,
    /// How other nodes are found.
    pub mesh: MeshConfig,
    /// How it gets on with nsqd and nsqlookupd of the classic kind.
    pub classic: ClassicConfig,
    /// How much is logged, and how to change that while the node runs.
    pub log: LogControl,
    /// Asks the node to read certificates again.
    pub reload: Reload,
}

/// How connections of clients are encrypted (NSQ reference, section 2.9).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The node's certificate with its chain, PEM. Without one there is no TLS.
    pub cert: Option<PathBuf>,
    /// The key to it, PEM.
    pub key: Option<PathBuf>,
    /// Authorities that clients' certificates may come from, PEM; those that the system trusts if none is named.
    pub root_ca: Option<PathBuf>,
    /// Which certificates clients have to show.
    pub client_auth: ClientAuth,
    /// What is refused without TLS.
    pub required: TlsRequired,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
}

impl TlsConfig {
    /// Whether TLS is offered.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.cert.is_some()
    }
}

/// Which certificates clients have to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// None.
    #[default]
    None,
    /// Any, whoever it comes from.
    Require,
    /// One that an authority vouches for.
    RequireVerify,
}

/// What is refused without TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsRequired {
    /// Nothing.
    #[default]
    No,
    /// Commands over TCP; plain HTTP stays open.
    TcpOnly,
    /// Commands over TCP, and requests over plain HTTP.
    Everywhere,
}

/// A version of TLS. There are no older ones here: they are broken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2.
    #[default]
    Tls12,
    /// 1.3.
    Tls13,
}

/// Word to a node that files were changed and are to be read again, as SIGHUP gives it. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Reload(Arc<Rising>);

impl Reload {
    /// Asks.
    pub fn ask(&self) {
        self.0.raise(self.0.now() + 1);
    }

    /// How often it was asked for.
    pub(crate) fn asked(&self) -> u64 {
        self.0.now()
    }

    /// Waits until it was asked for more often than `seen` times.
    pub(crate) async fn asked_beyond(&self, seen: u64) {
        self.0.reaches(seen + 1).await;
    }
}

/// The log level, and how it is changed (`PUT /config/log_level`).
#[derive(Clone)]
pub struct LogControl {
    /// The level at start, in NSQ's words: `debug`, `info`, `warn`, `error` or `fatal`.
    pub level: String,
    /// What each line of the log begins with, in NSQ's format; `None` for a format of our own.
    pub prefix: Option<String>,
    /// Applies another one; false if it is none.
    pub set: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Default for LogControl {
    fn default() -> Self {
        let known = |level: &str| ["debug", "info", "warn", "error", "fatal"].contains(&level);
        Self { level: "info".to_owned(), prefix: None, set: Arc::new(known) }
    }
}

impl std::fmt::Debug for LogControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogControl").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            role: Role::Node,
            tcp_address: SocketAddr::from(([0, 0, 0, 0], 4150)),
            http_address: Some(SocketAddr::from(([0, 0, 0, 0], 4151))),
            https_address: Some(SocketAddr::from(([0, 0, 0, 0], 4152))),
            tls: TlsConfig::default(),
            data_path: PathBuf::from("bruit-data"),
            broadcast_addresses: Vec::new(),
            broadcast_tcp_port: None,
            broadcast_http_port: None,
            hostname: "localhost".to_owned(),
            topology_region: String::new(),
            topology_zone: String::new(),
            relay: Relay::Auto,
            limits: Limits::default(),
            journal: JournalConfig::default(),
            latency: LatencyConfig::default(),
            statsd: StatsdConfig::default(),
            auth: AuthConfig::default(),
            mesh: MeshConfig::default(),
            classic: ClassicConfig::default(),
            log: LogControl::default(),
            reload: Reload::default(),
        }
    }
}

/// Whether consumers that are connected to a node get what other nodes hold of their channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// They do.
    Auto,
    /// They get what the node itself holds, as from nsqd. Other nodes may still relay from it.
    Off,
}

/// How a node finds others and talks to them.
#[derive(Clone)]
pub struct MeshConfig {
    /// Where sealed datagrams are taken; port 0 takes a free one. `None` keeps the node by itself.
    pub gossip_address: Option<SocketAddr>,
    /// Whether to take free ports where those for gossip and QUIC are taken already.
    pub any_port: bool,
    /// Where QUIC connections are taken; port 0 takes a free one.
    pub mesh_address: SocketAddr,
    /// Only nodes that name the same cluster talk to each other.
    pub cluster_name: String,
    /// What all nodes of the cluster know and nobody else. Without it, peers are on loopback only.
    pub secret: Option<Secret>,
    /// `host:port` of nodes to join: every address of every name, tried for ever.
    pub join: Vec<String>,
    /// How quick a network the time-outs expect.
    pub profile: Profile,
    /// Certificates to use on QUIC instead of those derived from the secret.
    pub pki: Option<Pki>,
    /// Where nsqlookupd's HTTP API alone is served once more, for clients that have its port baked in.
    pub lookupd_http_address: Option<SocketAddr>,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            gossip_address: Some(SocketAddr::from(([127, 0, 0, 1], 4160))),
            any_port: false,
            mesh_address: SocketAddr::from(([127, 0, 0, 1], 4161)),
            cluster_name: "bruit".to_owned(),
            secret: None,
            join: Vec::new(),
            profile: Profile::Lan,
            pki: None,
            lookupd_http_address: None,
        }
    }
}

impl std::fmt::Debug for MeshConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { gossip_address, mesh_address, cluster_name, secret, join, .. } = self;
        f.debug_struct("MeshConfig")
            .field("gossip_address", gossip_address)
            .field("mesh_address", mesh_address)
            .field("cluster_name", cluster_name)
            .field("secret", &secret.is_some())
            .field("join", join)
            .finish_non_exhaustive()
    }
}

/// How a node gets on with nsqd and nsqlookupd of the classic kind.
#[derive(Debug, Clone)]
pub struct ClassicConfig {
    /// `host:port` of nsqlookupds to register at, as nsqd does; at most 64.
    pub lookupds: Vec<String>,
    /// Where classic nsqds register, as at nsqlookupd; port 0 takes a free one, `None` turns it off.
    pub listen: Option<SocketAddr>,
    /// An nsqd that has registered and says nothing for this long is taken for gone.
    pub inactive_producer_timeout: Duration,
}

impl Default for ClassicConfig {
    fn default() -> Self {
        Self { lookupds: Vec::new(), listen: None, inactive_producer_timeout: Duration::from_secs(300) }
    }
}

/// Files of an operator's own certificates, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pki {
    /// Certificates of the authorities that peers' certificates may come from.
    pub ca: PathBuf,
    /// The node's certificate, with its chain.
    pub cert: PathBuf,
    /// The key to it.
    pub key: PathBuf,
}

impl Config {
    /// The name or address that `/info` hands out.
    #[must_use]
    pub fn broadcast_address(&self) -> &str {
        self.broadcast_addresses.first().unwrap_or(&self.hostname)
    }
}

/// Bounds on what clients may send and hold (NSQ reference, sections 2.8 and 10.1).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest message body, bytes. A larger one is refused with `E_BAD_MESSAGE`.
    pub max_msg_size: usize,
    /// Largest body of MPUB, IDENTIFY and AUTH, bytes.
    pub max_body_size: usize,
    /// Largest RDY. A larger one is fatal.
    pub max_rdy_count: u64,
    /// How long a delivered message may stay unanswered, unless the client negotiates its own.
    pub msg_timeout: Duration,
    /// Longest negotiable message time-out, and the furthest that TOUCH extends one.
    pub max_msg_timeout: Duration,
    /// Longest REQ delay (longer ones are clamped).
    pub max_req_timeout: Duration,
    /// Longest DPUB or `defer` delay (longer ones are refused).
    pub max_defer_timeout: Duration,
    /// A client that says nothing for this long is gone; its heartbeat interval is half of it.
    pub client_timeout: Duration,
    /// Longest negotiable heartbeat interval.
    pub max_heartbeat_interval: Duration,
    /// Largest negotiable output buffer, bytes.
    pub max_output_buffer_size: usize,
    /// Longest negotiable output buffer time-out.
    pub max_output_buffer_timeout: Duration,
    /// Shortest negotiable output buffer time-out.
    pub min_output_buffer_timeout: Duration,
    /// Output buffer time-out that is granted when the client asks for none. Deliveries never wait for it:
    /// a node flushes when it is idle.
    pub output_buffer_timeout: Duration,
    /// Whether clients may have snappy.
    pub snappy: bool,
    /// Whether clients may have deflate.
    pub deflate: bool,
    /// The highest level of deflate, 1 to 9.
    pub max_deflate_level: u32,
    /// Consumers per channel; 0 means no limit.
    pub max_channel_consumers: usize,
    /// Client connections; further ones are closed at once.
    pub max_connections: usize,
    /// HTTP connections of each listener; further ones are closed at once.
    pub max_http_connections: u32,
    /// Bytes that wait for clients to take them, over all connections. Beyond, a connection is given no more
    /// messages than it reads.
    pub max_waiting_output: usize,
    /// Bytes of commands that have come in part, over all connections. Beyond, a connection that holds more than
    /// 64 KiB of them is closed.
    pub max_unfinished_input: usize,
    /// How long a connection may take to say which protocol it speaks.
    pub opening_timeout: Duration,
    /// How long a client without heartbeats may take for a command that it has begun. Others have two heartbeat
    /// intervals.
    pub command_timeout: Duration,
    /// Topics; a publish or subscription that would make one more is refused.
    pub max_topics: usize,
    /// Channels of one topic; a subscription that would make one more is refused.
    pub max_channels: usize,
    /// Series of topics and channels that `/metrics` shows; further ones are counted.
    pub max_metrics_series: usize,
    /// Messages that an `#ephemeral` topic or channel keeps; older ones are dropped.
    pub mem_queue_size: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_msg_size: 1024 * 1024,
            max_body_size: 5 * 1024 * 1024,
            max_rdy_count: 2500,
            msg_timeout: Duration::from_secs(60),
            max_msg_timeout: Duration::from_secs(15 * 60),
            max_req_timeout: Duration::from_secs(3600),
            max_defer_timeout: Duration::from_secs(3600),
            client_timeout: Duration::from_secs(60),
            max_heartbeat_interval: Duration::from_secs(60),
            max_output_buffer_size: 64 * 1024,
            max_output_buffer_timeout: Duration::from_secs(30),
            min_output_buffer_timeout: Duration::from_millis(25),
            output_buffer_timeout: Duration::from_millis(250),
            snappy: true,
            deflate: true,
            max_deflate_level: 6,
            max_channel_consumers: 0,
            max_connections: 10_000,
            max_http_connections: 1024,
            max_waiting_output: 256 * 1024 * 1024,
            max_unfinished_input: 256 * 1024 * 1024,
            opening_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(60),
            max_topics: 100_000,
            max_channels: 10_000,
            max_metrics_series: 50_000,
            mem_queue_size: 10_000,
        }
    }
}

/// How long messages take from publishing to FIN: which quantiles of that are shown.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyConfig {
    /// From 0 to 1; none keeps nothing, and costs nothing.
    pub percentiles: Vec<f64>,
    /// How far back they look.
    pub window: Duration,
}

impl Default for LatencyConfig {
    fn default() -> Self {
        Self { percentiles: Vec::new(), window: Duration::from_secs(600) }
    }
}

/// Where figures are sent by UDP, and how (NSQ reference, section 9).
#[derive(Debug, Clone)]
pub struct StatsdConfig {
    /// `host:port`; `None` sends nothing.
    pub address: Option<String>,
    /// What names begin with; `%s` stands for the node.
    pub prefix: String,
    /// Between two passes.
    pub interval: Duration,
    /// Whether the names of Go's memory figures are sent along.
    pub memory: bool,
    /// Largest datagram, bytes.
    pub packet_size: usize,
    /// Leaves out what is named `#ephemeral`.
    pub exclude_ephemeral: bool,
}

impl Default for StatsdConfig {
    fn default() -> Self {
        Self {
            address: None,
            prefix: "nsq.%s".to_owned(),
            interval: Duration::from_secs(60),
            memory: true,
            packet_size: 508,
            exclude_ephemeral: false,
        }
    }
}

/// How hard an acknowledged message is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// In memory only. Topics named `#ephemeral`, and only they.
    Memory,
    /// `OK` once the operating system has the bytes: survives a crash of the process, not a power cut.
    Os,
    /// `OK` once the bytes are synced to disk. The default.
    Fsync,
}

/// A durability for the topics whose names match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurabilityRule {
    /// A topic name in which `*` stands for any run of characters.
    pub pattern: String,
    /// What holds for these topics.
    pub durability: Durability,
}

/// How messages are kept.
#[derive(Debug, Clone)]
pub struct JournalConfig {
    /// For topics that no rule names.
    pub durability: Durability,
    /// The first rule that matches a topic decides.
    pub rules: Vec<DurabilityRule>,
    /// Size of a segment file, bytes; a multiple of 4096. A record that is larger gets a segment of its own
    /// size.
    pub segment_size: u64,
    /// Memory for the most recent messages, bytes, over all topics. Older ones are read from the journal.
    pub cache_bytes: usize,
    /// Publishes are refused while the file system has less room than this, bytes.
    pub min_free_bytes: u64,
    /// Longest that a FIN waits for company before it is written. A crash within it redelivers.
    pub finish_delay: Duration,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Fsync,
            rules: Vec::new(),
            segment_size: 64 * 1024 * 1024,
            cache_bytes: 16 * 1024 * 1024,
            min_free_bytes: 256 * 1024 * 1024,
            finish_delay: Duration::from_millis(10),
        }
    }
}

impl JournalConfig {
    /// What holds for `topic`: memory when it is ephemeral, else the first rule that matches, else the
    /// node's durability.
    #[must_use]
    pub fn durability_of(&self, topic: &TopicName) -> Durability {
        if topic.is_ephemeral() {
            return Durability::Memory;
        }
        let rule = self.rules.iter().find(|rule| matches(&rule.pattern, topic.as_str()));
        rule.map_or(self.durability, |rule| rule.durability)
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*", "", true),
            ("*b", "ab", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
