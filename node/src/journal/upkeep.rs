//! Background work on the journal's files: spare segments, room on the disk, checkpoints.

use std::{io, sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{
    admission::Admission,
    checkpoint::Checkpoint,
    segment::{FileKind, UNFINISHED, checkpoint_name, kind_of},
    store::Store,
};
use crate::{
    env::{AlignedBuf, Open},
    exit::Exiting,
};

/// How often the room on the disk is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// Checkpoints that are kept: the newest, and one to fall back on should it be damaged.
const CHECKPOINTS_KEPT: usize = 2;

/// Keeps spare segments ahead of the writer and refuses publishes while the disk has too little room.
/// `changed` is told when publishes are taken again. Ends when the node exits.
pub(crate) async fn keep(
    store: Arc<Store>,
    admission: Arc<Admission>,
    min_free_bytes: u64,
    changed: Arc<Notify>,
    exit: Exiting,
) {
    let mut was_full = false;
    loop {
        let free = store.disk().free_bytes(&store.dir).await;
        let mut full = free.is_ok_and(|free| free < min_free_bytes);
        while !full && store.spares() < store.spares_wanted() {
            match store.prepare_spare().await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => full = true,
                Err(error) => {
                    tracing::warn!("cannot prepare a segment: {error}");
                    break;
                }
            }
        }
        admission.set_disk_full(full);
        if was_full && !full {
            changed.notify_one();
        }
        was_full = full;
        tokio::select! {
            biased;
            () = exit.told() => return,
            () = store.spare_taken.notified() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Writes a checkpoint beside the journal, atomically: it exists whole and durable, or not at all.
///
/// # Errors
/// What the disk reports; the older checkpoint stays in force.
pub(crate) async fn write_checkpoint(store: &Store, checkpoint: &Checkpoint) -> io::Result<()> {
    let _one_at_a_time = store.checkpointing.lock().await;
    let name = checkpoint_name(checkpoint.replay_from);
    let unfinished = store.path(&format!("{name}{UNFINISHED}"));
    let bytes = checkpoint.encode();
    let mut content = AlignedBuf::with_capacity(bytes.len());
    content.extend_from_slice(&bytes);
    let file = store.disk().open(&unfinished, Open::Write).await?;
    file.set_len(0).await?;
    file.write_at(0, content, false).await.1?;
    file.sync().await?;
    store.disk().rename(&unfinished, &store.path(&name)).await?;
    store.disk().sync_dir(&store.dir).await
}

/// Removes all but the newest checkpoints.
///
/// # Errors
/// What the disk reports; what stays is removed the next time.
pub(crate) async fn remove_old_checkpoints(store: &Store) -> io::Result<()> {
    let files = store.disk().list(&store.dir).await?;
    let mut names: Vec<String> = files.into_iter().map(|file| file.name).collect();
    names.retain(|name| matches!(kind_of(name), FileKind::Checkpoint(_)));
    names.sort_unstable();
    for name in names.iter().rev().skip(CHECKPOINTS_KEPT) {
        store.disk().remove(&store.path(name)).await?;
    }
    Ok(())
}
