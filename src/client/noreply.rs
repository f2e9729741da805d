//! Requests with `noreply`. The caller continues once the request is on a connection; the reply is
//! only counted.
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::batch::Batch;
use super::caller::Caller;
use super::outcome::Outcome;

/// With more unanswered requests than this, the next caller waits for its reply, which slows it
/// down to the server's speed.
pub const MAX_UNANSWERED: usize = 1024;

/// The requests with `noreply` of one client.
pub struct NoReplies<C> {
    unanswered: Cell<usize>,
    errors: Cell<u64>,
    /// Callers that wait until no request is unanswered.
    drained: RefCell<Vec<C>>,
    /// Called then, once.
    on_drained: Cell<Option<Box<dyn FnOnce()>>>,
}

impl<C> Default for NoReplies<C> {
    fn default() -> Self {
        let (unanswered, errors) = (Cell::new(0), Cell::new(0));
        Self { unanswered, errors, drained: RefCell::default(), on_drained: Cell::default() }
    }
}

impl<C: Caller> NoReplies<C> {
    pub fn unanswered(&self) -> usize {
        self.unanswered.get()
    }

    pub fn errors(&self) -> u64 {
        self.errors.get()
    }

    /// Counts requests that are about to be sent.
    pub fn begin(&self, count: usize) {
        self.unanswered.set(self.unanswered.get() + count);
    }

    pub fn count_errors(&self, count: usize) {
        self.errors.set(self.errors.get() + count as u64);
    }

    /// A request was answered, or never will be.
    pub fn end(&self, is_error: bool) {
        self.count_errors(usize::from(is_error));
        self.unanswered.set(self.unanswered.get() - 1);
        if self.unanswered.get() == 0 {
            for caller in self.drained.take() {
                caller.complete(Outcome::Done);
            }
            self.call_on_drained();
        }
    }

    /// Completes the caller when no request is unanswered.
    pub fn drain(&self, caller: C) {
        if self.unanswered.get() == 0 {
            caller.complete(Outcome::Done);
        } else {
            self.drained.borrow_mut().push(caller);
        }
    }

    pub fn set_on_drained(&self, then: Box<dyn FnOnce()>) {
        self.on_drained.set(Some(then));
        if self.unanswered.get() == 0 {
            self.call_on_drained();
        }
    }

    /// At once, whatever is unanswered.
    pub fn call_on_drained(&self) {
        if let Some(then) = self.on_drained.take() {
            then();
        }
    }
}

/// The caller of a request with `noreply`.
pub enum NoReplyCaller<C: Caller> {
    /// Continues when the request is on a connection. Until then it can fail without having reached
    /// the server.
    UntilAccepted(C),
    /// As before, for one key of many.
    UntilPartAccepted {
        batch: Rc<Batch<C>>,
        at: usize,
    },
    /// Waits for the reply, because too many are outstanding.
    UntilAnswered(C),
    Completed,
}

impl<C: Caller> NoReplyCaller<C> {
    pub fn accepted(&mut self) {
        match std::mem::replace(self, Self::Completed) {
            Self::UntilAccepted(caller) => caller.accept(),
            Self::UntilPartAccepted { batch, at } => batch.part_ended(at, Outcome::Done),
            other => *self = other,
        }
    }

    pub fn complete(self, outcome: Outcome<C::Item>) {
        match self {
            Self::UntilAccepted(caller) | Self::UntilAnswered(caller) => caller.complete(outcome),
            Self::UntilPartAccepted { batch, at } => batch.part_ended(at, outcome),
            Self::Completed => {}
        }
    }

    pub fn is_abandoned(&self) -> bool {
        match self {
            Self::UntilAccepted(caller) | Self::UntilAnswered(caller) => caller.is_abandoned(),
            Self::UntilPartAccepted { batch, .. } => batch.is_abandoned(),
            Self::Completed => false,
        }
    }
}
