//! A small NSQ client for the command line: one connection, driven by one task.
//!
//! The caller puts commands into [`Client::out`], waits in [`Client::progress`], which moves bytes both
//! ways, and takes what came with [`Client::take`]. So a caller that has much to write still reads, and
//! neither side can block the other. Heartbeats are answered on the way.
#![expect(clippy::disallowed_types, reason = "client code, beside the node and not within it")]

mod access;
mod introduction;
mod options;
mod token;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{anyhow, bail};
use bruit_wire::nsq::{self, FrameDecoder, FrameType, MAGIC_V2, MessageView};
use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};

pub(super) use self::{
    access::{Access, AccessArgs},
    introduction::Introduction,
    options::Options,
};
use crate::env::Conn;

/// How long to wait for a connection, and then for the answer to IDENTIFY.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nodes send heartbeats; twice the longest time between them that one grants, unless told otherwise.
const SILENCE: Duration = Duration::from_secs(120);
/// Largest frame to accept, bytes: the largest message that a node can be told to take, and some.
const FRAME_MAX: usize = 64 << 20;
/// Room to read into, bytes.
const READ_SIZE: usize = 64 << 10;

/// A connection that has introduced itself.
#[derive(Debug)]
pub(super) struct Client {
    conn: Conn,
    address: String,
    received: BytesMut,
    out: Vec<u8>,
    /// How much of `out` is written.
    sent: usize,
    /// What was written may lie in a layer.
    unflushed: bool,
    heard: Instant,
    /// Ends no later than the silence is too long.
    silence: Pin<Box<Sleep>>,
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
    /// Connects to the node at `address` (`host:port`) and introduces itself.
    ///
    /// # Errors
    /// A sentence for the user, when nothing answers there, what answers is no NSQ node, or it refuses.
    pub(super) async fn connect(address: &str, introduction: &Introduction) -> anyhow::Result<Self> {
        let connected = match timeout(PATIENCE, connect(address)).await {
            Ok(Ok(conn)) => conn,
            Ok(Err(error)) => return Err(unreachable(address, &error)),
            Err(_) => bail!("cannot reach a node at {address} (no answer within {} s)", PATIENCE.as_secs()),
        };
        let mut client = Self {
            conn: connected,
            address: address.to_owned(),
            received: BytesMut::new(),
            out: MAGIC_V2.to_vec(),
            sent: 0,
            unflushed: false,
            heard: Instant::now(),
            silence: Box::pin(sleep(SILENCE)),
        };
        client.introduce(introduction).await?;
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
        let moved = poll_fn(|cx| {
            let written = self.poll_write(cx);
            // What the node said before it closed is still to be read, and says why.
            match (self.poll_read(cx), written) {
                (Poll::Ready(read), _) => Poll::Ready(read),
                (Poll::Pending, Poll::Pending) => self.poll_silence(cx),
                (Poll::Pending, written) => written,
            }
        });
        let moved = moved.await;
        moved.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.lost("the node closed it"),
            _ => self.lost(&error.to_string()),
        })
    }

    /// Pending unless something has left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut moved = false;
        while self.unsent() > 0 {
            let Poll::Ready(written) =
                Pin::new(&mut self.conn.writer).poll_write(cx, &self.out[self.sent..])?
            else {
                break;
            };
            self.sent += written;
            (moved, self.unflushed) = (true, true);
        }
        if self.unsent() == 0 {
            self.out.clear();
            self.sent = 0;
        }
        if self.unflushed && Pin::new(&mut self.conn.writer).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.received.reserve(READ_SIZE);
        let read = pin!(self.conn.reader.read_buf(&mut self.received));
        match read.poll(cx)? {
            Poll::Ready(0) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(_) => {
                self.heard = Instant::now();
                Poll::Ready(Ok(()))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// An error once the node has said nothing for too long: its host is gone without a word.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.silence.as_mut().poll(cx).is_ready() {
            let end = self.heard + SILENCE;
            if end <= Instant::now() {
                let seconds = SILENCE.as_secs();
                return Poll::Ready(Err(io::Error::other(format!("nothing has come for {seconds} s"))));
            }
            self.silence.as_mut().reset(end);
        }
        Poll::Pending
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

async fn connect(address: &str) -> io::Result<Conn> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    Ok(Conn { reader: Box::new(reader), writer: Box::new(writer) })
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
        let (node, introduction) = (FakeNode::start().await, Introduction::new("test/1"));
        let (client, stream) = tokio::join!(Client::connect(&node.address, &introduction), node.accept());
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

    #[tokio::test(start_paused = true)]
    async fn a_node_that_falls_silent_is_given_up() {
        let (mut client, mut node) = pair().await;
        for _ in 0..3 {
            sleep(SILENCE / 2).await;
            node.write_all(&OK_FRAME).await.unwrap();
            assert_eq!(client.next().await.unwrap(), Reply::Ok);
        }
        let began = Instant::now();
        let error = client.next().await.unwrap_err().to_string();
        assert!(error.ends_with("nothing has come for 120 s"), "{error}");
        assert_eq!(began.elapsed(), SILENCE);
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_what_to_do() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Client::connect(&address, &Introduction::new("test/1")).await.unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "cannot reach a node at {address} (connection refused): is one running? start it with `bruit serve`"
            )
        );
        let error = Client::connect("nowhere", &Introduction::new("test/1")).await.unwrap_err().to_string();
        assert_eq!(error, "\"nowhere\" is no address: write host:port");
    }
}
