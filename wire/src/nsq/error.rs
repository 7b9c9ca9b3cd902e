//! What a node tells a client that asked for something it cannot have: every text that nsqd sends.
//!
//! Clients act on the code, some on the second word (`E_FIN_FAILED FIN ...`), so texts are kept to the
//! letter, quirks included.

use super::{FrameType, put_frame};
use crate::quote::go_quote;
use std::{borrow::Cow, fmt};

/// An error that the client is told of. Always the client's doing or the node's refusal, never a fault of
/// the connection itself.
///
/// Displays as the body of its error frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError {
    /// What clients match on, such as `E_INVALID`. Empty for an error that is owed no frame at all: see
    /// [`is_silent`](Self::is_silent).
    pub code: &'static str,
    /// What follows the code, and may be empty.
    pub text: Cow<'static, str>,
    /// Whether the node closes the connection after the frame.
    pub fatal: bool,
}

impl std::error::Error for ClientError {}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)?;
        if !self.text.is_empty() {
            write!(f, " {}", self.text)?;
        }
        Ok(())
    }
}

impl ClientError {
    /// Whether the connection is to be closed without an error frame, as for a line that never ends.
    pub fn is_silent(&self) -> bool {
        self.code.is_empty()
    }

    /// Appends the error's frame, or nothing if it [`is_silent`](Self::is_silent).
    pub fn put_frame(&self, out: &mut Vec<u8>) {
        if !self.is_silent() {
            put_frame(out, FrameType::Error, self.to_string().as_bytes());
        }
    }

    fn fatal(code: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into(), fatal: true }
    }

    fn harmless(code: &'static str, text: String) -> Self {
        Self { code, text: text.into(), fatal: false }
    }
}

/// Lines and states.
impl ClientError {
    /// A command line longer than a node will hold: dropped without a frame.
    pub fn line_too_long() -> Self {
        Self::fatal("", "")
    }

    /// The connection did not open with [`MAGIC_V2`](super::MAGIC_V2).
    pub fn bad_protocol() -> Self {
        Self::fatal("E_BAD_PROTOCOL", "")
    }

    /// No command is called `word`.
    pub fn invalid_command(word: &[u8]) -> Self {
        Self::fatal("E_INVALID", format!("invalid command {}", String::from_utf8_lossy(word)))
    }

    /// `command` is not for the connection's present state.
    pub fn wrong_state(command: &str) -> Self {
        Self::fatal("E_INVALID", format!("cannot {command} in current state"))
    }

    /// `command` came before the TLS that this node insists on.
    pub fn tls_required(command: &[u8]) -> Self {
        let command = String::from_utf8_lossy(command);
        Self::fatal("E_INVALID", format!("cannot {command} in current state (TLS required)"))
    }

    /// A client that turned heartbeats off wants to consume.
    pub fn heartbeats_disabled() -> Self {
        Self::fatal("E_INVALID", "cannot SUB with heartbeats disabled")
    }

    /// `command` lacks a parameter. nsqd has two spellings, and so has this.
    pub fn insufficient_parameters(command: &str) -> Self {
        let noun = if matches!(command, "FIN" | "REQ" | "TOUCH") { "params" } else { "parameters" };
        Self::fatal("E_INVALID", format!("{command} insufficient number of {noun}"))
    }

    /// `AUTH` takes no parameter.
    pub fn auth_parameters() -> Self {
        Self::fatal("E_INVALID", "AUTH invalid number of parameters")
    }

    /// A message id in `FIN`, `REQ` or `TOUCH` that is not 16 bytes long.
    pub fn invalid_message_id() -> Self {
        Self::fatal("E_INVALID", "invalid message ID")
    }

    /// The count of `RDY` is not a number.
    pub fn unparsable_ready_count(count: &[u8]) -> Self {
        Self::fatal("E_INVALID", format!("RDY could not parse count {}", String::from_utf8_lossy(count)))
    }

    /// The count of `RDY` is above `max`, or negative once Go has made a signed number of it.
    pub fn ready_count_out_of_range(count: i64, max: u64) -> Self {
        Self::fatal("E_INVALID", format!("RDY count {count} out of range 0-{max}"))
    }

