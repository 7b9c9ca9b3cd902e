//! The world that the simulation gives to a node: turmoil's network, a simulated disk, a clock that can
//! jump, and chance that the seed decides.

use std::{
    collections::BTreeMap,
    fmt,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bruit::env::{BoxFut, Conn, Entropy, Env, Listener, Net, Spawn, WallClock};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{
    TcpListener,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use crate::{
    dice::{Dice, digest},
    disk::SimDisk,
    trace::{SimClock, Trace},
};

/// When every simulation begins: 2026-01-01T00:00:00Z.
#[must_use]
pub fn epoch() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

/// Port on which a simulated node serves clients.
pub const TCP_PORT: u16 = 4150;

/// Port on which a simulated node serves HTTP.
pub const HTTP_PORT: u16 = 4151;

/// What outlives a node's processes: its disk, and the wall clock with its jumps. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Machine {
    dice: Dice,
    disk: SimDisk,
    wall: SimWall,
    trace: Trace,
    tasks: Tasks,
}

impl Machine {
    /// A machine with `disk`; its processes draw their chance from `dice`.
    #[must_use]
    pub fn new(dice: Dice, disk: SimDisk, trace: Trace) -> Self {
        let wall = SimWall { clock: trace.clock().clone(), jumped_millis: Arc::default() };
        Self { dice, disk, wall, trace, tasks: Tasks::default() }
    }

    /// The world of the machine's `incarnation`-th process.
    #[must_use]
    pub fn env(&self, incarnation: u32) -> Env {
        let dice = self.dice.fork(u64::from(incarnation));
        let spawn = Arc::new(SimSpawn { tasks: self.tasks.clone() });
        Env {
            net: Arc::new(SimNet { dice: dice.fork(1), trace: self.trace.clone() }),
            disk: Arc::new(self.disk.mount()),
            entropy: Arc::new(SimEntropy { dice: Mutex::new(dice.fork(2)) }),
            crypto: Arc::new(rustls::crypto::ring::default_provider()),
            wall: Arc::new(self.wall.clone()),
            spawn: spawn.clone(),
            background: spawn,
        }
    }

    /// Ends all tasks of the current process, in the order in which they began. To be called on the
    /// process's host, so that its sockets are closed.
    ///
    /// turmoil would end them too, but in an order that depends on how many tasks this whole program has
    /// started before, so that two runs of one seed would differ.
    pub fn end_tasks(&self) {
        let tasks = std::mem::take(&mut *self.tasks.0.lock());
        for task in tasks.into_values() {
            drop(task.lock().take());
        }
    }

    /// The machine's disk.
    #[must_use]
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Moves the wall clock by `millis`, back if negative. Monotonic time does not notice.
    pub fn jump_clock(&self, millis: i64) {
        self.wall.jumped_millis.fetch_add(millis, Ordering::Relaxed);
        self.trace.event(format_args!("clock jumps by {millis} ms"));
    }
}

#[derive(Debug, Clone)]
struct SimWall {
    clock: SimClock,
    jumped_millis: Arc<AtomicI64>,
}

impl WallClock for SimWall {
    fn now(&self) -> SystemTime {
        let jumped = self.jumped_millis.load(Ordering::Relaxed);
        let distance = Duration::from_millis(jumped.unsigned_abs());
        let true_time = epoch() + self.clock.now();
        if jumped < 0 { true_time - distance } else { true_time + distance }
    }
}

struct SimEntropy {
    dice: Mutex<Dice>,
}

impl Entropy for SimEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.dice.lock().fill(bytes);
    }
}

/// A task, until it ends or its process does.
type Slot = Arc<Mutex<Option<BoxFut<'static, ()>>>>;

/// The tasks of a process, in the order in which they began.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<BTreeMap<u64, Slot>>>);

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tasks", self.0.lock().len())
    }
}

#[derive(Debug)]
struct SimSpawn {
    tasks: Tasks,
}

impl Spawn for SimSpawn {
    fn spawn(&self, task: BoxFut<'static, ()>) {
        let slot: Slot = Arc::new(Mutex::new(Some(task)));
        let number = {
            let mut tasks = self.tasks.0.lock();
            let number = tasks.last_key_value().map_or(0, |(last, _)| last + 1);
            tasks.insert(number, slot.clone());
            number
        };
        let tasks = self.tasks.clone();
        let task = poll_fn(move |cx| {
            let mut held = slot.lock();
            let Some(task) = held.as_mut() else { return Poll::Ready(()) };
            ready!(task.as_mut().poll(cx));
            let ended = held.take();
            drop(held);
            drop(ended);
            tasks.0.lock().remove(&number);
            Poll::Ready(())
        });
        #[expect(clippy::disallowed_methods, reason = "this is the simulated Env, which ends the ban here")]
        tokio::spawn(task);
    }
}

