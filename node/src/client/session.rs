//! What a connection has negotiated and where it stands. Pure: commands go in, effects come out.

use std::{sync::Arc, time::Duration};

use bruit_wire::nsq::{
    ClientError, Command, Identify, IdentifyLimits, IdentifyReply, Messages, Phase, Rules,
};

use crate::{
    auth::Auth,
    broker::{Place, millis},
    config::Limits,
};

/// What every session is told of the node.
#[derive(Debug)]
pub(crate) struct ServerFacts {
    /// What clients may do.
    pub(crate) limits: Limits,
    /// The version of nsqd whose behaviour clients find.
    pub(crate) version: &'static str,
    /// Where the node is.
    pub(crate) place: Place,
    /// Decides what clients may do; `None` lets everybody do everything.
    pub(crate) auth: Option<Arc<Auth>>,
}

/// The highest deflate level that the reply to IDENTIFY names, as nsqd's default.
const DEFLATE_LEVEL: u32 = 6;

/// A connection's state.
#[derive(Debug)]
pub(super) struct Session {
    facts: Arc<ServerFacts>,
    /// What the decoder allows now.
    pub(super) rules: Rules,
    /// Between two heartbeats; `None` when the client wants none.
    pub(super) heartbeat: Option<Duration>,
    /// How long the client has for a message.
    pub(super) msg_timeout: Duration,
    /// Percentage of messages that it wants; 0 is all.
    pub(super) sample_rate: u8,
    /// RDY.
    pub(super) ready: u64,
    identified: bool,
}

