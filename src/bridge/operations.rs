//! The operations of one client, passed to whatever runs its core.
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::batch::PyBatch;
use super::blocking::{BlockingClient, Ended};
use super::convert;
use super::errors;
use super::meta::MetaForm;
use super::result::{Form, ItemsForm};
use super::session::{Awaitable, Session};
use super::shared_client::SharedClient;
use crate::client::{Action, Expect, HotKey, Nodes, Target};
use crate::cluster::NodeMetrics;
use crate::cluster::failover::FailoverMetrics;
use crate::pool::{CheckoutId, Metrics, Submission};
use crate::protocol::meta::{MetaGetMany, Version};
use crate::protocol::{Command, Key, OwnedRequest, Request, RetrievalVerb, Words};

/// A future that the caller awaits, or the result itself if the caller waits.
pub type Answer = PyResult<Py<PyAny>>;

pub enum Operations<'c> {
    /// Of an event loop, on whose thread this code runs.
    Loop(Rc<Session>),
    /// Of a client whose callers wait.
    Blocking(&'c BlockingClient),
    /// Of a client whose callers wait for one core.
    Shared(&'c SharedClient),
}

impl Operations<'_> {
    pub fn fetch(&self, py: Python<'_>, key: Key<'_>, verb: RetrievalVerb, flags: bool) -> Answer {
        let request = Request::Retrieval { verb, keys: &[key] };
        let submission = Submission::Borrowed(&request);
        self.submit(py, Target::Key, Expect::Item, submission, Form::Item { flags })
    }

    /// `keys` have been checked.
    pub fn fetch_many(
        &self,
        py: Python<'_>,
        keys: Vec<Py<PyBytes>>,
        verb: RetrievalVerb,
        flags: bool,
        is_partial: bool,
    ) -> Answer {
        let form = Arc::new(ItemsForm { keys, flags, is_partial });
        match self {
            Self::Loop(session) => any(session.fetch_many(py, form, verb)),
            Self::Blocking(client) => client.fetch_many(py, form, verb),
            Self::Shared(client) => client.fetch_many(py, form, verb),
        }
    }

    /// Sends one request per key. `values` belong to `Action::Store`. All arguments have been
    /// checked.
    pub fn batch(
        &self,
        py: Python<'_>,
        action: Action,
        keys: Vec<Py<PyBytes>>,
        values: Vec<convert::Value>,
        noreply: bool,
    ) -> Answer {
        let nodes = self.begin_many(py, &keys)?;
        let source = Arc::new(PyBatch::new(py, keys, values, nodes));
        let form = Form::Batch(source.clone());
        self.submit_batch(py, action, source, noreply, form)
    }

    /// Reads many keys with meta commands. `keys` have been checked; those at the positions
    /// `base64` are encoded.
    pub fn meta_get_many(
        &self,
        py: Python<'_>,
        options: MetaGetMany,
        keys: Vec<Py<PyBytes>>,
        base64: Vec<usize>,
        form: Form,
    ) -> Answer {
        let nodes = self.begin_many(py, &keys)?;
        let source = Arc::new(PyBatch::of_meta(py, keys, base64, nodes));
        self.submit_batch(py, Action::MetaGet(options), source, false, form)
    }

    /// The nodes of keys, if a router in Python chooses them.
    fn begin_many(&self, py: Python<'_>, keys: &[Py<PyBytes>]) -> PyResult<Option<Vec<usize>>> {
        match self {
            Self::Loop(session) => session.nodes_for(py, keys),
            Self::Blocking(_) => Ok(None),
            Self::Shared(client) => {
                client.begin_call(py)?;
                client.nodes_for(py, keys)
            }
        }
    }

    fn submit_batch(
        &self,
        py: Python<'_>,
        action: Action,
        source: Arc<PyBatch>,
        noreply: bool,
        form: Form,
    ) -> Answer {
        match self {
            Self::Loop(session) => any(session.batch(py, action, source, noreply, form)),
            Self::Blocking(client) => client.batch(py, action, source, noreply, form),
            Self::Shared(client) => client.batch(py, action, source, noreply, form),
        }
    }

    /// A [`Command::Counter`]: its number, or one below 0 where the node does not know the command.
    pub fn counter(&self, py: Python<'_>, command: Command<'_>) -> Answer {
        let request = Request::Command(command);
        let submission = Submission::Borrowed(&request);
        self.submit(py, Target::Key, Expect::Counter, submission, Form::Plain)
    }

    /// A meta command with a key.
    pub fn meta(&self, py: Python<'_>, submission: Submission<'_>, form: MetaForm) -> Answer {
        self.submit(py, Target::Key, Expect::Meta, submission, Form::Meta(form))
    }

    /// Completes when a node has answered a `get` of this key, even with the error of a server
    /// behind a proxy.
    pub fn probe(&self, py: Python<'_>, target: Target, key: Key<'_>) -> Answer {
        let request = Request::Retrieval { verb: RetrievalVerb::Get, keys: &[key] };
        self.submit(py, target, Expect::Probe, Submission::Borrowed(&request), Form::Plain)
    }

    pub fn command(
        &self,
        py: Python<'_>,
        target: Target,
        command: Command<'_>,
        noreply: bool,
    ) -> Answer {
        let request = Request::Command(command);
        self.request(py, target, Submission::Borrowed(&request), noreply)
    }

    /// Any command.
    pub fn request(
        &self,
        py: Python<'_>,
        target: Target,
        submission: Submission<'_>,
        noreply: bool,
    ) -> Answer {
        let expect = if noreply { Expect::NoReply } else { Expect::Command };
        self.submit(py, target, expect, submission, Form::Plain)
    }

    pub fn stats(&self, py: Python<'_>, node: usize, args: Words<'_>) -> Answer {
        let request = Request::Command(Command::Stats { args });
        let submission = Submission::Borrowed(&request);
        self.submit(py, Target::Node(node), Expect::Stats, submission, Form::Plain)
    }

    /// A command on a connection that is checked out, answered with the text of the reply.
    pub fn raw_command(
        &self,
        py: Python<'_>,
        checkout: CheckoutId,
        command: Command<'_>,
        noreply: bool,
    ) -> Answer {
        let expect = if noreply { Expect::NoReply } else { Expect::RawReply };
        let request = Request::Command(command);
        let submission = Submission::Borrowed(&request);
        self.submit(py, Target::Checkout(checkout), expect, submission, Form::Plain)
    }

    /// A retrieval on a connection that is checked out.
    pub fn raw_fetch(
        &self,
        py: Python<'_>,
        checkout: CheckoutId,
        keys: Vec<Py<PyBytes>>,
        verb: RetrievalVerb,
    ) -> Answer {
        let keys = Arc::new(keys);
        let request = Request::Retrieval { verb, keys: &convert::trusted(py, &keys) };
        let submission = Submission::Borrowed(&request);
        let form = Form::RawItems(keys.clone());
        self.submit(py, Target::Checkout(checkout), Expect::RawItems, submission, form)
    }

    /// Done when no request with `noreply` is unanswered.
    pub fn drain(&self, py: Python<'_>) -> Answer {
        match self {
            Self::Loop(session) => any(session.drain(py)),
            Self::Blocking(client) => client.drain(py).map(|()| py.None()),
            Self::Shared(client) => client.drain(py),
        }
    }

    /// How many requests with `noreply` are unanswered.
    pub fn noreply_unanswered(&self, py: Python<'_>) -> PyResult<usize> {
        match self {
            Self::Loop(session) => session.noreply_unanswered(py),
            Self::Blocking(client) => Ok(client.noreply_unanswered()),
            Self::Shared(client) => client.noreply_unanswered(py),
        }
    }

    /// How many requests with `noreply` failed.
    pub fn noreply_errors(&self, py: Python<'_>) -> PyResult<u64> {
        match self {
            Self::Loop(session) => session.query(py, |nodes| nodes.noreply_errors()),
            Self::Blocking(client) => Ok(client.noreply_errors()),
            Self::Shared(client) => client.query(py, |nodes| nodes.noreply_errors()),
        }
    }

    /// The index of the node that a key belongs to.
    pub fn node_for(&self, py: Python<'_>, key: Key<'_>) -> PyResult<usize> {
        let home = self.home_of(py, key)?;
        let key = Bytes::copy_from_slice(key.as_bytes());
        let index = self.query(py, move |nodes| match home {
            Some(home) => nodes.serving(Key::trusted(&key), home),
            None => nodes.node_for(Key::trusted(&key)),
        })?;
        index.map_err(|error| errors::no_nodes(py, error))
    }

    /// The node to which a router in Python assigns a key; `None` without such a router.
    fn home_of(&self, py: Python<'_>, key: Key<'_>) -> PyResult<Option<usize>> {
        match self {
            Self::Loop(session) => {
                let router = session.router.as_ref();
                router.map(|router| router.node_for(py, key.as_bytes())).transpose()
            }
            Self::Blocking(_) => Ok(None),
            Self::Shared(client) => client.node_for(py, key.as_bytes()).transpose(),
        }
    }

    /// The indexes of the healthy and of the unhealthy nodes.
    pub fn health(&self, py: Python<'_>) -> PyResult<(Vec<usize>, Vec<usize>)> {
        match self {
            Self::Loop(session) => session.query(py, |nodes| nodes.health()),
            Self::Blocking(client) => client.health(),
            Self::Shared(client) => client.query(py, |nodes| nodes.health()),
        }
    }

    pub fn metrics(&self, py: Python<'_>, node: usize) -> PyResult<Metrics> {
        match self {
            Self::Loop(session) => session.query(py, move |nodes| nodes.metrics(node)),
            Self::Blocking(client) => {
                let mut all = client.all_metrics(py);
                Ok(all.swap_remove(node).pool)
            }
            Self::Shared(client) => client.query(py, move |nodes| nodes.metrics(node)),
        }
    }

    /// See [`crate::cluster::Cluster::metrics`].
    pub fn all_metrics(&self, py: Python<'_>) -> PyResult<Vec<NodeMetrics>> {
        match self {
            Self::Loop(session) => session.query(py, |nodes| nodes.all_metrics()),
            Self::Blocking(client) => Ok(client.all_metrics(py)),
            Self::Shared(client) => client.query(py, |nodes| nodes.all_metrics()),
        }
    }

    /// The minimum and maximum number of connections per node.
    pub fn limits(&self) -> (usize, usize) {
        match self {
            Self::Loop(session) => session.limits,
            Self::Blocking(client) => client.limits(),
            Self::Shared(client) => client.limits(),
        }
    }

    /// See [`crate::pool::Pool::meta_version`].
    pub fn meta_version(&self, py: Python<'_>, node: usize) -> PyResult<Option<Version>> {
        self.query(py, move |nodes| nodes.meta_version(node))
    }

    /// See [`Nodes::key_epoch`].
    pub fn key_epoch(&self, py: Python<'_>, key: Key<'_>) -> PyResult<(usize, u64)> {
        let home = self.home_of(py, key)?;
        let key = Bytes::copy_from_slice(key.as_bytes());
        let epoch = self.query(py, move |nodes| nodes.key_epoch(Key::trusted(&key), home))?;
        epoch.map_err(|error| errors::no_nodes(py, error))
    }

    /// See [`crate::client::Client::hot_keys`].
    pub fn hot_keys(&self, py: Python<'_>) -> PyResult<Vec<(HotKey, Option<usize>)>> {
        let (mut hot_keys, router) = match self {
            Self::Loop(session) => {
                (session.query(py, |nodes| nodes.hot_keys())?, session.router.as_ref())
            }
            Self::Blocking(client) => (client.hot_keys(), None),
            Self::Shared(client) => (client.query(py, |nodes| nodes.hot_keys())?, client.router()),
        };
        if let Some(router) = router {
            for (hot, node) in &mut hot_keys {
                *node = router.node_for(py, &hot.key).ok();
            }
        }
        Ok(hot_keys)
    }

    pub fn failover_metrics(&self, py: Python<'_>) -> PyResult<Option<FailoverMetrics>> {
        match self {
            Self::Loop(session) => session.query(py, |nodes| nodes.failover_metrics()),
            Self::Blocking(_) => Ok(None),
            Self::Shared(client) => client.query(py, |nodes| nodes.failover_metrics()),
        }
    }

    /// The driver in use: `loop`, `thread`, `blocking` or `shared`.
    pub fn driver_name(&self) -> &'static str {
        match self {
            Self::Loop(session) => session.driver.name(),
            Self::Blocking(_) => "blocking",
            Self::Shared(_) => "shared",
        }
    }

    pub fn query<T: Send + 'static>(
        &self,
        py: Python<'_>,
        query: impl FnOnce(&dyn Nodes) -> T + Send + 'static,
    ) -> PyResult<T> {
        match self {
            Self::Loop(session) => session.query(py, query),
            Self::Blocking(client) => client.query(query),
            Self::Shared(client) => client.query(py, query),
        }
    }

    /// See [`BlockingClient::submit_each`]. Only of a client whose callers wait.
    pub fn submit_each(
        &self,
        py: Python<'_>,
        requests: Vec<(Target, Expect, OwnedRequest)>,
        limit: Option<Duration>,
        is_enough: impl Fn(&[Option<Ended>]) -> bool,
    ) -> PyResult<Vec<Option<Ended>>> {
        match self {
            Self::Loop(_) => Err(errors::internal()),
            Self::Blocking(client) => client.submit_each(py, requests, limit, is_enough),
            Self::Shared(client) => client.submit_each(py, requests, limit, is_enough),
        }
    }

    fn submit(
        &self,
        py: Python<'_>,
        target: Target,
        expect: Expect,
        submission: Submission<'_>,
        form: Form,
    ) -> Answer {
        match self {
            Self::Loop(session) => any(session.submit(py, target, expect, submission, form)),
            Self::Blocking(client) => client.submit(py, target, expect, submission, form),
            Self::Shared(client) => client.submit(py, target, expect, submission, form),
        }
    }
}

fn any(awaitable: Awaitable) -> Answer {
    awaitable.map(Py::into_any)
}
