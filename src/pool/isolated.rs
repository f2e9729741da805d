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
use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::capabilities::{UNDECIDED_FOR, UNSUPPORTED_FOR, has_substitute};
use super::connection::Connection;
use super::context::{catch_panic, unless_notified};
use super::dial::Connector;
use super::error::{Cause, ErrorKind};
use super::health::nanos;
use super::order::PendingWrites;
use super::pool::{Pool, Shared, Waiter};
use super::queue::QueuedRequest;
use super::state::State;
use super::submission::Submission;
use super::transport::Io;
use crate::protocol::{
    CallResult, ErrorLineKind, ExpiredRequest, Family, ItemRef, NEVER, Nanos, Orphan, Reply,
    ReplyHandler, RequestInfo, StatLine, Timing, Verb,
};

/// How long other requests of a family wait for the reply to the first. A proxy may wait for a
/// server that hangs.
const WAIT_FOR_FIRST: Duration = Duration::from_millis(100);
/// The limit for the connections of one family.
const MAX_RUNNING: usize = 8;
/// How often to check whether earlier writes are answered.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The timeout of the probe for meta commands. A quarter of the client's timeout limits it too.
const META_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// The timeout of a dial if there is no `connection_timeout`.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Proxies that forward meta commands answer `version` themselves. Earlier servers speak another
/// dialect.
const META_SINCE: &[u32] = &[1, 6, 9];

pub(super) struct Isolation<W: Waiter> {
    next_id: u64,
    running: Vec<IsolatedRequest<W>>,
    waiting: VecDeque<(Family, QueuedRequest<W>)>,
}

struct IsolatedRequest<W: Waiter> {
    id: u64,
    family: Family,
    since: Nanos,
    step: IsolatedStep<W>,
}

enum IsolatedStep<W: Waiter> {
    /// `None` for a probe of the pool, or if the caller no longer waits.
    Connecting(Option<QueuedRequest<W>>),
    Sent(Box<Connection<Observer<W>>>, Rc<Observation<W>>),
}

/// The observed reply.
struct Observation<W> {
    verb: Verb,
    answer: Cell<Option<Answer>>,
    /// The waiter that received an error line and has a substitute.
    refused: RefCell<Option<W>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Good,
    /// `ERROR` or `CLIENT_ERROR`: the node may not know the command.
    Refused,
    /// `SERVER_ERROR`: the node may know the command.
    Failed,
}

impl Answer {
    fn from_error(kind: ErrorLineKind) -> Self {
        match kind {
            ErrorLineKind::Unknown | ErrorLineKind::Client => Self::Refused,
            ErrorLineKind::Server | ErrorLineKind::Refused => Self::Failed,
        }
    }
}

impl<W: Waiter> Observation<W> {
    /// An error line in the reply to several keys does not reach a waiter.
    fn answer(&self, connection: &Connection<Observer<W>>) -> Option<Answer> {
        let line_error = || connection.line_error().map(|(kind, _)| Answer::from_error(*kind));
        self.answer.get().or_else(line_error)
    }
}

/// A waiter whose reply is observed.
struct Observer<W> {
    waiter: W,
    observation: Rc<Observation<W>>,
    has_substitute: bool,
}

impl<W: Waiter> ReplyHandler for Observer<W> {
    type Value = W::Value;

    fn item(&mut self, index: usize, item: &ItemRef<'_>, shared: Option<&Self::Value>) {
        self.waiter.item(index, item, shared);
    }

    fn stat(&mut self, stat: &StatLine<'_>) {
        self.waiter.stat(stat);
    }

    fn restart(&mut self) {
        self.waiter.restart();
    }

    fn reply(self, reply: &Reply<'_>, from: &str) {
        let answer = match reply {
            Reply::Error(error) => Answer::from_error(error.kind),
            _ => Answer::Good,
        };
        self.observation.answer.set(Some(answer));
        if self.has_substitute && answer == Answer::Refused {
            self.observation.refused.replace(Some(self.waiter));
        } else {
            self.waiter.reply(reply, from);
        }
    }

    fn is_abandoned(&self) -> bool {
        self.waiter.is_abandoned()
    }
}

impl<W: Waiter> Isolation<W> {
    pub fn new() -> Self {
        Self { next_id: 0, running: Vec::new(), waiting: VecDeque::new() }
    }

