//! A connection whose patience with its peer is limited, in the ways that hyper does not limit it.
//!
//! - A request's head that has begun has to end soon. (hyper has one limit for a head and for the pause before
//!   it, and a pause may be long.)
//! - A reply has to be taken.
//! - A connection that closes first reads on for a moment. A refusal is often sent before the body that is
//!   refused has come; closing with unread bytes resets the connection, and the reset overtakes the reply.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::{env::Conn, exit::Exiting};

/// How long a request's head may take from its first byte.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// A reply of which the peer takes nothing for this long is given up.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// How long a closing connection reads on.
const LINGER_MAX: Duration = Duration::from_secs(2);
/// How much a closing connection reads on, bytes.
const LINGER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Whether a request is being answered, told by who answers to who reads: even between requests, odd within.
#[derive(Debug, Clone, Default)]
pub(super) struct Phase(Arc<AtomicU64>);

impl Phase {
    /// A request's head is complete, or its answer is. The two take turns.
    pub(super) fn turn(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

type Timer = Pin<Box<Sleep>>;

/// See the module.
pub(super) struct Impatient {
    conn: Conn,
    phase: Phase,
    stopping: Exiting,
    /// Runs while a head is incomplete, with the phase that it began in.
    head: Option<(u64, Timer)>,
    /// Runs while a write waits.
    stall: Option<Timer>,
    /// Runs once the writing side is closed, with the bytes that may still be read.
    linger: Option<(usize, Timer)>,
}

impl Impatient {
    /// Watches over `conn`. When the node is `stopping`, closing does not linger.
    pub(super) fn new(conn: Conn, phase: Phase, stopping: Exiting) -> Self {
        Self { conn, phase, stopping, head: None, stall: None, linger: None }
    }

    /// Passes on the outcome of a write, and keeps the time of one that waits.
    fn watch_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(WRITE_STALL_MAX)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((left, timer)) = &mut self.linger else { return Poll::Ready(()) };
        let mut scratch = [0; 4096];
        while timer.as_mut().poll(cx).is_pending() && *left > 0 {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.conn.reader).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => *left = left.saturating_sub(buf.filled().len()),
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let phase = self.phase.now();
        self.head.take_if(|(begun, _)| *begun != phase);
        let before = buf.filled().len();
        let read = Pin::new(&mut self.conn.reader).poll_read(cx, buf);
        let between_requests = phase.is_multiple_of(2);
        if between_requests && buf.filled().len() > before && self.head.is_none() {
            self.head = Some((phase, Box::pin(sleep(HEAD_MAX))));
        }
        match &mut self.head {
            Some((_, timer)) if read.is_pending() => {
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            _ => read,
        }
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.conn.writer).poll_write(cx, buf);
        self.watch_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.conn.writer).poll_write_vectored(cx, bufs);
        self.watch_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.conn.writer.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.conn.writer).poll_flush(cx);
        self.watch_write(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            let shut = Pin::new(&mut self.conn.writer).poll_shutdown(cx);
            ready!(self.watch_write(cx, shut))?;
            if self.stopping.is_told() {
                return Poll::Ready(Ok(()));
            }
            self.linger = Some((LINGER_BYTES_MAX, Box::pin(sleep(LINGER_MAX))));
        }
        self.poll_linger(cx).map(Ok)
    }
}
