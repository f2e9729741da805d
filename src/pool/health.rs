//! The health of a node, judged by its dials, connections and requests.
//!
//! A node is unhealthy if it cannot be reached: it has no connection, and the last of
//! [`UNHEALTHY_AFTER`] failures in a row was a dial. It is also unhealthy if it is silent:
//! [`UNHEALTHY_AFTER`] requests timed out, no byte arrived for [`SILENT_AFTER`] after a write, and
//! a fresh connection was not answered either. Silence is measured between writes and reads, so a
//! program that was busy elsewhere does not take a node for silent.
use std::time::Duration;

use super::backoff;
use super::error::Cause;
use crate::protocol::Nanos;

/// A change of a node's state, for listeners.
#[derive(Clone, Debug)]
pub enum Change {
    Healthy,
    Unhealthy(Cause),
    /// Dials fail during TLS or the login.
    LoginFailing(Cause),
    /// Dials succeed again.
    LoginRecovered,
}

impl Change {
    /// `None` if the health did not change.
    pub fn health(&self) -> Option<bool> {
        match self {
            Self::Healthy => Some(true),
            Self::Unhealthy(_) => Some(false),
            Self::LoginFailing(_) | Self::LoginRecovered => None,
        }
    }
}

const UNHEALTHY_AFTER: u32 = 3;
/// After this many failures in a row a new connection must answer a probe.
const SUSPECT_AFTER: u32 = UNHEALTHY_AFTER - 1;
/// Longer than the pauses of a busy or swapping server.
const SILENT_AFTER: Duration = Duration::from_secs(2);
const MILLISECOND: Nanos = 1_000_000;

/// The harmless pauses that could look like a silent connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pause {
    /// The whole server pauses. Healthy servers pause for less than the usual timeouts.
    Node,
    /// One thread of the server is busy while others serve.
    Connection,
    /// A pause is unlikely, because requests to this node were stalled recently.
    Stalling,
}

/// A healthy server replies within microseconds, and never takes this long.
pub(super) const STALLED_AFTER: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Health {
    unhealthy_since: Option<Nanos>,
    /// Failed dials, and fresh connections that were lost without a reply, since the last reply.
    failures: u32,
    /// The same, since the last connection that was answered. Sets the backoff of dials.
    dial_failures: u32,
    last_failure: Option<Cause>,
    /// The time since which every login was refused. Such a node is up, and keeps its keys.
    login_refused_since: Option<Nanos>,
    /// The last reported failure of TLS or the login.
    login_failure: Option<String>,
    /// Requests that timed out since the last byte.
    timeouts: u32,
    /// The number of the next probe's key. It changes after each probe without a reply.
    probe: u32,
    /// The longest recent time between a request and the first byte of its reply.
    reply_lag: Nanos,
    last_received: Nanos,
    /// The first write after the last received byte.
    first_unanswered_write: Option<Nanos>,
}

impl Health {
    pub fn is_healthy(&self) -> bool {
        self.unhealthy_since.is_none()
    }

    /// Whether a new connection must answer a probe before it is used.
    pub fn needs_probe(&self) -> bool {
        let was_full = matches!(self.last_failure, Some(Cause::TooManyConnections));
        !self.is_healthy() || self.failures >= SUSPECT_AFTER || (was_full && self.dial_failures > 0)
    }

    pub fn last_failure(&self) -> Option<&Cause> {
        self.last_failure.as_ref()
    }

