//! Reading an authorisation server's reply by Go's rules: keys in any case, `null` for nothing.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{Authorization, Grant, InvalidPattern, Pattern, Permission, REPLY_MAX, Scope};
use crate::nsq::{fold, set};

/// Patterns of one reply.
const PATTERNS_MAX: usize = 4096;
/// Those of them that take a compiled expression.
const EXPRESSIONS_MAX: usize = 128;
/// Longest identity, and longest address of more about it, bytes.
const IDENTITY_MAX: usize = 1024;
/// Nothing holds longer than ten years: times far from now cannot be counted.
const TTL_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why a reply is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// It is longer than [`REPLY_MAX`].
    #[error("the reply is longer than {REPLY_MAX} bytes")]
    Long,
    /// It is no JSON, or not of the right shape.
    #[error("the reply is not what it should be: {0}")]
    Json(String),
    /// It holds for no time at all.
    #[error("the reply has a ttl of {0}, which should be more than 0")]
    Ttl(i64),
    /// It names a permission that does not exist.
    #[error("the reply has a permission {0:?}, which is neither subscribe nor publish")]
    Permission(String),
    /// It has a pattern that is none.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// It has more patterns than a node keeps.
    #[error("the reply has more than {0} {1}")]
    Many(usize, &'static str),
    /// It has an identity that is too long.
    #[error("the reply has an identity of more than {IDENTITY_MAX} bytes")]
    Identity,
}

pub(super) fn parse(body: &[u8]) -> Result<Grant, GrantError> {
    if body.len() > REPLY_MAX {
        return Err(GrantError::Long);
    }
    let reply: Reply = serde_json::from_slice(body).map_err(|error| GrantError::Json(error.to_string()))?;
    let ttl = reply.ttl.unwrap_or_default();
    let seconds = u64::try_from(ttl).ok().filter(|seconds| *seconds > 0).ok_or(GrantError::Ttl(ttl))?;
    let identity = reply.identity.unwrap_or_default();
    let identity_url = reply.identity_url.unwrap_or_default();
    if identity.len().max(identity_url.len()) > IDENTITY_MAX {
        return Err(GrantError::Identity);
    }
    let mut budget = Budget { patterns: PATTERNS_MAX, expressions: EXPRESSIONS_MAX };
    let authorizations = reply.authorizations.unwrap_or_default();
    let authorizations =
        authorizations.into_iter().map(|entry| budget.authorization(entry)).collect::<Result<_, _>>()?;
    Ok(Grant {
        identity,
        identity_url,
        ttl: Duration::from_secs(seconds).min(TTL_MAX),
        authorizations,
        scopes: reply.scopes.unwrap_or_default().iter().filter_map(|scope| known_scope(scope)).collect(),
    })
}

/// Scopes are bruit's own: a server that uses the key for something else loses nothing.
fn known_scope(text: &str) -> Option<Scope> {
    match text {
        "read" => Some(Scope::Read),
        "admin" => Some(Scope::Admin),
        _ => None,
    }
}

/// What a reply may still make the node keep.
struct Budget {
    patterns: usize,
    expressions: usize,
}

impl Budget {
    fn authorization(&mut self, entry: Entry) -> Result<Authorization, GrantError> {
        let mut permissions = Vec::with_capacity(2);
        for permission in entry.permissions.unwrap_or_default() {
            permissions.push(match permission.as_str() {
                "publish" => Permission::Publish,
                "subscribe" => Permission::Subscribe,
                _ => return Err(GrantError::Permission(permission)),
            });
        }
        let topic = self.pattern(&entry.topic.unwrap_or_default())?;
        let channels = entry.channels.unwrap_or_default();
        let channels = channels.iter().map(|channel| self.pattern(channel)).collect::<Result<_, _>>()?;
        Ok(Authorization::new(topic, channels, &permissions))
    }

    fn pattern(&mut self, text: &str) -> Result<Pattern, GrantError> {
        let patterns = GrantError::Many(PATTERNS_MAX, "patterns");
        self.patterns = self.patterns.checked_sub(1).ok_or(patterns)?;
        let pattern = Pattern::new(text)?;
        if pattern.is_compiled() {
            let expressions = GrantError::Many(EXPRESSIONS_MAX, "regular expressions");
            self.expressions = self.expressions.checked_sub(1).ok_or(expressions)?;
        }
        Ok(pattern)
    }
}

#[derive(Default)]
struct Reply {
    ttl: Option<i64>,
    identity: Option<String>,
    identity_url: Option<String>,
    authorizations: Option<Vec<Entry>>,
    scopes: Option<Vec<String>>,
}

#[derive(Default)]
struct Entry {
    topic: Option<String>,
    channels: Option<Vec<String>>,
    permissions: Option<Vec<String>>,
}

impl<'de> Deserialize<'de> for Reply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ReplyVisitor)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

struct ReplyVisitor;

