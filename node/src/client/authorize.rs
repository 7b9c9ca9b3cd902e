//! What a connection may do: its AUTH, and the check of each command that needs one (NSQ reference, section
//! 2.10).

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bruit_wire::nsq::{ClientError, Command, Decoder, FrameType, Need};
use tokio::sync::oneshot;

use super::connection::Connection;
use crate::{
    auth::{Asker, Auth, Decision, Undecided},
    broker::Identity,
};

/// What an MPUB begins with.
const MULTI_PUBLISH: &[u8] = b"MPUB ";

/// Where a connection stands with its secret.
pub(super) struct Authorization {
    /// `None` when everybody may do everything.
    auth: Option<Arc<Auth>>,
    secret: Arc<[u8]>,
    /// What was decided last; `None` before a good AUTH.
    decision: Option<Decision>,
    /// A question that is under way. No command is taken while there is one.
    asking: Option<Asking>,
    /// The topic that publishing to was allowed last: most connections need no other.
    topic: String,
}

struct Asking {
    answer: oneshot::Receiver<Result<Decision, Undecided>>,
    /// The client waits for the answer to its AUTH.
    first: bool,
}

/// What is to become of a command.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It may be carried out.
    Go,
    /// What was decided holds no longer; it waits.
    AskAgain,
    /// It is refused.
    Refuse(ClientError),
}

impl Authorization {
    pub(super) fn new(auth: Option<Arc<Auth>>) -> Self {
        let secret = Arc::from(Vec::new());
        Self { auth, secret, decision: None, asking: None, topic: String::new() }
    }

    /// Whether commands have to wait for an answer.
    pub(super) const fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    const fn is_authorized(&self) -> bool {
        self.decision.is_some()
    }

    /// Whether the client has to AUTH and has not yet.
    const fn is_due(&self) -> bool {
        self.auth.is_some() && !self.is_authorized()
    }

    fn check(&mut self, command: &Command<'_>) -> Verdict {
        let Some(auth) = &self.auth else { return Verdict::Go };
        let (name, topic, channel) = match *command {
            Command::Publish { topic, .. } => ("PUB", topic, None),
            Command::MultiPublish { topic, .. } => ("MPUB", topic, None),
            Command::DeferredPublish { topic, .. } => ("DPUB", topic, None),
            Command::Subscribe { topic, channel } => ("SUB", topic, Some(channel)),
            _ => return Verdict::Go,
        };
        let Some(decision) = &self.decision else {
            return Verdict::Refuse(ClientError::auth_first(name));
        };
        if !auth.is_current(decision) {
            return Verdict::AskAgain;
        }
        let grant = &decision.grant;
        let allowed = match channel {
            Some(channel) => grant.may_subscribe(topic, channel),
            None if self.topic == topic => true,
            None => {
                let allowed = grant.may_publish(topic);
                if allowed {
                    topic.clone_into(&mut self.topic);
                }
                allowed
            }
        };
        if allowed {
            return Verdict::Go;
        }
        Verdict::Refuse(ClientError::unauthorized(name, topic, channel.unwrap_or_default()))
    }
}

impl Connection {
    /// Whether `command` may be carried out now. If not, it was refused, or has to be looked at again later.
    pub(super) fn may(&mut self, command: &Command<'_>) -> bool {
        match self.authorization.check(command) {
            Verdict::Go => true,
            Verdict::AskAgain => {
                self.ask(false);
                // Perhaps it could be decided at once.
                !self.authorization.is_asking() && !self.ending && self.may(command)
            }
            Verdict::Refuse(error) => {
                self.apply_finished();
                self.fail(&error);
                false
            }
        }
    }

