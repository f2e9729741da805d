//! Threads at the exit of the interpreter.
//!
//! `CPython` unwinds a daemon thread when it next requests the GIL, and a Rust frame on its stack
//! turns this into an abort of the process. So after the exit hook has started only the exiting
//! thread may begin a turn, and the hook waits for a limited time for turns that are under way.
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::Duration;

use pyo3::prelude::*;

use crate::host::fork_count;

static EXITING: AtomicBool = AtomicBool::new(false);
static EXITING_THREAD: Mutex<Option<ThreadId>> = Mutex::new(None);
static TURNS: AtomicUsize = AtomicUsize::new(0);

/// Longer than callbacks take. A callback that never returns must not keep the process from
/// exiting.
const TURN_TIMEOUT: Duration = Duration::from_millis(500);

/// A turn that is under way.
pub struct Turn {
    forks: u64,
}

impl Turn {
    /// Returns `None` if no further turn may begin.
    pub fn begin() -> Option<Self> {
        TURNS.fetch_add(1, Ordering::SeqCst);
        let turn = Self { forks: fork_count() };
        (!is_frozen()).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // One that ends in a child in which it did not begin is not counted there.
        if self.forks == fork_count() {
            TURNS.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Whether the exit of the interpreter has begun.
pub fn has_begun() -> bool {
    EXITING.load(Ordering::Relaxed)
}

/// Whether this thread must not call Python any more.
pub fn is_frozen() -> bool {
    has_begun()
        && EXITING_THREAD.lock().is_ok_and(|exiting| *exiting != Some(thread::current().id()))
}

/// Called by the thread that is about to end the interpreter.
pub fn freeze_others(py: Python<'_>) {
    if let Ok(mut exiting) = EXITING_THREAD.lock() {
        *exiting = Some(thread::current().id());
    }
    EXITING.store(true, Ordering::SeqCst);
    py.detach(|| {
        let step = Duration::from_millis(1);
        let mut waited = Duration::ZERO;
        while TURNS.load(Ordering::SeqCst) > 0 && waited < TURN_TIMEOUT {
            thread::sleep(step);
            waited += step;
        }
    });
}

/// Turns of the parent's other threads do not exist in the child.
pub fn after_fork_in_child() {
    TURNS.store(0, Ordering::SeqCst);
}
