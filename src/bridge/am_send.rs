//! Slots of [`OpFuture`] that `PyO3` does not offer.
//!
//! `am_send` is what `CPython` 3.11 uses to resume an awaitable. `PyO3` offers only `__next__`,
//! which must create an exception to return a value. Later versions of `CPython` always call
//! `__next__`.
//! `am_await` returns the object itself, as `__await__` does, without the code around a method.
#![allow(unsafe_code)]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::PyTypeInfo;
use pyo3::exceptions::PySystemError;
use pyo3::ffi::{PyObject, PyObject_SelfIter, PySendResult};
use pyo3::prelude::*;

use super::future::{OpFuture, Step};

/// Called once, when the module is created.
pub fn install(py: Python<'_>) {
    let class = OpFuture::type_object_raw(py);
    // SAFETY: the class is a heap type of our own without instances so far. `PyO3` has finished
    // creating it, so `tp_as_async` is null or points to the slots inside the type, and `py` proves
    // that this thread is attached, so no other thread uses them.
    unsafe {
        if let Some(slots) = (*class).tp_as_async.as_mut() {
            slots.am_send = Some(send);
            slots.am_await = Some(PyObject_SelfIter);
        }
    }
}

/// # Safety
/// `CPython` calls this while attached, with `this` an `OpFuture`, and `result` valid for a write.
unsafe extern "C" fn send(
    this: *mut PyObject,
    _value: *mut PyObject,
    result: *mut *mut PyObject,
) -> PySendResult {
    Python::attach(|py| {
        // SAFETY: the caller keeps `this` alive during the call, and it is an `OpFuture`, because
        // no other class has this slot.
        let this = unsafe { Bound::ref_from_ptr(py, &this).cast_unchecked::<OpFuture>() };
        let step = catch_unwind(AssertUnwindSafe(|| OpFuture::step(this)))
            .unwrap_or_else(|_| Err(PySystemError::new_err("emcache panicked; please report it")));
        let (object, status) = match step {
            Ok(Step::Wait(future)) => (future.into_ptr(), PySendResult::PYGEN_NEXT),
            Ok(Step::Return(value)) => (value.into_ptr(), PySendResult::PYGEN_RETURN),
            Err(error) => {
                error.restore(py);
                (ptr::null_mut(), PySendResult::PYGEN_ERROR)
            }
        };
        // SAFETY: `result` is the caller's memory for the result, valid for a write.
        unsafe { result.write(object) };
        status
    })
}
