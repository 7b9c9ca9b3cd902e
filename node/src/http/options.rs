//! `/config/<option>`: reading options, and changing the two that can be changed while the node runs.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    extract::{Path, Request, State},
    response::Response,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    HttpState,
    reply::{self, ApiError},
};
use crate::{AuthMethod, Config, lookupd::Lookups};

const INVALID_OPTION: ApiError = ApiError::bad("INVALID_OPTION");
const INVALID_VALUE: ApiError = ApiError::bad("INVALID_VALUE");
/// Log levels from the most to the least talkative. NSQ numbers them from 1.
const LOG_LEVELS: [&str; 5] = ["debug", "info", "warn", "error", "fatal"];

/// Applies a log level of [`LOG_LEVELS`]; false when it cannot be applied.
type SetLogLevel = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The options that change while the node runs.
pub(super) struct LiveOptions {
    set_log_level: SetLogLevel,
    log_level: Mutex<String>,
    lookups: Arc<Lookups>,
}

impl fmt::Debug for LiveOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveOptions").finish_non_exhaustive()
    }
}

impl LiveOptions {
    pub(super) fn new(log_level: String, set_log_level: SetLogLevel, lookups: Arc<Lookups>) -> Self {
        Self { set_log_level, log_level: Mutex::new(log_level), lookups }
    }

    fn set(&self, option: &str, value: &[u8]) -> Result<(), ApiError> {
        match option {
            "log_level" => {
                let level = std::str::from_utf8(value).map_err(|_| INVALID_VALUE)?.to_ascii_lowercase();
                if !LOG_LEVELS.contains(&&*level) || !(self.set_log_level)(&level) {
                    return Err(INVALID_VALUE);
                }
                *self.log_level.lock() = level;
            }
            "nsqlookupd_tcp_addresses" => {
                let addresses = serde_json::from_slice(value).map_err(|_| INVALID_VALUE)?;
                if !self.lookups.set(addresses) {
                    return Err(INVALID_VALUE);
                }
            }
            _ => return Err(INVALID_OPTION),
        }
        Ok(())
    }

    fn log_level_number(&self) -> usize {
        let current = self.log_level.lock();
        LOG_LEVELS.iter().position(|level| *level == *current).map_or(2, |index| index + 1)
    }
}

/// `GET /config/<option>`
pub(super) async fn read(
    State(state): State<HttpState>,
    Path(option): Path<String>,
) -> Result<Response, ApiError> {
    shown(&state, &option)
}

/// `PUT /config/<option>`: the body is the new value, and so is the answer.
pub(super) async fn write(
    State(state): State<HttpState>,
    Path(option): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let taken = state.bodies.take(&parts.headers, body, state.config.limits.max_msg_size).await;
    let value = taken.map_err(|error| error.reply("INVALID_VALUE"))?;
    if value.is_empty() {
        return Err(ApiError::too_large("INVALID_VALUE"));
    }
    state.options.set(&option, &value)?;
    tracing::info!(option, "an option was changed over HTTP");
    shown(&state, &option)
}

fn shown(state: &HttpState, option: &str) -> Result<Response, ApiError> {
    match value(&state.config, &state.options, option).ok_or(INVALID_OPTION)? {
        Value::String(text) => Ok(reply::text(text)),
        other => Ok(reply::json(&other)),
    }
}

