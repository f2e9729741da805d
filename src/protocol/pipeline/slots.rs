//! The slots: one for each request without a reply, in wire order.
use std::collections::VecDeque;

use super::handler::{NEVER, Nanos, ReplyHandler, Timing};
use crate::protocol::dialect::Expected;
use crate::protocol::stats::RequestInfo;

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "facts that are independent")]
pub(super) struct Slot<S> {
    /// `None` once the caller has timed out and was notified, or is served on another
    /// connection.
    pub handler: Option<S>,
    pub expected: Expected,
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

    /// Whether a caller waits for the reply.
    pub fn has_waiter(&self) -> bool {
        self.handler.as_ref().is_some_and(|handler| !handler.is_abandoned())
    }
}

impl<S> Slot<S> {
    pub fn info(&self) -> RequestInfo {
        RequestInfo { verb: self.expected.verb, keys: self.keys, issued_at: self.timing.issued_at }
    }
}

/// Invariant: the counters agree with the slots.
pub(super) struct Slots<S> {
    queue: VecDeque<Slot<S>>,
    /// The number of slots with `noreply` commands.
    noreply_unanswered: usize,
    /// The number of slots whose callers are served on another connection.
    moved: usize,
}

impl<S: ReplyHandler> Slots<S> {
    pub fn new() -> Self {
        Self { queue: VecDeque::new(), noreply_unanswered: 0, moved: 0 }
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn moved(&self) -> usize {
        self.moved
    }

    pub fn noreply_unanswered(&self) -> usize {
        self.noreply_unanswered
    }

    #[inline]
    pub fn push(&mut self, slot: Slot<S>) {
        self.noreply_unanswered += usize::from(slot.noreply);
        self.queue.push_back(slot);
    }

    #[inline]
    pub fn front(&self) -> Option<&Slot<S>> {
        self.queue.front()
    }

    /// The slot at a position from the front.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&Slot<S>> {
        self.queue.get(at)
    }

    #[inline]
    pub fn get_mut(&mut self, at: usize) -> Option<&mut Slot<S>> {
        self.queue.get_mut(at)
    }

    /// The handler of a slot, if its caller waits.
    #[inline]
    pub fn handler_mut(&mut self, at: usize) -> Option<&mut S> {
        self.queue.get_mut(at)?.handler.as_mut()
    }

    pub fn take_handler(&mut self, at: usize) -> Option<S> {
        self.queue.get_mut(at)?.handler.take()
    }

    #[inline]
    pub fn pop_front(&mut self) -> Option<Slot<S>> {
        let slot = self.queue.pop_front()?;
        self.noreply_unanswered -= usize::from(slot.noreply);
        self.moved -= usize::from(slot.moved);
        Some(slot)
    }

    /// Like [`Self::pop_front`], for a slot that shares a line and so is no `noreply` command.
    #[inline]
    pub fn pop_retrieval(&mut self) -> Option<Slot<S>> {
        let slot = self.queue.pop_front()?;
        if slot.handler.is_none() {
            self.moved -= usize::from(slot.moved);
        }
        Some(slot)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Slot<S>> + DoubleEndedIterator {
        self.queue.iter()
    }

    /// Takes the handler of a slot that another connection serves from now on.
    pub fn move_away(&mut self, at: usize) -> Option<S> {
        let slot = self.queue.get_mut(at)?;
        let handler = slot.handler.take()?;
        slot.moved = true;
        self.moved += 1;
        Some(handler)
    }

    /// All slots, in order.
    pub fn take_all(&mut self) -> VecDeque<Slot<S>> {
        (self.noreply_unanswered, self.moved) = (0, 0);
        std::mem::take(&mut self.queue)
    }

    /// The slots from a position on. They are pushed again or end.
    pub fn split_off(&mut self, at: usize) -> VecDeque<Slot<S>> {
        let rest = self.queue.split_off(at);
        for slot in &rest {
            self.noreply_unanswered -= usize::from(slot.noreply);
            self.moved -= usize::from(slot.moved);
        }
        rest
    }

    /// Puts a slot of [`Self::split_off`] back.
    pub fn push_again(&mut self, slot: Slot<S>) {
        self.moved += usize::from(slot.moved);
        self.push(slot);
    }

    /// The number of slots that start before a position.
    pub fn starting_before(&self, position: u64) -> usize {
        self.queue.partition_point(|slot| slot.start < position)
    }

    /// The deadline of the front request, if its caller has already timed out.
    pub fn overdue_since(&self) -> Option<Nanos> {
        self.front().filter(|slot| slot.handler.is_none()).map(|slot| slot.timing.deadline)
    }

    pub fn is_front_abandoned(&self) -> bool {
        let handler = self.front().and_then(|slot| slot.handler.as_ref());
        handler.is_some_and(ReplyHandler::is_abandoned)
    }

    pub fn front_deadline(&self) -> Nanos {
        self.front().map_or(NEVER, |slot| slot.timing.deadline)
    }

    /// Whether a caller waits for one of the slots from a position on.
    pub fn has_waiters(&self, from: usize) -> bool {
        self.iter().skip(from).any(Slot::has_waiter)
    }

    /// Checks each slot.
    pub fn abandoned(&self) -> usize {
        self.iter().filter(|slot| !slot.has_waiter()).count()
    }

    pub fn accept_all(&mut self) {
        let handlers = self.queue.iter_mut().filter_map(|slot| slot.handler.as_mut());
        handlers.for_each(ReplyHandler::accepted);
    }

    /// Takes the handlers whose deadline is at or before `now`, and returns the next deadline.
    pub fn expire(&mut self, now: Nanos, mut expired: impl FnMut(S, RequestInfo, u64)) -> Nanos {
        let mut next = NEVER;
        for slot in &mut self.queue {
            if slot.handler.is_none() {
                continue;
            }
            if slot.timing.deadline > now {
                next = next.min(slot.timing.deadline);
            } else if let Some(handler) = slot.handler.take() {
                expired(handler, slot.info(), slot.start);
            }
        }
        next
    }
}
