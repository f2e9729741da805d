//! The core of one event loop, driven by that loop.
//!
//! The loop watches Tokio's descriptor and calls `turn`; requests that are to travel together are
//! written by `flush`, once per iteration. Both are callbacks of the loop on its own thread, so the
//! core is never shared and never locked.
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::Waker;

use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tokio::time::Instant;

use super::completion;
use super::future::{OpFuture, Wake};
use super::registry::{self, Session};
use super::runtime::{Inbox, Postponed, TurnRuntime};
use crate::pool::{Context, Host, LocalFuture};

pub struct LoopDriver {
    id: u64,
    pub context: Rc<Context>,
    runtime: TurnRuntime,
    wants_flush: Rc<Cell<bool>>,
    flush_scheduled: Cell<bool>,
    turn_scheduled: Cell<bool>,
    /// Whether a turn is waking tasks at this moment.
    turning: Cell<bool>,
    timer: RefCell<Option<(Instant, Py<PyAny>)>>,
    sessions: RefCell<Vec<Weak<Session>>>,
    python: PythonLoop,
}

/// The loop and the methods of it that are called often, looked up once.
struct PythonLoop {
    event_loop: Py<PyAny>,
    is_running: Py<PyAny>,
    call_soon: Py<PyAny>,
    turn: Py<PyAny>,
    timer: Py<PyAny>,
    flush: Py<PyAny>,
}

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

/// The callbacks as Python objects. They may outlive the driver, and then do nothing.
#[pyclass(frozen, module = "emcache._emcache")]
struct LoopCallbacks {
    driver: u64,
}

#[pymethods]
impl LoopCallbacks {
    fn turn(&self, py: Python<'_>) -> PyResult<()> {
        registry::driver(self.driver).map_or(Ok(()), |driver| driver.turn(py))
    }

    fn timer(&self, py: Python<'_>) -> PyResult<()> {
        registry::driver(self.driver).map_or(Ok(()), |driver| driver.timer(py))
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        registry::driver(self.driver).map_or(Ok(()), |driver| driver.flush(py))
    }
}

impl LoopDriver {
    /// Starts to drive on the running loop.
    pub fn start(event_loop: &Bound<'_, PyAny>, id: u64) -> PyResult<Rc<Self>> {
        let py = event_loop.py();
        let inbox = Inbox::default();
        let wants_flush: Rc<Cell<bool>> = Rc::default();
        let postponed = Postponed::default();
        let host = LoopHost {
            inbox: inbox.clone(),
            postponed: postponed.clone(),
            wants_flush: wants_flush.clone(),
        };
        let runtime = TurnRuntime::new(inbox, postponed).map_err(|error| {
            PyOSError::new_err(format!("the event loop cannot drive emcache's runtime: {error}"))
        })?;
        let callbacks = Bound::new(py, LoopCallbacks { driver: id })?;
        let python = PythonLoop {
            event_loop: event_loop.clone().unbind(),
            is_running: event_loop.getattr(intern!(py, "is_running"))?.unbind(),
            call_soon: event_loop.getattr(intern!(py, "call_soon"))?.unbind(),
            turn: callbacks.getattr(intern!(py, "turn"))?.unbind(),
            timer: callbacks.getattr(intern!(py, "timer"))?.unbind(),
            flush: callbacks.getattr(intern!(py, "flush"))?.unbind(),
        };
        event_loop.call_method1(intern!(py, "add_reader"), (runtime.fd(), &python.turn))?;
        Ok(Rc::new(Self {
            id,
            context: Context::new(|_| Box::new(host)),
            runtime,
            wants_flush,
            flush_scheduled: Cell::new(false),
            turn_scheduled: Cell::new(false),
            turning: Cell::new(false),
            timer: RefCell::new(None),
            sessions: RefCell::default(),
            python,
        }))
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn drives(&self, event_loop: &Bound<'_, PyAny>) -> bool {
        self.python.event_loop.is(event_loop)
    }

    /// Whether the calling code runs in this driver's loop: it runs on the loop's thread, and only one
    /// loop runs there at a time. Asked once per iteration and not per call: whoever comes after the
    /// first request of an iteration runs in the same loop. (asyncio's `_get_running_loop` costs a
    /// system call up to Python 3.11.)
    pub fn is_running(&self, py: Python<'_>) -> PyResult<bool> {
        if self.flush_scheduled.get() || self.turning.get() {
            return Ok(true);
        }
        self.python.is_running.bind(py).call0()?.is_truthy()
    }

    pub fn is_loop_closed(&self, py: Python<'_>) -> bool {
        let closed = self.python.event_loop.call_method0(py, intern!(py, "is_closed"));
        closed.and_then(|closed| closed.is_truthy(py)).unwrap_or(true)
    }

    pub fn create_future(&self, py: Python<'_>) -> PyResult<Py<OpFuture>> {
        OpFuture::new(py, &self.python.event_loop)
    }

    pub fn turn_callback(&self, py: Python<'_>) -> Py<PyAny> {
        self.python.turn.clone_ref(py)
    }

    pub fn add_session(&self, session: &Rc<Session>) {
        self.sessions.borrow_mut().push(Rc::downgrade(session));
    }

    /// Forgets a session that was closed; the last one ends the driver.
    pub fn remove_session(&self, py: Python<'_>, session: &Rc<Session>) {
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|other| other.upgrade().is_some_and(|other| !Rc::ptr_eq(&other, session)));
        if sessions.is_empty() {
            drop(sessions);
            self.stop(py);
        }
    }

