//! The cores of this thread.
//!
//! A core is neither `Send` nor `Sync`, but Python objects must be both. So they hold a number, and
//! the number finds the core only on the thread to which it belongs.
use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;

use super::completion;
use super::driver::Driver;
use super::errors;
use super::future;
use super::session::Session;
use super::shutdown;
use super::thread_driver;
use crate::cluster::failover::FailoverChange;
use crate::cluster::{NodeChange, NodeEvent};
use crate::pool::{Cause, Change, CheckoutId};

// Never dropped implicitly, because that could happen after other thread-locals, or after the
// interpreter, are gone. `close_all` closes the main thread's cores before the interpreter ends.
// Other threads close theirs when they end.
thread_local! {
    static DRIVERS: ManuallyDrop<RefCell<Vec<Rc<Driver>>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
    static SESSIONS: ManuallyDrop<RefCell<HashMap<u64, Rc<Session>, Identity>>> =
        const { ManuallyDrop::new(RefCell::new(HashMap::with_hasher(Identity(0)))) };
}

/// Closes the remaining cores of a thread, if the interpreter still exists.
struct ThreadEnd;

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        // A panic here would abort the process. Cores that cannot be closed end with it.
        let _ = std::panic::catch_unwind(|| Python::try_attach(close_thread_sessions));
    }
}

thread_local! {
    static THREAD_END: ThreadEnd = const { ThreadEnd };
}

thread_local! {
    /// Tasks of this thread's loops, while the process forks.
    static TASKS: RefCell<Vec<Py<PyAny>>> = const { RefCell::new(Vec::new()) };
}

/// Lists the tasks whose calls end in the child of a fork. From Python 3.14 on the child cannot
/// list its parent's tasks.
#[pyfunction]
pub fn before_fork(py: Python<'_>) {
    let drivers = DRIVERS.with(|all| all.borrow().clone());
    for driver in drivers {
        // If this fails, the loop does not run in the child.
        if let Ok(tasks) = future::tasks_of(driver.event_loop(py).bind(py)) {
            TASKS.with(|all| all.borrow_mut().extend(tasks));
        }
    }
}

#[pyfunction]
pub fn after_fork_in_parent() {
    drop(TASKS.take());
}

