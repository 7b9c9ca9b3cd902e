//! The swarm: the same seed is the same run, what was broken stays mended, and software that is broken on
//! purpose is found out.

mod processes;

use std::{sync::Arc, time::Duration};

use bruit_gossip::{
    DATAGRAM_MAX, ExchangeError, Input, Mesh, MeshStats, NodeId, Now, Output, Peer, Setup, View,
};
use bruit_sim::swarm::{
    regressions::REGRESSIONS,
    run::{Verdict, run, run_software},
    scenario::{SCENARIOS, Scenario},
    software::Software,
};
use bytes::Bytes;

/// What is wrong with a [`Liar`].
mod lie {
    pub(super) const FORGETS_TO_DELETE: u8 = 1;
    pub(super) const SHOWS_OLD_VIEWS: u8 = 2;
    pub(super) const DOZES: u8 = 3;
    pub(super) const SHOUTS: u8 = 4;
    pub(super) const PANICS: u8 = 5;
    pub(super) const LEAVES_CHANNELS_OUT: u8 = 6;
}

/// The mesh, broken in one way.
#[derive(Debug)]
struct Liar<const LIE: u8> {
    mesh: Mesh,
    id: NodeId,
}

impl<const LIE: u8> Software for Liar<LIE> {
    fn new(setup: Setup, now: Now) -> Self {
        let id = setup.peer.id;
        Self { mesh: Mesh::new(setup, now), id }
    }

    fn handle(&mut self, now: Now, input: Input<'_>) {
        let seconds = now.elapsed.as_secs();
        assert!(LIE != lie::PANICS || seconds < 10, "on purpose");
        let dozes =
            LIE == lie::DOZES && seconds > 10 && seconds % 60 < 30 && self.id.bits().is_multiple_of(3);
        if !dozes || !matches!(input, Input::Datagram { .. }) {
            self.mesh.handle(now, input);
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        use bruit_gossip::Command;
        match self.mesh.poll_output()? {
            Output::Broker(Command::Delete { .. }) if LIE == lie::FORGETS_TO_DELETE => self.poll_output(),
            Output::Broker(Command::CreateChannel { .. }) if LIE == lie::LEAVES_CHANNELS_OUT => {
                self.poll_output()
            }
            Output::Send { to, .. } if LIE == lie::SHOUTS => {
                Some(Output::Send { to, datagram: Bytes::from(vec![0; DATAGRAM_MAX + 1]) })
            }
            output => Some(output),
        }
    }

    fn next_timeout(&self) -> Option<Duration> {
        self.mesh.next_timeout()
    }

    fn view(&mut self, now: Now) -> Option<Arc<View>> {
        self.mesh.view(now).filter(|_| LIE != lie::SHOWS_OLD_VIEWS || now.elapsed < Duration::from_secs(15))
    }

    fn names_to_save(&mut self) -> Option<Vec<u8>> {
        self.mesh.names_to_save()
    }

    fn stats(&self, now: Now) -> MeshStats {
        self.mesh.stats(now)
    }

    fn exchange_open(&mut self, now: Now, peer: &Peer) -> Bytes {
        self.mesh.exchange_open(now, peer)
    }

    fn exchange_answer(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<Bytes, ExchangeError> {
        self.mesh.exchange_answer(now, from, leg)
    }

    fn exchange_close(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<Bytes, ExchangeError> {
        self.mesh.exchange_close(now, from, leg)
    }

    fn exchange_end(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<(), ExchangeError> {
        self.mesh.exchange_end(now, from, leg)
    }

    fn exchange_over(&mut self, now: Now, peer: &Peer, bytes: Option<u64>) {
        self.mesh.exchange_over(now, peer, bytes);
    }
}

fn scenario(name: &str) -> Scenario {
    Scenario::find(name).unwrap()
}

#[test]
fn a_seed_is_the_same_run_twice() {
    for (seed, scenario) in (1..).zip(SCENARIOS) {
        let once = || {
            let verdict = run(seed, &scenario, 8, false);
            (verdict.trace_hash, verdict.events, verdict.datagrams)
        };
        let first = once();
        assert_eq!(first, once(), "seed {seed} of {}", scenario.name);
        assert_ne!(first.0, run(seed + 100, &scenario, 8, false).trace_hash);
    }
}

#[test]
fn a_seed_is_the_same_run_in_two_processes() {
    processes::assert_same(&["swarm", "--nodes", "12"], ["7", "8"]);
}

#[test]
fn what_was_once_broken_stays_mended() {
    for regression in REGRESSIONS {
        let verdict = run(regression.seed, &scenario(regression.scenario), regression.nodes, false);
        assert!(verdict.is_good(), "{}: {verdict}", regression.was);
    }
}

/// Asserts that a lie is found out, and that it is the lie that is.
fn assert_found<const LIE: u8>(scenario_name: &str, invariants: &[&str]) {
    let scenario = scenario(scenario_name);
    let honest = run_software::<Liar<0>>(3, &scenario, 10, false);
    assert!(honest.is_good(), "{honest}");
    let Verdict { findings, .. } = run_software::<Liar<LIE>>(3, &scenario, 10, false);
    let found = |finding: &bruit_sim::check::Finding| invariants.contains(&finding.invariant);
    assert!(findings.iter().any(found), "{findings:?}");
}

#[test]
fn who_forgets_to_delete_is_found_out() {
    assert_found::<{ lie::FORGETS_TO_DELETE }>("calm", &["I11", "I13"]);
}

#[test]
fn who_leaves_out_channels_is_found_out() {
    assert_found::<{ lie::LEAVES_CHANNELS_OUT }>("calm", &["I12"]);
}

#[test]
fn who_shows_old_views_is_found_out() {
    assert_found::<{ lie::SHOWS_OLD_VIEWS }>("calm", &["I13", "I14"]);
}

#[test]
fn who_takes_the_living_for_dead_is_found_out() {
    assert_found::<{ lie::DOZES }>("calm", &["I14"]);
}

#[test]
fn who_sends_more_than_fits_is_found_out() {
    assert_found::<{ lie::SHOUTS }>("calm", &["MTU"]);
}

#[test]
fn who_panics_is_found_out() {
    assert_found::<{ lie::PANICS }>("calm", &["panic"]);
}
