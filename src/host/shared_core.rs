//! One core for the callers of all threads. It runs on the core's thread, and they wait.
//!
//! A client has it if all of its calls must share state: the copies that failover has to delete, or
//! the order of nodes that a router in Python has seen. A call costs two changes of thread.
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use slab::Slab;

use super::core_pool::CheckOutError;
use super::forks::fork_count;
use super::outbox::{Message, Outbox};
use super::thread::{CoreThread, Cores, Job, PostedOperation};
use super::ticket::{OwnedItem, SharedSource};
use crate::client::{Nodes, Operation, Outcome};
use crate::cluster::{ClusterConfig, NodeChange};
use crate::pool::Address;

pub type OwnedOutcome = Outcome<OwnedItem>;

/// A change of the nodes.
type NodeJob = Arc<dyn Fn(&dyn Nodes) + Send + Sync>;

pub struct SharedCore {
    client: u64,
    nodes: Vec<Address>,
    config: ClusterConfig,
    is_closed: AtomicBool,
    /// Whether a child process cannot have the client.
    is_childless: AtomicBool,
    /// Locked only by threads that keep the interpreter from forking meanwhile.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Option<Arc<Running>>,
    /// What became of the nodes since the start, for the core of a child process.
    changes: Vec<NodeJob>,
}

/// The core of one process.
struct Running {
    forks: u64,
    thread: Arc<CoreThread>,
    outbox: Arc<Outbox>,
    mailbox: Arc<Mailbox>,
}

/// The calls that are under way.
#[derive(Default)]
struct Mailbox {
    calls: Mutex<Slab<(Arc<Waiting>, usize)>>,
    changes: Mutex<Vec<NodeChange>>,
    has_changes: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    outcomes: Mutex<Vec<(usize, OwnedOutcome)>>,
    arrived: Condvar,
    abandoned: Arc<AtomicBool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailbox {
    fn receive(&self, message: Message) {
        match message {
            Message::Ended { ticket, outcome } => {
                let Some((waiting, index)) = lock(&self.calls).try_remove(ticket) else { return };
                lock(&waiting.outcomes).push((index, outcome));
                waiting.arrived.notify_one();
            }
            Message::Changed { change, .. } => {
                lock(&self.changes).push(change);
                self.has_changes.store(true, Ordering::Release);
            }
            Message::Close { .. } => {}
        }
    }
}

impl SharedCore {
    /// `client`: a number that no other client of the process has.
    pub fn new(client: u64, nodes: Vec<Address>, config: ClusterConfig) -> Self {
        let (is_closed, is_childless) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { client, nodes, config, is_closed, is_childless, state: Mutex::default() }
    }

    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// From now on the client cannot be used in the child of a fork.
    pub fn leave_no_child(&self) {
        self.is_childless.store(true, Ordering::Release);
    }

    fn running(&self) -> Result<Arc<Running>, CheckOutError> {
        if self.is_closed() {
            return Err(CheckOutError::Closed);
        }
        let mut state = lock(&self.state);
        if let Some(running) = &state.running
            && running.forks == fork_count()
        {
            return Ok(running.clone());
        }
        if state.running.is_some() && self.is_childless.load(Ordering::Acquire) {
            return Err(CheckOutError::Childless);
        }
        // A parent's is not dropped: its thread does not exist here.
        mem::forget(state.running.take());
        let running = Arc::new(self.start(&state.changes).map_err(CheckOutError::Io)?);
        state.running = Some(running.clone());
        Ok(running)
    }

    fn start(&self, changes: &[NodeJob]) -> std::io::Result<Running> {
        let forks = fork_count();
        let thread = CoreThread::get()?;
        let mailbox = Arc::new(Mailbox::default());
        let receiver = mailbox.clone();
        let receive = Box::new(move |message| receiver.receive(message));
        let outbox = Outbox::for_receiver(thread.runtime(), receive);
        let (client, nodes, config) = (self.client, self.nodes.clone(), self.config.clone());
        let (changes, theirs) = (changes.to_vec(), outbox.clone());
        let open = move |cores: &Cores| {
            cores.open(client, nodes, &config, &theirs);
            if let Some(client) = cores.client(client) {
                for change in &changes {
                    change(&client);
                }
            }
        };
        thread.post(&outbox, vec![Job::Call(Box::new(open))]);
        Ok(Running { forks, thread, outbox, mailbox })
    }