    /// What a client is told of bytes that are no command by the rules that hold for it. A stranger's publish may
    /// be one by the others: then it lacks AUTH, which is the better answer.
    pub(super) fn complaint(&self, bytes: &[u8], error: ClientError) -> ClientError {
        if !self.authorization.is_due() {
            return error;
        }
        if bytes.starts_with(MULTI_PUBLISH) && matches!(error.code, "E_BAD_BODY" | "E_BAD_MESSAGE") {
            return ClientError::auth_first("MPUB");
        }
        let name = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
        let name = ["PUB", "MPUB", "DPUB"].into_iter().find(|publish| publish.as_bytes() == name);
        match (name, Decoder::new().decode(bytes, &self.session.trusting_rules())) {
            (Some(name), Ok(_)) => ClientError::auth_first(name),
            _ => error,
        }
    }

    /// What a client is told whose command is there in part only: nsqd looks at a stranger's MPUB no further than
    /// its line, and at other commands when they are whole.
    pub(super) fn premature(&self, bytes: &[u8], need: Need) -> Option<ClientError> {
        let is_multi_publish = self.authorization.is_due() && bytes.starts_with(MULTI_PUBLISH);
        let has_line = is_multi_publish && need.interrupted().is_some();
        has_line.then(|| ClientError::auth_first("MPUB"))
    }

    /// AUTH: the answer follows once it is known what the secret allows.
    ///
    /// # Errors
    /// What the client is told.
    pub(super) fn authenticate(&mut self, secret: &[u8]) -> Result<(), ClientError> {
        if self.authorization.is_authorized() {
            return Err(ClientError::auth_already_set());
        }
        if self.authorization.auth.is_none() {
            return Err(ClientError::auth_disabled());
        }
        self.authorization.secret = Arc::from(secret);
        self.ask(true);
        Ok(())
    }

    fn ask(&mut self, first: bool) {
        let asker = self.asker();
        let authorization = &mut self.authorization;
        let Some(auth) = &authorization.auth else { return };
        match auth.decide_alone(&authorization.secret) {
            Some(decision) => self.decided(first, Ok(decision)),
            None => {
                let answer = auth.ask(asker, Arc::clone(&authorization.secret));
                authorization.asking = Some(Asking { answer, first });
            }
        }
    }

    /// Whether the answer that was waited for has come.
    pub(super) fn hear(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(asking) = &mut self.authorization.asking else { return false };
        let Poll::Ready(answer) = Pin::new(&mut asking.answer).poll(cx) else { return false };
        let first = asking.first;
        self.authorization.asking = None;
        // The task that asked has died: nobody will ever say.
        self.decided(first, answer.unwrap_or(Err(Undecided)));
        true
    }

    fn decided(&mut self, first: bool, outcome: Result<Decision, Undecided>) {
        let Ok(decision) = outcome else { return self.fail(&ClientError::auth_failed()) };
        let grant = Arc::clone(&decision.grant);
        self.authorization.topic.clear();
        if first && grant.authorizations.is_empty() {
            return self.fail(&ClientError::no_authorizations());
        }
        self.authorization.decision = Some(decision);
        self.session.trust();
        let (name, url) = (grant.identity.clone(), grant.identity_url.clone());
        self.client.authorized(Identity { name, url });
        if first {
            self.reply(FrameType::Response, &grant.to_json());
        }
    }

    /// What the client is told when the file of tokens does not allow its subscription any more. That servers
    /// do not is never asked, as in nsqd.
    pub(super) fn revoked(&mut self) -> Option<ClientError> {
        let subscription = self.subscription.as_ref()?;
        let (auth, decision) = (self.authorization.auth.as_ref()?, self.authorization.decision.as_ref()?);
        if !decision.is_of_tokens() || auth.is_current(decision) {
            return None;
        }
        let renewed = auth.decide_alone(&self.authorization.secret)?;
        let (topic, channel) = (subscription.topic.name().as_str(), subscription.channel.name().as_str());
        let error = ClientError::unauthorized("SUB", topic, channel);
        let allowed = renewed.grant.may_subscribe(topic, channel);
        self.authorization.decision = Some(renewed);
        self.authorization.topic.clear();
        (!allowed).then_some(error)
    }

    fn asker(&self) -> Asker {
        let session = self.client.session();
        let tls = session.is_some();
        let common_name = session.map(|session| session.common_name).unwrap_or_default();
        Asker { ip: self.client.remote_ip(), tls, common_name }
    }
}
