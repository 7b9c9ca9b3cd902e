//! `IDENTIFY`: who a client is, what it asks for, and what it is granted.
//!
//! The JSON is read by Go's rules, which clients in other languages have come to lean on: keys match
//! whatever their case, `null` leaves a value as it is, the last of several wins, unknown keys are ignored,
//! and a number with a fraction is no integer.

use super::ClientError;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use std::{fmt, time::Duration};

/// The smallest heartbeat interval and message timeout a client may ask for.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The smallest output buffer a client may ask for, in bytes, unless it asks for none.
const OUTPUT_BUFFER_SIZE_MIN: usize = 64;

/// What a node grants when it is not asked, and the most it grants when it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentifyLimits {
    /// The heartbeat interval of a client that names none.
    pub heartbeat_interval: Duration,
    /// The longest heartbeat interval: a client that dies is noticed after two of them.
    pub max_heartbeat_interval: Duration,
    /// The output buffer of a client that names none, in bytes.
    pub output_buffer_size: usize,
    /// The largest output buffer, in bytes, held for each connection.
    pub max_output_buffer_size: usize,
    /// How long messages may sit in the output buffer of a client that does not say.
    pub output_buffer_timeout: Duration,
    /// The shortest such time a client may ask for, unless it asks for none.
    pub min_output_buffer_timeout: Duration,
    /// The longest such time.
    pub max_output_buffer_timeout: Duration,
    /// How long a client that does not say has for a message before it is given to another.
    pub msg_timeout: Duration,
    /// The longest such time.
    pub max_msg_timeout: Duration,
}

/// What a client said of itself, its requests already settled within [`IdentifyLimits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identify {
    /// What the client calls itself; for people to read.
    pub client_id: Option<String>,
    /// The host the client says it is on; for people to read.
    pub hostname: Option<String>,
    /// The client's library and version, or empty.
    pub user_agent: String,
    /// Whether the client can read an [`IdentifyReply`]. If not it gets `OK`, and no TLS or compression.
    pub feature_negotiation: bool,
    /// How often the node sends a heartbeat; `None` for a client that wants none, and may not `SUB`.
    pub heartbeat: Option<Duration>,
    /// The output buffer, in bytes; 1 for a client that wants none.
    pub output_buffer_size: usize,
    /// How long messages may sit in the output buffer; `None` if time is no reason to flush it.
    pub output_buffer_timeout: Option<Duration>,
    /// Whether the client asks for TLS.
    pub tls_v1: bool,
    /// Whether the client asks for snappy.
    pub snappy: bool,
    /// Whether the client asks for deflate.
    pub deflate: bool,
    /// The deflate level asked for, any number; 0 or less is no wish.
    pub deflate_level: i64,
    /// How many percent of the messages the client wants, 1 to 99; 0 is all of them.
    pub sample_rate: u8,
    /// How long the client has for a message before it is given to another.
    pub msg_timeout: Duration,
    /// Where the client is, for consumption close to home; or empty.
    pub topology_region: String,
    /// Where in its region the client is; or empty.
    pub topology_zone: String,
}

