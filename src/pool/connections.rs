//! The connections of a pool, and what the pool knows about each.
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::error::Cause;
use super::health::{Health, nanos};
use super::order::NoreplyWrites;
use super::waiter::CheckoutId;
use super::window::Window;
use crate::protocol::{NEVER, Nanos, ReplyHandler};

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
/// Servers close idle connections after whole seconds.
const STALE_AFTER: Duration = Duration::from_millis(900);

/// A slice of entries, in the order in which the connections were opened. Only the methods here add
/// and remove entries, and mark them as silent.
///
/// Invariant: `any_silent == entries.iter().any(Entry::is_silent)`.
pub(super) struct Connections<W: ReplyHandler> {
    entries: Vec<Entry<W>>,
    next_id: u64,
    any_silent: bool,
    /// The time when a connection was last lost. Older connections may have ended with it.
    last_loss: Nanos,
}

pub(super) struct Entry<W: ReplyHandler> {
    pub connection: Connection<W>,
    pub noreply: NoreplyWrites,
    id: u64,
    peer: Option<IpAddr>,
    opened: Nanos,
    last_used: Nanos,
    /// The time when the connection's task last read from it.
    polled_at: Nanos,
    checkout: Option<CheckoutId>,
    /// Whether [`super::tasks::close_if_stuck`] watches it.
    is_watched: bool,
    owes_since: Option<Nanos>,
    is_silent: bool,
    /// The time of its creation, if it answered a probe then.
    verified_at: Nanos,
    drain_deadline: Option<Instant>,
}

impl<W: ReplyHandler> Deref for Connections<W> {
    type Target = [Entry<W>];

    #[inline]
    fn deref(&self) -> &[Entry<W>] {
        &self.entries
    }
}

impl<W: ReplyHandler> DerefMut for Connections<W> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Entry<W>] {
        &mut self.entries
    }
}

impl<W: ReplyHandler> Connections<W> {
    pub fn new() -> Self {
        Self { entries: Vec::new(), next_id: 0, any_silent: false, last_loss: 0 }
    }

    /// Adds a connection, and returns its id. `peer` is `None` if the connection is not over IP.
    pub fn add(
        &mut self,
        connection: Connection<W>,
        peer: Option<IpAddr>,
        now: Nanos,
        is_verified: bool,
    ) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.entries.push(Entry {
            connection,
            noreply: NoreplyWrites::default(),
            id,
            peer,
            opened: now,
            last_used: now,
            polled_at: now,
            checkout: None,
            is_watched: false,
            owes_since: None,
            is_silent: false,
            verified_at: if is_verified { now } else { 0 },
            drain_deadline: None,
        });
        id
    }

    pub fn remove(&mut self, at: usize) -> Entry<W> {
        let entry = self.entries.remove(at);
        self.update_any_silent();
        entry
    }

    /// Removes a connection that was lost at `now`. Returns also whether it was opened after the
    /// last loss.
    pub fn remove_lost(&mut self, at: usize, now: Nanos) -> (Entry<W>, bool) {
        let entry = self.remove(at);
        let is_fresh = entry.opened >= std::mem::replace(&mut self.last_loss, now);
        (entry, is_fresh)
    }

    pub fn remove_all(&mut self) -> Vec<Entry<W>> {
        self.any_silent = false;
        std::mem::take(&mut self.entries)
    }

    pub fn position_of(&self, id: u64) -> Option<usize> {
        self.iter().position(|entry| entry.id == id)
    }

    pub fn with_id(&mut self, id: u64) -> Option<&mut Entry<W>> {
        self.iter_mut().find(|entry| entry.id == id)
    }

    pub fn with_checkout(&self, checkout: CheckoutId) -> Option<&Entry<W>> {
        self.iter().find(|entry| entry.checkout == Some(checkout))
    }

    pub fn with_checkout_mut(&mut self, checkout: CheckoutId) -> Option<&mut Entry<W>> {
        self.iter_mut().find(|entry| entry.checkout == Some(checkout))
    }

    /// The number of unanswered requests.
    pub fn in_flight(&self) -> usize {
        self.iter().map(|entry| entry.connection.in_flight()).sum()
    }

    /// The number of connections without a request and without a holder.
    pub fn idle(&self) -> usize {
        let is_idle = |entry: &&Entry<W>| entry.is_idle() && !entry.is_silent;
        self.iter().filter(is_idle).count()
    }

    /// Whether there is room for another connection. Drained and silent connections do not prevent
    /// the first of their replacements.
    pub fn has_room(&self, max_connections: usize) -> bool {
        let is_unusable = |entry: &Entry<W>| entry.is_draining() || entry.is_silent;
        self.len() < max_connections
            || (self.len() == max_connections && self.iter().all(is_unusable))
    }

    #[inline]
    pub fn any_silent(&self) -> bool {
        self.any_silent
    }

    /// The number of connections that are not silent.
    pub fn not_silent(&self) -> usize {
        if !self.any_silent {
            return self.len();
        }
        self.iter().filter(|entry| !entry.is_silent).count()
    }

    pub fn mark_silent(&mut self, at: usize) {
        (self.entries[at].is_silent, self.any_silent) = (true, true);
    }

    /// Marks idle connections as silent that received nothing since `since`.
    pub fn mark_idle_silent(&mut self, since: Nanos, now: Nanos) {
        for entry in &mut self.entries {
            if entry.is_idle() && entry.last_received() < since {
                (entry.is_silent, entry.owes_since) = (true, Some(now));
                self.any_silent = true;
            }
        }
    }

    /// Records that a connection received bytes, so it is not silent.
    pub fn mark_served(&mut self, id: u64) {
        if let Some(entry) = self.with_id(id) {
            entry.is_silent = false;
        }
        self.update_any_silent();
    }

    fn update_any_silent(&mut self) {
        self.any_silent = self.any_silent && self.iter().any(Entry::is_silent);
    }
}