struct SimNet {
    dice: Dice,
    trace: Trace,
}

impl Net for SimNet {
    fn listen(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await?;
            let listener = SimListener {
                listener,
                dice: self.dice.fork(u64::from(address.port())),
                trace: self.trace.clone(),
                readable: address.port() != HTTP_PORT,
                accepted: 0,
            };
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Conn>> {
        Box::pin(async move { Err(io::Error::other(format!("no way to {address}"))) })
    }

    fn bind_udp(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Arc<dyn quinn::AsyncUdpSocket>>> {
        Box::pin(async move { Err(io::Error::other(format!("no datagrams at {address}"))) })
    }

    fn resolve<'a>(&'a self, host: &'a str, _port: u16) -> BoxFut<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Err(io::Error::other(format!("no name {host}"))) })
    }

    fn route(&self, to: SocketAddr) -> io::Result<IpAddr> {
        Err(io::Error::other(format!("no route to {to}")))
    }
}

struct SimListener {
    listener: TcpListener,
    dice: Dice,
    trace: Trace,
    /// Whether the bytes themselves belong in the trace. HTTP answers carry a date that hyper takes from
    /// the real clock; of them only the lengths count.
    readable: bool,
    accepted: u64,
}

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFut<'_, io::Result<(Conn, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            self.accepted += 1;
            self.trace.event(format_args!("net accept {peer}"));
            let dice = self.dice.fork(self.accepted);
            let (reader, writer) = stream.into_split();
            let half = |label| Half {
                dice: dice.fork(label),
                trace: self.trace.clone(),
                peer,
                readable: self.readable,
            };
            let reader = Box::new(SimReader { reader, half: half(1) });
            let writer = Box::new(SimWriter { writer, half: half(2) });
            Ok((Conn { reader, writer }, peer))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn machine(seed: u64) -> Machine {
        let trace = Trace::new(SimClock::default(), false);
        let disk = SimDisk::new(Dice::new(seed), trace.clone(), Path::new("/data"));
        Machine::new(Dice::new(seed), disk, trace)
    }

    #[test]
    fn each_process_draws_its_own_chance_and_the_same_in_each_run() {
        let draw = |seed, incarnation| {
            let mut bytes = [0; 16];
            machine(seed).env(incarnation).entropy.fill(&mut bytes);
            bytes
        };
        assert_eq!(draw(1, 1), draw(1, 1));
        assert_ne!(draw(1, 1), draw(1, 2));
        assert_ne!(draw(1, 1), draw(2, 1));
    }

    #[test]
    fn the_wall_clock_follows_simulated_time_and_jumps() {
        let machine = machine(1);
        let wall = machine.env(1).wall;
        machine.trace.clock().set(Duration::from_secs(5));
        assert_eq!(wall.now(), epoch() + Duration::from_secs(5));
        machine.jump_clock(-7_000);
        assert_eq!(wall.now(), epoch() - Duration::from_secs(2));
    }

    #[test]
    fn bytes_arrive_whole_and_in_order_through_short_reads_and_writes() {
        let machine = machine(1);
        let trace = machine.trace.clone();
        let mut sim = turmoil::Builder::new().epoch(epoch()).rng_seed(1).build();
        sim.host("node", move || {
            let env = machine.env(1);
            async move {
                let mut listener = env.net.listen(SocketAddr::from(([0, 0, 0, 0], TCP_PORT))).await?;
                let (mut conn, _) = listener.accept().await?;
                let mut bytes = vec![0; 100_000];
                conn.reader.read_exact(&mut bytes).await?;
                conn.writer.write_all(&bytes).await?;
                Ok(())
            }
        });
        sim.client("client", async {
            let mut stream = turmoil::net::TcpStream::connect(("node", TCP_PORT)).await?;
            let mut sent = vec![0; 100_000];
            Dice::new(3).fill(&mut sent);
            stream.write_all(&sent).await?;
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await?;
            assert_eq!(received, sent);
            Ok(())
        });
        sim.run().unwrap();
        assert!(trace.len() > 3, "no read or write was short");
    }
}
