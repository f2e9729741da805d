//! The bridge between Rust and Python, and the only folder that knows both.
//!
//! Calls of [`client::CoreClient`] cross it with borrowed arguments and return awaitables
//! ([`future::OpFuture`]). A turn of the [`driver`] then sets their results or exceptions.
mod am_send;
mod batch;
mod blocking;
mod caller;
mod checkout;
mod client;
mod completion;
mod convert;
mod driver;
mod errors;
mod expiry;
mod failover;
mod future;
mod guarded;
mod item;
mod loop_driver;
mod meta;
mod migration;
mod once;
mod operations;
mod pieces;
mod registry;
mod result;
mod router;
mod routing;
mod security;
mod session;
mod shared_client;
mod shutdown;
mod snapshot;
mod stepping;
mod thread_driver;
mod unbound;
mod unshared;
mod value_buf;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    refuse_subinterpreters(module.py())?;
    share_modules(module.py())?;
    // Cargo writes `2.0.0-dev0`, Python `2.0.0.dev0`.
    module.add("__version__", env!("CARGO_PKG_VERSION").replace('-', "."))?;
    module.add("LATENCY_BOUNDS", snapshot::latency_bounds(module.py())?)?;
    module.add_class::<client::CoreClient>()?;
    module.add_class::<meta::CoreMeta>()?;
    module.add_class::<migration::CoreMigration>()?;
    module.add_class::<checkout::CoreCheckout>()?;
    module.add_class::<item::Item>()?;
    item::check_class(module.py())?;
    module.add_class::<security::PySecurity>()?;
    module.add_class::<routing::PyRouting>()?;
    module.add_class::<pieces::PieceBuffer>()?;
    module.add_function(wrap_pyfunction!(pieces::crc32, module)?)?;
    am_send::install(module.py());
    prepare(module.py())?;
    register_hooks(module)
}

/// Statics hold objects of one interpreter, and callbacks from other threads enter the main one.
#[allow(unsafe_code)]
fn refuse_subinterpreters(_: Python<'_>) -> PyResult<()> {
    // SAFETY: `Python` proves that this thread is attached to an interpreter. Both functions only
    // read the state of that interpreter.
    let is_main =
        unsafe { pyo3::ffi::PyInterpreterState_GetID(pyo3::ffi::PyInterpreterState_Get()) } == 0;
    if is_main {
        return Ok(());
    }
    Err(PyImportError::new_err(
        "emcache does not work in sub-interpreters: import it in the main interpreter \
         (with mod_wsgi: `WSGIApplicationGroup %{GLOBAL}`)",
    ))
}

/// A program may clear `sys.modules` and import the package again. The second import gets the
/// exceptions and addresses of the first, because the core raises those exceptions, and handlers of
/// either import must catch them.
fn share_modules(py: Python<'_>) -> PyResult<()> {
    static SHARED: PyOnceLock<Vec<(&str, Py<PyModule>)>> = PyOnceLock::new();
    let shared = SHARED.get_or_try_init(py, || {
        let import = |name| Ok((name, py.import(format!("emcache.{name}"))?.unbind()));
        ["_errors", "_address"].into_iter().map(import).collect::<PyResult<_>>()
    })?;
    let modules = py.import("sys")?.getattr("modules")?;
    let package = modules.get_item("emcache")?;
    for (name, module) in shared {
        modules.set_item(format!("emcache.{name}"), module)?;
        package.setattr(*name, module)?;
    }
    Ok(())
}

/// Registers the hooks once per process, even if the module is created several times.
fn register_hooks(module: &Bound<'_, PyModule>) -> PyResult<()> {
    static REGISTERED: PyOnceLock<()> = PyOnceLock::new();
    if REGISTERED.set(module.py(), ()).is_err() {
        return Ok(());
    }
    // `atexit` runs while Python code can still be called.
    let close_all = wrap_pyfunction!(registry::close_all, module)?;
    module.py().import("atexit")?.call_method1("register", (close_all,))?;
    // Windows has no fork.
    if let Some(register) = module.py().import("os")?.getattr_opt("register_at_fork")? {
        let hooks = PyDict::new(module.py());
        hooks.set_item("before", wrap_pyfunction!(registry::before_fork, module)?)?;
        let in_parent = wrap_pyfunction!(registry::after_fork_in_parent, module)?;
        hooks.set_item("after_in_parent", in_parent)?;
        let in_child = wrap_pyfunction!(registry::after_fork_in_child, module)?;
        hooks.set_item("after_in_child", in_child)?;
        register.call((), Some(&hooks))?;
    }
    Ok(())
}

/// Creates objects that `PyO3` would create later, when another thread may be forking: see
/// [`once`].
fn prepare(py: Python<'_>) -> PyResult<()> {
    errors::prepare(py);
    future::OpFuture::prepare(py)?;
    // On Python 3.14 and later `PyO3` looks up the layout of integers at the first conversion.
    1_i128.into_pyobject(py)?.extract::<i128>().map(drop)
}