    /// The delay of `REQ` or `DPUB` is not a number.
    pub fn unparsable_timeout(command: &str, delay: &[u8]) -> Self {
        let delay = String::from_utf8_lossy(delay);
        Self::fatal("E_INVALID", format!("{command} could not parse timeout {delay}"))
    }

    /// The delay of `DPUB`, in milliseconds, is above `max`.
    pub fn defer_timeout_out_of_range(delay_ms: u64, max: u64) -> Self {
        Self::fatal("E_INVALID", format!("DPUB timeout {delay_ms} out of range 0-{max}"))
    }

    /// `name` cannot name a topic. nsqd says the code twice for `MPUB`, and so does this.
    pub fn bad_topic(command: &str, name: &[u8]) -> Self {
        let again = if command == "MPUB" { "E_BAD_TOPIC " } else { "" };
        Self::fatal("E_BAD_TOPIC", format!("{again}{command} topic name {} is not valid", go_quote(name)))
    }

    /// `name` cannot name a channel.
    pub fn bad_channel(name: &[u8]) -> Self {
        Self::fatal("E_BAD_CHANNEL", format!("SUB channel name {} is not valid", go_quote(name)))
    }
}

/// Bodies and their lengths.
impl ClientError {
    /// The client stalled or left before the 4 bytes that say how long the body of `command` is.
    pub fn body_size_unread(command: &str) -> Self {
        match command {
            "PUB" | "DPUB" => {
                Self::fatal("E_BAD_MESSAGE", format!("{command} failed to read message body size"))
            }
            _ => Self::fatal("E_BAD_BODY", format!("{command} failed to read body size")),
        }
    }

    /// The client stalled or left within the body of `command`.
    pub fn body_unread(command: &str) -> Self {
        match command {
            "PUB" | "DPUB" | "MPUB" => {
                Self::fatal("E_BAD_MESSAGE", format!("{command} failed to read message body"))
            }
            _ => Self::fatal("E_BAD_BODY", format!("{command} failed to read body")),
        }
    }

    /// The client stalled or left before the 4 bytes that say how many messages an `MPUB` holds.
    pub fn message_count_unread() -> Self {
        Self::fatal("E_BAD_BODY", "MPUB failed to read message count")
    }

    /// The client stalled or left before the length of message `index` (from 0) of an `MPUB`.
    pub fn message_size_unread(index: u32) -> Self {
        Self::fatal("E_BAD_MESSAGE", format!("MPUB failed to read message({index}) body size"))
    }

    /// The body of `command` has a length of zero or less.
    pub fn invalid_body_size(command: &str, size: i32) -> Self {
        match command {
            "PUB" | "DPUB" => {
                Self::fatal("E_BAD_MESSAGE", format!("{command} invalid message body size {size}"))
            }
            _ => Self::fatal("E_BAD_BODY", format!("{command} invalid body size {size}")),
        }
    }

    /// The number of messages of an `MPUB` is not one that its body could hold.
    pub fn invalid_message_count(count: i32) -> Self {
        Self::fatal("E_BAD_BODY", format!("MPUB invalid message count {count}"))
    }

    /// Message `index` (from 0) of an `MPUB` has a length of zero or less.
    pub fn invalid_message_size(index: u32, size: i32) -> Self {
        Self::fatal("E_BAD_MESSAGE", format!("MPUB invalid message({index}) body size {size}"))
    }

    /// A message of `size` bytes is above the limit of `max` for one message.
    pub fn message_too_big(command: &str, size: usize, max: usize) -> Self {
        Self::fatal("E_BAD_MESSAGE", format!("{command} message too big {size} > {max}"))
    }

    /// A body of `size` bytes is above the limit of `max` for one command.
    pub fn body_too_big(command: &str, size: usize, max: usize) -> Self {
        Self::fatal("E_BAD_BODY", format!("{command} body too big {size} > {max}"))
    }
}

/// What only a node can know: `IDENTIFY`, `SUB` and publishing.
impl ClientError {
    /// The body of `IDENTIFY` is not the JSON that Go would take for it.
    pub fn identify_json() -> Self {
        Self::fatal("E_BAD_BODY", "IDENTIFY failed to decode JSON body")
    }

