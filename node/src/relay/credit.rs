//! How a consumer's capacity is divided over the owners of a channel. Pure.
//!
//! The node's own channel is one of them. Whoever has messages waiting gets an equal part of the capacity, and
//! no more than it has. Where that would be crumbs, owners are served in turn instead, those that were served
//! longest ago first, a chunk each: a batch costs about the same whether it holds ten messages or a hundred.
//! Owners whose messages are taken by consumers of their own come after all these: with a consumer on every
//! node, each does best with what lies beside it.
//! Half of what is left over is lent to the owners that have nothing, so that their next message need not ask
//! first; the other half stays for the node's own.

/// No chunk is larger, messages.
const CHUNK_MAX: u64 = 256;

/// An owner elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// Messages that wait there for credit.
    pub(super) waiting: u64,
    /// Consumers that come first there take them as well.
    pub(super) served: bool,
    /// Messages that it may send already.
    pub(super) held: u64,
    /// When it was last served: a count that rises with every service, so that the lowest is due.
    pub(super) turn: u64,
}

impl Owner {
    /// Whether messages wait there that nobody else takes.
    const fn needs_help(&self) -> bool {
        self.waiting > 0 && !self.served
    }

    /// Whether messages wait there that others take as well.
    const fn takes_help(&self) -> bool {
        self.waiting > 0 && self.served
    }
}

/// What an owner is given in its turn, if the consumers' RDY is `ready` in all: all of it, up to a limit. Every
/// turn costs both nodes the same, however much comes of it; and while nobody holds credit, what has come free
/// goes out in smaller parts, so nothing is idle.
pub(super) fn chunk(ready: u64) -> u64 {
    ready.clamp(1, CHUNK_MAX)
}

/// Divides `capacity`, in messages. Returns a share for each owner; their sum is at most the capacity, and what
/// is left is the node's own. `own` is the turn of the node's own channel if messages wait there.
pub(super) fn divide(capacity: u64, chunk: u64, own: Option<u64>, owners: &[Owner]) -> Vec<u64> {
    let mut shares = vec![0; owners.len()];
    let mut left = give(capacity, chunk, own, owners, Owner::needs_help, &mut shares);
    if own.is_none() {
        left = give(left, chunk, None, owners, Owner::takes_help, &mut shares);
        lend(left / 2, owners, &mut shares);
    }
    shares
}

/// Gives to those of the owners that are `meant`. Returns what nobody of them wants.
fn give(
    capacity: u64,
    chunk: u64,
    own: Option<u64>,
    owners: &[Owner],
    meant: impl Fn(&Owner) -> bool,
    shares: &mut [u64],
) -> u64 {
    let waiting = owners.iter().filter(|owner| meant(owner)).count() as u64 + u64::from(own.is_some());
    if waiting.saturating_mul(chunk) > capacity {
        in_turn(capacity, chunk, own, owners, meant, shares);
        // Nothing is left over that could be divided.
        return 0;
    }
    evenly(capacity, own.is_some(), owners, meant, shares)
}

/// Gives equal parts to all that wait, the smallest wishes first, so that what they leave goes to the others.
/// Returns what nobody wants.
fn evenly(
    capacity: u64,
    own: bool,
    owners: &[Owner],
    meant: impl Fn(&Owner) -> bool,
    shares: &mut [u64],
) -> u64 {
    let mut wishes: Vec<(u64, Option<usize>)> = owners
        .iter()
        .enumerate()
        .filter(|(_, owner)| meant(owner))
        .map(|(at, owner)| (owner.waiting, Some(at)))
        .chain(own.then_some((u64::MAX, None)))
        .collect();
    wishes.sort_unstable();
    let (mut left, mut sharers) = (capacity, wishes.len() as u64);
    for (wish, at) in wishes {
        let share = wish.min(left / sharers);
        sharers -= 1;
        left -= share;
        if let Some(share_of) = at.and_then(|at| shares.get_mut(at)) {
            *share_of = share;
        }
    }
    left
}

