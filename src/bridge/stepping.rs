//! Decides whether a turn may step tasks itself or must leave that to the loop.
//!
//! A turn that steps a task runs the user's code inside emcache's callback. Two kinds of loop
//! expose this. A loop that can be run again from within a task would enter the callback twice, and
//! a loop in debug mode would report the callback for user code that blocks. In both, tasks are
//! woken in asyncio's way.
use std::cell::Cell;

use pyo3::prelude::*;
use pyo3::types::PyType;

use super::once::intern;

/// How to find out whether a loop is in debug mode.
enum DebugMode {
    /// The `_debug` attribute of this loop, one of asyncio's: reading it costs less than calling
    /// its method, which is written in Python.
    Attribute(Py<PyAny>),
    /// `get_debug` of any other loop.
    Method(Py<PyAny>),
}

pub struct Stepping {
    debug_mode: DebugMode,
    class: Py<PyType>,
    /// asyncio's own method, unless it was replaced. `None` in loops that are not built on
    /// asyncio's.
    run_once: Option<Py<PyAny>>,
    /// Whether the loop can be run within itself. Never reset.
    can_nest: Cell<bool>,
}

impl Stepping {
    pub fn new(event_loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = event_loop.py();
        let class = event_loop.get_type();
        let base = py.import("asyncio")?.getattr("BaseEventLoop")?;
        let (mut can_nest, mut run_once) = (false, None);
        if event_loop.is_instance(&base)? {
            // asyncio refuses to run a loop within itself, but code that replaces the methods that
            // run it may allow it. nest_asyncio patches the class, and the loops of Qt and GLib
            // have their own `run_forever`.
            let own_run_once = class.getattr(intern!(py, "_run_once"))?;
            can_nest = !is_defined_by_asyncio(&class.getattr(intern!(py, "run_forever"))?)?
                || !is_defined_by_asyncio(&own_run_once)?;
            run_once = Some(own_run_once.unbind());
        }
        let method = event_loop.getattr(intern!(py, "get_debug"))?;
        let debug_mode = if is_defined_by_asyncio(&method)? {
            DebugMode::Attribute(event_loop.clone().unbind())
        } else {
            DebugMode::Method(method.unbind())
        };
        Ok(Self { debug_mode, class: class.unbind(), run_once, can_nest: Cell::new(can_nest) })
    }

    /// Checked once per turn that has results, because both conditions may change at any time.
    pub fn is_allowed(&self, py: Python<'_>) -> bool {
        if self.can_nest.get() {
            return false;
        }
        if let Some(run_once) = &self.run_once {
            let now = self.class.bind(py).getattr(intern!(py, "_run_once"));
            if !now.is_ok_and(|now| now.is(run_once)) {
                self.can_nest.set(true);
                return false;
            }
        }
        // A loop that fails to answer is treated as one in debug mode.
        let debug = match &self.debug_mode {
            DebugMode::Attribute(event_loop) => event_loop.bind(py).getattr(intern!(py, "_debug")),
            DebugMode::Method(method) => method.bind(py).call0(),
        };
        !debug.and_then(|debug| debug.is_truthy()).unwrap_or(true)
    }

    /// A turn began while another one was under way.
    pub fn mark_nested(&self) {
        self.can_nest.set(true);
    }
}

fn is_defined_by_asyncio(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    let Some(module) = function.getattr_opt(intern!(function.py(), "__module__"))? else {
        return Ok(false);
    };
    Ok(module.extract::<String>().is_ok_and(|module| module.starts_with("asyncio.")))
}
