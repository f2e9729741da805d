//! Large values are received directly into their final buffers.
use bytes::buf::Limit;
use bytes::{BufMut, Bytes};

use super::Pipeline;
use super::handler::ReplyHandler;
use super::matching::Cursor;
use crate::protocol::error::ProtocolError;
use crate::protocol::reply::{ItemRef, Shape};
use crate::protocol::value_buf::ValueBuf;

/// If at least this much of a value has not arrived yet, the value is received directly into its
/// final buffer. That costs one more read and saves a copy. The limit is small in tests, so that
/// they split such values everywhere.
const MIN_IN_PLACE_LEN: usize = if cfg!(test) { 4 } else { 32 * 1024 };

/// No memory is allocated in advance for longer values.
const MAX_IN_PLACE_LEN: usize = 64 * 1024 * 1024;

/// An item whose value is received directly into its final buffer.
pub(super) struct PartialItem<K: ValueBuf> {
    /// The slot that requested the item, and the position of the next key.
    pub at: Cursor,
    pub next: u64,
    pub key: Bytes,
    pub flags: u32,
    pub cas: Option<u64>,
    pub value: RestOfValue<K>,
}

/// The destination of the rest of a value. The value is complete when nothing is missing.
pub(super) enum RestOfValue<K: ValueBuf> {
    Stored(Limit<K::Partial>),
    /// The caller no longer waits: this many bytes are read and discarded.
    Discarded(usize),
}

impl<K: ValueBuf> RestOfValue<K> {
    pub fn missing(&self) -> usize {
        match self {
            Self::Stored(value) => value.remaining_mut(),
            Self::Discarded(missing) => *missing,
        }
    }

    pub fn put(&mut self, bytes: &[u8]) {
        match self {
            Self::Stored(value) => value.put_slice(bytes),
            Self::Discarded(missing) => *missing -= bytes.len(),
        }
    }
}

impl<S: ReplyHandler> Pipeline<S> {
    /// The number of missing bytes of the frame in progress, if it is known and `read` bytes are in
    /// the buffer.
    pub fn missing_len(&self, read: usize) -> usize {
        match &self.receiving {
            Some(receiving) => receiving.value.missing() + 2,
            None => self.decoder.frame_len().saturating_sub(read),
        }
    }

    /// The buffer for the rest of the value in progress, if the next bytes belong there.
    pub fn rest_of_value(&mut self) -> Option<&mut impl BufMut> {
        match &mut self.receiving.as_mut()?.value {
            RestOfValue::Stored(value) => Some(value).filter(|value| value.remaining_mut() > 0),
            RestOfValue::Discarded(_) => None,
        }
    }

    /// Whether the next item is probably large, so that little should be read before its header is
    /// known.
    pub fn expects_large_value(&self) -> bool {
        self.last_was_large
    }

    /// Receives the value of the item in progress directly into its buffer, if much of it is
    /// missing.
    pub(super) fn start_large_value(
        &mut self,
        buf: &[u8],
        shape: Shape,
    ) -> Result<bool, ProtocolError> {
        let long = self.decoder.large_item(buf, shape, MIN_IN_PLACE_LEN);
        let Some((item, len)) =
            long.filter(|(_, len)| !self.allocation_failed && *len <= MAX_IN_PLACE_LEN)
        else {
            return Ok(false);
        };
        let at = self.find_key(item.key)?;
        let mut value = if self.is_unwanted(at) {
            RestOfValue::Discarded(len)
        } else {
            let Some(value) = S::Value::allocate(len) else {
                self.allocation_failed = true;
                return Ok(false);
            };
            RestOfValue::Stored(value.limit(len))
        };
        value.put(item.value);
        self.receiving = Some(PartialItem {
            at,
            next: self.keys.at(at.position).next,
            key: Bytes::copy_from_slice(item.key),
            flags: item.flags,
            cas: item.cas,
            value,
        });
        self.decoder.reset();
        Ok(true)
    }

    /// Takes the bytes that belong to the value in progress and returns their number; 0 if more
    /// bytes are needed.
    pub(super) fn receive_value(&mut self, buf: &[u8]) -> Result<usize, ProtocolError> {
        let Some(receiving) = &mut self.receiving else { return Ok(0) };
        let missing = receiving.value.missing();
        if missing > 0 {
            let len = missing.min(buf.len());
            receiving.value.put(&buf[..len]);
            return Ok(len);
        }
        let Some(end) = buf.get(..2) else { return Ok(0) };
        if end != b"\r\n" {
            return Err(ProtocolError::ValueNotTerminated);
        }
        if let Some(PartialItem { at, next, key, flags, cas, value }) = self.receiving.take() {
            match value {
                RestOfValue::Stored(value) => {
                    let stored = S::Value::finish(value.into_inner());
                    let item = ItemRef { key: &key, flags, cas, value: stored.as_bytes() };
                    self.store_item(at, next, &item, Some(&stored));
                }
                RestOfValue::Discarded(_) => self.skip_item(at, next),
            }
            self.last_was_large = true;
        }
        Ok(2)
    }

    /// Whether the only caller that requested this item no longer waits.
    pub(super) fn is_unwanted(&self, at: Cursor) -> bool {
        let is_shared = self.lines.front().is_none_or(|line| line.aliases);
        let handler = self.slots.get(at.slot as usize).and_then(|slot| slot.handler.as_ref());
        !is_shared && handler.is_none_or(ReplyHandler::is_abandoned)
    }
}