/// What a command asks of the connection.
#[derive(Debug)]
pub(super) enum Effect<'a> {
    /// Nothing.
    None,
    /// RDY has changed.
    Ready,
    /// The client said who it is; a response frame with these bytes answers.
    Identified(Box<Identify>, Vec<u8>),
    /// Store one message; the delay is in ms.
    Publish { topic: &'a str, body: &'a [u8], delay: u64 },
    /// Store messages, all or none.
    MultiPublish { topic: &'a str, messages: Messages<'a> },
    /// Become a consumer.
    Subscribe { topic: &'a str, channel: &'a str },
    /// A message is done with.
    Finish(&'a [u8; 16]),
    /// A message is to be delivered again, after a delay in ms.
    Requeue(&'a [u8; 16], u64),
    /// A message takes longer.
    Touch(&'a [u8; 16]),
    /// The client says what it may do.
    Authenticate(&'a [u8]),
    /// No more messages; the client will hang up.
    CloseWait,
}

impl Session {
    pub(super) fn new(facts: Arc<ServerFacts>) -> Self {
        let limits = &facts.limits;
        let rules = Rules {
            phase: Phase::Init,
            heartbeats: true,
            max_msg_size: limits.max_msg_size,
            max_body_size: limits.max_body_size,
            max_rdy_count: limits.max_rdy_count,
            max_req_timeout_ms: millis(limits.max_req_timeout),
            max_defer_timeout_ms: millis(limits.max_defer_timeout),
        };
        let (heartbeat, msg_timeout) = (Some(limits.client_timeout / 2), limits.msg_timeout);
        Self { facts, rules, heartbeat, msg_timeout, sample_rate: 0, ready: 0, identified: false }
    }

    /// Takes a command.
    ///
    /// # Errors
    /// The error that the client is told; all of these are fatal.
    pub(super) fn handle<'a>(&mut self, command: Command<'a>) -> Result<Effect<'a>, ClientError> {
        Ok(match command {
            Command::Nop => Effect::None,
            Command::Publish { topic, body } => Effect::Publish { topic, body, delay: 0 },
            Command::DeferredPublish { topic, delay_ms, body } => {
                Effect::Publish { topic, body, delay: delay_ms }
            }
            Command::MultiPublish { topic, messages } => Effect::MultiPublish { topic, messages },
            Command::Finish { id } => Effect::Finish(id),
            Command::Requeue { id, delay_ms } => Effect::Requeue(id, delay_ms),
            Command::Touch { id } => Effect::Touch(id),
            Command::Subscribe { topic, channel } => Effect::Subscribe { topic, channel },
            Command::Ready { count } => {
                self.ready = count;
                Effect::Ready
            }
            Command::Close => {
                self.rules.phase = Phase::Closing;
                self.ready = 0;
                Effect::CloseWait
            }
            Command::Auth { secret } => Effect::Authenticate(secret),
            Command::Identify { body } => self.identify(body)?,
        })
    }

    /// The consumer is on its channel now.
    pub(super) fn subscribed(&mut self) {
        self.rules.phase = Phase::Subscribed;
    }

    /// The number that `/stats` shows for the state (NSQ reference, section 2.5).
    pub(super) const fn state(&self) -> u8 {
        match self.rules.phase {
            Phase::Init => 0,
            Phase::Subscribed => 3,
            Phase::Closing => 4,
        }
    }

    fn identify(&mut self, body: &[u8]) -> Result<Effect<'static>, ClientError> {
        let identify = Identify::parse(body, &self.identify_limits())?;
        if identify.feature_negotiation && identify.snappy && identify.deflate {
            return Err(ClientError::both_compressions());
        }
        // Only the first IDENTIFY changes how the connection works, as nsqd has it.
        if !std::mem::replace(&mut self.identified, true) {
            self.heartbeat = identify.heartbeat;
            self.rules.heartbeats = identify.heartbeat.is_some();
            self.msg_timeout = identify.msg_timeout;
            self.sample_rate = identify.sample_rate;
        }
        let reply = if identify.feature_negotiation { self.reply(&identify) } else { b"OK".to_vec() };
        Ok(Effect::Identified(Box::new(identify), reply))
    }

    fn identify_limits(&self) -> IdentifyLimits {
        let limits = &self.facts.limits;
        IdentifyLimits {
            heartbeat_interval: limits.client_timeout / 2,
            max_heartbeat_interval: limits.max_heartbeat_interval,
            output_buffer_size: 16 * 1024,
            max_output_buffer_size: limits.max_output_buffer_size,
            output_buffer_timeout: limits.output_buffer_timeout,
            min_output_buffer_timeout: limits.min_output_buffer_timeout,
            max_output_buffer_timeout: limits.max_output_buffer_timeout,
            msg_timeout: limits.msg_timeout,
            max_msg_timeout: limits.max_msg_timeout,
        }
    }

    /// The output buffer is echoed as asked: a node flushes when it is idle, so no value makes it wait.
    fn reply(&self, identify: &Identify) -> Vec<u8> {
        let limits = &self.facts.limits;
        let reply = IdentifyReply {
            max_rdy_count: limits.max_rdy_count,
            version: self.facts.version,
            max_msg_timeout: millis(limits.max_msg_timeout),
            msg_timeout: millis(identify.msg_timeout),
            tls_v1: false,
            deflate: false,
            deflate_level: u32::try_from(identify.deflate_level)
                .ok()
                .filter(|level| *level > 0)
                .map_or(DEFLATE_LEVEL, |level| level.min(DEFLATE_LEVEL)),
            max_deflate_level: DEFLATE_LEVEL,
            snappy: false,
            sample_rate: identify.sample_rate,
            auth_required: self.facts.auth.is_some(),
            output_buffer_size: identify.output_buffer_size,
            output_buffer_timeout: identify.output_buffer_timeout.map_or(0, millis),
            topology_region: &self.facts.place.region,
            topology_zone: &self.facts.place.zone,
        };
        reply.to_json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new(Arc::new(ServerFacts {
            limits: Limits::default(),
            version: "1.3.0",
            place: Place::default(),
            auth: None,
        }))
    }

    #[test]
    fn only_the_first_identify_changes_the_connection() {
        let mut session = session();
        session
            .handle(Command::Identify { body: br#"{"heartbeat_interval":2000,"msg_timeout":3000}"# })
            .expect("valid");
        session
            .handle(Command::Identify { body: br#"{"heartbeat_interval":5000,"msg_timeout":9000}"# })
            .expect("valid");
        assert_eq!(session.heartbeat, Some(Duration::from_secs(2)));
        assert_eq!(session.msg_timeout, Duration::from_secs(3));
    }

    #[test]
    fn the_reply_has_nsqds_shape() {
        let mut session = session();
        let effect =
            session.handle(Command::Identify { body: br#"{"feature_negotiation":true,"tls_v1":true}"# });
        let Ok(Effect::Identified(_, reply)) = effect else { panic!("{effect:?}") };
        let expected = r#"{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":60000,"tls_v1":false,"deflate":false,"deflate_level":6,"max_deflate_level":6,"snappy":false,"sample_rate":0,"auth_required":false,"output_buffer_size":16384,"output_buffer_timeout":250,"topology_region":"","topology_zone":""}"#;
        assert_eq!(String::from_utf8_lossy(&reply), expected);
    }

    #[test]
    fn closing_stops_deliveries() {
        let mut session = session();
        session.subscribed();
        session.handle(Command::Ready { count: 10 }).expect("valid");
        assert!(matches!(session.handle(Command::Close), Ok(Effect::CloseWait)));
        assert_eq!((session.ready, session.state()), (0, 4));
    }

    #[test]
    fn both_compressions_are_refused_only_when_negotiating() {
        let body = br#"{"snappy":true,"deflate":true}"#;
        assert!(session().handle(Command::Identify { body }).is_ok());
        let body = br#"{"snappy":true,"deflate":true,"feature_negotiation":true}"#;
        let refused = session().handle(Command::Identify { body });
        assert!(refused.is_err_and(|error| error.code == "E_IDENTIFY_FAILED"));
    }
}
