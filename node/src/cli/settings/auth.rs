//! The settings of authorisation: how they are written, and what cannot hold.

use std::{path::PathBuf, time::Duration};

use super::{
    check::at_least,
    form::{Form, parts},
};
use crate::auth::{AuthConfig, AuthMethod, AuthServer, HttpGuard};

/// Authorisation servers, several with commas.
pub(super) struct AuthServers;
/// `get` or `post`.
pub(super) struct AuthMethodName;
/// `off`, `changes` or `all`.
pub(super) struct HttpGuardName;
/// A file, or nothing.
pub(super) struct PathOrNone;

/// Says what cannot hold.
pub(super) fn check(auth: &AuthConfig, problems: &mut Vec<String>) {
    let least = Duration::from_millis(1);
    at_least("http-client-connect-timeout", auth.connect_timeout, least, problems);
    at_least("http-client-request-timeout", auth.request_timeout, least, problems);
    if auth.http != HttpGuard::Off && !auth.is_enabled() {
        problems.push(format!(
            "--http-auth={} lets nobody in: say who may with --auth-tokens-file or --auth-http-address",
            HttpGuardName::show(&auth.http)
        ));
    }
}

impl Form<Vec<AuthServer>> for AuthServers {
    fn parse(text: &str) -> Result<Vec<AuthServer>, String> {
        parts(text).map(AuthServer::parse).collect()
    }

    fn show(value: &Vec<AuthServer>) -> String {
        let texts: Vec<&str> = value.iter().map(|server| server.text.as_str()).collect();
        texts.join(",")
    }
}

impl Form<AuthMethod> for AuthMethodName {
    fn parse(text: &str) -> Result<AuthMethod, String> {
        match text.to_ascii_lowercase().as_str() {
            "get" => Ok(AuthMethod::Get),
            "post" => Ok(AuthMethod::Post),
            _ => Err("is no method to ask with: write get or post".to_owned()),
        }
    }

    fn show(value: &AuthMethod) -> String {
        match value {
            AuthMethod::Get => "get",
            AuthMethod::Post => "post",
        }
        .to_owned()
    }
}

impl Form<HttpGuard> for HttpGuardName {
    fn parse(text: &str) -> Result<HttpGuard, String> {
        match text {
            "off" => Ok(HttpGuard::Off),
            "changes" => Ok(HttpGuard::Changes),
            "all" => Ok(HttpGuard::All),
            _ => Err("is no way to guard HTTP: write off, changes or all".to_owned()),
        }
    }

    fn show(value: &HttpGuard) -> String {
        match value {
            HttpGuard::Off => "off",
            HttpGuard::Changes => "changes",
            HttpGuard::All => "all",
        }
        .to_owned()
    }
}

impl Form<Option<PathBuf>> for PathOrNone {
    fn parse(text: &str) -> Result<Option<PathBuf>, String> {
        Ok((!text.is_empty()).then(|| text.into()))
    }

    fn show(value: &Option<PathBuf>) -> String {
        value.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_needs_to_know_whom_to_let_in() {
        let told = |config: AuthConfig| {
            let mut problems = Vec::new();
            check(&config, &mut problems);
            problems.concat()
        };
        let guarded = AuthConfig { http: HttpGuard::Changes, ..AuthConfig::default() };
        assert!(told(guarded.clone()).starts_with("--http-auth=changes lets nobody in"));
        assert_eq!(told(AuthConfig { tokens_file: Some("tokens.toml".into()), ..guarded }), "");
        let hasty = AuthConfig { request_timeout: Duration::ZERO, ..AuthConfig::default() };
        assert!(told(hasty).contains("--http-client-request-timeout is 0s"));
    }

    #[test]
    fn an_open_door_beside_a_locked_one_is_mentioned() {
        let warnings = |flags: &[&str]| super::super::tests::resolve(flags, &[]).unwrap().warnings.concat();
        let locked = "--auth-tokens-file=tokens.toml";
        assert!(warnings(&[locked]).contains("see --http-auth"));
        assert_eq!(warnings(&[locked, "--http-auth=changes"]), "");
        assert_eq!(warnings(&[locked, "--http-address="]), "");
        assert_eq!(warnings(&[]), "");
    }

    #[test]
    fn values_are_shown_as_they_are_read() {
        for text in ["", "127.0.0.1:4181", "a:1,http://b/x?y=z"] {
            assert_eq!(AuthServers::show(&AuthServers::parse(text).unwrap()), text);
        }
        assert!(AuthServers::parse("a:1,b").unwrap_err().contains("\"b\" should be host:port"));
        for text in ["get", "post"] {
            assert_eq!(AuthMethodName::show(&AuthMethodName::parse(text).unwrap()), text);
        }
        for text in ["off", "changes", "all"] {
            assert_eq!(HttpGuardName::show(&HttpGuardName::parse(text).unwrap()), text);
        }
        assert!(AuthMethodName::parse("PUT").is_err() && HttpGuardName::parse("on").is_err());
        assert_eq!(PathOrNone::parse(""), Ok(None));
    }
}
