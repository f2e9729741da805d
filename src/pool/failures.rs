//! How requests end without a reply: at their deadline, with their connection, or with their node.
//!
//! Waiters are notified after the state is released, because they may submit new requests.
use std::rc::Rc;
use std::time::Duration;

use super::context::Member;
use super::error::{Cause, ErrorKind};
use super::health::{Change, nanos};
use super::queue::QueuedRequest;
use super::shared::{GRACE_PERIOD, Shared};
use super::stalls::{PROBES, confirm_silence};
use super::state::{Entry, State};
use super::tasks::resume_merging;
use super::waiter::Waiter;
use crate::protocol::{
    CallResult, ErrorLine, ExpiredRequest, Family, NEVER, Nanos, OwnedRequest, Reply, ReplyHandler,
    RequestInfo, Retry, Timing,
};

/// How long keys do not share lines after an error in the reply to several keys.
const UNMERGED_FOR: Duration = Duration::from_secs(30);

/// The requests of a lost connection that are not queued again.
struct LostRequests<W> {
    failed: Vec<(W, RequestInfo)>,
    /// The waiters to which the error line applies that ended the connection.
    refused: Vec<W>,
    /// Requests that must not be retried on a shared connection.
    isolated: Vec<(Family, QueuedRequest<W>)>,
}

impl<W: Waiter> State<W> {
    /// Queues the requests of a lost connection that can be retried, ahead of all waiting ones.
    fn requeue_orphans(
        &mut self,
        entry: Entry<W>,
        cause: &Cause,
        is_fresh: bool,
    ) -> LostRequests<W> {
        let (mut failed, mut refused, mut isolated) = (Vec::new(), Vec::new(), Vec::new());
        if matches!(cause, Cause::Panicked) {
            failed.extend(entry.connection.into_handlers());
            return LostRequests { failed, refused, isolated };
        }
        // The holder's requests are sent on the checked-out connection or not at all.
        let is_garbage = matches!(cause, Cause::Protocol(_));
        let may_repeat = !is_garbage && entry.checkout.is_none() && !self.closed;
        // A silent server may still execute the bytes that it has received.
        let may_run_later = matches!(cause, Cause::NoAnswer);
        for mut orphan in entry.connection.into_orphans().into_iter().rev() {
            let is_read = orphan.info.verb.retry() == Retry::Once;
            if may_run_later && orphan.sent {
                orphan.retry.take_if(|request| {
                    matches!(request,
                    OwnedRequest::Retrieval { verb, .. } if verb.changes_expiration())
                });
            }
            // A connection that the pool closed does not count as an attempt.
            let is_spent = is_read && orphan.retried && is_fresh && !cause.closed_by_pool();
            let timing = Timing { issued_at: orphan.info.issued_at, deadline: orphan.deadline };
            let retried = orphan.retried || (is_read && orphan.sent && !cause.closed_by_pool());
            match (orphan.retry, orphan.missing) {
                (Some(request), None) if may_repeat && !is_spent => {
                    let mut waiter = orphan.handler;
                    waiter.restart();
                    self.metrics.requests_retried += u64::from(is_read && orphan.sent);
                    isolated.extend(self.requeue(QueuedRequest {
                        request,
                        waiter,
                        timing,
                        retried,
                    }));
                }
                (Some(request), Some(missing)) if may_repeat => {
                    self.metrics.requests_retried += 1;
                    let queued = QueuedRequest { request, waiter: orphan.handler, timing, retried };
                    for alone in queued.split(&missing).into_iter().rev() {
                        isolated.extend(self.requeue(alone));
                    }
                }
                (_, Some(_)) => {
                    self.stats.record(orphan.info, CallResult::ServerError);
                    refused.push(orphan.handler);
                }
                _ => failed.push((orphan.handler, orphan.info)),
            }
        }
        failed.reverse();
        isolated.reverse();
        LostRequests { failed, refused, isolated }
    }
}

impl<W: Waiter> Shared<W> {
    /// Counts a failed dial and returns the wait before the next; `None` if no connection is
    /// needed.
    pub fn connect_failed(self: &Rc<Self>, cause: &Cause) -> Option<Duration> {
        let mut state = self.state.borrow_mut();
        state.metrics.connections_created_with_error += 1;
        let is_refusal = matches!(cause, Cause::LoginRefused(_));
        if is_refusal {
            state.health.login_refused(self.context.now());
        } else {
            state.health.dial_failed();
        }
        if matches!(cause, Cause::NoAnswer | Cause::ConnectTimeout { .. }) {
            state.health.probe_failed(1);
        }
        state.health.set_last_failure(cause);
        let is_login_failing = state.health.login_failing(cause);
        drop(state);
        if is_login_failing {
            self.notify_change(Change::LoginFailing(cause.clone()));
        }
        self.fail_queued_if_unreachable(cause);
        let mut state = self.state.borrow_mut();
        state.needs_relief = false;
        if !state.queue.is_empty() {
            // No other connection will open soon.
            self.drain_queue(&mut state);
        }
        state.dialling = false;
        state.dialling = state.wants_dial(&self.config, NEVER);
        state.dialling.then(|| state.health.next_dial_after(self.context.now()))
    }

