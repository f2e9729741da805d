//! The connections to one node: dispatches requests, dials, and queues requests meanwhile.
//!
//! Invariants: `connections.len() + dialling <= max_connections` (one more while the node has
//! moved, see [`super::relocation`]). While a connection accepts requests, none waits (`queue` is
//! first come, first served). A checked-out connection receives only its holder's requests.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::address::Address;
use super::config::PoolConfig;
use super::connections::Entry;
use super::context::{Context, Member};
use super::error::{Cause, Error, ErrorKind};
use super::health::{Change, STALLED_AFTER, nanos};
use super::line_len::LineLen;
use super::metrics::Metrics;
use super::order::pin_hash;
use super::placement::Placement;
use super::queue::QueuedRequest;
use super::relocation::drain_and_close;
use super::shared::{Pool, Shared};
use super::state::State;
use super::submission::Submission;
use super::waiter::Waiter;
use crate::protocol::meta::Version;
use crate::protocol::{CommandStats, Family, Nanos, OwnedRequest, Request, Timing, Verb};

impl<W: Waiter> Pool<W> {
    pub fn new(context: &Rc<Context>, address: Address, config: PoolConfig) -> Self {
        let Self(shared) = Self::unconnected(context, Arc::new(address), config);
        let as_member: Rc<dyn Member> = shared.clone();
        context.register(Rc::downgrade(&as_member));
        shared.dial_if_wanted();
        Self(shared)
    }

    /// The pool of a node that was removed from the cluster. All requests fail.
    pub fn for_removed_node(
        context: &Rc<Context>,
        address: Arc<Address>,
        config: PoolConfig,
    ) -> Self {
        let pool = Self::unconnected(context, address, config);
        pool.0.state.borrow_mut().lifecycle.remove();
        pool
    }

    fn unconnected(context: &Rc<Context>, address: Arc<Address>, config: PoolConfig) -> Self {
        Self(Rc::new(Shared {
            context: context.clone(),
            name: address.to_string().into(),
            address,
            unflushed: Cell::new(false),
            closing: Rc::default(),
            on_change: RefCell::new(None),
            on_stranded: RefCell::new(None),
            lingering: Cell::new(0),
            lingering_over: Rc::default(),
            relocated: Rc::default(),
            phase: Rc::default(),
            line_len: LineLen::new(),
            state: RefCell::new(State::new(config.security.is_binary())),
            config,
        }))
    }

    /// Calls `listener` after each change.
    pub fn on_change(&self, listener: impl Fn(Change) + 'static) {
        *self.0.on_change.borrow_mut() = Some(Box::new(listener));
    }

    /// Calls `listener` with each request that the node had not received when it became unhealthy,
    /// instead of failing it.
    pub fn on_stranded(&self, listener: impl Fn(OwnedRequest, W, Nanos) + 'static) {
        *self.0.on_stranded.borrow_mut() = Some(Box::new(listener));
    }

    pub fn address(&self) -> &Arc<Address> {
        &self.0.address
    }

    pub fn is_healthy(&self) -> bool {
        self.0.state.borrow().health.is_healthy()
    }

    /// The cause of the last failure.
    pub fn last_failure(&self) -> Option<Cause> {
        self.0.state.borrow().health.last_failure().cloned()
    }

    pub fn is_connected(&self) -> bool {
        !self.0.state.borrow().connections.is_empty()
    }

    /// Closes the pool once all requests are answered or the grace period has passed, and then
    /// calls `then`.
    pub fn drain_and_close(&self, then: impl FnOnce() + 'static) {
        self.0.on_change.borrow_mut().take();
        let pool = self.clone();
        let grace_period = self.0.drain_timeout();
        self.0.context.spawn(async move {
            drain_and_close(pool, grace_period).await;
            then();
        });
    }

    pub fn metrics(&self) -> Metrics {
        let state = self.0.state.borrow();
        let sum =
            |count: fn(&Entry<W>) -> u64| -> u64 { state.connections.iter().map(count).sum() };
        let counted = state.counters.metrics();
        let read = sum(|entry| entry.connection.bytes_read());
        let written = sum(|entry| entry.connection.bytes_written());
        let shared = sum(|entry| entry.connection.shared_keys());
        Metrics {
            cur_connections: state.connections.len() as u64,
            connections_idle: state.connections.idle() as u64,
            connections_checked_out: sum(|entry| u64::from(entry.is_checked_out())),
            requests_in_flight: state.connections.in_flight() as u64,
            requests_abandoned: sum(|entry| entry.connection.abandoned() as u64),
            requests_queued: (state.queue.len() + state.checkouts.wanted()) as u64,
            keys_shared: counted.keys_shared + shared,
            bytes_read: counted.bytes_read + read,
            bytes_written: counted.bytes_written + written,
            create_connection: state.growth.latencies().summary(),
            ..counted.clone()
        }
    }

    /// The counters of each command.
    pub fn commands(&self) -> Vec<(Verb, CommandStats)> {
        let state = self.0.state.borrow();
        let commands = state.counters.stats().commands();
        commands.map(|(verb, command)| (verb, command.clone())).collect()
    }

    /// The version of the node, if it is known and knows meta commands.
    pub fn meta_version(&self) -> Option<Version> {
        self.0.state.borrow().capabilities.meta_version()
    }

    /// A number that changes when a connection was lost, so that another server, or the same one
    /// without its items, may answer from now on.
    pub fn server_epoch(&self) -> u64 {
        self.0.state.borrow().capabilities.server_epoch()
    }

