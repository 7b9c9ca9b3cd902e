use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, ServerName},
};

use super::*;

const GREETING: &[u8] = b"hello";

/// A node's TLS and a client's that trusts it, of one version or of any.
fn pair(versions: &[&'static rustls::SupportedProtocolVersion]) -> (ServerConnection, ClientConnection) {
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["node".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let server = ServerConfig::builder_with_provider(Arc::clone(&crypto))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(crypto)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("node").unwrap();
    let client = ClientConnection::new(Arc::new(client), name).unwrap();
    (ServerConnection::new(Arc::new(server)).unwrap(), client)
}

/// The client's end: its own layers, and what it has read so far.
struct Peer {
    tls: Option<ClientConnection>,
    packing: Option<(Packer, Unpacker)>,
    greeted: bool,
    plain: Vec<u8>,
}

impl Peer {
    fn new(mut tls: Option<ClientConnection>, compression: Option<Compression>) -> Self {
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(None);
        }
        let packing = compression.map(|how| (Packer::new(how), Unpacker::new(how)));
        Self { greeted: tls.is_none(), tls, packing, plain: Vec::new() }
    }

    /// Sends bytes that the node can read at once; returns what goes to its socket.
    fn send(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        match &mut self.packing {
            Some((packer, _)) => {
                packer.put(plain, &mut bytes);
                packer.flush(&mut bytes);
            }
            None => bytes.extend_from_slice(plain),
        }
        let Some(tls) = &mut self.tls else { return bytes };
        tls.writer().write_all(&bytes).unwrap();
        self.say()
    }

    /// What its TLS has to say.
    fn say(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut bytes).unwrap();
            }
        }
        bytes
    }

    fn receive(&mut self, bytes: &[u8]) {
        let mut inner = Vec::new();
        match &mut self.tls {
            None => inner.extend_from_slice(bytes),
            Some(tls) => {
                let mut bytes = bytes;
                while !bytes.is_empty() {
                    tls.read_tls(&mut bytes).unwrap();
                    tls.process_new_packets().unwrap();
                    // Nothing left to read is told as an error.
                    let _ = tls.reader().read_to_end(&mut inner);
                }
            }
        }
        if !self.greeted && inner.len() >= GREETING.len() {
            // The greeting of TLS comes before any compression.
            self.greeted = true;
            self.plain.extend(inner.drain(..GREETING.len()));
        }
        let Some((_, unpacker)) = &mut self.packing else { return self.plain.extend(inner) };
        let (mut input, mut room) = (&inner[..], [0; 1000]);
        loop {
            let done = unpacker.unpack(input, &mut room).unwrap();
            self.plain.extend_from_slice(&room[..done.produced]);
            input = &input[done.consumed..];
            if done.produced < room.len() {
                return;
            }
        }
    }
}

/// Gives `bytes` to the stack in pieces of `step`, and reads into a room of `room` bytes.
fn feed(stack: &mut Stack, bytes: &[u8], step: usize, room: usize) -> Vec<u8> {
    let (mut plain, mut room) = (Vec::new(), vec![0; room]);
    for piece in bytes.chunks(step.max(1)) {
        stack.feed(piece);
        while let Found::Bytes(read) = stack.read(&mut room).unwrap() {
            plain.extend_from_slice(&room[..read]);
        }
    }
    plain
}

/// What the stack has for the socket, at once.
fn drain(stack: &mut Stack) -> Vec<u8> {
    let out = stack.out().to_vec();
    stack.sent(out.len());
    out
}

/// Handshakes until neither end has anything to say.
fn shake(stack: &mut Stack, peer: &mut Peer, step: usize) {
    loop {
        let to_node = peer.say();
        assert_eq!(feed(stack, &to_node, step, 100), b"");
        let to_peer = drain(stack);
        peer.receive(&to_peer);
        if to_node.is_empty() && to_peer.is_empty() {
            return;
        }
    }
}

