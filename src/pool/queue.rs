//! The requests of a pool that wait for a connection.
use std::collections::VecDeque;

use smallvec::SmallVec;

use super::submission::Submission;
use super::waiter::Waiter;
use crate::protocol::{
    CallResult, Family, NEVER, Nanos, NodeStats, OwnedRequest, RequestInfo, Timing,
};

pub(super) struct QueuedRequest<W> {
    pub request: OwnedRequest,
    pub waiter: W,
    pub timing: Timing,
    pub retried: bool,
}

impl<W> QueuedRequest<W> {
    pub fn new(outgoing: Submission<'_>, waiter: W, timing: Timing) -> Self {
        let request = match outgoing {
            Submission::Owned(request) => request.take().unshared(),
            borrowed @ Submission::Borrowed(_) => borrowed.into_owned(),
        };
        Self { request, waiter, timing, retried: false }
    }

    pub fn family(&self) -> Family {
        self.request.verb().family()
    }

    pub fn into_waiter(self) -> (W, RequestInfo) {
        let info = self.info();
        (self.waiter, info)
    }

    pub fn info(&self) -> RequestInfo {
        let issued_at = self.timing.issued_at;
        RequestInfo { verb: self.request.verb(), keys: self.request.keys(), issued_at }
    }
}

impl<W: Waiter> QueuedRequest<W> {
    /// Splits a retrieval into one for each key. `indexes` holds the positions of its keys in the
    /// waiter's request.
    #[cold]
    pub fn split(self, indexes: &[usize]) -> Vec<Self> {
        let Self { request, waiter, timing, retried } = self;
        let OwnedRequest::Retrieval { verb, keys } = request else {
            return vec![Self { request, waiter, timing, retried }];
        };
        let alone = |(key, waiter)| {
            let request = OwnedRequest::Retrieval { verb, keys: SmallVec::from_iter([key]) };
            Self { request, waiter, timing, retried }
        };
        keys.into_iter().zip(waiter.split(indexes)).map(alone).collect()
    }

    /// One request for each key, if it is a retrieval of several.
    pub fn split_all_keys(self) -> Vec<Self> {
        if self.request.keys() > 1 { self.split_all() } else { vec![self] }
    }

    /// Like [`Self::split`], for all keys.
    pub fn split_all(self) -> Vec<Self> {
        let indexes: Vec<_> = (0..self.request.keys() as usize).collect();
        self.split(&indexes)
    }
}

/// Invariant: `bytes == sum(request.payload_len())`.
pub(super) struct Queue<W> {
    waiting: VecDeque<QueuedRequest<W>>,
    /// Requests that must follow an unanswered write on a connection that accepts no more. Each is
    /// older than any waiting request with the same key.
    blocked: VecDeque<QueuedRequest<W>>,
    bytes: usize,
}

impl<W: Waiter> Queue<W> {
    pub fn new() -> Self {
        Self { waiting: VecDeque::new(), blocked: VecDeque::new(), bytes: 0 }
    }

    pub fn len(&self) -> usize {
        self.waiting.len() + self.blocked.len()
    }

    /// Whether no request waits for a connection. Others may be blocked.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a `noreply` write is queued.
    pub fn has_noreply(&self) -> bool {
        self.waiting.iter().chain(&self.blocked).any(|queued| queued.waiter.is_noreply())
    }

    pub fn push_back(&mut self, outgoing: Submission<'_>, waiter: W, timing: Timing) {
        let queued = QueuedRequest::new(outgoing, waiter, timing);
        self.bytes += queued.request.payload_len();
        self.waiting.push_back(queued);
    }

    /// Sets a request aside until [`Self::unblock`]. Other requests may overtake it.
    pub fn block(&mut self, queued: QueuedRequest<W>) {
        self.bytes += queued.request.payload_len();
        self.blocked.push_back(queued);
    }

    /// Moves the blocked requests to the front, in order.
    pub fn unblock(&mut self) {
        while let Some(queued) = self.blocked.pop_back() {
            self.waiting.push_front(queued);
        }
    }

    /// Adds a request ahead of all others.
    pub fn push_front(&mut self, queued: QueuedRequest<W>) {
        self.bytes += queued.request.payload_len();
        self.waiting.push_front(queued);
    }

    /// The next request whose caller still waits.
    pub fn pop(&mut self, stats: &mut NodeStats) -> Option<QueuedRequest<W>> {
        loop {
            let queued = self.waiting.pop_front()?;
            self.bytes -= queued.request.payload_len();
            if !queued.waiter.is_abandoned() {
                return Some(queued);
            }
            // The caller was cancelled before the request was sent. The waiter must still be
            // notified.
            stats.record(queued.info(), CallResult::Cancelled);
            queued.waiter.dismiss();
        }
    }

    /// Takes the requests that must not be sent on a shared connection, in order.
    pub fn take_unshareable(
        &mut self,
        may_share: impl Fn(Family) -> bool,
    ) -> Vec<QueuedRequest<W>> {
        let mut taken = Vec::new();
        for list in [&mut self.blocked, &mut self.waiting] {
            if list.iter().all(|queued| may_share(queued.family())) {
                continue;
            }
            for queued in std::mem::take(list) {
                if may_share(queued.family()) {
                    list.push_back(queued);
                } else {
                    self.bytes -= queued.request.payload_len();
                    taken.push(queued);
                }
            }
        }
        taken
    }

    /// Takes the requests whose deadline is at or before `now`, and returns the next deadline.
    pub fn expire(&mut self, now: Nanos, mut expired: impl FnMut(W, RequestInfo)) -> Nanos {
        let mut next = NEVER;
        for list in [&mut self.blocked, &mut self.waiting] {
            if list.iter().any(|queued| queued.timing.deadline <= now) {
                for queued in std::mem::take(list) {
                    if queued.timing.deadline <= now {
                        self.bytes -= queued.request.payload_len();
                        let info = queued.info();
                        expired(queued.waiter, info);
                    } else {
                        list.push_back(queued);
                    }
                }
            }
            next =
                list.iter().map(|queued| queued.timing.deadline).min().unwrap_or(NEVER).min(next);
        }
        next
    }

    /// Takes all requests, in order.
    pub fn take_all(&mut self) -> Vec<QueuedRequest<W>> {
        self.unblock();
        self.bytes = 0;
        self.waiting.drain(..).collect()
    }

    /// Takes the waiters of all requests, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = (W, RequestInfo)> {
        self.unblock();
        self.bytes = 0;
        self.waiting.drain(..).map(QueuedRequest::into_waiter)
    }
}
