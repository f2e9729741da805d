//! The one thread on which the core runs where event loops cannot drive it.
//!
//! It never waits for an event loop, so loops may wait for it. It ends with the last driver that
//! uses it.
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc as sync_mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::forks::fork_count;
use super::outbox::{Message, Outbox, Sender};
use super::ticket::{SharedSource, Ticket, TicketCaller};
use crate::client::{Caller, Client, FailureKind, Operation, Outcome};
use crate::cluster::ClusterConfig;
use crate::pool::{Address, Context, LocalSetHost};

/// The clients of all loops of the process, and how their outcomes get there.
pub struct Cores {
    pub context: Rc<Context>,
    clients: RefCell<HashMap<u64, Client<TicketCaller>>>,
    senders: RefCell<Vec<Rc<Sender>>>,
}

pub enum Job {
    Operation(PostedOperation),
    Call(Box<dyn FnOnce(&Cores) + Send>),
}

/// An operation on its way to the core's thread.
pub struct PostedOperation {
    pub client: u64,
    pub ticket: Ticket,
    /// Set when the caller gives up.
    pub abandoned: Arc<AtomicBool>,
    pub deadline: Option<Instant>,
    pub operation: Operation<SharedSource>,
}

type Batch = (Arc<Outbox>, Vec<Job>);

pub struct CoreThread {
    runtime: &'static Runtime,
    jobs: Option<mpsc::UnboundedSender<Batch>>,
    thread: Option<JoinHandle<()>>,
}

/// The running thread, with the fork count at its start: a child process has its parent's memory
/// but not its threads. Locked only by threads that keep the interpreter from forking meanwhile.
static RUNNING: Mutex<(u64, Weak<CoreThread>)> = Mutex::new((0, Weak::new()));

impl CoreThread {
    /// The running one, or a new one. The caller must be one that no fork can interrupt.
    pub fn get() -> io::Result<Arc<Self>> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let (known_forks, known) = &*running;
        if *known_forks == fork_count()
            && let Some(known) = known.upgrade()
        {
            return Ok(known);
        }
        let started = Arc::new(Self::start()?);
        let new = (fork_count(), Arc::downgrade(&started));
        let (old_forks, old) = std::mem::replace(&mut *running, new);
        if old_forks != fork_count() {
            // The parent's: its count means nothing here.
            std::mem::forget(old);
        }
        Ok(started)
    }

    fn start() -> io::Result<Self> {
        let runtime = runtime()?;
        let (jobs, inbox) = mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name("emcache".into())
            .spawn(move || LocalSet::new().block_on(runtime, run(inbox)))?;
        Ok(Self { runtime, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs the jobs on the thread, after those that were posted before. Their requests are sent
    /// together, and their outcomes go to `outbox`.
    pub fn post(&self, outbox: &Arc<Outbox>, jobs: Vec<Job>) {
        if let Some(channel) = &self.jobs {
            // Refused only if the thread has ended, and with it all that the jobs are about.
            let _ = channel.send((outbox.clone(), jobs));
        }
    }

    /// As `post`; the result arrives in the channel that is returned, or never if the job panics.
    pub fn call<T: Send + 'static>(
        &self,
        outbox: &Arc<Outbox>,
        job: impl FnOnce(&Cores) -> T + Send + 'static,
    ) -> sync_mpsc::Receiver<T> {
        let (sender, receiver) = sync_mpsc::sync_channel(1);
        let job = move |cores: &Cores| {
            let _ = sender.send(job(cores));
        };
        self.post(outbox, vec![Job::Call(Box::new(job))]);
        receiver
    }

    /// For work that may wait, on other threads.
    pub fn runtime(&self) -> &'static Runtime {
        self.runtime
    }
}

impl Drop for CoreThread {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Cores {
    pub fn client(&self, client: u64) -> Option<Client<TicketCaller>> {
        self.clients.borrow().get(&client).cloned()
    }

    /// `outbox`: of its loop.
    pub fn open(
        &self,
        id: u64,
        addresses: Vec<Address>,
        config: &ClusterConfig,
        outbox: &Arc<Outbox>,
    ) {
        let sender = self.sender(outbox);
        let on_change = move |change| sender.push(Message::Changed { client: id, change });
        let client = Client::new(&self.context, addresses, config, on_change);
        self.clients.borrow_mut().insert(id, client);
    }

    /// The outcomes of all that is unanswered are in the outbox when this returns.
    pub fn close(&self, client: u64, outbox: &Arc<Outbox>) {
        let closed = self.clients.borrow_mut().remove(&client);
        if let Some(client) = closed {
            client.close();
        }
        self.sender(outbox).flush();
    }

    /// Asks the loop to close a client when its requests with `noreply` are answered, or after
    /// `limit`.
    pub fn close_when_drained(&self, id: u64, limit: Duration, outbox: &Arc<Outbox>) {
        if let Some(client) = self.client(id) {
            let sender = self.sender(outbox);
            client.when_drained(limit, move || sender.push(Message::Close { client: id }));
        }
    }

    /// A loop ends.
    pub fn forget(&self, outbox: &Arc<Outbox>) {
        self.senders.borrow_mut().retain(|sender| !sender.is_for(outbox));
    }

    fn sender(&self, outbox: &Arc<Outbox>) -> Rc<Sender> {
        let mut senders = self.senders.borrow_mut();
        if let Some(known) = senders.iter().find(|sender| sender.is_for(outbox)) {
            return known.clone();
        }
        let sender = Sender::new(outbox.clone());
        senders.push(sender.clone());
        sender
    }
}

impl PostedOperation {
    /// `last`: the client of the operation before it.
    fn run(self, cores: &Cores, sender: &Rc<Sender>, last: &mut Option<LastClient>) {
        let caller = TicketCaller::new(self.ticket, sender.clone(), self.abandoned);
        if last.as_ref().is_none_or(|(client, _)| *client != self.client) {
            *last = cores.client(self.client).map(|client| (self.client, client));
        }
        match last {
            Some((_, client)) => {
                let deadline = cores.context.deadline_at(self.deadline);
                client.run(self.operation, deadline, caller);
            }
            None => caller.complete(Outcome::failed(None, FailureKind::Closed)),
        }
    }
}

type LastClient = (u64, Client<TicketCaller>);

async fn run(mut inbox: mpsc::UnboundedReceiver<Batch>) {
    let cores = Cores {
        context: LocalSetHost::context(),
        clients: RefCell::default(),
        senders: RefCell::default(),
    };
    while let Some((outbox, jobs)) = inbox.recv().await {
        let sender = cores.sender(&outbox);
        let mut last = None;
        for job in jobs {
            // A job that panics must not end the thread of all; its caller is told all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| match job {
                Job::Operation(posted) => posted.run(&cores, &sender, &mut last),
                Job::Call(job) => {
                    // It may close the client that was used last.
                    last = None;
                    job(&cores);
                }
            }));
        }
    }
    for (_, client) in cores.clients.take() {
        client.close();
    }
}

/// Created once for the process, and again in the child of a fork: there the inherited runtime is
/// in use by a thread that the child does not have.
fn runtime() -> io::Result<&'static Runtime> {
    static MADE: Mutex<Option<(u64, &'static Runtime)>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((made_after, runtime)) = *made
        && made_after == fork_count()
    {
        return Ok(runtime);
    }
    let mut builder = Builder::new_current_thread();
    builder.enable_all().thread_name("emcache-aux").thread_keep_alive(Duration::from_secs(1));
    let runtime: &'static Runtime = Box::leak(Box::new(builder.build()?));
    *made = Some((fork_count(), runtime));
    Ok(runtime)
}
