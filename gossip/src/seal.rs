//! Seals datagrams, and opens those of others.
//!
//! ```text
//! version  key     sender   generation  salt     counter     datagram, sealed   tag
//! 1 byte   2       8        1 to 4      4        1 to 6      any                16
//! ```
//!
//! All numbers are big-endian, generation and counter LEB128 in its shortest form. The cipher is
//! ChaCha20-Poly1305, and the header is authenticated with the rest. Each session of each sender has a key of
//! its own, derived by HKDF from the secret, the cluster's name, and sender, generation and salt of the header;
//! the nonce is the counter. So no nonce is ever used twice with one key: a session counts, a restart takes the
//! next generation, and should a data directory be restored from a backup or copied, the salt, which is drawn
//! at each start, differs. `key` names the secret that was used, so that those of a foreign cluster are told
//! from damage without trying.
//!
//! What passes was sealed by a holder of the secret under the sender's name, and is taken once: the rules are
//! those of the module `replay`. A seal does not say for whom a datagram is.

use std::sync::Arc;

use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey},
    hkdf::Prk,
};

use crate::{
    DATAGRAM_MAX, Keyring, NodeId, Secret,
    keyring::name_length,
    replay::{Place, Taken},
};

/// Most bytes that a seal adds to a datagram.
pub const SEAL_OVERHEAD: usize = HEADER_MAX + MAX_TAG_LEN;
/// Most bytes of a sealed datagram; longer ones are not looked at.
pub const SEALED_MAX: usize = DATAGRAM_MAX + SEAL_OVERHEAD;

/// The layout. A change of it takes the next number.
const VERSION: u8 = 1;
/// Version, key, sender, generation, salt and counter.
const HEADER_MAX: usize = 1 + KEY_ID_LEN + 8 + 4 + 4 + 6;
const KEY_ID_LEN: usize = 2;
/// The last generation, of 28 bits: further starts share it, and differ by their salts.
const GENERATION_LAST: u32 = (1 << 28) - 1;
/// The last counter, of 42 bits. A node that sends 10,000 datagrams a second gets there after 13 years, and
/// goes on under the next salt.
const COUNTER_LAST: u64 = (1 << 42) - 1;

/// Seals what a node sends and opens what it receives.
#[derive(Debug)]
pub struct Sealer {
    cluster_name: Arc<str>,
    me: NodeId,
    /// The salt of the first session.
    salt: u32,
    /// Where the next datagram stands among those of this node.
    next: Place,
    /// Seals in this session.
    sending: LessSafeKey,
    used: Key,
    /// The used key and all others that open.
    keys: Vec<Key>,
    taken: Taken,
}

/// A datagram that passed.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'b> {
    /// Who sealed it.
    pub sender: NodeId,
    /// What was sealed.
    pub bytes: &'b [u8],
}

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum SealError {
    /// It is too short, or its header is none.
    #[error("truncated")]
    Truncated,
    /// It has more than [`SEALED_MAX`] bytes.
    #[error("oversized")]
    Oversized,
    /// Its layout is not known: no datagram of a mesh, or of a later version.
    #[error("version")]
    Version,
    /// It was sealed with no secret that is held: another cluster name, or another secret.
    #[error("key")]
    Key,
    /// It was damaged or made up.
    #[error("forged")]
    Forged,
    /// It was taken already, or is of an older life of its sender, or came far too late.
    #[error("replayed")]
    Replayed,
    /// This node sent it itself, now or in an earlier life.
    #[error("reflected")]
    Reflected,
    /// Another process has this node's id: the data directory was copied.
    #[error("same-node")]
    SameNode,
}

impl SealError {
    /// A word for counters.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Oversized => "oversized",
            Self::Version => "version",
            Self::Key => "key",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Reflected => "reflected",
            Self::SameNode => "same-node",
        }
    }
}

impl Sealer {
    /// The sealer of the node `me` in its life `generation`. `salt` is to be random.
    #[must_use]
    pub fn new(cluster_name: &str, keyring: &Keyring, me: NodeId, generation: u64, salt: u32) -> Self {
        let generation = u32::try_from(generation).unwrap_or(u32::MAX).min(GENERATION_LAST);
        let next = Place { generation, salt, counter: 0 };
        let cluster_name = cluster_name.into();
        let used = Key::new(&cluster_name, keyring.used());
        let sending = used.session(me, next);
        let keys = keys(&cluster_name, keyring);
        Self { cluster_name, me, salt, next, sending, used, keys, taken: Taken::new() }
    }

