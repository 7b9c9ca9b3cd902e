//! I4, I5, I6: what is delivered is what was published, on the topic where it was published, with the time
//! stamp and the number that its owner gave it; and no two messages that a consumer has bear the same id.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bruit_wire::MessageId;

use super::{
    super::ledger::{Delivery, Ledger},
    flight::let_go_at,
};
use crate::{
    body::Key,
    check::{Finding, Outcome},
    history::Conn,
    shape::Keeping,
};

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut firsts = BTreeMap::new();
    let mut findings: Vec<Finding> =
        ledger.deliveries.iter().filter_map(|delivery| wrong(ledger, &mut firsts, delivery)).collect();
    findings.extend(mistaken(ledger));
    findings
}

/// The owner's number and time stamp by which a message was first seen.
type Firsts = BTreeMap<Key, (u64, i64)>;

fn wrong(ledger: &Ledger<'_>, firsts: &mut Firsts, delivery: &Delivery) -> Option<Finding> {
    let (at, topic, node) = (delivery.at, delivery.place.topic, delivery.node);
    let id = String::from_utf8_lossy(&delivery.id.to_hex()).into_owned();
    let Some(key) = delivery.key else {
        return Some(Finding::new("I5", format!("the body of {id} was damaged at {at:?} on node{node}")));
    };
    let Some(operation) = ledger.published_by(key) else {
        return Some(Finding::new("I6", format!("message {key} ({id}) was delivered and never published")));
    };
    if operation.topic != topic || operation.sent_at > at {
        return Some(Finding::new("I6", format!("message {key} ({id}) was delivered on another topic")));
    }
    // What was not promised may be forgotten, and a later process may use its number again for another one;
    // but the same message keeps its own.
    let named = (delivery.id.sequence(), delivery.timestamp);
    let first = *firsts.entry(key).or_insert(named);
    (first != named).then(|| {
        Finding::new("I5", format!("message {key} was delivered as {first:?} and as {named:?} on node{node}"))
    })
}

/// Different messages with the same id that one consumer had at the same time: its answer could mean either.
fn mistaken(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut held: BTreeMap<(Conn, MessageId), (Option<Key>, Duration)> = BTreeMap::new();
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for delivery in &ledger.deliveries {
        let Some(consumer) = ledger.conns.get(&delivery.conn) else { continue };
        let now = (delivery.key, let_go_at(delivery, consumer));
        let before = held.insert((delivery.conn, delivery.id), now);
        let Some((other, until)) = before.filter(|(other, _)| *other != delivery.key) else { continue };
        if until > delivery.at && !may_be_forgotten(ledger, other) && seen.insert((other, delivery.key)) {
            let (id, key, conn) =
                (String::from_utf8_lossy(&delivery.id.to_hex()).into_owned(), delivery.key, delivery.conn);
            let text = format!(
                "consumer {conn} had {other:?} and {key:?} with the same id {id} at {:?}",
                delivery.at
            );
            findings.push(Finding::new("I5", text));
        }
    }
    findings
}

/// Whether the owner may have forgotten a message, so that its next process uses the number again.
fn may_be_forgotten(ledger: &Ledger<'_>, key: Option<Key>) -> bool {
    let Some(operation) = key.and_then(|key| ledger.published_by(key)) else { return true };
    let went =
        || ledger.downs.iter().any(|(node, at, ..)| *node == operation.owner && *at >= operation.sent_at);
    match ledger.plan.shape.topic(operation.topic).keeping {
        Keeping::Fsync => !matches!(operation.outcome, Outcome::Published(_)) && went(),
        Keeping::Os => ledger.power_went_after(operation.owner, operation.sent_at),
        Keeping::Memory => went(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::Event,
        relay::check::scene::{ORDERS, Scene},
    };

    fn delivered(conn: Conn, key: Option<Key>, id: MessageId, timestamp: i64) -> Event {
        Event::Delivered { conn, id, attempts: 1, timestamp, key }
    }

    #[test]
    fn a_damaged_an_invented_and_a_misplaced_message_are_found() {
        for (key, expected) in [(None, "I5"), (Some(9), "I6"), (Some(2), "I6")] {
            let mut scene = Scene::new();
            let conn = scene.subscribe(0, ORDERS);
            scene.ok(1, &[1]);
            scene.publish(1, 1, &[2]);
            scene.event(0, delivered(conn, Some(1), MessageId::new(1, 1), 5));
            assert!(scene.found(check).is_empty());
            scene.event(0, delivered(conn, key, MessageId::new(1, 2), 5));
            assert_eq!(scene.found(check), [expected]);
        }
    }

    #[test]
    fn a_message_keeps_number_and_time_stamp_and_two_do_not_share_an_id() {
        for (key, id, timestamp, expected) in [
            (1, MessageId::new(1, 1), 5, &[][..]),
            // A relay may change the mark of the node.
            (1, MessageId::new(2, 1), 5, &[]),
            (1, MessageId::new(1, 2), 5, &["I5"]),
            (1, MessageId::new(1, 1), 6, &["I5"]),
            (2, MessageId::new(1, 1), 5, &["I5"]),
            (2, MessageId::new(2, 1), 5, &[]),
        ] {
            let mut scene = Scene::new();
            let conn = scene.subscribe(0, ORDERS);
            scene.ok(1, &[1]);
            scene.ok(2, &[2]);
            scene.event(0, delivered(conn, Some(1), MessageId::new(1, 1), 5));
            scene.wait(5);
            scene.event(0, delivered(conn, Some(key), id, timestamp));
            assert_eq!(scene.found(check), expected, "{key} as {id:?} at {timestamp}");
        }
    }
}
