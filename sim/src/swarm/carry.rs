//! What the shell does for the mesh: sends datagrams, looks at hosts, carries exchanges, tells the broker.

use std::time::Duration;

use bruit_gossip::{DATAGRAM_MAX, Event, LEG_MAX, Output, Peer};
use bytes::Bytes;

use super::{
    host::{Step, Work},
    net::{HostId, gossip_address},
    software::Software,
    world::World,
};

/// The shell gives up an exchange after this long.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Exchanges that a node answers at a time; more are refused.
const ANSWERING_MAX: u32 = 16;
/// The shell gives up a look at a peer's host after this long.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);

/// An exchange under way.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) from: HostId,
    to: HostId,
    peer: Peer,
    bytes: u64,
    is_answered: bool,
}

impl<S: Software> World<S> {
    /// Carries out what a mesh wants.
    pub(super) fn carry_out(&mut self, id: HostId, output: Output) {
        match output {
            Output::Send { to, datagram } => self.send(id, to, datagram),
            Output::Exchange { peer } => self.begin_exchange(id, peer),
            Output::Check { peer } => self.look_at_host(id, peer),
            // What comes of it is told behind whatever else the mesh wants now.
            Output::Broker(command) => self.plan(id, self.now(), Work::Broker(command)),
            Output::Event(event) => {
                self.trace.event(format_args!("{id} says {event:?}"));
                match event {
                    Event::SameNode { .. } => self.guard.same_node += 1,
                    Event::Revived(_) => self.guard.revived += 1,
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, id: HostId, to: std::net::SocketAddr, datagram: Bytes) {
        let host = &mut self.hosts[id];
        let sender = host.node;
        let datagram = match &mut host.poison {
            Some(poison) => poison.datagram(datagram),
            None if datagram.len() > DATAGRAM_MAX => {
                return self.found("MTU", format!("host {id} sends a datagram of {} bytes", datagram.len()));
            }
            None => datagram,
        };
        // Packets to addresses where no host ever was are on the wire all the same.
        let dest = super::net::host_at(to.ip()).unwrap_or(usize::MAX);
        let arrivals = self.net.datagram(id, dest, datagram.len());
        if dest >= self.hosts.len() {
            return;
        }
        for delay in arrivals.into_iter().flatten() {
            let work = Work::Datagram { from: gossip_address(id), sender, bytes: datagram.clone() };
            self.plan_for_any(dest, self.now() + delay, work);
        }
    }

    fn look_at_host(&mut self, id: HostId, peer: Peer) {
        let host = self.host_of(&peer).filter(|host| self.net.connects(id, *host) && self.hosts[*host].is_on);
        let (is_gone, after) = match host {
            // A lost SYN is sent again after a second, which is too late.
            Some(host) if !self.dice.chance(self.net.weather.loss * 2) => {
                let round_trip = self.net.delay(id, host) + self.net.delay(host, id);
                (self.hosts[host].process.is_none(), round_trip)
            }
            _ => (false, CHECK_TIMEOUT),
        };
        self.plan(id, self.now() + after.min(CHECK_TIMEOUT), Work::Checked { peer, is_gone });
    }

    fn begin_exchange(&mut self, id: HostId, peer: Peer) {
        self.exchanges_begun += 1;
        let exchange = self.exchanges_begun;
        let to = self.host_of(&peer).unwrap_or(usize::MAX);
        self.exchanges.insert(exchange, Exchange { from: id, to, peer, bytes: 0, is_answered: false });
        self.plan(id, self.now() + EXCHANGE_TIMEOUT, Work::Exchange { exchange, step: Step::Failed });
        let there = self.hosts.get(to).filter(|host| host.node == peer.id && host.process.is_some());
        if there.is_some()
            && let Some(delay) = self.net.handshake(id, to)
        {
            self.plan(id, self.now() + delay, Work::Exchange { exchange, step: Step::Open });
        }
    }

    /// Takes the next step of an exchange, on the host where it happens.
    pub(super) fn exchange(&mut self, id: HostId, number: u64, step: Step) {
        let Some(Exchange { from, to, peer, .. }) = self.exchanges.get(&number) else { return };
        let (from, to, peer) = (*from, *to, *peer);
        let initiator = self.hosts[from].node;
        self.trace.event(format_args!("exchange {number} {from} {to} {}", step.describe()));
        match step {
            // The handshake is over; the connection is there.
            Step::Open => {
                let leg = self.with_mesh(id, |mesh, now| mesh.exchange_open(now, &peer));
                self.send_leg(number, id, leg, Step::Answer);
            }
            Step::Answer(leg) => {
                if !self.begin_answer(number, id) || leg.len() > LEG_MAX {
                    return self.refuse(number, id);
                }
                match self.with_mesh(id, |mesh, now| mesh.exchange_answer(now, initiator, &leg)) {
                    Some(Err(_)) => self.refuse(number, id),
                    answer => self.send_leg(number, id, answer.and_then(Result::ok), Step::Close),
                }
            }
            Step::Close(leg) => {
                if leg.len() > LEG_MAX {
                    return self.end_exchange(number, false);
                }
                match self.with_mesh(id, |mesh, now| mesh.exchange_close(now, peer.id, &leg)) {
                    Some(Err(_)) => self.end_exchange(number, false),
                    rest => self.send_leg(number, id, rest.and_then(Result::ok), Step::End),
                }
            }
            Step::End(leg) => {
                let is_good = leg.len() <= LEG_MAX
                    && self
                        .with_mesh(id, |mesh, now| mesh.exchange_end(now, initiator, &leg))
                        .is_some_and(|end| end.is_ok());
                let step = if is_good { Step::Done } else { Step::Failed };
                self.send_step(number, id, from, step);
            }
            Step::Done => self.end_exchange(number, true),
            Step::Failed => self.end_exchange(number, false),
        }
    }

    fn begin_answer(&mut self, number: u64, id: HostId) -> bool {
        let Some(process) =
            self.hosts[id].process.as_mut().filter(|process| process.answering < ANSWERING_MAX)
        else {
            return false;
        };
        process.answering += 1;
        self.exchanges.entry(number).and_modify(|exchange| exchange.is_answered = true);
        true
    }

    fn refuse(&mut self, number: u64, id: HostId) {
        let Some(exchange) = self.exchanges.get(&number) else { return };
        self.send_step(number, id, exchange.from, Step::Failed);
    }

    fn send_leg(&mut self, number: u64, id: HostId, leg: Option<Bytes>, step: fn(Bytes) -> Step) {
        let Some(mut leg) = leg else { return };
        match &mut self.hosts[id].poison {
            Some(poison) => leg = poison.leg(leg),
            None if leg.len() > LEG_MAX => {
                return self.found("LEG_MAX", format!("host {id} sends a leg of {} bytes", leg.len()));
            }
            None => {}
        }
        let Some(exchange) = self.exchanges.get_mut(&number) else { return };
        exchange.bytes += leg.len() as u64;
        let dest = if id == exchange.from { exchange.to } else { exchange.from };
        if let Some(delay) = self.net.stream(id, dest, leg.len()) {
            let work = Work::Exchange { exchange: number, step: step(leg) };
            self.plan_for_any(dest, self.now() + delay, work);
        }
    }

    fn send_step(&mut self, number: u64, id: HostId, dest: HostId, step: Step) {
        if let Some(delay) = self.net.stream(id, dest, 0) {
            self.plan_for_any(dest, self.now() + delay, Work::Exchange { exchange: number, step });
        }
    }

    fn end_exchange(&mut self, number: u64, is_good: bool) {
        let Some(exchange) = self.exchanges.remove(&number) else { return };
        if exchange.is_answered
            && let Some(process) = self.hosts.get_mut(exchange.to).and_then(|host| host.process.as_mut())
        {
            process.answering = process.answering.saturating_sub(1);
        }
        let bytes = is_good.then_some(exchange.bytes);
        self.with_mesh(exchange.from, |mesh, now| mesh.exchange_over(now, &exchange.peer, bytes));
    }
}

impl Step {
    const fn describe(&self) -> &'static str {
        match self {
            Self::Open => "opens",
            Self::Answer(_) => "is answered",
            Self::Close(_) => "closes",
            Self::End(_) => "ends",
            Self::Done => "is over",
            Self::Failed => "failed",
        }
    }
}
