//! The tasks of a pool: one for each connection, and at most one that dials and one that purges.
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::context::{Context, caught};
use super::error::Cause;
use super::health::ticks;
use super::open::open;
use super::pool::{Pool, Shared, Waiter};
use super::state::Entry;
use super::transport::Io;
use crate::protocol::{
    CONNECTION_REFUSED, Decoder, ErrorKind, ErrorLine, Excerpt, Frame, ProtocolError, Reply, Shape,
};

/// A probe that is not answered is given up after this, if there is no `connection_timeout`.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const PROBE: &[u8] = b"get emcache:probe\r\n";

/// The task of one connection.
pub(super) async fn drive<W: Waiter>(pool: Weak<Shared<W>>, id: u64) {
    let reason = poll_fn(|cx| match pool.upgrade() {
        Some(pool) => pool.poll_connection(id, cx),
        None => Poll::Ready(None),
    })
    .await;
    if let (Some(cause), Some(pool)) = (reason, pool.upgrade()) {
        pool.lost(id, &cause);
    }
}

impl<W: Waiter> Shared<W> {
    /// `None`: the connection is not the pool's any more.
    fn poll_connection(&self, id: u64, cx: &mut TaskContext<'_>) -> Poll<Option<Cause>> {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(entry) = state.connections.iter_mut().find(|entry| entry.id == id) else {
            return Poll::Ready(None);
        };
        let connection = &mut entry.connection;
        let (answered, refused) = (connection.answered(), connection.refused());
        let late = connection.answered_late();
        let (read, written) = (connection.bytes_read(), connection.bytes_written());
        let polled = catch_unwind(AssertUnwindSafe(|| connection.poll(cx)))
            .unwrap_or(Poll::Ready(Cause::Panicked));
        let is_first = answered == 0;
        let (answered, refused) =
            (connection.answered() - answered, connection.refused() - refused);
        let late = connection.answered_late() - late;
        if connection.has_more() {
            self.context.wake_later(cx.waker());
        }
        entry.looked_at = self.context.now();
        if connection.bytes_read() > read {
            state.health.heard(entry.looked_at);
        }
        if connection.bytes_written() > written {
            state.health.asked(|| entry.looked_at);
        }
        if answered + refused > 0 {
            entry.last_used = entry.looked_at;
        }
        if answered > 0 {
            state.health.answered(is_first);
            for key in connection.take_large_keys() {
                state.large_keys.insert(&key);
            }
        }
        state.metrics.operations_executed += answered - late;
        state.metrics.operations_executed_with_error += refused;
        if polled.is_pending() {
            if !state.leases.is_empty() {
                self.grant(state);
            }
            if !state.queue.is_empty() {
                self.drain_queue(state);
            }
        }
        polled.map(Some)
    }
}

/// Dials until there is a connection or nobody needs one.
pub(super) async fn dial<W: Waiter>(pool: Weak<Shared<W>>) {
    let Some(strong) = pool.upgrade() else { return };
    let mut delay = strong.state().health.next_dial_after(strong.context.now());
    let (context, address) = (strong.context.clone(), strong.address.clone());
    let ip = strong.ip.borrow().clone();
    let (limit, security) = (strong.config.connection_timeout, strong.config.security.clone());
    let (phase, closing) = (strong.phase.clone(), strong.closing.clone());
    drop(strong);
    loop {
        if delay > Duration::ZERO && before(&closing, context.sleep(delay)).await.is_none() {
            return;
        }
        let started = Instant::now();
        let dialled = caught(async {
            let stream = open(&context, &address, ip.as_deref(), &security, limit, &phase).await?;
            // Kernels take connections for servers that are stopped or full: only an answer is a sign of
            // life.
            if !pool.upgrade().is_some_and(|pool| pool.state().health.wants_proof()) {
                return Ok((stream, false));
            }
            let limit = limit.unwrap_or(PROBE_TIMEOUT);
            let proved = context.timeout(Some(limit), probe(stream)).await;
            proved.unwrap_or(Err(Cause::NoAnswer)).map(|stream| (stream, true))
        });
        let Some(outcome) = before(&closing, context.timeout(limit, dialled)).await else { return };
        let Some(pool) = pool.upgrade() else { return };
        let cause = match outcome {
            Some(Some(Ok((stream, is_proved)))) => {
                pool.connected(stream, started.elapsed(), is_proved);
                return;
            }
            Some(Some(Err(cause))) => cause,
            Some(None) => Cause::Panicked,
            None => Cause::ConnectTimeout { limit: limit.unwrap_or_default(), phase: phase.get() },
        };
        match pool.connect_failed(&cause) {
            Some(next) => delay = next,
            None => return,
        }
    }
}

/// The future's result, or `None` if the pool is closed before.
///
/// # Cancel safety
/// As safe as `future`.
async fn before<T>(closing: &Notify, future: impl Future<Output = T>) -> Option<T> {
    let (mut closed, mut future) = (pin!(closing.notified()), pin!(future));
    poll_fn(|cx| match closed.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => future.as_mut().poll(cx).map(Some),
    })
    .await
}

