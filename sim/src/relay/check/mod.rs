//! What must be true of every run of the relay. The numbers (I1, I8, ...) are those of the reliability
//! catalogue and appear in findings.
//!
//! A delivery through a relay is bound to more than one node's process: also to the relay's, and to the link
//! between the two. What holds as long as all of them last is asked only then
//! ([`Ledger::held_together`](super::ledger::Ledger::held_together)).

mod attempts;
mod content;
mod finished;
mod flight;
mod kept;
mod paused;
#[cfg(test)]
mod scene;
mod stats;

use super::ledger::Ledger;
use crate::check::Finding;

/// Everything that is wrong with a run.
#[must_use]
pub fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let checks = [
        kept::check,
        content::check,
        finished::check,
        flight::check,
        attempts::check,
        paused::check,
        stats::check,
    ];
    checks.iter().flat_map(|check| check(ledger)).collect()
}
