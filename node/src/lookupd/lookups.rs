//! This node as a producer at nsqlookupds of the classic kind.
//!
//! One task per lookup keeps a connection, and whenever something may have changed compares what it has
//! registered with what the node holds: a change that is missed on the way is made up for by the next look.
//! A lookup that does not answer keeps nobody waiting.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bruit_gossip::Name;
use bruit_wire::registration::{self, Description, LookupDescription, MAGIC_V1};
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    select,
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::ask::{self, Asked, New};
use crate::{
    Config,
    broker::{Broker, Topic},
    env::{Conn, Env},
    exit::{self, Exit, Exiting},
    http::{NSQ_VERSION, Ports},
    mesh::MeshHandle,
    rising::Rising,
};

/// Most nsqlookupds that a node registers at.
pub(crate) const LOOKUPDS_MAX: usize = 64;
/// Longest address of one, bytes: the longest name, and a port.
const ADDRESS_MAX: usize = 300;
/// How long a connection, and each answer, may take. nsqd gives a second, in which a lookup that is under
/// load is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often to say that one lives.
const PING: Duration = Duration::from_secs(15);
/// How long to wait before connecting again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Commands that are sent before their answers are read.
const AT_A_TIME: usize = 64;

/// The nsqlookupds that this node registers at, and what is known of them.
#[derive(Default)]
pub(crate) struct Lookups {
    wanted: Mutex<Vec<String>>,
    /// Rises with each change of them.
    changes: Rising,
    /// Of those that are connected, where their HTTP is.
    http: Mutex<BTreeMap<String, Arc<Asked>>>,
    /// Those that connecting to has been tried once, whatever came of it.
    tried: Mutex<BTreeSet<String>>,
    tries: Rising,
    asking: OnceLock<mpsc::UnboundedSender<New>>,
}

impl std::fmt::Debug for Lookups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookups").field("wanted", &self.addresses()).finish_non_exhaustive()
    }
}

/// What a connection to a lookup works with.
struct Registrar {
    lookups: Arc<Lookups>,
    env: Env,
    broker: Arc<Broker>,
    mesh: MeshHandle,
    description: Description,
}

impl Lookups {
    /// Begins to register at those that `config` names, and at those that are set later.
    pub(crate) fn start(
        config: &Config,
        env: &Env,
        broker: &Arc<Broker>,
        mesh: &MeshHandle,
        ports: Ports,
        exit: &Exiting,
    ) -> Arc<Self> {
        let lookups =
            Arc::new(Self { wanted: Mutex::new(config.classic.lookupds.clone()), ..Self::default() });
        let description = Description {
            broadcast_address: config.broadcast_address().to_owned(),
            hostname: config.hostname.clone(),
            http_port: config.broadcast_http_port.unwrap_or(ports.http),
            tcp_port: config.broadcast_tcp_port.unwrap_or(ports.tcp),
            version: NSQ_VERSION.to_owned(),
            topology_zone: config.topology_zone.clone(),
            topology_region: config.topology_region.clone(),
        };
        let (asking, asked) = mpsc::unbounded_channel();
        // Once for each `Lookups`.
        let _ = lookups.asking.set(asking);
        let asked_of = Arc::clone(&lookups);
        broker.holdings().ask_first(Arc::new(move |topic| asked_of.is_to_ask(topic)));
        env.background.spawn(Box::pin(ask::run(
            env.clone(),
            Arc::clone(&lookups),
            mesh.clone(),
            asked,
            exit.clone(),
        )));
        let registrar = Registrar {
            lookups: Arc::clone(&lookups),
            env: env.clone(),
            broker: Arc::clone(broker),
            mesh: mesh.clone(),
            description,
        };
        env.background.spawn(Box::pin(Arc::new(registrar).supervise(exit.clone())));
        lookups
    }

