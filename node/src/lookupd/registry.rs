//! nsqlookupd's TCP face, where nsqds of the classic kind register.
//!
//! Each connection is one producer. What it registers goes to the mesh, where this node says it in its stead;
//! it goes when the connection ends, and names stay, as with nsqlookupd. An nsqd that is silent for too long
//! is disconnected, where nsqlookupd only hides it: it registers again with its next PING.
//!
//! **Bounded:** connections, names of a connection and of all, bytes of a command, time without a whole one.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bruit_gossip::{About, Name, NodeId, REGISTRANTS_MAX};
use bruit_wire::registration::{
    self, BAD_PROTOCOL, Command, Decoded, Description, LookupDescription, MAGIC_V1, OK, Refusal,
};
use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    select,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Config,
    env::{Conn, Env, Listener},
    exit::Exiting,
    http::{NSQ_VERSION, reach::Vantage},
    mesh::MeshHandle,
};

/// Connections at a time. There may be some more of them than may register, so that those are told why.
const CONNECTIONS_MAX: usize = 2 * REGISTRANTS_MAX;
/// Names that one producer may register, and all together: each is told to every node of the mesh.
const NAMES_MAX: usize = 20_000;
const ALL_NAMES_MAX: usize = 200_000;
/// How long a producer may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(30);
/// How long it may take to read its answers.
const WRITE_STALL_MAX: Duration = Duration::from_secs(10);
/// Pause after accepting failed, as when the node is out of file descriptors.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);
/// Bytes to read at once.
const READ_SIZE: usize = 16 * 1024;

/// What the connections share.
pub(crate) struct Registry {
    mesh: MeshHandle,
    env: Env,
    description: LookupDescription,
    addresses: Vec<String>,
    silence_max: Duration,
    connections: AtomicUsize,
    registrants: AtomicUsize,
    names: AtomicUsize,
}

impl Registry {
    /// For the listener `listener`. `http_port` is where the lookups of producers are answered.
    pub(crate) fn new(
        config: &Config,
        env: &Env,
        mesh: &MeshHandle,
        http_port: u16,
        listener: &dyn Listener,
    ) -> Arc<Self> {
        let description = LookupDescription {
            broadcast_address: String::new(),
            hostname: config.hostname.clone(),
            http_port,
            tcp_port: listener.local_addr().map_or(0, |address| address.port()),
            version: NSQ_VERSION.to_owned(),
        };
        Arc::new(Self {
            mesh: mesh.clone(),
            env: env.clone(),
            description,
            addresses: config.broadcast_addresses.clone(),
            silence_max: config.classic.inactive_producer_timeout,
            connections: AtomicUsize::new(0),
            registrants: AtomicUsize::new(0),
            names: AtomicUsize::new(0),
        })
    }

    /// Accepts until the node exits. Connections beyond the limit are closed at once.
    pub(crate) async fn serve(self: Arc<Self>, mut listener: Box<dyn Listener>, exit: Exiting) {
        loop {
            let accepted = select! {
                biased;
                () = exit.told() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((_, peer)) if self.connections.load(Relaxed) >= CONNECTIONS_MAX => {
                    tracing::warn!("registration of {peer} refused: there are {CONNECTIONS_MAX} connections");
                }
                Ok((conn, peer)) => {
                    let (registry, exit) = (Arc::clone(&self), exit.clone());
                    let counted = Counted::new(Arc::clone(&self));
                    self.env.background.spawn(Box::pin(async move {
                        let _counted = counted;
                        select! {
                            biased;
                            () = exit.told() => {}
                            () = registry.converse(conn, peer) => {}
                        }
                    }));
                }
                Err(error) => {
                    tracing::warn!("cannot accept registrations: {error}");
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                }
            }
        }
    }

    /// Serves one producer to its end.
    async fn converse(self: Arc<Self>, mut conn: Conn, peer: SocketAddr) {
        let mut session = Session { registry: Arc::clone(&self), peer, producer: None };
        let (mut input, mut replies) = (BytesMut::new(), Vec::new());
        let mut deadline = Instant::now() + INTRODUCTION;
        let mut begun = false;
        let refusal = loop {
            let read = async {
                input.reserve(READ_SIZE);
                conn.reader.read_buf(&mut input).await
            };
            let ended = !matches!(timeout_at(deadline, read).await, Ok(Ok(1..)));
            if ended {
                break registration::interrupted(&input);
            }
            if !begun {
                let Some(magic) = input.first_chunk::<4>() else { continue };
                if *magic != MAGIC_V1 {
                    registration::put_reply(&mut replies, BAD_PROTOCOL);
                    break None;
                }
                input.advance(MAGIC_V1.len());
                begun = true;
            }
            match session.obey(&mut input, &mut replies) {
                Ok(false) => {}
                Ok(true) => deadline = Instant::now() + session.patience(),
                Err(refusal) => break refusal,
            }
            if !send(&mut conn, &mut replies).await {
                break None;
            }
        };
        if let Some(refusal) = refusal {
            tracing::info!("{peer} is refused: {refusal}");
            registration::put_reply(&mut replies, refusal.to_string().as_bytes());
        }
        drop(session);
        // It may be gone already.
        let _ = send(&mut conn, &mut replies).await;
        let _ = timeout(WRITE_STALL_MAX, conn.writer.shutdown()).await;
    }

    /// What this node calls itself towards `peer`.
    fn description_for(&self, peer: SocketAddr) -> LookupDescription {
        let view = self.mesh.view();
        let heard = view.member(view.me()).map_or(peer.ip(), |member| member.peer.gossip.ip());
        let mut here: Vec<IpAddr> = self.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        here.push(heard.to_canonical());
        let address = Vantage::new(Some(peer), &here).choose(&self.addresses, heard);
        let broadcast_address = address.unwrap_or(&self.description.hostname).to_owned();
        LookupDescription { broadcast_address, ..self.description.clone() }
    }
}

