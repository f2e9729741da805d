//! One client or public pool on its loop's thread. It builds requests and passes them to the driver
//! in use.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::time::Instant;

use super::batch::{Action, Batch, Progress};
use super::completion::{self, Outcome};
use super::convert;
use super::driver::{Driver, Engine};
use super::errors;
use super::future::{OpFuture, Wake};
use super::thread_driver::{Route, ThreadEngine};
use super::waiter::{Caller, Gather, Line, NoReplies, PyWaiter, RawItems};
use crate::cluster::{Cluster, ClusterConfig, ClusterError, NodeMetrics};
use crate::pool::{Address, CheckoutId, Context, Metrics, Submission, Waiter};
use crate::protocol::{Command, Key, NEVER, Nanos, Request, RetrievalVerb, StatsArgs, Verb};

/// Above this number of unanswered `noreply` commands, the next call waits for its reply. This
/// slows the caller down to the speed of the server.
const MAX_UNANSWERED_NO_REPLIES: usize = 1024;

/// The time for which an abandoned session waits for replies.
const CLOSE_AFTER: Duration = Duration::from_secs(1);

pub type Awaitable = PyResult<Py<OpFuture>>;

pub struct Session {
    pub id: u64,
    pub driver: Rc<Driver>,
    core: Core,
    timeout: Option<Duration>,
    pub no_replies: Rc<NoReplies>,
    /// Called with the index of a node, its new state and the cause.
    pub on_change: Py<PyAny>,
    /// The minimum and maximum number of connections per node.
    pub limits: (usize, usize),
    /// Shared with the client's Python object, which may be on another thread.
    pub is_closed: Arc<AtomicBool>,
}

enum Core {
    Local {
        context: Rc<Context>,
        cluster: Cluster<PyWaiter>,
    },
    /// On the thread of this engine.
    Remote(Rc<ThreadEngine>),
}

/// Queries and commands of a cluster that do not depend on its type of waiter.
pub trait Nodes {
    fn node_for(&self, key: Key<'_>) -> Result<usize, ClusterError>;
    fn health(&self) -> (Vec<usize>, Vec<usize>);
    fn metrics(&self, node: usize) -> Metrics;
    fn all_metrics(&self) -> Vec<NodeMetrics>;
    fn release(&self, checkout: CheckoutId);
    fn close_checked_out(&self, checkout: CheckoutId);
    fn is_checked_out(&self, checkout: CheckoutId) -> bool;
    fn add_node(&self, address: Address, ip: Option<String>) -> usize;
    fn is_connected(&self, node: usize) -> bool;
    fn set_ip(&self, node: usize, ip: Option<String>);
    fn change(&self, joining: &[usize], leaving: &[usize]);
}

impl<W: Waiter> Nodes for Cluster<W> {
    fn node_for(&self, key: Key<'_>) -> Result<usize, ClusterError> {
        self.index_for(key)
    }

    fn health(&self) -> (Vec<usize>, Vec<usize>) {
        self.health()
    }

    fn metrics(&self, node: usize) -> Metrics {
        self.pool(node).metrics()
    }

    fn all_metrics(&self) -> Vec<NodeMetrics> {
        self.metrics()
    }

    fn release(&self, checkout: CheckoutId) {
        self.pool(0).release(checkout);
    }

    fn close_checked_out(&self, checkout: CheckoutId) {
        self.pool(0).close_checked_out(checkout);
    }

    fn is_checked_out(&self, checkout: CheckoutId) -> bool {
        self.pool(0).is_checked_out(checkout)
    }

    fn add_node(&self, address: Address, ip: Option<String>) -> usize {
        self.add_node(address, ip.as_deref())
    }

    fn is_connected(&self, node: usize) -> bool {
        self.pool(node).is_connected()
    }

    fn set_ip(&self, node: usize, ip: Option<String>) {
        self.pool(node).set_ip(ip.as_deref());
    }

    fn change(&self, joining: &[usize], leaving: &[usize]) {
        self.change(joining, leaving);
    }
}

/// The destination of a request.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    Key(Key<'a>),
    Node(usize),
    /// A node, on a separate connection.
    Isolated(usize),
    Checkout(CheckoutId),
}