    /// Fails the waiting requests if no connection is to be expected.
    fn fail_queued_if_unreachable(&self, cause: &Cause) {
        let mut state = self.state.borrow_mut();
        if !state.connections.is_empty() || state.closed {
            return;
        }
        let is_unreachable = state.health.is_unreachable();
        if !is_unreachable && !cause.is_final() {
            return;
        }
        let turned = is_unreachable && state.health.mark_unhealthy(self.context.now());
        let error = self.unavailable(Some(cause.clone()));
        let waiting = state.take_queued(error.kind().call_result());
        state.metrics.operations_executed_with_error += waiting.len() as u64;
        drop(state);
        for waiter in waiting {
            waiter.fail(&error);
        }
        if turned {
            self.notify_change(Change::Unhealthy(cause.clone()));
        }
    }

    pub fn notify_change(&self, change: Change) {
        if let Some(listener) = &*self.on_change.borrow() {
            listener(change);
        }
    }

    /// Handles the end of a connection: requests that can be retried are queued, the others fail
    /// with this cause.
    pub fn connection_lost(self: &Rc<Self>, id: u64, cause: &Cause) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let Some(at) = state.connections.iter().position(|entry| entry.id == id) else { return };
        let entry = state.connections.remove(at);
        state.record_closed(&entry);
        state.any_silent &= state.connections.iter().any(|entry| entry.is_silent);
        if state.connections.is_empty() && !cause.closed_by_pool() {
            state.capabilities.forget_server();
        }
        state.unreplaced += u64::from(!matches!(cause, Cause::ClosedByHolder | Cause::Relocated));
        let is_silent = entry.connection.bytes_read() == 0 && self.config.security.tls.is_none();
        let reported_cause = if is_silent { cause.when_silent() } else { cause.clone() };
        state.health.set_last_failure(&reported_cause);
        let is_garbage = matches!(cause, Cause::Protocol(_));
        state.metrics.protocol_errors += u64::from(is_garbage);
        let now = self.context.now();
        // A connection that was open when another one ended is not the fresh one that a read is
        // promised. It says nothing about the node's health either, because idle connections end
        // together.
        let is_fresh = entry.opened >= std::mem::replace(&mut state.last_loss, now);
        let is_provoked = state.is_provoked(&entry, cause, now);
        if is_fresh && !is_provoked && entry.is_a_failure(cause, now) {
            state.health.connection_died();
        }
        if let Some(checkout) = entry.checkout {
            state.lost_checkouts.push((checkout, reported_cause.clone()));
        }
        let line_error = entry.connection.line_error().cloned();
        let LostRequests { failed, refused, mut isolated } =
            state.requeue_orphans(entry, cause, is_fresh);
        if state.connections.is_empty() {
            // The next connection may lead to a server that does not know these commands.
            let State { queue, capabilities, .. } = state;
            let taken = queue.take_unshareable(|family| capabilities.may_share(family));
            isolated.extend(taken.into_iter().map(|queued| (queued.family(), queued)));
        }
        if line_error.is_some() {
            self.stop_merging(state, UNMERGED_FOR);
        }
        state.metrics.operations_executed_with_error += (failed.len() + refused.len()) as u64;
        let result = if is_garbage { CallResult::Protocol } else { CallResult::Connection };
        for (_, info) in &failed {
            state.stats.record_with_latency(*info, result, now);
        }
        // Other connections may have ended too. Their tasks check, and then take the waiting
        // requests.
        for other in &state.connections {
            self.context.wake_later(other.connection.waker());
        }
        drop(guard);
        if let Some((kind, line)) = &line_error {
            for waiter in refused {
                waiter.reply(&Reply::Error(ErrorLine { kind: *kind, line }), &self.name);
            }
        }
        for (waiter, info) in failed {
            let lost = ErrorKind::Lost { verb: info.verb };
            let kind = if is_garbage { ErrorKind::Protocol } else { lost };
            waiter.fail(&self.error(kind, Some(reported_cause.clone())));
        }
        self.isolate_all(isolated);
        self.fail_queued_if_unreachable(&reported_cause);
        self.dial_if_wanted();
    }

    /// Must be called after [`State::is_unmerged`] has changed.
    pub fn set_max_merged_keys(&self, state: &mut State<W>) {
        let max_merged_keys = self.max_merged_keys(state);
        for entry in &mut state.connections {
            entry.connection.set_max_merged_keys(max_merged_keys);
        }
    }

    /// For a while each key gets a line of its own: because one of several keys was answered by an
    /// error, probably of a proxy, and the next error must not cost another connection, or because
    /// requests are held up.
    pub fn stop_merging(self: &Rc<Self>, state: &mut State<W>, duration: Duration) {
        let until = self.context.now().saturating_add(nanos(duration));
        let before = state.unmerged_until;
        state.unmerged_until = Some(before.map_or(until, |before| before.max(until)));
        if before.is_some() {
            return;
        }
        self.set_max_merged_keys(state);
        self.context.spawn(resume_merging(Rc::downgrade(self)));
    }

    /// The node accepts connections and answers nothing. From now on calls fail immediately, and
    /// probes detect when the node is back.
    pub fn node_silent(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let now = self.context.now();
        let turned = state.health.mark_unhealthy(now);
        let cause = Cause::NoAnswer;
        state.health.set_last_failure(&cause);
        let checked_out: Vec<_> =
            state.connections.iter().filter_map(|entry| entry.checkout).collect();
        state
            .lost_checkouts
            .extend(checked_out.into_iter().map(|checkout| (checkout, cause.clone())));
        state.unreplaced += state.connections.len() as u64;
        state.capabilities.forget_server();
        let waiters = state.take_connections();
        for (_, info) in &waiters {
            state.stats.record_with_latency(*info, CallResult::Connection, now);
        }
        let waiting = state.take_queued(CallResult::Unavailable);
        state.metrics.operations_executed_with_error += (waiters.len() + waiting.len()) as u64;
        drop(state);
        for (waiter, info) in waiters {
            let kind = ErrorKind::Lost { verb: info.verb };
            waiter.fail(&self.error(kind, Some(cause.clone())));
        }
        let error = self.error(ErrorKind::Unavailable, Some(cause));
        for waiter in waiting {
            waiter.fail(&error);
        }
        if turned {
            self.notify_change(Change::Unhealthy(Cause::NoAnswer));
        }
        self.dial_if_wanted();
    }

    /// Takes the requests whose deadline has passed, closes connections that are long overdue, and
    /// returns the next deadline.
    fn expire_sent(
        &self,
        state: &mut State<W>,
        now: Nanos,
        expired: &mut Vec<(W, RequestInfo)>,
    ) -> Nanos {
        let mut next = NEVER;
        for entry in &mut state.connections {
            let connection = &mut entry.connection;
            let health = &mut state.health;
            next = next.min(connection.expire(now, |ExpiredRequest { handler, info, sent }| {
                if sent {
                    health.timed_out();
                }
                expired.push((handler, info));
            }));
            let Some((since, grace_period)) = connection.overdue_since().zip(self.grace_period())
            else {
                continue;
            };
            if since.saturating_add(grace_period) <= now {
                connection.abort(Cause::NoAnswer);
            } else {
                next = next.min(since.saturating_add(grace_period));
            }
        }
        next
    }

    /// How long after its deadline a reply is awaited on a shared connection.
    fn grace_period(&self) -> Option<Nanos> {
        Some(nanos(self.config.timeout?.saturating_mul(2).max(GRACE_PERIOD)))
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

    fn expire(self: Rc<Self>, now: Nanos) -> Nanos {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let limit = self.config.timeout.unwrap_or_default();
        let mut expired = Vec::new();
        let mut next = self.expire_sent(state, now, &mut expired);
        state.find_silent(limit, now);
        next = next.min(state.queue.expire(now, |waiter, info| {
            if state.any_silent {
                state.health.timed_out();
            }
            expired.push((waiter, info));
        }));
        next = next.min(state.isolation.expire(now, |waiter, info| expired.push((waiter, info))));
        let mut expired_checkouts = Vec::new();
        next = next.min(state.checkouts.expire(now, |waiter| expired_checkouts.push(waiter)));
        // An abandoned request is not an error. Its waiter is notified only to free its memory.
        let (abandoned, expired): (Vec<_>, Vec<_>) =
            expired.into_iter().partition(|(waiter, _)| waiter.is_abandoned());
        let (abandoned_checkouts, expired_checkouts): (Vec<_>, Vec<_>) =
            expired_checkouts.into_iter().partition(ReplyHandler::is_abandoned);
        let timeouts = (expired.len() + expired_checkouts.len()) as u64;
        state.metrics.operations_executed_with_error += timeouts;
        state.metrics.requests_timed_out += timeouts;
        for (_, info) in &expired {
            state.stats.record_with_latency(*info, CallResult::Timeout, now);
        }
        for (_, info) in &abandoned {
            state.stats.record(*info, CallResult::Cancelled);
        }
        let no_connection = state.connections.is_empty().then(|| {
            let last = state.health.last_failure().filter(|_| state.health.is_failing()).cloned();
            last.unwrap_or(Cause::Connecting(self.phase.get()))
        });
        let seems_silent = state.health.is_healthy() && state.health.is_silent(now, limit);
        let confirms = seems_silent && state.confirming == 0;
        if confirms {
            state.confirming = PROBES;
        }
        next = next.min(self.check_stalled(state, now));
        drop(guard);
        for waiter in abandoned.into_iter().map(|(waiter, _)| waiter).chain(abandoned_checkouts) {
            waiter.dismiss();
        }
        for (waiter, info) in expired {
            let kind = ErrorKind::Timeout { verb: info.verb, limit };
            waiter.fail(&self.error(kind, no_connection.clone()));
        }
        for waiter in expired_checkouts {
            waiter.fail(&self.error(ErrorKind::CheckoutTimeout { limit }, no_connection.clone()));
        }
        if confirms {
            for number in 0..PROBES {
                self.context.spawn(confirm_silence(Rc::downgrade(&self), number));
            }
        }
        self.dial_if_wanted();
        next
    }
}
