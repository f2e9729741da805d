//! Isolated requests: each has a connection of its own, because a proxy may close the connection
//! instead of replying.
//!
//! These connections affect neither the shared ones nor the node's health. The first request of a
//! [`Family`] finds out whether the node supports it. The others of the family wait for the result,
//! and then use the shared connections. If the node does not support the family, callers with a
//! substitute fail with [`ErrorKind::Unanswered`], and later calls fail the same way immediately
//! for a while.
//!
//! Invariant: every request is in exactly one place: `waiting`, or the [`IsolatedStep`] of one of
//! `running`.
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use super::capabilities::{UNSUPPORTED_FOR, has_substitute, is_optional};
use super::connection::Connection;
use super::context::{catch_panic, unless_notified};
use super::dial::Connector;
use super::error::{Cause, Error, ErrorKind};
use super::io::Io;
use super::isolation::{
    Answer, IsolatedRequest, IsolatedStep, MAX_RUNNING, Observation, Observer, WAIT_FOR_FIRST,
};
use super::meta_probe::{MetaSupport, meta_version};
use super::order::PendingWrites;
use super::queue::QueuedRequest;
use super::shared::{Pool, Shared};
use super::state::State;
use super::submission::{Submission, meta_lack};
use super::waiter::Waiter;
use crate::protocol::meta::Lack;
use crate::protocol::{CallResult, Family, Nanos, Orphan, RequestInfo, Timing, Verb};

/// How often to check whether earlier writes are answered.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The timeout of the probe for meta commands. A quarter of the client's timeout limits it too.
const META_PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The timeout of a dial if there is no `connection_timeout`.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

impl<W: Waiter> Pool<W> {
    /// Like [`Self::submit_any`], on a new connection for this request.
    pub fn submit_isolated(&self, outgoing: Submission<'_>, waiter: W, deadline: Nanos) {
        let shared = &self.0;
        let state = shared.state();
        if let Some(refusal) = shared.refusal(&state, outgoing.payload_len()) {
            drop(state);
            waiter.fail(&refusal);
            return;
        }
        drop(state);
        let (request, timing) = (outgoing.into_owned(), shared.timing(deadline));
        let queued = QueuedRequest { request, waiter, timing, retried: false };
        shared.isolate(Family::Classic, queued);
        shared.context.arm(deadline);
    }
}

impl<W: Waiter> State<W> {
    /// Records what the reply to a command says about its family; `None` if there was no reply.
    fn learn(&mut self, family: Family, answer: Option<Answer>, now: Nanos) {
        let is_optional = is_optional(family);
        match answer {
            Some(Answer::Good) => self.capabilities.mark_supported(family),
            // A proxy that lacks the command does not forward it to its servers.
            Some(Answer::Failed) if is_optional => self.capabilities.mark_supported(family),
            Some(Answer::Refused) | None if is_optional => {
                self.capabilities.mark_unsupported(family, now, UNSUPPORTED_FOR);
            }
            Some(Answer::Refused | Answer::Failed) | None => {}
        }
    }
}

impl<W: Waiter> Shared<W> {
    /// Accepts a request that must not be sent on a shared connection.
    pub fn isolate(self: &Rc<Self>, family: Family, queued: QueuedRequest<W>) {
        let mut state = self.state();
        if state.closed {
            drop(state);
            queued.waiter.fail(&self.error(ErrorKind::Closed, None));
        } else if is_optional(family)
            && state.capabilities.is_unsupported(family, self.context.now())
        {
            drop(state);
            self.fail_unsupported(queued);
        } else {
            state.isolation.waiting.push_back((family, queued));
            drop(state);
            self.start_next(family);
            self.dial_if_wanted();
        }
    }

    pub fn isolate_all(self: &Rc<Self>, requests: Vec<(Family, QueuedRequest<W>)>) {
        for (family, queued) in requests {
            self.isolate(family, queued);
        }
    }

