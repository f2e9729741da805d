//! The awaitable that a call returns. It stores the result and wakes the waiting task.
//!
//! A task that has to wait gets one of asyncio's own futures, because tasks access those without
//! calling any of their methods. The future is never finished, only borrowed. When the result is
//! there, the turn removes the task's wake-up from the future and calls it, and the future serves
//! the next call. So a call needs neither a future of its own nor the iteration of the loop
//! (`call_soon`) in which asyncio would wake its task. Three rules keep the difference from a plain
//! future invisible:
//!
//! - A future returns to the [`FuturePool`] only if no other code holds a reference to it.
//! - If anything but a single task waits on it, such as a coroutine driven by hand, the future is
//!   finished in asyncio's way.
//! - A task that is cancelled cancels the future as usual, and that future is not reused.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple, PyType};

use super::once::{AttachedOnce, intern};
use super::result::Form;
use super::unbound::UnboundMethod;

#[pyclass(module = "emcache._emcache", freelist = 1024)]
pub struct OpFuture {
    future_pool: Py<FuturePool>,
    state: State,
    /// How the outcome is returned.
    form: Form,
    /// The future on which the task waits.
    borrowed: Option<Py<PyAny>>,
    /// Set when the caller has left, for threads that cannot read `state`.
    abandoned: Option<Arc<AtomicBool>>,
}

enum State {
    Pending,
    Value(Py<PyAny>),
    Error(PyErr),
    /// The result was returned, or the caller has left.
    Done,
}

pub enum Step<'py> {
    Wait(Bound<'py, PyAny>),
    Return(Bound<'py, PyAny>),
}

/// How tasks are woken.
#[derive(Clone, Copy)]
pub enum Wake<'l> {
    /// At once, if the task belongs to this loop and the loop allows it. Only valid in a callback
    /// of the loop, where no task is running.
    Now(&'l Py<FuturePool>),
    /// By the loop, in its next iteration.
    Soon,
}

/// The idle futures of one loop.
#[pyclass(frozen, module = "emcache._emcache")]
pub struct FuturePool {
    event_loop: Py<PyAny>,
    create_future: Py<PyAny>,
    idle: Mutex<Vec<Py<PyAny>>>,
    /// Whether turns may step tasks: see [`super::stepping`].
    steps_tasks: AtomicBool,
    /// A finished future that is passed to wake-ups. Tasks only check whether it finished with an
    /// error.
    answered: Py<PyAny>,
    /// Looking up a method for each wake-up would cost more than calling it.
    remove_done_callback: UnboundMethod,
    run: UnboundMethod,
    /// `future_discard_from_awaited_by` of Python 3.14 and later, where a future records its
    /// waiting tasks.
    discard_awaited_by: Option<Py<PyAny>>,
}

/// Further tasks create their own futures.
const MAX_IDLE: usize = 1024;

impl FuturePool {
    pub fn new(event_loop: &Bound<'_, PyAny>) -> PyResult<Py<Self>> {
        let py = event_loop.py();
        let create_future = event_loop.getattr(intern!(py, "create_future"))?.unbind();
        let event_loop = event_loop.clone().unbind();
        let answered = create_future.call0(py)?;
        answered.call_method1(py, intern!(py, "set_result"), (py.None(),))?;
        let discard_awaited_by =
            py.import("asyncio")?.getattr_opt("future_discard_from_awaited_by")?;
        let context = py.import("contextvars")?.getattr("Context")?.cast_into::<PyType>()?;
        let future_pool = Self {
            event_loop,
            create_future,
            idle: Mutex::default(),
            steps_tasks: AtomicBool::new(true),
            remove_done_callback: UnboundMethod::new(
                &answered.bind(py).get_type(),
                intern!(py, "remove_done_callback"),
            )?,
            run: UnboundMethod::new(&context, intern!(py, "run"))?,
            answered,
            discard_awaited_by: discard_awaited_by.map(Bound::unbind),
        };
        Py::new(py, future_pool)
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

    /// Wakes the task that waits on `future`, and then makes the future available again.
    fn wake(&self, wait: Wait<'_>, future: Py<PyAny>) -> PyResult<()> {
        let Wait { task, wake_up, context } = wait;
        let py = task.py();
        if let Err(error) =
            self.remove_done_callback.call(future.bind(py), (&future, &wake_up), (&wake_up,))
        {
            finish(py, &future)?;
            return Err(error);
        }
        // The task is woken even if this fails, because there is no other wake-up.
        let discard = self.discard_awaited_by.as_ref();
        let discarded = discard.map(|discard| discard.call1(py, (&future, task))).transpose();
        let stepped = self.run.call(
            &context,
            (&context, &wake_up, &self.answered),
            (&wake_up, &self.answered),
        );
        self.return_future(py, future)?;
        stepped.map(drop).and(discarded.map(drop))
    }

    /// Other code that holds a reference may wait on the future too. In that case it is finished
    /// and not reused.
    #[allow(deprecated, reason = "only checks for other references")]
    fn return_future(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<()> {
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
    /// Creates one object, so that `PyO3` creates its free list now and not later under a lock that
    /// a fork may find held.
    pub fn prepare(py: Python<'_>) -> PyResult<()> {
        let none = || py.None();
        let (event_loop, create_future, answered) = (none(), none(), none());
        let unused = || UnboundMethod::new(&py.get_type::<PyType>(), intern!(py, "mro"));
        let future_pool = FuturePool {
            event_loop,
            create_future,
            idle: Mutex::default(),
            steps_tasks: AtomicBool::default(),
            answered,
            remove_done_callback: unused()?,
            run: unused()?,
            discard_awaited_by: None,
        };
        Self::new(py, &Py::new(py, future_pool)?, Form::Plain).map(drop)
    }

    pub fn new(py: Python<'_>, future_pool: &Py<FuturePool>, form: Form) -> PyResult<Py<Self>> {
        let future_pool = future_pool.clone_ref(py);
        let (state, borrowed, abandoned) = (State::Pending, None, None);
        Py::new(py, Self { future_pool, state, form, borrowed, abandoned })
    }

    /// Takes the form in which to return the outcome. `None` if the caller has given up, unless
    /// `is_wanted`.
    #[inline]
    pub fn take_form(slf: &Bound<'_, Self>, is_wanted: bool) -> PyResult<Option<Form>> {
        let mut future = slf.try_borrow_mut()?;
        let is_wanted = is_wanted || future.is_pending();
        Ok(is_wanted.then(|| std::mem::take(&mut future.form)))
    }

    /// Returns a flag that other threads may read.
    pub fn watch_abandoned(&mut self) -> Arc<AtomicBool> {
        self.abandoned.get_or_insert_default().clone()
    }

    /// Tasks of a closed loop cannot be woken.
    pub fn is_loop_closed(&self, py: Python<'_>) -> bool {
        let event_loop = &self.future_pool.get().event_loop;
        let closed = event_loop.call_method0(py, intern!(py, "is_closed"));
        closed.and_then(|closed| closed.is_truthy(py)).unwrap_or(true)
    }

    #[inline]
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending)
    }

    /// Sets the result and wakes the waiting task, unless the caller has left. An error comes from
    /// the task.
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
            // Futures of other loops' own types may lack these attributes.
            && let Some(wait) = Wait::on(borrowed.bind(py)).unwrap_or_default()
        {
            return future_pool.get().wake(wait, borrowed);
        }
        finish(py, &borrowed)
    }

    /// Completes a call with `None` if its task does not wait yet. Runs no Python code. Returns
    /// whether it did so.
    pub fn resolve_unawaited(slf: &Bound<'_, Self>) -> bool {
        let Ok(mut future) = slf.try_borrow_mut() else { return false };
        let is_unawaited = future.is_pending() && future.borrowed.is_none();
        if is_unawaited {
            future.state = State::Value(slf.py().None());
        }
        is_unawaited
    }

    /// One step of `await`: the first one, or the one after a wake-up.
    pub fn step<'py>(slf: &Bound<'py, Self>) -> PyResult<Step<'py>> {
        let py = slf.py();
        let mut taken = None;
        loop {
            let mut future = slf.try_borrow_mut()?;
            match std::mem::replace(&mut future.state, State::Done) {
                State::Value(value) => return Ok(Step::Return(value.into_bound(py))),
                State::Error(error) => return Err(error),
                State::Done => {
                    return Err(PyRuntimeError::new_err(
                        "this call was already awaited; a call can be awaited only once",
                    ));
                }
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
            // This may run Python code, during which the result may arrive, so the state is checked
            // again.
            taken = Some(future_pool.get().take(py)?);
        }
    }

    /// Called when the caller leaves. The request stays in the pipeline, and its reply is
    /// discarded.
    fn abandon(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut future = slf.try_borrow_mut()?;
        // Dropped after the borrow, because dropping the last reference to a checked-out connection
        // returns it to the pool.
        let _dropped = (std::mem::replace(&mut future.state, State::Done), future.borrowed.take());
        if let Some(abandoned) = &future.abandoned {
            abandoned.store(true, Ordering::Relaxed);
        }
        drop(future);
        Ok(())
    }
}

