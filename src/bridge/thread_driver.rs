//! The core on a separate thread, for platforms on which asyncio cannot watch descriptors.
//!
//! Operations are posted to the [`CoreThread`] with a ticket; the future stays here. Outcomes are
//! collected in an outbox, and one wake-up of the loop fetches all that arrived. The thread that
//! does the I/O never waits for the interpreter's lock. A helper thread of the runtime does, for as
//! long as it takes to call the loop.
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3_asyncio::TaskLocals;
use slab::Slab;
use tokio::time::Instant;

use super::completion;
use super::driver::PythonLoop;
use super::errors;
use super::future::OpFuture;
use super::item::RawItem;
use super::once::intern;
use super::shutdown;
use crate::client::{FailureKind, Nodes, Operation, Outcome};
use crate::cluster::ClusterConfig;
use crate::host::{CoreThread, Cores, Job, Message, Notify, Outbox, PostedOperation, SharedSource};
use crate::pool::{Address, Submission, copy_into_block};
use crate::protocol::OwnedRequest;

pub struct ThreadEngine {
    thread: RefCell<Option<Arc<CoreThread>>>,
    /// The operations of this iteration of the loop: they are posted together.
    outgoing: RefCell<Vec<Job>>,
    last_batch: Cell<usize>,
    flush_scheduled: Cell<bool>,
    outbox: Arc<Outbox>,
    /// By their tickets.
    futures: RefCell<Slab<Py<OpFuture>>>,
    /// The block of memory that requests on their way share.
    block: RefCell<BytesMut>,
}

/// How the loop is called: in the context in which the first client was made.
struct LoopNotifier {
    locals: TaskLocals,
    turn: Py<PyAny>,
}

/// Helpers that are calling a loop; there may be none when the interpreter ends.
static NOTIFYING: AtomicUsize = AtomicUsize::new(0);
static STOPPED: AtomicBool = AtomicBool::new(false);

/// From now on no thread of ours touches the interpreter. Waits for those that do.
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

/// The child of a fork has no helpers, whatever was under way in the parent.
pub fn after_fork_in_child() {
    NOTIFYING.store(0, Ordering::SeqCst);
}

impl Notify for LoopNotifier {
    fn notify(&self) -> bool {
        NOTIFYING.fetch_add(1, Ordering::SeqCst);
        let is_stopped = STOPPED.load(Ordering::SeqCst);
        // A loop that is closed refuses, and there are no callers left to tell.
        let called = !is_stopped && Python::try_attach(|py| self.call(py).is_ok()) != Some(false);
        NOTIFYING.fetch_sub(1, Ordering::SeqCst);
        called
    }
}

impl LoopNotifier {
    fn call(&self, py: Python<'_>) -> PyResult<()> {
        let options = PyDict::new(py);
        options.set_item(intern!(py, "context"), self.locals.context(py))?;
        let event_loop = self.locals.event_loop(py);
        let call = event_loop.getattr(intern!(py, "call_soon_threadsafe"))?;
        call.call((&self.turn,), Some(&options))?;
        Ok(())
    }
}

/// How many operations are kept for the end of the iteration at most.
const MAX_BATCH: usize = 512;

impl ThreadEngine {
    pub fn start(py: Python<'_>, python: &PythonLoop) -> PyResult<Self> {
        let thread = CoreThread::get().map_err(|error| {
            PyOSError::new_err(format!("emcache's thread cannot be started: {error}"))
        })?;
        // pyo3-asyncio has one runtime in a process, and panics where it cannot create one. In a
        // child process it refuses this one, and keeps the parent's.
        let _ = pyo3_asyncio::tokio::init_with_runtime(thread.runtime());
        // A loop that is started in an exit handler is notified, too.
        STOPPED.store(false, Ordering::SeqCst);
        let locals = TaskLocals::new(python.event_loop.bind(py).clone()).copy_context(py)?;
        let notifier = Arc::new(LoopNotifier { locals, turn: python.turn.clone_ref(py) });
        let outbox = Outbox::new(thread.runtime(), notifier);
        Ok(Self {
            thread: RefCell::new(Some(thread)),
            outgoing: RefCell::default(),
            last_batch: Cell::new(0),
            flush_scheduled: Cell::new(false),
            outbox,
            futures: RefCell::default(),
            block: RefCell::default(),
        })
    }

    pub fn open(&self, client: u64, addresses: Vec<Address>, config: ClusterConfig) {
        let outbox = self.outbox.clone();
        self.post(move |cores| cores.open(client, addresses, &config, &outbox));
    }

    /// All callers are told.
    pub fn close(&self, py: Python<'_>, client: u64) {
        let outbox = self.outbox.clone();
        self.call(py, move |cores| cores.close(client, &outbox));
        self.collect(py);
    }

