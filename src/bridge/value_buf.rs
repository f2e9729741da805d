//! Values as `bytes`. Long ones are received where the caller will find them: nothing is copied.
#![allow(unsafe_code)]
use bytes::BufMut;
use bytes::buf::UninitSlice;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::protocol::ValueBuf;

pub struct PyValueBuf(Py<PyBytes>);

impl PyValueBuf {
    pub fn clone_ref(&self, py: Python<'_>) -> Py<PyBytes> {
        self.0.clone_ref(py)
    }
}

impl ValueBuf for PyValueBuf {
    type Partial = PartialValue;

    fn from_slice(value: &[u8]) -> Self {
        Python::attach(|py| Self(PyBytes::new(py, value).unbind()))
    }

    fn allocate(len: usize) -> Option<PartialValue> {
        Python::attach(|py| PartialValue::new(py, len))
    }

    fn finish(partial: PartialValue) -> Self {
        assert_eq!(partial.filled, partial.len);
        Self(partial.bytes)
    }

    fn as_bytes(&self) -> &[u8] {
        Python::attach(|py| self.0.as_bytes(py))
    }
}

/// Invariant: `filled <= len`, and the first `filled` bytes are written. Nobody else has the object.
pub struct PartialValue {
    bytes: Py<PyBytes>,
    filled: usize,
    len: usize,
}

impl PartialValue {
    fn new(py: Python<'_>, len: usize) -> Option<Self> {
        let signed = ffi::Py_ssize_t::try_from(len).ok()?;
        // SAFETY: the interpreter's lock is held; null instead of bytes makes an object whose bytes nobody has
        // written, or returns null with an exception set.
        let made = unsafe {
            Bound::from_owned_ptr_or_err(
                py,
                ffi::PyBytes_FromStringAndSize(std::ptr::null(), signed),
            )
        };
        let bytes = made.ok()?.cast_into::<PyBytes>().ok()?.unbind();
        Some(Self { bytes, filled: 0, len })
    }
}

// SAFETY: `chunk_mut` is what is not filled of memory that lives as long as `bytes`, which is never moved by
// Python, and `advance_mut` counts what its caller vouches for.
unsafe impl BufMut for PartialValue {
    fn remaining_mut(&self) -> usize {
        self.len - self.filled
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        assert!(count <= self.remaining_mut());
        self.filled += count;
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        // SAFETY: the object is of `bytes`, has `len` bytes, and nobody else knows it: no Python code has seen it
        // yet, and this borrow is the only one of it.
        unsafe {
            let start = ffi::PyBytes_AsString(self.bytes.as_ptr()).cast::<u8>();
            UninitSlice::from_raw_parts_mut(start.add(self.filled), self.remaining_mut())
        }
    }
}
