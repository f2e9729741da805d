//! The parts of a pool that its tasks share, and how requests reach a connection.
use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::address::Address;
use super::config::PoolConfig;
use super::connections::Entry;
use super::context::Context;
use super::error::{Cause, Error, ErrorKind, Phase};
use super::health::{Change, Health, nanos};
use super::line_len::LineLen;
use super::order::pin_hash;
use super::placement::Placement;
use super::queue::QueuedRequest;
use super::state::State;
use super::submission::Submission;
use super::waiter::Waiter;
use crate::protocol::{Dialect, NEVER, Nanos, OwnedRequest, Scope, Timing};

/// The limit for unanswered requests to one node.
pub(super) const MAX_REQUESTS: usize = 65_536;

/// The limit for bytes that wait for a connection.
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// A connection whose oldest request is this long past its deadline, and at least two timeouts, is
/// closed. Servers pause for less, and late replies arrive sooner.
pub(super) const GRACE_PERIOD: Duration = Duration::from_secs(5);

/// A handle. Clones share the pool.
pub struct Pool<W: Waiter>(pub(super) Rc<Shared<W>>);

impl<W: Waiter> Clone for Pool<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub(super) type ChangeListener = Box<dyn Fn(Change)>;
/// Receives a request that was not sent, its waiter and its deadline.
pub(super) type StrandedListener<W> = Box<dyn Fn(OwnedRequest, W, Nanos)>;

pub(super) struct Shared<W: Waiter> {
    pub context: Rc<Context>,
    pub address: Arc<Address>,
    /// The address as text.
    pub name: Arc<str>,
    pub config: PoolConfig,
    pub unflushed: Cell<bool>,
    /// Notified when the pool closes, so that sleeping tasks end.
    pub closing: Rc<Notify>,
    pub on_change: RefCell<Option<ChangeListener>>,
    /// Takes the requests that the node had not received when it became unhealthy.
    pub on_stranded: RefCell<Option<StrandedListener<W>>>,
    /// The number of connections that linger, and what ends their wait.
    pub lingering: Cell<usize>,
    pub lingering_over: Rc<Notify>,
    /// Notified when the node moves, so that dials to the former address end.
    pub relocated: Rc<Notify>,
    /// The progress of the current dial.
    pub phase: Rc<Cell<Phase>>,
    pub line_len: LineLen,
    pub state: RefCell<State<W>>,
}

