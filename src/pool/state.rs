//! The state of a pool, and the decisions that follow from it: which connection takes a request,
//! and whether to open another.
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::capabilities::Capabilities;
use super::config::PoolConfig;
use super::connection::Connection;
use super::error::Cause;
use super::health::{Health, nanos};
use super::isolation::Isolation;
use super::large::LargeKeys;
use super::location::NodeLocation;
use super::metrics::{ConnectLatencies, Metrics};
use super::order::NoreplyOrder;
use super::queue::{CheckoutQueue, Queue, QueuedRequest};
use super::waiter::{CheckoutId, Waiter};
use super::window::Window;
use crate::protocol::{
    CallResult, Family, NEVER, Nanos, NodeStats, ReplyHandler, RequestInfo, Timing, Verb,
};

/// A connection with a larger backlog accepts no more requests.
const MAX_BACKLOG: usize = 256 * 1024;
/// A connection above either limit should be helped by another one.
const BUSY_BACKLOG: usize = MAX_BACKLOG / 4;
const BUSY_REQUESTS: usize = 2048;
/// The same applies if the oldest request is this much older than the newest, because it holds up
/// the others.
const HELD_UP_AFTER: Duration = Duration::from_millis(100);
/// A connection that the server closes this soon was not welcome.
const UNWELCOME_WITHIN: Duration = Duration::from_secs(1);
/// After this many large requests in a row, large requests may use the first connection too.
const RECENT_LARGE: u8 = 64;
/// Servers close idle connections after whole seconds.
const STALE_AFTER: Duration = Duration::from_millis(900);

#[allow(clippy::struct_excessive_bools, reason = "facts that are independent")]
pub(super) struct State<W: Waiter> {
    pub connections: Vec<Entry<W>>,
    pub next_id: u64,
    pub queue: Queue<W>,
    pub order: NoreplyOrder,
    pub checkouts: CheckoutQueue<W>,
    pub isolation: Isolation<W>,
    pub capabilities: Capabilities,
    /// Checked-out connections that ended before their holders noticed.
    pub lost_checkouts: Vec<(CheckoutId, Cause)>,
    /// The time when a connection last ended. Older connections may have ended with it.
    pub last_loss: Nanos,
    pub dialling: bool,
    pub purging: bool,
    pub closed: bool,
    /// Whether the pool was closed because its node was removed from the cluster.
    pub removed: bool,
    pub health: Health,
    pub large_keys: LargeKeys,
    /// Above 0 if one of the last requests was small.
    pub small_recently: u8,
    /// A large transfer found only the first connection.
    pub needs_large_connection: bool,
    /// Whether any connection has [`Entry::is_silent`] set.
    pub any_silent: bool,
    /// The number of [`super::stalls::confirm_silence`] tasks that have no result yet.
    pub confirming: u32,
    /// Requests are held up behind a stalled one, and another connection could take them.
    pub needs_relief: bool,
    /// The limit for requests in flight on one connection.
    pub window: Window,
    /// Until then each key has a line of its own; `None` if keys share lines.
    pub unmerged_until: Option<Nanos>,
    pub location: NodeLocation,
    pub metrics: Metrics,
    pub stats: NodeStats,
    /// The number of lost connections that are not replaced yet.
    pub unreplaced: u64,
    pub latencies: ConnectLatencies,
}

pub(super) struct Entry<W: ReplyHandler> {
    pub id: u64,
    pub connection: Connection<W>,
    /// The peer's address; `None` if the connection is not over IP.
    pub peer: Option<IpAddr>,
    pub opened: Nanos,
    pub last_used: Nanos,
    /// The time when the connection's task last read from it.
    pub polled_at: Nanos,
    pub checkout: Option<CheckoutId>,
    /// The hashes that its unanswered `noreply` writes pin, in order: see [`super::order`].
    pub noreply: VecDeque<u64>,
    /// The number of answered `noreply` writes.
    pub noreply_answered: u64,
    /// The number of unanswered `noreply` writes of former holders.
    pub inherited_noreply: usize,
    /// Whether [`super::tasks::close_if_stuck`] watches it.
    pub is_watched: bool,
    /// The time since which it owes bytes and has received none.
    pub owes_since: Option<Nanos>,
    /// A request on it timed out and it receives nothing, so new requests use other connections.
    pub is_silent: bool,
    /// The time of its creation, if it answered a probe then.
    pub verified_at: Nanos,
    /// Set if it leads to a former address: it accepts no requests, and closes once it is answered
    /// or at this time.
    pub drain_deadline: Option<Instant>,
}

impl<W: Waiter> State<W> {
    pub fn in_flight(&self) -> usize {
        let on_connections: usize = self.connections.iter().map(|e| e.connection.in_flight()).sum();
        on_connections + self.queue.len() + self.checkouts.len() + self.isolation.len()
    }

