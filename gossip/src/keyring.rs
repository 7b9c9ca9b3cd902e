//! The secrets that a node holds, and what is derived from them.
//!
//! While a cluster changes its secret, nodes hold several and use one: whatever any held secret has sealed is
//! opened, and only the used one seals. Nothing is ever encrypted with a secret itself: each purpose has a key
//! of its own, which HKDF (RFC 5869) derives from the secret and the cluster's name, so that clusters of
//! different names stay strangers although they share a secret.

use std::{fmt, str::FromStr};

use ring::{digest, hkdf};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::Secret;

/// Most secrets that a node holds at once. A rotation needs two.
pub const KEYS_MAX: usize = 8;

/// Stands in where a cluster has no secret. Everybody knows it, so it keeps nobody out.
const NO_SECRET: Secret = Secret::new(*b"bruit: a cluster with no secret.");
/// First line of a keyring's text.
const HEADER: &str = "bruit-keys 1";
/// Last line of a keyring's text: without it a part is missing.
const END: &str = "end";

/// The secrets that a node holds, one of which it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    used: Secret,
    others: Vec<Secret>,
}

impl Keyring {
    /// Holds and uses `secret`.
    #[must_use]
    pub const fn new(secret: Secret) -> Self {
        Self { used: secret, others: Vec::new() }
    }

    /// The keyring of a cluster without a secret: its keys derive from the cluster's name alone. Whoever knows
    /// that name can join, so it is good for loopback only.
    #[must_use]
    pub const fn open() -> Self {
        Self::new(NO_SECRET)
    }

    /// Whether there is no secret.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.used == NO_SECRET
    }

    /// The secret that seals.
    #[must_use]
    pub const fn used(&self) -> &Secret {
        &self.used
    }

    /// Every secret that opens, and whether it is the used one, which comes first.
    pub fn held(&self) -> impl Iterator<Item = (&Secret, bool)> {
        std::iter::once((&self.used, true)).chain(self.others.iter().map(|secret| (secret, false)))
    }

    /// Whether it holds the secret of this fingerprint.
    #[must_use]
    pub fn holds(&self, fingerprint: Fingerprint) -> bool {
        self.held().any(|(secret, _)| secret.fingerprint() == fingerprint)
    }

    /// Holds one more secret, without using it. False if it was held already.
    ///
    /// # Errors
    /// [`KEYS_MAX`] are held, the cluster has none, or another secret has this one's fingerprint.
    pub fn install(&mut self, secret: Secret) -> Result<bool, KeyringError> {
        if self.held().any(|(held, _)| *held == secret) {
            return Ok(false);
        }
        if self.is_open() || secret == NO_SECRET {
            return Err(KeyringError::Open);
        }
        let fingerprint = secret.fingerprint();
        if self.holds(fingerprint) {
            return Err(KeyringError::Ambiguous { fingerprint });
        }
        if self.held().count() >= KEYS_MAX {
            return Err(KeyringError::Full);
        }
        self.others.push(secret);
        Ok(true)
    }

    /// Uses another secret that it holds. False if it was used already.
    ///
    /// # Errors
    /// It is not held.
    pub fn use_(&mut self, fingerprint: Fingerprint) -> Result<bool, KeyringError> {
        if self.used.fingerprint() == fingerprint {
            return Ok(false);
        }
        let wanted = self.others.iter_mut().find(|secret| secret.fingerprint() == fingerprint);
        std::mem::swap(wanted.ok_or(KeyringError::NotHeld { fingerprint })?, &mut self.used);
        Ok(true)
    }

    /// Forgets a secret. False if it was not held.
    ///
    /// # Errors
    /// It is the used one.
    pub fn remove(&mut self, fingerprint: Fingerprint) -> Result<bool, KeyringError> {
        if self.used.fingerprint() == fingerprint {
            return Err(KeyringError::Used { fingerprint });
        }
        let before = self.others.len();
        self.others.retain(|secret| secret.fingerprint() != fingerprint);
        Ok(self.others.len() < before)
    }

    /// The text to keep in a file that nobody else may read.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for (secret, used) in self.held() {
            text.push_str(if used { "use  " } else { "hold " });
            text.push_str(&secret.reveal());
            text.push('\n');
        }
        text + END + "\n"
    }

    /// Reads [`to_text`](Self::to_text).
    ///
    /// # Errors
    /// It is not one, or not whole. The error shows nothing of the text.
    pub fn from_text(text: &str) -> Result<Self, KeyringError> {
        let damaged = |line: usize| KeyringError::Damaged { line };
        let mut lines = (1..).zip(text.lines());
        if lines.next().is_none_or(|(_, line)| line != HEADER) {
            return Err(damaged(1));
        }
        let mut keyring: Option<Self> = None;
        for (number, line) in lines {
            if line == END {
                return keyring.ok_or(damaged(number));
            }
            let (word, secret) = line.split_once(' ').ok_or(damaged(number))?;
            let secret: Secret = secret.parse().map_err(|_| damaged(number))?;
            keyring = match (word, keyring) {
                ("use", None) => Some(Self::new(secret)),
                ("hold", Some(mut keyring)) if !keyring.holds(secret.fingerprint()) => {
                    keyring.install(secret).map_err(|_| damaged(number))?;
                    Some(keyring)
                }
                _ => return Err(damaged(number)),
            };
        }
        Err(damaged(text.lines().count() + 1))
    }
}

