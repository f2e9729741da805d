//! Whether a node is fit for use, told by what became of dials, connections and requests.
//!
//! A node is unhealthy when it cannot be reached: it has no connection, and the last of [`UNHEALTHY_AFTER`]
//! failures in a row was a dial. Or when it
//! is silent: [`UNHEALTHY_AFTER`] requests ended at their deadline, not a byte came for
//! [`SILENT_AFTER`] after something was written, and a fresh connection was not answered either. What counts is when bytes were written and read, so a
//! program that was busy elsewhere takes nobody for silent.
use std::time::Duration;

use super::backoff;
use super::error::Cause;
use crate::protocol::Nanos;

/// What becomes of a node, for those who are told.
#[derive(Clone, Debug)]
pub enum Change {
    Healthy,
    Unhealthy(Cause),
    /// Dials come as far as TLS or the login, and no further.
    LoginFailing(Cause),
    /// That is over.
    LoginRecovered,
}

impl Change {
    /// `None`: its health is as it was.
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
/// Longer than a busy or swapping server pauses for.
const SILENT_AFTER: Duration = Duration::from_secs(2);
const MILLISECOND: Nanos = 1_000_000;

/// What a silent connection may be mistaken for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pause {
    /// A server that pauses: those that are well do it for less than the usual timeouts.
    Node,
    /// A thread of the server that is busy, while others serve.
    Connection,
    /// Neither, probably: requests of this node were stalled just now.
    Stalling,
}

/// No server that is well takes so long for what takes it microseconds.
pub(super) const STALLED_AFTER: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Health {
    unhealthy_since: Option<Nanos>,
    /// Failed dials, and fresh connections that died unanswered, since the last answer.
    failures: u32,
    /// The same, since the last connection that proved good: what dials are paced by.
    dial_failures: u32,
    last_failure: Option<Cause>,
    /// Since when every login was refused. Such a node is up, and keeps its keys.
    login_refused_since: Option<Nanos>,
    /// By what dials are ended before anything can be asked, in so many words.
    login_failure: Option<String>,
    /// Requests that ended at their deadline, since the last byte.
    timeouts: u32,
    /// The key of the next probe: another after each that was not answered.
    probe: u32,
    /// How long answers take to begin: the longest, of late.
    reply_lag: Nanos,
    last_received: Nanos,
    /// The first write after that.
    first_unanswered_write: Option<Nanos>,
}

impl Health {
    pub fn is_healthy(&self) -> bool {
        self.unhealthy_since.is_none()
    }

    /// Whether a new connection must show that it is answered before anybody gets it.
    pub fn needs_probe(&self) -> bool {
        let was_full = matches!(self.last_failure, Some(Cause::TooManyConnections));
        !self.is_healthy() || self.failures >= SUSPECT_AFTER || (was_full && self.dial_failures > 0)
    }

    pub fn last_failure(&self) -> Option<&Cause> {
        self.last_failure.as_ref()
    }

