//! The connections to one node: who gets which request, when to dial, what waits meanwhile.
//!
//! Invariants: `connections.len() + dialling <= max_connections` (one more where the node has moved, see
//! [`super::moves`]); while a connection is there that takes
//! more, no request waits (`queue` is first come, first served); a leased connection gets only what its
//! holder sends.
use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::address::Address;
use super::capabilities::{Capabilities, Family};
use super::connection::Connection;
use super::context::{Context, Member};
use super::dial::{Dialled, dial};
use super::error::{Cause, Error, ErrorKind};
use super::health::{Change, Health, STALLED_AFTER, ticks};
use super::isolated::Isolation;
use super::large::LargeKeys;
use super::line_len::LineLen;
use super::login::Mechanism;
use super::metrics::{ConnectLatencies, Metrics};
use super::moves::{Place, retire};
use super::open::{Phase, Security};
use super::order::{Order, Route, pin_of};
use super::queue::{LeaseQueue, Queue, Queued, Submission};
use super::stalls::Window;
use super::state::{Entry, State};
use super::tasks::{drive, purge_unused};
use crate::protocol::{
    CommandTally, LARGE_VALUE_LEN, NEVER, OwnedRequest, Reply, Request, Scope, Sink, Tally, Term,
    Tick, Verb,
};

/// Who waits for an answer, or for why there is none.
pub trait Waiter: Sink + Sized + 'static {
    fn fail(self, error: &Error);

    /// Nobody waits any more, and nothing will come.
    fn dismiss(self) {
        self.reply(&Reply::End, "");
    }

    /// Of a request for several keys, those with the indexes `missing` are each asked for alone from now on: the
    /// waiters for them, in that order. What came for the other keys is kept.
    fn split(self, missing: &[usize]) -> Vec<Self>;
}

#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub min_connections: usize,
    pub max_connections: usize,
    pub purge_unused_after: Option<Duration>,
    pub connection_timeout: Option<Duration>,
    /// What the deadlines of requests are made of; `None`: they have none.
    pub timeout: Option<Duration>,
    pub max_merged_keys: u32,
    pub security: Arc<Security>,
}

/// Names a leased connection; chosen by whoever asks, and never twice.
pub type LeaseId = u64;

/// Requests to one node that have no answer yet.
const MAX_REQUESTS: usize = 65_536;
/// Bytes that wait for a connection that takes them.
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// A connection whose oldest request is this long past its deadline, and at least two timeouts, is given
/// up: longer than a server pauses for, and than late answers take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A handle; clones share the pool.
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
    /// The address as texts have it.
    pub name: Arc<str>,
    pub config: PoolConfig,
    pub unflushed: Cell<bool>,
    /// For tasks that sleep: a pool that was closed must not wait for them to be forgotten.
    pub closing: Rc<Notify>,
    pub on_change: RefCell<Option<ChangeListener>>,
    /// For dials that go, or wait to go, to where the node is no more.
    pub relocated: Rc<Notify>,
    /// How far the dial has come that is under way.
    pub phase: Rc<Cell<Phase>>,
    pub line_len: LineLen,
    pub state: RefCell<State<W>>,
}

impl<W: Waiter> Pool<W> {
    pub fn new(context: &Rc<Context>, address: Address, config: PoolConfig) -> Self {
        let Self(shared) = Self::unconnected(context, Arc::new(address), config);
        let as_member: Rc<dyn Member> = shared.clone();
        context.join(Rc::downgrade(&as_member));
        shared.dial_if_wanted();
        Self(shared)
    }

    /// The pool of a node that left the cluster: all that it is asked fails.
    pub fn of_former_node(
        context: &Rc<Context>,
        address: Arc<Address>,
        config: PoolConfig,
    ) -> Self {
        let pool = Self::unconnected(context, address, config);
        let mut state = pool.0.state.borrow_mut();
        (state.closed, state.left) = (true, true);
        drop(state);
        pool
    }

