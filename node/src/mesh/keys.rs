use super::{core::Core, quic::PeerStream};
use crate::{MeshConfig, env::Env};
use bruit_gossip::*;
use std::path::Path;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct KeysError;
pub(super) async fn load(_: &Env, _: &Path, _: &MeshConfig) -> Result<Keyring, KeysError> {
    Err(KeysError)
}
pub(super) async fn are_saved(_: &Env, _: &Path) -> bool {
    false
}
pub(super) async fn serve(_: &Core, _: NodeId, _: PeerStream) -> std::io::Result<()> {
    Ok(())
}
