//! quinn's tasks and timers, in the node's world.
#![expect(clippy::disallowed_types, reason = "quinn's trait names a socket that is never taken")]

use std::{io, net::UdpSocket, pin::Pin, sync::Arc, time::Instant};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};

use super::Spawn;

/// quinn's tasks and timers in the node's world.
#[derive(Debug)]
pub(crate) struct QuicRuntime(Arc<dyn Spawn>);

impl QuicRuntime {
    /// Tasks go to `spawn`; timers are tokio's.
    pub(crate) fn new(spawn: Arc<dyn Spawn>) -> Self {
        Self(spawn)
    }
}

impl Runtime for QuicRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(task);
    }

    fn wrap_udp_socket(&self, _: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::other("sockets come from the environment"))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}