/// Forgets, in the child of a fork, all that is its parent's. It is not dropped: the sockets and
/// the epoll instance are shared with the parent, which would lose its registrations.
#[pyfunction]
pub fn after_fork_in_child(py: Python<'_>) {
    crate::host::after_fork_in_child();
    std::mem::forget(SESSIONS.with(|all| std::mem::take(&mut *all.borrow_mut())));
    std::mem::forget(DRIVERS.with(|all| all.take()));
    super::completion::forget_all();
    thread_driver::after_fork_in_child();
    shutdown::after_fork_in_child();
    crate::pool::after_fork_in_child();
    // Another thread of the parent may have held the lock. In that case the child never gets it.
    if let Ok(mut abandoned) = ABANDONED.try_lock() {
        abandoned.clear();
    }
    for task in TASKS.take() {
        // If this fails, the loop does not run in the child.
        let _ = future::end_call(task.bind(py), errors::forked);
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Returns a number that is unique in this process.
pub fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// A session, or a checked-out connection, to which no references are left.
pub struct AbandonedHandle {
    pub session: u64,
    pub checkout: Option<CheckoutId>,
    /// Whether the session has been closed in the meantime.
    pub is_closed: Arc<AtomicBool>,
}

/// Closed by the threads to which they belong.
static ABANDONED: Mutex<Vec<AbandonedHandle>> = Mutex::new(Vec::new());
static ANY_ABANDONED: AtomicBool = AtomicBool::new(false);

/// Leaves an object of another thread to that thread.
pub fn abandon(what: AbandonedHandle) {
    if let Ok(mut abandoned) = ABANDONED.lock() {
        abandoned.push(what);
        ANY_ABANDONED.store(true, Ordering::Release);
    }
}

/// Closes objects of this thread that were abandoned on other threads.
pub fn close_abandoned(py: Python<'_>) {
    if !ANY_ABANDONED.load(Ordering::Acquire) {
        return;
    }
    // The lock is released before closing, because closing may run Python code that abandons more
    // objects. Objects of other threads stay in the list.
    let Ok(mut list) = ABANDONED.lock() else { return };
    let (others, ours): (Vec<_>, Vec<_>) = std::mem::take(&mut *list)
        .into_iter()
        .filter(|what| !what.is_closed.load(Ordering::Acquire))
        .partition(|what| session(what.session).is_none());
    *list = others;
    ANY_ABANDONED.store(!list.is_empty(), Ordering::Release);
    drop(list);
    for AbandonedHandle { session: id, checkout, .. } in ours {
        match (checkout, session(id)) {
            (None, _) => {
                abandon_session(py, id);
            }
            (Some(checkout), Some(session)) => session.release_silently(py, checkout),
            (Some(_), None) => {}
        }
    }
}

/// Closes the sessions of this thread whose loop was closed before them. No code can call them any
/// more, and their waiters may hold the last references to their client.
fn close_sessions_of_closed_loops(py: Python<'_>) {
    let all: Vec<(u64, Rc<Session>)> =
        SESSIONS.with(|all| all.borrow().iter().map(|(id, s)| (*id, s.clone())).collect());
    for (id, session) in all {
        if session.driver.is_loop_closed(py) {
            close_session(py, id);
        }
    }
}

/// Closes all sessions of this thread. Called when the interpreter is about to end.
#[pyfunction]
pub fn close_all(py: Python<'_>) {
    shutdown::freeze_others(py);
    close_thread_sessions(py);
    thread_driver::stop_notifying(py);
}

fn close_thread_sessions(py: Python<'_>) {
    let all: Vec<u64> = SESSIONS.with(|all| all.borrow().keys().copied().collect());
    for id in all {
        close_session(py, id);
    }
}

pub fn driver(id: u64) -> Option<Rc<Driver>> {
    DRIVERS.with(|all| all.borrow().iter().find(|driver| driver.id() == id).cloned())
}

/// The driver of `event_loop`, which must be running on this thread.
pub fn driver_for(event_loop: &Bound<'_, PyAny>) -> PyResult<Rc<Driver>> {
    let py = event_loop.py();
    close_abandoned(py);
    close_sessions_of_closed_loops(py);
    let known = DRIVERS.with(|all| all.borrow().iter().find(|d| d.drives(event_loop)).cloned());
    if let Some(driver) = known {
        return Ok(driver);
    }
    let driver = Driver::start(event_loop, next_id())?;
    DRIVERS.with(|all| all.borrow_mut().push(driver.clone()));
    Ok(driver)
}

pub fn forget_driver(id: u64) {
    // Dropped after the borrow, because this drops Python objects.
    let _forgotten = DRIVERS.with(|all| {
        let mut drivers = all.borrow_mut();
        let at = drivers.iter().position(|driver| driver.id() == id)?;
        Some(drivers.swap_remove(at))
    });
}

pub fn add_session(id: u64, session: Rc<Session>) {
    // Tokio's thread-locals exist by now, so they are dropped after this one.
    THREAD_END.with(|_| ());
    SESSIONS.with(|all| all.borrow_mut().insert(id, session));
}

pub fn session(id: u64) -> Option<Rc<Session>> {
    SESSIONS.with(|all| all.borrow().get(&id).cloned())
}

/// An error comes from the user's callback.
pub fn notify_change(py: Python<'_>, id: u64, change: &NodeChange) -> PyResult<()> {
    let Some(session) = session(id) else { return Ok(()) };
    let (what, why) = change_words(&change.change);
    let node = change.node;
    if let (Some(router), NodeEvent::Pool(change)) = (&session.router, &change.change)
        && let Some(is_healthy) = change.health()
    {
        router.set_health(node, is_healthy);
    }
    let args = (&session.on_change, node, what, why);
    session.driver.call(py, &args.into_pyobject(py)?)
}

/// What became of a node, and why.
pub fn change_words(change: &NodeEvent) -> (&'static str, Option<String>) {
    let redacted = |cause: &Cause| Some(cause.redacted());
    match change {
        NodeEvent::Pool(Change::Healthy) => ("healthy", None),
        NodeEvent::Pool(Change::Unhealthy(cause)) => ("unhealthy", redacted(cause)),
        NodeEvent::Pool(Change::LoginFailing(cause)) => ("login_failing", redacted(cause)),
        NodeEvent::Pool(Change::LoginRecovered) => ("login_recovered", None),
        NodeEvent::Failover(FailoverChange::Returning { outdated }) => {
            ("returning", Some(outdated.to_string()))
        }
        NodeEvent::Failover(FailoverChange::Overflowed { limit }) => {
            ("overflowed", Some(limit.to_string()))
        }
        NodeEvent::Failover(FailoverChange::KeptOut) => ("kept_out", None),
        NodeEvent::Failover(FailoverChange::Flushed) => ("flushed", None),
    }
}

/// Closes a session of this thread to which no references are left, once its `noreply` commands are
/// answered. If a socket is closed before its replies arrive, the server discards commands that it
/// has not read.
pub fn abandon_session(py: Python<'_>, id: u64) -> bool {
    let Some(known) = session(id) else { return false };
    let unanswered = known.noreply_unanswered(py).unwrap_or(0);
    if unanswered == 0 || known.driver.is_loop_closed(py) {
        return close_session(py, id);
    }
    known.close_later();
    if let Err(error) = known.driver.schedule_pending(py) {
        error.write_unraisable(py, None);
    }
    true
}

/// Closes a session of this thread. Returns `false` if it is not on this thread.
pub fn close_session(py: Python<'_>, id: u64) -> bool {
    let Some(session) = SESSIONS.with(|all| all.borrow_mut().remove(&id)) else {
        return false;
    };
    session.is_closed.store(true, Ordering::Release);
    session.close(py);
    let driver = session.driver.clone();
    completion::deliver_all(py);
    driver.remove_session(py, &session);
    true
}

/// Ids are unique already, so they need no hash function.
#[derive(Clone, Copy, Default)]
struct Identity(u64);

impl std::hash::BuildHasher for Identity {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self::default()
    }
}

impl std::hash::Hasher for Identity {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash << 8 | u64::from(*byte));
    }

    fn write_u64(&mut self, id: u64) {
        // hashbrown takes its tag from the high bits.
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
