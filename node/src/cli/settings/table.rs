//! Every setting of a node, one row each: name, form, meaning, and what it changes.
//!
//! Flags, environment, file and `config show` are all derived from this table, so that they cannot differ.

use bruit_gossip::Secret;

use super::{
    auth::{AuthMethodName, AuthServers, HttpGuardName, PathOrNone},
    figures::{HostOrOff, OnOff, Percentiles},
    form::{
        Address, AddressOrOff, Count, Form, GoDuration, Level, LogLevel, LogPrefix, PathText, Peers,
        PortOrSame, ProfileName, RelayMode, Rules, Size, Text, Texts,
    },
    mesh,
    tls::{Policy, Required, Version},
};
use crate::config::{Config, Pki};

/// One setting.
pub(super) struct Setting {
    /// The flag's name, without dashes.
    pub(super) name: &'static str,
    /// What `--help` calls the value.
    pub(super) value_name: &'static str,
    /// What it does.
    pub(super) help: &'static str,
    /// The file's key, where it is not the flag's name with underscores (nsqd has a few).
    pub(super) file_key: Option<&'static str>,
    /// How the value is given.
    pub(super) shape: Shape,
    /// What becomes of it.
    pub(super) effect: Effect,
}

/// How a value is given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One text; the last one given holds.
    One,
    /// One duration, which nsqd's file also takes as a number of milliseconds.
    Duration,
    /// True or false; the bare flag means true.
    Switch,
    /// Several, in order.
    Many,
    /// One text that is taken from the environment only: everybody can read a command line, and files of
    /// settings are copied and checked in.
    Hidden,
}

/// What becomes of a setting.
pub(super) enum Effect {
    /// It changes the configuration.
    Applied {
        /// Puts the value in place.
        apply: fn(&mut Config, &str) -> Result<(), String>,
        /// Shows the value in place.
        show: fn(&Config) -> String,
    },
    /// It gives the cluster's secret, which is never shown.
    Secret {
        /// Finds the secret that the text means; the error does not repeat it.
        read: fn(&str) -> Result<Secret, String>,
        /// Shows the text, if that tells nothing.
        show: fn(&str) -> String,
    },
    /// nsqd has it, here it means nothing: accepted with a warning that says why.
    Ignored(&'static str),
}

impl Setting {
    const fn with_file_key(mut self, file_key: &'static str) -> Self {
        self.file_key = Some(file_key);
        self
    }

    /// The file's key.
    pub(super) fn key(&self) -> String {
        self.file_key.map_or_else(|| self.name.replace('-', "_"), str::to_owned)
    }

