//! What a secret allows, as an authorisation server says it (NSQ reference, section 2.10), and the questions
//! that a node asks of it.
//!
//! A reply comes from a server that may be wrong, broken or somebody else: it is refused as a whole unless all
//! of it makes sense, and what it makes the node keep is bounded.

mod pattern;
mod reply;

pub use self::{
    pattern::{InvalidPattern, Pattern},
    reply::GrantError,
};

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest reply that is read, bytes. nsqd has no limit; a reply names some topics and channels.
pub const REPLY_MAX: usize = 256 * 1024;

/// What the owner of a secret may do with messages of some topics.
#[derive(Clone, Debug)]
pub struct Authorization {
    topic: Pattern,
    channels: Vec<Pattern>,
    publish: bool,
    subscribe: bool,
}

/// One of the two permissions that NSQ knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// To publish to a topic.
    Publish,
    /// To consume a channel.
    Subscribe,
}

/// What the owner of a secret may do by HTTP, beside publishing. NSQ has nothing like it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To look: statistics, lookups, settings.
    Read,
    /// To change: topics, channels, settings, the mesh. Looking is part of it.
    Admin,
}

/// Everything that a secret allows.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// Who its owner is, for people.
    pub identity: String,
    /// More about the owner, for people.
    pub identity_url: String,
    /// How long this holds; at least a second in what [`Grant::parse`] returns.
    pub ttl: Duration,
    /// What it allows with messages.
    pub authorizations: Vec<Authorization>,
    /// What else it allows by HTTP.
    pub scopes: Vec<Scope>,
}

/// The answer to a good AUTH, in the order of nsqd's keys.
#[derive(Serialize)]
struct Answer<'a> {
    identity: &'a str,
    identity_url: &'a str,
    permission_count: usize,
}

impl Authorization {
    /// Allows `permissions` on the topics and channels that match.
    pub fn new(topic: Pattern, channels: Vec<Pattern>, permissions: &[Permission]) -> Self {
        let has = |permission| permissions.contains(&permission);
        Self { topic, channels, publish: has(Permission::Publish), subscribe: has(Permission::Subscribe) }
    }

    fn allows(&self, topic: &str, channel: &str) -> bool {
        self.topic.matches(topic) && self.channels.iter().any(|pattern| pattern.matches(channel))
    }
}

impl Grant {
    /// Reads the reply of an authorisation server.
    ///
    /// # Errors
    /// What is wrong with it. Nothing of such a reply may be used.
    pub fn parse(body: &[u8]) -> Result<Self, GrantError> {
        reply::parse(body)
    }

    /// Whether messages may be published to `topic`: by nsqd's rule, if some channel pattern matches nothing
    /// at all.
    pub fn may_publish(&self, topic: &str) -> bool {
        self.authorizations.iter().any(|allowed| allowed.publish && allowed.allows(topic, ""))
    }

    /// Whether `channel` of `topic` may be consumed.
    pub fn may_subscribe(&self, topic: &str, channel: &str) -> bool {
        self.authorizations.iter().any(|allowed| allowed.subscribe && allowed.allows(topic, channel))
    }

    /// Whether some channel of `topic` may be consumed, and so its producers looked up.
    pub fn may_look_up(&self, topic: &str) -> bool {
        let subscribe = |allowed: &Authorization| allowed.subscribe && allowed.topic.matches(topic);
        self.may(Scope::Read) || self.authorizations.iter().any(subscribe)
    }

    /// Whether `scope` is allowed.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// The body of the frame that answers a good AUTH.
    pub fn to_json(&self) -> Vec<u8> {
        let answer = Answer {
            identity: &self.identity,
            identity_url: &self.identity_url,
            permission_count: self.authorizations.len(),
        };
        // Strings and a number cannot fail to serialise.
        serde_json::to_vec(&answer).unwrap_or_default()
    }
}
