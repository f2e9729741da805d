//! A method that is looked up once, on its class, and called on many objects.
use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

pub struct UnboundMethod {
    class: Py<PyType>,
    name: Py<PyString>,
    /// `None` if only the objects have it.
    method: Option<Py<PyAny>>,
}

impl UnboundMethod {
    pub fn new(class: &Bound<'_, PyType>, name: &Bound<'_, PyString>) -> PyResult<Self> {
        let method = class.getattr_opt(name)?.map(Bound::unbind);
        Ok(Self { class: class.clone().unbind(), name: name.clone().unbind(), method })
    }

    /// Calls the method of an object, which may be of another class. `args` are the object and the
    /// arguments in `rest`.
    #[inline]
    pub fn call<'py>(
        &self,
        object: &Bound<'py, PyAny>,
        args: impl PyCallArgs<'py>,
        rest: impl PyCallArgs<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = object.py();
        match &self.method {
            Some(method) if object.get_type_ptr() == self.class.bind(py).as_type_ptr() => {
                method.bind(py).call1(args)
            }
            _ => object.call_method1(self.name.bind(py), rest),
        }
    }
}