    /// Their addresses, as they were given.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.wanted.lock().clone()
    }

    /// Registers at these from now on, and at no others. `false`, and nothing changes, if they cannot be.
    pub(crate) fn set(&self, addresses: Vec<String>) -> bool {
        let is_possible = |address: &String| {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            address.len() <= ADDRESS_MAX && port.is_some_and(|port| port != 0)
        };
        if addresses.len() > LOOKUPDS_MAX || !addresses.iter().all(is_possible) {
            return false;
        }
        *self.wanted.lock() = addresses;
        self.changes.raise(self.changes.now() + 1);
        true
    }

    /// Where the HTTP of those is that are connected.
    pub(super) fn http(&self) -> Vec<Arc<Asked>> {
        self.http.lock().values().cloned().collect()
    }

    /// Waits until connecting to each was tried.
    pub(super) async fn tried(&self) {
        loop {
            let seen = self.tries.now();
            let all = {
                let tried = self.tried.lock();
                self.wanted.lock().iter().all(|address| tried.contains(address))
            };
            if all {
                return;
            }
            self.tries.reaches(seen + 1).await;
        }
    }

    fn is_to_ask(&self, topic: &Arc<Topic>) -> bool {
        let asking = self.asking.get().filter(|_| !self.wanted.lock().is_empty());
        let new = New { topic: Arc::clone(topic), came: Instant::now() };
        asking.is_some_and(|asking| asking.send(new).is_ok())
    }

    fn note_try(&self, address: &str) {
        if self.tried.lock().insert(address.to_owned()) {
            self.tries.raise(self.tries.now() + 1);
        }
    }
}

impl Registrar {
    /// Keeps one task for each lookup that is wanted.
    async fn supervise(self: Arc<Self>, exit: Exiting) {
        let mut running: BTreeMap<String, Exit> = BTreeMap::new();
        while !exit.is_told() {
            let seen = self.lookups.changes.now();
            let wanted: BTreeSet<String> = self.lookups.addresses().into_iter().collect();
            // Those that go are told by being dropped.
            running.retain(|address, _| wanted.contains(address));
            self.lookups.tried.lock().retain(|address| wanted.contains(address));
            for address in wanted {
                if !running.contains_key(&address) {
                    let (stop, stopping) = exit::channel();
                    running.insert(address.clone(), stop);
                    let registrar = Arc::clone(&self);
                    self.env.background.spawn(Box::pin(async move {
                        select! {
                            biased;
                            () = stopping.told() => {}
                            () = registrar.keep(&address) => {}
                        }
                        registrar.lookups.http.lock().remove(&address);
                    }));
                }
            }
            select! {
                biased;
                () = exit.told() => {}
                () = self.lookups.changes.reaches(seen + 1) => {}
            }
        }
    }