impl Session {
    pub fn open(
        id: u64,
        driver: Rc<Driver>,
        addresses: Vec<Address>,
        config: ClusterConfig,
        on_change: Py<PyAny>,
    ) -> Rc<Self> {
        let timeout = config.pool.timeout;
        let limits = (config.pool.min_connections, config.pool.max_connections);
        let core = match driver.engine() {
            Engine::Loop(engine) => {
                let context = engine.context.clone();
                let tell = move |change| completion::node_changed(id, change);
                let cluster = Cluster::new(&context, addresses, &config, tell);
                Core::Local { context, cluster }
            }
            Engine::Thread(engine) => {
                engine.open(id, addresses, config);
                Core::Remote(engine.clone())
            }
        };
        let (no_replies, is_closed) = (Rc::default(), Arc::default());
        Rc::new(Self { id, driver, core, timeout, no_replies, on_change, limits, is_closed })
    }

    /// Ends all requests. [`super::completion`] keeps the waiters' results.
    pub fn close(&self, py: Python<'_>) {
        let Ok(core) = self.core() else { return };
        match core {
            Core::Local { context, cluster } => {
                context.flush();
                cluster.close();
            }
            Core::Remote(engine) => engine.close(py, self.id),
        }
    }

    /// Closes when all `noreply` commands are answered, or after a while.
    pub fn close_later(&self) {
        let Ok(core) = self.core() else { return };
        self.no_replies.close_when_drained.set(Some(self.id));
        let id = self.id;
        match core {
            Core::Local { context, .. } => {
                context.flush();
                let timer = context.clone();
                context.spawn(async move {
                    timer.sleep(CLOSE_AFTER).await;
                    completion::close(id);
                });
            }
            Core::Remote(engine) => engine.close_after(id, CLOSE_AFTER),
        }
    }

    pub fn fetch(
        &self,
        py: Python<'_>,
        key: Key<'_>,
        verb: RetrievalVerb,
        flags: bool,
    ) -> Awaitable {
        let target = self.route(py, Target::Key(key), verb.verb())?;
        let future = self.driver.create_future(py)?;
        let waiter =
            PyWaiter::One { future: future.clone_ref(py), verb: verb.verb(), flags, item: None };
        let request = Request::Retrieval { verb, keys: &[key] };
        self.send(py, target, Submission::Borrowed(&request), waiter)?;
        Ok(future)
    }

    /// `keys` have been checked.
    pub fn fetch_many(
        &self,
        py: Python<'_>,
        keys: Vec<Py<PyBytes>>,
        verb: RetrievalVerb,
        flags: bool,
        is_partial: bool,
    ) -> Awaitable {
        let future = self.driver.create_future(py)?;
        let gather = Rc::new(Gather {
            future: future.clone_ref(py),
            flags,
            verb: verb.verb(),
            keys,
            lines: RefCell::default(),
            missing_lines: Cell::new(1),
            failed: Cell::new(false),
            is_partial,
            failures: RefCell::default(),
        });
        if gather.keys.is_empty() {
            OpFuture::resolve(future.bind(py), gather.into_items(py), Wake::Soon)?;
            return Ok(future);
        }
        let keys = convert::trusted(py, &gather.keys);
        let waiter = |positions, keys| {
            let line = Line { positions, items: Vec::with_capacity(keys) };
            PyWaiter::Line { gather: gather.clone(), line }
        };
        match self.core()? {
            Core::Local { context, cluster } => {
                let lines = match cluster.lines_for(verb, &keys) {
                    Ok(lines) => lines,
                    Err(error) if is_partial => {
                        let verb = Some(gather.verb);
                        waiter(None, 0).fail_with(Outcome::NoNodes { error, verb });
                        Vec::new()
                    }
                    Err(error) => return Err(errors::no_nodes(py, error, Some(gather.verb))),
                };
                gather.missing_lines.set(lines.len());
                let deadline = self.deadline(context);
                let mut some = Vec::new();
                for (node, positions) in lines {
                    let keys = match &positions {
                        None => &keys,
                        Some(positions) => {
                            some.clear();
                            some.extend(positions.iter().map(|at| keys[*at]));
                            &some
                        }
                    };
                    let waiter = waiter(positions, keys.len());
                    let request = Request::Retrieval { verb, keys };
                    cluster.pool(node).submit(&request, waiter, deadline);
                }
            }
            Core::Remote(engine) => {
                let waiter = waiter(None, keys.len());
                let request = Request::Retrieval { verb, keys: &keys };
                let request = engine.to_owned_request(Submission::Borrowed(&request));
                let route = Route::Keys { is_partial };
                engine.submit(self.id, route, request, waiter, self.deadline_instant());
            }
        }
        self.driver.schedule_pending(py)?;
        Ok(future)
    }

