//! Exchanges of what two nodes know: three legs on one stream, each one blob.

use std::{io, sync::Arc};

use bruit_gossip::{LEG_MAX, NodeId, Peer};
use bruit_wire::peer::Purpose;

use super::{
    core::Core,
    quic::{PeerStream, Pool},
};

/// Exchanges with one peer that this node has begun.
pub(super) fn begin(core: &Arc<Core>, peer: Peer) {
    let core = Arc::clone(core);
    let spawn = Arc::clone(&core.env.background);
    spawn.spawn(Box::pin(async move {
        let outcome = match &core.pool {
            Some(pool) => lead(&core, pool, &peer).await,
            None => Err(io::Error::other("the mesh is off")),
        };
        if let Err(error) = &outcome {
            tracing::debug!("no exchange with {} at {}: {error}", peer.id, peer.mesh());
            if error.kind() == io::ErrorKind::PermissionDenied {
                core.state.lock().dropped.note_certificates(&peer, error);
            }
        }
        core.with_mesh(|mesh, now| mesh.exchange_over(now, &peer, outcome.ok()));
    }));
}

/// Returns the bytes that went both ways.
async fn lead(core: &Core, pool: &Pool, peer: &Peer) -> io::Result<u64> {
    let mut stream = pool.open(peer, Purpose::Exchange).await?;
    let first = core.with_mesh(|mesh, now| mesh.exchange_open(now, peer));
    stream.send(&first).await?;
    let second = stream.recv(LEG_MAX).await?;
    let third = core.with_mesh(|mesh, now| mesh.exchange_close(now, peer.id, &second));
    let third = third.map_err(io::Error::other)?;
    stream.send(&third).await?;
    stream.finish().await;
    Ok((first.len() + second.len() + third.len()) as u64)
}

/// Follows an exchange that a peer has begun.
///
/// # Errors
/// The stream broke, or the peer sent what cannot be; what was merged before stays.
pub(super) async fn follow(core: &Core, from: NodeId, mut stream: PeerStream) -> io::Result<()> {
    let first = stream.recv(LEG_MAX).await?;
    let second = core.with_mesh(|mesh, now| mesh.exchange_answer(now, from, &first));
    stream.send(&second.map_err(io::Error::other)?).await?;
    let third = stream.recv(LEG_MAX).await?;
    core.with_mesh(|mesh, now| mesh.exchange_end(now, from, &third)).map_err(io::Error::other)
}
