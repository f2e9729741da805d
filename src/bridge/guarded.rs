//! The data of a Python object, which any thread may reach at any time.
//!
//! On a build of Python with the interpreter lock, that lock is the guard. On a free-threaded build
//! the guard is a mutex. A thread that waits for the mutex stays attached to the interpreter, so it
//! holds up a fork or a garbage collection until it has the data. That is safe, because the holder
//! needs nothing from the interpreter: see [`Guarded::with`].
#![allow(unsafe_code)]
#[cfg(not(Py_GIL_DISABLED))]
use std::cell::RefCell;
#[cfg(Py_GIL_DISABLED)]
use std::sync::{Mutex, PoisonError};

use pyo3::Python;

#[cfg(Py_GIL_DISABLED)]
pub struct Guarded<T>(Mutex<T>);

#[cfg(not(Py_GIL_DISABLED))]
pub struct Guarded<T>(RefCell<T>);

// SAFETY: the cell is accessed only in `with`, by a thread that holds the interpreter lock. The
// lock orders these accesses, and `T` may be used by one thread after another. A function that lets
// go of the lock within `with` leaves the cell borrowed, so another thread panics and gets no
// reference. Sub-interpreters, which may have locks of their own, are refused at import.
#[cfg(not(Py_GIL_DISABLED))]
unsafe impl<T: Send> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    #[cfg(Py_GIL_DISABLED)]
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    #[cfg(not(Py_GIL_DISABLED))]
    pub fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Accesses the data. `access` must neither run Python code nor drop objects, because that may
    /// run Python code: it returns what is to be dropped.
    #[inline]
    #[cfg(Py_GIL_DISABLED)]
    pub fn with<R>(&self, _: Python<'_>, access: impl FnOnce(&mut T) -> R) -> R {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Accesses the data. `access` must neither run Python code nor drop objects, because that may
    /// run Python code: it returns what is to be dropped.
    #[inline]
    #[cfg(not(Py_GIL_DISABLED))]
    pub fn with<R>(&self, _: Python<'_>, access: impl FnOnce(&mut T) -> R) -> R {
        access(&mut self.0.borrow_mut())
    }
}
