//! A link: the stream on which one node consumes a channel of another.
//!
//! The caller (it has the consumers) opens with an [`Open`]; the owner (it has the messages) answers with
//! [`Tell::Opened`] or [`Tell::Absent`]. Then both talk at will: bodies one way, numbers the other. All
//! integers are little-endian.
//!
//! ```text
//! open      generation u64 | topic, channel, host, region, zone: each a length u8 and as many bytes of UTF-8
//! asks      1 serial u32 | limit u64 | timeout u32         credit
//!           2 first u64 | count u32                        finish
//!           3 sequence u64 | delay u64                     requeue
//!           4 sequence u64 | timeout u32                   touch
//!           5 sequence u64 | how u8                        give back
//! tells     1 tag u16                                      opened
//!           2                                              absent
//!           3 count u32 | len u32 | len bytes              messages: NSQ frames, as they were journalled
//!           4 serial u32 | limit u64 | waiting u64 | served u8    state
//! ```
//!
//! Credit is a limit on how many messages the owner may have sent over the link since it was opened. It can
//! be lowered: what was sent meanwhile counts, and the owner answers with the limit that holds.

/// No [`Open`] is longer, bytes.
pub const OPEN_MAX: usize = 8 + 5 * 256;
/// Messages that one [`Ask::Finish`] names at most.
pub const FINISH_MAX: u32 = 65_536;
/// Bytes of messages that follow one [`Tell::Messages`] at most. A batch is far smaller unless it is one
/// large message.
pub const MESSAGES_MAX: u32 = 256 * 1024 * 1024;

/// Who wants what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Which start of the caller this is.
    pub generation: u64,
    /// The topic.
    pub topic: String,
    /// The channel.
    pub channel: String,
    /// The caller's host name, to be shown.
    pub host: String,
    /// Where the caller is.
    pub region: String,
    /// Where in its region.
    pub zone: String,
}

/// What the caller says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// So many messages may have been sent over this link in all; each is the caller's for `timeout`.
    Credit {
        /// Counts these, so that an answer can name one.
        serial: u32,
        /// The limit.
        limit: u64,
        /// Milliseconds.
        timeout: u32,
    },
    /// Messages are done with.
    Finish {
        /// The first one's sequence number.
        first: u64,
        /// How many, at most [`FINISH_MAX`].
        count: u32,
    },
    /// A consumer wants a message again.
    Requeue {
        /// Its sequence number.
        sequence: u64,
        /// After so many milliseconds.
        delay: u64,
    },
    /// A message takes longer.
    Touch {
        /// Its sequence number.
        sequence: u64,
        /// Milliseconds from now.
        timeout: u32,
    },
    /// A message comes back.
    GiveBack {
        /// Its sequence number.
        sequence: u64,
        /// Why.
        how: GiveBack,
    },
}

/// Why a message comes back without an answer of its consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveBack {
    /// No consumer has seen it: this delivery does not count.
    Unseen,
    /// Its consumer is gone.
    Lost,
    /// Its consumer had it for too long.
    TimedOut,
}

/// What the owner says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// The link stands. Message ids begin with this number.
    Opened {
        /// The upper 16 bits of the ids.
        tag: u16,
    },
    /// There is no such topic or channel here; try again later.
    Absent,
    /// Messages follow.
    Messages {
        /// How many.
        count: u32,
        /// Their bytes, at most [`MESSAGES_MAX`].
        len: u32,
    },
    /// How the owner stands.
    State {
        /// The last [`Ask::Credit`] that was taken.
        serial: u32,
        /// The limit that holds.
        limit: u64,
        /// Messages that wait for credit.
        waiting: u64,
        /// Consumers that come before this one take them as well: there is no need of this one where it has
        /// other things to do.
        served: bool,
    },
}

/// The bytes are not what a link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not speak as nodes of bruit do over a link")]
pub struct InvalidRelay;

impl Open {
    /// The bytes to send. A text beyond 255 bytes is cut at a character.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.generation.to_le_bytes().to_vec();
        for text in [&self.topic, &self.channel, &self.host, &self.region, &self.zone] {
            let mut len = text.len().min(255);
            while !text.is_char_boundary(len) {
                len -= 1;
            }
            bytes.push(len as u8);
            bytes.extend_from_slice(text.as_bytes().get(..len).unwrap_or_default());
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. Whether the names are valid ones is for the caller.
    ///
    /// # Errors
    /// It is not that.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidRelay> {
        let (generation, mut rest) = bytes.split_first_chunk().ok_or(InvalidRelay)?;
        let mut text = || {
            let (len, after) = rest.split_first().ok_or(InvalidRelay)?;
            let (text, after) = after.split_at_checked(usize::from(*len)).ok_or(InvalidRelay)?;
            rest = after;
            std::str::from_utf8(text).map(str::to_owned).map_err(|_| InvalidRelay)
        };
        let (topic, channel, host, region, zone) = (text()?, text()?, text()?, text()?, text()?);
        if !rest.is_empty() {
            return Err(InvalidRelay);
        }
        Ok(Self { generation: u64::from_le_bytes(*generation), topic, channel, host, region, zone })
    }
}

