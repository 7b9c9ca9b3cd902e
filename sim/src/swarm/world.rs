//! A swarm: hosts, the network between them, and what is still to happen. One thread, no tasks, no sockets;
//! the time is that of the next event.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bruit_gossip::{Input, MemberState, Mesh, NodeId, Peer, Profile, Setup};

use super::{
    guard::Guard,
    host::{self, Host, Process, Wish, Work},
    net::{HostId, Net, Weather, gossip_address, host_at},
    queue::Queue,
    software::Software,
};
use crate::{
    check::Finding,
    dice::Dice,
    trace::{SimClock, Trace},
};

/// The shell looks at the mesh's view no more often than this.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// It saves names that nobody waits for no more often than this.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// The timer's resolution: tokio's.
const TICK: Duration = Duration::from_millis(1);

/// A swarm.
#[derive(Debug)]
pub struct World<S = Mesh> {
    /// The network.
    pub net: Net,
    /// The hosts, by number.
    pub hosts: Vec<Host<S>>,
    /// What has been broken so far.
    pub guard: Guard,
    /// Hosts whose view has changed since somebody emptied this.
    pub changed: Vec<HostId>,
    /// How quick a network the nodes expect.
    pub profile: Profile,
    pub(super) exchanges: BTreeMap<u64, super::carry::Exchange>,
    pub(super) exchanges_begun: u64,
    pub(super) dice: Dice,
    pub(super) trace: Trace,
    queue: Queue<Event>,
    now: Duration,
    starts: u64,
    homes: BTreeMap<NodeId, HostId>,
}

/// Something that happens.
#[derive(Debug)]
enum Event {
    /// A process has something to do. Without a life, whichever runs there.
    Work { host: HostId, life: Option<u64>, work: Work },
    /// A process gets time again; with an end, only for a moment, and again later until then.
    Thaw { host: HostId, life: u64, starved_until: Option<Duration> },
}

impl<S: Software> World<S> {
    /// So many hosts without processes. Everything that is not said here, `dice` decide.
    #[must_use]
    pub fn new(dice: &Dice, nodes: usize, weather: Weather, print: bool) -> Self {
        let seeds = (0..nodes.min(3)).map(gossip_address).collect::<Vec<_>>();
        let hosts: Vec<Host<S>> = (0..nodes).map(|host| Host::new(host, seeds.clone())).collect();
        Self {
            net: Net::new(dice.fork(1), weather),
            homes: hosts.iter().map(|host| (host.node, host.id)).collect(),
            hosts,
            guard: Guard::default(),
            changed: Vec::new(),
            profile: Profile::Lan,
            exchanges: BTreeMap::new(),
            exchanges_begun: 0,
            dice: dice.fork(2),
            trace: Trace::new(SimClock::default(), print),
            queue: Queue::new(),
            now: Duration::ZERO,
            starts: 0,
        }
    }

    /// Time since the simulation began.
    #[must_use]
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// The trace of what happened.
    #[must_use]
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Lets the next thing happen, if it happens at `end` or before. Otherwise the time is `end` afterwards.
    pub fn step(&mut self, end: Duration) -> bool {
        if self.queue.next_at().is_none_or(|at| at > end) {
            self.now = self.now.max(end);
            return false;
        }
        let Some((at, event)) = self.queue.take() else { return false };
        self.now = at;
        self.trace.clock().set(at);
        match event {
            Event::Work { host, life, work } => self.receive(host, life, work),
            Event::Thaw { host, life, starved_until } => self.thaw(host, life, starved_until),
        }
        true
    }

    /// Lets everything happen up to `end`.
    pub fn run_until(&mut self, end: Duration) {
        while self.step(end) {}
    }

