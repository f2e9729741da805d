//! Detects connections that owe a reply and receive nothing.
//!
//! A server or proxy replies on each connection in order, so one unanswered request holds up all
//! requests behind it. That says nothing about the node, because other connections may be served.
//!
//! A connection is *stalled* if it received nothing for [`super::health::Health::stalled_after`],
//! and *silent* if in addition a request on it timed out. A stalled connection accepts no new
//! requests while another one accepts them or may be opened. A silent connection accepts none at
//! all.
//!
//! While all connections are silent, one more than the limit may exist, so that a replacement can
//! be opened: `connections.len() + dialling <= max_connections + 1`. The probes of a node that
//! seems silent use further connections ([`super::silence`]).
use std::rc::Rc;
use std::time::Duration;

use super::connections::Entry;
use super::error::Cause;
use super::health::{Pause, STALLED_AFTER, nanos};
use super::queue::QueuedRequest;
use super::shared::Shared;
use super::state::State;
use super::waiter::Waiter;
use crate::protocol::{NEVER, Nanos, Timing};

/// How long keys share no lines after a stall, so that a key that hangs holds up no other key.
const UNMERGED_FOR: Duration = Duration::from_secs(5);

/// No dial to a nearby server takes longer.
const MIN_DIAL_LIMIT: Duration = Duration::from_millis(500);

impl<W: Waiter> Shared<W> {
    /// The timeout for a dial. It is shorter while a connection is silent, so that an unreachable
    /// node is detected soon, but well above the duration of earlier dials.
    pub fn dial_limit(&self) -> Option<Duration> {
        let limit = self.config.connection_timeout;
        let state = self.state();
        if !state.connections.any_silent() && !state.silence.is_probed() {
            return limit;
        }
        let usual = state.growth.latencies().longest().saturating_mul(3);
        let patience = (self.config.timeout.unwrap_or_default() / 2).max(MIN_DIAL_LIMIT).max(usual);
        Some(limit.map_or(patience, |limit| limit.min(patience)))
    }

    /// Checks connections that receive nothing. Called when one may have become stalled or silent.
    /// Returns the time of the next check.
    pub fn check_stalled(self: &Rc<Self>, state: &mut State<W>, now: Nanos) -> Nanos {
        if state.connections.any_silent() {
            self.check_silent(state, None);
        }
        let mut is_owing = false;
        let mut holds_up = false;
        for entry in state.connections.iter() {
            is_owing |= entry.owes_since().is_some() && !entry.is_silent();
            holds_up |= !entry.is_checked_out()
                && entry.is_stalled(now, &state.health)
                && entry.connection.is_held_up();
        }
        let mut needs_relief = false;
        if holds_up {
            self.move_held_up_reads(state);
            needs_relief = state.connections.iter().all(|entry| {
                entry.is_checked_out() || entry.is_silent() || entry.is_stalled(now, &state.health)
            });
        }
        state.growth.set_needs_relief(needs_relief);
        if needs_relief || !state.queue.is_empty() {
            self.close_stuck(state, now);
        }
        if !state.queue.is_empty() {
            self.drain_queue(state);
        }
        if is_owing { now.saturating_add(nanos(STALLED_AFTER)) } else { NEVER }
    }

    /// Closes a connection that has been quiet long enough to be silent and whose callers no longer
    /// wait. Does so only if the node serves other connections and no more may be opened.
    fn close_stuck(&self, state: &mut State<W>, now: Nanos) {
        if state.connections.has_room(self.config.max_connections) {
            return;
        }
        let timeout = self.config.timeout.unwrap_or_default();
        let is_stuck = |at: usize| {
            let entry = &state.connections[at];
            entry.is_free()
                && entry.owes_since().is_some_and(|since| {
                    state.served_since(at, since) && state.is_silent_since(at, since, timeout, now)
                })
                && !entry.connection.has_waiters()
                && entry.noreply.are_answered()
        };
        if let Some(at) = (0..state.connections.len()).find(|at| is_stuck(*at)) {
            state.connections[at].connection.abort(Cause::NoAnswer);
        }
    }

