//! `emcache.Item`, the result of a retrieval. It behaves like the dataclass of emcache 1.3.
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::basic::CompareOp;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use super::guarded::Guarded;
use super::value_buf::PyValueBuf;
use crate::host::OwnedItem;
use crate::protocol::ItemRef;

#[pyclass(frozen, module = "emcache.base", subclass)]
pub struct Item(Guarded<Fields>);

struct Fields {
    value: Py<PyAny>,
    flags: Py<PyAny>,
    cas: Py<PyAny>,
}

/// The fields of an [`Item`] before it is created. The value is copied once, from the read buffer
/// to the `bytes` object of the caller. A long value is received into that object directly.
pub struct RawItem {
    value: Py<PyBytes>,
    flags: u32,
    cas: Option<u64>,
}

impl RawItem {
    #[inline]
    pub fn new(py: Python<'_>, item: &ItemRef<'_>, shared: Option<&PyValueBuf>) -> Self {
        let ItemRef { value, flags, cas, .. } = *item;
        let value = match shared {
            Some(shared) => shared.clone_ref(py),
            None => PyBytes::new(py, value).unbind(),
        };
        Self { value, flags, cas }
    }

    /// From another thread.
    pub fn from_owned(py: Python<'_>, item: OwnedItem) -> Self {
        let OwnedItem { value, flags, cas } = item;
        Self { value: PyBytes::new(py, &value).unbind(), flags, cas }
    }

    pub fn value(&self) -> &Py<PyBytes> {
        &self.value
    }

    pub fn flags(&self) -> u32 {
        self.flags
    }

    pub fn cas(&self) -> Option<u64> {
        self.cas
    }

    /// May start a garbage collection: not while the core is borrowed.
    #[inline]
    pub fn into_item(self, py: Python<'_>, with_flags: bool) -> PyResult<Py<Item>> {
        let flags = with_flags.then_some(self.flags).into_pyobject(py)?.unbind();
        let cas = self.cas.into_pyobject(py)?.unbind();
        let fields = Fields { value: self.value.into_any(), flags, cas };
        let item = Py::new(py, Item(Guarded::new(fields)))?;
        untrack(py, &item);
        Ok(item)
    }
}

/// Whether objects of the class have the header of the garbage collector.
static HAS_GC_HEADER: AtomicBool = AtomicBool::new(false);

/// Called once, when the module is created. `PyO3` gives every class that header today, but does
/// not promise it.
pub fn check_class(py: Python<'_>) -> PyResult<()> {
    let flags: std::ffi::c_ulong = py.get_type::<Item>().getattr("__flags__")?.extract()?;
    HAS_GC_HEADER.store(flags & pyo3::ffi::Py_TPFLAGS_HAVE_GC != 0, Ordering::Relaxed);
    Ok(())
}

/// Removes an item from the collector's list, because bytes and numbers refer to no other objects.
/// The collector would not see objects that a user stores in an item either, because the class has
/// no `__traverse__`.
#[allow(unsafe_code)]
fn untrack(py: Python<'_>, item: &Py<Item>) {
    if !HAS_GC_HEADER.load(Ordering::Relaxed) {
        return;
    }
    let item = item.bind(py).as_ptr();
    // SAFETY: this thread is attached to the interpreter, `item` is alive and of exactly the class
    // `Item`, and `check_class` has found that objects of this class have the collector's header.
    unsafe { pyo3::ffi::PyObject_GC_UnTrack(item.cast()) }
}

#[pymethods]
impl Item {
    /// Accepts any arguments, because a subclass may define its own `__init__`.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(value, flags, cas)")]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> Self {
        Self(Guarded::new(Fields { value: py.None(), flags: py.None(), cas: py.None() }))
    }

    fn __init__(&self, py: Python<'_>, value: Py<PyAny>, flags: Py<PyAny>, cas: Py<PyAny>) {
        let fields = Fields { value, flags, cas };
        drop(self.0.with(py, |old| std::mem::replace(old, fields)));
    }

    #[getter]
    fn get_value(&self, py: Python<'_>) -> Py<PyAny> {
        self.0.with(py, |fields| fields.value.clone_ref(py))
    }

    #[setter]
    fn set_value(&self, py: Python<'_>, value: Py<PyAny>) {
        drop(self.0.with(py, |fields| std::mem::replace(&mut fields.value, value)));
    }

    #[getter]
    fn get_flags(&self, py: Python<'_>) -> Py<PyAny> {
        self.0.with(py, |fields| fields.flags.clone_ref(py))
    }

    #[setter]
    fn set_flags(&self, py: Python<'_>, flags: Py<PyAny>) {
        drop(self.0.with(py, |fields| std::mem::replace(&mut fields.flags, flags)));
    }

    #[getter]
    fn get_cas(&self, py: Python<'_>) -> Py<PyAny> {
        self.0.with(py, |fields| fields.cas.clone_ref(py))
    }

    #[setter]
    fn set_cas(&self, py: Python<'_>, cas: Py<PyAny>) {
        drop(self.0.with(py, |fields| std::mem::replace(&mut fields.cas, cas)));
    }

    #[classattr]
    fn __match_args__() -> (&'static str, &'static str, &'static str) {
        ("value", "flags", "cas")
    }

    // Compared by value and mutable, so not hashable.
    #[classattr]
    fn __hash__() -> Option<u8> {
        None
    }

    fn __richcmp__(
        slf: &Bound<'_, Self>,
        other: &Bound<'_, PyAny>,
        op: CompareOp,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let same_class = other.get_type().is(slf.get_type());
        if !same_class || !matches!(op, CompareOp::Eq | CompareOp::Ne) {
            return Ok(py.NotImplemented());
        }
        let (ours, theirs) = (fields(slf)?, fields(&other.cast::<Self>()?.clone())?);
        Ok(ours.rich_compare(theirs, op)?.unbind())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let fields = fields(slf)?;
        let (value, flags, cas) = (fields.get_item(0)?, fields.get_item(1)?, fields.get_item(2)?);
        let name = slf.get_type().qualname()?;
        Ok(format!("{name}(value={}, flags={}, cas={})", value.repr()?, flags.repr()?, cas.repr()?))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let py = slf.py();
        let new = py.import("copyreg")?.getattr("__newobj__")?;
        let state = match slf.getattr_opt("__dict__")? {
            Some(subclass_state) => subclass_state.cast_into::<PyDict>()?.copy()?,
            None => PyDict::new(py),
        };
        for (name, value) in ["value", "flags", "cas"].into_iter().zip(slf.get().fields(py)) {
            state.set_item(name, value)?;
        }
        PyTuple::new(py, [new, (slf.get_type(),).into_pyobject(py)?.into_any(), state.into_any()])
    }

    /// The state is that of a plain dataclass, so that items pickled by 1.3 can be read.
    fn __setstate__(slf: &Bound<'_, Self>, state: &Bound<'_, PyDict>) -> PyResult<()> {
        state.iter().try_for_each(|(name, value)| slf.setattr(name.cast::<PyString>()?, value))
    }
}

impl Item {
    /// All fields as they are at one moment.
    fn fields(&self, py: Python<'_>) -> [Py<PyAny>; 3] {
        self.0
            .with(py, |Fields { value, flags, cas }| [value, flags, cas].map(|it| it.clone_ref(py)))
    }
}

fn fields<'py>(item: &Bound<'py, Item>) -> PyResult<Bound<'py, PyTuple>> {
    PyTuple::new(item.py(), item.get().fields(item.py()))
}
