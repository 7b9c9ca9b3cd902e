//! Telling one other node at once what gossip will tell it soon: that it is hidden from lookups of a topic.
//!
//! nsqadmin hides a producer with one request to any node, and deletes the topic on the producer with the next.
//! Gossip may lose that race; the delete would then be taken for one of the whole mesh. HTTP is no way to tell it:
//! the other node may want TLS there, or a token, or be reached at another address.

use std::{io, time::Duration};

use bruit_gossip::{Input, NodeId};
use bruit_wire::{TopicName, peer::Purpose};
use tokio::time::timeout;

use super::{core::Core, quic::PeerStream};

/// How long the other node may take. Beyond that gossip has to do; nsqadmin waits for 5 s.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest name of a topic, bytes.
const REQUEST_MAX: usize = 64;

/// Tells `node` that it is hidden; returns when it knows, or will not be told.
pub(super) async fn tell(core: &Core, node: NodeId, topic: &TopicName) {
    let view = core.view();
    let (Some(pool), Some(member)) = (&core.pool, view.member(node)) else { return };
    let told = pool.request(&member.peer, Purpose::Hide, topic.as_str().as_bytes(), 0);
    match timeout(PATIENCE, told).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!("node {node} was not told at once that it is hidden: {error}"),
        Err(_) => tracing::debug!("node {node} was not told in time that it is hidden"),
    }
}

/// Takes note that this node is hidden, on behalf of a peer, and says so.
///
/// # Errors
/// The stream broke, or the peer named no topic.
pub(super) async fn serve(core: &Core, mut stream: PeerStream) -> io::Result<()> {
    let request = stream.recv(REQUEST_MAX).await?;
    let name = std::str::from_utf8(&request).map_err(io::Error::other)?;
    let topic = TopicName::new(name).map_err(io::Error::other)?;
    core.input(Input::Tombstone { topic, node: core.id() });
    core.show();
    stream.send(b"").await?;
    stream.finish().await;
    Ok(())
}
