//! What a datagram holds: one of a few kinds, each with room for news.
//!
//! ```text
//! version 1 | kind | content
//! kind 0, swim:   u16 length, foca's packet, news to the end
//! kind 1, news:   news to the end
//! kind 2, look:   nonce, whom it is for, whether he is suspected and in which incarnation
//! kind 3, looked: nonce, who answers, in which incarnation
//! kind 4, revive: who is taken for dead
//! a piece of news: u16 length, tag, content
//! ```

use bytes::Bytes;
use foca::Incarnation;

use crate::{
    NodeId, Peer,
    codec::{put_peer, put_varint, take, take_byte, take_peer, take_slice, take_varint},
    event::DATAGRAM_MAX,
};

const VERSION: u8 = 1;
/// Longest piece of news, with its tag.
pub(crate) const ITEM_MAX: usize = 420;

/// A datagram as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Datagram<'a> {
    /// foca's packet, with our news behind it.
    Swim { packet: &'a [u8], items: Items<'a> },
    /// Nothing but news.
    News(Items<'a>),
    /// Somebody asks whether this very node is there.
    Look(Look),
    /// The answer.
    Looked { nonce: u32, peer: Peer, incarnation: Incarnation },
    /// Somebody, somewhere, takes this node for dead, and it is not.
    Revive(Peer),
}

/// A question outside of foca's probes, about one suspicion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Comes back in the answer.
    pub(crate) nonce: u32,
    /// Who is asked.
    pub(crate) subject: Peer,
    /// Set if he is suspected, so that he hears of it from the first that can reach him.
    pub(crate) suspected: Option<Incarnation>,
}

impl<'a> Datagram<'a> {
    /// Reads a datagram; `None` if no node of this version wrote it.
    pub(crate) fn parse(mut bytes: &'a [u8]) -> Option<Self> {
        let rest = &mut bytes;
        if take_byte(rest)? != VERSION {
            return None;
        }
        let datagram = match take_byte(rest)? {
            0 => {
                let len = u16::from_le_bytes(take(rest)?);
                let packet = take_slice(rest, len.into())?;
                return Some(Self::Swim { packet, items: Items { rest } });
            }
            1 => return Some(Self::News(Items { rest })),
            2 => {
                let nonce = u32::from_le_bytes(take(rest)?);
                let suspected = match take_byte(rest)? {
                    0 => None,
                    _ => Some(take_varint(rest)?.try_into().ok()?),
                };
                Self::Look(Look { nonce, suspected, subject: take_peer(rest)? })
            }
            3 => {
                let nonce = u32::from_le_bytes(take(rest)?);
                let incarnation = take_varint(rest)?.try_into().ok()?;
                Self::Looked { nonce, incarnation, peer: take_peer(rest)? }
            }
            4 => Self::Revive(take_peer(rest)?),
            _ => return None,
        };
        rest.is_empty().then_some(datagram)
    }
}

pub(crate) fn look(look: &Look) -> Bytes {
    let mut out = vec![VERSION, 2];
    out.extend_from_slice(&look.nonce.to_le_bytes());
    match look.suspected {
        None => out.push(0),
        Some(incarnation) => {
            out.push(1);
            put_varint(&mut out, incarnation.into());
        }
    }
    put_peer(&mut out, &look.subject);
    out.into()
}

pub(crate) fn looked(nonce: u32, peer: &Peer, incarnation: Incarnation) -> Bytes {
    let mut out = vec![VERSION, 3];
    out.extend_from_slice(&nonce.to_le_bytes());
    put_varint(&mut out, incarnation.into());
    put_peer(&mut out, peer);
    out.into()
}

pub(crate) fn revive(peer: &Peer) -> Bytes {
    let mut out = vec![VERSION, 4];
    put_peer(&mut out, peer);
    out.into()
}

/// A datagram in the making, of the kinds that carry news.
#[derive(Debug)]
pub(crate) struct Builder {
    bytes: Vec<u8>,
    start: usize,
}

impl Builder {
    pub(crate) fn swim(packet: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(DATAGRAM_MAX);
        bytes.extend_from_slice(&[VERSION, 0]);
        bytes.extend_from_slice(&(packet.len() as u16).to_le_bytes());
        bytes.extend_from_slice(packet);
        let start = bytes.len();
        Self { bytes, start }
    }

    pub(crate) fn news() -> Self {
        let mut bytes = Vec::with_capacity(DATAGRAM_MAX);
        bytes.extend_from_slice(&[VERSION, 1]);
        Self { bytes, start: 2 }
    }

    /// How long a piece of news may be to fit.
    pub(crate) const fn room(&self) -> usize {
        DATAGRAM_MAX.saturating_sub(self.bytes.len()).saturating_sub(2)
    }

