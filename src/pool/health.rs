//! Whether a node is fit for use, told by what became of dials, connections and requests.
//!
//! A node is unhealthy when it has no connection after [`UNHEALTHY_AFTER`] failures in a row, or when it
//! is silent: [`UNHEALTHY_AFTER`] requests ended at their deadline, and not a byte came since the first
//! of them was made, at least [`SILENT_AFTER`] ago.
use std::time::Duration;

use super::backoff;
use super::error::Cause;
use crate::protocol::Tick;

const UNHEALTHY_AFTER: u32 = 3;
/// Longer than a busy or swapping server pauses for.
const SILENT_AFTER: Duration = Duration::from_secs(2);

pub(super) struct Health {
    unhealthy_since: Option<Tick>,
    /// Failed dials, and connections that died unanswered, since the last answer.
    failures: u32,
    last_failure: Option<Cause>,
    /// Requests that ended at their deadline, since the last byte.
    timeouts: u32,
    silent_since: Tick,
    heard: Tick,
}

impl Health {
    pub fn new() -> Self {
        Self {
            unhealthy_since: None,
            failures: 0,
            last_failure: None,
            timeouts: 0,
            silent_since: 0,
            heard: 0,
        }
    }

    pub fn is_healthy(&self) -> bool {
        self.unhealthy_since.is_none()
    }

    pub fn last_failure(&self) -> Option<&Cause> {
        self.last_failure.as_ref()
    }

    /// A dial failed, or a connection died without one good answer.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    pub fn remember(&mut self, cause: &Cause) {
        self.last_failure = Some(cause.clone());
    }

    /// Bytes came.
    pub fn heard(&mut self, now: Tick) {
        self.heard = now;
        self.timeouts = 0;
    }

    /// A good answer came.
    pub fn answered(&mut self) {
        self.failures = 0;
    }

    /// A request that was made at `made` and sent ended at its deadline.
    pub fn timed_out(&mut self, made: Tick) {
        if self.timeouts == 0 {
            self.silent_since = made.max(self.heard);
        }
        self.timeouts = self.timeouts.saturating_add(1);
    }

    pub fn is_silent(&self, now: Tick, timeout: Duration) -> bool {
        let limit = ticks(timeout.max(SILENT_AFTER));
        self.timeouts >= UNHEALTHY_AFTER && now.saturating_sub(self.silent_since) >= limit
    }

    /// Whether a node that has no connection now is unhealthy.
    pub fn is_beyond_hope(&self) -> bool {
        self.failures >= UNHEALTHY_AFTER
    }

    /// Whether that is a change.
    pub fn turn_unhealthy(&mut self, now: Tick) -> bool {
        let turned = self.is_healthy();
        self.unhealthy_since.get_or_insert(now);
        turned
    }

    /// Whether that is a change.
    pub fn turn_healthy(&mut self) -> bool {
        self.timeouts = 0;
        self.unhealthy_since.take().is_some()
    }

    /// How long to wait before the next dial.
    pub fn next_dial_after(&self, now: Tick) -> Duration {
        let delay = backoff::delay(self.failures);
        match self.unhealthy_since {
            Some(since) => {
                let down_for = Duration::from_nanos(now.saturating_sub(since));
                delay.min(backoff::probe_ceiling(down_for))
            }
            None => delay.min(backoff::probe_ceiling(Duration::ZERO)),
        }
    }
}

pub(super) fn ticks(duration: Duration) -> Tick {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Tick = 1_000_000_000;
    const TIMEOUT: Duration = Duration::from_secs(1);

    #[test]
    fn silence_takes_three_timeouts_and_two_seconds() {
        let mut health = Health::new();
        health.timed_out(10 * SECOND);
        health.timed_out(11 * SECOND);
        assert!(!health.is_silent(13 * SECOND, TIMEOUT));
        health.timed_out(11 * SECOND);
        assert!(!health.is_silent(12 * SECOND - 1, TIMEOUT));
        assert!(health.is_silent(12 * SECOND, TIMEOUT));
        // With a longer timeout it takes longer.
        assert!(!health.is_silent(12 * SECOND, Duration::from_secs(4)));
    }

    #[test]
    fn a_byte_ends_the_silence() {
        let mut health = Health::new();
        for _ in 0..10 {
            health.timed_out(10 * SECOND);
        }
        health.heard(11 * SECOND);
        assert!(!health.is_silent(20 * SECOND, TIMEOUT));
        for _ in 0..3 {
            health.timed_out(10 * SECOND);
        }
        assert!(!health.is_silent(12 * SECOND, TIMEOUT));
        assert!(health.is_silent(13 * SECOND, TIMEOUT));
    }

    #[test]
    fn each_change_is_told_once() {
        let mut health = Health::new();
        assert!(health.turn_unhealthy(0) && !health.turn_unhealthy(1));
        assert!(health.turn_healthy() && !health.turn_healthy());
    }
}