fn any_layers() -> impl Strategy<Value = (bool, Option<Compression>)> {
    let compression = prop_oneof![
        Just(None),
        Just(Some(Compression::Snappy)),
        (1..10u32).prop_map(|level| Some(Compression::Deflate { level })),
    ];
    (any::<bool>(), compression)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_split_gives_the_same_bytes_both_ways(
        (tls, compression) in any_layers(),
        messages in proptest::collection::vec((0..70_000usize, any::<u8>()), 1..5),
        step in 1..40_000usize,
        room in 1..100_000usize,
    ) {
        let (server, client) = pair(rustls::ALL_VERSIONS);
        let mut peer = Peer::new(tls.then_some(client), compression);
        let mut stack = Stack::negotiated(tls.then_some(server), compression, GREETING);
        shake(&mut stack, &mut peer, step);
        let greetings = usize::from(tls) + usize::from(compression.is_some());
        prop_assert_eq!(&peer.plain, &GREETING.repeat(greetings));
        prop_assert_eq!(stack.session().is_some(), tls);
        for (len, byte) in messages {
            let message: Vec<u8> = (0..len).map(|at| (at / 7) as u8 ^ byte).collect();
            let sent = peer.send(&message);
            prop_assert_eq!(&feed(&mut stack, &sent, step, room), &message);
            peer.plain.clear();
            message.chunks(5000).for_each(|piece| stack.put(piece));
            stack.flush();
            let out = drain(&mut stack);
            peer.receive(&out);
            prop_assert_eq!(&peer.plain, &message);
        }
    }
}

#[test]
fn both_versions_of_tls_are_told_apart() {
    for (version, name) in [(&rustls::version::TLS12, "TLS1.2"), (&rustls::version::TLS13, "TLS1.3")] {
        let (server, client) = pair(&[version]);
        let mut peer = Peer::new(Some(client), None);
        let mut stack = Stack::negotiated(Some(server), None, GREETING);
        assert_eq!(stack.session(), None);
        shake(&mut stack, &mut peer, 100);
        let session = stack.session().unwrap();
        assert_eq!((session.version, session.common_name.as_str()), (name, ""));
        assert!(session.cipher_suite.starts_with("TLS_"), "{session:?}");
    }
}

#[test]
fn what_is_no_handshake_gets_an_alert_and_then_plain_words() {
    let (server, _) = pair(rustls::ALL_VERSIONS);
    let mut stack = Stack::negotiated(Some(server), Some(Compression::Snappy), GREETING);
    stack.feed(b"  V2 SUB topic channel\n");
    assert!(stack.read(&mut [0; 64]).is_err());
    // An alert is a record of type 21.
    assert_eq!(stack.out().first(), Some(&21));
    stack.strip();
    let alert = stack.out().len();
    stack.put(b"sorry");
    stack.flush();
    assert_eq!(&stack.out()[alert..], b"sorry");
}

#[test]
fn what_waits_for_a_handshake_is_bounded() {
    let (server, _) = pair(rustls::ALL_VERSIONS);
    let mut stack = Stack::negotiated(Some(server), None, GREETING);
    let mut put = 0;
    while stack.room() > 0 {
        stack.put(&[0; 1000]);
        put += 1000;
    }
    assert!(put < 2 * HELD_MAX, "{put}");
}

#[test]
fn an_end_is_the_end_behind_everything_that_came() {
    let (server, client) = pair(rustls::ALL_VERSIONS);
    let mut peer = Peer::new(Some(client), None);
    let mut stack = Stack::negotiated(Some(server), None, GREETING);
    shake(&mut stack, &mut peer, 1000);
    let mut last = peer.send(b"bye");
    if let Some(tls) = &mut peer.tls {
        tls.send_close_notify();
    }
    last.extend(peer.say());
    stack.feed(&last);
    let mut room = [0; 64];
    assert_eq!(stack.read(&mut room), Ok(Found::Bytes(3)));
    assert_eq!(stack.read(&mut room), Ok(Found::End));
    stack.close();
    peer.receive(&drain(&mut stack));
    // The node said goodbye too: the client reads an end, not a wait.
    assert_eq!(peer.tls.unwrap().reader().read(&mut room).ok(), Some(0));
}

#[test]
fn a_socket_that_ends_within_a_record_is_the_end() {
    let (server, client) = pair(rustls::ALL_VERSIONS);
    let mut peer = Peer::new(Some(client), None);
    let mut stack = Stack::negotiated(Some(server), None, GREETING);
    shake(&mut stack, &mut peer, 1000);
    let sent = peer.send(b"cut short");
    stack.feed(&sent[..sent.len() - 1]);
    assert_eq!(stack.read(&mut [0; 64]), Ok(Found::Nothing));
    stack.end();
    assert_eq!(stack.read(&mut [0; 64]), Ok(Found::End));
}
