//! A node that is replaced keeps its name and changes its address: its connections follow it.
//!
//! Invariants: a connection takes nothing more once there is one to where the node is and it is not to
//! there; while the node is followed `connections.len() + dialling <= max_connections + 1`, and otherwise
//! [`super::pool`]'s.
use std::net::IpAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::backoff;
use super::context::before;
use super::dial::Dialler;
use super::error::Cause;
use super::health::ticks;
use super::pool::{Pool, Shared, Waiter};
use super::state::{Entry, State};

/// How often it is looked whether the last answer has come, or whether there is room.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Before a node is followed whose name led to where it was: its address was tried just now.
const FOLLOW_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Places that are remembered.
const MAX_LEFT: usize = 16;

/// Where a node is, and where it was.
#[derive(Default)]
pub(super) struct Place {
    /// Where it is known to be, to be dialled before its name is resolved.
    pub ip: Option<IpAddr>,
    /// The last that was known.
    last: Option<IpAddr>,
    /// Where it is no more. Its name may lead there for a while.
    pub left: Vec<IpAddr>,
    /// Whether [`follow`] runs.
    is_followed: bool,
}

impl Place {
    pub fn is_left(&self, peer: Option<IpAddr>) -> bool {
        peer.is_some_and(|peer| self.left.contains(&peer))
    }
}

impl<W: Waiter> State<W> {
    /// Takes note of where the node is. Whether dials should begin anew.
    fn relocate(&mut self, ip: Option<IpAddr>) -> bool {
        self.place.ip = ip;
        let Some(ip) = ip else { return false };
        let before = self.place.last.replace(ip);
        if before == Some(ip) {
            return false;
        }
        if before.is_some() {
            self.capabilities.reset();
        }
        if let Some(before) = before {
            let peers = self.connections.iter().filter_map(|entry| entry.peer);
            for place in peers.chain([before]) {
                if !self.place.left.contains(&place) {
                    self.place.left.push(place);
                }
            }
        }
        self.place.left.retain(|place| *place != ip);
        let surplus = self.place.left.len().saturating_sub(MAX_LEFT);
        self.place.left.drain(..surplus);
        true
    }

    /// Whether there are connections, and all of them to where the node is no more.
    pub fn is_behind(&self) -> bool {
        let mut staying = self.connections.iter().filter(|entry| !entry.is_leaving()).peekable();
        staying.peek().is_some() && staying.all(|entry| self.place.is_left(entry.peer))
    }

    /// If there is a connection to where the node is, those to where it was take nothing more and end until
    /// `by`. Whether there are any.
    fn part(&mut self, by: Instant) -> bool {
        let place = &self.place;
        let is_there =
            |entry: &Entry<W>| !place.is_left(entry.peer) && !entry.connection.is_broken();
        let has_arrived = self.connections.iter().any(is_there);
        let mut is_parting = false;
        for entry in &mut self.connections {
            let is_leaving = has_arrived && place.is_left(entry.peer);
            entry.leaves_by = is_leaving.then(|| entry.leaves_by.unwrap_or(by));
            is_parting |= is_leaving;
        }
        is_parting
    }
}

impl<W: Waiter> Pool<W> {
    /// Dials go to this address first from now on; one that is no IP address is ignored. If it is another
    /// than before, the node was replaced: as soon as a connection to the new one is answered, the others
    /// take nothing more and end when they are answered. Until then they serve.
    pub fn set_ip(&self, ip: Option<&str>) {
        let ip = ip.and_then(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical());
        if !self.0.state().relocate(ip) {
            return;
        }
        self.0.relocated.notify_waiters();
        self.0.part_if_arrived();
        self.0.follow_if_behind(Duration::ZERO);
    }
}

impl<W: Waiter> Shared<W> {
    /// After each connection, and each change of place.
    pub fn follow(self: &Rc<Self>) {
        self.part_if_arrived();
        self.follow_if_behind(FOLLOW_AGAIN_AFTER);
    }

