//! One host of a swarm: what is on its disk, and the process that runs on it, if one does.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bruit_gossip::{About, Command, LocalChange, LocalWhat, Name, NodeId, Now, Peer, View};
use bytes::Bytes;

use super::{
    net::{HostId, MESH_PORT, gossip_address},
    poison::Poison,
};
use crate::dice::mix;

/// Datagrams that a socket keeps for a process which does not run: what 208 KiB, Linux's default, hold.
const SOCKET_QUEUE: usize = 256;

/// A host.
#[derive(Debug)]
pub struct Host<S> {
    /// Its number.
    pub id: HostId,
    /// The node on it, for life.
    pub node: NodeId,
    /// How often the node has started.
    pub generation: u64,
    /// Whether the host itself runs. One that does not answers nobody.
    pub is_on: bool,
    /// The topics and channels in its journal, with their numbers.
    pub holds: BTreeMap<Name, u64>,
    /// The names that the mesh has saved, as they are on disk.
    pub saved: Option<Bytes>,
    /// Milliseconds by which its wall clock is wrong.
    pub wall_error: i64,
    /// Where it says hello when it starts.
    pub seeds: Vec<SocketAddr>,
    /// What is wrong with what it sends.
    pub poison: Option<Poison>,
    /// Whether anything was ever done to it, so that others may rightly have taken it for dead.
    pub was_hurt: bool,
    /// The process.
    pub process: Option<Process<S>>,
    numbers: u64,
}

/// A running node.
#[derive(Debug)]
pub struct Process<S> {
    /// Tells it from others on its host: the number of the start.
    pub life: u64,
    /// The node's part of the mesh.
    pub mesh: S,
    /// What it believes now.
    pub view: Arc<View>,
    /// When it started.
    pub born: Duration,
    /// Whether it gets no time now. What comes meanwhile waits.
    pub is_frozen: bool,
    /// What waits.
    pub inbox: VecDeque<Work>,
    /// When its timer goes off.
    pub wake_at: Option<Duration>,
    /// Earliest time for the next look at the mesh's view.
    pub look_from: Duration,
    /// Whether that look is planned.
    pub look_planned: bool,
    /// Earliest time at which the names are saved again.
    pub save_from: Duration,
    /// Whether it was told to leave, so that it belongs to no mesh.
    pub has_left: bool,
    /// Exchanges that it answers now.
    pub answering: u32,
    /// Deleted names that it has known to be deleted.
    pub buried: BTreeSet<Name>,
    waiting_datagrams: usize,
}

/// Something for a process to do.
#[derive(Debug)]
pub enum Work {
    /// A datagram came.
    Datagram {
        /// From where.
        from: SocketAddr,
        /// Who sent it.
        sender: NodeId,
        /// Its bytes.
        bytes: Bytes,
    },
    /// The timer went off.
    Wake,
    /// Time to look at the view.
    Look,
    /// Time to say hello to the seeds again.
    Hello,
    /// A look at a peer's host has ended.
    Checked {
        /// Whom it was about.
        peer: Peer,
        /// Whether its process is gone.
        is_gone: bool,
    },
    /// The next step of an exchange.
    Exchange {
        /// Which one.
        exchange: u64,
        /// The step.
        step: Step,
    },
    /// The broker gets to what the mesh has told it.
    Broker(Command),
    /// Somebody wants something.
    Wish(Wish),
}

/// A step of an exchange. Those with bytes have just arrived.
#[derive(Debug)]
pub enum Step {
    /// The connection is open; at the initiator.
    Open,
    /// Leg 1 is there; at the responder.
    Answer(Bytes),
    /// Leg 2 is there; at the initiator.
    Close(Bytes),
    /// Leg 3 is there; at the responder.
    End(Bytes),
    /// It ended well; at the initiator.
    Done,
    /// It did not come to an end in time, or was refused; at the initiator.
    Failed,
}

/// What a user or client wants of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Somebody publishes to a topic or subscribes to a channel that is new here.
    Use(Name),
    /// Delete it everywhere.
    Delete(Name),
    /// Leave the mesh.
    Leave,
    /// Join it again.
    Join,
}

