//! The core driven by the event loop itself, without a thread and without locks.
//!
//! The loop watches Tokio's descriptor and calls `turn`. `flush` writes collected requests once per
//! iteration.
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
    /// The number of consecutive fast turns, which do not poll Tokio's drivers.
    fast_turns: Cell<u32>,
}

/// The limit for `fast_turns`.
const MAX_FAST_TURNS: u32 = 8;

/// The operations that the core requires of this driver.
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
            // With its number, which tells which resource of the system is exhausted.
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
            fast_turns: Cell::new(0),
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
            // Set only after the loop has accepted the callback.
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
        // It may have fired a little early. Then the turn asks for another one.
        self.timer.take();
        self.fast_turns.set(MAX_FAST_TURNS);
    }

    /// A readable descriptor usually means a reply to the only request in flight, which is then
    /// read without asking Tokio's epoll. Other events would starve if every turn did so.
    pub fn turn(&self) {
        let fast_turns = self.fast_turns.get();
        if fast_turns < MAX_FAST_TURNS && !self.runtime.wants_turn() && self.context.wake_waiting()
        {
            self.fast_turns.set(fast_turns + 1);
            self.runtime.run_woken();
            if completion::is_pending() {
                return;
            }
        }
        self.fast_turns.set(0);
        self.runtime.turn();
    }

    /// Writes the requests of the woken tasks, and asks the loop for a turn when the core's next
    /// timer is due.
    pub fn after_turn(&self, py: Python<'_>, python: &PythonLoop) -> PyResult<()> {
        if self.wants_flush.take() {
            self.context.flush();
        }
        let wanted = self.context.next_wakeup();
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
        let _ = event_loop.call_method1(intern!(py, "remove_reader"), (self.runtime.fd(),));
        if let Some((_, handle)) = self.timer.take() {
            let _ = handle.call_method0(py, intern!(py, "cancel"));
        }
    }

    pub fn shut_down(&self) {
        self.runtime.shut_down();
    }
}
