//! How requests end without an answer: at their deadline, with their connection, or with their node.
//!
//! Whoever waits is told after the state is free again: what is told may come back and ask for more.
use std::rc::Rc;
use std::time::Duration;

use super::capabilities::Family;
use super::context::Member;
use super::error::{Cause, ErrorKind};
use super::health::{Change, ticks};
use super::pool::{PATIENCE, Shared, Waiter};
use super::queue::Queued;
use super::stalls::confirm;
use super::state::{Entry, State};
use super::tasks::merge_again;
use crate::protocol::{
    Asked, ErrorLine, Expired, NEVER, Outcome, OwnedRequest, Reply, Sink, Term, Tick,
};

/// How long keys do not share lines after an error in the answer to several keys.
const UNMERGED_FOR: Duration = Duration::from_secs(30);

/// Who waited for an answer of a connection that ended, and is not asked for again.
struct Unanswered<W> {
    failed: Vec<(W, Asked)>,
    /// Those whom the error line that ended the connection answers.
    refused: Vec<W>,
    /// What must not be asked again on a connection that others use.
    isolated: Vec<(Family, Queued<W>)>,
}

impl<W: Waiter> State<W> {
    /// Queues what can be asked again of a connection that ended, before all that waits.
    fn ask_again(&mut self, entry: Entry<W>, cause: &Cause, is_fresh: bool) -> Unanswered<W> {
        let (mut failed, mut refused, mut isolated) = (Vec::new(), Vec::new(), Vec::new());
        if matches!(cause, Cause::Panicked) {
            failed.extend(entry.connection.into_sinks());
            return Unanswered { failed, refused, isolated };
        }
        // What a holder of a lease sends goes to that connection or nowhere.
        let is_garbage = matches!(cause, Cause::Protocol(_));
        let may_repeat = !is_garbage && entry.lease.is_none() && !self.closed;
        for orphan in entry.connection.dismantle().into_iter().rev() {
            let is_read = matches!(orphan.again, Some(OwnedRequest::Retrieval { .. }));
            // A connection that the pool closed is no try of a read.
            let is_spent = is_read && orphan.retried && is_fresh && !cause.is_ours();
            let term = Term { made: orphan.asked.made, deadline: orphan.deadline };
            let retried = orphan.retried || (is_read && orphan.sent && !cause.is_ours());
            match (orphan.again, orphan.missing) {
                (Some(request), None) if may_repeat && !is_spent => {
                    let mut waiter = orphan.sink;
                    waiter.restart();
                    self.metrics.requests_retried += u64::from(is_read && orphan.sent);
                    isolated.extend(self.put_back(Queued { request, waiter, term, retried }));
                }
                (Some(request), Some(missing)) if may_repeat => {
                    self.metrics.requests_retried += 1;
                    let queued = Queued { request, waiter: orphan.sink, term, retried };
                    for alone in queued.split(&missing).into_iter().rev() {
                        isolated.extend(self.put_back(alone));
                    }
                }
                (_, Some(_)) => {
                    self.tally.ended(orphan.asked, Outcome::ServerError);
                    refused.push(orphan.sink);
                }
                _ => failed.push((orphan.sink, orphan.asked)),
            }
        }
        failed.reverse();
        isolated.reverse();
        Unanswered { failed, refused, isolated }
    }
}

impl<W: Waiter> Shared<W> {
    /// Counts a failed dial and says how long to wait before the next; `None`: nobody needs one.
    pub fn connect_failed(self: &Rc<Self>, cause: &Cause) -> Option<Duration> {
        let mut state = self.state.borrow_mut();
        state.metrics.connections_created_with_error += 1;
        let is_refusal = matches!(cause, Cause::LoginRefused(_));
        if is_refusal {
            state.health.login_refused(self.context.now());
        } else {
            state.health.failed();
        }
        if matches!(cause, Cause::NoAnswer | Cause::ConnectTimeout { .. }) {
            state.health.probe_failed();
        }
        state.health.remember(cause);
        let is_barred = state.health.barred(cause);
        drop(state);
        if is_barred {
            self.tell(Change::Barred(cause.clone()));
        }
        self.give_up_if_hopeless(cause);
        let mut state = self.state.borrow_mut();
        state.wants_relief = false;
        if !state.queue.is_empty() {
            // There will be no other soon.
            self.drain_queue(&mut state);
        }
        state.dialling = false;
        state.dialling = state.wants_dial(&self.config, NEVER);
        state.dialling.then(|| state.health.next_dial_after(self.context.now()))
    }

