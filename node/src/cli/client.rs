//! A small NSQ client for the command line: one connection, driven by one task.
//!
//! The caller puts commands into [`Client::out`], waits in [`Client::progress`], which moves bytes both
//! ways, and takes what came with [`Client::take`]. So a caller that has much to write still reads, and
//! neither side can block the other. Heartbeats are answered on the way.
#![expect(clippy::disallowed_types, reason = "client code, beside the node and not within it")]

use std::{io, time::Duration};

use anyhow::{Context, anyhow, bail};
use bruit_wire::nsq::{self, FrameDecoder, FrameType, MAGIC_V2, MessageView};
use bytes::{Buf, Bytes, BytesMut};
use tokio::{io::Interest, net::TcpStream, time::timeout};

use super::token::token;

/// How long to wait for a connection, and then for the answer to IDENTIFY.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a node may take to have a token judged by servers of its own.
const JUDGEMENT: Duration = Duration::from_secs(30);
/// Largest frame to accept, bytes: the largest message that a node can be told to take, and some.
const FRAME_MAX: usize = 64 << 20;
/// Room to read into, bytes.
const READ_SIZE: usize = 64 << 10;

/// A connection that has introduced itself.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    address: String,
    received: BytesMut,
    out: Vec<u8>,
    /// How much of `out` is sent.
    sent: usize,
}

/// What a node says, heartbeats aside.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The oldest command that has an answer coming succeeded.
    Ok,
    /// The node will deliver nothing more.
    CloseWait,
    /// A command was refused, with this code and text.
    Error(String),
    /// A message was delivered.
    Message(Delivery),
}

/// A delivered message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Names it towards the node.
    pub(super) id: [u8; 16],
    /// Its content.
    pub(super) body: Bytes,
}

impl Client {
    /// Connects to the node at `address` (`host:port`) and introduces itself as `user_agent`.
    ///
    /// # Errors
    /// A sentence for the user, when nothing answers there or what answers is no NSQ node.
    pub(super) async fn connect(address: &str, user_agent: &str) -> anyhow::Result<Self> {
        let stream = match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(address, &error)),
            Err(_) => bail!("cannot reach a node at {address} (no answer within {} s)", PATIENCE.as_secs()),
        };
        stream.set_nodelay(true).context("cannot turn off Nagle's algorithm")?;
        let mut client = Self {
            stream,
            address: address.to_owned(),
            received: BytesMut::new(),
            out: MAGIC_V2.to_vec(),
            sent: 0,
        };
        client.identify(user_agent).await?;
        Ok(client)
    }

    /// Where to put commands. They leave with [`Client::progress`].
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Bytes of commands that have not left yet.
    pub(super) fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Waits until bytes could be read or written, and moves them. Nothing is lost when it is dropped.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) async fn progress(&mut self) -> anyhow::Result<()> {
        let interest =
            if self.unsent() > 0 { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let ready = self.stream.ready(interest).await.map_err(|error| self.lost(&error.to_string()))?;
        if ready.is_writable() && self.unsent() > 0 {
            match self.stream.try_write(&self.out[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // What the node said before it closed is still to be read, and says why.
                Err(_) if ready.is_readable() => {}
                Err(error) => return Err(self.lost(&error.to_string())),
            }
            if self.unsent() == 0 {
                self.out.clear();
                self.sent = 0;
            }
        }
        if ready.is_readable() {
            self.received.reserve(READ_SIZE);
            match self.stream.try_read_buf(&mut self.received) {
                Ok(0) => return Err(self.lost("the node closed it")),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.lost(&error.to_string())),
            }
        }
        Ok(())
    }

    /// The next thing that the node said, if it is here already.
    ///
    /// # Errors
    /// What came is not NSQ's protocol.
    pub(super) fn take(&mut self) -> anyhow::Result<Option<Reply>> {
        while let Some((kind, body)) = self.take_frame()? {
            let reply = match (kind, &body[..]) {
                (FrameType::Response, b"_heartbeat_") => {
                    nsq::put_nop(&mut self.out);
                    continue;
                }
                (FrameType::Response, b"OK") => Reply::Ok,
                (FrameType::Response, b"CLOSE_WAIT") => Reply::CloseWait,
                (FrameType::Response, other) => {
                    bail!("the node at {} gave an answer to no question: {other:?}", self.address)
                }
                (FrameType::Error, text) => Reply::Error(String::from_utf8_lossy(text).into_owned()),
                (FrameType::Message, payload) => {
                    let message = MessageView::parse_payload(payload);
                    let message = message.ok_or_else(|| self.not_nsq("a message is too short"))?;
                    Reply::Message(Delivery { id: *message.id, body: body.slice_ref(message.body) })
                }
            };
            return Ok(Some(reply));
        }
        Ok(None)
    }

    /// Waits for the next thing that the node says.
    ///
    /// # Errors
    /// As [`Client::take`] and [`Client::progress`].
    pub(super) async fn next(&mut self) -> anyhow::Result<Reply> {
        loop {
            if let Some(reply) = self.take()? {
                return Ok(reply);
            }
            self.progress().await?;
        }
    }

    async fn identify(&mut self, user_agent: &str) -> anyhow::Result<()> {
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let identity = serde_json::json!({
            "client_id": hostname,
            "hostname": hostname,
            "user_agent": user_agent,
            "feature_negotiation": true,
        });
        nsq::put_identify(&mut self.out, identity.to_string().as_bytes());
        let answer = timeout(PATIENCE, async {
            loop {
                if let Some(frame) = self.take_frame()? {
                    return anyhow::Ok(frame);
                }
                self.progress().await?;
            }
        });
        match answer.await {
            Ok(Ok((FrameType::Response, reply))) if wants_auth(&reply) => self.authenticate().await,
            Ok(Ok((FrameType::Response, _))) => Ok(()),
            Ok(Ok((FrameType::Error, text))) => {
                bail!("the node at {} refuses us: {}", self.address, String::from_utf8_lossy(&text))
            }
            Ok(Ok((FrameType::Message, _))) => Err(self.not_nsq("a message came before SUB")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.not_nsq(&format!("no answer to IDENTIFY within {} s", PATIENCE.as_secs()))),
        }
    }

    /// Shows the token and waits until it was taken.
    async fn authenticate(&mut self) -> anyhow::Result<()> {
        let address = &self.address;
        let Some(token) = token() else {
            bail!(
                "the node at {address} wants a token: name a file that holds it with --token-file, or set BRUIT_TOKEN"
            );
        };
        nsq::put_auth(&mut self.out, token.as_bytes());
        let answer = timeout(JUDGEMENT, async {
            loop {
                match self.take_frame()? {
                    Some((FrameType::Response, body)) if &body[..] == b"_heartbeat_" => {
                        nsq::put_nop(&mut self.out)
                    }
                    Some(frame) => return anyhow::Ok(frame),
                    None => self.progress().await?,
                }
            }
        });
        match answer.await {
            Ok(Ok((FrameType::Response, _))) => Ok(()),
            Ok(Ok((_, text))) => {
                bail!(
                    "the node at {} does not take the token: {}",
                    self.address,
                    String::from_utf8_lossy(&text)
                )
            }
            Ok(Err(error)) => Err(error),
            Err(_) => bail!("the node at {} does not say whether it takes the token", self.address),
        }
    }

    fn take_frame(&mut self) -> anyhow::Result<Option<(FrameType, Bytes)>> {
        let decoded = FrameDecoder::new(FRAME_MAX).decode(&self.received);
        let Some((frame, consumed)) = decoded.map_err(|error| self.not_nsq(&error.to_string()))? else {
            return Ok(None);
        };
        let (kind, header) = (frame.kind, consumed - frame.body.len());
        let mut bytes = self.received.split_to(consumed).freeze();
        bytes.advance(header);
        Ok(Some((kind, bytes)))
    }

    fn lost(&self, why: &str) -> anyhow::Error {
        anyhow!("the connection to {} is lost: {why}", self.address)
    }

    fn not_nsq(&self, why: &str) -> anyhow::Error {
        anyhow!("what answers at {} does not speak NSQ ({why}): is it the TCP port of a node?", self.address)
    }
}

