//! Seeds that once found something. Each is run again by a test, under the name of what it found.

/// A run that once broke an invariant.
#[derive(Debug, Clone, Copy)]
pub struct Regression {
    /// What was wrong.
    pub was: &'static str,
    /// The scenario.
    pub scenario: &'static str,
    /// The seed.
    pub seed: u64,
    /// The number of nodes.
    pub nodes: usize,
}

/// All of them, oldest first.
pub const REGRESSIONS: [Regression; 0] = [];
