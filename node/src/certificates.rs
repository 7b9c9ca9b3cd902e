//! Certificates and keys in PEM files, whom to trust, and the clock that they are judged by: what links between
//! nodes, connections of clients and questions to servers have in common.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    time_provider::TimeProvider,
};

use crate::env::{Env, Open, WallClock};

/// No file of certificates is read beyond this, bytes.
const FILE_MAX: usize = 1024 * 1024;
/// Where systems keep the authorities that they trust.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

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
    /// The environment's cryptography lacks what is needed, or nobody says whom to trust.
    #[error("TLS cannot be set up: {reason}")]
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

/// A file, and the flag that named it.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    /// Without the dashes.
    pub(crate) flag: &'static str,
    /// The file.
    pub(crate) path: PathBuf,
}

/// Whom a client of TLS takes for a server, and what it shows of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust {
    /// The authorities that servers' certificates may come from. `None` is those that the system trusts.
    pub(crate) authorities: Option<Named>,
    /// Its own certificate, and the key to it.
    pub(crate) shown: Option<(Named, Named)>,
    /// Any certificate will do.
    pub(crate) anyone: bool,
}

/// What a client needs for handshakes.
///
/// # Errors
/// A file cannot be read, or holds something else.
pub(crate) async fn client_config(trust: &Trust, env: &Env) -> Result<Arc<ClientConfig>, TlsError> {
    let unmade = |error: rustls::Error| TlsError::Unmade { reason: error.to_string() };
    let builder = ClientConfig::builder_with_details(Arc::clone(&env.crypto), Arc::new(Wall::of(env)));
    let builder = builder.with_safe_default_protocol_versions().map_err(unmade)?;
    let builder = match trust.anyone {
        true => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyPeer::new(&env.crypto))),
        false => builder.with_root_certificates(authorities(trust.authorities.as_ref(), env).await?),
    };
    let config = match &trust.shown {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(env, cert.flag, &cert.path).await?;
            let secret = private_key(env, key.flag, &key.path).await?;
            let made = builder.with_client_auth_cert(chain, secret);
            made.map_err(|error| unfit(key.flag, &key.path, error.to_string()))?
        }
    };
    Ok(Arc::new(config))
}

/// The authorities in the file that is named, or else those that the system trusts.
///
/// # Errors
/// The file cannot be read or holds something else, or the system names none.
pub(crate) async fn authorities(named: Option<&Named>, env: &Env) -> Result<RootCertStore, TlsError> {
    let mut authorities = RootCertStore::empty();
    if let Some(Named { flag, path }) = named {
        for certificate in certificates(env, flag, path).await? {
            let added = authorities.add(certificate);
            added.map_err(|error| unfit(flag, path, error.to_string()))?;
        }
        return Ok(authorities);
    }
    for path in SYSTEM_AUTHORITIES {
        // Systems keep them in different places; what is in none of these is missing.
        if let Ok(found) = certificates(env, "tls-root-ca-file", Path::new(path)).await {
            authorities.add_parsable_certificates(found);
            return Ok(authorities);
        }
    }
    let reason = "this system names no authorities that it trusts: name a file with yours";
    Err(TlsError::Unmade { reason: reason.to_owned() })
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

/// Takes any certificate of a peer that has the key to it.
#[derive(Debug)]
pub(crate) struct AnyPeer {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyPeer {
    /// One that checks signatures with `crypto`.
    pub(crate) fn new(crypto: &CryptoProvider) -> Self {
        Self { algorithms: crypto.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for AnyPeer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for AnyPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
