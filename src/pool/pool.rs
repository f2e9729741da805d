//! The connections to one node: who gets which request, when to dial, what waits meanwhile.
//!
//! Invariants: `connections.len() <= max_connections`; at most one dialler; while a connection is
//! there, requests wait only if it takes no more (`queue` is first come, first served).
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::address::Address;
use super::backoff;
use super::connection::Connection;
use super::context::{Context, Member};
use super::error::{Cause, Error, ErrorKind};
use super::metrics::{ConnectLatencies, Metrics};
use super::transport::{Io, connect};
use crate::protocol::{NEVER, OwnedRequest, Request, Sink, Tick, Verb, encode};

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
    /// Only for the text of a timeout: deadlines come with the requests.
    pub timeout: Option<Duration>,
    pub max_merged_keys: u32,
}

/// Requests to one node that have no answer yet.
const MAX_REQUESTS: usize = 65_536;
/// Bytes that wait for a connection that takes them.
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// A connection with more than this to write or to read of one value takes no more requests.
const MAX_BACKLOG: usize = 256 * 1024;
/// A connection with more requests under way asks for help.
const BUSY_REQUESTS: usize = 2048;
/// A connection whose oldest request is this long past its deadline, and at least two timeouts, is given
/// up: longer than a server pauses for, and than late answers take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Servers close idle connections after whole seconds.
const STALE_AFTER: Duration = Duration::from_millis(900);
/// Failed dials in a row after which a node without a connection is unhealthy.
const UNHEALTHY_AFTER: u32 = 3;
/// A node that is down is dialled at least this often.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A handle; clones share the pool.
pub struct Pool<W: Waiter>(Rc<Shared<W>>);

impl<W: Waiter> Clone for Pool<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

type HealthListener = Box<dyn Fn(bool)>;

struct Shared<W: Waiter> {
    context: Rc<Context>,
    address: Rc<Address>,
    config: PoolConfig,
    unflushed: Cell<bool>,
    on_health: RefCell<Option<HealthListener>>,
    state: RefCell<State<W>>,
}

#[allow(clippy::struct_excessive_bools, reason = "four facts that are independent")]
struct State<W> {
    connections: Vec<Entry<W>>,
    next_id: u64,
    queue: VecDeque<Queued<W>>,
    queued_bytes: usize,
    dialling: bool,
    purging: bool,
    /// Failed dials, and connections that died unanswered, in a row.
    failures: u32,
    last_failure: Option<Cause>,
    healthy: bool,
    closed: bool,
    metrics: Metrics,
    latencies: ConnectLatencies,
}

struct Entry<W> {
    id: u64,
    connection: Connection<W>,
    last_used: Instant,
}

struct Queued<W> {
    request: OwnedRequest,
    waiter: W,
    verb: Verb,
    deadline: Tick,
    bytes: usize,
    retried: bool,
}