    /// Sends one request per key. `values` belong to `Action::Store`. All arguments have been
    /// checked.
    pub fn batch(
        &self,
        py: Python<'_>,
        action: Action,
        keys: Vec<Py<PyBytes>>,
        values: Vec<Py<PyBytes>>,
        noreply: bool,
    ) -> Awaitable {
        let future = self.driver.create_future(py)?;
        let deadline = match &self.core {
            Core::Local { context, .. } => (self.deadline(context), None),
            Core::Remote(_) => (NEVER, self.deadline_instant()),
        };
        let mut batch = Batch {
            session: self.id,
            future: future.clone_ref(py),
            action,
            keys,
            values,
            deadline,
            is_noreply: noreply,
            is_answered: true,
            progress: Progress::default(),
        };
        let backlog = self.no_replies.unanswered.get() + batch.keys.len();
        batch.is_answered =
            !noreply || backlog > MAX_UNANSWERED_NO_REPLIES || !batch.is_one_window(py);
        let batch = Rc::new(batch);
        if batch.keys.is_empty() {
            OpFuture::resolve(future.bind(py), batch.into_result(py), Wake::Soon)?;
            return Ok(future);
        }
        self.send_window(py, &batch)?;
        Ok(future)
    }

    /// The timeout, if a batch has reached its deadline.
    pub fn passed_timeout(&self, batch: &Batch) -> Option<Duration> {
        let (tick, instant) = batch.deadline;
        let is_over = match &self.core {
            Core::Local { context, .. } => tick <= context.now(),
            Core::Remote(_) => instant.is_some_and(|deadline| deadline <= Instant::now()),
        };
        self.timeout.filter(|_| is_over)
    }

    /// Sends the next window of a batch.
    pub fn send_window(&self, py: Python<'_>, batch: &Rc<Batch>) -> PyResult<()> {
        let window = batch.next_window(py);
        let core = self.core()?;
        if !batch.is_answered {
            let unanswered = &self.no_replies.unanswered;
            unanswered.set(unanswered.get() + window.len());
        }
        for at in window {
            let waiter = if batch.is_answered {
                PyWaiter::Part { batch: batch.clone(), at }
            } else {
                let caller = Caller::UntilPartAccepted { batch: batch.clone(), at };
                let verb = batch.action.verb();
                PyWaiter::NoReply { backlog: self.no_replies.clone(), verb, caller }
            };
            batch.request(py, at, |key, submission| match core {
                Core::Local { cluster, .. } => match cluster.index_for(key) {
                    Ok(node) => {
                        cluster.pool(node).submit_any(submission, waiter, batch.deadline.0);
                    }
                    Err(error) => {
                        let verb = waiter.verb();
                        waiter.fail_with(Outcome::NoNodes { error, verb });
                    }
                },
                Core::Remote(engine) => {
                    let request = engine.to_owned_request(submission);
                    engine.submit(self.id, Route::Key, request, waiter, batch.deadline.1);
                }
            });
        }
        self.driver.schedule_pending(py)
    }

    /// Sends a [`Command::Counter`]. Returns its number, or a negative one if the node does not
    /// know the command.
    pub fn counter(&self, py: Python<'_>, key: Key<'_>, command: Command<'_>) -> Awaitable {
        let target = self.route(py, Target::Key(key), command.verb())?;
        let future = self.driver.create_future(py)?;
        let waiter = PyWaiter::Counter { future: future.clone_ref(py) };
        let request = Request::Command(command);
        self.send(py, target, Submission::Borrowed(&request), waiter)?;
        Ok(future)
    }

    /// Completes when a node has answered a `get` of this key, even with an error of a server
    /// behind a proxy.
    pub fn probe(&self, py: Python<'_>, target: Target<'_>, key: Key<'_>) -> Awaitable {
        let future = self.driver.create_future(py)?;
        let waiter = PyWaiter::Probe { future: future.clone_ref(py) };
        let request = Request::Retrieval { verb: RetrievalVerb::Get, keys: &[key] };
        self.send(py, target, Submission::Borrowed(&request), waiter)?;
        Ok(future)
    }

