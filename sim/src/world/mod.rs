//! The world that the simulation gives to a node: turmoil's network, a simulated disk, a clock that can
//! jump, and chance that the seed decides.

mod crypto;
mod datagram;
mod ether;
mod net;
mod stream;
mod tasks;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bruit::env::{Entropy, Env, WallClock};
use parking_lot::Mutex;

pub use self::ether::{Ether, Host, Weather};
use self::{
    net::SimNet,
    tasks::{SimSpawn, Tasks},
};
use crate::{dice::Dice, disk::SimDisk, trace::SimClock};

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
    host: Arc<str>,
    ether: Ether,
    tasks: Tasks,
    has_a_common_name: bool,
}

impl Machine {
    /// The machine that turmoil calls `host`, with `disk` and a place in `ether`; its processes draw their
    /// chance from `dice`.
    #[must_use]
    pub fn new(host: &str, dice: Dice, disk: SimDisk, ether: Ether) -> Self {
        let wall = SimWall { clock: ether.trace().clock().clone(), jumped_millis: Arc::default() };
        Self { dice, disk, wall, host: host.into(), ether, tasks: Tasks::default(), has_a_common_name: false }
    }

    /// The same machine, on which a node draws an id whose mark in message ids is that of all such machines.
    #[must_use]
    pub fn with_a_common_name(self) -> Self {
        Self { has_a_common_name: true, ..self }
    }

    /// The world of the machine's `incarnation`-th process.
    #[must_use]
    pub fn env(&self, incarnation: u32) -> Env {
        let dice = self.dice.fork(u64::from(incarnation));
        let spawn = Arc::new(SimSpawn(self.tasks.clone()));
        Env {
            net: Arc::new(SimNet::new(self.host.clone(), dice.fork(1), self.ether.clone())),
            disk: Arc::new(self.disk.mount()),
            entropy: Arc::new(SimEntropy {
                dice: Mutex::new(dice.fork(2)),
                draws_a_common_name: AtomicBool::new(self.has_a_common_name),
            }),
            crypto: crypto::provider(dice.fork(3)),
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
        self.tasks.end();
    }

    /// The machine's disk.
    #[must_use]
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// The network that the machine is in.
    #[must_use]
    pub fn ether(&self) -> &Ether {
        &self.ether
    }

    /// turmoil's name of the machine.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Moves the wall clock by `millis`, back if negative. Monotonic time does not notice.
    pub fn jump_clock(&self, millis: i64) {
        self.wall.jumped_millis.fetch_add(millis, Ordering::Relaxed);
        self.ether.trace().event(format_args!("clock jumps by {millis} ms"));
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
    /// The first thing that a process draws is the node's id, if it has none yet.
    draws_a_common_name: AtomicBool,
}

impl Entropy for SimEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.dice.lock().fill(bytes);
        if self.draws_a_common_name.swap(false, Ordering::Relaxed) && bytes.len() == NODE_ID_LEN {
            // Whichever end is the low one.
            bytes[..2].fill(0x77);
            bytes[NODE_ID_LEN - 2..].fill(0x77);
        }
    }
}

/// Length of a node's id, bytes.
const NODE_ID_LEN: usize = 8;

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, path::Path};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::trace::Trace;

    fn machine(seed: u64) -> Machine {
        let trace = Trace::new(SimClock::default(), false);
        let disk = SimDisk::new(Dice::new(seed), trace.clone(), Path::new("/data"));
        Machine::new("node", Dice::new(seed), disk, Ether::new(trace))
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
        machine.ether.trace().clock().set(Duration::from_secs(5));
        assert_eq!(wall.now(), epoch() + Duration::from_secs(5));
        machine.jump_clock(-7_000);
        assert_eq!(wall.now(), epoch() - Duration::from_secs(2));
    }

    #[test]
    fn bytes_arrive_whole_and_in_order_through_short_reads_and_writes() {
        let machine = machine(1);
        let trace = machine.ether.trace().clone();
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