impl<S> Host<S> {
    /// A host with an empty disk.
    #[must_use]
    pub fn new(id: HostId, seeds: Vec<SocketAddr>) -> Self {
        Self {
            id,
            // Not in the order of the addresses.
            node: NodeId::new(mix(id as u64 + 1)),
            generation: 0,
            is_on: true,
            holds: BTreeMap::new(),
            saved: None,
            wall_error: 0,
            seeds,
            poison: None,
            was_hurt: false,
            process: None,
            numbers: 0,
        }
    }

    /// Who it is in its current life.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer {
            id: self.node,
            generation: self.generation,
            renewal: 0,
            gossip: gossip_address(self.id),
            mesh_port: MESH_PORT,
        }
    }

    /// What its node says about itself.
    #[must_use]
    pub fn about(&self) -> About {
        About {
            broadcast_addresses: vec![gossip_address(self.id).ip().to_string()],
            hostname: format!("host-{}", self.id),
            tcp_port: 4150,
            http_port: 4151,
            version: "0.1.0".to_owned(),
            topology_zone: format!("zone-{}", self.id % 3),
            topology_region: "region".to_owned(),
            draining: false,
            tcp_at_gossip: true,
            ..About::default()
        }
    }

    /// Whether its node is a live part of the mesh.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.has_left)
    }

    /// A topic or channel is used here. What has come to be, in order.
    pub fn use_name(&mut self, name: &Name) -> Vec<LocalChange> {
        let mut changes = Vec::new();
        let topic = Name::topic(name.topic.clone());
        if !self.holds.contains_key(&topic) {
            changes.push(self.make(topic));
            // NSQ's rule: a topic's first message meets every channel that is known.
            let view = self.process.as_ref().map(|process| process.view.clone());
            let known = view.map(|view| view.lasting_channels(name.topic.as_str())).unwrap_or_default();
            changes.extend(
                known.into_iter().map(|channel| self.make(Name::channel(name.topic.clone(), channel))),
            );
        }
        if !self.holds.contains_key(name) {
            changes.push(self.make(name.clone()));
        }
        changes
    }

    /// The broker does what the mesh has told it. What has changed, in order.
    pub fn obey(&mut self, command: Command) -> Vec<LocalChange> {
        match command {
            Command::CreateChannel { topic, channel } => {
                let name = Name::channel(topic.clone(), channel);
                if self.holds.contains_key(&Name::topic(topic)) && !self.holds.contains_key(&name) {
                    return vec![self.make(name)];
                }
                Vec::new()
            }
            Command::Delete { name, number } if self.holds.get(&name) == Some(&number) => {
                self.drop_name(&name)
            }
            Command::Delete { .. } => Vec::new(),
        }
    }

    /// What a start finds in the journal.
    #[must_use]
    pub fn recover(&self) -> Vec<LocalChange> {
        let change = |(name, number): (&Name, &u64)| LocalChange {
            name: name.clone(),
            number: *number,
            what: LocalWhat::Recovered,
        };
        self.holds.iter().map(change).collect()
    }

    fn make(&mut self, name: Name) -> LocalChange {
        self.numbers += 1;
        self.holds.insert(name.clone(), self.numbers);
        LocalChange { name, number: self.numbers, what: LocalWhat::Created }
    }

    /// Forgets a name, and with a topic its channels: these first.
    fn drop_name(&mut self, name: &Name) -> Vec<LocalChange> {
        let goes = |held: &Name| held == name || name.channel.is_none() && held.topic == name.topic;
        let going: Vec<Name> = self.holds.keys().filter(|held| goes(held)).rev().cloned().collect();
        let mut changes = Vec::new();
        for name in going {
            if let Some(number) = self.holds.remove(&name) {
                changes.push(LocalChange { name, number, what: LocalWhat::Gone });
            }
        }
        changes
    }
}

impl<S> Process<S> {
    /// A process that starts at `born`.
    #[must_use]
    pub fn new(life: u64, mesh: S, node: NodeId, born: Duration) -> Self {
        Self {
            life,
            mesh,
            view: Arc::new(View::empty(node)),
            born,
            is_frozen: false,
            inbox: VecDeque::new(),
            wake_at: None,
            look_from: born,
            look_planned: false,
            save_from: born,
            has_left: false,
            answering: 0,
            buried: BTreeSet::new(),
            waiting_datagrams: 0,
        }
    }

