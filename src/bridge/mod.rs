//! Between Rust and Python; the only folder that knows both.
//!
//! What crosses: calls of [`client::CoreClient`] with borrowed arguments, awaitables ([`future::OpFuture`]) that it
//! returns, results and exceptions that a turn of the [`driver`] gives to them.
mod am_send;
mod batch;
mod caller;
mod checkout;
mod client;
mod completion;
mod convert;
mod driver;
mod errors;
mod future;
mod item;
mod loop_driver;
mod malloc_hint;
mod once;
mod registry;
mod result;
mod security;
mod session;
mod shutdown;
mod snapshot;
mod stepping;
mod thread_driver;
mod value_buf;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    refuse_subinterpreters(module.py())?;
    share_modules(module.py())?;
    // Cargo's `2.0.0-dev0` is Python's `2.0.0.dev0`.
    module.add("__version__", env!("CARGO_PKG_VERSION").replace('-', "."))?;
    module.add("LATENCY_BOUNDS", snapshot::latency_bounds(module.py())?)?;
    module.add_class::<client::CoreClient>()?;
    module.add_class::<checkout::CoreCheckout>()?;
    module.add_class::<item::Item>()?;
    module.add_class::<security::PySecurity>()?;
    am_send::install(module.py());
    prepare(module.py())?;
    register_hooks(module)
}

/// Statics hold objects of one interpreter, and callbacks from other threads enter the main one.
#[allow(unsafe_code)]
fn refuse_subinterpreters(_: Python<'_>) -> PyResult<()> {
    // SAFETY: the thread is attached to an interpreter, whose state this reads.
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

/// What a program that clears `sys.modules` and imports the package again gets from the first import: the
/// exceptions, which the core raises, and the addresses. Handlers and calls of either import know them.
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

/// Once in a process, however often the module is made.
fn register_hooks(module: &Bound<'_, PyModule>) -> PyResult<()> {
    static REGISTERED: PyOnceLock<()> = PyOnceLock::new();
    if REGISTERED.set(module.py(), ()).is_err() {
        return Ok(());
    }
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
    item::prepare(py);
    future::OpFuture::prepare(py)?;
    // From 3.14 on it asks once how the interpreter keeps integers.
    1_i128.into_pyobject(py)?.extract::<i128>().map(drop)
}