    pub fn close_when_drained(&self, client: u64, limit: Duration) {
        let outbox = self.outbox.clone();
        self.post(move |cores| cores.close_when_drained(client, limit, &outbox));
    }

    /// `timeout`: of the client, from now on.
    pub fn run(
        &self,
        py: Python<'_>,
        client: u64,
        operation: Operation<SharedSource>,
        timeout: Option<Duration>,
        future: &Py<OpFuture>,
    ) {
        let abandoned = future.get().watch_abandoned(py);
        let ticket = self.futures.borrow_mut().insert(future.clone_ref(py));
        let deadline = timeout.and_then(|limit| Instant::now().checked_add(limit));
        let posted = PostedOperation { client, ticket, abandoned, deadline, operation };
        self.post_job(Job::Operation(posted));
    }

    /// Converts a request to one that can be sent to the core's thread.
    pub fn to_owned_request(&self, submission: Submission<'_>) -> OwnedRequest {
        submission.into_owned_in_block(&mut self.block.borrow_mut())
    }

    /// A key that can cross to the core's thread.
    pub fn copied(&self, key: &[u8]) -> Bytes {
        copy_into_block(key, &mut self.block.borrow_mut())
    }

    /// Has the core's thread do something with a client, if it is still there.
    pub fn post_to(&self, client: u64, job: impl FnOnce(&dyn Nodes) + Send + 'static) {
        self.post(move |cores| {
            if let Some(client) = cores.client(client) {
                job(&client);
            }
        });
    }

    /// Like [`Self::post_to`], and waits for the result.
    pub fn query<T: Send + 'static>(
        &self,
        py: Python<'_>,
        client: u64,
        question: impl FnOnce(&dyn Nodes) -> T + Send + 'static,
    ) -> PyResult<T> {
        let answer = self.call(py, move |cores| {
            let client = cores.client(client);
            client.map(|client| question(&client))
        });
        answer.flatten().ok_or_else(errors::closed)
    }

    /// Completes the futures whose outcomes have arrived.
    pub fn collect(&self, py: Python<'_>) {
        for message in self.outbox.take() {
            match message {
                Message::Ended { ticket, outcome } => {
                    let future = self.futures.borrow_mut().try_remove(ticket);
                    if let Some(future) = future {
                        let outcome = outcome.map(|item| RawItem::from_owned(py, item));
                        completion::complete(future, outcome);
                    }
                }
                Message::Changed { client, change } => completion::node_changed(client, change),
                Message::Close { client } => completion::close(client),
            }
        }
    }

    /// Leaves the thread, which ends if no other driver uses it.
    pub fn stop(&self, py: Python<'_>) {
        let outbox = self.outbox.clone();
        self.post(move |cores| cores.forget(&outbox));
        self.flush();
        let thread = self.thread.take();
        py.detach(|| drop(thread));
        self.collect(py);
        self.fail_all(&FailureKind::Internal);
        self.outbox.stop_notifying();
        if shutdown::has_begun() {
            // An exit handler ran this loop. No later hook waits for the helper threads.
            stop_notifying(py);
        }
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

    /// A lone operation is sent at once if recent ones came alone too, otherwise with the others of
    /// its iteration.
    pub fn schedule_flush(&self, py: Python<'_>, python: &PythonLoop) -> PyResult<()> {
        let count = self.outgoing.borrow().len();
        if count == 0 || self.flush_scheduled.get() {
            return Ok(());
        }
        if count == 1 && self.last_batch.get() <= 1 && self.futures.borrow().len() <= 1 {
            self.flush();
            return Ok(());
        }
        python.call_soon.call1(py, (&python.flush,))?;
        // Set only after the loop has accepted the callback.
        self.flush_scheduled.set(true);
        Ok(())
    }

    /// After the driver has left the thread nothing answers, and the callers are told so.
    pub fn flush(&self) {
        self.flush_scheduled.set(false);
        let batch = self.outgoing.take();
        self.last_batch.set(batch.len());
        match self.thread.borrow().as_ref() {
            None => self.fail_all(&FailureKind::Closed),
            Some(_) if batch.is_empty() => {}
            Some(thread) => thread.post(&self.outbox, batch),
        }
    }

    fn fail_all(&self, why: &FailureKind) {
        for future in self.futures.take().drain() {
            completion::complete(future, Outcome::failed(None, why.clone()));
        }
    }

    fn call<T: Send + 'static>(
        &self,
        py: Python<'_>,
        job: impl FnOnce(&Cores) -> T + Send + 'static,
    ) -> Option<T> {
        self.flush();
        let thread = self.thread.borrow().clone()?;
        let result = thread.call(&self.outbox, job);
        py.detach(move || result.recv().ok())
    }
}
