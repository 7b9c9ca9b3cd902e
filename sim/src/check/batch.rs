//! I3: an MPUB arrives whole or not at all, whatever happened in the middle of it.

use super::{Finding, Ledger, Operation};
use crate::shape::Keeping;

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    if ledger.flipped {
        // What is left of a batch may be copied to another place when its segment is freed, so that a
        // damaged record there costs a part of the batch only.
        return Vec::new();
    }
    let delivered = ledger.delivered_keys();
    let mut findings = Vec::new();
    // What was only written may be delivered in part before a power loss takes the rest.
    let is_judged = |operation: &Operation| {
        let synced = ledger.shape.topic(operation.topic).keeping == Keeping::Fsync;
        operation.keys.len() > 1 && (synced || !ledger.power_went_after(operation.sent_at))
    };
    for (op, operation) in ledger.ops.iter().filter(|(_, operation)| is_judged(operation)) {
        let known = ledger.shape.kept_places().filter(|place| place.topic == operation.topic);
        for place in known.filter(|place| ledger.exists(*place, operation.incarnation, operation.sent_at)) {
            let is_there = |key| delivered.get(&place).is_some_and(|keys| keys.contains(key));
            let arrived = operation.keys.iter().filter(|key| is_there(key)).count();
            if arrived != 0 && arrived != operation.keys.len() {
                let (all, channel) = (operation.keys.len(), &ledger.shape.channel(place).name);
                let outcome = &operation.outcome;
                findings.push(Finding::new(
                    "I3",
                    format!("of the {all} messages of MPUB {op} ({outcome:?}) {arrived} reached {channel}"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::scene::Scene;

    #[test]
    fn half_a_batch_is_found_even_when_nobody_promised_it() {
        let mut scene = Scene::new();
        let conn = scene.subscribe(0, 0);
        scene.publish(0, &[1, 2]);
        assert!(scene.found(check).is_empty());
        scene.deliver(conn, 1, 1);
        assert_eq!(scene.found(check), ["I3"]);
        scene.deliver(conn, 2, 1);
        assert!(scene.found(check).is_empty());
    }
}
