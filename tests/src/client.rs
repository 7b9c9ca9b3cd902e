//! A send/expect script over one TCP connection.

#![expect(clippy::disallowed_types, reason = "a client is outside of the node: its sockets are real")]

use std::{
    collections::BTreeSet,
    fmt,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::ClientConfig;

use crate::{
    layers::{Layers, Packing},
    wait::{PATIENCE, QUIET},
};

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// An answer, or a heartbeat.
    Response = 0,
    /// An error.
    Error = 1,
    /// A message.
    Message = 2,
}

/// One frame from the node.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// The bytes after the frame type.
    pub body: Vec<u8>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(200)];
        write!(f, "{:?} {:?}", self.kind, String::from_utf8_lossy(shown))
    }
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// When it was published, nanoseconds since the epoch.
    pub timestamp: i64,
    /// 1 on the first delivery.
    pub attempts: u16,
    /// 16 lower-case hexadecimal digits.
    pub id: String,
    /// What was published.
    pub body: Vec<u8>,
}

impl Message {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A TCP connection to a node, and the bytes that came in and were not looked at yet.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    layers: Layers,
    input: Vec<u8>,
}

/// Frames larger than this mean that the stream is out of step.
const FRAME_MAX: usize = 64 << 20;

impl Client {
    /// Connects and sends nothing.
    ///
    /// # Panics
    /// When the node cannot be reached.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        Self { stream, layers: Layers::default(), input: Vec::new() }
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the node takes what is sent");
    }

    /// Sends bytes to a node that may be gone.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        let bytes = self.layers.wrap(bytes.as_ref());
        self.stream.write_all(&bytes)
    }

    /// Sends bytes past the compression, which has to be a sound stream for the node to go on; TLS stays.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn try_send_packed(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let bytes = self.layers.seal(bytes);
        self.stream.write_all(&bytes)
    }

    /// Negotiates layers with IDENTIFY and begins them: TLS with what `tls` trusts, then compression. Each has to
    /// say `OK`.
    pub fn negotiate(&mut self, tls: Option<&Arc<ClientConfig>>, packing: Packing) {
        let (snappy, deflate) = (packing == Packing::Snappy, packing == Packing::Deflate);
        let granted = self.identify(&format!(
            r#"{{"feature_negotiation":true,"tls_v1":{},"snappy":{snappy},"deflate":{deflate}}}"#,
            tls.is_some()
        ));
        for (layer, wanted) in [("tls_v1", tls.is_some()), ("snappy", snappy), ("deflate", deflate)] {
            assert!(granted.contains(&format!("\"{layer}\":{wanted}")), "{layer} {wanted}: {granted}");
        }
        if let Some(config) = tls {
            self.handshake(config).expect("the handshake goes well");
            self.expect_ok();
        }
        if packing != Packing::None {
            self.pack(packing);
            self.expect_ok();
        }
    }

    /// Makes the handshake that an IDENTIFY has granted.
    ///
    /// # Errors
    /// What is wrong with it, or that the node has closed.
    pub fn handshake(&mut self, config: &Arc<ClientConfig>) -> Result<(), String> {
        assert!(self.input.is_empty(), "bytes came before the handshake: {:?}", self.input);
        self.layers.encrypt(Arc::clone(config));
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        let mut chunk = [0; 64 << 10];
        loop {
            let said = self.layers.seal(b"");
            self.stream.write_all(&said).map_err(|error| error.to_string())?;
            if !self.layers.is_handshaking() {
                return Ok(());
            }
            let read = self.stream.read(&mut chunk).map_err(|error| error.to_string())?;
            if read == 0 {
                return Err("closed".to_owned());
            }
            let plain = self.layers.unwrap(&chunk[..read])?;
            self.input.extend_from_slice(&plain);
        }
    }

    /// Compresses from now on, and takes what has come and was not looked at for compressed.
    pub fn pack(&mut self, packing: Packing) {
        self.layers.pack(packing);
        let packed = std::mem::take(&mut self.input);
        self.input = self.layers.unpack(&packed);
    }

    /// The certificate that the node has shown, if there was a handshake.
    #[must_use]
    pub fn certificate(&self) -> Option<Vec<u8>> {
        self.layers.certificate()
    }

    /// What has come so far and was not looked at, and at least `count` bytes of it, as they came over the socket.
    ///
    /// # Panics
    /// When the node closes first.
    pub fn raw_bytes(&mut self, count: usize) -> Vec<u8> {
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        let (mut bytes, mut chunk) = (std::mem::take(&mut self.input), [0; 64 << 10]);
        while bytes.len() < count {
            let read = self.stream.read(&mut chunk).expect("the node sends something");
            assert!(read > 0, "the node closed after {bytes:?}");
            bytes.extend_from_slice(&chunk[..read]);
        }
        bytes
    }

    /// Everything that comes until the node closes, as it comes over the socket.
    pub fn raw_rest(&mut self) -> Vec<u8> {
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        let (mut bytes, mut chunk) = (std::mem::take(&mut self.input), [0; 64 << 10]);
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return bytes,
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return bytes,
                Err(error) => panic!("the node does not close: {error}"),
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("an open socket can be half-closed");
    }

    /// Sends as much as the node takes before it lets the sender wait for `stall`. Returns the bytes sent.
    pub fn flood(&mut self, bytes: &[u8], limit: usize, stall: Duration) -> usize {
        self.stream.set_write_timeout(Some(stall)).expect("a socket option");
        let mut sent = 0;
        while sent < limit {
            match self.stream.write(&bytes[sent % bytes.len()..]) {
                Ok(n) => sent += n,
                Err(_) => break,
            }
        }
        self.stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        sent
    }

    /// The next frame, heartbeats included.
    ///
    /// # Panics
    /// When none comes, or the connection ends first.
    pub fn raw_frame(&mut self) -> Frame {
        match self.next(PATIENCE) {
            Next::Frame(frame) => frame,
            Next::Nothing => panic!("no frame within {PATIENCE:?}"),
            Next::Closed => panic!("the node closed the connection instead of sending a frame"),
        }
    }

    /// The next frame that is no heartbeat; heartbeats on the way are answered.
    pub fn frame(&mut self) -> Frame {
        loop {
            let frame = self.raw_frame();
            if !is_heartbeat(&frame) {
                return frame;
            }
            self.send(b"NOP\n");
        }
    }

    /// The next frame that is no heartbeat, or `None` when the node closed the connection.
    pub fn frame_or_end(&mut self) -> Option<Frame> {
        loop {
            match self.next(PATIENCE) {
                Next::Frame(frame) if is_heartbeat(&frame) => {}
                Next::Frame(frame) => return Some(frame),
                Next::Closed => return None,
                Next::Nothing => panic!("neither a frame nor an end within {PATIENCE:?}"),
            }
        }
    }

    /// The next message if one comes within `time`; heartbeats are answered.
    pub fn message_within(&mut self, time: Duration) -> Option<Message> {
        loop {
            match self.next(time) {
                Next::Frame(frame) if is_heartbeat(&frame) => self.send(b"NOP\n"),
                Next::Frame(frame) => return Some(parse_message(&frame)),
                Next::Nothing | Next::Closed => return None,
            }
        }
    }

    /// The next frame is a response with this text.
    pub fn expect_response(&mut self, text: &str) {
        let frame = self.frame();
        let expected = Frame { kind: FrameKind::Response, body: text.as_bytes().to_vec() };
        assert_eq!(frame, expected);
    }

    /// The next frame is `OK`.
    pub fn expect_ok(&mut self) {
        self.expect_response("OK");
    }

    /// The next frame is an error with exactly this text.
    pub fn expect_error(&mut self, text: &str) {
        let frame = self.frame();
        let expected = Frame { kind: FrameKind::Error, body: text.as_bytes().to_vec() };
        assert_eq!(frame, expected);
    }

    /// The next frame is an error with exactly this text, and it is the last: the node closes.
    pub fn expect_fatal(&mut self, text: &str) {
        self.expect_error(text);
        self.expect_end();
    }

    /// The node closes without sending another frame.
    pub fn expect_end(&mut self) {
        match self.next(PATIENCE) {
            Next::Closed => {}
            Next::Frame(frame) => panic!("{frame:?} came instead of the end"),
            Next::Nothing => panic!("the node did not close within {PATIENCE:?}"),
        }
    }

    /// Nothing but heartbeats comes for [`QUIET`].
    pub fn expect_silence(&mut self) {
        if let Some(message) = self.message_within(QUIET) {
            panic!("a message came although none should: {message:?}");
        }
    }

    /// The next frame is a message.
    pub fn message(&mut self) -> Message {
        let frame = self.frame();
        parse_message(&frame)
    }

    /// The next `count` messages, each finished at once.
    pub fn finish_messages(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::with_capacity(count);
        for _ in 0..count {
            let message = self.message();
            self.finish(&message.id);
            messages.push(message);
        }
        messages
    }

    /// Takes and finishes messages until all of these have come, each once and nothing else.
    pub fn collect<B: ToString>(&mut self, expected: impl IntoIterator<Item = B>) {
        let mut missing: BTreeSet<String> = expected.into_iter().map(|body| body.to_string()).collect();
        while !missing.is_empty() {
            let message = self.message();
            let text = message.text();
            assert!(missing.remove(&text), "{text} came, and is not one of the missing {missing:?}");
            self.finish(&message.id);
        }
    }

    /// Sends IDENTIFY; returns the answer.
    pub fn identify(&mut self, json: &str) -> String {
        self.send(command("IDENTIFY", json.as_bytes()));
        let frame = self.frame();
        assert_eq!(frame.kind, FrameKind::Response, "{frame:?}");
        String::from_utf8(frame.body).expect("the answer is text")
    }

    /// Subscribes.
    pub fn subscribe(&mut self, topic: &str, channel: &str) {
        self.send(format!("SUB {topic} {channel}\n"));
        self.expect_ok();
    }

    /// Publishes one message and waits for the acknowledgement.
    pub fn publish(&mut self, topic: &str, body: impl AsRef<[u8]>) {
        self.send(command(&format!("PUB {topic}"), body.as_ref()));
        self.expect_ok();
    }

    /// Publishes a batch and waits for the acknowledgement.
    pub fn publish_all<B: AsRef<[u8]>>(&mut self, topic: &str, bodies: &[B]) {
        self.send(multi_publish(topic, bodies));
        self.expect_ok();
    }

    /// Publishes one message that is due in `delay_ms`, and waits for the acknowledgement.
    pub fn publish_deferred(&mut self, topic: &str, delay_ms: u64, body: impl AsRef<[u8]>) {
        self.send(command(&format!("DPUB {topic} {delay_ms}"), body.as_ref()));
        self.expect_ok();
    }

    /// Sends RDY.
    pub fn ready(&mut self, count: u64) {
        self.send(format!("RDY {count}\n"));
    }

    /// Sends FIN.
    pub fn finish(&mut self, id: &str) {
        self.send(format!("FIN {id}\n"));
    }

    /// Sends REQ.
    pub fn requeue(&mut self, id: &str, delay_ms: u64) {
        self.send(format!("REQ {id} {delay_ms}\n"));
    }

    /// Sends TOUCH.
    pub fn touch(&mut self, id: &str) {
        self.send(format!("TOUCH {id}\n"));
    }

    /// Waits until the node has dealt with everything that this connection has sent so far, by publishing to a
    /// topic that nobody looks at.
    /// Messages that come meanwhile are dropped.
    pub fn settle(&mut self) {
        self.send(command("PUB settle", b"x"));
        loop {
            match self.frame() {
                Frame { kind: FrameKind::Message, .. } => {}
                Frame { kind: FrameKind::Response, body } if body == b"OK" => return,
                other => panic!("{other:?} instead of OK"),
            }
        }
    }

    /// Waits for at most `time` until a frame, the end, or nothing.
    fn next(&mut self, time: Duration) -> Next {
        self.stream.set_read_timeout(Some(time)).expect("a socket option");
        let mut chunk = [0; 64 << 10];
        loop {
            if let Some(frame) = take_frame(&mut self.input) {
                return Next::Frame(frame);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.ended(),
                Ok(n) => match self.layers.unwrap(&chunk[..n]) {
                    Ok(plain) => self.input.extend_from_slice(&plain),
                    // The node broke off the handshake: nothing that can be read will come.
                    Err(_) => return self.ended(),
                },
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Next::Nothing;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.ended(),
            }
        }
    }

    fn ended(&self) -> Next {
        assert!(self.input.is_empty(), "the connection ended inside a frame: {:?}", self.input);
        Next::Closed
    }
}