/// An option under the name that nsqd's configuration file gives it. Durations are nanoseconds.
fn value(config: &Config, live: &LiveOptions, option: &str) -> Option<Value> {
    let limits = &config.limits;
    let nanoseconds = |duration: Duration| json!(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    Some(match option {
        "log_level" => json!(live.log_level_number()),
        "nsqlookupd_tcp_addresses" => json!(live.lookups.addresses()),
        "tcp_address" => json!(config.tcp_address.to_string()),
        "http_address" => json!(config.http_address.map(|address| address.to_string()).unwrap_or_default()),
        "https_address" => json!(config.https_address.map(|address| address.to_string()).unwrap_or_default()),
        "tls_cert" => json!(config.tls.cert.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default()),
        "tls_key" => json!(config.tls.key.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default()),
        "broadcast_address" => json!(config.broadcast_address()),
        "broadcast_tcp_port" => json!(config.broadcast_tcp_port.unwrap_or_default()),
        "broadcast_http_port" => json!(config.broadcast_http_port.unwrap_or_default()),
        "data_path" => json!(config.data_path.to_string_lossy()),
        "topology_region" => json!(config.topology_region),
        "topology_zone" => json!(config.topology_zone),
        "max_msg_size" => json!(limits.max_msg_size),
        "max_body_size" => json!(limits.max_body_size),
        "max_rdy_count" => json!(limits.max_rdy_count),
        "max_channel_consumers" => json!(limits.max_channel_consumers),
        "max_output_buffer_size" => json!(limits.max_output_buffer_size),
        "mem_queue_size" => json!(limits.mem_queue_size),
        "max_bytes_per_file" => json!(config.journal.segment_size),
        "max_deflate_level" => json!(limits.max_deflate_level),
        "msg_timeout" => nanoseconds(limits.msg_timeout),
        "max_msg_timeout" => nanoseconds(limits.max_msg_timeout),
        "max_req_timeout" => nanoseconds(limits.max_req_timeout),
        "max_defer_timeout" => nanoseconds(limits.max_defer_timeout),
        "max_heartbeat_interval" => nanoseconds(limits.max_heartbeat_interval),
        "max_output_buffer_timeout" => nanoseconds(limits.max_output_buffer_timeout),
        "min_output_buffer_timeout" => nanoseconds(limits.min_output_buffer_timeout),
        "output_buffer_timeout" => nanoseconds(limits.output_buffer_timeout),
        "deflate" => json!(limits.deflate),
        "snappy" => json!(limits.snappy),
        "auth_http_addresses" => {
            json!(config.auth.servers.iter().map(|server| &server.text).collect::<Vec<_>>())
        }
        "auth_http_request_method" => match config.auth.method {
            AuthMethod::Get => json!("get"),
            AuthMethod::Post => json!("post"),
        },
        "http_client_connect_timeout" => nanoseconds(config.auth.connect_timeout),
        "http_client_request_timeout" => nanoseconds(config.auth.request_timeout),
        "statsd_address" => json!(config.statsd.address.as_deref().unwrap_or_default()),
        "statsd_prefix" => json!(config.statsd.prefix),
        "statsd_interval" => nanoseconds(config.statsd.interval),
        "statsd_mem_stats" => json!(config.statsd.memory),
        "statsd_udp_packet_size" => json!(config.statsd.packet_size),
        "statsd_exclude_ephemeral" => json!(config.statsd.exclude_ephemeral),
        "e2e_processing_latency_percentiles" => json!(config.latency.percentiles),
        "e2e_processing_latency_window_time" => nanoseconds(config.latency.window),
        "enable_experiment" => json!([]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> LiveOptions {
        LiveOptions::new("info".to_owned(), Arc::new(|level| level != "fatal"), Arc::default())
    }

    fn read(live: &LiveOptions, option: &str) -> Option<String> {
        value(&Config::default(), live, option).map(|value| value.to_string())
    }

    #[test]
    fn log_level_is_set_by_word_and_read_as_a_number() {
        let live = live();
        assert_eq!(read(&live, "log_level").as_deref(), Some("2"));
        live.set("log_level", b"DEBUG").unwrap();
        assert_eq!(read(&live, "log_level").as_deref(), Some("1"));
        for refused in [&b"loud"[..], b"", b"debug\n", b"\xff", b"fatal"] {
            assert_eq!(live.set("log_level", refused), Err(INVALID_VALUE));
        }
        assert_eq!(read(&live, "log_level").as_deref(), Some("1"));
    }

    #[test]
    fn lookup_addresses_are_a_json_array_of_strings() {
        let live = live();
        assert_eq!(read(&live, "nsqlookupd_tcp_addresses").as_deref(), Some("[]"));
        live.set("nsqlookupd_tcp_addresses", br#"["a:4160","b:4160"]"#).unwrap();
        assert_eq!(read(&live, "nsqlookupd_tcp_addresses").as_deref(), Some(r#"["a:4160","b:4160"]"#));
        for refused in [&b"a:4160"[..], b"{}", b"[1]", b"[\"a\"] x"] {
            assert_eq!(live.set("nsqlookupd_tcp_addresses", refused), Err(INVALID_VALUE));
        }
    }

    #[test]
    fn durations_are_nanoseconds_and_other_options_cannot_be_set() {
        let live = live();
        assert_eq!(read(&live, "msg_timeout").as_deref(), Some("60000000000"));
        assert_eq!(read(&live, "no_such_option"), None);
        assert_eq!(live.set("msg_timeout", b"1"), Err(INVALID_OPTION));
    }
}