    /// Records a failed dial.
    pub fn dial_failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.dial_failures = self.dial_failures.saturating_add(1);
    }

    /// Records that a fresh connection was lost without a reply. A proxy may have closed it because
    /// of a request, so this alone never makes a node unhealthy; the next dial sends a probe.
    pub fn connection_died(&mut self) {
        self.failures = self.failures.max((self.failures + 1).min(SUSPECT_AFTER));
        self.dial_failures = self.dial_failures.saturating_add(1);
    }

    /// The number of the key that probes request.
    pub fn probe(&self) -> u32 {
        self.probe
    }

    /// Records that `count` probes were not answered.
    pub fn probe_failed(&mut self, count: u32) {
        self.probe = self.probe.wrapping_add(count);
    }

    /// Whether the last dial failed.
    pub fn is_failing(&self) -> bool {
        self.dial_failures > 0
    }

    pub fn set_last_failure(&mut self, cause: &Cause) {
        self.last_failure = Some(cause.clone());
    }

    /// Records that a login was refused.
    pub fn login_refused(&mut self, now: Nanos) {
        self.failures = 0;
        self.dial_failures = self.dial_failures.saturating_add(1);
        self.login_refused_since.get_or_insert(now);
    }

    /// Records the cause of a failed dial. Returns whether TLS or the login failed for a reason
    /// that was not reported before.
    pub fn login_failing(&mut self, cause: &Cause) -> bool {
        if !matches!(cause, Cause::LoginRefused(_) | Cause::Tls(_)) {
            return false;
        }
        let why = cause.to_string();
        let is_news = self.login_failure.as_ref() != Some(&why);
        self.login_failure = Some(why);
        is_news
    }

    /// Records a successful dial. Returns whether TLS or the login failed before.
    pub fn login_accepted(&mut self) -> bool {
        self.login_refused_since = None;
        self.login_failure.take().is_some()
    }

    /// The cause of the last failed dial, if the login was refused.
    pub fn login_refusal(&self) -> Option<&Cause> {
        self.login_refused_since?;
        self.last_failure.as_ref().filter(|cause| matches!(cause, Cause::LoginRefused(_)))
    }

    /// Whether any bytes ever arrived.
    pub fn has_received(&self) -> bool {
        self.last_received > 0
    }

    /// Records that bytes were written.
    pub fn written(&mut self, now: impl FnOnce() -> Nanos) {
        self.first_unanswered_write.get_or_insert_with(now);
    }

    /// Records that bytes arrived.
    pub fn received(&mut self, now: Nanos) {
        self.last_received = now;
        self.first_unanswered_write = None;
        self.timeouts = 0;
    }

    /// Records the time between a request and the first byte of its reply.
    pub fn answered_after(&mut self, reply_lag: Nanos) {
        self.reply_lag = reply_lag.max(self.reply_lag - self.reply_lag / 8);
    }

    /// A connection that owes a reply for longer than this is stalled: the requests behind it are
    /// held up.
    pub fn stalled_after(&self) -> Nanos {
        nanos(STALLED_AFTER).max(self.reply_lag.saturating_mul(4))
    }

    /// How long a connection must have been silent when a request on it times out, so that new
    /// requests use another one.
    pub fn silent_after(&self, timeout: Duration, pause: Pause) -> Nanos {
        let timeout = nanos(timeout);
        let floor = match pause {
            Pause::Node => (timeout / 2).max(450 * MILLISECOND),
            Pause::Connection => (timeout / 2).max(350 * MILLISECOND),
            Pause::Stalling => (timeout / 4).max(350 * MILLISECOND),
        };
        floor.max(self.reply_lag.saturating_add(self.reply_lag / 2))
    }

    /// Records a reply, which may be an error line. `is_first` says that it is the first of its
    /// connection.
    pub fn answered(&mut self, is_first: bool) {
        self.failures = 0;
        if is_first {
            self.dial_failures = 0;
        }
    }

    /// Records that a request timed out after it was sent.
    pub fn timed_out(&mut self) {
        self.timeouts = self.timeouts.saturating_add(1);
    }

    /// Whether the node seems silent. A fresh connection must confirm it.
    pub fn is_silent(&self, now: Nanos, timeout: Duration) -> bool {
        let limit = nanos(timeout.max(SILENT_AFTER));
        let since = self.first_unanswered_write.unwrap_or(self.last_received);
        self.timeouts >= UNHEALTHY_AFTER && now.saturating_sub(since) >= limit
    }

    /// Whether a node without a connection is unhealthy.
    pub fn is_unreachable(&self) -> bool {
        self.failures >= UNHEALTHY_AFTER
    }

    /// Returns whether the node was healthy before.
    pub fn mark_unhealthy(&mut self, now: Nanos) -> bool {
        let turned = self.is_healthy();
        self.unhealthy_since.get_or_insert(now);
        turned
    }

    /// Records that a new connection was answered. Returns whether the node was unhealthy before.
    pub fn verified(&mut self, now: Nanos) -> bool {
        self.received(now);
        self.answered(true);
        self.unhealthy_since.take().is_some()
    }

    /// The wait before the next dial.
    pub fn next_dial_after(&self, now: Nanos) -> Duration {
        let delay = backoff::delay(self.dial_failures);
        self.unhealthy_since.or(self.login_refused_since).map_or(delay, |since| {
            let down_for = Duration::from_nanos(now.saturating_sub(since));
            delay.min(backoff::probe_ceiling(down_for))
        })
    }
}

