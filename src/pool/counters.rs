//! The counters of a pool: its [`Metrics`], and the results of each command.
use super::connection::Connection;
use super::metrics::Metrics;
use crate::protocol::{CallResult, Nanos, NodeStats, ReplyHandler, RequestInfo};

/// The current numbers in `metrics` stay 0: a snapshot adds them.
#[derive(Default)]
pub(super) struct Counters {
    metrics: Metrics,
    stats: NodeStats,
}

impl Counters {
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The results of each command.
    pub fn stats(&self) -> &NodeStats {
        &self.stats
    }

    /// The counters to which a connection adds the replies that it receives.
    #[inline]
    pub fn stats_mut(&mut self) -> &mut NodeStats {
        &mut self.stats
    }

    /// Counts replies that arrived in time: error lines are `refused`.
    #[inline]
    pub fn replied(&mut self, answered: u64, refused: u64) {
        self.metrics.operations_executed += answered;
        self.metrics.operations_executed_with_error += refused;
    }

    /// Counts a request or a checkout that waits for a connection.
    pub fn waited(&mut self) {
        self.metrics.operations_waited += 1;
    }

    /// Counts a read that is retried on another connection.
    pub fn retried(&mut self) {
        self.metrics.requests_retried += 1;
    }

    /// Counts a request that ended without an error of the pool: its caller was cancelled, or the
    /// pool was closed.
    pub fn ended(&mut self, info: RequestInfo, result: CallResult) {
        self.stats.record(info, result);
    }

    /// Counts a request that failed before it was sent, or whose duration says nothing about the
    /// node.
    pub fn failed(&mut self, info: RequestInfo, result: CallResult) {
        self.metrics.operations_executed_with_error += 1;
        self.stats.record(info, result);
    }

    /// Counts a request that failed at `now` while its caller was waiting.
    pub fn failed_at(&mut self, now: Nanos, info: RequestInfo, result: CallResult) {
        self.metrics.operations_executed_with_error += 1;
        self.stats.record_with_latency(info, result, now);
    }

    pub fn timed_out(&mut self, now: Nanos, info: RequestInfo) {
        self.metrics.requests_timed_out += 1;
        self.failed_at(now, info, CallResult::Timeout);
    }

    pub fn checkouts_timed_out(&mut self, count: usize) {
        self.metrics.requests_timed_out += count as u64;
        self.add_errors(count);
    }

    /// Counts errors without a command, and those of commands that [`Self::ended`] counts.
    pub fn add_errors(&mut self, count: usize) {
        self.metrics.operations_executed_with_error += count as u64;
    }

    pub fn protocol_error(&mut self) {
        self.metrics.protocol_errors += 1;
    }

    /// `is_reconnect` says that the new connection replaces a lost one.
    pub fn connected(&mut self, is_reconnect: bool) {
        self.metrics.connections_created += 1;
        self.metrics.reconnects += u64::from(is_reconnect);
    }

    pub fn dial_failed(&mut self) {
        self.metrics.connections_created_with_error += 1;
    }

    /// Counts a connection that leaves the pool.
    pub fn connection_closed(&mut self, connection: &Connection<impl ReplyHandler>) {
        self.metrics.connections_closed += 1;
        self.metrics.keys_shared += connection.shared_keys();
        self.add_bytes(connection);
    }

    pub fn connection_purged(&mut self) {
        self.metrics.connections_purged += 1;
    }

    /// Counts the bytes of a connection that has ended.
    pub fn add_bytes(&mut self, connection: &Connection<impl ReplyHandler>) {
        self.metrics.bytes_read += connection.bytes_read();
        self.metrics.bytes_written += connection.bytes_written();
    }
}