    /// The number of requests without a reply.
    pub fn len(&self) -> usize {
        let has_caller =
            |running: &&IsolatedRequest<W>| !matches!(running.step, IsolatedStep::Connecting(None));
        self.waiting.len() + self.running.iter().filter(has_caller).count()
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn running_count(&self, family: Family) -> usize {
        self.running.iter().filter(|running| running.family == family).count()
    }

    /// The number of requests of a family that may run at `now`.
    fn max_running(&self, family: Family, now: Nanos) -> usize {
        let limit = match family {
            Family::Classic => return usize::MAX,
            Family::Meta => 1,
            _ => MAX_RUNNING,
        };
        let is_slow = |running: &&IsolatedRequest<W>| {
            running.family == family && now.saturating_sub(running.since) >= nanos(WAIT_FOR_FIRST)
        };
        limit.min(1 + self.running.iter().filter(is_slow).count())
    }

    /// Closes the connections of cancelled callers to make room.
    fn abort_abandoned(&mut self, family: Family) {
        for running in self.running.iter_mut().filter(|running| running.family == family) {
            if let IsolatedStep::Sent(connection, _) = &mut running.step
                && connection.abandoned() > 0
            {
                connection.abort(Cause::NoAnswer);
            }
        }
    }

    fn find(&mut self, id: u64) -> Option<&mut IsolatedRequest<W>> {
        self.running.iter_mut().find(|running| running.id == id)
    }

    /// See [`super::queue::Queue::expire`].
    pub fn expire(&mut self, now: Nanos, mut expired: impl FnMut(W, RequestInfo)) -> Nanos {
        let mut next = NEVER;
        for running in &mut self.running {
            match &mut running.step {
                IsolatedStep::Connecting(request) => {
                    if let Some(queued) = request.take_if(|queued| queued.timing.deadline <= now) {
                        let info = queued.info();
                        expired(queued.waiter, info);
                    } else {
                        let deadline = request.as_ref().map(|queued| queued.timing.deadline);
                        next = next.min(deadline.unwrap_or(NEVER));
                    }
                }
                IsolatedStep::Sent(connection, _) => {
                    let mut is_over = false;
                    next = next.min(connection.expire(
                        now,
                        |ExpiredRequest { handler, info, .. }| {
                            is_over = true;
                            expired(handler.waiter, info);
                        },
                    ));
                    if is_over {
                        connection.abort(Cause::NoAnswer);
                    }
                }
            }
        }
        if self.waiting.iter().any(|(_, queued)| queued.timing.deadline <= now) {
            for (family, queued) in std::mem::take(&mut self.waiting) {
                if queued.timing.deadline <= now {
                    let info = queued.info();
                    expired(queued.waiter, info);
                } else {
                    self.waiting.push_back((family, queued));
                }
            }
        }
        let waiting = self.waiting.iter().map(|(_, queued)| queued.timing.deadline).min();
        next.min(waiting.unwrap_or(NEVER))
    }

    /// Closes all connections and returns all waiters, in order.
    pub fn drain(&mut self) -> Vec<(W, RequestInfo)> {
        let mut all = Vec::new();
        for running in self.running.drain(..) {
            match running.step {
                IsolatedStep::Connecting(request) => {
                    all.extend(request.map(QueuedRequest::into_waiter));
                }
                IsolatedStep::Sent(connection, _) => {
                    let orphans = connection.into_orphans().into_iter();
                    all.extend(orphans.map(|orphan| (orphan.handler.waiter, orphan.info)));
                }
            }
        }
        all.extend(self.waiting.drain(..).map(|(_, queued)| queued.into_waiter()));
        all
    }

    fn take_waiting(&mut self, family: Family) -> Vec<QueuedRequest<W>> {
        let (taken, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(waiting, _)| *waiting == family);
        self.waiting = rest;
        taken.into_iter().map(|(_, queued)| queued).collect()
    }
}

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
        let has_substitute = has_substitute(family);
        match answer {
            Some(Answer::Good) => self.capabilities.mark_supported(family),
            // A proxy that lacks the command does not forward it to its servers.
            Some(Answer::Failed) if has_substitute => self.capabilities.mark_supported(family),
            Some(Answer::Refused) | None if has_substitute => {
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
        } else if has_substitute(family)
            && state.capabilities.is_unsupported(family, self.context.now())
        {
            drop(state);
            self.fail_unanswered(queued, None);
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
        let has_substitute = has_substitute(running.family);
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
        if has_substitute(family) {
            state.capabilities.mark_unsupported(family, now, UNDECIDED_FOR);
        }
        drop(state);
        for queued in failed {
            if has_substitute(family) {
                self.fail_unanswered(queued, Some(cause.clone()));
                continue;
            }
            let error = self.unavailable(Some(cause.clone()));
            let mut state = self.state();
            state.metrics.operations_executed_with_error += 1;
            state.stats.record(queued.info(), error.kind().call_result());
            drop(state);
            queued.waiter.fail(&error);
        }
    }

    /// Not counted as a failure: the caller uses other commands instead, and those are counted.
    fn fail_unanswered(&self, queued: QueuedRequest<W>, cause: Option<Cause>) {
        let verb = queued.request.verb();
        queued.waiter.fail(&self.error(ErrorKind::Unanswered { verb }, cause));
    }

    fn record_meta_support(self: &Rc<Self>, id: u64, is_known: Option<bool>) {
        let Some((family, _)) = self.take_running(id) else { return };
        let now = self.context.now();
        let mut state = self.state();
        match is_known {
            Some(true) => state.capabilities.mark_supported(family),
            Some(false) => state.capabilities.mark_unsupported(family, now, UNSUPPORTED_FOR),
            None => state.capabilities.mark_unsupported(family, now, UNDECIDED_FOR),
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
            for queued in state.isolation.take_waiting(family).into_iter().rev() {
                state.queue.push_front(queued);
            }
            self.drain_queue(state);
            drop(guard);
            self.dial_if_wanted();
        } else if has_substitute(family)
            && state.capabilities.is_unsupported(family, self.context.now())
        {
            let waiting = state.isolation.take_waiting(family);
            drop(guard);
            for queued in waiting {
                self.fail_unanswered(queued, None);
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
            context.timeout(Some(meta_probe_limit), catch_panic(supports_meta(stream))).await;
        let Some(pool) = pool.upgrade() else { return };
        // A proxy that sends nothing does not know the command.
        pool.record_meta_support(id, learnt.unwrap_or(Some(false)));
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

/// Sends the meta protocol's no-op, followed by `version`. A server behind a proxy would answer
/// `version` even if the proxy does not know the meta protocol.
///
/// # Cancel safety
/// Dropping the future closes the connection.
async fn supports_meta(mut stream: Box<dyn Io>) -> bool {
    let sent = async {
        stream.write_all(b"mn\r\nversion\r\n").await?;
        stream.flush().await
    };
    if sent.await.is_err() {
        return false;
    }
    let mut answer = BytesMut::new();
    while memchr::memchr_iter(b'\n', &answer).count() < 2 {
        let is_meta = b"MN\r\n".iter().zip(&answer).all(|(expected, found)| expected == found);
        let read = stream.read_buf(&mut answer).await;
        if !is_meta || answer.len() > MAX_ANSWER || !read.is_ok_and(|read| read > 0) {
            return false;
        }
    }
    answer.strip_prefix(b"MN\r\nVERSION ").is_some_and(is_recent)
}

const MAX_ANSWER: usize = 512;

/// Whether a version, such as `1.6.12-elasticache`, is [`META_SINCE`] or later.
fn is_recent(text: &[u8]) -> bool {
    let end = text.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.');
    let numbers = std::str::from_utf8(&text[..end.unwrap_or(text.len())]).unwrap_or_default();
    let numbers = numbers.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
    numbers.is_some_and(|numbers| numbers.as_slice() >= META_SINCE)
}

#[cfg(test)]
mod tests {
    use super::is_recent;

    #[test]
    fn versions_with_meta_arithmetic() {
        for recent in ["1.6.9", "1.6.18\r\n", "1.6.45-rc1", "1.6.12-elasticache", "1.10.0", "2.0"] {
            assert!(is_recent(recent.as_bytes()), "{recent}");
        }
        for other in
            ["1.6.8", "1.6", "1.4.39", "1.6.x", "", "mcrouter 0.41.0", "1..9", "99999999999.0.0"]
        {
            assert!(!is_recent(other.as_bytes()), "{other}");
        }
    }
}
