//! The awaitable that a call returns: what asyncio's tasks need of a future, and a shorter way back.
//!
//! `asyncio.Future` wakes its task through `call_soon`: a handle, and another round of the loop with
//! its poll. A turn is itself a callback of the loop, so it may step the waiting tasks right there; they
//! ask for more, and what they ask leaves with the same turn. Measured in docs/design/seam.md.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use pyo3::{import_exception, intern};

import_exception!(asyncio, CancelledError);
import_exception!(asyncio, InvalidStateError);

#[pyclass(module = "emcache._emcache", freelist = 1024)]
pub struct OpFuture {
    event_loop: Py<PyAny>,
    state: State,
    callbacks: Callbacks,
    /// Part of the protocol between a future and a task: set when the future is yielded, cleared by
    /// the task that saw it.
    #[pyo3(get, set, name = "_asyncio_future_blocking")]
    blocking: bool,
    /// Set when nobody waits any more, for whoever cannot look at the state.
    abandoned: Option<Arc<AtomicBool>>,
}

enum State {
    Pending,
    Value(Py<PyAny>),
    Error(PyErr),
    Cancelled(Option<Py<PyAny>>),
}

struct Callback {
    function: Py<PyAny>,
    context: Py<PyAny>,
}

/// Nearly always one: the task that awaits.
#[derive(Default)]
struct Callbacks {
    first: Option<Callback>,
    others: Vec<Callback>,
}

impl Callbacks {
    fn push(&mut self, callback: Callback) {
        if self.first.is_none() {
            self.first = Some(callback);
        } else {
            self.others.push(callback);
        }
    }

    fn take(&mut self) -> impl Iterator<Item = Callback> + use<> {
        self.first.take().into_iter().chain(std::mem::take(&mut self.others))
    }
}

/// How callbacks are called.
#[derive(Clone, Copy)]
pub enum Wake<'l> {
    /// Here and now, if the future is of this loop: only in a callback of it, where no task is running.
    Now(&'l Py<PyAny>),
    /// By the loop, in its next iteration.
    Soon,
}

impl OpFuture {
    pub fn new(py: Python<'_>, event_loop: &Py<PyAny>) -> PyResult<Py<Self>> {
        let event_loop = event_loop.clone_ref(py);
        let (state, callbacks) = (State::Pending, Callbacks::default());
        Py::new(py, Self { event_loop, state, callbacks, blocking: false, abandoned: None })
    }

    /// A flag that another thread may look at.
    pub fn watch_abandoned(&mut self) -> Arc<AtomicBool> {
        self.abandoned.get_or_insert_default().clone()
    }

    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending)
    }

    /// Gives the result, unless the future was cancelled, and wakes who waits. An error is that of a
    /// callback.
    pub fn resolve(
        slf: &Bound<'_, Self>,
        result: PyResult<Py<PyAny>>,
        wake: Wake<'_>,
    ) -> PyResult<()> {
        let callbacks = {
            let mut future = slf.try_borrow_mut()?;
            if !future.is_pending() {
                return Ok(());
            }
            future.state = match result {
                Ok(value) => State::Value(value),
                Err(error) => State::Error(error),
            };
            future.callbacks.take()
        };
        Self::call(slf, callbacks, wake)
    }

    fn call(
        slf: &Bound<'_, Self>,
        callbacks: impl Iterator<Item = Callback>,
        wake: Wake<'_>,
    ) -> PyResult<()> {
        let here = match wake {
            Wake::Now(event_loop) => slf.try_borrow()?.event_loop.is(event_loop),
            Wake::Soon => false,
        };
        let mut first = Ok(());
        for callback in callbacks {
            let called = if here { callback.call_now(slf) } else { callback.call_soon(slf) };
            first = first.and(called);
        }
        first
    }

    fn outcome(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match &self.state {
            State::Pending => Err(InvalidStateError::new_err("Result is not set.")),
            State::Value(value) => Ok(value.clone_ref(py)),
            State::Error(error) => Err(error.clone_ref(py)),
            State::Cancelled(None) => Err(CancelledError::new_err(())),
            State::Cancelled(Some(message)) => {
                Err(CancelledError::new_err((message.clone_ref(py),)))
            }
        }
    }
}

