//! A client whose callers wait: each call runs on its own thread, which drives a core of its own
//! until the reply is there. Other threads run meanwhile.
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;

use super::batch::PyBatch;
use super::convert;
use super::driver::running_loop;
use super::errors;
use super::item::RawItem;
use super::once::{AttachedOnce, intern};
use super::operations::Answer;
use super::result::{self, Form, ItemsForm};
use super::shutdown;
use super::value_buf::PyValueBuf;
use crate::client::{Action, Expect, HotKey, Nodes, Outcome, Target};
use crate::cluster::routing::NodeSpecs;
use crate::cluster::{ClusterConfig, NodeMetrics};
use crate::host::{CheckOutError, CheckedOut, CorePool, NodeAt, OwnedItem, Receiver, Submitter};
use crate::pool::{Submission, copy_into_block};
use crate::protocol::{ItemRef, Nanos, OwnedRequest, RetrievalVerb};

/// The longest wait without a check for signals, and for the end of the client.
pub const SLICE: Duration = Duration::from_millis(30);

/// The longest wait for the counters of calls that are under way.
const METRICS_TIMEOUT: Duration = Duration::from_secs(1);
const METRICS_POLL: Duration = Duration::from_millis(2);

/// The limit for the replies to `noreply` requests of a client without a timeout.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the handlers of signals that have arrived, also those that a call of a cache defers.
pub fn check_signals(py: Python<'_>) -> PyResult<()> {
    static CHECK: AttachedOnce<PyAny> = AttachedOnce::new();
    py.check_signals()?;
    CHECK.import(py, "emcache.sync._signals", "check")?.call0()?;
    Ok(())
}

pub struct BlockingClient {
    cores: CorePool<PyReceiver>,
    /// Called with the index of a node, what became of it, and why.
    on_change: Py<PyAny>,
    /// Whether calls are allowed in a thread with a running event loop, which they block.
    allow_in_event_loop: bool,
}

pub enum PyReceiver {}

/// An item that arrived while this thread may have been detached from the interpreter.
pub enum ReceivedItem {
    Copied(OwnedItem),
    InPlace(RawItem),
}

impl Receiver for PyReceiver {
    type Item = ReceivedItem;
    type Value = PyValueBuf;
    type Source = Arc<PyBatch>;

    fn item(item: &ItemRef<'_>, shared: Option<&PyValueBuf>, block: &mut BytesMut) -> ReceivedItem {
        if shared.is_some() {
            return Python::attach(|py| ReceivedItem::InPlace(RawItem::new(py, item, shared)));
        }
        let ItemRef { value, flags, cas, .. } = *item;
        let value = copy_into_block(value, block);
        ReceivedItem::Copied(OwnedItem { value, flags, cas })
    }
}

impl ReceivedItem {
    fn into_raw(self, py: Python<'_>) -> RawItem {
        match self {
            Self::Copied(item) => RawItem::from_owned(py, item),
            Self::InPlace(item) => item,
        }
    }
}

/// How long a request took, and its outcome.
pub type Ended = (Duration, Outcome<RawItem>);

type Checked<'p> = CheckedOut<'p, PyReceiver>;

impl BlockingClient {
    pub fn new(
        nodes: Vec<NodeAt>,
        config: ClusterConfig,
        on_change: Py<PyAny>,
        allow_in_event_loop: bool,
    ) -> Self {
        Self { cores: CorePool::new(nodes, config), on_change, allow_in_event_loop }
    }

    pub fn is_closed(&self) -> bool {
        self.cores.is_closed()
    }

    /// Closes the client, after the replies to `noreply` requests.
    pub fn close(&self, py: Python<'_>) -> PyResult<()> {
        for mut core in self.cores.close() {
            self.drain_core(py, &mut core)?;
        }
        Ok(())
    }

    pub fn set_nodes(&self, nodes: Vec<NodeAt>, specs: Option<Arc<NodeSpecs>>) {
        self.cores.set_nodes(nodes, specs);
    }

    pub fn limits(&self) -> (usize, usize) {
        let pool = &self.cores.config().pool;
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
        let is_noreply = matches!(expect, Expect::NoReply);
        self.call(py, form, is_noreply, move |to, deadline| {
            to.client.submit(target, expect, submission, deadline, to.caller(0));
        })
    }

    pub fn fetch_many(&self, py: Python<'_>, form: Arc<ItemsForm>, verb: RetrievalVerb) -> Answer {
        let keys = convert::trusted(py, &form.keys);
        let is_partial = form.is_partial;
        self.call(py, Form::Items(form.clone()), false, |to, deadline| {
            to.client.get_many(verb, &keys, None, is_partial, deadline, to.caller(0));
        })
    }

