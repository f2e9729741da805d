//! The migration of a client, as Python controls it.
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::client::CoreClient;
use super::convert;
use super::routing::PyRouting;
use crate::client::{MigrationOptions, MigrationStatus, Nodes, Phase};
use crate::cluster::NodeList;

type Object<'py> = Bound<'py, PyAny>;

#[pyclass(frozen, module = "emcache._emcache")]
pub struct CoreMigration(Py<CoreClient>);

#[pymethods]
impl CoreMigration {
    #[new]
    fn new(client: Py<CoreClient>) -> Self {
        Self(client)
    }

    /// Moves items from these nodes to the client's. Returns the positions of new nodes.
    fn migrate_from(
        &self,
        py: Python<'_>,
        addresses: Vec<Object<'_>>,
        routing: &PyRouting,
        phase: &str,
        drain: Option<f64>,
        unknown_ttl: i32,
    ) -> PyResult<Vec<usize>> {
        let (list, options) = arguments(&addresses, routing, phase, drain, unknown_ttl)?;
        if let Some(client) = self.0.get().shared() {
            let added = client.migrate_from(py, list, options)?;
            return added.ok_or_else(under_way);
        }
        self.query(py, move |nodes| nodes.migrate_from(&list, &options))?.ok_or_else(under_way)
    }

    /// Moves items from the client's nodes to these. Returns as `migrate_from`.
    fn migrate_to(
        &self,
        py: Python<'_>,
        addresses: Vec<Object<'_>>,
        routing: &PyRouting,
        phase: &str,
        drain: Option<f64>,
        unknown_ttl: i32,
    ) -> PyResult<Vec<usize>> {
        let (list, options) = arguments(&addresses, routing, phase, drain, unknown_ttl)?;
        self.query(py, move |nodes| nodes.migrate_to(&list, &options))?.ok_or_else(under_way)
    }

    /// This and the next two return whether there is a migration.
    fn set_phase(&self, py: Python<'_>, phase: &str) -> PyResult<bool> {
        let phase = self::phase(phase)?;
        self.query(py, move |nodes| nodes.set_phase(phase))
    }

    fn finish(&self, py: Python<'_>) -> PyResult<bool> {
        self.query(py, |nodes| nodes.finish_migration())
    }

    #[pyo3(signature = (drain = None))]
    fn roll_back(&self, py: Python<'_>, drain: Option<f64>) -> PyResult<bool> {
        let drain = super::client::seconds("drain", drain)?;
        self.query(py, move |nodes| nodes.roll_back(drain))
    }

    /// How often the two lists of nodes have changed their places, in all migrations.
    fn swaps(&self, py: Python<'_>) -> PyResult<u32> {
        self.0.get().operations_on_thread()?.query(py, |nodes| nodes.swaps())
    }

    /// The phase and the counters by name; `None` without a migration.
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let session = self.0.get().operations_on_thread()?;
        let status = session.query(py, |nodes| nodes.migration_status())?;
        status.map(|status| to_dict(py, &status)).transpose()
    }
}

impl CoreMigration {
    fn query<T: Send + 'static>(
        &self,
        py: Python<'_>,
        query: impl FnOnce(&dyn Nodes) -> T + Send + 'static,
    ) -> PyResult<T> {
        if let Some(client) = self.0.get().shared() {
            // A child process could not know how far the migration is.
            client.leave_no_child();
            return client.query(py, query);
        }
        let session = self.0.get().loop_session(py)?;
        let result = session.query(py, query)?;
        session.driver.schedule_pending(py)?;
        Ok(result)
    }
}

fn arguments(
    addresses: &[Object<'_>],
    routing: &PyRouting,
    phase: &str,
    drain: Option<f64>,
    unknown_ttl: i32,
) -> PyResult<(NodeList, MigrationOptions)> {
    let addresses = addresses.iter().map(convert::address).collect::<PyResult<_>>()?;
    let list = NodeList { addresses, routing: routing.routing, specs: routing.specs.clone() };
    let drain = super::client::seconds("drain", drain)?;
    Ok((list, MigrationOptions { phase: self::phase(phase)?, drain, unknown_ttl }))
}

fn phase(name: &str) -> PyResult<Phase> {
    Phase::from_name(name)
        .ok_or_else(|| PyValueError::new_err("phase must be 'prepare', 'move' or 'finish'"))
}

#[cold]
fn under_way() -> PyErr {
    PyRuntimeError::new_err("a migration is under way; client.migration.finish() ends it")
}

fn to_dict<'py>(py: Python<'py>, status: &MigrationStatus) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let counters = &status.counters;
    dict.set_item("phase", status.phase.name())?;
    for (name, count) in [
        ("fallback_hits", counters.fallback_hits),
        ("moved", counters.moved),
        ("overtaken", counters.overtaken),
        ("busy", counters.busy),
        ("failed", counters.failed),
        ("immovable", counters.immovable),
        ("skipped", counters.skipped),
        ("unreached", counters.unreached),
    ] {
        dict.set_item(name, count)?;
    }
    dict.set_item("queued", status.queued)?;
    dict.set_item("unreachable", &status.unreachable)?;
    dict.set_item("plan", status.plan)?;
    dict.set_item("is_rolled_back", status.is_rolled_back)?;
    dict.set_item("ends_in", status.ends_in.map(|time| time.as_secs_f64()))?;
    Ok(dict)
}
