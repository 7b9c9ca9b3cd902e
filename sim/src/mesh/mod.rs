//! Several whole nodes that find each other: one run of a mesh scenario.
//!
//! Every node has its own machine, saboteur, history and clients, and is judged by the same checks as a node
//! that is alone. What is true of all of them together is here: [`plan`] is what happens to them, [`cables`]
//! does it to the network, [`errands`] are clients that use the mesh as one, [`survey`] asks every node what
//! it knows, and [`verdict`] says what is wrong with the answers.

pub mod cables;
pub mod errands;
pub mod plan;
pub mod survey;
pub mod verdict;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bruit::{Config, Relay};
use bruit_gossip::{Profile, Secret};
use parking_lot::Mutex;
use tokio::task::spawn_local;

use self::{
    cables::Cables,
    errands::{Errands, Node},
    plan::{Joining, MeshPlan, Stranger},
};
use crate::{
    check::{Finding, check},
    dice::Dice,
    disk::{SimDisk, Wear},
    gate::Gate,
    history::Recorder,
    nemesis::{CLIENTS, Nemesis, NodeStatus, Victim},
    panics::PanicWatch,
    process::{Life, Process, host},
    run::{self, LONGEST, Tally, Verdict, tally},
    scenario::Scenario,
    shape::Shape,
    trace::{SimClock, Trace},
    workload::{self, Target},
    world::{Ether, Machine},
};

/// Port on which a simulated node takes sealed datagrams.
pub const GOSSIP_PORT: u16 = 4160;

/// Port on which a simulated node takes QUIC connections.
pub const MESH_PORT: u16 = 4161;

/// The node that is no member has this name.
const STRANGER: &str = "stranger";

/// One node of a run, as the run sees it.
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) victim: Victim,
    pub(crate) disk: SimDisk,
    pub(crate) nemesis: Nemesis,
}

/// Runs `seed` through a mesh `scenario`. With `print`, every event goes to standard output.
pub(crate) fn run(
    seed: u64,
    scenario: &Scenario,
    draw: fn(&mut MeshPlan, &mut Dice),
    print: bool,
    software: fn(Process) -> Life,
) -> Verdict {
    let dice = Dice::new(seed);
    let plan = Arc::new(MeshPlan::new(&mut dice.fork(1), draw));
    let shape = Arc::new(Shape::for_mesh(&mut dice.fork(2), plan.chaos));
    let clock = SimClock::default();
    let trace = Trace::new(clock.clone(), print);
    let recorder = Recorder::new(trace.clone());
    trace.event(format_args!("seed {seed} scenario {} {shape:?} {plan:?}", scenario.name));
    let watch = PanicWatch::new();
    let mut sim = run::simulation(seed);
    let ether = Ether::new(trace);
    let mut sites = raise(&mut sim, &dice, &plan, &shape, (&ether, &recorder), software);
    let addresses: Vec<IpAddr> = sites.iter().map(|site| site.victim.address).collect();
    let healed = Gate::default();
    let mut cables = Cables::new(ether, addresses, &plan);
    let findings = Arc::new(Mutex::new(Vec::new()));
    let everybody = clients(&sites, &plan, &shape, &dice, &healed, &findings, &recorder);
    sim.client(CLIENTS, async move {
        everybody.await;
        Ok(())
    });
    let mut wrong = step_to_the_end(&mut sim, &clock, &plan, (&mut sites, &mut cables), &healed, &watch);
    drop(sim);
    wrong.extend(watch.take().into_iter().map(|panic| Finding::new("I16", panic)));
    wrong.append(&mut findings.lock());
    let (mut sum, mut wear) = (Tally::default(), Wear::default());
    for (site, at) in sites.iter().zip(0..) {
        wear.add(site.disk.wear());
        let records = site.victim.recorder.take();
        if !plan.is_busy(at) {
            continue;
        }
        sum.add(tally(&records));
        let found = check(&shape, &records).into_iter();
        let named =
            |finding: Finding| Finding { text: format!("{}: {}", site.name, finding.text), ..finding };
        wrong.extend(found.map(named));
    }
    let trace = recorder.trace();
    Verdict {
        seed,
        scenario: scenario.name,
        findings: wrong,
        trace_hash: trace.hash(),
        events: trace.len(),
        took: clock.now(),
        tally: sum,
        wear,
        notes: Vec::new(),
    }
}

pub(crate) fn step_to_the_end(
    sim: &mut turmoil::Sim<'_>,
    clock: &SimClock,
    plan: &MeshPlan,
    (sites, cables): (&mut [Site], &mut Cables),
    healed: &Gate,
    watch: &PanicWatch,
) -> Vec<Finding> {
    loop {
        clock.set(sim.elapsed());
        for site in &mut *sites {
            site.nemesis.act(sim);
        }
        cables.act(sim, clock.now());
        let staying = || sites.iter().zip(0..).filter(|(_, at)| !plan.is_gone(*at)).map(|(site, _)| site);
        if cables.are_mended() && staying().all(|site| site.nemesis.healed().is_open()) {
            healed.open();
        }
        let stepped = sim.step();
        let mut wrong: Vec<_> = watch.take().into_iter().map(|panic| Finding::new("I16", panic)).collect();
        if let Some(site) = staying().find(|site| site.nemesis.despairs()) {
            let text = format!("{} does not come up although nothing hinders it", site.name);
            wrong.push(Finding::new("I24", text));
        }
        if sim.elapsed() > LONGEST {
            wrong.push(Finding::new("I24", format!("the run did not end within {LONGEST:?}")));
        }
        match stepped {
            Err(error) => wrong.push(Finding::new("I16", format!("the simulation stopped: {error}"))),
            Ok(true) => return wrong,
            Ok(false) => {}
        }
        if !wrong.is_empty() {
            return wrong;
        }
    }
}

