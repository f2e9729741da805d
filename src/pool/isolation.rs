//! The requests on connections of their own: those that wait, and those that run.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::connection::Connection;
use super::error::Cause;
use super::health::nanos;
use super::queue::QueuedRequest;
use super::waiter::Waiter;
use crate::protocol::{
    ErrorLineKind, ExpiredRequest, Family, ItemRef, NEVER, Nanos, Reply, ReplyHandler, RequestInfo,
    StatLine, Verb,
};

/// How long other requests of a family wait for the reply to the first. A proxy may wait for a
/// server that hangs.
pub(super) const WAIT_FOR_FIRST: Duration = Duration::from_millis(100);

/// The limit for the connections of one family.
pub(super) const MAX_RUNNING: usize = 8;

pub(super) struct Isolation<W: Waiter> {
    pub next_id: u64,
    pub running: Vec<IsolatedRequest<W>>,
    pub waiting: VecDeque<(Family, QueuedRequest<W>)>,
}

pub(super) struct IsolatedRequest<W: Waiter> {
    pub id: u64,
    pub family: Family,
    pub since: Nanos,
    pub step: IsolatedStep<W>,
}

pub(super) enum IsolatedStep<W: Waiter> {
    /// `None` for a probe of the pool, or if the caller no longer waits.
    Connecting(Option<QueuedRequest<W>>),
    Sent(Box<Connection<Observer<W>>>, Rc<Observation<W>>),
}

/// The observed reply.
pub(super) struct Observation<W> {
    pub verb: Verb,
    pub answer: Cell<Option<Answer>>,
    /// The waiter that received an error line and has a substitute.
    pub refused: RefCell<Option<W>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Good,
    /// `ERROR` or `CLIENT_ERROR`: the node may not know the command.
    Refused,
    /// `SERVER_ERROR`: the node may know the command.
    Failed,
}

impl Answer {
    pub fn from_error(kind: ErrorLineKind) -> Self {
        match kind {
            ErrorLineKind::Unknown | ErrorLineKind::Client => Self::Refused,
            ErrorLineKind::Server | ErrorLineKind::Refused => Self::Failed,
        }
    }
}

impl<W: Waiter> Observation<W> {
    /// An error line in the reply to several keys does not reach a waiter.
    pub fn answer(&self, connection: &Connection<Observer<W>>) -> Option<Answer> {
        let line_error = || connection.line_error().map(|(kind, _)| Answer::from_error(*kind));
        self.answer.get().or_else(line_error)
    }
}

/// A waiter whose reply is observed.
pub(super) struct Observer<W> {
    pub waiter: W,
    pub observation: Rc<Observation<W>>,
    pub has_substitute: bool,
}

impl<W: Waiter> ReplyHandler for Observer<W> {
    type Value = W::Value;

    fn item(&mut self, index: usize, item: &ItemRef<'_>, shared: Option<&Self::Value>) {
        self.waiter.item(index, item, shared);
    }

    fn stat(&mut self, stat: &StatLine<'_>) {
        self.waiter.stat(stat);
    }

    fn restart(&mut self) {
        self.waiter.restart();
    }

    fn reply(self, reply: &Reply<'_>, from: &str) {
        let answer = match reply {
            Reply::Error(error) => Answer::from_error(error.kind),
            _ => Answer::Good,
        };
        self.observation.answer.set(Some(answer));
        if self.has_substitute && answer == Answer::Refused {
            self.observation.refused.replace(Some(self.waiter));
        } else {
            self.waiter.reply(reply, from);
        }
    }

    fn is_abandoned(&self) -> bool {
        self.waiter.is_abandoned()
    }
}

impl<W: Waiter> Isolation<W> {
    pub fn new() -> Self {
        Self { next_id: 0, running: Vec::new(), waiting: VecDeque::new() }
    }

    /// The number of requests without a reply.
    pub fn len(&self) -> usize {
        let has_caller =
            |running: &&IsolatedRequest<W>| !matches!(running.step, IsolatedStep::Connecting(None));
        self.waiting.len() + self.running.iter().filter(has_caller).count()
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn running_count(&self, family: Family) -> usize {
        self.running.iter().filter(|running| running.family == family).count()
    }

    /// The number of requests of a family that may run at `now`.
    pub fn max_running(&self, family: Family, now: Nanos) -> usize {
        let limit = match family {
            Family::Classic => return usize::MAX,
            Family::Meta => 1,
            _ => MAX_RUNNING,
        };
        let is_slow = |running: &&IsolatedRequest<W>| {
            running.family == family && now.saturating_sub(running.since) >= nanos(WAIT_FOR_FIRST)
        };
        limit.min(1 + self.running.iter().filter(is_slow).count())
    }

    /// Closes the connections of cancelled callers to make room.
    pub fn abort_abandoned(&mut self, family: Family) {
        for running in self.running.iter_mut().filter(|running| running.family == family) {
            if let IsolatedStep::Sent(connection, _) = &mut running.step
                && connection.abandoned() > 0
            {
                connection.abort(Cause::NoAnswer);
            }
        }
    }

    pub fn find(&mut self, id: u64) -> Option<&mut IsolatedRequest<W>> {
        self.running.iter_mut().find(|running| running.id == id)
    }

    /// See [`super::queue::Queue::expire`].
    pub fn expire(&mut self, now: Nanos, mut expired: impl FnMut(W, RequestInfo)) -> Nanos {
        let mut next = NEVER;
        for running in &mut self.running {
            match &mut running.step {
                IsolatedStep::Connecting(request) => {
                    if let Some(queued) = request.take_if(|queued| queued.timing.deadline <= now) {
                        let info = queued.info();
                        expired(queued.waiter, info);
                    } else {
                        let deadline = request.as_ref().map(|queued| queued.timing.deadline);
                        next = next.min(deadline.unwrap_or(NEVER));
                    }
                }
                IsolatedStep::Sent(connection, _) => {
                    let mut is_over = false;
                    next = next.min(connection.expire(
                        now,
                        |ExpiredRequest { handler, info, .. }| {
                            is_over = true;
                            expired(handler.waiter, info);
                        },
                    ));
                    if is_over {
                        connection.abort(Cause::NoAnswer);
                    }
                }
            }
        }
        if self.waiting.iter().any(|(_, queued)| queued.timing.deadline <= now) {
            for (family, queued) in std::mem::take(&mut self.waiting) {
                if queued.timing.deadline <= now {
                    let info = queued.info();
                    expired(queued.waiter, info);
                } else {
                    self.waiting.push_back((family, queued));
                }
            }
        }
        let waiting = self.waiting.iter().map(|(_, queued)| queued.timing.deadline).min();
        next.min(waiting.unwrap_or(NEVER))
    }

    /// Closes all connections and returns all waiters, in order.
    pub fn drain(&mut self) -> Vec<(W, RequestInfo)> {
        let mut all = Vec::new();
        for running in self.running.drain(..) {
            match running.step {
                IsolatedStep::Connecting(request) => {
                    all.extend(request.map(QueuedRequest::into_waiter));
                }
                IsolatedStep::Sent(connection, _) => {
                    let orphans = connection.into_orphans().into_iter();
                    all.extend(orphans.map(|orphan| (orphan.handler.waiter, orphan.info)));
                }
            }
        }
        all.extend(self.waiting.drain(..).map(|(_, queued)| queued.into_waiter()));
        all
    }

    pub fn take_waiting(&mut self, family: Family) -> Vec<QueuedRequest<W>> {
        let (taken, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(waiting, _)| *waiting == family);
        self.waiting = rest;
        taken.into_iter().map(|(_, queued)| queued).collect()
    }
}
