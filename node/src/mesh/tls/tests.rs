//! Handshakes between ends in memory: who gets in, and who does not.

use std::{fs, path::PathBuf};

use rcgen::SerialNumber;
use rustls::{ClientConnection, Connection, ServerConnection};
use tokio::runtime::Handle;

use super::*;
use crate::env::real;

const A: NodeId = NodeId::new(0xa);
const B: NodeId = NodeId::new(0xb);

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn keyring(numbers: &[u8]) -> Keyring {
    let mut keyring = Keyring::new(Secret::new([numbers[0]; 32]));
    for number in &numbers[1..] {
        keyring.install(Secret::new([*number; 32])).unwrap();
    }
    keyring
}

fn node_of(cluster: &str, keyring: &Keyring, me: NodeId) -> (rustls::ServerConfig, rustls::ClientConfig) {
    let seed = [me.bits() as u8; 32];
    Material::derive(cluster, keyring, me, &seed).unwrap().rustls(cluster, &crypto()).unwrap()
}

/// Connects `client` to `server` under `name`; the ids that each side learnt of the other, or the first error,
/// whichever side has it.
fn handshake(
    client: rustls::ClientConfig,
    server: rustls::ServerConfig,
    name: &str,
) -> Result<(Option<NodeId>, Option<NodeId>), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = Connection::Client(ClientConnection::new(Arc::new(client), name)?);
    let mut server = Connection::Server(ServerConnection::new(Arc::new(server))?);
    while client.wants_write() || server.wants_write() {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let id_of = |end: &Connection| named_id(&end.peer_certificates().unwrap()[0]);
    Ok((id_of(&client), id_of(&server)))
}

fn pass(from: &mut Connection, to: &mut Connection) -> Result<(), rustls::Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

fn join(from: (&str, &[u8]), to: (&str, &[u8])) -> Result<(Option<NodeId>, Option<NodeId>), rustls::Error> {
    let (_, client) = node_of(from.0, &keyring(from.1), A);
    let (server, _) = node_of(to.0, &keyring(to.1), B);
    handshake(client, server, &server_name(B))
}

#[test]
fn nodes_of_one_cluster_know_each_other() {
    assert_eq!(join(("c", &[1]), ("c", &[1])).unwrap(), (Some(B), Some(A)));
}

#[test]
fn other_secrets_and_other_names_stay_out_in_both_directions() {
    for (one, other) in [(("c", &[1][..]), ("c", &[2][..])), (("c", &[1]), ("d", &[1]))] {
        assert!(join(one, other).is_err() && join(other, one).is_err());
    }
    let open = Keyring::open();
    let ((server, client), (closed_server, closed_client)) =
        (node_of("c", &open, A), node_of("c", &keyring(&[1]), A));
    assert!(handshake(closed_client, server, &server_name(A)).is_err());
    assert!(handshake(client, closed_server, &server_name(A)).is_err());
}

/// The clusters' names differ, and everything else is the same: the authority's certificate included.
#[test]
fn alpn_tells_clusters_with_one_authority_apart() {
    let material = || Material::derive("c", &keyring(&[1]), A, &[7; 32]).unwrap();
    let (_, client) = material().rustls("c", &crypto()).unwrap();
    let (server, _) = material().rustls("d", &crypto()).unwrap();
    let error = handshake(client, server, &server_name(A)).unwrap_err();
    assert_eq!(error, rustls::Error::NoApplicationProtocol);
}

