//! The one thread on which the core runs when event loops cannot drive it.
//!
//! The thread never takes the GIL and never waits for a loop, so loops may wait for it. It ends
//! when the last driver that uses it ends. The process has one runtime, which it shares with
//! pyo3-asyncio.
use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc as sync_mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::recorder::Recorder;
use super::registry;
use super::thread_driver::PostedRequest;
use crate::cluster::Cluster;
use crate::pool::{Context, LocalSetHost};

/// The clusters of all loops of the process, by session.
pub struct Cores {
    pub context: Rc<Context>,
    pub clusters: RefCell<HashMap<u64, Cluster<Recorder>>>,
}

pub enum Job {
    Request(PostedRequest),
    Call(Box<dyn FnOnce(&Cores) + Send>),
}

pub struct Background {
    runtime: &'static Runtime,
    jobs: Option<mpsc::UnboundedSender<Vec<Job>>>,
    thread: Option<JoinHandle<()>>,
}

/// The running thread and the fork count at its start, because a child process has its parent's
/// memory but not its threads. The mutex is locked only with the GIL held, so a fork always finds
/// it free.
static RUNNING: Mutex<(u64, Weak<Background>)> = Mutex::new((0, Weak::new()));

impl Background {
    /// Returns the running thread, or starts a new one.
    pub fn get() -> PyResult<Arc<Self>> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let (forks, known) = &*running;
        if *forks == registry::forks()
            && let Some(background) = known.upgrade()
        {
            return Ok(background);
        }
        let background = Arc::new(Self::start().map_err(|error| {
            PyOSError::new_err(format!("cannot start emcache's thread: {error}"))
        })?);
        let new = (registry::forks(), Arc::downgrade(&background));
        let (forks, old) = std::mem::replace(&mut *running, new);
        if forks != registry::forks() {
            // It belongs to the parent process, so its reference count must not change here.
            std::mem::forget(old);
        }
        Ok(background)
    }

    fn start() -> std::io::Result<Self> {
        let runtime = runtime()?;
        let (jobs, inbox) = mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name("emcache".into())
            .spawn(move || LocalSet::new().block_on(runtime, run(inbox)))?;
        Ok(Self { runtime, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs the jobs on the thread, after all jobs posted before. Their requests are sent together.
    pub fn post(&self, batch: Vec<Job>) {
        if let Some(jobs) = &self.jobs {
            // Sending fails only if the thread has ended. Then the clusters of these jobs no longer
            // exist.
            let _ = jobs.send(batch);
        }
    }

    /// Posts the job and waits for its result. Returns `None` if the job panicked.
    pub fn call<T: Send + 'static>(
        &self,
        py: Python<'_>,
        job: impl FnOnce(&Cores) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = sync_mpsc::sync_channel(1);
        let job = move |cores: &Cores| {
            let _ = sender.send(job(cores));
        };
        self.post(vec![Job::Call(Box::new(job))]);
        py.detach(move || receiver.recv().ok())
    }

    /// For blocking tasks that may wait for the GIL, which the core's thread must not do.
    pub fn runtime(&self) -> &'static Runtime {
        self.runtime
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(mut inbox: mpsc::UnboundedReceiver<Vec<Job>>) {
    let cores = Cores { context: LocalSetHost::context(), clusters: RefCell::default() };
    while let Some(batch) = inbox.recv().await {
        let mut last = None;
        for job in batch {
            // A job that panics must not end the thread that serves all loops. Its caller is
            // notified all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| match job {
                Job::Request(posted) => posted.submit(&cores, &mut last),
                Job::Call(job) => {
                    // The job may close the cluster of the request before it.
                    last = None;
                    job(&cores);
                }
            }));
        }
    }
    for (_, cluster) in cores.clusters.take() {
        cluster.close();
    }
}

/// Creates the runtime once per process. A child of a fork needs its own, because the parent's I/O
/// driver is in use by a thread that the child does not have. The first runtime also serves
/// pyo3-asyncio, which would panic if it failed to create one.
fn runtime() -> std::io::Result<&'static Runtime> {
    static RUNTIME: Mutex<Option<(u64, &'static Runtime)>> = Mutex::new(None);
    let mut slot = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    let forks = registry::forks();
    if let Some((created_at, runtime)) = *slot
        && created_at == forks
    {
        return Ok(runtime);
    }
    let mut builder = Builder::new_current_thread();
    builder.enable_all().thread_name("emcache-aux").thread_keep_alive(Duration::from_secs(1));
    let runtime: &'static Runtime = Box::leak(Box::new(builder.build()?));
    // In a child this fails, because pyo3-asyncio keeps the parent's runtime.
    let _ = pyo3_asyncio::tokio::init_with_runtime(runtime);
    *slot = Some((forks, runtime));
    Ok(runtime)
}
