//! I1 and I12: what a node acknowledged is delivered, at least once, on every channel that the node knew then,
//! wherever in the mesh the channel's consumers are.

use std::{collections::BTreeSet, time::Duration};

use super::super::ledger::{Consumer, Ledger, NodeIndex, Operation};
use crate::{
    body::Key,
    check::{Finding, Outcome},
    shape::{Keeping, Place},
};

/// For how long a consumer of an ephemeral channel must stay, before and after a message was published, to be
/// owed the message.
const STAYS: Duration = Duration::from_secs(2);

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let delivered = ledger.delivered_keys();
    let has = |place: Place, key: Key| delivered.get(&place).is_some_and(|keys| keys.contains(&key));
    let mut findings = Vec::new();
    for (op, operation) in ledger.ops.iter().filter(|(_, operation)| is_promised(ledger, operation)) {
        let places = ledger.plan.shape.places().filter(|place| place.topic == operation.topic);
        let (kept, forgetful): (Vec<Place>, Vec<Place>) =
            places.partition(|place| ledger.plan.shape.is_kept(*place));
        let owed: Vec<Place> =
            kept.iter().copied().filter(|place| exists(ledger, *place, operation)).collect();
        let tailed = forgetful.iter().copied().filter(|place| is_tailed(ledger, *place, operation));
        let all: BTreeSet<Place> = owed.iter().copied().chain(tailed).collect();
        let (owner, sent_at) = (operation.owner, operation.sent_at);
        for &key in &operation.keys {
            findings.extend(all.iter().filter(|place| !has(**place, key)).map(|place| {
                let channel = ledger.name(*place);
                let text = format!(
                    "message {key} (command {op}, sent to node{owner} at {sent_at:?}) was acknowledged and never reached {channel}"
                );
                Finding::new("I1", text)
            }));
            // Nobody was there yet: the first channel gets the backlog, whichever that was; if it was an
            // ephemeral one, all is forgotten with it.
            if owed.is_empty() && forgetful.is_empty() && !kept.iter().any(|place| has(*place, key)) {
                let text = format!(
                    "message {key} (command {op}, sent to node{owner} at {sent_at:?}) was acknowledged before any channel was known and reached none"
                );
                findings.push(Finding::new("I1", text));
            }
        }
    }
    findings
}

fn is_promised(ledger: &Ledger<'_>, operation: &Operation) -> bool {
    matches!(operation.outcome, Outcome::Published(_))
        && match ledger.plan.shape.topic(operation.topic).keeping {
            Keeping::Fsync => true,
            Keeping::Os => !ledger.power_went_after(operation.owner, operation.sent_at),
            Keeping::Memory => false,
        }
}

fn exists(ledger: &Ledger<'_>, place: Place, operation: &Operation) -> bool {
    ledger.exists(operation.owner, place, operation.incarnation, operation.sent_at)
}

/// Whether the owner held an ephemeral channel just before and after the publish, for a consumer that stayed
/// and makes no trouble, in times of peace between it and all its consumers.
fn is_tailed(ledger: &Ledger<'_>, place: Place, operation: &Operation) -> bool {
    let (owner, sent_at) = (operation.owner, operation.sent_at);
    let seen = |(at, process): &(Duration, u32)| *process == operation.incarnation && *at <= sent_at;
    let before = ledger.seen.get(&(owner, place)).and_then(|seen_at| seen_at.iter().rfind(|of| seen(of)));
    let after = ledger.seen.get(&(owner, place)).and_then(|seen_at| {
        seen_at.iter().find(|(at, process)| *process == operation.incarnation && *at > sent_at)
    });
    let (Some((before, _)), Some((after, _))) = (before, after) else { return false };
    let late = operation.delay.is_some() || *after > sent_at + STAYS || *before + STAYS < sent_at;
    let stays = |consumer: &Consumer| {
        consumer.place == place
            && consumer.since + STAYS < sent_at
            && consumer.left_at.is_none_or(|left| left > sent_at + STAYS)
            && peace(ledger, owner, consumer, sent_at)
    };
    // What is with one who is cut off comes back only when that is noticed; by then all others may have left.
    let there = |consumer: &Consumer| {
        consumer.place == place
            && consumer.since <= sent_at + STAYS
            && consumer.left_at.is_none_or(|left| left > sent_at)
    };
    ledger.plan.shape.trouble_per_mille == 0
        && !late
        && paused_never(ledger, owner, place)
        && ledger.conns.values().any(stays)
        && ledger.conns.values().filter(|of| there(of)).all(|of| peace(ledger, owner, of, sent_at))
}

fn peace(ledger: &Ledger<'_>, owner: NodeIndex, consumer: &Consumer, sent_at: Duration) -> bool {
    ledger.held_together(owner, consumer.node, consumer.since, sent_at + STAYS)
}

fn paused_never(ledger: &Ledger<'_>, owner: NodeIndex, place: Place) -> bool {
    !ledger.paused.contains_key(&(owner, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::check::scene::{ORDERS, Scene, TAIL};

    #[test]
    fn a_message_that_a_known_channel_never_gets_is_found_wherever_its_consumer_is() {
        let mut scene = Scene::new();
        scene.known(1, ORDERS);
        scene.ok(1, &[7]);
        let conn = scene.subscribe(0, ORDERS);
        assert_eq!(scene.found(check), ["I1"]);
        scene.deliver(conn, 7, 1);
        assert!(scene.found(check).is_empty());
    }

    #[test]
    fn what_was_published_before_the_channel_was_known_there_is_owed_to_nobody_unless_nobody_was_known() {
        let mut scene = Scene::new();
        scene.subscribe(0, ORDERS);
        scene.ok(1, &[7]);
        assert_eq!(scene.found(check), [""; 0], "the topic has an ephemeral channel, which may have had it");
        scene.wait(10);
        scene.known(1, ORDERS);
        assert!(scene.found(check).is_empty());
        scene.wait(10);
        scene.ok(1, &[8]);
        assert_eq!(scene.found(check), ["I1"]);
    }

    #[test]
    fn an_ephemeral_channel_that_is_held_for_a_consumer_elsewhere_gets_what_is_published() {
        for (held, expected) in [(true, &["I1"][..]), (false, &[])] {
            let mut scene = Scene::new();
            let conn = scene.subscribe(0, TAIL);
            scene.wait(3_000);
            if held {
                scene.known(1, TAIL);
            }
            scene.ok(1, &[7]);
            scene.wait(100);
            if held {
                scene.known(1, TAIL);
            }
            scene.wait(3_000);
            assert_eq!(scene.found(check), expected);
            scene.deliver(conn, 7, 1);
            assert!(scene.found(check).is_empty());
        }
    }

    #[test]
    fn what_an_ephemeral_channel_had_given_to_one_who_is_cut_off_may_be_gone_with_it() {
        for (cut, expected) in [(true, &[][..]), (false, &["I1"])] {
            let mut scene = Scene::new();
            scene.subscribe(1, TAIL);
            scene.subscribe(0, TAIL);
            scene.wait(3_000);
            scene.known(1, TAIL);
            scene.ok(1, &[7]);
            scene.wait(100);
            scene.known(1, TAIL);
            if cut {
                scene.cut(3_500, 4_500);
            }
            scene.wait(3_000);
            assert_eq!(scene.found(check), expected);
        }
    }
}
