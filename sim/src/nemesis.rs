//! The saboteur: carries out a plan against the node from outside, between the ticks of the simulation, and
//! is also the supervisor that starts the node again.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    dice::Dice,
    disk::{Failing, Faults, Flip, Pace},
    gate::Gate,
    history::{Down, Event, Recorder},
    record::{self, Hit},
    world::{Host, Machine},
};

/// Name of the host that all clients are on.
pub const CLIENTS: &str = "clients";

/// One thing that the saboteur can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// End the node's process in this way, now, and start another after `down`.
    End {
        /// How.
        how: Ending,
        /// For how long there is no node.
        down: Duration,
    },
    /// Do that in the middle of the n-th disk operation from now.
    EndAtOperation {
        /// Which operation, from 1.
        operation: u64,
        /// How.
        how: Ending,
        /// For how long there is no node.
        down: Duration,
    },
    /// End the node's process now, and each of the next ones in the middle of its recovery, at these
    /// operations.
    EndInRecovery {
        /// Which operation of each recovery, from 1.
        operations: VecDeque<u64>,
        /// How.
        how: Ending,
    },
    /// End the node's process, flip so many bits of its files, start it again.
    Flip(u64),
    /// Make syncs fail.
    Sync(Failing),
    /// Make writes fail.
    Write(Failing),
    /// Make reads fail.
    Read(Failing),
    /// Leave so many bytes of room, or plenty.
    Room(Option<u64>),
    /// Make the disk as slow as this.
    Pace(Pace),
    /// Move the wall clock, milliseconds.
    ClockJump(i64),
}

/// The ways to end a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// kill -9.
    Crash,
    /// The plug.
    Power,
    /// SIGTERM.
    Stop,
}

/// What the node's host tells the saboteur.
#[derive(Debug, Clone, Default)]
pub struct NodeStatus {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: bool,
    serving: bool,
    stop: Gate,
    kill: watch::Sender<Option<Down>>,
}

impl NodeStatus {
    /// A new process begins. What is returned tells it that it is asked to stop, and how it is killed.
    #[must_use]
    pub fn started(&self) -> (Gate, watch::Receiver<Option<Down>>) {
        let mut shared = self.shared.lock();
        *shared = Shared::default();
        (shared.stop.clone(), shared.kill.subscribe())
    }

    /// The process serves clients.
    pub fn serves(&self) {
        self.shared.lock().serving = true;
    }

    /// Nothing is left of the process.
    pub fn ended(&self) {
        self.shared.lock().ended = true;
    }
}

/// The node that a saboteur works on.
#[derive(Debug, Clone)]
pub struct Victim {
    /// Its machine.
    pub machine: Machine,
    /// Its address.
    pub address: IpAddr,
    /// What its host tells.
    pub status: NodeStatus,
    /// What happens to it.
    pub recorder: Recorder,
    /// Whether a machine that lost its power stays dark until it is started again; else it has its power
    /// back at once, and only the process is missing.
    pub stays_dark: bool,
}

/// The saboteur of one node.
#[derive(Debug)]
pub struct Nemesis {
    victim: Victim,
    dice: Dice,
    plan: VecDeque<(Duration, Action)>,
    ends_at: Duration,
    healed: Gate,
    state: State,
    at_freeze: Option<(Ending, Duration)>,
    in_recovery: Option<(Ending, VecDeque<u64>)>,
    /// Bits to flip as soon as there is no process.
    flips: u64,
    /// Checkpoints that were hit.
    damaged: BTreeSet<PathBuf>,
    /// The faults are over.
    letting_go: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    /// The process was told to end, and there will be no other until then.
    Ending(Duration),
    /// There is no process until then.
    Down(Duration),
}

/// How much longer than planned a node may take to stop in order, before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// How long after the last fault the node may take to serve again.
const UP_AGAIN_WITHIN: Duration = Duration::from_secs(30);

impl Nemesis {
    /// A saboteur with a plan, oldest action first, that lets go of everything at `ends_at`.
    #[must_use]
    pub fn new(victim: Victim, dice: Dice, plan: Vec<(Duration, Action)>, ends_at: Duration) -> Self {
        Self {
            victim,
            dice,
            plan: plan.into(),
            ends_at,
            healed: Gate::default(),
            state: State::Up,
            at_freeze: None,
            in_recovery: None,
            flips: 0,
            damaged: BTreeSet::new(),
            letting_go: false,
        }
    }

    /// Ends what runs on the host before the simulation has begun; the first process starts at `until`.
    pub fn hold_back(&mut self, sim: &mut turmoil::Sim<'_>, until: Duration) {
        self.clear(sim, until);
    }

    /// Opens when the node is up after the last fault.
    #[must_use]
    pub fn healed(&self) -> &Gate {
        &self.healed
    }