    /// A connection to the node was opened, so waiting requests can start.
    pub fn start_waiting(self: &Rc<Self>) {
        let waiting = self.state().isolation.waiting.iter().map(|(family, _)| *family).collect();
        let mut families: Vec<Family> = waiting;
        families.dedup();
        for family in families {
            self.start_next(family);
        }
    }

    /// Starts the next requests of a family, as many as may run.
    fn start_next(self: &Rc<Self>, family: Family) {
        let now = self.context.now();
        let mut guard = self.state();
        let state = &mut *guard;
        // Without a connection the node may be down, and the pool's own task paces the dials.
        if state.closed || state.connections.is_empty() {
            return;
        }
        let isolation = &mut state.isolation;
        let max_running = isolation.max_running(family, now);
        if isolation.running_count(family) >= MAX_RUNNING {
            isolation.abort_abandoned(family);
        }
        let mut started = Vec::new();
        while isolation.running_count(family) < max_running {
            let is_next = |(waiting, _): &(Family, QueuedRequest<W>)| *waiting == family;
            let Some(at) = isolation.waiting.iter().position(is_next) else { break };
            let request = if family == Family::Meta {
                // A probe of the pool decides for all waiting requests.
                None
            } else {
                let Some((_, queued)) = isolation.waiting.remove(at) else { break };
                if queued.waiter.is_abandoned() {
                    state.stats.record(queued.info(), CallResult::Cancelled);
                    queued.waiter.dismiss();
                    continue;
                }
                Some(queued)
            };
            let id = isolation.next_id;
            isolation.next_id += 1;
            let (since, step) = (now, IsolatedStep::Connecting(request));
            isolation.running.push(IsolatedRequest { id, family, since, step });
            started.push(id);
        }
        drop(guard);
        for id in started {
            self.context.spawn(run(Rc::downgrade(self), id, family));
        }
    }

    /// Whether a request must wait for the reply to an earlier `noreply` write. `before` holds
    /// these writes once they are known.
    fn must_wait(&self, id: u64, before: &mut Option<PendingWrites>) -> bool {
        let state = self.state();
        let Some(running) = state.isolation.running.iter().find(|running| running.id == id) else {
            return false;
        };
        let IsolatedStep::Connecting(Some(queued)) = &running.step else { return false };
        if before.is_none() && !state.queue.has_noreply() {
            *before = Some(state.pending_writes(&queued.request));
        }
        !before.as_ref().is_some_and(|writes| state.are_answered(writes))
    }

    /// Sends the request on its new connection. Returns whether its caller still waits.
    fn send_isolated(&self, id: u64, stream: Box<dyn Io>) -> bool {
        let mut state = self.state();
        let Some(running) = state.isolation.find(id) else { return false };
        let IsolatedStep::Connecting(request) = &mut running.step else { return false };
        let Some(QueuedRequest { request, waiter, timing, retried }) = request.take() else {
            return false;
        };
        let (verb, answer) = (request.verb(), Cell::new(None));
        let observation = Rc::new(Observation { verb, answer, refused: RefCell::default() });
        let has_substitute = has_substitute(&request);
        let handler = Observer { waiter, observation: observation.clone(), has_substitute };
        let mut connection =
            Box::new(Connection::new(stream, self.dialect(), 1, self.name.clone()));
        connection.push_owned(&request, handler, timing, retried);
        connection.flush();
        running.step = IsolatedStep::Sent(connection, observation);
        true
    }

