//! What a pool consists of, and what follows from it: which connection takes a request, whether to grow.
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::capabilities::{Capabilities, Family};
use super::connection::Connection;
use super::error::Cause;
use super::health::{Health, ticks};
use super::isolated::Isolation;
use super::large::LargeKeys;
use super::metrics::{ConnectLatencies, Metrics};
use super::moves::Place;
use super::order::Order;
use super::pool::{LeaseId, PoolConfig, Waiter};
use super::queue::{LeaseQueue, Queue, Queued};
use super::stalls::Window;
use crate::protocol::{Asked, NEVER, Outcome, Sink, Tally, Term, Tick};

/// A connection with more than this to write or to read of one value takes no more requests.
const MAX_BACKLOG: usize = 256 * 1024;
/// A connection with more of either than these should be helped by another.
const BUSY_BACKLOG: usize = MAX_BACKLOG / 4;
const BUSY_REQUESTS: usize = 2048;
/// So should one whose oldest request was made this long before the newest: something is in its way.
const HELD_UP_AFTER: Duration = Duration::from_millis(100);
/// A connection that ends unasked this soon after it was made was not wanted by the server.
const UNWELCOME_WITHIN: Duration = Duration::from_secs(1);
/// Large requests in a row after which there are no small ones to be kept out of the way of.
const LATELY: u8 = 64;
/// Servers close idle connections after whole seconds.
const STALE_AFTER: Duration = Duration::from_millis(900);

#[allow(clippy::struct_excessive_bools, reason = "facts that are independent")]
pub(super) struct State<W: Waiter> {
    pub connections: Vec<Entry<W>>,
    pub next_id: u64,
    pub queue: Queue<W>,
    pub order: Order,
    pub leases: LeaseQueue<W>,
    pub isolation: Isolation<W>,
    pub capabilities: Capabilities,
    /// Leased connections that ended, for as long as their holders do not know.
    pub lost_leases: Vec<(LeaseId, Cause)>,
    /// When a connection ended last: those that are older may have ended with it.
    pub last_loss: Tick,
    pub dialling: bool,
    pub purging: bool,
    pub closed: bool,
    /// Whether it was closed because its node left the cluster.
    pub left: bool,
    pub health: Health,
    pub large_keys: LargeKeys,
    /// Above 0 if one of the last requests was small.
    pub small_lately: u8,
    /// A large transfer found none but the first connection.
    pub wants_own: bool,
    /// Whether a connection [`Entry::is_silent`].
    pub any_silent: bool,
    /// Whether [`super::stalls::confirm`] runs.
    pub is_confirming: bool,
    /// Requests wait behind a stalled one, and another connection could take them.
    pub wants_relief: bool,
    /// How many requests a connection may have in flight.
    pub window: Window,
    /// Until then each key is asked for in a line of its own; `None`: keys share lines.
    pub unmerged_until: Option<Tick>,
    pub place: Place,
    pub metrics: Metrics,
    pub tally: Tally,
    /// Connections that were lost, and had none to take their place yet.
    pub unreplaced: u64,
    pub latencies: ConnectLatencies,
}

pub(super) struct Entry<W: Sink> {
    pub id: u64,
    pub connection: Connection<W>,
    /// Where it leads; `None`: not over IP.
    pub peer: Option<IpAddr>,
    pub opened: Tick,
    pub last_used: Tick,
    /// When its task last read from it.
    pub looked_at: Tick,
    pub lease: Option<LeaseId>,
    /// What its unanswered `noreply` writes pin, in their order: see [`super::order`].
    pub noreply: VecDeque<u64>,
    /// How many were answered.
    pub noreply_answered: u64,
    /// How many of them former holders left unanswered.
    pub left_behind: usize,
    /// Whether [`super::tasks::end_if_stuck`] looks after it.
    pub is_watched: bool,
    /// Since when it owes bytes, of which none came.
    pub owes_since: Option<Tick>,
    /// A request on it timed out, and it brings nothing: new requests go elsewhere.
    pub is_silent: bool,
    /// When it was made, if it was answered then.
    pub proved: Tick,
    /// It leads to where the node is no more: it takes nothing, and ends when it is answered, or now.
    pub leaves_by: Option<Instant>,
}

impl<W: Waiter> State<W> {
    pub fn in_flight(&self) -> usize {
        let on_connections: usize = self.connections.iter().map(|e| e.connection.in_flight()).sum();
        on_connections + self.queue.len() + self.leases.len() + self.isolation.len()
    }

