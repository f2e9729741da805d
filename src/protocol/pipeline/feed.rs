//! Bytes read become frames, and frames the calls of handlers.
use bytes::Bytes;

use super::handler::{Nanos, ReplyHandler};
use super::matching::Cursor;
use super::push::Line;
use super::{
    CONNECTION_REFUSED, MAX_STATS_SIZE, MustClose, Pipeline, STAT_OVERHEAD, UNAUTHENTICATED,
};
use crate::protocol::decode::Frame;
use crate::protocol::error::{Excerpt, ProtocolError};
use crate::protocol::reply::{ErrorLine, ErrorLineKind, Reply, Shape, StatLine};
use crate::protocol::stats::NodeStats;
use crate::protocol::verbs::Verb;

impl<S: ReplyHandler> Pipeline<S> {
    /// Passes the replies in `buf` to their handlers and returns the number of bytes used. The next
    /// call must pass the rest again, followed by the new bytes. `written` is the number of encoded
    /// bytes that were sent, `now` the time at which `buf` was read.
    pub fn feed(
        &mut self,
        buf: &[u8],
        written: u64,
        now: Nanos,
        stats: &mut NodeStats,
    ) -> Result<usize, ProtocolError> {
        let mut update = StatsUpdate { stats, now };
        let mut pos = 0;
        while pos < buf.len() && self.must_close.is_none() {
            if self.receiving.is_some() {
                let used = self.receive_value(&buf[pos..])?;
                if used == 0 {
                    break;
                }
                pos += used;
                continue;
            }
            let Some(front) = self.slots.front().filter(|slot| slot.start < written) else {
                let rest = &buf[pos..];
                return Err(match rest.strip_prefix(CONNECTION_REFUSED) {
                    Some(b"\r\n") => ProtocolError::TooManyConnections,
                    _ => ProtocolError::Unsolicited(Excerpt::from_bytes(rest)),
                });
            };
            let shape = front.verb.shape();
            if let Some((key, next)) = self.expected_key()
                && let Some((item, len)) = self.decoder.item_with_key(key, &buf[pos..], shape)
            {
                self.store_item(self.cursor, next, &item, None);
                self.last_was_large = false;
                pos += len;
                continue;
            }
            let Some((frame, len)) = self.decoder.next(&buf[pos..], shape)? else {
                if self.start_large_value(&buf[pos..], shape)? {
                    pos = buf.len();
                }
                break;
            };
            let Some(front) = self.slots.front_mut() else { break };
            match frame {
                // Retrievals have keys. Any other command with an item has exactly one.
                Frame::Item(item) if front.keys == 0 => {
                    if let Some(handler) = &mut front.handler {
                        handler.item(0, &item, None);
                    }
                }
                Frame::Item(item) => self.match_item(&item)?,
                Frame::Stat(stat) => self.stat(&stat)?,
                // Not a reply to a request: the server refuses the connection.
                Frame::Reply(Reply::Error(error)) if error.line == CONNECTION_REFUSED => {
                    return Err(ProtocolError::TooManyConnections);
                }
                Frame::Reply(Reply::Error(error))
                    if error.line == UNAUTHENTICATED && self.slots.len() > 1 =>
                {
                    self.fail_all(&Reply::Error(error), &mut update);
                    return Ok(buf.len());
                }
                Frame::Reply(reply) => self.finish(&reply, &mut update),
            }
            pos += len;
        }
        Ok(pos)
    }