impl<W: Waiter> Pool<W> {
    pub fn new(context: &Rc<Context>, address: Address, config: PoolConfig) -> Self {
        let shared = Rc::new(Shared {
            context: context.clone(),
            address: Rc::new(address),
            config,
            unflushed: Cell::new(false),
            on_health: RefCell::new(None),
            state: RefCell::new(State {
                connections: Vec::new(),
                next_id: 0,
                queue: VecDeque::new(),
                queued_bytes: 0,
                dialling: false,
                purging: false,
                failures: 0,
                last_failure: None,
                healthy: true,
                closed: false,
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

    pub fn address(&self) -> &Rc<Address> {
        &self.0.address
    }

    pub fn metrics(&self) -> Metrics {
        let state = self.0.state.borrow();
        Metrics {
            cur_connections: state.connections.len() as u64,
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
        let shared = &self.0;
        let mut state = shared.state.borrow_mut();
        if let Some(refusal) = shared.refusal(&state, request.payload_len()) {
            state.metrics.operations_executed_with_error += 1;
            drop(state);
            waiter.fail(&refusal);
            return;
        }
        match state.pick() {
            Some(entry) => {
                entry.connection.push(request, waiter, deadline);
                if entry.is_stale() {
                    shared.context.wake_later(entry.connection.waker());
                } else if entry.connection.should_flush() {
                    entry.connection.flush();
                } else if !shared.unflushed.replace(true) {
                    shared.context.flush_later(shared.clone());
                }
            }
            None => state.enqueue(Queued::new(request, waiter, deadline)),
        }
        let wants_dial = state.wants_dial(&shared.config);
        drop(state);
        shared.context.arm(deadline);
        if wants_dial {
            shared.dial_if_wanted();
        }
    }

    /// Fails all requests and closes all connections, once and for all.
    pub fn close(&self) {
        self.0.on_health.borrow_mut().take();
        let mut state = self.0.state.borrow_mut();
        state.closed = true;
        state.metrics.connections_closed += state.connections.len() as u64;
        let orphans: Vec<W> = state
            .connections
            .drain(..)
            .flat_map(|entry| entry.connection.dismantle())
            .map(|orphan| orphan.sink)
            .collect();
        let waiting: Vec<W> = state.queue.drain(..).map(|queued| queued.waiter).collect();
        state.queued_bytes = 0;
        drop(state);
        let error = Error::new(ErrorKind::Closed, &self.0.address, None);
        for waiter in orphans.into_iter().chain(waiting) {
            waiter.fail(&error);
        }
    }
}

impl<W> State<W>
where
    W: Waiter,
{
    fn in_flight(&self) -> usize {
        self.queue.len() + self.connections.iter().map(|e| e.connection.in_flight()).sum::<usize>()
    }

    /// The connection for the next request: the first that is not busy with a long transfer, so that
    /// requests meet on one connection and share its lines.
    fn pick(&mut self) -> Option<&mut Entry<W>> {
        if !self.queue.is_empty() {
            return None;
        }
        self.connections.iter_mut().find(|entry| entry.takes_more())
    }

    fn enqueue(&mut self, queued: Queued<W>) {
        self.metrics.operations_waited += 1;
        self.queued_bytes += queued.bytes;
        self.queue.push_back(queued);
    }

    fn wants_dial(&self, config: &PoolConfig) -> bool {
        let connections = self.connections.len();
        !self.dialling
            && !self.closed
            && connections < config.max_connections
            && (connections < config.min_connections
                || !self.queue.is_empty()
                || !self.healthy
                || (connections > 0 && self.connections.iter().all(Entry::is_busy)))
    }

    /// Moves what waits to the connections that take it.
    fn drain_queue(&mut self) {
        for entry in &mut self.connections {
            let mut moved = false;
            while entry.takes_more() {
                let Some(queued) = self.queue.pop_front() else { break };
                self.queued_bytes -= queued.bytes;
                if queued.waiter.is_abandoned() {
                    // Not sent; whoever asked went away, and the waiter expects to be told.
                    queued.waiter.reply(&crate::protocol::Reply::End);
                    continue;
                }
                let Queued { request, waiter, deadline, retried, .. } = queued;
                entry.connection.push_owned(&request, waiter, deadline, retried);
                moved = true;
            }
            if moved {
                entry.connection.flush();
            }
        }
    }
}

impl<W: Waiter> Entry<W> {
    fn takes_more(&self) -> bool {
        !self.connection.is_broken() && self.connection.backlog() < MAX_BACKLOG
    }

    /// Idle for so long that the server may have closed it, with the news still unread. Its task reads
    /// before it writes, and what is not written can go elsewhere.
    fn is_stale(&self) -> bool {
        self.connection.in_flight() == 1 && self.last_used.elapsed() >= STALE_AFTER
    }

    fn is_busy(&self) -> bool {
        self.connection.backlog() > MAX_BACKLOG / 4 || self.connection.in_flight() > BUSY_REQUESTS
    }
}

impl<W> Queued<W> {
    fn new(request: &Request<'_>, waiter: W, deadline: Tick) -> Self {
        let (verb, bytes) = (request.verb(), request.payload_len());
        let request = match request {
            Request::Retrieval { verb, keys } => OwnedRequest::Retrieval {
                verb: *verb,
                keys: keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect(),
            },
            Request::Command(command) => {
                let mut wire = BytesMut::new();
                encode(command, &mut wire);
                OwnedRequest::Encoded { verb, wire: wire.freeze() }
            }
        };
        Self { request, waiter, verb, deadline, bytes, retried: false }
    }
}

impl<W: Waiter> Shared<W> {
    fn error(&self, kind: ErrorKind, cause: Option<Cause>) -> Error {
        Error::new(kind, &self.address, cause)
    }

    /// How long after its deadline an answer is waited for, on a connection that serves others.
    fn patience(&self) -> Option<Tick> {
        let patience = self.config.timeout?.saturating_mul(2).max(PATIENCE);
        u64::try_from(patience.as_nanos()).ok()
    }

    /// Why a request is not even queued.
    fn refusal(&self, state: &State<W>, bytes: usize) -> Option<Error> {
        if state.closed {
            return Some(self.error(ErrorKind::Closed, None));
        }
        if !state.healthy && state.connections.is_empty() {
            return Some(self.error(ErrorKind::Unavailable, state.last_failure.clone()));
        }
        if state.in_flight() >= MAX_REQUESTS {
            let (what, limit) = ("requests", MAX_REQUESTS);
            return Some(self.error(ErrorKind::Saturated { what, limit }, None));
        }
        if state.queued_bytes > 0 && state.queued_bytes + bytes > MAX_QUEUED_BYTES {
            let (what, limit) = ("bytes", MAX_QUEUED_BYTES);
            return Some(self.error(ErrorKind::Saturated { what, limit }, None));
        }
        None
    }

    fn dial_if_wanted(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        if state.wants_dial(&self.config) {
            state.dialling = true;
            drop(state);
            self.context.spawn(dial(Rc::downgrade(self)));
        }
    }

    fn connected(self: &Rc<Self>, stream: Box<dyn Io>, took: Duration) {
        let mut state = self.state.borrow_mut();
        state.dialling = false;
        if state.closed {
            return;
        }
        let id = state.next_id;
        state.next_id += 1;
        let connection = Connection::new(stream, self.config.max_merged_keys);
        state.connections.push(Entry { id, connection, last_used: Instant::now() });
        state.metrics.connections_created += 1;
        state.latencies.record(took);
        let recovered = !std::mem::replace(&mut state.healthy, true);
        state.drain_queue();
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
    fn connect_failed(self: &Rc<Self>, cause: Cause) -> Option<Duration> {
        let mut state = self.state.borrow_mut();
        state.metrics.connections_created_with_error += 1;
        state.failures = state.failures.saturating_add(1);
        state.last_failure = Some(cause.clone());
        let down = state.connections.is_empty() && state.failures >= UNHEALTHY_AFTER;
        let turned = down && std::mem::replace(&mut state.healthy, false);
        let mut waiting = Vec::new();
        if down {
            state.queued_bytes = 0;
            waiting.extend(state.queue.drain(..).map(|queued| queued.waiter));
            state.metrics.operations_executed_with_error += waiting.len() as u64;
        }
        state.dialling = false;
        let again = state.wants_dial(&self.config);
        state.dialling = again;
        let ceiling = if state.healthy { Duration::MAX } else { PROBE_INTERVAL };
        let delay = backoff::delay(state.failures).min(ceiling);
        drop(state);
        let error = self.error(ErrorKind::Unavailable, Some(cause));
        for waiter in waiting {
            waiter.fail(&error);
        }
        if turned {
            self.tell_health(false);
        }
        again.then_some(delay)
    }

    fn tell_health(&self, healthy: bool) {
        if let Some(listener) = &*self.on_health.borrow() {
            listener(healthy);
        }
    }

    /// A connection ended: what can be asked again is, the rest fails with the one cause.
    fn lost(self: &Rc<Self>, id: u64, cause: &Cause) {
        let mut state = self.state.borrow_mut();
        let Some(at) = state.connections.iter().position(|entry| entry.id == id) else { return };
        let entry = state.connections.remove(at);
        state.metrics.connections_closed += 1;
        // A server that only greets, or sends its errors to everybody, is not to be dialled at once.
        if entry.connection.answered() == 0 || matches!(cause, Cause::Protocol(_)) {
            state.failures = state.failures.saturating_add(1);
        }
        state.last_failure = Some(cause.clone());
        let trusted = !matches!(cause, Cause::Protocol(_));
        let mut failed = Vec::new();
        for orphan in entry.connection.dismantle().into_iter().rev() {
            let is_read = matches!(orphan.again, Some(OwnedRequest::Retrieval { .. }));
            match orphan.again {
                Some(request) if trusted && !(is_read && orphan.retried) && !state.closed => {
                    let mut waiter = orphan.sink;
                    waiter.restart();
                    let bytes = request.payload_len();
                    state.queued_bytes += bytes;
                    let (verb, deadline) = (orphan.verb, orphan.deadline);
                    let retried = is_read && (orphan.sent || orphan.retried);
                    state.queue.push_front(Queued {
                        request,
                        waiter,
                        verb,
                        deadline,
                        bytes,
                        retried,
                    });
                }
                _ => failed.push((orphan.sink, orphan.verb)),
            }
        }
        state.metrics.operations_executed_with_error += failed.len() as u64;
        state.drain_queue();
        drop(state);
        for (waiter, verb) in failed.into_iter().rev() {
            let kind = if trusted { ErrorKind::Lost { verb } } else { ErrorKind::Protocol };
            waiter.fail(&self.error(kind, Some(cause.clone())));
        }
        self.dial_if_wanted();
    }
}

impl<W: Waiter> Member for Shared<W> {
    fn flush(&self) {
        self.unflushed.set(false);
        for entry in &mut self.state.borrow_mut().connections {
            if entry.connection.has_unflushed() {
                entry.connection.flush();
            }
        }
    }

    fn expire(&self, now: Tick) -> Tick {
        let mut state = self.state.borrow_mut();
        let mut next = NEVER;
        let mut expired = Vec::new();
        for entry in &mut state.connections {
            let connection = &mut entry.connection;
            next = next.min(connection.expire(now, |waiter, verb| expired.push((waiter, verb))));
            let Some((since, patience)) = connection.overdue_since().zip(self.patience()) else {
                continue;
            };
            if since.saturating_add(patience) <= now {
                connection.give_up(Cause::NoAnswer);
            } else {
                next = next.min(since.saturating_add(patience));
            }
        }
        if state.queue.iter().any(|queued| queued.deadline <= now) {
            let queue = std::mem::take(&mut state.queue);
            for queued in queue {
                if queued.deadline <= now {
                    state.queued_bytes -= queued.bytes;
                    expired.push((queued.waiter, queued.verb));
                } else {
                    state.queue.push_back(queued);
                }
            }
        }
        next = state.queue.iter().map(|queued| queued.deadline).fold(next, Tick::min);
        state.metrics.operations_executed_with_error += expired.len() as u64;
        drop(state);
        let limit = self.config.timeout.unwrap_or_default();
        for (waiter, verb) in expired {
            waiter.fail(&self.error(ErrorKind::Timeout { verb, limit }, None));
        }
        next
    }
}

/// The task of one connection.
async fn drive<W: Waiter>(pool: Weak<Shared<W>>, id: u64) {
    let reason = poll_fn(|cx| {
        let Some(pool) = pool.upgrade() else { return Poll::Ready(None) };
        let mut state = pool.state.borrow_mut();
        let Some(at) = state.connections.iter().position(|entry| entry.id == id) else {
            return Poll::Ready(None);
        };
        let entry = &mut state.connections[at];
        let (before, refused) = (entry.connection.answered(), entry.connection.refused());
        let polled = entry.connection.poll(cx);
        let answered = entry.connection.answered() - before;
        let refused = entry.connection.refused() - refused;
        if entry.connection.has_more() {
            pool.context.wake_later(cx.waker());
        }
        if answered + refused > 0 {
            entry.last_used = Instant::now();
        }
        if answered > 0 {
            state.failures = 0;
        }
        state.metrics.operations_executed += answered;
        state.metrics.operations_executed_with_error += refused;
        if polled.is_pending() && !state.queue.is_empty() {
            state.drain_queue();
        }
        polled.map(Some)
    })
    .await;
    if let (Some(cause), Some(pool)) = (reason, pool.upgrade()) {
        pool.lost(id, &cause);
    }
}

/// Dials until there is a connection or nobody needs one.
async fn dial<W: Waiter>(pool: Weak<Shared<W>>) {
    let Some((context, address, limit, failures)) = pool.upgrade().map(|pool| {
        let failures = pool.state.borrow().failures;
        (pool.context.clone(), pool.address.clone(), pool.config.connection_timeout, failures)
    }) else {
        return;
    };
    // Connections that were accepted and died unanswered count too: no storm of dials.
    let mut delay = backoff::delay(failures).min(PROBE_INTERVAL);
    loop {
        if delay > Duration::ZERO {
            context.sleep(delay).await;
        }
        let started = Instant::now();
        let outcome = context.timeout(limit, connect(&context, &address, limit)).await;
        let Some(pool) = pool.upgrade() else { return };
        let cause = match outcome {
            Some(Ok(stream)) => {
                pool.connected(stream, started.elapsed());
                return;
            }
            Some(Err(error)) => Cause::Io(Rc::new(error)),
            None => Cause::ConnectTimeout(limit.unwrap_or_default()),
        };
        match pool.connect_failed(cause) {
            Some(next) => delay = next,
            None => return,
        }
    }
}

/// Closes connections that nobody used for a while, one at a time, for as long as there are more than
/// the pool keeps.
async fn purge_unused<W: Waiter>(pool: Weak<Shared<W>>, after: Duration) {
    let Some(context) = pool.upgrade().map(|pool| pool.context.clone()) else { return };
    loop {
        context.sleep(after).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.state.borrow_mut();
        let unused = |entry: &Entry<W>| {
            entry.connection.in_flight() == 0 && entry.last_used.elapsed() >= after
        };
        if state.connections.len() > pool.config.min_connections
            && let Some(at) = state.connections.iter().rposition(unused)
        {
            state.connections.remove(at).connection.dismantle();
            state.metrics.connections_purged += 1;
        }
        if state.connections.len() <= pool.config.min_connections {
            state.purging = false;
            return;
        }
    }
}
