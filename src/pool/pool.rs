//! The connections to one node: dispatches requests, dials, and queues requests meanwhile.
//!
//! Invariants: `connections.len() + dialling <= max_connections` (one more while the node has
//! moved, see [`super::relocation`]). While a connection accepts requests, none waits (`queue` is
//! first come, first served). A checked-out connection receives only its holder's requests.
use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::address::Address;
use super::capabilities::Capabilities;
use super::connection::Connection;
use super::context::{Context, Member};
use super::dial::{Connected, dial};
use super::error::{Cause, Error, ErrorKind};
use super::health::{Change, Health, STALLED_AFTER, nanos};
use super::isolated::Isolation;
use super::large::LargeKeys;
use super::line_len::LineLen;
use super::metrics::{ConnectLatencies, Metrics};
use super::open::{Phase, Security};
use super::order::{NoreplyOrder, Placement, pin_hash};
use super::queue::{CheckoutQueue, Queue, QueuedRequest};
use super::relocation::{NodeLocation, drain_and_close};
use super::stalls::Window;
use super::state::{Entry, State};
use super::submission::Submission;
use super::tasks::{drive, purge_unused};
use crate::protocol::{
    CommandStats, Dialect, LARGE_VALUE_LEN, NEVER, Nanos, NodeStats, OwnedRequest, Reply,
    ReplyHandler, Request, Scope, Timing, Verb,
};

/// Waits for a reply, or for the reason why there is none.
pub trait Waiter: ReplyHandler + Sized + 'static {
    fn fail(self, error: &Error);

    /// Ends the wait of an abandoned request.
    fn dismiss(self) {
        self.reply(&Reply::End, "");
    }

    /// Splits a request for several keys: returns a waiter for each key with an index in `missing`,
    /// in that order. Items that arrived for other keys are kept.
    fn split(self, missing: &[usize]) -> Vec<Self>;
}

#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub min_connections: usize,
    pub max_connections: usize,
    pub purge_unused_after: Option<Duration>,
    pub connection_timeout: Option<Duration>,
    /// The client's timeout, from which deadlines are computed; `None` for no deadlines.
    pub timeout: Option<Duration>,
    pub max_merged_keys: u32,
    pub security: Arc<Security>,
}

/// Identifies a checkout. The caller chooses a unique number.
pub type CheckoutId = u64;

/// The limit for unanswered requests to one node.
const MAX_REQUESTS: usize = 65_536;
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

type ChangeListener = Box<dyn Fn(Change)>;

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
    /// Notified when the node moves, so that dials to the former address end.
    pub relocated: Rc<Notify>,
    /// The progress of the current dial.
    pub phase: Rc<Cell<Phase>>,
    pub line_len: LineLen,
    pub state: RefCell<State<W>>,
}

impl<W: Waiter> Pool<W> {
    pub fn new(context: &Rc<Context>, address: Address, config: PoolConfig) -> Self {
        let Self(shared) = Self::unconnected(context, Arc::new(address), config);
        let as_member: Rc<dyn Member> = shared.clone();
        context.register(Rc::downgrade(&as_member));
        shared.dial_if_wanted();
        Self(shared)
    }

    /// The pool of a node that was removed from the cluster. All requests fail.
    pub fn for_removed_node(
        context: &Rc<Context>,
        address: Arc<Address>,
        config: PoolConfig,
    ) -> Self {
        let pool = Self::unconnected(context, address, config);
        let mut state = pool.0.state.borrow_mut();
        (state.closed, state.removed) = (true, true);
        drop(state);
        pool
    }

    fn unconnected(context: &Rc<Context>, address: Arc<Address>, config: PoolConfig) -> Self {
        let is_binary = config.security.is_binary();
        Self(Rc::new(Shared {
            context: context.clone(),
            name: address.to_string().into(),
            address,
            config,
            unflushed: Cell::new(false),
            closing: Rc::default(),
            on_change: RefCell::new(None),
            relocated: Rc::default(),
            phase: Rc::default(),
            line_len: LineLen::new(),
            state: RefCell::new(State {
                connections: Vec::new(),
                next_id: 0,
                queue: Queue::new(),
                order: NoreplyOrder::default(),
                checkouts: CheckoutQueue::new(),
                isolation: Isolation::new(),
                capabilities: Capabilities::new(is_binary),
                lost_checkouts: Vec::new(),
                last_loss: 0,
                dialling: false,
                purging: false,
                closed: false,
                removed: false,
                health: Health::default(),
                large_keys: LargeKeys::default(),
                small_recently: 0,
                needs_large_connection: false,
                any_silent: false,
                is_confirming: false,
                window: Window::default(),
                needs_relief: false,
                unmerged_until: None,
                location: NodeLocation::default(),
                metrics: Metrics::default(),
                stats: NodeStats::default(),
                unreplaced: 0,
                latencies: ConnectLatencies::default(),
            }),
        }))
    }

    /// Calls `listener` after each change.
    pub fn on_change(&self, listener: impl Fn(Change) + 'static) {
        *self.0.on_change.borrow_mut() = Some(Box::new(listener));
    }

