//! I7: what was finished is never delivered again on its channel, by its owner or through any relay.
//!
//! A FIN on a relay has to get to the owner, and there it has to be kept. As long as the link and both
//! processes last, it does; later the owner may go, and then a later publish that it acknowledged shows that
//! the FIN was kept (see the same check for one node).

use std::time::Duration;

use super::super::ledger::{Delivery, Ledger};
use crate::check::{Answer, AnswerKind, Finding};

/// How much later than a FIN a publish must be sent to be its witness: 10 ms that a FIN may wait at the owner,
/// and its way there.
const FINISH_WINDOW: Duration = Duration::from_millis(100);

/// How long a connection must live after a FIN for the FIN to have arrived.
const ARRIVAL: Duration = Duration::from_millis(5);

/// How long the relay and the link must last after it for the FIN to have got to the owner.
const PASSED_ON: Duration = Duration::from_millis(60);

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ((place, key), indices) in &ledger.by_message {
        if !ledger.plan.shape.is_kept(*place) {
            continue;
        }
        for pair in indices.windows(2) {
            let (first, again) = (&ledger.deliveries[pair[0]], &ledger.deliveries[pair[1]]);
            let Some(finish) = accepted_finish(ledger, first) else { continue };
            if again.at <= finish.at {
                // It was out twice when it was finished; that is another check's business.
                continue;
            }
            let Some(why) = broken(ledger, first, finish, again) else { continue };
            let (channel, node, finished_at, at) = (ledger.name(*place), first.node, finish.at, again.at);
            let (owner, other) = (first.owner, again.node);
            let text = format!(
                "message {key} of node{owner} was finished on {channel} at node{node} at {finished_at:?} and delivered again at node{other} at {at:?} by {why}"
            );
            findings.push(Finding::new("I7", text));
        }
    }
    findings
}

/// How a second delivery breaks the promise, if it does.
fn broken(ledger: &Ledger<'_>, first: &Delivery, finish: &Answer, again: &Delivery) -> Option<&'static str> {
    let arrived = finish.at + PASSED_ON;
    if ledger.is_stale(first, again) {
        return None;
    }
    if !ledger.held_together(first.owner, first.node, first.at, arrived.min(again.at)) {
        return None;
    }
    if ledger.lived(first.owner, first.at, again.at) {
        return Some("the same process");
    }
    let owners_process =
        ledger.downs.iter().find(|(node, at, ..)| *node == first.owner && *at > finish.at)?.2;
    ledger
        .was_kept(first.owner, owners_process, finish.at + FINISH_WINDOW)
        .then_some("a later process, although it was kept")
}

/// The FIN of a delivery, when it arrived in time and nothing speaks against it.
fn accepted_finish<'d>(ledger: &Ledger<'_>, delivery: &'d Delivery) -> Option<&'d Answer> {
    let consumer = ledger.conns.get(&delivery.conn)?;
    let mut deadline = delivery.at + consumer.msg_timeout;
    for answer in &delivery.answers {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::Down,
        relay::check::scene::{ORDERS, Scene},
    };

    /// A message of node 1 that is finished on node 0, then whatever `between` does, then delivered again.
    fn redelivered(between: impl FnOnce(&mut Scene)) -> Vec<&'static str> {
        let mut scene = Scene::new();
        let conn = scene.subscribe(0, ORDERS);
        scene.ok(1, &[7]);
        scene.deliver(conn, 7, 1);
        scene.wait(10);
        scene.finish(conn, 7);
        between(&mut scene);
        let conn = scene.subscribe(0, ORDERS);
        scene.deliver(conn, 7, 2);
        scene.found(check)
    }

    #[test]
    fn a_finished_message_that_comes_again_is_found() {
        assert_eq!(redelivered(|scene| scene.wait(20)), ["I7"]);
        assert_eq!(redelivered(|scene| scene.wait(2_000)), ["I7"]);
    }

    #[test]
    fn a_relay_or_an_owner_that_went_at_once_may_have_lost_it() {
        for node in [0, 1] {
            assert!(redelivered(|scene| scene.down(node, Down::Crash)).is_empty());
        }
    }

    #[test]
    fn a_finish_that_had_time_to_get_to_the_owner_holds_although_the_relay_goes() {
        let late = |scene: &mut Scene| {
            scene.wait(100);
            scene.down(0, Down::Crash);
        };
        assert_eq!(redelivered(late), ["I7"]);
    }

    #[test]
    fn a_finish_is_kept_once_a_later_publish_of_the_owner_was_acknowledged() {
        for (publish, expected) in [(true, &["I7"][..]), (false, &[])] {
            let found = redelivered(|scene| {
                scene.wait(200);
                if publish {
                    scene.ok(1, &[8]);
                }
                scene.down(1, Down::Power);
            });
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_cut_excuses_it() {
        let mut scene = Scene::new();
        scene.cut(900, 1_500);
        let conn = scene.subscribe(0, ORDERS);
        scene.ok(1, &[7]);
        scene.deliver(conn, 7, 1);
        scene.finish(conn, 7);
        scene.wait(20);
        scene.deliver(conn, 7, 2);
        assert!(scene.found(check).is_empty());
    }

    #[test]
    fn a_copy_that_was_under_way_when_the_link_was_cut_is_excused_but_no_later_one() {
        for (attempts, since, expected) in [(1, 900, &[][..]), (2, 900, &["I7"]), (1, 90_000, &["I7"])] {
            let mut scene = Scene::new();
            scene.cut(since, since + 600);
            let (own, relayed) = (scene.subscribe(1, ORDERS), scene.subscribe(0, ORDERS));
            scene.ok(1, &[7]);
            scene.deliver(own, 7, 2);
            scene.finish(own, 7);
            scene.wait(100);
            scene.deliver(relayed, 7, attempts);
            assert_eq!(scene.found(check), expected, "attempts {attempts}, cut at {since}");
        }
    }
}
