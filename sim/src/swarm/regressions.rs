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
pub const REGRESSIONS: [Regression; 5] = [
    Regression {
        was: "a node that left and came back probed nobody, and believed for ever in those who had left as well",
        scenario: "leave",
        seed: 329,
        nodes: 3,
    },
    Regression {
        was: "a starved node suspected the dead long after all others knew, and did not count what they said",
        scenario: "all",
        seed: 868,
        nodes: 4,
    },
    Regression {
        was: "a clock that went back by a year took the names with it, and a delete by it was none to others",
        scenario: "clock",
        seed: 575,
        nodes: 4,
    },
    Regression {
        was: "the same, and a deleted name was shown again",
        scenario: "clock",
        seed: 592,
        nodes: 7,
    },
    Regression {
        was: "a confirmation set a timer into the past, so that the node thought itself slow and judged nobody",
        scenario: "flood",
        seed: 72,
        nodes: 3,
    },
];
