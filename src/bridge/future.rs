//! What a call returns, to be awaited once: a place for the answer, and how its task is woken.
//!
//! A task that has to wait is given a future of asyncio's own, because tasks know those without calling
//! any of their methods. It is never finished, only borrowed: when the answer is there, the task's
//! wake-up is taken off it and called by the turn itself, and the future serves the next call. So a call
//! costs neither a future nor the round of the loop (`call_soon`) in which asyncio would wake its task.
//! What differs from a plain future, and why nobody can see it:
//!
//! - A future goes back to the [`FuturePool`] only if nobody else holds it.
//! - Where anything but one task's wake-up waits on it (whoever drives a coroutine by hand), it is finished
//!   in asyncio's way.
//! - A task that is cancelled cancels the future as always; that one is not used again.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple, PyType};

use super::once::{AttachedOnce, intern};
use super::result::Form;

#[pyclass(module = "emcache._emcache", freelist = 1024)]
pub struct OpFuture {
    future_pool: Py<FuturePool>,
    state: State,
    /// How the outcome is returned.
    form: Form,
    /// What the task waits on.
    borrowed: Option<Py<PyAny>>,
    /// Set when nobody waits any more, for whoever cannot look at the state.
    abandoned: Option<Arc<AtomicBool>>,
}

enum State {
    Pending,
    Value(Py<PyAny>),
    Error(PyErr),
    /// Given to who waited, or nobody waits any more.
    Done,
}

