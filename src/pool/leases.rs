//! Connections that belong to one holder for a while.
use std::rc::Rc;

use super::error::{Cause, ErrorKind};
use super::order::pin_of;
use super::pool::{LeaseId, PATIENCE, Pool, Shared, Waiter};
use super::queue::Submission;
use super::state::{Entry, State};
use super::tasks::end_if_stuck;
use crate::protocol::{OwnedRequest, Reply, Tick};

impl<W: Waiter> Pool<W> {
    /// Asks for a connection that is nobody else's until [`Self::release`]. The waiter is told
    /// [`Reply::Ok`] when it is there; first come, first served.
    pub fn lease(&self, lease: LeaseId, waiter: W, deadline: Tick) {
        let shared = &self.0;
        let mut state = shared.state.borrow_mut();
        if let Some(refusal) = shared.refusal(&state, 0) {
            drop(state);
            waiter.fail(&refusal);
            return;
        }
        state.leases.push(lease, waiter, deadline);
        state.metrics.operations_waited += u64::from(state.leases.len() > state.idle());
        shared.grant(&mut state);
        drop(state);
        shared.context.arm(deadline);
        shared.dial_if_wanted();
    }

    /// As [`Self::submit_owned`], on a leased connection and no other.
    pub fn submit_leased(&self, lease: LeaseId, request: OwnedRequest, waiter: W, deadline: Tick) {
        let shared = &self.0;
        let mut guard = shared.state.borrow_mut();
        let state = &mut *guard;
        let is_held =
            |entry: &Entry<W>| entry.lease == Some(lease) && !entry.connection.is_broken();
        let at = if let Some(at) = state.connections.iter().position(is_held) {
            let waiting = state.connections[at].connection.backlog();
            let refusal = shared.saturation(state, waiting, request.payload_len());
            refusal.map_or(Ok(at), Err)
        } else {
            let known = state.lost_leases.iter().find(|(lost, _)| *lost == lease);
            Err(shared.error(ErrorKind::LeaseLost, known.map(|(_, cause)| cause.clone())))
        };
        match at {
            Ok(at) => {
                let pin = waiter.is_noreply().then(|| pin_of(&request));
                let (entry, health) = (&mut state.connections[at], &mut state.health);
                let term = shared.term(deadline);
                shared.send(entry, health, Submission::Owned(request), waiter, term);
                if let Some(pin) = pin {
                    state.pin(at, pin);
                }
                drop(guard);
                shared.context.arm(deadline);
            }
            Err(error) => {
                state.metrics.operations_executed_with_error += 1;
                let asked = Submission::Owned(request).asked();
                state.tally.ended(asked, error.kind().outcome());
                drop(guard);
                waiter.fail(&error);
            }
        }
    }

    /// Gives a leased connection back. What is unanswered on it is read and dropped as ever.
    pub fn release(&self, lease: LeaseId) {
        let shared = &self.0;
        let mut state = shared.state.borrow_mut();
        state.lost_leases.retain(|(lost, _)| *lost != lease);
        let now = shared.context.now();
        let held = state.connections.iter_mut().find(|entry| entry.lease == Some(lease));
        let Some(entry) = held else { return };
        entry.lease = None;
        entry.left_behind = entry.noreply.len();
        entry.last_used = now;
        if entry.connection.in_flight() > 0 && !std::mem::replace(&mut entry.is_watched, true) {
            shared.context.spawn(end_if_stuck(Rc::downgrade(shared), entry.id, PATIENCE));
        }
        shared.grant(&mut state);
        shared.drain_queue(&mut state);
    }

    /// Closes a leased connection; it stays leased until it is released.
    pub fn close_leased(&self, lease: LeaseId) {
        let state = self.0.state.borrow();
        let held = state.connections.iter().find(|entry| entry.lease == Some(lease));
        let Some(id) = held.map(|entry| entry.id) else { return };
        drop(state);
        self.0.lost(id, &Cause::ClosedByHolder);
    }

    /// Whether a leased connection is open.
    pub fn is_leased(&self, lease: LeaseId) -> bool {
        let state = self.0.state.borrow();
        state.connections.iter().any(|entry| entry.lease == Some(lease))
    }
}

impl<W: Waiter> Shared<W> {
    /// Gives connections to those who wait for one of their own.
    pub fn grant(&self, state: &mut State<W>) {
        let now = self.context.now();
        loop {
            state.leases.skip_abandoned();
            if state.leases.is_empty() {
                return;
            }
            let Some(at) = self.next_to_grant(state) else { return };
            let entry = &mut state.connections[at];
            if entry.is_stale(now) {
                // Its task looks whether it is still open, and then grants again.
                self.context.wake_later(entry.connection.waker());
                return;
            }
            let Some((lease, waiter)) = state.leases.pop() else { return };
            entry.lease = Some(lease);
            waiter.reply(&Reply::Ok, &self.name);
        }
    }

    fn next_to_grant(&self, state: &State<W>) -> Option<usize> {
        let entries = || state.connections.iter().enumerate();
        // Whoever asks may be who sent writes with `noreply` just before: what is sent next comes after them.
        let mut unsettled = entries().filter(|(_, entry)| entry.is_unsettled());
        if let Some((at, entry)) = unsettled.next() {
            return (unsettled.next().is_none() && entry.is_free()).then_some(at);
        }
        // Where answers to somebody else are still to come, only if there will be no other.
        let is_full = state.connections.len() >= self.config.max_connections;
        let is_next = |entry: &Entry<W>| {
            let is_idle = entry.connection.in_flight() == 0;
            entry.is_free() && !entry.is_silent && (is_full || is_idle)
        };
        let free = entries().filter(|(_, entry)| is_next(entry));
        free.min_by_key(|(_, entry)| entry.connection.in_flight()).map(|(at, _)| at)
    }
}
