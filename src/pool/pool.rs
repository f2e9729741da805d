//! The connections to one node: who gets which request, when to dial, what waits meanwhile.
//!
//! Invariants: `connections.len() + dialling <= max_connections`; while a connection is there that takes
//! more, no request waits (`queue` is first come, first served); a leased connection gets only what its
//! holder sends.
use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::address::Address;
use super::connection::Connection;
use super::context::{Context, Member};
use super::error::{Cause, Error, ErrorKind};
use super::health::{Health, ticks};
use super::large::LargeKeys;
use super::metrics::{ConnectLatencies, Metrics};
use super::queue::{LeaseQueue, Outgoing, Queue, Queued};
use super::tasks::{dial, drive, end_if_stuck, purge_unused};
use super::transport::Io;
use crate::protocol::{
    Expired, LARGE_VALUE_LEN, NEVER, OwnedRequest, Reply, Request, Sink, Tick, Verb,
};

/// Who waits for an answer, or for why there is none.
pub trait Waiter: Sink + 'static {
    fn fail(self, error: &Error);
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
}

/// Names a leased connection; chosen by whoever asks, and never twice.
pub type LeaseId = u64;

/// Requests to one node that have no answer yet.
const MAX_REQUESTS: usize = 65_536;
/// Bytes that wait for a connection that takes them.
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// A connection with more than this to write or to read of one value takes no more requests.
const MAX_BACKLOG: usize = 256 * 1024;
/// A connection with more of either than these should be helped by another.
const BUSY_BACKLOG: usize = MAX_BACKLOG / 4;
const BUSY_REQUESTS: usize = 2048;
/// So should one whose oldest request was made this long before the newest: something is in its way.
const HELD_UP_AFTER: Duration = Duration::from_millis(100);
/// A connection whose oldest request is this long past its deadline, and at least two timeouts, is given
/// up: longer than a server pauses for, and than late answers take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A connection that ends unasked this soon after it was made was not wanted by the server.
const UNWELCOME_WITHIN: Duration = Duration::from_secs(1);
/// Servers close idle connections after whole seconds.
const STALE_AFTER: Duration = Duration::from_millis(900);

/// A handle; clones share the pool.
pub struct Pool<W: Waiter>(Rc<Shared<W>>);

impl<W: Waiter> Clone for Pool<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

type HealthListener = Box<dyn Fn(bool)>;

pub(super) struct Shared<W: Waiter> {
    pub context: Rc<Context>,
    pub address: Arc<Address>,
    pub config: PoolConfig,
    unflushed: Cell<bool>,
    /// For tasks that sleep: a pool that was closed must not wait for them to be forgotten.
    pub closing: Rc<Notify>,
    on_health: RefCell<Option<HealthListener>>,
    state: RefCell<State<W>>,
}

#[allow(clippy::struct_excessive_bools, reason = "four facts that are independent")]
pub(super) struct State<W> {
    pub connections: Vec<Entry<W>>,
    next_id: u64,
    pub queue: Queue<W>,
    pub leases: LeaseQueue<W>,
    /// Leased connections that ended, for as long as their holders do not know.
    lost_leases: Vec<(LeaseId, Cause)>,
    dialling: bool,
    pub purging: bool,
    closed: bool,
    pub health: Health,
    pub large_keys: LargeKeys,
    /// A large transfer found none but the first connection.
    wants_own: bool,
    pub metrics: Metrics,
    latencies: ConnectLatencies,
}

pub(super) struct Entry<W> {
    pub id: u64,
    pub connection: Connection<W>,
    opened: Tick,
    pub last_used: Tick,
    /// When its task last read from it.
    pub looked_at: Tick,
    pub lease: Option<LeaseId>,
}

