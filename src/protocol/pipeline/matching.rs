//! Whose item? Each item of the front line belongs to a key that was requested.
use bytes::Bytes;

use super::handler::ReplyHandler;
use super::push::Line;
use super::{LARGE_VALUE_LEN, Pipeline};
use crate::protocol::error::{Excerpt, ProtocolError};
use crate::protocol::reply::ItemRef;
use crate::protocol::value_buf::ValueBuf;

/// The place in the front line at which the next item is expected.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    pub ordinal: u32,
    pub slot: u32,
    pub index: u32,
    pub position: u64,
}

impl<S: ReplyHandler> Pipeline<S> {
    /// Continues after a discarded item.
    pub(super) fn skip_item(&mut self, at: Cursor, next: u64) {
        let Some(&Line { keys, .. }) = self.lines.front() else { return };
        self.make_room(keys);
        self.mark_assigned(at);
        self.cursor = self.step(at, next);
    }

    /// The next key, if the reply is in order and no item is missing, and the position of the key
    /// after it.
    pub(super) fn expected_key(&self) -> Option<(&[u8], u64)> {
        let Cursor { ordinal, position, .. } = self.cursor;
        let is_key = self.slots.front()?.keys > 0 && ordinal < self.lines.front()?.keys;
        if !is_key || self.is_assigned(ordinal) {
            return None;
        }
        let entry = self.keys.at(position);
        (!entry.alias).then_some((entry.key, entry.next))
    }

    /// Finds the request for an item and stores the item.
    pub(super) fn match_item(&mut self, item: &ItemRef<'_>) -> Result<(), ProtocolError> {
        let at = self.find_key(item.key)?;
        self.store_item(at, self.keys.at(at.position).next, item, None);
        (self.last_was_large, self.allocation_failed) = (false, false);
        Ok(())
    }

    /// Finds the request for a key: first in order, then among the other keys of the line, because
    /// proxies may reply in another order.
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
        self.make_room(keys);
        let copied = (aliases && shared.is_none()).then(|| S::Value::from_slice(item.value));
        let shared = shared.or(copied.as_ref());
        self.notify_slot(at, item, shared);
        self.cursor = self.step(at, next);
        if aliases {
            let mut from = self.cursor;
            while let Some(alias) = self.find(from, keys, item.key, true) {
                self.notify_slot(alias, item, shared);
                from = self.step(alias, self.keys.at(alias.position).next);
            }
        }
    }

    /// The first key in `from.ordinal..to` that equals `key` and has no item yet.
    pub(super) fn find(&self, from: Cursor, to: u32, key: &[u8], alias: bool) -> Option<Cursor> {
        let mut cursor = from;
        while cursor.ordinal < to {
            let entry = self.keys.at(cursor.position);
            if entry.key == key && entry.alias == alias && !self.is_assigned(cursor.ordinal) {
                return Some(cursor);
            }
            cursor = self.step(cursor, entry.next);
        }
        None
    }

    pub(super) fn step(&self, cursor: Cursor, position: u64) -> Cursor {
        let Cursor { ordinal, slot, index, .. } = cursor;
        let last_of_slot = index + 1 >= self.slots[slot as usize].keys;
        let (slot, index) = if last_of_slot { (slot + 1, 0) } else { (slot, index + 1) };
        Cursor { ordinal: ordinal + 1, slot, index, position }
    }

    pub(super) fn notify_slot(
        &mut self,
        at: Cursor,
        item: &ItemRef<'_>,
        shared: Option<&S::Value>,
    ) {
        self.mark_assigned(at);
        if let Some(handler) = &mut self.slots[at.slot as usize].handler {
            handler.item(at.index as usize, item, shared);
        }
    }

    pub(super) fn make_room(&mut self, keys: u32) {
        if self.assigned.is_empty() {
            self.assigned.resize(keys.div_ceil(64) as usize, 0);
        }
    }

    pub(super) fn mark_assigned(&mut self, at: Cursor) {
        self.assigned[at.ordinal as usize / 64] |= 1 << (at.ordinal % 64);
        self.found_count += 1;
    }

    pub(super) fn is_assigned(&self, ordinal: u32) -> bool {
        self.assigned.get(ordinal as usize / 64).is_some_and(|w| w & (1 << (ordinal % 64)) != 0)
    }
}
