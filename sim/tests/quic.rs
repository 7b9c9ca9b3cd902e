//! QUIC with mutual TLS through the simulated world: it works, and it is the same to the byte each time.
//!
//! This is how the node has to set quinn up: every source of chance and of time is one of `Env`.

use std::{
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    path::Path,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bruit::env::{Entropy, Env, Spawn, WallClock};
use bruit_sim::{
    dice::Dice,
    disk::SimDisk,
    trace::{SimClock, Trace},
    world::{Ether, Machine, Weather, epoch},
};
use quinn::{
    AsyncTimer, AsyncUdpSocket, ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    Runtime, ServerConfig, TokioRuntime,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime},
    server::WebPkiClientVerifier,
    time_provider::TimeProvider,
};

const PORT: u16 = 4161;
const SENT: usize = 300_000;

/// What a run leaves behind.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    hash: u64,
    events: u64,
    took: Duration,
}

#[test]
fn mutual_tls_works_and_is_the_same_to_the_byte_in_two_runs() {
    let fair = echo(1, Weather::FAIR).unwrap();
    assert_eq!(fair, echo(1, Weather::FAIR).unwrap());
    assert_ne!(fair.hash, echo(2, Weather::FAIR).unwrap().hash);
}

#[test]
fn bad_weather_delays_and_does_no_harm() {
    let rain = Weather { lost_per_mille: 50, doubled_per_mille: 50, damaged_per_mille: 20, len_max: 1300 };
    let (fair, wet) = (echo(1, Weather::FAIR).unwrap(), echo(1, rain).unwrap());
    assert!(wet.took > fair.took, "{wet:?} {fair:?}");
    assert_eq!(wet, echo(1, rain).unwrap());
}

#[test]
fn what_does_not_fit_does_not_arrive() {
    let narrow = Weather { len_max: 1100, ..Weather::FAIR };
    // QUIC wants 1,200 bytes.
    assert_eq!(echo(1, narrow), Err("timed out".to_owned()));
}

/// One host sends bytes to another over QUIC and takes them back.
fn echo(seed: u64, weather: Weather) -> Result<Run, String> {
    let clock = SimClock::default();
    let trace = Trace::new(clock.clone(), false);
    let ether = Ether::new(trace.clone());
    ether.set_weather(weather);
    let machine = |host: &str, label| {
        let dice = Dice::new(seed).fork(label);
        let disk = SimDisk::new(dice.clone(), trace.clone(), Path::new("/data"));
        Machine::new(host, dice, disk, ether.clone())
    };
    let mut sim = turmoil::Builder::new()
        .epoch(epoch())
        .rng_seed(seed)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(1))
        .udp_capacity(4096)
        .simulation_duration(Duration::from_secs(60))
        .build();
    let server = machine("server", 1);
    sim.host("server", move || serve(server.env(1)));
    let address: IpAddr = sim.lookup("server");
    ether.name("server.example", vec![address]);
    sim.client("client", ask(machine("client", 2).env(1)));
    loop {
        clock.set(sim.elapsed());
        if sim.step().map_err(|error| error.to_string())? {
            return Ok(Run { hash: trace.hash(), events: trace.len(), took: sim.elapsed() });
        }
    }
}

async fn serve(env: Env) -> turmoil::Result {
    let endpoint = endpoint(&env, 1, PORT).await?;
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await?;
        let (mut to, mut from) = connection.accept_bi().await?;
        to.write_all(&from.read_to_end(SENT).await?).await?;
        to.finish()?;
        connection.closed().await;
    }
    Ok(())
}

async fn ask(env: Env) -> turmoil::Result {
    let endpoint = endpoint(&env, 2, 0).await?;
    let there = env.net.resolve("server.example", PORT).await?;
    assert!(env.net.resolve("nobody.example", PORT).await.is_err());
    let connection = endpoint.connect(there[0], "node.mesh")?.await?;
    let mut bytes = vec![0; SENT];
    env.entropy.fill(&mut bytes);
    let (mut to, mut from) = connection.open_bi().await?;
    to.write_all(&bytes).await?;
    to.finish()?;
    assert_eq!(from.read_to_end(SENT).await?, bytes);
    connection.close(0_u32.into(), b"");
    endpoint.wait_idle().await;
    Ok(())
}

/// An endpoint that is server and client. Its key is made of `number`.
async fn endpoint(env: &Env, number: u8, port: u16) -> anyhow::Result<Endpoint> {
    let socket = env.net.bind_udp(SocketAddr::from(([0, 0, 0, 0], port))).await?;
    let runtime = Arc::new(SeamRuntime(env.spawn.clone()));
    let (chain, key, roots) = certificate(number)?;
    let time: Arc<dyn TimeProvider> = Arc::new(Wall(env.wall.clone()));
    let tls13 = &[&rustls::version::TLS13];
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), env.crypto.clone()).build()?;
    let server = rustls::ServerConfig::builder_with_details(env.crypto.clone(), time.clone())
        .with_protocol_versions(tls13)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())?;
    let client = rustls::ClientConfig::builder_with_details(env.crypto.clone(), time)
        .with_protocol_versions(tls13)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    let token_key = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(&draw::<32>(env));
    let mut server = ServerConfig::new(Arc::new(QuicServerConfig::try_from(server)?), Arc::new(token_key));
    server.time_source(Arc::new(Wall(env.wall.clone())));
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?));
    let ids = Ids(env.entropy.clone());
    client.initial_dst_cid_provider(Arc::new(move || ids.clone().generate_cid()));
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &draw::<32>(env));
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config.rng_seed(Some(draw(env)));
    let ids = Ids(env.entropy.clone());
    config.cid_generator(move || Box::new(ids.clone()));
    let mut endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime)?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

fn draw<const N: usize>(env: &Env) -> [u8; N] {
    let mut bytes = [0; N];
    env.entropy.fill(&mut bytes);
    bytes
}

type Certified = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Arc<RootCertStore>);

fn certificate(number: u8) -> anyhow::Result<Certified> {
    let (ca_key, key) = (ed25519([7; 32])?, ed25519([number; 32])?);
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key)?;
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone())?;
    let issuer = Issuer::new(params, ca_key);
    let mut params = CertificateParams::new(vec!["node.mesh".to_owned()])?;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((vec![certificate.der().clone()], key, Arc::new(roots)))
}

/// A key pair of a seed, by way of PKCS 8 (RFC 8410, section 7).
fn ed25519(seed: [u8; 32]) -> anyhow::Result<KeyPair> {
    let front = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    Ok(KeyPair::try_from(&PrivatePkcs8KeyDer::from([&front[..], &seed].concat()))?)
}

/// Connection ids. quinn's own generators draw from the operating system, the hashed one too.
#[derive(Clone)]
struct Ids(Arc<dyn Entropy>);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; 8];
        self.0.fill(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

struct Wall(Arc<dyn WallClock>);

impl Wall {
    fn unix(&self) -> Duration {
        self.0.now().duration_since(std::time::UNIX_EPOCH).unwrap()
    }
}

impl fmt::Debug for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wall")
    }
}

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.unix()))
    }
}

impl quinn::TimeSource for Wall {
    fn now(&self) -> std::time::SystemTime {
        self.0.now()
    }
}

/// quinn's tasks are the process's tasks.
#[derive(Debug)]
struct SeamRuntime(Arc<dyn Spawn>);

impl Runtime for SeamRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(task);
    }

    #[expect(clippy::disallowed_types, reason = "quinn's trait names it; nothing calls this")]
    fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> std::io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(std::io::Error::other("sockets come from Env"))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}