    /// A dial failed.
    pub fn dial_failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.dial_failures = self.dial_failures.saturating_add(1);
    }

    /// A fresh connection died without one answer. A proxy may have closed it because of what was sent, so this
    /// alone never makes a node unhealthy: the next dial asks a question of its own.
    pub fn connection_died(&mut self) {
        self.failures = self.failures.max((self.failures + 1).min(SUSPECT_AFTER));
        self.dial_failures = self.dial_failures.saturating_add(1);
    }

    /// Which of many keys probes ask for.
    pub fn probe(&self) -> u32 {
        self.probe
    }

    /// A probe was not answered.
    pub fn probe_failed(&mut self) {
        self.probe = self.probe.wrapping_add(1);
    }

    /// Whether the last dial failed.
    pub fn is_failing(&self) -> bool {
        self.dial_failures > 0
    }

    pub fn set_last_failure(&mut self, cause: &Cause) {
        self.last_failure = Some(cause.clone());
    }

    /// A dial came as far as the login, and no further.
    pub fn login_refused(&mut self, now: Nanos) {
        self.failures = 0;
        self.dial_failures = self.dial_failures.saturating_add(1);
        self.login_refused_since.get_or_insert(now);
    }

    /// A dial failed. Whether for a reason that is told, and was not told already.
    pub fn login_failing(&mut self, cause: &Cause) -> bool {
        if !matches!(cause, Cause::LoginRefused(_) | Cause::Tls(_)) {
            return false;
        }
        let why = cause.to_string();
        let is_news = self.login_failure.as_ref() != Some(&why);
        self.login_failure = Some(why);
        is_news
    }

    /// A dial came through. Whether that is news.
    pub fn login_accepted(&mut self) -> bool {
        self.login_refused_since = None;
        self.login_failure.take().is_some()
    }

    /// Why the last dial failed, if that was for the login.
    pub fn login_refusal(&self) -> Option<&Cause> {
        self.login_refused_since?;
        self.last_failure.as_ref().filter(|cause| matches!(cause, Cause::LoginRefused(_)))
    }

    /// Whether any bytes came, ever.
    pub fn has_received(&self) -> bool {
        self.last_received > 0
    }

    /// Bytes were written.
    pub fn written(&mut self, now: impl FnOnce() -> Nanos) {
        self.first_unanswered_write.get_or_insert_with(now);
    }

    /// Bytes came.
    pub fn received(&mut self, now: Nanos) {
        self.last_received = now;
        self.first_unanswered_write = None;
        self.timeouts = 0;
    }

    /// The first bytes of an answer came so long after something was written.
    pub fn answered_after(&mut self, reply_lag: Nanos) {
        self.reply_lag = reply_lag.max(self.reply_lag - self.reply_lag / 8);
    }

    /// A connection that owes an answer for longer is stalled: something is in the way of what waits behind.
    pub fn stalled_after(&self) -> Nanos {
        nanos(STALLED_AFTER).max(self.reply_lag.saturating_mul(4))
    }

    /// How long a connection must have been silent when a request on it times out, so that the next one goes
    /// elsewhere.
    pub fn silent_after(&self, timeout: Duration, pause: Pause) -> Nanos {
        let timeout = nanos(timeout);
        let floor = match pause {
            Pause::Node => (timeout / 2).max(450 * MILLISECOND),
            Pause::Connection => (timeout / 2).max(350 * MILLISECOND),
            Pause::Stalling => (timeout / 4).max(350 * MILLISECOND),
        };
        floor.max(self.reply_lag.saturating_add(self.reply_lag / 2))
    }

    /// An answer came, be it an error line; `is_first`: of its connection.
    pub fn answered(&mut self, is_first: bool) {
        self.failures = 0;
        if is_first {
            self.dial_failures = 0;
        }
    }

    /// A request that was sent ended at its deadline.
    pub fn timed_out(&mut self) {
        self.timeouts = self.timeouts.saturating_add(1);
    }

    /// Whether it looks so; a fresh connection must tell.
    pub fn is_silent(&self, now: Nanos, timeout: Duration) -> bool {
        let limit = nanos(timeout.max(SILENT_AFTER));
        let since = self.first_unanswered_write.unwrap_or(self.last_received);
        self.timeouts >= UNHEALTHY_AFTER && now.saturating_sub(since) >= limit
    }

    /// Whether a node that has no connection now is unhealthy.
    pub fn is_unreachable(&self) -> bool {
        self.failures >= UNHEALTHY_AFTER
    }

    /// Whether that is a change.
    pub fn mark_unhealthy(&mut self, now: Nanos) -> bool {
        let turned = self.is_healthy();
        self.unhealthy_since.get_or_insert(now);
        turned
    }

    /// A new connection was answered. Whether that is a change.
    pub fn verified(&mut self, now: Nanos) -> bool {
        self.received(now);
        self.answered(true);
        self.unhealthy_since.take().is_some()
    }

    /// How long to wait before the next dial.
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
        // With a longer timeout it takes longer.
        assert!(!health.is_silent(12 * SECOND, Duration::from_secs(4)));
    }

    #[test]
    fn a_byte_ends_the_silence() {
        let mut health = Health::default();
        health.written(|| 10 * SECOND);
        timeouts(&mut health, 10);
        health.received(11 * SECOND);
        assert!(!health.is_silent(20 * SECOND, TIMEOUT));
        // What is unanswered now was written before that byte.
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