    /// Starts a node: for the first time, or again after its process was killed. Nothing happens if it runs.
    pub fn start(&mut self, id: HostId) {
        let host = &mut self.hosts[id];
        if host.process.is_some() {
            return;
        }
        host.is_on = true;
        host.generation += 1;
        self.starts += 1;
        let mut random = [0; 32];
        self.dice.fork(self.starts).fill(&mut random);
        let setup = Setup {
            peer: host.peer(),
            about: host.about(),
            profile: self.profile,
            random,
            saved: host.saved.clone(),
        };
        let mesh = S::new(setup, host::now(self.now, self.now, host.wall_error));
        host.process = Some(Process::new(self.starts, mesh, host.node, self.now));
        self.trace.event(format_args!("start {id} generation {}", host.generation));
        for change in self.hosts[id].recover() {
            self.tell(id, Input::Local(change));
        }
        self.plan(id, self.now, Work::Hello);
        self.settle(id);
    }

    /// Kills a node's process. Its host goes on and says that nobody listens.
    pub fn kill(&mut self, id: HostId) {
        let host = &mut self.hosts[id];
        host.was_hurt = true;
        if let Some(process) = host.process.take() {
            self.exchanges.retain(|_, exchange| exchange.from != id);
            self.trace.event(format_args!("kill {id}"));
            // Peers are remembered on disk.
            let known = process.view.members().iter().map(|member| member.peer.gossip);
            host.seeds.extend(known.filter(|address| *address != gossip_address(id)).take(1_024));
            host.seeds.sort();
            host.seeds.dedup();
            // What goes with the process.
            host.holds.retain(|name, _| !name.is_ephemeral());
        }
    }

    /// Takes a host away with all that runs on it: nobody answers any more.
    pub fn take_away(&mut self, id: HostId) {
        self.kill(id);
        self.hosts[id].is_on = false;
    }

    /// Stops a node's process for a while; what comes meanwhile waits.
    pub fn pause(&mut self, id: HostId, length: Duration) {
        self.freeze(id, self.now + length, None);
    }

    /// Gives a node's process time only at random moments, up to 3 s apart.
    pub fn starve(&mut self, id: HostId, length: Duration) {
        let first = self.now + self.dice.millis(0, 3_000);
        self.freeze(id, first, Some(self.now + length));
    }

    /// A user wants something of a node.
    pub fn wish(&mut self, id: HostId, wish: Wish) {
        self.plan(id, self.now, Work::Wish(wish));
    }

    /// Plans something for the process that now runs on a host.
    pub(super) fn plan(&mut self, host: HostId, at: Duration, work: Work) {
        let Some(process) = &self.hosts[host].process else { return };
        let life = Some(process.life);
        self.queue.plan(at, Event::Work { host, life, work });
    }

    /// Plans something for whichever process will be there.
    pub(super) fn plan_for_any(&mut self, host: HostId, at: Duration, work: Work) {
        self.queue.plan(at, Event::Work { host, life: None, work });
    }

    /// The host at a peer's address, if the network knows it.
    pub(super) fn host_of(&self, peer: &Peer) -> Option<HostId> {
        host_at(peer.gossip.ip()).filter(|host| *host < self.hosts.len())
    }

    /// Hands an input to a node's mesh.
    pub(super) fn tell(&mut self, id: HostId, input: Input<'_>) {
        let host = &mut self.hosts[id];
        let Some(process) = &mut host.process else { return };
        process.mesh.handle(host::now(self.now, process.born, host.wall_error), input);
    }

    /// Runs `with` on a node's mesh.
    pub(super) fn with_mesh<T>(
        &mut self,
        id: HostId,
        with: impl FnOnce(&mut S, bruit_gossip::Now) -> T,
    ) -> Option<T> {
        let host = &mut self.hosts[id];
        let process = host.process.as_mut()?;
        Some(with(&mut process.mesh, host::now(self.now, process.born, host.wall_error)))
    }

    fn freeze(&mut self, id: HostId, first: Duration, starved_until: Option<Duration>) {
        let host = &mut self.hosts[id];
        host.was_hurt = true;
        let Some(process) = &mut host.process else { return };
        if process.is_frozen {
            return;
        }
        process.is_frozen = true;
        self.trace.event(format_args!("freeze {id}"));
        self.queue.plan(first, Event::Thaw { host: id, life: process.life, starved_until });
    }