impl Callback {
    fn call_now(&self, future: &Bound<'_, OpFuture>) -> PyResult<()> {
        let py = future.py();
        self.context.call_method1(py, intern!(py, "run"), (&self.function, future))?;
        Ok(())
    }

    fn call_soon(&self, future: &Bound<'_, OpFuture>) -> PyResult<()> {
        let py = future.py();
        let event_loop = future.try_borrow()?.event_loop.clone_ref(py);
        let options = PyDict::new(py);
        options.set_item(intern!(py, "context"), &self.context)?;
        let call_soon = event_loop.getattr(py, intern!(py, "call_soon"))?;
        call_soon.call(py, (&self.function, future), Some(&options))?;
        Ok(())
    }
}

#[pymethods]
impl OpFuture {
    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let mut future = slf.try_borrow_mut()?;
        if !future.is_pending() {
            // In a tuple of its own: one that is the result would be taken for the arguments.
            return Err(PyStopIteration::new_err((future.outcome(slf.py())?,)));
        }
        if std::mem::replace(&mut future.blocking, true) {
            return Err(PyRuntimeError::new_err("await wasn't used with future"));
        }
        Ok(slf.clone())
    }

    fn done(&self) -> bool {
        !self.is_pending()
    }

    fn cancelled(&self) -> bool {
        matches!(self.state, State::Cancelled(_))
    }

    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.outcome(py)
    }

    fn exception(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match &self.state {
            State::Value(_) => Ok(py.None()),
            State::Error(error) => Ok(error.clone_ref(py).into_value(py).into_any()),
            State::Pending | State::Cancelled(_) => self.outcome(py),
        }
    }

    /// The request that belongs to it stays in the pipeline; its answer is dropped when it comes.
    #[pyo3(signature = (msg = None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        let callbacks = {
            let mut future = slf.try_borrow_mut()?;
            future.blocking = false;
            if !future.is_pending() {
                return Ok(false);
            }
            future.state = State::Cancelled(msg);
            if let Some(abandoned) = &future.abandoned {
                abandoned.store(true, Ordering::Relaxed);
            }
            future.callbacks.take()
        };
        Self::call(slf, callbacks, Wake::Soon)?;
        Ok(true)
    }

    #[pyo3(signature = (function, *, context = None))]
    fn add_done_callback(
        slf: &Bound<'_, Self>,
        function: Py<PyAny>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let context = match context {
            Some(context) => context,
            None => py.import("contextvars")?.call_method0("copy_context")?.unbind(),
        };
        let callback = Callback { function, context };
        let mut future = slf.try_borrow_mut()?;
        if future.is_pending() {
            future.callbacks.push(callback);
            return Ok(());
        }
        drop(future);
        callback.call_soon(slf)
    }

    fn remove_done_callback(slf: &Bound<'_, Self>, function: &Bound<'_, PyAny>) -> PyResult<usize> {
        // Comparing may run code of the callbacks' owners: not while the future is borrowed.
        let callbacks: Vec<Callback> = slf.try_borrow_mut()?.callbacks.take().collect();
        let before = callbacks.len();
        let mut kept = Vec::new();
        for callback in callbacks {
            if !callback.function.bind(slf.py()).eq(function)? {
                kept.push(callback);
            }
        }
        let removed = before - kept.len();
        let mut future = slf.try_borrow_mut()?;
        for callback in kept {
            future.callbacks.push(callback);
        }
        Ok(removed)
    }

    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop.clone_ref(py)
    }

    #[getter]
    fn _callbacks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let callbacks = self.callbacks.first.iter().chain(&self.callbacks.others);
        PyList::new(py, callbacks.map(|c| (&c.function, &c.context)).collect::<Vec<_>>())
    }

    fn __repr__(&self) -> &'static str {
        match self.state {
            State::Pending => "<emcache request pending>",
            State::Value(_) | State::Error(_) => "<emcache request finished>",
            State::Cancelled(_) => "<emcache request cancelled>",
        }
    }
}
