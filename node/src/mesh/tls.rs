use crate::{MeshConfig, env::Env};
use bruit_gossip::*;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct TlsError;
pub(super) fn server_name(id: NodeId) -> String {
    format!("{id}.node.bruit")
}
pub(super) fn peer_id(_: &quinn::Connection) -> Option<NodeId> {
    None
}
pub(super) async fn build(
    _: &MeshConfig,
    _: &Keyring,
    _: NodeId,
    _: &Env,
) -> Result<(quinn::ServerConfig, quinn::ClientConfig), TlsError> {
    Err(TlsError)
}