    /// Requests that wait: those that moved to another connection count there only.
    pub fn waiting(&self) -> usize {
        let moved: usize = self.connections.iter().map(|e| e.connection.moved()).sum();
        self.in_flight() - moved
    }

    /// Connections that nobody uses at this moment.
    pub fn idle(&self) -> usize {
        let is_idle = |entry: &&Entry<W>| {
            entry.is_free() && !entry.is_silent && entry.connection.in_flight() == 0
        };
        self.connections.iter().filter(is_idle).count()
    }

    /// The connection for the next request. Small ones meet on the first that nothing is in the way of,
    /// so that they share its lines; large ones go to another if there is one. If all are stalled the request
    /// waits for another connection, where there may be one more.
    pub fn pick(&mut self, config: &PoolConfig, is_large: bool, term: Term) -> Option<usize> {
        let Term { made, deadline } = term;
        self.small_lately = if is_large { self.small_lately.saturating_sub(1) } else { LATELY };
        if !self.queue.is_empty() {
            return None;
        }
        let usable = || {
            let takes_more = |(_, entry): &(usize, &Entry<W>)| entry.takes_more(self.window);
            self.connections.iter().enumerate().filter(takes_more)
        };
        let (at, _) = if is_large {
            // The first is kept for small ones, if there are any.
            let kept = usize::from(self.small_lately > 0);
            usable().skip(kept).min_by_key(|(_, entry)| entry.load()).or_else(|| usable().next())
        } else {
            usable()
                .find(|(_, entry)| !entry.is_held_up(deadline))
                .or_else(|| usable().min_by_key(|(_, entry)| entry.load()))
        }?;
        let is_stalled = |at: usize| self.connections[at].is_stalled(made, &self.health);
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

    /// Whether each key has a line of its own, so that no key harms another.
    pub fn keeps_keys_apart(&self) -> bool {
        self.unmerged_until.is_some() || self.window.is_limited()
    }

    /// How many connections are silent.
    fn silent(&self) -> usize {
        if !self.any_silent {
            return 0;
        }
        self.connections.iter().filter(|entry| entry.is_silent).count()
    }

    /// Whether another connection is on its way, or could be, and nothing speaks against it.
    pub fn awaits_another(&self, config: &PoolConfig) -> bool {
        !self.health.is_failing() && (self.dialling || self.has_room(config.max_connections))
    }

    /// Whether the pool should grow, now that a request with this deadline was made ([`NEVER`]: none).
    pub fn wants_dial(&self, config: &PoolConfig, deadline: Tick) -> bool {
        let connections = self.connections.len() - self.silent();
        !self.dialling
            && !self.closed
            && self.has_room(config.max_connections)
            && (connections < config.min_connections
                || !self.queue.is_empty()
                || (connections == 0 && self.isolation.is_waiting())
                || self.leases.len() > self.idle()
                || !self.health.is_healthy()
                || (connections == 0 && self.health.login_refusal().is_some())
                || self.wants_own
                || self.wants_relief
                || (self.any_silent && connections == 0)
                || self.are_all_held_up(deadline))
    }

    /// For one more. Those that only wait for their last answers, or are silent, do not keep out the first of
    /// those that take their place.
    pub fn has_room(&self, max_connections: usize) -> bool {
        let connections = self.connections.len();
        let is_of_no_use = |entry: &Entry<W>| entry.is_leaving() || entry.is_silent;
        connections < max_connections
            || (connections == max_connections && self.connections.iter().all(is_of_no_use))
    }

    /// Whether a new connection must show that it is answered before anybody gets it.
    pub fn wants_proof(&self) -> bool {
        self.health.wants_proof() || self.is_behind() || self.is_confirming
    }

    /// Those that are leased neither help nor ask for help.
    fn are_all_held_up(&self, deadline: Tick) -> bool {
        let mut shared = self.connections.iter().filter(|entry| entry.lease.is_none()).peekable();
        shared.peek().is_some() && shared.all(|entry| entry.is_held_up(deadline))
    }

    /// Closes all connections; who waits on them is handed out in order.
    pub fn take_connections(&mut self) -> Vec<(W, Asked)> {
        let mut orphans = Vec::new();
        self.any_silent = false;
        for entry in std::mem::take(&mut self.connections) {
            self.count_out(&entry);
            orphans.extend(entry.connection.dismantle().into_iter().map(|o| (o.sink, o.asked)));
        }
        orphans
    }

    /// A connection is no longer among the pool's.
    pub fn count_out(&mut self, entry: &Entry<W>) {
        self.metrics.connections_closed += 1;
        self.metrics.bytes_read += entry.connection.bytes_read();
        self.metrics.bytes_written += entry.connection.bytes_written();
        self.metrics.keys_shared += entry.connection.shared_keys();
        self.unpin_all(entry);
    }

    /// Puts a request of a lost connection back before all others, if it may share a connection again.
    pub fn put_back(&mut self, queued: Queued<W>) -> Option<(Family, Queued<W>)> {
        let family = Family::of(queued.request.verb());
        if let Some(family) = family.filter(|family| !self.capabilities.may_share(*family)) {
            return Some((family, queued));
        }
        self.queue.push_front(queued);
        None
    }

    /// A connection was closed by the other side. If that may be the answer to a command that it does not know, the
    /// command is in doubt, and the end is no sign of the node's health.
    pub fn is_provoked(&mut self, entry: &Entry<W>, cause: &Cause, now: Tick) -> bool {
        if !matches!(cause, Cause::Eof | Cause::Io(_)) {
            return false;
        }
        let mut is_provoked = false;
        for family in entry.connection.unanswered().filter_map(Family::of) {
            self.capabilities.doubt(family, now);
            is_provoked = true;
        }
        is_provoked
    }

    /// Everybody in the queues, who is told for the same reason.
    pub fn take_queues(&mut self, outcome: Outcome) -> Vec<W> {
        let mut waiting = Vec::new();
        for (waiter, asked) in self.queue.drain() {
            self.tally.ended(asked, outcome);
            waiting.push(waiter);
        }
        waiting.extend(self.leases.drain());
        for (waiter, asked) in self.isolation.drain() {
            self.tally.ended(asked, outcome);
            waiting.push(waiter);
        }
        waiting
    }

    pub fn purge(&mut self, at: usize) {
        let entry = self.connections.remove(at);
        self.count_out(&entry);
        entry.connection.dismantle();
        self.metrics.connections_purged += 1;
        if self.connections.is_empty() {
            self.capabilities.server_lost();
        }
    }
}

impl<W: Waiter> Entry<W> {
    pub fn new(
        id: u64,
        connection: Connection<W>,
        peer: Option<IpAddr>,
        now: Tick,
        is_proved: bool,
    ) -> Self {
        Self {
            id,
            connection,
            peer,
            opened: now,
            last_used: now,
            looked_at: now,
            lease: None,
            noreply: VecDeque::new(),
            noreply_answered: 0,
            left_behind: 0,
            is_watched: false,
            owes_since: None,
            is_silent: false,
            proved: if is_proved { now } else { 0 },
            leaves_by: None,
        }
    }

