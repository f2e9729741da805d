//! A client whose callers wait for one core that all of them share: see [`SharedCore`].
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::batch::PyBatch;
use super::blocking::{self, Ended, SLICE};
use super::errors;
use super::item::RawItem;
use super::operations::Answer;
use super::registry;
use super::result::{self, Form, ItemsForm};
use super::router::{PyNodeUpdate, PyRouter, node_updates};
use super::shutdown;
use crate::client::{Action, Expect, MigrationOptions, Nodes, Operation, Target};
use crate::cluster::{NodeChange, NodeEvent, NodeList};
use crate::host::{SharedCall, SharedCore, SharedSource, fork_count};
use crate::pool::{Address, Submission};
use crate::protocol::{OwnedRequest, RetrievalVerb};

/// The limit for the replies to `noreply` requests of a client without a timeout.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

pub struct SharedClient {
    core: SharedCore,
    router: Option<PyRouter>,
    /// Called with the index of a node, what became of it, and why.
    on_change: Py<PyAny>,
    allow_in_event_loop: bool,
}

impl SharedClient {
    pub fn new(
        core: SharedCore,
        router: Option<PyRouter>,
        on_change: Py<PyAny>,
        allow_in_event_loop: bool,
    ) -> Self {
        Self { core, router, on_change, allow_in_event_loop }
    }

    /// Closes the client, after the replies to `noreply` requests.
    pub fn close(&self, py: Python<'_>) -> PyResult<()> {
        let drained = if self.core.is_closed() { Ok(()) } else { self.drain_quietly(py) };
        let close = self.core.close();
        let _returning = py.detach(|| {
            close();
            blocking::return_to_python()
        });
        drained
    }

    pub fn limits(&self) -> (usize, usize) {
        let pool = &self.core.config().pool;
        (pool.min_connections, pool.max_connections)
    }

    pub fn submit(
        &self,
        py: Python<'_>,
        target: Target,
        expect: Expect,
        submission: Submission<'_>,
        form: Form,
    ) -> Answer {
        self.begin_call(py)?;
        let target = self.routed(py, target, &submission)?;
        let is_noreply = matches!(expect, Expect::NoReply);
        let request = submission.into_owned();
        self.call(py, Operation::Submit { target, expect, request }, form, is_noreply)
    }

