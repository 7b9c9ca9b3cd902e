//! The HTTP listeners of a node: plain, inside of TLS, and for lookups alone.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::oneshot;

use crate::{
    Config, RunError, TlsRequired,
    env::{Env, Listener},
    exit::Exiting,
    http::{Face, HttpState},
    layers::{Doorkeeper, keep_up},
    listen_http, serve_http,
};

/// Listeners that are bound and not served yet.
pub(crate) struct Web {
    /// Begins handshakes of TLS, if that is offered.
    pub(crate) doorkeeper: Option<Arc<Doorkeeper>>,
    http: Option<Box<dyn Listener>>,
    https: Option<Box<dyn Listener>>,
    lookup_http: Option<Box<dyn Listener>>,
}

impl Web {
    /// Reads the certificates and binds what `config` names; HTTPS only with a certificate.
    ///
    /// # Errors
    /// A certificate cannot be used, or an address cannot be listened on.
    pub(crate) async fn open(config: &Config, env: &Env) -> Result<Self, RunError> {
        let doorkeeper = Doorkeeper::open(&config.tls, env).await?;
        let https_address = config.https_address.filter(|_| doorkeeper.is_some());
        Ok(Self {
            http: listen_http(env, config.http_address, "http").await?,
            https: listen_http(env, https_address, "https").await?,
            lookup_http: listen_http(env, config.mesh.lookupd_http_address, "lookupd-http").await?,
            doorkeeper,
        })
    }

    /// Where plain HTTP is bound, if it is.
    pub(crate) fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref()?.local_addr().ok()
    }

    /// Where HTTPS is bound, if it is.
    pub(crate) fn https_address(&self) -> Option<SocketAddr> {
        self.https.as_ref()?.local_addr().ok()
    }

    /// Where lookups alone are bound, if they are.
    pub(crate) fn lookup_http_address(&self) -> Option<SocketAddr> {
        self.lookup_http.as_ref()?.local_addr().ok()
    }

    /// Serves all of them, and reads certificates again when that is asked for; each of what is returned resolves
    /// when one has ended.
    pub(crate) fn serve(
        self,
        env: &Env,
        state: &HttpState,
        config: &Config,
        exiting: &Exiting,
    ) -> Vec<oneshot::Receiver<()>> {
        let plain = match config.tls.required {
            TlsRequired::Everywhere => {
                Face::Refusing { https_port: self.https_address().map_or(0, |address| address.port()) }
            }
            TlsRequired::No | TlsRequired::TcpOnly => Face::Node,
        };
        if let Some(doorkeeper) = self.doorkeeper.clone() {
            env.background.spawn(Box::pin(keep_up(doorkeeper, config.reload.clone(), exiting.clone())));
        }
        let secure = self.doorkeeper.map(Face::Secure);
        let faces = [(self.http, Some(plain)), (self.https, secure), (self.lookup_http, Some(Face::Lookup))];
        let serve = |(listener, face): (Option<_>, Option<_>)| {
            Some(serve_http(env, state.clone(), listener?, face?, exiting.clone()))
        };
        faces.into_iter().filter_map(serve).collect()
    }
}
