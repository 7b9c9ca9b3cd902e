//! A producer's connection to a lookup, in protocol V1.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::{Value, json};

use crate::wait::PATIENCE;

/// A send/expect script over one connection.
#[derive(Debug)]
pub struct Registration {
    stream: TcpStream,
    /// Where the lookup said that its HTTP is.
    pub(super) http: Option<SocketAddr>,
}

impl Registration {
    /// Connects and sends nothing.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        Self { stream, http: None }
    }

    /// Connects and sends the magic.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        let mut registration = Self::silent(address);
        registration.send(b"  V1");
        registration
    }

    /// Connects as an nsqd whose clients reach it at `broadcast_address`:`tcp_port`, its HTTP one port higher.
    #[must_use]
    pub fn identified(address: SocketAddr, broadcast_address: &str, tcp_port: u16) -> Self {
        let mut registration = Self::connect(address);
        let answer = registration.identify(&json!({
            "version": "1.2.1", "tcp_port": tcp_port, "http_port": tcp_port + 1,
            "broadcast_address": broadcast_address, "hostname": "old", "remote_address": "ignored",
        }));
        assert_eq!(answer["version"], "1.3.0", "{answer}");
        let address =
            format!("{}:{}", answer["broadcast_address"].as_str().unwrap_or_default(), answer["http_port"]);
        registration.http = address.parse().ok();
        registration
    }

    /// Sends IDENTIFY; the answer.
    ///
    /// # Panics
    /// When it is refused.
    pub fn identify(&mut self, body: &Value) -> Value {
        let body = body.to_string();
        self.send([b"IDENTIFY\n", &(body.len() as u32).to_be_bytes()[..], body.as_bytes()].concat());
        let answer = self.answer();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("IDENTIFY is refused: {answer}"))
    }

    /// Sends a line that has to succeed.
    pub fn ok(&mut self, line: &str) {
        self.send(format!("{line}\n"));
        assert_eq!(self.answer(), "OK", "{line}");
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// When the other end is gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the lookup takes what is sent");
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("an open socket can be half-closed");
    }

    /// The next answer.
    ///
    /// # Panics
    /// When none comes.
    pub fn answer(&mut self) -> String {
        self.answer_or_end().expect("the lookup answers")
    }

    /// The next answer, or `None` when the connection ends.
    pub fn answer_or_end(&mut self) -> Option<String> {
        read_sized(&mut self.stream).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Four bytes of length and as many bytes.
pub(super) fn read_sized(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let length = u32::from_be_bytes(length) as usize;
    assert!(length < 1 << 20, "an answer of {length} bytes is none");
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}
