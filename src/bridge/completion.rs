//! Delivery of results to Python.
//!
//! A waiter receives its reply while the core is borrowed, and no Python code may run then. So it
//! only appends the result to a queue. [`deliver`] sets the results on their futures after the core
//! has been released.
use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyException;
use pyo3::prelude::*;

use super::future::{OpFuture, Wake};
use super::item::RawItem;
use super::registry;
use super::result;
use crate::client::Outcome;
use crate::cluster::NodeChange;

enum Completion {
    Answer {
        future: Py<OpFuture>,
        outcome: Outcome<RawItem>,
    },
    Changed {
        session: u64,
        change: NodeChange,
    },
    /// No references to the session are left.
    Close {
        session: u64,
    },
}

// Never dropped, like the cores: see `registry`.
thread_local! {
    static COMPLETIONS: ManuallyDrop<RefCell<VecDeque<Completion>>> =
        const { ManuallyDrop::new(RefCell::new(VecDeque::new())) };
}

pub fn complete(future: Py<OpFuture>, outcome: Outcome<RawItem>) {
    COMPLETIONS.with(|all| all.borrow_mut().push_back(Completion::Answer { future, outcome }));
}

pub fn node_changed(session: u64, change: NodeChange) {
    COMPLETIONS.with(|all| all.borrow_mut().push_back(Completion::Changed { session, change }));
}

pub fn is_pending() -> bool {
    COMPLETIONS.with(|all| !all.borrow().is_empty())
}

pub fn close(session: u64) {
    COMPLETIONS.with(|all| all.borrow_mut().push_back(Completion::Close { session }));
}

/// Forgets all completions without dropping them, because they belong to the parent process.
pub fn forget_all() {
    std::mem::forget(COMPLETIONS.with(|all| all.take()));
}

/// One delivery blocks the loop for at most this long, plus the step of one task.
const DELIVERY_BUDGET: Duration = Duration::from_micros(500);
/// The number of deliveries between two readings of the clock.
const CLOCK_INTERVAL: usize = 16;

/// Resolves the futures of all results queued so far on this thread, or of as many as fit into a
/// share of time. The rest stays for the next delivery. So do results that the woken tasks cause,
/// such as a call that fails at once; otherwise these tasks could block the loop for ever.
///
/// An error is one that must stop the loop, such as `KeyboardInterrupt`.
pub fn deliver(py: Python<'_>, wake: Wake<'_>) -> PyResult<()> {
    let count = COMPLETIONS.with(|all| all.borrow().len());
    let until = (count > CLOCK_INTERVAL).then(|| Instant::now() + DELIVERY_BUDGET);
    for delivered in 1..=count {
        let next = COMPLETIONS.with(|all| all.borrow_mut().pop_front());
        let Some(completion) = next else { break };
        deliver_one(py, completion, wake)?;
        let is_late = || until.is_some_and(|until| Instant::now() >= until);
        if delivered % CLOCK_INTERVAL == 0 && is_late() {
            break;
        }
    }
    Ok(())
}

fn deliver_one(py: Python<'_>, completion: Completion, wake: Wake<'_>) -> PyResult<()> {
    let (delivered, future) = match completion {
        Completion::Answer { future, outcome } => {
            (resolve(future.bind(py), outcome, wake), Some(future))
        }
        Completion::Changed { session, change } => {
            (registry::notify_change(py, session, &change), None)
        }
        Completion::Close { session } => {
            registry::close_session(py, session);
            return Ok(());
        }
    };
    let Err(error) = delivered else { return Ok(()) };
    if !error.is_instance_of::<PyException>(py) {
        return Err(error);
    }
    let future = future.as_ref().map(|future| future.bind(py));
    if !future.is_some_and(|f| f.get().is_loop_closed(py)) {
        error.write_unraisable(py, future.map(Bound::as_any));
    }
    Ok(())
}

/// Resolves all futures without a turn, because the loop may not call again.
pub fn deliver_all(py: Python<'_>) {
    while is_pending() {
        if let Err(error) = deliver(py, Wake::Soon) {
            error.write_unraisable(py, None);
        }
    }
}

fn resolve(
    future: &Bound<'_, OpFuture>,
    outcome: Outcome<RawItem>,
    wake: Wake<'_>,
) -> PyResult<()> {
    let outcome = match outcome {
        Outcome::Done | Outcome::Item(None) => {
            return OpFuture::resolve(future, Ok(future.py().None()), wake);
        }
        other => other,
    };
    // The result of a cancelled call is not built. The exception is a checked-out connection: it is
    // built and dropped, which releases it.
    let is_wanted = matches!(outcome, Outcome::CheckedOut);
    let Some(form) = future.get().take_form(future.py(), is_wanted) else { return Ok(()) };
    OpFuture::resolve(future, result::to_python(future.py(), form, outcome), wake)
}
