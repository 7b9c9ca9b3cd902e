//! Runs of `bruit-sim` in processes of their own.

use std::process::Command;

/// Asserts that `seed` gives the same trace in two processes, and another seed another one. `args` say what to
/// run.
pub(super) fn assert_same(args: &[&str], [seed, other]: [&str; 2]) {
    let trace = |seed: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bruit-sim"));
        let output = command.args(args).args(["--trace", "--seed", seed]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (first, second) = (trace(seed), trace(seed));
    let differs = first.lines().zip(second.lines()).find(|(first, second)| first != second);
    assert_eq!(differs, None);
    assert_eq!(first.len(), second.len());
    assert!(first.lines().count() > 1_000);
    assert_ne!(first, trace(other));
}