/// Asks for a key, which every server and proxy knows how to answer, and wants an answer that is given to
/// those who are served, or would be after a login.
///
/// # Cancel safety
/// Dropping the future closes the connection.
async fn probe(mut stream: Box<dyn Io>) -> Result<Box<dyn Io>, Cause> {
    let protocol_cause = |error| Cause::of(error);
    stream.write_all(PROBE).await.map_err(Cause::of_io)?;
    stream.flush().await.map_err(Cause::of_io)?;
    let (mut decoder, mut answer) = (Decoder::default(), BytesMut::new());
    loop {
        let next =
            decoder.next(&answer, Shape::Retrieval { cas: false }).map_err(protocol_cause)?;
        let Some((frame, used)) = next else {
            if stream.read_buf(&mut answer).await.map_err(Cause::of_io)? == 0 {
                return Err(Cause::Eof);
            }
            continue;
        };
        let is_alive = match frame {
            Frame::Reply(Reply::End) => true,
            Frame::Reply(Reply::Error(ErrorLine { line: CONNECTION_REFUSED, .. })) => {
                return Err(Cause::TooManyConnections);
            }
            Frame::Reply(Reply::Error(ErrorLine { kind, line })) => {
                kind == ErrorKind::Client || line == b"ERROR"
            }
            _ => {
                answer.advance(used);
                continue;
            }
        };
        return match &answer[used..] {
            [] if is_alive => Ok(stream),
            [] => Err(Cause::of(ProtocolError::UnexpectedLine(Excerpt::of(&answer)))),
            surplus => Err(Cause::of(ProtocolError::Unsolicited(Excerpt::of(surplus)))),
        };
    }
}

/// Closes connections that nobody used for a while, one at a time, for as long as there are more than
/// the pool keeps.
pub(super) async fn purge_unused<W: Waiter>(pool: Weak<Shared<W>>, after: Duration) {
    let Some((context, closing)) = context_of(&pool) else { return };
    loop {
        if before(&closing, context.sleep(after)).await.is_none() {
            return;
        }
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.state();
        let now = context.now();
        let is_unused = |entry: &Entry<W>| {
            entry.lease.is_none()
                && entry.connection.in_flight() == 0
                && now.saturating_sub(entry.last_used) >= ticks(after)
        };
        // Whoever waits for a connection may have been told to wait for this one.
        if state.connections.len() > pool.config.min_connections
            && state.leases.is_empty()
            && let Some(at) = state.connections.iter().rposition(is_unused)
        {
            state.purge(at);
        }
        if state.connections.len() <= pool.config.min_connections {
            state.purging = false;
            return;
        }
    }
}

/// How often it is looked whether the last answer has come.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Closes the connections that are leaving, each when it is answered, and all after a while.
pub(super) async fn part<W: Waiter>(pool: Weak<Shared<W>>, patience: Duration) {
    let Some((context, closing)) = context_of(&pool) else { return };
    let until = Instant::now() + patience;
    loop {
        {
            let Some(pool) = pool.upgrade() else { return };
            let mut state = pool.state();
            let is_over = |entry: &Entry<W>| {
                entry.is_leaving && entry.lease.is_none() && entry.connection.in_flight() == 0
            };
            while let Some(at) = state.connections.iter().position(is_over) {
                state.purge(at);
            }
            let mut left = state.connections.iter_mut().filter(|entry| entry.is_leaving).peekable();
            let is_done = left.peek().is_none();
            if Instant::now() >= until {
                left.for_each(|entry| entry.connection.give_up(Cause::NoAnswer));
            }
            drop(state);
            pool.dial_if_wanted();
            if is_done || Instant::now() >= until {
                return;
            }
        }
        if before(&closing, context.sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

/// Closes the pool when it is answered, or after a while.
pub(super) async fn retire<W: Waiter>(pool: Pool<W>, patience: Duration) {
    let (context, closing) = (pool.0.context.clone(), pool.0.closing.clone());
    let until = Instant::now() + patience;
    while pool.in_flight() > 0 && Instant::now() < until {
        if before(&closing, context.sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
    pool.close();
}

/// Ends a connection on which answers were left to come, if none comes: whoever gets it next would wait
/// behind them. One for each connection, however often that is released.
pub(super) async fn end_if_stuck<W: Waiter>(pool: Weak<Shared<W>>, id: u64, patience: Duration) {
    let Some((context, closing)) = context_of(&pool) else { return };
    let mut so_far = None;
    loop {
        {
            let Some(pool) = pool.upgrade() else { return };
            let mut state = pool.state();
            let Some(entry) = state.connections.iter_mut().find(|entry| entry.id == id) else {
                return;
            };
            let read = Some(entry.connection.bytes_read());
            if entry.connection.in_flight() > 0 && read == so_far {
                entry.connection.give_up(Cause::NoAnswer);
                return;
            }
            // What a holder waits for is a matter of that holder's.
            let is_left_alone = entry.lease.is_none() || so_far.is_none();
            if entry.connection.in_flight() == 0 || !is_left_alone {
                entry.is_watched = false;
                return;
            }
            so_far = read;
        }
        if before(&closing, context.sleep(patience)).await.is_none() {
            return;
        }
    }
}

fn context_of<W: Waiter>(pool: &Weak<Shared<W>>) -> Option<(Rc<Context>, Rc<Notify>)> {
    pool.upgrade().map(|pool| (pool.context.clone(), pool.closing.clone()))
}