    /// The environment variable.
    pub(super) fn variable(&self) -> String {
        format!("BRUIT_{}", self.name.replace('-', "_").to_ascii_uppercase())
    }
}

macro_rules! applied {
    ($name:literal, $value_name:literal, $form:ident, $shape:ident, $($field:ident).+, $help:literal) => {
        Setting {
            name: $name,
            value_name: $value_name,
            help: $help,
            file_key: None,
            shape: Shape::$shape,
            effect: Effect::Applied {
                apply: |config, text| {
                    config.$($field).+ = <$form as Form<_>>::parse(text)?;
                    Ok(())
                },
                show: |config| <$form as Form<_>>::show(&config.$($field).+),
            },
        }
    };
}

const fn ignored(name: &'static str, shape: Shape, why: &'static str) -> Setting {
    Setting { name, value_name: "VALUE", help: "", file_key: None, shape, effect: Effect::Ignored(why) }
}

/// A file of the operator's own certificates; empty means none.
macro_rules! pki {
    ($name:literal, $field:ident, $help:literal) => {
        Setting {
            name: $name,
            value_name: "FILE",
            help: $help,
            file_key: None,
            shape: Shape::One,
            effect: Effect::Applied {
                apply: |config, text| {
                    let empty = || Pki { ca: "".into(), cert: "".into(), key: "".into() };
                    config.mesh.pki.get_or_insert_with(empty).$field = text.into();
                    Ok(())
                },
                show: |config| {
                    let pki = config.mesh.pki.as_ref();
                    pki.map(|pki| pki.$field.display().to_string()).unwrap_or_default()
                },
            },
        }
    };
}

const SYNCED: &str = "messages are synced before they are acknowledged (see --durability)";
const SEGMENTS: &str = "the journal is kept in segments (see --segment-size)";
const TIMERS: &str = "messages are timed one by one, not scanned for";
const IDENTITY: &str = "a node draws its id once and keeps it in its data directory";

/// The settings, in the order of `--help` and `config show`.
#[rustfmt::skip] // A table reads by rows.
pub(super) static SETTINGS: &[Setting] = &[
    applied!("tcp-address", "ADDR", Address, One, tcp_address,
        "Where clients connect; port 0 takes a free one"),
    applied!("http-address", "ADDR", AddressOrOff, One, http_address,
        "Where HTTP is served; empty turns it off"),
    applied!("data-path", "DIR", PathText, One, data_path,
        "Holds the messages; created when missing, used by one node at a time"),
    applied!("broadcast-address", "HOST", Texts, Many, broadcast_addresses,
        "Name or address of this machine that clients are told to connect to; of several they are told the \
         nearest"),
    applied!("broadcast-tcp-port", "PORT", PortOrSame, One, broadcast_tcp_port,
        "TCP port that others are told; 0 is the one listened on"),
    applied!("broadcast-http-port", "PORT", PortOrSame, One, broadcast_http_port,
        "HTTP port that others are told; 0 is the one listened on"),
    applied!("topology-region", "NAME", Text, One, topology_region, "Region of this node"),
    applied!("topology-zone", "NAME", Text, One, topology_zone, "Zone of this node"),
    applied!("gossip-address", "ADDR", AddressOrOff, One, mesh.gossip_address,
        "Where other nodes are heard, UDP; empty keeps the node by itself. 0.0.0.0:4160 unless given, once \
         there is a secret"),
    applied!("mesh-address", "ADDR", Address, One, mesh.mesh_address,
        "Where other nodes connect by QUIC, UDP. Unless given, the port that follows that of --gossip-address"),
    applied!("join", "HOST[:PORT]", Peers, Many, mesh.join,
        "A node to join, at its gossip address; all addresses of its name are tried, again and again. Port \
         4160 unless given"),
    applied!("cluster-name", "NAME", Text, One, mesh.cluster_name,
        "Only nodes that name the same cluster talk to each other"),
    Setting { name: "cluster-secret-file", value_name: "FILE", file_key: None, shape: Shape::One,
        help: "Holds what all nodes of the cluster know and nobody else (`bruit key generate` makes it). The \
               secret itself can be given as [env: BRUIT_CLUSTER_SECRET]",
        effect: Effect::Secret { read: mesh::read_secret, show: str::to_owned } },
    Setting { name: "cluster-secret", value_name: "", help: "", file_key: None, shape: Shape::Hidden,
        effect: Effect::Secret { read: mesh::parse_secret, show: |_| "(hidden)".to_owned() } },
    applied!("gossip-profile", "NAME", ProfileName, One, mesh.profile,
        "How quick the network is: lan, wan, or local for nodes on one machine"),
    applied!("relay", "MODE", RelayMode, One, relay,
        "auto: consumers here get what every node of the mesh holds; off: what this node holds, as from nsqd"),
    pki!("mesh-ca-file", ca, "Authorities of your own for QUIC, PEM, instead of certificates from the secret"),
    pki!("mesh-cert-file", cert, "This node's certificate from such an authority, PEM, with its chain"),
    pki!("mesh-key-file", key, "The key to --mesh-cert-file, PEM"),
    applied!("lookupd-http-address", "ADDR", AddressOrOff, One, mesh.lookupd_http_address,
        "Where nsqlookupd's HTTP alone is served once more, as on :4161; --http-address serves it anyway"),
    applied!("lookupd-tcp-address", "HOST[:PORT]", Peers, Many, classic.lookupds,
        "An nsqlookupd of the classic kind to register at; port 4160 unless given. Nodes of the mesh need none")
        .with_file_key("nsqlookupd_tcp_addresses"),
    applied!("lookupd-listen-tcp-address", "ADDR", AddressOrOff, One, classic.listen,
        "Where nsqds of the classic kind register, as on nsqlookupd's :4160; every node of the mesh shows them"),
    applied!("inactive-producer-timeout", "TIME", GoDuration, Duration, classic.inactive_producer_timeout,
        "An nsqd that registered here and is silent for this long is taken for gone"),
    applied!("log-level", "LEVEL", LogLevel, One, log.level, "debug, info, warn, error or fatal"),
    applied!("log-prefix", "TEXT", LogPrefix, One, log.prefix,
        "Writes the log in NSQ's format, each line with this before it; empty for bruit's own format"),
    applied!("durability", "LEVEL", Level, One, journal.durability,
        "What OK promises: fsync (on disk) or os (survives a crash of the node, not of the machine)"),
    applied!("topic-durability", "PATTERN=LEVEL", Rules, Many, journal.rules,
        "Durability of the topics that match, * standing for anything; the first match decides"),
    applied!("segment-size", "SIZE", Size, One, journal.segment_size,
        "Size of a journal file, a multiple of 4KiB"),
    applied!("cache-size", "SIZE", Size, One, journal.cache_bytes,
        "Memory for recent messages, over all topics; older ones are read from disk"),
    applied!("min-free-disk", "SIZE", Size, One, journal.min_free_bytes,
        "Publishes are refused while the disk has less room than this"),
    applied!("finish-delay", "TIME", GoDuration, Duration, journal.finish_delay,
        "How long a FIN waits to be written with others; a crash within it delivers again"),
    applied!("tls-cert", "FILE", PathOrNone, One, tls.cert,
        "Certificate (PEM, with its chain) for TLS and HTTPS; SIGHUP reads it again"),
    applied!("tls-key", "FILE", PathOrNone, One, tls.key, "The key to it (PEM)"),
    applied!("https-address", "ADDRESS", AddressOrOff, One, https_address,
        "Where HTTPS is served, given a certificate; empty turns it off"),
    applied!("tls-required", "HOW", Required, Switch, tls.required,
        "true: nothing without TLS; tcp-https: plain HTTP stays open; false"),
    applied!("tls-client-auth-policy", "POLICY", Policy, One, tls.client_auth,
        "Certificates of clients: require (any) or require-verify. Implies --tls-required"),
    applied!("tls-root-ca-file", "FILE", PathOrNone, One, tls.root_ca,
        "Authorities for require-verify (PEM); the system's unless given"),
    applied!("tls-min-version", "VERSION", Version, One, tls.min_version, "tls1.2 or tls1.3"),
    applied!("snappy", "BOOL", OnOff, Switch, limits.snappy, "Clients may have snappy"),
    applied!("deflate", "BOOL", OnOff, Switch, limits.deflate, "Clients may have deflate"),
    applied!("max-deflate-level", "N", Count, One, limits.max_deflate_level,
        "Highest level of deflate, 1 to 9"),
    applied!("max-connections", "N", Count, One, limits.max_connections,
        "Client connections; further ones are closed at once"),
    applied!("max-http-connections", "N", Count, One, limits.max_http_connections,
        "HTTP connections at each address; further ones are closed at once"),
    applied!("max-waiting-output", "SIZE", Size, One, limits.max_waiting_output,
        "Bytes that wait for slow clients, over all; beyond, a client gets no more messages than it reads"),
    applied!("max-unfinished-input", "SIZE", Size, One, limits.max_unfinished_input,
        "Bytes of commands that came in part, over all clients; beyond, one that holds over 64KiB is closed"),
    applied!("opening-timeout", "TIME", GoDuration, Duration, limits.opening_timeout,
        "How long a connection may take to say which protocol it speaks"),
    applied!("command-timeout", "TIME", GoDuration, Duration, limits.command_timeout,
        "How long a client without heartbeats may take for a command it has begun; others have two intervals"),
    applied!("max-topics", "N", Count, One, limits.max_topics, "Topics; one more is refused"),
    applied!("max-channels", "N", Count, One, limits.max_channels, "Channels of a topic; one more is refused"),
    applied!("max-channel-consumers", "N", Count, One, limits.max_channel_consumers,
        "Consumers per channel; 0 is no limit"),
    applied!("max-metrics-series", "N", Count, One, limits.max_metrics_series,
        "Series of topics and channels in /metrics; further ones are counted"),
    applied!("max-msg-size", "SIZE", Size, One, limits.max_msg_size, "Largest message"),
    applied!("max-body-size", "SIZE", Size, One, limits.max_body_size,
        "Largest body of a command, as of MPUB"),
    applied!("max-rdy-count", "N", Count, One, limits.max_rdy_count,
        "Largest RDY that a consumer may ask for"),
    applied!("msg-timeout", "TIME", GoDuration, Duration, limits.msg_timeout,
        "A delivered message that is not answered for this long is delivered again"),
    applied!("max-msg-timeout", "TIME", GoDuration, Duration, limits.max_msg_timeout,
        "Longest message time-out that a client may ask for, and the furthest that TOUCH goes"),
    applied!("max-req-timeout", "TIME", GoDuration, Duration, limits.max_req_timeout,
        "Longest REQ delay; longer ones are cut to it"),
    applied!("max-defer-timeout", "TIME", GoDuration, Duration, limits.max_defer_timeout,
        "Longest DPUB delay; longer ones are refused. Follows --max-req-timeout unless given"),
    applied!("client-timeout", "TIME", GoDuration, Duration, limits.client_timeout,
        "A client that is silent for this long is gone; it is asked twice within it"),
    applied!("max-heartbeat-interval", "TIME", GoDuration, Duration, limits.max_heartbeat_interval,
        "Longest heartbeat interval that a client may ask for"),
    applied!("max-output-buffer-size", "SIZE", Size, One, limits.max_output_buffer_size,
        "Largest output buffer that a client may ask for"),
    applied!("max-output-buffer-timeout", "TIME", GoDuration, Duration, limits.max_output_buffer_timeout,
        "Longest output buffer time-out that a client may ask for"),
    applied!("min-output-buffer-timeout", "TIME", GoDuration, Duration, limits.min_output_buffer_timeout,
        "Shortest output buffer time-out that a client may ask for"),
    applied!("output-buffer-timeout", "TIME", GoDuration, Duration, limits.output_buffer_timeout,
        "Output buffer time-out that is told to clients; an idle node sends at once all the same"),
    applied!("mem-queue-size", "N", Count, One, limits.mem_queue_size,
        "Messages that an #ephemeral topic or channel keeps; the others are on disk and have no such limit"),
    applied!("auth-http-address", "ADDR", AuthServers, Many, auth.servers,
        "An authorisation server, host:port or a URL, that says what a client's AUTH allows; of several, \
         another is asked when one does not answer").with_file_key("auth_http_addresses"),
    applied!("auth-http-request-method", "METHOD", AuthMethodName, One, auth.method,
        "get or post: how authorisation servers are asked"),
    applied!("http-client-connect-timeout", "TIME", GoDuration, Duration, auth.connect_timeout,
        "How long a connection to an authorisation server may take"),
    applied!("http-client-request-timeout", "TIME", GoDuration, Duration, auth.request_timeout,
        "How long its answer may take, the connection included"),
    applied!("auth-tokens-file", "FILE", PathOrNone, One, auth.tokens_file,
        "Tokens and what each allows, TOML or JSON, instead of a server or before one; read again when it \
         changes"),
    applied!("http-auth", "WHAT", HttpGuardName, One, auth.http,
        "What of HTTP needs a token: off, changes (publishing and what changes something) or all"),
    applied!("statsd-address", "HOST:PORT", HostOrOff, One, statsd.address,
        "Where figures are sent by UDP for statsd; empty sends none"),
    applied!("statsd-prefix", "TEXT", Text, One, statsd.prefix,
        "What the names of these figures begin with; %s stands for this node"),
    applied!("statsd-interval", "TIME", GoDuration, Duration, statsd.interval, "How often they are sent"),
    applied!("statsd-mem-stats", "BOOL", OnOff, Switch, statsd.memory,
        "Sends the names of Go's memory figures along, all 0"),
    applied!("statsd-udp-packet-size", "N", Count, One, statsd.packet_size, "Largest of these datagrams, bytes"),
    applied!("statsd-exclude-ephemeral", "BOOL", OnOff, Switch, statsd.exclude_ephemeral,
        "Leaves out topics and channels that are #ephemeral"),
    applied!("e2e-processing-latency-percentile", "N", Percentiles, Many, latency.percentiles,
        "A quantile, over 0 and up to 1, of the time from publishing to FIN, to be shown in /stats, /metrics and \
         statsd").with_file_key("e2e_processing_latency_percentiles"),
    applied!("e2e-processing-latency-window-time", "TIME", GoDuration, Duration, latency.window,
        "How far back these quantiles look"),
    ignored("sync-every", Shape::One, SYNCED),
    ignored("sync-timeout", Shape::Duration, SYNCED),
    ignored("max-bytes-per-file", Shape::One, SEGMENTS),
    ignored("queue-scan-interval", Shape::Duration, TIMERS),
    ignored("queue-scan-refresh-interval", Shape::Duration, TIMERS),
    ignored("queue-scan-selection-count", Shape::One, TIMERS),
    ignored("queue-scan-worker-pool-max", Shape::One, TIMERS),
    ignored("queue-scan-dirty-percent", Shape::One, TIMERS),
    ignored("node-id", Shape::One, IDENTITY).with_file_key("id"),
    ignored("worker-id", Shape::One, IDENTITY),
    ignored("enable-experiment", Shape::Many, "no experiment is known here"),
    ignored("tombstone-lifetime", Shape::Duration, "a hidden producer stays hidden for 45 s"),
    ignored("verbose", Shape::Switch, "use --log-level=debug"),
];
