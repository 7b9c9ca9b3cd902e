//! I19 and I24: what a node says it holds is what is then delivered of it, wherever; when nobody is connected
//! nothing is in flight; and in the end everything has been taken.

use std::collections::{BTreeMap, BTreeSet};

use super::super::ledger::{Ledger, NodeIndex};
use crate::{body::Key, check::Finding, history::Counts, shape::Place};

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        ledger.stuck.iter().map(|why| Finding::new("I24", why.clone())).collect();
    let Some(since) = ledger.draining_since else { return findings };
    let mut taken: BTreeMap<(NodeIndex, Place), BTreeSet<Option<Key>>> = BTreeMap::new();
    for delivery in ledger.deliveries.iter().filter(|delivery| delivery.at >= since) {
        taken.entry((delivery.owner, delivery.place)).or_default().insert(delivery.key);
    }
    for ((node, place), held) in &ledger.quiet {
        let channel = ledger.name(*place);
        let taken = taken.get(&(*node, *place)).map_or(0, BTreeSet::len) as u64;
        // After a failure to drain, what was taken says nothing about what was held.
        if held.total() != taken && ledger.stuck.is_empty() {
            let text = format!(
                "node{node} said it held {held:?} of {channel}, and then {taken} messages of it were delivered"
            );
            findings.push(Finding::new("I19", text));
        }
        if held.in_flight > 0 {
            let text = format!("node{node} said {held:?} of {channel} when nobody was connected");
            findings.push(Finding::new("I19", text));
        }
    }
    for ((node, place), left) in ledger.drained.iter().filter(|(_, left)| **left != Counts::default()) {
        let channel = ledger.name(*place);
        let text = format!("node{node} still says {left:?} of {channel} after everything was finished");
        findings.push(Finding::new("I19", text));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::Event,
        relay::check::scene::{ORDERS, Scene},
    };

    fn counts(depth: u64, in_flight: u64) -> Counts {
        Counts { depth, in_flight, deferred: 0 }
    }

    #[test]
    fn an_owner_that_held_more_or_less_than_was_delivered_of_it_is_found() {
        for (depth, in_flight, expected) in
            [(1, 0, &["I19"][..]), (2, 0, &[]), (3, 0, &["I19"]), (1, 1, &["I19"])]
        {
            let mut scene = Scene::new();
            let conn = scene.subscribe(0, ORDERS);
            scene.ok(1, &[1, 2]);
            scene.ok(2, &[3]);
            scene.event(1, Event::Quiet(ORDERS, counts(depth, in_flight)));
            scene.draining();
            (1..=3).for_each(|key| scene.deliver(conn, key, 1));
            assert_eq!(scene.found(check), expected, "{depth} {in_flight}");
        }
    }

    #[test]
    fn what_is_left_and_what_does_not_drain_is_found() {
        let mut scene = Scene::new();
        scene.draining();
        scene.event(1, Event::Drained(ORDERS, counts(1, 0)));
        assert_eq!(scene.found(check), ["I19"]);
        let mut scene = Scene::new();
        scene.event(1, Event::Stuck("3 messages left".to_owned()));
        assert_eq!(scene.found(check), ["I24"]);
    }
}