    pub fn fetch_many(&self, py: Python<'_>, form: Arc<ItemsForm>, verb: RetrievalVerb) -> Answer {
        self.begin_call(py)?;
        let nodes = self.nodes_for(py, &form.keys)?;
        let keys = form.keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes(py))).collect();
        let is_partial = form.is_partial;
        let operation = Operation::GetMany { verb, keys, nodes, is_partial };
        self.call(py, operation, Form::Items(form), false)
    }

    pub fn batch(
        &self,
        py: Python<'_>,
        action: Action,
        source: Arc<PyBatch>,
        noreply: bool,
        form: Form,
    ) -> Answer {
        let shared: SharedSource = source;
        let operation = Operation::Batch { action, source: shared, noreply };
        self.call(py, operation, form, noreply)
    }

    /// The nodes of keys, if a router in Python chooses them.
    pub fn nodes_for(&self, py: Python<'_>, keys: &[Py<PyBytes>]) -> PyResult<Option<Vec<usize>>> {
        let Some(router) = &self.router else { return Ok(None) };
        let keys = keys.iter().map(|key| key.as_bytes(py));
        self.still_open(router.nodes_for(py, keys).map(Some))
    }

    /// Before a call routes its keys: nodes may have changed since the last one.
    pub fn begin_call(&self, py: Python<'_>) -> PyResult<()> {
        blocking::refuse_loop(py, self.allow_in_event_loop)?;
        self.notify_changes(py)
    }

    pub fn drain(&self, py: Python<'_>) -> Answer {
        self.drain_quietly(py).map(|()| py.None())
    }

    fn drain_quietly(&self, py: Python<'_>) -> PyResult<()> {
        if self.noreply_unanswered(py)? == 0 {
            return Ok(());
        }
        let limit = self.core.config().pool.timeout.unwrap_or(DRAIN_TIMEOUT);
        let call = self.begin(vec![Operation::Drain], false)?;
        Self::wait(py, &call, 1, limit).map(drop)
    }

    pub fn noreply_unanswered(&self, py: Python<'_>) -> PyResult<usize> {
        self.query(py, |nodes| nodes.noreply_unanswered())
    }

    pub fn node_for(&self, py: Python<'_>, key: &[u8]) -> Option<PyResult<usize>> {
        self.router.as_ref().map(|router| {
            self.notify_changes(py)?;
            router.node_for(py, key)
        })
    }

    pub fn router(&self) -> Option<&PyRouter> {
        self.router.as_ref()
    }

    pub fn query<T: Send + 'static>(
        &self,
        py: Python<'_>,
        query: impl FnOnce(&dyn Nodes) -> T + Send + 'static,
    ) -> PyResult<T> {
        let answer = self.core.query(query).map_err(blocking::no_core)?;
        Self::receive(py, answer)
    }

    /// See [`crate::cluster::Cluster::add_node`].
    pub fn add_node(
        &self,
        py: Python<'_>,
        address: Address,
        ip: Option<String>,
    ) -> PyResult<usize> {
        let (sender, receiver) = channel();
        let add = move |nodes: &dyn Nodes| {
            // In a child process nobody listens.
            let _ = sender.send(nodes.add_node(address.clone(), ip.clone()));
        };
        let done = self.core.change(add).map_err(blocking::no_core)?;
        Self::receive(py, done)?;
        receiver.try_recv().map_err(|_| errors::closed())
    }

    pub fn set_ip(&self, py: Python<'_>, node: usize, ip: Option<String>) -> PyResult<()> {
        let set = move |nodes: &dyn Nodes| nodes.set_ip(node, ip.clone());
        Self::receive(py, self.core.change(set).map_err(blocking::no_core)?)
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
        let change = move |nodes: &dyn Nodes| nodes.change(&joining, &leaving, &order, &updates);
        Self::receive(py, self.core.change(change).map_err(blocking::no_core)?)
    }

    /// See [`crate::client::Nodes::migrate_from`].
    pub fn migrate_from(
        &self,
        py: Python<'_>,
        list: NodeList,
        options: MigrationOptions,
    ) -> PyResult<Option<Vec<usize>>> {
        if options.drain.is_some() {
            self.leave_no_child();
        }
        let (sender, receiver) = channel();
        let migrate = move |nodes: &dyn Nodes| {
            // In a child process nobody listens.
            let _ = sender.send(nodes.migrate_from(&list, &options));
        };
        let done = self.core.change(migrate).map_err(blocking::no_core)?;
        Self::receive(py, done)?;
        receiver.try_recv().map_err(|_| errors::closed())
    }

    /// From now on the client cannot be used in the child of a fork.
    pub fn leave_no_child(&self) {
        self.core.leave_no_child();
    }

    /// See [`super::blocking::BlockingClient::submit_each`].
    pub fn submit_each(
        &self,
        py: Python<'_>,
        requests: Vec<(Target, Expect, OwnedRequest)>,
        limit: Option<Duration>,
        is_enough: impl Fn(&[Option<Ended>]) -> bool,
    ) -> PyResult<Vec<Option<Ended>>> {
        self.begin_call(py)?;
        let began = Instant::now();
        let mut ended: Vec<Option<Ended>> = requests.iter().map(|_| None).collect();
        let (total, mut missing) = (requests.len(), requests.len());
        let mut operations = Vec::with_capacity(total);
        for (target, expect, request) in requests {
            let target = match (&self.router, target, &request) {
                (Some(router), Target::Key, OwnedRequest::Command(command)) => {
                    let key = command.key().map_or(&[][..], |key| key);
                    Target::KeyAt(self.still_open(router.node_for(py, key))?)
                }
                _ => target,
            };
            operations.push(Operation::Submit { target, expect, request });
        }
        let mut call = self.begin(operations, false)?;
        while missing > 0 && !is_enough(&ended) {
            let rest = limit.map_or(Duration::MAX, |limit| limit.saturating_sub(began.elapsed()));
            drop(Self::wait(py, &call, total - missing + 1, rest)?);
            for (index, outcome) in call.take() {
                let outcome = outcome.map(|item| RawItem::from_owned(py, item));
                ended[index] = Some((began.elapsed(), outcome));
                missing -= 1;
            }
            if limit.is_some_and(|limit| began.elapsed() >= limit) {
                break;
            }
        }
        Ok(ended)
    }

    fn begin(
        &self,
        operations: Vec<Operation<SharedSource>>,
        is_noreply: bool,
    ) -> PyResult<SharedCall> {
        let timeout = self.core.config().pool.timeout;
        self.core.begin(operations, timeout, is_noreply).map_err(blocking::no_core)
    }

    fn call(
        &self,
        py: Python<'_>,
        operation: Operation<SharedSource>,
        form: Form,
        is_noreply: bool,
    ) -> Answer {
        let mut call = self.begin(vec![operation], is_noreply)?;
        let _returning = Self::wait(py, &call, 1, Duration::MAX)?;
        let outcome = call.take().pop();
        drop(call);
        self.notify_changes(py)?;
        match outcome {
            Some((_, outcome)) => {
                result::to_python(py, form, outcome.map(|item| RawItem::from_owned(py, item)))
            }
            None => Err(errors::internal()),
        }
    }

    /// Waits until a call has `count` outcomes, or `limit` passes.
    fn wait(
        py: Python<'_>,
        call: &SharedCall,
        count: usize,
        limit: Duration,
    ) -> PyResult<shutdown::Turn> {
        let began = Instant::now();
        loop {
            let slice = SLICE.min(limit.saturating_sub(began.elapsed()));
            let (returning, has_outcomes) = py.detach(|| {
                let has_outcomes = call.wait(count, slice);
                (blocking::return_to_python(), has_outcomes)
            });
            if has_outcomes {
                return Ok(returning);
            }
            // A handler may raise, close the client, or fork.
            let checked = blocking::check_signals(py);
            if call.is_forked() {
                checked?;
                return Err(errors::forked_in_call());
            }
            checked?;
            if began.elapsed() >= limit {
                return Ok(returning);
            }
        }
    }

    fn receive<T: Send>(py: Python<'_>, answer: Receiver<Option<T>>) -> PyResult<T> {
        let forks = fork_count();
        let mut answer = answer;
        loop {
            // Moved there and back, because a `Receiver` is not `Sync`.
            let (returning, found, receiver) = py.detach(move || {
                let found = answer.recv_timeout(SLICE);
                (blocking::return_to_python(), found, answer)
            });
            answer = receiver;
            match found {
                Ok(found) => return found.ok_or_else(errors::closed),
                Err(RecvTimeoutError::Disconnected) => return Err(errors::closed()),
                Err(RecvTimeoutError::Timeout) => drop(returning),
            }
            blocking::check_signals(py)?;
            if forks != fork_count() {
                return Err(errors::forked_in_call());
            }
        }
    }

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

    /// The result of code that may have closed the client.
    fn still_open<T>(&self, result: PyResult<T>) -> PyResult<T> {
        if self.core.is_closed() { Err(errors::closed()) } else { result }
    }

    fn notify_changes(&self, py: Python<'_>) -> PyResult<()> {
        for change in self.core.take_changes() {
            self.notify(py, &change)?;
        }
        Ok(())
    }

    fn notify(&self, py: Python<'_>, change: &NodeChange) -> PyResult<()> {
        if let (Some(router), NodeEvent::Pool(event)) = (&self.router, &change.change)
            && let Some(is_healthy) = event.health()
        {
            router.set_health(change.node, is_healthy);
        }
        let (what, cause) = registry::change_words(&change.change);
        self.on_change.call1(py, (change.node, what, cause)).map(drop)
    }
}
