//! A stack around a connection: reads and writes of the plain bytes on one side, of the socket on the other.
//!
//! What is written waits until it is flushed, and then goes out in one piece, as far as the socket takes it.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bruit_wire::compress::Compression;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::stack::{Found, Session, Stack};
use crate::env::Conn;

/// Bytes of one read from the socket.
const CHUNK: usize = 32 * 1024;
/// Reads from the socket in a row that may come to nothing; then others get their turn.
const VAIN_READS: usize = 16;
/// How long a peer may take for its handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

thread_local! {
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How far a handshake has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// It goes on.
    Running,
    /// It has ended well. `None` where there was none to make.
    Done(Option<Session>),
    /// It has failed, and why.
    Failed(String),
}

/// Puts `stack` around `conn`. The two halves of what comes out are to be polled by the same task, as those of
/// any connection.
pub(crate) fn wrap(conn: Conn, stack: Stack) -> (Conn, Layered) {
    let patience = stack.is_handshaking().then(|| Box::pin(sleep(HANDSHAKE_MAX)));
    let shared = Shared { stack, conn, patience, failed: None, closed: false };
    let layered = Layered(Arc::new(Mutex::new(shared)));
    let (reader, writer) = (Box::new(Reader(layered.clone())), Box::new(Writer(layered.clone())));
    (Conn { reader, writer }, layered)
}

/// What is known of a connection with layers, apart from its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Layered(Arc<Mutex<Shared>>);

impl Layered {
    /// How far the handshake has come.
    pub(crate) fn handshake(&self) -> Handshake {
        let shared = self.0.lock();
        match &shared.failed {
            Some(why) => Handshake::Failed(why.clone()),
            None if shared.stack.is_handshaking() => Handshake::Running,
            None => Handshake::Done(shared.stack.session()),
        }
    }

    /// What the handshake agreed on. `None` without TLS, and before.
    pub(crate) fn session(&self) -> Option<Session> {
        self.0.lock().stack.session()
    }

    /// Compresses from here on. What was read so far came without; what was written has to be flushed.
    pub(crate) fn pack(&self, compression: Compression) {
        self.0.lock().stack.pack(compression);
    }

    /// Bytes that were written and not taken by the socket.
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().stack.waiting()
    }

    /// Takes the layers away, so that a peer whose handshake failed can be told in plain bytes.
    pub(crate) fn strip(&self) {
        let mut shared = self.0.lock();
        shared.stack.strip();
        (shared.patience, shared.failed) = (None, None);
    }
}

struct Shared {
    stack: Stack,
    conn: Conn,
    /// Runs while the handshake does.
    patience: Option<Pin<Box<Sleep>>>,
    /// Why there is nothing more to be read.
    failed: Option<String>,
    /// The peer was told goodbye.
    closed: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("stack", &self.stack).finish_non_exhaustive()
    }
}

impl Shared {
    fn poll_read(&mut self, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if room.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..VAIN_READS {
            if let Some(why) = &self.failed {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why.clone())));
            }
            let found = self.stack.read(room.initialize_unfilled());
            // A handshake that goes on, or its failure, has something to say.
            self.push_along(cx)?;
            match found {
                Ok(Found::Bytes(read)) => {
                    room.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Found::End) => return Poll::Ready(Ok(())),
                Ok(Found::Nothing) => {}
                Err(why) => {
                    self.failed = Some(why);
                    continue;
                }
            }
            self.watch(cx);
            if self.failed.is_some() {
                continue;
            }
            ready!(self.poll_socket(cx))?;
        }
        // Records and blocks without content can go on for ever.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what the socket has.
    fn poll_socket(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        READ.with_borrow_mut(|chunk| {
            chunk.resize(CHUNK, 0);
            let mut buffer = ReadBuf::new(chunk);
            ready!(Pin::new(&mut self.conn.reader).poll_read(cx, &mut buffer))?;
            match buffer.filled() {
                [] => self.stack.end(),
                bytes => self.stack.feed(bytes),
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Gives up a handshake that takes too long.
    fn watch(&mut self, cx: &mut Context<'_>) {
        if !self.stack.is_handshaking() {
            self.patience = None;
        } else if self.patience.as_mut().is_some_and(|patience| patience.as_mut().poll(cx).is_ready()) {
            self.failed = Some("the TLS handshake takes too long".to_owned());
        }
    }

    /// Writes what waits as far as the socket takes it now; the rest goes with the next poll of either half.
    fn push_along(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.poll_push(cx) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Ok(()),
        }
    }

    /// Writes until nothing waits.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.stack.out().is_empty() {
            match ready!(Pin::new(&mut self.conn.writer).poll_write(cx, self.stack.out()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.stack.sent(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.stack.room() == 0 {
            ready!(self.poll_push(cx))?;
            if self.stack.room() == 0 {
                // Only the peer's next step of the handshake makes room, and the reader waits for that.
                return Poll::Pending;
            }
        }
        let mut taken = 0;
        for slice in slices {
            let part = slice.len().min(self.stack.room());
            self.stack.put(slice.get(..part).unwrap_or_default());
            taken += part;
            if part < slice.len() {
                break;
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stack.flush();
        ready!(self.poll_push(cx))?;
        Pin::new(&mut self.conn.writer).poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            self.closed = true;
            self.stack.close();
        }
        ready!(self.poll_push(cx))?;
        Pin::new(&mut self.conn.writer).poll_shutdown(cx)
    }
}

struct Reader(Layered);

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.0.lock().poll_read(cx, room)
    }
}

struct Writer(Layered);

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.0.lock().poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.0.lock().poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.0.lock().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.0.lock().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
