//! Requests on connections of their own: those that a proxy may answer by closing the connection.
//!
//! Nothing that happens here concerns the shared connections or the node's health. The first request of a family
//! ([`Family`]) finds out whether the node answers it; the others of the family wait for that, and then use the
//! shared connections. Where the node does not answer, callers with a substitute are told so
//! ([`ErrorKind::Unanswered`]), now and for a while at once.
//!
//! Invariant: every request here is in exactly one place: `waiting`, or the [`Step`] of one of `running`.
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

use super::capabilities::{Family, REFUSED_FOR, UNDECIDED_FOR};
use super::connection::Connection;
use super::context::{before, caught};
use super::dial::Dialler;
use super::error::{Cause, ErrorKind};
use super::health::ticks;
use super::order::WritesBefore;
use super::pool::{Pool, Shared, Waiter};
use super::queue::{Queued, Submission};
use super::state::State;
use super::transport::Io;
use crate::protocol::{
    Asked, ErrorKind as LineKind, Expired, ItemRef, NEVER, Orphan, Outcome, Reply, Sink, StatLine,
    Term, Tick, Verb,
};

/// Another request of the same family does not wait longer than this for the first to be answered: a proxy may
/// wait for a server that hangs.
const WAIT_FOR_FIRST: Duration = Duration::from_millis(100);
/// Connections at a time for one family.
const MAX_RUNNING: usize = 8;
/// How often it is looked whether what comes first is answered.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A question about what the node answers is given up after this, and in any case after a quarter of the timeout.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);
/// A dial is given up after this, if there is no `connection_timeout`.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Proxies that pass meta commands on answer `version` themselves; servers before this speak another dialect.
const META_SINCE: &[u32] = &[1, 6, 9];

pub(super) struct Isolation<W: Waiter> {
    next_id: u64,
    running: Vec<Running<W>>,
    waiting: VecDeque<(Family, Queued<W>)>,
}

struct Running<W: Waiter> {
    id: u64,
    family: Family,
    since: Tick,
    step: Step<W>,
}

enum Step<W: Waiter> {
    /// `None`: for a question of the pool's own, or for a caller that does not wait any more.
    Dialling(Option<Queued<W>>),
    Asked(Box<Connection<Observer<W>>>, Rc<Observation<W>>),
}

/// What was seen of an answer.
struct Observation<W> {
    verb: Verb,
    answer: Cell<Option<Answer>>,
    /// Who got an error line and has a substitute.
    refused: RefCell<Option<W>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Good,
    /// `ERROR` or `CLIENT_ERROR`: the node may not know the command.
    Refused,
    /// `SERVER_ERROR`: it may know it.
    Failed,
}

impl Answer {
    fn of_error(kind: LineKind) -> Self {
        match kind {
            LineKind::Unknown | LineKind::Client => Self::Refused,
            LineKind::Server | LineKind::Refused => Self::Failed,
        }
    }
}

impl<W: Waiter> Observation<W> {
    /// An error line in the answer to several keys reaches no waiter.
    fn answer(&self, connection: &Connection<Observer<W>>) -> Option<Answer> {
        let line_error = || connection.line_error().map(|(kind, _)| Answer::of_error(*kind));
        self.answer.get().or_else(line_error)
    }
}

/// A waiter whose answer is looked at.
struct Observer<W> {
    waiter: W,
    observation: Rc<Observation<W>>,
    has_substitute: bool,
}

impl<W: Waiter> Sink for Observer<W> {
    type Kept = W::Kept;

    fn item(&mut self, index: usize, item: &ItemRef<'_>, kept: Option<&Self::Kept>) {
        self.waiter.item(index, item, kept);
    }

    fn stat(&mut self, stat: &StatLine<'_>) {
        self.waiter.stat(stat);
    }

    fn restart(&mut self) {
        self.waiter.restart();
    }

