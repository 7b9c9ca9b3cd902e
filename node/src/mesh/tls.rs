//! Certificates for QUIC between nodes: who may connect at all, and how a node proves its id.
//!
//! Each secret of the cluster makes an authority: an Ed25519 key that HKDF derives from it and the cluster's
//! name. Whoever knows the secret can mint a certificate, and every node mints its own when it starts, with a
//! fresh key and its id in the name `<id>.node.bruit`. Nothing is stored, nothing expires: time is not asked, so
//! a clock that jumps cuts nobody off. While secrets are rotated, the authorities of all held ones are trusted
//! and the certificate is of the used one.
//!
//! An operator's own certificates are taken instead if given. They need not name node ids: any node that the
//! authority vouches for may speak, within the time that its certificate is valid for.
//!
//! Both ways the authentication is mutual, TLS 1.3 only, and each connection proves it anew: there is no
//! resumption by which a key that was removed could live on. Nodes of other clusters fail already in the
//! handshake, since ALPN names the cluster too.

use std::{sync::Arc, time::Duration};

use bruit_gossip::{Keyring, NodeId, Secret};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::{
    CertificateError, DigitallySignedStruct, InconsistentKeys, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};

use crate::{
    MeshConfig, Pki,
    certificates::{TlsError, Wall, certificates, private_key, unfit},
    env::Env,
};

/// What follows the node's id in the name that a certificate gives it.
const DOMAIN: &str = ".node.bruit";
/// PKCS #8 version 1 around the 32 bytes of an Ed25519 key (RFC 8410, section 7).
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// When derived certificates are looked at: any moment will do, as they are valid for ever.
const ANY_TIME: Duration = Duration::from_secs(1_700_000_000);

/// What a node needs to prove itself and to judge others.
struct Material {
    authorities: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// Whether certificates name the ids of their nodes.
    named: bool,
    time: Arc<dyn TimeProvider>,
}

/// The certificates of the node `me`, and its rules for those of others.
///
/// # Errors
/// The operator's files are not there or not good.
pub(super) async fn build(
    config: &MeshConfig,
    keyring: &Keyring,
    me: NodeId,
    env: &Env,
) -> Result<(quinn::ServerConfig, quinn::ClientConfig), TlsError> {
    match &config.pki {
        None => derived(&config.cluster_name, keyring, me, env),
        Some(pki) => {
            let material = Material::load(pki, env).await?;
            material.check(pki, &env.crypto)?;
            material.configs(&config.cluster_name, env)
        }
    }
}

/// The certificates that come from the cluster's secrets.
///
/// # Errors
/// The environment's cryptography lacks Ed25519, which none does.
pub(super) fn derived(
    cluster_name: &str,
    keyring: &Keyring,
    me: NodeId,
    env: &Env,
) -> Result<(quinn::ServerConfig, quinn::ClientConfig), TlsError> {
    let mut seed = [0; 32];
    env.entropy.fill(&mut seed);
    let material = Material::derive(cluster_name, keyring, me, &seed);
    let material = material.map_err(|error| TlsError::Unmade { reason: error.to_string() })?;
    material.configs(cluster_name, env)
}

/// The name that the certificate of a node has to have.
pub(super) fn server_name(id: NodeId) -> String {
    format!("{id}{DOMAIN}")
}

/// The node at the other end, if its certificate names one.
pub(super) fn peer_id(connection: &quinn::Connection) -> Option<NodeId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    named_id(chain.first()?)
}

fn named_id(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut ids = certificate.valid_dns_names().filter_map(|name| name.strip_suffix(DOMAIN)?.parse().ok());
    let id = ids.next()?;
    // Nobody is two nodes.
    ids.next().is_none().then_some(id)
}

impl Material {
    fn derive(
        cluster_name: &str,
        keyring: &Keyring,
        me: NodeId,
        seed: &[u8; 32],
    ) -> Result<Self, rcgen::Error> {
        let mut authorities = RootCertStore::empty();
        for (secret, _) in keyring.held() {
            let (params, key) = authority(cluster_name, secret)?;
            let certificate = params.self_signed(&key)?;
            let added = authorities.add(certificate.der().clone());
            added.map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        }
        let (params, key) = authority(cluster_name, keyring.used())?;
        let issuer = Issuer::new(params, key);
        let key = ed25519(seed)?;
        let certificate = node(me)?.signed_by(&key, &issuer)?;
        Ok(Self {
            authorities,
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            named: true,
            time: Arc::new(Fixed(ANY_TIME)),
        })
    }

    async fn load(pki: &Pki, env: &Env) -> Result<Self, TlsError> {
        let mut authorities = RootCertStore::empty();
        for certificate in certificates(env, "mesh-ca-file", &pki.ca).await? {
            let added = authorities.add(certificate);
            added.map_err(|error| unfit("mesh-ca-file", &pki.ca, plain(&error)))?;
        }
        let key = private_key(env, "mesh-key-file", &pki.key).await?;
        Ok(Self {
            authorities,
            chain: certificates(env, "mesh-cert-file", &pki.cert).await?,
            key,
            named: false,
            time: Arc::new(Wall::of(env)),
        })
    }