    pub fn command(
        &self,
        py: Python<'_>,
        target: Target<'_>,
        command: Command<'_>,
        noreply: bool,
    ) -> Awaitable {
        self.submit(py, target, Submission::Borrowed(&Request::Command(command)), noreply)
    }

    /// Sends any command.
    pub fn submit(
        &self,
        py: Python<'_>,
        target: Target<'_>,
        submission: Submission<'_>,
        noreply: bool,
    ) -> Awaitable {
        let target = self.route(py, target, submission.verb())?;
        let future = self.driver.create_future(py)?;
        let waiter = if noreply {
            self.no_reply_waiter(py, submission.verb(), &future)
        } else {
            PyWaiter::Command { future: future.clone_ref(py), verb: submission.verb() }
        };
        self.send(py, target, submission, waiter)?;
        Ok(future)
    }

    pub fn stats(&self, py: Python<'_>, node: usize, args: StatsArgs<'_>) -> Awaitable {
        let future = self.driver.create_future(py)?;
        let waiter = PyWaiter::Stats { future: future.clone_ref(py), stats: Vec::new() };
        let request = Request::Command(Command::Stats { args });
        self.send(py, Target::Node(node), Submission::Borrowed(&request), waiter)?;
        Ok(future)
    }

    /// Sends a command on a checked-out connection. Returns the text of the reply.
    pub fn raw_command(
        &self,
        py: Python<'_>,
        checkout: CheckoutId,
        command: Command<'_>,
        noreply: bool,
    ) -> Awaitable {
        if noreply {
            return self.command(py, Target::Checkout(checkout), command, true);
        }
        let (future, verb) = (self.driver.create_future(py)?, command.verb());
        let waiter = PyWaiter::RawReply { future: future.clone_ref(py), verb, text: Vec::new() };
        let request = Request::Command(command);
        self.send(py, Target::Checkout(checkout), Submission::Borrowed(&request), waiter)?;
        Ok(future)
    }

    /// Sends a retrieval on a checked-out connection.
    pub fn raw_fetch(
        &self,
        py: Python<'_>,
        checkout: CheckoutId,
        keys: Vec<Py<PyBytes>>,
        verb: RetrievalVerb,
    ) -> Awaitable {
        let future = self.driver.create_future(py)?;
        let items = Box::new(RawItems::new(keys.iter().map(|key| key.clone_ref(py)).collect()));
        let waiter = PyWaiter::RawItems { future: future.clone_ref(py), verb: verb.verb(), items };
        let request = Request::Retrieval { verb, keys: &convert::trusted(py, &keys) };
        self.send(py, Target::Checkout(checkout), Submission::Borrowed(&request), waiter)?;
        Ok(future)
    }

    /// Checks out a connection of the first node.
    pub fn check_out(&self, py: Python<'_>, checkout: CheckoutId) -> Awaitable {
        let future = self.driver.create_future(py)?;
        let waiter =
            PyWaiter::Checkout { future: future.clone_ref(py), session: self.id, checkout };
        match self.core()? {
            Core::Local { context, cluster } => {
                cluster.pool(0).check_out(checkout, waiter, self.deadline(context));
            }
            Core::Remote(engine) => {
                engine.check_out(self.id, checkout, waiter, self.deadline_instant());
            }
        }
        self.driver.schedule_pending(py)?;
        Ok(future)
    }

    pub fn release(&self, py: Python<'_>, checkout: CheckoutId) -> PyResult<()> {
        self.post(move |nodes| nodes.release(checkout));
        self.driver.schedule_pending(py)
    }

    /// Releases a connection where no caller can receive an error.
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

