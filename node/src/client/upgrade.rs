//! How a connection gets the layers that its IDENTIFY was granted: the answer goes out as before, then TLS and
//! compression take over, and each says `OK` through itself (NSQ reference, section 2.9).

use bruit_wire::nsq::{self, ClientError};
use tokio::io::{empty, sink};

use super::{connection::Connection, session::Granted};
use crate::{
    env::Conn,
    layers::{Handshake, Layered, Stack, wrap},
};

/// How far a connection has come with that.
#[derive(Debug)]
pub(super) enum Upgrade {
    /// There is nothing to do.
    None,
    /// The answer to IDENTIFY has to be with the socket first.
    Granted(Granted),
    /// The layers are there, and the handshake goes on.
    Handshake(Layered),
}

impl Upgrade {
    /// What is to be done about what was granted.
    pub(super) fn to(granted: Granted) -> Self {
        if granted.is_some() { Self::Granted(granted) } else { Self::None }
    }

    /// Whether there is something to do.
    pub(super) const fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether nothing is read, as it could not be told to which side of the change it belongs.
    pub(super) const fn holds_reading(&self) -> bool {
        matches!(self, Self::Granted(_))
    }
}

impl Connection {
    /// Does what can be done now; returns whether that was anything.
    pub(super) fn advance_upgrade(&mut self) -> bool {
        match &self.upgrade {
            Upgrade::None => false,
            Upgrade::Granted(_) if self.ending || self.outbox.waits() || self.outbox.owed() > 0 => false,
            Upgrade::Granted(granted) => {
                let granted = *granted;
                self.begin(granted);
                true
            }
            Upgrade::Handshake(layered) => match layered.handshake() {
                Handshake::Done(session) => {
                    self.upgrade = Upgrade::None;
                    // Compression alone protects nothing.
                    if session.is_some() {
                        self.session.secured();
                    }
                    self.client.secured(session);
                    true
                }
                // A failure shows when something is read.
                Handshake::Running | Handshake::Failed(_) => false,
            },
        }
    }

    fn begin(&mut self, Granted { tls, compression }: Granted) {
        self.upgrade = Upgrade::None;
        let doorkeeper = self.facts.doorkeeper.as_ref().filter(|_| tls);
        let tls = match doorkeeper.map(|doorkeeper| doorkeeper.handshake()).transpose() {
            Ok(tls) => tls,
            Err(why) => return self.fail(&ClientError::identify_failed(&why)),
        };
        let nothing = Conn { reader: Box::new(empty()), writer: Box::new(sink()) };
        let conn = std::mem::replace(&mut self.conn, nothing);
        let stack = Stack::negotiated(tls, compression, &nsq::OK_FRAME);
        let (conn, layered) = wrap(conn, stack);
        self.conn = conn;
        self.client.packed(compression);
        self.outbox.flush();
        self.layers = Some(layered.clone());
        self.upgrade = Upgrade::Handshake(layered);
    }

    /// Reading has failed. The client is told if that was its handshake; else it is gone, or makes no sense.
    pub(super) fn broken(&mut self) -> Result<bool, ()> {
        let Upgrade::Handshake(layered) = &self.upgrade else { return Err(()) };
        let Handshake::Failed(why) = layered.handshake() else { return Err(()) };
        layered.strip();
        self.upgrade = Upgrade::None;
        self.fail(&ClientError::identify_failed(&why));
        Ok(true)
    }
}
