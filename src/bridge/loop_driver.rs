//! The core driven by the event loop itself: no thread, no lock.
//!
//! The loop watches Tokio's descriptor and calls `turn`; requests that are to travel together are
//! written by `flush`, once per iteration.
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::Waker;

use pyo3::exceptions::{PyNotImplementedError, PyOSError};
use pyo3::prelude::*;
use tokio::time::Instant;

use super::completion;
use super::driver::PythonLoop;
use super::once::intern;
use super::runtime::{Inbox, Postponed, TurnRuntime};
use crate::pool::{Context, Host, LocalFuture};

pub struct LoopEngine {
    pub context: Rc<Context>,
    runtime: TurnRuntime,
    wants_flush: Rc<Cell<bool>>,
    flush_scheduled: Cell<bool>,
    timer: RefCell<Option<(Instant, Py<PyAny>)>>,
    /// Turns in a row that did not ask Tokio's drivers.
    short_cuts: Cell<u32>,
}

/// So many turns in a row may leave out Tokio's drivers.
const SHORT_CUTS: u32 = 8;

/// What the core may ask of this driver.
struct LoopHost {
    inbox: Inbox,
    postponed: Postponed,
    wants_flush: Rc<Cell<bool>>,
}

impl Host for LoopHost {
    fn spawn(&self, task: LocalFuture) {
        self.inbox.borrow_mut().push(task);
    }

    fn wants_flush(&self) {
        self.wants_flush.set(true);
    }

    fn wake_later(&self, waker: &Waker) {
        self.postponed.borrow_mut().push(waker.clone());
    }
}

impl LoopEngine {
    pub fn start(py: Python<'_>, python: &PythonLoop) -> PyResult<Self> {
        let inbox = Inbox::default();
        let wants_flush: Rc<Cell<bool>> = Rc::default();
        let postponed = Postponed::default();
        let host = LoopHost {
            inbox: inbox.clone(),
            postponed: postponed.clone(),
            wants_flush: wants_flush.clone(),
        };
        let runtime = TurnRuntime::new(inbox, postponed).map_err(|error| match error.kind() {
            io::ErrorKind::Unsupported => PyNotImplementedError::new_err(error.to_string()),
            // With its number, which tells what the system has run out of.
            _ => match error.raw_os_error() {
                Some(number) => PyOSError::new_err((number, error.to_string())),
                None => PyErr::from(error),
            },
        })?;
        let watch = (runtime.fd(), &python.turn);
        if let Err(error) = python.event_loop.call_method1(py, intern!(py, "add_reader"), watch) {
            runtime.shut_down();
            return Err(error);
        }
        Ok(Self {
            context: Context::new(|_| Box::new(host)),
            runtime,
            wants_flush,
            flush_scheduled: Cell::new(false),
            timer: RefCell::new(None),
            short_cuts: Cell::new(0),
        })
    }

    pub fn is_flush_scheduled(&self) -> bool {
        self.flush_scheduled.get()
    }

    pub fn wants_turn(&self) -> bool {
        self.runtime.wants_turn()
    }

    pub fn schedule_flush(&self, py: Python<'_>, python: &PythonLoop) -> PyResult<()> {
        if self.wants_flush.get() && !self.flush_scheduled.get() {
            python.call_soon.call1(py, (&python.flush,))?;
            // Only when the loop has taken the callback.
            self.flush_scheduled.set(true);
        }
        self.wants_flush.set(false);
        Ok(())
    }

    pub fn flush(&self) {
        self.flush_scheduled.set(false);
        self.context.flush();
    }

    pub fn timer_fired(&self) {
        // Maybe a little early: the turn asks for another if it is still wanted.
        self.timer.take();
        self.short_cuts.set(SHORT_CUTS);
    }

    /// Something came, and most often it is an answer to the only request under way: then it is read without
    /// asking Tokio's epoll first. Not always, or what else is there would wait for ever.
    pub fn turn(&self) {
        let short_cuts = self.short_cuts.get();
        if short_cuts < SHORT_CUTS && !self.runtime.wants_turn() && self.context.wake_waiting() {
            self.short_cuts.set(short_cuts + 1);
            self.runtime.run_woken();
            if completion::is_pending() {
                return;
            }
        }
        self.short_cuts.set(0);
        self.runtime.turn();
    }

    /// Writes what the woken tasks asked for, and asks the loop for a turn when the next timer of the
    /// core is due.
    pub fn after_turn(&self, py: Python<'_>, python: &PythonLoop) -> PyResult<()> {
        if self.wants_flush.take() {
            self.context.flush();
        }
        let wanted = self.context.next_wakeup();
        if self.timer.borrow().as_ref().map(|(at, _)| *at) == wanted {
            return Ok(());
        }
        // Not borrowed while Python runs: that may stop this driver.
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

    /// The loop calls no more.
    pub fn leave(&self, py: Python<'_>, python: &PythonLoop) {
        // A loop that is closed has forgotten its readers, and says so with an error.
        let event_loop = python.event_loop.bind(py);
        let _ = event_loop.call_method1(intern!(py, "remove_reader"), (self.runtime.fd(),));
        if let Some((_, handle)) = self.timer.take() {
            let _ = handle.call_method0(py, intern!(py, "cancel"));
        }
    }

    pub fn shut_down(&self) {
        self.runtime.shut_down();
    }
}
