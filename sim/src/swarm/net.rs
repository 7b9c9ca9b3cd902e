//! The network of a swarm: who reaches whom, how long it takes, what gets lost, and what it cost.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::dice::{Dice, mix};

/// A host, by its number from 0 on.
pub type HostId = usize;

/// Where nodes take datagrams.
pub const GOSSIP_PORT: u16 = 4160;
/// Where nodes take QUIC connections.
pub const MESH_PORT: u16 = 4161;

/// What sealing adds to a datagram, bytes.
const SEAL: u64 = 41;
/// The headers of UDP and IPv4, bytes.
const HEADERS: u64 = 28;

/// Sides that a network can fall into.
pub const SIDES: usize = 4;

/// The address at which `host` takes datagrams.
#[must_use]
pub fn gossip_address(host: HostId) -> SocketAddr {
    let [_, high, middle, low] = u32::try_from(host + 1).unwrap_or(u32::MAX).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, high, middle, low), GOSSIP_PORT))
}

/// The host at this address, which may be one that does not exist.
#[must_use]
pub fn host_at(address: IpAddr) -> Option<HostId> {
    let IpAddr::V4(address) = address else { return None };
    let [net, high, middle, low] = address.octets();
    if net != 10 {
        return None;
    }
    usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()?.checked_sub(1)
}

/// How far the hosts are from one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// One data centre: 0.2 to 2 ms one way.
    Lan,
    /// Eight places: 5 to 120 ms one way, a tenth of it at random.
    Wan,
}

/// What the network does to packets. Chances are per thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// How long packets take.
    pub distance: Distance,
    /// Chance that a packet is lost.
    pub loss: u64,
    /// Chance that it comes twice.
    pub twice: u64,
    /// Chance that it comes 5 to 200 ms late, which puts it behind later ones.
    pub late: u64,
}

impl Weather {
    /// One data centre where nothing gets lost.
    pub const CALM: Self = Self { distance: Distance::Lan, loss: 0, twice: 0, late: 0 };

    /// The same with so much loss, per thousand.
    #[must_use]
    pub const fn with_loss(self, loss: u64) -> Self {
        Self { loss, ..self }
    }
}

/// What one host has sent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes on the wire: sealed, with the headers of UDP and IP.
    pub bytes: u64,
    /// Bytes of exchanges, without what QUIC adds.
    pub exchange_bytes: u64,
}

/// The network.
#[derive(Debug)]
pub struct Net {
    dice: Dice,
    /// What it does to packets now.
    pub weather: Weather,
    sides: Vec<usize>,
    cut: [[bool; SIDES]; SIDES],
    sent: Vec<Sent>,
}

impl Net {
    /// A network in which everybody reaches everybody.
    #[must_use]
    pub const fn new(dice: Dice, weather: Weather) -> Self {
        Self { dice, weather, sides: Vec::new(), cut: [[false; SIDES]; SIDES], sent: Vec::new() }
    }

    /// Puts `host` on a side, from 0 to [`SIDES`] - 1. All hosts start on side 0.
    pub fn put(&mut self, host: HostId, side: usize) {
        if self.sides.len() <= host {
            self.sides.resize(host + 1, 0);
        }
        self.sides[host] = side.min(SIDES - 1);
    }

