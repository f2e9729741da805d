//! The counters of several cores of one client, added up.
use std::collections::HashMap;

use bytes::Bytes;

use crate::client::HotKey;
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

type Found = Vec<(HotKey, Option<usize>)>;

/// The hot keys of several cores, as those of one: their rates add up, and the share of each core
/// counts as much as its requests.
pub fn add_hot_keys(cores: Vec<Found>, limit: usize) -> Found {
    let mut total = 0.0;
    let mut rates: HashMap<Bytes, (f64, Option<usize>)> = HashMap::new();
    for found in cores {
        total += found.iter().map(|(hot, _)| hot.rate / hot.share.max(1e-9)).fold(0.0, f64::max);
        for (hot, node) in found {
            rates.entry(hot.key).or_insert((0.0, node)).0 += hot.rate;
        }
    }
    let with_share =
        |(key, (rate, node)): (Bytes, (f64, _))| (HotKey { key, share: rate / total, rate }, node);
    let mut all: Found = rates.into_iter().map(with_share).collect();
    all.sort_by(|(one, _), (other, _)| other.rate.total_cmp(&one.rate));
    all.truncate(limit);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_keys_of_cores_count_as_much_as_their_requests() {
        let hot = |key: &'static str, share: f64, rate: f64| {
            (HotKey { key: Bytes::from(key), share, rate }, Some(0))
        };
        let busy = vec![hot("a", 0.5, 450.0), hot("b", 0.1, 90.0)];
        let idle = vec![hot("c", 0.9, 90.0), hot("a", 0.1, 10.0)];
        let all = add_hot_keys(vec![busy, idle, Vec::new()], 2);
        let found: Vec<_> = all.iter().map(|(hot, _)| (hot.rate, hot.share)).collect();
        assert_eq!(all[0].0.key, "a");
        for ((rate, share), (wanted_rate, wanted_share)) in
            found.into_iter().zip([(460.0, 0.46), (90.0, 0.09)])
        {
            assert!((rate - wanted_rate).abs() < 1e-9 && (share - wanted_share).abs() < 1e-9);
        }
    }
}
