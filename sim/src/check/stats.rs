//! I19 and I24: what the node says it holds is what it then delivers, to the message; and in the end
//! everything has been taken.

use std::collections::{BTreeMap, BTreeSet};

use bruit_wire::MessageId;

use super::{Finding, Ledger};
use crate::{history::Counts, shape::Place};

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        ledger.stuck.iter().map(|why| Finding::new("I24", why.clone())).collect();
    let Some(since) = ledger.draining_since else { return findings };
    let mut taken: BTreeMap<Place, BTreeSet<MessageId>> = BTreeMap::new();
    for delivery in ledger.deliveries.iter().filter(|delivery| delivery.at >= since) {
        taken.entry(delivery.place).or_default().insert(delivery.id);
    }
    for place in ledger.shape.kept_places() {
        let (topic, channel) = (&ledger.shape.topic(place.topic).name, &ledger.shape.channel(place).name);
        let taken = taken.get(&place).map_or(0, BTreeSet::len) as u64;
        let Some(held) = ledger.quiet.get(&place) else {
            if ledger.exists(place, ledger.process_at_end(), since) {
                findings.push(Finding::new("I19", format!("{topic}/{channel} is not in the statistics")));
            }
            continue;
        };
        // After a failure to drain, what was taken says nothing about what was held. And a message whose
        // record was damaged counts until somebody reads it.
        let fits = held.total() == taken || (ledger.flipped && held.total() > taken);
        if !fits && ledger.stuck.is_none() {
            let text = format!("{topic}/{channel} said it held {held:?} and then delivered {taken} messages");
            findings.push(Finding::new("I19", text));
        }
        if let Some(left) = ledger.drained.get(&place).filter(|left| **left != Counts::default()) {
            let text = format!("{topic}/{channel} still says {left:?} after everything was finished");
            findings.push(Finding::new("I19", text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check::scene::Scene, history::Event};

    const PLACE: Place = Place { topic: 0, channel: 0 };

    fn counts(depth: u64, deferred: u64) -> Counts {
        Counts { depth, deferred, in_flight: 0 }
    }

    #[test]
    fn a_depth_that_is_not_what_is_then_delivered_is_found() {
        for (depth, expected) in [(1, &["I19"][..]), (2, &[]), (3, &["I19"])] {
            let mut scene = Scene::new();
            scene.publish(0, &[1, 2, 3]);
            let conn = scene.subscribe(0, 0);
            scene.deliver(conn, 3, 1);
            scene.event(Event::Quiet(PLACE, counts(depth - 1, 1)));
            scene.wait(1);
            scene.event(Event::Draining);
            scene.deliver(conn, 1, 1);
            scene.deliver(conn, 2, 1);
            scene.deliver(conn, 2, 2);
            assert_eq!(scene.found(check), expected, "depth {depth}");
        }
    }

    #[test]
    fn what_is_left_after_everything_was_taken_is_found_and_so_is_a_missing_channel() {
        let mut scene = Scene::new();
        scene.event(Event::Quiet(PLACE, counts(0, 0)));
        scene.event(Event::Draining);
        scene.event(Event::Drained(PLACE, counts(0, 1)));
        assert_eq!(scene.found(check), ["I19"]);
        let mut scene = Scene::new();
        scene.subscribe(0, 0);
        scene.event(Event::Draining);
        assert_eq!(scene.found(check), ["I19"]);
    }

    #[test]
    fn a_backlog_that_does_not_drain_is_found() {
        let mut scene = Scene::new();
        scene.event(Event::Stuck("3 messages left".to_owned()));
        assert_eq!(scene.found(check), ["I24"]);
    }
}
