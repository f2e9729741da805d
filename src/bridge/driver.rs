//! The driver of one event loop's core: either the loop itself, or a thread.
//!
//! This module has the parts that both have in common: the sessions of the loop, and the callback
//! that sets results on futures. The callback runs on the loop's thread, so nothing here is shared
//! or locked.
use std::cell::{Cell, RefCell};
use std::env::VarError;
use std::rc::{Rc, Weak};

use pyo3::exceptions::{PyException, PyMemoryError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::completion;
use super::future::{FuturePool, OpFuture, Wake};
use super::loop_driver::LoopEngine;
use super::once::{AttachedOnce, intern};
use super::registry;
use super::result::Form;
use super::session::Session;
use super::shutdown;
use super::stepping::Stepping;
use super::thread_driver::ThreadEngine;
use crate::host::fork_count;

pub struct Driver {
    id: u64,
    /// The fork count when the driver was created. If it has changed, everything here belongs to
    /// the parent process.
    forks: u64,
    engine: Engine,
    python: PythonLoop,
    stepping: Stepping,
    turn_scheduled: Cell<bool>,
    /// Whether a turn is waking tasks.
    is_delivering: Cell<bool>,
    /// Whether the driver has left the loop, which then calls back no more.
    stopped: Cell<bool>,
    sessions: RefCell<Vec<Weak<Session>>>,
}

pub enum Engine {
    Loop(Box<LoopEngine>),
    Thread(Rc<ThreadEngine>),
}

/// The loop and those of its methods that are called often, looked up once.
pub struct PythonLoop {
    pub event_loop: Py<PyAny>,
    is_running: Py<PyAny>,
    future_pool: Py<FuturePool>,
    pub call_soon: Py<PyAny>,
    pub turn: Py<PyAny>,
    pub timer: Py<PyAny>,
    pub flush: Py<PyAny>,
}

/// The callbacks as Python objects. They may outlive the driver, and then have no effect.
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

/// The driver that `EMCACHE_DRIVER` selects.
enum Choice {
    Loop,
    Thread,
    /// The loop where possible, otherwise a thread.
    Auto,
}

impl Choice {
    fn from_environment() -> PyResult<Self> {
        match std::env::var("EMCACHE_DRIVER").as_deref() {
            Ok("loop") => Ok(Self::Loop),
            Ok("thread") => Ok(Self::Thread),
            Ok("") | Err(VarError::NotPresent) => Ok(Self::Auto),
            _ => Err(PyValueError::new_err("EMCACHE_DRIVER must be 'loop' or 'thread'")),
        }
    }
}

impl Driver {
    /// Starts a driver for the running loop.
    pub fn start(event_loop: &Bound<'_, PyAny>, id: u64) -> PyResult<Rc<Self>> {
        let py = event_loop.py();
        let forks = fork_count();
        let stepping = Stepping::new(event_loop)?;
        let callbacks = Bound::new(py, LoopCallbacks { driver: id })?;
        let python = PythonLoop {
            event_loop: event_loop.clone().unbind(),
            is_running: event_loop.getattr(intern!(py, "is_running"))?.unbind(),
            future_pool: FuturePool::new(event_loop)?,
            call_soon: event_loop.getattr(intern!(py, "call_soon"))?.unbind(),
            turn: callbacks.getattr(intern!(py, "turn"))?.unbind(),
            timer: callbacks.getattr(intern!(py, "timer"))?.unbind(),
            flush: callbacks.getattr(intern!(py, "flush"))?.unbind(),
        };
        let engine = match Choice::from_environment()? {
            Choice::Loop => Engine::Loop(Box::new(LoopEngine::start(py, &python)?)),
            Choice::Thread => Engine::Thread(Rc::new(ThreadEngine::start(py, &python)?)),
            Choice::Auto => match LoopEngine::start(py, &python) {
                Ok(engine) => Engine::Loop(Box::new(engine)),
                Err(error) if is_refusal(py, &error)? => {
                    log_fallback(py, &error)?;
                    Engine::Thread(Rc::new(ThreadEngine::start(py, &python)?))
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Rc::new(Self {
            id,
            forks,
            engine,
            python,
            stepping,
            turn_scheduled: Cell::new(false),
            is_delivering: Cell::new(false),
            stopped: Cell::new(false),
            sessions: RefCell::default(),
        }))
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn forks(&self) -> u64 {
        self.forks
    }

    /// Whether this process is a child of the process that created the driver. Any call into Python
    /// may have forked, and the child returns from that call too. The core must not be touched
    /// then, because its sockets and its epoll instance are shared with the parent.
    pub fn is_forked(&self) -> bool {
        self.forks != fork_count()
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn name(&self) -> &'static str {
        match self.engine {
            Engine::Loop(_) => "loop",
            Engine::Thread(_) => "thread",
        }
    }

    pub fn drives(&self, event_loop: &Bound<'_, PyAny>) -> bool {
        self.python.event_loop.is(event_loop)
    }

    /// Whether the calling code runs in this driver's loop: it runs on the loop's thread, and only
    /// one loop at a time runs there. This is checked once per iteration and not per call, because
    /// all later requests of the iteration come from the same loop. (asyncio's `_get_running_loop`
    /// costs a system call up to Python 3.11.)
    pub fn is_running(&self, py: Python<'_>) -> PyResult<bool> {
        let is_flush_scheduled = match &self.engine {
            Engine::Loop(engine) => engine.is_flush_scheduled(),
            Engine::Thread(engine) => engine.is_flush_scheduled(),
        };
        if self.is_delivering.get() || is_flush_scheduled {
            return Ok(true);
        }
        self.python.is_running.bind(py).call0()?.is_truthy()
    }

    pub fn is_loop_closed(&self, py: Python<'_>) -> bool {
        let closed = self.python.event_loop.call_method0(py, intern!(py, "is_closed"));
        closed.and_then(|closed| closed.is_truthy(py)).unwrap_or(true)
    }

    pub fn create_future(&self, py: Python<'_>, form: Form) -> PyResult<Py<OpFuture>> {
        OpFuture::new(py, &self.python.future_pool, form)
    }

    /// Calls user code, either at once, where a turn may do so, or in the loop's next iteration.
    pub fn call(&self, py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        if self.python.future_pool.get().steps_tasks() || self.is_loop_closed(py) {
            let callback = args.get_item(0)?;
            callback.call1(args.get_slice(1, args.len()))?;
        } else {
            self.python.call_soon.call1(py, args)?;
        }
        Ok(())
    }

    pub fn event_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.python.event_loop.clone_ref(py)
    }

    pub fn turn_callback(&self, py: Python<'_>) -> Py<PyAny> {
        self.python.turn.clone_ref(py)
    }

    pub fn add_session(&self, session: &Rc<Session>) {
        self.sessions.borrow_mut().push(Rc::downgrade(session));
    }

    /// Removes a closed session. The driver stops with its last session.
    pub fn remove_session(&self, py: Python<'_>, session: &Rc<Session>) {
        if self.is_forked() {
            return;
        }
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|other| other.upgrade().is_some_and(|other| !Rc::ptr_eq(&other, session)));
        if sessions.is_empty() {
            drop(sessions);
            self.stop(py);
        }
    }

    /// Schedules the work that the last call into the core left behind.
    pub fn schedule_pending(&self, py: Python<'_>) -> PyResult<()> {
        if shutdown::is_frozen() || self.is_forked() {
            return Ok(());
        }
        if self.is_delivering.get() {
            // The turn that woke the caller continues after all tasks and schedules the work then.
            return Ok(());
        }
        if self.stopped.get() {
            self.fail_pending(py);
            return Ok(());
        }
        let mut wants_turn = completion::is_pending();
        match &self.engine {
            Engine::Loop(engine) => {
                engine.schedule_flush(py, &self.python)?;
                wants_turn |= engine.wants_turn();
            }
            Engine::Thread(engine) => engine.schedule_flush(py, &self.python)?,
        }
        if wants_turn && !self.turn_scheduled.get() {
            self.python.call_soon.call1(py, (&self.python.turn,))?;
            // Set only after the loop has accepted the callback.
            self.turn_scheduled.set(true);
        }
        Ok(())
    }

    /// Fails requests that were made after the driver stopped. A finalizer may have closed the last
    /// client in the middle of a call.
    fn fail_pending(&self, py: Python<'_>) {
        if let Engine::Thread(engine) = &self.engine {
            engine.flush();
        }
        completion::deliver_all(py);
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_forked() {
            return Ok(());
        }
        match &self.engine {
            Engine::Loop(engine) => engine.flush(),
            Engine::Thread(engine) => engine.flush(),
        }
        self.schedule_pending(py)
    }

    fn timer(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_forked() {
            return Ok(());
        }
        if let Engine::Loop(engine) = &self.engine {
            engine.timer_fired();
        }
        self.turn(py)
    }

    fn turn(&self, py: Python<'_>) -> PyResult<()> {
        let Some(_under_way) = shutdown::Turn::begin() else { return Ok(()) };
        if self.is_forked() {
            return Ok(());
        }
        self.turn_scheduled.set(false);
        if self.is_delivering.replace(false) {
            // The loop was run again by a task that a turn is stepping. That turn continues only
            // afterwards.
            self.stepping.mark_nested();
        }
        match &self.engine {
            Engine::Loop(engine) => engine.turn(),
            Engine::Thread(engine) => engine.collect(py),
        }
        let delivered = self.deliver(py);
        registry::close_abandoned(py);
        if self.is_forked() {
            return delivered;
        }
        // Each step runs even if another one fails, because no further call may follow.
        let timed = match &self.engine {
            Engine::Loop(engine) => engine.after_turn(py, &self.python),
            Engine::Thread(engine) => {
                engine.flush();
                Ok(())
            }
        };
        let settled = self.schedule_pending(py);
        delivered.and(timed).and(settled)
    }

    fn deliver(&self, py: Python<'_>) -> PyResult<()> {
        if !completion::is_pending() {
            return Ok(());
        }
        let future_pool = &self.python.future_pool;
        future_pool.get().step_tasks(self.stepping.is_allowed(py));
        self.is_delivering.set(true);
        let delivered = completion::deliver(py, Wake::Now(future_pool));
        self.is_delivering.set(false);
        delivered
    }

    /// Leaves the loop and closes everything. A second call has no effect.
    fn stop(&self, py: Python<'_>) {
        registry::forget_driver(self.id);
        self.stopped.set(true);
        match &self.engine {
            Engine::Loop(engine) => {
                engine.leave(py, &self.python);
                if !self.is_forked() {
                    engine.shut_down();
                }
            }
            Engine::Thread(engine) => engine.stop(py),
        }
    }
}

/// Whether the loop or the platform does not support watching descriptors, which each reports in
/// its own way. Exhausted resources are not a refusal, because a thread would lack them too.
fn is_refusal(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    if error.is_instance_of::<PyOSError>(py) {
        let number = error.value(py).getattr("errno")?;
        let numbers = py.import("errno")?;
        for exhausted in ["EMFILE", "ENFILE", "ENOMEM", "ENOSPC"] {
            if number.eq(numbers.getattr(exhausted)?)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    Ok(error.is_instance_of::<PyException>(py) && !error.is_instance_of::<PyMemoryError>(py))
}

fn log_fallback(py: Python<'_>, error: &PyErr) -> PyResult<()> {
    let logger = py.import("logging")?.call_method1("getLogger", ("emcache",))?;
    let text = "the event loop cannot drive emcache; using a thread, which is slower: %s";
    logger.call_method1("info", (text, error.value(py).str()?))?;
    Ok(())
}

pub fn running_loop(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static GET: AttachedOnce<PyAny> = AttachedOnce::new();
    let event_loop = GET.import(py, "asyncio", "_get_running_loop")?.call0()?;
    Ok((!event_loop.is_none()).then_some(event_loop))
}
