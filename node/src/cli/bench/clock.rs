//! The clock and the sleep of the load generator.
#![expect(
    clippy::disallowed_methods,
    reason = "a load generator is a client: it measures real time, on threads of its own"
)]

use std::{
    num::NonZeroU64,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A sleep returns late by tens of microseconds, so the last stretch before a deadline is spun.
const SPIN: Duration = Duration::from_micros(50);

/// Monotonic time.
pub(super) fn now() -> Instant {
    Instant::now()
}

/// A number that differs from run to run, so that a consumer can tell this run's messages from leftovers.
pub(super) fn run_id() -> u32 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let [a, b, c, d, ..] = (nanos as u64 >> 10).to_le_bytes();
    u32::from_le_bytes([a, b, c, d]) ^ std::process::id().rotate_left(16)
}

/// Lets the calling thread's sleeps end within microseconds of their due time instead of 50 µs late.
pub(super) fn sharpen_sleep() {
    // Only accuracy is lost where the kernel refuses, and lateness is reported.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Sleeps until `deadline`, and spins for the end of it when `exact`. Spinning costs CPU that the server may
/// need, so a caller with many deadlines a second does without.
pub(super) fn sleep_until(deadline: Instant, exact: bool) {
    let margin = if exact { SPIN } else { Duration::ZERO };
    loop {
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() {
            return;
        }
        if left > margin {
            std::thread::sleep(left - margin);
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_never_ends_early() {
        for exact in [false, true] {
            let deadline = now() + Duration::from_millis(2);
            sleep_until(deadline, exact);
            assert!(now() >= deadline);
        }
    }
}