    /// Registers at one lookup for ever.
    async fn keep(&self, address: &str) {
        let mut pause = PAUSE.0;
        let mut said = String::new();
        loop {
            let began = Instant::now();
            let Err(error) = self.register(address).await;
            self.lookups.http.lock().remove(address);
            self.lookups.note_try(address);
            let text = error.to_string();
            if text != said {
                tracing::warn!("not registered at nsqlookupd {address}: {text}; trying again");
                said = text;
            }
            if began.elapsed() > PAUSE.1 {
                (pause, said) = (PAUSE.0, String::new());
            }
            sleep(pause.mul_f64(self.jitter())).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// A factor from 0.5 to 1, so that nodes which lost a lookup together do not come back together.
    fn jitter(&self) -> f64 {
        let mut random = [0; 1];
        self.env.entropy.fill(&mut random);
        0.5 + f64::from(random[0]) / 512.0
    }

    /// Registers at a lookup until the connection is lost.
    async fn register(&self, address: &str) -> io::Result<std::convert::Infallible> {
        let conn = timeout(PATIENCE, connect(&self.env, address)).await.map_err(|_| late())??;
        let mut talk = Talk { conn, input: BytesMut::new() };
        let mut out = MAGIC_V1.to_vec();
        registration::put_identify(&mut out, &self.description);
        let answer = talk.ask(&out, 1).await?;
        let lookup: LookupDescription = serde_json::from_slice(&answer).map_err(io::Error::other)?;
        if lookup.http_port != 0 {
            let host = match lookup.broadcast_address.as_str() {
                "" => address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned(),
                ipv6 if ipv6.contains(':') => format!("[{ipv6}]"),
                host => host.to_owned(),
            };
            let http = format!("{host}:{}", lookup.http_port);
            self.lookups.http.lock().insert(address.to_owned(), Asked::new(http));
        }
        tracing::info!("registered at nsqlookupd {address} ({})", lookup.version);
        let mut registered = BTreeSet::new();
        let mut ping = Instant::now() + PING;
        loop {
            let seen = self.mesh.own_changes();
            self.follow(&mut talk, &mut registered).await?;
            // New topics wait for no lookup that has not been told of those there were.
            self.lookups.note_try(address);
            select! {
                biased;
                () = self.mesh.own_change_after(seen) => {}
                () = sleep_until(ping) => {
                    let mut out = Vec::new();
                    registration::put_ping(&mut out);
                    talk.ask(&out, 1).await?;
                    ping = Instant::now() + PING;
                }
                error = talk.hear() => return Err(error),
            }
        }
    }

    /// Tells the lookup how what the node holds differs from what is registered.
    async fn follow(&self, talk: &mut Talk, registered: &mut BTreeSet<Name>) -> io::Result<()> {
        let held = self.held();
        let (mut out, mut count) = (Vec::new(), 0);
        // Channels go before their topics, and come after them.
        let gone = registered.iter().rev().filter(|name| !held.contains(name)).map(|name| (name, false));
        let come = held.difference(registered).map(|name| (name, true));
        for (Name { topic, channel }, comes) in gone.chain(come) {
            match comes {
                true => registration::put_register(&mut out, topic, channel.as_ref()),
                false => registration::put_unregister(&mut out, topic, channel.as_ref()),
            }
            count += 1;
            if count == AT_A_TIME {
                talk.ask(&out, count).await?;
                out.clear();
                count = 0;
            }
        }
        if count > 0 {
            talk.ask(&out, count).await?;
        }
        *registered = held;
        Ok(())
    }

    fn held(&self) -> BTreeSet<Name> {
        let mut held = BTreeSet::new();
        for topic in self.broker.topics() {
            let channels = topic.channels();
            let named =
                channels.iter().map(|channel| Name::channel(topic.name().clone(), channel.name().clone()));
            held.extend(named);
            held.insert(Name::topic(topic.name().clone()));
        }
        held
    }
}

/// A connection to a lookup.
struct Talk {
    conn: Conn,
    input: BytesMut,
}

impl Talk {
    /// Sends `count` commands and takes as many answers; the last one.
    async fn ask(&mut self, commands: &[u8], count: usize) -> io::Result<Vec<u8>> {
        timeout(PATIENCE, async {
            self.conn.writer.write_all(commands).await?;
            self.conn.writer.flush().await?;
            let mut last = Vec::new();
            for _ in 0..count {
                last = self.answer().await?;
                if registration::is_error(&last) {
                    let text: String = String::from_utf8_lossy(&last).chars().take(200).collect();
                    return Err(io::Error::other(format!("it refuses with {text:?}")));
                }
            }
            Ok(last)
        })
        .await
        .map_err(|_| late())?
    }

    async fn answer(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let taken = registration::take_reply(&self.input)
                .map_err(|_| io::Error::other("what answers is no nsqlookupd"))?;
            if let Some((reply, consumed)) = taken {
                let reply = reply.to_vec();
                self.input.advance(consumed);
                return Ok(reply);
            }
            if self.conn.reader.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::other("it closed the connection"));
            }
        }
    }

    /// Waits for something that was not asked for, which is never good.
    async fn hear(&mut self) -> io::Error {
        match self.conn.reader.read_buf(&mut self.input).await {
            Ok(0) => io::Error::other("it closed the connection"),
            Ok(_) => io::Error::other("it answers what nobody asked"),
            Err(error) => error,
        }
    }
}

fn late() -> io::Error {
    io::Error::other(format!("no answer within {} s", PATIENCE.as_secs()))
}

/// Connects to the first address of `address` (`host:port`) that takes it.
pub(super) async fn connect(env: &Env, address: &str) -> io::Result<Conn> {
    let named = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = named.ok_or_else(|| io::Error::other("this is no address: write host:port"))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    env.connect(host, port).await
}
