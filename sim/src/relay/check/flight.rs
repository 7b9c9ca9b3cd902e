//! I8, I10: a message is with one consumer in the mesh at a time, until that one answers, leaves or lets its
//! time run out; an answer in time is taken, and one that is late is not; and no consumer gets more than its
//! RDY, however many owners there are.

use std::{collections::BTreeMap, time::Duration};

use super::super::ledger::{Consumer, Delivery, Ledger};
use crate::{
    check::{AnswerKind, Finding},
    history::Conn,
};

/// How late a node may notice that a message has timed out, with the way of an answer.
const SCAN: Duration = Duration::from_millis(120);

/// What the way there and back may take, and the coarseness of timers.
const SLACK: Duration = Duration::from_millis(6);

/// How long a connection must live after an answer for the answer to have arrived.
const ARRIVAL: Duration = Duration::from_millis(5);

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut findings = shared(ledger);
    findings.extend(overrun(ledger));
    findings.extend(ledger.deliveries.iter().filter_map(|delivery| late(ledger, delivery)));
    findings.extend(ledger.deliveries.iter().filter_map(|delivery| rejected(ledger, delivery)));
    findings
}

/// A message that was finished or requeued long after its time was up, and the node did not mind.
fn late(ledger: &Ledger<'_>, delivery: &Delivery) -> Option<Finding> {
    let consumer = ledger.conns.get(&delivery.conn)?;
    let mut deadline = delivery.at + consumer.msg_timeout;
    for answer in delivery.answers.iter().filter(|answer| !answer.refused) {
        if answer.kind == AnswerKind::Touch {
            deadline = deadline.max(answer.at + consumer.msg_timeout);
            continue;
        }
        let arrived = answer.at + ARRIVAL;
        let stayed = consumer.left_at.is_none_or(|left| left > arrived)
            && ledger.lived(delivery.node, delivery.at, arrived);
        let (key, at, node) = (delivery.key, answer.at, delivery.node);
        return (stayed && at > deadline + SCAN).then(|| {
            let text = format!(
                "message {key:?} had timed out at node{node} at {deadline:?} and was answered at {at:?}"
            );
            Finding::new("I8", text)
        });
    }
    None
}

/// A first answer that was in time and refused although nothing had broken. Not if the consumer had the message
/// before: then a late answer to the earlier delivery may have been taken for one to this.
fn rejected(ledger: &Ledger<'_>, delivery: &Delivery) -> Option<Finding> {
    let consumer = ledger.conns.get(&delivery.conn)?;
    let answer = delivery.answers.first().filter(|answer| answer.refused)?;
    let again = ledger.by_message.get(&(delivery.place, delivery.key?)).is_some_and(|indices| {
        let mut others = indices.iter().filter_map(|index| ledger.deliveries.get(*index));
        others.any(|other| other.conn == delivery.conn && other.at < delivery.at)
    });
    let in_time = !again && answer.at + ARRIVAL < delivery.at + consumer.msg_timeout;
    let held = ledger.held_together(delivery.owner, delivery.node, delivery.at, answer.at + ARRIVAL);
    let (key, at, node, owner, kind) = (delivery.key, answer.at, delivery.node, delivery.owner, answer.kind);
    (in_time && held).then(|| {
        let text = format!(
            "{kind:?} for message {key:?} of node{owner} was refused by node{node} at {at:?}, although it had come at {:?}",
            delivery.at
        );
        Finding::new("I8", text)
    })
}

/// Messages that a second consumer got, or the same one again, while they were still with the first.
fn shared(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ((place, key), indices) in &ledger.by_message {
        for pair in indices.windows(2) {
            let (first, again) = (&ledger.deliveries[pair[0]], &ledger.deliveries[pair[1]]);
            let Some(consumer) = ledger.conns.get(&first.conn) else { continue };
            if again.at + SLACK < free_at(first, consumer)
                && ledger.held_together(first.owner, first.node, first.at, again.at)
                && !ledger.is_stale(first, again)
            {
                let (at, then, channel) = (first.at, again.at, ledger.name(*place));
                let (owner, one, other) = (first.owner, first.node, again.node);
                let text = format!(
                    "message {key} of node{owner} on {channel} went to consumer {} at node{one} at {at:?} and to {} at node{other} at {then:?}, too early",
                    first.conn, again.conn
                );
                findings.push(Finding::new("I8", text));
            }
        }
    }
    findings
}