    pub fn address(&self) -> &Arc<Address> {
        &self.0.address
    }

    pub fn is_healthy(&self) -> bool {
        self.0.state.borrow().health.is_healthy()
    }

    /// The cause of the last failure.
    pub fn last_failure(&self) -> Option<Cause> {
        self.0.state.borrow().health.last_failure().cloned()
    }

    pub fn is_connected(&self) -> bool {
        !self.0.state.borrow().connections.is_empty()
    }

    /// Closes the pool once all requests are answered or the grace period has passed, and then
    /// calls `then`.
    pub fn drain_and_close(&self, then: impl FnOnce() + 'static) {
        self.0.on_change.borrow_mut().take();
        let pool = self.clone();
        let grace_period = self.0.drain_timeout();
        self.0.context.spawn(async move {
            drain_and_close(pool, grace_period).await;
            then();
        });
    }

    pub fn metrics(&self) -> Metrics {
        let state = self.0.state.borrow();
        let sum =
            |count: fn(&Entry<W>) -> u64| -> u64 { state.connections.iter().map(count).sum() };
        let read = sum(|entry| entry.connection.bytes_read());
        let written = sum(|entry| entry.connection.bytes_written());
        let shared = sum(|entry| entry.connection.shared_keys());
        Metrics {
            cur_connections: state.connections.len() as u64,
            connections_idle: state.idle() as u64,
            connections_checked_out: sum(|entry| u64::from(entry.checkout.is_some())),
            requests_in_flight: sum(|entry| entry.connection.in_flight() as u64),
            requests_abandoned: sum(|entry| entry.connection.abandoned() as u64),
            requests_queued: (state.queue.len() + state.checkouts.wanted()) as u64,
            keys_shared: state.metrics.keys_shared + shared,
            bytes_read: state.metrics.bytes_read + read,
            bytes_written: state.metrics.bytes_written + written,
            create_connection: state.latencies.summary(),
            ..state.metrics.clone()
        }
    }

    /// The counters of each command.
    pub fn commands(&self) -> Vec<(Verb, CommandStats)> {
        let state = self.0.state.borrow();
        state.stats.commands().map(|(verb, command)| (verb, command.clone())).collect()
    }

    /// The number of unanswered requests, including abandoned ones.
    pub fn in_flight(&self) -> usize {
        self.0.state.borrow().in_flight()
    }

    /// Sends or queues a request. The waiter is notified exactly once, possibly before this
    /// returns.
    pub fn submit(&self, request: &Request<'_>, waiter: W, deadline: Nanos) {
        self.submit_any(Submission::Borrowed(request), waiter, deadline);
    }

    /// Like [`Self::submit`].
    pub fn submit_owned(&self, request: OwnedRequest, waiter: W, deadline: Nanos) {
        self.submit_any(Submission::Owned(request), waiter, deadline);
    }

    /// Like [`Self::submit`].
    pub fn submit_any(&self, outgoing: Submission<'_>, waiter: W, deadline: Nanos) {
        let shared = &self.0;
        let mut guard = shared.state.borrow_mut();
        let state = &mut *guard;
        let refusal = shared.refusal(state, outgoing.payload_len());
        if let Some(refusal) = refusal.or_else(|| shared.pinned_refusal(state, &outgoing, &waiter))
        {
            state.metrics.operations_executed_with_error += 1;
            state.stats.record(outgoing.info(), refusal.kind().call_result());
            drop(guard);
            waiter.fail(&refusal);
            return;
        }
        let timing = shared.timing(deadline);
        let family = outgoing.verb().family();
        if !state.capabilities.may_share(family) {
            drop(guard);
            let request = outgoing.into_owned().unshared();
            shared.isolate(family, QueuedRequest { request, waiter, timing, retried: false });
            shared.context.arm(deadline);
            return;
        }
        if state.is_unmerged() && outgoing.info().keys > 1 {
            let request = outgoing.into_owned();
            let whole = QueuedRequest { request, waiter, timing, retried: false };
            for QueuedRequest { request, waiter, .. } in whole.split_all() {
                shared.dispatch(state, Submission::Owned(request), waiter, timing);
            }
        } else {
            shared.dispatch(state, outgoing, waiter, timing);
        }
        let wants_dial = state.wants_dial(&shared.config, deadline);
        drop(guard);
        // By then the request is answered, or the pool checks whether it is held up.
        shared.context.arm(deadline.min(timing.issued_at.saturating_add(nanos(STALLED_AFTER))));
        if wants_dial {
            shared.dial();
        }
    }

    /// Fails all requests and closes all connections, for good.
    pub fn close(&self) {
        self.fail_all(ErrorKind::Closed);
    }

    /// Like [`Self::close`], for a removed node after `grace_period`.
    pub(super) fn close_removed(&self, grace_period: Duration) {
        self.0.state.borrow_mut().removed = true;
        self.fail_all(ErrorKind::RemovedUnanswered { grace_period });
    }

