//! A rule written in Python. It chooses the node of a key before the request is submitted, because
//! no Python code runs while the core is borrowed, and the thread driver's core is elsewhere.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::errors;
use crate::cluster::routing::{NodeSpec, Routing};
use crate::cluster::{ClusterError, NodeUpdate, RoutingOrder};

/// Knows which nodes get keys, as the cluster does. It learns a node's health from the
/// notifications that the program gets.
///
/// User code may run in each call of Python, and change the nodes: nothing is locked meanwhile.
pub struct PyRouter {
    /// Receives the indexes of nodes, and returns the function that chooses one of them.
    build: Py<PyAny>,
    order: Mutex<RoutingOrder>,
    /// Counts the changes of `order`.
    version: AtomicU64,
    /// Built for the first key after a change.
    built: Mutex<Option<Arc<Built>>>,
}

struct Built {
    nodes: Vec<usize>,
    /// `None` if there is at most one node.
    choose: Option<Py<PyAny>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PyRouter {
    pub fn new(build: Py<PyAny>, node_count: usize, purge_unhealthy_nodes: bool) -> Self {
        // Any rule that lists the nodes in the order given.
        let order = RoutingOrder::new(node_count, Routing::Rendezvous, purge_unhealthy_nodes);
        Self {
            build,
            order: Mutex::new(order),
            version: AtomicU64::new(0),
            built: Mutex::default(),
        }
    }

    /// The index of a key's node.
    pub fn node_for(&self, py: Python<'_>, key: &[u8]) -> PyResult<usize> {
        self.built(py)?.node_for(py, key)
    }

    /// The indexes of the nodes of all keys, by one function.
    pub fn nodes_for(
        &self,
        py: Python<'_>,
        mut keys: impl ExactSizeIterator<Item = impl AsRef<[u8]>>,
    ) -> PyResult<Vec<usize>> {
        if keys.len() == 0 {
            return Ok(Vec::new());
        }
        let built = self.built(py)?;
        keys.try_fold(Vec::with_capacity(keys.len()), |mut nodes, key| {
            nodes.push(built.node_for(py, key.as_ref())?);
            Ok(nodes)
        })
    }

    /// See [`crate::cluster::Cluster::change`].
    pub fn change(&self, joining: &[usize], leaving: &[usize], order: &[usize]) {
        let mut nodes = lock(&self.order);
        nodes.remove(leaving);
        for &node in joining {
            // If it is not, a notification follows.
            nodes.append(node, true);
        }
        nodes.arrange(order);
        drop(nodes);
        self.rebuild();
    }

    pub fn set_health(&self, node: usize, is_healthy: bool) {
        let changed = lock(&self.order).set_member_health(node, is_healthy);
        if changed {
            self.rebuild();
        }
    }

    fn rebuild(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        // Dropped without the lock, because that may run Python code.
        let outdated = lock(&self.built).take();
        drop(outdated);
    }

    fn built(&self, py: Python<'_>) -> PyResult<Arc<Built>> {
        if let Some(built) = &*lock(&self.built) {
            return Ok(built.clone());
        }
        let version = self.version.load(Ordering::Acquire);
        let nodes = lock(&self.order).routed_nodes();
        let choose = if nodes.len() > 1 { Some(self.build(py, &nodes)?) } else { None };
        let built = Arc::new(Built { nodes, choose });
        let mut current = lock(&self.built);
        let outdated = if self.version.load(Ordering::Acquire) == version {
            current.replace(built.clone())
        } else {
            None
        };
        drop(current);
        drop(outdated);
        Ok(built)
    }

    fn build(&self, py: Python<'_>, nodes: &[usize]) -> PyResult<Py<PyAny>> {
        let choose = self.build.bind(py).call1((nodes,))?;
        if !choose.is_callable() {
            let kind = choose.get_type().name()?.to_string();
            let text = format!("build() of a Router must return a function, not {kind}");
            return Err(PyTypeError::new_err(text));
        }
        Ok(choose.unbind())
    }
}

impl Built {
    fn node_for(&self, py: Python<'_>, key: &[u8]) -> PyResult<usize> {
        let Some(choose) = &self.choose else {
            let only = self.nodes.first().copied();
            return only.ok_or_else(|| errors::no_nodes(py, ClusterError::NoAvailableNodes));
        };
        let chosen = choose.bind(py).call1((PyBytes::new(py, key),))?;
        let position = chosen.extract::<usize>();
        position
            .ok()
            .and_then(|at| self.nodes.get(at).copied())
            .ok_or_else(|| self.refusal(&chosen))
    }

    /// The error for a result that is not the position of a node.
    fn refusal(&self, chosen: &Bound<'_, PyAny>) -> PyErr {
        if chosen.hasattr("__index__").unwrap_or(false) {
            let last = self.nodes.len() - 1;
            let text = format!("the router must return a position from 0 to {last}, not {chosen}");
            return PyValueError::new_err(text);
        }
        let kind = chosen.get_type().name().map_or_else(|_| "it".to_owned(), |it| it.to_string());
        PyTypeError::new_err(format!("the router must return a position, an int, not {kind}"))
    }
}

/// A node's index, its IP address, its weight and its name, as Python passes them.
pub type PyNodeUpdate = (usize, Option<String>, Option<u32>, Option<String>);

pub fn node_updates(updates: Vec<PyNodeUpdate>) -> Vec<NodeUpdate> {
    let update =
        |(node, ip, weight, name)| NodeUpdate { node, ip, spec: NodeSpec { weight, name } };
    updates.into_iter().map(update).collect()
}
