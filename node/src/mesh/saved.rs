//! What the mesh keeps on disk: the names it knows, and where its members were.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bruit_gossip::MemberState;
use tokio::{
    select,
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::core::Core;
use crate::{data, exit::Exiting, rising::Rising};

/// The names of topics and channels, and which were deleted.
pub(super) const CATALOGUE: &str = "catalogue";
/// Gossip addresses of members, one a line.
pub(super) const PEERS: &str = "peers";
/// No saved catalogue is read beyond this, bytes.
pub(super) const CATALOGUE_MAX: usize = 256 * 1024 * 1024;
/// No list of peers is read beyond this, bytes.
pub(super) const PEERS_MAX: usize = 256 * 1024;
/// Addresses that are remembered.
const REMEMBERED: usize = 1_024;
/// Changes that nobody waits for are saved together, when the first of them is so old ...
const TOGETHER: Duration = Duration::from_millis(50);
/// ... or, if that is more, so many times what the last save took: a large catalogue is not written all the
/// time.
const REST: u32 = 20;
/// What could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Nobody waits longer for a save: a disk that fails is told by other means.
const PATIENCE: Duration = Duration::from_secs(5);

/// What waits to be saved, and how far saving is.
#[derive(Default)]
pub(super) struct Saves {
    asked: AtomicU64,
    saved: Rising,
    urgent: AtomicBool,
    woken: Notify,
}

impl Saves {
    /// The names have changed, or the members.
    pub(super) fn ask(&self) {
        self.asked.fetch_add(1, Relaxed);
        self.woken.notify_one();
    }

    /// Waits until what has changed by now is on disk. Returns whether it is, in time.
    pub(super) async fn settled(&self) -> bool {
        let target = self.asked.fetch_add(1, Relaxed) + 1;
        self.urgent.store(true, Relaxed);
        self.woken.notify_one();
        timeout(PATIENCE, self.saved.reaches(target)).await.is_ok()
    }
}

/// What the disk has, and what it would not take.
#[derive(Default)]
struct Kept {
    unsaved: Option<Vec<u8>>,
    peers: BTreeSet<SocketAddr>,
    /// How long the last save took.
    took: Duration,
}

/// Saves what changes, until `exit`; then once more.
pub(super) async fn run(core: Arc<Core>, exit: Exiting) {
    let mut kept = Kept::default();
    loop {
        let mut exiting = select! {
            biased;
            () = exit.told() => true,
            () = core.saves.woken.notified() => false,
            () = sleep(RETRY), if kept.unsaved.is_some() => false,
        };
        let together = Instant::now() + TOGETHER.max(kept.took * REST).min(PATIENCE);
        while !exiting && !core.saves.urgent.swap(false, Relaxed) {
            select! {
                biased;
                () = exit.told() => exiting = true,
                () = core.saves.woken.notified() => {}
                () = sleep_until(together) => break,
            }
        }
        let began = Instant::now();
        save(&core, &mut kept).await;
        kept.took = began.elapsed();
        if exiting {
            return;
        }
    }
}

/// Writes what has changed; names that could not be written stay in [`Kept::unsaved`].
async fn save(core: &Core, kept: &mut Kept) {
    let asked = core.saves.asked.load(Relaxed);
    let changed = core.state.lock().mesh.names_to_save();
    kept.unsaved = changed.or(kept.unsaved.take());
    if let Some(names) = &kept.unsaved
        && let Err(error) = data::replace_file(&core.env, &core.dir, CATALOGUE, names).await
    {
        tracing::warn!("cannot save what is known of the mesh in {}: {error}", core.dir.display());
        return;
    }
    kept.unsaved = None;
    core.saves.saved.raise(asked);
    save_peers(core, &mut kept.peers).await;
}

async fn save_peers(core: &Core, saved: &mut BTreeSet<SocketAddr>) {
    let view = core.view();
    let alive = view.members().iter().filter(|member| {
        member.peer.id != core.id() && matches!(member.state, MemberState::Alive | MemberState::Suspect)
    });
    let addresses: BTreeSet<SocketAddr> = alive.map(|member| member.peer.gossip).take(REMEMBERED).collect();
    // When nobody is left, those that are remembered may still be right.
    if addresses.is_empty() || addresses == *saved {
        return;
    }
    let text: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    match data::replace_file(&core.env, &core.dir, PEERS, text.as_bytes()).await {
        Ok(()) => *saved = addresses,
        Err(error) => {
            tracing::warn!("cannot save the members' addresses in {}: {error}", core.dir.display());
        }
    }
}

/// The addresses that an earlier start remembered; lines that are none are skipped.
pub(super) fn parse_peers(text: &[u8]) -> Vec<SocketAddr> {
    let lines = text.split(|byte| *byte == b'\n').take(REMEMBERED);
    lines.filter_map(|line| std::str::from_utf8(line).ok()?.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_address_are_skipped() {
        let text = b"127.0.0.1:1\nnonsense\n\xff\n[::1]:2\n";
        let expected: Vec<SocketAddr> = vec!["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()];
        assert_eq!(parse_peers(text), expected);
    }
}
