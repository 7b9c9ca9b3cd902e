//! I9: the count of deliveries rises as long as a process lives, and nothing that was put off is early.

use std::time::Duration;

use super::{AnswerKind, Delivery, Finding, Ledger, finished::ARRIVAL};

/// The coarseness of timers.
const TICK: Duration = Duration::from_millis(2);

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for indices in ledger.by_message.values() {
        findings.extend(indices.first().and_then(|index| early_defer(ledger, &ledger.deliveries[*index])));
        for pair in indices.windows(2) {
            let (first, again) = (&ledger.deliveries[pair[0]], &ledger.deliveries[pair[1]]);
            if first.incarnation == again.incarnation {
                findings.extend(falling(first, again));
                findings.extend(early_requeue(ledger, first, again));
            }
        }
    }
    findings
}

fn falling(first: &Delivery, again: &Delivery) -> Option<Finding> {
    let (before, after, key, at) = (first.attempts, again.attempts, first.key, again.at);
    (after <= before).then(|| {
        Finding::new("I9", format!("message {key:?} had {before} attempts and at {at:?} only {after}"))
    })
}

/// A message of DPUB that came before its time. A jump of the wall clock excuses it where the node has only
/// the time of day to go by: after a restart, while no channel has the message, and until it is committed.
fn early_defer(ledger: &Ledger<'_>, delivery: &Delivery) -> Option<Finding> {
    let key = delivery.key?;
    let operation = ledger.published_by(key)?;
    let due = operation.sent_at + operation.delay?;
    let by_wall_clock = operation.incarnation != delivery.incarnation
        || !ledger.exists(delivery.place, operation.incarnation, operation.sent_at);
    let committed = operation.ended_at.map_or(delivery.at, |ended| ended + TICK);
    let until = if by_wall_clock { delivery.at } else { committed };
    let jumped = ledger.jumps.iter().any(|at| (operation.sent_at..=until).contains(at));
    let at = delivery.at;
    (at + TICK < due && !jumped)
        .then(|| Finding::new("I9", format!("message {key} was due at {due:?} and came at {at:?}")))
}

fn early_requeue(ledger: &Ledger<'_>, first: &Delivery, again: &Delivery) -> Option<Finding> {
    let answer = first.answers.first().filter(|answer| !answer.refused)?;
    let AnswerKind::Requeue(delay) = answer.kind else { return None };
    // A REQ that crosses with the end of its connection, or with the next delivery, need not be obeyed.
    let stayed = ledger.conns.get(&first.conn)?.left_at.is_none_or(|left| left > answer.at + ARRIVAL);
    let (due, key, at) = (answer.at + delay, first.key, again.at);
    (stayed && at > answer.at + TICK && at + TICK < due)
        .then(|| Finding::new("I9", format!("message {key:?} was requeued until {due:?} and came at {at:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::scene::Scene,
        history::{Down, Event},
    };

    #[test]
    fn attempts_that_do_not_rise_are_found_unless_the_node_restarted() {
        let mut scene = Scene::new();
        let conn = scene.subscribe(0, 0);
        scene.publish(0, &[1]);
        scene.deliver(conn, 1, 2);
        scene.deliver(conn, 1, 2);
        assert_eq!(scene.found(check), ["I9"]);
        let mut scene = Scene::new();
        let conn = scene.subscribe(0, 0);
        scene.publish(0, &[1]);
        scene.deliver(conn, 1, 2);
        scene.down(Down::Crash);
        let conn = scene.subscribe(0, 0);
        scene.deliver(conn, 1, 1);
        assert!(scene.found(check).is_empty());
    }

    #[test]
    fn a_deferred_message_that_comes_early_is_found_across_a_restart_too() {
        for (wait, down, expected) in [(400, false, &["I9"][..]), (400, true, &["I9"]), (600, true, &[])] {
            let mut scene = Scene::new();
            scene.defer(0, 1, 500);
            scene.wait(wait);
            if down {
                scene.down(Down::Crash);
            }
            let conn = scene.subscribe(0, 0);
            scene.deliver(conn, 1, 1);
            assert_eq!(scene.found(check), expected, "after {wait} ms");
        }
    }

    #[test]
    fn a_clock_that_jumped_excuses_an_early_message_after_a_restart_only() {
        for (down, expected) in [(false, &["I9"][..]), (true, &[])] {
            let mut scene = Scene::new();
            scene.subscribe(0, 0);
            let op = scene.defer(0, 1, 500);
            scene.wait(5);
            scene.ok(op);
            scene.wait(50);
            scene.event(Event::ClockJumped);
            if down {
                scene.down(Down::Crash);
            }
            let conn = scene.subscribe(0, 0);
            scene.deliver(conn, 1, 1);
            assert_eq!(scene.found(check), expected);
        }
    }

    #[test]
    fn a_requeued_message_that_comes_early_is_found() {
        for (wait, expected) in [(100, &["I9"][..]), (300, &[])] {
            let mut scene = Scene::new();
            let conn = scene.subscribe(0, 0);
            scene.publish(0, &[1]);
            scene.deliver(conn, 1, 1);
            scene.requeue(conn, 1, 300);
            scene.wait(wait);
            scene.deliver(conn, 1, 2);
            assert_eq!(scene.found(check), expected, "after {wait} ms");
        }
    }
}
