//! The layers themselves, without a socket.

use std::io::{BufRead, ErrorKind, Read, Write};

use bruit_wire::compress::{Compression, Packer, Unpacker};
use bytes::{Buf, BytesMut};
use rustls::{Connection, ProtocolVersion, ServerConnection};

/// No more is taken to be sent while so many bytes wait for the socket.
const OUT_MAX: usize = 256 * 1024;
/// No more is taken to be sent while a handshake has not ended and so many bytes wait for it.
const HELD_MAX: usize = 64 * 1024;
/// Plain bytes that make a full record of TLS.
const RECORD: usize = 16 * 1024;

/// The layers of one connection: TLS if it is there, and compression inside of it.
pub(crate) struct Stack {
    tls: Option<Box<Connection>>,
    packing: Option<(Packer, Unpacker)>,
    /// The unpacker filled its room the last time, and may hold more.
    unpacker_full: bool,
    /// From the socket and not looked at.
    pending: BytesMut,
    /// For the socket.
    out: BytesMut,
    /// For the next record of TLS.
    record: Vec<u8>,
    /// Put while the handshake went on.
    held: usize,
    /// The peer will send no more.
    ended: bool,
}

/// What a handshake agreed on, as `/stats` and an authorisation server are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    /// `TLS1.2` or `TLS1.3`.
    pub(crate) version: &'static str,
    /// The cipher suite by its registered name.
    pub(crate) cipher_suite: String,
    /// The common name in the client's certificate; empty without one.
    pub(crate) common_name: String,
}

/// What [`Stack::read`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing before more comes from the socket.
    Nothing,
    /// The end.
    End,
}

impl Stack {
    /// TLS alone, from its handshake on, in which a client has the first word.
    pub(crate) fn tls(tls: impl Into<Connection>) -> Self {
        let mut stack = Self::new(Some(tls.into()), None);
        stack.collect();
        stack
    }

    /// No layer yet, for a client that will [`pack`](Self::pack).
    pub(crate) fn plain() -> Self {
        Self::new(None, None)
    }

    /// The layers that IDENTIFY has agreed on. Each of them begins with `greeting`: TLS without compression, and
    /// then the compression inside of it.
    pub(crate) fn negotiated(
        tls: Option<ServerConnection>,
        compression: Option<Compression>,
        greeting: &[u8],
    ) -> Self {
        let mut stack = Self::new(tls.map(Connection::from), None);
        if stack.tls.is_some() {
            stack.put(greeting);
            stack.flush();
        }
        if let Some(compression) = compression {
            stack.pack(compression);
            stack.put(greeting);
            stack.flush();
        }
        stack
    }

    /// Compresses from here on, both ways.
    pub(crate) fn pack(&mut self, compression: Compression) {
        self.packing = Some((Packer::new(compression), Unpacker::new(compression)));
    }

    fn new(tls: Option<Connection>, packing: Option<(Packer, Unpacker)>) -> Self {
        let tls = tls.map(|mut tls| {
            // What waits is bounded here, by `room`.
            tls.set_buffer_limit(None);
            Box::new(tls)
        });
        Self {
            tls,
            packing,
            unpacker_full: false,
            pending: BytesMut::new(),
            out: BytesMut::new(),
            record: Vec::new(),
            held: 0,
            ended: false,
        }
    }

    /// Takes bytes from the socket. To be called only when [`Stack::read`] found nothing.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The socket has ended.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Plain bytes, to the front of `room`, which is not empty.
    ///
    /// # Errors
    /// What the peer sent makes no sense, in words for the log. There may be something to be sent all the same:
    /// TLS tells the peer what it did wrong.
    pub(crate) fn read(&mut self, room: &mut [u8]) -> Result<Found, String> {
        loop {
            let found = self.pull(room)?;
            if found != Found::Nothing {
                return Ok(found);
            }
            if self.tls.is_none() || self.pending.is_empty() {
                return Ok(if self.ended { Found::End } else { Found::Nothing });
            }
            self.advance_tls()?;
        }
    }

    /// Plain bytes out of what TLS has decrypted, or out of what came where there is no TLS.
    fn pull(&mut self, room: &mut [u8]) -> Result<Found, String> {
        let Some((_, unpacker)) = &mut self.packing else {
            let Some(tls) = &mut self.tls else {
                let now = self.pending.len().min(room.len());
                self.pending.copy_to_slice(&mut room[..now]);
                return Ok(if now > 0 { Found::Bytes(now) } else { Found::Nothing });
            };
            return found(tls.reader().read(room));
        };
        loop {
            let mut reader = self.tls.as_mut().map(|tls| tls.reader());
            let input = match &mut reader {
                None => &self.pending[..],
                Some(reader) => match reader.fill_buf() {
                    // What the unpacker still holds was sent before the end.
                    Ok([]) if self.unpacker_full => &[],
                    Ok([]) => return Ok(Found::End),
                    Ok(input) => input,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => &[],
                    Err(error) => return found(Err(error)),
                },
            };
            if input.is_empty() && !self.unpacker_full {
                return Ok(Found::Nothing);
            }
            let done = unpacker.unpack(input, room).map_err(|corrupt| corrupt.to_string())?;
            let starved = input.is_empty();
            match &mut reader {
                None => self.pending.advance(done.consumed),
                Some(reader) => reader.consume(done.consumed),
            }
            self.unpacker_full = done.produced == room.len();
            if done.produced > 0 {
                return Ok(Found::Bytes(done.produced));
            }
            if starved {
                return Ok(Found::Nothing);
            }
        }
    }