    /// Sees to it that what the last call into the core left to do is done.
    pub fn settle(&self, py: Python<'_>) -> PyResult<()> {
        if self.turning.get() {
            // The turn that woke the caller goes on when all are back, and sees to it.
            return Ok(());
        }
        // Each flag is set when the loop has taken the callback, and not if it would not.
        if self.wants_flush.get() && !self.flush_scheduled.get() {
            self.python.call_soon.call1(py, (&self.python.flush,))?;
            self.flush_scheduled.set(true);
        }
        self.wants_flush.set(false);
        if (self.runtime.wants_turn() || completion::is_pending()) && !self.turn_scheduled.get() {
            self.python.call_soon.call1(py, (&self.python.turn,))?;
            self.turn_scheduled.set(true);
        }
        Ok(())
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.flush_scheduled.set(false);
        self.context.flush();
        self.settle(py)
    }

    fn timer(&self, py: Python<'_>) -> PyResult<()> {
        // It has fired, maybe a little early: the turn asks for another if it is still wanted.
        self.timer.take();
        self.turn(py)
    }

    fn turn(&self, py: Python<'_>) -> PyResult<()> {
        self.turn_scheduled.set(false);
        self.runtime.turn();
        self.turning.set(true);
        let delivered = completion::deliver(py, Wake::Now(&self.python.event_loop));
        self.turning.set(false);
        if self.wants_flush.take() {
            self.context.flush();
        }
        self.tell_health(py);
        registry::close_abandoned(py);
        // Each is done whatever becomes of the others: nobody may call again.
        let timed = self.set_timer(py);
        let settled = self.settle(py);
        delivered.and(timed).and(settled)
    }

    fn tell_health(&self, py: Python<'_>) {
        let sessions: Vec<_> = self.sessions.borrow().iter().filter_map(Weak::upgrade).collect();
        for session in sessions {
            session.tell_health(py);
        }
    }

    /// Asks the loop for a turn when the next timer of the core is due.
    fn set_timer(&self, py: Python<'_>) -> PyResult<()> {
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
        let handle = self.python.event_loop.call_method1(
            py,
            intern!(py, "call_later"),
            (delay, &self.python.timer),
        )?;
        self.timer.replace(Some((at, handle)));
        Ok(())
    }

    /// Leaves the loop and closes everything. Does nothing the second time.
    fn stop(&self, py: Python<'_>) {
        registry::forget_driver(self.id);
        let event_loop = self.python.event_loop.bind(py);
        // A loop that is closed has forgotten its readers, and says so with an error.
        let _ = event_loop.call_method1(intern!(py, "remove_reader"), (self.runtime.fd(),));
        if let Some((_, handle)) = self.timer.take() {
            let _ = handle.call_method0(py, intern!(py, "cancel"));
        }
        self.runtime.shut_down();
    }
}

pub fn running_loop(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let get = GET.get_or_try_init(py, || {
        py.import("asyncio")?.getattr("_get_running_loop").map(Bound::unbind)
    })?;
    let event_loop = get.bind(py).call0()?;
    Ok((!event_loop.is_none()).then_some(event_loop))
}
