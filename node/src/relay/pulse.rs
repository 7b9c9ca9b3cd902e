//! Notices that a connection which links use carries nothing any more. SWIM tells of nodes that are gone, but
//! not of a way that is cut for QUIC alone, nor of a connection that the peer has given up unheard.

use std::time::Duration;

use parking_lot::Mutex;
use quinn::Connection;
use tokio::time::Instant;

use super::Relays;

/// How often is looked whether anything has come.
const BEAT: Duration = Duration::from_secs(1);
/// After so many beats without anything, and as many again, the peer is asked for an answer.
const ASK_AFTER: u32 = 2;
/// After so many beats without anything the connection is closed, and every link on it is lost.
const GONE_AFTER: u32 = 6;

/// The connections that links use. They are few, one or two for each peer, and looked at in the order in which
/// they came to be used.
#[derive(Default)]
pub(super) struct Pulses(Mutex<State>);

#[derive(Default)]
struct State {
    watched: Vec<Watched>,
    next: Option<Instant>,
}

struct Watched {
    connection: Connection,
    links: usize,
    pulse: Pulse,
}

/// What has been heard on a connection. Pure.
#[derive(Debug, Default)]
struct Pulse {
    heard: u64,
    silent: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Beat {
    Fine,
    Ask,
    Gone,
}

/// As long as this is kept, the connection is watched.
pub(super) struct Watch<'a> {
    pulses: &'a Pulses,
    connection: usize,
}

impl Pulses {
    /// Watches a connection for one more link.
    pub(super) fn watch(&self, connection: &Connection) -> Watch<'_> {
        let id = connection.stable_id();
        let mut state = self.0.lock();
        match state.watched.iter_mut().find(|watched| watched.connection.stable_id() == id) {
            Some(watched) => watched.links += 1,
            None => {
                let (connection, pulse) = (connection.clone(), Pulse::default());
                state.watched.push(Watched { connection, links: 1, pulse });
            }
        }
        Watch { pulses: self, connection: id }
    }

    /// Closes the connections that have gone silent, if it is time to look. Returns those whose peers are to
    /// be asked for an answer.
    fn beat(&self, now: Instant) -> Vec<Connection> {
        let mut state = self.0.lock();
        if state.next.is_some_and(|next| next > now) {
            return Vec::new();
        }
        state.next = Some(now + BEAT);
        let mut ask = Vec::new();
        for Watched { connection, pulse, .. } in &mut state.watched {
            match pulse.beat(connection.stats().udp_rx.datagrams) {
                Beat::Fine => {}
                Beat::Ask => ask.push(connection.clone()),
                Beat::Gone => connection.close(quinn::VarInt::from_u32(0), b"silent"),
            }
        }
        ask
    }
}

impl Relays {
    /// Looks after the connections that links use, if it is time to.
    pub(super) fn feel_pulses(&self, now: Instant) {
        for connection in self.pulses.beat(now) {
            let mesh = self.mesh.clone();
            self.env.background.spawn(Box::pin(async move {
                // Whether an answer came is seen at the next beat.
                let _ = mesh.ping(&connection).await;
            }));
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut state = self.pulses.0.lock();
        let at = state.watched.iter().position(|watched| watched.connection.stable_id() == self.connection);
        if let Some(watched) = at.and_then(|at| state.watched.get_mut(at)) {
            watched.links -= 1;
        }
        state.watched.retain(|watched| watched.links > 0);
    }
}

impl Pulse {
    /// `heard` counts the datagrams that have come in all.
    fn beat(&mut self, heard: u64) -> Beat {
        self.silent = if heard == self.heard { self.silent + 1 } else { 0 };
        self.heard = heard;
        match self.silent {
            GONE_AFTER.. => Beat::Gone,
            silent if silent > 0 && silent % ASK_AFTER == 0 => Beat::Ask,
            _ => Beat::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_is_asked_and_given_up_unless_something_comes() {
        let mut pulse = Pulse::default();
        let mut beats = |heard: &[u64]| heard.iter().map(|heard| pulse.beat(*heard)).collect::<Vec<_>>();
        use Beat::{Ask, Fine, Gone};
        assert_eq!(beats(&[3, 5, 5, 5]), [Fine, Fine, Fine, Ask]);
        assert_eq!(beats(&[6, 6, 6, 6, 6, 6]), [Fine, Fine, Ask, Fine, Ask, Fine]);
        assert_eq!(beats(&[6, 6, 7]), [Gone, Gone, Fine]);
    }
}