    /// From now on seals with the used secret of `keyring`, and opens what any of its secrets has sealed.
    /// Nothing that was taken is forgotten by it, and the counter goes on, so that a secret may be used again.
    pub fn set_keyring(&mut self, keyring: &Keyring) {
        self.keys = keys(&self.cluster_name, keyring);
        self.used = Key::new(&self.cluster_name, keyring.used());
        self.sending = self.used.session(self.me, self.next);
    }

    /// Puts `datagram`, of at most [`DATAGRAM_MAX`] bytes, sealed into `out`, whatever was in it.
    #[expect(clippy::expect_used, reason = "the cipher only refuses more than 256 GiB")]
    pub fn seal(&mut self, datagram: &[u8], out: &mut Vec<u8>) {
        out.clear();
        let header = Header { key: self.used.id, sender: self.me, place: self.next };
        header.put(out);
        let header_len = out.len();
        out.extend_from_slice(datagram);
        let (header, body) = out.split_at_mut(header_len);
        let nonce = nonce(self.next.counter);
        let tag = self.sending.seal_in_place_separate_tag(nonce, Aad::from(&*header), body);
        out.extend_from_slice(tag.expect("a datagram is short").as_ref());
        self.advance();
    }

    /// Opens `packet` in place.
    ///
    /// # Errors
    /// Why it is to be dropped. Only [`SealError::Replayed`], [`SealError::Reflected`] and
    /// [`SealError::SameNode`] come from a good seal; anybody may cause the others.
    pub fn open<'b>(&mut self, packet: &'b mut [u8]) -> Result<Opened<'b>, SealError> {
        if packet.len() > SEALED_MAX {
            return Err(SealError::Oversized);
        }
        let (header, header_len) = Header::parse(packet)?;
        let (authenticated, sealed) = packet.split_at_mut_checked(header_len).ok_or(SealError::Truncated)?;
        let bytes = self.unseal(&header, authenticated, sealed)?;
        if header.sender == self.me {
            return Err(self.own(header.place));
        }
        if self.taken.take(header.sender, header.place) {
            Ok(Opened { sender: header.sender, bytes })
        } else {
            Err(SealError::Replayed)
        }
    }

    fn unseal<'b>(
        &self,
        header: &Header,
        authenticated: &[u8],
        sealed: &'b mut [u8],
    ) -> Result<&'b [u8], SealError> {
        let mut fitting = self.keys.iter().filter(|key| key.id == header.key);
        let mut key = fitting.next().ok_or(SealError::Key)?;
        for other in fitting {
            // Two secrets share an id, which is rare. A failure spoils the bytes, so a copy is tried.
            if key.unseal(header, authenticated, &mut sealed.to_vec()).is_ok() {
                break;
            }
            key = other;
        }
        key.unseal(header, authenticated, sealed)
    }

    /// What a datagram under this node's own name means.
    fn own(&self, place: Place) -> SealError {
        let sessions = self.next.salt.wrapping_sub(self.salt);
        let mine = place.generation == self.next.generation && place.salt.wrapping_sub(self.salt) <= sessions;
        // An older life may be a record of this node's own, played back. If it is a copy of the node instead,
        // that one sees a newer life, and says so.
        if mine || place.generation < self.next.generation {
            SealError::Reflected
        } else {
            SealError::SameNode
        }
    }

    fn advance(&mut self) {
        if self.next.counter < COUNTER_LAST {
            self.next.counter += 1;
        } else {
            self.next.salt = self.next.salt.wrapping_add(1);
            self.next.counter = 0;
            self.sending = self.used.session(self.me, self.next);
        }
    }
}

/// What one secret gives in this cluster.
#[derive(Debug)]
struct Key {
    id: [u8; KEY_ID_LEN],
    expands: Prk,
    cluster_name: Arc<str>,
}

impl Key {
    fn new(cluster_name: &Arc<str>, secret: &Secret) -> Self {
        let id = secret.derive(cluster_name, "datagrams: id").first_chunk().copied().unwrap_or_default();
        Self { id, expands: secret.extract(), cluster_name: Arc::clone(cluster_name) }
    }

    /// The key of a session.
    #[expect(clippy::expect_used, reason = "a key has fewer bytes than HKDF can give")]
    fn session(&self, sender: NodeId, place: Place) -> LessSafeKey {
        let length = name_length(&self.cluster_name);
        let sender = sender.bits().to_be_bytes();
        let (generation, salt) = (place.generation.to_be_bytes(), place.salt.to_be_bytes());
        let purpose: [&[u8]; 6] =
            [&length, self.cluster_name.as_bytes(), b"datagrams: session", &sender, &generation, &salt];
        let material = self.expands.expand(&purpose, &CHACHA20_POLY1305);
        LessSafeKey::new(UnboundKey::from(material.expect("a key is short")))
    }