    pub fn batch(
        &self,
        py: Python<'_>,
        action: Action,
        source: Arc<PyBatch>,
        noreply: bool,
        form: Form,
    ) -> Answer {
        self.call(py, form, noreply, move |to, deadline| {
            to.client.batch(action, source, noreply, deadline, to.caller(0));
        })
    }

    /// Waits until the `noreply` requests of this thread are answered.
    pub fn drain(&self, py: Python<'_>) -> PyResult<()> {
        if self.cores.noreply_unanswered() > 0 {
            self.drain_core(py, &mut self.check_out(py)?)?;
        }
        Ok(())
    }

    pub fn noreply_unanswered(&self) -> usize {
        self.cores.noreply_unanswered()
    }

    pub fn noreply_errors(&self) -> u64 {
        self.cores.noreply_errors()
    }

    pub fn health(&self) -> PyResult<(Vec<usize>, Vec<usize>)> {
        let busy = || PyRuntimeError::new_err("all connections of the client are in use");
        self.cores.health().ok_or_else(busy)
    }

    pub fn all_metrics(&self, py: Python<'_>) -> Vec<NodeMetrics> {
        self.cores.request_counters();
        let until = Instant::now() + METRICS_TIMEOUT;
        // The pool is never locked while this thread is detached, so that a fork finds it free.
        while !self.cores.has_counters() && Instant::now() < until {
            py.detach(|| thread::sleep(METRICS_POLL));
        }
        self.cores.metrics()
    }

    pub fn hot_keys(&self) -> Vec<(HotKey, Option<usize>)> {
        self.cores.hot_keys()
    }

    pub fn query<T>(&self, query: impl FnOnce(&dyn Nodes) -> T) -> PyResult<T> {
        let core = self.cores.check_out().map_err(no_core)?;
        Ok(query(core.nodes()))
    }

