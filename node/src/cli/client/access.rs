//! What commands show and ask for at nodes that do not take everybody: a token, TLS, and compression.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, bail};
use bruit_wire::compress::Compression;
use clap::{Args, ValueEnum};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use tokio::{runtime::Handle, sync::OnceCell};

use super::token;
use crate::{
    certificates::{Named, Trust, client_config},
    env::{Conn, real},
    layers::{Layered, Stack, wrap},
};

/// The level of deflate that NSQ's clients ask for.
pub(super) const LEVEL: u32 = 6;

/// There is one command line, and so one set of these.
static CHOSEN: OnceLock<Access> = OnceLock::new();

/// Flags of every command that asks a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "To get at a node")]
pub(in crate::cli) struct AccessArgs {
    /// Holds the token to show to a node that wants one [env: BRUIT_TOKEN]
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Encrypt connections of NSQ's protocol; HTTP is encrypted where its address begins with https://
    #[arg(long, global = true)]
    tls: bool,
    /// Authorities (PEM) that nodes' certificates have to come from; those of the system unless given
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    tls_ca_file: Option<PathBuf>,
    /// Certificate (PEM) to show to nodes that want one
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true, requires = "tls_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true, requires = "tls_cert_file")]
    tls_key_file: Option<PathBuf>,
    /// Take any certificate: whoever is in between can read everything
    #[arg(long, global = true, hide_short_help = true)]
    tls_insecure: bool,
    /// Compress connections of NSQ's protocol
    #[arg(long, value_name = "HOW", value_enum, global = true, hide_short_help = true)]
    compress: Option<Compress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compress {
    Snappy,
    Deflate,
}

impl AccessArgs {
    /// Whether none was given.
    pub(in crate::cli) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether nothing but `--tls` was given. It is one flag with that of the load generator, which takes any
    /// certificate.
    pub(in crate::cli) fn is_tls_alone(&self) -> bool {
        *self == Self { tls: true, ..Self::default() }
    }

    /// Makes them count for all connections of this command.
    ///
    /// # Errors
    /// A sentence that says what to do, when there is no usable token where one is named.
    pub(in crate::cli) fn choose(self) -> anyhow::Result<()> {
        let named = |flag, path: Option<PathBuf>| path.map(|path| Named { flag, path });
        let cert = named("tls-cert-file", self.tls_cert_file);
        let access = Access {
            token: token::find(self.token_file.as_deref())?,
            tls: self.tls,
            trust: Trust {
                authorities: named("tls-ca-file", self.tls_ca_file),
                shown: cert.zip(named("tls-key-file", self.tls_key_file)),
                anyone: self.tls_insecure,
            },
            compression: self.compress.map(|compress| match compress {
                Compress::Snappy => Compression::Snappy,
                Compress::Deflate => Compression::Deflate { level: LEVEL },
            }),
            config: Arc::default(),
        };
        // Only the first choice counts, and there is only one.
        let _ = CHOSEN.set(access);
        Ok(())
    }
}

/// How to get at nodes.
#[derive(Clone, Default)]
pub(in crate::cli) struct Access {
    /// Shown to those who ask for one.
    pub(in crate::cli) token: Option<String>,
    /// Whether connections of NSQ's protocol are encrypted.
    pub(in crate::cli) tls: bool,
    pub(in crate::cli) trust: Trust,
    /// How connections of NSQ's protocol are compressed.
    pub(in crate::cli) compression: Option<Compression>,
    /// What [`Self::trust`] comes to, read once.
    config: Arc<OnceCell<Arc<ClientConfig>>>,
}

impl Access {
    /// As the command line has it.
    pub(in crate::cli) fn chosen() -> Self {
        CHOSEN.get().cloned().unwrap_or_default()
    }

    /// The same towards others than nodes, who must not see the token.
    pub(in crate::cli) fn of_strangers() -> Self {
        Self { token: None, ..Self::chosen() }
    }

    /// With other files of TLS.
    pub(in crate::cli) fn trusting(self, trust: Trust) -> Self {
        Self { trust, config: Arc::default(), ..self }
    }

    /// Begins TLS with the server at `address`, `host:port`. The handshake is made with the first bytes.
    ///
    /// # Errors
    /// A file that was named is no good, or the address has no name for a certificate.
    pub(in crate::cli) async fn encrypt(&self, conn: Conn, address: &str) -> anyhow::Result<(Conn, Layered)> {
        let handle = Handle::current();
        let load = || async { client_config(&self.trust, &real::env(handle.clone(), handle)).await };
        let config = self.config.get_or_try_init(load).await.context("cannot use TLS")?;
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let Ok(name) = ServerName::try_from(host.to_owned()) else {
            bail!("{host:?} can be no name in a certificate: write a host name or an address")
        };
        let tls = ClientConnection::new(Arc::clone(config), name).context("TLS cannot begin")?;
        Ok(wrap(conn, Stack::tls(tls)))
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is nobody's business.
        f.debug_struct("Access").field("tls", &self.tls).field("trust", &self.trust).finish_non_exhaustive()
    }
}
