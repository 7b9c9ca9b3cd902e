//! How long things take in a swarm, and what they cost. Each function is one run of one seed.

use std::{cmp::Reverse, time::Duration};

use bruit_gossip::{MemberState, Mesh, NodeId};

use super::{
    check::{Truth, check, disagreement},
    host::{Host, Wish},
    net::{HostId, Weather},
    scenario::name,
    world::World,
};
use crate::dice::Dice;

/// Nothing that is measured here takes longer, or it never ends.
const LONGEST: Duration = Duration::from_secs(180);

/// How long nodes may take to see something.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// Until each of them saw it first, in no order. Who never did has [`LONGEST`].
    pub each: Vec<Duration>,
    /// Until all of them saw it at the same time.
    pub all: Option<Duration>,
}

/// A swarm that measures are taken of.
pub struct Sample {
    world: World<Mesh>,
    dice: Dice,
    number: u64,
}

impl Sample {
    /// Starts so many nodes within 50 ms, all with one seed, which is one of them.
    #[must_use]
    pub fn new(seed: u64, nodes: usize, weather: Weather) -> Self {
        let dice = Dice::new(seed).fork(77);
        let mut world = World::new(&dice, nodes, weather, false);
        let mut order: Vec<(u64, HostId)> =
            (0..nodes).map(|host| (dice.fork(host as u64).below(50), host)).collect();
        order.sort_unstable();
        // All know one address, as `--join` would have it.
        world.hosts.iter_mut().for_each(|host| host.seeds.truncate(1));
        for (at, host) in order {
            world.run_until(Duration::from_millis(at));
            world.start(host);
        }
        Self { world, dice: dice.fork(1), number: 0 }
    }

    /// The same, with all nodes known to all and nothing left to say.
    #[must_use]
    pub fn settled(seed: u64, nodes: usize, weather: Weather) -> Self {
        let mut sample = Self::new(seed, nodes, weather);
        let _ = sample.joined();
        let rest = sample.dice.millis(10_000, 11_000);
        sample.world.run_until(sample.world.now() + rest);
        sample
    }

    /// The swarm.
    #[must_use]
    pub const fn world(&self) -> &World<Mesh> {
        &self.world
    }

    /// How long until every node sees every node.
    pub fn joined(&mut self) -> Arrivals {
        let truth = Truth::new(&self.world);
        self.until(|host| host.process.as_ref().is_some_and(|process| truth.members_agree(&process.view)))
    }

    /// Publishes to a new topic on any node: how long until each node's lookup names it.
    pub fn first_publish(&mut self) -> Arrivals {
        self.number += 1;
        let topic = name(&format!("new-{}", self.number), None);
        let publisher = self.anybody();
        let node = self.world.hosts[publisher].node;
        self.world.wish(publisher, Wish::Use(topic.clone()));
        let mut arrivals = self.until(|host| {
            let view = host.process.as_ref().map(|process| &process.view);
            view.is_some_and(|view| {
                view.producers(topic.topic.as_str()).iter().any(|producer| producer.member.peer.id == node)
            })
        });
        // The publisher itself is no news.
        if let Some(first) =
            arrivals.each.iter().position(|each| arrivals.each.iter().all(|other| each <= other))
        {
            arrivals.each.swap_remove(first);
        }
        let rest = self.dice.millis(1_000, 3_000);
        self.world.run_until(self.world.now() + rest);
        arrivals
    }

    /// Takes a host away, or kills its process: how long until each of the others knows. It comes back later.
    pub fn lost(&mut self, is_host: bool) -> Arrivals {
        let victim = self.anybody();
        let node = self.world.hosts[victim].node;
        if is_host {
            self.world.take_away(victim);
        } else {
            self.world.kill(victim);
        }
        let arrivals = self.until(|host| shows_as_down(host, node));
        let rest = self.dice.millis(2_000, 4_000);
        self.world.run_until(self.world.now() + rest);
        self.world.start(victim);
        let _ = self.joined();
        let rest = self.dice.millis(3_000, 4_000);
        self.world.run_until(self.world.now() + rest);
        arrivals
    }

    /// Cuts the swarm in halves for a while, in which both sides make and delete topics: how long from the
    /// heal until all is equal everywhere.
    pub fn healed(&mut self, cut: Duration) -> Option<Duration> {
        let nodes = self.world.hosts.len();
        for number in 0..nodes {
            let topic = name(&format!("topic-{}", number / 3), Some("channel"));
            self.world.wish(number, Wish::Use(topic));
        }
        self.world.run_until(self.world.now() + Duration::from_secs(5));
        let mut sides: Vec<(u64, HostId)> = (0..nodes).map(|host| (self.dice.roll(), host)).collect();
        sides.sort_unstable_by_key(|side| Reverse(*side));
        sides.iter().take(nodes / 2).for_each(|(_, host)| self.world.net.put(*host, 1));
        self.world.net.cut(0, 1);
        self.world.net.cut(1, 0);
        let heals = self.world.now() + cut;
        for number in 0..8 {
            self.world.run_until(self.world.now() + cut / 10);
            let wish = match number {
                6 | 7 => Wish::Delete(name(&format!("topic-{number}"), None)),
                _ => Wish::Use(name(&format!("made-apart-{}", number / 2), Some("channel"))),
            };
            let somebody = self.anybody();
            self.world.wish(somebody, wish);
        }
        self.world.run_until(heals);
        self.world.net.heal();
        self.until_all_is_equal()
    }