    /// Begins operations. With `flush` their bytes are on a connection when they end.
    pub fn begin(
        &self,
        operations: Vec<Operation<SharedSource>>,
        timeout: Option<Duration>,
        flush: bool,
    ) -> Result<SharedCall, CheckOutError> {
        let running = self.running()?;
        let deadline = timeout.and_then(|limit| tokio::time::Instant::now().checked_add(limit));
        let waiting = Arc::new(Waiting::default());
        let mut jobs = Vec::with_capacity(operations.len() + 1);
        let mut calls = lock(&running.mailbox.calls);
        for (index, operation) in operations.into_iter().enumerate() {
            let ticket = calls.insert((waiting.clone(), index));
            let abandoned = waiting.abandoned.clone();
            let client = self.client;
            let posted = PostedOperation { client, ticket, abandoned, deadline, operation };
            jobs.push(Job::Operation(posted));
        }
        drop(calls);
        if flush {
            jobs.push(Job::Call(Box::new(|cores| cores.context.flush())));
        }
        running.thread.post(&running.outbox, jobs);
        Ok(SharedCall { running: Some(running), waiting, taken: 0 })
    }

    /// Asks about the nodes. The answer arrives in the channel, or never if the client is closed.
    pub fn query<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Nodes) -> T + Send + 'static,
    ) -> Result<mpsc::Receiver<Option<T>>, CheckOutError> {
        let running = self.running()?;
        let client = self.client;
        let ask = move |cores: &Cores| cores.client(client).map(|client| question(&client));
        Ok(running.thread.call(&running.outbox, ask))
    }

    /// Changes the nodes, also in child processes.
    pub fn change(
        &self,
        change: impl Fn(&dyn Nodes) + Send + Sync + 'static,
    ) -> Result<mpsc::Receiver<Option<()>>, CheckOutError> {
        let change: NodeJob = Arc::new(change);
        let again = change.clone();
        let done = self.query(move |nodes| change(nodes))?;
        lock(&self.state).changes.push(again);
        Ok(done)
    }

    /// The changes of nodes since the last call of this method.
    pub fn take_changes(&self) -> Vec<NodeChange> {
        let state = lock(&self.state);
        let here = state.running.as_ref().filter(|running| running.forks == fork_count());
        let Some(Running { mailbox, .. }) = here.map(Arc::as_ref) else { return Vec::new() };
        if !mailbox.has_changes.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        mem::take(&mut lock(&mailbox.changes))
    }

    /// Refuses further calls, and fails those that are under way. It is done when the function that
    /// is returned returns.
    pub fn close(&self) -> impl FnOnce() + Send + 'static {
        self.is_closed.store(true, Ordering::Release);
        let mut running = lock(&self.state).running.take();
        if running.as_ref().is_some_and(|running| running.forks != fork_count()) {
            mem::forget(running.take());
        }
        let client = self.client;
        move || {
            let Some(running) = running else { return };
            let outbox = running.outbox.clone();
            let close = move |cores: &Cores| {
                cores.close(client, &outbox);
                cores.forget(&outbox);
            };
            // An error: the thread has ended, and the client with it.
            let _ = running.thread.call(&running.outbox, close).recv();
        }
    }
}

impl Drop for SharedCore {
    fn drop(&mut self) {
        self.close()();
    }
}

/// A call of one thread. Its outcomes are dropped if it ends before them.
pub struct SharedCall {
    /// `None` at the end.
    running: Option<Arc<Running>>,
    waiting: Arc<Waiting>,
    /// How many outcomes were removed.
    taken: usize,
}

impl SharedCall {
    /// Whether the process has forked since: the core is the parent's, and never answers here.
    pub fn is_forked(&self) -> bool {
        self.running.as_ref().is_none_or(|running| running.forks != fork_count())
    }

    /// Waits until the call has `count` outcomes, or `limit` passes. Returns whether it has them.
    pub fn wait(&self, count: usize, limit: Duration) -> bool {
        let end = Instant::now().checked_add(limit);
        let mut outcomes = lock(&self.waiting.outcomes);
        while self.taken + outcomes.len() < count {
            let rest =
                end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            if rest.is_zero() {
                return false;
            }
            let waited = self.waiting.arrived.wait_timeout(outcomes, rest);
            outcomes = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Removes the outcomes that arrived, each with the index of its operation.
    pub fn take(&mut self) -> Vec<(usize, OwnedOutcome)> {
        let outcomes = mem::take(&mut *lock(&self.waiting.outcomes));
        self.taken += outcomes.len();
        outcomes
    }
}

impl Drop for SharedCall {
    fn drop(&mut self) {
        if self.is_forked() {
            // Its locks may be held by threads that do not exist here.
            return mem::forget(self.running.take());
        }
        // The tickets stay taken until their outcomes arrive: another call must not get these.
        self.waiting.abandoned.store(true, Ordering::Relaxed);
    }
}
