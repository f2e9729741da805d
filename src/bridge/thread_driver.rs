//! The core on a separate thread, for platforms on which asyncio cannot watch descriptors.
//!
//! Requests are posted to [`Background`] with a ticket, and the waiter stays here. Replies are
//! collected in an outbox, and one wake-up of the loop fetches all of them. The thread that does
//! the I/O does not wait for the GIL. A helper thread of the runtime waits for it and calls the
//! loop.
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3_asyncio::TaskLocals;
use slab::Slab;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::background::{Background, Cores, Job};
use super::completion::{self, Outcome};
use super::driver::PythonLoop;
use super::errors;
use super::once::intern;
use super::recorder::{End, Message, Record, Recorder, Ticket, play_back};
use super::shutdown;
use super::waiter::PyWaiter;
use crate::cluster::{Cluster, ClusterConfig, ClusterError};
use crate::pool::{Address, CheckoutId, Submission};
use crate::protocol::{Key, Nanos, OwnedRequest, ReplyHandler};

pub struct ThreadEngine {
    background: RefCell<Option<Arc<Background>>>,
    /// The requests of this iteration of the loop, which are posted together.
    outgoing: RefCell<Vec<Job>>,
    last_batch: Cell<usize>,
    flush_scheduled: Cell<bool>,
    outbox: Arc<Outbox>,
    /// The waiters, by ticket.
    waiters: RefCell<Slab<PyWaiter>>,
    /// Memory that short requests share on their way.
    block: RefCell<BytesMut>,
}

/// A request on its way to the core's thread.
pub struct PostedRequest {
    session: u64,
    ticket: Ticket,
    outbox: Arc<Outbox>,
    abandoned: Option<Arc<AtomicBool>>,
    noreply: bool,
    deadline: Option<Instant>,
    what: PostedAction,
}

enum PostedAction {
    Send(Route, OwnedRequest),
    Checkout(CheckoutId),
}

impl PostedRequest {
    /// Runs on the core's thread. `last` is the cluster of the previous request.
    pub fn submit(self, cores: &Cores, last: &mut Option<(u64, Cluster<Recorder>)>) {
        let record = Record::new(self.ticket, self.outbox, self.abandoned, self.noreply);
        let deadline = cores.context.deadline_at(self.deadline);
        if last.as_ref().is_none_or(|(session, _)| *session != self.session) {
            let cluster = cores.clusters.borrow().get(&self.session).cloned();
            *last = cluster.map(|cluster| (self.session, cluster));
        }
        let Some((_, cluster)) = last else { return record.end(End::Closed) };
        match self.what {
            PostedAction::Checkout(checkout) => {
                cluster.pool(0).check_out(checkout, record.line(None), deadline);
            }
            PostedAction::Send(route, request) => {
                if let Err(error) = send(cluster, route, request, &record, deadline) {
                    record.end(End::NoNodes(error));
                }
            }
        }
    }
}

/// The messages of the core's thread for one loop.
pub struct Outbox {
    messages: Mutex<Vec<Message>>,
    /// Whether the loop has been notified of new messages.
    is_notified: AtomicBool,
    runtime: &'static Runtime,
    notifier: Mutex<Option<Arc<Notifier>>>,
}

/// Calls the loop, in the context in which the first client was created.
struct Notifier {
    locals: TaskLocals,
    turn: Py<PyAny>,
}