    /// Ends what waits for a connection if there is no prospect of one.
    fn give_up_if_hopeless(&self, cause: &Cause) {
        let mut state = self.state.borrow_mut();
        if !state.connections.is_empty() || state.closed {
            return;
        }
        let is_hopeless = state.health.is_beyond_hope();
        if !is_hopeless && !cause.is_final() {
            return;
        }
        let turned = is_hopeless && state.health.turn_unhealthy(self.context.now());
        let error = self.unavailable(Some(cause.clone()));
        let waiting = state.take_queues(error.kind().outcome());
        state.metrics.operations_executed_with_error += waiting.len() as u64;
        drop(state);
        for waiter in waiting {
            waiter.fail(&error);
        }
        if turned {
            self.tell(Change::Unhealthy(cause.clone()));
        }
    }

    pub fn tell(&self, change: Change) {
        if let Some(listener) = &*self.on_change.borrow() {
            listener(change);
        }
    }

    /// A connection ended: what can be asked again is, the rest fails with the one cause.
    pub fn lost(self: &Rc<Self>, id: u64, cause: &Cause) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let Some(at) = state.connections.iter().position(|entry| entry.id == id) else { return };
        let entry = state.connections.remove(at);
        state.count_out(&entry);
        state.any_silent &= state.connections.iter().any(|entry| entry.is_silent);
        if state.connections.is_empty() && !cause.is_ours() {
            state.capabilities.server_lost();
        }
        state.unreplaced += u64::from(!matches!(cause, Cause::ClosedByHolder | Cause::Moved));
        let is_mute = entry.connection.bytes_read() == 0 && self.config.security.tls.is_none();
        let told = if is_mute { cause.of_mute() } else { cause.clone() };
        state.health.remember(&told);
        let is_garbage = matches!(cause, Cause::Protocol(_));
        state.metrics.protocol_errors += u64::from(is_garbage);
        let now = self.context.now();
        // One that was there already when another ended is not the fresh one that a read is promised, and
        // no sign of the node's health: idle connections end together.
        let is_fresh = entry.opened >= std::mem::replace(&mut state.last_loss, now);
        let is_provoked = state.is_provoked(&entry, cause, now);
        if is_fresh && !is_provoked && entry.is_a_failure(cause, now) {
            state.health.died();
        }
        if let Some(lease) = entry.lease {
            state.lost_leases.push((lease, told.clone()));
        }
        let line_error = entry.connection.line_error().cloned();
        let Unanswered { failed, refused, isolated } = state.ask_again(entry, cause, is_fresh);
        if line_error.is_some() {
            self.keep_keys_apart(state);
        }
        state.metrics.operations_executed_with_error += (failed.len() + refused.len()) as u64;
        let outcome = if is_garbage { Outcome::Protocol } else { Outcome::Connection };
        for (_, asked) in &failed {
            state.tally.failed(*asked, outcome, now);
        }
        // The others may have ended too: their tasks look, and then take what waits.
        for other in &state.connections {
            self.context.wake_later(other.connection.waker());
        }
        drop(guard);
        if let Some((kind, line)) = &line_error {
            for waiter in refused {
                waiter.reply(&Reply::Error(ErrorLine { kind: *kind, line }), &self.name);
            }
        }
        for (waiter, asked) in failed {
            let lost = ErrorKind::Lost { verb: asked.verb };
            let kind = if is_garbage { ErrorKind::Protocol } else { lost };
            waiter.fail(&self.error(kind, Some(told.clone())));
        }
        self.isolate_all(isolated);
        self.give_up_if_hopeless(&told);
        self.dial_if_wanted();
    }

    /// After a change of [`State::keeps_keys_apart`].
    pub fn set_max_merged_keys(&self, state: &mut State<W>) {
        let max_merged_keys = self.max_merged_keys(state);
        for entry in &mut state.connections {
            entry.connection.set_max_merged_keys(max_merged_keys);
        }
    }

    /// The server, probably a proxy, answered one of several keys with an error. From now on each has a line of
    /// its own for a while, so that no further connection has to be closed for it.
    pub fn keep_keys_apart(self: &Rc<Self>, state: &mut State<W>) {
        let until = self.context.now().saturating_add(ticks(UNMERGED_FOR));
        if state.unmerged_until.replace(until).is_some() {
            return;
        }
        self.set_max_merged_keys(state);
        self.context.spawn(merge_again(Rc::downgrade(self)));
    }

    /// Sockets are open and nothing answers: from now on calls fail at once, and a probe finds out when
    /// the node is back.
    pub fn silent(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let now = self.context.now();
        let turned = state.health.turn_unhealthy(now);
        let cause = Cause::NoAnswer;
        state.health.remember(&cause);
        let leased: Vec<_> = state.connections.iter().filter_map(|entry| entry.lease).collect();
        state.lost_leases.extend(leased.into_iter().map(|lease| (lease, cause.clone())));
        state.unreplaced += state.connections.len() as u64;
        state.capabilities.server_lost();
        let orphans = state.take_connections();
        for (_, asked) in &orphans {
            state.tally.failed(*asked, Outcome::Connection, now);
        }
        let waiting = state.take_queues(Outcome::Unavailable);
        state.metrics.operations_executed_with_error += (orphans.len() + waiting.len()) as u64;
        drop(state);
        for (waiter, asked) in orphans {
            let kind = ErrorKind::Lost { verb: asked.verb };
            waiter.fail(&self.error(kind, Some(cause.clone())));
        }
        let error = self.error(ErrorKind::Unavailable, Some(cause));
        for waiter in waiting {
            waiter.fail(&error);
        }
        if turned {
            self.tell(Change::Unhealthy(Cause::NoAnswer));
        }
        self.dial_if_wanted();
    }

    /// Hands out those whose time is up on a connection, gives up connections that are long overdue, and says when
    /// the next is due.
    fn expire_sent(&self, state: &mut State<W>, now: Tick, expired: &mut Vec<(W, Asked)>) -> Tick {
        let mut next = NEVER;
        for entry in &mut state.connections {
            let connection = &mut entry.connection;
            let health = &mut state.health;
            next = next.min(connection.expire(now, |Expired { sink, asked, sent }| {
                if sent {
                    health.timed_out();
                }
                expired.push((sink, asked));
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
        next
    }

    /// How long after its deadline an answer is waited for, on a connection that serves others.
    fn patience(&self) -> Option<Tick> {
        Some(ticks(self.config.timeout?.saturating_mul(2).max(PATIENCE)))
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

    fn waiting(&self) -> usize {
        self.state.borrow().connections.iter().filter(|e| e.connection.may_be_answered()).count()
    }

    fn wake_waiting(&self) {
        for entry in &self.state.borrow().connections {
            if entry.connection.may_be_answered() {
                entry.connection.waker().wake_by_ref();
            }
        }
    }

    fn expire(self: Rc<Self>, now: Tick) -> Tick {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let limit = self.config.timeout.unwrap_or_default();
        let mut expired = Vec::new();
        let mut next = self.expire_sent(state, now, &mut expired);
        state.find_silent(limit, now);
        next = next.min(state.queue.expire(now, |waiter, asked| {
            if state.any_silent {
                state.health.timed_out();
            }
            expired.push((waiter, asked));
        }));
        next = next.min(state.isolation.expire(now, |waiter, asked| expired.push((waiter, asked))));
        let mut unleased = Vec::new();
        next = next.min(state.leases.expire(now, |waiter| unleased.push(waiter)));
        // Whoever went away is no error, and is told only so that nothing is kept for it.
        let (gone, expired): (Vec<_>, Vec<_>) =
            expired.into_iter().partition(|(waiter, _)| waiter.is_abandoned());
        let (gone_too, unleased): (Vec<_>, Vec<_>) =
            unleased.into_iter().partition(Sink::is_abandoned);
        let timeouts = (expired.len() + unleased.len()) as u64;
        state.metrics.operations_executed_with_error += timeouts;
        state.metrics.requests_timed_out += timeouts;
        for (_, asked) in &expired {
            state.tally.failed(*asked, Outcome::Timeout, now);
        }
        for (_, asked) in &gone {
            state.tally.ended(*asked, Outcome::Cancelled);
        }
        let no_connection = state.connections.is_empty().then(|| {
            let last = state.health.last_failure().filter(|_| state.health.is_failing()).cloned();
            last.unwrap_or(Cause::Dialling(self.phase.get()))
        });
        let seems_silent = state.health.is_healthy() && state.health.is_silent(now, limit);
        let confirms = seems_silent && !std::mem::replace(&mut state.is_confirming, true);
        next = next.min(self.look_at_stalled(state, now));
        drop(guard);
        for waiter in gone.into_iter().map(|(waiter, _)| waiter).chain(gone_too) {
            waiter.dismiss();
        }
        for (waiter, asked) in expired {
            let kind = ErrorKind::Timeout { verb: asked.verb, limit };
            waiter.fail(&self.error(kind, no_connection.clone()));
        }
        for waiter in unleased {
            waiter.fail(&self.error(ErrorKind::NoLease { limit }, no_connection.clone()));
        }
        if confirms {
            self.context.spawn(confirm(Rc::downgrade(&self)));
        }
        self.dial_if_wanted();
        next
    }
}