/// Whether the answer to IDENTIFY says that AUTH has to follow.
fn wants_auth(reply: &[u8]) -> bool {
    let reply: Option<serde_json::Value> = serde_json::from_slice(reply).ok();
    reply.is_some_and(|reply| reply["auth_required"] == true)
}

fn unreachable(address: &str, error: &io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => anyhow!(
            "cannot reach a node at {address} (connection refused): is one running? start it with `bruit serve`"
        ),
        io::ErrorKind::InvalidInput => anyhow!("{address:?} is no address: write host:port"),
        _ => anyhow!("cannot reach a node at {address} ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use bruit_wire::{MessageId, nsq::HEARTBEAT_FRAME, nsq::OK_FRAME};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::{super::fake_node::FakeNode, *};

    /// A client, and the node's end of its connection.
    async fn pair() -> (Client, TcpStream) {
        let node = FakeNode::start().await;
        let (client, stream) = tokio::join!(Client::connect(&node.address, "test/1"), node.accept());
        (client.unwrap(), stream)
    }

    #[tokio::test]
    async fn replies_arrive_in_order_and_heartbeats_are_answered_on_the_way() {
        let (mut client, mut node) = pair().await;
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&OK_FRAME);
        bytes.extend_from_slice(&HEARTBEAT_FRAME);
        nsq::put_message(&mut bytes, 7, 1, MessageId::new(1, 2), b"body");
        let mut error = Vec::new();
        nsq::put_frame(&mut error, FrameType::Error, b"E_BAD_TOPIC no");
        bytes.extend_from_slice(&error);
        for byte in bytes.chunks(5) {
            node.write_all(byte).await.unwrap();
        }
        assert_eq!(client.next().await.unwrap(), Reply::Ok);
        let Reply::Message(delivery) = client.next().await.unwrap() else { panic!("a message") };
        assert_eq!((delivery.id, &delivery.body[..]), (MessageId::new(1, 2).to_hex(), b"body".as_slice()));
        assert_eq!(client.next().await.unwrap(), Reply::Error("E_BAD_TOPIC no".to_owned()));

        nsq::put_ready(client.out(), 3);
        while client.unsent() > 0 {
            client.progress().await.unwrap();
        }
        let mut sent = [0; 10];
        node.read_exact(&mut sent).await.unwrap();
        assert_eq!(&sent, b"NOP\nRDY 3\n");
    }

    #[tokio::test]
    async fn a_lost_connection_and_a_foreign_protocol_are_told_apart() {
        let (mut client, node) = pair().await;
        drop(node);
        let error = client.next().await.unwrap_err().to_string();
        assert!(error.contains("is lost: the node closed it"), "{error}");

        let (mut client, mut node) = pair().await;
        node.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
        let error = client.next().await.unwrap_err().to_string();
        assert!(error.contains("does not speak NSQ"), "{error}");
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_what_to_do() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Client::connect(&address, "test/1").await.unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "cannot reach a node at {address} (connection refused): is one running? start it with `bruit serve`"
            )
        );
        let error = Client::connect("nowhere", "test/1").await.unwrap_err().to_string();
        assert_eq!(error, "\"nowhere\" is no address: write host:port");
    }
}
