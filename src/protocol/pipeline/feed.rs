//! Bytes read become frames, and frames the calls of handlers.
use bytes::Bytes;

use super::handler::{Nanos, ReplyHandler};
use super::lines::Line;
use super::matching::Cursor;
use super::slots::Slot;
use super::{
    CONNECTION_REFUSED, InFlight, MAX_STATS_SIZE, MustClose, Pipeline, STAT_OVERHEAD,
    UNAUTHENTICATED,
};
use crate::protocol::dialect::Frame;
use crate::protocol::error::{Excerpt, ProtocolError};
use crate::protocol::meta::{MetaStatus, MetaVerb};
use crate::protocol::reply::{
    ErrorLine, ErrorLineKind, ItemRef, MetaValue, Reply, Shape, StatLine,
};
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
        let Self { dialect, in_flight, .. } = self;
        let mut update = StatsUpdate { stats, now };
        let mut pos = 0;
        while pos < buf.len() && in_flight.must_close.is_none() {
            let rest = &buf[pos..];
            if in_flight.receiving.is_in_place() {
                match in_flight.receive_value(rest, dialect.value_end(), &mut update)? {
                    Some(used) => pos += used,
                    None => break,
                }
                continue;
            }
            let Some(front) = in_flight.slots.front().filter(|slot| slot.start < written) else {
                return Err(match rest.strip_prefix(CONNECTION_REFUSED) {
                    Some(b"\r\n") => ProtocolError::TooManyConnections,
                    _ => ProtocolError::Unsolicited(Excerpt::from_bytes(rest)),
                });
            };
            let expected = front.expected;
            if front.keys > 0
                && let Some((key, next)) = in_flight.expected_key()
                && let Some((item, len)) = dialect.item_with_key(key, rest, expected)
            {
                in_flight.store_item(in_flight.cursor, next, &item, None);
                in_flight.receiving.not_large_next();
                pos += len;
                continue;
            }
            let Some((frame, len)) = dialect.decode(rest, expected)? else {
                if in_flight.start_large_value(rest, expected, dialect)? {
                    pos = buf.len();
                }
                break;
            };
            match frame {
                Frame::Item(item) => in_flight.item(&item)?,
                Frame::Stat(stat) => in_flight.stat(&stat)?,
                // Not a reply to a request: the server refuses the connection.
                Frame::Reply(Reply::Error(error)) if error.line == CONNECTION_REFUSED => {
                    return Err(ProtocolError::TooManyConnections);
                }
                Frame::Reply(Reply::Error(error))
                    if error.line == UNAUTHENTICATED && in_flight.slots.len() > 1 =>
                {
                    in_flight.fail_all(&Reply::Error(error), &mut update);
                    return Ok(buf.len());
                }
                Frame::Reply(reply) => in_flight.finish(&reply, &mut update),
                Frame::Meta(MetaValue { flags, value }) => {
                    let item = ItemRef { key: b"", flags: 0, cas: None, value };
                    in_flight.finish_meta(&item, None, flags, &mut update);
                }
                Frame::Ignored => {}
            }
            pos += len;
        }
        Ok(pos)
    }
}

impl<S: ReplyHandler> InFlight<S> {
    /// Retrievals have keys. Any other command with an item has exactly one.
    fn item(&mut self, item: &ItemRef<'_>) -> Result<(), ProtocolError> {
        if self.slots.front().is_some_and(|front| front.keys > 0) {
            return self.match_item(item);
        }
        if let Some(handler) = self.slots.handler_mut(0) {
            handler.item(0, item, None);
        }
        Ok(())
    }

    /// The reply to a meta command with a value.
    pub(super) fn finish_meta(
        &mut self,
        item: &ItemRef<'_>,
        shared: Option<&S::Value>,
        flags: &[u8],
        update: &mut StatsUpdate<'_>,
    ) {
        if let Some(handler) = self.slots.handler_mut(0) {
            handler.item(0, item, shared);
        }
        self.finish(&Reply::Meta { status: MetaStatus::Value, flags }, update);
    }

