//! How members and foca's packets are written: as short as they get, since they travel every second.
//!
//! A [`Peer`] over IPv4 takes 17 bytes, an update 19, a ping with its header 40.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};

use crate::{NodeId, Peer};

/// Bytes that are no member, or no room for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// Not what any node writes.
    #[error("malformed")]
    Malformed,
    /// The datagram is full.
    #[error("no room")]
    NoRoom,
}

/// First bytes of packets that are told apart before foca writes or reads them.
pub(crate) const PING: u8 = 0;
pub(crate) const ANNOUNCE: u8 = 6;
pub(crate) const GOSSIP: u8 = 8;
pub(crate) const TURN_UNDEAD: u8 = 10;

/// foca's codec. The scratch space saves an allocation per member.
#[derive(Debug, Default)]
pub(crate) struct PeerCodec {
    scratch: Vec<u8>,
}

impl PeerCodec {
    fn flush(&self, mut buf: impl BufMut) -> Result<(), CodecError> {
        // `put_slice` panics where there is no room, and foca offers what is left of a datagram.
        if buf.remaining_mut() < self.scratch.len() {
            return Err(CodecError::NoRoom);
        }
        buf.put_slice(&self.scratch);
        Ok(())
    }
}

impl foca::Codec<Peer> for PeerCodec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Peer>, buf: impl BufMut) -> Result<(), CodecError> {
        self.scratch.clear();
        put_header(&mut self.scratch, header);
        self.flush(buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Peer>, CodecError> {
        decode(buf, take_header)
    }

    fn encode_member(&mut self, member: &Member<Peer>, buf: impl BufMut) -> Result<(), CodecError> {
        self.scratch.clear();
        put_member(&mut self.scratch, member);
        self.flush(buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Peer>, CodecError> {
        decode(buf, take_member)
    }
}

fn decode<T>(mut buf: impl Buf, take: fn(&mut &[u8]) -> Option<T>) -> Result<T, CodecError> {
    let mut rest = buf.chunk();
    let before = rest.len();
    let taken = take(&mut rest).ok_or(CodecError::Malformed)?;
    let used = before - rest.len();
    buf.advance(used);
    Ok(taken)
}

pub(crate) fn put_header(out: &mut Vec<u8>, header: &Header<Peer>) {
    let tag = match &header.message {
        Message::Ping(_) => PING,
        Message::Ack(_) => 1,
        Message::PingReq { .. } => 2,
        Message::IndirectPing { .. } => 3,
        Message::IndirectAck { .. } => 4,
        Message::ForwardedAck { .. } => 5,
        Message::Announce => ANNOUNCE,
        Message::Feed => 7,
        Message::Gossip => GOSSIP,
        Message::Broadcast => 9,
        Message::TurnUndead => TURN_UNDEAD,
    };
    out.push(tag);
    put_peer(out, &header.src);
    put_varint(out, header.src_incarnation.into());
    put_peer(out, &header.dst);
    match &header.message {
        Message::Ping(number) | Message::Ack(number) => out.push(*number),
        Message::PingReq { target: other, probe_number }
        | Message::IndirectPing { origin: other, probe_number }
        | Message::IndirectAck { target: other, probe_number }
        | Message::ForwardedAck { origin: other, probe_number } => {
            put_peer(out, other);
            out.push(*probe_number);
        }
        Message::Announce | Message::Feed | Message::Gossip | Message::Broadcast | Message::TurnUndead => {}
    }
}

pub(crate) fn take_header(rest: &mut &[u8]) -> Option<Header<Peer>> {
    let tag = take_byte(rest)?;
    let src = take_peer(rest)?;
    let src_incarnation = take_varint(rest)?.try_into().ok()?;
    let dst = take_peer(rest)?;
    let message = match tag {
        PING => Message::Ping(take_byte(rest)?),
        1 => Message::Ack(take_byte(rest)?),
        2 => Message::PingReq { target: take_peer(rest)?, probe_number: take_byte(rest)? },
        3 => Message::IndirectPing { origin: take_peer(rest)?, probe_number: take_byte(rest)? },
        4 => Message::IndirectAck { target: take_peer(rest)?, probe_number: take_byte(rest)? },
        5 => Message::ForwardedAck { origin: take_peer(rest)?, probe_number: take_byte(rest)? },
        ANNOUNCE => Message::Announce,
        7 => Message::Feed,
        GOSSIP => Message::Gossip,
        9 => Message::Broadcast,
        TURN_UNDEAD => Message::TurnUndead,
        _ => return None,
    };
    Some(Header { src, src_incarnation, dst, message })
}

pub(crate) fn put_member(out: &mut Vec<u8>, member: &Member<Peer>) {
    out.push(match member.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
    put_varint(out, member.incarnation().into());
    put_peer(out, member.id());
}

pub(crate) fn take_member(rest: &mut &[u8]) -> Option<Member<Peer>> {
    let state = match take_byte(rest)? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        _ => return None,
    };
    let incarnation = take_varint(rest)?.try_into().ok()?;
    Some(Member::new(take_peer(rest)?, incarnation, state))
}

/// No node starts so often. Whoever claims it must not keep others from outranking him.
const GENERATION_MAX: u64 = 1 << 48;
const IPV6: u8 = 1;
/// The mesh port is the one after the gossip port, as by default.
const NEXT_PORT: u8 = 2;

pub(crate) fn put_peer(out: &mut Vec<u8>, peer: &Peer) {
    let next = peer.gossip.port().checked_add(1) == Some(peer.mesh_port);
    let mut flags = if next { NEXT_PORT } else { 0 };
    if peer.gossip.is_ipv6() {
        flags |= IPV6;
    }
    out.push(flags);
    out.extend_from_slice(&peer.id.bits().to_le_bytes());
    put_varint(out, peer.generation);
    put_varint(out, peer.renewal.into());
    match peer.gossip.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&peer.gossip.port().to_le_bytes());
    if !next {
        out.extend_from_slice(&peer.mesh_port.to_le_bytes());
    }
}

/// Reads a member; `None` also for addresses to which nobody could send.
pub(crate) fn take_peer(rest: &mut &[u8]) -> Option<Peer> {
    let flags = take_byte(rest)?;
    if flags & !(IPV6 | NEXT_PORT) != 0 {
        return None;
    }
    let id = NodeId::new(u64::from_le_bytes(take(rest)?));
    let generation = take_varint(rest)?;
    if generation > GENERATION_MAX {
        return None;
    }
    let renewal = take_varint(rest)?.try_into().ok()?;
    let ip: IpAddr = match flags & IPV6 {
        0 => Ipv4Addr::from(take::<4>(rest)?).into(),
        _ => Ipv6Addr::from(take::<16>(rest)?).into(),
    };
    let port = u16::from_le_bytes(take(rest)?);
    let mesh_port = match flags & NEXT_PORT {
        0 => u16::from_le_bytes(take(rest)?),
        _ => port.checked_add(1)?,
    };
    if ip.is_unspecified() || ip.is_multicast() || port == 0 {
        return None;
    }
    Some(Peer { id, generation, renewal, gossip: SocketAddr::new(ip, port), mesh_port })
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// At most ten bytes; `None` where they are missing or say more than 64 bits.
pub(crate) fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(rest)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

pub(crate) fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (&byte, after) = rest.split_first()?;
    *rest = after;
    Some(byte)
}

pub(crate) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*bytes)
}