    /// Ready with `None` when the request is answered, or with the cause when its connection has
    /// ended.
    fn poll_isolated(&self, id: u64, cx: &mut TaskContext<'_>) -> Poll<Option<Cause>> {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(running) = state.isolation.find(id) else { return Poll::Ready(None) };
        let IsolatedStep::Sent(connection, _) = &mut running.step else {
            return Poll::Ready(None);
        };
        let (answered, refused) = (connection.answered(), connection.refused());
        let polled = {
            let clock = || self.context.now();
            catch_unwind(AssertUnwindSafe(|| connection.poll(cx, clock, &mut state.stats)))
                .unwrap_or(Poll::Ready(Cause::Panicked))
        };
        if connection.has_more() {
            self.context.wake_later(cx.waker());
        }
        state.metrics.operations_executed += connection.answered() - answered;
        state.metrics.operations_executed_with_error += connection.refused() - refused;
        match polled {
            Poll::Pending if connection.in_flight() > 0 => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
            Poll::Ready(cause) => Poll::Ready(Some(cause)),
        }
    }

    /// Handles the end of a request: `cause` is `None` if it was answered.
    fn finish_isolated(self: &Rc<Self>, id: u64, cause: Option<Cause>) {
        let Some((family, step)) = self.take_running(id) else { return };
        let IsolatedStep::Sent(connection, observation) = step else {
            // The caller was cancelled during the dial.
            return self.resume_waiting(family);
        };
        let (answer, refused) = (observation.answer(&connection), observation.refused.take());
        let mut state = self.state();
        state.metrics.bytes_read += connection.bytes_read();
        state.metrics.bytes_written += connection.bytes_written();
        state.learn(family, answer, self.context.now());
        drop(state);
        if let Some(waiter) = refused {
            let verb = observation.verb;
            waiter.fail(&self.error(ErrorKind::Unanswered { verb }, None));
        }
        let cause = cause.unwrap_or(Cause::Eof);
        if matches!(cause, Cause::Panicked) {
            for (handler, info) in connection.into_handlers() {
                self.fail_isolated(family, handler.waiter, info, &cause);
            }
        } else {
            for orphan in connection.into_orphans() {
                self.end_isolated(family, orphan, answer, &cause);
            }
        }
        self.resume_waiting(family);
    }

    /// Ends a request whose reply is missing or incomplete.
    fn end_isolated(
        &self,
        family: Family,
        orphan: Orphan<Observer<W>>,
        answer: Option<Answer>,
        cause: &Cause,
    ) {
        let Orphan { handler: Observer { waiter, .. }, info, deadline, retried, .. } = orphan;
        match (orphan.retry, orphan.missing) {
            // An error for one of several keys, from a node that supports the command.
            (Some(request), Some(missing)) if answer == Some(Answer::Failed) => {
                let timing = Timing { issued_at: info.issued_at, deadline };
                let queued = QueuedRequest { request, waiter, timing, retried };
                let mut state = self.state();
                state.metrics.requests_retried += 1;
                for alone in queued.split(&missing).into_iter().rev() {
                    state.queue.push_front(alone);
                }
            }
            (_, Some(_)) => {
                let verb = info.verb;
                waiter.fail(&self.error(ErrorKind::Unanswered { verb }, None));
            }
            _ => self.fail_isolated(family, waiter, info, cause),
        }
    }

    fn fail_isolated(&self, family: Family, waiter: W, info: RequestInfo, cause: &Cause) {
        let verb = info.verb;
        let mut state = self.state();
        state.metrics.operations_executed_with_error += 1;
        let is_garbage = matches!(cause, Cause::Protocol(_));
        state.metrics.protocol_errors += u64::from(is_garbage);
        let result = if is_garbage { CallResult::Protocol } else { CallResult::Connection };
        state.stats.record_with_latency(info, result, self.context.now());
        // A server that expects TLS sends nothing at all.
        let is_silent = !state.health.has_received() && self.config.security.tls.is_none();
        drop(state);
        let kind = match cause {
            Cause::Protocol(_) => ErrorKind::Protocol,
            Cause::TooManyConnections => ErrorKind::Unavailable,
            _ if family == Family::Classic => ErrorKind::Lost { verb },
            Cause::Panicked => ErrorKind::Lost { verb },
            _ => ErrorKind::Unanswered { verb },
        };
        let reported_cause = if is_silent { cause.when_silent() } else { cause.clone() };
        waiter.fail(&self.error(kind, Some(reported_cause)));
    }

