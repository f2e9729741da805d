//! Matches the items of a reply to the keys of the front line, which is the oldest unanswered one.
use bytes::Bytes;

use super::handler::ReplyHandler;
use super::lines::Line;
use super::{InFlight, LARGE_VALUE_LEN};
use crate::protocol::error::{Excerpt, ProtocolError};
use crate::protocol::reply::ItemRef;
use crate::protocol::value_buf::ValueBuf;

/// The place of a key in the front line; in [`InFlight`], the place of the next item.
///
/// `ordinal` counts the keys of the line, `index` those of the slot, and `position` is where the
/// key lies in the queue of keys.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    pub ordinal: u32,
    pub slot: u32,
    pub index: u32,
    pub position: u64,
}

impl Cursor {
    /// The place of the next key, which is at `position`, in a slot with this many keys.
    #[inline]
    fn next(self, keys: u32, position: u64) -> Self {
        let Self { ordinal, slot, index, .. } = self;
        let is_last = index + 1 >= keys;
        let (slot, index) = if is_last { (slot + 1, 0) } else { (slot, index + 1) };
        Self { ordinal: ordinal + 1, slot, index, position }
    }
}

/// The keys of the front line whose items have arrived. Invariant: `count` is the number of set
/// bits.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    bits: Vec<u64>,
    count: u32,
}

impl Assigned {
    /// Makes room for a line of this many keys, if that has not been done.
    #[inline]
    pub fn make_room(&mut self, keys: u32) {
        if self.bits.is_empty() {
            self.bits.resize(keys.div_ceil(64) as usize, 0);
        }
    }

    /// Whether no item has arrived.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    /// The number of keys whose items have arrived.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    #[inline]
    pub fn insert(&mut self, ordinal: u32) {
        self.bits[ordinal as usize / 64] |= 1 << (ordinal % 64);
        self.count += 1;
    }

    #[inline]
    pub fn contains(&self, ordinal: u32) -> bool {
        self.bits.get(ordinal as usize / 64).is_some_and(|w| w & (1 << (ordinal % 64)) != 0)
    }

    #[inline]
    pub fn clear(&mut self) {
        self.bits.clear();
        self.count = 0;
    }
}

impl<S: ReplyHandler> InFlight<S> {
    /// Moves on to the next key after an item that is discarded.
    pub(super) fn skip_item(&mut self, at: Cursor, next: u64) {
        let Some(&Line { keys, .. }) = self.lines.front() else { return };
        self.assigned.make_room(keys);
        self.assigned.insert(at.ordinal);
        self.cursor = self.step(at, next);
    }

    /// The next key of the front line, and the position of the key after it, as long as items
    /// arrive in order and none is missing.
    #[inline]
    pub(super) fn expected_key(&self) -> Option<(&[u8], u64)> {
        let Cursor { ordinal, position, .. } = self.cursor;
        if ordinal >= self.lines.front()?.keys || self.assigned.contains(ordinal) {
            return None;
        }
        let entry = self.lines.key_at(position);
        (!entry.alias).then_some((entry.key, entry.next))
    }

    /// Finds the request for an item and stores the item.
    pub(super) fn match_item(&mut self, item: &ItemRef<'_>) -> Result<(), ProtocolError> {
        let at = self.find_key(item.key)?;
        self.store_item(at, self.lines.key_at(at.position).next, item, None);
        self.receiving.not_large();
        Ok(())
    }

    /// Finds the request for a key: first among the keys from the cursor on, then among those
    /// before it, because proxies may reply in another order.
    pub(super) fn find_key(&self, key: &[u8]) -> Result<Cursor, ProtocolError> {
        let foreign = || ProtocolError::ForeignKey(Excerpt::from_key(key));
        let line = self.lines.front().ok_or_else(foreign)?;
        let line_start = Cursor { position: line.keys_start, ..Cursor::default() };
        self.find(self.cursor, line.keys, key, false)
            .or_else(|| self.find(line_start, self.cursor.ordinal, key, false))
            .ok_or_else(foreign)
    }

    /// Passes an item to the slot at `at` and to the slots that share the key. The next key is at
    /// position `next`.
    pub(super) fn store_item(
        &mut self,
        at: Cursor,
        next: u64,
        item: &ItemRef<'_>,
        shared: Option<&S::Value>,
    ) {
        let Some(&Line { keys, aliases, .. }) = self.lines.front() else { return };
        if item.value.len() >= LARGE_VALUE_LEN {
            self.large_keys.push(Bytes::copy_from_slice(item.key));
        }
        self.assigned.make_room(keys);
        let copied = (aliases > 0 && shared.is_none()).then(|| S::Value::from_slice(item.value));
        let shared = shared.or(copied.as_ref());
        let keys_of_slot = self.notify_slot(at, item, shared);
        self.cursor = at.next(keys_of_slot, next);
        if aliases > 0 {
            let mut from = self.cursor;
            while let Some(alias) = self.find(from, keys, item.key, true) {
                self.notify_slot(alias, item, shared);
                from = self.step(alias, self.lines.key_at(alias.position).next);
            }
        }
    }

    /// The first key in `from.ordinal..to` that equals `key` and has no item yet. With `alias`,
    /// only repetitions of an earlier key of the line are found; without it, only other keys.
    pub(super) fn find(&self, from: Cursor, to: u32, key: &[u8], alias: bool) -> Option<Cursor> {
        let mut cursor = from;
        while cursor.ordinal < to {
            let entry = self.lines.key_at(cursor.position);
            if entry.key == key && entry.alias == alias && !self.assigned.contains(cursor.ordinal) {
                return Some(cursor);
            }
            cursor = self.step(cursor, entry.next);
        }
        None
    }

    #[inline]
    pub(super) fn step(&self, cursor: Cursor, position: u64) -> Cursor {
        let keys = self.slots.get(cursor.slot as usize).map_or(0, |slot| slot.keys);
        cursor.next(keys, position)
    }

    /// Passes an item to a slot and returns the number of the slot's keys.
    #[inline]
    fn notify_slot(&mut self, at: Cursor, item: &ItemRef<'_>, shared: Option<&S::Value>) -> u32 {
        self.assigned.insert(at.ordinal);
        let Some(slot) = self.slots.get_mut(at.slot as usize) else { return 0 };
        if let Some(handler) = &mut slot.handler {
            handler.item(at.index as usize, item, shared);
        }
        slot.keys
    }
}
