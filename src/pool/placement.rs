//! Which connection takes a request that must not overtake an unanswered `noreply` write.
use super::connections::Entry;
use super::order::{PendingWrites, PinTarget, ScopedRequest};
use super::state::State;
use super::waiter::Waiter;

/// The connection of a request.
pub(super) enum Placement {
    /// Any connection that accepts it.
    Any,
    At(usize),
    /// None, until an unanswered write is answered or its connection has ended.
    Later,
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
            PinTarget::None if is_noreply => self.order.latest(),
            PinTarget::None => return Placement::Any,
            PinTarget::One(id) => {
                let at = self.connections.position_of(id);
                let at = at.filter(|at| self.connections[*at].is_free());
                return at.map_or(Placement::Later, Placement::At);
            }
            PinTarget::Several => return Placement::Later,
        };
        // A silent connection may never execute a write that is reported as done.
        let is_usable = |entry: &Entry<W>| {
            entry.id() == id
                && entry.is_free()
                && !entry.is_silent()
                && !entry.noreply.are_answered()
        };
        self.connections.iter().position(is_usable).map_or(Placement::Any, Placement::At)
    }

    /// Records that the connection at `at` accepted a `noreply` write.
    pub fn pin(&mut self, at: usize, hash: u64) {
        let entry = &mut self.connections[at];
        self.order.pin(entry.id(), &mut entry.noreply, hash);
    }

    /// The unanswered writes that a request must follow.
    pub fn pending_writes(&self, request: &impl ScopedRequest) -> PendingWrites {
        let mut unanswered = Vec::new();
        if !matches!(self.order.pin_target(request), PinTarget::None) {
            let entries = self.connections.iter();
            unanswered.extend(entries.map(|entry| (entry.id(), entry.noreply.total())));
        }
        PendingWrites(unanswered)
    }

    /// Whether all of these writes are answered, or lost with their connections. Later writes do
    /// not count.
    pub fn are_answered(&self, writes: &PendingWrites) -> bool {
        let is_unanswered = |(id, target): &(u64, u64)| {
            let connection = self.connections.iter().find(|entry| entry.id() == *id);
            connection.is_some_and(|entry| entry.noreply.answered() < *target)
        };
        !writes.0.iter().any(is_unanswered)
    }

    /// Updates the pins after the connection at `at` was read.
    pub fn unpin_answered(&mut self, at: usize) {
        let entry = &mut self.connections[at];
        let unanswered = entry.connection.noreply_unanswered();
        if self.order.unpin_answered(&mut entry.noreply, unanswered) {
            self.queue.unblock();
        }
    }

    /// Removes the pins of a connection that left the pool.
    pub fn unpin_all(&mut self, entry: &mut Entry<W>) {
        if self.order.unpin_all(std::mem::take(&mut entry.noreply)) {
            self.queue.unblock();
        }
    }
}
