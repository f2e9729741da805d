//! The retrieval lines in flight: gets of one key that are pushed one after the other share a line.
use std::collections::VecDeque;

use super::MAX_LINE_LEN;
use super::keys::{Entry, KeyFifo};
use crate::protocol::command::RetrievalVerb;
use crate::protocol::dialect::Expected;

/// Invariant: `keys` holds the keys of all lines in flight, in order, and `open` belongs to the
/// last line.
pub(super) struct Lines {
    in_flight: VecDeque<Line>,
    keys: KeyFifo,
    open: Option<OpenLine>,
    max_merged_keys: u32,
    shared_keys: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub verb: RetrievalVerb,
    opaque: u32,
    pub slots: u32,
    pub keys: u32,
    /// The number of keys that occur earlier in the line, and so are not on the wire again.
    pub aliases: u32,
    pub keys_start: u64,
}

/// The limit for the requests that share a line, also if they ask for the same keys: a new request
/// is compared with all of them. With 15,000 gets of each of two keys and no limit, the comparisons
/// took a third of the time.
const MAX_SHARERS: u32 = 128;

impl Line {
    #[inline]
    pub fn expected(&self) -> Expected {
        Expected::with_opaque(self.verb.verb(), self.opaque)
    }

    /// The number of keys on the wire.
    #[inline]
    fn keys_on_wire(&self) -> u32 {
        self.keys - self.aliases
    }

    #[inline]
    fn is_full(&self, max_keys: u32) -> bool {
        self.keys_on_wire() >= max_keys || self.keys >= MAX_SHARERS
    }

    /// Whether more than one key of the line is on the wire.
    pub fn asks_for_many(&self) -> bool {
        self.keys_on_wire() > 1
    }
}

/// The result of adding the key of a slot.
pub(super) struct Added {
    /// The key has to be written, because the line did not contain it.
    pub is_new: bool,
    /// No more keys may share the line.
    pub is_full: bool,
}

/// The last line, as long as keys can be added to it.
#[derive(Debug)]
struct OpenLine {
    /// The length of its text.
    len: usize,
    /// One bit for each hash of a key: whether the line may already contain the key.
    seen: u64,
}

impl Lines {
    pub fn new(max_merged_keys: u32) -> Self {
        let (in_flight, keys) = (VecDeque::new(), KeyFifo::default());
        Self { in_flight, keys, open: None, max_merged_keys, shared_keys: 0 }
    }

    pub fn max_merged_keys(&self) -> u32 {
        self.max_merged_keys
    }

    pub fn set_max_merged_keys(&mut self, max_merged_keys: u32) {
        self.max_merged_keys = max_merged_keys;
    }

    pub fn shared_keys(&self) -> u64 {
        self.shared_keys
    }

    #[inline]
    pub fn front(&self) -> Option<&Line> {
        self.in_flight.front()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Line> {
        self.in_flight.iter()
    }

    /// The entry of the key at a position.
    #[inline]
    pub fn key_at(&self, position: u64) -> Entry<'_> {
        self.keys.at(position)
    }

    /// The position of the first key that is not answered.
    #[inline]
    pub fn first_key(&self) -> u64 {
        self.in_flight.front().map_or_else(|| self.keys.end(), |line| line.keys_start)
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// The line to which a key can be added.
    #[inline]
    pub fn line_for(&self, verb: RetrievalVerb, key_len: usize) -> Option<Expected> {
        let (open, line) = (self.open.as_ref()?, self.in_flight.back()?);
        let fits = line.verb == verb
            && !line.is_full(self.max_merged_keys)
            && open.len + 1 + key_len + 2 <= MAX_LINE_LEN;
        fits.then(|| line.expected())
    }

    /// Begins a line whose head has `len` bytes. The last line must be closed.
    #[inline]
    pub fn begin(&mut self, verb: RetrievalVerb, expected: Expected, len: usize) {
        self.open = Some(OpenLine { len, seen: 0 });
        let keys_start = self.keys.end();
        self.in_flight.push_back(Line {
            verb,
            opaque: expected.opaque(),
            slots: 0,
            keys: 0,
            aliases: 0,
            keys_start,
        });
    }

    /// Adds the key of a slot to the open line.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "called once, for each get")]
    pub fn add_slot(&mut self, key: &[u8]) -> Added {
        let seen = seen_bit(key);
        let mut is_alias = false;
        if let Some(open) = &self.open
            && open.seen & seen != 0
        {
            is_alias = self.contains(key);
        }
        if let Some(open) = &mut self.open {
            open.seen |= seen;
            open.len += if is_alias { 0 } else { key.len() + 1 };
        }
        self.keys.push(key, is_alias);
        self.shared_keys += u64::from(is_alias);
        let Some(line) = self.in_flight.back_mut() else {
            return Added { is_new: !is_alias, is_full: true };
        };
        line.slots += 1;
        line.keys += 1;
        line.aliases += u32::from(is_alias);
        Added { is_new: !is_alias, is_full: line.is_full(self.max_merged_keys) }
    }

    /// Adds a key of the slot that has the line for itself.
    #[inline]
    pub fn add_key(&mut self, key: &[u8]) {
        self.keys.push(key, false);
        if let Some(line) = self.in_flight.back_mut() {
            line.slots = 1;
            line.keys += 1;
        }
    }

    /// The number of keys of the last line.
    pub fn last_len(&self) -> u32 {
        self.in_flight.back().map_or(0, |line| line.keys)
    }

    /// Closes the open line, if there is one: its end is to be written.
    #[inline]
    pub fn close(&mut self) -> Option<Expected> {
        self.open.take()?;
        self.in_flight.back().map(Line::expected)
    }

    /// Removes the front line; its keys stay until [`Self::release`].
    #[inline]
    pub fn pop_front(&mut self) -> Option<Line> {
        self.in_flight.pop_front()
    }

    /// Frees the keys of answered lines and returns the position of the next key.
    #[inline]
    pub fn release(&mut self) -> u64 {
        let next = self.first_key();
        self.keys.release_to(next);
        next
    }

    pub fn clear(&mut self) {
        self.in_flight.clear();
    }

    fn contains(&self, key: &[u8]) -> bool {
        let Some(line) = self.in_flight.back() else { return false };
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
}

/// Maps a key to one of 64 bits. It is cheap, and differs for keys that differ in their last bytes.
fn seen_bit(key: &[u8]) -> u64 {
    let mut tail = [0u8; 8];
    let n = key.len().min(8);
    tail[..n].copy_from_slice(&key[key.len() - n..]);
    let mixed = (u64::from_le_bytes(tail) ^ key.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << (mixed >> 58)
}