    fn thaw(&mut self, id: HostId, life: u64, starved_until: Option<Duration>) {
        let timers_first = self.dice.chance(500);
        let Some(process) = self.hosts[id].process.as_mut().filter(|process| process.life == life) else {
            return;
        };
        process.is_frozen = false;
        for work in process.catch_up(timers_first) {
            self.work(id, work);
        }
        self.trace.event(format_args!("thaw {id}"));
        if let Some(end) = starved_until.filter(|end| *end > self.now)
            && let Some(process) = &mut self.hosts[id].process
        {
            process.is_frozen = true;
            let next = self.now + self.dice.millis(0, 3_000);
            self.queue.plan(next, Event::Thaw { host: id, life, starved_until: Some(end) });
        }
    }

    fn receive(&mut self, id: HostId, life: Option<u64>, work: Work) {
        let Some(process) = &mut self.hosts[id].process else { return };
        if life.is_some_and(|life| life != process.life) {
            return;
        }
        if process.is_frozen {
            process.wait_with(work);
        } else {
            self.work(id, work);
        }
    }

    /// A process does something, and then what follows from it.
    fn work(&mut self, id: HostId, work: Work) {
        match work {
            Work::Datagram { from, sender, bytes } => {
                self.trace.event(format_args!(
                    "{id} <- {sender} {} {:x}",
                    bytes.len(),
                    crate::dice::digest(&bytes)
                ));
                self.tell(id, Input::Datagram { from, sender, bytes: &bytes });
            }
            Work::Wake => self.wake(id),
            Work::Look => self.hosts[id].process.iter_mut().for_each(|process| process.look_planned = false),
            Work::Hello => self.say_hello(id),
            Work::Checked { peer, is_gone } => self.tell(id, Input::Checked { peer, gone: is_gone }),
            Work::Exchange { exchange, step } => self.exchange(id, exchange, step),
            Work::Broker(command) => {
                self.trace.event(format_args!("{id} obeys {command:?}"));
                for change in self.hosts[id].obey(command) {
                    self.tell(id, Input::Local(change));
                }
            }
            Work::Wish(wish) => self.grant(id, wish),
        }
        self.settle(id);
    }

    fn wake(&mut self, id: HostId) {
        let Some(process) = &mut self.hosts[id].process else { return };
        // A timer that was moved has left its old event behind.
        if process.wake_at.is_some_and(|at| at <= self.now) {
            process.wake_at = None;
            self.tell(id, Input::Timeout);
        }
    }

    fn grant(&mut self, id: HostId, wish: Wish) {
        self.trace.event(format_args!("{id} is to {wish:?}"));
        match wish {
            Wish::Use(name) => {
                for change in self.hosts[id].use_name(&name) {
                    self.tell(id, Input::Local(change));
                }
            }
            Wish::Delete(name) => {
                self.guard.deleted(id, name.clone());
                self.tell(id, Input::Delete(name));
                // The user gets his answer when it is on disk.
                let saved = self.with_mesh(id, |mesh, _| mesh.names_to_save()).flatten();
                if let Some(names) = saved {
                    self.hosts[id].saved = Some(names.into());
                }
            }
            Wish::Leave => {
                self.hosts[id].was_hurt = true;
                self.hosts[id].process.iter_mut().for_each(|process| process.has_left = true);
                self.tell(id, Input::Leave);
            }
            Wish::Join => {
                self.hosts[id].process.iter_mut().for_each(|process| process.has_left = false);
                for address in self.hosts[id].seeds.clone() {
                    if address != gossip_address(id) {
                        self.tell(id, Input::Join { address });
                    }
                }
                self.plan(id, self.now, Work::Hello);
            }
        }
    }

