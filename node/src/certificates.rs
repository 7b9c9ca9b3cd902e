//! Certificates and keys in PEM files, and the clock that they are judged by: what links between nodes and
//! connections of clients have in common.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    time_provider::TimeProvider,
};

use crate::env::{Env, Open, WallClock};

/// No file of certificates is read beyond this, bytes.
const FILE_MAX: usize = 1024 * 1024;

/// Why there are no certificates to begin with, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read --{flag} {path}: {error}")]
    Unreadable {
        /// The flag that named it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
    /// A file holds something else than it should, or what other nodes would not accept.
    #[error("--{flag} {path}: {reason}")]
    Unfit {
        /// The flag that named it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The environment's cryptography lacks what is needed.
    #[error("the certificate of this node cannot be made: {reason}")]
    Unmade {
        /// What went wrong.
        reason: String,
    },
}

/// The certificates in a file, at least one.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub(crate) async fn certificates(
    env: &Env,
    flag: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(env, flag, path).await?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(unfit(flag, path, "no certificate in PEM form is in it, or one is damaged".to_owned())),
    }
}

/// The private key in a file.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub(crate) async fn private_key(
    env: &Env,
    flag: &'static str,
    path: &Path,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(env, flag, path).await?;
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| unfit(flag, path, "no private key in PEM form is in it".to_owned()))
}

async fn read(env: &Env, flag: &'static str, path: &Path) -> Result<bytes::Bytes, TlsError> {
    let content = async {
        let file = env.disk.open(path, Open::Read).await?;
        file.read_at(0, FILE_MAX).await
    };
    content.await.map_err(|error| TlsError::Unreadable { flag, path: path.to_owned(), error })
}

/// What a file holds is not what it should.
pub(crate) fn unfit(flag: &'static str, path: &Path, reason: String) -> TlsError {
    TlsError::Unfit { flag, path: path.to_owned(), reason }
}

/// The node's wall clock, by which certificates expire.
pub(crate) struct Wall(Arc<dyn WallClock>);

impl Wall {
    /// That of `env`.
    pub(crate) fn of(env: &Env) -> Self {
        Self(Arc::clone(&env.wall))
    }
}

impl std::fmt::Debug for Wall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wall")
    }
}

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.now().duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}
