//! When each command of a run at a fixed rate is due.

use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// Commands at even intervals, dealt in turn to several connections. The schedule knows no delays: a
/// command that goes out late still has the due time that it had, so that its latency tells of the delay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    /// Messages a second, over all connections; not 0.
    pub(super) rate: u64,
    /// Messages in a command; not 0.
    pub(super) batch: u64,
    /// Number of connections; not 0.
    pub(super) connections: u64,
    /// Which of them this schedule is for, from 0.
    pub(super) connection: u64,
}

impl Schedule {
    /// When this connection's `index`th command is due, since the run began.
    pub(super) fn due_at(&self, index: u64) -> Duration {
        let earlier = u128::from(index) * u128::from(self.connections) + u128::from(self.connection);
        let nanos = earlier * u128::from(self.batch) * NANOS / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many commands of this connection are due when the run has gone on for `elapsed`.
    pub(super) fn due_by(&self, elapsed: Duration) -> u64 {
        let step = u128::from(self.connections * self.batch) * NANOS;
        let offset = u128::from(self.connection * self.batch) * NANOS;
        // A command is due once its due time, rounded down, is reached: hence the whole nanosecond more.
        let scaled = (elapsed.as_nanos() + 1) * u128::from(self.rate);
        let due = scaled.saturating_sub(offset).div_ceil(step);
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    /// Time between two commands of this connection.
    pub(super) fn interval(&self) -> Duration {
        self.due_at(1).saturating_sub(self.due_at(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_all_connections_are_evenly_spaced() {
        let schedule = |connection| Schedule { rate: 1000, batch: 10, connections: 2, connection };
        let due: Vec<u128> = (0..3)
            .flat_map(|index| [schedule(0).due_at(index), schedule(1).due_at(index)])
            .map(|at| at.as_millis())
            .collect();
        assert_eq!(due, [0, 10, 20, 30, 40, 50]);
        assert_eq!(schedule(1).interval(), Duration::from_millis(20));
    }

    #[test]
    fn the_number_due_agrees_with_the_due_times() {
        for (rate, batch, connections, connection) in [(3, 1, 1, 0), (1000, 1, 1, 0), (20_000, 7, 3, 2)] {
            let schedule = Schedule { rate, batch, connections, connection };
            for index in 0..5000 {
                let at = schedule.due_at(index);
                assert_eq!(schedule.due_by(at), index + 1, "{schedule:?} at {at:?}");
                if let Some(before) = at.checked_sub(Duration::from_nanos(1)) {
                    assert_eq!(schedule.due_by(before), index, "{schedule:?} before {at:?}");
                }
            }
        }
    }

    #[test]
    fn a_long_run_does_not_drift_or_overflow() {
        let schedule = Schedule { rate: 3, batch: 1, connections: 1, connection: 0 };
        assert_eq!(schedule.due_at(3 * 86_400 * 365), Duration::from_secs(86_400 * 365));
        assert_eq!(schedule.due_at(u64::MAX), Duration::from_nanos(u64::MAX));
    }
}