impl<W: Waiter> Pool<W> {
    pub fn new(context: &Rc<Context>, address: Address, config: PoolConfig) -> Self {
        let shared = Rc::new(Shared {
            context: context.clone(),
            address: Arc::new(address),
            config,
            unflushed: Cell::new(false),
            closing: Rc::default(),
            on_health: RefCell::new(None),
            state: RefCell::new(State {
                connections: Vec::new(),
                next_id: 0,
                queue: Queue::new(),
                leases: LeaseQueue::new(),
                lost_leases: Vec::new(),
                dialling: false,
                purging: false,
                closed: false,
                health: Health::default(),
                large_keys: LargeKeys::default(),
                wants_own: false,
                metrics: Metrics::default(),
                latencies: ConnectLatencies::default(),
            }),
        });
        let as_member: Rc<dyn Member> = shared.clone();
        context.join(Rc::downgrade(&as_member));
        shared.dial_if_wanted();
        Self(shared)
    }

    /// Calls `listener` after each change between healthy and unhealthy.
    pub fn on_health(&self, listener: impl Fn(bool) + 'static) {
        *self.0.on_health.borrow_mut() = Some(Box::new(listener));
    }

    pub fn address(&self) -> &Arc<Address> {
        &self.0.address
    }

    pub fn metrics(&self) -> Metrics {
        let state = self.0.state.borrow();
        let of_connections =
            |count: fn(&Entry<W>) -> u64| -> u64 { state.connections.iter().map(count).sum() };
        let read = of_connections(|entry| entry.connection.bytes_read());
        let written = of_connections(|entry| entry.connection.bytes_written());
        Metrics {
            cur_connections: state.connections.len() as u64,
            connections_leased: of_connections(|entry| u64::from(entry.lease.is_some())),
            requests_in_flight: of_connections(|entry| entry.connection.in_flight() as u64),
            requests_abandoned: of_connections(|entry| entry.connection.abandoned() as u64),
            requests_queued: (state.queue.len() + state.leases.wanted()) as u64,
            bytes_read: state.metrics.bytes_read + read,
            bytes_written: state.metrics.bytes_written + written,
            create_connection: state.latencies.summary(),
            ..state.metrics.clone()
        }
    }

    /// Requests that have no answer yet, those that nobody waits for any more included.
    pub fn in_flight(&self) -> usize {
        self.0.state.borrow().in_flight()
    }

    /// Sends a request or queues it; the waiter is told exactly once, maybe before this returns.
    pub fn submit(&self, request: &Request<'_>, waiter: W, deadline: Tick) {
        self.submit_any(Outgoing::Borrowed(request), waiter, deadline);
    }

    /// As [`Self::submit`].
    pub fn submit_owned(&self, request: OwnedRequest, waiter: W, deadline: Tick) {
        self.submit_any(Outgoing::Owned(request), waiter, deadline);
    }

    fn submit_any(&self, outgoing: Outgoing<'_>, waiter: W, deadline: Tick) {
        let shared = &self.0;
        let mut guard = shared.state.borrow_mut();
        let state = &mut *guard;
        if let Some(refusal) = shared.refusal(state, outgoing.payload_len()) {
            state.metrics.operations_executed_with_error += 1;
            drop(guard);
            waiter.fail(&refusal);
            return;
        }
        let is_large = outgoing.payload_len() >= LARGE_VALUE_LEN
            || outgoing.asks_for(|key| state.large_keys.contains(key));
        if let Some(at) = state.pick(is_large, deadline) {
            let entry = &mut state.connections[at];
            shared.send(entry, &mut state.health, outgoing, waiter, deadline);
        } else {
            state.metrics.operations_waited += 1;
            state.queue.push_back(outgoing, waiter, deadline);
        }
        // Large transfers share the connections that are not the first.
        state.wants_own |=
            is_large && state.connections.iter().skip(1).all(|e| e.connection.in_flight() > 0);
        let wants_dial = state.wants_dial(&shared.config, deadline);
        drop(guard);
        shared.context.arm(deadline);
        if wants_dial {
            shared.dial();
        }
    }

