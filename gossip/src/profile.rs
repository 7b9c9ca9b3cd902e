//! How quick a network the time-outs expect.

use std::{fmt, str::FromStr};

/// A set of time-outs and rates (`--gossip-profile`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// One data centre: round trips of milliseconds.
    #[default]
    Lan,
    /// Round trips of tens to hundreds of milliseconds.
    Wan,
    /// All nodes on one machine.
    Local,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lan => "lan",
            Self::Wan => "wan",
            Self::Local => "local",
        })
    }
}

/// The text names no profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a gossip profile is one of lan, wan and local")]
pub struct InvalidProfile;

impl FromStr for Profile {
    type Err = InvalidProfile;

    fn from_str(text: &str) -> Result<Self, InvalidProfile> {
        match text {
            "lan" => Ok(Self::Lan),
            "wan" => Ok(Self::Wan),
            "local" => Ok(Self::Local),
            _ => Err(InvalidProfile),
        }
    }
}