/// The number of helper threads that are calling a loop. It must be 0 when the interpreter ends.
static NOTIFYING: AtomicUsize = AtomicUsize::new(0);
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Keeps emcache's threads from touching the interpreter, and waits for those that are using it.
pub fn stop_notifying(py: Python<'_>) {
    STOPPED.store(true, Ordering::SeqCst);
    py.detach(|| {
        for _ in 0..1000 {
            if NOTIFYING.load(Ordering::SeqCst) == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// The parent's helper threads do not exist in the child.
pub fn after_fork_in_child() {
    NOTIFYING.store(0, Ordering::SeqCst);
}

impl Outbox {
    /// Called in a task or a job of the core's thread.
    pub fn push(self: &Arc<Self>, message: Message) {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        if !self.is_notified.swap(true, Ordering::AcqRel) {
            let outbox = self.clone();
            // Queued behind all ready tasks, so that one call of the loop covers all their
            // messages.
            tokio::task::spawn_local(async move { outbox.notify() });
        }
    }

    fn notify(self: &Arc<Self>) {
        let outbox = self.clone();
        let helped = catch_unwind(AssertUnwindSafe(|| {
            self.runtime.spawn_blocking(move || outbox.call_loop());
        }));
        if helped.is_err() {
            // If no helper thread can be started, this one waits for the GIL.
            self.call_loop();
        }
    }

    fn call_loop(&self) {
        NOTIFYING.fetch_add(1, Ordering::SeqCst);
        if STOPPED.load(Ordering::SeqCst) {
            self.is_notified.store(false, Ordering::Release);
        } else {
            let _ = Python::try_attach(|py| {
                let notifier = self.notifier.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // A closed loop refuses the call. Then there is no caller left to notify.
                if notifier.is_some_and(|notifier| notifier.notify(py).is_err()) {
                    self.is_notified.store(false, Ordering::Release);
                }
            });
        }
        NOTIFYING.fetch_sub(1, Ordering::SeqCst);
    }

    fn take(&self) -> Vec<Message> {
        // Before the messages are taken, so that later ones notify the loop again.
        self.is_notified.store(false, Ordering::Release);
        std::mem::take(&mut *self.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Notifier {
    fn notify(&self, py: Python<'_>) -> PyResult<()> {
        let options = PyDict::new(py);
        options.set_item(intern!(py, "context"), self.locals.context(py))?;
        let event_loop = self.locals.event_loop(py);
        let call = event_loop.getattr(intern!(py, "call_soon_threadsafe"))?;
        call.call((&self.turn,), Some(&options))?;
        Ok(())
    }
}

/// When this many requests are collected they are posted without waiting for the end of the
/// iteration.
const MAX_BATCH: usize = 512;

/// The destination of a request.
pub enum Route {
    /// The node of its key.
    Key,
    /// The nodes of its keys.
    Keys {
        is_partial: bool,
    },
    Node(usize),
    /// A node, on a separate connection.
    Isolated(usize),
    Checkout(CheckoutId),
}

impl ThreadEngine {
    pub fn start(py: Python<'_>, python: &PythonLoop) -> PyResult<Self> {
        let background = Background::get()?;
        // An exit handler may start another loop, which needs notifications too.
        STOPPED.store(false, Ordering::SeqCst);
        let locals = TaskLocals::new(python.event_loop.bind(py).clone()).copy_context(py)?;
        let notifier = Arc::new(Notifier { locals, turn: python.turn.clone_ref(py) });
        let outbox = Arc::new(Outbox {
            messages: Mutex::default(),
            is_notified: AtomicBool::new(false),
            runtime: background.runtime(),
            notifier: Mutex::new(Some(notifier)),
        });
        Ok(Self {
            background: RefCell::new(Some(background)),
            outgoing: RefCell::default(),
            last_batch: Cell::new(0),
            flush_scheduled: Cell::new(false),
            outbox,
            waiters: RefCell::default(),
            block: RefCell::default(),
        })
    }

    pub fn open(&self, session: u64, addresses: Vec<Address>, config: ClusterConfig) {
        let outbox = self.outbox.clone();
        self.post(move |cores| {
            let on_change = move |change| outbox.push(Message::Changed { session, change });
            let cluster = Cluster::new(&cores.context, addresses, &config, on_change);
            cores.clusters.borrow_mut().insert(session, cluster);
        });
    }

    /// Ends all requests of a session and notifies their callers.
    pub fn close(&self, py: Python<'_>, session: u64) {
        self.call(py, move |cores| {
            cores.context.flush();
            let closed = cores.clusters.borrow_mut().remove(&session);
            if let Some(cluster) = closed {
                cluster.close();
            }
        });
        self.collect();
    }

    pub fn submit(
        &self,
        session: u64,
        route: Route,
        request: OwnedRequest,
        waiter: PyWaiter,
        deadline: Option<Instant>,
    ) {
        self.post_request(session, waiter, deadline, PostedAction::Send(route, request));
    }

    /// Converts a request to one that can be sent to the core's thread.
    pub fn to_owned_request(&self, submission: Submission<'_>) -> OwnedRequest {
        submission.into_owned_in_block(&mut self.block.borrow_mut())
    }

    pub fn check_out(
        &self,
        session: u64,
        checkout: CheckoutId,
        waiter: PyWaiter,
        deadline: Option<Instant>,
    ) {
        self.post_request(session, waiter, deadline, PostedAction::Checkout(checkout));
    }

    pub fn close_after(&self, session: u64, delay: Duration) {
        let outbox = self.outbox.clone();
        self.post(move |cores| {
            cores.context.flush();
            let timer = cores.context.clone();
            cores.context.spawn(async move {
                timer.sleep(delay).await;
                outbox.push(Message::Close { session });
            });
        });
    }

    /// Runs `job` with the cluster of a session, if it still exists.
    pub fn post_to(&self, session: u64, job: impl FnOnce(&Cluster<Recorder>) + Send + 'static) {
        self.post(move |cores| {
            let cluster = cores.clusters.borrow().get(&session).cloned();
            if let Some(cluster) = cluster {
                job(&cluster);
            }
        });
    }

    /// Runs `query` with the cluster of a session and waits for the result.
    pub fn query<T: Send + 'static>(
        &self,
        py: Python<'_>,
        session: u64,
        query: impl FnOnce(&Cluster<Recorder>) -> T + Send + 'static,
    ) -> PyResult<T> {
        let answer = self.call(py, move |cores| {
            let cluster = cores.clusters.borrow().get(&session).cloned();
            cluster.map(|cluster| query(&cluster))
        });
        answer.flatten().ok_or_else(errors::closed)
    }

    /// Passes all received messages to their waiters.
    pub fn collect(&self) {
        for message in self.outbox.take() {
            match message {
                Message::Accepted { ticket } => {
                    if let Some(waiter) = self.waiters.borrow_mut().get_mut(ticket) {
                        waiter.accepted();
                    }
                }
                Message::Ended { ticket, events, end } => {
                    let waiter = self.waiters.borrow_mut().try_remove(ticket);
                    if let Some(waiter) = waiter {
                        play_back(events, end, waiter);
                    }
                }
                Message::Changed { session, change } => completion::node_changed(session, change),
                Message::Close { session } => completion::close(session),
            }
        }
    }

    /// Stops using the thread, which ends with its last user.
    pub fn stop(&self, py: Python<'_>) {
        self.flush();
        let background = self.background.take();
        py.detach(|| drop(background));
        self.collect();
        self.fail_all(&|| Outcome::Internal);
        let notifier = self.outbox.notifier.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(notifier);
        if shutdown::has_begun() {
            // An exit handler ran this loop. No later hook waits for the helper threads.
            stop_notifying(py);
        }
    }

    fn post_request(
        &self,
        session: u64,
        waiter: PyWaiter,
        deadline: Option<Instant>,
        what: PostedAction,
    ) {
        let (abandoned, noreply) = (waiter.watch_abandoned(), waiter.is_noreply());
        let ticket = self.waiters.borrow_mut().insert(waiter);
        let outbox = self.outbox.clone();
        let posted = PostedRequest { session, ticket, outbox, abandoned, noreply, deadline, what };
        self.post_job(Job::Request(posted));
    }

    fn post(&self, job: impl FnOnce(&Cores) + Send + 'static) {
        self.post_job(Job::Call(Box::new(job)));
    }

    fn post_job(&self, job: Job) {
        let mut outgoing = self.outgoing.borrow_mut();
        outgoing.push(job);
        let is_full = outgoing.len() >= MAX_BATCH;
        drop(outgoing);
        if is_full {
            self.flush();
        }
    }

    pub fn is_flush_scheduled(&self) -> bool {
        self.flush_scheduled.get()
    }

    /// A single request is posted at once if recent ones were single too, otherwise with the other
    /// requests of its iteration.
    pub fn schedule_flush(&self, py: Python<'_>, python: &PythonLoop) -> PyResult<()> {
        let count = self.outgoing.borrow().len();
        if count == 0 || self.flush_scheduled.get() {
            return Ok(());
        }
        if count == 1 && self.last_batch.get() <= 1 && self.waiters.borrow().len() <= 1 {
            self.flush();
            return Ok(());
        }
        python.call_soon.call1(py, (&python.flush,))?;
        // Set only after the loop has accepted the callback.
        self.flush_scheduled.set(true);
        Ok(())
    }

    /// Posts the collected requests, or fails them if the thread is no longer used.
    pub fn flush(&self) {
        self.flush_scheduled.set(false);
        let batch = self.outgoing.take();
        self.last_batch.set(batch.len());
        match self.background.borrow().as_ref() {
            None => self.fail_all(&|| Outcome::Closed),
            Some(_) if batch.is_empty() => {}
            Some(background) => background.post(batch),
        }
    }

    fn fail_all(&self, why: &dyn Fn() -> Outcome) {
        for waiter in self.waiters.take().drain() {
            waiter.fail_with(why());
        }
    }

    fn call<T: Send + 'static>(
        &self,
        py: Python<'_>,
        job: impl FnOnce(&Cores) -> T + Send + 'static,
    ) -> Option<T> {
        self.flush();
        let background = self.background.borrow().clone()?;
        background.call(py, job)
    }
}

/// Runs on the core's thread.
fn send(
    cluster: &Cluster<Recorder>,
    route: Route,
    request: OwnedRequest,
    record: &Rc<Record>,
    deadline: Nanos,
) -> Result<(), ClusterError> {
    match (route, request) {
        (Route::Key, request) => {
            let pool = cluster.pool(cluster.index_for(Key::trusted(request.key()))?);
            pool.submit_owned(request, record.line(None), deadline);
        }
        (Route::Keys { is_partial }, OwnedRequest::Retrieval { verb, keys }) => {
            let all: Vec<Key<'_>> = keys.iter().map(|key| Key::trusted(key)).collect();
            let lines = cluster.lines_for(verb, &all)?;
            record.expect_lines(lines.len());
            if is_partial {
                record.keep_failures();
            }
            for (node, positions) in lines {
                let keys = match &positions {
                    Some(positions) => positions.iter().map(|at| keys[*at].clone()).collect(),
                    None => keys.clone(),
                };
                let line = record.line(positions);
                let request = OwnedRequest::Retrieval { verb, keys };
                cluster.pool(node).submit_owned(request, line, deadline);
            }
        }
        (Route::Keys { .. }, request) => {
            cluster.pool(0).submit_owned(request, record.line(None), deadline);
        }
        (Route::Node(node), request) => {
            cluster.pool(node).submit_owned(request, record.line(None), deadline);
        }
        (Route::Isolated(node), request) => {
            let request = Submission::Owned(request);
            cluster.pool(node).submit_isolated(request, record.line(None), deadline);
        }
        (Route::Checkout(checkout), request) => {
            cluster.pool(0).submit_checked_out(checkout, request, record.line(None), deadline);
        }
    }
    Ok(())
}
