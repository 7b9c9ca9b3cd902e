//! Protocol V1, in which a classic nsqd tells an nsqlookupd what it holds (NSQ reference, section 7.1).
//!
//! Commands are lines; only IDENTIFY has a body. Answers are a length and bytes, without a type: an error is
//! told from an answer by how it begins. [`decode`] is the lookup's side, [`put_identify`] and what follows it
//! the producer's.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ChannelName, TopicName};

/// What a connection begins with.
pub const MAGIC_V1: [u8; 4] = *b"  V1";
/// The answer to everything but IDENTIFY.
pub const OK: &[u8] = b"OK";
/// What a connection with another magic is told.
pub const BAD_PROTOCOL: &[u8] = b"E_BAD_PROTOCOL";
/// Longest line, bytes, its end included. Two names and a word have 142.
pub const LINE_MAX: usize = 1024;
/// Longest body of IDENTIFY, bytes. nsqlookupd has no bound, and dies of a negative length.
pub const BODY_MAX: usize = 64 * 1024;
/// Longest answer that a producer takes, bytes.
pub const REPLY_MAX: usize = 64 * 1024;
/// Longest text in a [`Description`], bytes: the longest host name.
const TEXT_MAX: usize = 255;

/// What a producer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Who it is. Once, and before it registers anything.
    Identify(Description),
    /// It holds a topic now, or a channel and its topic.
    Register(TopicName, Option<ChannelName>),
    /// It no longer holds a channel, or a topic with all its channels.
    Unregister(TopicName, Option<ChannelName>),
    /// It lives.
    Ping,
}

/// What a producer says about itself. The keys, and their order, are nsqd's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Description {
    /// A name or an address under which clients reach it. Required.
    pub broadcast_address: String,
    /// The host's name.
    pub hostname: String,
    /// The port for HTTP. Required.
    pub http_port: u16,
    /// The port for clients. Required.
    pub tcp_port: u16,
    /// nsqd's version. Required.
    pub version: String,
    /// Its zone, or nothing.
    pub topology_zone: String,
    /// Its region, or nothing.
    pub topology_region: String,
}

/// What a lookup says about itself, in answer to IDENTIFY.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LookupDescription {
    /// A name or an address under which its HTTP is reached.
    pub broadcast_address: String,
    /// The host's name.
    pub hostname: String,
    /// The port for HTTP.
    pub http_port: u16,
    /// The port for producers.
    pub tcp_port: u16,
    /// nsqlookupd's version.
    pub version: String,
}

/// What has come so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Not a whole command.
    Part,
    /// A command, and how many bytes it took.
    Command(Command, usize),
}

/// Why a producer is refused. Its connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: &'static str,
    text: String,
}

impl Refusal {
    /// A refusal with one of NSQ's codes.
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

impl std::error::Error for Refusal {}

/// Reads the first command in `input`. `identified` says whether the producer has said who it is.
///
/// # Errors
/// What the producer is to be told before its connection ends; `None` if it is to be told nothing, having sent
/// a line without an end.
pub fn decode(input: &[u8], identified: bool) -> Result<Decoded, Option<Refusal>> {
    let window = input.get(..LINE_MAX).unwrap_or(input);
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if window.len() < LINE_MAX { Ok(Decoded::Part) } else { Err(None) };
    };
    let text = String::from_utf8_lossy(window.get(..end).unwrap_or_default());
    let mut words = text.trim().split(' ');
    let rest = input.get(end + 1..).unwrap_or_default();
    let line = end + 1;
    Ok(match words.next().unwrap_or_default() {
        "PING" => Decoded::Command(Command::Ping, line),
        "IDENTIFY" if identified => return Err(refused("E_INVALID", "cannot IDENTIFY again")),
        "IDENTIFY" => match identify(rest)? {
            Some((description, body)) => Decoded::Command(Command::Identify(description), line + body),
            None => Decoded::Part,
        },
        "REGISTER" => {
            let (topic, channel) = names("REGISTER", words, identified)?;
            Decoded::Command(Command::Register(topic, channel), line)
        }
        "UNREGISTER" => {
            let (topic, channel) = names("UNREGISTER", words, identified)?;
            Decoded::Command(Command::Unregister(topic, channel), line)
        }
        other => return Err(refused("E_INVALID", format!("invalid command {other}"))),
    })
}

fn refused(code: &'static str, text: impl Into<String>) -> Option<Refusal> {
    Some(Refusal::new(code, text))
}

fn names<'a>(
    command: &str,
    mut words: impl Iterator<Item = &'a str>,
    identified: bool,
) -> Result<(TopicName, Option<ChannelName>), Option<Refusal>> {
    if !identified {
        return Err(refused("E_INVALID", "client must IDENTIFY"));
    }
    let Some(topic) = words.next() else {
        return Err(refused("E_INVALID", format!("{command} insufficient number of params")));
    };
    let bad_topic = |_| refused("E_BAD_TOPIC", format!("{command} topic name '{topic}' is not valid"));
    let valid_topic = TopicName::new(topic).map_err(bad_topic)?;
    let channel = words.next().filter(|channel| !channel.is_empty());
    let channel = channel.map(|channel| {
        let bad = |_| refused("E_BAD_CHANNEL", format!("{command} channel name '{channel}' is not valid"));
        ChannelName::new(channel).map_err(bad)
    });
    Ok((valid_topic, channel.transpose()?))
}

