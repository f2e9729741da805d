//! Checkouts: connections that one holder uses exclusively for a while.
use std::rc::Rc;

use super::connections::Entry;
use super::error::{Cause, ErrorKind};
use super::order::pin_hash;
use super::shared::{GRACE_PERIOD, Pool, Shared};
use super::state::State;
use super::submission::Submission;
use super::tasks::close_if_stuck;
use super::waiter::{CheckoutId, Waiter};
use crate::protocol::{Nanos, OwnedRequest, Reply};

impl<W: Waiter> Pool<W> {
    /// Requests exclusive use of a connection until [`Self::release`]. The waiter receives
    /// [`Reply::Ok`] when it has one; requests are served in order.
    pub fn check_out(&self, checkout: CheckoutId, waiter: W, deadline: Nanos) {
        let shared = &self.0;
        let mut state = shared.state.borrow_mut();
        if let Some(refusal) = shared.refusal(&state, 0) {
            drop(state);
            waiter.fail(&refusal);
            return;
        }
        state.checkouts.push(checkout, waiter, deadline);
        if state.checkouts.len() > state.connections.idle() {
            state.counters.waited();
        }
        shared.grant(&mut state);
        drop(state);
        shared.context.arm(deadline);
        shared.dial_if_wanted();
    }

    /// Like [`Self::submit_owned`], but on the checked-out connection only.
    pub fn submit_checked_out(
        &self,
        checkout: CheckoutId,
        mut request: OwnedRequest,
        waiter: W,
        deadline: Nanos,
    ) {
        let shared = &self.0;
        let mut guard = shared.state.borrow_mut();
        let state = &mut *guard;
        let is_held =
            |entry: &Entry<W>| entry.checkout() == Some(checkout) && !entry.connection.is_broken();
        let at = if let Some(at) = state.connections.iter().position(is_held) {
            let waiting = state.connections[at].connection.backlog();
            let refusal = shared.saturation(state, waiting, request.payload_len());
            refusal.map_or(Ok(at), Err)
        } else {
            let cause = state.checkouts.loss(checkout).cloned();
            Err(shared.error(ErrorKind::CheckoutLost, cause))
        };
        match at {
            Ok(at) => {
                let pin = waiter.is_noreply().then(|| pin_hash(&request));
                let (entry, health) = (&mut state.connections[at], &mut state.health);
                let timing = shared.timing(deadline);
                shared.send(entry, health, Submission::Owned(&mut request), waiter, timing);
                if let Some(pin) = pin {
                    state.pin(at, pin);
                }
                drop(guard);
                shared.context.arm(deadline);
            }
            Err(error) => {
                let info = Submission::Owned(&mut request).info();
                state.counters.failed(info, error.kind().call_result());
                drop(guard);
                waiter.fail(&error);
            }
        }
    }

    /// Returns a checked-out connection to the pool. Replies that are still missing are read and
    /// discarded.
    pub fn release(&self, checkout: CheckoutId) {
        let shared = &self.0;
        let mut state = shared.state.borrow_mut();
        state.checkouts.forget_loss(checkout);
        let now = shared.context.now();
        let Some(entry) = state.connections.with_checkout_mut(checkout) else { return };
        entry.release(now);
        if entry.connection.in_flight() > 0 && entry.start_watching() {
            shared.context.spawn(close_if_stuck(Rc::downgrade(shared), entry.id(), GRACE_PERIOD));
        }
        shared.grant(&mut state);
        shared.drain_queue(&mut state);
    }

    /// Closes a checked-out connection. The checkout lasts until it is released.
    pub fn close_checked_out(&self, checkout: CheckoutId) {
        let state = self.0.state.borrow();
        let Some(id) = state.connections.with_checkout(checkout).map(Entry::id) else { return };
        drop(state);
        self.0.connection_lost(id, &Cause::ClosedByHolder);
    }

    /// Whether a checked-out connection is open.
    pub fn is_checked_out(&self, checkout: CheckoutId) -> bool {
        self.0.state.borrow().connections.with_checkout(checkout).is_some()
    }
}

impl<W: Waiter> Shared<W> {
    /// Assigns connections to waiting checkouts.
    pub fn grant(&self, state: &mut State<W>) {
        let now = self.context.now();
        loop {
            state.checkouts.skip_abandoned();
            if state.checkouts.is_empty() {
                return;
            }
            let Some(at) = self.next_to_grant(state) else { return };
            let entry = &mut state.connections[at];
            if entry.is_stale(now) {
                // The connection's task checks whether it is still open, and then assigns it.
                self.context.wake_later(entry.connection.waker());
                return;
            }
            let Some((checkout, waiter)) = state.checkouts.pop() else { return };
            entry.check_out(checkout);
            waiter.reply(&Reply::Ok, &self.name);
        }
    }

    fn next_to_grant(&self, state: &State<W>) -> Option<usize> {
        let entries = || state.connections.iter().enumerate();
        // The caller may have sent these `noreply` writes just before, so its next requests must
        // follow them.
        let mut with_inherited_noreply =
            entries().filter(|(_, entry)| entry.has_inherited_noreply());
        if let Some((at, entry)) = with_inherited_noreply.next() {
            return (with_inherited_noreply.next().is_none() && entry.is_free()).then_some(at);
        }
        // A connection with replies outstanding is only assigned if the pool is full.
        let is_full = state.connections.len() >= self.config.max_connections;
        let is_next = |entry: &Entry<W>| {
            let is_idle = entry.connection.in_flight() == 0;
            entry.is_free() && !entry.is_silent() && (is_full || is_idle)
        };
        let free = entries().filter(|(_, entry)| is_next(entry));
        free.min_by_key(|(_, entry)| entry.connection.in_flight()).map(|(at, _)| at)
    }
}
