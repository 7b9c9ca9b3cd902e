//! What clients are shown and asked for in a handshake of TLS, from the operator's files, which are read again
//! when the operator says so.

use std::{path::Path, sync::Arc, time::UNIX_EPOCH};

use parking_lot::Mutex;
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::{
    certificates::{AnyPeer, Named, TlsError, Wall, authorities, certificates, private_key, unfit},
    config::{ClientAuth, Reload, TlsConfig, TlsVersion},
    env::Env,
    exit::Exiting,
};

/// Begins handshakes with clients, by the certificates that were last read.
pub(crate) struct Doorkeeper {
    config: TlsConfig,
    env: Env,
    current: Mutex<Arc<ServerConfig>>,
}

impl std::fmt::Debug for Doorkeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doorkeeper").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Doorkeeper {
    /// Reads the files that `config` names; nobody to open the door if it names no certificate.
    ///
    /// # Errors
    /// A file is not there or not good.
    pub(crate) async fn open(config: &TlsConfig, env: &Env) -> Result<Option<Arc<Self>>, TlsError> {
        if !config.is_on() {
            return Ok(None);
        }
        let current = Mutex::new(load(config, env).await?);
        Ok(Some(Arc::new(Self { config: config.clone(), env: env.clone(), current })))
    }

    /// Reads the files again. Connections that are open keep what they have.
    ///
    /// # Errors
    /// A file is not there or not good any more; then everything stays as it was.
    pub(crate) async fn reload(&self) -> Result<(), TlsError> {
        let loaded = load(&self.config, &self.env).await?;
        *self.current.lock() = loaded;
        Ok(())
    }

    /// A handshake that waits for the client's first word.
    ///
    /// # Errors
    /// The settings cannot be used after all, in words for the client.
    pub(crate) fn handshake(&self) -> Result<ServerConnection, String> {
        let config = Arc::clone(&self.current.lock());
        ServerConnection::new(config).map_err(|error| error.to_string())
    }
}

/// Reads the files again whenever the operator says so, until the node exits.
pub(crate) async fn keep_up(doorkeeper: Arc<Doorkeeper>, asked: Reload, exit: Exiting) {
    let mut seen = 0;
    loop {
        tokio::select! {
            biased;
            () = exit.told() => return,
            () = asked.asked_beyond(seen) => {}
        }
        seen = asked.asked();
        match doorkeeper.reload().await {
            Ok(()) => tracing::info!("read the certificate again: new connections get the new one"),
            Err(error) => {
                tracing::error!("the certificate was not changed, the one before stays in use: {error}");
            }
        }
    }
}

async fn load(config: &TlsConfig, env: &Env) -> Result<Arc<ServerConfig>, TlsError> {
    let (cert, key) = (config.cert.as_deref(), config.key.as_deref());
    let (cert, key) = (cert.unwrap_or(Path::new("")), key.unwrap_or(Path::new("")));
    let chain = certificates(env, "tls-cert", cert).await?;
    let secret = private_key(env, "tls-key", key).await?;
    mention_expiry(cert, &chain, env);
    let versions: &[_] = match config.min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let unmade = |error: rustls::Error| TlsError::Unmade { reason: error.to_string() };
    let builder = ServerConfig::builder_with_details(Arc::clone(&env.crypto), Arc::new(Wall::of(env)));
    let builder = builder.with_protocol_versions(versions).map_err(unmade)?;
    let builder = builder.with_client_cert_verifier(clients(config, env).await?);
    let mut server = builder.with_single_cert(chain, secret).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            unfit("tls-key", key, "it is not the key of the certificate in --tls-cert".to_owned())
        }
        rustls::Error::InvalidCertificate(_) => unfit("tls-cert", cert, error.to_string()),
        other => unfit("tls-key", key, other.to_string()),
    })?;
    // Each connection proves itself anew: no client library resumes, and a certificate that is no longer trusted
    // must not live on in a ticket.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Arc::new(server))
}

/// Whose certificates are taken.
async fn clients(config: &TlsConfig, env: &Env) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    match config.client_auth {
        ClientAuth::None => Ok(WebPkiClientVerifier::no_client_auth()),
        ClientAuth::Require => Ok(Arc::new(AnyPeer::new(&env.crypto))),
        ClientAuth::RequireVerify => {
            let named = config.root_ca.clone().map(|path| Named { flag: "tls-root-ca-file", path });
            let authorities = Arc::new(authorities(named.as_ref(), env).await?);
            let clients = WebPkiClientVerifier::builder_with_provider(authorities, Arc::clone(&env.crypto));
            clients.build().map_err(|error| TlsError::Unmade { reason: error.to_string() })
        }
    }
}

/// Says so when a certificate is of no use at this time: it is used all the same, as there is no better one.
fn mention_expiry(path: &Path, chain: &[CertificateDer<'_>], env: &Env) {
    let now = env.wall.now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()) as i64;
    let parsed = chain.first().and_then(|first| x509_parser::parse_x509_certificate(first).ok());
    let Some((_, certificate)) = parsed else { return };
    let validity = certificate.validity();
    if validity.not_after.timestamp() < now {
        tracing::warn!(
            "--tls-cert {}: it has expired ({}); clients refuse it",
            path.display(),
            validity.not_after
        );
    } else if validity.not_before.timestamp() > now {
        tracing::warn!("--tls-cert {}: it begins later ({})", path.display(), validity.not_before);
    }
}
