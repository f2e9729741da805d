//! A Tokio runtime without a thread, run in turns by the event loop that watches its descriptor.
//!
//! When the descriptor is readable or a deadline has passed, [`TurnRuntime::turn`] polls Tokio's
//! I/O and time drivers once without blocking, and then runs woken tasks until none is left.
//! docs/design/seam.md explains this and has the measurements. This depends on behaviour that Tokio
//! does not promise; the lifecycle tests fail if it changes.
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use tokio::task::coop::unconstrained;

use crate::pool::LocalFuture;

pub struct TurnRuntime {
    engine: RefCell<Option<Engine>>,
    inbox: Inbox,
    postponed: Postponed,
    woken: Arc<TurnWaker>,
    waker: Waker,
    epoll_fd: RawFd,
    is_turning: Cell<bool>,
}

struct Engine {
    runtime: Runtime,
    tasks: LocalSet,
}

/// Tasks that the next turn starts.
pub type Inbox = Rc<RefCell<Vec<LocalFuture>>>;
/// Tasks that continue in the next turn.
pub type Postponed = Rc<RefCell<Vec<Waker>>>;

struct TurnWaker {
    owner: ThreadId,
    woken: AtomicBool,
    /// Written only from other threads, to make the watched descriptor readable.
    wake_sender: StdUnixStream,
}

impl Wake for TurnWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        // On the owner's thread the flag is enough: a running turn checks it, and code outside of a
        // turn requests one. On another thread (after name resolution on Tokio's blocking pool) the
        // descriptor must become readable. If the socket is full, it is readable already.
        if thread::current().id() != self.owner {
            let _ = (&self.wake_sender).write(&[0]);
        }
    }
}

impl TurnRuntime {
    pub fn new(inbox: Inbox, postponed: Postponed) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .thread_keep_alive(Duration::from_secs(1))
            .build()?;
        let (wake_sender, wake_receiver) = StdUnixStream::pair()?;
        wake_sender.set_nonblocking(true)?;
        wake_receiver.set_nonblocking(true)?;
        let wake_receiver = {
            let _entered = runtime.enter();
            UnixStream::from_std(wake_receiver)?
        };
        let epoll_fd = epoll_watching(wake_receiver.as_raw_fd())?;
        let tasks = LocalSet::new();
        tasks.spawn_local(unconstrained(drain_wakeups(wake_receiver)));
        let owner = thread::current().id();
        let woken = Arc::new(TurnWaker { owner, woken: AtomicBool::new(true), wake_sender });
        let waker = Waker::from(woken.clone());
        let engine = RefCell::new(Some(Engine { runtime, tasks }));
        Ok(Self { engine, inbox, postponed, woken, waker, epoll_fd, is_turning: Cell::new(false) })
    }

    /// The descriptor to watch for reading.
    pub fn fd(&self) -> RawFd {
        self.epoll_fd
    }

    /// Whether tasks were woken since the last turn, or wait to start or continue.
    pub fn wants_turn(&self) -> bool {
        !self.is_turning.get()
            && (self.woken.woken.load(Ordering::Acquire)
                || !self.inbox.borrow().is_empty()
                || !self.postponed.borrow().is_empty())
    }

    pub fn turn(&self) {
        let Ok(mut engine) = self.engine.try_borrow_mut() else { return };
        let Some(Engine { runtime, tasks }) = engine.as_mut() else { return };
        self.is_turning.set(true);
        for waker in self.postponed.take() {
            waker.wake();
        }
        runtime.block_on(async {
            // Polls epoll and timers once, without waiting.
            tokio::task::yield_now().await;
            // The tasks are in a `LocalSet` and polled here. On Tokio's own queue, a task could be
            // left unpolled at the end of `block_on` although its event was taken from epoll, and
            // no further event would cause a turn.
            poll_fn(|_| self.run_tasks(tasks)).await;
        });
        self.is_turning.set(false);
    }

    /// Runs the tasks that were woken, without polling epoll and timers.
    pub fn run_woken(&self) {
        let Ok(mut engine) = self.engine.try_borrow_mut() else { return };
        let Some(Engine { runtime, tasks }) = engine.as_mut() else { return };
        self.is_turning.set(true);
        let _entered = runtime.enter();
        let _: Poll<()> = self.run_tasks(tasks);
        self.is_turning.set(false);
    }

    fn run_tasks(&self, tasks: &mut LocalSet) -> Poll<()> {
        let mut cx = TaskContext::from_waker(&self.waker);
        loop {
            for task in self.inbox.take() {
                // Without Tokio's budget: it wakes a task that has used up its budget at the next
                // poll of the drivers, which does not happen in this turn, and no event would cause
                // another turn.
                tasks.spawn_local(unconstrained(task));
            }
            self.woken.woken.store(false, Ordering::Release);
            let _: Poll<()> = Pin::new(&mut *tasks).poll(&mut cx);
            if !self.woken.woken.load(Ordering::Acquire) && self.inbox.borrow().is_empty() {
                return Poll::Ready(());
            }
        }
    }

    /// Drops all tasks and everything that Tokio holds. A second call has no effect.
    pub fn shut_down(&self) {
        self.inbox.take();
        self.postponed.take();
        let Some(Engine { runtime, tasks }) = self.engine.take() else { return };
        {
            let _entered = runtime.enter();
            drop(tasks);
        }
        // A plain drop could wait for a name resolution.
        runtime.shutdown_background();
    }
}

async fn drain_wakeups(wake_receiver: UnixStream) {
    let mut bytes = [0; 64];
    while wake_receiver.readable().await.is_ok() {
        while matches!(wake_receiver.try_read(&mut bytes), Ok(n) if n > 0) {}
    }
}

/// Finds Tokio's epoll descriptor, which no public API returns. `/proc` shows which epoll instance
/// watches `fd`.
fn epoll_watching(fd: RawFd) -> io::Result<RawFd> {
    let unsupported = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => io::ErrorKind::Unsupported.into(),
        _ => error,
    };
    for entry in std::fs::read_dir("/proc/self/fd").map_err(unsupported)? {
        let entry = entry?;
        // A process may have thousands of descriptors but has few epoll instances, so `fdinfo` is
        // read only for these.
        let is_epoll = std::fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]");
        let Some(number) = entry.file_name().to_str().and_then(|n| n.parse::<RawFd>().ok()) else {
            continue;
        };
        if is_epoll && watches(number, fd)? {
            return Ok(number);
        }
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "Tokio's epoll instance was not found in /proc"))
}

fn watches(epoll: RawFd, fd: RawFd) -> io::Result<bool> {
    let info = match std::fs::read_to_string(format!("/proc/self/fdinfo/{epoll}")) {
        // Another thread has closed it in the meantime.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        info => info?,
    };
    let mut watched =
        info.lines().filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next());
    Ok(watched.any(|watched| watched.parse() == Ok(fd)))
}
