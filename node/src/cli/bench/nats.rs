//! Publishing to a JetStream stream of a NATS server, with an acknowledgement for each message.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::{
    dialect::{Command, Dialect, Replies},
    socket::{Received, Socket},
};

/// A line, or a payload, longer than this is not from a server that answers publishers.
const LINE_MAX: usize = 64 * 1024;

/// Publishing with an inbox, to which the server sends the stream's sequence number once it has stored.
#[derive(Debug)]
pub(super) struct Nats {
    stream: String,
    /// Where this connection's answers go; one of its own, or it would count those of the others.
    inbox: String,
    latest: u64,
}

impl Nats {
    /// For one connection that publishes to the stream `stream`, which is created when it does not exist.
    pub(super) fn new(stream: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let inbox = format!("_INBOX.{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { stream: stream.to_owned(), inbox, latest: 0 }
    }

    /// Sends a request of the JetStream API and returns its JSON reply.
    fn request(&self, socket: &mut Socket, subject: &str, payload: &str) -> Result<Vec<u8>> {
        let (len, stream, inbox) = (payload.len(), &self.stream, &self.inbox);
        let request = format!("PUB $JS.API.STREAM.{subject}.{stream} {inbox} {len}\r\n{payload}\r\n");
        socket.send(request.as_bytes())?;
        loop {
            while let Some((event, len)) = parse(socket.unread())? {
                let reply = match event {
                    Event::Message(reply) => Some(reply.to_vec()),
                    Event::Ping | Event::Other => None,
                };
                let ping = matches!(event, Event::Ping);
                socket.consume(len);
                if ping {
                    socket.send(b"PONG\r\n")?;
                }
                if let Some(reply) = reply {
                    return Ok(reply);
                }
            }
            ensure!(socket.receive()? != Received::Closed, "NATS closed the connection");
        }
    }
}

/// What a server says of a message that it stored, or of a request that it refused.
#[derive(Debug, Deserialize)]
struct Stored {
    seq: Option<u64>,
    error: Option<serde_json::Value>,
}

/// What a server says of a stream.
#[derive(Debug, Deserialize)]
struct StreamInfo {
    state: Option<StreamState>,
    error: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct StreamState {
    messages: u64,
}

impl Dialect for Nats {
    fn open(&mut self, socket: &mut Socket) -> Result<()> {
        let inbox = &self.inbox;
        let hello = format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {inbox} 1\r\n");
        socket.send(hello.as_bytes())?;
        let name = &self.stream;
        let config =
            format!(r#"{{"name":"{name}","subjects":["{name}"],"storage":"file","retention":"limits"}}"#);
        let reply = self.request(socket, "CREATE", &config)?;
        let info: StreamInfo = serde_json::from_slice(&reply).context("NATS answered no JSON")?;
        ensure!(info.error.is_none(), "NATS refused to create the stream: {:?}", info.error);
        Ok(())
    }

    fn command(&self, body: &[u8], batch: usize) -> Result<Command> {
        ensure!(batch == 1, "NATS has no command for several messages: use --pipeline instead of --batch");
        let mut bytes = format!("PUB {} {} {}\r\n", self.stream, self.inbox, body.len()).into_bytes();
        let at = bytes.len();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n");
        Ok(Command { bytes, bodies: vec![at], size: body.len() })
    }

    fn replies(&mut self, input: &[u8], owed: &mut Vec<u8>) -> Result<Replies> {
        let mut replies = Replies::default();
        while let Some((event, len)) = parse(&input[replies.consumed..])? {
            match event {
                Event::Message(json) => {
                    let stored: Stored = serde_json::from_slice(json).context("NATS answered no JSON")?;
                    let Some(sequence) = stored.seq else {
                        bail!("NATS refused a message: {:?}", stored.error)
                    };
                    ensure!(sequence > self.latest, "NATS stored {sequence} after {}", self.latest);
                    self.latest = sequence;
                    replies.acknowledged += 1;
                }
                Event::Ping => owed.extend_from_slice(b"PONG\r\n"),
                Event::Other => {}
            }
            replies.consumed += len;
        }
        Ok(replies)
    }

    fn held(&mut self, socket: &mut Socket) -> Result<Option<u64>> {
        let info: StreamInfo = serde_json::from_slice(&self.request(socket, "INFO", "")?)?;
        Ok(info.state.map(|state| state.messages))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Event<'a> {
    /// A message for one of our inboxes.
    Message(&'a [u8]),
    Ping,
    /// The server's greeting and the like.
    Other,
}

/// The first event of `input` and its length, or `None` when it is not whole.
fn parse(input: &[u8]) -> Result<Option<(Event<'_>, usize)>> {
    let Some(line_len) = memchr::memchr(b'\n', &input[..input.len().min(LINE_MAX)]) else {
        ensure!(input.len() < LINE_MAX, "NATS sent a line without an end");
        return Ok(None);
    };
    let line = std::str::from_utf8(&input[..line_len]).context("NATS sent a line that is not text")?;
    let after = line_len + 1;
    let mut words = line.split_ascii_whitespace();
    match words.next() {
        Some("MSG") => {
            let len: usize =
                words.next_back().unwrap_or_default().parse().context("NATS sent a bad MSG line")?;
            ensure!(len <= LINE_MAX, "NATS answered with {len} bytes");
            let whole = input.get(after..after + len + 2);
            Ok(whole.map(|payload| (Event::Message(&payload[..len]), after + len + 2)))
        }
        Some("PING") => Ok(Some((Event::Ping, after))),
        Some("INFO" | "PONG" | "+OK") => Ok(Some((Event::Other, after))),
        _ => bail!("NATS answered {:?}", line.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_are_counted_and_must_rise() {
        let ack = |sequence| {
            let json = format!("{{\"stream\":\"s\",\"seq\":{sequence}}}");
            format!("MSG i.p 1 {}\r\n{json}\r\n", json.len())
        };
        let mut nats = Nats::new("s");
        let input = format!("INFO {{}}\r\nPING\r\n{}{}MSG i", ack(1), ack(2));
        let mut owed = Vec::new();
        let replies = nats.replies(input.as_bytes(), &mut owed).unwrap();
        assert_eq!(replies, Replies { consumed: input.len() - 5, acknowledged: 2 });
        assert_eq!(owed, b"PONG\r\n");
        assert!(nats.replies(ack(2).as_bytes(), &mut owed).is_err());
    }

    #[test]
    fn errors_and_noise_are_refused() {
        let refused = b"MSG i.p 1 22\r\n{\"error\":{\"code\":503}}\r\n";
        for input in
            [&refused[..], b"-ERR 'x'\r\n", b"MSG a 1 x\r\n", b"MSG a 1 9999999\r\n", b"\xff\n", b"\n"]
        {
            assert!(Nats::new("s").replies(input, &mut Vec::new()).is_err(), "{input:?}");
        }
    }
}
