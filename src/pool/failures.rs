//! How requests end without a reply: at their deadline, with their connection, or with their node.
//!
//! Waiters are notified after the state is released, because they may submit new requests.
use std::rc::Rc;
use std::time::Duration;

use super::connections::Entry;
use super::context::{Member, Waiting};
use super::error::{Cause, ErrorKind};
use super::health::{Change, nanos};
use super::io::Io;
use super::lingering::SilentRequests;
use super::queue::QueuedRequest;
use super::shared::{GRACE_PERIOD, Shared};
use super::state::State;
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
    /// The stream of a connection that was silent.
    lingering: Option<Box<dyn Io>>,
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
            return LostRequests { failed, refused, isolated, lingering: None };
        }
        // The holder's requests are sent on the checked-out connection or not at all.
        let is_garbage = matches!(cause, Cause::Protocol(_));
        let may_repeat = !is_garbage && !entry.is_checked_out() && self.lifecycle.is_open();
        // A silent server may still execute the bytes that it has received.
        let may_run_later = matches!(cause, Cause::NoAnswer);
        let has_unanswered = entry.connection.in_flight() > 0;
        let (orphans, stream) = entry.connection.into_parts();
        let lingering = (may_run_later && has_unanswered).then_some(stream);
        for mut orphan in orphans.into_iter().rev() {
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
                    if is_read && orphan.sent {
                        self.counters.retried();
                    }
                    isolated.extend(self.requeue(QueuedRequest {
                        request,
                        waiter,
                        timing,
                        retried,
                    }));
                }
                (Some(request), Some(missing)) if may_repeat => {
                    self.counters.retried();
                    let queued = QueuedRequest { request, waiter: orphan.handler, timing, retried };
                    for alone in queued.split(&missing).into_iter().rev() {
                        isolated.extend(self.requeue(alone));
                    }
                }
                (_, Some(_)) => {
                    self.counters.failed(orphan.info, CallResult::ServerError);
                    refused.push(orphan.handler);
                }
                _ => failed.push((orphan.handler, orphan.info)),
            }
        }
        failed.reverse();
        isolated.reverse();
        LostRequests { failed, refused, isolated, lingering }
    }
}

impl<W: Waiter> Shared<W> {
    /// Counts a failed dial and returns the wait before the next; `None` if no connection is
    /// needed.
    pub fn connect_failed(self: &Rc<Self>, cause: &Cause) -> Option<Duration> {
        let mut state = self.state.borrow_mut();
        state.counters.dial_failed();
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
        state.growth.set_needs_relief(false);
        if !state.queue.is_empty() {
            // No other connection will open soon.
            self.drain_queue(&mut state);
        }
        state.growth.set_dialling(false);
        if !state.wants_dial(&self.config, NEVER) {
            return None;
        }
        state.growth.set_dialling(true);
        Some(state.health.next_dial_after(self.context.now()))
    }

    /// Fails the waiting requests if no connection is to be expected.
    fn fail_queued_if_unreachable(self: &Rc<Self>, cause: &Cause) {
        let mut state = self.state.borrow_mut();
        if !state.connections.is_empty() || !state.lifecycle.is_open() {
            return;
        }
        let is_unreachable = state.health.is_unreachable();
        if !is_unreachable && !cause.is_final() {
            return;
        }
        let turned = is_unreachable && state.health.mark_unhealthy(self.context.now());
        let stranded = if turned { self.take_stranded(&mut state) } else { Vec::new() };
        let error = self.unavailable(Some(cause.clone()));
        let waiting = state.take_queued(error.kind().call_result());
        state.counters.add_errors(waiting.len());
        drop(state);
        for waiter in waiting {
            waiter.fail(&error);
        }
        if turned {
            self.notify_change(Change::Unhealthy(cause.clone()));
        }
        self.strand(stranded);
    }

    /// Takes the queued requests, if other nodes take them.
    fn take_stranded(&self, state: &mut State<W>) -> Vec<QueuedRequest<W>> {
        let is_wanted = self.on_stranded.borrow().is_some();
        if is_wanted { state.queue.take_all() } else { Vec::new() }
    }

