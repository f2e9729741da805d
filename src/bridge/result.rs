//! Outcomes as Python objects.
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyByteArray, PyBytes, PyDict, PyList, PyString};

use super::batch::PyBatch;
use super::checkout::CoreCheckout;
use super::errors;
use super::item::RawItem;
use super::meta::{self, MetaForm};
use crate::client::{BatchResult, Gathered, Outcome, RawItems};
use crate::pool::CheckoutId;

/// The Python form of an outcome.
#[derive(Default)]
pub enum Form {
    #[default]
    Plain,
    Item {
        flags: bool,
    },
    Items(Arc<ItemsForm>),
    Batch(Arc<PyBatch>),
    RawItems(Arc<Vec<Py<PyBytes>>>),
    Meta(MetaForm),
    /// The keys of the result.
    MetaMany(Vec<Py<PyBytes>>),
    Checkout(Box<CheckoutForm>),
}

pub struct ItemsForm {
    /// As the result will hold them.
    pub keys: Vec<Py<PyBytes>>,
    pub flags: bool,
    pub is_partial: bool,
}

pub struct CheckoutForm {
    pub session: u64,
    pub checkout: CheckoutId,
}

/// Returned instead of a number if the server does not know the command that creates missing
/// counters.
const UNSUPPORTED: i32 = -1;

/// May start a garbage collection: not while the core is borrowed.
pub fn to_python(py: Python<'_>, form: Form, outcome: Outcome<RawItem>) -> PyResult<Py<PyAny>> {
    Ok(match (outcome, form) {
        (Outcome::Item(Some(item)), Form::Item { flags }) => item.into_item(py, flags)?.into_any(),
        (Outcome::Done | Outcome::Item(None), _) => py.None(),
        (Outcome::Number(number), _) => number.into_pyobject(py)?.into_any().unbind(),
        (Outcome::Unsupported, _) => UNSUPPORTED.into_pyobject(py)?.into_any().unbind(),
        (Outcome::Version(text), _) => {
            PyString::new(py, &String::from_utf8_lossy(&text)).into_any().unbind()
        }
        (Outcome::Items(gathered), Form::Items(form)) => items_to_dict(py, *gathered, &form)?,
        (Outcome::Batch(result), Form::Batch(batch)) => batch_to_tuple(py, *result, &batch)?,
        (Outcome::Batch(result), Form::MetaMany(keys)) => meta::many_to_tuple(py, *result, &keys)?,
        (Outcome::Stats(stats), _) => stats.into_py_dict(py)?.into_any().unbind(),
        (Outcome::CheckedOut, Form::Checkout(form)) => {
            CoreCheckout::new_object(py, form.session, form.checkout)?
        }
        (Outcome::RawReply(text), _) => PyByteArray::new(py, &text).into_any().unbind(),
        (Outcome::RawItems(items), Form::RawItems(keys)) => raw_to_tuple(py, *items, &keys)?,
        (Outcome::Meta(reply), Form::Meta(form)) => meta::to_tuple(py, *reply, form)?,
        (Outcome::Failed(failure), _) => return Err(errors::from_failure(py, &failure)),
        _ => return Err(errors::internal()),
    })
}

/// The items by key; if partial, `(items, errors by key)`.
fn items_to_dict(
    py: Python<'_>,
    mut gathered: Gathered<RawItem>,
    form: &ItemsForm,
) -> PyResult<Py<PyAny>> {
    let ItemsForm { keys, flags, is_partial } = form;
    let items = PyDict::new(py);
    for line in gathered.take_lines() {
        for (at, item) in line.into_items() {
            items.set_item(&keys[at], item.into_item(py, *flags)?)?;
        }
    }
    if !is_partial {
        return Ok(items.into_any().unbind());
    }
    let errors = PyDict::new(py);
    let all: Vec<usize> = (0..keys.len()).collect();
    for (positions, failure) in gathered.failures() {
        for at in positions.unwrap_or(&all) {
            let key = &keys[*at];
            if !items.contains(key)? {
                errors.set_item(key, errors::from_failure(py, failure))?;
            }
        }
    }
    Ok((items, errors).into_pyobject(py)?.into_any().unbind())
}

/// `(done, missed, errors by key)`, each in the order of the call.
fn batch_to_tuple(
    py: Python<'_>,
    result: BatchResult<RawItem>,
    batch: &PyBatch,
) -> PyResult<Py<PyAny>> {
    let keys = batch.keys();
    let done: Vec<_> =
        keys.iter().enumerate().filter_map(|(at, key)| result.is_done(at).then_some(key)).collect();
    let done = PyList::new(py, done)?;
    let missed = PyList::new(py, result.missed.iter().map(|at| &keys[*at]))?;
    let errors = PyDict::new(py);
    for (at, failure) in &result.failed {
        errors.set_item(&keys[*at], errors::from_failure(py, failure))?;
    }
    Ok((done, missed, errors).into_pyobject(py)?.into_any().unbind())
}

/// The result of a retrieval on a connection, as in emcache 1.3: `(keys, values, flags, cas,
/// client_error)`.
fn raw_to_tuple(
    py: Python<'_>,
    raw: RawItems<RawItem>,
    keys: &[Py<PyBytes>],
) -> PyResult<Py<PyAny>> {
    let RawItems { items, error } = raw;
    let keys = PyList::new(py, items.iter().map(|(index, _)| &keys[*index]))?;
    let values = PyList::new(py, items.iter().map(|(_, item)| item.value()))?;
    let flags = PyList::new(py, items.iter().map(|(_, item)| item.flags()))?;
    let cas = PyList::new(py, items.iter().map(|(_, item)| item.cas()))?;
    let error = PyByteArray::new(py, &error);
    Ok((keys, values, flags, cas, error).into_pyobject(py)?.into_any().unbind())
}
