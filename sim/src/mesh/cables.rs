//! The saboteur of the network.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    MESH_PORT,
    plan::{Cable, MeshPlan},
};
use crate::world::{Ether, Weather};

/// Carries out what a plan has in store for the network, and mends everything in the end.
#[derive(Debug)]
pub struct Cables {
    ether: Ether,
    /// The addresses of the nodes, in order.
    nodes: Vec<IpAddr>,
    plan: VecDeque<(Duration, Cable)>,
    ends_at: Duration,
    mended: bool,
}

impl Cables {
    /// A saboteur with its part of `plan`.
    #[must_use]
    pub fn new(ether: Ether, nodes: Vec<IpAddr>, plan: &MeshPlan) -> Self {
        Self { ether, nodes, plan: plan.cables.clone().into(), ends_at: plan.chaos, mended: false }
    }

    /// Does what is due now.
    pub fn act(&mut self, sim: &turmoil::Sim<'_>, now: Duration) {
        if self.mended {
            return;
        }
        while self.plan.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, cable)) = self.plan.pop_front() {
                self.perform(sim, cable);
            }
        }
        if now >= self.ends_at {
            self.plan.clear();
            self.ether.mend_all(sim);
            self.ether.set_weather(Weather::FAIR);
            self.mended = true;
        }
    }

    /// Whether everything is mended for good.
    #[must_use]
    pub fn are_mended(&self) -> bool {
        self.mended
    }

    fn perform(&self, sim: &turmoil::Sim<'_>, cable: Cable) {
        match cable {
            Cable::Mend => self.ether.mend_all(sim),
            Cable::Weather(weather) => self.ether.set_weather(weather),
            Cable::Deafen(from, to) => self.ether.cut(sim, self.nodes[from], self.nodes[to]),
            Cable::Part(one, other) => {
                self.ether.cut(sim, self.nodes[one], self.nodes[other]);
                self.ether.cut(sim, self.nodes[other], self.nodes[one]);
            }
            Cable::Mute(one, other) => {
                let quic = |node: usize| SocketAddr::new(self.nodes[node], MESH_PORT);
                self.ether.mute(self.nodes[one], quic(other));
                self.ether.mute(self.nodes[other], quic(one));
            }
            Cable::Split(part) => {
                let is_inside = |at: &usize| part.contains(at);
                for inside in (0..self.nodes.len()).filter(is_inside) {
                    for outside in (0..self.nodes.len()).filter(|at| !is_inside(at)) {
                        self.ether.cut(sim, self.nodes[inside], self.nodes[outside]);
                        self.ether.cut(sim, self.nodes[outside], self.nodes[inside]);
                    }
                }
            }
        }
    }
}