/// The earliest time at which a delivery no longer binds its message.
fn free_at(delivery: &Delivery, consumer: &Consumer) -> Duration {
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
/// node says with it that the message is not in flight.
pub(super) fn let_go_at(delivery: &Delivery, consumer: &Consumer) -> Duration {
    let refused = delivery.answers.iter().find(|answer| answer.refused && answer.kind != AnswerKind::Touch);
    let free = free_at(delivery, consumer);
    refused.map_or(free, |answer| answer.at.min(free))
}

/// Consumers that held more messages than any RDY that can have been in force. What came over a link that may
/// be lost does not count: it is the consumer's no longer.
fn overrun(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut held: BTreeMap<Conn, Vec<(Duration, &Delivery)>> = BTreeMap::new();
    let mut findings = Vec::new();
    for delivery in &ledger.deliveries {
        let Some(consumer) = ledger.conns.get(&delivery.conn) else { continue };
        let held = held.entry(delivery.conn).or_default();
        held.retain(|(free, before)| {
            *free > delivery.at + SLACK
                && ledger.held_together(before.owner, before.node, before.at, delivery.at)
        });
        held.push((let_go_at(delivery, consumer), delivery));
        let allowed = allowed(consumer, delivery.at);
        if held.len() as u64 > allowed {
            let (conn, at, holds, node) = (delivery.conn, delivery.at, held.len(), delivery.node);
            let text =
                format!("consumer {conn} at node{node} held {holds} messages at {at:?} with RDY {allowed}");
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
    use crate::{
        history::{Down, Event},
        relay::check::scene::{ORDERS, Scene},
    };

    /// Message 7 of node 1 is with a consumer at node 0, for 100 ms; there is another one at the owner.
    fn two_consumers() -> (Scene, Conn, Conn) {
        let mut scene = Scene::new();
        let (first, second) = (scene.subscribe(0, ORDERS), scene.subscribe(1, ORDERS));
        scene.ok(1, &[7, 8, 9]);
        scene.deliver(first, 7, 1);
        scene.wait(100);
        (scene, first, second)
    }

    #[test]
    fn a_message_that_is_with_two_consumers_is_found_unless_the_relay_went() {
        let (mut scene, _, second) = two_consumers();
        scene.deliver(second, 7, 2);
        assert_eq!(scene.found(check), ["I8"]);
        let (mut scene, ..) = two_consumers();
        scene.down(0, Down::Power);
        let second = scene.subscribe(1, ORDERS);
        scene.deliver(second, 7, 2);
        assert!(scene.found(check).is_empty());
    }

    #[test]
    fn a_message_is_free_after_an_answer_or_a_time_out_and_a_touch_holds_it_for_longer() {
        for (wait, touch, expected) in
            [(500, false, &["I8"][..]), (1_000, false, &[]), (1_000, true, &["I8"]), (1_600, true, &[])]
        {
            let (mut scene, first, second) = two_consumers();
            scene.wait(500);
            if touch {
                scene.touch(first, 7);
            }
            scene.wait(wait - 500);
            scene.deliver(second, 7, 2);
            assert_eq!(scene.found(check), expected, "{wait} {touch}");
        }
        let (mut scene, first, second) = two_consumers();
        scene.finish(first, 7);
        scene.deliver(second, 7, 2);
        assert!(scene.found(check).is_empty());
    }

    #[test]
    fn a_late_answer_must_be_refused_and_one_in_time_must_not() {
        for (wait, complaint, expected) in
            [(1_200, false, &["I8"][..]), (1_200, true, &[]), (200, true, &["I8"]), (200, false, &[])]
        {
            let (mut scene, first, _) = two_consumers();
            scene.wait(wait);
            scene.finish(first, 7);
            if complaint {
                scene.complain(first, "FIN", 7);
            }
            assert_eq!(scene.found(check), expected, "{wait} {complaint}");
        }
    }

    #[test]
    fn a_refusal_after_the_link_broke_is_fine() {
        let (mut scene, first, _) = two_consumers();
        scene.down(1, Down::Crash);
        scene.finish(first, 7);
        scene.complain(first, "FIN", 7);
        assert!(scene.found(check).is_empty());
    }

    #[test]
    fn more_messages_than_ready_are_found_wherever_they_come_from() {
        let mut scene = Scene::new();
        let conn = scene.subscribe(0, ORDERS);
        scene.event(0, Event::Ready(conn, 2));
        scene.ok(1, &[1]);
        scene.ok(2, &[2]);
        scene.ok(0, &[3]);
        scene.wait(50);
        scene.deliver(conn, 1, 1);
        scene.deliver(conn, 2, 1);
        assert!(scene.found(check).is_empty());
        scene.deliver(conn, 3, 1);
        assert_eq!(scene.found(check), ["I10"]);
    }
}