    fn stat(&mut self, stat: &StatLine<'_>) -> Result<(), ProtocolError> {
        self.stats_size += stat.line.len() + STAT_OVERHEAD;
        if self.stats_size > MAX_STATS_SIZE {
            return Err(ProtocolError::TooManyLines);
        }
        if let Some(handler) = self.slots.handler_mut(0) {
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
        self.receiving.not_large_next();
        self.stats_size = 0;
        let Some(slot) = self.slots.pop_front() else { return };
        let verb = slot.expected.verb;
        if let Reply::Error(error) = reply {
            self.note_error(verb, error.kind);
        }
        if slot.handler.is_some() {
            let took = update.now.saturating_sub(slot.timing.issued_at);
            update.stats.command_mut(verb).record_reply(reply, took);
        }
        self.resolve(slot.handler, reply);
    }

    #[cold]
    fn note_error(&mut self, verb: Verb, kind: ErrorLineKind) {
        let is_storage = matches!(verb.shape(), Shape::Storage | Shape::Meta(MetaVerb::Set));
        if is_storage && matches!(kind, ErrorLineKind::Unknown | ErrorLineKind::Client) {
            self.must_close = Some(MustClose::StorageRefused);
        } else if kind == ErrorLineKind::Unknown {
            self.unknown_command = Some(verb);
        }
    }

    fn finish_line(&mut self, reply: &Reply<'_>, update: &mut StatsUpdate<'_>) {
        if let Reply::Error(error) = reply
            && (self.assigned.count() > 0 || self.lines.front().is_some_and(Line::asks_for_many))
        {
            self.stop_at_error(error, update);
            return;
        }
        let Some(line) = self.lines.pop_front() else { return };
        // Without an item there is no reason to expect a large one next.
        if self.assigned.is_empty() {
            self.receiving.not_large_next();
        }
        match reply {
            Reply::Error(_) => self.fail_line(&line, reply, update),
            _ => self.complete(&line, reply, update),
        }
        self.assigned.clear();
        self.cursor = Cursor { position: self.lines.release(), ..Cursor::default() };
    }

    fn complete(&mut self, line: &Line, reply: &Reply<'_>, update: &mut StatsUpdate<'_>) {
        let command = update.stats.command_mut(line.verb.verb());
        let mut keys = line.keys;
        let mut hits = self.assigned.count();
        let mut ordinal = 0;
        for _ in 0..line.slots {
            let Some(slot) = self.slots.pop_retrieval() else { break };
            if let Some(handler) = slot.handler {
                command.latency.record(update.now.saturating_sub(slot.timing.issued_at));
                handler.reply(reply, &self.peer);
            } else {
                // The request was counted when it timed out, or is counted where it is served.
                self.counts.answered_late += u64::from(!slot.moved);
                keys -= slot.keys;
                hits -= self.items_found(ordinal, slot.keys);
            }
            ordinal += slot.keys;
        }
        self.counts.answered += u64::from(line.slots);
        command.record_keys(hits, keys - hits);
    }

    /// For a line with one key, an error line is the whole reply.
    #[cold]
    fn fail_line(&mut self, line: &Line, error: &Reply<'_>, update: &mut StatsUpdate<'_>) {
        let command = update.stats.command_mut(line.verb.verb());
        for _ in 0..line.slots {
            let Some(slot) = self.slots.pop_retrieval() else { break };
            if slot.handler.is_some() {
                command.latency.record(update.now.saturating_sub(slot.timing.issued_at));
                command.record_error(error, slot.keys);
            }
            self.resolve(slot.handler, error);
        }
    }

    /// Answers all requests with the same error.
    #[cold]
    fn fail_all(&mut self, error: &Reply<'_>, update: &mut StatsUpdate<'_>) {
        for slot in self.slots.take_all() {
            if slot.handler.is_some() {
                let command = update.stats.command_mut(slot.expected.verb);
                command.latency.record(update.now.saturating_sub(slot.timing.issued_at));
                command.record_error(error, slot.keys.max(1));
            }
            self.resolve(slot.handler, error);
        }
        self.lines.clear();
        self.must_close = Some(MustClose::Unauthenticated);
    }

    /// Handles an error line in the reply to several keys. Slots that have all their items are
    /// answered now; the other slots of the line stay for [`Pipeline::drain`].
    #[cold]
    fn stop_at_error(&mut self, error: &ErrorLine<'_>, update: &mut StatsUpdate<'_>) {
        self.must_close = Some(MustClose::KeyRefused);
        self.line_error = Some((error.kind, Bytes::copy_from_slice(error.line)));
        let Some(line) = self.lines.front() else { return };
        let (verb, slots) = (line.verb.verb(), line.slots as usize);
        let mut ordinal = 0;
        for at in 0..slots {
            let Some(&Slot { keys, timing, .. }) = self.slots.get(at) else { break };
            if self.items_found(ordinal, keys) == keys
                && let Some(handler) = self.slots.take_handler(at)
            {
                let command = update.stats.command_mut(verb);
                command.latency.record(update.now.saturating_sub(timing.issued_at));
                command.record_keys(keys, 0);
                self.counts.answered += 1;
                handler.reply(&Reply::End, &self.peer);
            }
            ordinal += keys;
        }
    }

    /// The number of items of the slot that starts at `ordinal`. A slot with many keys has a line
    /// of its own.
    pub(super) fn items_found(&self, ordinal: u32, keys: u32) -> u32 {
        match keys {
            1 => u32::from(self.assigned.contains(ordinal)),
            _ => self.assigned.count(),
        }
    }

    fn resolve(&mut self, handler: Option<S>, reply: &Reply<'_>) {
        let is_error = matches!(reply, Reply::Error(_));
        self.counts.answered += u64::from(!is_error);
        match handler {
            Some(handler) => {
                self.counts.refused += u64::from(is_error);
                handler.reply(reply, &self.peer);
            }
            None => self.counts.answered_late += u64::from(!is_error),
        }
    }
}

/// The data that is needed to count a reply.
pub(super) struct StatsUpdate<'a> {
    pub stats: &'a mut NodeStats,
    pub now: Nanos,
}
