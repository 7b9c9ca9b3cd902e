//! The real world: sockets, files, clocks and randomness of the operating system.
//!
//! **Invariant:** this is the only module of the node that touches them. Everything else goes through
//! the traits of [`super`], so that a simulation sees every byte and every tick.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the one place where the node meets the operating system"
)]

mod disk;
mod net;
mod pace;
mod pool;

use std::{sync::Arc, time::SystemTime};

use rustix::rand::GetRandomFlags;
use tokio::runtime::Handle;

use super::{BoxFut, Entropy, Env, Spawn, WallClock};

/// The world of a production node.
///
/// `data_plane` runs the client connections and the commit loop. `background` runs what may be slow; the
/// blocking threads that file operations hop to are its own, so it must outlive the node. Sockets belong
/// to the runtime on which they are bound: bind each where it will be served.
#[must_use]
pub fn env(data_plane: Handle, background: Handle) -> Env {
    Env {
        net: Arc::new(net::RealNet),
        disk: Arc::new(disk::RealDisk::new(background.clone())),
        entropy: Arc::new(SystemEntropy),
        crypto: Arc::new(rustls::crypto::ring::default_provider()),
        wall: Arc::new(SystemClock),
        spawn: Arc::new(TokioSpawn(data_plane)),
        background: Arc::new(TokioSpawn(background)),
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            // Large requests may be cut short or interrupted by a signal; anything else cannot happen on
            // a kernel that Rust supports, and a node without randomness must not go on.
            match rustix::rand::getrandom(&mut *bytes, GetRandomFlags::empty()) {
                Ok(filled) => bytes = &mut bytes[filled..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("the kernel gives no random bytes: {error}"),
            }
        }
    }
}

struct SystemClock;

impl WallClock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

#[derive(Debug)]
struct TokioSpawn(Handle);

impl Spawn for TokioSpawn {
    fn spawn(&self, task: BoxFut<'static, ()>) {
        self.0.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_fills_all_bytes_and_never_the_same_way() {
        let (mut first, mut second) = ([0; 1000], [0; 1000]);
        SystemEntropy.fill(&mut first);
        SystemEntropy.fill(&mut second);
        assert_ne!(first, second);
        assert_ne!(first[900..], [0; 100], "the end is filled too");
        SystemEntropy.fill(&mut []);
    }

    #[tokio::test]
    async fn spawned_tasks_run_on_the_runtime_they_were_meant_for() {
        let background = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let env = env(Handle::current(), background.handle().clone());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        env.background.spawn(Box::pin(async move {
            let _ = sender.send(std::thread::current().id());
        }));
        assert_ne!(receiver.await.unwrap(), std::thread::current().id());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        env.spawn.spawn(Box::pin(async move {
            let _ = sender.send(std::thread::current().id());
        }));
        assert_eq!(receiver.await.unwrap(), std::thread::current().id());
        background.shutdown_background();
    }
}