/// What people call a secret by: 8 lower-case hex characters that tell nothing about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u32);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The text is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 8 characters, each one of 0-9 or a-f; `bruit key list` shows them")]
pub struct InvalidFingerprint;

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let is_hex = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = if is_hex { u32::from_str_radix(text, 16).ok() } else { None };
        number.map(Self).ok_or(InvalidFingerprint)
    }
}

/// Why a keyring stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// No secret has this fingerprint.
    #[error("no key {fingerprint} is held: install it first")]
    NotHeld {
        /// What was asked for.
        fingerprint: Fingerprint,
    },
    /// Without the used secret the node would be deaf.
    #[error("key {fingerprint} is in use: use another one first")]
    Used {
        /// What was to be removed.
        fingerprint: Fingerprint,
    },
    /// No room for one more.
    #[error("{KEYS_MAX} keys are held, which is the most: remove one first")]
    Full,
    /// The cluster has no secret that a second one could take over from.
    #[error("the cluster has no secret: give each node one with --cluster-secret-file and restart it")]
    Open,
    /// Two secrets could not be told apart by their fingerprints.
    #[error("another key has the fingerprint {fingerprint}: generate a new one")]
    Ambiguous {
        /// The fingerprint of both.
        fingerprint: Fingerprint,
    },
    /// The text is no keyring.
    #[error(
        "line {line} is not as bruit wrote it; restore the file from a backup, or remove it to start with the cluster secret again"
    )]
    Damaged {
        /// Where, counted from 1.
        line: usize,
    },
}

impl Secret {
    /// What people call this secret by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"bruit fingerprint of a secret");
        hash.update(self.bytes());
        let hash = hash.finish();
        Fingerprint(hash.as_ref().first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes)))
    }

    /// A key for one purpose in one cluster, from which nobody can tell the secret or the key of another
    /// purpose.
    #[must_use]
    #[expect(clippy::expect_used, reason = "HKDF gives as many bytes as one hash has, whatever goes in")]
    pub fn derive(&self, cluster_name: &str, purpose: &str) -> [u8; 32] {
        let mut key = [0; 32];
        let length = name_length(cluster_name);
        let info = [&length[..], cluster_name.as_bytes(), purpose.as_bytes()];
        let extracted = self.extract();
        let material = extracted.expand(&info, hkdf::HKDF_SHA256);
        material.and_then(|material| material.fill(&mut key)).expect("32 bytes are not too many");
        key
    }

    /// What HKDF expands keys from.
    pub(crate) fn extract(&self) -> hkdf::Prk {
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"bruit mesh 1").extract(self.bytes())
    }
}

