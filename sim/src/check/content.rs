//! I4, I5, I6: what is delivered is what was published, on the topic where it was published, and it keeps
//! its id and its time stamp for ever.
//!
//! Ids of messages that nobody promised to keep may be used again by a later process.

use std::collections::BTreeMap;

use bruit_wire::MessageId;

use super::{Delivery, Finding, Ledger};
use crate::{body::Key, shape::Keeping};

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut names = Names::default();
    ledger.deliveries.iter().filter_map(|delivery| wrong(ledger, &mut names, delivery)).collect()
}

/// The id and time stamp by which each message was first seen, and the message of each id.
#[derive(Default)]
struct Names {
    by_key: BTreeMap<(usize, Key), (MessageId, i64)>,
    by_id: BTreeMap<(usize, MessageId), (Key, u32)>,
}

fn wrong(ledger: &Ledger<'_>, names: &mut Names, delivery: &Delivery) -> Option<Finding> {
    let (at, topic) = (delivery.at, delivery.place.topic);
    let id = String::from_utf8_lossy(&delivery.id.to_hex()).into_owned();
    let Some(key) = delivery.key else {
        return Some(Finding::new("I5", format!("the body of {id} was damaged at {at:?}")));
    };
    let Some(operation) = ledger.published_by(key) else {
        return Some(Finding::new("I6", format!("message {key} ({id}) was delivered and never published")));
    };
    if operation.topic != topic || operation.sent_at > at {
        return Some(Finding::new("I6", format!("message {key} ({id}) was delivered on another topic")));
    }
    let first = *names.by_key.entry((topic, key)).or_insert((delivery.id, delivery.timestamp));
    if first != (delivery.id, delivery.timestamp) {
        return Some(Finding::new(
            "I5",
            format!(
                "message {key} was delivered as {first:?} and as {:?}",
                (delivery.id, delivery.timestamp)
            ),
        ));
    }
    let process = delivery.incarnation;
    let owner = names.by_id.entry((topic, delivery.id)).or_insert((key, process));
    if owner.1 != process && is_forgotten(ledger, topic, owner.0) {
        *owner = (key, process);
    }
    let owner = owner.0;
    (owner != key).then(|| Finding::new("I5", format!("messages {owner} and {key} have the same id {id}")))
}

/// Whether nothing need be left of a message in a later process.
fn is_forgotten(ledger: &Ledger<'_>, topic: usize, key: Key) -> bool {
    if ledger.suspects.contains(&key) {
        return true;
    }
    match ledger.shape.topic(topic).keeping {
        Keeping::Fsync => false,
        Keeping::Os => ledger.published_by(key).is_none_or(|op| ledger.power_went_after(op.sent_at)),
        Keeping::Memory => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check::scene::Scene, history::Event};

    fn delivered(key: Option<Key>, id: u64, timestamp: i64) -> Event {
        Event::Delivered { conn: 1, id: MessageId::new(1, id), attempts: 1, timestamp, key }
    }

    #[test]
    fn a_damaged_an_invented_and_a_misplaced_message_are_found() {
        for (key, expected) in [(None, "I5"), (Some(9), "I6"), (Some(2), "I6")] {
            let mut scene = Scene::new();
            scene.subscribe(0, 0);
            scene.publish(0, &[1]);
            scene.publish(1, &[2]);
            scene.event(delivered(Some(1), 1, 5));
            assert!(scene.found(check).is_empty());
            scene.event(delivered(key, 2, 5));
            assert_eq!(scene.found(check), [expected]);
        }
    }

    #[test]
    fn an_id_and_a_time_stamp_stay_with_their_message() {
        for (again, expected) in [
            (delivered(Some(1), 1, 5), &[][..]),
            (delivered(Some(1), 2, 5), &["I5"]),
            (delivered(Some(1), 1, 6), &["I5"]),
            (delivered(Some(2), 1, 5), &["I5"]),
        ] {
            let mut scene = Scene::new();
            scene.subscribe(0, 0);
            scene.publish(0, &[1, 2]);
            scene.event(delivered(Some(1), 1, 5));
            scene.event(again.clone());
            assert_eq!(scene.found(check), expected, "{again:?}");
        }
    }
}