    /// Decrypts some of what came. TLS takes no more while it holds plain bytes that nobody has read.
    fn advance_tls(&mut self) -> Result<(), String> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let mut bytes = &self.pending[..];
        let taken = tls.read_tls(&mut bytes).map_err(|error| error.to_string())?;
        let outcome = tls.process_new_packets().map_err(|error| error.to_string());
        self.pending.advance(taken);
        self.collect();
        if outcome.is_ok() && !self.is_handshaking() {
            self.held = 0;
        }
        outcome.map(drop)
    }

    /// How many plain bytes [`Stack::put`] may be given.
    pub(crate) fn room(&self) -> usize {
        if self.held < HELD_MAX { OUT_MAX.saturating_sub(self.waiting()) } else { 0 }
    }

    /// Bytes that were put and not sent.
    pub(crate) fn waiting(&self) -> usize {
        self.out.len() + self.record.len() + self.held
    }

    /// Takes plain bytes to be sent. They may wait here for a [`Stack::flush`].
    pub(crate) fn put(&mut self, plain: &[u8]) {
        match (&mut self.packing, &self.tls) {
            (None, None) => self.out.extend_from_slice(plain),
            (None, Some(_)) => self.record.extend_from_slice(plain),
            (Some((packer, _)), _) => packer.put(plain, &mut self.record),
        }
        if self.tls.is_none() || self.record.len() >= RECORD {
            self.seal();
        }
    }

    /// Makes everything that was put ready for the socket.
    pub(crate) fn flush(&mut self) {
        if let Some((packer, _)) = &mut self.packing {
            packer.flush(&mut self.record);
        }
        self.seal();
    }

    /// Says goodbye, behind everything that was put.
    pub(crate) fn close(&mut self) {
        self.flush();
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.collect();
    }

    /// Moves what was packed on, through TLS if it is there.
    fn seal(&mut self) {
        if self.record.is_empty() {
            return;
        }
        match &mut self.tls {
            None => self.out.extend_from_slice(&self.record),
            Some(tls) => {
                if tls.is_handshaking() {
                    self.held += self.record.len();
                }
                // Writes to memory, without a limit.
                let written = tls.writer().write_all(&self.record);
                debug_assert!(written.is_ok());
            }
        }
        self.record.clear();
        self.collect();
    }

    /// Takes what TLS has for the socket.
    fn collect(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        while tls.wants_write() {
            let mut out = SocketBytes(&mut self.out);
            if !tls.write_tls(&mut out).is_ok_and(|written| written > 0) {
                return;
            }
        }
    }

    /// What waits for the socket.
    pub(crate) fn out(&self) -> &[u8] {
        &self.out
    }

    /// So many bytes of it have been written.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.out.advance(bytes);
        if self.out.is_empty() && self.out.capacity() > OUT_MAX {
            self.out = BytesMut::new();
        }
    }

    /// Whether a handshake is under way.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Goes on without layers, for what is left to say to a peer whose handshake failed.
    pub(crate) fn strip(&mut self) {
        (self.tls, self.packing) = (None, None);
        (self.held, self.unpacker_full) = (0, false);
        self.record.clear();
        self.pending.clear();
    }

    /// What the handshake agreed on. `None` without TLS, and before.
    pub(crate) fn session(&self) -> Option<Session> {
        let tls = self.tls.as_ref().filter(|tls| !tls.is_handshaking())?;
        let version = match tls.protocol_version()? {
            ProtocolVersion::TLSv1_2 => "TLS1.2",
            ProtocolVersion::TLSv1_3 => "TLS1.3",
            _ => "",
        };
        let suite = tls.negotiated_cipher_suite()?.suite();
        let cipher_suite = suite.as_str().unwrap_or_default().replace("TLS13_", "TLS_");
        let certificate = tls.peer_certificates().and_then(|chain| chain.first());
        let common_name = certificate.and_then(|certificate| common_name(certificate)).unwrap_or_default();
        Some(Session { version, cipher_suite, common_name })
    }
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (pending, out) = (self.pending.len(), self.out.len());
        f.debug_struct("Stack").field("pending", &pending).field("out", &out).finish_non_exhaustive()
    }
}

/// What a read of decrypted bytes means.
fn found(read: std::io::Result<usize>) -> Result<Found, String> {
    match read {
        Ok(0) => Ok(Found::End),
        Ok(read) => Ok(Found::Bytes(read)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Found::Nothing),
        // A peer that hangs up without a word: every frame has a length, so nothing can be cut short unseen.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Found::End),
        Err(error) => Err(error.to_string()),
    }
}

/// The common name of whom a certificate is for.
fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

/// Collects what TLS writes.
struct SocketBytes<'a>(&'a mut BytesMut);

impl Write for SocketBytes<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