    pub fn is_free(&self) -> bool {
        self.lease.is_none() && !self.is_leaving() && !self.connection.is_broken()
    }

    pub fn is_leaving(&self) -> bool {
        self.leaves_by.is_some()
    }

    pub fn takes_more(&self, window: Window) -> bool {
        self.is_free()
            && !self.is_silent
            && self.connection.backlog() < MAX_BACKLOG
            && window.takes(self.connection.in_flight())
    }

    /// Whether it brought nothing for too long at `now`, though it owes an answer.
    pub fn is_stalled(&self, now: Tick, health: &Health) -> bool {
        self.owes_since.is_some_and(|since| now.saturating_sub(since) >= health.stalled_after())
    }

    /// When the server was last known to serve it.
    pub fn heard(&self) -> Tick {
        self.connection.read_at().max(self.proved)
    }

    /// Whether a former holder left writes with `noreply` on it whose answers are not overdue.
    pub fn is_unsettled(&self) -> bool {
        self.left_behind > 0 && self.connection.overdue_since().is_none()
    }

    /// Not looked at for so long that the server may have closed it, with the news still unread.
    pub fn is_stale(&self, now: Tick) -> bool {
        now.saturating_sub(self.looked_at) >= ticks(STALE_AFTER)
    }

    /// Whether the end of this connection, if it is fresh, is a sign that the node is not well: it never
    /// answered, and the pool did not close it.
    pub fn is_a_failure(&self, cause: &Cause, now: Tick) -> bool {
        let is_young = now.saturating_sub(self.opened) < ticks(UNWELCOME_WITHIN);
        let has_answered = self.connection.answered() + self.connection.refused() > 0;
        !cause.is_ours() && !has_answered && (is_young || self.connection.in_flight() > 0)
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