    /// Whether other nodes will accept what was loaded: better said now than by each of them later.
    fn check(&self, pki: &Pki, crypto: &Arc<CryptoProvider>) -> Result<(), TlsError> {
        let key = crypto.key_provider.load_private_key(self.key.clone_key());
        let key = key.map_err(|error| unfit("mesh-key-file", &pki.key, plain(&error)))?;
        let fits = CertifiedKey::new(self.chain.clone(), key).keys_match();
        if fits == Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) {
            let reason = "it is not the key of the certificate in --mesh-cert-file".to_owned();
            return Err(unfit("mesh-key-file", &pki.key, reason));
        }
        let [certificate, intermediates @ ..] = self.chain.as_slice() else {
            return Err(unfit("mesh-cert-file", &pki.cert, "no certificate is in it".to_owned()));
        };
        let now = self.time.current_time().unwrap_or(UnixTime::since_unix_epoch(Duration::ZERO));
        let unaccepted = |error: &rustls::Error, as_what| {
            let reason = format!("other nodes would not accept it {as_what}: {}", plain(error));
            unfit("mesh-cert-file", &pki.cert, reason)
        };
        let as_server = self.any_name(crypto).accept(certificate, intermediates, now);
        as_server.map_err(|error| unaccepted(&error, "when they connect to this one"))?;
        let as_client = self.clients(crypto)?.verify_client_cert(certificate, intermediates, now);
        as_client.map(drop).map_err(|error| unaccepted(&error, "when this one connects to them"))
    }

    fn configs(
        self,
        cluster_name: &str,
        env: &Env,
    ) -> Result<(quinn::ServerConfig, quinn::ClientConfig), TlsError> {
        let (server, client) = self.rustls(cluster_name, &env.crypto)?;
        let none = |_| TlsError::Unmade { reason: "QUIC needs TLS13_AES_128_GCM_SHA256".to_owned() };
        let server: QuicServerConfig = server.try_into().map_err(none)?;
        let client: QuicClientConfig = client.try_into().map_err(none)?;
        // Signs address tokens.
        let mut token_key = [0; 32];
        env.entropy.fill(&mut token_key);
        let token_key = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(&token_key);
        let server = quinn::ServerConfig::new(Arc::new(server), Arc::new(token_key));
        Ok((server, quinn::ClientConfig::new(Arc::new(client))))
    }

    fn rustls(
        self,
        cluster_name: &str,
        crypto: &Arc<CryptoProvider>,
    ) -> Result<(rustls::ServerConfig, rustls::ClientConfig), TlsError> {
        let unmade = |error: rustls::Error| TlsError::Unmade { reason: plain(&error) };
        let clients = self.clients(crypto)?;
        let servers = self.servers(crypto)?;
        let (time, protocol) = (self.time, alpn(cluster_name));
        let mut server = rustls::ServerConfig::builder_with_details(Arc::clone(crypto), Arc::clone(&time))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unmade)?
            .with_client_cert_verifier(clients)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(unmade)?;
        server.alpn_protocols = vec![protocol.clone()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = rustls::ClientConfig::builder_with_details(Arc::clone(crypto), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unmade)?
            .dangerous()
            .with_custom_certificate_verifier(servers)
            .with_client_auth_cert(self.chain, self.key)
            .map_err(unmade)?;
        client.alpn_protocols = vec![protocol];
        client.resumption = Resumption::disabled();
        Ok((server, client))
    }

    fn clients(&self, crypto: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let authorities = Arc::new(self.authorities.clone());
        let clients = WebPkiClientVerifier::builder_with_provider(authorities, Arc::clone(crypto)).build();
        clients.map_err(|error| TlsError::Unmade { reason: error.to_string() })
    }

    fn servers(&self, crypto: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
        if !self.named {
            return Ok(Arc::new(self.any_name(crypto)));
        }
        let authorities = Arc::new(self.authorities.clone());
        let servers = WebPkiServerVerifier::builder_with_provider(authorities, Arc::clone(crypto)).build();
        servers
            .map(|servers| servers as Arc<dyn ServerCertVerifier>)
            .map_err(|error| TlsError::Unmade { reason: error.to_string() })
    }

    fn any_name(&self, crypto: &CryptoProvider) -> AnyName {
        AnyName {
            authorities: self.authorities.clone(),
            algorithms: crypto.signature_verification_algorithms,
        }
    }
}

/// The authority of a secret: the same on every node that holds it.
fn authority(cluster_name: &str, secret: &Secret) -> Result<(CertificateParams, KeyPair), rcgen::Error> {
    let key = ed25519(&secret.derive(cluster_name, "certificates: authority"))?;
    let mut params = for_ever(format!("bruit mesh {}", secret.fingerprint()))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok((params, key))
}

fn node(me: NodeId) -> Result<CertificateParams, rcgen::Error> {
    let mut params = for_ever(me.to_string())?;
    params.subject_alt_names = vec![rcgen::SanType::DnsName(server_name(me).try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn for_ever(common_name: String) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(4096, 1, 1);
    Ok(params)
}

fn ed25519(seed: &[u8; 32]) -> Result<KeyPair, rcgen::Error> {
    let pkcs8 = [&ED25519_PKCS8[..], seed].concat();
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8))
}

/// The protocol and the cluster, which a hash of its name stands for: it goes over the wire in the clear.
fn alpn(cluster_name: &str) -> Vec<u8> {
    let hash = ring::digest::digest(&ring::digest::SHA256, cluster_name.as_bytes());
    let hash: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("bruit/1/{hash}").into_bytes()
}

/// What is wrong with a certificate, without the words that suit only a handshake.
fn plain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "it comes from no authority in --mesh-ca-file".to_owned()
        }
        rustls::Error::InvalidCertificate(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// Accepts each server that an authority vouches for, whatever it is called.
#[derive(Debug)]
struct AnyName {
    authorities: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyName {
    fn accept(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let certificate = ParsedCertificate::try_from(certificate)?;
        let (authorities, algorithms) = (&self.authorities, self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&certificate, authorities, intermediates, now, algorithms)
    }
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.accept(certificate, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct Fixed(Duration);

impl TimeProvider for Fixed {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0))
    }
}

#[cfg(test)]
mod tests;