    /// Asks for a connection that is nobody else's until [`Self::release`]. The waiter is told
    /// [`Reply::Ok`] when it is there; first come, first served.
    pub fn lease(&self, lease: LeaseId, waiter: W, deadline: Tick) {
        let shared = &self.0;
        let mut state = shared.state.borrow_mut();
        if let Some(refusal) = shared.refusal(&state, 0) {
            drop(state);
            waiter.fail(&refusal);
            return;
        }
        state.leases.push(lease, waiter, deadline);
        state.metrics.operations_waited += u64::from(state.leases.len() > state.idle());
        shared.grant(&mut state);
        drop(state);
        shared.context.arm(deadline);
        shared.dial_if_wanted();
    }

    /// As [`Self::submit_owned`], on a leased connection and no other.
    pub fn submit_leased(&self, lease: LeaseId, request: OwnedRequest, waiter: W, deadline: Tick) {
        let shared = &self.0;
        let mut guard = shared.state.borrow_mut();
        let state = &mut *guard;
        let is_held =
            |entry: &Entry<W>| entry.lease == Some(lease) && !entry.connection.is_broken();
        let at = if let Some(at) = state.connections.iter().position(is_held) {
            let waiting = state.connections[at].connection.backlog();
            let refusal = shared.saturation(state, waiting, request.payload_len());
            refusal.map_or(Ok(at), Err)
        } else {
            let known = state.lost_leases.iter().find(|(lost, _)| *lost == lease);
            Err(shared.error(ErrorKind::LeaseLost, known.map(|(_, cause)| cause.clone())))
        };
        match at {
            Ok(at) => {
                let (entry, health) = (&mut state.connections[at], &mut state.health);
                shared.send(entry, health, Outgoing::Owned(request), waiter, deadline);
                drop(guard);
                shared.context.arm(deadline);
            }
            Err(error) => {
                state.metrics.operations_executed_with_error += 1;
                drop(guard);
                waiter.fail(&error);
            }
        }
    }

    /// Gives a leased connection back. What is unanswered on it is read and dropped as ever.
    pub fn release(&self, lease: LeaseId) {
        let shared = &self.0;
        let mut state = shared.state.borrow_mut();
        state.lost_leases.retain(|(lost, _)| *lost != lease);
        let now = shared.context.now();
        let held = state.connections.iter_mut().find(|entry| entry.lease == Some(lease));
        let Some(entry) = held else { return };
        entry.lease = None;
        entry.last_used = now;
        if entry.connection.in_flight() > 0 {
            shared.context.spawn(end_if_stuck(Rc::downgrade(shared), entry.id, PATIENCE));
        }
        shared.grant(&mut state);
        shared.drain_queue(&mut state);
    }

    /// Closes a leased connection; it stays leased until it is released.
    pub fn close_leased(&self, lease: LeaseId) {
        let state = self.0.state.borrow();
        let held = state.connections.iter().find(|entry| entry.lease == Some(lease));
        let Some(id) = held.map(|entry| entry.id) else { return };
        drop(state);
        self.0.lost(id, &Cause::ClosedByHolder);
    }

    /// Whether a leased connection is open.
    pub fn is_leased(&self, lease: LeaseId) -> bool {
        let state = self.0.state.borrow();
        state.connections.iter().any(|entry| entry.lease == Some(lease))
    }

    /// Fails all requests and closes all connections, once and for all.
    pub fn close(&self) {
        self.0.on_health.borrow_mut().take();
        self.0.closing.notify_waiters();
        let mut state = self.0.state.borrow_mut();
        state.closed = true;
        let orphans = state.take_connections();
        let mut waiting: Vec<W> = state.queue.drain().collect();
        waiting.extend(state.leases.drain());
        drop(state);
        let error = Error::new(ErrorKind::Closed, &self.0.address, None);
        for waiter in orphans.into_iter().map(|(waiter, _)| waiter).chain(waiting) {
            waiter.fail(&error);
        }
    }
}

impl<W: Waiter> State<W> {
    fn in_flight(&self) -> usize {
        let on_connections: usize = self.connections.iter().map(|e| e.connection.in_flight()).sum();
        on_connections + self.queue.len() + self.leases.len()
    }

    /// Connections that nobody uses at this moment.
    fn idle(&self) -> usize {
        let is_idle = |entry: &&Entry<W>| entry.is_free() && entry.connection.in_flight() == 0;
        self.connections.iter().filter(is_idle).count()
    }

