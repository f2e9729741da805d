//! A call that stores, deletes or touches many keys: one request per key, and one future for all.
//!
//! The requests are sent in windows, so that a call does not overflow the queues. The next window
//! is sent when all requests of the previous one are answered. Most calls fit into one window.
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use tokio::time::Instant;

use super::completion::{self, Outcome};
use super::convert;
use super::future::OpFuture;
use super::waiter::complete_with_none;
use crate::pool::Submission;
use crate::protocol::{Command, Key, Nanos, OwnedRequest, Request, StorageVerb, Verb};

/// Well below the limit of requests that may wait for one node.
const WINDOW_KEYS: usize = 16 * 1024;
const WINDOW_BYTES: usize = 16 * 1024 * 1024;

/// The command for each key.
#[derive(Clone, Copy)]
pub enum Action {
    Store { verb: StorageVerb, flags: u32, exptime: i32 },
    Delete,
    Touch { exptime: i32 },
}

pub struct Batch {
    pub session: u64,
    pub future: Py<OpFuture>,
    pub action: Action,
    pub keys: Vec<Py<PyBytes>>,
    /// One value per key for [`Action::Store`], otherwise empty.
    pub values: Vec<Py<PyBytes>>,
    /// The deadline of all windows, on the clock of the driver in use.
    pub deadline: (Nanos, Option<Instant>),
    /// Whether the call was made with `noreply`.
    pub is_noreply: bool,
    /// Whether the call lasts until all requests are answered. Otherwise it lasts until all are on
    /// a connection.
    pub is_answered: bool,
    pub progress: Progress,
}

/// Invariant: `missing` of the first `sent` requests are unanswered.
#[derive(Default)]
pub struct Progress {
    sent: Cell<usize>,
    missing: Cell<usize>,
    misses: RefCell<Vec<usize>>,
    failures: RefCell<Vec<(usize, Outcome)>>,
}

impl Action {
    pub fn verb(self) -> Verb {
        match self {
            Self::Store { verb, .. } => verb.verb(),
            Self::Delete => Verb::Delete,
            Self::Touch { .. } => Verb::Touch,
        }
    }
}

impl Batch {
    /// The end of the window that starts with the key at `start`.
    fn window_end(&self, py: Python<'_>, start: usize) -> usize {
        let last = self.keys.len().min(start + WINDOW_KEYS);
        let (mut end, mut bytes) = (start, 0);
        while end < last && bytes < WINDOW_BYTES {
            bytes += self.values.get(end).map_or(0, |value| value.as_bytes(py).len());
            end += 1;
        }
        end
    }

    /// The keys to send next, which count as sent from now on.
    pub fn next_window(&self, py: Python<'_>) -> Range<usize> {
        let start = self.progress.sent.get();
        let end = self.window_end(py, start);
        self.progress.sent.set(end);
        self.progress.missing.set(end - start);
        start..end
    }

    pub fn is_one_window(&self, py: Python<'_>) -> bool {
        self.window_end(py, 0) == self.keys.len()
    }

    pub fn is_sent(&self) -> bool {
        self.progress.sent.get() == self.keys.len()
    }

    /// Calls `send` with the request for the key at position `at`.
    pub fn request<T>(
        &self,
        py: Python<'_>,
        at: usize,
        send: impl FnOnce(Key<'_>, Submission<'_>) -> T,
    ) -> T {
        let key = Key::trusted(self.keys[at].as_bytes(py));
        let command = match self.action {
            Action::Store { verb, flags, exptime } => {
                let value = self.values[at].bind(py);
                if let Some(value) = convert::shared(value) {
                    let request = OwnedRequest::storage(verb, key, flags, exptime, value);
                    return send(key, Submission::Owned(request));
                }
                Command::Storage { verb, key, flags, exptime, value: value.as_bytes() }
            }
            Action::Delete => Command::Delete { key },
            Action::Touch { exptime } => Command::Touch { key, exptime },
        };
        send(key, Submission::Borrowed(&Request::Command(command)))
    }

    pub fn answered(self: Rc<Self>, py: Python<'_>, at: usize, outcome: Outcome) {
        let progress = &self.progress;
        match outcome {
            Outcome::Value(_) => {}
            Outcome::NotStored { .. } | Outcome::NotFound { .. } => {
                progress.misses.borrow_mut().push(at);
            }
            failure => progress.failures.borrow_mut().push((at, failure)),
        }
        progress.missing.set(progress.missing.get() - 1);
        if progress.missing.get() > 0 {
            return;
        }
        let future = self.future.clone_ref(py);
        if self.is_answered || self.failed() > 0 {
            completion::complete(future, Outcome::Batch(self));
        } else {
            complete_with_none(py, future);
        }
    }

    /// Records a failure for each key that has not been sent, and sends no more.
    pub fn fail_unsent(&self, why: impl Fn() -> Outcome) {
        let rest = self.progress.sent.replace(self.keys.len())..self.keys.len();
        self.progress.failures.borrow_mut().extend(rest.map(|at| (at, why())));
    }

    pub fn failed(&self) -> usize {
        self.progress.failures.borrow().len()
    }

    /// `(done, missed, errors by key)`, each in the order of the call. May start a garbage
    /// collection, so it must not be called while the core is borrowed.
    pub fn into_result(self: Rc<Self>, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut misses = self.progress.misses.take();
        let mut failures = self.progress.failures.take();
        misses.sort_unstable();
        failures.sort_unstable_by_key(|(at, _)| *at);
        if self.is_noreply {
            // Refusals by the server are only counted, as for any call with `noreply`.
            let is_refusal = |outcome: &Outcome| matches!(outcome, Outcome::Refused { .. });
            let unsent = failures.iter().map(|(_, failure)| failure).find(|f| !is_refusal(f));
            return unsent.map_or_else(|| Ok(py.None()), |failure| Err(failure.to_error(py)));
        }
        let is_done = |at: &usize| {
            misses.binary_search(at).is_err()
                && failures.binary_search_by_key(at, |(failed, _)| *failed).is_err()
        };
        let key_at = |at: usize| &self.keys[at];
        let done: Vec<_> = (0..self.keys.len()).filter(is_done).map(key_at).collect();
        let done = PyList::new(py, done)?;
        let not_done = PyList::new(py, misses.iter().map(|at| key_at(*at)))?;
        let errors = PyDict::new(py);
        for (at, failure) in failures {
            errors.set_item(key_at(at), failure.to_error(py))?;
        }
        Ok((done, not_done, errors).into_pyobject(py)?.into_any().unbind())
    }
}
