//! Joining: the addresses to say hello to, tried for ever.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bruit_gossip::{Input, MemberState};
use parking_lot::Mutex;
use tokio::{
    select,
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::core::Core;
use crate::{env::Env, exit::Exiting};

/// The port of a seed that names none.
pub(super) const GOSSIP_PORT: u16 = 4160;
/// Between attempts while this node is alone.
const ALONE: Duration = Duration::from_secs(1);
/// Between attempts otherwise: a seed may belong to a part of the mesh that nobody here knows.
const TOGETHER: Duration = Duration::from_secs(15);
/// A resolver that hangs is asked again later.
const RESOLVE: Duration = Duration::from_secs(5);
/// Seeds that do not answer are named in the log this often.
const NAMED_EVERY: Duration = Duration::from_secs(60);
/// Addresses that one name may stand for.
const ADDRESSES_MAX: usize = 256;
/// Names that may be joined.
const SEEDS_MAX: usize = 1_024;

/// Whom to join.
#[derive(Default)]
pub(super) struct Seeds {
    names: Mutex<BTreeSet<String>>,
    woken: Notify,
}

/// Why a node cannot be joined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// The mesh is off.
    #[error("this node keeps to itself: start it with a --gossip-address")]
    Off,
    /// The name has no address.
    #[error("{peer}: {error}; write host:port, or an address, of a node's --gossip-address")]
    Unresolved {
        /// What was asked for.
        peer: String,
        /// What the resolver said.
        error: std::io::Error,
    },
    /// There are too many already.
    #[error("{SEEDS_MAX} nodes to join are known already")]
    TooMany,
}

impl Seeds {
    pub(super) fn new(names: &[String]) -> Self {
        Self { names: Mutex::new(names.iter().cloned().collect()), woken: Notify::new() }
    }

    /// Resolves `peer`, says hello to every address of it, and keeps it.
    pub(super) async fn join(&self, core: &Core, peer: String) -> Result<Vec<SocketAddr>, JoinError> {
        if core.pool.is_none() {
            return Err(JoinError::Off);
        }
        let addresses = resolve(&core.env, &peer).await;
        let addresses = addresses.map_err(|error| JoinError::Unresolved { peer: peer.clone(), error })?;
        let mut names = self.names.lock();
        if names.len() >= SEEDS_MAX && !names.contains(&peer) {
            return Err(JoinError::TooMany);
        }
        names.insert(peer);
        drop(names);
        core.left.store(false, Relaxed);
        for address in &addresses {
            core.input(Input::Join { address: *address });
        }
        self.woken.notify_one();
        Ok(addresses)
    }
}

/// Says hello to everybody who should be there and is not a member, until `exit`.
pub(super) async fn run(core: Arc<Core>, seeds: Arc<Seeds>, remembered: Vec<SocketAddr>, exit: Exiting) {
    let mut named: Option<Instant> = None;
    let mut first = true;
    loop {
        let alone = join_missing(&core, &seeds, &remembered, &mut named, first).await;
        first = false;
        let pause = jittered(&core, if alone { ALONE } else { TOGETHER });
        select! {
            biased;
            () = exit.told() => return,
            () = seeds.woken.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

/// Returns whether this node is alone although it knows of others.
async fn join_missing(
    core: &Core,
    seeds: &Seeds,
    remembered: &[SocketAddr],
    named: &mut Option<Instant>,
    first: bool,
) -> bool {
    if core.left.load(Relaxed) {
        return false;
    }
    let names: Vec<String> = seeds.names.lock().iter().cloned().collect();
    let mut silent = Vec::new();
    for name in names {
        match resolve(&core.env, &name).await {
            Ok(addresses) => {
                let missing = missing(core, &addresses);
                if !addresses.is_empty() && missing.len() == addresses.len() {
                    silent.push(name);
                }
                missing.into_iter().for_each(|address| core.input(Input::Join { address }));
            }
            Err(error) => silent.push(format!("{name} ({error})")),
        }
    }
    for address in missing(core, remembered) {
        core.input(Input::Join { address });
    }
    let view = core.view();
    let alive = view.members().iter().filter(|member| member.state == MemberState::Alive);
    let alone = alive.count() <= 1;
    let hopes = !silent.is_empty() || !remembered.is_empty();
    let due = named.is_none_or(|at| at.elapsed() >= NAMED_EVERY);
    if alone && !silent.is_empty() && !first && due {
        *named = Some(Instant::now());
        tracing::warn!("no answer yet from {}; still trying", silent.join(", "));
    }
    alone && hopes
}

/// Those of `addresses` where no member is alive.
fn missing(core: &Core, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let view = core.view();
    let alive = view.members().iter().filter(|member| member.state == MemberState::Alive);
    let present: BTreeSet<SocketAddr> =
        alive.map(|member| member.peer.gossip).chain([core.me.gossip]).collect();
    addresses.iter().copied().filter(|address| !present.contains(address)).collect()
}

/// Every address of `host:port`, or of `host` at the usual port.
pub(super) async fn resolve(env: &Env, peer: &str) -> std::io::Result<Vec<SocketAddr>> {
    if let Ok(address) = peer.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let (host, port) = host_and_port(peer).ok_or_else(|| std::io::Error::other("this is no host:port"))?;
    let resolved = timeout(RESOLVE, env.net.resolve(&host, port)).await;
    let mut addresses = resolved.map_err(|_| std::io::Error::other("the resolver does not answer"))??;
    addresses.truncate(ADDRESSES_MAX);
    Ok(addresses)
}

fn host_and_port(peer: &str) -> Option<(String, u16)> {
    if let Ok(ip) = peer.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        return Some((ip.to_string(), GOSSIP_PORT));
    }
    match peer.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() => Some((host.to_owned(), port.parse().ok()?)),
        Some(_) => None,
        None => (!peer.is_empty()).then(|| (peer.to_owned(), GOSSIP_PORT)),
    }
}

/// Up to a quarter more or less, so that a crowd that started together does not stay together.
fn jittered(core: &Core, pause: Duration) -> Duration {
    let mut random = [0];
    core.env.entropy.fill(&mut random);
    pause.mul_f64(0.75 + f64::from(random[0]) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_a_host_and_perhaps_a_port() {
        let known = |peer| host_and_port(peer);
        assert_eq!(known("a.example:7"), Some(("a.example".to_owned(), 7)));
        assert_eq!(known("a.example"), Some(("a.example".to_owned(), GOSSIP_PORT)));
        assert_eq!(known("10.0.0.1"), Some(("10.0.0.1".to_owned(), GOSSIP_PORT)));
        assert_eq!(known("[::1]"), Some(("::1".to_owned(), GOSSIP_PORT)));
        assert_eq!((known(":7"), known("a:b"), known("")), (None, None, None));
    }
}
