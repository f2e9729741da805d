//! Where the keys of nodes went that are or were out of service.
use super::super::order::RoutingOrder;
use super::super::routing::RoutedNode;
use crate::protocol::{NEVER, Nanos};

/// One choice of substitutes. It is kept until the copies that were written under it have expired.
#[derive(Debug)]
pub struct Placement {
    /// The nodes that were out of service, sorted.
    out: Vec<usize>,
    /// The nodes that took their keys.
    substitutes: RoutingOrder,
    /// `NEVER` while it is in use.
    until: Nanos,
    /// Whether keys may have belonged to other nodes then, because nodes have joined or left.
    is_foreign: bool,
}

impl Placement {
    pub fn new(out: Vec<usize>, substitutes: RoutingOrder) -> Self {
        Self { out, substitutes, until: NEVER, is_foreign: false }
    }

    pub fn is_in_use(&self) -> bool {
        self.until == NEVER
    }

    pub fn is_over(&self, now: Nanos) -> bool {
        self.until <= now
    }

    pub fn out(&self) -> &[usize] {
        &self.out
    }

    /// Whether it is the same choice for the same nodes.
    pub fn is_same(&self, other: &Self) -> bool {
        !self.is_foreign
            && self.out == other.out
            && self.substitutes.routed_nodes() == other.substitutes.routed_nodes()
    }

    /// Its copies expire by `until`.
    pub fn end(&mut self, until: Nanos) {
        if self.is_in_use() {
            self.until = until;
        }
    }

    /// From now on keys may belong to other nodes.
    pub fn mark_foreign(&mut self) {
        self.is_foreign = true;
    }

    /// Whether a key of this node may have a copy at its substitute.
    pub fn may_cover(&self, home: usize) -> bool {
        self.is_foreign || self.covers(home)
    }

    /// Whether the keys of this node went to substitutes.
    pub fn covers(&self, home: usize) -> bool {
        self.out.binary_search(&home).is_ok()
    }

    pub fn pick(&self, key: &[u8], node: impl Fn(usize) -> RoutedNode) -> Option<usize> {
        self.substitutes.pick(key, node)
    }
}
