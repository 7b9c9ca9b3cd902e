//! What the node says about itself: `/ping`, `/info`, and the debugging endpoints that scripts call.

use std::time::UNIX_EPOCH;

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use serde::Serialize;

use super::{BRUIT_VERSION, HttpState, NSQ_VERSION, query::Query, reply};

/// `GET /ping`: `OK`, or 500 and the last error of the disk until a write succeeds again.
pub(super) async fn ping(State(state): State<HttpState>) -> Response {
    match state.broker.health() {
        Ok(()) => reply::bare_text(StatusCode::OK, "OK"),
        Err(error) => reply::bare_text(StatusCode::INTERNAL_SERVER_ERROR, format!("NOK - {error}")),
    }
}

/// `GET /info`
pub(super) async fn info(State(state): State<HttpState>) -> Response {
    let config = &state.config;
    let limits = &config.limits;
    reply::json(&Info {
        version: NSQ_VERSION,
        broadcast_address: config.broadcast_address(),
        hostname: &config.hostname,
        http_port: state.http_port,
        tcp_port: state.tcp_port,
        start_time: state.start_time(),
        max_heartbeat_interval: limits.max_heartbeat_interval.as_nanos(),
        max_output_buffer_size: limits.max_output_buffer_size,
        max_output_buffer_timeout: limits.max_output_buffer_timeout.as_nanos(),
        max_deflate_level: limits.max_deflate_level,
        topology_zone: &config.topology_zone,
        topology_region: &config.topology_region,
        bruit_version: BRUIT_VERSION,
    })
}

/// `PUT /debug/setblockrate?rate=` is for Go's profiler. A script that calls it is answered.
pub(super) async fn set_block_rate(uri: Uri) -> Response {
    let rate = Query::of(&uri).ok().and_then(|query| query.first("rate"));
    match rate.is_some_and(|rate| rate.parse::<i64>().is_ok()) {
        true => reply::bare_text(StatusCode::OK, ""),
        false => reply::bare_text(StatusCode::BAD_REQUEST, "invalid block rate"),
    }
}

/// `POST /debug/freememory` is for Go's collector. A script that calls it is answered.
pub(super) async fn free_memory() -> Response {
    reply::bare_text(StatusCode::OK, "")
}

impl HttpState {
    /// When the node started, seconds since 1970.
    pub(super) fn start_time(&self) -> u64 {
        self.started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// Durations are nanoseconds.
#[derive(Serialize)]
struct Info<'a> {
    version: &'a str,
    broadcast_address: &'a str,
    hostname: &'a str,
    http_port: u16,
    tcp_port: u16,
    start_time: u64,
    max_heartbeat_interval: u128,
    max_output_buffer_size: usize,
    max_output_buffer_timeout: u128,
    max_deflate_level: u32,
    topology_zone: &'a str,
    topology_region: &'a str,
    bruit_version: &'a str,
}
