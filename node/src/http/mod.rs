//! The HTTP API of nsqd and of nsqlookupd, on one port; figures; and what bruit's own tools ask.
//!
//! A request passes `serve` (connections and their limits), `route` (paths and methods), perhaps a `guard`, one handler
//! (nsqd's: `publish`, `admin`, `stats`, `options`, `info`; nsqlookupd's: `lookup`, `nodes`, `names`; bruit's:
//! `mesh`, `metrics` with `series`), which reads its `query` and perhaps its `body`, and makes a `reply`. Where both daemons
//! have a path, the answer is nsqd's; `lookup_app` is for those who need nsqlookupd's. Everything runs on the
//! background runtime: HTTP may be slow without slowing messages.
//!
//! **Invariant:** nothing a client sends makes this module hold more than its named limits: connections and
//! header sizes in `serve`, bodies in `body`, pieces of long answers in `document`.

mod admin;
mod body;
mod document;
#[cfg(test)]
mod fixture;
mod guard;
mod info;
mod keys;
mod known;
mod lookup;
mod mesh;
mod metrics;
mod names;
mod nodes;
mod options;
mod patience;
mod publish;
mod query;
pub(crate) mod reach;
mod refusals;
mod reply;
mod route;
mod series;
mod serve;
mod stats;
mod stats_json;
mod stats_text;

use std::{sync::Arc, time::SystemTime};

use tokio::time::Instant;

pub(crate) use self::serve::{Face, serve};
use self::{
    body::Bodies,
    guard::Guard,
    options::LiveOptions,
    refusals::Refusals,
    route::{App, Routes},
};
use crate::{
    Config, auth::Auth, broker::Broker, env::Env, lookupd::Lookups, mesh::MeshHandle, relay::Relays,
};

/// The version of nsqd whose behaviour clients find here. Client libraries and nsqadmin compare it.
pub(crate) const NSQ_VERSION: &str = "1.3.0";
/// What Go's runtime would say of its heap; the values have no meaning here.
pub(crate) const GO_MEMORY: [&str; 8] = [
    "heap_objects",
    "heap_idle_bytes",
    "heap_in_use_bytes",
    "heap_released_bytes",
    "gc_pause_usec_100",
    "gc_pause_usec_99",
    "gc_pause_usec_95",
    "next_gc_bytes",
];
/// The version of bruit itself.
const BRUIT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the handlers work with. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct HttpState {
    broker: Arc<Broker>,
    mesh: MeshHandle,
    relays: Arc<Relays>,
    config: Arc<Config>,
    env: Env,
    /// When the node started, by the wall clock, to be shown.
    started: SystemTime,
    /// When the node started, by the clock that does not step.
    started_at: Instant,
    /// The ports that are really bound.
    tcp_port: u16,
    http_port: u16,
    bodies: Bodies,
    options: Arc<LiveOptions>,
    refusals: Arc<Refusals>,
    auth: Option<Arc<Auth>>,
    guard: Option<Arc<Guard>>,
}

/// The ports that a node really listens on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    /// For clients.
    pub(crate) tcp: u16,
    /// For HTTP.
    pub(crate) http: u16,
}

impl HttpState {
    /// The state of a node that starts now. `log_level` is the level that holds at start, by NSQ's word for
    /// it; `set_log_level` applies another one.
    #[expect(clippy::too_many_arguments, reason = "the one place that puts the parts together")]
    pub(crate) fn new(
        broker: Arc<Broker>,
        mesh: MeshHandle,
        relays: Arc<Relays>,
        lookups: Arc<Lookups>,
        config: Arc<Config>,
        env: Env,
        ports: Ports,
        auth: Option<Arc<Auth>>,
    ) -> Self {
        let log = &config.log;
        let options = LiveOptions::new(log.level.clone(), Arc::clone(&log.set), lookups);
        let bodies = Bodies::new(&config.limits);
        Self {
            broker,
            mesh,
            relays,
            started: env.wall.now(),
            started_at: Instant::now(),
            env,
            tcp_port: ports.tcp,
            http_port: ports.http,
            bodies,
            options: Arc::new(options),
            guard: Guard::new(config.auth.http, auth.as_ref()),
            auth,
            config,
            refusals: Arc::new(Refusals::default()),
        }
    }
}

/// Every endpoint, for the HTTP port.
fn app(state: HttpState) -> App {
    Routes::new()
        .get("/ping", info::ping)
        .get("/info", info::info)
        .get("/stats", stats::stats)
        .post("/pub", publish::publish)
        .post("/mpub", publish::multi_publish)
        .post("/topic/create", admin::create_topic)
        .post("/topic/delete", admin::delete_topic)
        .post("/topic/empty", admin::empty_topic)
        .post("/topic/pause", admin::pause_topic)
        .post("/topic/unpause", admin::unpause_topic)
        .post("/channel/create", admin::create_channel)
        .post("/channel/delete", admin::delete_channel)
        .post("/channel/empty", admin::empty_channel)
        .post("/channel/pause", admin::pause_channel)
        .post("/channel/unpause", admin::unpause_channel)
        .get("/config/{option}", options::read)
        .put("/config/{option}", options::write)
        .put("/debug/setblockrate", info::set_block_rate)
        .post("/debug/freememory", info::free_memory)
        .get("/mesh/keys", keys::offer)
        .post("/mesh/keys", keys::change)
        .get("/lookup", lookup::lookup)
        .get("/topics", lookup::topics)
        .get("/channels", lookup::channels)
        .get("/nodes", nodes::nodes)
        .get("/debug", nodes::debug)
        .post("/topic/tombstone", nodes::tombstone)
        .get("/mesh/members", mesh::members)
        .get("/mesh/topics", mesh::topics)
        .get("/mesh/stats", mesh::stats)
        .post("/mesh/join", mesh::join)
        .post("/mesh/leave", mesh::leave)
        .get("/metrics", metrics::metrics)
        .into_app(state)
}

