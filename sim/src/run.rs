//! One run: a seed and a scenario in, a verdict out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::{Future, pending},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bruit::{Config, Durability, DurabilityRule, env::Env};
use tokio::sync::watch;

use crate::{
    check::{Finding, check},
    dice::Dice,
    disk::{SimDisk, Wear},
    history::{Down, Event, Record, Recorder},
    nemesis::{CLIENTS, Nemesis, NodeStatus},
    panics::PanicWatch,
    scenario::Scenario,
    shape::Shape,
    trace::{SimClock, Trace},
    workload::{self, NODE},
    world::{Ether, HTTP_PORT, Machine, TCP_PORT, epoch},
};

/// A run that has not ended after this much simulated time never will.
const LONGEST: Duration = Duration::from_secs(240);

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

/// What a process of the node is given, and what it tells: the arguments of [`bruit::run`].
#[derive(Debug)]
pub struct Process {
    /// What it is told.
    pub config: Config,
    /// Its world.
    pub env: Env,
    /// Becomes true when it is asked to stop.
    pub stopped: watch::Receiver<bool>,
    /// To be told that it serves.
    pub ready: Serving,
}

/// To be told that a process of the node serves.
#[derive(Debug)]
pub struct Serving {
    recorder: Recorder,
    status: NodeStatus,
}

impl Serving {
    /// The process serves.
    pub fn tell(&self) {
        self.recorder.record(Event::Serving);
        self.status.serves();
    }
}

/// The future of a process of the node. It ends when the process does.
pub type Life = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// Runs `seed` through `scenario`. With `print`, every event goes to standard output.
#[must_use]
pub fn run(seed: u64, scenario: &Scenario, print: bool) -> Verdict {
    run_software(seed, scenario, print, bruit)
}

/// The node itself.
fn bruit(process: Process) -> Life {
    let Process { config, env, mut stopped, ready } = process;
    Box::pin(async move {
        let shutdown = async move {
            // Without a sender there is nobody to ask for it.
            if stopped.wait_for(|stopped| *stopped).await.is_err() {
                pending::<()>().await;
            }
        };
        Ok(bruit::run(config, env, shutdown, |_| ready.tell()).await?)
    })
}

/// As [`run`], with other software in the node's place: the simulator's own tests put a faulty one there.
#[must_use]
pub fn run_software(seed: u64, scenario: &Scenario, print: bool, software: fn(Process) -> Life) -> Verdict {
    let dice = Dice::new(seed);
    let shape = Arc::new(Shape::new(&mut dice.fork(1)));
    let clock = SimClock::default();
    let trace = Trace::new(clock.clone(), print);
    let recorder = Recorder::new(trace.clone());
    let config = config(&shape);
    let disk = SimDisk::new(dice.fork(2), trace.clone(), &config.data_path);
    let machine = Machine::new(NODE, dice.fork(3), disk.clone(), Ether::new(trace.clone()));
    let status = NodeStatus::default();
    let plan = scenario.plan(&mut dice.fork(4), shape.chaos);
    trace.event(format_args!("seed {seed} scenario {} {shape:?} {plan:?}", scenario.name));
    let (mut nemesis, healed) =
        Nemesis::new(machine.clone(), status.clone(), recorder.clone(), dice.fork(5), plan, shape.chaos);
    let watch = PanicWatch::new();
    let mut sim = turmoil::Builder::new()
        .epoch(epoch())
        .rng_seed(seed)
        .simulation_duration(LONGEST * 2)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(LATENCY)
        .max_message_latency(LATENCY)
        .tcp_capacity(1024)
        .udp_capacity(4096)
        .build();
    sim.host(NODE, host(software, config, machine, recorder.clone(), status));
    let clients = workload::run(shape.clone(), recorder.clone(), dice.fork(6), healed);
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
    }
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

/// The software of the node's host: one process of the node at each call.
fn host(
    software: fn(Process) -> Life,
    config: Config,
    machine: Machine,
    recorder: Recorder,
    status: NodeStatus,
) -> impl Fn() -> Pin<Box<dyn Future<Output = turmoil::Result>>> {
    move || {
        let (config, machine, recorder, status) =
            (config.clone(), machine.clone(), recorder.clone(), status.clone());
        // At once, not at the first poll: the process may be told to end before that.
        recorder.record(Event::Started);
        let (stopped, mut killed) = status.started();
        Box::pin(async move {
            let env = machine.env(recorder.incarnation());
            let failures = machine.disk().failures();
            let ready = Serving { recorder: recorder.clone(), status: status.clone() };
            let mut life = software(Process { config, env, stopped, ready });
            let down = tokio::select! {
                biased;
                down = killed.wait_for(Option::is_some) => down.ok().and_then(|down| *down).unwrap_or(Down::Crash),
                result = &mut life => match result {
                    // A node that stops although its disk refuses is not one that has kept everything.
                    Ok(()) if machine.disk().failures() == failures => Down::Stopped,
                    Ok(()) => Down::GaveUp,
                    Err(error) => {
                        recorder.record(Event::Fault(format!("the node gave up: {error:#}")));
                        Down::GaveUp
                    }
                },
            };
            recorder.record(Event::Down(down));
            // The disk goes first: what the process does while it is torn down never happened.
            if down == Down::Power {
                // A machine without power says no goodbye; a crashed process's kernel closes its sockets.
                turmoil::partition(CLIENTS, NODE);
                machine.disk().lose_power();
            } else {
                machine.disk().crash_process();
            }
            drop(life);
            machine.end_tasks();
            status.ended();
            pending().await
        })
    }
}

fn config(shape: &Shape) -> Config {
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

fn tally(records: &[Record]) -> Tally {
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

/// How many findings a verdict shows; the first is usually the cause of the others.
const SHOWN: usize = 8;

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
        for finding in self.findings.iter().take(SHOWN) {
            writeln!(f, "  {finding}")?;
        }
        if self.findings.len() > SHOWN {
            writeln!(f, "  and {} more", self.findings.len() - SHOWN)?;
        }
        if !self.is_good() {
            writeln!(f, "  replay: {}", self.replay())?;
        }
        Ok(())
    }
}
