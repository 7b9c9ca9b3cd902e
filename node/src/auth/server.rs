//! Asking authorisation servers (NSQ reference, section 2.10).
//!
//! Servers are neither trusted nor relied on: each has a time to answer, an answer has a largest size, and as
//! many questions are under way as there is room for.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use bruit_wire::auth::{Grant, REPLY_MAX};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use tokio::{
    sync::{OnceCell, Semaphore},
    time::{Instant, timeout},
};

use super::{Asker, AuthConfig, AuthMethod, AuthServer, Undecided};
use crate::{
    certificates::{Named, TlsError, Trust, client_config},
    env::{Conn, Env},
    layers::{Stack, wrap},
};

/// Questions under way at once, over all connections. Others wait for as long as an answer may take.
const QUESTIONS_MAX: usize = 256;
/// Bytes of the head of an answer, and of the buffer that it is read into.
const HEAD_MAX: usize = 16 * 1024;
/// What nsqd says it accepts.
const NSQ: &str = "application/vnd.nsq; version=1.0";
/// At most one failure is logged per this long: clients cause them at will.
const QUIET: Duration = Duration::from_secs(1);

/// The authorisation servers.
pub(super) struct Servers {
    env: Env,
    servers: Vec<AuthServer>,
    method: AuthMethod,
    connect_timeout: Duration,
    request_timeout: Duration,
    /// Which certificates servers have to show, and what that comes to; read when it is needed first.
    trust: Trust,
    tls: OnceCell<Arc<ClientConfig>>,
    room: Semaphore,
    logged: Mutex<Option<Instant>>,
}

impl Servers {
    /// Servers whose certificates come from `authorities`, or from those of the system.
    ///
    /// # Errors
    /// One is asked by HTTPS, and the authorities cannot be read.
    pub(super) async fn open(
        config: &AuthConfig,
        authorities: Option<&Path>,
        env: &Env,
    ) -> Result<Self, TlsError> {
        let authorities = authorities.map(|path| Named { flag: "tls-root-ca-file", path: path.to_owned() });
        let servers = Self {
            env: env.clone(),
            servers: config.servers.clone(),
            method: config.method,
            connect_timeout: config.connect_timeout,
            request_timeout: config.request_timeout,
            trust: Trust { authorities, ..Trust::default() },
            tls: OnceCell::new(),
            room: Semaphore::new(QUESTIONS_MAX),
            logged: Mutex::default(),
        };
        if servers.servers.iter().any(|server| server.secure) {
            servers.tls().await?;
        }
        Ok(servers)
    }

    async fn tls(&self) -> Result<&Arc<ClientConfig>, TlsError> {
        self.tls.get_or_try_init(|| client_config(&self.trust, &self.env)).await
    }

    /// Asks one server after the other, from a random one on, until one gives an answer that makes sense.
    ///
    /// # Errors
    /// None did.
    pub(super) async fn ask(&self, asker: &Asker, secret: &[u8]) -> Result<Grant, Undecided> {
        let room = timeout(self.request_timeout, self.room.acquire()).await;
        let Ok(Ok(_room)) = room else {
            self.log("no server", "too many questions are under way");
            return Err(Undecided);
        };
        let mut random = [0; 8];
        self.env.entropy.fill(&mut random);
        let count = self.servers.len();
        let first = (u64::from_le_bytes(random) % count.max(1) as u64) as usize;
        for server in self.servers.iter().cycle().skip(first).take(count) {
            match timeout(self.request_timeout, self.ask_one(server, asker, secret)).await {
                Ok(Ok(grant)) => return Ok(grant),
                Ok(Err(why)) => self.log(&server.text, &why),
                Err(_) => {
                    self.log(&server.text, "it does not answer in time (see --http-client-request-timeout)")
                }
            }
        }
        Err(Undecided)
    }

    /// Asks a server; once more by HTTPS where it says that it wants that, as nsqd does.
    async fn ask_one(&self, server: &AuthServer, asker: &Asker, secret: &[u8]) -> Result<Grant, String> {
        let (status, body) = self.put_to(server, asker, secret).await?;
        match https_port(status, &body).filter(|_| !server.secure) {
            None => understood(status, &body),
            Some(port) => {
                let (status, body) = self.put_to(&server.secured(port), asker, secret).await?;
                understood(status, &body)
            }
        }
    }

    async fn put_to(
        &self,
        server: &AuthServer,
        asker: &Asker,
        secret: &[u8],
    ) -> Result<(StatusCode, Bytes), String> {
        let question = Question::new(server, self.method, asker, secret).into_request()?;
        let connecting = timeout(self.connect_timeout, self.env.connect(&server.host, server.port));
        let conn = match connecting.await {
            Ok(Ok(conn)) => conn,
            Ok(Err(error)) => return Err(format!("no connection: {error}")),
            Err(_) => return Err("no connection in time (see --http-client-connect-timeout)".to_owned()),
        };
        let conn = match server.secure {
            false => conn,
            true => self.encrypted(conn, server).await?,
        };
        exchange(conn, question).await
    }

    async fn encrypted(&self, conn: Conn, server: &AuthServer) -> Result<Conn, String> {
        let config = self.tls().await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from(server.host.clone()).map_err(|error| error.to_string())?;
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(|error| error.to_string())?;
        Ok(wrap(conn, Stack::tls(tls)).0)
    }

