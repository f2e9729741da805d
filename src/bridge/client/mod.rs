//! `CoreClient`: one short method per command.
mod calls;
mod lifecycle;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyDict;

pub use self::lifecycle::{seconds, session_here};
use super::blocking::{BlockingClient, Ended};
use super::driver::running_loop;
use super::failover;
use super::operations::{Answer, Operations};
use super::registry;
use super::result::{self, Form};
use super::router::{PyNodeUpdate, PyRouter};
use super::routing::PyRouting;
use super::security::PySecurity;
use super::session::Awaitable;
use super::shared_client::SharedClient;
use super::{convert, errors, snapshot};
use crate::client::{Action, Expect, Outcome, Target};
use crate::cluster::ClusterConfig;
use crate::host::{NodeAt, SharedCore, fork_count};
use crate::pool::PoolConfig;
use crate::protocol::{
    ArithmeticVerb, Command, OwnedRequest, Request, RetrievalVerb, StorageVerb, Words,
};

#[pyclass(frozen, module = "emcache._emcache")]
pub struct CoreClient {
    /// Whether the user closed the client.
    closed: AtomicBool,
    home: Home,
}

/// Where the core of a client is.
enum Home {
    Loop(LoopHome),
    /// With the threads that call.
    Blocking(Box<BlockingClient>),
    /// On the core's thread, for calls of all threads.
    Shared(Box<SharedClient>),
}

/// On the thread of an event loop.
struct LoopHome {
    id: u64,
    /// The fork count when the client was created. If it has changed, the client belongs to the
    /// parent process.
    forks: u64,
    /// Whether the session is closed, either with the client, with its loop or with its thread.
    is_closed: Arc<AtomicBool>,
    event_loop: Py<PyAny>,
    /// The driver's callback, used when the client is abandoned on another thread.
    turn: Py<PyAny>,
}

type Object<'py> = Bound<'py, PyAny>;

