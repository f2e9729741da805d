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

pub struct Stepping {
    get_debug: Py<PyAny>,
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
        Ok(Self {
            get_debug: event_loop.getattr(intern!(py, "get_debug"))?.unbind(),
            class: class.unbind(),
            run_once,
            can_nest: Cell::new(can_nest),
        })
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
        let debug = self.get_debug.bind(py).call0().and_then(|debug| debug.is_truthy());
        !debug.unwrap_or(true)
    }

    /// A turn began while another one was under way.
    pub fn mark_nested(&self) {
        self.can_nest.set(true);
    }
}

fn is_defined_by_asyncio(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    let module = function.getattr(intern!(function.py(), "__module__"))?;
    Ok(module.extract::<String>().is_ok_and(|module| module.starts_with("asyncio.")))
}