    /// A value of `IDENTIFY` is out of bounds. `what` is nsqd's phrase for it, as in `sample rate`.
    pub fn identify_value(what: &str, value: i64) -> Self {
        Self::fatal("E_BAD_BODY", format!("IDENTIFY {what} ({value}) is invalid"))
    }

    /// The client asked for two compressions at once.
    pub fn both_compressions() -> Self {
        Self::fatal("E_IDENTIFY_FAILED", "cannot enable both deflate and snappy compression")
    }

    /// What `IDENTIFY` negotiated could not be set up.
    pub fn identify_failed(why: &str) -> Self {
        Self::fatal("E_IDENTIFY_FAILED", format!("IDENTIFY failed {why}"))
    }

    /// The node is shutting down.
    pub fn subscribe_failed_exiting() -> Self {
        Self::fatal("E_SUB_FAILED", "SUB failed exiting")
    }

    /// The topic or channel was deleted while the client subscribed to it.
    pub fn subscribe_failed_deleted() -> Self {
        Self::fatal("E_SUB_FAILED", "SUB failed to deleted topic/channel")
    }

    /// The channel has as many consumers as the node allows.
    pub fn too_many_consumers(topic: &str, channel: &str, limit: u64) -> Self {
        let text = format!("SUB failed consumers for {topic}:{channel} exceeds limit of {limit}");
        Self::fatal("E_SUB_FAILED", text)
    }

    /// `PUB`, `MPUB` or `DPUB` could not be stored; `why` is `exiting` or the disk's complaint.
    pub fn publish_failed(command: &str, why: &str) -> Self {
        let code = match command {
            "MPUB" => "E_MPUB_FAILED",
            "DPUB" => "E_DPUB_FAILED",
            _ => "E_PUB_FAILED",
        };
        Self::fatal(code, format!("{command} failed {why}"))
    }
}

/// `AUTH`.
impl ClientError {
    /// A second `AUTH` on one connection.
    pub fn auth_already_set() -> Self {
        Self::fatal("E_INVALID", "AUTH already set")
    }

    /// The node asks nobody to authenticate, so clients must not.
    pub fn auth_disabled() -> Self {
        Self::fatal("E_AUTH_DISABLED", "AUTH disabled")
    }

    /// The secret could not be checked. The client does not learn why.
    pub fn auth_failed() -> Self {
        Self::fatal("E_AUTH_FAILED", "AUTH failed")
    }

    /// The secret is known and allows nothing.
    pub fn no_authorizations() -> Self {
        Self::fatal("E_UNAUTHORIZED", "AUTH no authorizations found")
    }

    /// The secret does not allow `command` on this topic and channel (empty when publishing).
    pub fn unauthorized(command: &str, topic: &str, channel: &str) -> Self {
        let (topic, channel) = (go_quote(topic.as_bytes()), go_quote(channel.as_bytes()));
        Self::fatal("E_UNAUTHORIZED", format!("AUTH failed for {command} on {topic} {channel}"))
    }

    /// `command` came before `AUTH`, which this node insists on.
    pub fn auth_first(command: &str) -> Self {
        Self::fatal("E_AUTH_FIRST", format!("AUTH required before {command}"))
    }

    /// The reply to a good `AUTH` could not be made.
    pub fn auth_error(why: &str) -> Self {
        Self::fatal("E_AUTH_ERROR", format!("AUTH error {why}"))
    }
}

/// The errors that leave the connection open. `why` is one of the constants.
impl ClientError {
    /// The message is finished, timed out, requeued, or was never there.
    pub const NOT_IN_FLIGHT: &'static str = "ID not in flight";
    /// The message is in flight to another connection.
    pub const NOT_OWNER: &'static str = "client does not own message";
    /// The message is already waiting out a delay.
    pub const ALREADY_DEFERRED: &'static str = "ID already deferred";
    /// The channel is closing.
    pub const EXITING: &'static str = "exiting";

