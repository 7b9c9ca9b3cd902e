//! Who may do what: secrets are looked up in a file of tokens, or an authorisation server is asked.
//!
//! A connection asks once and keeps the [`Decision`] while [`Auth::is_current`] says so; the guard of the HTTP
//! API does likewise. `tokens` is the file, `server` asks, `bruit_wire::auth` reads what servers say.
//!
//! **Invariant:** nobody waits for a server but who asked: questions are asked on the background runtime.

mod config;
mod server;
mod tokens;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bruit_wire::auth::Grant;
use tokio::{sync::oneshot, time::Instant};

pub use self::config::{AuthConfig, AuthMethod, AuthServer, HttpGuard};
use self::{server::Servers, tokens::Tokens};
use crate::{certificates::TlsError, env::Env, exit::Exiting};

/// Longest secret that is looked up or sent to a server, bytes. Those of nsqd may be as long as an MPUB, but no
/// web server takes a longer request line.
const SECRET_MAX: usize = 32 * 1024;

/// Decides what secrets allow.
pub(crate) struct Auth {
    tokens: Option<Arc<Tokens>>,
    servers: Option<Servers>,
    env: Env,
    counts: Counts,
}

/// Who wants something; an authorisation server is told all of it.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    /// Where the connection comes from.
    pub(crate) ip: IpAddr,
    /// Whether it is encrypted.
    pub(crate) tls: bool,
    /// The name in the client's certificate, if it has shown one.
    pub(crate) common_name: String,
}

/// What a secret allows, and for how long that may be believed.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    /// What it allows; nothing, if nobody knows the secret.
    pub(crate) grant: Arc<Grant>,
    holds: Holds,
}

/// How long a decision holds.
#[derive(Debug, Clone, Copy)]
enum Holds {
    /// Until then.
    Until(Instant),
    /// As long as the file of tokens is in this version.
    Version(u64),
}

/// Nobody could say what the secret allows; the log says why, and whoever asked is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Undecided;

/// Why a node does not start with what it was told about authorisation.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The file of tokens cannot be used.
    #[error("{}{problem}; the node does not start without it, for it would not know whom to let in", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// The line, and what is wrong with it.
        problem: String,
    },
    /// Authorisation servers are to be asked by HTTPS, and whom to trust cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// How often secrets were judged.
#[derive(Debug, Default)]
struct Counts {
    granted: AtomicU64,
    unknown: AtomicU64,
    undecided: AtomicU64,
}

impl Auth {
    /// Reads the file of tokens and keeps an eye on it from then on, and reads `authorities` for servers that are
    /// asked by HTTPS. `None` when everybody may do everything.
    ///
    /// # Errors
    /// A file cannot be read, or there is a mistake in it.
    pub(crate) async fn open(
        config: &AuthConfig,
        authorities: Option<&Path>,
        env: &Env,
        exit: Exiting,
    ) -> Result<Option<Arc<Self>>, AuthError> {
        if !config.is_enabled() {
            return Ok(None);
        }
        let tokens = match &config.tokens_file {
            Some(path) => Some(Tokens::open(path.clone(), env, exit).await?),
            None => None,
        };
        let servers = match config.servers.is_empty() {
            true => None,
            false => Some(Servers::open(config, authorities, env).await?),
        };
        Ok(Some(Arc::new(Self { tokens, servers, env: env.clone(), counts: Counts::default() })))
    }

    /// What `secret` allows, if that can be said without asking a server.
    pub(crate) fn decide_alone(&self, secret: &[u8]) -> Option<Decision> {
        if secret.len() > SECRET_MAX {
            return Some(self.counted(nothing()));
        }
        let known = self.tokens.as_ref().map(|tokens| tokens.look_up(secret));
        match known {
            Some((Some(grant), version)) => {
                Some(self.counted(Decision { grant, holds: Holds::Version(version) }))
            }
            // The file may get this token any moment.
            Some((None, version)) if self.servers.is_none() => {
                Some(self.counted(Decision { grant: Arc::default(), holds: Holds::Version(version) }))
            }
            _ => None,
        }
    }

    /// What `secret` allows.
    ///
    /// # Errors
    /// No server could say.
    pub(crate) async fn decide(&self, asker: &Asker, secret: &[u8]) -> Result<Decision, Undecided> {
        if let Some(decision) = self.decide_alone(secret) {
            return Ok(decision);
        }
        let Some(servers) = &self.servers else { return Ok(self.counted(nothing())) };
        match servers.ask(asker, secret).await {
            Ok(grant) => {
                let holds = Holds::Until(Instant::now() + grant.ttl);
                Ok(self.counted(Decision { grant: Arc::new(grant), holds }))
            }
            Err(Undecided) => {
                self.counts.undecided.fetch_add(1, Ordering::Relaxed);
                Err(Undecided)
            }
        }
    }

    /// As [`Self::decide`], on the background runtime; the answer comes through what is returned.
    pub(crate) fn ask(
        self: &Arc<Self>,
        asker: Asker,
        secret: Arc<[u8]>,
    ) -> oneshot::Receiver<Result<Decision, Undecided>> {
        let (mut answer, answered) = oneshot::channel();
        let auth = Arc::clone(self);
        self.env.background.spawn(Box::pin(async move {
            // When the connection is gone nobody wants to know, and the place is for those who do.
            tokio::select! {
                biased;
                () = answer.closed() => {}
                decision = auth.decide(&asker, &secret) => drop(answer.send(decision)),
            }
        }));
        answered
    }

    /// Whether `decision` may still be believed.
    pub(crate) fn is_current(&self, decision: &Decision) -> bool {
        match decision.holds {
            Holds::Until(end) => Instant::now() < end,
            Holds::Version(version) => self.tokens.as_ref().is_some_and(|tokens| tokens.version() == version),
        }
    }

    /// Secrets that were judged since the start, by what came of it: granted something, known to nobody, or
    /// not decided because no server answered.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 3] {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { granted, unknown, undecided } = &self.counts;
        [("granted", load(granted)), ("unknown", load(unknown)), ("undecided", load(undecided))]
    }

    fn counted(&self, decision: Decision) -> Decision {
        let counts = &self.counts;
        let count = if decision.allows_something() { &counts.granted } else { &counts.unknown };
        count.fetch_add(1, Ordering::Relaxed);
        decision
    }
}

impl Decision {
    /// Whether the secret allows anything.
    pub(crate) fn allows_something(&self) -> bool {
        !self.grant.authorizations.is_empty() || !self.grant.scopes.is_empty()
    }
}

impl Decision {
    /// Whether it came from the file of tokens, and changes with that.
    pub(crate) const fn is_of_tokens(&self) -> bool {
        matches!(self.holds, Holds::Version(_))
    }
}

/// The decision about a secret that cannot be one.
fn nothing() -> Decision {
    Decision { grant: Arc::default(), holds: Holds::Until(Instant::now()) }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}
