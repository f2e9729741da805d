//! The one thread on which the core runs where event loops cannot drive it.
//!
//! It never takes the interpreter's lock and never waits for a loop, so loops may wait for it. It ends
//! when the last driver that uses it does. Its runtime is also pyo3-asyncio's: there is one in a process.
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

/// The running one, and in which generation of forks: a child has its parent's memory but not its threads.
/// Locked only with the interpreter's lock held, so a fork finds it free.
static RUNNING: Mutex<(u64, Weak<Background>)> = Mutex::new((0, Weak::new()));

impl Background {
    /// The running one, or a new one.
    pub fn get() -> PyResult<Arc<Self>> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let (forks, known) = &*running;
        if *forks == registry::forks()
            && let Some(background) = known.upgrade()
        {
            return Ok(background);
        }
        let background = Arc::new(Self::start().map_err(|error| {
            PyOSError::new_err(format!("emcache's thread cannot be started: {error}"))
        })?);
        let new = (registry::forks(), Arc::downgrade(&background));
        let (forks, old) = std::mem::replace(&mut *running, new);
        if forks != registry::forks() {
            // The parent's: its count is of no use here.
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

    /// Has all of these done on the thread, after those that were posted before. What they ask of the
    /// network leaves together.
    pub fn post(&self, batch: Vec<Job>) {
        if let Some(jobs) = &self.jobs {
            // Refused only if the thread is gone, and then with it went all that the jobs are about.
            let _ = jobs.send(batch);
        }
    }

    /// As `post`, and waits for the result. `None`: the job panicked.
    pub fn call<T: Send + 'static>(
        &self,
        py: Python<'_>,
        job: impl FnOnce(&Cores) -> T + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = sync_mpsc::sync_channel(1);
        let job = move |cores: &Cores| {
            let _ = tell.send(job(cores));
        };
        self.post(vec![Job::Call(Box::new(job))]);
        py.detach(move || told.recv().ok())
    }

    /// Runs what may wait for the interpreter's lock, beside the thread.
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
            // One that panics must not take the thread of all with it; its caller is told all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| match job {
                Job::Request(posted) => posted.submit(&cores, &mut last),
                Job::Call(job) => {
                    // It may close what was used last.
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

/// The runtime is made once and for ever, in a child of a fork once more: its driver is in use there by a
/// thread that is not. The first is pyo3-asyncio's too, which would panic where it cannot make one.
fn runtime() -> std::io::Result<&'static Runtime> {
    static MADE: Mutex<Option<(u64, &'static Runtime)>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let forks = registry::forks();
    if let Some((made_after, runtime)) = *made
        && made_after == forks
    {
        return Ok(runtime);
    }
    let mut builder = Builder::new_current_thread();
    builder.enable_all().thread_name("emcache-aux").thread_keep_alive(Duration::from_secs(1));
    let runtime: &'static Runtime = Box::leak(Box::new(builder.build()?));
    // Refused in a child: the parent's stays there.
    let _ = pyo3_asyncio::tokio::init_with_runtime(runtime);
    *made = Some((forks, runtime));
    Ok(runtime)
}
