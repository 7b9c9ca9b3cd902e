//! What must be true of every history. One invariant, or a few that belong together, a file; the numbers
//! (I1, I3, ...) are those of the reliability catalogue and appear in findings.

mod attempts;
mod batch;
mod content;
mod finished;
mod full;
mod in_flight;
mod kept;
mod ledger;
#[cfg(test)]
mod scene;
mod stats;

use std::fmt;

pub use self::ledger::{Answer, AnswerKind, Consumer, Delivery, Ledger, Operation, Outcome};
use crate::{history::Record, shape::Shape};

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The invariant that is broken.
    pub invariant: &'static str,
    /// How.
    pub text: String,
}

impl Finding {
    pub(crate) fn new(invariant: &'static str, text: impl Into<String>) -> Self {
        Self { invariant, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.text)
    }
}

/// Everything that is wrong with a history.
#[must_use]
pub fn check(shape: &Shape, records: &[Record]) -> Vec<Finding> {
    let ledger = Ledger::new(shape, records);
    let checks = [
        kept::check,
        batch::check,
        content::check,
        finished::check,
        in_flight::check,
        full::check,
        attempts::check,
        stats::check,
    ];
    checks.iter().flat_map(|check| check(&ledger)).collect()
}
