//! Datagrams from outside of the mesh: made up, damaged, or recorded on their way and sent once more.

#![expect(clippy::disallowed_types, reason = "an attacker is outside of the node: its sockets are real")]

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
};

use crate::wait;

/// Longest datagram there is, bytes.
const DATAGRAM_MAX: usize = 65_507;

/// A socket that belongs to no node.
#[derive(Debug)]
pub struct Stranger {
    socket: UdpSocket,
}

impl Stranger {
    /// Opens a socket on loopback.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn new() -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a free port");
        socket.set_nonblocking(true).expect("a socket option");
        Self { socket }
    }

    /// Where it is.
    ///
    /// # Panics
    /// Never, for an open socket.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket has an address")
    }

    /// Sends one datagram.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) {
        // What earlier datagrams led to, such as a port that was closed, is told at the next call.
        let mut outcome = self.socket.send_to(bytes, to);
        for _ in 0..3 {
            outcome = match outcome {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => self.socket.send_to(bytes, to),
                other => other,
            };
        }
        assert_eq!(outcome.expect("loopback takes a datagram"), bytes.len());
    }

    /// Stands between two nodes, of which `one` is known to be at this address by the other: passes on what
    /// comes, until `condition` holds. Returns what came for `one`.
    #[must_use]
    pub fn relay(
        &self,
        one: SocketAddr,
        other: SocketAddr,
        what: &str,
        mut condition: impl FnMut() -> bool,
    ) -> Vec<Vec<u8>> {
        let mut recorded = Vec::new();
        wait::until(what, || {
            while let Some((from, datagram)) = self.receive() {
                self.send(if from == one { other } else { one }, &datagram);
                if from != one {
                    recorded.push(datagram);
                }
            }
            condition()
        });
        recorded
    }

    /// The next datagram that has come already.
    fn receive(&self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut buffer = vec![0; DATAGRAM_MAX];
        let (len, from) = self.socket.recv_from(&mut buffer).ok()?;
        buffer.truncate(len);
        Some((from, buffer))
    }
}

impl Default for Stranger {
    fn default() -> Self {
        Self::new()
    }
}