#[pymethods]
impl CoreClient {
    /// `blocking`: callers wait, and whether they may do so where an event loop runs. With `None`
    /// the running loop drives the core. `shared`: all callers wait for one core, as they always do
    /// with failover and with a router in Python.
    #[new]
    #[allow(clippy::too_many_arguments, reason = "called from one place, by keyword")]
    #[pyo3(signature = (addresses, *, timeout, min_connections, max_connections,
        purge_unused_connections_after, connection_timeout, purge_unhealthy_nodes,
        max_merged_keys, security, routing, failover, on_change, hot_keys = 0, blocking = None,
        shared = false))]
    fn new(
        py: Python<'_>,
        addresses: Vec<Object<'_>>,
        timeout: Option<f64>,
        min_connections: usize,
        max_connections: usize,
        purge_unused_connections_after: Option<f64>,
        connection_timeout: Option<f64>,
        purge_unhealthy_nodes: bool,
        max_merged_keys: u32,
        security: &PySecurity,
        routing: &PyRouting,
        failover: Option<failover::Arguments<'_>>,
        on_change: Py<PyAny>,
        hot_keys: usize,
        blocking: Option<bool>,
        shared: bool,
    ) -> PyResult<Self> {
        // Before any call of Python, which may fork.
        let forks = fork_count();
        let addresses: Vec<_> = addresses.iter().map(convert::address).collect::<PyResult<_>>()?;
        let timeout = seconds("timeout", timeout)?;
        let mut config = ClusterConfig {
            pool: PoolConfig {
                min_connections,
                max_connections,
                purge_unused_after: seconds(
                    "purge_unused_connections_after",
                    purge_unused_connections_after,
                )?,
                connection_timeout: seconds("connection_timeout", connection_timeout)?,
                timeout,
                max_merged_keys,
                security: security.0.clone(),
            },
            purge_unhealthy_nodes,
            routing: routing.routing,
            specs: routing.specs.clone(),
            hot_keys,
            failover: failover.map(failover::config).transpose()?,
        };
        let build = routing.build.as_ref().map(|build| build.clone_ref(py));
        if let Some(failover) = &mut config.failover {
            failover.homes_are_given = build.is_some();
        }
        if let Some(allow_in_event_loop) = blocking
            && (shared || config.failover.is_some() || build.is_some())
        {
            let router = build.map(|it| PyRouter::new(it, addresses.len(), purge_unhealthy_nodes));
            let core = SharedCore::new(registry::next_id(), addresses, config);
            let client = SharedClient::new(core, router, on_change, allow_in_event_loop);
            let closed = AtomicBool::new(false);
            return Ok(Self { closed, home: Home::Shared(Box::new(client)) });
        }
        if let Some(allow_in_event_loop) = blocking {
            let nodes = addresses.into_iter().map(|address| NodeAt { address, ip: None }).collect();
            let client = BlockingClient::new(nodes, config, on_change, allow_in_event_loop);
            return Ok(Self {
                closed: AtomicBool::new(false),
                home: Home::Blocking(Box::new(client)),
            });
        }
        let event_loop = running_loop(py)?.ok_or_else(errors::no_loop)?;
        Self::open_session(py, forks, event_loop, addresses, config, build, on_change)
    }

    /// Whether the client was created in a parent of this process, and cannot be used here.
    #[getter]
    fn forked(&self) -> bool {
        matches!(&self.home, Home::Loop(home) if home.forks != fork_count())
    }

    #[getter]
    fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends all requests and closes all connections. A second call has no effect.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.close_session(py)
    }

    /// Closes a client to which no references are left. The garbage collector may run on any
    /// thread; the client is closed on its loop's thread.
    fn abandon(&self, py: Python<'_>) {
        self.abandon_session(py);
    }

    /// Completes when all `noreply` commands are answered.
    fn drain(&self, py: Python<'_>) -> Answer {
        self.session(py)?.drain(py)
    }

    /// The number of unanswered `noreply` commands. It is 0 for a client of another thread.
    #[getter]
    fn noreply_unanswered(&self, py: Python<'_>) -> usize {
        let known = self.operations_on_thread();
        known.map_or(0, |known| known.noreply_unanswered(py).unwrap_or(0))
    }

    fn get(&self, py: Python<'_>, key: &Object<'_>, return_flags: &Object<'_>) -> Answer {
        self.fetch(py, || Ok(RetrievalVerb::Get), key, return_flags)
    }

    fn gets(&self, py: Python<'_>, key: &Object<'_>, return_flags: &Object<'_>) -> Answer {
        self.fetch(py, || Ok(RetrievalVerb::Gets), key, return_flags)
    }

    fn gat(
        &self,
        py: Python<'_>,
        exptime: &Object<'_>,
        key: &Object<'_>,
        return_flags: &Object<'_>,
    ) -> Answer {
        let verb = || Ok(RetrievalVerb::Gat { exptime: convert::exptime(exptime)? });
        self.fetch(py, verb, key, return_flags)
    }

    fn gats(
        &self,
        py: Python<'_>,
        exptime: &Object<'_>,
        key: &Object<'_>,
        return_flags: &Object<'_>,
    ) -> Answer {
        let verb = || Ok(RetrievalVerb::Gats { exptime: convert::exptime(exptime)? });
        self.fetch(py, verb, key, return_flags)
    }

    fn get_many(&self, py: Python<'_>, keys: &Object<'_>, return_flags: &Object<'_>) -> Answer {
        self.fetch_many(py, || Ok(RetrievalVerb::Get), keys, return_flags, false)
    }

    fn gets_many(&self, py: Python<'_>, keys: &Object<'_>, return_flags: &Object<'_>) -> Answer {
        self.fetch_many(py, || Ok(RetrievalVerb::Gets), keys, return_flags, false)
    }

    /// `verb` is `get` or `gets`, or with an exptime `gat` or `gats`. Returns the items, and errors
    /// by key.
    fn fetch_partial(
        &self,
        py: Python<'_>,
        verb: &str,
        exptime: &Object<'_>,
        keys: &Object<'_>,
        return_flags: &Object<'_>,
    ) -> Answer {
        let verb = || {
            Ok(match verb {
                "gats" => RetrievalVerb::Gats { exptime: convert::exptime(exptime)? },
                "gat" => RetrievalVerb::Gat { exptime: convert::exptime(exptime)? },
                "gets" => RetrievalVerb::Gets,
                _ => RetrievalVerb::Get,
            })
        };
        self.fetch_many(py, verb, keys, return_flags, true)
    }

    fn gat_many(
        &self,
        py: Python<'_>,
        exptime: &Object<'_>,
        keys: &Object<'_>,
        return_flags: &Object<'_>,
    ) -> Answer {
        let verb = || Ok(RetrievalVerb::Gat { exptime: convert::exptime(exptime)? });
        self.fetch_many(py, verb, keys, return_flags, false)
    }

    fn gats_many(
        &self,
        py: Python<'_>,
        exptime: &Object<'_>,
        keys: &Object<'_>,
        return_flags: &Object<'_>,
    ) -> Answer {
        let verb = || Ok(RetrievalVerb::Gats { exptime: convert::exptime(exptime)? });
        self.fetch_many(py, verb, keys, return_flags, false)
    }

    fn set(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        value: &Object<'_>,
        flags: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.store(py, || Ok(StorageVerb::Set), key, value, flags, exptime, noreply)
    }

    fn add(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        value: &Object<'_>,
        flags: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.store(py, || Ok(StorageVerb::Add), key, value, flags, exptime, noreply)
    }

    fn replace(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        value: &Object<'_>,
        flags: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.store(py, || Ok(StorageVerb::Replace), key, value, flags, exptime, noreply)
    }

    fn append(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        value: &Object<'_>,
        flags: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.store(py, || Ok(StorageVerb::Append), key, value, flags, exptime, noreply)
    }

    fn prepend(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        value: &Object<'_>,
        flags: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.store(py, || Ok(StorageVerb::Prepend), key, value, flags, exptime, noreply)
    }

    #[allow(clippy::too_many_arguments, reason = "these are the arguments of the command")]
    fn cas(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        value: &Object<'_>,
        cas: &Object<'_>,
        flags: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        let verb = || Ok(StorageVerb::Cas { token: convert::integer("cas", cas)? });
        self.store(py, verb, key, value, flags, exptime, noreply)
    }

    fn delete(&self, py: Python<'_>, key: &Object<'_>, noreply: &Object<'_>) -> Answer {
        self.open()?;
        let key = convert::key(key)?;
        let noreply = convert::flag("noreply", noreply)?;
        self.session(py)?.command(py, Target::Key, Command::Delete { key }, noreply)
    }

    fn increment(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        value: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.count(py, ArithmeticVerb::Incr, key, value, noreply)
    }

    fn decrement(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        value: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.count(py, ArithmeticVerb::Decr, key, value, noreply)
    }

    fn touch(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.open()?;
        let key = convert::key(key)?;
        let exptime = convert::exptime(exptime)?;
        let noreply = convert::flag("noreply", noreply)?;
        let command = Command::Touch { key, exptime };
        self.session(py)?.command(py, Target::Key, command, noreply)
    }

    /// `verb` is `set` or `add`. This method and the next two return `(done, missed, errors by
    /// key)`, or `None` with `noreply`.
    fn store_many(
        &self,
        py: Python<'_>,
        verb: &str,
        items: &Object<'_>,
        flags: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        let verb = if verb == "add" { StorageVerb::Add } else { StorageVerb::Set };
        self.write_many(py, verb, items, flags, exptime, noreply)
    }

    fn delete_many(&self, py: Python<'_>, keys: &Object<'_>, noreply: &Object<'_>) -> Answer {
        self.change_many(py, || Ok(Action::Delete), keys, noreply)
    }

    fn touch_many(
        &self,
        py: Python<'_>,
        keys: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        let action = || Ok(Action::Touch { exptime: convert::exptime(exptime)? });
        self.change_many(py, action, keys, noreply)
    }

    /// Adds (`verb` is `incr`) or subtracts (`decr`), and creates a missing key with `initial`.
    /// Returns the number, or a negative one if the node does not know the command.
    fn count_from(
        &self,
        py: Python<'_>,
        verb: &str,
        key: &Object<'_>,
        value: &Object<'_>,
        initial: &Object<'_>,
        exptime: &Object<'_>,
    ) -> Answer {
        let verb = if verb == "decr" { ArithmeticVerb::Decr } else { ArithmeticVerb::Incr };
        self.counter(py, verb, key, value, initial, exptime)
    }

    /// Completes when the node has answered a `get` of this key with any reply. With `isolated` the
    /// request uses a separate connection.
    fn probe(&self, py: Python<'_>, node: usize, key: &Object<'_>, isolated: bool) -> Answer {
        let key = convert::key(key)?;
        let target = if isolated { Target::Isolated(node) } else { Target::Node(node) };
        self.session(py)?.probe(py, target, key)
    }

    /// Only of a client whose callers wait: as [`Self::probe`], for `(node, key, isolated)` of each
    /// probe at once. Returns the seconds or the exception of each; `None` if `limit` passed first.
    /// Without `wait_for_all` it ends when each node has answered.
    fn probe_each(
        &self,
        py: Python<'_>,
        probes: Vec<(usize, Object<'_>, bool)>,
        limit: Option<f64>,
        wait_for_all: bool,
    ) -> PyResult<Vec<Py<PyAny>>> {
        let limit = seconds("limit", limit)?;
        let (mut requests, mut nodes) = (Vec::new(), Vec::new());
        for (node, key, isolated) in &probes {
            let keys = [convert::key(key)?];
            let request = Request::Retrieval { verb: RetrievalVerb::Get, keys: &keys };
            let target = if *isolated { Target::Isolated(*node) } else { Target::Node(*node) };
            requests.push((target, Expect::Probe, OwnedRequest::copy_from(&request)));
            nodes.push(*node);
        }
        self.open()?;
        let answered = |ended: &Option<Ended>| matches!(ended, Some((_, Outcome::Done)));
        let is_enough = |ended: &[Option<Ended>]| {
            let of = |node| nodes.iter().zip(ended).filter(move |(other, _)| **other == node);
            !wait_for_all && nodes.iter().all(|node| of(*node).any(|(_, ended)| answered(ended)))
        };
        let ended = self.session(py)?.submit_each(py, requests, limit, is_enough)?;
        ended
            .into_iter()
            .map(|ended| match ended {
                None => Ok(py.None()),
                Some((took, outcome)) => match result::to_python(py, Form::Plain, outcome) {
                    Ok(_) => took.as_secs_f64().into_py_any(py),
                    Err(error) => errors::as_value(py, error),
                },
            })
            .collect()
    }

    fn flush_all(
        &self,
        py: Python<'_>,
        node: usize,
        delay: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.session(py)?;
        let delay = convert::integer("delay", delay)?;
        self.admin(py, node, Command::FlushAll { delay }, convert::flag("noreply", noreply)?)
    }

    fn version(&self, py: Python<'_>, node: usize) -> Answer {
        self.admin(py, node, Command::Version, false)
    }

    fn verbosity(
        &self,
        py: Python<'_>,
        node: usize,
        level: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.session(py)?;
        let level = convert::integer("level", level)?;
        self.admin(py, node, Command::Verbosity { level }, convert::flag("noreply", noreply)?)
    }

    fn cache_memlimit(
        &self,
        py: Python<'_>,
        node: usize,
        value: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        self.session(py)?;
        let megabytes = convert::integer("value", value)?;
        let noreply = convert::flag("noreply", noreply)?;
        self.admin(py, node, Command::CacheMemlimit { megabytes }, noreply)
    }

    fn stats(&self, py: Python<'_>, node: usize, args: &str) -> Answer {
        self.open()?;
        let args = Words::parse(args).ok_or_else(errors::stats_args)?;
        self.session(py)?.stats(py, node, args)
    }

    /// The index of the node to which a key belongs.
    fn node_for(&self, py: Python<'_>, key: &Object<'_>) -> PyResult<usize> {
        self.open()?;
        let key = convert::key(key)?;
        self.operations_on_thread()?.node_for(py, key)
    }

    /// The indexes of the healthy and of the unhealthy nodes.
    fn health(&self, py: Python<'_>) -> PyResult<(Vec<usize>, Vec<usize>)> {
        self.operations_on_thread()?.health(py)
    }

    /// The counters of one node, by the names of `ConnectionPoolMetrics`.
    fn metrics<'py>(&self, py: Python<'py>, node: usize) -> PyResult<Bound<'py, PyDict>> {
        snapshot::metrics_to_dict(py, &self.operations_on_thread()?.metrics(py, node)?)
    }

    /// The counters of all nodes that can own keys: see [`super::snapshot`].
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // Those that were counted at the close of a client whose callers wait stay readable.
        let operations = match &self.home {
            Home::Blocking(client) => Operations::Blocking(client),
            _ => self.operations_on_thread()?,
        };
        let (min_connections, max_connections) = operations.limits();
        let nodes = snapshot::nodes_to_list(py, operations.all_metrics(py)?)?;
        let hot_keys = snapshot::hot_keys_to_list(py, operations.hot_keys(py)?)?;
        (min_connections, max_connections, nodes, hot_keys).into_bound_py_any(py)
    }

    /// The counters of the client's failover; `None` without failover.
    fn failover_counters(&self, py: Python<'_>) -> PyResult<Option<failover::Counters>> {
        let metrics = self.operations_on_thread()?.failover_metrics(py)?;
        Ok(metrics.map(failover::counters))
    }

    /// Connects to another node and returns its index. The node gets no keys yet.
    fn add_node(
        &self,
        py: Python<'_>,
        address: &Object<'_>,
        ip: Option<String>,
    ) -> PyResult<usize> {
        self.open()?;
        let address = convert::address(address)?;
        match &self.home {
            Home::Shared(client) => client.add_node(py, address, ip),
            _ => self.loop_session(py)?.add_node(py, address, ip),
        }
    }

    fn is_connected(&self, py: Python<'_>, node: usize) -> PyResult<bool> {
        match &self.home {
            Home::Shared(client) => client.query(py, move |nodes| nodes.is_connected(node)),
            _ => self.loop_session(py)?.is_connected(py, node),
        }
    }

    /// Sets the current IP address of a node.
    fn set_ip(&self, py: Python<'_>, node: usize, ip: Option<String>) -> PyResult<()> {
        match &self.home {
            Home::Shared(client) => client.set_ip(py, node, ip),
            _ => self.loop_session(py)?.set_ip(py, node, ip),
        }
    }

    /// The `joining` nodes get keys from now on, and the `leaving` nodes get no more. `order` lists
    /// all nodes in the order that rules count in. `updates` has the nodes whose weight or name has
    /// changed.
    fn change_nodes(
        &self,
        py: Python<'_>,
        joining: Vec<usize>,
        leaving: Vec<usize>,
        order: Vec<usize>,
        updates: Vec<PyNodeUpdate>,
    ) -> PyResult<()> {
        match &self.home {
            Home::Shared(client) => client.change(py, joining, leaving, order, updates),
            _ => self.loop_session(py)?.change(py, joining, leaving, order, updates),
        }
    }

    /// Returns a [`super::checkout::CoreCheckout`].
    fn check_out(&self, py: Python<'_>) -> Awaitable {
        self.loop_session(py)?.check_out(py, registry::next_id())
    }

    /// Replaces the nodes of a client whose callers wait: `(address, ip)` of each. `routing` has
    /// their weights and names; `None` if these stay.
    #[pyo3(signature = (nodes, routing = None))]
    fn set_nodes(
        &self,
        nodes: Vec<(Object<'_>, Option<String>)>,
        routing: Option<&PyRouting>,
    ) -> PyResult<()> {
        let nodes = nodes
            .into_iter()
            .map(|(address, ip)| Ok(NodeAt { address: convert::address(&address)?, ip }));
        let nodes = nodes.collect::<PyResult<_>>()?;
        self.blocking()?.set_nodes(nodes, routing.map(|routing| routing.specs.clone()));
        Ok(())
    }

    /// The driver in use: `loop`, `thread`, `blocking` or `shared`.
    #[getter]
    fn driver(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.session(py)?.driver_name())
    }

    /// The number of error replies to `noreply` commands.
    #[getter]
    fn noreply_errors(&self, py: Python<'_>) -> PyResult<u64> {
        self.session(py)?.noreply_errors(py)
    }
}
