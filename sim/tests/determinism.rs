//! I22: the same seed is the same run, to the byte, in this process and in any other.

mod processes;

use bruit_sim::{
    run::run,
    scenario::{MESH_SCENARIOS, RELAY_SCENARIOS, SCENARIOS, Scenario, regressions::REGRESSIONS},
};

/// Runs the scenarios, a seed each, twice.
fn assert_same_twice(scenarios: &[Scenario]) {
    for (seed, scenario) in (1..).zip(scenarios) {
        let once = || {
            let verdict = run(seed, scenario, false);
            (verdict.trace_hash, verdict.events, verdict.tally)
        };
        assert_eq!(once(), once(), "seed {seed} of {}", scenario.name);
    }
}

#[test]
fn a_seed_is_the_same_run_twice_in_one_process() {
    assert_same_twice(&SCENARIOS);
}

#[test]
fn a_seed_is_the_same_mesh_twice_in_one_process() {
    assert_same_twice(&MESH_SCENARIOS);
}

#[test]
fn a_seed_is_the_same_relay_twice_in_one_process() {
    assert_same_twice(&RELAY_SCENARIOS);
}

#[test]
fn a_seed_is_the_same_run_in_two_processes() {
    processes::assert_same(&["run"], ["7", "8"]);
}

#[test]
fn a_seed_is_the_same_mesh_in_two_processes() {
    processes::assert_same(&["run", "--scenario", "mesh-all"], ["1", "6"]);
}

#[test]
fn what_was_once_broken_stays_mended() {
    for regression in REGRESSIONS {
        let scenario = Scenario::find(regression.scenario).unwrap();
        let verdict = run(regression.seed, &scenario, false);
        assert!(verdict.is_good(), "{}: {verdict}", regression.was);
    }
}
