//! The messages of the core's thread for one event loop, whose thread fetches them, or for callers
//! that wait, who receive them at once.
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Runtime;

use super::ticket::{OwnedItem, Ticket};
use crate::client::Outcome;
use crate::cluster::NodeChange;

pub enum Message {
    Ended {
        ticket: Ticket,
        outcome: Outcome<OwnedItem>,
    },
    Changed {
        client: u64,
        change: NodeChange,
    },
    /// The client is no longer needed.
    Close {
        client: u64,
    },
}

/// Has the loop call [`Outbox::take`].
pub trait Notify: Send + Sync {
    /// Called on a thread that may wait. Whether the loop will call.
    fn notify(&self) -> bool;
}

pub struct Outbox {
    messages: Mutex<Vec<Message>>,
    /// Whether the loop has been notified, and will fetch all that is there.
    is_notified: AtomicBool,
    runtime: &'static Runtime,
    notifier: Mutex<Option<Arc<dyn Notify>>>,
    receiver: Option<Receiver>,
}

/// Takes messages on the core's thread, and must not wait.
pub type Receiver = Box<dyn Fn(Message) + Send + Sync>;

impl Outbox {
    /// `runtime`: that of the core's thread.
    pub fn new(runtime: &'static Runtime, notifier: Arc<dyn Notify>) -> Arc<Self> {
        let (messages, is_notified) = (Mutex::default(), AtomicBool::new(false));
        let notifier = Mutex::new(Some(notifier));
        Arc::new(Self { messages, is_notified, runtime, notifier, receiver: None })
    }

    /// Passes all messages to `receiver`.
    pub fn for_receiver(runtime: &'static Runtime, receiver: Receiver) -> Arc<Self> {
        let (messages, is_notified) = (Mutex::default(), AtomicBool::new(false));
        let (notifier, receiver) = (Mutex::default(), Some(receiver));
        Arc::new(Self { messages, is_notified, runtime, notifier, receiver })
    }

    pub fn take(&self) -> Vec<Message> {
        // Before the messages: those that come later notify again.
        self.is_notified.store(false, Ordering::Release);
        std::mem::take(&mut *self.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on the loop is not notified.
    pub fn stop_notifying(&self) {
        let notifier = self.notifier.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(notifier);
    }

    fn append(self: &Arc<Self>, messages: &mut Vec<Message>) {
        if let Some(receiver) = &self.receiver {
            return messages.drain(..).for_each(receiver);
        }
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).append(messages);
        if !self.is_notified.swap(true, Ordering::AcqRel) {
            let outbox = self.clone();
            let helped = catch_unwind(AssertUnwindSafe(|| {
                self.runtime.spawn_blocking(move || outbox.notify());
            }));
            if helped.is_err() {
                // No thread is available, so this one waits.
                self.notify();
            }
        }
    }

    fn notify(&self) {
        let notifier = self.notifier.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if notifier.is_some_and(|notifier| !notifier.notify()) {
            self.is_notified.store(false, Ordering::Release);
        }
    }
}

/// The end of an outbox on the core's thread.
pub struct Sender {
    outbox: Arc<Outbox>,
    messages: RefCell<Vec<Message>>,
    is_scheduled: Cell<bool>,
}

impl Sender {
    pub fn new(outbox: Arc<Outbox>) -> Rc<Self> {
        let (messages, is_scheduled) = (RefCell::default(), Cell::new(false));
        Rc::new(Self { outbox, messages, is_scheduled })
    }

    pub fn is_for(&self, outbox: &Arc<Outbox>) -> bool {
        Arc::ptr_eq(&self.outbox, outbox)
    }

    pub fn push(self: &Rc<Self>, message: Message) {
        self.messages.borrow_mut().push(message);
        if !self.is_scheduled.replace(true) {
            let sender = self.clone();
            // After all that is ready now, so that the loop is called once for all of it.
            tokio::task::spawn_local(async move { sender.flush() });
        }
    }

    pub fn flush(&self) {
        self.is_scheduled.set(false);
        let mut messages = self.messages.borrow_mut();
        if !messages.is_empty() {
            self.outbox.append(&mut messages);
        }
    }
}

/// At the end of the thread its tasks no longer run.
impl Drop for Sender {
    fn drop(&mut self) {
        self.flush();
    }
}