    /// Adds a piece of news, which has to fit.
    pub(crate) fn push(&mut self, item: &[u8]) {
        debug_assert!(item.len() <= self.room());
        self.bytes.extend_from_slice(&(item.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(item);
    }

    /// Whether it carries any news.
    pub(crate) const fn has_news(&self) -> bool {
        self.bytes.len() > self.start
    }

    pub(crate) fn finish(self) -> Bytes {
        self.bytes.into()
    }
}

/// The news of a datagram, one after the other. Ends early where they are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Items<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let len = u16::from_le_bytes(take(&mut self.rest)?);
        take_slice(&mut self.rest, len.into())
    }
}

/// A piece of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// For the catalogue, which alone understands it.
    Catalogue(&'a [u8]),
    /// A node could not reach another one. Each such word makes it likelier that this is not the accuser's fault.
    Accuse { accuser: NodeId, subject: Peer, incarnation: Incarnation },
    /// A node has gone because it was told to.
    Left(Peer),
    /// What the sender knows in two numbers, never passed on.
    Summary { members: u64, catalogue: u64 },
}

impl<'a> Item<'a> {
    pub(crate) fn parse(mut bytes: &'a [u8]) -> Option<Self> {
        let rest = &mut bytes;
        let item = match take_byte(rest)? {
            0 => return Some(Self::Catalogue(rest)),
            1 => Self::Accuse {
                accuser: NodeId::new(u64::from_le_bytes(take(rest)?)),
                incarnation: take_varint(rest)?.try_into().ok()?,
                subject: take_peer(rest)?,
            },
            2 => Self::Left(take_peer(rest)?),
            3 => Self::Summary {
                members: u64::from_le_bytes(take(rest)?),
                catalogue: u64::from_le_bytes(take(rest)?),
            },
            _ => return None,
        };
        rest.is_empty().then_some(item)
    }

    pub(crate) fn to_bytes(self) -> Bytes {
        let mut out = Vec::with_capacity(32);
        match self {
            Self::Catalogue(bytes) => {
                out.push(0);
                out.extend_from_slice(bytes);
            }
            Self::Accuse { accuser, subject, incarnation } => {
                out.push(1);
                out.extend_from_slice(&accuser.bits().to_le_bytes());
                put_varint(&mut out, incarnation.into());
                put_peer(&mut out, &subject);
            }
            Self::Left(peer) => {
                out.push(2);
                put_peer(&mut out, &peer);
            }
            Self::Summary { members, catalogue } => {
                out.push(3);
                out.extend_from_slice(&members.to_le_bytes());
                out.extend_from_slice(&catalogue.to_le_bytes());
            }
        }
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer() -> Peer {
        Peer {
            id: NodeId::new(9),
            generation: 300,
            renewal: 2,
            gossip: "[fe80::1]:4160".parse().unwrap(),
            mesh_port: 9000,
        }
    }

    #[test]
    fn every_kind_comes_back() {
        let mut builder = Builder::swim(b"packet");
        assert!(!builder.has_news());
        let items = [
            Item::Catalogue(b"anything"),
            Item::Accuse { accuser: NodeId::new(1), subject: peer(), incarnation: 900 },
            Item::Left(peer()),
            Item::Summary { members: 1, catalogue: u64::MAX },
        ];
        for item in items {
            builder.push(&item.to_bytes());
        }
        assert!(builder.has_news());
        let bytes = builder.finish();
        let Some(Datagram::Swim { packet: b"packet", items: read }) = Datagram::parse(&bytes) else {
            panic!("{bytes:?}");
        };
        let read: Vec<_> = read.map(|item| Item::parse(item).unwrap()).collect();
        assert_eq!(read, items);
        for suspected in [None, Some(500)] {
            let asked = Look { nonce: 77, subject: peer(), suspected };
            assert_eq!(Datagram::parse(&look(&asked)), Some(Datagram::Look(asked)));
        }
        let answer = Datagram::Looked { nonce: 3, peer: peer(), incarnation: 4 };
        assert_eq!(Datagram::parse(&looked(3, &peer(), 4)), Some(answer));
        assert_eq!(Datagram::parse(&revive(&peer())), Some(Datagram::Revive(peer())));
    }

    #[test]
    fn a_datagram_is_filled_to_its_last_byte_and_no_further() {
        let mut builder = Builder::news();
        builder.push(&[0; 100]);
        let room = builder.room();
        builder.push(&vec![0; room]);
        assert_eq!(builder.room(), 0);
        assert_eq!(builder.finish().len(), DATAGRAM_MAX);
    }

    #[test]
    fn what_is_cut_or_of_another_version_is_no_datagram() {
        let bytes = look(&Look { nonce: 77, subject: peer(), suspected: Some(1) });
        for cut in 0..bytes.len() {
            assert_eq!(Datagram::parse(&bytes[..cut]), None, "cut at {cut}");
        }
        let mut other = bytes.to_vec();
        other[0] = 2;
        assert_eq!(Datagram::parse(&other), None);
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(Datagram::parse(&longer), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(mut bytes: Vec<u8>, kind in 0u8..6) {
            bytes.splice(0..0, [VERSION, kind]);
            if let Some(Datagram::Swim { items, .. } | Datagram::News(items)) = Datagram::parse(&bytes) {
                items.for_each(|item| {
                    Item::parse(item);
                });
            }
        }
    }
}