impl Ask {
    /// Appends the bytes to send.
    pub fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Credit { serial, limit, timeout } => {
                out.push(1);
                out.extend_from_slice(&serial.to_le_bytes());
                out.extend_from_slice(&limit.to_le_bytes());
                out.extend_from_slice(&timeout.to_le_bytes());
            }
            Self::Finish { first, count } => {
                out.push(2);
                out.extend_from_slice(&first.to_le_bytes());
                out.extend_from_slice(&count.to_le_bytes());
            }
            Self::Requeue { sequence, delay } => {
                out.push(3);
                out.extend_from_slice(&sequence.to_le_bytes());
                out.extend_from_slice(&delay.to_le_bytes());
            }
            Self::Touch { sequence, timeout } => {
                out.push(4);
                out.extend_from_slice(&sequence.to_le_bytes());
                out.extend_from_slice(&timeout.to_le_bytes());
            }
            Self::GiveBack { sequence, how } => {
                out.push(5);
                out.extend_from_slice(&sequence.to_le_bytes());
                out.push(how.code());
            }
        }
    }

    /// Reads one from the front; `None` if more bytes are needed. Returns how many bytes it took.
    ///
    /// # Errors
    /// No node sends that.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, InvalidRelay> {
        let Some((&code, rest)) = bytes.split_first() else { return Ok(None) };
        let mut fields = Fields { rest, taken: 1 };
        let ask = match code {
            1 => fields.credit(),
            2 => fields.finish(),
            3 => fields.requeue(),
            4 => fields.touch(),
            5 => match (fields.u64(), fields.u8()) {
                (Some(sequence), Some(how)) => {
                    Some(Self::GiveBack { sequence, how: GiveBack::of(how).ok_or(InvalidRelay)? })
                }
                _ => None,
            },
            _ => return Err(InvalidRelay),
        };
        if let Some(Self::Finish { first, count }) = ask
            && (count > FINISH_MAX || first.checked_add(u64::from(count)).is_none())
        {
            return Err(InvalidRelay);
        }
        Ok(ask.map(|ask| (ask, fields.taken)))
    }
}

impl Tell {
    /// Appends the bytes to send.
    pub fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Opened { tag } => {
                out.push(1);
                out.extend_from_slice(&tag.to_le_bytes());
            }
            Self::Absent => out.push(2),
            Self::Messages { count, len } => {
                out.push(3);
                out.extend_from_slice(&count.to_le_bytes());
                out.extend_from_slice(&len.to_le_bytes());
            }
            Self::State { serial, limit, waiting, served } => {
                out.push(4);
                out.extend_from_slice(&serial.to_le_bytes());
                out.extend_from_slice(&limit.to_le_bytes());
                out.extend_from_slice(&waiting.to_le_bytes());
                out.push(u8::from(served));
            }
        }
    }

    /// Reads one from the front; `None` if more bytes are needed. Returns how many bytes it took, without the
    /// messages that follow.
    ///
    /// # Errors
    /// No node sends that.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, InvalidRelay> {
        let Some((&code, rest)) = bytes.split_first() else { return Ok(None) };
        let mut fields = Fields { rest, taken: 1 };
        let tell = match code {
            1 => fields.u16().map(|tag| Self::Opened { tag }),
            2 => Some(Self::Absent),
            3 => fields.messages(),
            4 => match fields.state() {
                Some((_, _, _, 2..)) => return Err(InvalidRelay),
                Some((serial, limit, waiting, served)) => {
                    Some(Self::State { serial, limit, waiting, served: served == 1 })
                }
                None => None,
            },
            _ => return Err(InvalidRelay),
        };
        if matches!(tell, Some(Self::Messages { len, .. }) if len > MESSAGES_MAX) {
            return Err(InvalidRelay);
        }
        Ok(tell.map(|tell| (tell, fields.taken)))
    }
}

impl GiveBack {
    const fn code(self) -> u8 {
        match self {
            Self::Unseen => 0,
            Self::Lost => 1,
            Self::TimedOut => 2,
        }
    }

    const fn of(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Unseen),
            1 => Some(Self::Lost),
            2 => Some(Self::TimedOut),
            _ => None,
        }
    }
}