    /// A `FIN` came to nothing.
    pub fn finish_failed(id: &[u8; 16], why: &str) -> Self {
        Self::harmless("E_FIN_FAILED", format!("FIN {} failed {why}", String::from_utf8_lossy(id)))
    }

    /// A `REQ` came to nothing.
    pub fn requeue_failed(id: &[u8; 16], why: &str) -> Self {
        Self::harmless("E_REQ_FAILED", format!("REQ {} failed {why}", String::from_utf8_lossy(id)))
    }

    /// A `TOUCH` came to nothing.
    pub fn touch_failed(id: &[u8; 16], why: &str) -> Self {
        Self::harmless("E_TOUCH_FAILED", format!("TOUCH {} failed {why}", String::from_utf8_lossy(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: ClientError, body: &str) {
        assert_eq!(error.to_string(), body);
        assert_eq!(error.fatal, !body.contains("0123456789abcdef"), "{body}");
    }

    /// The rows that the codec cannot make by itself; the decoder's tests make the others.
    #[test]
    fn texts_are_those_of_nsqd() {
        const ID: &[u8; 16] = b"0123456789abcdef";
        check(ClientError::bad_protocol(), "E_BAD_PROTOCOL");
        check(ClientError::tls_required(b"NOP"), "E_INVALID cannot NOP in current state (TLS required)");
        check(ClientError::auth_already_set(), "E_INVALID AUTH already set");
        check(
            ClientError::both_compressions(),
            "E_IDENTIFY_FAILED cannot enable both deflate and snappy compression",
        );
        check(ClientError::identify_failed("EOF"), "E_IDENTIFY_FAILED IDENTIFY failed EOF");
        check(ClientError::subscribe_failed_exiting(), "E_SUB_FAILED SUB failed exiting");
        check(ClientError::subscribe_failed_deleted(), "E_SUB_FAILED SUB failed to deleted topic/channel");
        check(
            ClientError::too_many_consumers("t", "c", 2),
            "E_SUB_FAILED SUB failed consumers for t:c exceeds limit of 2",
        );
        check(ClientError::publish_failed("PUB", ClientError::EXITING), "E_PUB_FAILED PUB failed exiting");
        check(ClientError::publish_failed("MPUB", "disk full"), "E_MPUB_FAILED MPUB failed disk full");
        check(ClientError::publish_failed("DPUB", "disk full"), "E_DPUB_FAILED DPUB failed disk full");
        check(ClientError::auth_disabled(), "E_AUTH_DISABLED AUTH disabled");
        check(ClientError::auth_failed(), "E_AUTH_FAILED AUTH failed");
        check(ClientError::no_authorizations(), "E_UNAUTHORIZED AUTH no authorizations found");
        check(ClientError::unauthorized("PUB", "t", ""), "E_UNAUTHORIZED AUTH failed for PUB on \"t\" \"\"");
        check(
            ClientError::unauthorized("SUB", "t", "c"),
            "E_UNAUTHORIZED AUTH failed for SUB on \"t\" \"c\"",
        );
        check(ClientError::auth_first("PUB"), "E_AUTH_FIRST AUTH required before PUB");
        check(ClientError::auth_error("why"), "E_AUTH_ERROR AUTH error why");
        check(
            ClientError::finish_failed(ID, ClientError::NOT_IN_FLIGHT),
            "E_FIN_FAILED FIN 0123456789abcdef failed ID not in flight",
        );
        check(
            ClientError::requeue_failed(ID, ClientError::ALREADY_DEFERRED),
            "E_REQ_FAILED REQ 0123456789abcdef failed ID already deferred",
        );
        check(
            ClientError::touch_failed(ID, ClientError::NOT_OWNER),
            "E_TOUCH_FAILED TOUCH 0123456789abcdef failed client does not own message",
        );
    }

    #[test]
    fn frames_carry_the_text_and_silence_has_none() {
        let mut out = Vec::new();
        ClientError::bad_protocol().put_frame(&mut out);
        assert_eq!(out, b"\x00\x00\x00\x12\x00\x00\x00\x01E_BAD_PROTOCOL");
        out.clear();
        ClientError::line_too_long().put_frame(&mut out);
        assert!(out.is_empty() && ClientError::line_too_long().fatal);
    }
}
