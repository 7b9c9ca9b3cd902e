//! What is between the hosts: names, cables that can be cut in one direction, hosts that are dark, and the
//! weather that datagrams travel through.
//!
//! turmoil drops what it is told to drop, but it cannot say who is cut off from whom, takes an unanswered
//! SYN for a refused one, and loses datagrams only in bunches. So the truth is kept here, and turmoil is
//! told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::trace::Trace;

/// The network of one run. Cheap to clone; all clones are the same network.
#[derive(Clone)]
pub struct Ether {
    trace: Trace,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Vec<IpAddr>>,
    cut: BTreeSet<(IpAddr, IpAddr)>,
    /// Ways on which datagrams to this port are lost.
    mute: BTreeSet<(IpAddr, SocketAddr)>,
    /// Every host, with what is there.
    hosts: BTreeMap<IpAddr, Host>,
    weather: Weather,
}

/// What is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Host {
    /// A host that runs its software.
    #[default]
    Up,
    /// A host whose software is not running: it refuses streams and drops datagrams.
    Idle,
    /// A host without power: it says nothing at all.
    Dark,
}

/// What may happen to a datagram on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Of a thousand datagrams, how many are lost.
    pub lost_per_mille: u64,
    /// How many come twice.
    pub doubled_per_mille: u64,
    /// How many come with a flipped bit.
    pub damaged_per_mille: u64,
    /// The longest that gets through, bytes without UDP's and IP's headers. Longer ones vanish.
    pub len_max: usize,
}

impl Weather {
    /// Nothing is lost, and packets are as long as on an Ethernet.
    pub const FAIR: Self =
        Self { lost_per_mille: 0, doubled_per_mille: 0, damaged_per_mille: 0, len_max: 1472 };
}

impl Default for Weather {
    fn default() -> Self {
        Self::FAIR
    }
}

impl Ether {
    /// A network without names in which everybody reaches everybody.
    #[must_use]
    pub fn new(trace: Trace) -> Self {
        Self { trace, state: Arc::default() }
    }

    /// Makes `name` stand for `addresses`, in this order.
    pub fn name(&self, name: &str, addresses: Vec<IpAddr>) {
        self.state.lock().names.insert(name.to_owned(), addresses);
    }

    /// What `name` stands for; nothing if it is unknown. An address stands for itself.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Vec<IpAddr> {
        match name.parse() {
            Ok(address) => vec![address],
            Err(_) => self.state.lock().names.get(name).cloned().unwrap_or_default(),
        }
    }

    /// Cuts the way from one host to another; what is on its way is lost. The way back stays.
    pub fn cut(&self, sim: &turmoil::Sim<'_>, from: IpAddr, to: IpAddr) {
        self.trace.event(format_args!("net cut {from} {to}"));
        self.state.lock().cut.insert((from, to));
        sim.partition_oneway(from, to);
    }

    /// Mends the way from one host to another.
    pub fn mend(&self, sim: &turmoil::Sim<'_>, from: IpAddr, to: IpAddr) {
        self.trace.event(format_args!("net mend {from} {to}"));
        let mut state = self.state.lock();
        state.cut.remove(&(from, to));
        if state.hosts.get(&from) != Some(&Host::Dark) && state.hosts.get(&to) != Some(&Host::Dark) {
            sim.repair_oneway(from, to);
        }
    }

    /// Everybody reaches everybody again.
    pub fn mend_all(&self, sim: &turmoil::Sim<'_>) {
        let mut state = self.state.lock();
        let cut = state.cut.clone();
        state.mute.clear();
        drop(state);
        for (from, to) in cut {
            self.mend(sim, from, to);
        }
    }

    /// Puts a host into the network, which runs its software.
    pub fn add_host(&self, host: IpAddr) {
        self.state.lock().hosts.insert(host, Host::Up);
    }

    /// Takes the power from `host`, before its software is torn down, so that nobody hears it go. To be
    /// called on that host, while the simulation runs.
    pub fn darken(&self, host: IpAddr) {
        let mut state = self.state.lock();
        state.hosts.insert(host, Host::Dark);
        for other in state.hosts.keys().filter(|other| **other != host) {
            turmoil::partition(host, *other);
        }
    }

    /// The software of `host` has ended, or starts again, and the host has power.
    pub fn lighten(&self, sim: &turmoil::Sim<'_>, host: IpAddr, what: Host) {
        let mut state = self.state.lock();
        if state.hosts.insert(host, what) != Some(Host::Dark) {
            return;
        }
        let others = state.hosts.iter().filter(|(other, what)| **other != host && **what != Host::Dark);
        for (&other, _) in others {
            for (from, to) in [(host, other), (other, host)] {
                if !state.cut.contains(&(from, to)) {
                    sim.repair_oneway(from, to);
                }
            }
        }
    }

    /// What is at `address`.
    #[must_use]
    pub fn host(&self, address: IpAddr) -> Host {
        self.state.lock().hosts.get(&address).copied().unwrap_or_default()
    }

    /// Loses the datagrams of a host to an address. Others on the same way still come.
    pub fn mute(&self, from: IpAddr, to: SocketAddr) {
        self.trace.event(format_args!("net mute {from} {to}"));
        self.state.lock().mute.insert((from, to));
    }

    /// Whether packets of `from` come to `to`.
    #[must_use]
    pub fn reaches(&self, from: IpAddr, to: IpAddr) -> bool {
        let state = self.state.lock();
        let dark = |host| state.hosts.get(&host) == Some(&Host::Dark);
        !state.cut.contains(&(from, to)) && !dark(from) && !dark(to)
    }

    /// Whether datagrams of `from` come to `to`.
    #[must_use]
    pub fn carries(&self, from: IpAddr, to: SocketAddr) -> bool {
        self.reaches(from, to.ip()) && !self.state.lock().mute.contains(&(from, to))
    }

    /// The weather.
    #[must_use]
    pub fn weather(&self) -> Weather {
        self.state.lock().weather
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.trace.event(format_args!("{weather:?}"));
        self.state.lock().weather = weather;
    }

    /// Where everything is written down.
    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl fmt::Debug for Ether {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ether").finish_non_exhaustive()
    }
}
