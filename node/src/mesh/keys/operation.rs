//! What can be done to a cluster's keys, and what is told about it.

use bruit_gossip::{Fingerprint, NodeId, Secret};
use serde::{Deserialize, Serialize};

/// What is to be done to the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "lowercase")]
pub(crate) enum Operation {
    /// Only tell which ones are held.
    List,
    /// Hold one more.
    Install {
        /// The key itself.
        #[serde(with = "secret_text")]
        key: Secret,
    },
    /// Use one that is held.
    Use {
        /// Which one.
        fingerprint: Fingerprint,
        /// Although some nodes do not hold it.
        #[serde(default)]
        force: bool,
    },
    /// Hold one no longer.
    Remove {
        /// Which one.
        fingerprint: Fingerprint,
        /// Although some nodes do not answer.
        #[serde(default)]
        force: bool,
    },
}

impl Operation {
    /// The key that it is about, if it is about one.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        match self {
            Self::List => None,
            Self::Install { key } => Some(key.fingerprint()),
            Self::Use { fingerprint, .. } | Self::Remove { fingerprint, .. } => Some(*fingerprint),
        }
    }

    /// For the log.
    pub(super) fn done(&self) -> String {
        let of_key =
            self.fingerprint().map(|fingerprint| format!("cluster key {fingerprint} ")).unwrap_or_default();
        let what = match self {
            Self::List => "keys listed",
            Self::Install { .. } => "is held",
            Self::Use { .. } => "is in use",
            Self::Remove { .. } => "is removed",
        };
        of_key + what
    }

    /// Whether a node with these keys is as the operation wants it.
    pub(crate) fn holds(&self, keys: &[HeldKey]) -> bool {
        let Some(fingerprint) = self.fingerprint() else { return true };
        let key = keys.iter().find(|key| key.fingerprint == fingerprint);
        match self {
            Self::List => true,
            Self::Install { .. } => key.is_some(),
            Self::Use { .. } => key.is_some_and(|key| key.used),
            Self::Remove { .. } => key.is_none(),
        }
    }
}

/// A key that a node holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldKey {
    pub(crate) fingerprint: Fingerprint,
    /// Whether the node seals with it.
    pub(crate) used: bool,
}

/// What a node answers another one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    /// What it holds now.
    pub(super) keys: Vec<HeldKey>,
    /// Why it did not do what was asked.
    pub(super) error: Option<String>,
}

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeKeys {
    pub(crate) node: NodeId,
    /// Its gossip address.
    pub(crate) address: String,
    /// What it holds, the used one first; nothing if it did not answer.
    pub(crate) keys: Vec<HeldKey>,
    /// Why it did not do what was asked, or that it did not answer.
    pub(crate) error: Option<String>,
}

/// What came of an operation on the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Why nothing was done at all.
    pub(crate) refused: Option<String>,
    /// Every live node, this one included, in the order of their ids.
    pub(crate) nodes: Vec<NodeKeys>,
    /// How many nodes are down, and miss what was done.
    pub(crate) down: usize,
}

/// A secret as the text that it is written as everywhere.
mod secret_text {
    use bruit_gossip::Secret;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&secret.reveal())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Secret {
        Secret::new([number; 32])
    }

    #[test]
    fn golden_json() {
        let fingerprint = key(1).fingerprint();
        let secret = "01".repeat(32);
        for (operation, json) in [
            (Operation::List, r#"{"operation":"list"}"#.to_owned()),
            (Operation::Install { key: key(1) }, format!(r#"{{"operation":"install","key":"{secret}"}}"#)),
            (
                Operation::Use { fingerprint, force: true },
                r#"{"operation":"use","fingerprint":"43436261","force":true}"#.to_owned(),
            ),
            (
                Operation::Remove { fingerprint, force: false },
                r#"{"operation":"remove","fingerprint":"43436261","force":false}"#.to_owned(),
            ),
        ] {
            assert_eq!(serde_json::to_string(&operation).unwrap(), json);
            assert_eq!(serde_json::from_str::<Operation>(&json).unwrap(), operation);
            assert!(!format!("{operation:?}").contains(&secret));
        }
        for bad in [r#"{"operation":"install","key":"01"}"#, r#"{"operation":"use","fingerprint":"x"}"#, "{}"]
        {
            assert!(serde_json::from_str::<Operation>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_operation_knows_when_a_node_is_as_it_should_be() {
        let (fingerprint, force) = (key(1).fingerprint(), false);
        let (install, use_, remove) = (
            Operation::Install { key: key(1) },
            Operation::Use { fingerprint, force },
            Operation::Remove { fingerprint, force },
        );
        let other = HeldKey { fingerprint: key(2).fingerprint(), used: true };
        let with = |used| [other.clone(), HeldKey { fingerprint, used }];
        let outcome = |keys: &[HeldKey]| (install.holds(keys), use_.holds(keys), remove.holds(keys));
        assert_eq!(outcome(std::slice::from_ref(&other)), (false, false, true));
        assert_eq!(outcome(&with(false)), (true, false, false));
        assert_eq!(outcome(&with(true)), (true, true, false));
    }
}
