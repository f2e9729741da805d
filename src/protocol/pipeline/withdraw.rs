//! Requests that end without a reply: expired, cancelled, moved, or lost with their connection.
use bytes::Bytes;
use smallvec::SmallVec;

use super::handler::{NEVER, Nanos, ReplyHandler, Timing};
use super::slots::Slot;
use super::{InFlight, Pipeline};
use crate::protocol::command::RetrievalVerb;
use crate::protocol::outgoing::Outgoing;
use crate::protocol::owned_request::OwnedRequest;
use crate::protocol::reply::Reply;
use crate::protocol::stats::{CallResult, NodeStats, RequestInfo};

/// A request of a lost connection.
#[derive(Debug)]
pub struct Orphan<S> {
    pub handler: S,
    pub info: RequestInfo,
    pub deadline: Nanos,
    pub retried: bool,
    /// Whether a byte of the request may have been sent.
    pub sent: bool,
    /// The request to send again: any retrieval, or a command of which no byte was sent. `None` if
    /// the server may have executed it.
    pub retry: Option<OwnedRequest>,
    /// If [`Pipeline::line_error`] ended the reply to the request's line: the keys without an item.
    /// `retry` contains only these keys.
    pub missing: Option<SmallVec<[usize; 1]>>,
}

/// A request whose deadline has passed.
#[derive(Debug)]
pub struct ExpiredRequest<S> {
    pub handler: S,
    pub info: RequestInfo,
    /// Whether a byte of the request was sent.
    pub sent: bool,
}

impl<S: ReplyHandler> Pipeline<S> {
    /// Takes the handlers whose deadline is at or before `now`, and returns the next deadline. The
    /// slots stay, because their replies still arrive. `written` as in [`Self::feed`].
    pub fn expire(
        &mut self,
        now: Nanos,
        written: u64,
        mut expired: impl FnMut(ExpiredRequest<S>),
    ) -> Nanos {
        self.pruned_expired.drain(..).for_each(&mut expired);
        self.in_flight.slots.expire(now, |handler, info, start| {
            expired(ExpiredRequest { handler, info, sent: start < written });
        })
    }

    /// Removes unsent commands from `out` whose callers no longer wait, if they start within the
    /// next `len` bytes. Used when a connection could not write for a while. Cancelled requests are
    /// dismissed here; those whose deadline has passed are left to [`Self::expire`].
    ///
    /// Retrievals stay, as they change nothing but `gat`'s exptime. `noreply` commands stay too,
    /// because their callers were told that they will be written. `mark`, the end of a command,
    /// moves with the bytes before it.
    pub fn prune(
        &mut self,
        out: &mut Outgoing,
        written: u64,
        len: usize,
        mark: &mut u64,
        now: Nanos,
        stats: &mut NodeStats,
    ) {
        self.close_line(out);
        let end = written.saturating_add(len as u64);
        let slots = &mut self.in_flight.slots;
        let first = slots.starting_before(written);
        let mut pruned = Vec::new();
        for (at, slot) in slots.iter().enumerate().skip(first) {
            if slot.start >= end {
                break;
            }
            if slot.is_cancelled_or_expired(now) {
                pruned.push(at);
            }
        }
        if pruned.is_empty() {
            return;
        }
        let mut cuts = Vec::with_capacity(pruned.len());
        let mut removed = 0;
        let mut pruned = pruned.into_iter().peekable();
        let rest = slots.split_off(first);
        let ends: Vec<u64> = rest.iter().skip(1).map(|slot| slot.start).collect();
        let ends = ends.into_iter().chain([self.encoded]);
        for (at, (mut slot, end)) in (first..).zip(rest.into_iter().zip(ends)) {
            if pruned.next_if_eq(&at).is_none() {
                slot.start -= removed;
                slots.push_again(slot);
                continue;
            }
            cuts.push((slot.start, end));
            removed += end - slot.start;
            let info = slot.info();
            match slot.handler {
                Some(handler) if handler.is_abandoned() => {
                    stats.record(info, CallResult::Cancelled);
                    handler.reply(&Reply::End, "");
                }
                Some(handler) => {
                    self.pruned_expired.push(ExpiredRequest { handler, info, sent: false });
                }
                None => {}
            }
        }
        self.encoded -= removed;
        *mark -= cuts.iter().filter(|cut| cut.0 < *mark).map(|cut| cut.1 - cut.0).sum::<u64>();
        let to_unsent = |cut: (u64, u64)| unsent_range(cut.0, cut.1, written);
        let cuts: Vec<_> = cuts.into_iter().filter_map(to_unsent).collect();
        out.cut(&cuts);
    }