/// nsqlookupd's endpoints with its own rules, for a port of their own.
fn lookup_app(state: HttpState) -> App {
    Routes::new()
        .get("/ping", lookup::ping)
        .get("/info", lookup::info)
        .get("/lookup", lookup::lookup)
        .get("/topics", lookup::topics)
        .get("/channels", lookup::channels)
        .get("/nodes", nodes::nodes)
        .get("/debug", nodes::debug)
        .post("/topic/create", names::create_topic)
        .post("/topic/delete", names::delete_topic)
        .post("/topic/tombstone", nodes::tombstone)
        .post("/channel/create", names::create_channel)
        .post("/channel/delete", names::delete_channel)
        .into_app(state)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::fixture::{Fixture, error, ok};

    #[tokio::test]
    async fn what_is_published_is_counted() {
        let node = Fixture::start().await;
        assert_eq!(node.post("/pub?topic=t", "one").await, ok("OK"));
        assert_eq!(node.post("/mpub?topic=t", "two\nthree\n").await, ok("OK"));
        assert_eq!(node.post("/mpub?topic=t&binary=1", "\0\0\0\x01\0\0\0\x01x").await, ok("OK"));
        assert_eq!(node.post("/mpub?topic=empty", "").await, ok("OK"));
        assert_eq!(node.post("/pub?topic=t", "longer than ten").await, error(413, "MSG_TOO_BIG"));
        assert_eq!(node.post("/pub?topic=t&defer=x", "one").await, error(400, "INVALID_DEFER"));
        let topics = node.topics("").await;
        assert_eq!(topics[0]["topic_name"], "empty");
        assert_eq!(topics[0]["message_count"], 0);
        assert_eq!(topics[1]["message_count"], 4);
        assert_eq!(topics[1]["message_bytes"], 12);
        assert_eq!(topics[1]["depth"], 4);
    }

    #[tokio::test]
    async fn topics_and_channels_are_made_changed_and_unmade() {
        let node = Fixture::start().await;
        let missing = error(404, "TOPIC_NOT_FOUND");
        assert_eq!(node.post("/channel/create?topic=t&channel=c", "").await, missing);
        assert_eq!(node.post("/topic/pause?topic=t", "").await, missing);
        for target in [
            "/topic/create?topic=t",
            "/channel/create?topic=t&channel=c",
            "/topic/pause?topic=t",
            "/channel/pause?topic=t&channel=c",
        ] {
            assert_eq!(node.post(target, "").await, ok(""), "{target}");
        }
        let topics = node.topics("").await;
        assert_eq!((&topics[0]["paused"], &topics[0]["channels"][0]["paused"]), (&json!(true), &json!(true)));
        assert_eq!(node.post("/pub?topic=t", "one").await, ok("OK"));
        assert_eq!(node.topics("").await[0]["depth"], 1);
        for target in ["/topic/empty?topic=t", "/topic/unpause?topic=t", "/channel/unpause?topic=t&channel=c"]
        {
            assert_eq!(node.post(target, "").await, ok(""), "{target}");
        }
        let topics = node.topics("").await;
        assert_eq!(
            (&topics[0]["paused"], &topics[0]["channels"][0]["paused"]),
            (&json!(false), &json!(false))
        );
        assert_eq!(topics[0]["depth"], 0);
        assert_eq!(node.post("/channel/empty?topic=t&channel=c", "").await, ok(""));
        assert_eq!(node.post("/channel/delete?topic=t&channel=c", "").await, ok(""));
        assert_eq!(node.post("/channel/delete?topic=t&channel=d", "").await, error(404, "CHANNEL_NOT_FOUND"));
        assert_eq!(node.post("/topic/delete?topic=t", "").await, ok(""));
        assert_eq!(node.topics("").await, json!([]));
    }

    #[tokio::test]
    async fn filters_tell_an_unknown_topic_from_one_without_the_channel() {
        let node = Fixture::start().await;
        for target in ["/topic/create?topic=a", "/topic/create?topic=b", "/channel/create?topic=b&channel=c"]
        {
            assert_eq!(node.post(target, "").await, ok(""), "{target}");
        }
        assert_eq!(node.topics("&topic=none").await, Value::Null);
        assert_eq!(node.topics("&topic=a&channel=c").await, json!([]));
        let topics = node.topics("&channel=c").await;
        assert_eq!((topics.as_array().map(Vec::len), &topics[0]["topic_name"]), (Some(1), &json!("b")));
    }

    #[tokio::test]
    async fn a_stopping_node_says_so() {
        let node = Fixture::start().await;
        assert_eq!(node.post("/topic/create?topic=t", "").await, ok(""));
        node.broker.refuse();
        assert_eq!(node.post("/pub?topic=t", "one").await, error(503, "EXITING"));
        assert_eq!(node.post("/topic/create?topic=new", "").await, error(503, "EXITING"));
        node.exit.tell();
    }
}
