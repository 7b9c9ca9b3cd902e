//! The cluster's secrets while the node runs: kept in its data directory, changed on the whole mesh at once.
//!
//! A node starts with the secret that it is given. Once keys were changed, the file `keys` in the data directory
//! holds them and wins: else a restart would bring back a secret that was taken out of use. A change is on disk
//! before it has any effect.
//!
//! A change goes from one node, which a person has asked, to all others (`spread`), as an [`Operation`] on a
//! stream of its own; each answers with the keys that it holds then. Whoever asks has to prove over plain HTTP
//! that it knows a secret (`envelope`). Nodes that are away meanwhile miss the change: it is repeated when they
//! are back, before the old key is removed.

mod envelope;
mod operation;
mod spread;

use std::{io, path::Path, path::PathBuf};

use bruit_gossip::{Keyring, KeyringError, NodeId};
use tokio::sync::Mutex;

use self::{envelope::Challenges, operation::Answer};
pub(crate) use self::{
    envelope::{Conversation, Offer},
    operation::{HeldKey, NodeKeys, Operation, Report},
    spread::Refusal,
};
use super::{core::Core, quic::PeerStream, tls};
use crate::{MeshConfig, data, env::Env};

/// The file in the data directory.
const KEYS: &str = "keys";
/// A file of keys is not longer, bytes.
const KEYS_MAX: usize = 4096;
/// Longest request from another node, bytes.
const REQUEST_MAX: usize = 1024;
/// Longest answer of another node, bytes.
const ANSWER_MAX: usize = 4096;

/// Why the node does not know its cluster's secrets.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}; make it readable for this user")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
    /// The file does not hold keys.
    #[error("{path}: {error}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        error: KeyringError,
    },
}

/// What changing the keys takes.
pub(super) struct Keys {
    /// Changes come one after the other.
    changing: Mutex<()>,
    challenges: parking_lot::Mutex<Challenges>,
}

impl Keys {
    pub(super) fn new(env: &Env) -> Self {
        let mut seed = [0; 32];
        env.entropy.fill(&mut seed);
        Self { changing: Mutex::default(), challenges: parking_lot::Mutex::new(Challenges::new(&seed)) }
    }
}

/// The keys to start with: those in `dir`, or the secret of `config`, or none.
///
/// # Errors
/// The file of keys is there and cannot be used.
pub(super) async fn load(env: &Env, dir: &Path, config: &MeshConfig) -> Result<Keyring, KeysError> {
    let path = dir.join(KEYS);
    let content = data::read_file(env, dir, KEYS, KEYS_MAX).await;
    let content = content.map_err(|error| KeysError::Unreadable { path: path.clone(), error })?;
    let Some(content) = content else {
        return Ok(config.secret.clone().map_or_else(Keyring::open, Keyring::new));
    };
    let text = str::from_utf8(&content).map_err(|_| KeyringError::Damaged { line: 1 });
    let keyring = text.and_then(Keyring::from_text);
    let keyring = keyring.map_err(|error| KeysError::Damaged { path: path.clone(), error })?;
    if let Some(secret) = &config.secret
        && !keyring.holds(secret.fingerprint())
    {
        tracing::warn!(
            "the cluster secret that was given ({}) is not among the keys in {}, which win: they were changed \
             on the mesh since. Give the used one ({}); or remove that file, if the given one is right",
            secret.fingerprint(),
            path.display(),
            keyring.used().fingerprint()
        );
    }
    Ok(keyring)
}

/// Whether `dir` holds keys.
pub(super) async fn are_saved(env: &Env, dir: &Path) -> bool {
    let listed = env.disk.list(dir).await;
    listed.is_ok_and(|files| files.iter().any(|file| file.name == KEYS))
}

/// Does what another node asks.
///
/// # Errors
/// The stream broke. What was asked may have been done.
pub(super) async fn serve(core: &Core, from: NodeId, mut stream: PeerStream) -> io::Result<()> {
    let request = stream.recv(REQUEST_MAX).await?;
    let operation: Operation = serde_json::from_slice(&request).map_err(io::Error::other)?;
    let outcome = apply(core, &operation, &format!("node {from}")).await;
    let mut answer = Answer { keys: held(core), error: None };
    let mut lost_trust = false;
    match outcome {
        Ok(changed) => lost_trust = changed && matches!(operation, Operation::Remove { .. }),
        Err(error) => answer.error = Some(error),
    }
    let sent = stream.send(&serde_json::to_vec(&answer)?).await;
    stream.finish().await;
    if lost_trust {
        distrust(core);
    }
    sent
}

