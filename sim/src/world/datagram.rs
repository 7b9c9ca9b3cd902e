//! Datagrams: turmoil's socket in the form that quinn wants, and what the weather does to what goes out.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bruit::env::BoxFut;
use parking_lot::Mutex;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use turmoil::net::UdpSocket;

use super::ether::{Ether, Host};
use crate::dice::{Dice, digest};

/// A datagram socket.
pub(super) struct SimUdp {
    socket: Arc<UdpSocket>,
    /// The address that was asked for, with the port that was taken.
    local: SocketAddr,
    /// The address of this host in the network.
    here: IpAddr,
    ether: Ether,
    dice: Mutex<Dice>,
    /// Resolves when a datagram is there. Holds turmoil's lock on the socket, so it has to go before anything
    /// is received.
    arrival: Mutex<Option<BoxFut<'static, io::Result<()>>>>,
}

impl SimUdp {
    /// Binds one on the host with the address `here`. turmoil knows no addresses but all and loopback.
    pub(super) async fn bind(
        address: SocketAddr,
        here: IpAddr,
        ether: Ether,
        dice: Dice,
    ) -> io::Result<Self> {
        let ip = if address.ip().is_loopback() { address.ip() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = Arc::new(UdpSocket::bind((ip, address.port())).await?);
        let local = SocketAddr::new(address.ip(), socket.local_addr()?.port());
        Ok(Self { socket, local, here, ether, dice: Mutex::new(dice), arrival: Mutex::new(None) })
    }

    /// Sends one datagram, or does to it what the weather does.
    fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let fate = self.fate(to, bytes.len());
        let (port, content) = (self.local.port(), digest(bytes));
        let trace = self.ether.trace();
        trace.event(format_args!("udp send {}:{port} {to} {} {content:x} {fate:?}", self.here, bytes.len()));
        match fate {
            Fate::Lost => {}
            Fate::Comes(times) => {
                for _ in 0..times {
                    self.socket.try_send_to(bytes, to)?;
                }
            }
            Fate::Damaged(bit) => {
                let mut bytes = bytes.to_vec();
                let at = bit / 8 % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (bit % 8);
                }
                self.socket.try_send_to(&bytes, to)?;
            }
        }
        Ok(())
    }

    fn fate(&self, address: SocketAddr, len: usize) -> Fate {
        let to = address.ip();
        if to.is_loopback() || to == self.here {
            return Fate::Comes(1);
        }
        let (weather, mut dice) = (self.ether.weather(), self.dice.lock());
        let arrives = self.ether.host(to) == Host::Up && self.ether.carries(self.here, address);
        if !arrives || len > weather.len_max || dice.chance(weather.lost_per_mille) {
            Fate::Lost
        } else if dice.chance(weather.damaged_per_mille) {
            Fate::Damaged(usize::try_from(dice.below(1 << 16)).unwrap_or(0))
        } else {
            Fate::Comes(1 + usize::from(dice.chance(weather.doubled_per_mille)))
        }
    }
}

/// What becomes of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lost,
    Damaged(usize),
    Comes(usize),
}

impl AsyncUdpSocket for SimUdp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        transmit.contents.chunks(segment).try_for_each(|bytes| self.send(transmit.destination, bytes))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buf), Some(meta)) = (bufs.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        let mut arrival = self.arrival.lock();
        loop {
            if let Some(arrival) = arrival.as_mut() {
                ready!(arrival.as_mut().poll(cx))?;
            }
            *arrival = None;
            match self.socket.try_recv_from(buf) {
                Ok((len, addr)) => {
                    let content = digest(buf.get(..len).unwrap_or_default());
                    let (here, port) = (self.here, self.local.port());
                    let trace = self.ether.trace();
                    trace.event(format_args!("udp recv {here}:{port} {addr} {len} {content:x}"));
                    *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                    return Poll::Ready(Ok(1));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let socket = self.socket.clone();
                    *arrival = Some(Box::pin(async move { socket.readable().await }));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl fmt::Debug for SimUdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimUdp").field("local", &self.local).finish_non_exhaustive()
    }
}

/// A simulated socket takes whatever it is given.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