    fn check_out(&self, py: Python<'_>) -> PyResult<Checked<'_>> {
        refuse_loop(py, self.allow_in_event_loop)?;
        self.cores.check_out().map_err(no_core)
    }

    fn call(
        &self,
        py: Python<'_>,
        form: Form,
        is_noreply: bool,
        submit: impl FnOnce(&Submitter<'_, PyReceiver>, Nanos) + Send,
    ) -> Answer {
        let mut core = self.check_out(py)?;
        let mut submit = Some(|to: &Submitter<'_, PyReceiver>| submit(to, to.deadline()));
        let _returning = self.wait(py, &mut core, &mut submit, 1, Duration::MAX)?;
        if is_noreply {
            self.finish_writing(py, &mut core)?;
        }
        let outcome = core.take();
        let changes = core.has_changes().then(|| core.take_changes());
        drop(core);
        for change in changes.into_iter().flatten() {
            self.notify(py, &change)?;
        }
        match outcome {
            Some(Outcome::Done | Outcome::Item(None)) => Ok(py.None()),
            Some(outcome) => result::to_python(py, form, outcome.map(|item| item.into_raw(py))),
            None => Err(errors::internal()),
        }
    }

    /// Waits until the call that `submit` begins has `count` outcomes, for at most `limit`. A later
    /// call with the same `submit`, which is `None` then, goes on waiting.
    fn wait(
        &self,
        py: Python<'_>,
        core: &mut Checked<'_>,
        submit: &mut Option<impl FnOnce(&Submitter<'_, PyReceiver>) + Send>,
        count: usize,
        limit: Duration,
    ) -> PyResult<shutdown::Turn> {
        let began = Instant::now();
        loop {
            let (returning, has_outcomes) = py.detach(|| {
                if let Some(submit) = submit.take() {
                    core.begin(submit);
                }
                let has_outcomes = core.wait(count, SLICE.min(limit));
                (return_to_python(), has_outcomes)
            });
            if has_outcomes {
                return Ok(returning);
            }
            // A handler may raise, close the client, or fork.
            let checked = check_signals(py);
            if core.is_forked() {
                checked?;
                return Err(errors::forked_in_call());
            }
            checked?;
            if self.is_closed() {
                core.close();
                return if core.has(count) { Ok(returning) } else { Err(errors::closed()) };
            }
            if began.elapsed() >= limit {
                return Ok(returning);
            }
        }
    }

    /// Writes what the socket did not take at once: nothing drives the core after the call.
    fn finish_writing(&self, py: Python<'_>, core: &mut Checked<'_>) -> PyResult<()> {
        let limit = self.cores.config().pool.timeout.unwrap_or(Duration::MAX);
        let began = Instant::now();
        loop {
            let (_returning, is_written) = py.detach(|| {
                let is_written = core.wait_written(SLICE);
                (return_to_python(), is_written)
            });
            if is_written || self.is_closed() || began.elapsed() >= limit {
                return Ok(());
            }
            check_signals(py)?;
            if core.is_forked() {
                return Err(errors::forked_in_call());
            }
        }
    }

    /// Waits for the replies to the `noreply` requests of this core, but not for long.
    fn drain_core(&self, py: Python<'_>, core: &mut Checked<'_>) -> PyResult<()> {
        let limit = self.cores.config().pool.timeout.unwrap_or(DRAIN_TIMEOUT);
        let began = Instant::now();
        let mut is_begun = false;
        while core.nodes().noreply_unanswered() > 0 && began.elapsed() < limit {
            let _returning = py.detach(|| {
                if !std::mem::replace(&mut is_begun, true) {
                    core.begin(|to| to.client.drain(to.caller(0)));
                }
                core.wait(1, SLICE);
                return_to_python()
            });
            check_signals(py)?;
            if core.is_forked() {
                return Err(errors::forked_in_call());
            }
        }
        Ok(())
    }

    /// Sends all requests at once. Returns the outcome of each, with its time. Ends when
    /// `is_enough`, or after `limit`: outcomes that are missing then are `None`.
    pub fn submit_each(
        &self,
        py: Python<'_>,
        requests: Vec<(Target, Expect, OwnedRequest)>,
        limit: Option<Duration>,
        is_enough: impl Fn(&[Option<Ended>]) -> bool,
    ) -> PyResult<Vec<Option<Ended>>> {
        let mut core = self.check_out(py)?;
        let began = Instant::now();
        let mut ended: Vec<Option<Ended>> = requests.iter().map(|_| None).collect();
        let (total, mut missing) = (requests.len(), requests.len());
        let mut submit = Some(move |to: &Submitter<'_, PyReceiver>| {
            for (index, (target, expect, mut request)) in requests.into_iter().enumerate() {
                let (request, caller) = (Submission::Owned(&mut request), to.caller(index));
                to.client.submit(target, expect, request, to.deadline(), caller);
            }
        });
        while missing > 0 && !is_enough(&ended) {
            let rest = limit.map_or(Duration::MAX, |limit| limit.saturating_sub(began.elapsed()));
            let count = total - missing + 1;
            drop(self.wait(py, &mut core, &mut submit, count, rest)?);
            for (index, outcome) in core.outcomes_from(total - missing) {
                ended[index] = Some((began.elapsed(), outcome.map(|item| item.into_raw(py))));
                missing -= 1;
            }
            if limit.is_some_and(|limit| began.elapsed() >= limit) {
                break;
            }
        }
        Ok(ended)
    }

    fn notify(&self, py: Python<'_>, change: &crate::cluster::NodeChange) -> PyResult<()> {
        let (what, cause) = super::registry::change_words(&change.change);
        self.on_change.call1(py, (change.node, what, cause)).map(drop)
    }
}

/// A call in a thread with a running event loop is an error, unless it is allowed.
pub fn refuse_loop(py: Python<'_>, is_allowed: bool) -> PyResult<()> {
    if !is_allowed
        && let Some(event_loop) = running_loop(py)?
        // Loops of emcache.sync itself are meant to be blocked.
        && event_loop.getattr_opt(intern!(py, "_emcache_blocking"))?.is_none()
    {
        return Err(PyRuntimeError::new_err(
            "a call of a synchronous client would block the event loop that runs in this \
             thread; use emcache.create_client, or pass allow_in_event_loop=True",
        ));
    }
    Ok(())
}

/// Called before a thread attaches to the interpreter again. If the interpreter is about to end,
/// the thread must not: it waits for the end of the process.
pub fn return_to_python() -> shutdown::Turn {
    loop {
        if let Some(turn) = shutdown::Turn::begin() {
            return turn;
        }
        thread::park();
    }
}

pub fn no_core(error: CheckOutError) -> PyErr {
    match error {
        CheckOutError::Closed => errors::closed(),
        CheckOutError::Childless => PyRuntimeError::new_err(
            "this client has begun a migration in the parent of this process; create one after \
             the fork",
        ),
        CheckOutError::Io(error) => match error.raw_os_error() {
            Some(number) => PyOSError::new_err((number, error.to_string())),
            None => error.into(),
        },
    }
}
