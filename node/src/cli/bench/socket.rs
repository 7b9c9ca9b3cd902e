//! A blocking connection with one large buffer for what was received.
#![expect(
    clippy::disallowed_types,
    reason = "a load generator is a client, not a node: it opens its own sockets"
)]

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

use super::tls::Tls;

/// Room for one read. Large, so that a busy server costs the client few system calls.
const READ_SIZE: usize = 512 * 1024;

/// The buffer grows up to this for a single large reply.
const INBOX_MAX: usize = 64 * 1024 * 1024;

/// How long a read waits at most, so that a thread notices when it is to stop.
const READ_PATIENCE: Duration = Duration::from_millis(100);

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// More bytes are unread now.
    Bytes,
    /// Nothing came for a while (a tenth of a second).
    Nothing,
    /// The server has closed the connection.
    Closed,
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    tls: Option<Tls>,
    inbox: Vec<u8>,
    start: usize,
    end: usize,
}

/// Sends on a connection of which another thread receives.
#[derive(Debug)]
pub(super) struct Sender {
    stream: TcpStream,
}

impl Socket {
    /// Connects to `address` (`host:port`).
    ///
    /// # Errors
    /// Nothing listens there, or the name does not resolve.
    pub(super) fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .with_context(|| format!("cannot reach a server at {address}: is one running?"))?;
        stream.set_nodelay(true).context("cannot turn off Nagle's algorithm")?;
        stream.set_read_timeout(Some(READ_PATIENCE)).context("cannot set a read time-out")?;
        Ok(Self { stream, tls: None, inbox: vec![0; READ_SIZE], start: 0, end: 0 })
    }

    /// Encrypts everything from now on. Nothing may be unread.
    ///
    /// # Errors
    /// The connection is gone.
    pub(super) fn encrypt(&mut self) -> Result<()> {
        let address = self.stream.peer_addr().context("the connection is gone")?;
        let tls = self.tls.insert(Tls::begin(address)?);
        tls.send(b"", &mut self.stream).context("the handshake failed")
    }

    /// A second handle, for another thread to send with.
    ///
    /// # Errors
    /// No descriptor is left, or the connection is encrypted, which only one thread can do.
    pub(super) fn sender(&self) -> io::Result<Sender> {
        if self.tls.is_some() {
            return Err(io::Error::other("a schedule (--rate) and --tls do not go together"));
        }
        Ok(Sender { stream: self.stream.try_clone()? })
    }

    /// Sends all of `bytes`; waits for as long as the server does not take them.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => self.stream.write_all(bytes),
            Some(tls) => tls.send(bytes, &mut self.stream),
        }
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn finish_sending(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Reads once, behind what is still unread.
    ///
    /// # Errors
    /// The connection is broken, or a reply is larger than any that is known.
    pub(super) fn receive(&mut self) -> io::Result<Received> {
        self.inbox.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.inbox.len() {
            if self.end >= INBOX_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply exceeds 64 MiB"));
            }
            self.inbox.resize(2 * self.end, 0);
        }
        match self.stream.read(&mut self.inbox[self.end..]) {
            Ok(0) => Ok(Received::Closed),
            Ok(read) if self.tls.is_some() => self.decrypt(read),
            Ok(read) => {
                self.end += read;
                Ok(Received::Bytes)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {
                    Ok(Received::Nothing)
                }
                _ => Err(error),
            },
        }
    }

    /// Puts what the last `read` bytes mean in their place.
    fn decrypt(&mut self, read: usize) -> io::Result<Received> {
        let (Some(tls), mut plain) = (&mut self.tls, Vec::with_capacity(read)) else {
            return Ok(Received::Nothing);
        };
        tls.receive(&self.inbox[self.end..self.end + read], &mut plain)?;
        // A handshake has something to say to what it has heard. Plain bytes are fewer than encrypted ones.
        tls.send(b"", &mut self.stream)?;
        let end = self.end + plain.len();
        if end > self.inbox.len() {
            self.inbox.resize(end, 0);
        }
        self.inbox[self.end..end].copy_from_slice(&plain);
        self.end = end;
        Ok(if plain.is_empty() { Received::Nothing } else { Received::Bytes })
    }

    /// What was received and not consumed yet.
    pub(super) fn unread(&self) -> &[u8] {
        &self.inbox[self.start..self.end]
    }

    /// Forgets the first `len` unread bytes.
    pub(super) fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }

    /// Gives back the memory of the buffer, which a connection that idles does not need.
    pub(super) fn shrink(&mut self) {
        let unread = self.unread().to_vec();
        (self.start, self.end) = (0, unread.len());
        self.inbox = unread;
        self.inbox.resize(self.end.max(1024), 0);
    }
}

impl Sender {
    /// Sends all of `bytes`; waits for as long as the server does not take them.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }
}