    /// The dial for a request or a probe failed.
    fn dial_failed_isolated(self: &Rc<Self>, id: u64, cause: &Cause) {
        let Some((family, step)) = self.take_running(id) else { return };
        let now = self.context.now();
        let mut state = self.state();
        state.metrics.connections_created_with_error += 1;
        let mut failed = state.isolation.take_waiting(family);
        if let IsolatedStep::Connecting(Some(queued)) = step {
            failed.insert(0, queued);
        }
        if is_optional(family) {
            state.capabilities.mark_undecided(family, now);
        }
        drop(state);
        for queued in failed {
            if has_substitute(&queued.request) {
                self.fail_unanswered(queued, Some(cause.clone()));
                continue;
            }
            self.fail_unavailable(queued, Some(cause.clone()));
        }
    }

    fn fail_unavailable(&self, queued: QueuedRequest<W>, cause: Option<Cause>) {
        let error = self.unavailable(cause);
        let mut state = self.state();
        state.metrics.operations_executed_with_error += 1;
        state.stats.record(queued.info(), error.kind().call_result());
        drop(state);
        queued.waiter.fail(&error);
    }

    /// The node is known not to support the family, or could not be asked a moment ago.
    fn fail_unsupported(&self, queued: QueuedRequest<W>) {
        if has_substitute(&queued.request) {
            return self.fail_unanswered(queued, None);
        }
        let verb = queued.request.verb();
        let state = self.state();
        if state.capabilities.is_undecided(verb.family()) {
            let cause = state.health.last_failure().cloned();
            drop(state);
            return self.fail_unavailable(queued, cause);
        }
        let error = self.unsupported(&state, verb, Lack::ALL);
        drop(state);
        queued.waiter.fail(&error);
    }

    /// Nothing was sent, so it is not counted as a failure of the node.
    pub fn unsupported(&self, state: &State<W>, verb: Verb, lack: Lack) -> Error {
        let version = state.capabilities.meta_version();
        self.error(ErrorKind::Unsupported { verb, lack, version }, None)
    }

    /// Not counted as a failure: the caller uses other commands instead, and those are counted.
    fn fail_unanswered(&self, queued: QueuedRequest<W>, cause: Option<Cause>) {
        let verb = queued.request.verb();
        queued.waiter.fail(&self.error(ErrorKind::Unanswered { verb }, cause));
    }

    fn record_meta_support(self: &Rc<Self>, id: u64, support: &MetaSupport) {
        let Some((family, _)) = self.take_running(id) else { return };
        let now = self.context.now();
        let mut state = self.state();
        match *support {
            MetaSupport::Version(version) => {
                let answers = state.stats.answers(family);
                state.capabilities.learn_meta(version, answers);
            }
            MetaSupport::Missing => {
                state.capabilities.mark_unsupported(family, now, UNSUPPORTED_FOR);
            }
            MetaSupport::Undecided => state.capabilities.mark_undecided(family, now),
        }
        drop(state);
        self.resume_waiting(family);
    }

    /// After a result, waiting requests are shared, failed, or started in turn.
    fn resume_waiting(self: &Rc<Self>, family: Family) {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.closed {
            return;
        }
        if family != Family::Classic && state.capabilities.may_share(family) {
            let mut refused = Vec::new();
            for queued in state.isolation.take_waiting(family).into_iter().rev() {
                match meta_lack(&queued.request, &state.capabilities) {
                    Some(lack) => refused.push((queued, lack)),
                    None => state.queue.push_front(queued),
                }
            }
            self.drain_queue(state);
            let refused = refused.into_iter().rev().map(|(queued, lack)| {
                let verb = queued.request.verb();
                (queued.waiter, self.unsupported(state, verb, lack))
            });
            let refused: Vec<_> = refused.collect();
            drop(guard);
            for (waiter, error) in refused {
                waiter.fail(&error);
            }
            self.dial_if_wanted();
        } else if is_optional(family)
            && state.capabilities.is_unsupported(family, self.context.now())
        {
            let waiting = state.isolation.take_waiting(family);
            drop(guard);
            for queued in waiting {
                self.fail_unsupported(queued);
            }
        } else {
            drop(guard);
            self.start_next(family);
        }
    }

