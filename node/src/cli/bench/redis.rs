//! Publishing to a stream of a Redis server, one XADD a message.

use anyhow::{Context, Result, bail, ensure};

use super::{
    dialect::{Command, Dialect, Replies},
    socket::{Received, Socket},
};

/// A reply line longer than this is not one.
const LINE_MAX: usize = 64 * 1024;

/// Publishing by XADD. The server acknowledges with the entry's id, which must rise.
#[derive(Debug)]
pub(super) struct Redis {
    stream: String,
    latest: (u64, u64),
}

impl Redis {
    /// For one connection that appends to the stream `stream`.
    pub(super) fn new(stream: &str) -> Self {
        Self { stream: stream.to_owned(), latest: (0, 0) }
    }
}

impl Dialect for Redis {
    fn open(&mut self, socket: &mut Socket) -> Result<()> {
        self.held(socket).context("this is not a Redis server").map(drop)
    }

    fn command(&self, body: &[u8], batch: usize) -> Result<Command> {
        ensure!(batch == 1, "Redis has no command for several messages: use --pipeline instead of --batch");
        let (name, len) = (&self.stream, body.len());
        let mut bytes = format!("*5\r\n$4\r\nXADD\r\n${}\r\n{name}\r\n", name.len()).into_bytes();
        bytes.extend_from_slice(format!("$1\r\n*\r\n$1\r\nm\r\n${len}\r\n").as_bytes());
        let at = bytes.len();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n");
        Ok(Command { bytes, bodies: vec![at], size: len })
    }

    fn replies(&mut self, input: &[u8], _: &mut Vec<u8>) -> Result<Replies> {
        let mut replies = Replies::default();
        while let Some((reply, len)) = parse(&input[replies.consumed..])? {
            let Reply::Text(id) = reply else { bail!("Redis answered {reply:?} to XADD") };
            let id = entry_id(id).context("Redis answered XADD with something else than an id")?;
            ensure!(id > self.latest, "Redis gave the id {id:?} after {:?}", self.latest);
            self.latest = id;
            replies.consumed += len;
            replies.acknowledged += 1;
        }
        Ok(replies)
    }

    fn held(&mut self, socket: &mut Socket) -> Result<Option<u64>> {
        let name = &self.stream;
        socket.send(format!("*2\r\n$4\r\nXLEN\r\n${}\r\n{name}\r\n", name.len()).as_bytes())?;
        loop {
            if let Some((reply, len)) = parse(socket.unread())? {
                let Reply::Number(held) = reply else { bail!("Redis answered {reply:?} to XLEN") };
                socket.consume(len);
                return Ok(Some(held));
            }
            ensure!(socket.receive()? != Received::Closed, "Redis closed the connection");
        }
    }
}

/// The replies that are expected.
#[derive(Debug, PartialEq, Eq)]
enum Reply<'a> {
    Text(&'a [u8]),
    Number(u64),
}

/// The first reply of `input` and its length, or `None` when it is not whole.
fn parse(input: &[u8]) -> Result<Option<(Reply<'_>, usize)>> {
    let Some(line_len) = memchr::memchr(b'\n', &input[..input.len().min(LINE_MAX)]) else {
        ensure!(input.len() < LINE_MAX, "Redis sent a line without an end");
        return Ok(None);
    };
    let line = input[..line_len].trim_ascii_end();
    let after = line_len + 1;
    let text = std::str::from_utf8(line).context("Redis sent a line that is not text")?;
    match text.split_at_checked(1) {
        Some((":", number)) => Ok(Some((Reply::Number(number.parse()?), after))),
        Some(("$", len)) => {
            let len: usize = len.parse().context("Redis sent no text")?;
            ensure!(len <= LINE_MAX, "Redis sent a text of {len} bytes");
            let whole = input.get(after..after + len + 2);
            Ok(whole.map(|text| (Reply::Text(&text[..len]), after + len + 2)))
        }
        _ => bail!("Redis answered {text:?}"),
    }
}

/// The two numbers of an entry's id.
fn entry_id(id: &[u8]) -> Option<(u64, u64)> {
    let (millis, sequence) = std::str::from_utf8(id).ok()?.split_once('-')?;
    Some((millis.parse().ok()?, sequence.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_and_must_rise() {
        let mut redis = Redis::new("s");
        let input = b"$4\r\n10-0\r\n$4\r\n10-1\r\n$4\r\n11";
        let replies = redis.replies(input, &mut Vec::new()).unwrap();
        assert_eq!(replies, Replies { consumed: 20, acknowledged: 2 });
        assert!(redis.replies(b"$4\r\n10-1\r\n", &mut Vec::new()).is_err());
    }

    #[test]
    fn errors_and_noise_are_refused() {
        for input in
            [&b"-ERR unknown command\r\n"[..], b"$-1\r\n", b"$99999999\r\n", b":x\r\n", b"\r\n", b"\xff\n"]
        {
            assert!(Redis::new("s").replies(input, &mut Vec::new()).is_err(), "{input:?}");
        }
        assert!(parse(&[b'x'; LINE_MAX]).is_err());
        assert_eq!(parse(b":12\r").unwrap(), None);
        assert_eq!(parse(b":12\r\n").unwrap(), Some((Reply::Number(12), 5)));
    }
}
