//! The tasks of a pool: one for each connection, and timers. (Tasks that dial are in
//! [`super::dial`] and [`super::relocation`].)
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::sync::Notify;

use super::context::{Context, unless_notified};
use super::error::Cause;
use super::health::nanos;
use super::shared::Shared;
use super::state::Entry;
use super::waiter::Waiter;
use super::window::Window;

/// The task of one connection.
pub(super) async fn drive<W: Waiter>(pool: Weak<Shared<W>>, id: u64) {
    let reason = poll_fn(|cx| match pool.upgrade() {
        Some(pool) => pool.poll_connection(id, cx),
        None => Poll::Ready(None),
    })
    .await;
    if let (Some(cause), Some(pool)) = (reason, pool.upgrade()) {
        pool.connection_lost(id, &cause);
    }
}

impl<W: Waiter> Shared<W> {
    /// Ready with `None` if the connection has left the pool.
    fn poll_connection(self: &Rc<Self>, id: u64, cx: &mut TaskContext<'_>) -> Poll<Option<Cause>> {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(at) = state.connections.iter().position(|entry| entry.id == id) else {
            return Poll::Ready(None);
        };
        let entry = &mut state.connections[at];
        let connection = &mut entry.connection;
        let (answered, refused) = (connection.answered(), connection.refused());
        let late = connection.answered_late();
        let (read, written) = (connection.bytes_read(), connection.bytes_written());
        let polled = {
            let clock = || self.context.now();
            catch_unwind(AssertUnwindSafe(|| connection.poll(cx, clock, &mut state.stats)))
                .unwrap_or(Poll::Ready(Cause::Panicked))
        };
        let is_first = answered + refused == 0;
        let has_written = connection.bytes_written() > written;
        let (answered, refused) =
            (connection.answered() - answered, connection.refused() - refused);
        let late = connection.answered_late() - late;
        if connection.has_more() {
            self.context.wake_later(cx.waker());
        }
        let has_read = connection.bytes_read() > read;
        entry.polled_at = if has_read { connection.read_at() } else { self.context.now() };
        let goes_on = entry.note_traffic(has_read, has_written, &mut state.health);
        if answered + refused > 0 {
            entry.last_used = entry.polled_at;
            state.health.answered(is_first);
        }
        if refused > 0
            && let Some(verb) = entry.connection.take_unknown()
        {
            let answers = state.stats.answers(verb.family());
            state.capabilities.doubt(verb.family(), entry.polled_at, answers);
        }
        if answered > 0 {
            for key in entry.connection.take_large_keys() {
                state.large_keys.insert(&key);
            }
        }
        if has_read && !state.order.is_empty() {
            state.unpin_answered(at);
        }
        state.metrics.operations_executed += answered - late;
        state.metrics.operations_executed_with_error += refused;
        state.window.note_replies(goes_on, answered + refused);
        if has_read && state.any_silent {
            self.check_silent(state, Some(id));
        }
        if polled.is_pending() {
            if !state.checkouts.is_empty() {
                self.grant(state);
            }
            if !state.queue.is_empty() {
                self.drain_queue(state);
            }
        }
        polled.map(Some)
    }
}

/// Closes connections that were unused for `after`, one at a time, down to the pool's minimum.
pub(super) async fn purge_unused<W: Waiter>(pool: Weak<Shared<W>>, after: Duration) {
    let Some((context, closing)) = context_and_closing(&pool) else { return };
    loop {
        if unless_notified(&closing, context.sleep(after)).await.is_none() {
            return;
        }
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.state();
        let now = context.now();
        let is_unused = |entry: &Entry<W>| {
            entry.checkout.is_none()
                && entry.connection.in_flight() == 0
                && now.saturating_sub(entry.last_used) >= nanos(after)
        };
        // A waiting checkout may be about to receive this connection.
        if state.connections.len() > pool.config.min_connections
            && state.checkouts.is_empty()
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

/// Lets keys share lines again when the time has come.
pub(super) async fn resume_merging<W: Waiter>(pool: Weak<Shared<W>>) {
    let Some((context, closing)) = context_and_closing(&pool) else { return };
    loop {
        let remaining = {
            let Some(pool) = pool.upgrade() else { return };
            let mut state = pool.state();
            let until = state.unmerged_until.unwrap_or_default();
            let remaining = until.saturating_sub(context.now());
            if remaining == 0 {
                state.unmerged_until = None;
                state.window = Window::default();
                pool.set_max_merged_keys(&mut state);
                return;
            }
            Duration::from_nanos(remaining)
        };
        if unless_notified(&closing, context.sleep(remaining)).await.is_none() {
            return;
        }
    }
}

/// Closes a connection whose outstanding replies do not arrive, so that its next user does not wait
/// behind them. One such task watches a connection, however often it is released.
pub(super) async fn close_if_stuck<W: Waiter>(
    pool: Weak<Shared<W>>,
    id: u64,
    grace_period: Duration,
) {
    let Some((context, closing)) = context_and_closing(&pool) else { return };
    let mut bytes_before = None;
    loop {
        {
            let Some(pool) = pool.upgrade() else { return };
            let mut state = pool.state();
            let Some(entry) = state.connections.iter_mut().find(|entry| entry.id == id) else {
                return;
            };
            let read = Some(entry.connection.bytes_read());
            if entry.connection.in_flight() > 0 && read == bytes_before {
                entry.connection.abort(Cause::NoAnswer);
                return;
            }
            // While it is checked out, missing replies are the holder's concern.
            let is_left_alone = entry.checkout.is_none() || bytes_before.is_none();
            if entry.connection.in_flight() == 0 || !is_left_alone {
                entry.is_watched = false;
                return;
            }
            bytes_before = read;
        }
        if unless_notified(&closing, context.sleep(grace_period)).await.is_none() {
            return;
        }
    }
}

fn context_and_closing<W: Waiter>(pool: &Weak<Shared<W>>) -> Option<(Rc<Context>, Rc<Notify>)> {
    pool.upgrade().map(|pool| (pool.context.clone(), pool.closing.clone()))
}
