//! Requests become bytes to write: gets of one key share a line.
use bytes::BytesMut;

use super::handler::{ReplyHandler, Timing};
use super::matching::Cursor;
use super::slots::Slot;
use super::{MAX_LINE_LEN, Pipeline};
use crate::protocol::OwnedRequest;
use crate::protocol::command::{Request, RetrievalVerb};
use crate::protocol::encode::{encode, retrieval_head};
use crate::protocol::key::Key;
use crate::protocol::outgoing::Outgoing;
use crate::protocol::verbs::Verb;

#[derive(Debug)]
pub(super) struct Line {
    pub verb: RetrievalVerb,
    pub slots: u32,
    pub keys: u32,
    pub aliases: bool,
    pub keys_start: u64,
}

/// The last line, as long as keys can be added to it.
#[derive(Debug)]
pub(super) struct OpenLine {
    pub len: usize,
    /// One bit for each hash of a key: whether the line may already contain the key.
    pub seen: u64,
}

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
                let verb = command.verb();
                self.push_encoded(verb, handler, timing, false, out, |out| {
                    encode(command, out.tail());
                });
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
            OwnedRequest::Encoded { verb, wire } => {
                self.push_encoded(*verb, handler, timing, retried, out, |out| {
                    out.tail().extend_from_slice(wire);
                });
            }
            OwnedRequest::Storage { verb, head, value } => {
                self.push_encoded(*verb, handler, timing, retried, out, |out| {
                    out.tail().extend_from_slice(head);
                    out.push_shared(value.clone());
                    out.tail().extend_from_slice(b"\r\n");
                });
            }
        }
    }

    pub(super) fn push_encoded(
        &mut self,
        verb: Verb,
        handler: S,
        timing: Timing,
        retried: bool,
        out: &mut Outgoing,
        write: impl FnOnce(&mut Outgoing),
    ) {
        self.close_line(out);
        let (start, before) = (self.encoded, out.len());
        write(out);
        self.encoded += (out.len() - before) as u64;
        let noreply = handler.is_noreply();
        self.noreply_unanswered += usize::from(noreply);
        let handler = Some(handler);
        let (keys, shares_line) = (0, false);
        self.slots.push_back(Slot {
            handler,
            verb,
            keys,
            retried,
            moved: false,
            shares_line,
            noreply,
            timing,
            start,
        });
    }

    pub(super) fn push_key(
        &mut self,
        verb: RetrievalVerb,
        key: Key<'_>,
        handler: S,
        timing: Timing,
        retried: bool,
        out: &mut Outgoing,
    ) {
        let key = key.as_bytes();
        let seen = seen_bit(key);
        let fits = self.fits_open_line(verb, key.len());
        if !fits {
            self.close_line(out);
        }
        let start = self.encoded;
        if !fits {
            self.begin_line(verb, out);
        }
        let alias = self.open.as_ref().is_some_and(|open| open.seen & seen != 0)
            && self.open_line_asks_for(key);
        if !alias {
            self.append_key(key, out);
        }
        self.keys.push(key, alias);
        self.shared_keys += u64::from(alias);
        let Some(line) = self.lines.back_mut() else { return };
        line.slots += 1;
        line.keys += 1;
        line.aliases |= alias;
        let full = line.keys >= self.max_merged_keys;
        if let Some(open) = &mut self.open {
            open.seen |= seen;
        }
        let verb = verb.verb();
        let (handler, keys, shares_line, noreply) = (Some(handler), 1, fits, false);
        self.slots.push_back(Slot {
            handler,
            verb,
            keys,
            retried,
            moved: false,
            shares_line,
            noreply,
            timing,
            start,
        });
        if full {
            self.close_line(out);
        }
    }

    pub(super) fn push_keys<'k>(
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
        self.begin_line(verb, out);
        let tail = out.tail();
        let before = tail.len();
        let mut count = 0;
        for key in keys {
            put_key(key.as_bytes(), tail);
            self.keys.push(key.as_bytes(), false);
            count += 1;
        }
        self.encoded += (tail.len() - before) as u64;
        if let Some(line) = self.lines.back_mut() {
            line.slots = 1;
            line.keys = count;
        }
        let verb = verb.verb();
        let (handler, keys, shares_line, noreply) = (Some(handler), count, false, false);
        self.slots.push_back(Slot {
            handler,
            verb,
            keys,
            retried,
            moved: false,
            shares_line,
            noreply,
            timing,
            start,
        });
        self.close_line(out);
    }

    pub(super) fn fits_open_line(&self, verb: RetrievalVerb, key_len: usize) -> bool {
        match (&self.open, self.lines.back()) {
            (Some(open), Some(line)) => {
                line.verb == verb
                    && line.keys < self.max_merged_keys
                    && open.len + 1 + key_len + 2 <= MAX_LINE_LEN
            }
            _ => false,
        }
    }

    pub(super) fn open_line_asks_for(&self, key: &[u8]) -> bool {
        let Some(line) = self.lines.back() else { return false };
        let mut position = line.keys_start;
        while position < self.keys.end() {
            let entry = self.keys.at(position);
            if entry.key == key {
                return true;
            }
            position = entry.next;
        }
        false
    }

    /// The previous line must be closed.
    pub(super) fn begin_line(&mut self, verb: RetrievalVerb, out: &mut Outgoing) {
        let before = out.len();
        retrieval_head(verb, out.tail());
        let len = out.len() - before;
        self.encoded += len as u64;
        self.open = Some(OpenLine { len, seen: 0 });
        let keys_start = self.keys.end();
        if self.lines.is_empty() {
            self.cursor = Cursor { position: keys_start, ..Cursor::default() };
        }
        self.lines.push_back(Line { verb, slots: 0, keys: 0, aliases: false, keys_start });
    }

    pub(super) fn append_key(&mut self, key: &[u8], out: &mut Outgoing) {
        put_key(key, out.tail());
        self.encoded += key.len() as u64 + 1;
        if let Some(open) = &mut self.open {
            open.len += key.len() + 1;
        }
    }

    /// Ends the open line. Must be called before `out` is written.
    pub fn close_line(&mut self, out: &mut Outgoing) {
        if self.open.take().is_some() {
            out.tail().extend_from_slice(b"\r\n");
            self.encoded += 2;
        }
    }

    /// The end of the last whole command that fits into `most` bytes from `from`, or the end of the
    /// first command if it does not fit. Positions count all encoded bytes. No line may be open.
    pub fn commands_end(&self, from: u64, most: u64) -> u64 {
        if self.encoded <= from + most {
            return self.encoded;
        }
        let at = |position: u64| self.slots.partition_point(|slot| slot.start <= position);
        let (first, next) = (at(from), at(from + most));
        let begins_line = |slot: &&Slot<S>| !slot.shares_line;
        let last = self.slots.range(first..next).rev().find(begins_line);
        last.or_else(|| self.slots.range(next..).find(begins_line))
            .map_or(self.encoded, |slot| slot.start)
    }
}

fn put_key(key: &[u8], out: &mut BytesMut) {
    out.reserve(key.len() + 1);
    out.extend_from_slice(b" ");
    out.extend_from_slice(key);
}

/// Maps a key to one of 64 bits. It is cheap, and differs for keys that differ in their last bytes.
fn seen_bit(key: &[u8]) -> u64 {
    let mut tail = [0u8; 8];
    let n = key.len().min(8);
    tail[..n].copy_from_slice(&key[key.len() - n..]);
    let mixed = (u64::from_le_bytes(tail) ^ key.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << (mixed >> 58)
}
