//! rustls's cryptography with chance that the seed decides: the same handshake to the byte in each run.
//!
//! Keys that anybody can compute protect nobody. This is for the simulation only.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use rustls::{
    Error, NamedGroup, PeerMisbehaved,
    crypto::{
        ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
        ring,
    },
    ffdhe_groups::FfdheGroup,
};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::dice::Dice;

/// The cryptography of one process, which draws from `dice`.
///
/// rustls wants its sources of chance to live for ever, so a few hundred bytes a process are never freed.
pub(super) fn provider(dice: Dice) -> Arc<CryptoProvider> {
    let chance: &'static Chance = Box::leak(Box::new(Chance(Mutex::new(dice))));
    let group: &'static X25519 = Box::leak(Box::new(X25519(chance)));
    Arc::new(CryptoProvider { kx_groups: vec![group], secure_random: chance, ..ring::default_provider() })
}

struct Chance(Mutex<Dice>);

impl fmt::Debug for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chance")
    }
}

impl SecureRandom for Chance {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        self.0.lock().fill(buf);
        Ok(())
    }
}

#[derive(Debug)]
struct X25519(&'static Chance);

impl SupportedKxGroup for X25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut bytes = [0; 32];
        self.0.fill(&mut bytes)?;
        let secret = StaticSecret::from(bytes);
        let public = PublicKey::from(&secret);
        Ok(Box::new(Exchange { secret, public }))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    secret: StaticSecret,
    public: PublicKey,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer_pub_key: &[u8]) -> Result<SharedSecret, Error> {
        let invalid = || Error::from(PeerMisbehaved::InvalidKeyShare);
        let theirs: [u8; 32] = peer_pub_key.try_into().map_err(|_| invalid())?;
        let shared = self.secret.diffie_hellman(&PublicKey::from(theirs));
        if !shared.was_contributory() {
            return Err(invalid());
        }
        Ok(SharedSecret::from(&shared.as_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}
