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
//!
//! Only the loop's thread awaits a call and sets its result, but any thread may print it, close it
//! or drop it. So the state is [`Guarded`], and nothing is decided by whether it is in use.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple, PyType};

use super::guarded::Guarded;
use super::once::{AttachedOnce, intern};
use super::result::Form;
use super::unbound::UnboundMethod;
use super::unshared::is_unshared;

// `PyO3` detaches a thread that waits for the lock of a free list. Without the interpreter lock a
// fork may come at that moment, and its child finds the list locked for ever.
#[cfg_attr(not(Py_GIL_DISABLED), pyclass(frozen, module = "emcache._emcache", freelist = 1024))]
#[cfg_attr(Py_GIL_DISABLED, pyclass(frozen, module = "emcache._emcache"))]
pub struct OpFuture {
    future_pool: Py<FuturePool>,
    call: Guarded<Call>,
}

struct Call {
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
    /// The result was returned.
    Done,
    /// The caller has left.
    Abandoned,
}

/// What a step of `await` finds.
enum Found {
    Value(Py<PyAny>),
    Error(PyErr),
    Awaited,
    Abandoned,
    /// The future to wait on.
    Future(Py<PyAny>),
    /// There is no result, and no future either.
    Nothing,
}

impl Call {
    #[inline]
    fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending)
    }

    fn find(&mut self, py: Python<'_>) -> Found {
        match &self.state {
            State::Pending => self
                .borrowed
                .as_ref()
                .map_or(Found::Nothing, |borrowed| Found::Future(borrowed.clone_ref(py))),
            State::Done => Found::Awaited,
            State::Abandoned => Found::Abandoned,
            State::Value(_) | State::Error(_) => {
                match std::mem::replace(&mut self.state, State::Done) {
                    State::Value(value) => Found::Value(value),
                    State::Error(error) => Found::Error(error),
                    _ => Found::Awaited,
                }
            }
        }
    }
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
    idle: Guarded<Vec<Py<PyAny>>>,
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
            idle: Guarded::new(Vec::new()),
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
        let idle = self.idle.with(py, Vec::pop);
        idle.map_or_else(|| self.create_future.call0(py), Ok)
    }

    /// Wakes the task that waits on `future`, and then makes the future available again.
    fn wake(&self, wait: Wait<'_>, future: Py<PyAny>) -> PyResult<()> {
        let Wait { task, wake_up, context } = wait;
        let py = task.py();
        let removed =
            self.remove_done_callback.call(future.bind(py), (&future, &wake_up), (&wake_up,));
        match removed.and_then(|count| count.is_truthy()) {
            Ok(true) => {}
            // Another thread has cancelled the future meanwhile, which wakes the task too.
            Ok(false) => return finish(py, &future),
            Err(error) => {
                finish(py, &future)?;
                return Err(error);
            }
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
    fn return_future(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<()> {
        if !is_unshared(py, &future, &self.answered) {
            return finish(py, &future);
        }
        let surplus = self.idle.with(py, |idle| {
            if idle.len() < MAX_IDLE {
                idle.push(future);
                return None;
            }
            Some(future)
        });
        drop(surplus);
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
            idle: Guarded::new(Vec::new()),
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
        let call = Call { state: State::Pending, form, borrowed: None, abandoned: None };
        Py::new(py, Self { future_pool, call: Guarded::new(call) })
    }

    /// Takes the form in which to return the outcome. `None` if the caller has given up, unless
    /// `is_wanted`.
    #[inline]
    pub fn take_form(&self, py: Python<'_>, is_wanted: bool) -> Option<Form> {
        self.call.with(py, |call| {
            let is_wanted = is_wanted || call.is_pending();
            is_wanted.then(|| std::mem::take(&mut call.form))
        })
    }

    /// Returns a flag that may be read without the interpreter.
    pub fn watch_abandoned(&self, py: Python<'_>) -> Arc<AtomicBool> {
        self.call.with(py, |call| call.abandoned.get_or_insert_default().clone())
    }

    /// Tasks of a closed loop cannot be woken.
    pub fn is_loop_closed(&self, py: Python<'_>) -> bool {
        let event_loop = &self.future_pool.get().event_loop;
        let closed = event_loop.call_method0(py, intern!(py, "is_closed"));
        closed.and_then(|closed| closed.is_truthy(py)).unwrap_or(true)
    }

    #[inline]
    pub fn is_pending(&self, py: Python<'_>) -> bool {
        self.call.with(py, |call| call.is_pending())
    }

    /// Sets the result and wakes the waiting task, unless the caller has left. An error comes from
    /// the task.
    pub fn resolve(
        slf: &Bound<'_, Self>,
        result: PyResult<Py<PyAny>>,
        wake: Wake<'_>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let result = match result {
            Ok(value) => State::Value(value),
            Err(error) => State::Error(error),
        };
        let (borrowed, unwanted) = this.call.with(py, |call| {
            if !call.is_pending() {
                return (None, Some(result));
            }
            call.state = result;
            (call.borrowed.take(), None)
        });
        drop(unwanted);
        let Some(borrowed) = borrowed else { return Ok(()) };
        let future_pool = &this.future_pool;
        if matches!(wake, Wake::Now(here) if here.is(future_pool) && here.get().steps_tasks())
            // Futures of other loops' own types may lack these attributes.
            && let Some(wait) = Wait::on(borrowed.bind(py)).unwrap_or_default()
        {
            return future_pool.get().wake(wait, borrowed);
        }
        finish(py, &borrowed)
    }

    /// Completes a call with `None` if its task does not wait yet. Runs no Python code. Returns
    /// whether it did so.
    pub fn resolve_unawaited(&self, py: Python<'_>) -> bool {
        self.call.with(py, |call| {
            let is_unawaited = call.is_pending() && call.borrowed.is_none();
            if is_unawaited {
                call.state = State::Value(py.None());
            }
            is_unawaited
        })
    }

    /// One step of `await`: the first one, or the one after a wake-up.
    pub fn step<'py>(slf: &Bound<'py, Self>) -> PyResult<Step<'py>> {
        let (py, this) = (slf.py(), slf.get());
        let mut found = this.call.with(py, |call| call.find(py));
        if matches!(found, Found::Nothing) {
            // This may run Python code, during which the result may arrive, or another future. So
            // the call is looked at again.
            let new = this.future_pool.get().take(py)?;
            let spare;
            (found, spare) = this.call.with(py, |call| match call.find(py) {
                Found::Nothing => {
                    call.borrowed = Some(new.clone_ref(py));
                    (Found::Future(new), None)
                }
                found => (found, Some(new)),
            });
            drop(spare);
        }
        match found {
            Found::Value(value) => Ok(Step::Return(value.into_bound(py))),
            Found::Error(error) => Err(error),
            Found::Future(future) => {
                let future = future.into_bound(py);
                future.setattr(intern!(py, "_asyncio_future_blocking"), true)?;
                Ok(Step::Wait(future))
            }
            Found::Awaited => Err(PyRuntimeError::new_err(
                "this call was already awaited; a call can be awaited only once",
            )),
            Found::Abandoned | Found::Nothing => {
                Err(PyRuntimeError::new_err("this call was cancelled or closed"))
            }
        }
    }

    /// Called when the caller leaves. The request stays in the pipeline, and its reply is
    /// discarded.
    fn abandon(&self, py: Python<'_>) -> PyResult<()> {
        let (state, borrowed) = self.call.with(py, |call| {
            if let Some(abandoned) = &call.abandoned {
                abandoned.store(true, Ordering::Relaxed);
            }
            (std::mem::replace(&mut call.state, State::Abandoned), call.borrowed.take())
        });
        // Dropping the last reference to a checked-out connection returns it to the pool.
        drop(state);
        borrowed.map_or(Ok(()), |borrowed| self.wake_deserted(py, borrowed.bind(py)))
    }

    /// Wakes a task that waits on a call which other code has closed, maybe on another thread.
    /// A task that was cancelled does not wait any more.
    fn wake_deserted(&self, py: Python<'_>, borrowed: &Bound<'_, PyAny>) -> PyResult<()> {
        if borrowed.call_method0(intern!(py, "done"))?.is_truthy()? {
            return Ok(());
        }
        let callbacks = borrowed.getattr_opt(intern!(py, "_callbacks"))?;
        if callbacks.map_or(Ok(false), |callbacks| callbacks.is_truthy())? {
            let finish = wrap_pyfunction!(finish_future, py)?;
            let event_loop = &self.future_pool.get().event_loop;
            // A closed loop refuses the call, and wakes no task any more.
            let call = intern!(py, "call_soon_threadsafe");
            let _ = event_loop.call_method1(py, call, (finish, borrowed));
        }
        Ok(())
    }
}

#[pyfunction]
fn finish_future(future: Py<PyAny>, py: Python<'_>) -> PyResult<()> {
    finish(py, &future)
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
        slf.get().abandon(slf.py())?;
        Err(PyErr::from_value(value.unwrap_or(error)))
    }

    /// Called when the coroutine that awaits is closed.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().abandon(slf.py())
    }

    fn __repr__(&self, py: Python<'_>) -> &'static str {
        if self.is_pending(py) { "<emcache request pending>" } else { "<emcache request finished>" }
    }
}
