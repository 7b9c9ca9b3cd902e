//! A client of the simulated node: the NSQ protocol and one HTTP request, over turmoil's sockets.

use std::{io, time::Duration};

use bruit_wire::nsq::{self, FrameDecoder, FrameType};
use bytes::{Buf, BytesMut};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use turmoil::net::TcpStream;

use crate::world::{HTTP_PORT, TCP_PORT};

/// Largest frame or HTTP answer that a client takes, bytes.
const ANSWER_LEN_MAX: usize = 1 << 20;

/// One connection. Every wait is bounded by the patience that it was given.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    input: BytesMut,
    patience: Duration,
    granted_msg_timeout: Duration,
}

/// What a client asks for in IDENTIFY.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// How long a message may stay unanswered, at least 1 s.
    pub msg_timeout: Duration,
    /// How often the node asks whether the client is alive, at least 1 s.
    pub heartbeat: Duration,
}

impl Client {
    /// Connects to `host` and introduces itself.
    ///
    /// # Errors
    /// When the node is not there, does not answer in `patience`, or refuses.
    pub async fn connect(host: &str, patience: Duration, wishes: Wishes) -> io::Result<Self> {
        let stream = bounded(patience, TcpStream::connect((host, TCP_PORT))).await?;
        let mut client =
            Self { stream, input: BytesMut::new(), patience, granted_msg_timeout: wishes.msg_timeout };
        let wishes = serde_json::json!({
            "client_id": "sim",
            "feature_negotiation": true,
            "msg_timeout": wishes.msg_timeout.as_millis(),
            "heartbeat_interval": wishes.heartbeat.as_millis(),
        });
        let mut out = nsq::MAGIC_V2.to_vec();
        nsq::put_identify(&mut out, wishes.to_string().as_bytes());
        client.send(&out).await?;
        let (kind, body) = client.answer().await?;
        let granted: Value = serde_json::from_slice(&body).map_err(|_| refused(kind, &body))?;
        if let Some(millis) = granted["msg_timeout"].as_u64() {
            client.granted_msg_timeout = Duration::from_millis(millis);
        }
        Ok(client)
    }

    /// The message time-out that the node granted.
    #[must_use]
    pub fn granted_msg_timeout(&self) -> Duration {
        self.granted_msg_timeout
    }

    /// Sends whole commands.
    ///
    /// # Errors
    /// When the connection is lost, or the node takes nothing for the client's patience.
    pub async fn send(&mut self, commands: &[u8]) -> io::Result<()> {
        bounded(self.patience, self.stream.write_all(commands)).await
    }

    /// Subscribes and waits for the answer.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::answer`], and when the node refuses.
    pub async fn subscribe(&mut self, topic: &str, channel: &str) -> io::Result<()> {
        let mut out = Vec::new();
        nsq::put_subscribe(&mut out, topic, channel);
        self.send(&out).await?;
        match self.answer().await? {
            (FrameType::Response, body) if body == b"OK" => Ok(()),
            (kind, body) => Err(refused(kind, &body)),
        }
    }

    /// The next frame that is not a heartbeat. Heartbeats are answered.
    ///
    /// # Errors
    /// When the connection is lost, or nothing comes in the client's patience.
    pub async fn answer(&mut self) -> io::Result<(FrameType, Vec<u8>)> {
        bounded(self.patience, async {
            loop {
                let (kind, body) = self.frame().await?;
                if kind != FrameType::Response || body != b"_heartbeat_" {
                    return Ok((kind, body));
                }
                self.stream.write_all(b"NOP\n").await?;
            }
        })
        .await
    }

    /// The next frame, whatever it is. Waits for ever; nothing is lost when the wait is given up.
    ///
    /// # Errors
    /// When the connection is lost, or what comes is not NSQ.
    pub async fn frame(&mut self) -> io::Result<(FrameType, Vec<u8>)> {
        loop {
            let decoded = FrameDecoder::new(ANSWER_LEN_MAX).decode(&self.input);
            if let Some((frame, consumed)) = decoded.map_err(io::Error::other)? {
                let (kind, body) = (frame.kind, frame.body.to_vec());
                self.input.advance(consumed);
                return Ok((kind, body));
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The JSON that `host` answers to `GET path`.
///
/// # Errors
/// When the node is not there, does not answer in `patience`, or answers anything but JSON.
pub async fn get_json(host: &str, path: &str, patience: Duration) -> io::Result<Value> {
    match http("GET", host, path, patience).await? {
        (200, body) => serde_json::from_slice(&body).map_err(io::Error::from),
        (_, body) => Err(refused(FrameType::Error, &body)),
    }
}

/// The status and the body that `host` answers to a request without a body.
///
/// # Errors
/// When the node is not there, does not answer in `patience`, or answers anything but HTTP.
pub async fn http(method: &str, host: &str, path: &str, patience: Duration) -> io::Result<(u16, Vec<u8>)> {
    let answer = bounded(patience, async {
        let mut stream = TcpStream::connect((host, HTTP_PORT)).await?;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        while stream.read_buf(&mut answer).await? > 0 && answer.len() <= ANSWER_LEN_MAX {}
        Ok(answer)
    });
    let answer = answer.await?;
    let head_len = memchr_blank_line(&answer).ok_or(io::ErrorKind::InvalidData)?;
    let (head, body) = answer.split_at(head_len);
    let status = head.get(9..12).and_then(|status| std::str::from_utf8(status).ok());
    let status = status.and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_vec()))
}

fn memchr_blank_line(answer: &[u8]) -> Option<usize> {
    answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

async fn bounded<T>(patience: Duration, wait: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(patience, wait).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn refused(kind: FrameType, body: &[u8]) -> io::Error {
    io::Error::other(format!("{kind:?} {}", String::from_utf8_lossy(body)))
}