    fn fail_all(&self, why: ErrorKind) {
        self.0.on_change.borrow_mut().take();
        self.0.closing.notify_waiters();
        let mut state = self.0.state.borrow_mut();
        state.closed = true;
        let waiters = state.take_connections();
        for (_, info) in &waiters {
            state.stats.record(*info, why.call_result());
        }
        let waiting = state.take_queued(why.call_result());
        drop(state);
        let error = Error::new(why, &self.0.address, None);
        for waiter in waiters.into_iter().map(|(waiter, _)| waiter).chain(waiting) {
            waiter.fail(&error);
        }
    }
}

impl<W: Waiter> Shared<W> {
    pub fn state(&self) -> RefMut<'_, State<W>> {
        self.state.borrow_mut()
    }

    pub fn error(&self, kind: ErrorKind, cause: Option<Cause>) -> Error {
        Error::new(kind, &self.address, cause)
    }

    /// Sends a request, or queues it until a connection is available.
    fn dispatch(
        self: &Rc<Self>,
        state: &mut State<W>,
        outgoing: Submission<'_>,
        waiter: W,
        timing: Timing,
    ) {
        let is_large = outgoing.payload_len() >= LARGE_VALUE_LEN
            || outgoing.asks_for(|key| state.large_keys.contains(key));
        let is_noreply = waiter.is_noreply();
        let at = match state.placement(&outgoing, is_noreply) {
            Placement::Any => state.pick(&self.config, is_large, timing),
            Placement::At(at) => Some(at),
            Placement::Later => {
                state.metrics.operations_waited += 1;
                state.queue.block(QueuedRequest::new(outgoing, waiter, timing));
                return;
            }
        };
        if let Some(at) = at {
            let pin = is_noreply.then(|| pin_hash(&outgoing));
            let entry = &mut state.connections[at];
            self.send(entry, &mut state.health, outgoing, waiter, timing);
            if let Some(pin) = pin {
                state.pin(at, pin);
            }
        } else {
            state.metrics.operations_waited += 1;
            state.queue.push_back(outgoing, waiter, timing);
        }
        // Large transfers share all connections except the first.
        state.needs_large_connection |=
            is_large && state.connections.iter().skip(1).all(|e| e.connection.in_flight() > 0);
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
            let since = *entry.owes_since.get_or_insert_with(|| self.context.now());
            health.written(|| since);
        }
    }

    /// Moves waiting requests to connections that accept them.
    pub fn drain_queue(&self, state: &mut State<W>) {
        let (is_unmerged, window) = (state.is_unmerged(), state.window);
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
            let Some(queued) = state.queue.pop(&mut state.stats) else { break };
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
        for entry in &mut state.connections {
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
        if state.is_unmerged() { 1 } else { self.config.max_merged_keys }
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
        if state.closed {
            let why = if state.removed { ErrorKind::Removed } else { ErrorKind::Closed };
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
    fn pinned_refusal(
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

    pub fn dial_if_wanted(self: &Rc<Self>) {
        if self.state.borrow().wants_dial(&self.config, NEVER) {
            self.dial();
        }
    }

    pub fn dial(self: &Rc<Self>) {
        self.state.borrow_mut().dialling = true;
        self.context.spawn(dial(Rc::downgrade(self)));
    }

    pub fn connected(self: &Rc<Self>, connected: Connected) {
        let Connected { stream, peer, took, is_verified } = connected;
        let mut state = self.state.borrow_mut();
        if state.closed {
            return;
        }
        // The connection may reach another server.
        if state.connections.iter().all(|entry| entry.peer != peer) {
            self.line_len.forget();
        }
        let id = state.next_id;
        state.next_id += 1;
        let max_merged_keys = self.max_merged_keys(&state);
        let name = self.name.clone();
        let connection = Connection::new(stream, self.dialect(), max_merged_keys, name);
        let now = self.context.now();
        let entry = Entry::new(id, connection, peer, now, is_verified);
        state.connections.push(entry);
        state.needs_large_connection = false;
        state.needs_relief = false;
        state.metrics.connections_created += 1;
        state.metrics.reconnects += u64::from(state.unreplaced > 0);
        state.unreplaced = state.unreplaced.saturating_sub(1);
        state.latencies.record(took);
        let login_recovered = state.health.login_accepted();
        let recovered = is_verified && state.health.verified(now);
        if state.any_silent {
            self.check_silent(&mut state, None);
        } else {
            self.move_held_up_reads(&mut state);
        }
        self.grant(&mut state);
        self.drain_queue(&mut state);
        let purge = self
            .config
            .purge_unused_after
            .filter(|_| state.connections.len() > self.config.min_connections && !state.purging);
        state.purging |= purge.is_some();
        drop(state);
        self.context.spawn(drive(Rc::downgrade(self), id));
        if let Some(after) = purge {
            self.context.spawn(purge_unused(Rc::downgrade(self), after));
        }
        if login_recovered {
            self.notify_change(Change::LoginRecovered);
        }
        if recovered {
            self.notify_change(Change::Healthy);
        }
        self.start_waiting();
        self.track();
        self.dial_if_wanted();
    }
}