    /// Bytes of datagrams and of exchanges that each node sends a second while nothing happens, with so many
    /// topics in the whole swarm.
    pub fn steady(&mut self, topics: usize) -> Vec<(f64, f64)> {
        let nodes = self.world.hosts.len();
        for topic in 0..topics {
            let name = name(&format!("topic-{topic}"), Some("channel"));
            self.world.wish(topic % nodes, Wish::Use(name));
        }
        self.world.run_until(self.world.now() + Duration::from_secs(60));
        let sent = |world: &World<Mesh>| (0..nodes).map(|host| world.net.sent(host)).collect::<Vec<_>>();
        let before = sent(&self.world);
        let length = Duration::from_secs(120);
        self.world.run_until(self.world.now() + length);
        let rate = |bytes: u64| bytes as f64 / length.as_secs_f64();
        let rates = sent(&self.world).into_iter().zip(before).map(|(after, before)| {
            (rate(after.bytes - before.bytes), rate(after.exchange_bytes - before.exchange_bytes))
        });
        rates.collect()
    }

    /// One node is paused again and again, or starved, for so long: how many pairs there are of which the
    /// first took the second for dead although nothing was done to it; first the healthy ones' mistakes, then
    /// those of the node itself.
    pub fn mistaken(&mut self, is_starved: bool, length: Duration) -> (usize, usize) {
        let victim = self.anybody();
        let end = self.world.now() + length;
        if is_starved {
            self.world.starve(victim, length);
            self.world.run_until(end);
        }
        while self.world.now() < end {
            let pause = self.dice.millis(
                500,
                [2_000, 10_000, 60_000][usize::try_from(self.dice.clone().below(3)).unwrap_or(0)],
            );
            self.world.pause(victim, pause);
            let rest = self.dice.millis(100, 20_000);
            self.world.run_until(self.world.now() + pause + rest);
        }
        let deaths = &self.world.guard.false_deaths;
        let own = deaths.keys().filter(|(by, _)| *by == victim).count();
        (deaths.len() - own, own)
    }

    fn anybody(&mut self) -> HostId {
        usize::try_from(self.dice.below(self.world.hosts.len() as u64)).unwrap_or(0)
    }

    fn until(&mut self, is_good: impl Fn(&Host<Mesh>) -> bool) -> Arrivals {
        let begin = self.world.now();
        let mut first: Vec<Option<Duration>> = vec![None; self.world.hosts.len()];
        let mut good: Vec<bool> = self.world.hosts.iter().map(|host| !host.is_member()).collect();
        let mut bad = good.iter().filter(|good| !**good).count();
        self.world.changed = (0..good.len()).collect();
        let is_member = good.clone();
        loop {
            for id in std::mem::take(&mut self.world.changed) {
                let host = &self.world.hosts[id];
                let now_good = is_member[id] || is_good(host);
                match (good[id], now_good) {
                    (false, true) => bad -= 1,
                    (true, false) => bad += 1,
                    _ => {}
                }
                good[id] = now_good;
                if now_good && !is_member[id] {
                    first[id].get_or_insert(self.world.now() - begin);
                }
            }
            if bad == 0 || !self.world.step(begin + LONGEST) {
                break;
            }
        }
        let members = first.iter().zip(&is_member).filter(|(_, out)| !**out);
        Arrivals {
            each: members.map(|(first, _)| first.unwrap_or(LONGEST)).collect(),
            all: (bad == 0).then(|| self.world.now() - begin),
        }
    }

    fn until_all_is_equal(&mut self) -> Option<Duration> {
        let begin = self.world.now();
        while self.world.now() < begin + LONGEST {
            self.world.run_until(self.world.now() + Duration::from_millis(10));
            let truth = Truth::new(&self.world);
            if self.world.live().all(|host| disagreement(&truth, host).is_none())
                && check(&self.world).is_empty()
            {
                return Some(self.world.now() - begin);
            }
        }
        None
    }
}

fn shows_as_down(host: &Host<Mesh>, node: NodeId) -> bool {
    let member =
        host.process.as_ref().and_then(|process| process.view.member(node).map(|member| member.state));
    matches!(member, Some(MemberState::Down | MemberState::Left) | None)
}
