//! One run: a seed and a scenario in, a verdict out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bruit::{Config, Durability, DurabilityRule};

use crate::{
    check::{Finding, check},
    dice::Dice,
    disk::{SimDisk, Wear},
    history::{Down, Event, Record, Recorder},
    mesh,
    nemesis::{CLIENTS, Nemesis, NodeStatus, Victim},
    panics::PanicWatch,
    process::{Life, Process, bruit, host},
    relay,
    scenario::Scenario,
    shape::Shape,
    sweep::write_findings,
    trace::{SimClock, Trace},
    workload::{self, NODE, Target},
    world::{Ether, HTTP_PORT, Machine, TCP_PORT, epoch},
};

/// A run that has not ended after this much simulated time never will.
pub(crate) const LONGEST: Duration = Duration::from_secs(240);

/// Time that a packet takes. Fixed, as anything else would reorder packets.
const LATENCY: Duration = Duration::from_millis(1);

/// What came of a run.
#[derive(Debug)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// The scenario's name.
    pub scenario: &'static str,
    /// Everything that was wrong.
    pub findings: Vec<Finding>,
    /// Hash over everything that happened.
    pub trace_hash: u64,
    /// Number of events that the hash covers.
    pub events: u64,
    /// Simulated time.
    pub took: Duration,
    /// What there was to judge.
    pub tally: Tally,
    /// What was done to the disk.
    pub wear: Wear,
    /// What was measured.
    pub notes: Vec<String>,
}

/// Counts of what happened in a run, to see that it was not idle.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Messages that were sent.
    pub published: usize,
    /// Of them, acknowledged.
    pub acked: usize,
    /// Publishing commands that were refused.
    pub refused: usize,
    /// Messages that arrived at consumers.
    pub delivered: usize,
    /// Of them, not for the first time on their channel.
    pub redelivered: usize,
    /// Ends of the node's process: killed or without power.
    pub crashes: usize,
    /// Ends of the node's process by itself or on request.
    pub exits: usize,
}

/// Runs `seed` through `scenario`. With `print`, every event goes to standard output.
#[must_use]
pub fn run(seed: u64, scenario: &Scenario, print: bool) -> Verdict {
    run_software(seed, scenario, print, bruit)
}

/// As [`run`], with other software in the node's place: the simulator's own tests put a faulty one there.
#[must_use]
pub fn run_software(seed: u64, scenario: &Scenario, print: bool, software: fn(Process) -> Life) -> Verdict {
    if let Some(draw) = scenario.of_mesh() {
        return mesh::run(seed, scenario, draw, print, software);
    }
    if let Some(of_relay) = scenario.of_relay() {
        return relay::run(seed, scenario, of_relay, print, software);
    }
    let dice = Dice::new(seed);
    let shape = Arc::new(Shape::new(&mut dice.fork(1)));
    let clock = SimClock::default();
    let trace = Trace::new(clock.clone(), print);
    let recorder = Recorder::new(trace.clone());
    let config = config(&shape);
    let disk = SimDisk::new(dice.fork(2), trace.clone(), &config.data_path);
    let ether = Ether::new(trace.clone());
    let machine = Machine::new(NODE, dice.fork(3), disk.clone(), ether.clone());
    let status = NodeStatus::default();
    let plan = scenario.plan(&mut dice.fork(4), shape.chaos);
    trace.event(format_args!("seed {seed} scenario {} {shape:?} {plan:?}", scenario.name));
    let watch = PanicWatch::new();
    let mut sim = simulation(seed);
    let address = sim.lookup(NODE);
    for host in [address, sim.lookup(CLIENTS)] {
        ether.add_host(host);
    }
    let victim = Victim { machine, address, status, recorder: recorder.clone(), stays_dark: false };
    let mut nemesis = Nemesis::new(victim.clone(), dice.fork(5), plan, shape.chaos);
    let healed = nemesis.healed().clone();
    sim.host(NODE, host(software, config, victim));
    let clients = workload::run(shape.clone(), Target::direct(NODE), recorder.clone(), dice.fork(6), healed);
    sim.client(CLIENTS, async move {
        clients.await;
        Ok(())
    });
    let mut findings = step_to_the_end(&mut sim, &clock, &mut nemesis, &watch);
    drop(sim);
    findings.extend(watch.take().into_iter().map(|panic| Finding::new("I16", panic)));
    let records = recorder.take();
    findings.extend(check(&shape, &records));
    Verdict {
        seed,
        scenario: scenario.name,
        findings,
        trace_hash: trace.hash(),
        events: trace.len(),
        took: clock.now(),
        tally: tally(&records),
        wear: disk.wear(),
        notes: Vec::new(),
    }
}