    /// Says hello to those who should be there and are not, for ever, as the shell does.
    fn say_hello(&mut self, id: HostId) {
        let host = &mut self.hosts[id];
        let Some(process) = host.process.as_mut().filter(|process| !process.has_left) else { return };
        let alive = process.view.members().iter().filter(|member| member.state == MemberState::Alive);
        let present: BTreeSet<SocketAddr> = alive.map(|member| member.peer.gossip).collect();
        let missing: Vec<SocketAddr> = host
            .seeds
            .iter()
            .copied()
            .filter(|seed| !present.contains(seed) && *seed != gossip_address(id))
            .collect();
        let is_alone = present.len() <= 1;
        let usual = if is_alone { 1_000 } else { 15_000 };
        for address in missing {
            self.tell(id, Input::Join { address });
        }
        let next = self.now + Duration::from_millis(self.dice.between(usual * 3 / 4, usual * 5 / 4));
        self.plan(id, next, Work::Hello);
    }

    /// After any input: carries out what the mesh wants, sets its timer, and looks at what it shows.
    fn settle(&mut self, id: HostId) {
        while let Some(output) =
            self.hosts[id].process.as_mut().and_then(|process| process.mesh.poll_output())
        {
            self.carry_out(id, output);
        }
        self.look(id);
        let now = self.now;
        let Some(process) = &mut self.hosts[id].process else { return };
        if let Some(due) = process.mesh.next_timeout().map(|due| process.born + due) {
            let at = round_up(due).max(now + TICK);
            if process.wake_at.is_none_or(|planned| at < planned) {
                process.wake_at = Some(at);
                self.plan(id, at, Work::Wake);
            }
        }
    }

    fn look(&mut self, id: HostId) {
        let now = self.now;
        let host = &mut self.hosts[id];
        let Some(process) = &mut host.process else { return };
        if now < process.look_from {
            if !process.look_planned {
                process.look_planned = true;
                let at = process.look_from;
                self.plan(id, at, Work::Look);
            }
            return;
        }
        process.look_from = now + LOOK_EVERY;
        let clocks = host::now(now, process.born, host.wall_error);
        if now >= process.save_from
            && let Some(names) = process.mesh.names_to_save()
        {
            process.save_from = now + SAVE_EVERY;
            host.saved = Some(names.into());
        }
        if let Some(view) = process.mesh.view(clocks) {
            process.view = Arc::clone(&view);
            self.changed.push(id);
            self.watch(id);
        }
    }

    /// Adds a host that runs a copy of another one's data directory, and starts it. Returns its number.
    pub fn start_twin(&mut self, of: HostId) -> HostId {
        let twin = self.add_host();
        self.homes.remove(&self.hosts[twin].node);
        let (node, generation) = (self.hosts[of].node, self.hosts[of].generation);
        self.hosts[of].was_hurt = true;
        self.hosts[twin].node = node;
        self.hosts[twin].generation = generation.saturating_sub(1);
        self.start(twin);
        twin
    }

    /// Adds a host without a process. Returns its number.
    pub fn add_host(&mut self) -> HostId {
        let id = self.hosts.len();
        let mut host = Host::new(id, self.hosts[0].seeds.clone());
        host.was_hurt = true;
        self.homes.insert(host.node, id);
        self.hosts.push(host);
        id
    }

    /// The hosts whose nodes are live members now.
    pub fn live(&self) -> impl Iterator<Item = &Host<S>> {
        self.hosts.iter().filter(|host| host.is_member())
    }

    /// The host on which a node runs, the first one if two do.
    #[must_use]
    pub fn host_with(&self, node: NodeId) -> Option<&Host<S>> {
        self.hosts.get(*self.homes.get(&node)?)
    }

    pub(super) fn found(&mut self, invariant: &'static str, text: String) {
        let finding = Finding::new(invariant, format!("at {:.3} s: {text}", self.now.as_secs_f64()));
        self.guard.findings.push(finding);
    }
}

/// The next tick of a timer.
fn round_up(at: Duration) -> Duration {
    let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX - 1_000_000);
    Duration::from_nanos(nanos.div_ceil(1_000_000) * 1_000_000)
}