/// Does it on this node: on disk first, then in the seals and certificates. Returns whether anything changed.
async fn apply(core: &Core, operation: &Operation, asked_by: &str) -> Result<bool, String> {
    let _turn = core.keys.changing.lock().await;
    let mut keyring = core.state.lock().keyring.clone();
    if keyring.is_open() {
        return Err(KeyringError::Open.to_string());
    }
    let changed = match operation {
        Operation::List => Ok(false),
        Operation::Install { key } => keyring.install(key.clone()),
        Operation::Use { fingerprint, .. } => keyring.use_(*fingerprint),
        Operation::Remove { fingerprint, .. } => keyring.remove(*fingerprint),
    };
    if !changed.map_err(|error| error.to_string())? {
        return Ok(false);
    }
    // An operator's own certificates do not depend on the keys.
    let certificates = match core.config.pki {
        None => Some(tls::derived(&core.config.cluster_name, &keyring, core.id(), &core.env)),
        Some(_) => None,
    };
    let certificates = certificates.transpose().map_err(|error| error.to_string())?;
    let saved = data::replace_file(&core.env, &core.dir, KEYS, keyring.to_text().as_bytes()).await;
    saved.map_err(|error| format!("cannot save the keys in {}: {error}", core.dir.display()))?;
    if let (Some(pool), Some(certificates)) = (&core.pool, certificates) {
        pool.set_certificates(certificates);
        if matches!(operation, Operation::Remove { .. }) {
            pool.mark_newer();
        }
    }
    let mut state = core.state.lock();
    state.sealer.set_keyring(&keyring);
    state.keyring = keyring;
    drop(state);
    tracing::info!("{}, asked by {asked_by}", operation.done());
    Ok(true)
}

/// Closes connections that were made when a removed key still counted, which the answer to the removal had to
/// wait for; those that are needed are made again.
fn distrust(core: &Core) {
    if let Some(pool) = &core.pool {
        pool.distrust_older();
    }
}

/// The keys of this node.
fn held(core: &Core) -> Vec<HeldKey> {
    let state = core.state.lock();
    let held = state.keyring.held();
    held.map(|(secret, used)| HeldKey { fingerprint: secret.fingerprint(), used }).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bruit_gossip::Secret;
    use tokio::runtime::Handle;

    use super::*;
    use crate::env::real;

    async fn loaded(dir: &Path, secret: Option<u8>) -> Result<Keyring, KeysError> {
        let env = real::env(Handle::current(), Handle::current());
        let secret = secret.map(|number| Secret::new([number; 32]));
        load(&env, dir, &MeshConfig { secret, ..MeshConfig::default() }).await
    }

    #[tokio::test]
    async fn keys_that_were_changed_outlast_the_secret_that_a_node_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let env = real::env(Handle::current(), Handle::current());
        assert!(loaded(dir.path(), None).await.unwrap().is_open());
        assert_eq!(loaded(dir.path(), Some(1)).await.unwrap(), Keyring::new(Secret::new([1; 32])));
        assert!(!are_saved(&env, dir.path()).await);
        let changed = Keyring::new(Secret::new([2; 32]));
        fs::write(dir.path().join(KEYS), changed.to_text()).unwrap();
        assert!(are_saved(&env, dir.path()).await);
        for given in [None, Some(1), Some(2)] {
            assert_eq!(loaded(dir.path(), given).await.unwrap(), changed);
        }
    }

    #[tokio::test]
    async fn a_file_of_keys_that_is_damaged_stops_the_start_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for damaged in [&b""[..], b"\xff", &[b'x'; 100_000], b"bruit-keys 1\n"] {
            fs::write(dir.path().join(KEYS), damaged).unwrap();
            let error = loaded(dir.path(), Some(1)).await.unwrap_err().to_string();
            let path = dir.path().join(KEYS).display().to_string();
            assert!(error.starts_with(&path) && error.contains("remove it"), "{error}");
        }
    }
}