/// The next `len` bytes.
pub(crate) fn take_slice<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_peer() -> impl Strategy<Value = Peer> {
        let ip = prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
        ];
        (any::<u64>(), 0..=GENERATION_MAX, any::<u32>(), ip, 1..=u16::MAX, any::<u16>(), any::<bool>())
            .prop_filter("an address to send to", |(_, _, _, ip, ..)| {
                !ip.is_unspecified() && !ip.is_multicast()
            })
            .prop_map(|(id, generation, renewal, ip, port, other, next)| Peer {
                id: NodeId::new(id),
                generation,
                renewal,
                gossip: SocketAddr::new(ip, port),
                mesh_port: if next { port.wrapping_add(1) } else { other },
            })
    }

    fn any_message() -> impl Strategy<Value = Message<Peer>> {
        (0..11, any_peer(), any::<u8>()).prop_map(|(tag, peer, probe_number)| match tag {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: peer, probe_number },
            3 => Message::IndirectPing { origin: peer, probe_number },
            4 => Message::IndirectAck { target: peer, probe_number },
            5 => Message::ForwardedAck { origin: peer, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            _ => Message::TurnUndead,
        })
    }

    proptest! {
        #[test]
        fn headers_come_back(src in any_peer(), dst in any_peer(), src_incarnation: u16, message in any_message()) {
            let header = Header { src, src_incarnation, dst, message };
            let mut bytes = Vec::new();
            put_header(&mut bytes, &header);
            let mut rest = &bytes[..];
            prop_assert_eq!(take_header(&mut rest), Some(header));
            prop_assert!(rest.is_empty());
            for cut in 0..bytes.len() {
                prop_assert_eq!(take_header(&mut &bytes[..cut]), None);
            }
        }

        #[test]
        fn members_come_back(peer in any_peer(), incarnation: u16, state in 0..3) {
            let state = [State::Alive, State::Suspect, State::Down][state as usize];
            let member = Member::new(peer, incarnation, state);
            let mut bytes = Vec::new();
            put_member(&mut bytes, &member);
            prop_assert_eq!(take_member(&mut &bytes[..]), Some(member));
        }

        #[test]
        fn numbers_come_back(number: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            prop_assert_eq!(take_varint(&mut &bytes[..]), Some(number));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes: Vec<u8>) {
            take_header(&mut &bytes[..]);
            take_member(&mut &bytes[..]);
            take_varint(&mut &bytes[..]);
        }
    }

    #[test]
    fn nobody_claims_more_lives_than_can_be_outranked() {
        let gossip = "10.0.0.1:4160".parse().unwrap();
        let peer =
            Peer { id: NodeId::new(7), generation: GENERATION_MAX + 1, renewal: 0, gossip, mesh_port: 4161 };
        let mut bytes = Vec::new();
        put_peer(&mut bytes, &peer);
        assert_eq!(take_peer(&mut &bytes[..]), None);
    }

    #[test]
    fn a_member_is_short_and_its_address_can_be_sent_to() {
        let peer = Peer {
            id: NodeId::new(7),
            generation: 3,
            renewal: 0,
            gossip: "10.0.0.1:4160".parse().unwrap(),
            mesh_port: 4161,
        };
        let mut bytes = Vec::new();
        put_peer(&mut bytes, &peer);
        assert_eq!(bytes.len(), 17);
        for address in ["0.0.0.0:1", "224.0.0.1:1", "10.0.0.1:0", "[::]:1"] {
            let mut bytes = Vec::new();
            put_peer(&mut bytes, &Peer { gossip: address.parse().unwrap(), ..peer });
            assert_eq!(take_peer(&mut &bytes[..]), None, "{address}");
        }
    }
}