    /// The connection for the next request. Small ones meet on the first that nothing is in the way of,
    /// so that they share its lines; large ones go to another if there is one.
    fn pick(&self, is_large: bool, deadline: Tick) -> Option<usize> {
        if !self.queue.is_empty() {
            return None;
        }
        let usable = || self.connections.iter().enumerate().filter(|(_, entry)| entry.takes_more());
        let (at, _) = if is_large {
            usable().skip(1).min_by_key(|(_, entry)| entry.load()).or_else(|| usable().next())
        } else {
            usable()
                .find(|(_, entry)| !entry.is_held_up(deadline))
                .or_else(|| usable().min_by_key(|(_, entry)| entry.load()))
        }?;
        Some(at)
    }

    /// Whether the pool should grow, now that a request with this deadline was made ([`NEVER`]: none).
    fn wants_dial(&self, config: &PoolConfig, deadline: Tick) -> bool {
        let connections = self.connections.len();
        !self.dialling
            && !self.closed
            && connections < config.max_connections
            && (connections < config.min_connections
                || !self.queue.is_empty()
                || self.leases.len() > self.idle()
                || !self.health.is_healthy()
                || self.wants_own
                || self.are_all_held_up(deadline))
    }

    /// Those that are leased neither help nor ask for help.
    fn are_all_held_up(&self, deadline: Tick) -> bool {
        let mut shared = self.connections.iter().filter(|entry| entry.lease.is_none()).peekable();
        shared.peek().is_some() && shared.all(|entry| entry.is_held_up(deadline))
    }

    /// Closes all connections; who waits on them is handed out in order.
    fn take_connections(&mut self) -> Vec<(W, Verb)> {
        let mut orphans = Vec::new();
        for entry in std::mem::take(&mut self.connections) {
            self.count_out(&entry);
            orphans.extend(entry.connection.dismantle().into_iter().map(|o| (o.sink, o.verb)));
        }
        orphans
    }

    /// A connection is no longer among the pool's.
    fn count_out(&mut self, entry: &Entry<W>) {
        self.metrics.connections_closed += 1;
        self.metrics.bytes_read += entry.connection.bytes_read();
        self.metrics.bytes_written += entry.connection.bytes_written();
    }

    pub fn purge(&mut self, at: usize) {
        let entry = self.connections.remove(at);
        self.count_out(&entry);
        entry.connection.dismantle();
        self.metrics.connections_purged += 1;
    }
}

impl<W: Waiter> Entry<W> {
    fn is_free(&self) -> bool {
        self.lease.is_none() && !self.connection.is_broken()
    }

    fn takes_more(&self) -> bool {
        self.is_free() && self.connection.backlog() < MAX_BACKLOG
    }

    /// Not looked at for so long that the server may have closed it, with the news still unread.
    fn is_stale(&self, now: Tick) -> bool {
        now.saturating_sub(self.looked_at) >= ticks(STALE_AFTER)
    }

    /// Whether its end is one more sign that the node is not well: a server that hangs up on everybody, or
    /// sends its errors to everybody, is not to be dialled at once.
    fn is_a_failure(&self, cause: &Cause, now: Tick) -> bool {
        match cause {
            Cause::ClosedByHolder => false,
            Cause::NoAnswer => true,
            _ => {
                let is_young = now.saturating_sub(self.opened) < ticks(UNWELCOME_WITHIN);
                self.connection.answered() == 0 && (is_young || self.connection.in_flight() > 0)
            }
        }
    }

    /// Whether a request with this deadline would wait for long behind others.
    fn is_held_up(&self, deadline: Tick) -> bool {
        let front = self.connection.front_deadline();
        self.connection.backlog() > BUSY_BACKLOG
            || self.connection.in_flight() > BUSY_REQUESTS
            || (deadline != NEVER && front.saturating_add(ticks(HELD_UP_AFTER)) < deadline)
    }

    fn load(&self) -> (usize, usize) {
        (self.connection.backlog(), self.connection.in_flight())
    }
}

