//! Requests become bytes to write, and slots.
use super::handler::{ReplyHandler, Timing};
use super::matching::Cursor;
use super::slots::Slot;
use super::{InFlight, Pipeline};
use crate::protocol::command::{Request, RetrievalVerb};
use crate::protocol::dialect::Expected;
use crate::protocol::key::Key;
use crate::protocol::outgoing::Outgoing;
use crate::protocol::owned_request::OwnedRequest;

impl<S: ReplyHandler> Pipeline<S> {
    /// Encodes a request to `out` and adds a slot for its reply.
    pub fn push(
        &mut self,
        request: &Request<'_>,
        handler: S,
        timing: impl Into<Timing>,
        out: &mut Outgoing,
    ) {
        let timing = timing.into();
        match request {
            Request::Retrieval { verb, keys: [key] } => {
                self.push_key(*verb, *key, handler, timing, false, out);
            }
            Request::Retrieval { verb, keys } => {
                self.push_keys(*verb, keys.iter().copied(), handler, timing, false, out);
            }
            Request::Command(command) => {
                self.close_line(out);
                let before = out.len();
                let expected = self.dialect.encode(command, out.tail());
                self.add_command(expected, handler, timing, false, out.len() - before);
            }
        }
    }

    /// Like [`Self::push`]. `retried` says that the request was sent before.
    pub fn push_owned(
        &mut self,
        request: &OwnedRequest,
        handler: S,
        timing: impl Into<Timing>,
        retried: bool,
        out: &mut Outgoing,
    ) {
        let timing = timing.into();
        match request {
            OwnedRequest::Retrieval { verb, keys } => match keys.as_slice() {
                [key] => {
                    self.push_key(*verb, Key::trusted(key), handler, timing, retried, out);
                }
                keys => {
                    let keys = keys.iter().map(|key| Key::trusted(key));
                    self.push_keys(*verb, keys, handler, timing, retried, out);
                }
            },
            OwnedRequest::Command(command) => {
                self.close_line(out);
                let before = out.len();
                let expected = self.dialect.encode_owned(command, out);
                self.add_command(expected, handler, timing, retried, out.len() - before);
            }
        }
    }

    /// Adds a slot for the command that was just encoded.
    fn add_command(
        &mut self,
        expected: Expected,
        handler: S,
        timing: Timing,
        retried: bool,
        len: usize,
    ) {
        let start = self.encoded;
        self.encoded += len as u64;
        let noreply = handler.is_noreply();
        self.in_flight.slots.push(Slot {
            handler: Some(handler),
            expected,
            keys: 0,
            retried,
            moved: false,
            shares_line: false,
            noreply,
            timing,
            start,
        });
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "a handler is large to move, and this is for each get")]
    fn push_key(
        &mut self,
        verb: RetrievalVerb,
        key: Key<'_>,
        handler: S,
        timing: Timing,
        retried: bool,
        out: &mut Outgoing,
    ) {
        let open = self.in_flight.lines.line_for(verb, key.as_bytes().len());
        let shares_line = open.is_some();
        let (expected, start) = if let Some(expected) = open {
            (expected, self.encoded)
        } else {
            self.close_line(out);
            let start = self.encoded;
            (self.begin_line(verb, out), start)
        };
        let added = self.in_flight.lines.add_slot(key.as_bytes());
        if added.is_new {
            let tail = out.tail();
            let before = tail.len();
            self.dialect.add_key(verb, expected, key, tail);
            self.encoded += (tail.len() - before) as u64;
        }
        self.in_flight.slots.push(Slot {
            handler: Some(handler),
            expected,
            keys: 1,
            retried,
            moved: false,
            shares_line,
            noreply: false,
            timing,
            start,
        });
        if added.is_full {
            self.close_line(out);
        }
    }

    fn push_keys<'k>(
        &mut self,
        verb: RetrievalVerb,
        keys: impl Iterator<Item = Key<'k>>,
        handler: S,
        timing: Timing,
        retried: bool,
        out: &mut Outgoing,
    ) {
        self.close_line(out);
        let start = self.encoded;
        let expected = self.begin_line(verb, out);
        let tail = out.tail();
        let before = tail.len();
        for key in keys {
            self.dialect.add_key(verb, expected, key, tail);
            self.in_flight.lines.add_key(key.as_bytes());
        }
        self.encoded += (tail.len() - before) as u64;
        self.in_flight.slots.push(Slot {
            handler: Some(handler),
            expected,
            keys: self.in_flight.lines.last_len(),
            retried,
            moved: false,
            shares_line: false,
            noreply: false,
            timing,
            start,
        });
        self.close_line(out);
    }

    /// The previous line must be closed.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "for each get that is alone")]
    fn begin_line(&mut self, verb: RetrievalVerb, out: &mut Outgoing) -> Expected {
        let tail = out.tail();
        let before = tail.len();
        let expected = self.dialect.begin_retrieval(verb, tail);
        let len = tail.len() - before;
        self.encoded += len as u64;
        let in_flight = &mut self.in_flight;
        if in_flight.lines.is_empty() {
            let position = in_flight.lines.first_key();
            in_flight.cursor = Cursor { position, ..Cursor::default() };
        }
        in_flight.lines.begin(verb, expected, len);
        expected
    }

    /// Ends the open line. Must be called before `out` is written.
    #[inline]
    pub fn close_line(&mut self, out: &mut Outgoing) {
        if let Some(expected) = self.in_flight.lines.close() {
            let tail = out.tail();
            let before = tail.len();
            self.dialect.end_retrieval(expected, tail);
            self.encoded += (tail.len() - before) as u64;
        }
    }

    /// The end of the last whole command that fits into `most` bytes from `from`, or the end of the
    /// first command if it does not fit. Positions count all encoded bytes. No line may be open.
    pub fn commands_end(&self, from: u64, most: u64) -> u64 {
        if self.encoded <= from + most {
            return self.encoded;
        }
        if let Some(end) = self.requests_end(from, from + most) {
            return end;
        }
        let slots = &self.in_flight.slots;
        let (first, next) =
            (slots.starting_before(from + 1), slots.starting_before(from + most + 1));
        let begins_line = |slot: &&Slot<S>| !slot.shares_line;
        let last = slots.iter().take(next).skip(first).rev().find(begins_line);
        last.or_else(|| slots.iter().skip(next).find(begins_line))
            .map_or(self.encoded, |slot| slot.start)
    }

    /// The last position after `from` and not after `until` at which a request ends, in a dialect
    /// that has one request for each key of a line.
    fn requests_end(&self, from: u64, until: u64) -> Option<u64> {
        self.dialect.key_request_len(RetrievalVerb::Get, 0)?;
        let InFlight { slots, lines, .. } = &self.in_flight;
        let mut line_of_slot = lines.iter();
        let (mut line_slots, mut verb, mut position) = (0, RetrievalVerb::Get, 0);
        let mut last = None;
        let mut note = |end| last = if from < end && end <= until { Some(end) } else { last };
        for slot in slots.iter().take_while(|slot| slot.start <= until) {
            note(slot.start);
            if line_slots == 0
                && slot.keys > 0
                && let Some(line) = line_of_slot.next()
            {
                (line_slots, verb, position) = (line.slots, line.verb, line.keys_start);
            }
            line_slots -= u32::from(slot.keys > 0);
            let mut end = slot.start;
            for _ in 0..slot.keys {
                let entry = lines.key_at(position);
                position = entry.next;
                if !entry.alias {
                    end += self.dialect.key_request_len(verb, entry.key.len())? as u64;
                    note(end);
                }
            }
        }
        last
    }
}