/// Gives chunks to those that were served longest ago. Who was given one keeps it until it is used, and what is
/// less than a chunk waits until there is more.
fn in_turn(
    capacity: u64,
    chunk: u64,
    own: Option<u64>,
    owners: &[Owner],
    meant: impl Fn(&Owner) -> bool,
    shares: &mut [u64],
) {
    let mut left = capacity;
    for (share, owner) in shares.iter_mut().zip(owners).filter(|(_, owner)| meant(owner)) {
        *share = owner.held.min(left);
        left -= *share;
    }
    let mut is_idle = left == capacity;
    let unserved = owners.iter().enumerate().filter(|(_, owner)| meant(owner) && owner.held == 0);
    let unserved = unserved.map(|(at, owner)| (owner.turn, Some(at)));
    let mut due: Vec<(u64, Option<usize>)> = unserved.chain(own.map(|turn| (turn, None))).collect();
    due.sort_unstable();
    for (_, at) in due {
        let wish = at.and_then(|at| owners.get(at)).map_or(chunk, |owner| owner.waiting.min(chunk));
        if left < wish && !is_idle {
            break;
        }
        is_idle = false;
        let share = wish.min(left);
        left -= share;
        if let Some(share_of) = at.and_then(|at| shares.get_mut(at)) {
            *share_of = share;
        }
    }
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
        Owner { waiting, served: false, held: 0, turn: 0 }
    }

    #[test]
    fn who_waits_gets_an_equal_part_and_no_more_than_it_has() {
        assert_eq!(divide(100, 10, None, &[waiting(1000), waiting(1000)]), [50, 50]);
        assert_eq!(divide(100, 10, None, &[waiting(10), waiting(1000)]), [10, 90]);
        assert_eq!(divide(100, 10, Some(0), &[waiting(1000), waiting(1000)]), [33, 33]);
        assert_eq!(divide(0, 10, Some(0), &[waiting(5)]), [0]);
    }

    #[test]
    fn what_nobody_needs_is_lent_but_for_half() {
        assert_eq!(divide(100, 10, None, &[waiting(0), waiting(0)]), [25, 25]);
        assert_eq!(divide(100, 10, None, &[waiting(20), waiting(0)]), [40, 20]);
        assert_eq!(
            divide(100, 10, Some(0), &[waiting(0), waiting(0)]),
            [0, 0],
            "its own messages come first"
        );
        assert_eq!(divide(1, 1, None, &[waiting(0)]), [0]);
        let (old, new) = (Owner { turn: 1, ..waiting(0) }, Owner { turn: 2, ..waiting(0) });
        assert_eq!(divide(3, 1, None, &[old, new]), [0, 1]);
    }

    #[test]
    fn owners_with_consumers_of_their_own_get_what_the_others_leave() {
        let served = Owner { served: true, ..waiting(1000) };
        assert_eq!(divide(100, 10, None, &[served, waiting(30)]), [70, 30]);
        assert_eq!(divide(100, 10, None, &[served, waiting(1000)]), [0, 100]);
        assert_eq!(divide(100, 10, Some(0), &[served, served]), [0, 0], "its own messages come first");
        assert_eq!(divide(100, 10, None, &[served, served]), [50, 50]);
        assert_eq!(divide(1, 1, None, &[Owner { turn: 1, ..served }, served]), [0, 1], "in turn, as all");
    }

    #[test]
    fn with_crumbs_for_each_the_longest_unserved_come_first() {
        let owner = |turn| Owner { turn, ..waiting(9) };
        assert_eq!(divide(1, 1, None, &[owner(3), owner(1), owner(2)]), [0, 1, 0]);
        assert_eq!(divide(2, 1, Some(2), &[owner(3), owner(1)]), [0, 1]);
        assert_eq!(divide(10, 5, None, &[owner(3), owner(1), owner(2)]), [0, 5, 5]);
    }

    #[test]
    fn who_was_given_a_chunk_keeps_it_and_crumbs_wait() {
        let (served, due) = (Owner { held: 7, turn: 5, ..waiting(100) }, waiting(100));
        assert_eq!(divide(10, 8, None, &[served, due]), [7, 0]);
        assert_eq!(divide(15, 8, None, &[served, due]), [7, 8]);
        let used = Owner { held: 0, ..served };
        assert_eq!(divide(10, 8, None, &[used, due]), [0, 8]);
        assert_eq!(divide(3, 8, None, &[used, due]), [0, 3], "there is nothing to wait for");
    }

    fn owners() -> impl Strategy<Value = Vec<Owner>> {
        let owner = (prop_oneof![Just(0), 1_u64..50, Just(u64::MAX)], any::<bool>(), 0_u64..9, 0_u64..100);
        let owner = owner.prop_map(|(waiting, served, held, turn)| Owner { waiting, served, held, turn });
        prop::collection::vec(owner, 0..20)
    }

    proptest! {
        #[test]
        fn never_more_than_there_is(
            capacity in 0_u64..10_000,
            chunk in 1_u64..100,
            own in prop::option::of(0_u64..100),
            owners in owners(),
        ) {
            let shares = divide(capacity, chunk, own, &owners);
            prop_assert_eq!(shares.len(), owners.len());
            prop_assert!(shares.iter().sum::<u64>() <= capacity);
        }

        #[test]
        fn some_capacity_is_always_used_and_by_whom_it_is_due(
            capacity in 1_u64..40,
            chunk in 1_u64..20,
            owners in owners(),
        ) {
            let shares = divide(capacity, chunk, None, &owners);
            let waits = || (0..owners.len()).filter(|&at| owners[at].waiting > 0);
            prop_assert!(waits().count() == 0 || waits().any(|at| shares[at] > 0));
            // Whoever goes away empty was served after all those that were chosen before it, or has consumers of
            // its own where they have none.
            let chosen = || waits().filter(|&at| owners[at].held == 0 && shares[at] > 0);
            for empty in waits().filter(|&at| owners[at].held == 0 && shares[at] == 0) {
                let due = |at: usize| (owners[at].served, owners[at].turn);
                prop_assert!(chosen().all(|at| due(at) <= due(empty)));
            }
        }

        #[test]
        fn ten_owners_are_drained_in_turn(
            capacity in 1_u64..20,
            chunk in 1_u64..8,
            backlog in prop::collection::vec(1_u64..200, 10),
        ) {
            let mut owners: Vec<Owner> = backlog.into_iter().map(waiting).collect();
            let total: u64 = owners.iter().map(|owner| owner.waiting).sum();
            let mut rounds = 0;
            while owners.iter().any(|owner| owner.waiting > 0) {
                rounds += 1;
                for (at, share) in divide(capacity, chunk, None, &owners).into_iter().enumerate() {
                    let served = share.min(owners[at].waiting);
                    owners[at].waiting -= served;
                    if served > 0 {
                        owners[at].turn = rounds;
                    }
                }
                prop_assert!(rounds <= total, "a round without service");
            }
        }
    }
}