    /// Takes the handlers of `get` and `gets` requests that another request may hold up, for a
    /// retry on another connection. Their slots stay, and their replies are discarded. Keys for
    /// which `must_stay` is true are left; so are `gat` and `gats`, because the server may execute
    /// them later and then change the expiration time again. `written` as in [`Self::feed`].
    pub fn take_held_up(
        &mut self,
        written: u64,
        must_stay: impl Fn(&[u8]) -> bool,
    ) -> Vec<Orphan<S>> {
        let first = self.in_flight.first_held_up();
        let InFlight { slots, lines, .. } = &mut self.in_flight;
        let mut orphans = Vec::new();
        let mut position = lines.first_key();
        let mut line_of_slot = lines.iter();
        let (mut line_slots, mut line_verb) = (0, RetrievalVerb::Get);
        for at in 0..slots.len() {
            let Some(slot) = slots.get(at).filter(|slot| slot.keys > 0) else { continue };
            if line_slots == 0
                && let Some(line) = line_of_slot.next()
            {
                (line_slots, line_verb) = (line.slots, line.verb);
            }
            line_slots -= 1;
            let mut is_taken = at >= first && !line_verb.changes_expiration() && slot.has_waiter();
            let mut keys = SmallVec::new();
            for _ in 0..slot.keys {
                let entry = lines.key_at(position);
                position = entry.next;
                is_taken = is_taken && !must_stay(entry.key);
                if is_taken {
                    keys.push(Bytes::copy_from_slice(entry.key));
                }
            }
            let (info, sent) = (slot.info(), slot.start < written);
            let (deadline, retried) = (slot.timing.deadline, slot.retried);
            if is_taken && let Some(handler) = slots.move_away(at) {
                let retry = Some(OwnedRequest::Retrieval { verb: line_verb, keys });
                let missing = None;
                orphans.push(Orphan { handler, info, deadline, retried, sent, retry, missing });
            }
        }
        orphans
    }

    /// Empties the pipeline of a lost connection. `unsent` holds the encoded bytes that were not
    /// written, `written` is the number of bytes that were.
    pub fn drain(&mut self, unsent: &Outgoing, written: u64) -> Vec<Orphan<S>> {
        let InFlight { slots, lines, assigned, line_error, .. } = &mut self.in_flight;
        let mut orphans = Vec::with_capacity(slots.len());
        orphans.extend(self.pruned_expired.drain(..).map(
            |ExpiredRequest { handler, info, sent }| {
                let (deadline, retried, retry, missing) = (NEVER, false, None, None);
                Orphan { handler, info, deadline, retried, sent, retry, missing }
            },
        ));
        let mut position = lines.first_key();
        // The first keys in flight belong to the line whose reply was cut short.
        let stopped_keys = match (line_error, lines.front()) {
            (Some(_), Some(line)) => line.keys,
            _ => 0,
        };
        let verb_of_slots =
            lines.iter().flat_map(|line| std::iter::repeat_n(line.verb, line.slots as usize));
        let mut verbs = verb_of_slots.collect::<Vec<_>>().into_iter();
        let mut slots = slots.take_all().into_iter().peekable();
        let mut ordinal = 0;
        while let Some(slot) = slots.next() {
            let mut missing = (ordinal < stopped_keys).then(SmallVec::new);
            let retry = if slot.keys > 0 {
                let mut keys = SmallVec::with_capacity(slot.keys as usize);
                for index in 0..slot.keys {
                    let entry = lines.key_at(position);
                    position = entry.next;
                    if let Some(missing) = &mut missing {
                        if assigned.contains(ordinal + index) {
                            continue;
                        }
                        missing.push(index as usize);
                    }
                    keys.push(Bytes::copy_from_slice(entry.key));
                }
                ordinal += slot.keys;
                verbs.next().map(|verb| OwnedRequest::Retrieval { verb, keys })
            } else {
                let end = slots.peek().map_or(self.encoded, |next| next.start);
                unsent_range(slot.start, end, written)
                    .and_then(|(start, end)| unsent.copy(start, end))
                    .and_then(|wire| self.dialect.decode_command(&wire, slot.expected))
                    .map(OwnedRequest::Command)
            };
            let (info, sent) = (slot.info(), slot.start < written);
            let Slot { handler, timing: Timing { deadline, .. }, retried, .. } = slot;
            if let Some(handler) = handler {
                orphans.push(Orphan { handler, info, deadline, retried, sent, retry, missing });
            }
        }
        *self = self.restarted();
        orphans
    }
}

/// The range within the unwritten bytes that corresponds to `start..end` of all encoded bytes.
fn unsent_range(start: u64, end: u64, written: u64) -> Option<(usize, usize)> {
    let start = usize::try_from(start.checked_sub(written)?).ok()?;
    let end = usize::try_from(end.checked_sub(written)?).ok()?;
    Some((start, end))
}
