//! How a stream between two nodes begins: who asks for what, in which cluster.
//!
//! ```text
//! hello   version u8 = 1 | purpose u8 | node u64 LE | length u8 | cluster name, 1 to 255 bytes of UTF-8
//! answer  one byte, see Answer
//! ```
//!
//! What follows is blobs, each a length (u32 LE) and as many bytes. TLS has by then proved that both know the
//! cluster's secret; the hello tells two clusters with one authority apart.

/// Version of this exchange of greetings.
const VERSION: u8 = 1;
/// Bytes of a hello in front of the cluster name.
pub const HELLO_HEAD: usize = 11;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Exchanging what both know of the mesh.
    Exchange,
    /// Listing and changing the cluster's keys.
    Keys,
    /// Consuming a channel; see [`relay`](crate::relay).
    Relay,
    /// Showing that both ends and the way between them are there: the answer is all.
    Ping,
    /// Saying that the one who is called is hidden from lookups of a topic: its name, answered by an empty blob.
    Hide,
}

/// What the caller says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the stream is for.
    pub purpose: Purpose,
    /// The caller's node id.
    pub node: u64,
    /// The caller's cluster.
    pub cluster: String,
}

/// How the other side takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go on.
    Welcome,
    /// Another cluster.
    OtherCluster,
    /// A version or purpose that this side does not know.
    Unknown,
    /// Too much of it under way; try again later.
    Busy,
}

/// The bytes are no hello that this program can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream does not begin as one between bruit nodes does")]
pub struct InvalidHello;

impl Hello {
    /// The bytes to send. A cluster name beyond 255 bytes is cut, and then fits no other.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let cluster = self.cluster.as_bytes();
        let len = u8::try_from(cluster.len()).unwrap_or(u8::MAX);
        let mut bytes = vec![VERSION, self.purpose.code()];
        bytes.extend_from_slice(&self.node.to_le_bytes());
        bytes.push(len);
        bytes.extend_from_slice(cluster.get(..usize::from(len)).unwrap_or_default());
        bytes
    }

    /// How many bytes of cluster name follow this head.
    ///
    /// # Errors
    /// Another version, or no name.
    pub fn name_len(head: &[u8; HELLO_HEAD]) -> Result<usize, InvalidHello> {
        match *head {
            [VERSION, .., len] if len > 0 => Ok(usize::from(len)),
            _ => Err(InvalidHello),
        }
    }

    /// Reads a hello whose name has the length that [`name_len`](Self::name_len) told.
    ///
    /// # Errors
    /// A version, purpose or name that cannot be read.
    pub fn parse(head: &[u8; HELLO_HEAD], name: &[u8]) -> Result<Self, InvalidHello> {
        let [VERSION, purpose, node @ .., len] = *head else { return Err(InvalidHello) };
        let cluster = std::str::from_utf8(name).map_err(|_| InvalidHello)?;
        if name.len() != usize::from(len) {
            return Err(InvalidHello);
        }
        let purpose = Purpose::of(purpose).ok_or(InvalidHello)?;
        Ok(Self { purpose, node: u64::from_le_bytes(node), cluster: cluster.to_owned() })
    }
}

impl Purpose {
    const fn code(self) -> u8 {
        match self {
            Self::Exchange => 1,
            Self::Keys => 2,
            Self::Relay => 3,
            Self::Ping => 4,
            Self::Hide => 5,
        }
    }

    const fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Exchange),
            2 => Some(Self::Keys),
            3 => Some(Self::Relay),
            4 => Some(Self::Ping),
            5 => Some(Self::Hide),
            _ => None,
        }
    }
}

impl Answer {
    /// The byte to send.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Welcome => 0,
            Self::OtherCluster => 1,
            Self::Unknown => 2,
            Self::Busy => 3,
        }
    }

    /// Reads the byte. What is not known is no welcome.
    #[must_use]
    pub const fn of(code: u8) -> Self {
        match code {
            0 => Self::Welcome,
            1 => Self::OtherCluster,
            3 => Self::Busy,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Hello, InvalidHello> {
        let (head, rest) = bytes.split_first_chunk().ok_or(InvalidHello)?;
        let len = Hello::name_len(head)?;
        Hello::parse(head, rest.get(..len).ok_or(InvalidHello)?)
    }

    #[test]
    fn golden_hello() {
        let hello =
            Hello { purpose: Purpose::Exchange, node: 0x0102_0304_0506_0708, cluster: "bruit".to_owned() };
        let golden = b"\x01\x01\x08\x07\x06\x05\x04\x03\x02\x01\x05bruit";
        assert_eq!(hello.to_bytes(), golden);
        assert_eq!(read(golden), Ok(hello));
        for (place, bad) in [(0, 2), (0, 0), (1, 0), (1, 9), (10, 0), (11, 0xff)] {
            let mut bytes = golden.to_vec();
            bytes[place] = bad;
            assert_eq!(read(&bytes), Err(InvalidHello), "{place}");
        }
        for cut in 0..golden.len() {
            assert_eq!(read(&golden[..cut]), Err(InvalidHello), "{cut}");
        }
    }

    #[test]
    fn a_purpose_keeps_its_number() {
        let purposes = [Purpose::Exchange, Purpose::Keys, Purpose::Relay, Purpose::Ping, Purpose::Hide];
        for (code, purpose) in (1..).zip(purposes) {
            assert_eq!((purpose.code(), Purpose::of(code)), (code, Some(purpose)));
        }
        assert!((6..=255).chain([0]).all(|code| Purpose::of(code).is_none()));
    }

    #[test]
    fn answers_that_are_not_known_are_no_welcome() {
        for answer in [Answer::Welcome, Answer::OtherCluster, Answer::Unknown, Answer::Busy] {
            assert_eq!(Answer::of(answer.code()), answer);
        }
        assert!((4..=255).all(|code| Answer::of(code) == Answer::Unknown));
    }
}
