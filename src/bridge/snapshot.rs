//! Counters as Python reads them. Python converts them to its own types, so only callers that
//! request them pay for this.
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::client::HotKey;
use crate::cluster::NodeMetrics;
use crate::pool::Metrics;
use crate::protocol::{CommandStats, LATENCY_BOUNDS, Nanos, Verb};

/// The upper bounds of the latency buckets, in seconds.
pub fn latency_bounds(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
    PyTuple::new(py, LATENCY_BOUNDS.map(seconds))
}

/// `[(index, healthy, counters of the pool, {command: (results, buckets, sum)})]`
pub fn nodes_to_list(py: Python<'_>, nodes: Vec<NodeMetrics>) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    for NodeMetrics { node, healthy, pool, commands } in nodes {
        let by_name = PyDict::new(py);
        for (verb, command) in commands {
            by_name.set_item(verb_name(verb), command_to_tuple(py, &command)?)?;
        }
        list.append((node, healthy, metrics_to_dict(py, &pool)?, by_name))?;
    }
    Ok(list)
}

/// `[(key, index of its node or None, share, rate)]`
pub fn hot_keys_to_list(
    py: Python<'_>,
    hot_keys: Vec<(HotKey, Option<usize>)>,
) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    for (HotKey { key, share, rate }, node) in hot_keys {
        list.append((PyBytes::new(py, &key), node, share, rate))?;
    }
    Ok(list)
}

/// A single word per command.
fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::ConfigGetCluster => "config",
        other => other.name(),
    }
}

fn command_to_tuple<'py>(py: Python<'py>, command: &CommandStats) -> PyResult<Bound<'py, PyTuple>> {
    let results = PyDict::new(py);
    for (name, count) in command.results() {
        results.set_item(name, count)?;
    }
    let buckets = PyTuple::new(py, command.latency.buckets)?;
    (results, buckets, seconds(command.latency.sum)).into_pyobject(py)
}

#[allow(clippy::cast_precision_loss, reason = "sums lose nanoseconds after months")]
fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

/// The counters of a pool, by the names of `ConnectionPoolMetrics`.
pub fn metrics_to_dict<'py>(py: Python<'py>, metrics: &Metrics) -> PyResult<Bound<'py, PyDict>> {
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
        ("connections_checked_out", metrics.connections_checked_out),
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
