//! What a connection has negotiated and where it stands. Pure: commands go in, effects come out.

use std::{sync::Arc, time::Duration};

use bruit_wire::{
    compress::Compression,
    nsq::{ClientError, Command, Identify, IdentifyLimits, IdentifyReply, Messages, Phase, Rules},
};

use crate::{
    auth::Auth,
    broker::{Place, millis},
    config::Limits,
    layers::Doorkeeper,
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
    /// Begins handshakes of TLS, if that is offered.
    pub(crate) doorkeeper: Option<Arc<Doorkeeper>>,
    /// Whether nothing is heard without TLS.
    pub(crate) tls_required: bool,
    /// Decides what clients may do; `None` lets everybody do everything.
    pub(crate) auth: Option<Arc<Auth>>,
}

/// The deflate level of a client that names none.
const DEFLATE_LEVEL: u32 = 6;

/// Largest body from a client that has to AUTH and has not yet, bytes: strangers should not take the room that
/// large publishes need.
pub(super) const STRANGER_BODY_MAX: usize = 64 * 1024;

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
    /// What was granted to lie between the client's bytes and the socket.
    layers: Granted,
}

/// Layers that a client was granted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) tls: bool,
    pub(super) compression: Option<Compression>,
}

impl Granted {
    /// Whether there is any.
    pub(super) fn is_some(self) -> bool {
        self != Self::default()
    }
}

