//! Results on their way to Python.
//!
//! A waiter is told its answer while the core is borrowed, and then nothing of Python's may run. So it
//! only leaves the result here; [`deliver`] gives it to the future when the core is free again.
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
    /// The end of one of its windows.
    Batch(Rc<Batch>),
    Stats(Stats),
    /// `NOT_STORED` and `EXISTS`.
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
    /// `verb`: `None` for a wait that is for no command.
    Failed {
        error: pool::Error,
        verb: Option<Verb>,
    },
    NoNodes {
        error: ClusterError,
        verb: Option<Verb>,
    },
    /// The client was closed before it was sent.
    Closed,
    /// Its time was over before it was sent.
    DeadlinePassed {
        verb: Verb,
        limit: Duration,
    },
    Internal,
    /// A connection for its holder alone.
    CheckedOut {
        session: u64,
        checkout: CheckoutId,
    },
    /// What came for a retrieval on a leased connection.
    Raw(Box<RawItems>),
    /// Nothing to tell; the future is brought along so that it is not dropped while the core is
    /// borrowed: with it may go a task, and with that code of anybody's.
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
    /// Nobody needs the session any more.
    Close {
        session: u64,
    },
}

// Never dropped, as the cores are not: see `registry`.
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

/// Leaves them to nobody: they are of the process that this one was forked from.
pub fn forget_all() {
    std::mem::forget(COMPLETIONS.with(|all| all.take()));
}

/// The loop is kept no longer than this by what is delivered at a time, and by the step of one task.
const DELIVERY_BUDGET: Duration = Duration::from_micros(500);
/// So many are delivered between two looks at the clock.
const CLOCK_INTERVAL: usize = 16;

/// Resolves the futures of what was completed on this thread until now, or of as many as a share of time
/// allows. The others, and what the woken tasks complete in their turn (a call that fails at once), stay
/// for the next time, or they could keep the loop from ever going on.
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
    let (told, future) = match completion {
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
    let Err(error) = told else { return Ok(()) };
    if !error.is_instance_of::<PyException>(py) {
        return Err(error);
    }
    let future = future.as_ref().map(|future| future.bind(py));
    if !future.is_some_and(|f| f.try_borrow().is_ok_and(|f| f.is_loop_closed(py))) {
        error.write_unraisable(py, future.map(Bound::as_any));
    }
    Ok(())
}

/// Resolves all of them without a turn: the loop may not call again.
pub fn deliver_all(py: Python<'_>) {
    while is_pending() {
        if let Err(error) = deliver(py, Wake::Soon) {
            error.write_unraisable(py, None);
        }
    }
}

fn resolve(future: &Bound<'_, OpFuture>, outcome: Outcome, wake: Wake<'_>) -> PyResult<()> {
    // A cancelled call gets no result; large results are not even built.
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
        // Dropped, and with that given back, if nobody waits for it any more.
        Outcome::CheckedOut { session, checkout } => {
            CoreCheckout::new_object(future.py(), session, checkout)
        }
        Outcome::Raw(items) => items.into_tuple(future.py()),
        Outcome::Discarded => return Ok(()),
        failure => Err(failure.to_error(future.py())),
    };
    OpFuture::resolve(future, result, wake)
}

/// Sends what is left of a batch that somebody waits for; `None`: nothing is.
fn send_next_window(future: &Bound<'_, OpFuture>, batch: &Rc<Batch>) -> PyResult<Option<()>> {
    let session = registry::session(batch.session);
    if !batch.is_sent() {
        if !future.try_borrow()?.is_pending() {
            return Ok(Some(()));
        }
        match &session {
            None => batch.end(|| Outcome::Closed),
            Some(session) => match session.passed_timeout(batch) {
                None => return session.send_window(future.py(), batch).map(Some),
                Some(limit) => {
                    let verb = batch.action.verb();
                    batch.end(|| Outcome::DeadlinePassed { verb, limit });
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
    /// One that is not a success, as an exception: a new one each time, because raising one lengthens its
    /// traceback.
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
