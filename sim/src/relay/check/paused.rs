//! I10: the owner of a paused channel hands out nothing of it, to its own consumers or to relays.

use std::time::Duration;

use super::super::ledger::{Delivery, Ledger};
use crate::check::Finding;

/// What is on its way when a channel is paused may still arrive for so long.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    ledger.deliveries.iter().filter_map(|delivery| wrong(ledger, delivery)).collect()
}

fn wrong(ledger: &Ledger<'_>, delivery: &Delivery) -> Option<Finding> {
    let changes = ledger.paused.get(&(delivery.owner, delivery.place))?;
    let (since, paused) = changes.iter().rfind(|(at, _)| *at <= delivery.at)?;
    let held = || ledger.held_together(delivery.owner, delivery.node, *since, delivery.at);
    let (key, at, owner, node) = (delivery.key, delivery.at, delivery.owner, delivery.node);
    (*paused && at > *since + ON_ITS_WAY && held()).then(|| {
        let channel = ledger.name(delivery.place);
        let text = format!(
            "{channel} was paused on node{owner} at {since:?}, and its message {key:?} came at node{node} at {at:?}"
        );
        Finding::new("I10", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::Event,
        relay::check::scene::{ORDERS, Scene},
    };

    #[test]
    fn what_comes_from_a_paused_channel_is_found_until_it_is_resumed() {
        for (wait, resumed, expected) in [(200, false, &["I10"][..]), (50, false, &[]), (200, true, &[])] {
            let mut scene = Scene::new();
            let conn = scene.subscribe(0, ORDERS);
            scene.ok(1, &[7]);
            scene.event(1, Event::Paused(ORDERS, true));
            scene.wait(wait);
            if resumed {
                scene.event(1, Event::Paused(ORDERS, false));
            }
            scene.deliver(conn, 7, 1);
            assert_eq!(scene.found(check), expected, "after {wait} ms, resumed {resumed}");
        }
    }
}