impl<W: Waiter> Shared<W> {
    pub fn state(&self) -> RefMut<'_, State<W>> {
        self.state.borrow_mut()
    }

    fn error(&self, kind: ErrorKind, cause: Option<Cause>) -> Error {
        Error::new(kind, &self.address, cause)
    }

    fn send(
        self: &Rc<Self>,
        entry: &mut Entry<W>,
        health: &mut Health,
        outgoing: Outgoing<'_>,
        waiter: W,
        deadline: Tick,
    ) {
        outgoing.push(&mut entry.connection, waiter, deadline);
        if entry.connection.in_flight() == 1 && entry.is_stale(self.context.now()) {
            // Its task reads before it writes, and what is not written can go elsewhere.
            self.context.wake_later(entry.connection.waker());
        } else if entry.connection.should_flush() {
            self.flush_entry(entry, health);
        } else if !self.unflushed.replace(true) {
            self.context.flush_later(self.clone());
        }
    }

    fn flush_entry(&self, entry: &mut Entry<W>, health: &mut Health) {
        let before = entry.connection.bytes_written();
        entry.connection.flush();
        if entry.connection.bytes_written() > before {
            health.asked(|| self.context.now());
        }
    }

    /// Moves what waits to the connections that take it.
    pub fn drain_queue(&self, state: &mut State<W>) {
        for entry in &mut state.connections {
            let mut moved = false;
            while entry.takes_more() {
                let Some(queued) = state.queue.pop() else { break };
                let Queued { request, waiter, deadline, retried } = queued;
                entry.connection.push_owned(&request, waiter, deadline, retried);
                moved = true;
            }
            if moved {
                self.flush_entry(entry, &mut state.health);
            }
        }
    }

    /// How long after its deadline an answer is waited for, on a connection that serves others.
    fn patience(&self) -> Option<Tick> {
        Some(ticks(self.config.timeout?.saturating_mul(2).max(PATIENCE)))
    }

    /// Why a request is not even queued.
    fn refusal(&self, state: &State<W>, bytes: usize) -> Option<Error> {
        if state.closed {
            return Some(self.error(ErrorKind::Closed, None));
        }
        if !state.health.is_healthy() && state.connections.is_empty() {
            let cause = state.health.last_failure().cloned();
            return Some(self.error(ErrorKind::Unavailable, cause));
        }
        self.saturation(state, state.queue.bytes(), bytes)
    }

    /// Whether `bytes` more would be too much, where `waiting` bytes wait already.
    fn saturation(&self, state: &State<W>, waiting: usize, bytes: usize) -> Option<Error> {
        let (what, limit) = if state.in_flight() >= MAX_REQUESTS {
            ("requests", MAX_REQUESTS)
        } else if waiting > 0 && waiting + bytes > MAX_QUEUED_BYTES {
            ("bytes", MAX_QUEUED_BYTES)
        } else {
            return None;
        };
        Some(self.error(ErrorKind::Saturated { what, limit }, None))
    }

    /// Gives connections to those who wait for one of their own.
    pub fn grant(&self, state: &mut State<W>) {
        let now = self.context.now();
        loop {
            state.leases.skip_abandoned();
            if state.leases.is_empty() {
                return;
            }
            // Where answers to somebody else are still to come, only if there will be no other.
            let is_full = state.connections.len() >= self.config.max_connections;
            let free = |entry: &&mut Entry<W>| {
                entry.is_free() && (is_full || entry.connection.in_flight() == 0)
            };
            let free = state.connections.iter_mut().filter(free);
            let Some(entry) = free.min_by_key(|entry| entry.connection.in_flight()) else { return };
            if entry.is_stale(now) {
                // Its task looks whether it is still open, and then grants again.
                self.context.wake_later(entry.connection.waker());
                return;
            }
            let Some((lease, waiter)) = state.leases.pop() else { return };
            entry.lease = Some(lease);
            waiter.reply(&Reply::Ok);
        }
    }

    pub fn dial_if_wanted(self: &Rc<Self>) {
        if self.state.borrow().wants_dial(&self.config, NEVER) {
            self.dial();
        }
    }

    fn dial(self: &Rc<Self>) {
        self.state.borrow_mut().dialling = true;
        self.context.spawn(dial(Rc::downgrade(self)));
    }

    /// `is_proved`: it was asked something and answered.
    pub fn connected(self: &Rc<Self>, stream: Box<dyn Io>, took: Duration, is_proved: bool) {
        let mut state = self.state.borrow_mut();
        state.dialling = false;
        if state.closed {
            return;
        }
        let id = state.next_id;
        state.next_id += 1;
        let connection = Connection::new(stream, self.config.max_merged_keys);
        let now = self.context.now();
        let (opened, last_used, looked_at) = (now, now, now);
        let entry = Entry { id, connection, opened, last_used, looked_at, lease: None };
        state.connections.push(entry);
        state.wants_own = false;
        state.metrics.connections_created += 1;
        state.latencies.record(took);
        let recovered = is_proved && state.health.proved(now);
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
        if recovered {
            self.tell_health(true);
        }
        self.dial_if_wanted();
    }

    /// Counts a failed dial and says how long to wait before the next; `None`: nobody needs one.
    pub fn connect_failed(self: &Rc<Self>, cause: &Cause) -> Option<Duration> {
        let mut state = self.state.borrow_mut();
        state.metrics.connections_created_with_error += 1;
        state.health.failed();
        state.health.remember(cause);
        drop(state);
        self.give_up_if_hopeless(cause);
        let mut state = self.state.borrow_mut();
        state.dialling = false;
        state.dialling = state.wants_dial(&self.config, NEVER);
        state.dialling.then(|| state.health.next_dial_after(self.context.now()))
    }

    /// Ends what waits for a connection if there is no prospect of one.
    fn give_up_if_hopeless(&self, cause: &Cause) {
        let mut state = self.state.borrow_mut();
        if !state.connections.is_empty() || !state.health.is_beyond_hope() || state.closed {
            return;
        }
        let turned = state.health.turn_unhealthy(self.context.now());
        let mut waiting: Vec<W> = state.queue.drain().collect();
        waiting.extend(state.leases.drain());
        state.metrics.operations_executed_with_error += waiting.len() as u64;
        drop(state);
        let error = self.error(ErrorKind::Unavailable, Some(cause.clone()));
        for waiter in waiting {
            waiter.fail(&error);
        }
        if turned {
            self.tell_health(false);
        }
    }

    fn tell_health(&self, healthy: bool) {
        if let Some(listener) = &*self.on_health.borrow() {
            listener(healthy);
        }
    }

    /// A connection ended: what can be asked again is, the rest fails with the one cause.
    pub fn lost(self: &Rc<Self>, id: u64, cause: &Cause) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let Some(at) = state.connections.iter().position(|entry| entry.id == id) else { return };
        let entry = state.connections.remove(at);
        state.count_out(&entry);
        state.health.remember(cause);
        let is_garbage = matches!(cause, Cause::Protocol(_));
        state.metrics.protocol_errors += u64::from(is_garbage);
        if is_garbage || entry.is_a_failure(cause, self.context.now()) {
            state.health.failed();
        }
        if let Some(lease) = entry.lease {
            state.lost_leases.push((lease, cause.clone()));
        }
        let mut failed = Vec::new();
        if matches!(cause, Cause::Panicked) {
            failed.extend(entry.connection.into_sinks());
        } else {
            // What a holder of a lease sends goes to that connection or nowhere.
            let may_repeat = !is_garbage && entry.lease.is_none() && !state.closed;
            for orphan in entry.connection.dismantle().into_iter().rev() {
                let is_read = matches!(orphan.again, Some(OwnedRequest::Retrieval { .. }));
                match orphan.again {
                    Some(request) if may_repeat && !(is_read && orphan.retried) => {
                        let mut waiter = orphan.sink;
                        waiter.restart();
                        let retried = is_read && (orphan.sent || orphan.retried);
                        state.metrics.requests_retried += u64::from(is_read && orphan.sent);
                        let deadline = orphan.deadline;
                        state.queue.push_front(Queued { request, waiter, deadline, retried });
                    }
                    _ => failed.push((orphan.sink, orphan.verb)),
                }
            }
            failed.reverse();
        }
        state.metrics.operations_executed_with_error += failed.len() as u64;
        // The others may have ended too: their tasks look, and then take what waits.
        for other in &state.connections {
            self.context.wake_later(other.connection.waker());
        }
        drop(guard);
        for (waiter, verb) in failed {
            let kind = if is_garbage { ErrorKind::Protocol } else { ErrorKind::Lost { verb } };
            waiter.fail(&self.error(kind, Some(cause.clone())));
        }
        self.give_up_if_hopeless(cause);
        self.dial_if_wanted();
    }

    /// Sockets are open and nothing answers: from now on calls fail at once, and a probe finds out when
    /// the node is back.
    fn silent(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let turned = state.health.turn_unhealthy(self.context.now());
        let cause = Cause::NoAnswer;
        state.health.remember(&cause);
        let leased: Vec<_> = state.connections.iter().filter_map(|entry| entry.lease).collect();
        state.lost_leases.extend(leased.into_iter().map(|lease| (lease, cause.clone())));
        let orphans = state.take_connections();
        let mut waiting: Vec<W> = state.queue.drain().collect();
        waiting.extend(state.leases.drain());
        state.metrics.operations_executed_with_error += (orphans.len() + waiting.len()) as u64;
        drop(state);
        for (waiter, verb) in orphans {
            waiter.fail(&self.error(ErrorKind::Lost { verb }, Some(cause.clone())));
        }
        let error = self.error(ErrorKind::Unavailable, Some(cause));
        for waiter in waiting {
            waiter.fail(&error);
        }
        if turned {
            self.tell_health(false);
        }
        self.dial_if_wanted();
    }
}