pub fn tasks_of(event_loop: &Bound<'_, PyAny>) -> PyResult<Vec<Py<PyAny>>> {
    let asyncio = event_loop.py().import("asyncio")?;
    let tasks = asyncio.call_method1("all_tasks", (event_loop,))?;
    tasks.try_iter()?.map(|task| Ok(task?.unbind())).collect()
}

/// Ends the call on which a task waits, if any, when no reply will arrive. A task that ends for
/// this reason is not reported if it is never awaited.
pub fn end_call(task: &Bound<'_, PyAny>, why: impl Fn() -> PyErr) -> PyResult<()> {
    let mut awaited = task.call_method0("get_coro")?;
    while let Some(inner) = awaited.getattr_opt("cr_await")? {
        awaited = inner;
    }
    if let Ok(future) = awaited.cast::<OpFuture>() {
        let mark_exception_retrieved = wrap_pyfunction!(mark_exception_retrieved, task.py())?;
        task.call_method1("add_done_callback", (&mark_exception_retrieved,))?;
        OpFuture::resolve(future, Err(why()), Wake::Soon)?;
    }
    Ok(())
}

#[pyfunction]
fn mark_exception_retrieved(task: &Bound<'_, PyAny>) -> PyResult<()> {
    if !task.call_method0("cancelled")?.is_truthy()? {
        task.call_method0("exception")?;
    }
    Ok(())
}

/// Finishes the future in asyncio's way: the loop wakes its waiters in the next iteration.
fn finish(py: Python<'_>, future: &Py<PyAny>) -> PyResult<()> {
    if !future.call_method0(py, intern!(py, "done"))?.is_truthy(py)? {
        future.call_method1(py, intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(())
}

/// A future on which exactly one task waits.
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
            // In a tuple, because a result that is a tuple itself would be taken for the arguments.
            Step::Return(value) => Err(PyStopIteration::new_err((value.unbind(),))),
        }
    }

    /// Called when the task is cancelled, with the exception that `await` raises.
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
