//! One client, or one public pool, on its loop's thread. It passes operations to the driver that
//! runs its core.
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::batch::PyBatch;
use super::caller::PyCaller;
use super::completion;
use super::convert;
use super::driver::{Driver, Engine};
use super::errors;
use super::future::OpFuture;
use super::result::{CheckoutForm, Form, ItemsForm};
use super::router::{PyNodeUpdate, PyRouter, node_updates};
use super::thread_driver::ThreadEngine;
use crate::client::{Action, Client, Expect, Nodes, Operation, Target};
use crate::cluster::ClusterConfig;
use crate::host::SharedSource;
use crate::pool::{Address, CheckoutId, Submission};
use crate::protocol::RetrievalVerb;

/// An abandoned session waits for replies at most this long.
const CLOSE_AFTER: Duration = Duration::from_secs(1);

/// A future that the caller awaits.
pub type Awaitable = PyResult<Py<OpFuture>>;

pub struct Session {
    pub id: u64,
    pub driver: Rc<Driver>,
    core: Core,
    /// `None`: the core routes.
    pub router: Option<PyRouter>,
    /// Called with the index of a node, what became of it, and why.
    pub on_change: Py<PyAny>,
    /// The minimum and maximum number of connections per node.
    pub limits: (usize, usize),
    /// Shared with the client's Python object, which may be on another thread.
    pub is_closed: Arc<AtomicBool>,
}

enum Core {
    Local(Client<PyCaller>),
    /// On the thread of this engine.
    Remote {
        engine: Rc<ThreadEngine>,
        timeout: Option<Duration>,
    },
}

impl Session {
    pub fn open(
        id: u64,
        driver: Rc<Driver>,
        addresses: Vec<Address>,
        config: ClusterConfig,
        router: Option<PyRouter>,
        on_change: Py<PyAny>,
    ) -> Rc<Self> {
        let timeout = config.pool.timeout;
        let limits = (config.pool.min_connections, config.pool.max_connections);
        let core = match driver.engine() {
            Engine::Loop(engine) => {
                let tell = move |change| completion::node_changed(id, change);
                Core::Local(Client::new(engine.context(), addresses, &config, tell))
            }
            Engine::Thread(engine) => {
                engine.open(id, addresses, config);
                Core::Remote { engine: engine.clone(), timeout }
            }
        };
        Rc::new(Self { id, driver, core, router, on_change, limits, is_closed: Arc::default() })
    }

    /// Ends all operations; the outcomes are left to [`super::completion`].
    pub fn close(&self, py: Python<'_>) {
        match self.core() {
            Ok(Core::Local(client)) => client.close(),
            Ok(Core::Remote { engine, .. }) => engine.close(py, self.id),
            Err(_) => {}
        }
    }

    /// Closes when all requests with `noreply` are answered, or after a while.
    pub fn close_later(&self) {
        let id = self.id;
        match self.core() {
            Ok(Core::Local(client)) => {
                client.when_drained(CLOSE_AFTER, move || completion::close(id));
            }
            Ok(Core::Remote { engine, .. }) => engine.close_when_drained(id, CLOSE_AFTER),
            Err(_) => {}
        }
    }

    pub fn fetch_many(
        &self,
        py: Python<'_>,
        form: Arc<ItemsForm>,
        verb: RetrievalVerb,
    ) -> Awaitable {
        let nodes = self.nodes_for(py, &form.keys)?;
        let is_partial = form.is_partial;
        let future = self.driver.create_future(py, Form::Items(form.clone()))?;
        let keys = convert::trusted(py, &form.keys);
        match self.core()? {
            Core::Local(client) => {
                let caller = PyCaller::new(future.clone_ref(py));
                let deadline = client.deadline();
                client.get_many(verb, &keys, nodes.as_deref(), is_partial, deadline, caller);
            }
            Core::Remote { engine, timeout } => {
                let keys = keys.iter().map(|key| engine.copied(key.as_bytes())).collect();
                let operation = Operation::GetMany { verb, keys, nodes, is_partial };
                engine.run(py, self.id, operation, *timeout, &future);
            }
        }
        self.driver.schedule_pending(py)?;
        Ok(future)
    }

    pub fn batch(
        &self,
        py: Python<'_>,
        action: Action,
        source: Arc<PyBatch>,
        noreply: bool,
        form: Form,
    ) -> Awaitable {
        let future = self.driver.create_future(py, form)?;
        match self.core()? {
            Core::Local(client) => {
                let caller = PyCaller::new(future.clone_ref(py));
                client.batch(action, source, noreply, client.deadline(), caller);
            }
            Core::Remote { engine, timeout } => {
                let source: SharedSource = source;
                let operation = Operation::Batch { action, source, noreply };
                engine.run(py, self.id, operation, *timeout, &future);
            }
        }
        self.driver.schedule_pending(py)?;
        Ok(future)
    }

    /// Checks out a connection of the first node.
    pub fn check_out(&self, py: Python<'_>, checkout: CheckoutId) -> Awaitable {
        let form = Box::new(CheckoutForm { session: self.id, checkout });
        let future = self.driver.create_future(py, Form::Checkout(form))?;
        match self.core()? {
            Core::Local(client) => {
                let caller = PyCaller::new(future.clone_ref(py));
                client.check_out(checkout, client.deadline(), caller);
            }
            Core::Remote { engine, timeout } => {
                engine.run(py, self.id, Operation::CheckOut(checkout), *timeout, &future);
            }
        }
        self.driver.schedule_pending(py)?;
        Ok(future)
    }

