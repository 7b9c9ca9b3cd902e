//! The sockets of a simulated process.

use std::{
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bruit::env::{BoxFut, Conn, Listener, Net};
use tokio::time::sleep;
use turmoil::net::{TcpListener, TcpStream};

use super::{
    HTTP_PORT,
    datagram::SimUdp,
    ether::{Ether, Host},
    stream::{self, SimListener},
};
use crate::dice::Dice;

pub(super) struct SimNet {
    /// turmoil's name of the host.
    host: Arc<str>,
    dice: Dice,
    ether: Ether,
    /// Sockets so far that this process opened by itself; each draws its own chance.
    opened: AtomicU64,
}

impl SimNet {
    pub(super) fn new(host: Arc<str>, dice: Dice, ether: Ether) -> Self {
        Self { host, dice, ether, opened: AtomicU64::new(0) }
    }

    /// This host's address. To be asked on the host only.
    fn here(&self) -> IpAddr {
        turmoil::lookup(&*self.host)
    }

    /// Chance for a socket of its own. Listeners take theirs by their port, which is far below these numbers.
    fn own_dice(&self) -> Dice {
        self.dice.fork((1 << 32) + self.opened.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether packets travel both ways between this host and another.
    fn is_linked(&self, there: IpAddr) -> bool {
        let here = self.here();
        self.ether.reaches(here, there) && self.ether.reaches(there, here)
    }
}

impl Net for SimNet {
    fn listen(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await?;
            let dice = self.dice.fork(u64::from(address.port()));
            let listener =
                SimListener::new(listener, dice, self.ether.trace().clone(), address.port() != HTTP_PORT);
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Conn>> {
        Box::pin(async move {
            let (there, here) = (address.ip(), self.here());
            let is_self = there.is_loopback() || there == here;
            if !is_self && !self.is_linked(there) {
                // Nobody answers, neither yes nor no.
                return pending().await;
            }
            if self.ether.host(there) == Host::Idle {
                sleep(Duration::from_millis(2)).await;
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    let readable = address.port() != HTTP_PORT;
                    Ok(stream::conn(stream, address, &self.own_dice(), self.ether.trace(), readable))
                }
                // turmoil says so as well when the packet was lost.
                Err(_) if !is_self && !self.is_linked(there) => pending().await,
                Err(error) => Err(error),
            }
        })
    }

    fn bind_udp(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Arc<dyn quinn::AsyncUdpSocket>>> {
        Box::pin(async move {
            let socket = SimUdp::bind(address, self.here(), self.ether.clone(), self.own_dice()).await?;
            Ok(Arc::new(socket) as Arc<dyn quinn::AsyncUdpSocket>)
        })
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFut<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let found = self.ether.resolve(host);
            if found.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("no address is known for {host}"),
                ));
            }
            Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
        })
    }

    fn route(&self, to: SocketAddr) -> io::Result<IpAddr> {
        Ok(if to.ip().is_loopback() { Ipv4Addr::LOCALHOST.into() } else { self.here() })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        io::IoSliceMut,
        path::Path,
        sync::atomic::{AtomicBool, AtomicUsize},
    };

    use bruit::env::Env;
    use quinn::udp::{RecvMeta, Transmit};
    use tokio::time::timeout;

    use super::*;
    use crate::{
        disk::SimDisk,
        trace::{SimClock, Trace},
        world::{Machine, epoch},
    };

    const PORT: u16 = 4160;
    const PATIENCE: Duration = Duration::from_millis(500);

    /// Two hosts, `near` at the first address and `far` at the second.
    fn world() -> (turmoil::Sim<'static>, Ether, [Machine; 2], [IpAddr; 2]) {
        let trace = Trace::new(SimClock::default(), false);
        let ether = Ether::new(trace.clone());
        let sim = turmoil::Builder::new().epoch(epoch()).rng_seed(1).build();
        let machine = |host| {
            let disk = SimDisk::new(Dice::new(1), trace.clone(), Path::new("/data"));
            Machine::new(host, Dice::new(1), disk, ether.clone())
        };
        let addresses = ["near", "far"].map(|host| sim.lookup(host));
        (sim, ether.clone(), ["near", "far"].map(machine), addresses)
    }

    /// Sends a datagram to `to` each millisecond for a while; whether any came meanwhile.
    async fn talk(env: Env, to: IpAddr) -> io::Result<bool> {
        let socket = env.net.bind_udp(SocketAddr::from(([0, 0, 0, 0], PORT))).await?;
        let destination = SocketAddr::new(to, PORT);
        let (mut bytes, mut meta, mut heard) = ([0; 10], [RecvMeta::default()], false);
        for _ in 0..50 {
            let transmit =
                Transmit { destination, ecn: None, contents: b"?", segment_size: None, src_ip: None };
            socket.try_send(&transmit)?;
            let mut bufs = [IoSliceMut::new(&mut bytes)];
            let arrival = poll_fn(|cx| socket.poll_recv(cx, &mut bufs, &mut meta));
            heard |= timeout(Duration::from_millis(1), arrival).await.is_ok();
        }
        Ok(heard)
    }

    #[test]
    fn who_is_cut_off_hears_nothing_not_even_no_and_who_only_stopped_says_no() {
        let (mut sim, ether, [near, _], [here, there]) = world();
        sim.host("far", || async { pending().await });
        let (cut, wanted) = (ether, Arc::new(AtomicUsize::new(0)));
        let stage = wanted.clone();
        sim.client("near", async move {
            let connect =
                || async { timeout(PATIENCE, near.env(1).net.connect(SocketAddr::new(there, PORT))).await };
            let refused = connect().await?.err().ok_or("a connection to a closed port")?;
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            for cut in 1..=3 {
                stage.store(cut, Ordering::Relaxed);
                sleep(Duration::from_millis(2)).await;
                let answered = connect().await.is_ok();
                assert_eq!(answered, cut == 3, "{cut}");
            }
            Ok(())
        });
        let mut done = 0;
        while !sim.step().unwrap() {
            let stage = wanted.load(Ordering::Relaxed);
            if std::mem::replace(&mut done, stage) == stage {
                continue;
            }
            match stage {
                1 => cut.cut(&sim, here, there),
                2 => {
                    cut.mend(&sim, here, there);
                    cut.cut(&sim, there, here);
                }
                _ => {
                    cut.mend_all(&sim);
                    cut.lighten(&sim, there, Host::Idle);
                }
            }
        }
    }

    #[test]
    fn a_cut_in_one_direction_leaves_the_other() {
        let (mut sim, ether, [near, far], [here, there]) = world();
        let heard: [Arc<AtomicBool>; 2] = Default::default();
        for (host, machine, to, heard) in [("near", near, there, &heard[0]), ("far", far, here, &heard[1])] {
            let heard = heard.clone();
            sim.client(host, async move {
                heard.store(talk(machine.env(1), to).await?, Ordering::Relaxed);
                Ok(())
            });
        }
        ether.cut(&sim, here, there);
        while !sim.step().unwrap() {}
        assert!(heard[0].load(Ordering::Relaxed));
        assert!(!heard[1].load(Ordering::Relaxed));
    }
}
