//! What is counted, as Python reads it. Made into types there: only those who ask pay for these.
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::cluster::NodeMetrics;
use crate::pool::Metrics;
use crate::protocol::{CommandTally, LATENCY_BOUNDS, Tick, Verb};

/// What the buckets of latencies reach up to, in seconds.
pub fn latency_bounds(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
    PyTuple::new(py, LATENCY_BOUNDS.map(seconds))
}

/// `[(index, healthy, counters of the pool, {command: (results, buckets, sum)})]`
pub fn of_nodes(py: Python<'_>, nodes: Vec<NodeMetrics>) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    for NodeMetrics { node, healthy, pool, commands } in nodes {
        let by_name = PyDict::new(py);
        for (verb, command) in commands {
            by_name.set_item(verb_name(verb), of_command(py, &command)?)?;
        }
        list.append((node, healthy, of_pool(py, &pool)?, by_name))?;
    }
    Ok(list)
}

/// A word for each command.
fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::ConfigGetCluster => "config",
        other => other.name(),
    }
}

fn of_command<'py>(py: Python<'py>, command: &CommandTally) -> PyResult<Bound<'py, PyTuple>> {
    let results = PyDict::new(py);
    for (name, count) in command.outcomes() {
        results.set_item(name, count)?;
    }
    let buckets = PyTuple::new(py, command.latency.buckets)?;
    (results, buckets, seconds(command.latency.sum)).into_pyobject(py)
}

#[allow(clippy::cast_precision_loss, reason = "sums lose nanoseconds after months")]
fn seconds(ticks: Tick) -> f64 {
    ticks as f64 / 1e9
}

/// The counters of a pool, by the names of `ConnectionPoolMetrics`.
pub fn of_pool<'py>(py: Python<'py>, metrics: &Metrics) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, count) in [
        ("cur_connections", metrics.cur_connections),
        ("connections_created", metrics.connections_created),
        ("connections_created_with_error", metrics.connections_created_with_error),
        ("connections_purged", metrics.connections_purged),
        ("connections_closed", metrics.connections_closed),
        ("operations_executed", metrics.operations_executed),
        ("operations_executed_with_error", metrics.operations_executed_with_error),
        ("operations_waited", metrics.operations_waited),
        ("connections_idle", metrics.connections_idle),
        ("connections_checked_out", metrics.connections_leased),
        ("reconnects", metrics.reconnects),
        ("keys_shared", metrics.keys_shared),
        ("requests_in_flight", metrics.requests_in_flight),
        ("requests_queued", metrics.requests_queued),
        ("requests_abandoned", metrics.requests_abandoned),
        ("requests_retried", metrics.requests_retried),
        ("requests_timed_out", metrics.requests_timed_out),
        ("protocol_errors", metrics.protocol_errors),
        ("bytes_read", metrics.bytes_read),
        ("bytes_written", metrics.bytes_written),
    ] {
        dict.set_item(name, count)?;
    }
    let latency = metrics.create_connection;
    dict.set_item("create_connection_avg", latency.map(|l| l.avg_secs))?;
    dict.set_item("create_connection_p50", latency.map(|l| l.p50_secs))?;
    dict.set_item("create_connection_p99", latency.map(|l| l.p99_secs))?;
    dict.set_item("create_connection_upper", latency.map(|l| l.upper_secs))?;
    Ok(dict)
}