/// Builds the hosts of all nodes, the stranger's last.
pub(crate) fn raise(
    sim: &mut turmoil::Sim<'_>,
    dice: &Dice,
    plan: &MeshPlan,
    shape: &Shape,
    (ether, recorder): (&Ether, &Recorder),
    software: fn(Process) -> Life,
) -> Vec<Site> {
    let names: Vec<String> = (0..plan.hosts()).map(|at| plan.host_name(at)).collect();
    let addresses: Vec<IpAddr> = names.iter().map(|name| sim.lookup(name.as_str())).collect();
    for (name, address) in names.iter().zip(&addresses) {
        ether.add_host(*address);
        ether.name(name, vec![*address]);
    }
    ether.name("mesh", addresses.iter().take(plan.nodes).copied().collect());
    ether.add_host(sim.lookup(CLIENTS));
    let mut sites = Vec::new();
    for ((name, address), at) in names.into_iter().zip(addresses).zip(0..) {
        let dice = dice.fork(100 + at as u64);
        let config = config(plan, shape, at, &name);
        let disk = SimDisk::new(dice.fork(2), recorder.trace().clone(), &config.data_path);
        let mut machine = Machine::new(&name, dice.fork(3), disk.clone(), ether.clone());
        if plan.namesakes {
            machine = machine.with_a_common_name();
        }
        let recorder = recorder.sibling(&name);
        let victim = Victim { machine, address, status: NodeStatus::default(), recorder, stays_dark: true };
        let actions = plan.actions.get(at).cloned().unwrap_or_default();
        let mut nemesis = Nemesis::new(victim.clone(), dice.fork(5), actions, plan.chaos);
        let start = host(software, config, victim.clone());
        let starts_at = plan.starts.get(at).copied().unwrap_or_default();
        // turmoil runs a host as soon as it knows it.
        let early = std::cell::Cell::new(!starts_at.is_zero());
        sim.host(name.as_str(), move || match early.replace(false) {
            true => Box::pin(std::future::pending()),
            false => start(),
        });
        if !starts_at.is_zero() {
            nemesis.hold_back(sim, starts_at);
        }
        sites.push(Site { name, victim, disk, nemesis });
    }
    sites
}

fn config(plan: &MeshPlan, shape: &Shape, at: usize, name: &str) -> Config {
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let mut config = Config { hostname: name.to_owned(), ..run::config(shape) };
    config.relay = if plan.relays { Relay::Auto } else { Relay::Off };
    config.mesh.gossip_address = Some(any(GOSSIP_PORT));
    config.mesh.mesh_address = any(MESH_PORT);
    config.mesh.profile = Profile::Lan;
    config.mesh.secret = Some(Secret::new([1; 32]));
    let seed = |name: &str| vec![format!("{name}:{GOSSIP_PORT}")];
    config.mesh.join = match plan.joining {
        Joining::First => seed("node0"),
        Joining::Everyone => seed("mesh"),
        Joining::Next => seed(&format!("node{}", (at + 1) % plan.nodes)),
        Joining::Halves if at < plan.half() => seed("node0"),
        Joining::Halves => seed(&plan.second_half_seed()),
    };
    if !plan.is_member(at) {
        config.mesh.join = seed("mesh");
        match plan.stranger {
            Some(Stranger::OtherSecret) => config.mesh.secret = Some(Secret::new([2; 32])),
            Some(Stranger::OtherCluster) | None => config.mesh.cluster_name = "other".to_owned(),
        }
    }
    config
}

/// Everybody who uses the nodes, until all is delivered and all is asked.
fn clients(
    sites: &[Site],
    plan: &Arc<MeshPlan>,
    shape: &Arc<Shape>,
    dice: &Dice,
    healed: &Gate,
    findings: &Arc<Mutex<Vec<Finding>>>,
    recorder: &Recorder,
) -> impl Future<Output = ()> + 'static {
    let busy: Vec<_> = sites.iter().zip(0..).filter(|(_, at)| plan.is_busy(*at)).collect();
    let hosts: Arc<[String]> = busy.iter().map(|(site, _)| site.name.clone()).collect();
    let workloads: Vec<_> = busy
        .iter()
        .map(|(site, at)| {
            let target = Target::found(&site.name, site.victim.address, hosts.clone());
            let dice = dice.fork(200 + *at as u64);
            workload::run(shape.clone(), target, site.victim.recorder.clone(), dice, healed.clone())
        })
        .collect();
    let nodes = sites.iter().map(|site| Node {
        name: site.name.clone(),
        address: site.victim.address,
        recorder: site.victim.recorder.clone(),
    });
    let (nodes, findings) = (nodes.collect(), findings.clone());
    let errands = Errands::new(plan.clone(), nodes, dice.fork(7), healed.clone(), recorder.clone(), findings);
    async move {
        let workloads: Vec<_> = workloads.into_iter().map(spawn_local).collect();
        let truth = errands.run().await;
        for workload in workloads {
            // A client that panicked is a finding already.
            let _ = workload.await;
        }
        errands.end(&truth).await;
    }
}