pub enum Step<'py> {
    Wait(Bound<'py, PyAny>),
    Return(Bound<'py, PyAny>),
}

/// How tasks are woken.
#[derive(Clone, Copy)]
pub enum Wake<'l> {
    /// Here and now, if they are of this loop and it lets them: only in a callback of it, where no task is
    /// running.
    Now(&'l Py<FuturePool>),
    /// By the loop, in its next iteration.
    Soon,
}

/// The futures of one loop that no task waits on.
#[pyclass(frozen, module = "emcache._emcache")]
pub struct FuturePool {
    event_loop: Py<PyAny>,
    create_future: Py<PyAny>,
    idle: Mutex<Vec<Py<PyAny>>>,
    /// Whether turns may step tasks: see [`super::stepping`].
    steps_tasks: AtomicBool,
    /// A finished future: what tasks are woken with. They ask it only whether the wait ended well.
    answered: Py<PyAny>,
    /// From 3.14 on a future knows by whom it is awaited, and this makes it forget.
    leave: Option<Py<PyAny>>,
}

/// Tasks beyond these make futures of their own.
const MAX_IDLE: usize = 1024;

impl FuturePool {
    pub fn new(event_loop: &Bound<'_, PyAny>) -> PyResult<Py<Self>> {
        let py = event_loop.py();
        let create_future = event_loop.getattr(intern!(py, "create_future"))?.unbind();
        let event_loop = event_loop.clone().unbind();
        let answered = create_future.call0(py)?;
        answered.call_method1(py, intern!(py, "set_result"), (py.None(),))?;
        let leave = py.import("asyncio")?.getattr_opt("future_discard_from_awaited_by")?;
        let leave = leave.map(Bound::unbind);
        let (idle, steps_tasks) = (Mutex::default(), AtomicBool::new(true));
        Py::new(py, Self { event_loop, create_future, idle, steps_tasks, answered, leave })
    }

    pub fn steps_tasks(&self) -> bool {
        self.steps_tasks.load(Ordering::Relaxed)
    }

    pub fn step_tasks(&self, steps: bool) {
        self.steps_tasks.store(steps, Ordering::Relaxed);
    }

    fn take(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.create_future.call0(py), Ok)
    }

    /// Wakes the task that waits on `future`, which is then free for another.
    fn end(&self, wait: Wait<'_>, future: Py<PyAny>) -> PyResult<()> {
        let Wait { task, wake_up, context } = wait;
        let py = task.py();
        if let Err(error) =
            future.call_method1(py, intern!(py, "remove_done_callback"), (&wake_up,))
        {
            finish(py, &future)?;
            return Err(error);
        }
        // Whatever becomes of it, the task is woken: nobody else will do that any more.
        let left = self.leave.as_ref().map(|leave| leave.call1(py, (&future, task))).transpose();
        let stepped = context.call_method1(intern!(py, "run"), (wake_up, &self.answered));
        self.give_back(py, future)?;
        stepped.map(drop).and(left.map(drop))
    }

    /// Somebody else who holds it may wait on it, too: then it is finished, and nobody's any more.
    #[allow(deprecated, reason = "that nobody else holds it is all that is asked")]
    fn give_back(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<()> {
        if future.get_refcnt(py) != 1 {
            return finish(py, &future);
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(future);
        }
        Ok(())
    }
}

impl OpFuture {
    /// Makes one, with which `PyO3` makes the list of free ones: under a lock that a fork may not find held.
    pub fn prepare(py: Python<'_>) -> PyResult<()> {
        let none = || py.None();
        let (event_loop, create_future, answered) = (none(), none(), none());
        let (idle, steps_tasks) = (Mutex::default(), AtomicBool::default());
        let future_pool =
            FuturePool { event_loop, create_future, idle, steps_tasks, answered, leave: None };
        Self::new(py, &Py::new(py, future_pool)?, Form::Plain).map(drop)
    }

    pub fn new(py: Python<'_>, future_pool: &Py<FuturePool>, form: Form) -> PyResult<Py<Self>> {
        let future_pool = future_pool.clone_ref(py);
        let (state, borrowed, abandoned) = (State::Pending, None, None);
        Py::new(py, Self { future_pool, state, form, borrowed, abandoned })
    }

    /// How the outcome is returned, once; `None` if the caller has given up, unless it `is_wanted` all the same.
    #[inline]
    pub fn take_form(slf: &Bound<'_, Self>, is_wanted: bool) -> PyResult<Option<Form>> {
        let mut future = slf.try_borrow_mut()?;
        let is_wanted = is_wanted || future.is_pending();
        Ok(is_wanted.then(|| std::mem::take(&mut future.form)))
    }

    /// A flag that another thread may look at.
    pub fn watch_abandoned(&mut self) -> Arc<AtomicBool> {
        self.abandoned.get_or_insert_default().clone()
    }

    /// The tasks of a loop that was closed can be woken no more.
    pub fn is_loop_closed(&self, py: Python<'_>) -> bool {
        let event_loop = &self.future_pool.get().event_loop;
        let closed = event_loop.call_method0(py, intern!(py, "is_closed"));
        closed.and_then(|closed| closed.is_truthy(py)).unwrap_or(true)
    }

    #[inline]
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending)
    }

    /// Gives the result, unless nobody waits any more, and wakes who does. An error is that of the task.
    pub fn resolve(
        slf: &Bound<'_, Self>,
        result: PyResult<Py<PyAny>>,
        wake: Wake<'_>,
    ) -> PyResult<()> {
        let py = slf.py();
        let (borrowed, future_pool) = {
            let mut future = slf.try_borrow_mut()?;
            if !future.is_pending() {
                return Ok(());
            }
            future.state = match result {
                Ok(value) => State::Value(value),
                Err(error) => State::Error(error),
            };
            let Some(borrowed) = future.borrowed.take() else { return Ok(()) };
            (borrowed, future.future_pool.clone_ref(py))
        };
        if matches!(wake, Wake::Now(here) if here.is(&future_pool) && here.get().steps_tasks())
            // A loop may make futures of its own kind, of which nothing is known but what all have.
            && let Some(wait) = Wait::on(borrowed.bind(py)).unwrap_or_default()
        {
            return future_pool.get().end(wait, borrowed);
        }
        finish(py, &borrowed)
    }

    /// Gives None to a call whose task does not wait yet, and runs nothing of Python's. Whether that is so.
    pub fn resolve_unawaited(slf: &Bound<'_, Self>) -> bool {
        let Ok(mut future) = slf.try_borrow_mut() else { return false };
        let is_unawaited = future.is_pending() && future.borrowed.is_none();
        if is_unawaited {
            future.state = State::Value(slf.py().None());
        }
        is_unawaited
    }

    /// What an `await` does with it, first and again when it was woken.
    pub fn step<'py>(slf: &Bound<'py, Self>) -> PyResult<Step<'py>> {
        let py = slf.py();
        let mut taken = None;
        loop {
            let mut future = slf.try_borrow_mut()?;
            match std::mem::replace(&mut future.state, State::Done) {
                State::Value(value) => return Ok(Step::Return(value.into_bound(py))),
                State::Error(error) => return Err(error),
                State::Done => return Err(PyRuntimeError::new_err("cannot be awaited again")),
                State::Pending => future.state = State::Pending,
            }
            if let Some(borrowed) = taken.take().or_else(|| future.borrowed.take()) {
                let borrowed: Bound<'py, PyAny> = Py::into_bound(borrowed, py);
                future.borrowed = Some(borrowed.clone().unbind());
                drop(future);
                borrowed.setattr(intern!(py, "_asyncio_future_blocking"), true)?;
                return Ok(Step::Wait(borrowed));
            }
            let future_pool = future.future_pool.clone_ref(py);
            drop(future);
            // May run Python, and by that the answer may come: looked at again.
            taken = Some(future_pool.get().take(py)?);
        }
    }

    /// Nobody waits any more: the request that belongs to it stays in the pipeline, and its answer is
    /// dropped when it comes.
    fn abandon(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut future = slf.try_borrow_mut()?;
        // Dropped after the borrow: a leased connection is given back with its last owner.
        let _dropped = (std::mem::replace(&mut future.state, State::Done), future.borrowed.take());
        if let Some(abandoned) = &future.abandoned {
            abandoned.store(true, Ordering::Relaxed);
        }
        drop(future);
        Ok(())
    }
}