impl Identify {
    /// Reads the body of an `IDENTIFY` and settles what it asks for. The first value out of bounds fails
    /// the whole, in nsqd's order: heartbeat, output timeout, output size, sample rate, message timeout.
    ///
    /// Takes memory in proportion to `body`, whose length the decoder has limited.
    pub fn parse(body: &[u8], limits: &IdentifyLimits) -> Result<Self, ClientError> {
        // Go replaces what is not UTF-8 rather than refuse it.
        let text = String::from_utf8_lossy(body);
        let asked: Option<Asked> = serde_json::from_str(&text).map_err(|_| ClientError::identify_json())?;
        let asked = asked.unwrap_or_default();

        let heartbeat = heartbeat(asked.heartbeat_interval.unwrap_or(0), limits)?;
        let timeout = output_buffer_timeout(asked.output_buffer_timeout.unwrap_or(0), limits)?;
        let (output_buffer_size, output_buffer_timeout) =
            match output_buffer_size(asked.output_buffer_size.unwrap_or(0), limits)? {
                Some(size) => (size, timeout),
                None => (1, None),
            };
        let sample_rate = sample_rate(asked.sample_rate.unwrap_or(0))?;
        let msg_timeout = msg_timeout(asked.msg_timeout.unwrap_or(0), limits)?;
        Ok(Self {
            client_id: asked.client_id,
            hostname: asked.hostname,
            user_agent: asked.user_agent.unwrap_or_default(),
            feature_negotiation: asked.feature_negotiation.unwrap_or(false),
            heartbeat,
            output_buffer_size,
            output_buffer_timeout,
            tls_v1: asked.tls_v1.unwrap_or(false),
            snappy: asked.snappy.unwrap_or(false),
            deflate: asked.deflate.unwrap_or(false),
            deflate_level: asked.deflate_level.unwrap_or(0),
            sample_rate,
            msg_timeout,
            topology_region: asked.topology_region.unwrap_or_default(),
            topology_zone: asked.topology_zone.unwrap_or_default(),
        })
    }
}

/// What a node answers a client that negotiates. The keys are in nsqd's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IdentifyReply<'a> {
    /// The highest `RDY`. Never 0: go-nsq holds itself to it.
    pub max_rdy_count: u64,
    /// The node's version, as semver.
    pub version: &'a str,
    /// The longest message timeout, in milliseconds.
    pub max_msg_timeout: u64,
    /// The message timeout granted, in milliseconds.
    pub msg_timeout: u64,
    /// Whether TLS starts now.
    pub tls_v1: bool,
    /// Whether deflate starts now.
    pub deflate: bool,
    /// The deflate level granted, even without deflate.
    pub deflate_level: u32,
    /// The highest deflate level.
    pub max_deflate_level: u32,
    /// Whether snappy starts now.
    pub snappy: bool,
    /// The sample rate granted, in percent; 0 is all messages.
    pub sample_rate: u8,
    /// Whether the client must `AUTH` next.
    pub auth_required: bool,
    /// The output buffer granted, in bytes; 1 is none.
    pub output_buffer_size: usize,
    /// The output buffer's timeout granted, in milliseconds; 0 is none.
    pub output_buffer_timeout: u64,
    /// Where the node is, not the client; or empty.
    pub topology_region: &'a str,
    /// Where in its region the node is; or empty.
    pub topology_zone: &'a str,
}

impl IdentifyReply<'_> {
    /// The reply as the JSON that a response frame carries.
    pub fn to_json(&self) -> Vec<u8> {
        // Numbers, booleans and strings cannot fail to serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn heartbeat(asked_ms: i64, limits: &IdentifyLimits) -> Result<Option<Duration>, ClientError> {
    match asked_ms {
        -1 => Ok(None),
        0 => Ok(Some(limits.heartbeat_interval)),
        _ => between(asked_ms, INTERVAL_MIN, limits.max_heartbeat_interval)
            .map(Some)
            .ok_or_else(|| ClientError::identify_value("heartbeat interval", asked_ms)),
    }
}

fn output_buffer_timeout(asked_ms: i64, limits: &IdentifyLimits) -> Result<Option<Duration>, ClientError> {
    match asked_ms {
        -1 => Ok(None),
        0 => Ok(Some(limits.output_buffer_timeout)),
        _ => between(asked_ms, limits.min_output_buffer_timeout, limits.max_output_buffer_timeout)
            .map(Some)
            .ok_or_else(|| ClientError::identify_value("output buffer timeout", asked_ms)),
    }
}