impl<W: Waiter> Member for Shared<W> {
    fn flush(&self) {
        self.unflushed.set(false);
        let state = &mut *self.state.borrow_mut();
        for entry in &mut state.connections {
            if entry.connection.has_unflushed() {
                self.flush_entry(entry, &mut state.health);
            }
        }
    }

    fn expire(self: Rc<Self>, now: Tick) -> Tick {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let limit = self.config.timeout.unwrap_or_default();
        let mut next = NEVER;
        let mut expired = Vec::new();
        for entry in &mut state.connections {
            let connection = &mut entry.connection;
            let health = &mut state.health;
            next = next.min(connection.expire(now, |Expired { sink, verb, sent }| {
                if sent {
                    health.timed_out();
                }
                expired.push((sink, verb));
            }));
            let Some((since, patience)) = connection.overdue_since().zip(self.patience()) else {
                continue;
            };
            if since.saturating_add(patience) <= now {
                connection.give_up(Cause::NoAnswer);
            } else {
                next = next.min(since.saturating_add(patience));
            }
        }
        next = next.min(state.queue.expire(now, |waiter, verb| expired.push((waiter, verb))));
        let mut unleased = Vec::new();
        next = next.min(state.leases.expire(now, |waiter| unleased.push(waiter)));
        // Whoever went away is no error, and is told only so that nothing is kept for it.
        let (gone, expired): (Vec<_>, Vec<_>) =
            expired.into_iter().partition(|(waiter, _)| waiter.is_abandoned());
        unleased.retain(|waiter| !waiter.is_abandoned());
        let timeouts = (expired.len() + unleased.len()) as u64;
        state.metrics.operations_executed_with_error += timeouts;
        state.metrics.requests_timed_out += timeouts;
        let is_silent = state.health.is_healthy() && state.health.is_silent(now, limit);
        drop(guard);
        for (waiter, _) in gone {
            waiter.reply(&Reply::End);
        }
        for (waiter, verb) in expired {
            waiter.fail(&self.error(ErrorKind::Timeout { verb, limit }, None));
        }
        for waiter in unleased {
            waiter.fail(&self.error(ErrorKind::NoLease { limit }, None));
        }
        if is_silent {
            self.silent();
        }
        next
    }
}
