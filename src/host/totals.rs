//! The counters of several cores of one client, added up.
use std::collections::HashMap;

use crate::cluster::NodeMetrics;
use crate::pool::{Address, ConnectLatency, Metrics};
use crate::protocol::{CommandStats, Verb};

#[derive(Clone, Default)]
pub struct Totals(HashMap<Address, Node>);

#[derive(Clone, Default)]
struct Node {
    is_down: bool,
    pool: Metrics,
    commands: Vec<(Verb, CommandStats)>,
}

impl Totals {
    /// Adds the counters of a core. `addresses`: of its nodes.
    pub fn add_open(&mut self, addresses: &[Address], counters: &[NodeMetrics]) {
        for NodeMetrics { node, healthy, pool, commands } in counters {
            let Some(address) = addresses.get(*node) else { continue };
            let total = self.0.entry(address.clone()).or_default();
            total.is_down |= !healthy;
            add_pool(&mut total.pool, pool);
            for (verb, stats) in commands {
                match total.commands.iter_mut().find(|(known, _)| known == verb) {
                    Some((_, known)) => known.merge(stats),
                    None => total.commands.push((*verb, stats.clone())),
                }
            }
        }
    }

    /// As [`Self::add_open`], for a core that is closed: it has no connections any more.
    pub fn add_closed(&mut self, addresses: &[Address], counters: &[NodeMetrics]) {
        let counters: Vec<_> = counters
            .iter()
            .map(|counted| {
                let mut counted = counted.clone();
                counted.healthy = true;
                counted.pool.connections_closed += counted.pool.cur_connections;
                let pool = &mut counted.pool;
                (pool.cur_connections, pool.connections_idle) = (0, 0);
                (pool.requests_in_flight, pool.requests_queued) = (0, 0);
                (pool.requests_abandoned, pool.connections_checked_out) = (0, 0);
                counted
            })
            .collect();
        self.add_open(addresses, &counters);
    }

    /// The counters of these nodes.
    pub fn by_index(&self, addresses: &[Address]) -> Vec<NodeMetrics> {
        let counted = |(node, address): (usize, &Address)| {
            let Node { is_down, pool, commands } = self.0.get(address).cloned().unwrap_or_default();
            NodeMetrics { node, healthy: !is_down, pool, commands }
        };
        addresses.iter().enumerate().map(counted).collect()
    }
}

fn add_pool(total: &mut Metrics, more: &Metrics) {
    total.create_connection = add_latency(
        (total.create_connection, total.connections_created),
        (more.create_connection, more.connections_created),
    );
    for (total, more) in [
        (&mut total.cur_connections, more.cur_connections),
        (&mut total.connections_created, more.connections_created),
        (&mut total.connections_created_with_error, more.connections_created_with_error),
        (&mut total.connections_purged, more.connections_purged),
        (&mut total.connections_closed, more.connections_closed),
        (&mut total.operations_executed, more.operations_executed),
        (&mut total.operations_executed_with_error, more.operations_executed_with_error),
        (&mut total.operations_waited, more.operations_waited),
        (&mut total.requests_in_flight, more.requests_in_flight),
        (&mut total.requests_queued, more.requests_queued),
        (&mut total.requests_abandoned, more.requests_abandoned),
        (&mut total.connections_checked_out, more.connections_checked_out),
        (&mut total.connections_idle, more.connections_idle),
        (&mut total.reconnects, more.reconnects),
        (&mut total.keys_shared, more.keys_shared),
        (&mut total.requests_retried, more.requests_retried),
        (&mut total.requests_timed_out, more.requests_timed_out),
        (&mut total.protocol_errors, more.protocol_errors),
        (&mut total.bytes_read, more.bytes_read),
        (&mut total.bytes_written, more.bytes_written),
    ] {
        *total += more;
    }
}

type Connects = (Option<ConnectLatency>, u64);

/// The average of both, and the higher percentiles.
#[allow(clippy::cast_precision_loss, reason = "numbers of connections")]
fn add_latency((known, count): Connects, (more, more_count): Connects) -> Option<ConnectLatency> {
    let (Some(one), Some(other)) = (known, more) else { return known.or(more) };
    let all = (count + more_count).max(1) as f64;
    Some(ConnectLatency {
        avg_secs: (one.avg_secs * count as f64 + other.avg_secs * more_count as f64) / all,
        p50_secs: one.p50_secs.max(other.p50_secs),
        p99_secs: one.p99_secs.max(other.p99_secs),
        upper_secs: one.upper_secs.max(other.upper_secs),
    })
}