/// Precedes a cluster's name in what keys derive from, so that no name can be mistaken for another one with
/// something behind it.
pub(crate) fn name_length(cluster_name: &str) -> [u8; 8] {
    (cluster_name.len() as u64).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(number: u8) -> Secret {
        Secret::new([number; 32])
    }

    fn full() -> Keyring {
        let mut keyring = Keyring::new(secret(1));
        for number in 2..=KEYS_MAX as u8 {
            assert_eq!(keyring.install(secret(number)), Ok(true));
        }
        keyring
    }

    #[test]
    fn golden_text_and_fingerprints() {
        let mut keyring = Keyring::new(secret(0xab));
        keyring.install(secret(0x01)).unwrap();
        let text = format!("bruit-keys 1\nuse  {}\nhold {}\nend\n", "ab".repeat(32), "01".repeat(32));
        assert_eq!(keyring.to_text(), text);
        assert_eq!(Keyring::from_text(&text), Ok(keyring));
        assert_eq!(secret(1).fingerprint().to_string(), "43436261");
        assert_eq!(secret(1).derive("bruit", "test")[..4], [0x89, 0x14, 0x71, 0xd2]);
    }

    #[test]
    fn a_rotation_goes_install_use_remove() {
        let (old, new) = (secret(1).fingerprint(), secret(2).fingerprint());
        let mut keyring = Keyring::new(secret(1));
        assert_eq!(keyring.use_(new), Err(KeyringError::NotHeld { fingerprint: new }));
        assert_eq!(keyring.install(secret(2)), Ok(true));
        assert_eq!(keyring.install(secret(2)), Ok(false), "twice is once");
        assert_eq!(keyring.used(), &secret(1), "installed is not used");
        assert_eq!(keyring.remove(old), Err(KeyringError::Used { fingerprint: old }));
        assert_eq!(keyring.use_(new), Ok(true));
        assert_eq!(keyring.use_(new), Ok(false));
        assert_eq!(keyring.held().collect::<Vec<_>>(), [(&secret(2), true), (&secret(1), false)]);
        assert_eq!(keyring.remove(old), Ok(true));
        assert_eq!(keyring.remove(old), Ok(false));
        assert_eq!(keyring, Keyring::new(secret(2)));
    }

    #[test]
    fn a_full_keyring_takes_no_more_and_comes_back_from_its_text() {
        let mut keyring = full();
        assert_eq!(keyring.install(secret(99)), Err(KeyringError::Full));
        keyring.use_(secret(3).fingerprint()).unwrap();
        assert_eq!(Keyring::from_text(&keyring.to_text()), Ok(keyring));
    }

    #[test]
    fn a_cluster_without_a_secret_cannot_slip_one_in() {
        let mut keyring = Keyring::open();
        assert!(keyring.is_open() && !Keyring::new(secret(1)).is_open());
        assert_eq!(keyring.install(secret(1)), Err(KeyringError::Open));
        assert_eq!(full().remove(secret(2).fingerprint()), Ok(true));
        assert_eq!(Keyring::new(secret(1)).install(NO_SECRET), Err(KeyringError::Open));
    }

    #[test]
    fn text_that_is_cut_or_changed_is_refused() {
        let text = full().to_text();
        // Only the line end behind the last word may be missing.
        for cut in 0..text.len() - 1 {
            assert!(matches!(Keyring::from_text(&text[..cut]), Err(KeyringError::Damaged { .. })), "{cut}");
        }
        let use_line = format!("use  {}\n", secret(1).reveal());
        for bad in [
            text.replace("bruit-keys 1", "bruit-keys 2"),
            text.replace("use ", "hold"),
            text.replacen("hold", "use ", 1),
            text.replace(&use_line, ""),
            text.replace(&use_line, &use_line.repeat(2)),
            text.replace("end", &format!("hold {}\nend", secret(3).reveal())),
            format!("{HEADER}\n{END}\n"),
        ] {
            let error = Keyring::from_text(&bad).unwrap_err();
            assert!(matches!(error, KeyringError::Damaged { .. }), "{bad}");
            assert!(!error.to_string().contains("0101"), "{error}");
        }
    }

    #[test]
    fn keys_differ_by_secret_cluster_and_purpose() {
        let key = secret(1).derive("ab", "c");
        assert_eq!(key, secret(1).derive("ab", "c"));
        for other in [secret(2).derive("ab", "c"), secret(1).derive("a", "bc"), secret(1).derive("ab", "d")] {
            assert_ne!(key, other);
        }
        assert_ne!(key, [0; 32]);
    }

    #[test]
    fn fingerprints_have_one_spelling() {
        let fingerprint = secret(1).fingerprint();
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert_ne!(fingerprint, secret(2).fingerprint());
        for bad in ["", "1234567", "123456789", "ABCDEF01", "+1234567", "1234567é"] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(InvalidFingerprint), "{bad}");
        }
    }
}
