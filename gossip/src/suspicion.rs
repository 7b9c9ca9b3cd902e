//! Who is suspected by whom, and how long that has to last (Lifeguard, section IV-B).
//!
//! Only who could not reach a suspect himself may declare him dead. The more others say that they could not
//! either, the sooner he does; while nobody does, the fault may well be his own.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use foca::Incarnation;

use crate::{NodeId, Peer};

/// After this many others the suspicion cannot end any sooner.
pub(crate) const CONFIRMATIONS: usize = 3;

/// A suspicion against one incarnation of one identity.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) peer: Peer,
    pub(crate) incarnation: Incarnation,
    /// Since when this node itself could not reach him; `None`: it only heard of it.
    pub(crate) mine: Option<Duration>,
    /// Others who could not.
    accusers: Vec<NodeId>,
}

impl Case {
    /// How long the suspicion has to last from [`mine`](Self::mine) on, where so many others can confirm it.
    pub(crate) fn lasts(&self, others: usize, min: Duration, max: Duration) -> Duration {
        let wanted = CONFIRMATIONS.min(others);
        let have = self.accusers.len().min(wanted);
        if wanted == 0 {
            return min;
        }
        let part = (have as f64 + 1.0).ln() / (wanted as f64 + 1.0).ln();
        max.saturating_sub(max.saturating_sub(min).mul_f64(part))
    }

    /// Whether as many others as can count say the same, and at least one.
    pub(crate) fn is_confirmed(&self, others: usize) -> bool {
        self.accusers.len() >= CONFIRMATIONS.min(others).max(1)
    }
}

/// All suspicions, at most one for each member.
#[derive(Debug, Default)]
pub(crate) struct Cases {
    cases: BTreeMap<SocketAddr, Case>,
}

impl Cases {
    /// Somebody is suspected. Returns whether this is news: a new case, or a new accuser.
    pub(crate) fn hear(&mut self, peer: Peer, incarnation: Incarnation, accuser: Option<NodeId>) -> bool {
        let known = self.cases.get(&peer.gossip);
        let fresh = known.is_none_or(|case| (case.peer, case.incarnation) < (peer, incarnation));
        if fresh {
            let accusers = accuser.into_iter().collect();
            self.cases.insert(peer.gossip, Case { peer, incarnation, mine: None, accusers });
            return true;
        }
        let Some(case) = self.cases.get_mut(&peer.gossip) else { return false };
        let Some(accuser) = accuser else { return false };
        let news = (case.peer, case.incarnation) == (peer, incarnation)
            && case.accusers.len() < CONFIRMATIONS
            && !case.accusers.contains(&accuser);
        if news {
            case.accusers.push(accuser);
        }
        news
    }

    /// This node cannot reach him either. Returns whether that is news.
    pub(crate) fn accuse(&mut self, now: Duration, peer: Peer, incarnation: Incarnation) -> bool {
        self.hear(peer, incarnation, None);
        let case = self.cases.get_mut(&peer.gossip);
        match case.filter(|case| (case.peer, case.incarnation) == (peer, incarnation) && case.mine.is_none())
        {
            Some(case) => {
                case.mine = Some(now);
                true
            }
            None => false,
        }
    }

    pub(crate) fn of(&self, address: SocketAddr) -> Option<&Case> {
        self.cases.get(&address)
    }

    /// This node had its own reason, and it has gone.
    pub(crate) fn withdraw(&mut self, address: SocketAddr) -> bool {
        self.cases.get_mut(&address).and_then(|case| case.mine.take()).is_some()
    }

    /// Time has passed that this node did not live.
    pub(crate) fn delay(&mut self, lost: Duration) {
        for since in self.cases.values_mut().filter_map(|case| case.mine.as_mut()) {
            *since += lost;
        }
    }

    pub(crate) fn close(&mut self, address: SocketAddr) -> Option<Case> {
        self.cases.remove(&address)
    }

    pub(crate) fn clear(&mut self) {
        self.cases.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn peer(generation: u64) -> Peer {
        let gossip = "10.0.0.1:4160".parse().unwrap();
        Peer { id: NodeId::new(1), generation, renewal: 0, gossip, mesh_port: 4161 }
    }

    #[test]
    fn each_confirmation_shortens_the_wait() {
        let mut cases = Cases::default();
        assert!(cases.accuse(secs(5), peer(1), 0));
        assert!(!cases.accuse(secs(6), peer(1), 0));
        let lasts = |cases: &Cases, others| cases.of(peer(1).gossip).unwrap().lasts(others, secs(1), secs(6));
        assert_eq!((lasts(&cases, 0), lasts(&cases, 1)), (secs(1), secs(6)));
        let confirmed = |cases: &Cases, others| cases.of(peer(1).gossip).unwrap().is_confirmed(others);
        assert!(!confirmed(&cases, 0) && !confirmed(&cases, 100));
        let mut before = lasts(&cases, 100);
        for accuser in 2..5 {
            assert!(cases.hear(peer(1), 0, Some(NodeId::new(accuser))));
            assert!(!cases.hear(peer(1), 0, Some(NodeId::new(accuser))), "nobody counts twice");
            assert!(lasts(&cases, 100) < before);
            before = lasts(&cases, 100);
        }
        assert_eq!(before, secs(1));
        assert!(confirmed(&cases, 2) && confirmed(&cases, 100));
        assert!(!cases.hear(peer(1), 0, Some(NodeId::new(9))), "enough is enough");
        assert_eq!(cases.of(peer(1).gossip).unwrap().mine, Some(secs(5)));
    }

    #[test]
    fn a_suspicion_is_against_one_incarnation() {
        let mut cases = Cases::default();
        cases.accuse(secs(1), peer(1), 3);
        assert!(!cases.hear(peer(1), 2, Some(NodeId::new(2))), "an older one");
        assert!(cases.hear(peer(1), 4, None), "a newer one");
        assert_eq!(cases.of(peer(1).gossip).unwrap().mine, None);
        assert!(cases.accuse(secs(2), peer(2), 0), "another life");
        assert!(cases.withdraw(peer(2).gossip) && !cases.withdraw(peer(2).gossip));
        assert!(cases.close(peer(2).gossip).is_some() && cases.of(peer(2).gossip).is_none());
    }
}
