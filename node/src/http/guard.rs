//! Who may ask for what, where the HTTP API is guarded: a token in `Authorization: Bearer`, judged as AUTH is.
//!
//! Publishing needs what it needs over TCP, looking a topic up the right to consume it, everything else one of
//! two scopes. A path that is not named here needs the highest one, so that none is forgotten.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    http::{
        HeaderValue, Method, StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
        request::Parts,
    },
    response::{IntoResponse, Response},
};
use bruit_wire::auth::{Grant, Scope};
use parking_lot::Mutex;
use ring::digest;

use super::{query::Query, reply::ApiError, serve::Asker};
use crate::{
    HttpGuard,
    auth::{self, Auth, Decision, Undecided},
    layers::Layered,
};

/// Decisions of servers that are remembered; each is a grant, most of them small.
const REMEMBERED: usize = 1024;

/// Lets requests through, or not.
#[derive(Debug)]
pub(super) struct Guard {
    auth: Arc<Auth>,
    /// Looking needs a token too.
    all: bool,
    /// What servers have decided, by a digest of who asked with what.
    known: Mutex<BTreeMap<Vec<u8>, Decision>>,
}

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// The right to publish to the topic that it names.
    Publish,
    /// The right to consume the topic that it names, or to look at all of them.
    LookUp,
    Scope(Scope),
}

impl Guard {
    /// The guard that is wanted, if any.
    pub(super) fn new(wanted: HttpGuard, auth: Option<&Arc<Auth>>) -> Option<Arc<Self>> {
        let all = wanted == HttpGuard::All;
        let auth = Arc::clone(auth.filter(|_| wanted != HttpGuard::Off)?);
        Some(Arc::new(Self { auth, all, known: Mutex::default() }))
    }

    /// Whether `request` may be answered.
    ///
    /// # Errors
    /// The answer that it gets instead.
    pub(super) async fn admit(&self, request: &Parts) -> Result<(), Response> {
        let need = need(&request.method, request.uri.path());
        let looks = matches!(need, Need::LookUp | Need::Scope(Scope::Read));
        if need == Need::Nothing || (looks && !self.all) {
            return Ok(());
        }
        let Some(secret) = bearer(request) else { return Err(unknown()) };
        let decision = match self.decide(request, secret).await {
            Ok(decision) if decision.allows_something() => decision,
            Ok(_) => return Err(unknown()),
            Err(Undecided) => return Err(ApiError::unavailable("AUTH_FAILED").into_response()),
        };
        let topic = Query::of(&request.uri).ok().and_then(|query| query.first("topic"));
        if allows(&decision.grant, need, topic.as_deref()) {
            return Ok(());
        }
        Err(ApiError { status: StatusCode::FORBIDDEN, code: "FORBIDDEN" }.into_response())
    }

    async fn decide(&self, request: &Parts, secret: &[u8]) -> Result<Decision, Undecided> {
        if let Some(decision) = self.auth.decide_alone(secret) {
            return Ok(decision);
        }
        let Some(Asker(peer)) = request.extensions.get::<Asker>().copied() else { return Err(Undecided) };
        let session = request.extensions.get::<Layered>().and_then(Layered::session);
        let tls = session.is_some();
        let common_name = session.map(|session| session.common_name).unwrap_or_default();
        let asker = auth::Asker { ip: peer.ip(), tls, common_name };
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(format!("{asker:?} ").as_bytes());
        digest.update(secret);
        let key = digest.finish().as_ref().to_vec();
        let known = self.known.lock().get(&key).filter(|decision| self.auth.is_current(decision)).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let decision = self.auth.decide(&asker, secret).await?;
        if decision.allows_something() {
            let mut known = self.known.lock();
            if known.len() >= REMEMBERED {
                known.retain(|_, decision| self.auth.is_current(decision));
            }
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(key, decision.clone());
        }
        Ok(decision)
    }
}

fn need(method: &Method, path: &str) -> Need {
    match (method, path) {
        (_, "/ping") => Need::Nothing,
        (&Method::POST, "/pub" | "/mpub") => Need::Publish,
        (&Method::GET, "/lookup") => Need::LookUp,
        (&Method::GET, _) => Need::Scope(Scope::Read),
        _ => Need::Scope(Scope::Admin),
    }
}

/// A request that names no topic has nothing done for it; it is told so by whoever serves the path.
fn allows(grant: &Grant, need: Need, topic: Option<&str>) -> bool {
    match (need, topic) {
        (Need::Nothing, _) | (Need::Publish | Need::LookUp, None) => true,
        (Need::Publish, Some(topic)) => grant.may_publish(topic),
        (Need::LookUp, Some(topic)) => grant.may_look_up(topic),
        (Need::Scope(scope), _) => grant.may(scope),
    }
}

/// The token of a request.
fn bearer(request: &Parts) -> Option<&[u8]> {
    let value = request.headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then(|| token.trim_ascii())
}

fn unknown() -> Response {
    let error = ApiError { status: StatusCode::UNAUTHORIZED, code: "UNAUTHORIZED" };
    let mut response = error.into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    #[test]
    fn what_is_not_known_to_be_harmless_needs_the_highest_scope() {
        for (method, path, expected) in [
            ("GET", "/ping", Need::Nothing),
            ("POST", "/pub", Need::Publish),
            ("POST", "/mpub", Need::Publish),
            ("GET", "/lookup", Need::LookUp),
            ("GET", "/stats", Need::Scope(Scope::Read)),
            ("GET", "/config/log_level", Need::Scope(Scope::Read)),
            ("PUT", "/config/log_level", Need::Scope(Scope::Admin)),
            ("POST", "/topic/delete", Need::Scope(Scope::Admin)),
            ("POST", "/anything", Need::Scope(Scope::Admin)),
            ("DELETE", "/anything", Need::Scope(Scope::Admin)),
        ] {
            assert_eq!(
                need(&Method::from_bytes(method.as_bytes()).unwrap(), path),
                expected,
                "{method} {path}"
            );
        }
    }

    #[test]
    fn a_token_follows_the_word_bearer() {
        let token = |value: &str| {
            let (request, ()) =
                Request::builder().header(AUTHORIZATION, value).body(()).unwrap().into_parts();
            bearer(&request).map(|token| String::from_utf8_lossy(token).into_owned())
        };
        assert_eq!(token("Bearer s3cret").as_deref(), Some("s3cret"));
        assert_eq!(token("bearer  s3cret ").as_deref(), Some("s3cret"));
        for wrong in ["", "Bearer", "Bearer ", "Basic dTpw", "s3cret"] {
            assert_eq!(token(wrong), None, "{wrong}");
        }
    }
}
