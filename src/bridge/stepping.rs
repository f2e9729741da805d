//! Whether a turn may step tasks itself, or leaves that to the loop.
//!
//! A turn that steps a task runs the user's code inside a callback of ours. Two kinds of loop show the
//! difference: one that can be run again from within a task (the callback would be entered twice), and one in
//! debug mode (the callback would be blamed for code that blocks). There tasks are woken in asyncio's way.
use std::cell::Cell;

use pyo3::prelude::*;
use pyo3::types::PyType;

use super::once::intern;

/// Where a loop says whether it is in debug mode.
enum Debug {
    /// asyncio's loops have an attribute, which costs less than the method of Python's.
    Attribute(Py<PyAny>),
    Method(Py<PyAny>),
}

pub struct Stepping {
    debug: Debug,
    class: Py<PyType>,
    /// asyncio's own, as long as nobody has replaced it; `None` in loops that are not built on asyncio's.
    run_once: Option<Py<PyAny>>,
    /// Whether the loop can be run within itself. That never ends.
    nests: Cell<bool>,
}

impl Stepping {
    pub fn new(event_loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = event_loop.py();
        let class = event_loop.get_type();
        let base = py.import("asyncio")?.getattr("BaseEventLoop")?;
        let (mut nests, mut run_once) = (false, None);
        if event_loop.is_instance(&base)? {
            // asyncio refuses to run a loop within itself. Whoever replaced how it runs may not: nest_asyncio
            // patches the class, the loops of Qt and GLib have a `run_forever` of their own.
            let own_run_once = class.getattr(intern!(py, "_run_once"))?;
            nests = !is_asyncios(&class.getattr(intern!(py, "run_forever"))?)?
                || !is_asyncios(&own_run_once)?;
            run_once = Some(own_run_once.unbind());
        }
        let method = event_loop.getattr(intern!(py, "get_debug"))?;
        let debug = if is_asyncios(&method)? {
            Debug::Attribute(event_loop.clone().unbind())
        } else {
            Debug::Method(method.unbind())
        };
        Ok(Self { debug, class: class.unbind(), run_once, nests: Cell::new(nests) })
    }

    /// Both may change at any time, so this is asked once for each turn that has answers.
    pub fn is_allowed(&self, py: Python<'_>) -> bool {
        if self.nests.get() {
            return false;
        }
        if let Some(run_once) = &self.run_once {
            let now = self.class.bind(py).getattr(intern!(py, "_run_once"));
            if !now.is_ok_and(|now| now.is(run_once)) {
                self.nests.set(true);
                return false;
            }
        }
        // A loop that cannot say is treated with care.
        let debug = match &self.debug {
            Debug::Attribute(event_loop) => event_loop.bind(py).getattr(intern!(py, "_debug")),
            Debug::Method(method) => method.bind(py).call0(),
        };
        !debug.and_then(|debug| debug.is_truthy()).unwrap_or(true)
    }

    /// A turn began while another one was under way.
    pub fn was_nested(&self) {
        self.nests.set(true);
    }
}

fn is_asyncios(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    let Some(module) = function.getattr_opt(intern!(function.py(), "__module__"))? else {
        return Ok(false);
    };
    Ok(module.extract::<String>().is_ok_and(|module| module.starts_with("asyncio.")))
}