    /// Moves reads that a stalled connection holds up to another connection, if that one is newer
    /// or has received a reply since. Writes stay, because the server may have executed them.
    pub fn move_held_up_reads(self: &Rc<Self>, state: &mut State<W>) {
        let now = self.context.now();
        let mut has_taken = false;
        for at in 0..state.connections.len() {
            let entry = &state.connections[at];
            let Some(since) = entry.owes_since() else { continue };
            let is_stalled = entry.is_silent() || entry.is_stalled(now, &state.health);
            if entry.is_checked_out() || !is_stalled || !state.can_take_over(at, since, now) {
                continue;
            }
            let (connection, order) = (&mut state.connections[at].connection, &state.order);
            for orphan in connection.take_held_up(|key| order.pins(key)).into_iter().rev() {
                let Some(request) = orphan.retry else { continue };
                let mut waiter = orphan.handler;
                waiter.restart();
                if orphan.sent {
                    state.counters.retried();
                }
                let timing = Timing { issued_at: orphan.info.issued_at, deadline: orphan.deadline };
                let queued = QueuedRequest { request, waiter, timing, retried: orphan.retried };
                state.queue.push_front(queued);
                has_taken = true;
            }
        }
        if has_taken {
            let until = now.saturating_add(nanos(UNMERGED_FOR));
            if state.precautions.narrow(until) {
                self.merging_stopped(state);
            }
        }
    }

    /// Uses silent connections again that have received bytes. Closes silent connections without
    /// waiting callers if the node serves another connection, or if a replacement needs their
    /// place. `read` is the connection that was just read.
    ///
    /// A connection with unanswered `noreply` writes stays open until its replies are long overdue,
    /// or until all connections are silent and no other one may be opened. The server may still
    /// execute the writes, and later requests for their keys must not overtake them.
    pub fn check_silent(self: &Rc<Self>, state: &mut State<W>, read: Option<u64>) {
        let now = self.context.now();
        if let Some(id) = read
            && state.connections.len() <= self.config.max_connections
        {
            state.connections.mark_served(id);
        }
        self.move_held_up_reads(state);
        let open = || state.connections.iter().filter(|entry| !entry.connection.is_broken());
        let are_all_silent = open().all(Entry::is_silent);
        let mut surplus = open().count().saturating_sub(self.config.max_connections);
        for at in 0..state.connections.len() {
            let entry = &state.connections[at];
            let may_close = entry.is_silent() && !entry.connection.is_broken();
            if !may_close || entry.connection.has_waiters() {
                continue;
            }
            let since = entry.owes_since().unwrap_or(now);
            let is_replaced = entry.noreply.are_answered() && state.served_since(at, since);
            if (are_all_silent && surplus > 0) || is_replaced {
                surplus = surplus.saturating_sub(1);
                state.connections[at].connection.abort(Cause::NoAnswer);
            }
        }
    }
}

impl<W: Waiter> State<W> {
    /// Marks connections that have become silent. Idle connections that received nothing since then
    /// are marked too. They may have been cut off at the same time, and a request on each would
    /// cost a timeout.
    pub fn find_silent(&mut self, timeout: Duration, now: Nanos) {
        let mut silent_since = NEVER;
        for at in 0..self.connections.len() {
            let entry = &self.connections[at];
            let is_overdue =
                entry.connection.overdue_since().is_some_and(|deadline| deadline <= now);
            if (is_overdue || entry.connection.is_front_abandoned())
                && !entry.is_checked_out()
                && !entry.is_silent()
                && let Some(since) = entry.owes_since()
                && self.is_silent_since(at, since, timeout, now)
            {
                self.connections.mark_silent(at);
                silent_since = silent_since.min(since);
            }
        }
        if silent_since < NEVER {
            self.connections.mark_idle_silent(silent_since, now);
        }
    }

    /// Whether the time since `since`, when the connection at `at` last received bytes, is too long
    /// for a pause of the server. A server that serves other connections, or on which requests
    /// stalled recently, is not pausing, so the limit is shorter for it.
    fn is_silent_since(&self, at: usize, since: Nanos, timeout: Duration, now: Nanos) -> bool {
        let pause = if self.precautions.is_unmerged() {
            Pause::Stalling
        } else if self.served_since(at, since.saturating_add(nanos(STALLED_AFTER / 2))) {
            Pause::Connection
        } else {
            Pause::Node
        };
        now.saturating_sub(since) >= self.health.silent_after(timeout, pause)
    }

    fn others(&self, at: usize) -> impl Iterator<Item = &Entry<W>> {
        let others = self.connections.iter().enumerate().filter(move |(other, _)| *other != at);
        others.map(|(_, entry)| entry)
    }

    /// Whether the node served a connection other than the one at `at` after `since`.
    fn served_since(&self, at: usize, since: Nanos) -> bool {
        self.others(at).any(|entry| entry.last_received() >= since)
    }

    /// Whether another connection can take over the requests of the one at `at`.
    fn can_take_over(&self, at: usize, since: Nanos, now: Nanos) -> bool {
        self.others(at).any(|entry| {
            entry.is_free()
                && !entry.is_silent()
                && entry.last_received().max(entry.opened()) >= since
                && !entry.is_stalled(now, &self.health)
        })
    }
}