    pub(super) fn stat(&mut self, stat: &StatLine<'_>) -> Result<(), ProtocolError> {
        self.stats_size += stat.line.len() + STAT_OVERHEAD;
        if self.stats_size > MAX_STATS_SIZE {
            return Err(ProtocolError::TooManyLines);
        }
        if let Some(handler) = self.slots.front_mut().and_then(|front| front.handler.as_mut()) {
            handler.stat(stat);
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, reply: &Reply<'_>, update: &mut StatsUpdate<'_>) {
        let is_retrieval = self.slots.front().is_some_and(|slot| slot.keys > 0);
        if is_retrieval {
            self.finish_line(reply, update);
            return;
        }
        (self.last_was_large, self.stats_size) = (false, 0);
        let Some(slot) = self.slots.pop_front() else { return };
        self.noreply_unanswered -= usize::from(slot.noreply);
        if let Reply::Error(error) = reply {
            self.note_error(slot.verb, error.kind);
        }
        if slot.handler.is_some() {
            let took = update.now.saturating_sub(slot.timing.issued_at);
            update.stats.command_mut(slot.verb).record_reply(reply, took);
        }
        self.resolve(slot.handler, reply);
    }

    #[cold]
    pub(super) fn note_error(&mut self, verb: Verb, kind: ErrorLineKind) {
        let is_storage = verb.shape() == Shape::Storage;
        if is_storage && matches!(kind, ErrorLineKind::Unknown | ErrorLineKind::Client) {
            self.must_close = Some(MustClose::StorageRefused);
        } else if kind == ErrorLineKind::Unknown {
            self.unknown_command = Some(verb);
        }
    }

    pub(super) fn finish_line(&mut self, reply: &Reply<'_>, update: &mut StatsUpdate<'_>) {
        if let Reply::Error(error) = reply
            && (self.found_count > 0
                || self.lines.front().is_some_and(|line| self.asks_for_many(line)))
        {
            self.stop_at_error(error, update);
            return;
        }
        let Some(line) = self.lines.pop_front() else { return };
        // Without an item there is no reason to expect a large one next.
        self.last_was_large &= !self.assigned.is_empty();
        if self.lines.is_empty() {
            // An answered line was written, and a written line was closed.
            debug_assert!(self.open.is_none());
        }
        match reply {
            Reply::Error(_) => self.fail_line(&line, reply, update),
            _ => self.complete(&line, reply, update),
        }
        self.assigned.clear();
        self.found_count = 0;
        let next = match self.lines.front() {
            Some(next) => next.keys_start,
            None => self.keys.end(),
        };
        self.keys.release_to(next);
        self.cursor = Cursor { position: next, ..Cursor::default() };
    }

    pub(super) fn complete(
        &mut self,
        line: &Line,
        reply: &Reply<'_>,
        update: &mut StatsUpdate<'_>,
    ) {
        let command = update.stats.command_mut(line.verb.verb());
        let mut keys = line.keys;
        let mut hits = self.found_count;
        let mut ordinal = 0;
        for _ in 0..line.slots {
            let Some(slot) = self.slots.pop_front() else { break };
            if let Some(handler) = slot.handler {
                command.latency.record(update.now.saturating_sub(slot.timing.issued_at));
                handler.reply(reply, &self.peer);
            } else {
                // The request was counted when it timed out, or is counted where it is served.
                self.moved -= usize::from(slot.moved);
                self.answered_late += u64::from(!slot.moved);
                keys -= slot.keys;
                hits -= self.items_found(ordinal, slot.keys);
            }
            ordinal += slot.keys;
        }
        self.answered += u64::from(line.slots);
        command.record_keys(hits, keys - hits);
    }

    /// For a line with one key, an error line is the whole reply.
    #[cold]
    pub(super) fn fail_line(
        &mut self,
        line: &Line,
        error: &Reply<'_>,
        update: &mut StatsUpdate<'_>,
    ) {
        let command = update.stats.command_mut(line.verb.verb());
        for _ in 0..line.slots {
            let Some(slot) = self.slots.pop_front() else { break };
            self.moved -= usize::from(slot.moved);
            if slot.handler.is_some() {
                command.latency.record(update.now.saturating_sub(slot.timing.issued_at));
                command.record_error(error, slot.keys);
            }
            self.resolve(slot.handler, error);
        }
    }

    /// Answers all requests with the same error.
    #[cold]
    pub(super) fn fail_all(&mut self, error: &Reply<'_>, update: &mut StatsUpdate<'_>) {
        self.moved = 0;
        for slot in std::mem::take(&mut self.slots) {
            if slot.handler.is_some() {
                let command = update.stats.command_mut(slot.verb);
                command.latency.record(update.now.saturating_sub(slot.timing.issued_at));
                command.record_error(error, slot.keys.max(1));
            }
            self.resolve(slot.handler, error);
        }
        self.lines.clear();
        self.noreply_unanswered = 0;
        self.must_close = Some(MustClose::Unauthenticated);
    }

    /// Whether more than one key of this line is on the wire.
    pub(super) fn asks_for_many(&self, line: &Line) -> bool {
        let mut position = line.keys_start;
        let mut sent = 0;
        for _ in 0..line.keys {
            let entry = self.keys.at(position);
            sent += u32::from(!entry.alias);
            position = entry.next;
        }
        sent > 1
    }

    /// Handles an error line in the reply to several keys. Slots that have all their items are
    /// answered now; the other slots of the line stay for [`Self::drain`].
    #[cold]
    pub(super) fn stop_at_error(&mut self, error: &ErrorLine<'_>, update: &mut StatsUpdate<'_>) {
        self.must_close = Some(MustClose::KeyRefused);
        self.line_error = Some((error.kind, Bytes::copy_from_slice(error.line)));
        let Some(line) = self.lines.front() else { return };
        let (verb, slots) = (line.verb.verb(), line.slots as usize);
        let mut ordinal = 0;
        for at in 0..slots {
            let keys = self.slots[at].keys;
            if self.items_found(ordinal, keys) == keys
                && let Some(handler) = self.slots[at].handler.take()
            {
                let command = update.stats.command_mut(verb);
                command.latency.record(update.now.saturating_sub(self.slots[at].timing.issued_at));
                command.record_keys(keys, 0);
                self.answered += 1;
                handler.reply(&Reply::End, &self.peer);
            }
            ordinal += keys;
        }
    }

    /// The number of items of the slot that starts at `ordinal`. A slot with many keys has a line
    /// of its own.
    pub(super) fn items_found(&self, ordinal: u32, keys: u32) -> u32 {
        match keys {
            1 => u32::from(self.is_assigned(ordinal)),
            _ => self.found_count,
        }
    }

    pub(super) fn resolve(&mut self, handler: Option<S>, reply: &Reply<'_>) {
        let is_error = matches!(reply, Reply::Error(_));
        self.answered += u64::from(!is_error);
        match handler {
            Some(handler) => {
                self.refused += u64::from(is_error);
                handler.reply(reply, &self.peer);
            }
            None => self.answered_late += u64::from(!is_error),
        }
    }
}

/// The data that is needed to count a reply.
pub(super) struct StatsUpdate<'a> {
    pub stats: &'a mut NodeStats,
    pub now: Nanos,
}
