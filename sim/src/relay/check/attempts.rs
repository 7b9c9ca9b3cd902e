//! I9: the count of deliveries is the owner's and rises as long as its process lives, whoever relays them; and
//! nothing that was put off is early.

use std::time::Duration;

use super::super::ledger::{Delivery, Ledger};
use crate::check::{AnswerKind, Finding};

/// The coarseness of timers.
const TICK: Duration = Duration::from_millis(2);

/// How long a connection must live after an answer for the answer to have arrived.
const ARRIVAL: Duration = Duration::from_millis(5);

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for indices in ledger.by_message.values() {
        findings.extend(indices.first().and_then(|index| early_defer(ledger, &ledger.deliveries[*index])));
        for pair in indices.windows(2) {
            let (first, again) = (&ledger.deliveries[pair[0]], &ledger.deliveries[pair[1]]);
            let undisturbed = ledger.held_together(first.owner, first.node, first.at, again.at)
                && ledger.held_together(again.owner, again.node, first.at, again.at);
            if undisturbed {
                findings.extend(falling(first, again));
                findings.extend(early_requeue(ledger, first, again));
            }
        }
    }
    findings
}

fn falling(first: &Delivery, again: &Delivery) -> Option<Finding> {
    let (before, after, key, at) = (first.attempts, again.attempts, first.key, again.at);
    let (owner, node) = (first.owner, again.node);
    (after <= before).then(|| {
        let text = format!(
            "message {key:?} of node{owner} had {before} attempts and at {at:?} at node{node} only {after}"
        );
        Finding::new("I9", text)
    })
}

/// A message of DPUB that came before its time. Clocks that jump are another scenario's business, as a due
/// time that was kept is one of the owner's clock.
fn early_defer(ledger: &Ledger<'_>, delivery: &Delivery) -> Option<Finding> {
    let operation = ledger.published_by(delivery.key?)?;
    let due = operation.sent_at + operation.delay?;
    let (key, at, owner) = (delivery.key, delivery.at, delivery.owner);
    (at + TICK < due && !ledger.clock_jumped(owner)).then(|| {
        Finding::new("I9", format!("message {key:?} of node{owner} was due at {due:?} and came at {at:?}"))
    })
}

fn early_requeue(ledger: &Ledger<'_>, first: &Delivery, again: &Delivery) -> Option<Finding> {
    let answer = first.answers.first().filter(|answer| !answer.refused)?;
    let AnswerKind::Requeue(delay) = answer.kind else { return None };
    // A REQ that crosses with the end of its connection, or with the next delivery, need not be obeyed.
    let consumer = ledger.conns.get(&first.conn)?;
    let stayed = consumer.left_at.is_none_or(|left| left > answer.at + ARRIVAL)
        && answer.at + ARRIVAL < first.at + consumer.msg_timeout;
    let (due, key, at) = (answer.at + delay, first.key, again.at);
    (stayed && at > answer.at + TICK && at + TICK < due)
        .then(|| Finding::new("I9", format!("message {key:?} was requeued until {due:?} and came at {at:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::{Conn, Down},
        relay::check::scene::{ORDERS, Scene},
    };

    fn with_a_message() -> (Scene, Conn) {
        let mut scene = Scene::new();
        let conn = scene.subscribe(0, ORDERS);
        scene.ok(1, &[7]);
        scene.deliver(conn, 7, 2);
        (scene, conn)
    }

    #[test]
    fn attempts_that_do_not_rise_are_found_unless_the_owner_restarted() {
        let (mut scene, conn) = with_a_message();
        scene.wait(50);
        scene.deliver(conn, 7, 2);
        assert_eq!(scene.found(check), ["I9"]);
        let (mut scene, conn) = with_a_message();
        scene.down(1, Down::Crash);
        scene.deliver(conn, 7, 1);
        assert!(scene.found(check).is_empty());
    }

    #[test]
    fn a_requeued_or_deferred_message_that_comes_early_is_found() {
        for (wait, expected) in [(100, &["I9"][..]), (300, &[])] {
            let (mut scene, conn) = with_a_message();
            scene.requeue(conn, 7, 300);
            scene.wait(wait);
            scene.deliver(conn, 7, 3);
            assert_eq!(scene.found(check), expected, "after {wait} ms");
            let mut scene = Scene::new();
            let conn = scene.subscribe(0, ORDERS);
            scene.defer(1, 8, 300);
            scene.wait(wait);
            scene.deliver(conn, 8, 1);
            assert_eq!(scene.found(check), expected, "deferred, after {wait} ms");
        }
    }
}