    fn log(&self, server: &str, why: &str) {
        let now = Instant::now();
        let mut logged = self.logged.lock();
        if logged.is_none_or(|last| now >= last + QUIET) {
            *logged = Some(now);
            tracing::warn!(server, "an authorisation server is of no use: {why}");
        }
    }
}

/// Where a server that answers so wants to be asked by HTTPS.
fn https_port(status: StatusCode, body: &[u8]) -> Option<u16> {
    let body: serde_json::Value =
        serde_json::from_slice(body).ok().filter(|_| status == StatusCode::FORBIDDEN)?;
    u16::try_from(body["https_port"].as_u64()?).ok().filter(|port| *port > 0)
}

fn understood(status: StatusCode, body: &[u8]) -> Result<Grant, String> {
    match status {
        StatusCode::OK => Grant::parse(body).map_err(|error| error.to_string()),
        other => Err(format!("it answers {}", other.as_u16())),
    }
}

/// Sends a request and takes the answer whole, up to its largest size.
async fn exchange(conn: Conn, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
    let io = TokioIo::new(tokio::io::join(conn.reader, conn.writer));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_MAX).title_case_headers(true);
    let broken = |error: hyper::Error| match error.source() {
        // What TLS found, or the socket.
        Some(source) => format!("the connection failed: {source}"),
        None => format!("it does not speak HTTP as it should: {error}"),
    };
    let (mut sender, connection) = builder.handshake(io).await.map_err(broken)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), REPLY_MAX).collect().await;
        let body = body.map_err(|error| format!("its answer cannot be read: {error}"))?;
        Ok((status, body.to_bytes()))
    };
    let driven = async {
        // What goes wrong here goes wrong for the answer as well, and is told by it.
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        answered = answer => answered,
        never = driven => never,
    }
}

/// A question as it is sent.
struct Question {
    method: AuthMethod,
    authority: String,
    target: String,
    body: Bytes,
}

impl Question {
    fn new(server: &AuthServer, method: AuthMethod, asker: &Asker, secret: &[u8]) -> Self {
        // In the order of Go, which sorts them.
        let tls = if asker.tls { "true" } else { "false" };
        let ip = asker.ip.to_string();
        let named: [(&str, &[u8]); 4] = [
            ("common_name", asker.common_name.as_bytes()),
            ("remote_ip", ip.as_bytes()),
            ("secret", secret),
            ("tls", tls.as_bytes()),
        ];
        let mut target = server.target.clone();
        let mut body = Bytes::new();
        match method {
            AuthMethod::Get => {
                let separator = if target.contains('?') { '&' } else { '?' };
                let query: Vec<String> =
                    named.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect();
                target.push(separator);
                target.push_str(&query.join("&"));
            }
            AuthMethod::Post => {
                let lists = named.map(|(key, value)| (key, [String::from_utf8_lossy(value)]));
                let object: std::collections::BTreeMap<_, _> = lists.into_iter().collect();
                // Texts in lists cannot fail to serialise.
                body = serde_json::to_vec(&object).unwrap_or_default().into();
            }
        }
        Self { method, authority: server.authority(), target, body }
    }

    fn into_request(self) -> Result<Request<Full<Bytes>>, String> {
        let builder = Request::builder()
            .uri(self.target)
            .header(HOST, self.authority)
            .header(USER_AGENT, concat!("bruit/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, NSQ);
        let builder = match self.method {
            AuthMethod::Get => builder.method("GET"),
            AuthMethod::Post => builder.method("POST").header(CONTENT_TYPE, "application/json"),
        };
        builder.body(Full::new(self.body)).map_err(|error| format!("the question cannot be put: {error}"))
    }
}

/// Escapes a value of a query as Go does.
fn escape(value: &[u8]) -> String {
    use std::fmt::Write;
    let mut escaped = String::with_capacity(value.len());
    for &byte in value {
        match byte {
            b' ' => escaped.push('+'),
            _ if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) => escaped.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").field("servers", &self.servers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(method: AuthMethod, target: &str) -> Question {
        let server = AuthServer::parse(target).unwrap();
        let asker = Asker { ip: [10, 0, 0, 7].into(), tls: false, common_name: "a b".to_owned() };
        Question::new(&server, method, &asker, b"s&\xffcret/1")
    }

    #[test]
    fn a_question_is_put_as_nsqd_puts_it() {
        let get = question(AuthMethod::Get, "127.0.0.1:4181");
        assert_eq!(get.target, "/auth?common_name=a+b&remote_ip=10.0.0.7&secret=s%26%FFcret%2F1&tls=false");
        assert!(question(AuthMethod::Get, "http://a/x?y=z").target.starts_with("/x?y=z&common_name="));
        let post = question(AuthMethod::Post, "http://a/x");
        assert_eq!(post.target, "/x");
        let body =
            r#"{"common_name":["a b"],"remote_ip":["10.0.0.7"],"secret":["s&\ufffdcret/1"],"tls":["false"]}"#;
        let expected: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&post.body).unwrap(), expected);
        let request = post.into_request().unwrap();
        assert_eq!(request.headers()[ACCEPT], NSQ);
        assert_eq!(request.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(request.headers()[HOST], "a");
    }
}
