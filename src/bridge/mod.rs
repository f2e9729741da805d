//! Between Rust and Python; the only folder that knows both.
//!
//! What crosses: calls of [`client::CoreClient`] with borrowed arguments, awaitables ([`future::OpFuture`]) that it
//! returns, results and exceptions that a turn of the [`driver`] gives to them.
mod background;
mod batch;
mod client;
mod completion;
mod convert;
mod driver;
mod errors;
mod exit;
mod future;
mod heap;
mod item;
mod kept;
mod lease;
mod loop_driver;
mod once;
mod recorder;
mod registry;
#[cfg_attr(not(unix), path = "no_turns.rs")]
mod runtime;
mod security;
mod send;
mod session;
mod snapshot;
mod thread_driver;
mod waiter;

use pyo3::prelude::*;
use pyo3::types::PyDict;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Cargo's `2.0.0-dev0` is Python's `2.0.0.dev0`.
    module.add("__version__", env!("CARGO_PKG_VERSION").replace('-', "."))?;
    module.add("LATENCY_BOUNDS", snapshot::latency_bounds(module.py())?)?;
    module.add_class::<client::CoreClient>()?;
    module.add_class::<lease::CoreLease>()?;
    module.add_class::<item::Item>()?;
    module.add_class::<security::PySecurity>()?;
    send::install(module.py());
    prepare(module.py())?;
    // While the interpreter still runs: afterwards nothing of Python's can be touched.
    let close_all = wrap_pyfunction!(registry::close_all, module)?;
    module.py().import("atexit")?.call_method1("register", (close_all,))?;
    // Windows has no fork.
    if let Some(register) = module.py().import("os")?.getattr_opt("register_at_fork")? {
        let fork_hook = wrap_pyfunction!(registry::after_fork_in_child, module)?;
        let hooks = PyDict::new(module.py());
        hooks.set_item("after_in_child", fork_hook)?;
        register.call((), Some(&hooks))?;
    }
    Ok(())
}

/// Makes what `PyO3` would make later, when another thread may fork: see [`once`].
fn prepare(py: Python<'_>) -> PyResult<()> {
    errors::prepare(py);
    future::OpFuture::prepare(py)?;
    // From 3.14 on it asks once how the interpreter keeps integers.
    1_i128.into_pyobject(py)?.extract::<i128>().map(drop)
}
