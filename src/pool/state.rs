//! The state of a pool, and the decisions that follow from it: which connection takes a request,
//! and whether to open another.
use super::capabilities::Capabilities;
use super::checkouts::Checkouts;
use super::config::PoolConfig;
use super::connections::{Connections, Entry};
use super::counters::Counters;
use super::error::Cause;
use super::growth::Growth;
use super::health::Health;
use super::isolation::Isolation;
use super::large::LargeTraffic;
use super::lifecycle::Lifecycle;
use super::location::NodeLocation;
use super::order::NoreplyOrder;
use super::precautions::Precautions;
use super::queue::{Queue, QueuedRequest};
use super::silence::Silence;
use super::waiter::Waiter;
use crate::protocol::{CallResult, Family, Nanos, RequestInfo, Timing, Verb};

/// Each part keeps its own invariants. Decisions that depend on several parts are made here, and in
/// the files that extend `State`.
pub(super) struct State<W: Waiter> {
    pub connections: Connections<W>,
    pub queue: Queue<W>,
    pub order: NoreplyOrder,
    pub checkouts: Checkouts<W>,
    pub isolation: Isolation<W>,
    pub capabilities: Capabilities,
    pub growth: Growth,
    pub lifecycle: Lifecycle,
    pub health: Health,
    pub large: LargeTraffic,
    pub silence: Silence,
    pub precautions: Precautions,
    pub location: NodeLocation,
    pub counters: Counters,
}

impl<W: Waiter> State<W> {
    /// `is_binary` says whether the node speaks the binary protocol.
    pub fn new(is_binary: bool) -> Self {
        Self {
            connections: Connections::new(),
            queue: Queue::new(),
            order: NoreplyOrder::default(),
            checkouts: Checkouts::new(),
            isolation: Isolation::new(),
            capabilities: Capabilities::new(is_binary),
            growth: Growth::default(),
            lifecycle: Lifecycle::default(),
            health: Health::default(),
            large: LargeTraffic::default(),
            silence: Silence::default(),
            precautions: Precautions::default(),
            location: NodeLocation::default(),
            counters: Counters::default(),
        }
    }

    pub fn in_flight(&self) -> usize {
        self.connections.in_flight()
            + self.queue.len()
            + self.checkouts.len()
            + self.isolation.len()
    }

    /// The number of waiting requests. A request that moved counts on its new connection only.
    pub fn waiting(&self) -> usize {
        let moved: usize = self.connections.iter().map(|e| e.connection.moved()).sum();
        self.in_flight() - moved
    }

    /// Chooses the connection for the next request. Small requests use the first connection that is
    /// not held up, so that they share lines; large ones use another, if there is one. If all are
    /// stalled, the request waits for a new connection, if one may be opened.
    pub fn pick(&mut self, config: &PoolConfig, is_large: bool, timing: Timing) -> Option<usize> {
        let Timing { issued_at, deadline } = timing;
        if is_large {
            self.large.note_large();
        } else {
            self.large.note_small();
        }
        if !self.queue.is_empty() {
            return None;
        }
        let window = self.precautions.window();
        let usable = || {
            let takes_more = |(_, entry): &(usize, &Entry<W>)| entry.takes_more(window);
            self.connections.iter().enumerate().filter(takes_more)
        };
        let (at, _) = if is_large {
            // The first connection is reserved for small requests, if there are any.
            let kept = usize::from(self.large.has_small());
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

    /// Whether another connection is being opened, or could be.
    pub fn awaits_another(&self, config: &PoolConfig) -> bool {
        !self.health.is_failing()
            && (self.growth.is_dialling() || self.connections.has_room(config.max_connections))
    }

    /// Whether to open another connection, after a request with this deadline (`NEVER` for none).
    pub fn wants_dial(&self, config: &PoolConfig, deadline: Nanos) -> bool {
        let connections = self.connections.not_silent();
        !self.growth.is_dialling()
            && self.lifecycle.is_open()
            && self.connections.has_room(config.max_connections)
            && (connections < config.min_connections
                || !self.queue.is_empty()
                || (connections == 0 && self.isolation.is_waiting())
                || self.checkouts.len() > self.connections.idle()
                || !self.health.is_healthy()
                || (connections == 0 && self.health.login_refusal().is_some())
                || self.growth.needs_another()
                || (self.connections.any_silent() && connections == 0)
                || self.are_all_held_up(deadline))
    }

    /// Whether a new connection must answer a probe before it is used.
    pub fn needs_probe(&self) -> bool {
        self.health.needs_probe() || self.is_outdated() || self.silence.is_probed()
    }

    /// Checked-out connections do not count, because other requests cannot use them.
    fn are_all_held_up(&self, deadline: Nanos) -> bool {
        let mut shared = self.connections.iter().filter(|entry| !entry.is_checked_out()).peekable();
        shared.peek().is_some() && shared.all(|entry| entry.is_held_up(deadline))
    }

    /// Closes all connections and returns their waiters, in order.
    pub fn take_connections(&mut self) -> Vec<(W, RequestInfo)> {
        let mut orphans = Vec::new();
        for mut entry in self.connections.remove_all() {
            self.record_closed(&mut entry);
            orphans
                .extend(entry.connection.into_orphans().into_iter().map(|o| (o.handler, o.info)));
        }
        orphans
    }

    /// Counts a connection that leaves the pool.
    pub fn record_closed(&mut self, entry: &mut Entry<W>) {
        self.counters.connection_closed(&entry.connection);
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
        let answers = self.counters.stats().answers(Family::Meta);
        let families = entry.connection.unanswered().map(Verb::family);
        for family in families.filter(|family| *family != Family::Classic) {
            self.capabilities.doubt(family, now, answers);
            is_provoked = true;
        }
        is_provoked
    }

    /// Takes the queued requests that the next connection must not get before it is known to lead
    /// to a server that knows their commands.
    pub fn take_unshareable(&mut self) -> Vec<(Family, QueuedRequest<W>)> {
        let Self { queue, capabilities, .. } = self;
        let taken = queue.take_unshareable(|family| capabilities.may_share(family));
        taken.into_iter().map(|queued| (queued.family(), queued)).collect()
    }

    /// Takes all queued requests and checkouts, to be failed with `result`.
    pub fn take_queued(&mut self, result: CallResult) -> Vec<W> {
        let mut waiting = Vec::new();
        for (waiter, info) in self.queue.drain() {
            self.counters.ended(info, result);
            waiting.push(waiter);
        }
        waiting.extend(self.checkouts.drain());
        for (waiter, info) in self.isolation.drain() {
            self.counters.ended(info, result);
            waiting.push(waiter);
        }
        waiting
    }

    pub fn purge(&mut self, at: usize) {
        let mut entry = self.connections.remove(at);
        self.record_closed(&mut entry);
        entry.connection.into_orphans();
        self.counters.connection_purged();
        if self.connections.is_empty() {
            self.capabilities.forget_server();
        }
    }
}