pub(super) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;
    const TIMEOUT: Duration = Duration::from_secs(1);

    fn timeouts(health: &mut Health, count: usize) {
        (0..count).for_each(|_| health.timed_out());
    }

    #[test]
    fn silence_takes_three_timeouts_and_two_seconds() {
        let mut health = Health::default();
        health.written(|| 10 * SECOND);
        health.written(|| 11 * SECOND);
        timeouts(&mut health, 2);
        assert!(!health.is_silent(13 * SECOND, TIMEOUT));
        timeouts(&mut health, 1);
        assert!(!health.is_silent(12 * SECOND - 1, TIMEOUT));
        assert!(health.is_silent(12 * SECOND, TIMEOUT));
        // A longer timeout delays the decision.
        assert!(!health.is_silent(12 * SECOND, Duration::from_secs(4)));
    }

    #[test]
    fn a_byte_ends_the_silence() {
        let mut health = Health::default();
        health.written(|| 10 * SECOND);
        timeouts(&mut health, 10);
        health.received(11 * SECOND);
        assert!(!health.is_silent(20 * SECOND, TIMEOUT));
        // The current requests were written before that byte arrived.
        timeouts(&mut health, 3);
        assert!(!health.is_silent(13 * SECOND - 1, TIMEOUT));
        assert!(health.is_silent(13 * SECOND, TIMEOUT));
    }

    #[test]
    fn a_recent_write_is_not_silence() {
        let mut health = Health::default();
        health.received(10 * SECOND);
        health.written(|| 20 * SECOND);
        timeouts(&mut health, 3);
        assert!(!health.is_silent(20 * SECOND, TIMEOUT));
    }

    #[test]
    fn connections_that_die_unanswered_only_call_for_a_probe() {
        let mut health = Health::default();
        (0..10).for_each(|_| health.connection_died());
        assert!(health.needs_probe() && !health.is_unreachable());
        health.dial_failed();
        assert!(health.is_unreachable());
        health.connection_died();
        assert!(health.is_unreachable());
        health.verified(0);
        assert!(!health.needs_probe() && !health.is_unreachable());
    }

    #[test]
    fn slow_answers_are_waited_for() {
        let mut health = Health::default();
        assert_eq!(health.stalled_after(), SECOND / 10);
        assert_eq!(health.silent_after(TIMEOUT, Pause::Node), SECOND / 2);
        assert_eq!(health.silent_after(TIMEOUT / 10, Pause::Node), SECOND * 9 / 20);
        health.answered_after(SECOND);
        assert_eq!(health.stalled_after(), 4 * SECOND);
        assert_eq!(health.silent_after(TIMEOUT, Pause::Node), 3 * SECOND / 2);
        (0..100).for_each(|_| health.answered_after(1000));
        assert_eq!(health.stalled_after(), SECOND / 10);
        assert_eq!(health.silent_after(TIMEOUT, Pause::Node), SECOND / 2);
    }

    #[test]
    fn each_change_is_reported_once() {
        let mut health = Health::default();
        assert!(health.mark_unhealthy(0) && !health.mark_unhealthy(1));
        assert!(health.verified(2) && !health.verified(3));
    }

    #[test]
    fn dials_are_paced_by_connections_that_prove_good() {
        let mut health = Health::default();
        health.dial_failed();
        assert!(!health.needs_probe());
        health.set_last_failure(&Cause::TooManyConnections);
        health.answered(false);
        assert!(health.needs_probe() && !health.is_unreachable());
        health.answered(true);
        assert!(!health.needs_probe());
        assert_eq!(health.next_dial_after(0), Duration::ZERO);
    }
}