impl<'de> Visitor<'de> for ReplyVisitor {
    type Value = Reply;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Reply, A::Error> {
        let mut reply = Reply::default();
        while let Some(key) = map.next_key::<String>()? {
            match fold(&key).as_str() {
                "ttl" => set(&mut reply.ttl, &mut map)?,
                "identity" => set(&mut reply.identity, &mut map)?,
                "identity_url" => set(&mut reply.identity_url, &mut map)?,
                "authorizations" => set(&mut reply.authorizations, &mut map)?,
                "scopes" => set(&mut reply.scopes, &mut map)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(reply)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let mut entry = Entry::default();
        while let Some(key) = map.next_key::<String>()? {
            match fold(&key).as_str() {
                "topic" => set(&mut entry.topic, &mut map)?,
                "channels" => set(&mut entry.channels, &mut map)?,
                "permissions" => set(&mut entry.permissions, &mut map)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(body: &str) -> Grant {
        parse(body.as_bytes()).unwrap()
    }

    fn refused(body: &str) -> String {
        parse(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_reply_allows_what_it_says_and_nothing_else() {
        let grant = granted(
            r#"{"ttl":3600,"identity":"me","identity_url":"http://u","authorizations":[
                {"topic":"^a$","channels":["^c1$"],"permissions":["subscribe","publish"]},
                {"topic":"^b$","channels":[".*"],"permissions":["publish"]}]}"#,
        );
        assert_eq!(grant.ttl, Duration::from_secs(3600));
        assert!(grant.may_subscribe("a", "c1") && !grant.may_subscribe("a", "c2"));
        assert!(!grant.may_subscribe("b", "c1"));
        // Some channel pattern has to match nothing at all.
        assert!(!grant.may_publish("a") && grant.may_publish("b") && !grant.may_publish("c"));
        assert!(grant.may_look_up("a") && !grant.may_look_up("b"));
        assert!(!grant.may(Scope::Read) && !grant.may(Scope::Admin));
        let json = r#"{"identity":"me","identity_url":"http://u","permission_count":2}"#;
        assert_eq!(String::from_utf8(grant.to_json()).unwrap(), json);
    }

    #[test]
    fn keys_and_nulls_are_read_as_go_reads_them() {
        let grant = granted(r#"{"TTL":1,"Identity":null,"Authorizations":[{"Topic":"t","Channels":null}]}"#);
        assert_eq!((grant.identity.as_str(), grant.authorizations.len()), ("", 1));
        assert!(!grant.may_publish("t"));
        assert_eq!(granted(r#"{"ttl":1}"#).authorizations.len(), 0);
        assert_eq!(granted(r#"{"ttl":9223372036854775807}"#).ttl, TTL_MAX);
    }

    #[test]
    fn scopes_are_an_addition() {
        assert!(granted(r#"{"ttl":1,"scopes":["read"]}"#).may(Scope::Read));
        let admin = granted(r#"{"ttl":1,"scopes":["admin","x"]}"#);
        assert!(admin.may(Scope::Read) && admin.may(Scope::Admin) && admin.may_look_up("any"));
    }

    #[test]
    fn a_reply_that_makes_no_sense_is_refused_as_a_whole() {
        for (body, because) in [
            ("", "EOF"),
            ("[]", "invalid type"),
            ("{}", "ttl of 0"),
            (r#"{"ttl":0}"#, "ttl of 0"),
            (r#"{"ttl":-1}"#, "ttl of -1"),
            (r#"{"ttl":"1"}"#, "invalid type"),
            (r#"{"ttl":1.5}"#, "invalid type"),
            (r#"{"ttl":1,"authorizations":[{"permissions":["admin"]}]}"#, "permission \"admin\""),
            (r#"{"ttl":1,"authorizations":[{"topic":"("}]}"#, "no regular expression"),
            (r#"{"ttl":1,"authorizations":[{"channels":["a","["]}]}"#, "no regular expression"),
            (r#"{"ttl":1} x"#, "trailing"),
        ] {
            let error = refused(body);
            assert!(error.contains(because), "{body}: {error}");
        }
    }

    #[test]
    fn what_a_reply_makes_the_node_keep_is_bounded() {
        let channels = |count: usize, pattern: &str| {
            let channels = vec![format!("\"{pattern}\""); count].join(",");
            format!(r#"{{"ttl":1,"authorizations":[{{"topic":"t","channels":[{channels}]}}]}}"#)
        };
        granted(&channels(4095, "a"));
        assert_eq!(refused(&channels(4096, "a")), "the reply has more than 4096 patterns");
        granted(&channels(128, "a+"));
        assert_eq!(refused(&channels(129, "a+")), "the reply has more than 128 regular expressions");
        assert_eq!(parse(&[b' '; REPLY_MAX + 1]).unwrap_err(), GrantError::Long);
        let identity = "x".repeat(1025);
        assert!(refused(&format!(r#"{{"ttl":1,"identity":"{identity}"}}"#)).contains("1024 bytes"));
        // Deep nesting ends in an error, not in a stack without end.
        assert!(refused(&format!("{{\"x\":{}", "[".repeat(100_000))).contains("EOF"));
    }
}
