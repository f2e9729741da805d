//! Results on their way to Python.
//!
//! A waiter is told its answer while the core is borrowed, and then nothing of Python's may run. So it
//! only leaves the result here; [`deliver`] gives it to the future when the core is free again.
use std::cell::RefCell;

use pyo3::intern;
use pyo3::prelude::*;

use super::errors;
use crate::pool;
use crate::protocol::{ErrorKind, Verb};

pub enum Outcome {
    Value(Py<PyAny>),
    /// `NOT_STORED` and `EXISTS`.
    NotStored,
    NotFound {
        verb: Verb,
    },
    /// An error line of the server.
    Refused {
        verb: Verb,
        kind: ErrorKind,
        line: String,
    },
    Failed(pool::Error),
    /// Nothing to tell; the future is brought along so that it is not dropped while the core is
    /// borrowed: with it may go a task, and with that code of anybody's.
    Nobody,
}

struct Completion {
    future: Py<PyAny>,
    outcome: Outcome,
}

thread_local! {
    static COMPLETIONS: RefCell<Vec<Completion>> = const { RefCell::new(Vec::new()) };
}

pub fn complete(future: Py<PyAny>, outcome: Outcome) {
    COMPLETIONS.with_borrow_mut(|completions| completions.push(Completion { future, outcome }));
}

pub fn is_pending() -> bool {
    COMPLETIONS.with_borrow(|completions| !completions.is_empty())
}

/// Resolves the futures of what was completed on this thread.
pub fn deliver(py: Python<'_>) {
    // Setting a result may run code of anybody's (a finalizer, by way of the garbage collector), and
    // that may complete more.
    while is_pending() {
        let mut batch = COMPLETIONS.take();
        for Completion { future, outcome } in batch.drain(..) {
            let future = future.bind(py);
            if let Err(error) = resolve(future, outcome)
                && !is_done(future)
                && !is_loop_closed(future)
            {
                error.write_unraisable(py, Some(future));
            }
        }
        COMPLETIONS.with_borrow_mut(|completions| {
            if completions.is_empty() {
                *completions = batch;
            }
        });
    }
}

fn resolve(future: &Bound<'_, PyAny>, outcome: Outcome) -> PyResult<()> {
    let py = future.py();
    let error = match outcome {
        Outcome::Value(value) => {
            future.call_method1(intern!(py, "set_result"), (value,))?;
            return Ok(());
        }
        Outcome::NotStored => errors::not_stored(),
        Outcome::NotFound { verb } => errors::not_found(verb),
        Outcome::Refused { verb, kind, line } => errors::refused(verb, kind, &line),
        Outcome::Failed(error) => errors::failed(py, &error),
        Outcome::Nobody => return Ok(()),
    };
    future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?;
    Ok(())
}

/// A future that was cancelled takes no result, and nobody misses it.
pub fn is_done(future: &Bound<'_, PyAny>) -> bool {
    future
        .call_method0(intern!(future.py(), "done"))
        .and_then(|done| done.is_truthy())
        .unwrap_or(true)
}

/// The futures of a loop that was closed can wake nobody any more.
fn is_loop_closed(future: &Bound<'_, PyAny>) -> bool {
    let py = future.py();
    future
        .call_method0(intern!(py, "get_loop"))
        .and_then(|event_loop| event_loop.call_method0(intern!(py, "is_closed")))
        .and_then(|closed| closed.is_truthy())
        .unwrap_or(true)
}
