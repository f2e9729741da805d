//! Chooses the connection of a request so that it does not overtake an unanswered `noreply` write.
//!
//! The caller of a `noreply` write continues before the reply arrives, and another connection could
//! serve its next request first. So each key with such a write is pinned to that write's connection
//! until the reply arrives or the connection ends. All unanswered `noreply` writes stay on one
//! connection if possible, which also keeps their order.
use std::collections::{HashMap, VecDeque};

use super::large::hash;
use super::submission::Submission;
use crate::protocol::{OwnedRequest, Scope};

/// Stands for all keys, in place of the hash of one.
const ALL_KEYS: u64 = 0;

/// Keys are identified by their hashes. Two keys with the same hash are pinned together, which does
/// no harm.
#[derive(Default)]
pub(super) struct NoreplyOrder {
    pins: HashMap<u64, Pin>,
    latest: u64,
}

/// The `noreply` writes of one connection. [`NoreplyOrder`] pins the hashes of those that are
/// unanswered.
#[derive(Default)]
pub(super) struct NoreplyWrites {
    /// The hashes that the unanswered ones pin, in order.
    unanswered: VecDeque<u64>,
    /// The number of answered ones.
    answered: u64,
    /// The number of unanswered ones of former holders.
    inherited: usize,
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
pub(super) enum PinTarget {
    None,
    One(u64),
    Several,
}

/// For each connection, the number of `noreply` writes that must be answered.
pub(super) struct PendingWrites(pub Vec<(u64, u64)>);

impl NoreplyOrder {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// The connection that took the latest `noreply` write.
    pub fn latest(&self) -> u64 {
        self.latest
    }

    /// Whether requests for this key wait for an unanswered write.
    pub fn pins(&self, key: &[u8]) -> bool {
        self.pins.contains_key(&ALL_KEYS) || self.pins.contains_key(&hash(key))
    }

    pub fn pin_target(&self, request: &impl ScopedRequest) -> PinTarget {
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

    /// Records that a connection accepted a write.
    pub fn pin(&mut self, connection: u64, writes: &mut NoreplyWrites, hash: u64) {
        self.latest = connection;
        self.pins.entry(hash).or_insert(Pin { connection, writes: 0 }).writes += 1;
        writes.unanswered.push_back(hash);
    }

    /// Unpins the answered writes of a connection: all except the last `unanswered`. Returns
    /// whether there are any.
    pub fn unpin_answered(&mut self, writes: &mut NoreplyWrites, unanswered: usize) -> bool {
        let answered = writes.unanswered.len().saturating_sub(unanswered);
        writes.unanswered.drain(..answered).for_each(|hash| self.unpin(hash));
        writes.answered += answered as u64;
        writes.inherited = writes.inherited.saturating_sub(answered);
        answered > 0
    }

    /// Unpins the writes of a connection that has ended. Returns whether there are any.
    pub fn unpin_all(&mut self, writes: NoreplyWrites) -> bool {
        let has_any = !writes.are_answered();
        writes.unanswered.into_iter().for_each(|hash| self.unpin(hash));
        has_any
    }

    fn unpin(&mut self, hash: u64) {
        let Some(pin) = self.pins.get_mut(&hash) else { return };
        pin.writes -= 1;
        if pin.writes == 0 {
            self.pins.remove(&hash);
        }
    }
}

impl NoreplyWrites {
    pub fn are_answered(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// The number of writes so far, answered or not.
    pub fn total(&self) -> u64 {
        self.answered + self.unanswered.len() as u64
    }

    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// The holder that sent them has released the connection.
    pub fn inherit(&mut self) {
        self.inherited = self.unanswered.len();
    }

    /// Whether a former holder left unanswered writes.
    pub fn are_inherited(&self) -> bool {
        self.inherited > 0
    }
}

/// The hash that a `noreply` write pins.
pub(super) fn pin_hash(request: &impl ScopedRequest) -> u64 {
    let mut pin = ALL_KEYS;
    request.for_each_key(|key| pin = hash(key));
    pin
}
