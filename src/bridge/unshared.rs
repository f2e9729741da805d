//! Whether any other code refers to an object.
#![allow(unsafe_code)]
use pyo3::prelude::*;

/// Whether the caller has the only reference to `object`. It may answer no if that is not known.
///
/// The interpreter lock keeps other threads from taking a reference meanwhile.
#[cfg(not(Py_GIL_DISABLED))]
#[inline]
#[allow(deprecated, reason = "only checks for other references")]
pub fn is_unshared(py: Python<'_>, object: &Py<PyAny>, _ours: &Py<PyAny>) -> bool {
    object.get_refcnt(py) == 1
}

/// Whether the caller has the only reference to `object`. It may answer no if that is not known.
/// `ours` is an object that this thread created.
///
/// The count of references says nothing while other threads run. This is what `CPython` itself asks
/// before it changes an object in place: the object is of this thread, which has one reference, and
/// other threads never had any. From such an object no other thread can get one, not even by a weak
/// reference, because that needs a mark in the shared count.
#[cfg(all(Py_GIL_DISABLED, not(Py_3_14)))]
#[inline]
pub fn is_unshared(_py: Python<'_>, object: &Py<PyAny>, ours: &Py<PyAny>) -> bool {
    use std::sync::atomic::Ordering::Relaxed;
    // SAFETY: both objects are alive, because the caller has references. The id of the owner
    // changes only while that thread drops its last reference, or after its end. If the owner is
    // another thread, the id may be outdated, but it is not the one of this thread.
    let (object, ours) = unsafe { (&*object.as_ptr(), &*ours.as_ptr()) };
    object.ob_tid != 0
        && object.ob_tid == ours.ob_tid
        && object.ob_ref_local.load(Relaxed) == 1
        && object.ob_ref_shared.load(Relaxed) == 0
}

/// Whether the caller has the only reference to `object`. It may answer no if that is not known.
///
/// The count of references says nothing while other threads run. This is what `CPython` itself asks
/// before it changes an object in place.
#[cfg(all(Py_GIL_DISABLED, Py_3_14))]
#[inline]
pub fn is_unshared(_py: Python<'_>, object: &Py<PyAny>, _ours: &Py<PyAny>) -> bool {
    // SAFETY: this thread is attached, and the caller has a reference to the object.
    unsafe { pyo3::ffi::PyUnstable_Object_IsUniquelyReferenced(object.as_ptr()) != 0 }
}
