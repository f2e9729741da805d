//! Delivery of results to Python.
//!
//! A waiter receives its reply while the core is borrowed, and no Python code may run then. So it
//! only appends the result to a queue. [`deliver`] sets the results on their futures after the core
//! has been released.
use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;

use super::batch::Batch;
use super::checkout::CoreCheckout;
use super::errors;
use super::future::{OpFuture, Wake};
use super::item::RawItem;
use super::registry;
use super::waiter::{Gather, RawItems, Stats};
use crate::cluster::{ClusterError, NodeChange};
use crate::pool::{self, CheckoutId};
use crate::protocol::{ErrorLineKind, Verb};

pub enum Outcome {
    Value(Py<PyAny>),
    Item {
        item: RawItem,
        flags: bool,
    },
    Items(Rc<Gather>),
    /// The end of one window of the batch.
    Batch(Rc<Batch>),
    Stats(Stats),
    /// `NOT_STORED` or `EXISTS`.
    NotStored {
        verb: Verb,
        node: String,
    },
    NotFound {
        verb: Verb,
        node: String,
    },
    /// An error line of the server.
    Refused {
        verb: Verb,
        kind: ErrorLineKind,
        line: String,
        node: String,
    },
    /// `verb` is `None` if the caller waited for a connection and not for a command.
    Failed {
        error: pool::Error,
        verb: Option<Verb>,
    },
    NoNodes {
        error: ClusterError,
        verb: Option<Verb>,
    },
    /// The client was closed before the request was sent.
    Closed,
    /// The deadline passed before the request was sent.
    DeadlinePassed {
        verb: Verb,
        limit: Duration,
    },
    Internal,
    /// A connection for exclusive use.
    CheckedOut {
        session: u64,
        checkout: CheckoutId,
    },
    /// The reply to a retrieval on a checked-out connection.
    Raw(Box<RawItems>),
    /// No result. The queue only takes over the reference to the future, because dropping the last
    /// one may drop a task and run arbitrary code, which must not happen while the core is
    /// borrowed.
    Discarded,
}

enum Completion {
    Answer {
        future: Py<OpFuture>,
        outcome: Outcome,
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

pub fn complete(future: Py<OpFuture>, outcome: Outcome) {
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
    if !future.is_some_and(|f| f.try_borrow().is_ok_and(|f| f.is_loop_closed(py))) {
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

fn resolve(future: &Bound<'_, OpFuture>, outcome: Outcome, wake: Wake<'_>) -> PyResult<()> {
    // A large result of a cancelled call is not even built.
    let is_large = matches!(outcome, Outcome::Items(_) | Outcome::Stats(_) | Outcome::Raw(_));
    if is_large && !future.try_borrow()?.is_pending() {
        return Ok(());
    }
    let result = match outcome {
        Outcome::Value(value) => Ok(value),
        Outcome::Item { item, flags } => item.into_item(future.py(), flags).map(Py::into_any),
        Outcome::Items(gather) => gather.into_items(future.py()),
        Outcome::Batch(batch) => match send_next_window(future, &batch)? {
            Some(()) => return Ok(()),
            None => batch.into_result(future.py()),
        },
        Outcome::Stats(stats) => stats.into_py_dict(future.py()).map(|d| d.into_any().unbind()),
        // If the caller has left, dropping the object returns the connection.
        Outcome::CheckedOut { session, checkout } => {
            CoreCheckout::new_object(future.py(), session, checkout)
        }
        Outcome::Raw(items) => items.into_tuple(future.py()),
        Outcome::Discarded => return Ok(()),
        failure => Err(failure.to_error(future.py())),
    };
    OpFuture::resolve(future, result, wake)
}

/// Sends the rest of a batch that has a waiting caller. Returns `None` if all of it was sent.
fn send_next_window(future: &Bound<'_, OpFuture>, batch: &Rc<Batch>) -> PyResult<Option<()>> {
    let session = registry::session(batch.session);
    if !batch.is_sent() {
        if !future.try_borrow()?.is_pending() {
            return Ok(Some(()));
        }
        match &session {
            None => batch.fail_unsent(|| Outcome::Closed),
            Some(session) => match session.passed_timeout(batch) {
                None => return session.send_window(future.py(), batch).map(Some),
                Some(limit) => {
                    let verb = batch.action.verb();
                    batch.fail_unsent(|| Outcome::DeadlinePassed { verb, limit });
                }
            },
        }
    }
    if let Some(session) = session.filter(|_| batch.is_noreply && batch.is_answered) {
        let errors = &session.no_replies.errors;
        errors.set(errors.get() + batch.failed() as u64);
    }
    Ok(None)
}

impl Outcome {
    /// Converts a failure to an exception. Each call creates a new one, because each raise extends
    /// the traceback.
    pub fn to_error(&self, py: Python<'_>) -> PyErr {
        match self {
            Self::NotStored { verb, node } => errors::not_stored(py, *verb, node),
            Self::NotFound { verb, node } => errors::not_found(py, *verb, node),
            Self::Refused { verb, kind, line, node } => {
                errors::refused(py, *verb, *kind, line, node)
            }
            Self::Failed { error, verb } => errors::failed(py, error, *verb),
            Self::NoNodes { error, verb } => errors::no_nodes(py, *error, *verb),
            Self::Closed => errors::closed(),
            Self::DeadlinePassed { verb, limit } => errors::deadline_passed(py, *verb, *limit),
            _ => errors::internal(),
        }
    }
}
