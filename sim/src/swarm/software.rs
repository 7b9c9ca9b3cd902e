//! What runs on the hosts of a swarm: [`Mesh`], or in the simulator's own tests something that is broken on
//! purpose.

use std::{sync::Arc, time::Duration};

use bruit_gossip::{ExchangeError, Input, Mesh, MeshStats, NodeId, Now, Output, Peer, Setup, View};
use bytes::Bytes;

/// A node's part of the mesh, as its shell sees it. Each method is that of [`Mesh`] with the same name.
#[expect(missing_docs, reason = "each method is that of Mesh")]
pub trait Software {
    fn new(setup: Setup, now: Now) -> Self;
    fn handle(&mut self, now: Now, input: Input<'_>);
    fn poll_output(&mut self) -> Option<Output>;
    fn next_timeout(&self) -> Option<Duration>;
    fn view(&mut self, now: Now) -> Option<Arc<View>>;
    fn names_to_save(&mut self) -> Option<Vec<u8>>;
    fn stats(&self, now: Now) -> MeshStats;
    fn exchange_open(&mut self, now: Now, peer: &Peer) -> Bytes;
    fn exchange_answer(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<Bytes, ExchangeError>;
    fn exchange_close(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<Bytes, ExchangeError>;
    fn exchange_end(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<(), ExchangeError>;
    fn exchange_over(&mut self, now: Now, peer: &Peer, bytes: Option<u64>);
}

impl Software for Mesh {
    fn new(setup: Setup, now: Now) -> Self {
        Self::new(setup, now)
    }

    fn handle(&mut self, now: Now, input: Input<'_>) {
        self.handle(now, input);
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.poll_output()
    }

    fn next_timeout(&self) -> Option<Duration> {
        self.next_timeout()
    }

    fn view(&mut self, now: Now) -> Option<Arc<View>> {
        self.view(now)
    }

    fn names_to_save(&mut self) -> Option<Vec<u8>> {
        self.names_to_save()
    }

    fn stats(&self, now: Now) -> MeshStats {
        self.stats(now)
    }

    fn exchange_open(&mut self, now: Now, peer: &Peer) -> Bytes {
        self.exchange_open(now, peer)
    }

    fn exchange_answer(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<Bytes, ExchangeError> {
        self.exchange_answer(now, from, leg)
    }

    fn exchange_close(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<Bytes, ExchangeError> {
        self.exchange_close(now, from, leg)
    }

    fn exchange_end(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<(), ExchangeError> {
        self.exchange_end(now, from, leg)
    }

    fn exchange_over(&mut self, now: Now, peer: &Peer, bytes: Option<u64>) {
        self.exchange_over(now, peer, bytes);
    }
}