/// What a command asks of the connection.
#[derive(Debug)]
pub(super) enum Effect<'a> {
    /// Nothing.
    None,
    /// RDY has changed.
    Ready,
    /// The client said who it is; a response frame with these bytes answers, and what was granted begins behind it.
    Identified(Box<Identify>, Vec<u8>, Granted),
    /// Store one message.
    Publish { topic: &'a str, body: &'a [u8] },
    /// Store one message that is not due before the delay, in ms, is over.
    DeferredPublish { topic: &'a str, body: &'a [u8], delay: u64 },
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
        let stranger = if facts.auth.is_some() { STRANGER_BODY_MAX } else { usize::MAX };
        let rules = Rules {
            phase: if facts.tls_required { Phase::Insecure } else { Phase::Init },
            heartbeats: true,
            max_msg_size: limits.max_msg_size.min(stranger),
            max_body_size: limits.max_body_size.min(stranger),
            max_rdy_count: limits.max_rdy_count,
            max_req_timeout_ms: millis(limits.max_req_timeout),
            max_defer_timeout_ms: millis(limits.max_defer_timeout),
        };
        let (heartbeat, msg_timeout) = (Some(limits.client_timeout / 2), limits.msg_timeout);
        Self {
            facts,
            rules,
            heartbeat,
            msg_timeout,
            sample_rate: 0,
            ready: 0,
            identified: false,
            layers: Granted::default(),
        }
    }

    /// Takes a command.
    ///
    /// # Errors
    /// The error that the client is told; all of these are fatal.
    pub(super) fn handle<'a>(&mut self, command: Command<'a>) -> Result<Effect<'a>, ClientError> {
        Ok(match command {
            Command::Nop => Effect::None,
            Command::Publish { topic, body } => Effect::Publish { topic, body },
            Command::DeferredPublish { topic, delay_ms, body } => {
                Effect::DeferredPublish { topic, body, delay: delay_ms }
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

    /// What the decoder allows a client that has said what it may do.
    pub(super) fn trusting_rules(&self) -> Rules {
        let limits = &self.facts.limits;
        Rules { max_msg_size: limits.max_msg_size, max_body_size: limits.max_body_size, ..self.rules }
    }

    /// The client has said what it may do.
    pub(super) fn trust(&mut self) {
        self.rules = self.trusting_rules();
    }

    /// The consumer is on its channel now.
    pub(super) fn subscribed(&mut self) {
        self.rules.phase = Phase::Subscribed;
    }

    /// TLS is there now.
    pub(super) fn secured(&mut self) {
        if self.rules.phase == Phase::Insecure {
            self.rules.phase = Phase::Init;
        }
    }

    /// The number that `/stats` shows for the state (NSQ reference, section 2.5).
    pub(super) const fn state(&self) -> u8 {
        match self.rules.phase {
            Phase::Init | Phase::Insecure => 0,
            Phase::Subscribed => 3,
            Phase::Closing => 4,
        }
    }

    fn identify(&mut self, body: &[u8]) -> Result<Effect<'static>, ClientError> {
        let identify = Identify::parse(body, &self.identify_limits())?;
        let (snappy, deflate) = self.compressions(&identify);
        if identify.feature_negotiation && snappy && deflate {
            return Err(ClientError::both_compressions());
        }
        // Only the first IDENTIFY changes how the connection works, as nsqd has it.
        if !std::mem::replace(&mut self.identified, true) {
            self.heartbeat = identify.heartbeat;
            self.rules.heartbeats = identify.heartbeat.is_some();
            self.msg_timeout = identify.msg_timeout;
            self.sample_rate = identify.sample_rate;
        }
        if !identify.feature_negotiation {
            return Ok(Effect::Identified(Box::new(identify), b"OK".to_vec(), Granted::default()));
        }
        let granted = self.grant(&identify);
        let reply = self.reply(&identify, granted);
        Ok(Effect::Identified(Box::new(identify), reply, granted))
    }

    /// The layers that the client asks for and may have. Those of an earlier IDENTIFY stay; there is no second
    /// pair inside of them.
    fn grant(&mut self, identify: &Identify) -> Granted {
        if self.layers.is_some() {
            return Granted::default();
        }
        let level = self.deflate_level(identify);
        let compression = match self.compressions(identify) {
            (true, _) => Some(Compression::Snappy),
            (false, true) => Some(Compression::Deflate { level }),
            (false, false) => None,
        };
        self.layers = Granted { tls: identify.tls_v1 && self.facts.doorkeeper.is_some(), compression };
        self.layers
    }

    /// Whether the client gets snappy, and whether deflate.
    fn compressions(&self, identify: &Identify) -> (bool, bool) {
        let limits = &self.facts.limits;
        (identify.snappy && limits.snappy, identify.deflate && limits.deflate)
    }

    /// Shown even where there is no deflate.
    fn deflate_level(&self, identify: &Identify) -> u32 {
        let (_, deflate) = self.compressions(identify);
        let asked = u32::try_from(identify.deflate_level).ok().filter(|level| deflate && *level > 0);
        asked.unwrap_or(DEFLATE_LEVEL).min(self.facts.limits.max_deflate_level)
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
    fn reply(&self, identify: &Identify, granted: Granted) -> Vec<u8> {
        let limits = &self.facts.limits;
        let reply = IdentifyReply {
            max_rdy_count: limits.max_rdy_count,
            version: self.facts.version,
            max_msg_timeout: millis(limits.max_msg_timeout),
            msg_timeout: millis(identify.msg_timeout),
            tls_v1: granted.tls,
            deflate: matches!(granted.compression, Some(Compression::Deflate { .. })),
            deflate_level: self.deflate_level(identify),
            max_deflate_level: limits.max_deflate_level,
            snappy: granted.compression == Some(Compression::Snappy),
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
            doorkeeper: None,
            tls_required: false,
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
        let Ok(Effect::Identified(_, reply, Granted { tls: false, compression: None })) = effect else {
            panic!("{effect:?}")
        };
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

    #[test]
    fn a_compression_is_granted_once_and_only_when_negotiating() {
        let granted = |session: &mut Session, body: &str| {
            let effect = session.handle(Command::Identify { body: body.as_bytes() });
            let Ok(Effect::Identified(_, reply, granted)) = effect else { panic!("{effect:?}") };
            (granted.compression, String::from_utf8(reply).unwrap())
        };
        let mut session = session();
        assert_eq!(granted(&mut session, r#"{"snappy":true}"#), (None, "OK".to_owned()));
        let (deflate, reply) =
            granted(&mut session, r#"{"deflate":true,"deflate_level":9,"feature_negotiation":true}"#);
        assert_eq!(deflate, Some(Compression::Deflate { level: 6 }));
        assert!(reply.contains(r#""deflate":true,"deflate_level":6,"max_deflate_level":6,"snappy":false"#));
        let (again, reply) = granted(&mut session, r#"{"snappy":true,"feature_negotiation":true}"#);
        assert_eq!(again, None);
        assert!(reply.contains(r#""deflate":false"#) && reply.contains(r#""snappy":false"#));
    }
}