/// Sends what there is; `false` if the producer does not take it.
async fn send(conn: &mut Conn, replies: &mut Vec<u8>) -> bool {
    let sent = timeout(WRITE_STALL_MAX, async {
        conn.writer.write_all(replies).await?;
        conn.writer.flush().await
    });
    let is_sent = matches!(sent.await, Ok(Ok(())));
    replies.clear();
    is_sent
}

/// One connection, counted for as long as it lasts.
struct Counted(Arc<Registry>);

impl Counted {
    fn new(registry: Arc<Registry>) -> Self {
        registry.connections.fetch_add(1, Relaxed);
        Self(registry)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

/// What is known of the producer at the other end.
struct Session {
    registry: Arc<Registry>,
    peer: SocketAddr,
    producer: Option<Producer>,
}

struct Producer {
    id: NodeId,
    names: BTreeSet<Name>,
}

impl Session {
    /// How long to wait for the next command.
    fn patience(&self) -> Duration {
        if self.producer.is_some() { self.registry.silence_max } else { INTRODUCTION }
    }

    /// Does what stands in `input`, as far as it is there. Whether there was any command.
    fn obey(&mut self, input: &mut BytesMut, replies: &mut Vec<u8>) -> Result<bool, Option<Refusal>> {
        let (mut any, mut changed) = (false, false);
        let outcome = loop {
            match registration::decode(input, self.producer.is_some()) {
                Ok(Decoded::Part) => break Ok(true),
                Ok(Decoded::Command(command, consumed)) => {
                    input.advance(consumed);
                    any = true;
                    changed |= command != Command::Ping;
                    if let Err(refusal) = self.execute(command, replies) {
                        break Err(Some(refusal));
                    }
                }
                Err(refusal) => break Err(refusal),
            }
        };
        if changed {
            // Whoever has an answer finds in a lookup what it registered.
            self.registry.mesh.show();
        }
        outcome.map(|_| any)
    }

    fn execute(&mut self, command: Command, replies: &mut Vec<u8>) -> Result<(), Refusal> {
        match command {
            Command::Ping => registration::put_reply(replies, OK),
            Command::Identify(description) => {
                self.identify(description)?;
                let own = self.registry.description_for(self.peer);
                // Texts and numbers always make JSON.
                registration::put_reply(replies, &serde_json::to_vec(&own).unwrap_or_default());
            }
            Command::Register(topic, channel) => {
                let channel = channel.map(|channel| Name::channel(topic.clone(), channel));
                for name in [Some(Name::topic(topic)), channel].into_iter().flatten() {
                    self.register(name)?;
                }
                registration::put_reply(replies, OK);
            }
            Command::Unregister(topic, channel) => {
                self.unregister(&Name { topic, channel });
                registration::put_reply(replies, OK);
            }
        }
        Ok(())
    }

    fn identify(&mut self, description: Description) -> Result<(), Refusal> {
        let registry = &self.registry;
        if registry.registrants.fetch_add(1, Relaxed) >= REGISTRANTS_MAX {
            registry.registrants.fetch_sub(1, Relaxed);
            let text = format!("{REGISTRANTS_MAX} producers have registered at this node: use another one");
            return Err(Refusal::new("E_INVALID", text));
        }
        let mut random = [0; 8];
        registry.env.entropy.fill(&mut random);
        let id = NodeId::new(u64::from_le_bytes(random));
        let Description { broadcast_address, hostname, http_port, tcp_port, version, .. } = description;
        tracing::info!("nsqd {version} at {broadcast_address}:{tcp_port} has registered from {}", self.peer);
        let about = About {
            broadcast_addresses: vec![broadcast_address],
            hostname,
            tcp_port,
            http_port,
            version,
            topology_zone: description.topology_zone,
            topology_region: description.topology_region,
            registered_from: Some(self.peer),
            ..About::default()
        };
        registry.mesh.register(id, about);
        self.producer = Some(Producer { id, names: BTreeSet::new() });
        Ok(())
    }

    fn register(&mut self, name: Name) -> Result<(), Refusal> {
        // The decoder lets nobody register before it has said who it is.
        let Some(Producer { id, names }) = &mut self.producer else { return Ok(()) };
        if names.contains(&name) {
            return Ok(());
        }
        let all = &self.registry.names;
        if names.len() >= NAMES_MAX || all.fetch_add(1, Relaxed) >= ALL_NAMES_MAX {
            if names.len() < NAMES_MAX {
                all.fetch_sub(1, Relaxed);
            }
            return Err(Refusal::new(
                "E_INVALID",
                "too many topics and channels are registered at this node",
            ));
        }
        self.registry.mesh.registered(*id, name.clone(), true);
        names.insert(name);
        Ok(())
    }

    /// A topic goes with its channels.
    fn unregister(&mut self, name: &Name) {
        let Some(Producer { id, names }) = &mut self.producer else { return };
        // Its channels lie behind it. There may be too many names to look at them all for each that goes.
        let is_gone =
            |known: &&Name| **known == *name || (name.channel.is_none() && known.topic == name.topic);
        let gone: Vec<Name> = names.range(name..).take_while(is_gone).cloned().collect();
        for name in gone {
            names.remove(&name);
            self.registry.names.fetch_sub(1, Relaxed);
            self.registry.mesh.registered(*id, name, false);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(Producer { id, names }) = self.producer.take() {
            self.registry.names.fetch_sub(names.len(), Relaxed);
            self.registry.registrants.fetch_sub(1, Relaxed);
            self.registry.mesh.deregister(id);
            tracing::info!("the nsqd that had registered from {} is gone", self.peer);
        }
    }
}
