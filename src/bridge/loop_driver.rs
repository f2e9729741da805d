//! The core driven by the event loop itself, without a thread and without locks.
//!
//! The loop watches Tokio's descriptor and calls `turn`. `flush` writes collected requests once per
//! iteration.
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use pyo3::exceptions::{PyNotImplementedError, PyOSError};
use pyo3::prelude::*;
use tokio::time::Instant;

use super::completion;
use super::driver::PythonLoop;
use super::once::intern;
use crate::host::LoopCore;
use crate::pool::Context;

pub struct LoopEngine {
    core: LoopCore,
    flush_scheduled: Cell<bool>,
    timer: RefCell<Option<(Instant, Py<PyAny>)>>,
}

impl LoopEngine {
    pub fn start(py: Python<'_>, python: &PythonLoop) -> PyResult<Self> {
        let core = LoopCore::new().map_err(|error| match error.kind() {
            io::ErrorKind::Unsupported => PyNotImplementedError::new_err(error.to_string()),
            // With its number, which tells which resource of the system is exhausted.
            _ => match error.raw_os_error() {
                Some(number) => PyOSError::new_err((number, error.to_string())),
                None => PyErr::from(error),
            },
        })?;
        let watch = (core.fd(), &python.turn);
        if let Err(error) = python.event_loop.call_method1(py, intern!(py, "add_reader"), watch) {
            core.shut_down();
            return Err(error);
        }
        Ok(Self { core, flush_scheduled: Cell::new(false), timer: RefCell::new(None) })
    }

    pub fn context(&self) -> &Rc<Context> {
        &self.core.context
    }

    pub fn is_flush_scheduled(&self) -> bool {
        self.flush_scheduled.get()
    }

    pub fn wants_turn(&self) -> bool {
        self.core.wants_turn()
    }

    pub fn schedule_flush(&self, py: Python<'_>, python: &PythonLoop) -> PyResult<()> {
        if self.core.take_wants_flush() && !self.flush_scheduled.get() {
            python.call_soon.call1(py, (&python.flush,))?;
            // Set only after the loop has accepted the callback.
            self.flush_scheduled.set(true);
        }
        Ok(())
    }

    pub fn flush(&self) {
        self.flush_scheduled.set(false);
        self.core.context.flush();
    }

    pub fn timer_fired(&self) {
        // Maybe a little early: the turn asks for another timer if it is still wanted.
        self.timer.take();
        self.core.timer_fired();
    }

    pub fn turn(&self) {
        self.core.turn(completion::is_pending);
    }

    /// Writes what the woken tasks requested, and asks the loop for a turn when the core's next
    /// timer is due.
    pub fn after_turn(&self, py: Python<'_>, python: &PythonLoop) -> PyResult<()> {
        if self.core.take_wants_flush() {
            self.core.context.flush();
        }
        let wanted = self.core.next_wakeup();
        if self.timer.borrow().as_ref().map(|(at, _)| *at) == wanted {
            return Ok(());
        }
        // Not borrowed while Python code runs, because that may stop this driver.
        let old = self.timer.take();
        if let Some((_, handle)) = old {
            handle.call_method0(py, intern!(py, "cancel"))?;
        }
        let Some(at) = wanted else { return Ok(()) };
        let delay = at.saturating_duration_since(Instant::now()).as_secs_f64();
        let later = (delay, &python.timer);
        let handle = python.event_loop.call_method1(py, intern!(py, "call_later"), later)?;
        self.timer.replace(Some((at, handle)));
        Ok(())
    }

    /// Removes the callbacks from the loop.
    pub fn leave(&self, py: Python<'_>, python: &PythonLoop) {
        // A closed loop has removed its readers and reports an error.
        let event_loop = python.event_loop.bind(py);
        let _ = event_loop.call_method1(intern!(py, "remove_reader"), (self.core.fd(),));
        if let Some((_, handle)) = self.timer.take() {
            let _ = handle.call_method0(py, intern!(py, "cancel"));
        }
    }

    pub fn shut_down(&self) {
        self.core.shut_down();
    }
}
