//! The slots: one for each request without a reply, in wire order.
use bytes::Bytes;

use super::Pipeline;
use super::handler::{NEVER, Nanos, ReplyHandler, Timing};
use crate::protocol::stats::RequestInfo;
use crate::protocol::verbs::Verb;

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "facts that are independent")]
pub(super) struct Slot<S> {
    /// `None` once the caller has timed out and was notified, or is served on another
    /// connection.
    pub handler: Option<S>,
    pub verb: Verb,
    /// The number of keys of this slot in the line; 0 for a command.
    pub keys: u32,
    pub retried: bool,
    /// Whether another connection serves the caller.
    pub moved: bool,
    /// Whether the slot shares the line of the slot before it.
    pub shares_line: bool,
    /// See [`ReplyHandler::is_noreply`].
    pub noreply: bool,
    pub timing: Timing,
    /// The position at which the slot's bytes start, or its line's, counted over all encoded bytes.
    pub start: u64,
}

impl<S: ReplyHandler> Slot<S> {
    /// Whether this is a command that does not have to be sent any more.
    pub fn is_cancelled_or_expired(&self, now: Nanos) -> bool {
        let is_over = |handler: &S| self.timing.deadline <= now || handler.is_abandoned();
        self.keys == 0 && !self.noreply && self.handler.as_ref().is_none_or(is_over)
    }
}

impl<S> Slot<S> {
    pub fn info(&self) -> RequestInfo {
        RequestInfo { verb: self.verb, keys: self.keys, issued_at: self.timing.issued_at }
    }
}

impl<S: ReplyHandler> Pipeline<S> {
    /// The number of slots without a reply, abandoned ones included.
    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// The number of slots whose callers are served on another connection: see
    /// [`Self::take_held_up`].
    pub fn moved(&self) -> usize {
        self.moved
    }

    /// The number of slots whose reply was not an error line.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// The number of answered slots whose callers had already timed out.
    pub fn answered_late(&self) -> u64 {
        self.answered_late
    }

    /// The number of slots that were answered by an error line in time.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The deadline of the next request to be answered, if its caller has already timed out.
    pub fn overdue_since(&self) -> Option<Nanos> {
        self.slots.front().filter(|slot| slot.handler.is_none()).map(|slot| slot.timing.deadline)
    }

    /// The deadline of the next request to be answered; [`NEVER`] if there is none.
    pub fn front_deadline(&self) -> Nanos {
        self.slots.front().map_or(NEVER, |slot| slot.timing.deadline)
    }

    /// Whether a caller waits for a reply.
    pub fn has_waiters(&self) -> bool {
        self.slots
            .iter()
            .any(|slot| slot.handler.as_ref().is_some_and(|handler| !handler.is_abandoned()))
    }

    /// The first slot that another request may hold up: the second one, or the first if several
    /// keys are answered together.
    pub(super) fn first_held_up(&self) -> usize {
        match (self.slots.front(), self.lines.front()) {
            (Some(slot), Some(line)) if slot.keys > 0 && line.keys > 1 => 0,
            _ => 1,
        }
    }

    /// Whether a caller waits for a slot that another request may hold up.
    pub fn is_held_up(&self) -> bool {
        let mut held_up = self.slots.iter().skip(self.first_held_up());
        held_up.any(|slot| slot.handler.as_ref().is_some_and(|handler| !handler.is_abandoned()))
    }

    /// The number of slots whose callers no longer wait. Checks each slot.
    pub fn abandoned(&self) -> usize {
        let is_abandoned =
            |slot: &&Slot<S>| slot.handler.as_ref().is_none_or(ReplyHandler::is_abandoned);
        self.slots.iter().filter(is_abandoned).count()
    }

    /// The number of `noreply` requests without a reply.
    pub fn noreply_unanswered(&self) -> usize {
        self.noreply_unanswered
    }

    /// Notifies all handlers that the connection is alive.
    pub fn accept_all(&mut self) {
        self.slots
            .iter_mut()
            .filter_map(|slot| slot.handler.as_mut())
            .for_each(ReplyHandler::accepted);
    }

    /// The last command other than a retrieval that was answered by a bare `ERROR` since the last
    /// call.
    pub fn take_unknown(&mut self) -> Option<Verb> {
        self.unknown_command.take()
    }

    /// The commands that were sent, at least in part, and not answered. `written` as in
    /// [`Self::feed`].
    pub fn unanswered(&self, written: u64) -> impl Iterator<Item = Verb> {
        self.slots.iter().filter(move |slot| slot.start < written).map(|slot| slot.verb)
    }

    /// The number of keys that another request of the same line asked for too, so that the server
    /// was asked once.
    pub fn shared_keys(&self) -> u64 {
        self.shared_keys
    }

    /// The keys with large values since the last call.
    pub fn take_large_keys(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.large_keys)
    }

    /// The handlers of a pipeline whose state is not reliable any more.
    pub fn into_handlers(self) -> impl Iterator<Item = (S, RequestInfo)> {
        let slots = self.slots.into_iter();
        let waiting = slots.filter_map(|mut slot| Some((slot.handler.take()?, slot.info())));
        waiting.chain(self.pruned_expired.into_iter().map(|late| (late.handler, late.info)))
    }
}