    fn part_if_arrived(self: &Rc<Self>) {
        if self.state().part(Instant::now() + self.last_answer_within()) {
            self.context.spawn(part(Rc::downgrade(self)));
        }
    }

    fn follow_if_behind(self: &Rc<Self>, delay: Duration) {
        let mut state = self.state();
        if state.is_behind() && !std::mem::replace(&mut state.place.is_followed, true) {
            drop(state);
            self.context.spawn(follow(Rc::downgrade(self), delay));
        }
    }
}

/// Dials where the node is for as long as all connections are to where it was. What fails here is no sign
/// of the node's health, which is told by those that serve.
async fn follow<W: Waiter>(pool: Weak<Shared<W>>, mut delay: Duration) {
    let Some(strong) = pool.upgrade() else { return };
    let dialler = Dialler::of(&strong);
    let (closing, relocated) = (strong.closing.clone(), strong.relocated.clone());
    let max_connections = strong.config.max_connections;
    drop(strong);
    let context = dialler.context.clone();
    let (mut since, mut failures) = (context.now(), 0);
    loop {
        let slept = before(&relocated, context.sleep(delay));
        match before(&closing, slept).await {
            None => return,
            Some(None) => (since, failures) = (context.now(), 0),
            Some(Some(())) => {}
        }
        let (ip, avoid) = {
            let Some(pool) = pool.upgrade() else { return };
            let mut state = pool.state();
            if !state.is_behind() {
                state.place.is_followed = false;
                return;
            }
            if state.connections.len() + usize::from(state.dialling) > max_connections {
                delay = LOOK_EVERY;
                continue;
            }
            (state.place.ip, state.place.left.clone())
        };
        let dialling = pin!(dialler.dial(&pool, ip, &avoid));
        let dialling = before(&relocated, dialling);
        let Some(outcome) = before(&closing, dialling).await else { return };
        let Some(pool) = pool.upgrade() else { return };
        match outcome {
            // To yet another place.
            None => (since, failures, delay) = (context.now(), 0, Duration::ZERO),
            Some(Ok(new)) => {
                let mut state = pool.state();
                state.place.is_followed = false;
                // Another may have arrived meanwhile, and there is no room for more than one of these.
                if state.is_behind() {
                    drop(state);
                    pool.connected(new);
                }
                return;
            }
            Some(Err(_)) => {
                pool.state().metrics.connections_created_with_error += 1;
                failures += 1;
                let so_far = Duration::from_nanos(context.now().saturating_sub(since));
                delay = backoff::delay(failures).min(backoff::probe_ceiling(so_far));
            }
        }
    }
}

/// Closes the connections that are leaving, each when it is answered, or after a while.
async fn part<W: Waiter>(pool: Weak<Shared<W>>) {
    let Some(strong) = pool.upgrade() else { return };
    let (context, closing) = (strong.context.clone(), strong.closing.clone());
    drop(strong);
    loop {
        {
            let Some(pool) = pool.upgrade() else { return };
            let mut state = pool.state();
            let is_over = |entry: &Entry<W>| {
                entry.is_leaving() && entry.lease.is_none() && entry.connection.in_flight() == 0
            };
            while let Some(at) = state.connections.iter().position(is_over) {
                state.purge(at);
            }
            let now = Instant::now();
            for entry in &mut state.connections {
                if entry.leaves_by.is_some_and(|by| by <= now) {
                    entry.connection.give_up(Cause::Moved);
                }
            }
            let is_done = !state.connections.iter().any(Entry::is_leaving);
            drop(state);
            pool.dial_if_wanted();
            if is_done {
                return;
            }
        }
        if before(&closing, context.sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

/// Closes the pool of a node that left when it is answered, or after a while.
pub(super) async fn retire<W: Waiter>(pool: Pool<W>, patience: Duration) {
    let (context, closing) = (pool.0.context.clone(), pool.0.closing.clone());
    let until = context.now().saturating_add(ticks(patience));
    while pool.in_flight() > 0 && context.now() < until {
        if before(&closing, context.sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
    pool.leave(patience);
}
