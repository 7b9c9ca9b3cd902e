//! Accepts connections and starts their tasks.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{connection, session::ServerFacts};
use crate::{
    broker::Broker,
    env::{Conn, Env, Listener},
    exit::Exiting,
    relay::Relays,
};

/// Pause after accepting failed, as when the node is out of file descriptors.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the node exits. Connections beyond the limit are closed at once.
pub(crate) async fn serve(
    mut listener: Box<dyn Listener>,
    broker: Arc<Broker>,
    relays: Arc<Relays>,
    facts: Arc<ServerFacts>,
    env: Env,
    exit: Exiting,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = exit.told() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((conn, peer)) if broker.connections() < facts.limits.max_connections => {
                start(&broker, &relays, &facts, &env, conn, peer);
            }
            Ok((_, peer)) => {
                tracing::warn!("connection of {peer} refused: there are as many as --max-connections")
            }
            Err(error) if connection::is_shortage(&error) => {
                tracing::warn!("cannot accept connections: {error}");
                tokio::time::sleep(SHORTAGE_PAUSE).await;
            }
            Err(_) => {}
        }
    }
}

fn start(
    broker: &Arc<Broker>,
    relays: &Arc<Relays>,
    facts: &Arc<ServerFacts>,
    env: &Env,
    conn: Conn,
    peer: SocketAddr,
) {
    let client = broker.connect(peer.to_string(), peer.ip().to_string(), env.wall.now());
    let mut seed = [0; 8];
    env.entropy.fill(&mut seed);
    let (broker, relays, facts) = (Arc::clone(broker), Arc::clone(relays), Arc::clone(facts));
    let task = connection::run(broker, relays, client, facts, u64::from_le_bytes(seed), conn);
    env.spawn.spawn(Box::pin(task));
}
