//! I8, I10, I15: a message is with one consumer of a channel at a time, until that one answers, leaves or
//! lets its time run out; and no consumer gets more than its RDY.

use std::{collections::BTreeMap, time::Duration};

use super::{AnswerKind, Consumer, Delivery, Finding, Ledger, finished::ARRIVAL};
use crate::history::{Conn, Down};

/// How late a node may notice that a message has timed out, with the way of an answer.
const SCAN: Duration = Duration::from_millis(120);

/// What the way there and back may take, and the coarseness of timers.
const SLACK: Duration = Duration::from_millis(6);

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut findings = shared(ledger);
    findings.extend(overrun(ledger));
    findings.extend(ledger.deliveries.iter().filter_map(|delivery| late(ledger, delivery)));
    findings
}

/// A message that was finished or requeued long after its time was up, and the node did not mind: it never
/// took the message back.
fn late(ledger: &Ledger<'_>, delivery: &Delivery) -> Option<Finding> {
    let consumer = ledger.conns.get(&delivery.conn)?;
    let mut deadline = delivery.at + consumer.msg_timeout;
    for answer in delivery.answers.iter().filter(|answer| !answer.refused) {
        if answer.kind == AnswerKind::Touch {
            deadline = deadline.max(answer.at + consumer.msg_timeout);
            continue;
        }
        // A consumer does not see at once that the power is gone.
        let arrived = answer.at + ARRIVAL;
        let lived =
            |&(at, process, _): &(Duration, u32, Down)| process != delivery.incarnation || at > arrived;
        let stayed = consumer.left_at.is_none_or(|left| left > arrived) && ledger.downs.iter().all(lived);
        let (key, at) = (delivery.key, answer.at);
        return (stayed && at > deadline + SCAN).then(|| {
            Finding::new(
                "I8",
                format!("message {key:?} had timed out at {deadline:?} and was answered at {at:?}"),
            )
        });
    }
    None
}

/// Messages that a second consumer got, or the same one again, while they were still with the first.
fn shared(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for indices in ledger.by_message.values() {
        for pair in indices.windows(2) {
            let (first, again) = (&ledger.deliveries[pair[0]], &ledger.deliveries[pair[1]]);
            let Some(consumer) = ledger.conns.get(&first.conn) else { continue };
            if first.incarnation == again.incarnation && again.at + SLACK < free_at(first, consumer) {
                let (key, at, then) = (first.key, first.at, again.at);
                let (conn, other, place) = (first.conn, again.conn, first.place);
                findings.push(Finding::new(
                    "I8",
                    format!("message {key:?} on {place:?} went to {conn} at {at:?} and to {other} at {then:?}, too early"),
                ));
            }
        }
    }
    findings
}

/// The earliest time at which a delivery no longer binds its message.
pub(super) fn free_at(delivery: &Delivery, consumer: &Consumer) -> Duration {
    let mut free = delivery.at + consumer.msg_timeout;
    for answer in delivery.answers.iter().filter(|answer| !answer.refused) {
        match answer.kind {
            AnswerKind::Touch => free = answer.at + consumer.msg_timeout,
            AnswerKind::Finish | AnswerKind::Requeue(_) => return answer.at.min(free),
        }
    }
    consumer.left_at.map_or(free, |left| left.min(free))
}

/// The earliest time at which a consumer no longer holds a delivery. An answer that was refused counts: the
/// node says with it that the message is not in flight. That happens when a late FIN for one delivery arrives
/// behind the next delivery of the same message to the same consumer, and finishes that one.
fn let_go_at(delivery: &Delivery, consumer: &Consumer) -> Duration {
    let refused = delivery.answers.iter().find(|answer| answer.refused && answer.kind != AnswerKind::Touch);
    let free = free_at(delivery, consumer);
    refused.map_or(free, |answer| answer.at.min(free))
}