    fn unseal<'b>(
        &self,
        header: &Header,
        authenticated: &[u8],
        sealed: &'b mut [u8],
    ) -> Result<&'b [u8], SealError> {
        let key = self.session(header.sender, header.place);
        let opened = key.open_in_place(nonce(header.place.counter), Aad::from(authenticated), sealed);
        opened.map(|bytes| &*bytes).map_err(|_| SealError::Forged)
    }
}

fn keys(cluster_name: &Arc<str>, keyring: &Keyring) -> Vec<Key> {
    keyring.held().map(|(secret, _)| Key::new(cluster_name, secret)).collect()
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    if let Some(end) = nonce.last_chunk_mut() {
        *end = counter.to_be_bytes();
    }
    Nonce::assume_unique_for_key(nonce)
}

/// What stands open before the sealed bytes.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    key: [u8; KEY_ID_LEN],
    sender: NodeId,
    place: Place,
}

impl Header {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.key);
        out.extend_from_slice(&self.sender.bits().to_be_bytes());
        put_number(out, self.place.generation.into());
        out.extend_from_slice(&self.place.salt.to_be_bytes());
        put_number(out, self.place.counter);
    }

    /// Reads the header of a packet, and how long it is.
    fn parse(packet: &[u8]) -> Result<(Self, usize), SealError> {
        let (version, rest) = packet.split_first().ok_or(SealError::Truncated)?;
        if *version != VERSION {
            return Err(SealError::Version);
        }
        let (key, rest) = rest.split_first_chunk().ok_or(SealError::Truncated)?;
        let (sender, rest) = rest.split_first_chunk().ok_or(SealError::Truncated)?;
        let (generation, rest) = take_number(rest, GENERATION_LAST.into())?;
        let (salt, rest) = rest.split_first_chunk().ok_or(SealError::Truncated)?;
        let (counter, rest) = take_number(rest, COUNTER_LAST)?;
        if rest.len() < MAX_TAG_LEN {
            return Err(SealError::Truncated);
        }
        let generation = u32::try_from(generation).map_err(|_| SealError::Truncated)?;
        let place = Place { generation, salt: u32::from_be_bytes(*salt), counter };
        let header = Self { key: *key, sender: NodeId::new(u64::from_be_bytes(*sender)), place };
        Ok((header, packet.len() - rest.len()))
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a number of at most `last`, in its shortest form.
fn take_number(bytes: &[u8], last: u64) -> Result<(u64, &[u8]), SealError> {
    let (mut number, mut shift, mut rest) = (0, 0, bytes);
    loop {
        let (byte, behind) = rest.split_first().ok_or(SealError::Truncated)?;
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        rest = behind;
        if byte & 0x80 == 0 {
            let shortest = *byte != 0 || shift == 7;
            return if shortest && number <= last { Ok((number, rest)) } else { Err(SealError::Truncated) };
        }
        if last >> shift == 0 {
            return Err(SealError::Truncated);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: NodeId = NodeId::new(0x0123_4567_89ab_cdef);
    const B: NodeId = NodeId::new(2);

    fn keyring(number: u8) -> Keyring {
        Keyring::new(Secret::new([number; 32]))
    }

    fn sealer(me: NodeId) -> Sealer {
        Sealer::new("bruit", &keyring(1), me, 300, 0xdead_beef)
    }

    fn seal(sealer: &mut Sealer, datagram: &[u8]) -> Vec<u8> {
        let mut out = b"left over".to_vec();
        sealer.seal(datagram, &mut out);
        out
    }

    /// Opens without keeping the bytes.
    fn open(sealer: &mut Sealer, packet: &[u8]) -> Result<(NodeId, Vec<u8>), SealError> {
        let mut packet = packet.to_vec();
        sealer.open(&mut packet).map(|opened| (opened.sender, opened.bytes.to_vec()))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    // The bytes are those that a program without any of this code computed from RFC 5869 and RFC 8439.
    #[test]
    fn golden_packets() {
        let mut a = sealer(A);
        let (first, second) = (seal(&mut a, b"hello"), seal(&mut a, b"hello"));
        assert_eq!(
            hex(&first),
            "013ef90123456789abcdefac02deadbeef00b8d4de66099197d89fc03e28f433c6be998ae00078"
        );
        assert_eq!(
            hex(&second),
            "013ef90123456789abcdefac02deadbeef017a9d3a2c5bfb436ef08472fc9dc8341f86cb7a76a4"
        );
        let mut b = sealer(B);
        assert_eq!(open(&mut b, &second), Ok((A, b"hello".to_vec())));
        assert_eq!(open(&mut b, &first), Ok((A, b"hello".to_vec())));
    }

    #[test]
    fn the_largest_datagram_fits_and_one_byte_more_is_not_looked_at() {
        let mut a = Sealer::new("bruit", &keyring(1), A, u64::MAX, u32::MAX);
        a.next.counter = COUNTER_LAST;
        let largest = seal(&mut a, &[7; DATAGRAM_MAX]);
        assert_eq!((largest.len(), SEAL_OVERHEAD), (SEALED_MAX, 41));
        assert_eq!(open(&mut sealer(B), &largest), Ok((A, vec![7; DATAGRAM_MAX])));
        let larger = seal(&mut a, &[7; SEALED_MAX]);
        assert_eq!(open(&mut sealer(B), &larger), Err(SealError::Oversized));
        let empty = seal(&mut a, b"");
        assert_eq!(open(&mut sealer(B), &empty), Ok((A, Vec::new())));
    }

    #[test]
    fn no_bit_can_be_changed_and_no_byte_cut_or_added() {
        let mut b = sealer(B);
        let packet = seal(&mut sealer(A), b"hello");
        for place in 0..packet.len() * 8 {
            let mut changed = packet.clone();
            changed[place / 8] ^= 1 << (place % 8);
            let expected: &[SealError] = match place / 8 {
                0 => &[SealError::Version],
                1 | 2 => &[SealError::Key],
                _ => &[SealError::Forged, SealError::Truncated],
            };
            let error = open(&mut b, &changed).unwrap_err();
            assert!(expected.contains(&error), "bit {place}: {error}");
        }
        for cut in 0..packet.len() {
            let error = open(&mut b, &packet[..cut]).unwrap_err();
            assert!(matches!(error, SealError::Truncated | SealError::Forged), "{cut}: {error}");
        }
        assert_eq!(open(&mut b, &[&packet[..], b"!"].concat()), Err(SealError::Forged));
        assert!(open(&mut b, &packet).is_ok(), "none of these attempts used its number up");
    }

    #[test]
    fn nothing_is_taken_twice_and_nothing_of_an_older_life() {
        let (mut a, mut b) = (sealer(A), sealer(B));
        let packets: Vec<_> = (0..5).map(|_| seal(&mut a, b"x")).collect();
        for packet in packets.iter().rev() {
            assert!(open(&mut b, packet).is_ok());
            assert_eq!(open(&mut b, packet), Err(SealError::Replayed));
        }
        let unseen = seal(&mut a, b"x");
        let mut restarted = Sealer::new("bruit", &keyring(1), A, 301, 0xdead_beef);
        assert!(open(&mut b, &seal(&mut restarted, b"y")).is_ok());
        assert_eq!(open(&mut b, &unseen), Err(SealError::Replayed));
    }

    #[test]
    fn a_node_knows_its_own_packets_from_those_of_its_copy() {
        let mut a = sealer(A);
        let mine = seal(&mut a, b"x");
        assert_eq!(open(&mut a, &mine), Err(SealError::Reflected));
        assert_eq!(open(&mut sealer(A), &mine), Err(SealError::Reflected));
        let mut copy = Sealer::new("bruit", &keyring(1), A, 300, 5);
        assert_eq!(open(&mut a, &seal(&mut copy, b"x")), Err(SealError::SameNode));
        let mut restarted = Sealer::new("bruit", &keyring(1), A, 301, 6);
        assert_eq!(open(&mut a, &seal(&mut restarted, b"x")), Err(SealError::SameNode));
        assert_eq!(open(&mut restarted, &mine), Err(SealError::Reflected), "an older life");
        let mut changed = seal(&mut copy, b"x");
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(open(&mut a, &changed), Err(SealError::Forged), "anybody can write this id");
        // To others both are the same node, each with its own numbers.
        let mut b = sealer(B);
        assert!(open(&mut b, &mine).is_ok() && open(&mut b, &seal(&mut copy, b"x")).is_ok());
    }

    #[test]
    fn another_cluster_name_or_secret_is_foreign() {
        let packet = seal(&mut sealer(A), b"x");
        let mut named = Sealer::new("other", &keyring(1), B, 1, 1);
        let mut secret = Sealer::new("bruit", &keyring(2), B, 1, 1);
        let mut none = Sealer::new("bruit", &Keyring::open(), B, 1, 1);
        for stranger in [&mut named, &mut secret, &mut none] {
            assert_eq!(open(stranger, &packet), Err(SealError::Key));
            assert_eq!(open(&mut sealer(A), &seal(stranger, b"y")), Err(SealError::Key));
        }
        let mut open_too = Sealer::new("bruit", &Keyring::open(), A, 1, 1);
        assert!(open(&mut none, &seal(&mut open_too, b"x")).is_ok());
    }

    #[test]
    fn a_rotation_never_makes_a_node_deaf() {
        let (old, new) = (keyring(1), Secret::new([2; 32]));
        let (mut a, mut b) = (sealer(A), sealer(B));
        let mut held = old.clone();
        held.install(new.clone()).unwrap();
        let mut used = held.clone();
        used.use_(new.fingerprint()).unwrap();
        let steps = [(&old, &held), (&held, &held), (&used, &held), (&held, &used), (&used, &used)];
        for (at_a, at_b) in steps {
            a.set_keyring(at_a);
            b.set_keyring(at_b);
            let (of_a, of_b) = (seal(&mut a, b"x"), seal(&mut b, b"y"));
            assert!(open(&mut b, &of_a).is_ok() && open(&mut a, &of_b).is_ok());
            assert_eq!(open(&mut b, &of_a), Err(SealError::Replayed));
        }
        let before = seal(&mut a, b"x");
        a.set_keyring(&old);
        let with_the_old_key = seal(&mut a, b"x");
        b.set_keyring(&Keyring::new(new));
        assert_eq!(open(&mut b, &with_the_old_key), Err(SealError::Key));
        assert!(open(&mut b, &before).is_ok());
    }

    #[test]
    fn secrets_whose_ids_collide_both_open() {
        let (mut a, mut b) = (sealer(A), sealer(B));
        let foreign = Key::new(&"bruit".into(), &Secret::new([3; 32]));
        b.keys.insert(0, Key { id: a.used.id, ..foreign });
        let packet = seal(&mut a, b"x");
        assert!(open(&mut b, &packet).is_ok());
        let mut changed = seal(&mut a, b"x");
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(open(&mut b, &changed), Err(SealError::Forged));
    }

    #[test]
    fn a_session_that_has_run_out_of_numbers_goes_on_in_the_next() {
        let (mut a, mut b) = (sealer(A), sealer(B));
        a.next.counter = COUNTER_LAST;
        let (last, first) = (seal(&mut a, b"x"), seal(&mut a, b"x"));
        assert_eq!(a.next, Place { generation: 300, salt: 0xdead_bef0, counter: 1 });
        for packet in [&last, &first] {
            assert_eq!(open(&mut a, packet), Err(SealError::Reflected));
            assert!(open(&mut b, packet).is_ok());
            assert_eq!(open(&mut b, packet), Err(SealError::Replayed));
        }
    }

    #[test]
    fn numbers_have_one_spelling_and_an_end() {
        for number in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::from(GENERATION_LAST), COUNTER_LAST] {
            let mut bytes = Vec::new();
            put_number(&mut bytes, number);
            assert_eq!(take_number(&bytes, COUNTER_LAST), Ok((number, &[][..])));
        }
        for bad in [&[0x80, 0][..], &[0x80], &[], &[0xff; 6], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            assert_eq!(take_number(bad, COUNTER_LAST), Err(SealError::Truncated), "{bad:?}");
        }
        assert!(take_number(&[0x80, 0x80, 0x80, 0x80, 1], GENERATION_LAST.into()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_dropped(mut bytes in prop::collection::vec(any::<u8>(), 0..1300), like in any::<bool>()) {
            let mut b = sealer(B);
            if like && bytes.len() > 3 {
                bytes[0] = VERSION;
                bytes[1..3].copy_from_slice(&b.used.id);
            }
            prop_assert!(b.open(&mut bytes).is_err());
        }

        #[test]
        fn any_datagram_comes_back(
            datagram in prop::collection::vec(any::<u8>(), 0..=DATAGRAM_MAX), me in any::<u64>(),
            generation in any::<u64>(), salt in any::<u32>(), counter in 0..=COUNTER_LAST,
        ) {
            prop_assume!(me != B.bits());
            let mut a = Sealer::new("bruit", &keyring(1), NodeId::new(me), generation, salt);
            a.next.counter = counter;
            let packet = seal(&mut a, &datagram);
            prop_assert!(packet.len() <= datagram.len() + SEAL_OVERHEAD);
            prop_assert_eq!(open(&mut sealer(B), &packet), Ok((NodeId::new(me), datagram)));
        }
    }
}
