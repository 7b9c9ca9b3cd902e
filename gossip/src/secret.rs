//! What all nodes of a cluster know.

use std::{fmt, str::FromStr};

/// A cluster's secret: 32 random bytes, written as 64 lower-case hex characters. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The secret of these bytes, which should be random.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text to keep in a file; whoever reads it can join the cluster.
    #[must_use]
    pub fn reveal(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The text is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster secret is 64 characters, each one of 0-9 or a-f; `bruit key generate` makes one")]
pub struct InvalidSecret;

impl FromStr for Secret {
    type Err = InvalidSecret;

    /// Reads one; white space around it does not count.
    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let text = text.trim().as_bytes();
        let (digits, rest) = text.as_chunks::<2>();
        let pairs: [[u8; 2]; 32] = digits.try_into().map_err(|_| InvalidSecret)?;
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(high)? << 4 | digit(low)?;
        }
        if rest.is_empty() { Ok(Self(bytes)) } else { Err(InvalidSecret) }
    }
}

fn digit(character: u8) -> Result<u8, InvalidSecret> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(InvalidSecret),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_one_spelling_and_hides_itself() {
        let secret = Secret::new(std::array::from_fn(|place| place as u8 * 7));
        assert_eq!(format!(" {}\n", secret.reveal()).parse(), Ok(secret.clone()));
        assert!(!format!("{secret:?}").contains("07"));
        let text = secret.reveal();
        for bad in ["", "secret", &text[1..], &text.to_uppercase(), &format!("{text}0"), &format!("{text}00")]
        {
            assert_eq!(bad.parse::<Secret>(), Err(InvalidSecret), "{bad}");
        }
    }
}
