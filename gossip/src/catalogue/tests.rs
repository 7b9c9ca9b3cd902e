//! Catalogues talking to each other. [`Node`] plays the broker under one of them.

use std::{collections::BTreeSet, net::SocketAddr};

use super::*;
use crate::{Heard, MemberState, Payload, Peer};

mod converge;
mod hostile;
mod names;
mod registrants;
mod size;

const WALL_MS: u64 = 1_800_000_000_000;

/// A catalogue with a broker that does what it is told, and a file of names.
pub(super) struct Node {
    pub(super) catalogue: Catalogue,
    pub(super) held: BTreeMap<Name, u64>,
    id: NodeId,
    generation: u64,
    number: u64,
    saved: Vec<u8>,
}

pub(super) fn now(ms: u64) -> Now {
    Now { elapsed: Duration::from_millis(ms), wall_ms: WALL_MS + ms }
}

/// `t` or `t/c`.
pub(super) fn name(text: &str) -> Name {
    let (topic, channel) =
        text.split_once('/').map_or((text, None), |(topic, channel)| (topic, Some(channel)));
    Name {
        topic: TopicName::new(topic).unwrap(),
        channel: channel.map(|channel| ChannelName::new(channel).unwrap()),
    }
}

impl Node {
    pub(super) fn new(id: u64) -> Self {
        let catalogue = Catalogue::new(NodeId::new(id), 1, about(id));
        Self {
            catalogue,
            held: BTreeMap::new(),
            id: NodeId::new(id),
            generation: 1,
            number: 0,
            saved: Vec::new(),
        }
    }

    /// A topic or channel comes, a channel with its topic, unless it is there.
    pub(super) fn make(&mut self, now: Now, name: &Name) {
        if name.channel.is_some() {
            self.make(now, &Name::topic(name.topic.clone()));
        }
        if !self.held.contains_key(name) {
            self.number += 1;
            self.held.insert(name.clone(), self.number);
            self.tell(now, name, self.number, LocalWhat::Created);
        }
    }

    /// A topic with its channels or a channel goes.
    pub(super) fn lose(&mut self, now: Now, name: &Name) {
        let is_lost = |held: &Name| held == name || (name.channel.is_none() && held.topic == name.topic);
        let lost: Vec<(Name, u64)> = self
            .held
            .iter()
            .filter(|(held, _)| is_lost(held))
            .map(|(held, number)| (held.clone(), *number))
            .collect();
        for (lost, number) in lost {
            self.held.remove(&lost);
            self.tell(now, &lost, number, LocalWhat::Gone);
        }
    }

    pub(super) fn delete(&mut self, now: Now, name: &Name) -> bool {
        let known = self.catalogue.delete(now, name);
        self.obey(now);
        known
    }

    pub(super) fn save(&mut self) {
        self.saved = self.catalogue.saved();
    }

    /// Starts again with the names as they were saved last, and all that it held.
    pub(super) fn restart(&mut self, now: Now) {
        self.generation += 1;
        self.catalogue = Catalogue::new(self.id, self.generation, about(self.id.bits()));
        self.catalogue.restore(&self.saved);
        for (name, number) in self.held.clone() {
            // It may have gone with its topic.
            if self.held.contains_key(&name) {
                self.tell(now, &name, number, LocalWhat::Recovered);
            }
        }
    }

    pub(super) fn news(&mut self) -> Vec<Bytes> {
        std::iter::from_fn(|| self.catalogue.take_news()).map(|(_, item)| item).collect()
    }

    pub(super) fn hear(&mut self, now: Now, item: &[u8]) -> Heard {
        let heard = self.catalogue.hear(now, NodeId::new(99), item);
        self.obey(now);
        heard
    }

    pub(super) fn holds(&self, text: &str) -> bool {
        self.held.contains_key(&name(text))
    }

    pub(super) fn view(&self, live: &[&Self]) -> Arc<View> {
        self.catalogue.view(live.iter().map(|node| node.member()).collect())
    }

    pub(super) fn member(&self) -> Member {
        let gossip: SocketAddr = ([127, 0, 0, 1], self.id.bits() as u16).into();
        let peer = Peer { id: self.id, generation: self.generation, renewal: 0, gossip, mesh_port: 1 };
        Member { peer, state: MemberState::Alive, about: None, rtt: None, since_ms: 0 }
    }

    pub(super) fn obey(&mut self, now: Now) {
        while let Some(command) = self.catalogue.take_command() {
            match command {
                Command::CreateChannel { topic, channel } => {
                    if self.held.contains_key(&Name::topic(topic.clone())) {
                        self.make(now, &Name::channel(topic, channel));
                    }
                }
                Command::Delete { name, number } => {
                    if self.held.get(&name) == Some(&number) {
                        self.lose(now, &name);
                    }
                }
            }
        }
    }

    fn tell(&mut self, now: Now, name: &Name, number: u64, what: LocalWhat) {
        self.catalogue.local(now, &LocalChange { name: name.clone(), number, what });
        self.obey(now);
    }
}

pub(super) fn about(id: u64) -> About {
    About { hostname: format!("host-{id}"), tcp_port: 4150, ..About::default() }
}

/// What both lack goes over, in three legs, as bytes. How many changes that were.
pub(super) fn exchange(now: Now, a: &mut Node, b: &mut Node, limit: usize) -> usize {
    let sent = |payload: Payload| -> Payload {
        let bytes = postcard::to_allocvec(&payload).unwrap();
        assert!(bytes.len() <= limit, "{} > {limit}", bytes.len());
        postcard::from_bytes(&bytes).unwrap()
    };
    let asked = a.catalogue.digest();
    let answer = sent(b.catalogue.answer(now, &asked, limit));
    let asked_back = b.catalogue.digest();
    let first = a.catalogue.merge(now, b.id, &answer);
    a.obey(now);
    let rest = sent(a.catalogue.answer(now, &asked_back, limit));
    let second = b.catalogue.merge(now, a.id, &rest);
    b.obey(now);
    assert_eq!((&first.refused, &second.refused), (&BTreeMap::new(), &BTreeMap::new()));
    first.news + second.news
}

/// Exchanges between neighbours in a ring until all know the same.
pub(super) fn settle(now: Now, nodes: &mut [Node], limit: usize) {
    for _ in 0..200 {
        for place in 1..nodes.len() {
            let (before, after) = nodes.split_at_mut(place);
            exchange(now, before.last_mut().unwrap(), &mut after[0], limit);
        }
        let hashes: BTreeSet<u64> = nodes.iter().map(|node| node.catalogue.hash()).collect();
        if hashes.len() == 1 {
            return;
        }
    }
    panic!("the catalogues never became equal");
}
