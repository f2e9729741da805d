//! The options and the counters of failover.
use pyo3::prelude::*;

use super::convert;
use crate::cluster::failover::{FailoverConfig, FailoverMetrics, OnOverflow};

/// Addresses of gutter nodes, the longest exptime at a substitute, the number of keys that are
/// remembered for a node, and whether a node with more is kept out instead of flushed.
pub type Arguments<'py> = (Vec<Bound<'py, PyAny>>, i32, usize, bool);

/// Reads, writes, outdated keys, deleted copies, flushes.
pub type Counters = (u64, u64, usize, u64, u64);

pub fn config((gutter, ttl, max_keys, keeps_out): Arguments<'_>) -> PyResult<FailoverConfig> {
    let gutter = gutter.iter().map(convert::address).collect::<PyResult<_>>()?;
    let on_overflow = if keeps_out { OnOverflow::KeepOut } else { OnOverflow::Flush };
    Ok(FailoverConfig { gutter, ttl, max_keys, on_overflow, homes_are_given: false })
}

pub fn counters(metrics: FailoverMetrics) -> Counters {
    let FailoverMetrics { reads, writes, outdated_keys, deleted, flushes } = metrics;
    (reads, writes, outdated_keys, deleted, flushes)
}
