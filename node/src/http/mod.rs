//! nsqd's HTTP API.
//!
//! A request passes `serve` (connections and their limits), `route` (paths and methods), one handler
//! (`publish`, `admin`, `stats`, `options`, `info`), which reads its `query` and perhaps its `body`, and makes
//! a `reply`. Everything runs on the background runtime: HTTP may be slow without slowing messages.
//!
//! **Invariant:** nothing a client sends makes this module hold more than its named limits: connections and
//! header sizes in `serve`, bodies in `body`.

mod admin;
mod body;
mod info;
mod options;
mod patience;
mod publish;
mod query;
mod refusals;
mod reply;
mod route;
mod serve;
mod stats;
mod stats_json;
mod stats_text;

use std::{sync::Arc, time::SystemTime};

use tokio::time::Instant;

use self::{
    body::Bodies,
    options::LiveOptions,
    refusals::Refusals,
    route::{App, Routes},
};
pub(crate) use self::{options::SetLogLevel, serve::serve};
use crate::{Config, broker::Broker, env::Env};

/// The version of nsqd whose behaviour clients find here. Client libraries and nsqadmin compare it.
pub(crate) const NSQ_VERSION: &str = "1.3.0";
/// The version of bruit itself.
const BRUIT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the handlers work with. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct HttpState {
    broker: Arc<Broker>,
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
    pub(crate) fn new(
        broker: Arc<Broker>,
        config: Arc<Config>,
        env: Env,
        ports: Ports,
        log_level: &str,
        set_log_level: SetLogLevel,
    ) -> Self {
        let bodies = Bodies::new(&config.limits);
        Self {
            broker,
            config,
            started: env.wall.now(),
            started_at: Instant::now(),
            env,
            tcp_port: ports.tcp,
            http_port: ports.http,
            bodies,
            options: Arc::new(LiveOptions::new(log_level.to_owned(), set_log_level)),
            refusals: Arc::new(Refusals::default()),
        }
    }
}

/// Every endpoint.
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
        .into_app(state)
}