enum Next {
    Frame(Frame),
    Nothing,
    Closed,
}

/// The bodies of messages, sorted, since order is not promised.
#[must_use]
pub fn texts(messages: &[Message]) -> Vec<String> {
    let mut texts: Vec<String> = messages.iter().map(Message::text).collect();
    texts.sort();
    texts
}

/// A frame as it comes over the socket: its size, its type, its body.
#[must_use]
pub fn frame_bytes(kind: FrameKind, body: &str) -> Vec<u8> {
    let mut bytes = length(body.len() + 4).to_vec();
    bytes.extend_from_slice(&[0, 0, 0, kind as u8]);
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

/// A command with a body: its line, the body's length, the body.
#[must_use]
pub fn command(line: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{line}\n").into_bytes();
    bytes.extend_from_slice(&length(body.len()));
    bytes.extend_from_slice(body);
    bytes
}

/// An MPUB.
#[must_use]
pub fn multi_publish<B: AsRef<[u8]>>(topic: &str, bodies: &[B]) -> Vec<u8> {
    let mut body = length(bodies.len()).to_vec();
    for message in bodies {
        body.extend_from_slice(&length(message.as_ref().len()));
        body.extend_from_slice(message.as_ref());
    }
    command(&format!("MPUB {topic}"), &body)
}

/// A length as it stands on the wire.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("tests send less than 4 GiB").to_be_bytes()
}

