//! Values as `bytes`. Long ones are received where the caller will find them: nothing is copied.
#![allow(unsafe_code)]
use std::ptr::NonNull;

use bytes::BufMut;
use bytes::buf::UninitSlice;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::malloc_hint;
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
        malloc_hint::note_value_len(len);
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

/// Invariant: `filled <= len`; `start` points to the `len` bytes of `bytes`, of which the first `filled` are written;
/// no other code has the object.
pub struct PartialValue {
    bytes: Py<PyBytes>,
    start: NonNull<u8>,
    filled: usize,
    len: usize,
}

impl PartialValue {
    fn new(py: Python<'_>, len: usize) -> Option<Self> {
        let signed = ffi::Py_ssize_t::try_from(len).ok()?;
        // SAFETY: this thread is attached, as `py` says. Null in place of bytes creates an object with bytes that are not
        // written, or returns null with an exception set.
        let created = unsafe {
            Bound::from_owned_ptr_or_err(
                py,
                ffi::PyBytes_FromStringAndSize(std::ptr::null(), signed),
            )
        };
        let bytes = created.ok()?.cast_into::<PyBytes>().ok()?;
        // SAFETY: this thread is attached, and the object is of `bytes`.
        let start = NonNull::new(unsafe { ffi::PyBytes_AsString(bytes.as_ptr()) })?.cast();
        Some(Self { bytes: bytes.unbind(), start, filled: 0, len })
    }
}

// SAFETY: `chunk_mut` returns the part that is not filled of memory that lives as long as `bytes`, which Python never
// moves, and `advance_mut` counts what its caller vouches for. Neither calls Python, so no thread need be attached.
unsafe impl BufMut for PartialValue {
    fn remaining_mut(&self) -> usize {
        self.len - self.filled
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        assert!(count <= self.remaining_mut());
        self.filled += count;
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        // SAFETY: `start` points to `len` bytes, `filled` of which are skipped. No Python code has seen the object yet, and
        // this borrow is the only one of its bytes.
        unsafe {
            let rest = self.start.as_ptr().add(self.filled);
            UninitSlice::from_raw_parts_mut(rest, self.remaining_mut())
        }
    }
}
