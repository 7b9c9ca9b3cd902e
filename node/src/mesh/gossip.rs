//! The gossip task: the one that owns the socket and does what the machine asks for.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bruit_gossip::{Event, Input, Output, Peer};
use bruit_wire::TopicName;
use tokio::{
    select,
    time::{Instant, sleep_until, timeout},
};

use super::{core::Core, exchange, local::Local, socket::Datagrams};
use crate::exit::Exiting;

/// Readers of the view see changes together that are closer than this.
const VIEW_EVERY: Duration = Duration::from_millis(10);
/// How long a peer's host gets to say that nothing listens.
const CHECK: Duration = Duration::from_millis(500);
/// When the machine wants nothing, look again after this.
const IDLE: Duration = Duration::from_secs(3600);

/// What woke the task.
enum Woken {
    Exit,
    Local(BTreeSet<TopicName>),
    Datagrams,
    Time,
}

/// Runs until `exit`, and leaves the mesh then.
pub(super) async fn run(core: Arc<Core>, mut socket: Option<Datagrams>, mut local: Local, exit: Exiting) {
    let mut shown = Shown { at: None, waits: true };
    let mut sealed = Vec::new();
    loop {
        let wanted = core.state.lock().mesh.next_timeout();
        let wake = core.instant(wanted.unwrap_or(core.now().elapsed + IDLE));
        let wake = if shown.waits { wake.min(shown.next()) } else { wake };
        let woken = select! {
            biased;
            () = exit.told() => Woken::Exit,
            changed = core.broker.holdings().changed() => Woken::Local(changed),
            () = receive(socket.as_mut()) => Woken::Datagrams,
            () = core.woken.notified() => Woken::Time,
            () = sleep_until(wake) => Woken::Time,
        };
        let leaving = matches!(woken, Woken::Exit);
        match woken {
            Woken::Exit => core.input(Input::Leave),
            Woken::Local(changed) => local.changed(&core, changed),
            Woken::Datagrams => open_all(&core, socket.as_mut()),
            Woken::Time => {}
        }
        let now = core.now();
        let mut state = core.state.lock();
        // Packets that waited are handled before time-outs expire: they may be the answers.
        if state.mesh.next_timeout().is_some_and(|due| due <= now.elapsed) {
            state.mesh.handle(now, Input::Timeout);
        }
        drop(state);
        act(&core, socket.as_ref(), &mut local, &mut sealed);
        if leaving {
            break;
        }
        shown.waits = true;
        if shown.next() <= Instant::now() {
            // What changed nothing makes the next change wait for nothing.
            let at = if core.show() { Some(Instant::now()) } else { shown.at };
            shown = Shown { at, waits: false };
        }
    }
    if let Some(pool) = &core.pool {
        pool.close_all();
    }
}

/// When readers last got a view, and whether there may be a newer one.
struct Shown {
    at: Option<Instant>,
    waits: bool,
}

impl Shown {
    fn next(&self) -> Instant {
        self.at.map_or_else(Instant::now, |at| at + VIEW_EVERY)
    }
}

impl Core {
    /// Gives readers the view as it is now, if it has changed, and has the names saved. Returns whether it has.
    pub(super) fn show(&self) -> bool {
        let now = self.now();
        // Under the lock, so that no older view follows a newer one.
        let mut state = self.state.lock();
        let Some(view) = state.mesh.view(now) else { return false };
        self.view.send_replace(view);
        self.views_shown.raise(self.views_shown.now() + 1);
        self.saves.ask();
        true
    }
}

/// Waits for datagrams; for ever when there is no socket.
async fn receive(socket: Option<&mut Datagrams>) {
    let Some(socket) = socket else { return std::future::pending().await };
    // Errors are about packets that were sent before, to ports that nobody listens on any more.
    while socket.receive().await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Opens the seals of what came and hands it to the machine.
fn open_all(core: &Core, socket: Option<&mut Datagrams>) {
    let Some(socket) = socket else { return };
    let now = core.now();
    let mut state = core.state.lock();
    let state = &mut *state;
    socket.drain(|from, packet| {
        core.traffic.packets_in.fetch_add(1, Relaxed);
        core.traffic.bytes_in.fetch_add(packet.len() as u64, Relaxed);
        match state.sealer.open(packet) {
            Ok(opened) => {
                let (sender, bytes) = (opened.sender, opened.bytes);
                state.mesh.handle(now, Input::Datagram { from, sender, bytes });
            }
            Err(why) => state.dropped.note(from, why),
        }
    });
}

/// Does what the machine asks for, until it asks for nothing.
fn act(core: &Arc<Core>, socket: Option<&Datagrams>, local: &mut Local, sealed: &mut Vec<u8>) {
    loop {
        let mut state = core.state.lock();
        let Some(output) = state.mesh.poll_output() else { return };
        match output {
            Output::Send { to, datagram } => {
                sealed.clear();
                state.sealer.seal(&datagram, sealed);
                drop(state);
                send(core, socket, to, sealed);
            }
            other => {
                drop(state);
                match other {
                    Output::Exchange { peer } => exchange::begin(core, peer),
                    Output::Check { peer } => check(core, peer),
                    Output::Broker(command) => local.obey(core, command),
                    Output::Event(event) => tell(core, event),
                    Output::Send { .. } => {}
                }
            }
        }
    }
}

fn send(core: &Core, socket: Option<&Datagrams>, to: SocketAddr, sealed: &[u8]) {
    let Some(socket) = socket else { return };
    if socket.send(to, sealed) {
        core.traffic.packets_out.fetch_add(1, Relaxed);
        core.traffic.bytes_out.fetch_add(sealed.len() as u64, Relaxed);
    } else {
        core.traffic.unsent.fetch_add(1, Relaxed);
    }
}

/// Asks the peer's host whether a process still listens for clients there.
fn check(core: &Arc<Core>, peer: Peer) {
    let about = core.view().member(peer.id).and_then(|member| member.about.clone());
    // Elsewhere than at the gossip address, a refused connection says nothing.
    let Some(about) = about.filter(|about| about.tcp_at_gossip) else { return };
    let address = SocketAddr::new(peer.gossip.ip(), about.tcp_port);
    let core = Arc::clone(core);
    let spawn = Arc::clone(&core.env.background);
    spawn.spawn(Box::pin(async move {
        let answer = timeout(CHECK, core.env.net.connect(address)).await;
        let gone = matches!(answer, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused);
        core.input(Input::Checked { peer, gone });
    }));
}

/// Says in the log what people may want to know.
fn tell(core: &Core, event: Event) {
    match event {
        Event::Up(peer) => tracing::info!("node {} is up at {}", peer.id, peer.gossip),
        Event::Suspected(peer) => tracing::info!("node {} at {} does not answer", peer.id, peer.gossip),
        Event::Down(peer) => {
            tracing::info!("node {} at {} is gone", peer.id, peer.gossip);
            if let Some(pool) = &core.pool {
                pool.close(&peer);
            }
        }
        Event::Revived(peer) => {
            tracing::info!(
                "others took this node for dead; it came back as {}.{}",
                peer.generation,
                peer.renewal
            );
        }
        Event::SameNode { address } => tracing::error!(
            "{address} runs under this node's id: its data directory is a copy of this one's. Stop it and give \
             it an empty --data-path"
        ),
        Event::Refused { sender, why } => tracing::warn!("node {sender} sent what cannot be: {why}"),
    }
}
