//! The tasks of a pool: one for each connection, and at most one that dials and one that purges.
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::context::caught;
use super::error::Cause;
use super::health::ticks;
use super::pool::{Entry, Shared, Waiter};
use super::transport::{Io, connect};
use crate::protocol::{Excerpt, ProtocolError};

/// A probe that is not answered is given up after this, if there is no `connection_timeout`.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_PROBE_LINE: usize = 1024;

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
        let read = connection.bytes_read();
        let polled = catch_unwind(AssertUnwindSafe(|| connection.poll(cx)))
            .unwrap_or(Poll::Ready(Cause::Panicked));
        let (answered, refused) =
            (connection.answered() - answered, connection.refused() - refused);
        if connection.has_more() {
            self.context.wake_later(cx.waker());
        }
        entry.looked_at = self.context.now();
        if connection.bytes_read() > read {
            state.health.heard(entry.looked_at);
        }
        if answered + refused > 0 {
            entry.last_used = entry.looked_at;
        }
        if answered > 0 {
            state.health.answered();
            for key in connection.take_large_keys() {
                state.large_keys.insert(&key);
            }
        }
        state.metrics.operations_executed += answered;
        state.metrics.operations_executed_with_error += refused;
        if polled.is_pending() {
            if !state.leases.is_empty() {
                self.grant(state);
            }
            if !state.queue.is_empty() {
                state.drain_queue();
            }
        }
        polled.map(Some)
    }
}

/// Dials until there is a connection or nobody needs one.
pub(super) async fn dial<W: Waiter>(pool: Weak<Shared<W>>) {
    let Some((context, address, limit, mut delay)) = pool.upgrade().map(|pool| {
        let delay = pool.state().health.next_dial_after(pool.context.now());
        (pool.context.clone(), pool.address.clone(), pool.config.connection_timeout, delay)
    }) else {
        return;
    };
    loop {
        if delay > Duration::ZERO {
            context.sleep(delay).await;
        }
        let started = Instant::now();
        let dialled = caught(async {
            let stream = connect(&context, &address, limit).await.map_err(io_cause)?;
            // Kernels take connections for servers that are stopped: only an answer is a sign of life.
            let is_probe = pool.upgrade().is_some_and(|pool| !pool.is_healthy());
            if is_probe { probe(stream).await } else { Ok(stream) }
        });
        let limit = if pool.upgrade().is_some_and(|pool| pool.is_healthy()) {
            limit
        } else {
            Some(limit.unwrap_or(PROBE_TIMEOUT))
        };
        let outcome = context.timeout(limit, dialled).await;
        let Some(pool) = pool.upgrade() else { return };
        let cause = match outcome {
            Some(Some(Ok(stream))) => {
                pool.connected(stream, started.elapsed());
                return;
            }
            Some(Some(Err(cause))) => cause,
            Some(None) => Cause::Panicked,
            None => Cause::ConnectTimeout(limit.unwrap_or_default()),
        };
        match pool.connect_failed(&cause) {
            Some(next) => delay = next,
            None => return,
        }
    }
}

fn io_cause(error: io::Error) -> Cause {
    Cause::Io(Arc::new(error))
}

/// Asks for the version, and wants an answer that a server gives to those whom it serves, or would
/// after a login.
///
/// # Cancel safety
/// Dropping the future closes the connection.
async fn probe(mut stream: Box<dyn Io>) -> Result<Box<dyn Io>, Cause> {
    stream.write_all(b"version\r\n").await.map_err(io_cause)?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        if stream.read_buf(&mut line).await.map_err(io_cause)? == 0 {
            return Err(Cause::Eof);
        }
        if line.len() > MAX_PROBE_LINE {
            return Err(Cause::Protocol(Arc::new(ProtocolError::LineTooLong)));
        }
    }
    if line.starts_with(b"VERSION ") || line.starts_with(b"CLIENT_ERROR ") {
        return Ok(stream);
    }
    Err(Cause::Protocol(Arc::new(ProtocolError::UnexpectedLine(Excerpt::of(&line)))))
}

/// Closes connections that nobody used for a while, one at a time, for as long as there are more than
/// the pool keeps.
pub(super) async fn purge_unused<W: Waiter>(pool: Weak<Shared<W>>, after: Duration) {
    let Some(context) = pool.upgrade().map(|pool| pool.context.clone()) else { return };
    loop {
        context.sleep(after).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.state();
        let now = context.now();
        let is_unused = |entry: &Entry<W>| {
            entry.lease.is_none()
                && entry.connection.in_flight() == 0
                && now.saturating_sub(entry.last_used) >= ticks(after)
        };
        if state.connections.len() > pool.config.min_connections
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

/// Ends a connection on which answers were left to come, if none comes: whoever gets it next would wait
/// behind them.
pub(super) async fn end_if_stuck<W: Waiter>(pool: Weak<Shared<W>>, id: u64, patience: Duration) {
    let Some(context) = pool.upgrade().map(|pool| pool.context.clone()) else { return };
    let read = |pool: &Rc<Shared<W>>| {
        let state = pool.state();
        let entry = state.connections.iter().find(|entry| entry.id == id);
        entry.filter(|e| e.connection.in_flight() > 0).map(|e| e.connection.bytes_read())
    };
    let Some(before) = pool.upgrade().and_then(|pool| read(&pool)) else { return };
    context.sleep(patience).await;
    let Some(pool) = pool.upgrade() else { return };
    if read(&pool) == Some(before) {
        let mut state = pool.state();
        if let Some(entry) = state.connections.iter_mut().find(|entry| entry.id == id) {
            entry.connection.give_up(Cause::NoAnswer);
        }
    }
}