/// Ends the calls that tasks of a loop wait for, without those who would have answered them. A task that ends
/// by that is not reported, if nobody awaits it.
pub fn end_calls(event_loop: &Bound<'_, PyAny>, why: impl Fn() -> PyErr) -> PyResult<()> {
    let py = event_loop.py();
    let retrieve = wrap_pyfunction!(retrieve, py)?;
    let tasks = py.import("asyncio")?.call_method1("all_tasks", (event_loop,))?;
    for task in tasks.try_iter()? {
        let task = task?;
        let mut awaited = task.call_method0("get_coro")?;
        while let Some(inner) = awaited.getattr_opt("cr_await")? {
            awaited = inner;
        }
        if let Ok(future) = awaited.cast::<OpFuture>() {
            task.call_method1("add_done_callback", (&retrieve,))?;
            OpFuture::resolve(future, Err(why()), Wake::Soon)?;
        }
    }
    Ok(())
}

#[pyfunction]
fn retrieve(task: &Bound<'_, PyAny>) -> PyResult<()> {
    if !task.call_method0("cancelled")?.is_truthy()? {
        task.call_method0("exception")?;
    }
    Ok(())
}

/// In asyncio's way: who waits is woken in the next iteration.
fn finish(py: Python<'_>, future: &Py<PyAny>) -> PyResult<()> {
    if !future.call_method0(py, intern!(py, "done"))?.is_truthy(py)? {
        future.call_method1(py, intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(())
}

/// One task, and nobody else, waits on a future.
struct Wait<'py> {
    task: Bound<'py, PyAny>,
    wake_up: Bound<'py, PyAny>,
    context: Bound<'py, PyAny>,
}

impl<'py> Wait<'py> {
    fn on(future: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        let py = future.py();
        let callbacks = future.getattr(intern!(py, "_callbacks"))?;
        let Ok(callbacks) = callbacks.cast_into::<PyList>() else { return Ok(None) };
        if callbacks.len() != 1 {
            return Ok(None);
        }
        let Ok(callback) = callbacks.get_item(0)?.cast_into::<PyTuple>() else { return Ok(None) };
        let (wake_up, context) = (callback.get_item(0)?, callback.get_item(1)?);
        let Some(task) = wake_up.getattr_opt(intern!(py, "__self__"))? else { return Ok(None) };
        Ok(task.is_instance(task_type(py)?)?.then_some(Self { task, wake_up, context }))
    }
}

fn task_type(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static TASK: AttachedOnce<PyType> = AttachedOnce::new();
    TASK.import(py, "asyncio", "Task")
}

#[pymethods]
impl OpFuture {
    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        match Self::step(slf)? {
            Step::Wait(borrowed) => Ok(borrowed),
            // In a tuple of its own: one that is the result would be taken for the arguments.
            Step::Return(value) => Err(PyStopIteration::new_err((value.unbind(),))),
        }
    }

    /// Called when the task is cancelled, with what `await` is to raise.
    #[pyo3(signature = (error, value = None, _traceback = None))]
    fn throw(
        slf: &Bound<'_, Self>,
        error: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        _traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Self::abandon(slf)?;
        Err(PyErr::from_value(value.unwrap_or(error)))
    }

    /// Called when the coroutine that awaits is closed.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::abandon(slf)
    }

    fn __repr__(&self) -> &'static str {
        match self.state {
            State::Pending => "<emcache request pending>",
            State::Value(_) | State::Error(_) | State::Done => "<emcache request finished>",
        }
    }
}
