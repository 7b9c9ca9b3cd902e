//! How a consumer's capacity is divided over the owners of a channel. Pure.
//!
//! The node's own channel is one of them. Whoever has messages waiting gets an equal part of the capacity, and
//! no more than it has; when there is less capacity than owners that wait, those that were served longest ago
//! are first. Half of what is left over is lent to the owners that have nothing, so that their next message
//! need not ask first; the other half stays for the node's own.

/// An owner elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// Messages that wait there for credit.
    pub(super) waiting: u64,
    /// When it was last served: a count that rises with every service, so that the lowest is due.
    pub(super) turn: u64,
}

/// Divides `capacity`, in messages. Returns a share for each owner; their sum is at most the capacity, and what
/// is left is the node's own. `own` is the turn of the node's own channel if messages wait there.
pub(super) fn divide(capacity: u64, own: Option<u64>, owners: &[Owner]) -> Vec<u64> {
    let mut shares = vec![0; owners.len()];
    let mut left = capacity;
    let mut waiting: Vec<(u64, Option<usize>)> = owners
        .iter()
        .enumerate()
        .filter(|(_, owner)| owner.waiting > 0)
        .map(|(at, owner)| (owner.turn, Some(at)))
        .chain(own.map(|turn| (turn, None)))
        .collect();
    waiting.sort_unstable();
    // From the smallest wish to the greatest: each gets its wish or an equal part of what is left.
    let rounds = waiting.len() as u64;
    if rounds > left {
        waiting.truncate(usize::try_from(left).unwrap_or(usize::MAX));
    }
    let wish = |at: Option<usize>| at.and_then(|at| owners.get(at)).map_or(u64::MAX, |owner| owner.waiting);
    waiting.sort_by_key(|&(_, at)| wish(at));
    let mut sharers = waiting.len() as u64;
    for (_, at) in waiting {
        let share = wish(at).min(left / sharers);
        sharers -= 1;
        left -= share;
        if let Some(share_of) = at.and_then(|at| shares.get_mut(at)) {
            *share_of = share;
        }
    }
    if own.is_none() {
        lend(left / 2, owners, &mut shares);
    }
    shares
}

/// Adds equal parts of `spare` to all shares; what cannot be divided goes to those that were served last.
fn lend(spare: u64, owners: &[Owner], shares: &mut [u64]) {
    let count = owners.len() as u64;
    if count == 0 || spare == 0 {
        return;
    }
    shares.iter_mut().for_each(|share| *share += spare / count);
    let mut latest: Vec<usize> = (0..owners.len()).collect();
    latest.sort_by_key(|&at| std::cmp::Reverse(owners.get(at).map_or(0, |owner| owner.turn)));
    for at in latest.into_iter().take((spare % count) as usize) {
        if let Some(share) = shares.get_mut(at) {
            *share += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waiting(waiting: u64) -> Owner {
        Owner { waiting, turn: 0 }
    }

    #[test]
    fn who_waits_gets_an_equal_part_and_no_more_than_it_has() {
        assert_eq!(divide(100, None, &[waiting(1000), waiting(1000)]), [50, 50]);
        assert_eq!(divide(100, None, &[waiting(10), waiting(1000)]), [10, 90]);
        assert_eq!(divide(100, Some(0), &[waiting(1000), waiting(1000)]), [33, 33]);
        assert_eq!(divide(0, Some(0), &[waiting(5)]), [0]);
    }

    #[test]
    fn what_nobody_needs_is_lent_but_for_half() {
        assert_eq!(divide(100, None, &[waiting(0), waiting(0)]), [25, 25]);
        assert_eq!(divide(100, None, &[waiting(20), waiting(0)]), [40, 20]);
        assert_eq!(divide(100, Some(0), &[waiting(0), waiting(0)]), [0, 0], "its own messages come first");
        assert_eq!(divide(1, None, &[waiting(0)]), [0]);
        let (old, new) = (Owner { waiting: 0, turn: 1 }, Owner { waiting: 0, turn: 2 });
        assert_eq!(divide(3, None, &[old, new]), [0, 1]);
    }

    #[test]
    fn with_less_capacity_than_owners_the_longest_unserved_come_first() {
        let owner = |turn| Owner { waiting: 9, turn };
        assert_eq!(divide(1, None, &[owner(3), owner(1), owner(2)]), [0, 1, 0]);
        assert_eq!(divide(2, Some(2), &[owner(3), owner(1)]), [0, 1]);
    }

    fn owners() -> impl Strategy<Value = Vec<Owner>> {
        let owner = (prop_oneof![Just(0), 1_u64..50, Just(u64::MAX)], 0_u64..100);
        prop::collection::vec(owner.prop_map(|(waiting, turn)| Owner { waiting, turn }), 0..20)
    }

    proptest! {
        #[test]
        fn never_more_than_there_is(capacity in 0_u64..10_000, own in prop::option::of(0_u64..100), owners in owners()) {
            let shares = divide(capacity, own, &owners);
            prop_assert_eq!(shares.len(), owners.len());
            prop_assert!(shares.iter().sum::<u64>() <= capacity);
        }

        #[test]
        fn nobody_starves(capacity in 1_u64..40, owners in owners()) {
            let waits: Vec<usize> = (0..owners.len()).filter(|&at| owners[at].waiting > 0).collect();
            let shares = divide(capacity, None, &owners);
            let served = waits.iter().filter(|&&at| shares[at] > 0).count() as u64;
            prop_assert_eq!(served, capacity.min(waits.len() as u64));
            // Whoever goes away empty was served after all those that did not.
            for &empty in waits.iter().filter(|&&at| shares[at] == 0) {
                prop_assert!(waits.iter().filter(|&&at| shares[at] > 0).all(|&at| owners[at].turn <= owners[empty].turn));
            }
        }

        #[test]
        fn capacity_is_used_where_messages_wait(capacity in 0_u64..1_000, owners in owners()) {
            let shares = divide(capacity, None, &owners);
            let useful: u64 = owners.iter().zip(&shares).map(|(owner, share)| owner.waiting.min(*share)).sum();
            let wanted = owners.iter().fold(0_u64, |sum, owner| sum.saturating_add(owner.waiting));
            prop_assert!(useful >= capacity.min(wanted).saturating_sub(owners.len() as u64), "{useful} of {wanted}");
        }

        #[test]
        fn ten_owners_are_drained_in_turn(capacity in 1_u64..20, backlog in prop::collection::vec(1_u64..200, 10)) {
            let mut owners: Vec<Owner> = backlog.iter().map(|&waiting| Owner { waiting, turn: 0 }).collect();
            let total: u64 = backlog.iter().sum();
            let mut rounds = 0;
            while owners.iter().any(|owner| owner.waiting > 0) {
                rounds += 1;
                for (at, share) in divide(capacity, None, &owners).into_iter().enumerate() {
                    let served = share.min(owners[at].waiting);
                    owners[at].waiting -= served;
                    if served > 0 {
                        owners[at].turn = rounds;
                    }
                }
                prop_assert!(rounds <= total, "a round without service");
            }
            prop_assert!(rounds * capacity <= total + rounds * 10, "{rounds} rounds for {total}");
        }
    }
}
