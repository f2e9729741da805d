//! Counters of one pool, and the durations of its last connects.
use std::collections::VecDeque;
use std::time::Duration;

/// A snapshot. The first eight fields are counted as in emcache 1.3. The numbers of requests in
/// flight, queued and abandoned, and of connections checked out and idle, are current; the others
/// count from the creation of the pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    pub cur_connections: u64,
    pub connections_created: u64,
    pub connections_created_with_error: u64,
    pub connections_purged: u64,
    pub connections_closed: u64,
    pub operations_executed: u64,
    pub operations_executed_with_error: u64,
    pub operations_waited: u64,
    /// Unanswered requests that were sent or are in a connection's buffer.
    pub requests_in_flight: u64,
    /// Requests that wait for a connection, and waiting checkouts.
    pub requests_queued: u64,
    /// The requests in flight whose callers no longer wait.
    pub requests_abandoned: u64,
    pub connections_checked_out: u64,
    /// Connections without a request and without a holder.
    pub connections_idle: u64,
    /// Connections that replaced a lost one.
    pub reconnects: u64,
    /// Keys that the server was asked for once on behalf of several gets.
    pub keys_shared: u64,
    /// Reads that were retried on another connection.
    pub requests_retried: u64,
    pub requests_timed_out: u64,
    /// Connections that were closed because of an invalid reply.
    pub protocol_errors: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub create_connection: Option<ConnectLatency>,
}

/// Statistics of the last 100 connects, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConnectLatency {
    pub avg_secs: f64,
    pub p50_secs: f64,
    pub p99_secs: f64,
    pub upper_secs: f64,
}

const OBSERVED: usize = 100;

#[derive(Debug, Default)]
pub(super) struct ConnectLatencies(VecDeque<Duration>);

impl ConnectLatencies {
    pub fn record(&mut self, took: Duration) {
        if self.0.len() == OBSERVED {
            self.0.pop_front();
        }
        self.0.push_back(took);
    }

    /// The longest of the recorded durations.
    pub fn longest(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    pub fn summary(&self) -> Option<ConnectLatency> {
        let mut sorted: Vec<f64> = self.0.iter().map(Duration::as_secs_f64).collect();
        sorted.sort_by(f64::total_cmp);
        let upper_secs = *sorted.last()?;
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        #[allow(clippy::cast_precision_loss, reason = "at most 100")]
        let avg_secs = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Some(ConnectLatency { avg_secs, p50_secs: rank(50), p99_secs: rank(99), upper_secs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_hundred_are_summed_up() {
        let mut latencies = ConnectLatencies::default();
        assert_eq!(latencies.summary(), None);
        for secs in 0..=100 {
            latencies.record(Duration::from_secs(secs));
        }
        let summary = latencies.summary().unwrap();
        assert_eq!(
            summary,
            ConnectLatency { avg_secs: 50.5, p50_secs: 50.0, p99_secs: 99.0, upper_secs: 100.0 }
        );
    }
}