fn is_heartbeat(frame: &Frame) -> bool {
    frame.kind == FrameKind::Response && frame.body == b"_heartbeat_"
}

fn take_frame(input: &mut Vec<u8>) -> Option<Frame> {
    let size = u32::from_be_bytes(input.get(..4)?.try_into().ok()?) as usize;
    assert!((4..FRAME_MAX).contains(&size), "a frame of {size} bytes: the stream is out of step");
    let kind = match input.get(4..8)? {
        [0, 0, 0, 0] => FrameKind::Response,
        [0, 0, 0, 1] => FrameKind::Error,
        [0, 0, 0, 2] => FrameKind::Message,
        other => panic!("unknown frame type {other:?}"),
    };
    let body = input.get(8..4 + size)?.to_vec();
    input.drain(..4 + size);
    Some(Frame { kind, body })
}

fn parse_message(frame: &Frame) -> Message {
    assert_eq!(frame.kind, FrameKind::Message, "{frame:?}");
    assert!(frame.body.len() > 26, "a message without a body: {frame:?}");
    let (head, body) = frame.body.split_at(26);
    let id = String::from_utf8(head[10..].to_vec()).expect("an id is ASCII");
    assert!(id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "id {id:?} is not lower-case hex");
    Message {
        timestamp: i64::from_be_bytes(head[..8].try_into().expect("8 bytes")),
        attempts: u16::from_be_bytes(head[8..10].try_into().expect("2 bytes")),
        id,
        body: body.to_vec(),
    }
}
