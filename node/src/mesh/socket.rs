//! Datagrams in batches, on the same kind of socket that QUIC uses.

use std::{
    future::poll_fn,
    io::{self, IoSliceMut},
    net::SocketAddr,
    ops::Range,
    sync::Arc,
};

use quinn::{
    AsyncUdpSocket,
    udp::{RecvMeta, Transmit},
};

/// Bytes of a receive buffer. The kernel may put a run of datagrams from one sender into one.
const BUFFER: usize = 64 * 1024;
/// Buffers that one call may fill.
const BUFFERS: usize = 4;

/// A socket for datagrams.
pub(super) struct Datagrams {
    socket: Arc<dyn AsyncUdpSocket>,
    buffers: Vec<Vec<u8>>,
    received: Vec<Received>,
}

/// Where a datagram lies and where it came from.
#[derive(Clone)]
struct Received {
    from: SocketAddr,
    buffer: usize,
    bytes: Range<usize>,
}

impl Datagrams {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>) -> Self {
        Self { socket, buffers: vec![vec![0; BUFFER]; BUFFERS], received: Vec::new() }
    }

    /// Waits for datagrams; [`drain`](Self::drain) then hands them out.
    ///
    /// # Errors
    /// What the operating system reports; the socket stays usable.
    pub(super) async fn receive(&mut self) -> io::Result<()> {
        let Self { socket, buffers, received } = self;
        let mut meta = [RecvMeta::default(); BUFFERS];
        let count = poll_fn(|cx| {
            let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
            socket.poll_recv(cx, &mut slices, &mut meta)
        })
        .await?;
        received.clear();
        for (buffer, meta) in meta.iter().enumerate().take(count) {
            let (stride, mut start) = (meta.stride.max(1), 0);
            while start < meta.len {
                let end = (start + stride).min(meta.len);
                received.push(Received { from: meta.addr, buffer, bytes: start..end });
                start = end;
            }
        }
        Ok(())
    }

    /// Hands what came to `each`, with its sender's address.
    pub(super) fn drain(&mut self, mut each: impl FnMut(SocketAddr, &mut [u8])) {
        for Received { from, buffer, bytes } in self.received.drain(..) {
            let datagram = self.buffers.get_mut(buffer).and_then(|buffer| buffer.get_mut(bytes));
            if let Some(datagram) = datagram {
                each(from, datagram);
            }
        }
    }

    /// Sends a datagram, or drops it: gossip says everything more than once. Returns whether it went.
    pub(super) fn send(&self, to: SocketAddr, contents: &[u8]) -> bool {
        let transmit = Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
        self.socket.try_send(&transmit).is_ok()
    }
}