/// Reads integers from the front.
struct Fields<'a> {
    rest: &'a [u8],
    taken: usize,
}

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        self.taken += N;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn credit(&mut self) -> Option<Ask> {
        Some(Ask::Credit { serial: self.u32()?, limit: self.u64()?, timeout: self.u32()? })
    }

    fn finish(&mut self) -> Option<Ask> {
        Some(Ask::Finish { first: self.u64()?, count: self.u32()? })
    }

    fn requeue(&mut self) -> Option<Ask> {
        Some(Ask::Requeue { sequence: self.u64()?, delay: self.u64()? })
    }

    fn touch(&mut self) -> Option<Ask> {
        Some(Ask::Touch { sequence: self.u64()?, timeout: self.u32()? })
    }

    fn state(&mut self) -> Option<(u32, u64, u64, u8)> {
        Some((self.u32()?, self.u64()?, self.u64()?, self.u8()?))
    }

    fn messages(&mut self) -> Option<Tell> {
        Some(Tell::Messages { count: self.u32()?, len: self.u32()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASKS: [Ask; 6] = [
        Ask::Credit { serial: 7, limit: 0x0102_0304_0506_0708, timeout: 60_000 },
        Ask::Finish { first: 9, count: 3 },
        Ask::Requeue { sequence: 10, delay: 1_500 },
        Ask::Touch { sequence: 11, timeout: 60_000 },
        Ask::GiveBack { sequence: 12, how: GiveBack::TimedOut },
        Ask::GiveBack { sequence: 13, how: GiveBack::Unseen },
    ];
    const TELLS: [Tell; 4] = [
        Tell::Opened { tag: 0xabcd },
        Tell::Absent,
        Tell::Messages { count: 2, len: 70 },
        Tell::State { serial: 7, limit: 100, waiting: 5, served: true },
    ];

    fn open() -> Open {
        let text = str::to_owned;
        let (topic, channel) = (text("orders"), text("mail#ephemeral"));
        Open { generation: 3, topic, channel, host: text("a"), region: text(""), zone: text("z1") }
    }

    #[test]
    fn golden_bytes() {
        let asks: Vec<u8> = ASKS.iter().fold(Vec::new(), |mut out, ask| {
            ask.put(&mut out);
            out
        });
        let golden = b"\x01\x07\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01\x60\xea\0\0\
            \x02\x09\0\0\0\0\0\0\0\x03\0\0\0\
            \x03\x0a\0\0\0\0\0\0\0\xdc\x05\0\0\0\0\0\0\
            \x04\x0b\0\0\0\0\0\0\0\x60\xea\0\0\
            \x05\x0c\0\0\0\0\0\0\0\x02\
            \x05\x0d\0\0\0\0\0\0\0\0";
        assert_eq!(asks, golden);
        let tells: Vec<u8> = TELLS.iter().fold(Vec::new(), |mut out, tell| {
            tell.put(&mut out);
            out
        });
        let golden = b"\x01\xcd\xab\x02\x03\x02\0\0\0\x46\0\0\0\
            \x04\x07\0\0\0\x64\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x01";
        assert_eq!(tells, golden);
        assert_eq!(open().to_bytes(), b"\x03\0\0\0\0\0\0\0\x06orders\x0email#ephemeral\x01a\0\x02z1");
    }

    #[test]
    fn what_was_put_is_read_and_no_prefix_of_it() {
        for ask in ASKS {
            let mut bytes = Vec::new();
            ask.put(&mut bytes);
            assert_eq!(Ask::decode(&bytes), Ok(Some((ask, bytes.len()))));
            (0..bytes.len()).for_each(|cut| assert_eq!(Ask::decode(&bytes[..cut]), Ok(None)));
        }
        for tell in TELLS {
            let mut bytes = Vec::new();
            tell.put(&mut bytes);
            assert_eq!(Tell::decode(&bytes), Ok(Some((tell, bytes.len()))));
            (0..bytes.len()).for_each(|cut| assert_eq!(Tell::decode(&bytes[..cut]), Ok(None)));
        }
        let bytes = open().to_bytes();
        assert_eq!(Open::parse(&bytes), Ok(open()));
        (0..bytes.len()).for_each(|cut| assert_eq!(Open::parse(&bytes[..cut]), Err(InvalidRelay)));
        assert_eq!(Open::parse(&[bytes.as_slice(), &[0]].concat()), Err(InvalidRelay));
    }

    #[test]
    fn what_would_cost_too_much_is_refused_before_it_does() {
        let put = |ask: Ask| {
            let mut bytes = Vec::new();
            ask.put(&mut bytes);
            Ask::decode(&bytes)
        };
        assert_eq!(put(Ask::Finish { first: 0, count: FINISH_MAX + 1 }), Err(InvalidRelay));
        assert_eq!(put(Ask::Finish { first: u64::MAX, count: 1 }), Err(InvalidRelay));
        let mut bytes = Vec::new();
        Tell::Messages { count: 1, len: MESSAGES_MAX + 1 }.put(&mut bytes);
        assert_eq!(Tell::decode(&bytes), Err(InvalidRelay));
        let long = Open { host: "é".repeat(200), ..open() };
        assert_eq!(Open::parse(&long.to_bytes()).map(|open| open.host), Ok("é".repeat(127)));
        assert!(long.to_bytes().len() <= OPEN_MAX);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((ask, taken))) = Ask::decode(&bytes) {
                let mut again = Vec::new();
                ask.put(&mut again);
                prop_assert_eq!(&again, &bytes[..taken]);
            }
            if let Ok(Some((tell, taken))) = Tell::decode(&bytes) {
                let mut again = Vec::new();
                tell.put(&mut again);
                prop_assert_eq!(&again, &bytes[..taken]);
            }
            if let Ok(open) = Open::parse(&bytes) {
                prop_assert_eq!(open.to_bytes(), bytes);
            }
        }
    }
}
