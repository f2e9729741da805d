//! The core of emcache, a memcached client for asyncio.
//!
//! # Layout
//! Each layer knows only those above it in this list; `tests/rust/layering.rs` checks it.
//! - [`protocol`]: memcached's wire format; pure.
//! - [`pool`]: connections, and the pool of one node; uses Tokio, never Python.
//! - [`cluster`]: the nodes of a client, and the routing of keys; never Python.
//! - [`client`]: whole operations, one outcome each; never Python.
//! - [`host`]: what drives the core: an event loop in turns, or a thread; never Python.
//! - `bridge`: between the core and Python's event loop; the only layer that imports `PyO3`.
#[cfg(feature = "python")]
mod bridge;
pub mod client;
pub mod cluster;
pub mod host;
pub mod pool;
pub mod protocol;

#[cfg(feature = "python")]
#[pyo3::pymodule(gil_used = false)]
fn _emcache(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
    bridge::register(module)
}
