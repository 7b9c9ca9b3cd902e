//! I1, and with it I17: what was acknowledged is delivered, at least once, on every channel that existed.

use super::{Finding, Ledger, Operation, Outcome};
use crate::shape::{Keeping, Place};

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let delivered = ledger.delivered_keys();
    let has = |place: Place, key| delivered.get(&place).is_some_and(|keys| keys.contains(&key));
    let mut findings = Vec::new();
    if ledger.amnesia {
        return findings;
    }
    for (op, operation) in ledger.ops.iter().filter(|(_, operation)| is_promised(ledger, operation)) {
        let channels: Vec<Place> =
            ledger.shape.kept_places().filter(|place| place.topic == operation.topic).collect();
        let (owed, any): (Vec<Place>, Vec<Place>) = channels
            .into_iter()
            .partition(|place| ledger.exists(*place, operation.incarnation, operation.sent_at));
        let mut all = ledger.shape.places().filter(|place| place.topic == operation.topic);
        let forgetful = all.any(|place| !ledger.shape.is_kept(place));
        for &key in operation.keys.iter().filter(|key| !ledger.suspects.contains(key)) {
            let missing = owed.iter().filter(|place| !has(**place, key));
            findings.extend(missing.map(|place| {
                let channel = &ledger.shape.channel(*place).name;
                let topic = &ledger.shape.topic(operation.topic).name;
                let sent_at = operation.sent_at;
                Finding::new(
                    "I1",
                    format!("message {key} (command {op}, sent at {sent_at:?}, {:?}) was acknowledged and never reached {topic}/{channel}", operation.outcome),
                )
            }));
            // Nobody was there yet: the first channel gets the backlog, whichever that was; if it was an
            // ephemeral one, all is forgotten with it.
            if owed.is_empty() && !forgetful && !any.iter().any(|place| has(*place, key)) {
                findings.push(Finding::new(
                    "I1",
                    format!("message {key} (command {op}) was acknowledged before any channel was known and reached none"),
                ));
            }
        }
    }
    findings
}

fn is_promised(ledger: &Ledger<'_>, operation: &Operation) -> bool {
    matches!(operation.outcome, Outcome::Published(_))
        && match ledger.shape.topic(operation.topic).keeping {
            Keeping::Fsync => true,
            Keeping::Os => !ledger.power_went_after(operation.sent_at),
            Keeping::Memory => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::scene::Scene,
        history::{Down, Event},
        record::Hit,
    };

    #[test]
    fn an_acknowledged_message_that_one_channel_misses_is_found() {
        let mut scene = Scene::new();
        let (first, second) = (scene.subscribe(0, 0), scene.subscribe(0, 1));
        let op = scene.publish(0, &[1]);
        scene.ok(op);
        scene.deliver(first, 1, 1);
        assert_eq!(scene.found(check), ["I1"]);
        scene.deliver(second, 1, 1);
        assert!(scene.found(check).is_empty());
    }

    #[test]
    fn what_was_not_acknowledged_may_be_lost() {
        let mut scene = Scene::new();
        scene.subscribe(0, 0);
        let op = scene.publish(0, &[1]);
        assert!(scene.found(check).is_empty());
        scene.event(Event::Refused(op, "E_PUB_FAILED".to_owned()));
        assert!(scene.found(check).is_empty());
    }

    #[test]
    fn a_channel_that_came_later_is_owed_nothing_unless_it_is_the_first() {
        let mut scene = Scene::new();
        let first = scene.subscribe(0, 0);
        let op = scene.publish(0, &[1]);
        scene.ok(op);
        scene.wait(10);
        scene.subscribe(0, 1);
        scene.deliver(first, 1, 1);
        assert!(scene.found(check).is_empty());
        let mut scene = Scene::new();
        let op = scene.publish(0, &[1]);
        scene.ok(op);
        scene.wait(10);
        let first = scene.subscribe(0, 0);
        assert_eq!(scene.found(check), ["I1"]);
        scene.deliver(first, 1, 1);
        assert!(scene.found(check).is_empty());
    }

    #[test]
    fn a_channel_outlives_its_process_once_a_publish_after_it_was_acknowledged() {
        for (witnessed, expected) in [(false, &[][..]), (true, &["I1"])] {
            let mut scene = Scene::new();
            let (first, _) = (scene.subscribe(0, 0), scene.subscribe(0, 1));
            if witnessed {
                let op = scene.publish(1, &[7]);
                scene.ok(op);
                let op = scene.publish(0, &[8]);
                scene.ok(op);
                scene.deliver(first, 8, 1);
                let second = scene.subscribe(0, 1);
                scene.deliver(second, 8, 1);
            }
            scene.down(Down::Power);
            let first = scene.subscribe(0, 0);
            let op = scene.publish(0, &[1]);
            scene.ok(op);
            scene.deliver(first, 1, 1);
            assert_eq!(scene.found(check), expected);
        }
    }

    #[test]
    fn only_written_messages_survive_a_crash_and_may_not_survive_a_power_loss() {
        for (down, expected) in [(Down::Crash, &["I1"][..]), (Down::Power, &[])] {
            let mut scene = Scene::new();
            scene.subscribe(1, 0);
            let op = scene.publish(1, &[1]);
            scene.ok(op);
            scene.down(down);
            assert_eq!(scene.found(check), expected, "{down:?}");
        }
    }

    #[test]
    fn a_message_beside_a_flipped_bit_may_be_lost_and_no_other() {
        let mut scene = Scene::new();
        scene.subscribe(0, 0);
        let op = scene.publish(0, &[1, 2]);
        scene.ok(op);
        scene.event(Event::Flipped(Hit::Messages(vec![1])));
        assert_eq!(scene.found(check), ["I1"]);
    }
}
