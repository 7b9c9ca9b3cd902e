//! The data directory: its lock, and the node's identity in it.

use std::{
    io,
    path::{Path, PathBuf},
};

use bruit_gossip::{Identity, IdentityError};

use crate::env::{AlignedBuf, DirLock, Env, Open};

/// File whose lock says that the directory is in use.
const LOCK: &str = "lock";
/// File that holds the node's identity.
const IDENTITY: &str = "node";
/// No identity is longer, bytes.
const IDENTITY_MAX: usize = 4096;

/// A data directory that this node alone uses.
pub(crate) struct DataDirectory {
    /// Who the node is.
    pub(crate) identity: Identity,
    _lock: Box<dyn DirLock>,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another node runs on it.
    #[error("{path} is in use by another node: stop that one, or name another --data-path")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The disk refuses.
    #[error(
        "cannot use {path}: {error}; make it readable and writable for this user, or name another --data-path"
    )]
    Unusable {
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
    /// The identity cannot be read.
    #[error("{path}: {error}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        error: IdentityError,
    },
}

/// Locks the directory `path`, which is made if it is missing, and reads the node's identity; a new
/// directory gets a random one. Each start counts as one more generation.
///
/// # Errors
/// Another node uses it, the disk refuses, or the identity is damaged.
pub(crate) async fn open(env: &Env, path: &Path) -> Result<DataDirectory, DataError> {
    let unusable = |path: PathBuf| move |error| DataError::Unusable { path, error };
    env.disk.create_dir_all(path).await.map_err(unusable(path.to_owned()))?;
    let lock = env.disk.lock(path.join(LOCK)).await.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => DataError::InUse { path: path.to_owned() },
        _ => DataError::Unusable { path: path.to_owned(), error },
    })?;
    let file = path.join(IDENTITY);
    let known = read_file(env, path, IDENTITY, IDENTITY_MAX).await.map_err(unusable(file.clone()))?;
    let identity = match known {
        Some(bytes) => {
            let before = Identity::from_bytes(&bytes);
            before.map_err(|error| DataError::Identity { path: file.clone(), error })?.restarted()
        }
        None => {
            let mut random = [0; 8];
            env.entropy.fill(&mut random);
            Identity::first(u64::from_le_bytes(random))
        }
    };
    replace_file(env, path, IDENTITY, &identity.to_bytes()).await.map_err(unusable(file))?;
    Ok(DataDirectory { identity, _lock: lock })
}

/// The content of a small file in the data directory, at most `max` bytes of it; `None` if there is none.
///
/// # Errors
/// What the disk reports.
pub(crate) async fn read_file(
    env: &Env,
    dir: &Path,
    name: &str,
    max: usize,
) -> io::Result<Option<bytes::Bytes>> {
    let listed = env.disk.list(dir).await?;
    if !listed.iter().any(|entry| entry.name == name) {
        return Ok(None);
    }
    let file = env.disk.open(&dir.join(name), Open::Read).await?;
    file.read_at(0, max).await.map(Some)
}

/// Writes a small file beside the old one and swaps them, so that a crash leaves one of the two.
///
/// # Errors
/// What the disk reports; the old file is still there then.
pub(crate) async fn replace_file(env: &Env, dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let unfinished = dir.join(format!("{name}.unfinished"));
    let file = env.disk.open(&unfinished, Open::Write).await?;
    file.set_len(0).await?;
    let mut bytes = AlignedBuf::with_capacity(content.len());
    bytes.extend_from_slice(content);
    file.write_at(0, bytes, true).await.1?;
    env.disk.rename(&unfinished, &dir.join(name)).await?;
    env.disk.sync_dir(dir).await
}
