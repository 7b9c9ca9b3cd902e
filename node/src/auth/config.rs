//! What a node is told about authorisation.

use std::{path::PathBuf, time::Duration};

/// Where secrets are looked up, and what needs one.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// Authorisation servers; one of them is asked, others when it does not answer.
    pub servers: Vec<AuthServer>,
    /// How they are asked.
    pub method: AuthMethod,
    /// How long a connection to one may take.
    pub connect_timeout: Duration,
    /// How long an answer may take, the connection included.
    pub request_timeout: Duration,
    /// A file of tokens, looked into first.
    pub tokens_file: Option<PathBuf>,
    /// What of the HTTP API needs a token.
    pub http: HttpGuard,
}

/// An authorisation server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthServer {
    /// As it was written.
    pub text: String,
    /// Its host, an address of IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether it is asked by HTTPS.
    pub secure: bool,
    /// What requests name: a path, perhaps with a query.
    pub target: String,
}

/// How an authorisation server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// GET, the question in the query.
    Get,
    /// POST, the question in a JSON object.
    Post,
}

/// What of the HTTP API needs a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpGuard {
    /// Nothing, as with nsqd.
    Off,
    /// Publishing, and whatever changes something.
    Changes,
    /// Everything but `/ping`.
    All,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            method: AuthMethod::Get,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            tokens_file: None,
            http: HttpGuard::Off,
        }
    }
}

impl AuthConfig {
    /// Whether clients have to say what they may do.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        !self.servers.is_empty() || self.tokens_file.is_some()
    }
}

impl AuthServer {
    /// The server that `text` names: a URL, or `host:port`, which means `http://host:port/auth`.
    ///
    /// # Errors
    /// What is wrong with it, to complete a sentence that begins with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("is no authorisation server: {text:?} should be host:port or https://host:port/path");
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}/auth") };
        let uri: http::Uri = whole.parse().map_err(|_| wrong())?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let authority =
            uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16();
        let plain = text.contains("://") || port.is_some();
        if host.is_empty() || port == Some(0) || !plain || authority.as_str().ends_with(':') {
            return Err(wrong());
        }
        let target = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let port = port.unwrap_or(default_port(secure));
        Ok(Self { text: text.to_owned(), host: host.to_owned(), port, secure, target })
    }

    /// The same server by HTTPS, at another port.
    pub(super) fn secured(&self, port: u16) -> Self {
        Self { port, secure: true, ..self.clone() }
    }

    /// What the `Host` header says.
    pub(super) fn authority(&self) -> String {
        let Self { host, port, secure, .. } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == default_port(*secure) { host } else { format!("{host}:{port}") }
    }
}

const fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_address_or_a_url() {
        for (text, host, port, target) in [
            ("127.0.0.1:4181", "127.0.0.1", 4181, "/auth"),
            ("auth.example:80", "auth.example", 80, "/auth"),
            ("http://auth.example", "auth.example", 80, "/"),
            ("http://auth.example:8000/a/b?k=v", "auth.example", 8000, "/a/b?k=v"),
            ("[::1]:4181", "::1", 4181, "/auth"),
        ] {
            let server = AuthServer::parse(text).unwrap();
            assert_eq!(
                (server.host.as_str(), server.port, server.target.as_str()),
                (host, port, target),
                "{text}"
            );
        }
        assert_eq!(AuthServer::parse("[::1]:4181").unwrap().authority(), "[::1]:4181");
        assert_eq!(AuthServer::parse("http://a/x").unwrap().authority(), "a");
        for text in ["", "host", ":4181", "host:", "host:0", "ftp://host/", "http://u:p@host/", "a b:1"] {
            assert!(AuthServer::parse(text).unwrap_err().contains("should be host:port"), "{text}");
        }
        let secure = AuthServer::parse("https://auth/x").unwrap();
        assert_eq!((secure.port, secure.secure, secure.authority().as_str()), (443, true, "auth"));
        assert_eq!(AuthServer::parse("http://a/").unwrap().secured(4152).authority(), "a:4152");
    }
}