    fn take_running(&self, id: u64) -> Option<(Family, IsolatedStep<W>)> {
        let mut state = self.state();
        let at = state.isolation.running.iter().position(|running| running.id == id)?;
        let IsolatedRequest { family, step, .. } = state.isolation.running.swap_remove(at);
        Some((family, step))
    }
}

/// Runs one request. If it takes long, other requests of its family start without waiting for it.
async fn run<W: Waiter>(pool: Weak<Shared<W>>, id: u64, family: Family) {
    let Some(strong) = pool.upgrade() else { return };
    let (context, closing) = (strong.context.clone(), strong.closing.clone());
    drop(strong);
    let mut asking = pin!(unless_notified(&closing, run_one(&pool, id, family)));
    if context.timeout(Some(WAIT_FOR_FIRST), asking.as_mut()).await.is_some() {
        return;
    }
    if let Some(pool) = pool.upgrade() {
        pool.start_next(family);
    }
    asking.await;
}

async fn run_one<W: Waiter>(pool: &Weak<Shared<W>>, id: u64, family: Family) {
    let Some(strong) = pool.upgrade() else { return };
    let (connector, ip) = (Connector::new(&strong), strong.state().location.ip);
    let has_limit = strong.config.connection_timeout.is_some();
    let meta_probe_limit = strong.config.timeout.map(|timeout| timeout / 4);
    let meta_probe_limit = meta_probe_limit.unwrap_or(META_PROBE_TIMEOUT).min(META_PROBE_TIMEOUT);
    drop(strong);
    let is_meta_probe = family == Family::Meta;
    let context = connector.context.clone();
    let dialling = connector.dial(pool, ip, &[]);
    let limit = if is_meta_probe { meta_probe_limit } else { DIAL_TIMEOUT };
    let limit = (is_meta_probe || !has_limit).then_some(limit);
    let stream = match context.timeout(limit, dialling).await {
        Some(Ok(new)) => new.stream,
        failed => {
            let Some(pool) = pool.upgrade() else { return };
            let cause = failed.map_or(Cause::NoAnswer, |failed| failed.err().unwrap_or(Cause::Eof));
            pool.dial_failed_isolated(id, &cause);
            return;
        }
    };
    if is_meta_probe {
        let learnt =
            context.timeout(Some(meta_probe_limit), catch_panic(meta_version(stream))).await;
        let Some(pool) = pool.upgrade() else { return };
        let support = match learnt {
            Some(Some(Some(version))) => MetaSupport::Version(version),
            // A proxy that sends nothing does not know the command.
            Some(Some(None)) | None => MetaSupport::Missing,
            Some(None) => MetaSupport::Undecided,
        };
        pool.record_meta_support(id, &support);
        return;
    }
    // An unanswered `noreply` write of the same task must be executed first.
    let mut before = None;
    while pool.upgrade().is_some_and(|pool| pool.must_wait(id, &mut before)) {
        context.sleep(POLL_INTERVAL).await;
    }
    let is_wanted = pool.upgrade().is_some_and(|pool| pool.send_isolated(id, stream));
    let ended = poll_fn(|cx| match pool.upgrade() {
        Some(pool) if is_wanted => pool.poll_isolated(id, cx),
        _ => Poll::Ready(None),
    });
    let cause = ended.await;
    if let Some(pool) = pool.upgrade() {
        pool.finish_isolated(id, cause);
    }
}
