#![allow(missing_docs, unused, clippy::all)]
use crate::*;
use bruit_wire::*;
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
pub struct Setup {
    pub peer: Peer,
    pub about: About,
    pub profile: Profile,
    pub random: [u8; 32],
    pub saved: Option<Bytes>,
}
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct MeshStats {
    pub alive: u64,
}
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct ExchangeError;
pub struct Mesh;
impl Mesh {
    pub fn new(setup: Setup, now: Now) -> Self {
        Mesh
    }
    pub fn handle(&mut self, now: Now, input: Input<'_>) {}
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }
    pub fn next_timeout(&self) -> Option<Duration> {
        None
    }
    pub fn view(&mut self, now: Now) -> Option<Arc<View>> {
        None
    }
    pub fn names_to_save(&mut self) -> Option<Vec<u8>> {
        None
    }
    pub fn stats(&self, now: Now) -> MeshStats {
        MeshStats::default()
    }
    pub fn exchange_open(&mut self, now: Now, peer: &Peer) -> Bytes {
        Bytes::new()
    }
    pub fn exchange_answer(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<Bytes, ExchangeError> {
        Err(ExchangeError)
    }
    pub fn exchange_close(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<Bytes, ExchangeError> {
        Err(ExchangeError)
    }
    pub fn exchange_end(&mut self, now: Now, from: NodeId, leg: &[u8]) -> Result<(), ExchangeError> {
        Err(ExchangeError)
    }
    pub fn exchange_over(&mut self, now: Now, peer: &Peer, bytes: Option<u64>) {}
}
