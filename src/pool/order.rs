//! Which connection a request takes so that it does not overtake an unanswered `noreply` write.
//!
//! The caller of a `noreply` write goes on before the answer comes, and another connection could serve its next
//! request first. So each key with such a write is pinned to the connection of that write until the answer
//! comes or the connection ends. All unanswered `noreply` writes stay on one connection if possible, which
//! keeps the order among them too.
use std::collections::HashMap;

use super::large::hash;
use super::pool::Waiter;
use super::queue::Submission;
use super::state::{Entry, State};
use crate::protocol::{OwnedRequest, Scope};

/// Stands for all keys in place of the hash of one.
const ALL_KEYS: u64 = 0;

/// Keys are known by their hashes: two with the same one are pinned together, which does no harm.
#[derive(Default)]
pub(super) struct NoreplyOrder {
    pins: HashMap<u64, Pin>,
    /// The connection that took the latest `noreply` write.
    latest: u64,
}

struct Pin {
    connection: u64,
    /// Unanswered ones.
    writes: usize,
}

/// What a request reads or changes.
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

/// The unanswered writes that a request must come after.
enum PinTarget {
    None,
    One(u64),
    Several,
}

/// By connection, how many of its `noreply` writes must be answered.
pub(super) struct PendingWrites(Vec<(u64, u64)>);

/// Where a request goes.
pub(super) enum Placement {
    /// To any connection that takes it.
    Any,
    At(usize),
    /// Nowhere until an unanswered write is answered, or its connection has ended.
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

/// What a `noreply` write pins: the hash of its key.
pub(super) fn pin_hash(request: &impl ScopedRequest) -> u64 {
    let mut pin = ALL_KEYS;
    request.for_each_key(|key| pin = hash(key));
    pin
}

impl<W: Waiter> State<W> {
    /// Where a request goes that is new: behind others, if any wait.
    pub fn placement(&self, request: &impl ScopedRequest, is_noreply: bool) -> Placement {
        if self.queue.is_empty() {
            self.placement_of_queued(request, is_noreply)
        } else {
            Placement::Any
        }
    }

    /// Where a request goes that was the first in the queue.
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

    /// The connection at `at` took a `noreply` write.
    pub fn pin(&mut self, at: usize, hash: u64) {
        let entry = &mut self.connections[at];
        entry.noreply.push_back(hash);
        self.order.add(entry.id, hash);
    }

    /// The unanswered writes that a request must come after, if there are any.
    pub fn pending_writes(&self, request: &impl ScopedRequest) -> PendingWrites {
        let mut unanswered = Vec::new();
        if !matches!(self.order.pin_target(request), PinTarget::None) {
            let target = |entry: &Entry<W>| entry.noreply_answered + entry.noreply.len() as u64;
            unanswered.extend(self.connections.iter().map(|entry| (entry.id, target(entry))));
        }
        PendingWrites(unanswered)
    }

    /// Whether all of them are answered, or lost with their connections. Later writes do not count.
    pub fn are_answered(&self, writes: &PendingWrites) -> bool {
        let is_unanswered = |(id, target): &(u64, u64)| {
            let connection = self.connections.iter().find(|entry| entry.id == *id);
            connection.is_some_and(|entry| entry.noreply_answered < *target)
        };
        !writes.0.iter().any(is_unanswered)
    }

    /// The connection at `at` was read: some of its `noreply` writes may be answered.
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

    /// The connection at `at` is silent: what happens to its writes nobody knows, as with any that time out, and
    /// nothing waits for them any more.
    pub fn unpin_silent(&mut self, at: usize) {
        let entry = &mut self.connections[at];
        for hash in std::mem::take(&mut entry.noreply) {
            self.order.remove(hash);
        }
        self.queue.unblock();
    }

    /// A connection is no longer among the pool's: what it did not answer keeps nothing waiting.
    pub fn unpin_all(&mut self, entry: &Entry<W>) {
        if !entry.noreply.is_empty() {
            entry.noreply.iter().for_each(|hash| self.order.remove(*hash));
            self.queue.unblock();
        }
    }
}