/// `None` if the client wants no buffer, and then no timeout for it either.
fn output_buffer_size(asked: i64, limits: &IdentifyLimits) -> Result<Option<usize>, ClientError> {
    let allowed = OUTPUT_BUFFER_SIZE_MIN..=limits.max_output_buffer_size;
    match usize::try_from(asked) {
        Err(_) if asked == -1 => Ok(None),
        Ok(0) => Ok(Some(limits.output_buffer_size)),
        Ok(size) if allowed.contains(&size) => Ok(Some(size)),
        _ => Err(ClientError::identify_value("output buffer size", asked)),
    }
}

fn sample_rate(asked: i32) -> Result<u8, ClientError> {
    u8::try_from(asked)
        .ok()
        .filter(|rate| *rate <= 99)
        .ok_or_else(|| ClientError::identify_value("sample rate", asked.into()))
}

fn msg_timeout(asked_ms: i64, limits: &IdentifyLimits) -> Result<Duration, ClientError> {
    match asked_ms {
        0 => Ok(limits.msg_timeout),
        _ => between(asked_ms, INTERVAL_MIN, limits.max_msg_timeout)
            .ok_or_else(|| ClientError::identify_value("msg timeout", asked_ms)),
    }
}

fn between(asked_ms: i64, min: Duration, max: Duration) -> Option<Duration> {
    let asked = Duration::from_millis(u64::try_from(asked_ms).ok()?);
    (min..=max).contains(&asked).then_some(asked)
}

/// The fields as they were sent. The integers are as wide as nsqd's, since what does not fit is bad JSON
/// there and not a bad value.
#[derive(Default)]
struct Asked {
    client_id: Option<String>,
    hostname: Option<String>,
    user_agent: Option<String>,
    feature_negotiation: Option<bool>,
    heartbeat_interval: Option<i64>,
    output_buffer_size: Option<i64>,
    output_buffer_timeout: Option<i64>,
    tls_v1: Option<bool>,
    snappy: Option<bool>,
    deflate: Option<bool>,
    deflate_level: Option<i64>,
    sample_rate: Option<i32>,
    msg_timeout: Option<i64>,
    topology_region: Option<String>,
    topology_zone: Option<String>,
}

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AskedVisitor)
    }
}

struct AskedVisitor;

impl<'de> Visitor<'de> for AskedVisitor {
    type Value = Asked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Asked, A::Error> {
        let mut asked = Asked::default();
        while let Some(key) = map.next_key::<String>()? {
            match fold(&key).as_str() {
                "client_id" => set(&mut asked.client_id, &mut map)?,
                "hostname" => set(&mut asked.hostname, &mut map)?,
                "user_agent" => set(&mut asked.user_agent, &mut map)?,
                "feature_negotiation" => set(&mut asked.feature_negotiation, &mut map)?,
                "heartbeat_interval" => set(&mut asked.heartbeat_interval, &mut map)?,
                "output_buffer_size" => set(&mut asked.output_buffer_size, &mut map)?,
                "output_buffer_timeout" => set(&mut asked.output_buffer_timeout, &mut map)?,
                "tls_v1" => set(&mut asked.tls_v1, &mut map)?,
                "snappy" => set(&mut asked.snappy, &mut map)?,
                "deflate" => set(&mut asked.deflate, &mut map)?,
                "deflate_level" => set(&mut asked.deflate_level, &mut map)?,
                "sample_rate" => set(&mut asked.sample_rate, &mut map)?,
                "msg_timeout" => set(&mut asked.msg_timeout, &mut map)?,
                "topology_region" => set(&mut asked.topology_region, &mut map)?,
                "topology_zone" => set(&mut asked.topology_zone, &mut map)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(asked)
    }
}

pub(crate) fn set<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    map: &mut A,
) -> Result<(), A::Error> {
    if let Some(value) = map.next_value::<Option<T>>()? {
        *slot = Some(value);
    }
    Ok(())
}

/// A key in lower case as Go folds it, to which two letters outside ASCII are an `s` and a `k`.
pub(crate) fn fold(key: &str) -> String {
    let fold = |c: char| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        _ => c.to_ascii_lowercase(),
    };
    key.chars().map(fold).collect()
}

#[cfg(test)]
mod tests;