#[test]
fn a_node_cannot_pass_for_another() {
    let (_, client) = node_of("c", &keyring(&[1]), A);
    let (server, _) = node_of("c", &keyring(&[1]), B);
    let error = handshake(client, server, &server_name(NodeId::new(0xc))).unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn a_rotation_cuts_nobody_off_and_ends_with_the_old_key_out() {
    // The first is the used one.
    let steps: [(&[u8], &[u8]); 5] =
        [(&[1], &[1, 2]), (&[1, 2], &[1, 2]), (&[2, 1], &[1, 2]), (&[2, 1], &[2, 1]), (&[2], &[2, 1])];
    for (one, other) in steps {
        assert!(join(("c", one), ("c", other)).is_ok(), "{one:?} to {other:?}");
        assert!(join(("c", other), ("c", one)).is_ok(), "{other:?} to {one:?}");
    }
    assert!(join(("c", &[1]), ("c", &[2])).is_err() && join(("c", &[2]), ("c", &[1])).is_err());
}

#[test]
fn certificates_are_the_same_bytes_whenever_the_randomness_is() {
    let chain = |cluster, seed| Material::derive(cluster, &keyring(&[1, 2]), A, &[seed; 32]).unwrap().chain;
    assert_eq!(chain("c", 1), chain("c", 1));
    assert_ne!(chain("c", 1), chain("c", 2));
    assert_ne!(chain("c", 1), chain("d", 1));
}

#[test]
fn only_a_whole_id_in_the_right_place_is_one() {
    let with = |names: &[&str]| {
        let params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        let key = ed25519(&[1; 32]).unwrap();
        named_id(params.self_signed(&key).unwrap().der())
    };
    assert_eq!(with(&["000000000000000a.node.bruit"]), Some(A));
    assert_eq!(with(&["host.example", "000000000000000a.node.bruit"]), Some(A));
    let two = ["000000000000000a.node.bruit", "000000000000000b.node.bruit"];
    for bad in [&["a.node.bruit"][..], &["000000000000000a.node.bruit.example"], &["*.node.bruit"], &two, &[]]
    {
        assert_eq!(with(bad), None, "{bad:?}");
    }
    assert_eq!(named_id(&CertificateDer::from(vec![1, 2, 3])), None);
}

/// An operator's authority with a certificate for one node, as files.
struct Operator {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Operator {
    fn new(seed: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = for_ever(format!("operator {seed}")).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = ed25519(&[seed; 32]).unwrap();
        fs::write(dir.path().join("ca"), params.self_signed(&key).unwrap().pem()).unwrap();
        let operator = Self { dir, issuer: Issuer::new(params, key) };
        operator.issue(|_| {});
        operator
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = node(A).unwrap();
        params.subject_alt_names = vec![rcgen::SanType::DnsName("queue.example".try_into().unwrap())];
        params.serial_number = Some(SerialNumber::from(5));
        change(&mut params);
        let key = ed25519(&[100; 32]).unwrap();
        self.write("cert", &params.signed_by(&key, &self.issuer).unwrap().pem());
        self.write("key", &key.serialize_pem());
    }

    fn write(&self, file: &str, content: &str) {
        fs::write(self.path(file), content).unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn pki(&self) -> Pki {
        Pki { ca: self.path("ca"), cert: self.path("cert"), key: self.path("key") }
    }

    async fn load(&self) -> Result<Material, TlsError> {
        let env = real::env(Handle::current(), Handle::current());
        let material = Material::load(&self.pki(), &env).await?;
        material.check(&self.pki(), &env.crypto)?;
        Ok(material)
    }

    async fn refusal(&self) -> String {
        self.load().await.err().expect("this cannot be good").to_string()
    }
}

#[tokio::test]
async fn an_operators_own_certificates_are_taken_whatever_they_name() {
    let operator = Operator::new(1);
    let configs = async || operator.load().await.unwrap().rustls("c", &crypto()).unwrap();
    let ((server, _), (_, client)) = (configs().await, configs().await);
    assert_eq!(handshake(client, server, &server_name(B)).unwrap(), (None, None));
}

#[tokio::test]
async fn certificates_of_another_authority_stay_out() {
    let (ours, theirs) = (Operator::new(1), Operator::new(2));
    let (_, client) = ours.load().await.unwrap().rustls("c", &crypto()).unwrap();
    let (server, _) = theirs.load().await.unwrap().rustls("c", &crypto()).unwrap();
    assert!(handshake(client, server, &server_name(B)).is_err());
    let (_, derived) = node_of("c", &keyring(&[1]), A);
    let (server, _) = ours.load().await.unwrap().rustls("c", &crypto()).unwrap();
    assert!(handshake(derived, server, &server_name(B)).is_err());
}

#[tokio::test]
async fn a_certificate_that_has_expired_stays_out() {
    let operator = Operator::new(1);
    let good = operator.load().await.unwrap();
    operator.issue(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let env = real::env(Handle::current(), Handle::current());
    let pki = operator.pki();
    let expired = || Material::load(&pki, &env);
    let (server, _) = expired().await.unwrap().rustls("c", &crypto()).unwrap();
    let (good_server, client) = good.rustls("c", &crypto()).unwrap();
    assert!(handshake(client, server, &server_name(B)).is_err());
    let (_, client) = expired().await.unwrap().rustls("c", &crypto()).unwrap();
    assert!(handshake(client, good_server, &server_name(B)).is_err());
}

#[tokio::test]
async fn files_that_cannot_work_are_named_at_the_start_with_what_is_wrong() {
    let operator = Operator::new(1);
    let says = async |file: &str, part: &str| {
        let refusal = operator.refusal().await;
        let path = operator.path(file).display().to_string();
        assert!(refusal.contains(&path) && refusal.contains(part), "{refusal}");
    };
    operator.issue(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    says("cert", "expired").await;
    operator.issue(|params| {
        params.extended_key_usages.retain(|usage| *usage != ExtendedKeyUsagePurpose::ClientAuth);
    });
    says("cert", "when this one connects to them").await;
    operator.issue(|_| {});
    let foreign = fs::read_to_string(Operator::new(2).path("cert")).unwrap();
    operator.write("cert", &foreign);
    says("cert", "no authority in --mesh-ca-file").await;
    operator.issue(|_| {});
    operator.write("key", "nothing");
    says("key", "no private key").await;
    operator.write("key", &ed25519(&[9; 32]).unwrap().serialize_pem());
    says("key", "--mesh-cert-file").await;
    operator.issue(|_| {});
    operator.write("ca", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    says("ca", "").await;
    fs::remove_file(operator.path("ca")).unwrap();
    says("ca", "cannot read --mesh-ca-file").await;
}