    fn unconnected(context: &Rc<Context>, address: Arc<Address>, config: PoolConfig) -> Self {
        let login = config.security.login.as_ref();
        let is_binary = login.is_some_and(|login| login.mechanism == Mechanism::Sasl);
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
                order: Order::default(),
                leases: LeaseQueue::new(),
                isolation: Isolation::new(),
                capabilities: Capabilities::new(is_binary),
                lost_leases: Vec::new(),
                last_loss: 0,
                dialling: false,
                purging: false,
                closed: false,
                left: false,
                health: Health::default(),
                large_keys: LargeKeys::default(),
                small_lately: 0,
                wants_own: false,
                any_silent: false,
                is_confirming: false,
                window: Window::default(),
                wants_relief: false,
                unmerged_until: None,
                place: Place::default(),
                metrics: Metrics::default(),
                tally: Tally::default(),
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

    /// What went wrong last.
    pub fn last_failure(&self) -> Option<Cause> {
        self.0.state.borrow().health.last_failure().cloned()
    }

    pub fn is_connected(&self) -> bool {
        !self.0.state.borrow().connections.is_empty()
    }

    /// Closes when everything is answered, or when nothing will be, and calls `then`.
    pub fn retire(&self, then: impl FnOnce() + 'static) {
        self.0.on_change.borrow_mut().take();
        let pool = self.clone();
        let patience = self.0.last_answer_within();
        self.0.context.spawn(async move {
            retire(pool, patience).await;
            then();
        });
    }

    pub fn metrics(&self) -> Metrics {
        let state = self.0.state.borrow();
        let of_connections =
            |count: fn(&Entry<W>) -> u64| -> u64 { state.connections.iter().map(count).sum() };
        let read = of_connections(|entry| entry.connection.bytes_read());
        let written = of_connections(|entry| entry.connection.bytes_written());
        let shared = of_connections(|entry| entry.connection.shared_keys());
        Metrics {
            cur_connections: state.connections.len() as u64,
            connections_idle: state.idle() as u64,
            connections_leased: of_connections(|entry| u64::from(entry.lease.is_some())),
            requests_in_flight: of_connections(|entry| entry.connection.in_flight() as u64),
            requests_abandoned: of_connections(|entry| entry.connection.abandoned() as u64),
            requests_queued: (state.queue.len() + state.leases.wanted()) as u64,
            keys_shared: state.metrics.keys_shared + shared,
            bytes_read: state.metrics.bytes_read + read,
            bytes_written: state.metrics.bytes_written + written,
            create_connection: state.latencies.summary(),
            ..state.metrics.clone()
        }
    }

    /// What became of requests, by command.
    pub fn commands(&self) -> Vec<(Verb, CommandTally)> {
        let state = self.0.state.borrow();
        state.tally.commands().map(|(verb, command)| (verb, command.clone())).collect()
    }

    /// Requests that have no answer yet, those that nobody waits for any more included.
    pub fn in_flight(&self) -> usize {
        self.0.state.borrow().in_flight()
    }

    /// Sends a request or queues it; the waiter is told exactly once, maybe before this returns.
    pub fn submit(&self, request: &Request<'_>, waiter: W, deadline: Tick) {
        self.submit_any(Submission::Borrowed(request), waiter, deadline);
    }

    /// As [`Self::submit`].
    pub fn submit_owned(&self, request: OwnedRequest, waiter: W, deadline: Tick) {
        self.submit_any(Submission::Owned(request), waiter, deadline);
    }

    /// As [`Self::submit`].
    pub fn submit_any(&self, outgoing: Submission<'_>, waiter: W, deadline: Tick) {
        let shared = &self.0;
        let mut guard = shared.state.borrow_mut();
        let state = &mut *guard;
        let refusal = shared.refusal(state, outgoing.payload_len());
        if let Some(refusal) = refusal.or_else(|| shared.pinned_refusal(state, &outgoing, &waiter))
        {
            state.metrics.operations_executed_with_error += 1;
            state.tally.ended(outgoing.asked(), refusal.kind().outcome());
            drop(guard);
            waiter.fail(&refusal);
            return;
        }
        let term = shared.term(deadline);
        if let Some(family) = Family::of(outgoing.verb())
            && !state.capabilities.may_share(family)
        {
            drop(guard);
            let request = outgoing.into_owned().unshared();
            shared.isolate(family, Queued { request, waiter, term, retried: false });
            shared.context.arm(deadline);
            return;
        }
        if state.keeps_keys_apart() && outgoing.asked().keys > 1 {
            let request = outgoing.into_owned();
            let whole = Queued { request, waiter, term, retried: false };
            for Queued { request, waiter, .. } in whole.split_all() {
                shared.place(state, Submission::Owned(request), waiter, term);
            }
        } else {
            shared.place(state, outgoing, waiter, term);
        }
        let wants_dial = state.wants_dial(&shared.config, deadline);
        drop(guard);
        // Until then it is answered, or somebody looks whether something is in its way.
        shared.context.arm(deadline.min(term.made.saturating_add(ticks(STALLED_AFTER))));
        if wants_dial {
            shared.dial();
        }
    }

    /// Fails all requests and closes all connections, once and for all.
    pub fn close(&self) {
        self.end(ErrorKind::Closed);
    }

    /// As [`Self::close`], for a node that was given up after `patience`.
    pub(super) fn leave(&self, patience: Duration) {
        self.0.state.borrow_mut().left = true;
        self.end(ErrorKind::Left { patience });
    }

    fn end(&self, why: ErrorKind) {
        self.0.on_change.borrow_mut().take();
        self.0.closing.notify_waiters();
        let mut state = self.0.state.borrow_mut();
        state.closed = true;
        let orphans = state.take_connections();
        for (_, asked) in &orphans {
            state.tally.ended(*asked, why.outcome());
        }
        let waiting = state.take_queues(why.outcome());
        drop(state);
        let error = Error::new(why, &self.0.address, None);
        for waiter in orphans.into_iter().map(|(waiter, _)| waiter).chain(waiting) {
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

    /// Sends a request, or has it wait for a connection.
    fn place(
        self: &Rc<Self>,
        state: &mut State<W>,
        outgoing: Submission<'_>,
        waiter: W,
        term: Term,
    ) {
        let is_large = outgoing.payload_len() >= LARGE_VALUE_LEN
            || outgoing.asks_for(|key| state.large_keys.contains(key));
        let is_noreply = waiter.is_noreply();
        let at = match state.route(&outgoing, is_noreply) {
            Route::Any => state.pick(&self.config, is_large, term),
            Route::At(at) => Some(at),
            Route::Later => {
                state.metrics.operations_waited += 1;
                state.queue.block(Queued::new(outgoing, waiter, term));
                return;
            }
        };
        if let Some(at) = at {
            let pin = is_noreply.then(|| pin_of(&outgoing));
            let entry = &mut state.connections[at];
            self.send(entry, &mut state.health, outgoing, waiter, term);
            if let Some(pin) = pin {
                state.pin(at, pin);
            }
        } else {
            state.metrics.operations_waited += 1;
            state.queue.push_back(outgoing, waiter, term);
        }
        // Large transfers share the connections that are not the first.
        state.wants_own |=
            is_large && state.connections.iter().skip(1).all(|e| e.connection.in_flight() > 0);
    }

    pub fn send(
        self: &Rc<Self>,
        entry: &mut Entry<W>,
        health: &mut Health,
        outgoing: Submission<'_>,
        mut waiter: W,
        term: Term,
    ) {
        if entry.connection.in_flight() == 0 && entry.is_stale(self.context.now()) {
            // Its task reads before it writes, and what is not written can go elsewhere.
            entry.connection.hold_back();
            self.context.wake_later(entry.connection.waker());
        }
        entry.connection.accept(&mut waiter);
        outgoing.push(&mut entry.connection, waiter, term);
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
            health.asked(|| since);
        }
    }

    /// Moves what waits to the connections that take it.
    pub fn drain_queue(&self, state: &mut State<W>) {
        let (is_unmerged, window) = (state.keeps_keys_apart(), state.window);
        let now = self.context.now();
        let is_stalled = |entry: &Entry<W>, health: &Health| entry.is_stalled(now, health);
        let takes =
            |entry: &Entry<W>| entry.takes_more(window) && !is_stalled(entry, &state.health);
        // Those that are stalled take nothing for as long as another does, or may come.
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
                // Its task looks whether it is still open, and then comes here.
                self.context.wake_later(entry.connection.waker());
                next += 1;
                continue;
            }
            let Some(queued) = state.queue.pop(&mut state.tally) else { break };
            if is_unmerged && queued.request.keys() > 1 {
                for part in queued.split_all().into_iter().rev() {
                    state.queue.push_front(part);
                }
                continue;
            }
            let is_noreply = queued.waiter.is_noreply();
            let at = match state.route_queued(&queued.request, is_noreply) {
                Route::Any => next,
                Route::At(at) => at,
                // What comes after a command for all keys must not pass it.
                Route::Later if is_noreply && queued.request.verb().scope() != Scope::Keys => {
                    state.queue.push_front(queued);
                    break;
                }
                Route::Later => {
                    state.queue.block(queued);
                    continue;
                }
            };
            let Queued { request, mut waiter, term, retried } = queued;
            let pin = is_noreply.then(|| pin_of(&request));
            let connection = &mut state.connections[at].connection;
            connection.accept(&mut waiter);
            connection.push_owned(&request, waiter, term, retried);
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

    /// How many retrievals may share a line.
    pub fn max_merged_keys(&self, state: &State<W>) -> u32 {
        if state.keeps_keys_apart() { 1 } else { self.config.max_merged_keys }
    }

    /// When a request with this deadline was made. All have the pool's timeout, so most need no clock.
    pub fn term(&self, deadline: Tick) -> Term {
        let made = match self.config.timeout {
            Some(limit) if deadline != NEVER => deadline.saturating_sub(ticks(limit)),
            _ => self.context.now(),
        };
        Term { made, deadline }
    }

    /// Why a request is not even queued.
    pub fn refusal(&self, state: &State<W>, bytes: usize) -> Option<Error> {
        if state.closed {
            let why = if state.left { ErrorKind::Gone } else { ErrorKind::Closed };
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

    /// Why a request is not sent behind the unanswered writes that it must come after: the connection takes
    /// it however much waits there, within the same bound.
    fn pinned_refusal(
        &self,
        state: &State<W>,
        outgoing: &Submission<'_>,
        waiter: &W,
    ) -> Option<Error> {
        let Route::At(at) = state.route(outgoing, waiter.is_noreply()) else { return None };
        let waiting = state.connections[at].connection.unwritten();
        self.saturation(state, waiting, outgoing.payload_len())
    }

    /// Why there is no connection to a node.
    pub fn unavailable(&self, cause: Option<Cause>) -> Error {
        let is_refusal = matches!(cause, Some(Cause::LoginRefused(_)));
        let kind = if is_refusal { ErrorKind::LoginRefused } else { ErrorKind::Unavailable };
        self.error(kind, cause)
    }

    /// Whether `bytes` more would be too much, where `waiting` bytes wait already.
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

    /// When what was asked is answered or never will be.
    pub fn last_answer_within(&self) -> Duration {
        self.config.timeout.unwrap_or(PATIENCE).max(Duration::from_secs(1))
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

    pub fn connected(self: &Rc<Self>, dialled: Dialled) {
        let Dialled { stream, peer, took, is_proved } = dialled;
        let mut state = self.state.borrow_mut();
        if state.closed {
            return;
        }
        // It may be another server's.
        if state.connections.iter().all(|entry| entry.peer != peer) {
            self.line_len.forget();
        }
        let id = state.next_id;
        state.next_id += 1;
        let max_merged_keys = self.max_merged_keys(&state);
        let connection = Connection::new(stream, max_merged_keys, self.name.clone());
        let now = self.context.now();
        let entry = Entry::new(id, connection, peer, now, is_proved);
        state.connections.push(entry);
        state.wants_own = false;
        state.wants_relief = false;
        state.metrics.connections_created += 1;
        state.metrics.reconnects += u64::from(state.unreplaced > 0);
        state.unreplaced = state.unreplaced.saturating_sub(1);
        state.latencies.record(took);
        let was_barred = state.health.let_in();
        let recovered = is_proved && state.health.proved(now);
        if state.any_silent {
            self.look_at_silent(&mut state, None);
        } else {
            self.relieve(&mut state);
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
        if was_barred {
            self.tell(Change::Admitted);
        }
        if recovered {
            self.tell(Change::Healthy);
        }
        self.ask_waiting();
        self.follow();
        self.dial_if_wanted();
    }
}