    /// Hands over the requests that other nodes may take, and fails the others. They must not be
    /// submitted within the current call, because its caller may be in the middle of a change.
    fn strand(self: &Rc<Self>, stranded: Vec<QueuedRequest<W>>) {
        if stranded.is_empty() {
            return;
        }
        let pool = self.clone();
        self.context.spawn(async move {
            for queued in stranded.into_iter().flat_map(QueuedRequest::split_all_keys) {
                let QueuedRequest { request, waiter, timing, .. } = queued;
                match &*pool.on_stranded.borrow() {
                    _ if waiter.is_abandoned() => waiter.dismiss(),
                    _ if waiter.is_bound() || !request.has_key() => {
                        waiter.fail(&pool.error(ErrorKind::Unavailable, None));
                    }
                    Some(listener) => listener(request, waiter, timing.deadline),
                    None => waiter.fail(&pool.error(ErrorKind::Closed, None)),
                }
            }
        });
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
        let Some(at) = state.connections.position_of(id) else { return };
        let now = self.context.now();
        // A connection that was open when another one ended is not the fresh one that a read is
        // promised. It says nothing about the node's health either, because idle connections end
        // together.
        let (mut entry, is_fresh) = state.connections.remove_lost(at, now);
        state.record_closed(&mut entry);
        state.capabilities.connection_lost(cause, state.connections.is_empty());
        if !matches!(cause, Cause::ClosedByHolder | Cause::Relocated) {
            state.growth.lost(1);
        }
        let is_silent = entry.connection.bytes_read() == 0 && self.config.security.tls.is_none();
        let reported_cause = if is_silent { cause.when_silent() } else { cause.clone() };
        state.health.set_last_failure(&reported_cause);
        let is_garbage = matches!(cause, Cause::Protocol(_));
        if is_garbage {
            state.counters.protocol_error();
        }
        let is_provoked = state.is_provoked(&entry, cause, now);
        if is_fresh && !is_provoked && entry.is_a_failure(cause, now) {
            state.health.connection_died();
        }
        if let Some(checkout) = entry.checkout() {
            state.checkouts.record_loss(checkout, reported_cause.clone());
        }
        let line_error = entry.connection.line_error().cloned();
        let LostRequests { failed, refused, mut isolated, lingering } =
            state.requeue_orphans(entry, cause, is_fresh);
        self.linger(lingering);
        if state.connections.is_empty() {
            isolated.extend(state.take_unshareable());
        }
        if line_error.is_some() {
            // It is probably of a proxy, and the next error must not cost another connection.
            let until = now.saturating_add(nanos(UNMERGED_FOR));
            if state.precautions.stop_merging(until) {
                self.merging_stopped(state);
            }
        }

        let result = if is_garbage { CallResult::Protocol } else { CallResult::Connection };
        for (_, info) in &failed {
            state.counters.failed_at(now, *info, result);
        }
        // Other connections may have ended too. Their tasks check, and then take the waiting
        // requests.
        for other in state.connections.iter() {
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

    /// Must be called after [`Precautions::is_unmerged`] has changed.
    ///
    /// [`Precautions::is_unmerged`]: super::precautions::Precautions::is_unmerged
    pub fn set_max_merged_keys(&self, state: &mut State<W>) {
        let max_merged_keys = self.max_merged_keys(state);
        for entry in state.connections.iter_mut() {
            entry.connection.set_max_merged_keys(max_merged_keys);
        }
    }

    /// Gives each key a line of its own until the precautions end.
    pub fn merging_stopped(self: &Rc<Self>, state: &mut State<W>) {
        self.set_max_merged_keys(state);
        self.context.spawn(resume_merging(Rc::downgrade(self)));
    }

    /// The node accepts connections and answers nothing. From now on calls fail immediately, and
    /// probes detect when the node is back.
    pub fn node_silent(self: &Rc<Self>) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let now = self.context.now();
        let turned = state.health.mark_unhealthy(now);
        let cause = Cause::NoAnswer;
        state.health.set_last_failure(&cause);
        for checkout in state.connections.iter().filter_map(Entry::checkout) {
            state.checkouts.record_loss(checkout, cause.clone());
        }
        state.growth.lost(state.connections.len());
        state.capabilities.forget_server();
        let is_stranded = self.on_stranded.borrow().is_some();
        let SilentRequests { failed: waiters, mut stranded, streams } =
            state.take_silent(is_stranded);
        self.linger(streams);
        for (_, info) in &waiters {
            state.counters.failed_at(now, *info, CallResult::Connection);
        }
        stranded.extend(self.take_stranded(state));
        let waiting = state.take_queued(CallResult::Unavailable);
        state.counters.add_errors(waiting.len());
        drop(guard);
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
        self.strand(stranded);
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
        for entry in state.connections.iter_mut() {
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
        for entry in state.connections.iter_mut() {
            if entry.connection.has_unflushed() {
                self.flush_entry(entry, &mut state.health);
            }
        }
    }

    fn waiting(&self) -> usize {
        self.state.borrow().connections.iter().filter(|e| e.connection.may_be_answered()).count()
    }

    fn wake_waiting(&self) {
        for entry in self.state.borrow().connections.iter() {
            if entry.connection.may_be_answered() {
                entry.connection.waker().wake_by_ref();
            }
        }
    }

    fn block_next_read(&self) {
        for entry in self.state.borrow_mut().connections.iter_mut() {
            if entry.connection.in_flight() > 0 {
                entry.connection.block_next_read();
            }
        }
    }

    fn has_unwritten(&self) -> bool {
        self.state.borrow().connections.iter().any(|entry| entry.connection.unwritten() > 0)
    }

    fn list_waiting(&self, list: &mut Vec<Waiting>) -> bool {
        let state = self.state.borrow();
        let is_elsewhere =
            !state.queue.is_empty() || !state.checkouts.is_empty() || state.isolation.len() > 0;
        !is_elsewhere
            && state.connections.iter().all(|Entry { connection, .. }| {
                if connection.in_flight() == 0 {
                    return true;
                }
                let waiting = connection.waiting();
                let is_known = waiting.is_some();
                list.extend(waiting);
                is_known
            })
    }

    fn expire(self: Rc<Self>, now: Nanos) -> Nanos {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let limit = self.config.timeout.unwrap_or_default();
        let mut expired = Vec::new();
        let mut next = self.expire_sent(state, now, &mut expired);
        state.find_silent(limit, now);
        next = next.min(state.queue.expire(now, |waiter, info| {
            if state.connections.any_silent() {
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
        state.counters.checkouts_timed_out(expired_checkouts.len());
        for (_, info) in &expired {
            state.counters.timed_out(now, *info);
        }
        for (_, info) in &abandoned {
            state.counters.ended(*info, CallResult::Cancelled);
        }
        let no_connection = state.connections.is_empty().then(|| {
            let last = state.health.last_failure().filter(|_| state.health.is_failing()).cloned();
            last.unwrap_or(Cause::Connecting(self.phase.get()))
        });
        let seems_silent = state.health.is_healthy() && state.health.is_silent(now, limit);
        let confirms = seems_silent && !state.silence.is_probed();
        if confirms {
            state.silence.start_probes();
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
            self.confirm_silence();
        }
        self.dial_if_wanted();
        next
    }
}
