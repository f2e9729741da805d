//! Chooses the connection of a request so that it does not overtake an unanswered `noreply` write.
//!
//! The caller of a `noreply` write continues before the reply arrives, and another connection could
//! serve its next request first. So each key with such a write is pinned to that write's connection
//! until the reply arrives or the connection ends. All unanswered `noreply` writes stay on one
//! connection if possible, which also keeps their order.
use std::collections::HashMap;

use super::large::hash;
use super::pool::Waiter;
use super::state::{Entry, State};
use super::submission::Submission;
use crate::protocol::{OwnedRequest, Scope};

/// Stands for all keys, in place of the hash of one.
const ALL_KEYS: u64 = 0;

/// Keys are identified by their hashes. Two keys with the same hash are pinned together, which does
/// no harm.
#[derive(Default)]
pub(super) struct NoreplyOrder {
    pins: HashMap<u64, Pin>,
    /// The connection that took the latest `noreply` write.
    latest: u64,
}

struct Pin {
    connection: u64,
    /// The number of unanswered writes.
    writes: usize,
}

/// A request with the keys that it reads or changes.
pub(super) trait ScopedRequest {
    fn scope(&self) -> Scope;
    fn for_each_key(&self, visit: impl FnMut(&[u8]));
}

impl ScopedRequest for Submission<'_> {
    fn scope(&self) -> Scope {
        self.verb().scope()
    }

    fn for_each_key(&self, visit: impl FnMut(&[u8])) {
        match self {
            Self::Borrowed(request) => request.for_each_key(visit),
            Self::Owned(request) => request.for_each_key(visit),
        }
    }
}

impl ScopedRequest for OwnedRequest {
    fn scope(&self) -> Scope {
        self.verb().scope()
    }

    fn for_each_key(&self, visit: impl FnMut(&[u8])) {
        self.for_each_key(visit);
    }
}

/// The connections with unanswered writes that a request must follow.
enum PinTarget {
    None,
    One(u64),
    Several,
}

/// For each connection, the number of `noreply` writes that must be answered.
pub(super) struct PendingWrites(Vec<(u64, u64)>);

/// The connection of a request.
pub(super) enum Placement {
    /// Any connection that accepts it.
    Any,
    At(usize),
    /// None, until an unanswered write is answered or its connection has ended.
    Later,
}

impl NoreplyOrder {
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// Whether requests for this key wait for an unanswered write.
    pub fn pins(&self, key: &[u8]) -> bool {
        self.pins.contains_key(&ALL_KEYS) || self.pins.contains_key(&hash(key))
    }

    fn pin_target(&self, request: &impl ScopedRequest) -> PinTarget {
        let mut pin_target = PinTarget::None;
        let mut add = |pin: Option<&Pin>| {
            let Some(&Pin { connection, .. }) = pin else { return };
            pin_target = match pin_target {
                PinTarget::None => PinTarget::One(connection),
                PinTarget::One(other) if other == connection => PinTarget::One(connection),
                PinTarget::One(_) | PinTarget::Several => PinTarget::Several,
            };
        };
        match request.scope() {
            Scope::Keys => {
                add(self.pins.get(&ALL_KEYS));
                request.for_each_key(|key| add(self.pins.get(&hash(key))));
            }
            Scope::AllKeys => self.pins.values().for_each(|pin| add(Some(pin))),
            Scope::Fixed => {}
        }
        pin_target
    }

    fn add(&mut self, connection: u64, hash: u64) {
        self.latest = connection;
        self.pins.entry(hash).or_insert(Pin { connection, writes: 0 }).writes += 1;
    }

    fn remove(&mut self, hash: u64) {
        let Some(pin) = self.pins.get_mut(&hash) else { return };
        pin.writes -= 1;
        if pin.writes == 0 {
            self.pins.remove(&hash);
        }
    }
}

/// The hash that a `noreply` write pins.
pub(super) fn pin_hash(request: &impl ScopedRequest) -> u64 {
    let mut pin = ALL_KEYS;
    request.for_each_key(|key| pin = hash(key));
    pin
}

impl<W: Waiter> State<W> {
    /// The placement of a new request, which waits behind others.
    pub fn placement(&self, request: &impl ScopedRequest, is_noreply: bool) -> Placement {
        if self.queue.is_empty() {
            self.placement_of_queued(request, is_noreply)
        } else {
            Placement::Any
        }
    }

    /// The placement of a request from the front of the queue.
    pub fn placement_of_queued(&self, request: &impl ScopedRequest, is_noreply: bool) -> Placement {
        if self.order.is_empty() {
            return Placement::Any;
        }
        let id = match self.order.pin_target(request) {
            PinTarget::None if is_noreply => self.order.latest,
            PinTarget::None => return Placement::Any,
            PinTarget::One(id) => {
                let is_there = |entry: &Entry<W>| entry.id == id && entry.is_free();
                return self
                    .connections
                    .iter()
                    .position(is_there)
                    .map_or(Placement::Later, Placement::At);
            }
            PinTarget::Several => return Placement::Later,
        };
        let is_usable =
            |entry: &Entry<W>| entry.id == id && entry.is_free() && !entry.noreply.is_empty();
        self.connections.iter().position(is_usable).map_or(Placement::Any, Placement::At)
    }

    /// Records that the connection at `at` accepted a `noreply` write.
    pub fn pin(&mut self, at: usize, hash: u64) {
        let entry = &mut self.connections[at];
        entry.noreply.push_back(hash);
        self.order.add(entry.id, hash);
    }

    /// The unanswered writes that a request must follow.
    pub fn pending_writes(&self, request: &impl ScopedRequest) -> PendingWrites {
        let mut unanswered = Vec::new();
        if !matches!(self.order.pin_target(request), PinTarget::None) {
            let target = |entry: &Entry<W>| entry.noreply_answered + entry.noreply.len() as u64;
            unanswered.extend(self.connections.iter().map(|entry| (entry.id, target(entry))));
        }
        PendingWrites(unanswered)
    }

    /// Whether all of these writes are answered, or lost with their connections. Later writes do
    /// not count.
    pub fn are_answered(&self, writes: &PendingWrites) -> bool {
        let is_unanswered = |(id, target): &(u64, u64)| {
            let connection = self.connections.iter().find(|entry| entry.id == *id);
            connection.is_some_and(|entry| entry.noreply_answered < *target)
        };
        !writes.0.iter().any(is_unanswered)
    }

    /// Updates the pins after the connection at `at` was read.
    pub fn unpin_answered(&mut self, at: usize) {
        let entry = &mut self.connections[at];
        let answered = entry.noreply.len().saturating_sub(entry.connection.noreply_unanswered());
        if answered > 0 {
            entry.noreply.drain(..answered).for_each(|hash| self.order.remove(hash));
            entry.noreply_answered += answered as u64;
            entry.inherited_noreply = entry.inherited_noreply.saturating_sub(answered);
            self.queue.unblock();
        }
    }

    /// Removes the pins of a silent connection. Its writes have an unknown result, like all that
    /// time out, and nothing waits for them any more.
    pub fn unpin_silent(&mut self, at: usize) {
        let entry = &mut self.connections[at];
        for hash in std::mem::take(&mut entry.noreply) {
            self.order.remove(hash);
        }
        self.queue.unblock();
    }

    /// Removes the pins of a connection that left the pool.
    pub fn unpin_all(&mut self, entry: &Entry<W>) {
        if !entry.noreply.is_empty() {
            entry.noreply.iter().for_each(|hash| self.order.remove(*hash));
            self.queue.unblock();
        }
    }
}
