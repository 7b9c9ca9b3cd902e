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
}

/// All of them, oldest first.
pub const REGRESSIONS: [Regression; 9] = [
    Regression {
        was: "a sync that failed while a segment was sealed refused publishes for ever",
        scenario: "fsync",
        seed: 6,
    },
    Regression {
        was: "a message got the number of a finished one whose record was damaged, and was never delivered",
        scenario: "flip",
        seed: 2248,
    },
    Regression {
        was: "a late FIN that finished the next delivery was taken for one that the node had ignored",
        scenario: "calm",
        seed: 490,
    },
    Regression {
        was: "a member whose suspicion outlived a partition was suspected for ever, as it never heard of it",
        scenario: "mesh-split",
        seed: 5,
    },
    Regression {
        was: "the same after packets had got through in one direction only",
        scenario: "mesh-oneway",
        seed: 1079,
    },
    Regression {
        was: "a deleted channel came back when all nodes lost power soon after",
        scenario: "mesh-all",
        seed: 3,
    },
    Regression {
        was: "a topic that a node with a slow clock deleted came back",
        scenario: "mesh-all",
        seed: 110,
    },
    Regression {
        was: "a topic began without channels of which only the holder was known yet",
        scenario: "relay-clock",
        seed: 2061,
    },
    Regression {
        was: "the same, and what was acknowledged meanwhile reached an ephemeral channel only",
        scenario: "relay-power",
        seed: 2003,
    },
];