    /// From now on nothing that is sent on side `from` arrives on side `to`.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut[from][to] = true;
    }

    /// Everybody reaches everybody again.
    pub fn heal(&mut self) {
        self.cut = [[false; SIDES]; SIDES];
        self.sides.clear();
    }

    /// Whether anybody is cut off from anybody.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut.iter().flatten().any(|cut| *cut)
    }

    /// Whether what `from` sends arrives at `to`.
    #[must_use]
    pub fn reaches(&self, from: HostId, to: HostId) -> bool {
        let side = |host| self.sides.get(host).copied().unwrap_or(0);
        !self.cut[side(from)][side(to)]
    }

    /// Whether both reach one another.
    #[must_use]
    pub fn connects(&self, a: HostId, b: HostId) -> bool {
        self.reaches(a, b) && self.reaches(b, a)
    }

    /// A datagram of `len` bytes goes from one host to another: how long each copy takes that arrives.
    pub fn datagram(&mut self, from: HostId, to: HostId, len: usize) -> [Option<Duration>; 2] {
        let sent = self.sent_by(from);
        sent.datagrams += 1;
        sent.bytes += len as u64 + SEAL + HEADERS;
        if !self.reaches(from, to) {
            return [None; 2];
        }
        let copies = 1 + usize::from(self.dice.chance(self.weather.twice));
        let mut arrivals = [None; 2];
        for arrival in arrivals.iter_mut().take(copies) {
            if !self.dice.chance(self.weather.loss) {
                let late = self.dice.chance(self.weather.late);
                let more = if late { self.dice.millis(5, 200) } else { Duration::ZERO };
                *arrival = Some(self.delay(from, to) + more);
            }
        }
        arrivals
    }

    /// So many bytes go from one host to another, lost packets sent again: how long that takes, or `None`
    /// when they are cut off. 1 Gbit/s.
    pub fn stream(&mut self, from: HostId, to: HostId, len: usize) -> Option<Duration> {
        self.sent_by(from).exchange_bytes += len as u64;
        if !self.connects(from, to) {
            return None;
        }
        let transfer = Duration::from_nanos(len as u64 * 8);
        let mut delay = self.delay(from, to) + transfer;
        for _ in 0..(len / 1_200 + 1).min(100) {
            if self.dice.chance(self.weather.loss) {
                // The time after which QUIC sends again is at least 25 ms with its granularity of timers.
                delay += self.delay(from, to) * 3 + Duration::from_millis(25);
            }
        }
        Some(delay)
    }

    /// How long it takes to open a connection, `None` when they are cut off.
    pub fn handshake(&mut self, from: HostId, to: HostId) -> Option<Duration> {
        if !self.connects(from, to) {
            return None;
        }
        let lost = self.dice.chance(self.weather.loss * 2);
        // Before it knows the round trip, QUIC waits for a second (RFC 9002, section 6.2.2).
        let again = if lost { Duration::from_secs(1) } else { Duration::ZERO };
        Some(self.delay(from, to) + self.delay(to, from) + again)
    }

    /// What `host` has sent since the beginning.
    #[must_use]
    pub fn sent(&self, host: HostId) -> Sent {
        self.sent.get(host).copied().unwrap_or_default()
    }

    /// How long one packet takes.
    pub fn delay(&mut self, from: HostId, to: HostId) -> Duration {
        match self.weather.distance {
            Distance::Lan => {
                let usual = self.dice.between(200, 600);
                let more = if self.dice.chance(50) { self.dice.below(1_400) } else { 0 };
                Duration::from_micros(usual + more)
            }
            Distance::Wan => {
                let place = |host| mix(host as u64) % 8;
                let (a, b) = (place(from), place(to));
                let base = if a == b { 500 } else { 5_000 + mix(a.min(b) * 8 + a.max(b)) % 115_000 };
                Duration::from_micros(base + self.dice.below(base / 10 + 200))
            }
        }
    }

    fn sent_by(&mut self, host: HostId) -> &mut Sent {
        if self.sent.len() <= host {
            self.sent.resize(host + 1, Sent::default());
        }
        &mut self.sent[host]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(weather: Weather) -> Net {
        Net::new(Dice::new(1), weather)
    }

    #[test]
    fn every_host_has_an_address_that_leads_back_to_it() {
        for host in [0, 1, 254, 255, 256, 70_000] {
            assert_eq!(host_at(gossip_address(host).ip()), Some(host));
        }
        assert_eq!(host_at(IpAddr::from([127, 0, 0, 1])), None);
    }

    #[test]
    fn a_cut_is_one_way_until_it_is_healed() {
        let mut net = net(Weather::CALM);
        net.put(3, 1);
        net.cut(0, 1);
        assert!(net.datagram(0, 3, 10).iter().all(Option::is_none));
        assert!(net.datagram(3, 0, 10).iter().any(Option::is_some));
        assert!(net.reaches(0, 1) && !net.connects(3, 0) && net.stream(3, 0, 10).is_none());
        net.heal();
        assert!(net.connects(0, 3) && !net.is_cut());
    }

    #[test]
    fn what_the_weather_promises_happens_and_bytes_are_counted() {
        let mut net = net(Weather { loss: 100, twice: 50, late: 10, ..Weather::CALM });
        let (mut arrived, mut slowest) = (0, Duration::ZERO);
        for _ in 0..10_000 {
            let arrivals = net.datagram(7, 8, 31);
            arrived += arrivals.iter().flatten().count();
            slowest = arrivals.into_iter().flatten().fold(slowest, Duration::max);
        }
        assert!((9_200..9_700).contains(&arrived), "{arrived}");
        assert!(slowest > Duration::from_millis(100) && slowest < Duration::from_millis(203));
        assert_eq!(net.sent(7), Sent { datagrams: 10_000, bytes: 1_000_000, exchange_bytes: 0 });
        assert_eq!(net.sent(8), Sent::default());
    }

    #[test]
    fn distances_are_as_said() {
        let mut net = net(Weather::CALM);
        let lan: Vec<Duration> = (0..1_000).map(|_| net.delay(0, 1)).collect();
        assert!(lan.iter().all(|delay| (200..=2_000).contains(&delay.as_micros())));
        net.weather.distance = Distance::Wan;
        let wan: Vec<Duration> = (0..1_000).map(|host| net.delay(0, host)).collect();
        assert!(wan.iter().all(|delay| delay.as_millis() < 140));
        assert!(wan.iter().any(|delay| delay.as_millis() > 50));
    }
}
