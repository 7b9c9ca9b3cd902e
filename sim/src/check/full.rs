//! I18: a full disk refuses publishes; it does not stop deliveries.
//!
//! That publishes are taken again once there is room is tested by the probe at the end of every run, and that
//! nothing acknowledged is lost by I1.

use std::time::Duration;

use super::{Finding, Ledger, Outcome, in_flight::free_at};
use crate::{history::Conn, shape::Place};

/// A shorter time without room proves nothing.
const LONG_ENOUGH: Duration = Duration::from_millis(500);

pub(super) fn check(ledger: &Ledger<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (process, from, until) in windows(ledger) {
        for place in ledger.shape.kept_places() {
            let ready = ledger.conns.keys().filter(|conn| is_ready(ledger, **conn, place, from, until));
            let ready = ready.filter(|conn| ledger.conns[*conn].incarnation == process).count();
            let came = ledger.deliveries.iter().any(|d| d.place == place && (from..until).contains(&d.at));
            if ready > 0 && !came && has_backlog(ledger, place, from, until) {
                let channel = &ledger.shape.channel(place).name;
                findings.push(Finding::new(
                    "I18",
                    format!("{channel} had a backlog and {ready} ready consumers, and delivered nothing while the disk was full, from {from:?} to {until:?}"),
                ));
            }
        }
    }
    findings
}

/// The times without room, as far as one process of the node lived through them.
fn windows(ledger: &Ledger<'_>) -> Vec<(u32, Duration, Duration)> {
    let changes = ledger.disk_full.windows(2).filter(|pair| pair[0].2);
    let windows = changes.map(|pair| (pair[0].1, pair[0].0, pair[1].0));
    let undisturbed = |(_, from, until): &(u32, Duration, Duration)| {
        let down = ledger.downs.iter().any(|(at, ..)| (*from..=*until).contains(at));
        !down && *until >= *from + LONG_ENOUGH
    };
    windows.filter(undisturbed).collect()
}

/// Whether a consumer could have taken a message all the time.
fn is_ready(ledger: &Ledger<'_>, conn: Conn, place: Place, from: Duration, until: Duration) -> bool {
    let Some(consumer) = ledger.conns.get(&conn).filter(|consumer| consumer.place == place) else {
        return false;
    };
    let stays = consumer.left_at.is_none_or(|left| left > until);
    let counts = consumer.ready.iter();
    let before =
        counts.clone().rfind(|(at, _)| *at + Duration::from_millis(50) < from).map(|(_, count)| *count);
    let during = counts.filter(|(at, _)| *at + Duration::from_millis(50) >= from && *at <= until);
    let least = during.map(|(_, count)| *count).chain(before).min().unwrap_or(0);
    let held =
        ledger.deliveries.iter().filter(|d| d.conn == conn && d.at < from && free_at(d, consumer) >= from);
    stays && before.is_some() && (held.count() as u64) < least
}

/// Whether a message that was acknowledged well before could have been delivered and came only later.
fn has_backlog(ledger: &Ledger<'_>, place: Place, from: Duration, until: Duration) -> bool {
    let first_came_later = |key| {
        let first = ledger.deliveries.iter().find(|d| d.place == place && d.key == Some(key));
        first.is_some_and(|delivery| delivery.at >= until)
    };
    let before = ledger.ops.values().filter(|operation| {
        let acked = matches!(operation.outcome, Outcome::Published(_));
        acked
            && operation.topic == place.topic
            && operation.delay.is_none()
            && operation.ended_at.is_some_and(|ended| ended < from)
    });
    before.flat_map(|operation| &operation.keys).any(|key| first_came_later(*key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check::scene::Scene, history::Event};

    #[test]
    fn a_backlog_that_waits_for_room_is_found_unless_its_consumers_are_busy() {
        for (ready, expected) in [(2, &["I18"][..]), (1, &[])] {
            let mut scene = Scene::new();
            let conn = scene.subscribe(0, 0);
            scene.event(Event::Ready(conn, ready));
            let op = scene.publish(0, &[1, 2]);
            scene.ok(op);
            scene.wait(100);
            scene.deliver(conn, 1, 1);
            scene.wait(1);
            scene.event(Event::DiskFull(true));
            scene.wait(600);
            scene.event(Event::DiskFull(false));
            scene.deliver(conn, 2, 1);
            assert_eq!(scene.found(check), expected, "RDY {ready}");
        }
    }
}