    /// Does what is due now.
    pub fn act(&mut self, sim: &mut turmoil::Sim<'_>) {
        let now = self.victim.recorder.now();
        self.notice(sim, now);
        while self.state == State::Up && self.plan.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, action)) = self.plan.pop_front() {
                self.victim.recorder.record(Event::Fault(format!("{action:?}")));
                self.perform(action, now);
            }
        }
        if now >= self.ends_at && !self.healed.is_open() {
            self.heal();
        }
    }

    /// True when the node has not come up again although nothing has hindered it for long.
    #[must_use]
    pub fn despairs(&self) -> bool {
        !self.healed.is_open() && self.victim.recorder.now() > self.ends_at + UP_AGAIN_WITHIN
    }

    /// Notices what has come of earlier actions: a frozen disk, a process that ended, a pause that is over.
    fn notice(&mut self, sim: &mut turmoil::Sim<'_>, now: Duration) {
        let ended = self.victim.status.shared.lock().ended;
        match self.state {
            State::Down(until) if now >= until => self.start(sim),
            State::Down(_) => {}
            State::Up | State::Ending(_) if ended => {
                let by_itself = now + self.dice.millis(20, 300);
                let until = if let State::Ending(until) = self.state { until } else { by_itself };
                self.clear(sim, until.max(now + Duration::from_millis(10)));
            }
            State::Up | State::Ending(_) if self.victim.machine.disk().is_frozen() => {
                let pause = Duration::from_millis(50);
                let (how, down) = self.at_freeze.take().unwrap_or((Ending::Crash, pause));
                self.end(how, now + down);
            }
            State::Ending(until) if now > until + STOP_PATIENCE => {
                self.victim
                    .recorder
                    .record(Event::Stuck("the node did not stop when it was asked to".to_owned()));
                self.end(Ending::Crash, now);
            }
            State::Up | State::Ending(_) => {}
        }
    }

    fn perform(&mut self, action: Action, now: Duration) {
        let disk = self.victim.machine.disk().clone();
        match action {
            Action::End { how, down } => self.end(how, now + down),
            Action::EndAtOperation { operation, how, down } => {
                self.at_freeze = Some((how, down));
                disk.freeze_after(operation);
            }
            Action::EndInRecovery { operations, how } => {
                self.in_recovery = Some((how, operations));
                self.end(how, now + Duration::from_millis(30));
            }
            Action::Flip(bits) => {
                self.flips = bits;
                self.end(Ending::Crash, now + Duration::from_millis(50));
            }
            Action::Sync(failing) => disk.set_faults(|faults| faults.sync = failing),
            Action::Write(failing) => disk.set_faults(|faults| faults.write = failing),
            Action::Read(failing) => disk.set_faults(|faults| faults.read = failing),
            Action::Room(room) => {
                let capacity = room.map(|room| disk.used_bytes() + room);
                disk.set_faults(|faults| faults.capacity = capacity);
                self.victim.recorder.record(Event::DiskFull(room.is_some()));
            }
            Action::Pace(pace) => disk.set_faults(|faults| faults.pace = pace),
            Action::ClockJump(millis) => {
                self.victim.machine.jump_clock(millis);
                self.victim.recorder.record(Event::ClockJumped);
            }
        }
    }

    /// Tells the process to end.
    fn end(&mut self, how: Ending, until: Duration) {
        self.state = State::Ending(until);
        let shared = self.victim.status.shared.lock();
        match how {
            Ending::Stop => shared.stop.open(),
            Ending::Crash => drop(shared.kill.send_replace(Some(Down::Crash))),
            Ending::Power => drop(shared.kill.send_replace(Some(Down::Power))),
        }
    }

    /// Clears away what turmoil still has of a process that has ended.
    fn clear(&mut self, sim: &mut turmoil::Sim<'_>, until: Duration) {
        let machine = &self.victim.machine;
        sim.crash(machine.host());
        let ether = machine.ether();
        if !self.victim.stays_dark || ether.host(self.victim.address) != Host::Dark {
            ether.lighten(sim, self.victim.address, Host::Idle);
        }
        self.state = State::Down(until);
        self.flip();
    }

    fn flip(&mut self) {
        let disk = self.victim.machine.disk().clone();
        for _ in 0..std::mem::take(&mut self.flips) {
            let Some(Flip { path, offset, content }) = disk.flip() else { return };
            let mut hit = record::hit(&path, &content, offset);
            if record::is_checkpoint(&path) {
                // There are two for when one is damaged. When both are, nobody knows what is forgotten.
                let files = disk.files();
                self.damaged.retain(|damaged| files.iter().any(|(path, _)| path == damaged));
                self.damaged.insert(path);
                hit = if self.damaged.len() > 1 { Hit::Other } else { hit };
            }
            self.victim.recorder.record(Event::Flipped(hit));
        }
    }

    fn start(&mut self, sim: &mut turmoil::Sim<'_>) {
        let machine = &self.victim.machine;
        machine.ether().lighten(sim, self.victim.address, Host::Up);
        sim.bounce(machine.host());
        self.state = State::Up;
        if let Some((how, operations)) = &mut self.in_recovery {
            match operations.pop_front() {
                Some(operation) => {
                    self.at_freeze = Some((*how, Duration::from_millis(30)));
                    self.victim.machine.disk().freeze_after(operation);
                }
                None => self.in_recovery = None,
            }
        }
    }

    /// Lets go: no fault is left, and from now on nothing happens to the node.
    fn heal(&mut self) {
        if matches!(self.state, State::Ending(_)) || self.victim.machine.disk().is_frozen() {
            return;
        }
        if !std::mem::replace(&mut self.letting_go, true) {
            self.plan.clear();
            self.in_recovery = None;
            self.at_freeze = None;
            self.victim.machine.disk().thaw();
            self.victim.machine.disk().set_faults(|faults| *faults = Faults::default());
            self.victim.recorder.record(Event::DiskFull(false));
        }
        let serving = self.victim.status.shared.lock().serving;
        if self.state == State::Up && serving {
            self.victim.recorder.record(Event::Fault("none any more".to_owned()));
            self.healed.open();
        }
    }
}
