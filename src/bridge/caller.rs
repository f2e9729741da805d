//! The caller of the loop driver: the future that a task waits on.
#![allow(unsafe_code)]
use std::sync::Arc;

use pyo3::prelude::*;

use super::batch::PyBatch;
use super::completion;
use super::future::OpFuture;
use super::item::RawItem;
use super::value_buf::PyValueBuf;
use crate::client::{Caller, FailureKind, Outcome};
use crate::protocol::ItemRef;

/// Called while the core is borrowed, when no Python code may run. So it creates only objects that
/// start no garbage collection (`bytes`), and leaves the outcome to [`completion`].
pub struct PyCaller {
    /// `None`: completed.
    future: Option<Py<OpFuture>>,
}

impl PyCaller {
    pub fn new(future: Py<OpFuture>) -> Self {
        Self { future: Some(future) }
    }
}

/// However an operation ends, its task is woken. No future is dropped while the core is borrowed,
/// because that may free a task, which may run code.
impl Drop for PyCaller {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            completion::complete(future, Outcome::failed(None, FailureKind::Internal));
        }
    }
}

impl Caller for PyCaller {
    type Item = RawItem;
    type Value = PyValueBuf;
    type Source = Arc<PyBatch>;

    #[inline]
    fn item(&self, item: &ItemRef<'_>, shared: Option<&PyValueBuf>) -> Option<RawItem> {
        let future = self.future.as_ref()?;
        let py = attached();
        is_waiting(py, future).then(|| RawItem::new(py, item, shared))
    }

    /// Without a look at the future, which costs as much as the rest of a short item.
    #[inline]
    fn next_item(&self, item: &ItemRef<'_>, shared: Option<&PyValueBuf>) -> Option<RawItem> {
        Some(RawItem::new(attached(), item, shared))
    }

    fn complete(mut self, outcome: Outcome<RawItem>) {
        if let Some(future) = self.future.take() {
            completion::complete(future, outcome);
        }
    }

    /// The task may not wait yet: then it need not wait at all.
    fn accept(mut self) {
        let Some(future) = self.future.take() else { return };
        if !future.get().resolve_unawaited(attached()) {
            completion::complete(future, Outcome::Done);
        }
    }

    fn is_abandoned(&self) -> bool {
        self.future.as_ref().is_none_or(|future| !is_waiting(attached(), future))
    }
}

/// The token of this thread. `Python::attach` costs as much as a short item.
#[inline]
fn attached<'py>() -> Python<'py> {
    debug_assert!(Python::try_attach(|_| ()).is_some());
    // SAFETY: a core with these callers is not `Send`, and all code that enters it holds a `Python`
    // token: the calls of `Session`, and the turns and flushes of `Driver`. While a thread is
    // detached it runs closures that are `Send`, so none of them has the core.
    unsafe { Python::assume_attached() }
}

#[inline]
fn is_waiting(py: Python<'_>, future: &Py<OpFuture>) -> bool {
    future.get().is_pending(py)
}