    /// The number of waiting requests. A request that moved counts on its new connection only.
    pub fn waiting(&self) -> usize {
        let moved: usize = self.connections.iter().map(|e| e.connection.moved()).sum();
        self.in_flight() - moved
    }

    /// The number of connections without a request and without a holder.
    pub fn idle(&self) -> usize {
        let is_idle = |entry: &&Entry<W>| {
            entry.is_free() && !entry.is_silent && entry.connection.in_flight() == 0
        };
        self.connections.iter().filter(is_idle).count()
    }

    /// Chooses the connection for the next request. Small requests use the first connection that is
    /// not held up, so that they share lines; large ones use another, if there is one. If all are
    /// stalled, the request waits for a new connection, if one may be opened.
    pub fn pick(&mut self, config: &PoolConfig, is_large: bool, timing: Timing) -> Option<usize> {
        let Timing { issued_at, deadline } = timing;
        self.small_recently =
            if is_large { self.small_recently.saturating_sub(1) } else { RECENT_LARGE };
        if !self.queue.is_empty() {
            return None;
        }
        let usable = || {
            let takes_more = |(_, entry): &(usize, &Entry<W>)| entry.takes_more(self.window);
            self.connections.iter().enumerate().filter(takes_more)
        };
        let (at, _) = if is_large {
            // The first connection is reserved for small requests, if there are any.
            let kept = usize::from(self.small_recently > 0);
            usable().skip(kept).min_by_key(|(_, entry)| entry.load()).or_else(|| usable().next())
        } else {
            usable()
                .find(|(_, entry)| !entry.is_held_up(deadline))
                .or_else(|| usable().min_by_key(|(_, entry)| entry.load()))
        }?;
        let is_stalled = |at: usize| self.connections[at].is_stalled(issued_at, &self.health);
        if !is_stalled(at) {
            return Some(at);
        }
        let other =
            usable().filter(|(at, _)| !is_stalled(*at)).min_by_key(|(_, entry)| entry.load());
        match other {
            Some((other, _)) => Some(other),
            None if self.awaits_another(config) => None,
            None => Some(at),
        }
    }

    /// Whether each key has a line of its own, so that one key cannot harm another.
    pub fn is_unmerged(&self) -> bool {
        self.unmerged_until.is_some()
    }

    /// The number of silent connections.
    fn silent(&self) -> usize {
        if !self.any_silent {
            return 0;
        }
        self.connections.iter().filter(|entry| entry.is_silent).count()
    }

    /// Whether another connection is being opened, or could be.
    pub fn awaits_another(&self, config: &PoolConfig) -> bool {
        !self.health.is_failing() && (self.dialling || self.has_room(config.max_connections))
    }

    /// Whether to open another connection, after a request with this deadline ([`NEVER`] for none).
    pub fn wants_dial(&self, config: &PoolConfig, deadline: Nanos) -> bool {
        let connections = self.connections.len() - self.silent();
        !self.dialling
            && !self.closed
            && self.has_room(config.max_connections)
            && (connections < config.min_connections
                || !self.queue.is_empty()
                || (connections == 0 && self.isolation.is_waiting())
                || self.checkouts.len() > self.idle()
                || !self.health.is_healthy()
                || (connections == 0 && self.health.login_refusal().is_some())
                || self.needs_large_connection
                || self.needs_relief
                || (self.any_silent && connections == 0)
                || self.are_all_held_up(deadline))
    }

    /// Whether there is room for another connection. Drained and silent connections do not prevent
    /// the first of their replacements.
    pub fn has_room(&self, max_connections: usize) -> bool {
        let connections = self.connections.len();
        let is_unusable = |entry: &Entry<W>| entry.is_draining() || entry.is_silent;
        connections < max_connections
            || (connections == max_connections && self.connections.iter().all(is_unusable))
    }

    /// Whether a new connection must answer a probe before it is used.
    pub fn needs_probe(&self) -> bool {
        self.health.needs_probe() || self.is_outdated() || self.confirming > 0
    }

    /// Checked-out connections do not count, because other requests cannot use them.
    fn are_all_held_up(&self, deadline: Nanos) -> bool {
        let mut shared =
            self.connections.iter().filter(|entry| entry.checkout.is_none()).peekable();
        shared.peek().is_some() && shared.all(|entry| entry.is_held_up(deadline))
    }

    /// Closes all connections and returns their waiters, in order.
    pub fn take_connections(&mut self) -> Vec<(W, RequestInfo)> {
        let mut orphans = Vec::new();
        self.any_silent = false;
        for entry in std::mem::take(&mut self.connections) {
            self.record_closed(&entry);
            orphans
                .extend(entry.connection.into_orphans().into_iter().map(|o| (o.handler, o.info)));
        }
        orphans
    }

    /// Counts a connection that leaves the pool.
    pub fn record_closed(&mut self, entry: &Entry<W>) {
        self.metrics.connections_closed += 1;
        self.metrics.bytes_read += entry.connection.bytes_read();
        self.metrics.bytes_written += entry.connection.bytes_written();
        self.metrics.keys_shared += entry.connection.shared_keys();
        self.unpin_all(entry);
    }

