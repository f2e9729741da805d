//! Chooses the connection of a request so that it does not overtake an unanswered `noreply` write.
//!
//! The caller of a `noreply` write continues before the reply arrives, and another connection could
//! serve its next request first. So each key with such a write is pinned to that write's connection
//! until the reply arrives or the connection ends. All unanswered `noreply` writes stay on one
//! connection if possible, which also keeps their order.
use std::collections::HashMap;

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
    /// The connection that took the latest `noreply` write.
    pub latest: u64,
}

pub(super) struct Pin {
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
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
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

    pub fn add(&mut self, connection: u64, hash: u64) {
        self.latest = connection;
        self.pins.entry(hash).or_insert(Pin { connection, writes: 0 }).writes += 1;
    }

    pub fn remove(&mut self, hash: u64) {
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
