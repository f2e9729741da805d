//! `emcache.Item`: what a retrieval returns. Behaves as the dataclass of emcache 1.3.
use pyo3::basic::CompareOp;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use crate::protocol::ItemRef;

/// Not tracked by Python's garbage collector, which rules out a `__dict__`: it is made while the core is
/// borrowed, when no collection may start (see `waiter`), and a reply may hold thousands of items. A
/// cycle through one would have to be made by hand. Subclasses made in Python have all of that.
#[pyclass(module = "emcache.base", get_all, set_all, subclass)]
pub struct Item {
    value: Py<PyAny>,
    flags: Py<PyAny>,
    cas: Py<PyAny>,
}

impl Item {
    pub fn from_reply(py: Python<'_>, item: &ItemRef<'_>, flags: bool) -> PyResult<Py<Self>> {
        let flags =
            if flags { item.flags.into_pyobject(py)?.into_any().unbind() } else { py.None() };
        let cas = match item.cas {
            Some(cas) => cas.into_pyobject(py)?.into_any().unbind(),
            None => py.None(),
        };
        Py::new(py, Self { value: PyBytes::new(py, item.value).into_any().unbind(), flags, cas })
    }
}

#[pymethods]
impl Item {
    /// Takes anything: a subclass may have an `__init__` of its own.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(value, flags, cas)")]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> Self {
        Self { value: py.None(), flags: py.None(), cas: py.None() }
    }

    fn __init__(&mut self, value: Py<PyAny>, flags: Py<PyAny>, cas: Py<PyAny>) {
        (self.value, self.flags, self.cas) = (value, flags, cas);
    }

    #[classattr]
    fn __match_args__() -> (&'static str, &'static str, &'static str) {
        ("value", "flags", "cas")
    }

    // Equal by value and mutable, so no hash.
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
            Some(of_a_subclass) => of_a_subclass.cast_into::<PyDict>()?.copy()?,
            None => PyDict::new(py),
        };
        let item = slf.try_borrow()?;
        for (name, value) in [("value", &item.value), ("flags", &item.flags), ("cas", &item.cas)] {
            state.set_item(name, value)?;
        }
        PyTuple::new(py, [new, (slf.get_type(),).into_pyobject(py)?.into_any(), state.into_any()])
    }

    /// The state is that of a plain dataclass, so items that 1.3 pickled can be read.
    fn __setstate__(slf: &Bound<'_, Self>, state: &Bound<'_, PyDict>) -> PyResult<()> {
        state.iter().try_for_each(|(name, value)| slf.setattr(name.cast::<PyString>()?, value))
    }
}

fn fields<'py>(item: &Bound<'py, Item>) -> PyResult<Bound<'py, PyTuple>> {
    let py = item.py();
    let item = item.try_borrow()?;
    PyTuple::new(py, [&item.value, &item.flags, &item.cas])
}