/// Consumers that held more messages than any RDY that can have been in force.
fn overrun(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut held: BTreeMap<Conn, Vec<Duration>> = BTreeMap::new();
    let mut findings = Vec::new();
    for delivery in &ledger.deliveries {
        let Some(consumer) = ledger.conns.get(&delivery.conn) else { continue };
        let held = held.entry(delivery.conn).or_default();
        held.retain(|free| *free > delivery.at + SLACK);
        held.push(let_go_at(delivery, consumer));
        let allowed = allowed(consumer, delivery.at);
        if held.len() as u64 > allowed {
            let (conn, at, holds) = (delivery.conn, delivery.at, held.len());
            let text = format!("consumer {conn} held {holds} messages at {at:?} with RDY {allowed}");
            findings.push(Finding::new("I10", text));
        }
    }
    findings
}

/// The largest RDY that can have been in force just before `at`.
fn allowed(consumer: &Consumer, at: Duration) -> u64 {
    let settled = consumer.ready.iter().rposition(|(sent_at, _)| *sent_at + SLACK < at).unwrap_or(0);
    consumer.ready[settled.min(consumer.ready.len())..].iter().map(|(_, count)| *count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check::scene::Scene, history::Event};

    fn two_consumers() -> (Scene, Conn, Conn) {
        let mut scene = Scene::new();
        let (first, second) = (scene.subscribe(0, 0), scene.subscribe(0, 0));
        scene.publish(0, &[1, 2, 3]);
        scene.deliver(first, 1, 1);
        scene.wait(100);
        (scene, first, second)
    }

    #[test]
    fn a_message_that_is_with_two_consumers_is_found() {
        let (mut scene, _, second) = two_consumers();
        scene.deliver(second, 1, 2);
        assert_eq!(scene.found(check), ["I8"]);
    }

    #[test]
    fn a_message_is_free_after_an_answer_a_time_out_or_the_end_of_its_consumer() {
        let (mut scene, first, second) = two_consumers();
        scene.event(Event::Left(first));
        scene.deliver(second, 1, 2);
        scene.wait(1_000);
        scene.deliver(second, 1, 3);
        assert!(scene.found(check).is_empty());
    }

    #[test]
    fn a_touch_holds_a_message_for_longer() {
        let (mut scene, first, second) = two_consumers();
        scene.wait(600);
        scene.touch(first, 1);
        scene.wait(600);
        scene.deliver(second, 1, 2);
        assert_eq!(scene.found(check), ["I8"]);
    }

    #[test]
    fn an_answer_after_the_time_out_that_nobody_minds_is_found() {
        for (complaint, expected) in [(false, &["I8"][..]), (true, &[])] {
            let (mut scene, first, _) = two_consumers();
            scene.wait(1_200);
            scene.finish(first, 1);
            if complaint {
                scene.complain(first, "FIN", 1);
            }
            assert_eq!(scene.found(check), expected);
        }
    }

    #[test]
    fn more_messages_than_ready_are_found() {
        let mut scene = Scene::new();
        let conn = scene.subscribe(0, 0);
        scene.publish(0, &[1, 2, 3]);
        scene.event(Event::Ready(conn, 2));
        scene.wait(50);
        scene.deliver(conn, 1, 1);
        scene.deliver(conn, 2, 1);
        assert!(scene.found(check).is_empty());
        scene.deliver(conn, 3, 1);
        assert_eq!(scene.found(check), ["I10"]);
    }

    #[test]
    fn an_answer_that_was_refused_lets_the_message_go_as_well() {
        let mut scene = Scene::new();
        let conn = scene.subscribe(0, 0);
        scene.publish(0, &[1, 2, 3]);
        scene.event(Event::Ready(conn, 2));
        scene.wait(50);
        scene.deliver(conn, 1, 2);
        scene.finish(conn, 1);
        scene.complain(conn, "FIN", 1);
        scene.wait(10);
        scene.deliver(conn, 2, 1);
        scene.deliver(conn, 3, 1);
        assert!(scene.found(check).is_empty());
    }
}