impl<W: Waiter> Shared<W> {
    pub fn state(&self) -> RefMut<'_, State<W>> {
        self.state.borrow_mut()
    }

    pub fn error(&self, kind: ErrorKind, cause: Option<Cause>) -> Error {
        Error::new(kind, &self.address, cause)
    }

    pub fn send(
        self: &Rc<Self>,
        entry: &mut Entry<W>,
        health: &mut Health,
        outgoing: Submission<'_>,
        mut waiter: W,
        timing: Timing,
    ) {
        if entry.connection.in_flight() == 0 && entry.is_stale(self.context.now()) {
            // The connection's task reads before it writes, and unwritten requests can use another
            // connection.
            entry.connection.hold_writes();
            self.context.wake_later(entry.connection.waker());
        }
        entry.connection.accept(&mut waiter);
        outgoing.push(&mut entry.connection, waiter, timing);
        if entry.connection.should_flush() {
            self.flush_entry(entry, health);
        } else if !self.unflushed.replace(true) {
            self.context.flush_later(self.clone());
        }
    }

    pub fn flush_entry(&self, entry: &mut Entry<W>, health: &mut Health) {
        let before = entry.connection.bytes_written();
        entry.connection.flush();
        if entry.connection.bytes_written() > before {
            entry.note_written(|| self.context.now(), health);
        }
    }

    /// Moves waiting requests to connections that accept them.
    pub fn drain_queue(&self, state: &mut State<W>) {
        let (is_unmerged, window) = (state.precautions.is_unmerged(), state.precautions.window());
        let now = self.context.now();
        let is_stalled = |entry: &Entry<W>, health: &Health| entry.is_stalled(now, health);
        let takes =
            |entry: &Entry<W>| entry.takes_more(window) && !is_stalled(entry, &state.health);
        // Stalled connections accept nothing while another one does, or may open.
        let spares_stalled =
            state.connections.iter().any(takes) || state.awaits_another(&self.config);
        let mut next = 0;
        while let Some(entry) = state.connections.get(next) {
            let is_spared = spares_stalled && is_stalled(entry, &state.health);
            if is_spared || !entry.takes_more(window) {
                next += 1;
                continue;
            }
            if entry.connection.in_flight() == 0 && entry.is_stale(now) {
                // The connection's task checks whether it is still open, and then drains the queue.
                self.context.wake_later(entry.connection.waker());
                next += 1;
                continue;
            }
            let Some(queued) = state.queue.pop(state.counters.stats_mut()) else { break };
            if is_unmerged && queued.request.keys() > 1 {
                for part in queued.split_all().into_iter().rev() {
                    state.queue.push_front(part);
                }
                continue;
            }
            let is_noreply = queued.waiter.is_noreply();
            let at = match state.placement_of_queued(&queued.request, is_noreply) {
                Placement::Any => next,
                Placement::At(at) => at,
                // Later requests must not overtake a command for all keys.
                Placement::Later if is_noreply && queued.request.verb().scope() != Scope::Keys => {
                    state.queue.push_front(queued);
                    break;
                }
                Placement::Later => {
                    state.queue.block(queued);
                    continue;
                }
            };
            let QueuedRequest { request, mut waiter, timing, retried } = queued;
            let pin = is_noreply.then(|| pin_hash(&request));
            let connection = &mut state.connections[at].connection;
            connection.accept(&mut waiter);
            connection.push_owned(&request, waiter, timing, retried);
            if let Some(pin) = pin {
                state.pin(at, pin);
            }
        }
        for entry in state.connections.iter_mut() {
            if entry.connection.has_unflushed() {
                self.flush_entry(entry, &mut state.health);
            }
        }
    }

    /// The protocol of a new connection.
    pub fn dialect(&self) -> Dialect {
        self.config.security.dialect()
    }

    /// The number of retrievals that may share a line.
    pub fn max_merged_keys(&self, state: &State<W>) -> u32 {
        if state.precautions.is_unmerged() { 1 } else { self.config.max_merged_keys }
    }

    /// The timing of a request with this deadline. The start time follows from the pool's timeout,
    /// so most requests need no clock.
    pub fn timing(&self, deadline: Nanos) -> Timing {
        let issued_at = match self.config.timeout {
            Some(limit) if deadline != NEVER => deadline.saturating_sub(nanos(limit)),
            _ => self.context.now(),
        };
        Timing { issued_at, deadline }
    }

    /// The reason why a request is not accepted at all.
    pub fn refusal(&self, state: &State<W>, bytes: usize) -> Option<Error> {
        if let Some(why) = state.lifecycle.refusal() {
            return Some(self.error(why, None));
        }
        if !state.health.is_healthy() && state.connections.is_empty() {
            return Some(self.unavailable(state.health.last_failure().cloned()));
        }
        if state.connections.is_empty()
            && let Some(refusal) = state.health.login_refusal()
        {
            return Some(self.unavailable(Some(refusal.clone())));
        }
        self.saturation(state, state.queue.bytes(), bytes)
    }

    /// The reason why a request cannot follow the unanswered writes that it depends on. Their
    /// connection accepts it whatever its backlog, within the same limit.
    pub fn pinned_refusal(
        &self,
        state: &State<W>,
        outgoing: &Submission<'_>,
        waiter: &W,
    ) -> Option<Error> {
        let Placement::At(at) = state.placement(outgoing, waiter.is_noreply()) else { return None };
        let waiting = state.connections[at].connection.unwritten();
        self.saturation(state, waiting, outgoing.payload_len())
    }

    /// The error for a node without a connection.
    pub fn unavailable(&self, cause: Option<Cause>) -> Error {
        let is_refusal = matches!(cause, Some(Cause::LoginRefused(_)));
        let kind = if is_refusal { ErrorKind::LoginRefused } else { ErrorKind::Unavailable };
        self.error(kind, cause)
    }

    /// The error if `bytes` more would exceed the limits, with `waiting` bytes already waiting.
    pub fn saturation(&self, state: &State<W>, waiting: usize, bytes: usize) -> Option<Error> {
        let is_full = state.in_flight() >= MAX_REQUESTS && state.waiting() >= MAX_REQUESTS;
        let (what, limit) = if is_full {
            ("requests", MAX_REQUESTS)
        } else if waiting > 0 && waiting + bytes > MAX_QUEUED_BYTES {
            ("bytes", MAX_QUEUED_BYTES)
        } else {
            return None;
        };
        Some(self.error(ErrorKind::Saturated { what, limit }, None))
    }

    /// By then every request is answered or has timed out.
    pub fn drain_timeout(&self) -> Duration {
        self.config.timeout.unwrap_or(GRACE_PERIOD).max(Duration::from_secs(1))
    }
}
