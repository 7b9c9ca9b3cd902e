//! Topic and channel names: what is valid, and types that hold only what is.

use crate::quote::go_quote;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{borrow::Borrow, fmt, sync::Arc};

/// The longest a name may be, in bytes, its `#ephemeral` suffix included.
const NAME_LEN_MAX: usize = 64;

const EPHEMERAL_SUFFIX: &str = "#ephemeral";

/// Whether `name` may name a topic or a channel: 1 to 64 bytes of `.a-zA-Z0-9_-`, optionally ended by
/// `#ephemeral` (which counts among the 64 and cannot stand alone).
pub fn is_valid_name(name: &[u8]) -> bool {
    let stem = name.strip_suffix(EPHEMERAL_SUFFIX.as_bytes()).unwrap_or(name);
    let is_stem_byte = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    name.len() <= NAME_LEN_MAX && !stem.is_empty() && stem.iter().all(is_stem_byte)
}

/// The bytes given cannot name a topic or a channel. The giver's fault; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{quoted} is not a valid name: use 1 to 64 of the characters a-z A-Z 0-9 . _ - and, at the end, optionally #ephemeral"
)]
pub struct InvalidName {
    quoted: String,
}

impl InvalidName {
    fn new(name: &str) -> Self {
        // The text ends up in logs and replies, so a hostile name must not make it long.
        let shown: String = name.chars().take(2 * NAME_LEN_MAX).collect();
        Self { quoted: go_quote(shown.as_bytes()) }
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `name` and keeps a copy of it, or fails as [`is_valid_name`] says.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                if is_valid_name(name.as_bytes()) { Ok(Self(name.into())) } else { Err(InvalidName::new(name)) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether the name ends in `#ephemeral`: held in memory only, gone with its last user.
            pub fn is_ephemeral(&self) -> bool {
                self.0.ends_with(EPHEMERAL_SUFFIX)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
            }
        }
    };
}

name_type! {
    /// A topic's name. Cheap to clone: clones share one allocation.
    TopicName
}

name_type! {
    /// A channel's name. Cheap to clone: clones share one allocation.
    ChannelName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_1_to_64_bytes_with_the_suffix_counted() {
        let with_suffix = |stem: usize| "a".repeat(stem) + EPHEMERAL_SUFFIX;
        for good in ["a", ".", "-_.", "A-z_0.9", &"a".repeat(64), &with_suffix(1), &with_suffix(54)] {
            assert!(is_valid_name(good.as_bytes()), "{good}");
            assert_eq!(TopicName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", &"a".repeat(65), &with_suffix(55), &with_suffix(0), "a#", "a#b", "a#Ephemeral"] {
            assert!(!is_valid_name(bad.as_bytes()), "{bad}");
            assert!(ChannelName::new(bad).is_err());
        }
        for bad in ["a b", "a\n", "a/b", "é", "a#ephemeral#ephemeral", "a#ephemeral ", "a\0"] {
            assert!(!is_valid_name(bad.as_bytes()), "{bad:?}");
        }
        assert!(!is_valid_name(b"\xff"));
    }

    #[test]
    fn a_name_knows_whether_it_is_ephemeral() {
        assert!(ChannelName::new("tail#ephemeral").unwrap().is_ephemeral());
        assert!(!ChannelName::new("ephemeral").unwrap().is_ephemeral());
    }

    #[test]
    fn deserialising_validates() {
        assert_eq!(serde_json::from_str::<TopicName>("\"t\"").unwrap(), TopicName::new("t").unwrap());
        let error = serde_json::from_str::<TopicName>("\"t t\"").unwrap_err().to_string();
        assert!(error.starts_with("\"t t\" is not a valid name"), "{error}");
        assert_eq!(serde_json::to_string(&TopicName::new("t").unwrap()).unwrap(), "\"t\"");
    }

    #[test]
    fn a_hostile_name_does_not_make_a_long_error() {
        assert!(TopicName::new(&"é".repeat(100_000)).unwrap_err().to_string().len() < 400);
    }
}
