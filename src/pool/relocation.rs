//! Relocation: a node that is replaced keeps its name and changes its address, and its connections
//! follow.
//!
//! Invariants: once a connection to the node's current address exists, connections to former
//! addresses accept no new requests. While the address is tracked, `connections.len() + dialling <=
//! max_connections + 1`; otherwise the invariant of [`super::pool`] holds.
use std::net::IpAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::backoff;
use super::connections::Entry;
use super::context::unless_notified;
use super::dial::Connector;
use super::error::Cause;
use super::health::nanos;
use super::location::Relocation;
use super::shared::{Pool, Shared};
use super::state::State;
use super::waiter::Waiter;

/// How often to check whether the last reply has arrived, or whether there is room for a
/// connection.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The delay before an address is tracked whose name just led to a former address.
const TRACK_AGAIN_AFTER: Duration = Duration::from_millis(500);

impl<W: Waiter> State<W> {
    /// Records the node's address. Returns whether dials should start again.
    fn relocate(&mut self, ip: Option<IpAddr>) -> bool {
        let peers = self.connections.iter().filter_map(Entry::peer);
        let relocation = self.location.set(ip, peers);
        if relocation == Relocation::Moved {
            self.capabilities.reset();
        }
        relocation != Relocation::None
    }

    /// Whether there are connections, all of them to former addresses.
    pub fn is_outdated(&self) -> bool {
        let mut staying = self.connections.iter().filter(|entry| !entry.is_draining()).peekable();
        staying.peek().is_some() && staying.all(|entry| self.location.is_former(entry.peer()))
    }

    /// If a connection to the current address exists, those to former addresses accept no new
    /// requests and end by `by` at the latest. Returns whether there are any.
    fn drain_former(&mut self, by: Instant) -> bool {
        let location = &self.location;
        let is_there =
            |entry: &Entry<W>| !location.is_former(entry.peer()) && !entry.connection.is_broken();
        let has_arrived = self.connections.iter().any(is_there);
        let mut has_former = false;
        for entry in self.connections.iter_mut() {
            if has_arrived && location.is_former(entry.peer()) {
                entry.drain(by);
                has_former = true;
            } else {
                entry.stop_draining();
            }
        }
        has_former
    }
}

impl<W: Waiter> Pool<W> {
    /// Sets the address that dials try first; text that is not an IP address is ignored. If the
    /// address changes, the node was replaced: the old connections serve until a connection to the
    /// new address is answered. From then on they accept no new requests, and close once they are
    /// answered.
    pub fn set_ip(&self, ip: Option<&str>) {
        let ip = ip.and_then(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical());
        if !self.0.state().relocate(ip) {
            return;
        }
        self.0.relocated.notify_waiters();
        self.0.drain_former_if_replaced();
        self.0.track_if_outdated(Duration::ZERO);
    }
}

impl<W: Waiter> Shared<W> {
    /// Called after each new connection and each change of address.
    pub fn track(self: &Rc<Self>) {
        self.drain_former_if_replaced();
        self.track_if_outdated(TRACK_AGAIN_AFTER);
    }

    fn drain_former_if_replaced(self: &Rc<Self>) {
        if self.state().drain_former(Instant::now() + self.drain_timeout()) {
            self.context.spawn(drain_former(Rc::downgrade(self)));
        }
    }

    fn track_if_outdated(self: &Rc<Self>, delay: Duration) {
        let mut state = self.state();
        if state.is_outdated() && state.location.start_tracking() {
            drop(state);
            self.context.spawn(track(Rc::downgrade(self), delay));
        }
    }
}

/// Dials the current address as long as all connections lead to former ones. Failures here do not
/// affect the node's health, which is judged by the connections that serve.
async fn track<W: Waiter>(pool: Weak<Shared<W>>, mut delay: Duration) {
    let Some(strong) = pool.upgrade() else { return };
    let connector = Connector::new(&strong);
    let (closing, relocated) = (strong.closing.clone(), strong.relocated.clone());
    let max_connections = strong.config.max_connections;
    drop(strong);
    let context = connector.context.clone();
    let (mut since, mut failures) = (context.now(), 0);
    loop {
        let slept = unless_notified(&relocated, context.sleep(delay));
        match unless_notified(&closing, slept).await {
            None => return,
            Some(None) => (since, failures) = (context.now(), 0),
            Some(Some(())) => {}
        }
        let (ip, avoid) = {
            let Some(pool) = pool.upgrade() else { return };
            let mut state = pool.state();
            if !state.is_outdated() {
                state.location.stop_tracking();
                return;
            }
            if state.connections.len() + usize::from(state.growth.is_dialling()) > max_connections {
                delay = POLL_INTERVAL;
                continue;
            }
            (state.location.ip(), state.location.former_addresses().to_vec())
        };
        let dialling = pin!(connector.dial(&pool, ip, &avoid));
        let dialling = unless_notified(&relocated, dialling);
        let Some(result) = unless_notified(&closing, dialling).await else { return };
        let Some(pool) = pool.upgrade() else { return };
        match result {
            // The node has moved again.
            None => (since, failures, delay) = (context.now(), 0, Duration::ZERO),
            Some(Ok(new)) => {
                let mut state = pool.state();
                state.location.stop_tracking();
                // Another connection may have arrived in the meantime, and there is only room for
                // one.
                if state.is_outdated() {
                    drop(state);
                    pool.connected(new);
                }
                return;
            }
            Some(Err(_)) => {
                pool.state().counters.dial_failed();
                failures += 1;
                let elapsed = Duration::from_nanos(context.now().saturating_sub(since));
                delay = backoff::delay(failures).min(backoff::probe_ceiling(elapsed));
            }
        }
    }
}

/// Closes drained connections, each when it is answered or its deadline passes.
async fn drain_former<W: Waiter>(pool: Weak<Shared<W>>) {
    let Some(strong) = pool.upgrade() else { return };
    let (context, closing) = (strong.context.clone(), strong.closing.clone());
    drop(strong);
    loop {
        {
            let Some(pool) = pool.upgrade() else { return };
            let mut state = pool.state();
            while let Some(at) = state.connections.iter().position(Entry::is_drained) {
                state.purge(at);
            }
            let now = Instant::now();
            for entry in state.connections.iter_mut() {
                if entry.is_drain_overdue(now) {
                    entry.connection.abort(Cause::Relocated);
                }
            }
            let is_done = !state.connections.iter().any(Entry::is_draining);
            drop(state);
            pool.dial_if_wanted();
            if is_done {
                return;
            }
        }
        if unless_notified(&closing, context.sleep(POLL_INTERVAL)).await.is_none() {
            return;
        }
    }
}

/// Closes the pool of a removed node once it is answered or the grace period passes.
pub(super) async fn drain_and_close<W: Waiter>(pool: Pool<W>, grace_period: Duration) {
    let (context, closing) = (pool.0.context.clone(), pool.0.closing.clone());
    let until = context.now().saturating_add(nanos(grace_period));
    while pool.in_flight() > 0 && context.now() < until {
        if unless_notified(&closing, context.sleep(POLL_INTERVAL)).await.is_none() {
            return;
        }
    }
    pool.close_removed(grace_period);
}
