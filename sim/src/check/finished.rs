//! I7: what was finished is never delivered again, across restarts too, once the FIN was kept.
//!
//! Nobody answers a FIN. But a node commits what it has in order, so a later publish that was acknowledged
//! shows that the FIN before it was kept. The node may let a FIN wait for company for 10 ms, so "later" is
//! [`FINISH_WINDOW`] later. A FIN that has no such witness when a process dies is in the documented window.

use std::time::Duration;

use super::{Answer, AnswerKind, Delivery, Finding, Ledger};

/// How much later than a FIN a publish must be sent to be its witness. The node's own delay is 10 ms; the
/// rest is for the way there.
pub(super) const FINISH_WINDOW: Duration = Duration::from_millis(50);

/// How long a connection must live after a FIN for the FIN to have arrived.
pub(super) const ARRIVAL: Duration = Duration::from_millis(5);

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for indices in ledger.by_message.values() {
        for pair in indices.windows(2) {
            let (first, again) = (&ledger.deliveries[pair[0]], &ledger.deliveries[pair[1]]);
            if !ledger.shape.is_kept(first.place) {
                continue;
            }
            let Some(finish) = accepted_finish(ledger, first) else { continue };
            let why = if again.incarnation == first.incarnation {
                "the same process"
            } else if was_kept(ledger, first, finish) {
                "a later process, although it was kept"
            } else {
                continue;
            };
            let (key, at, then) = (first.key, finish.at, again.at);
            let channel = &ledger.shape.channel(first.place).name;
            findings.push(Finding::new(
                "I7",
                format!("message {key:?} was finished on {channel} at {at:?} and delivered again at {then:?} by {why}"),
            ));
        }
    }
    findings
}

/// The FIN of a delivery, when it arrived in time and nothing speaks against it.
fn accepted_finish<'d>(ledger: &Ledger<'_>, delivery: &'d Delivery) -> Option<&'d Answer> {
    let consumer = ledger.conns.get(&delivery.conn)?;
    let mut deadline = delivery.at + consumer.msg_timeout;
    for answer in &delivery.answers {
        // A FIN that crosses with a time-out or with the end of its connection proves nothing.
        if answer.at + ARRIVAL > deadline {
            return None;
        }
        match answer.kind {
            AnswerKind::Touch if !answer.refused => deadline = answer.at + consumer.msg_timeout - ARRIVAL,
            AnswerKind::Touch | AnswerKind::Requeue(_) => return None,
            AnswerKind::Finish => {
                let stayed = consumer.left_at.is_none_or(|left| left > answer.at + ARRIVAL);
                let sent_to_its_process = answer.incarnation == delivery.incarnation;
                return (stayed && sent_to_its_process && !answer.refused).then_some(answer);
            }
        }
    }
    None
}

/// Whether a FIN survives its process. After a flipped bit nobody knows: its record may be the damaged one.
fn was_kept(ledger: &Ledger<'_>, delivery: &Delivery, finish: &Answer) -> bool {
    !ledger.flipped && ledger.was_kept(delivery.incarnation, finish.at + FINISH_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check::scene::Scene, history::Down};

    /// A message that is finished, then whatever `between` does, then delivered again.
    fn redelivered(between: impl FnOnce(&mut Scene)) -> Vec<&'static str> {
        let mut scene = Scene::new();
        let conn = scene.subscribe(0, 0);
        let op = scene.publish(0, &[1]);
        scene.ok(op);
        scene.deliver(conn, 1, 1);
        scene.wait(10);
        scene.finish(conn, 1);
        between(&mut scene);
        let conn = scene.subscribe(0, 0);
        scene.deliver(conn, 1, 2);
        scene.found(check)
    }

    #[test]
    fn a_finished_message_that_its_process_delivers_again_is_found() {
        assert_eq!(redelivered(|scene| scene.wait(20)), ["I7"]);
    }

    #[test]
    fn a_finish_that_was_just_sent_when_the_process_died_may_be_lost() {
        assert!(redelivered(|scene| scene.down(Down::Crash)).is_empty());
    }

    #[test]
    fn a_finish_is_kept_once_a_later_publish_was_acknowledged_or_the_node_stopped_in_order() {
        let witness = |scene: &mut Scene, millis| {
            scene.wait(millis);
            let op = scene.publish(0, &[2]);
            scene.ok(op);
            scene.down(Down::Power);
        };
        assert_eq!(redelivered(|scene| witness(scene, 60)), ["I7"]);
        assert!(redelivered(|scene| witness(scene, 20)).is_empty());
        let stop = |scene: &mut Scene| {
            scene.wait(60);
            scene.down(Down::Stopped);
        };
        assert_eq!(redelivered(stop), ["I7"]);
    }

    #[test]
    fn a_finish_after_the_time_out_or_with_a_complaint_counts_for_nothing() {
        let mut scene = Scene::new();
        let conn = scene.subscribe(0, 0);
        scene.publish(0, &[1]);
        scene.deliver(conn, 1, 1);
        scene.wait(1_000);
        scene.finish(conn, 1);
        scene.deliver(conn, 1, 2);
        assert!(scene.found(check).is_empty());
        scene.finish(conn, 1);
        scene.complain(conn, "FIN", 1);
        scene.wait(20);
        scene.deliver(conn, 1, 3);
        assert!(scene.found(check).is_empty());
    }
}
