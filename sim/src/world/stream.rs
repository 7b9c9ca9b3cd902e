//! Streams: turmoil's, with reads and writes that now and then move fewer bytes than they could.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bruit::env::{BoxFut, Conn, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{
    TcpListener, TcpStream,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use crate::{
    dice::{Dice, digest},
    trace::Trace,
};

pub(super) struct SimListener {
    listener: TcpListener,
    dice: Dice,
    trace: Trace,
    /// Whether the bytes themselves belong in the trace. HTTP answers carry a date that hyper takes from
    /// the real clock; of them only the lengths count.
    readable: bool,
    accepted: u64,
}

impl SimListener {
    pub(super) fn new(listener: TcpListener, dice: Dice, trace: Trace, readable: bool) -> Self {
        Self { listener, dice, trace, readable, accepted: 0 }
    }
}

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFut<'_, io::Result<(Conn, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            self.accepted += 1;
            self.trace.event(format_args!("net accept {peer}"));
            let dice = self.dice.fork(self.accepted);
            Ok((conn(stream, peer, &dice, &self.trace, self.readable), peer))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection to `peer` whose chance comes from `dice`.
pub(super) fn conn(stream: TcpStream, peer: SocketAddr, dice: &Dice, trace: &Trace, readable: bool) -> Conn {
    let (reader, writer) = stream.into_split();
    let half = |label| Half { dice: dice.fork(label), trace: trace.clone(), peer, readable };
    let reader = Box::new(SimReader { reader, half: half(1) });
    let writer = Box::new(SimWriter { writer, half: half(2) });
    Conn { reader, writer }
}

/// What the two halves of a connection share: who the peer is, and the chance of short reads and writes.
struct Half {
    dice: Dice,
    trace: Trace,
    peer: SocketAddr,
    readable: bool,
}

/// Of a thousand reads and writes, how many move fewer bytes than they could.
const SHORT_PER_MILLE: u64 = 30;

impl Half {
    /// How many of `len` bytes move this time.
    fn moved(&mut self, len: usize) -> usize {
        if len > 1 && self.dice.chance(SHORT_PER_MILLE) {
            usize::try_from(self.dice.between(1, len as u64 - 1)).unwrap_or(len)
        } else {
            len
        }
    }

    fn record(&self, what: &str, bytes: &[u8]) {
        let content = if self.readable { digest(bytes) } else { 0 };
        self.trace.event(format_args!("net {what} {} {} {content:x}", self.peer, bytes.len()));
    }
}

struct SimReader {
    reader: OwnedReadHalf,
    half: Half,
}

impl AsyncRead for SimReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let room = this.half.moved(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut this.reader).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        this.half.record("read", part.filled());
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

struct SimWriter {
    writer: OwnedWriteHalf,
    half: Half,
}

impl AsyncWrite for SimWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let len = this.half.moved(buf.len());
        let written = ready!(Pin::new(&mut this.writer).poll_write(cx, &buf[..len]))?;
        this.half.record("write", &buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A simulated segment holds as much as it is given, and a socket only 64 of them.
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.poll_write(cx, &all)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().writer).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().writer).poll_shutdown(cx)
    }
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimListener").finish_non_exhaustive()
    }
}