    /// The index of the node to which a key belongs.
    pub fn node_for(&self, py: Python<'_>, key: Key<'_>) -> PyResult<usize> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let index = self.query(py, move |nodes| nodes.node_for(Key::trusted(&key)))?;
        index.map_err(|error| errors::no_nodes(py, error, None))
    }

    /// The indexes of the healthy and of the unhealthy nodes.
    pub fn health(&self, py: Python<'_>) -> PyResult<(Vec<usize>, Vec<usize>)> {
        self.query(py, |nodes| nodes.health())
    }

    pub fn metrics(&self, py: Python<'_>, node: usize) -> PyResult<Metrics> {
        self.query(py, move |nodes| nodes.metrics(node))
    }

    /// See [`Cluster::metrics`].
    pub fn all_metrics(&self, py: Python<'_>) -> PyResult<Vec<NodeMetrics>> {
        self.query(py, |nodes| nodes.all_metrics())
    }

    /// See [`Cluster::add_node`].
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

    /// See [`Cluster::change`].
    pub fn change(&self, py: Python<'_>, joining: Vec<usize>, leaving: Vec<usize>) -> PyResult<()> {
        self.query(py, move |nodes| nodes.change(&joining, &leaving))?;
        self.driver.schedule_pending(py)
    }

    fn query<T: Send + 'static>(
        &self,
        py: Python<'_>,
        query: impl FnOnce(&dyn Nodes) -> T + Send + 'static,
    ) -> PyResult<T> {
        match self.core()? {
            Core::Local { cluster, .. } => Ok(query(cluster)),
            Core::Remote(engine) => engine.query(py, self.id, move |cluster| query(cluster)),
        }
    }

    fn post(&self, what: impl FnOnce(&dyn Nodes) + Send + 'static) {
        match self.core() {
            Err(_) => {}
            Ok(Core::Local { cluster, .. }) => what(cluster),
            Ok(Core::Remote(engine)) => engine.post_to(self.id, move |cluster| what(cluster)),
        }
    }

    /// If the cluster is on this thread, replaces a key by its node, or fails at once if there is
    /// none.
    fn route<'a>(&self, py: Python<'_>, target: Target<'a>, verb: Verb) -> PyResult<Target<'a>> {
        match (self.core()?, target) {
            (Core::Local { cluster, .. }, Target::Key(key)) => {
                let node = cluster.index_for(key).map(Target::Node);
                node.map_err(|error| errors::no_nodes(py, error, Some(verb)))
            }
            _ => Ok(target),
        }
    }

    /// `target` must come from [`Self::route`].
    fn send(
        &self,
        py: Python<'_>,
        target: Target<'_>,
        submission: Submission<'_>,
        waiter: PyWaiter,
    ) -> PyResult<()> {
        match self.core()? {
            Core::Local { context, cluster } => {
                let deadline = self.deadline(context);
                match target {
                    Target::Node(node) => {
                        cluster.pool(node).submit_any(submission, waiter, deadline);
                    }
                    Target::Isolated(node) => {
                        cluster.pool(node).submit_isolated(submission, waiter, deadline);
                    }
                    Target::Checkout(checkout) => {
                        cluster.pool(0).submit_checked_out(
                            checkout,
                            submission.into_owned(),
                            waiter,
                            deadline,
                        );
                    }
                    Target::Key(_) => waiter.fail_with(Outcome::Internal),
                }
            }
            Core::Remote(engine) => {
                let route = match target {
                    Target::Key(_) => Route::Key,
                    Target::Node(node) => Route::Node(node),
                    Target::Isolated(node) => Route::Isolated(node),
                    Target::Checkout(checkout) => Route::Checkout(checkout),
                };
                let deadline = self.deadline_instant();
                let request = engine.to_owned_request(submission);
                engine.submit(self.id, route, request, waiter, deadline);
            }
        }
        self.driver.schedule_pending(py)
    }

    /// The core, unless it belongs to the parent process. Must be called after the last call into
    /// Python, because that may have forked.
    fn core(&self) -> PyResult<&Core> {
        if self.driver.is_forked() { Err(errors::forked()) } else { Ok(&self.core) }
    }

    fn deadline(&self, context: &Context) -> Nanos {
        match self.timeout {
            None => NEVER,
            limit => context.deadline_after(limit),
        }
    }

    fn deadline_instant(&self) -> Option<Instant> {
        self.timeout.and_then(|limit| Instant::now().checked_add(limit))
    }

    /// The call ends when the command is on a connection, or when it is answered if too many
    /// commands are unanswered.
    fn no_reply_waiter(&self, py: Python<'_>, verb: Verb, future: &Py<OpFuture>) -> PyWaiter {
        let backlog = self.no_replies.clone();
        let unanswered = backlog.unanswered.get() + 1;
        backlog.unanswered.set(unanswered);
        let future = future.clone_ref(py);
        let caller = if unanswered <= MAX_UNANSWERED_NO_REPLIES {
            Caller::UntilAccepted(future)
        } else {
            Caller::UntilAnswered(future)
        };
        PyWaiter::NoReply { backlog, verb, caller }
    }
}