    /// Lets `work` wait until the process gets time again. A full socket drops what comes.
    pub fn wait_with(&mut self, work: Work) {
        if matches!(work, Work::Datagram { .. }) {
            if self.waiting_datagrams == SOCKET_QUEUE {
                return;
            }
            self.waiting_datagrams += 1;
        }
        self.inbox.push_back(work);
    }

    /// What has waited. `timers_first` is the order in which the process happens to look at its timer and at
    /// its sockets.
    pub fn catch_up(&mut self, timers_first: bool) -> Vec<Work> {
        self.waiting_datagrams = 0;
        let (timers, others): (Vec<Work>, Vec<Work>) =
            self.inbox.drain(..).partition(|work| matches!(work, Work::Wake));
        if timers_first {
            timers.into_iter().chain(others).collect()
        } else {
            others.into_iter().chain(timers).collect()
        }
    }
}

/// Both clocks of a process, at `at`.
#[must_use]
pub fn now(at: Duration, born: Duration, wall_error: i64) -> Now {
    let wall =
        i64::try_from(at.as_millis()).unwrap_or(i64::MAX).saturating_add(EPOCH_MS).saturating_add(wall_error);
    Now { elapsed: at.saturating_sub(born), wall_ms: u64::try_from(wall).unwrap_or(0) }
}

/// When simulations begin, milliseconds since 1970: 1 January 2026.
const EPOCH_MS: i64 = 1_767_225_600_000;

#[cfg(test)]
mod tests {
    use bruit_wire::{ChannelName, TopicName};

    use super::*;

    fn topic() -> Name {
        Name::topic(TopicName::new("orders").unwrap())
    }

    fn channel(name: &str) -> Name {
        Name::channel(topic().topic, ChannelName::new(name).unwrap())
    }

    #[test]
    fn a_broker_holds_what_is_used_and_obeys_by_number() {
        let mut host: Host<()> = Host::new(3, Vec::new());
        let made: Vec<Name> = host.use_name(&channel("a")).into_iter().map(|change| change.name).collect();
        assert_eq!(made, [topic(), channel("a")]);
        assert!(host.use_name(&channel("a")).is_empty());
        let create = |topic: &Name, channel: &str| Command::CreateChannel {
            topic: topic.topic.clone(),
            channel: ChannelName::new(channel).unwrap(),
        };
        assert_eq!(host.obey(create(&topic(), "b")).len(), 1);
        let other = Name::topic(TopicName::new("other").unwrap());
        assert!(host.obey(create(&other, "b")).is_empty(), "gossip never creates a topic");
        assert!(host.obey(Command::Delete { name: topic(), number: 9 }).is_empty());
        let gone: Vec<Name> = host
            .obey(Command::Delete { name: topic(), number: 1 })
            .into_iter()
            .map(|change| change.name)
            .collect();
        assert_eq!(gone, [channel("b"), channel("a"), topic()]);
        assert!(host.holds.is_empty() && host.recover().is_empty());
    }

    #[test]
    fn a_full_socket_drops_and_the_rest_waits_in_order() {
        let mut process = Process::new(1, (), NodeId::new(1), Duration::ZERO);
        process.wait_with(Work::Wake);
        for number in 0..300_u16 {
            let bytes = Bytes::copy_from_slice(&number.to_be_bytes());
            process.wait_with(Work::Datagram { from: gossip_address(0), sender: NodeId::new(2), bytes });
        }
        let work = process.catch_up(false);
        assert_eq!(work.len(), SOCKET_QUEUE + 1);
        assert!(matches!(work.last(), Some(Work::Wake)));
        assert!(matches!(&work[1], Work::Datagram { bytes, .. } if bytes[..] == [0, 1]));
    }

    #[test]
    fn clocks_are_apart() {
        let now = now(Duration::from_secs(5), Duration::from_secs(3), -1_000);
        assert_eq!(now.elapsed, Duration::from_secs(2));
        assert_eq!(now.wall_ms, 1_767_225_604_000);
    }
}
