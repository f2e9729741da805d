//! The tasks of a core that no thread owns: they run wherever the core is, one thread at a time.
//!
//! Tokio's `LocalSet` serves the same purpose, but belongs to the thread that created it.
use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Wake, Waker};

use slab::Slab;

use crate::pool::LocalFuture;

#[derive(Default)]
pub struct Tasks {
    slab: Slab<Task>,
    ready: Arc<Ready>,
    /// Reused, so that no run allocates.
    running: VecDeque<usize>,
}

struct Task {
    future: LocalFuture,
    notifier: Arc<TaskWaker>,
    waker: Waker,
}

/// The tasks to poll next. Wakers add to it, also from other threads.
#[derive(Default)]
pub struct Ready {
    keys: Mutex<VecDeque<usize>>,
    any: AtomicBool,
    /// Woken with the next task, by a thread that waits for events.
    parked: Mutex<Option<Waker>>,
    is_parked: AtomicBool,
}

struct TaskWaker {
    key: usize,
    is_queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            self.ready.push(self.key);
        }
    }
}

impl Ready {
    fn keys(&self) -> MutexGuard<'_, VecDeque<usize>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, key: usize) {
        self.keys().push_back(key);
        self.any.store(true, Ordering::SeqCst);
        if self.is_parked.swap(false, Ordering::SeqCst) {
            let parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(parked) = parked {
                parked.wake();
            }
        }
    }

    pub fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    /// Has `waker` woken with the next task. Returns false if there is one already.
    pub fn park(&self, waker: &Waker) -> bool {
        *self.parked.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
        self.is_parked.store(true, Ordering::SeqCst);
        !self.any()
    }
}

impl Tasks {
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    pub fn spawn(&mut self, future: LocalFuture) {
        let entry = self.slab.vacant_entry();
        let (key, ready) = (entry.key(), self.ready.clone());
        let notifier = Arc::new(TaskWaker { key, is_queued: false.into(), ready });
        notifier.wake_by_ref();
        let waker = Waker::from(notifier.clone());
        entry.insert(Task { future, notifier, waker });
    }

    /// Polls the tasks that were woken, until none is left. `spawned` takes the new tasks.
    pub fn run(&mut self, mut spawned: impl FnMut() -> Vec<LocalFuture>) {
        loop {
            for future in spawned() {
                self.spawn(future);
            }
            self.ready.any.store(false, Ordering::SeqCst);
            mem::swap(&mut self.running, &mut *self.ready.keys());
            if self.running.is_empty() {
                return;
            }
            while let Some(key) = self.running.pop_front() {
                self.poll(key);
            }
        }
    }

    /// A waker of a task that has ended may wake a later one, which is harmless.
    fn poll(&mut self, key: usize) {
        let Some(Task { future, notifier, waker }) = self.slab.get_mut(key) else { return };
        // Before the poll: what happens during it wakes the task again.
        notifier.is_queued.store(false, Ordering::SeqCst);
        if future.as_mut().poll(&mut TaskContext::from_waker(waker)).is_ready() {
            self.slab.remove(key);
        }
    }
}
