//! Subscribing anywhere: several whole nodes, publishers on all of them, and consumers that know one node only
//! and get there what the whole mesh publishes.
//!
//! [`plan`] is what a run is about, [`clients`] and [`errands`] use the nodes, [`ledger`] sorts what they saw
//! on all nodes, and [`mod@check`] judges it. [`fair`] is another kind of run: ten owners and one consumer.

pub mod check;
pub mod clients;
mod errands;
pub mod fair;
pub mod ledger;
pub mod plan;

use std::{net::IpAddr, sync::Arc};

use self::{
    check::check,
    clients::{Node, Report},
    ledger::Ledger,
    plan::RelayPlan,
};
use crate::{
    check::Finding,
    dice::Dice,
    disk::Wear,
    gate::Gate,
    history::Recorder,
    mesh::{Site, cables::Cables, plan::MeshPlan, raise, step_to_the_end},
    nemesis::CLIENTS,
    panics::PanicWatch,
    process::{Life, Process},
    run::{self, Tally, Verdict, tally},
    scenario::Scenario,
    trace::{SimClock, Trace},
    world::Ether,
};

/// Who uses the nodes, and who judges what they saw.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Play {
    /// Everybody who uses a relay.
    Everybody,
    /// One consumer of ten owners.
    Fair,
}

/// Runs `seed` through a relay `scenario`. With `print`, every event goes to standard output.
pub(crate) fn run(
    seed: u64,
    scenario: &Scenario,
    (draw, play): (fn(&mut MeshPlan, &mut Dice), Play),
    print: bool,
    software: fn(Process) -> Life,
) -> Verdict {
    let dice = Dice::new(seed);
    let plan = Arc::new(RelayPlan::new(&mut dice.fork(1), draw));
    let clock = SimClock::default();
    let trace = Trace::new(clock.clone(), print);
    let recorder = Recorder::new(trace.clone());
    trace.event(format_args!("seed {seed} scenario {} {plan:?}", scenario.name));
    let watch = PanicWatch::new();
    let mut sim = run::simulation(seed);
    let ether = Ether::new(trace);
    let mut sites = raise(&mut sim, &dice, &plan.mesh, &plan.shape, (&ether, &recorder), software);
    let addresses: Vec<IpAddr> = sites.iter().map(|site| site.victim.address).collect();
    let (healed, report) = (Gate::default(), Report::default());
    let mut cables = Cables::new(ether, addresses, &plan.mesh);
    let nodes: Vec<Node> = sites.iter().map(node).collect();
    let (of_all, own, gate) = (recorder.clone(), dice.fork(6), healed.clone());
    let (plan_of_clients, report_of_clients) = (plan.clone(), report.clone());
    sim.client(CLIENTS, async move {
        match play {
            Play::Everybody => {
                clients::run(plan_of_clients, nodes, of_all, own, gate, report_of_clients).await;
            }
            Play::Fair => fair::run(nodes, own, report_of_clients).await,
        }
        Ok(())
    });
    let mut findings =
        step_to_the_end(&mut sim, &clock, &plan.mesh, (&mut sites, &mut cables), &healed, &watch);
    drop(sim);
    findings.extend(watch.take().into_iter().map(|panic| Finding::new("I16", panic)));
    findings.append(&mut report.findings.lock());
    let (mut sum, mut wear) = (Tally::default(), Wear::default());
    let mut records = Vec::new();
    for site in &sites {
        wear.add(site.disk.wear());
        let of_site = site.victim.recorder.take();
        sum.add(tally(&of_site));
        records.push(of_site);
    }
    findings.extend(check(&Ledger::new(&plan, &records, &recorder.take())));
    let trace = recorder.trace();
    Verdict {
        seed,
        scenario: scenario.name,
        findings,
        trace_hash: trace.hash(),
        events: trace.len(),
        took: clock.now(),
        tally: sum,
        wear,
        notes: std::mem::take(&mut report.notes.lock()),
    }
}

fn node(site: &Site) -> Node {
    Node { name: site.name.clone(), recorder: site.victim.recorder.clone() }
}