    /// Queues a request of a lost connection ahead of all others, or returns it if it may not share
    /// a connection any more.
    pub fn requeue(&mut self, queued: QueuedRequest<W>) -> Option<(Family, QueuedRequest<W>)> {
        let family = queued.request.verb().family();
        if !self.capabilities.may_share(family) {
            return Some((family, queued));
        }
        self.queue.push_front(queued);
        None
    }

    /// Whether the server may have closed the connection because of an unknown command. If so, the
    /// command's support is in doubt, and the end says nothing about the node's health.
    pub fn is_provoked(&mut self, entry: &Entry<W>, cause: &Cause, now: Nanos) -> bool {
        if !matches!(cause, Cause::Eof | Cause::Io(_)) {
            return false;
        }
        let mut is_provoked = false;
        let answers = self.stats.answers(Family::Meta);
        let families = entry.connection.unanswered().map(Verb::family);
        for family in families.filter(|family| *family != Family::Classic) {
            self.capabilities.doubt(family, now, answers);
            is_provoked = true;
        }
        is_provoked
    }

    /// Takes all queued requests and checkouts, to be failed with `result`.
    pub fn take_queued(&mut self, result: CallResult) -> Vec<W> {
        let mut waiting = Vec::new();
        for (waiter, info) in self.queue.drain() {
            self.stats.record(info, result);
            waiting.push(waiter);
        }
        waiting.extend(self.checkouts.drain());
        for (waiter, info) in self.isolation.drain() {
            self.stats.record(info, result);
            waiting.push(waiter);
        }
        waiting
    }

    pub fn purge(&mut self, at: usize) {
        let entry = self.connections.remove(at);
        self.record_closed(&entry);
        entry.connection.into_orphans();
        self.metrics.connections_purged += 1;
        if self.connections.is_empty() {
            self.capabilities.forget_server();
        }
    }
}

impl<W: Waiter> Entry<W> {
    pub fn new(
        id: u64,
        connection: Connection<W>,
        peer: Option<IpAddr>,
        now: Nanos,
        is_verified: bool,
    ) -> Self {
        Self {
            id,
            connection,
            peer,
            opened: now,
            last_used: now,
            polled_at: now,
            checkout: None,
            noreply: VecDeque::new(),
            noreply_answered: 0,
            inherited_noreply: 0,
            is_watched: false,
            owes_since: None,
            is_silent: false,
            verified_at: if is_verified { now } else { 0 },
            drain_deadline: None,
        }
    }

    pub fn is_free(&self) -> bool {
        self.checkout.is_none() && !self.is_draining() && !self.connection.is_broken()
    }

    pub fn is_draining(&self) -> bool {
        self.drain_deadline.is_some()
    }

    pub fn takes_more(&self, window: Window) -> bool {
        self.is_free()
            && !self.is_silent
            && self.connection.backlog() < MAX_BACKLOG
            && window.accepts(self.connection.in_flight())
    }

    /// Whether it owes a reply and has received nothing for too long at `now`.
    pub fn is_stalled(&self, now: Nanos, health: &Health) -> bool {
        self.owes_since.is_some_and(|since| now.saturating_sub(since) >= health.stalled_after())
    }

    /// The time when the server was last known to serve it.
    pub fn last_received(&self) -> Nanos {
        self.connection.read_at().max(self.verified_at)
    }

    /// Whether a former holder left `noreply` writes whose replies are not overdue.
    pub fn has_inherited_noreply(&self) -> bool {
        self.inherited_noreply > 0 && self.connection.overdue_since().is_none()
    }

    /// Whether it was not read for so long that the server may have closed it unnoticed.
    pub fn is_stale(&self, now: Nanos) -> bool {
        now.saturating_sub(self.polled_at) >= nanos(STALE_AFTER)
    }

    /// Whether the end of a fresh connection indicates a problem of the node: it never answered,
    /// and the pool did not close it.
    pub fn is_a_failure(&self, cause: &Cause, now: Nanos) -> bool {
        let is_young = now.saturating_sub(self.opened) < nanos(UNWELCOME_WITHIN);
        let has_answered = self.connection.answered() + self.connection.refused() > 0;
        !cause.closed_by_pool() && !has_answered && (is_young || self.connection.in_flight() > 0)
    }

    /// Whether a request with this deadline would wait for long behind others.
    fn is_held_up(&self, deadline: Nanos) -> bool {
        let front = self.connection.front_deadline();
        self.connection.backlog() > BUSY_BACKLOG
            || self.connection.in_flight() > BUSY_REQUESTS
            || (deadline != NEVER && front.saturating_add(nanos(HELD_UP_AFTER)) < deadline)
    }

    fn load(&self) -> (usize, usize) {
        (self.connection.backlog(), self.connection.in_flight())
    }
}