    fn reply(self, reply: &Reply<'_>, from: &str) {
        let answer = match reply {
            Reply::Error(error) => Answer::of_error(error.kind),
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

    /// Requests that have no answer yet.
    pub fn len(&self) -> usize {
        let asked = |running: &&Running<W>| !matches!(running.step, Step::Dialling(None));
        self.waiting.len() + self.running.iter().filter(asked).count()
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn running(&self, family: Family) -> usize {
        self.running.iter().filter(|running| running.family == family).count()
    }

    /// How many requests of a family may be under way at `now`.
    fn at_most(&self, family: Family, now: Tick) -> usize {
        let limit = match family {
            Family::Classic => return usize::MAX,
            Family::Meta => 1,
            _ => MAX_RUNNING,
        };
        let is_slow = |running: &&Running<W>| {
            running.family == family && now.saturating_sub(running.since) >= ticks(WAIT_FOR_FIRST)
        };
        limit.min(1 + self.running.iter().filter(is_slow).count())
    }

    /// Makes room where all that is under way is for callers that went away.
    fn give_up_abandoned(&mut self, family: Family) {
        for running in self.running.iter_mut().filter(|running| running.family == family) {
            if let Step::Asked(connection, _) = &mut running.step
                && connection.abandoned() > 0
            {
                connection.give_up(Cause::NoAnswer);
            }
        }
    }

    fn find(&mut self, id: u64) -> Option<&mut Running<W>> {
        self.running.iter_mut().find(|running| running.id == id)
    }

    /// As [`super::queue::Queue::expire`].
    pub fn expire(&mut self, now: Tick, mut expired: impl FnMut(W, Asked)) -> Tick {
        let mut next = NEVER;
        for running in &mut self.running {
            match &mut running.step {
                Step::Dialling(request) => {
                    if let Some(queued) = request.take_if(|queued| queued.term.deadline <= now) {
                        let asked = queued.asked();
                        expired(queued.waiter, asked);
                    } else {
                        let deadline = request.as_ref().map(|queued| queued.term.deadline);
                        next = next.min(deadline.unwrap_or(NEVER));
                    }
                }
                Step::Asked(connection, _) => {
                    let mut is_over = false;
                    next = next.min(connection.expire(now, |Expired { sink, asked, .. }| {
                        is_over = true;
                        expired(sink.waiter, asked);
                    }));
                    if is_over {
                        connection.give_up(Cause::NoAnswer);
                    }
                }
            }
        }
        if self.waiting.iter().any(|(_, queued)| queued.term.deadline <= now) {
            for (family, queued) in std::mem::take(&mut self.waiting) {
                if queued.term.deadline <= now {
                    let asked = queued.asked();
                    expired(queued.waiter, asked);
                } else {
                    self.waiting.push_back((family, queued));
                }
            }
        }
        let waiting = self.waiting.iter().map(|(_, queued)| queued.term.deadline).min();
        next.min(waiting.unwrap_or(NEVER))
    }

    /// Closes all connections; all waiters, in order.
    pub fn drain(&mut self) -> Vec<(W, Asked)> {
        let mut all = Vec::new();
        for running in self.running.drain(..) {
            match running.step {
                Step::Dialling(request) => {
                    all.extend(request.map(Queued::into_waiter));
                }
                Step::Asked(connection, _) => {
                    let orphans = connection.dismantle().into_iter();
                    all.extend(orphans.map(|orphan| (orphan.sink.waiter, orphan.asked)));
                }
            }
        }
        all.extend(self.waiting.drain(..).map(|(_, queued)| queued.into_waiter()));
        all
    }

    fn take_waiting(&mut self, family: Family) -> Vec<Queued<W>> {
        let (taken, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(waiting, _)| *waiting == family);
        self.waiting = rest;
        taken.into_iter().map(|(_, queued)| queued).collect()
    }
}

impl<W: Waiter> Pool<W> {
    /// As [`Self::submit_any`], on a connection that is made for this request.
    pub fn submit_isolated(&self, outgoing: Submission<'_>, waiter: W, deadline: Tick) {
        let shared = &self.0;
        let state = shared.state();
        if let Some(refusal) = shared.refusal(&state, outgoing.payload_len()) {
            drop(state);
            waiter.fail(&refusal);
            return;
        }
        drop(state);
        let (request, term) = (outgoing.into_owned(), shared.term(deadline));
        let queued = Queued { request, waiter, term, retried: false };
        shared.isolate(Family::Classic, queued);
        shared.context.arm(deadline);
    }
}

impl<W: Waiter> State<W> {
    /// What the answer to a command says of its family; `None`: there was none.
    fn learn(&mut self, family: Family, answer: Option<Answer>, now: Tick) {
        let has_substitute = family.has_substitute();
        match answer {
            Some(Answer::Good) => self.capabilities.answered(family),
            // A proxy that lacks the command does not ask its servers.
            Some(Answer::Failed) if has_substitute => self.capabilities.answered(family),
            Some(Answer::Refused) | None if has_substitute => {
                self.capabilities.refused(family, now, REFUSED_FOR);
            }
            Some(Answer::Refused | Answer::Failed) | None => {}
        }
    }
}

impl<W: Waiter> Shared<W> {
    /// Takes a request that must not be sent on a connection that others use.
    pub fn isolate(self: &Rc<Self>, family: Family, queued: Queued<W>) {
        let mut state = self.state();
        if state.closed {
            drop(state);
            queued.waiter.fail(&self.error(ErrorKind::Closed, None));
        } else if family.has_substitute()
            && state.capabilities.is_refused(family, self.context.now())
        {
            drop(state);
            self.tell_unanswered(queued, None);
        } else {
            state.isolation.waiting.push_back((family, queued));
            drop(state);
            self.ask_next(family);
            self.dial_if_wanted();
        }
    }

    pub fn isolate_all(self: &Rc<Self>, requests: Vec<(Family, Queued<W>)>) {
        for (family, queued) in requests {
            self.isolate(family, queued);
        }
    }

    /// A node that could not be reached can be.
    pub fn ask_waiting(self: &Rc<Self>) {
        let waiting = self.state().isolation.waiting.iter().map(|(family, _)| *family).collect();
        let mut families: Vec<Family> = waiting;
        families.dedup();
        for family in families {
            self.ask_next(family);
        }
    }

    /// Sends the next requests of a family, as many as may be under way.
    fn ask_next(self: &Rc<Self>, family: Family) {
        let now = self.context.now();
        let mut guard = self.state();
        let state = &mut *guard;
        // Without a connection the node may be down, and dials are paced by the pool.
        if state.closed || state.connections.is_empty() {
            return;
        }
        let isolation = &mut state.isolation;
        let at_most = isolation.at_most(family, now);
        if isolation.running(family) >= MAX_RUNNING {
            isolation.give_up_abandoned(family);
        }
        let mut begun = Vec::new();
        while isolation.running(family) < at_most {
            let is_next = |(waiting, _): &(Family, Queued<W>)| *waiting == family;
            let Some(at) = isolation.waiting.iter().position(is_next) else { break };
            let request = if family == Family::Meta {
                // A question of our own decides for all that wait.
                None
            } else {
                let Some((_, queued)) = isolation.waiting.remove(at) else { break };
                if queued.waiter.is_abandoned() {
                    state.tally.ended(queued.asked(), Outcome::Cancelled);
                    queued.waiter.dismiss();
                    continue;
                }
                Some(queued)
            };
            let id = isolation.next_id;
            isolation.next_id += 1;
            let (since, step) = (now, Step::Dialling(request));
            isolation.running.push(Running { id, family, since, step });
            begun.push(id);
        }
        drop(guard);
        for id in begun {
            self.context.spawn(run(Rc::downgrade(self), id, family));
        }
    }

    /// Whether a request must wait for the answer to a `noreply` write that came before it. `before`: what these are,
    /// once that is known.
    fn is_kept_back(&self, id: u64, before: &mut Option<WritesBefore>) -> bool {
        let state = self.state();
        let Some(running) = state.isolation.running.iter().find(|running| running.id == id) else {
            return false;
        };
        let Step::Dialling(Some(queued)) = &running.step else { return false };
        if before.is_none() && !state.queue.has_noreply() {
            *before = Some(state.writes_before(&queued.request));
        }
        !before.as_ref().is_some_and(|writes| state.are_answered(writes))
    }

    /// Whether somebody still waits for what was dialled for.
    fn ask(&self, id: u64, stream: Box<dyn Io>) -> bool {
        let mut state = self.state();
        let Some(running) = state.isolation.find(id) else { return false };
        let Step::Dialling(request) = &mut running.step else { return false };
        let Some(Queued { request, waiter, term, retried }) = request.take() else { return false };
        let (verb, answer) = (request.verb(), Cell::new(None));
        let observation = Rc::new(Observation { verb, answer, refused: RefCell::default() });
        let has_substitute = running.family.has_substitute();
        let sink = Observer { waiter, observation: observation.clone(), has_substitute };
        let mut connection = Box::new(Connection::new(stream, 1, self.name.clone()));
        connection.push_owned(&request, sink, term, retried);
        connection.flush();
        running.step = Step::Asked(connection, observation);
        true
    }

    /// Ready when the request is answered (`None`), or when its connection has ended.
    fn poll_isolated(&self, id: u64, cx: &mut TaskContext<'_>) -> Poll<Option<Cause>> {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(running) = state.isolation.find(id) else { return Poll::Ready(None) };
        let Step::Asked(connection, _) = &mut running.step else { return Poll::Ready(None) };
        let (answered, refused) = (connection.answered(), connection.refused());
        let polled = {
            let (clock, tally) = (|| self.context.now(), &mut state.tally);
            catch_unwind(AssertUnwindSafe(|| connection.poll(cx, clock, tally)))
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

    /// A request was answered (`cause` is `None`) or will not be.
    fn answered_isolated(self: &Rc<Self>, id: u64, cause: Option<Cause>) {
        let Some((family, step)) = self.take_running(id) else { return };
        let Step::Asked(connection, observation) = step else {
            // Its caller went away while it was dialled for.
            return self.go_on(family);
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
            for (sink, asked) in connection.into_sinks() {
                self.fail_isolated(family, sink.waiter, asked, &cause);
            }
        } else {
            for orphan in connection.dismantle() {
                self.end_isolated(family, orphan, answer, &cause);
            }
        }
        self.go_on(family);
    }

    /// A request without an answer, or with half of one.
    fn end_isolated(
        &self,
        family: Family,
        orphan: Orphan<Observer<W>>,
        answer: Option<Answer>,
        cause: &Cause,
    ) {
        let Orphan { sink: Observer { waiter, .. }, asked, deadline, retried, .. } = orphan;
        match (orphan.again, orphan.missing) {
            // An error for one of several keys, by a node that knows the command.
            (Some(request), Some(missing)) if answer == Some(Answer::Failed) => {
                let term = Term { made: asked.made, deadline };
                let queued = Queued { request, waiter, term, retried };
                let mut state = self.state();
                state.metrics.requests_retried += 1;
                for alone in queued.split(&missing).into_iter().rev() {
                    state.queue.push_front(alone);
                }
            }
            (_, Some(_)) => {
                let verb = asked.verb;
                waiter.fail(&self.error(ErrorKind::Unanswered { verb }, None));
            }
            _ => self.fail_isolated(family, waiter, asked, cause),
        }
    }

    fn fail_isolated(&self, family: Family, waiter: W, asked: Asked, cause: &Cause) {
        let verb = asked.verb;
        let mut state = self.state();
        state.metrics.operations_executed_with_error += 1;
        let is_garbage = matches!(cause, Cause::Protocol(_));
        state.metrics.protocol_errors += u64::from(is_garbage);
        let outcome = if is_garbage { Outcome::Protocol } else { Outcome::Connection };
        state.tally.failed(asked, outcome, self.context.now());
        // A server that wants TLS answers nothing at all.
        let is_mute = !state.health.was_heard() && self.config.security.tls.is_none();
        drop(state);
        let kind = match cause {
            Cause::Protocol(_) => ErrorKind::Protocol,
            Cause::TooManyConnections => ErrorKind::Unavailable,
            _ if family == Family::Classic => ErrorKind::Lost { verb },
            Cause::Panicked => ErrorKind::Lost { verb },
            _ => ErrorKind::Unanswered { verb },
        };
        let told = if is_mute { cause.of_mute() } else { cause.clone() };
        waiter.fail(&self.error(kind, Some(told)));
    }

    /// There is no connection for a request, or for a question.
    fn dial_failed_isolated(self: &Rc<Self>, id: u64, cause: &Cause) {
        let Some((family, step)) = self.take_running(id) else { return };
        let now = self.context.now();
        let mut state = self.state();
        state.metrics.connections_created_with_error += 1;
        let mut failed = state.isolation.take_waiting(family);
        if let Step::Dialling(Some(queued)) = step {
            failed.insert(0, queued);
        }
        if family.has_substitute() {
            state.capabilities.refused(family, now, UNDECIDED_FOR);
        }
        drop(state);
        for queued in failed {
            if family.has_substitute() {
                self.tell_unanswered(queued, Some(cause.clone()));
                continue;
            }
            let error = self.unavailable(Some(cause.clone()));
            let mut state = self.state();
            state.metrics.operations_executed_with_error += 1;
            state.tally.ended(queued.asked(), error.kind().outcome());
            drop(state);
            queued.waiter.fail(&error);
        }
    }

    /// Not counted as a failure: the caller does the same by other commands, and these are counted.
    fn tell_unanswered(&self, queued: Queued<W>, cause: Option<Cause>) {
        let verb = queued.request.verb();
        queued.waiter.fail(&self.error(ErrorKind::Unanswered { verb }, cause));
    }

    fn meta_learnt(self: &Rc<Self>, id: u64, is_known: Option<bool>) {
        let Some((family, _)) = self.take_running(id) else { return };
        let now = self.context.now();
        let mut state = self.state();
        match is_known {
            Some(true) => state.capabilities.answered(family),
            Some(false) => state.capabilities.refused(family, now, REFUSED_FOR),
            None => state.capabilities.refused(family, now, UNDECIDED_FOR),
        }
        drop(state);
        self.go_on(family);
    }

    /// Something was learnt, or not: what waits for that is shared, told, or asked in its turn.
    fn go_on(self: &Rc<Self>, family: Family) {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.closed {
            return;
        }
        if state.capabilities.may_share(family) {
            for queued in state.isolation.take_waiting(family).into_iter().rev() {
                state.queue.push_front(queued);
            }
            self.drain_queue(state);
            drop(guard);
            self.dial_if_wanted();
        } else if family.has_substitute()
            && state.capabilities.is_refused(family, self.context.now())
        {
            let waiting = state.isolation.take_waiting(family);
            drop(guard);
            for queued in waiting {
                self.tell_unanswered(queued, None);
            }
        } else {
            drop(guard);
            self.ask_next(family);
        }
    }

    fn take_running(&self, id: u64) -> Option<(Family, Step<W>)> {
        let mut state = self.state();
        let at = state.isolation.running.iter().position(|running| running.id == id)?;
        let Running { family, step, .. } = state.isolation.running.swap_remove(at);
        Some((family, step))
    }
}

/// Asks one request, and lets the others of its family go on without it if it takes long.
async fn run<W: Waiter>(pool: Weak<Shared<W>>, id: u64, family: Family) {
    let Some(strong) = pool.upgrade() else { return };
    let (context, closing) = (strong.context.clone(), strong.closing.clone());
    drop(strong);
    let mut asking = pin!(before(&closing, ask_one(&pool, id, family)));
    if context.timeout(Some(WAIT_FOR_FIRST), asking.as_mut()).await.is_some() {
        return;
    }
    if let Some(pool) = pool.upgrade() {
        pool.ask_next(family);
    }
    asking.await;
}

async fn ask_one<W: Waiter>(pool: &Weak<Shared<W>>, id: u64, family: Family) {
    let Some(strong) = pool.upgrade() else { return };
    let (dialler, ip) = (Dialler::of(&strong), strong.state().place.ip);
    let has_limit = strong.config.connection_timeout.is_some();
    let question_limit = strong.config.timeout.map(|timeout| timeout / 4);
    let question_limit = question_limit.unwrap_or(QUESTION_TIMEOUT).min(QUESTION_TIMEOUT);
    drop(strong);
    let is_question = family == Family::Meta;
    let context = dialler.context.clone();
    let dialling = dialler.dial(pool, ip, &[]);
    let limit = if is_question { question_limit } else { DIAL_TIMEOUT };
    let limit = (is_question || !has_limit).then_some(limit);
    let stream = match context.timeout(limit, dialling).await {
        Some(Ok(new)) => new.stream,
        failed => {
            let Some(pool) = pool.upgrade() else { return };
            let cause = failed.map_or(Cause::NoAnswer, |failed| failed.err().unwrap_or(Cause::Eof));
            pool.dial_failed_isolated(id, &cause);
            return;
        }
    };
    if is_question {
        let learnt = context.timeout(Some(question_limit), caught(knows_meta(stream))).await;
        let Some(pool) = pool.upgrade() else { return };
        // A proxy that says nothing at all does not know the question.
        pool.meta_learnt(id, learnt.unwrap_or(Some(false)));
        return;
    }
    // An unanswered `noreply` write of the same task comes first.
    let mut before = None;
    while pool.upgrade().is_some_and(|pool| pool.is_kept_back(id, &mut before)) {
        context.sleep(LOOK_EVERY).await;
    }
    let is_wanted = pool.upgrade().is_some_and(|pool| pool.ask(id, stream));
    let ended = poll_fn(|cx| match pool.upgrade() {
        Some(pool) if is_wanted => pool.poll_isolated(id, cx),
        _ => Poll::Ready(None),
    });
    let cause = ended.await;
    if let Some(pool) = pool.upgrade() {
        pool.answered_isolated(id, cause);
    }
}

/// Asks for the meta protocol's no-op, and then for the version: that alone would be answered by a server behind a
/// proxy that does not know the meta protocol.
///
/// # Cancel safety
/// Dropping the future closes the connection.
async fn knows_meta(mut stream: Box<dyn Io>) -> bool {
    let asked = async {
        stream.write_all(b"mn\r\nversion\r\n").await?;
        stream.flush().await
    };
    if asked.await.is_err() {
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
