//! `am_send` for [`OpFuture`]: how `CPython` 3.11 resumes what is awaited. `PyO3` has only `__next__`, which
//! must make an exception to return a value. (Later versions call `__next__` whatever there is.)
#![allow(unsafe_code)]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::PyTypeInfo;
use pyo3::exceptions::PySystemError;
use pyo3::ffi::{PyObject, PySendResult};
use pyo3::prelude::*;

use super::future::{OpFuture, Step};

/// Called once, when the module is made.
pub fn install(py: Python<'_>) {
    let class = OpFuture::type_object_raw(py);
    // SAFETY: a heap type of our own, which nobody has used yet; those have room for all slots, and
    // `tp_as_async` points to it.
    unsafe {
        if let Some(slots) = (*class).tp_as_async.as_mut() {
            slots.am_send = Some(send);
        }
    }
}

/// # Safety
/// As `CPython` calls it: attached, `this` an `OpFuture`, `result` a place to write to.
unsafe extern "C" fn send(
    this: *mut PyObject,
    _value: *mut PyObject,
    result: *mut *mut PyObject,
) -> PySendResult {
    Python::attach(|py| {
        // SAFETY: `this` is borrowed from the caller, and its class is the one that has this slot.
        let this = unsafe { Bound::ref_from_ptr(py, &this).cast_unchecked::<OpFuture>() };
        let step = catch_unwind(AssertUnwindSafe(|| OpFuture::step(this)))
            .unwrap_or_else(|_| Err(PySystemError::new_err("emcache panicked")));
        let (object, told) = match step {
            Ok(Step::Wait(future)) => (future.into_ptr(), PySendResult::PYGEN_NEXT),
            Ok(Step::Return(value)) => (value.into_ptr(), PySendResult::PYGEN_RETURN),
            Err(error) => {
                error.restore(py);
                (ptr::null_mut(), PySendResult::PYGEN_ERROR)
            }
        };
        // SAFETY: the caller's place for the result.
        unsafe { result.write(object) };
        told
    })
}