    /// Done when no request with `noreply` is unanswered.
    pub fn drain(&self, py: Python<'_>) -> Awaitable {
        let future = self.driver.create_future(py, Form::Plain)?;
        match self.core()? {
            Core::Local(client) => client.drain(PyCaller::new(future.clone_ref(py))),
            Core::Remote { engine, .. } => {
                engine.run(py, self.id, Operation::Drain, None, &future);
            }
        }
        self.driver.schedule_pending(py)?;
        Ok(future)
    }

    pub fn release(&self, py: Python<'_>, checkout: CheckoutId) -> PyResult<()> {
        self.post(move |nodes| nodes.release(checkout));
        self.driver.schedule_pending(py)
    }

    /// As `release`, where there is no caller for an error.
    pub fn release_silently(&self, py: Python<'_>, checkout: CheckoutId) {
        if let Err(error) = self.release(py, checkout)
            && !self.driver.is_loop_closed(py)
        {
            error.write_unraisable(py, None);
        }
    }

    pub fn close_checked_out(&self, py: Python<'_>, checkout: CheckoutId) -> PyResult<()> {
        self.post(move |nodes| nodes.close_checked_out(checkout));
        self.driver.schedule_pending(py)
    }

    pub fn is_checked_out(&self, py: Python<'_>, checkout: CheckoutId) -> PyResult<bool> {
        self.query(py, move |nodes| nodes.is_checked_out(checkout))
    }

    /// How many requests with `noreply` are unanswered.
    pub fn noreply_unanswered(&self, py: Python<'_>) -> PyResult<usize> {
        self.query(py, |nodes| nodes.noreply_unanswered())
    }

    /// See [`crate::cluster::Cluster::add_node`].
    pub fn add_node(
        &self,
        py: Python<'_>,
        address: Address,
        ip: Option<String>,
    ) -> PyResult<usize> {
        let index = self.query(py, move |nodes| nodes.add_node(address, ip))?;
        self.driver.schedule_pending(py)?;
        Ok(index)
    }

    pub fn is_connected(&self, py: Python<'_>, node: usize) -> PyResult<bool> {
        self.query(py, move |nodes| nodes.is_connected(node))
    }

    /// See [`crate::pool::Pool::set_ip`].
    pub fn set_ip(&self, py: Python<'_>, node: usize, ip: Option<String>) -> PyResult<()> {
        self.query(py, move |nodes| nodes.set_ip(node, ip))?;
        self.driver.schedule_pending(py)
    }

    /// See [`crate::cluster::Cluster::change`].
    pub fn change(
        &self,
        py: Python<'_>,
        joining: Vec<usize>,
        leaving: Vec<usize>,
        order: Vec<usize>,
        updates: Vec<PyNodeUpdate>,
    ) -> PyResult<()> {
        if let Some(router) = &self.router {
            router.change(&joining, &leaving, &order);
        }
        let updates = node_updates(updates);
        self.query(py, move |nodes| nodes.change(&joining, &leaving, &order, &updates))?;
        self.driver.schedule_pending(py)
    }

    pub fn query<T: Send + 'static>(
        &self,
        py: Python<'_>,
        query: impl FnOnce(&dyn Nodes) -> T + Send + 'static,
    ) -> PyResult<T> {
        match self.core()? {
            Core::Local(client) => Ok(query(client)),
            Core::Remote { engine, .. } => engine.query(py, self.id, query),
        }
    }

    fn post(&self, job: impl FnOnce(&dyn Nodes) + Send + 'static) {
        match self.core() {
            Err(_) => {}
            Ok(Core::Local(client)) => job(client),
            Ok(Core::Remote { engine, .. }) => engine.post_to(self.id, job),
        }
    }

    pub fn submit(
        &self,
        py: Python<'_>,
        target: Target,
        expect: Expect,
        submission: Submission<'_>,
        form: Form,
    ) -> Awaitable {
        let target = self.routed(py, target, &submission)?;
        let future = self.driver.create_future(py, form)?;
        match self.core()? {
            Core::Local(client) => {
                let caller = PyCaller::new(future.clone_ref(py));
                client.submit(target, expect, submission, client.deadline(), caller);
            }
            Core::Remote { engine, timeout } => {
                let request = engine.to_owned_request(submission);
                let operation = Operation::Submit { target, expect, request };
                engine.run(py, self.id, operation, *timeout, &future);
            }
        }
        self.driver.schedule_pending(py)?;
        Ok(future)
    }

    /// The target of a request; a router in Python chooses it for a key.
    #[inline]
    fn routed(
        &self,
        py: Python<'_>,
        target: Target,
        submission: &Submission<'_>,
    ) -> PyResult<Target> {
        let (Some(router), Target::Key) = (&self.router, target) else { return Ok(target) };
        let Some(key) = submission.key() else { return Ok(target) };
        self.still_open(router.node_for(py, key.as_bytes()).map(Target::KeyAt))
    }

    /// The nodes of keys, if a router in Python chooses them.
    pub fn nodes_for(&self, py: Python<'_>, keys: &[Py<PyBytes>]) -> PyResult<Option<Vec<usize>>> {
        let Some(router) = &self.router else { return Ok(None) };
        let keys = keys.iter().map(|key| key.as_bytes(py));
        self.still_open(router.nodes_for(py, keys).map(Some))
    }

    /// The result of code that may have closed the client.
    fn still_open<T>(&self, result: PyResult<T>) -> PyResult<T> {
        if self.is_closed.load(Ordering::Acquire) { Err(errors::closed()) } else { result }
    }

    /// The core, unless it belongs to another process. Call this after the last call of Python,
    /// which may have forked.
    fn core(&self) -> PyResult<&Core> {
        if self.driver.is_forked() { Err(errors::forked()) } else { Ok(&self.core) }
    }
}
