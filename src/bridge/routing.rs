//! The rule that chooses a key's node, checked before anything is sent.
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::convert;
use crate::cluster::routing::{self, NodeSpec, NodeSpecs, Routing};

#[pyclass(frozen, module = "emcache._emcache", name = "Routing")]
pub struct PyRouting {
    pub routing: Routing,
    pub specs: Arc<NodeSpecs>,
    /// See [`super::router::PyRouter`]; it replaces `routing`.
    pub build: Option<Py<PyAny>>,
}

type Spec<'py> = (Bound<'py, PyAny>, Option<u32>, Option<String>);

#[pymethods]
impl PyRouting {
    /// `specs` are addresses, each with its weight and its name for the rule. `build` makes routers
    /// in Python.
    #[new]
    fn new(name: &str, specs: Vec<Spec<'_>>, build: Option<Py<PyAny>>) -> PyResult<Self> {
        let spec = |(address, weight, name): Spec<'_>| {
            PyResult::Ok((convert::address(&address)?, NodeSpec { weight, name }))
        };
        let specs = specs.into_iter().map(spec).collect::<PyResult<_>>()?;
        let routing = Routing::parse(name, &specs)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self { routing, specs: Arc::new(specs), build })
    }

    /// Whether the IP addresses of nodes that have names decide which keys they get.
    #[getter]
    fn hashes_ips(&self) -> bool {
        self.routing.hashes_ips()
    }

    /// All rules with all options.
    #[staticmethod]
    fn names() -> Vec<String> {
        routing::names().map(|(name, _)| name).collect()
    }
}