/// The body of IDENTIFY, and its length with the four bytes before it. `None` if it is not all there.
fn identify(input: &[u8]) -> Result<Option<(Description, usize)>, Option<Refusal>> {
    let bad = |what: &str| refused("E_BAD_BODY", format!("IDENTIFY {what}"));
    let Some((length, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(i32::from_be_bytes(*length)).ok().filter(|length| *length <= BODY_MAX);
    let Some(length) = length else { return Err(bad("failed to read body")) };
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let description: Description =
        serde_json::from_slice(body).map_err(|_| bad("failed to decode JSON body"))?;
    let Description {
        broadcast_address,
        hostname,
        http_port,
        tcp_port,
        version,
        topology_zone,
        topology_region,
    } = &description;
    if broadcast_address.is_empty() || version.is_empty() || *tcp_port == 0 || *http_port == 0 {
        return Err(bad("missing fields"));
    }
    let texts = [broadcast_address, hostname, version, topology_zone, topology_region];
    if texts.iter().any(|text| text.len() > TEXT_MAX || text.chars().any(char::is_control)) {
        return Err(bad("failed to decode JSON body"));
    }
    Ok(Some((description, 4 + length)))
}

/// Whether a connection that begins with `input` is owed an error of its own when it ends or stalls here.
#[must_use]
pub fn interrupted(input: &[u8]) -> Option<Refusal> {
    let end = input.iter().take(LINE_MAX).position(|byte| *byte == b'\n')?;
    let body = input.get(end + 1..).unwrap_or_default();
    let what = if body.len() < 4 { "failed to read body size" } else { "failed to read body" };
    Some(Refusal::new("E_BAD_BODY", format!("IDENTIFY {what}")))
}

/// Appends an answer.
pub fn put_reply(out: &mut Vec<u8>, reply: &[u8]) {
    let length = u32::try_from(reply.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(reply);
}

/// Appends IDENTIFY.
pub fn put_identify(out: &mut Vec<u8>, description: &Description) {
    // Texts and numbers always make JSON.
    let body = serde_json::to_vec(description).unwrap_or_default();
    out.extend_from_slice(b"IDENTIFY\n");
    put_reply(out, &body);
}

/// Appends REGISTER.
pub fn put_register(out: &mut Vec<u8>, topic: &TopicName, channel: Option<&ChannelName>) {
    put_line(out, "REGISTER", topic, channel);
}

/// Appends UNREGISTER.
pub fn put_unregister(out: &mut Vec<u8>, topic: &TopicName, channel: Option<&ChannelName>) {
    put_line(out, "UNREGISTER", topic, channel);
}

/// Appends PING.
pub fn put_ping(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PING\n");
}

fn put_line(out: &mut Vec<u8>, word: &str, topic: &TopicName, channel: Option<&ChannelName>) {
    let channel = channel.map(|channel| format!(" {channel}")).unwrap_or_default();
    out.extend_from_slice(format!("{word} {topic}{channel}\n").as_bytes());
}

/// The first answer in `input`, and how many bytes it takes with its length. `None` if it is not all there.
///
/// # Errors
/// Its length: longer than [`REPLY_MAX`], so that no lookup speaks here.
pub fn take_reply(input: &[u8]) -> Result<Option<(&[u8], usize)>, u32> {
    let Some((length, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    let wanted = usize::try_from(length).ok().filter(|wanted| *wanted <= REPLY_MAX).ok_or(length)?;
    Ok(rest.get(..wanted).map(|reply| (reply, 4 + wanted)))
}

/// Whether an answer is an error.
#[must_use]
pub fn is_error(reply: &[u8]) -> bool {
    reply.starts_with(b"E_")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nsqd() -> Description {
        Description {
            broadcast_address: "10.0.0.1".to_owned(),
            hostname: "vm".to_owned(),
            http_port: 4151,
            tcp_port: 4150,
            version: "1.3.0".to_owned(),
            ..Description::default()
        }
    }

    fn refusal(input: &[u8], identified: bool) -> String {
        decode(input, identified).unwrap_err().unwrap().to_string()
    }

    fn identify_with(body: &str) -> Vec<u8> {
        let mut bytes = b"IDENTIFY\n".to_vec();
        put_reply(&mut bytes, body.as_bytes());
        bytes
    }

    #[test]
    fn what_a_producer_writes_is_read_byte_by_byte() {
        let (topic, channel) = (TopicName::new("t").unwrap(), ChannelName::new("c#ephemeral").unwrap());
        let mut bytes = Vec::new();
        put_identify(&mut bytes, &nsqd());
        put_register(&mut bytes, &topic, None);
        put_register(&mut bytes, &topic, Some(&channel));
        put_unregister(&mut bytes, &topic, Some(&channel));
        put_ping(&mut bytes);
        let mut rest = &bytes[..];
        let mut commands = Vec::new();
        while !rest.is_empty() {
            let identified = !commands.is_empty();
            let whole =
                (1..=rest.len()).find_map(|length| match decode(&rest[..length], identified).unwrap() {
                    Decoded::Part => None,
                    Decoded::Command(command, consumed) => {
                        assert_eq!(consumed, length);
                        Some((command, consumed))
                    }
                });
            let (command, consumed) = whole.unwrap();
            commands.push(command);
            rest = &rest[consumed..];
        }
        let expected = [
            Command::Identify(nsqd()),
            Command::Register(topic.clone(), None),
            Command::Register(topic.clone(), Some(channel.clone())),
            Command::Unregister(topic, Some(channel)),
            Command::Ping,
        ];
        assert_eq!(commands, expected);
    }

    #[test]
    fn refusals_are_those_of_nsqlookupd() {
        for (input, identified, expected) in [
            ("FOO bar\n", true, "E_INVALID invalid command FOO"),
            ("\n", true, "E_INVALID invalid command "),
            ("REGISTER t\n", false, "E_INVALID client must IDENTIFY"),
            ("IDENTIFY\n", true, "E_INVALID cannot IDENTIFY again"),
            ("REGISTER\n", true, "E_INVALID REGISTER insufficient number of params"),
            ("UNREGISTER \r\n", true, "E_INVALID UNREGISTER insufficient number of params"),
            ("REGISTER b$d c\n", true, "E_BAD_TOPIC REGISTER topic name 'b$d' is not valid"),
            ("UNREGISTER  t\n", true, "E_BAD_TOPIC UNREGISTER topic name '' is not valid"),
            ("REGISTER t b$d\n", true, "E_BAD_CHANNEL REGISTER channel name 'b$d' is not valid"),
        ] {
            assert_eq!(refusal(input.as_bytes(), identified), expected, "{input:?}");
        }
        for (body, expected) in [
            ("", "E_BAD_BODY IDENTIFY failed to decode JSON body"),
            ("[]x", "E_BAD_BODY IDENTIFY failed to decode JSON body"),
            (r#"{"tcp_port":70000}"#, "E_BAD_BODY IDENTIFY failed to decode JSON body"),
            ("{}", "E_BAD_BODY IDENTIFY missing fields"),
            (r#"{"version":"1","tcp_port":1,"broadcast_address":"a"}"#, "E_BAD_BODY IDENTIFY missing fields"),
            (
                r#"{"version":"1\u0007","tcp_port":1,"http_port":2,"broadcast_address":"a"}"#,
                "E_BAD_BODY IDENTIFY failed to decode JSON body",
            ),
        ] {
            assert_eq!(refusal(&identify_with(body), false), expected, "{body:?}");
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_anything_is_waited_for() {
        for length in [-1, i32::MIN, BODY_MAX as i32 + 1, i32::MAX] {
            let bytes = [b"IDENTIFY\n", &length.to_be_bytes()[..]].concat();
            assert_eq!(refusal(&bytes, false), "E_BAD_BODY IDENTIFY failed to read body", "{length}");
        }
        assert_eq!(decode(&[b'x'; LINE_MAX - 1], true), Ok(Decoded::Part));
        assert_eq!(decode(&[b'x'; LINE_MAX], true), Err(None));
        assert_eq!(take_reply(&[0xff; 4]), Err(u32::MAX));
    }

    #[test]
    fn an_interrupted_identify_is_told_what_was_missing() {
        assert_eq!(interrupted(b"IDENTIFY"), None);
        let error = |input: &[u8]| interrupted(input).unwrap().to_string();
        assert_eq!(error(b"IDENTIFY\n\0\0"), "E_BAD_BODY IDENTIFY failed to read body size");
        assert_eq!(error(b"IDENTIFY\n\0\0\0\x02{"), "E_BAD_BODY IDENTIFY failed to read body");
    }

    #[test]
    fn answers_come_whole_or_not_yet() {
        let mut bytes = Vec::new();
        put_reply(&mut bytes, OK);
        assert_eq!(bytes, b"\0\0\0\x02OK");
        for cut in 0..bytes.len() {
            assert_eq!(take_reply(&bytes[..cut]), Ok(None));
        }
        assert_eq!(take_reply(&bytes), Ok(Some((OK, 6))));
        assert!(is_error(b"E_INVALID x") && !is_error(OK));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(input: Vec<u8>, identified: bool) {
            if let Ok(Decoded::Command(_, consumed)) = decode(&input, identified) {
                prop_assert!(consumed <= input.len());
            }
            let _ = (take_reply(&input), interrupted(&input));
        }
    }
}
