//! The keys and values of a batch, as Python has them.
use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use super::convert;
use crate::client::{BatchSource, BatchValue};
use crate::protocol::Key;

/// The core's thread may read it without the interpreter.
pub struct PyBatch {
    keys: Vec<PyBackedBytes>,
    /// One for each key, if they are stored; otherwise none.
    values: Vec<PyValue>,
    /// One for each key, if a router in Python chose them.
    nodes: Option<Vec<usize>>,
    /// The positions of keys in base64, in order.
    base64: Vec<usize>,
}

enum PyValue {
    Copied(PyBackedBytes),
    Shared(Bytes),
}

impl PyBatch {
    /// `keys` were checked.
    pub fn new(
        py: Python<'_>,
        keys: Vec<Py<PyBytes>>,
        values: Vec<convert::Value>,
        nodes: Option<Vec<usize>>,
    ) -> Self {
        let value = |value: convert::Value| {
            let mut value = match value {
                convert::Value::Object(value) => value.into_bound(py),
                convert::Value::Part(part) => return PyValue::Shared(part),
            };
            if let Some(shared) = convert::shared(&value) {
                return PyValue::Shared(shared);
            }
            // The end of a subclass may run code, and it may come while the core is borrowed.
            if !value.is_exact_instance_of::<PyBytes>() {
                value = PyBytes::new(py, value.as_bytes());
            }
            PyValue::Copied(value.into())
        };
        Self {
            keys: keys.into_iter().map(|key| key.into_bound(py).into()).collect(),
            values: values.into_iter().map(value).collect(),
            nodes,
            base64: Vec::new(),
        }
    }

    /// Keys of meta commands; `base64` has the positions of those that were encoded, in order.
    pub fn of_meta(
        py: Python<'_>,
        keys: Vec<Py<PyBytes>>,
        base64: Vec<usize>,
        nodes: Option<Vec<usize>>,
    ) -> Self {
        Self { base64, ..Self::new(py, keys, Vec::new(), nodes) }
    }

    pub fn keys(&self) -> &[PyBackedBytes] {
        &self.keys
    }
}

impl BatchSource for PyBatch {
    fn len(&self) -> usize {
        self.keys.len()
    }

    fn key(&self, at: usize) -> Key<'_> {
        Key::trusted(&self.keys[at])
    }

    fn value(&self, at: usize) -> BatchValue<'_> {
        match &self.values[at] {
            PyValue::Copied(value) => BatchValue::Copied(value),
            PyValue::Shared(value) => BatchValue::Shared(value),
        }
    }

    fn node(&self, at: usize) -> Option<usize> {
        self.nodes.as_ref().map(|nodes| nodes[at])
    }

    fn is_base64(&self, at: usize) -> bool {
        !self.base64.is_empty() && self.base64.binary_search(&at).is_ok()
    }
}
