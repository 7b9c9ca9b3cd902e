//! When a connection gets a heartbeat, and when it is given up (NSQ reference, section 2.11). Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Limits;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Send a heartbeat.
    Heartbeat,
    /// The client has said nothing for too long.
    Silent,
    /// The client reads nothing.
    Stuck,
}

/// A connection's times.
#[derive(Debug)]
pub(super) struct Deadlines {
    /// `None` turns everything off.
    interval: Option<Duration>,
    next_heartbeat: Instant,
    /// When the wait for the current command began.
    waiting_since: Instant,
    /// How long that wait may take.
    patience: Duration,
    /// Since when output waits without any of it being taken.
    stuck_since: Option<Instant>,
    /// Since when a command is there in part.
    begun_since: Option<Instant>,
    /// How long that may last without heartbeats.
    command_timeout: Duration,
}

impl Deadlines {
    /// A connection that was just accepted.
    pub(super) fn new(now: Instant, interval: Duration, limits: &Limits) -> Self {
        Self {
            interval: Some(interval),
            next_heartbeat: now + interval,
            waiting_since: now,
            patience: limits.opening_timeout,
            stuck_since: None,
            begun_since: None,
            command_timeout: limits.command_timeout,
        }
    }

    /// The client has said which protocol it speaks.
    pub(super) fn opened(&mut self, now: Instant) {
        self.waiting_since = now;
        self.patience = self.interval.unwrap_or_default() * 2;
    }

    /// The client has negotiated another interval.
    pub(super) fn set_interval(&mut self, now: Instant, interval: Option<Duration>) {
        self.interval = interval;
        self.next_heartbeat = now + interval.unwrap_or_default();
        self.opened(now);
    }

    /// A whole command came.
    pub(super) const fn command(&mut self, now: Instant) {
        self.waiting_since = now;
        self.begun_since = None;
    }

    /// A command is there in part, or none is. More of it does not give it more time.
    pub(super) fn begun(&mut self, now: Instant, in_part: bool) {
        self.begun_since = if in_part { self.begun_since.or(Some(now)) } else { None };
    }

    /// Output waits, or was taken: `waits` after `progressed`.
    pub(super) fn output(&mut self, now: Instant, waits: bool, progressed: bool) {
        if !waits {
            self.stuck_since = None;
        } else if progressed || self.stuck_since.is_none() {
            self.stuck_since = Some(now);
        }
    }

    /// When [`Self::due`] has something to say next; `None` for a client without heartbeats, between commands.
    pub(super) fn next(&self) -> Option<Instant> {
        let Some(interval) = self.interval else { return self.command_due() };
        let silent = self.waiting_since + self.patience;
        let stuck = self.stuck_since.map(|since| since + interval);
        stuck.into_iter().chain([silent, self.next_heartbeat]).min()
    }

    fn command_due(&self) -> Option<Instant> {
        self.begun_since.map(|since| since + self.command_timeout)
    }

    /// What is due at `now`.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        let Some(interval) = self.interval else {
            return self.command_due().filter(|due| now >= *due).map(|_| Due::Silent);
        };
        if now >= self.waiting_since + self.patience {
            return Some(Due::Silent);
        }
        if self.stuck_since.is_some_and(|since| now >= since + interval) {
            return Some(Due::Stuck);
        }
        if now < self.next_heartbeat {
            return None;
        }
        self.next_heartbeat = now + interval;
        Some(Due::Heartbeat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn deadlines(now: Instant, interval: Duration) -> Deadlines {
        Deadlines::new(now, interval, &Limits::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_given_up_after_two_intervals() {
        let start = Instant::now();
        let mut deadlines = deadlines(start, SECOND);
        deadlines.opened(start);
        assert_eq!(deadlines.next(), Some(start + SECOND));
        assert_eq!(deadlines.due(start + SECOND), Some(Due::Heartbeat));
        deadlines.command(start + SECOND / 2);
        assert_eq!(deadlines.due(start + SECOND * 2), Some(Due::Heartbeat));
        assert_eq!(deadlines.due(start + SECOND * 5 / 2), Some(Due::Silent));
    }

    #[tokio::test(start_paused = true)]
    async fn the_magic_is_due_after_five_seconds() {
        let start = Instant::now();
        let mut deadlines = deadlines(start, SECOND * 30);
        assert_eq!(deadlines.next(), Some(start + SECOND * 5));
        assert_eq!(deadlines.due(start + SECOND * 5), Some(Due::Silent));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up_after_one_interval() {
        let start = Instant::now();
        let mut deadlines = deadlines(start, SECOND * 10);
        deadlines.opened(start);
        deadlines.output(start + SECOND, true, false);
        deadlines.output(start + SECOND * 3, true, false);
        assert_eq!(deadlines.due(start + SECOND * 10), Some(Due::Heartbeat));
        assert_eq!(deadlines.due(start + SECOND * 11), Some(Due::Stuck));
        deadlines.output(start + SECOND * 11, true, true);
        assert_eq!(deadlines.due(start + SECOND * 12), None);
    }

    #[tokio::test(start_paused = true)]
    async fn without_heartbeats_only_a_command_that_was_begun_is_due() {
        let start = Instant::now();
        let mut deadlines = deadlines(start, SECOND);
        deadlines.set_interval(start, None);
        assert_eq!((deadlines.next(), deadlines.due(start + SECOND * 1000)), (None, None));
        deadlines.begun(start + SECOND, true);
        deadlines.begun(start + SECOND * 50, true);
        assert_eq!(deadlines.next(), Some(start + SECOND * 61));
        assert_eq!(deadlines.due(start + SECOND * 60), None);
        assert_eq!(deadlines.due(start + SECOND * 61), Some(Due::Silent));
        deadlines.command(start + SECOND * 61);
        assert_eq!((deadlines.next(), deadlines.due(start + SECOND * 1000)), (None, None));
    }
}