    /// The number of unanswered requests, including abandoned ones.
    pub fn in_flight(&self) -> usize {
        self.0.state.borrow().in_flight()
    }

    /// Sends or queues a request. The waiter is notified exactly once, possibly before this
    /// returns.
    pub fn submit(&self, request: &Request<'_>, waiter: W, deadline: Nanos) {
        self.submit_any(Submission::Borrowed(request), waiter, deadline);
    }

    /// Like [`Self::submit`].
    pub fn submit_owned(&self, mut request: OwnedRequest, waiter: W, deadline: Nanos) {
        self.submit_any(Submission::Owned(&mut request), waiter, deadline);
    }

    /// Like [`Self::submit`].
    pub fn submit_any(&self, outgoing: Submission<'_>, waiter: W, deadline: Nanos) {
        let shared = &self.0;
        let mut guard = shared.state.borrow_mut();
        let state = &mut *guard;
        let timing = shared.timing(deadline);
        let is_noreply = waiter.is_noreply();
        if let Some((entry, health)) =
            state.calm_connection(&shared.config, &outgoing, is_noreply, timing)
        {
            shared.send(entry, health, outgoing, waiter, timing);
            let wants_dial =
                entry.is_held_up(deadline) && state.wants_dial(&shared.config, deadline);
            drop(guard);
            shared.check_later(timing);
            if wants_dial {
                shared.dial();
            }
            return;
        }
        let refusal = shared.refusal(state, outgoing.payload_len());
        if let Some(refusal) = refusal.or_else(|| shared.pinned_refusal(state, &outgoing, &waiter))
        {
            state.counters.failed(outgoing.info(), refusal.kind().call_result());
            drop(guard);
            waiter.fail(&refusal);
            return;
        }
        let family = outgoing.verb().family();
        if !state.capabilities.may_share(family) {
            drop(guard);
            let request = outgoing.into_owned().unshared();
            shared.isolate(family, QueuedRequest { request, waiter, timing, retried: false });
            shared.context.arm(deadline);
            return;
        }
        if family == Family::Meta
            && let Some(lack) = outgoing.meta_lack(&state.capabilities)
        {
            let error = shared.unsupported(state, outgoing.verb(), lack);
            drop(guard);
            waiter.fail(&error);
            return;
        }
        if state.precautions.is_unmerged() && outgoing.info().keys > 1 {
            let request = outgoing.into_owned();
            let whole = QueuedRequest { request, waiter, timing, retried: false };
            for QueuedRequest { mut request, waiter, .. } in whole.split_all() {
                shared.dispatch(state, Submission::Owned(&mut request), waiter, timing);
            }
        } else {
            shared.dispatch(state, outgoing, waiter, timing);
        }
        let wants_dial = state.wants_dial(&shared.config, deadline);
        drop(guard);
        shared.check_later(timing);
        if wants_dial {
            shared.dial();
        }
    }

    /// Fails all requests and closes all connections, for good.
    pub fn close(&self) {
        self.fail_all(ErrorKind::Closed);
    }

    /// Like [`Self::close`], for a removed node after `grace_period`.
    pub(super) fn close_removed(&self, grace_period: Duration) {
        self.0.state.borrow_mut().lifecycle.remove();
        self.fail_all(ErrorKind::RemovedUnanswered { grace_period });
    }

    fn fail_all(&self, why: ErrorKind) {
        self.0.on_change.borrow_mut().take();
        self.0.closing.notify_waiters();
        let mut state = self.0.state.borrow_mut();
        state.lifecycle.close();
        let waiters = state.take_connections();
        for (_, info) in &waiters {
            state.counters.ended(*info, why.call_result());
        }
        let waiting = state.take_queued(why.call_result());
        drop(state);
        let error = Error::new(why, &self.0.address, None);
        for waiter in waiters.into_iter().map(|(waiter, _)| waiter).chain(waiting) {
            waiter.fail(&error);
        }
    }
}

impl<W: Waiter> Shared<W> {
    /// By then a new request is answered, or the pool checks whether it is held up.
    fn check_later(&self, timing: Timing) {
        let stalled_at = timing.issued_at.saturating_add(nanos(STALLED_AFTER));
        self.context.arm(timing.deadline.min(stalled_at));
    }

    /// Sends a request, or queues it until a connection is available.
    fn dispatch(
        self: &Rc<Self>,
        state: &mut State<W>,
        outgoing: Submission<'_>,
        waiter: W,
        timing: Timing,
    ) {
        let is_large = state.large.is_large(&outgoing);
        let is_noreply = waiter.is_noreply();
        let at = match state.placement(&outgoing, is_noreply) {
            Placement::Any => state.pick(&self.config, is_large, timing),
            Placement::At(at) => Some(at),
            Placement::Later => {
                state.counters.waited();
                state.queue.block(QueuedRequest::new(outgoing, waiter, timing));
                return;
            }
        };
        if let Some(at) = at {
            let pin = is_noreply.then(|| pin_hash(&outgoing));
            let entry = &mut state.connections[at];
            self.send(entry, &mut state.health, outgoing, waiter, timing);
            if let Some(pin) = pin {
                state.pin(at, pin);
            }
        } else {
            state.counters.waited();
            state.queue.push_back(outgoing, waiter, timing);
        }
        // Large transfers share all connections except the first.
        if is_large && state.connections.iter().skip(1).all(|e| e.connection.in_flight() > 0) {
            state.growth.request_large_connection();
        }
    }
}
