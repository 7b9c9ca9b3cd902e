//! Whatever bytes come, nothing is opened that was not sealed by this cluster, and nothing twice.
#![no_main]

use bruit_gossip::{Keyring, NodeId, SEALED_MAX, Sealer, Secret};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, u64, u32, &[u8], &[u8])| {
    let (sender, generation, salt, datagram, noise) = input;
    let keyring = Keyring::new(Secret::new([7; 32]));
    let mut receiver = Sealer::new("fuzz", &keyring, NodeId::new(1), 1, 1);

    // Bytes that nobody sealed.
    let mut packet = noise.to_vec();
    assert!(receiver.open(&mut packet).is_err());

    // A good packet, and what an attacker makes of it.
    let mut peer = Sealer::new("fuzz", &keyring, NodeId::new(sender), generation, salt);
    let datagram = &datagram[..datagram.len().min(bruit_gossip::DATAGRAM_MAX)];
    let mut sealed = Vec::new();
    peer.seal(datagram, &mut sealed);
    assert!(sealed.len() <= SEALED_MAX);
    let mut damaged = sealed.clone();
    for (at, byte) in noise.iter().enumerate() {
        let len = damaged.len();
        damaged[at % len] ^= byte;
    }
    let is_damaged = damaged != sealed;
    let good = receiver.open(&mut sealed.clone()).map(|opened| (opened.sender, opened.bytes.to_vec()));
    if sender != 1 {
        assert_eq!(good, Ok((NodeId::new(sender), datagram.to_vec())));
    } else {
        assert!(good.is_err());
    }
    assert!(receiver.open(&mut sealed.clone()).is_err(), "taken twice");
    assert!(!is_damaged || receiver.open(&mut damaged).is_err(), "forged");
});
