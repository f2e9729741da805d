//! Values that are created at first use and kept.
//!
//! `PyO3`'s own (`PyOnceLock`, its `intern!`) detach from the interpreter while they take their
//! lock. Another thread may fork at that moment. The child then finds the lock held for ever by a
//! thread that it does not have. Here a thread stays attached while it holds the lock, and holds it
//! only to store the value. A thread that forks is attached too, so a fork finds the lock free.
use std::sync::OnceLock;

use pyo3::PyTypeCheck;
use pyo3::prelude::*;
use pyo3::types::PyString;

pub struct AttachedOnce<T>(OnceLock<Py<T>>);

impl<T> AttachedOnce<T> {
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Threads that ask at the same time may each create a value. All of them get the same one.
    fn get_or_try_init<'py>(
        &self,
        py: Python<'py>,
        make: impl FnOnce() -> PyResult<Py<T>>,
    ) -> PyResult<&Bound<'py, T>> {
        if let Some(known) = self.0.get() {
            return Ok(known.bind(py));
        }
        let value = make()?;
        Ok(self.0.get_or_init(|| value).bind(py))
    }
}

impl<T: PyTypeCheck> AttachedOnce<T> {
    /// The attribute `name` of a module.
    pub fn import<'py>(
        &self,
        py: Python<'py>,
        module: &str,
        name: &str,
    ) -> PyResult<&Bound<'py, T>> {
        self.get_or_try_init(py, || {
            Ok(py.import(module)?.getattr(name)?.cast_into::<T>()?.unbind())
        })
    }
}

/// An interned Python string, as [`intern!`] creates it.
pub struct Name(&'static str, AttachedOnce<PyString>);

impl Name {
    pub const fn new(text: &'static str) -> Self {
        Self(text, AttachedOnce::new())
    }

    pub fn get<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        if let Some(known) = self.1.0.get() {
            return known.bind(py);
        }
        let name = PyString::intern(py, self.0).unbind();
        self.1.0.get_or_init(|| name).bind(py)
    }
}

/// Like `pyo3::intern!`.
macro_rules! intern {
    ($py:expr, $text:expr) => {{
        static NAME: $crate::bridge::once::Name = $crate::bridge::once::Name::new($text);
        NAME.get($py)
    }};
}
pub(super) use intern;