impl<W: ReplyHandler> Entry<W> {
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The peer's address; `None` if the connection is not over IP.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    pub fn opened(&self) -> Nanos {
        self.opened
    }

    /// A request on it timed out and it receives nothing, so new requests use other connections.
    #[inline]
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// The time since which it owes bytes and has received none.
    pub fn owes_since(&self) -> Option<Nanos> {
        self.owes_since
    }

    /// Whether it may accept requests of any caller.
    #[inline]
    pub fn is_free(&self) -> bool {
        self.checkout.is_none() && !self.is_draining() && !self.connection.is_broken()
    }

    /// Whether it is free and answered. It may be silent.
    pub fn is_idle(&self) -> bool {
        self.is_free() && self.connection.in_flight() == 0
    }

    #[inline]
    pub fn takes_more(&self, window: Window) -> bool {
        self.is_free()
            && !self.is_silent
            && self.connection.backlog() < MAX_BACKLOG
            && window.accepts(self.connection.in_flight())
    }

    /// Whether it owes a reply and has received nothing for too long at `now`.
    #[inline]
    pub fn is_stalled(&self, now: Nanos, health: &Health) -> bool {
        self.owes_since.is_some_and(|since| now.saturating_sub(since) >= health.stalled_after())
    }

    /// The time when the server was last known to serve it.
    pub fn last_received(&self) -> Nanos {
        self.connection.read_at().max(self.verified_at)
    }

    /// Whether a former holder left `noreply` writes whose replies are not overdue.
    pub fn has_inherited_noreply(&self) -> bool {
        self.noreply.are_inherited() && self.connection.overdue_since().is_none()
    }

    /// Whether it was not read for so long that the server may have closed it unnoticed.
    #[inline]
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
    #[inline]
    pub fn is_held_up(&self, deadline: Nanos) -> bool {
        let front = self.connection.front_deadline();
        self.connection.backlog() > BUSY_BACKLOG
            || self.connection.in_flight() > BUSY_REQUESTS
            || (deadline != NEVER && front.saturating_add(nanos(HELD_UP_AFTER)) < deadline)
    }

    pub fn load(&self) -> (usize, usize) {
        (self.connection.backlog(), self.connection.in_flight())
    }

    /// Records that its task polled it at `now`. Returns whether it was stalled and goes on.
    pub fn note_poll(
        &mut self,
        now: Nanos,
        has_read: bool,
        has_written: bool,
        health: &mut Health,
    ) -> bool {
        self.polled_at = now;
        let goes_on = has_read && self.is_stalled(now, health);
        if has_read {
            let is_owing = self.connection.in_flight() > 0;
            let since = std::mem::replace(&mut self.owes_since, is_owing.then_some(now));
            if let Some(since) = since {
                health.answered_after(now.saturating_sub(since));
            }
            health.received(now);
        }
        if has_written {
            self.owes_since.get_or_insert(now);
            health.written(|| now);
        }
        goes_on
    }

    /// Records that bytes were written outside of its task.
    #[inline]
    pub fn note_written(&mut self, now: impl FnOnce() -> Nanos, health: &mut Health) {
        let since = *self.owes_since.get_or_insert_with(now);
        health.written(|| since);
    }

    /// Records that it was answered.
    pub fn note_used(&mut self, now: Nanos) {
        self.last_used = now;
    }

    /// Whether nothing has used it for this long.
    pub fn is_unused(&self, now: Nanos, after: Duration) -> bool {
        self.checkout.is_none()
            && self.connection.in_flight() == 0
            && now.saturating_sub(self.last_used) >= nanos(after)
    }

    /// The holder that uses it exclusively.
    pub fn checkout(&self) -> Option<CheckoutId> {
        self.checkout
    }

    pub fn is_checked_out(&self) -> bool {
        self.checkout.is_some()
    }

    pub fn check_out(&mut self, checkout: CheckoutId) {
        self.checkout = Some(checkout);
    }

    /// Its holder has returned it, perhaps with unanswered requests.
    pub fn release(&mut self, now: Nanos) {
        self.checkout = None;
        self.noreply.inherit();
        self.note_used(now);
    }

    /// Returns whether no task watched it before.
    pub fn start_watching(&mut self) -> bool {
        !std::mem::replace(&mut self.is_watched, true)
    }

    pub fn stop_watching(&mut self) {
        self.is_watched = false;
    }

    /// Whether it leads to a former address: it accepts no requests, and closes once it is
    /// answered or its deadline passes.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.drain_deadline.is_some()
    }

    /// Drains it until `by` at the latest; a deadline that is set already stays.
    pub fn drain(&mut self, by: Instant) {
        self.drain_deadline.get_or_insert(by);
    }

    pub fn stop_draining(&mut self) {
        self.drain_deadline = None;
    }

    /// Whether it was drained and nothing uses it any more.
    pub fn is_drained(&self) -> bool {
        self.is_draining() && self.checkout.is_none() && self.connection.in_flight() == 0
    }

    pub fn is_drain_overdue(&self, now: Instant) -> bool {
        self.drain_deadline.is_some_and(|by| by <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Dialect, ItemRef, Reply, StatLine};

    struct NoHandler;

    impl ReplyHandler for NoHandler {
        type Value = bytes::Bytes;
        fn item(&mut self, _: usize, _: &ItemRef<'_>, _: Option<&bytes::Bytes>) {}
        fn stat(&mut self, _: &StatLine<'_>) {}
        fn restart(&mut self) {}
        fn reply(self, _: &Reply<'_>, _: &str) {}
    }

    /// Connections that were opened at 0, 10, 20 and so on.
    fn connections(count: u64) -> Connections<NoHandler> {
        let mut connections = Connections::new();
        for n in 0..count {
            let stream = Box::new(tokio::io::duplex(1).0);
            let connection = Connection::new(stream, Dialect::default(), 1, "node".into());
            assert_eq!(connections.add(connection, None, n * 10, true), n);
        }
        connections
    }

    fn silent(connections: &Connections<NoHandler>) -> Vec<u64> {
        let silent: Vec<_> =
            connections.iter().filter(|entry| entry.is_silent()).map(Entry::id).collect();
        assert_eq!(connections.any_silent(), !silent.is_empty());
        assert_eq!(connections.not_silent(), connections.len() - silent.len());
        silent
    }

    #[test]
    fn silence_ends_with_bytes_and_with_the_connection() {
        let mut connections = connections(3);
        assert!(silent(&connections).is_empty());
        connections.mark_silent(1);
        connections.mark_silent(2);
        assert_eq!(silent(&connections), [1, 2]);
        connections.mark_served(0);
        connections.mark_served(1);
        assert_eq!(silent(&connections), [2]);
        connections.remove(2);
        assert!(silent(&connections).is_empty());
        connections.mark_silent(0);
        assert_eq!(connections.remove_all().len(), 2);
        assert!(silent(&connections).is_empty());
    }

    #[test]
    fn idle_connections_that_received_nothing_are_silent_too() {
        let mut connections = connections(3);
        connections[0].check_out(7);
        connections.mark_idle_silent(20, 50);
        assert_eq!(silent(&connections), [1]);
        assert_eq!(connections[1].owes_since(), Some(50));
    }

    #[test]
    fn silent_and_drained_connections_leave_room_for_one_more() {
        let mut connections = connections(2);
        assert!(connections.has_room(3) && !connections.has_room(2));
        connections.mark_silent(0);
        assert!(!connections.has_room(2));
        connections[1].drain(Instant::now());
        assert!(connections.has_room(2) && !connections.has_room(1));
    }

    #[test]
    fn a_connection_is_fresh_if_it_was_opened_after_the_last_loss() {
        let mut connections = connections(4);
        let mut lose = |id, now| {
            let at = connections.position_of(id).unwrap();
            let (entry, is_fresh) = connections.remove_lost(at, now);
            assert_eq!(entry.id(), id);
            is_fresh
        };
        assert!(lose(1, 15));
        assert!(!lose(0, 16));
        assert!(lose(2, 25));
        assert!(lose(3, 26));
    }
}
