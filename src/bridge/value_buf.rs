//! Values as `bytes` objects. Long values are received into the object that the caller gets,
//! without a copy.
//!
//! The loop driver and the buffer of pieces use this module, so its code runs on a thread that is
//! attached to the interpreter.
#![allow(unsafe_code)]
use std::ptr::NonNull;

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

/// A `bytes` object that is being filled.
///
/// Invariant: `filled <= len`, and the first `filled` of the `len` bytes at `start` are
/// initialized. This is the only reference to the object.
pub struct PartialValue {
    bytes: Py<PyBytes>,
    start: NonNull<u8>,
    filled: usize,
    len: usize,
}

impl PartialValue {
    fn new(py: Python<'_>, len: usize) -> Option<Self> {
        let signed = ffi::Py_ssize_t::try_from(len).ok()?;
        // SAFETY: `py` proves that this thread is attached to the interpreter. With a null pointer
        // the function creates an object with uninitialized bytes, or returns null with an
        // exception set.
        let made = unsafe {
            Bound::from_owned_ptr_or_err(
                py,
                ffi::PyBytes_FromStringAndSize(std::ptr::null(), signed),
            )
        };
        let bytes = made.ok()?.cast_into::<PyBytes>().ok()?;
        // SAFETY: this thread is attached, and the argument is a `bytes` object.
        let start = unsafe { ffi::PyBytes_AsString(bytes.as_ptr()) };
        let start = NonNull::new(start.cast())?;
        Some(Self { bytes: bytes.unbind(), start, filled: 0, len })
    }
}

// SAFETY: this is the only reference to the object, so it is filled by one thread at a time, and
// its memory belongs to no thread.
unsafe impl Send for PartialValue {}

// SAFETY: `chunk_mut` returns the part of the object's memory that is not filled. The memory lives
// as long as `bytes`, and Python never moves it. `advance_mut` counts only bytes that its caller
// has initialized, as its contract demands.
unsafe impl BufMut for PartialValue {
    fn remaining_mut(&self) -> usize {
        self.len - self.filled
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        assert!(count <= self.remaining_mut());
        self.filled += count;
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        // SAFETY: `start` points to `len` bytes, and `filled <= len`. No other code reads or writes
        // them, because this is the only reference to the object and `&mut self` excludes another
        // borrow. The access is to plain memory and needs no attached thread.
        unsafe {
            let rest = self.start.add(self.filled).as_ptr();
            UninitSlice::from_raw_parts_mut(rest, self.remaining_mut())
        }
    }
}