/// A simulation without hosts.
pub(crate) fn simulation(seed: u64) -> turmoil::Sim<'static> {
    turmoil::Builder::new()
        .epoch(epoch())
        .rng_seed(seed)
        .simulation_duration(LONGEST * 2)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(LATENCY)
        .max_message_latency(LATENCY)
        .tcp_capacity(1024)
        .udp_capacity(4096)
        .build()
}

fn step_to_the_end(
    sim: &mut turmoil::Sim<'_>,
    clock: &SimClock,
    nemesis: &mut Nemesis,
    watch: &PanicWatch,
) -> Vec<Finding> {
    loop {
        clock.set(sim.elapsed());
        nemesis.act(sim);
        let stepped = sim.step();
        let panics = watch.take();
        if !panics.is_empty() {
            return panics.into_iter().map(|panic| Finding::new("I16", panic)).collect();
        }
        match stepped {
            Ok(true) => return Vec::new(),
            Ok(false) if nemesis.despairs() => {
                return vec![Finding::new("I24", "the node does not come up although nothing hinders it")];
            }
            Ok(false) if sim.elapsed() > LONGEST => {
                return vec![Finding::new("I24", format!("the run did not end within {LONGEST:?}"))];
            }
            Ok(false) => {}
            Err(error) => return vec![Finding::new("I16", format!("the simulation stopped: {error}"))],
        }
    }
}

/// What a node that keeps to itself is told.
pub(crate) fn config(shape: &Shape) -> Config {
    let mut config = Config {
        tcp_address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, TCP_PORT)),
        http_address: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, HTTP_PORT))),
        data_path: PathBuf::from("/data"),
        ..Config::default()
    };
    config.mesh.gossip_address = None;
    config.journal.segment_size = shape.segment_size;
    config.journal.cache_bytes = shape.cache_bytes;
    config.journal.min_free_bytes = 128 * 1024;
    config.journal.rules = vec![DurabilityRule { pattern: "os-*".to_owned(), durability: Durability::Os }];
    config
}

pub(crate) fn tally(records: &[Record]) -> Tally {
    let mut tally = Tally::default();
    let mut sizes = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut places = BTreeMap::new();
    for record in records {
        match &record.event {
            Event::Publish { op, keys, .. } => {
                tally.published += keys.len();
                sizes.insert(*op, keys.len());
            }
            Event::Published(op) => tally.acked += sizes.get(op).copied().unwrap_or(0),
            Event::Refused(..) => tally.refused += 1,
            Event::Subscribed { conn, place, .. } => {
                places.insert(*conn, *place);
            }
            Event::Delivered { conn, id, .. } => {
                tally.delivered += 1;
                tally.redelivered += usize::from(!seen.insert((places.get(conn).copied(), *id)));
            }
            Event::Down(Down::Crash | Down::Power) => tally.crashes += 1,
            Event::Down(Down::Stopped | Down::GaveUp) => tally.exits += 1,
            _ => {}
        }
    }
    tally
}

impl Tally {
    /// Adds the counts of another node.
    pub(crate) fn add(&mut self, other: Self) {
        self.published += other.published;
        self.acked += other.acked;
        self.refused += other.refused;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.crashes += other.crashes;
        self.exits += other.exits;
    }
}

impl Verdict {
    /// True when nothing was wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    /// The command that does this run again.
    #[must_use]
    pub fn replay(&self) -> String {
        format!("cargo run -p bruit-sim -- run --seed {} --scenario {}", self.seed, self.scenario)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, tally, wear) = (if self.is_good() { "ok" } else { "FAILED" }, self.tally, self.wear);
        writeln!(
            f,
            "seed {} {}: {word}; {} published, {} acked, {} commands refused, {} delivered, {} redelivered; \
             {} crashes, {} exits; {:.1} s simulated; trace {:016x} of {} events",
            self.seed,
            self.scenario,
            tally.published,
            tally.acked,
            tally.refused,
            tally.delivered,
            tally.redelivered,
            tally.crashes,
            tally.exits,
            self.took.as_secs_f64(),
            self.trace_hash,
            self.events,
        )?;
        writeln!(
            f,
            "  disk: {} operations, {} syncs, {} failed; {} writes without room; {} sectors unsynced when \
             power went; {} files made, {} removed",
            wear.operations,
            wear.syncs,
            wear.failed_syncs,
            wear.refused_writes,
            wear.unsynced_sectors,
            wear.files_made,
            wear.files_removed,
        )?;
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        write_findings(f, &self.findings, &self.replay())
    }
}
