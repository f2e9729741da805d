//! Large values are received directly into their final buffers.
use bytes::buf::Limit;
use bytes::{BufMut, Bytes};

use super::InFlight;
use super::feed::StatsUpdate;
use super::handler::ReplyHandler;
use super::matching::Cursor;
use crate::protocol::dialect::{Dialect, Expected};
use crate::protocol::error::ProtocolError;
use crate::protocol::meta::MetaStatus;
use crate::protocol::reply::{ItemRef, Reply};
use crate::protocol::value_buf::ValueBuf;

/// If at least this much of a value has not arrived yet, the value is received directly into its
/// final buffer. That costs one more read and saves a copy. The limit is small in tests, so that
/// they split such values everywhere.
const MIN_IN_PLACE_LEN: usize = if cfg!(test) { 4 } else { 32 * 1024 };

/// No memory is allocated in advance for longer values.
const MAX_IN_PLACE_LEN: usize = 64 * 1024 * 1024;

/// An item whose value is received directly into its final buffer.
pub(super) struct PartialItem<K: ValueBuf> {
    /// The slot that requested the item, and the position of the next key; `None` in the reply to
    /// a meta command.
    pub at: Option<(Cursor, u64)>,
    /// The key, or the flags of a meta command.
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

/// The item in progress, if its value is received in place, and what is expected of the next one.
pub(super) struct Receiving<K: ValueBuf> {
    item: Option<PartialItem<K>>,
    /// Whether the last item was received directly into its buffer; the next one may be similar.
    last_was_large: bool,
    /// The allocation for the item in progress failed, so it is received through the read buffer.
    allocation_failed: bool,
}

impl<K: ValueBuf> Receiving<K> {
    pub fn new() -> Self {
        Self { item: None, last_was_large: false, allocation_failed: false }
    }

    /// Whether the next bytes belong to a value that is received in place.
    #[inline]
    pub fn is_in_place(&self) -> bool {
        self.item.is_some()
    }

    /// The number of bytes that the value in progress lacks.
    #[inline]
    pub fn missing_len(&self) -> Option<usize> {
        self.item.as_ref().map(|item| item.value.missing())
    }

    /// The buffer for the rest of the value in progress, if the next bytes belong there.
    pub fn rest_of_value(&mut self) -> Option<&mut Limit<K::Partial>> {
        match &mut self.item.as_mut()?.value {
            RestOfValue::Stored(value) => Some(value).filter(|value| value.remaining_mut() > 0),
            RestOfValue::Discarded(_) => None,
        }
    }

    pub fn expects_large_value(&self) -> bool {
        self.last_was_large
    }

    /// An item arrived through the read buffer.
    #[inline]
    pub fn not_large(&mut self) {
        (self.last_was_large, self.allocation_failed) = (false, false);
    }

    /// An item of the fast path, or the reply to a command, arrived.
    #[inline]
    pub fn not_large_next(&mut self) {
        self.last_was_large = false;
    }
}

impl<S: ReplyHandler> InFlight<S> {
    /// Receives the value of the item in progress directly into its buffer, if much of it is
    /// missing.
    pub(super) fn start_large_value(
        &mut self,
        buf: &[u8],
        expected: Expected,
        dialect: &mut Dialect,
    ) -> Result<bool, ProtocolError> {
        let large = dialect.large_item(buf, expected, MIN_IN_PLACE_LEN);
        let may_allocate = !self.receiving.allocation_failed;
        let Some((item, len)) = large.filter(|(_, len)| may_allocate && *len <= MAX_IN_PLACE_LEN)
        else {
            return Ok(false);
        };
        let is_retrieval = self.slots.front().is_some_and(|slot| slot.keys > 0);
        let at = if is_retrieval { Some(self.find_key(item.key)?) } else { None };
        let is_unwanted = match at {
            Some(at) => self.is_unwanted(at),
            None => self.slots.front().is_none_or(|slot| !slot.has_waiter()),
        };
        let mut value = if is_unwanted {
            RestOfValue::Discarded(len)
        } else {
            let Some(value) = S::Value::allocate(len) else {
                self.receiving.allocation_failed = true;
                return Ok(false);
            };
            RestOfValue::Stored(value.limit(len))
        };
        value.put(item.value);
        self.receiving.item = Some(PartialItem {
            at: at.map(|at| (at, self.lines.key_at(at.position).next)),
            key: Bytes::copy_from_slice(item.key),
            flags: item.flags,
            cas: item.cas,
            value,
        });
        dialect.skip_frame();
        Ok(true)
    }

    /// Takes the bytes that belong to the value in progress, which `end` follows, and returns their
    /// number; `None` if more bytes are needed.
    pub(super) fn receive_value(
        &mut self,
        buf: &[u8],
        end: &[u8],
        update: &mut StatsUpdate<'_>,
    ) -> Result<Option<usize>, ProtocolError> {
        let Some(receiving) = &mut self.receiving.item else { return Ok(None) };
        let missing = receiving.value.missing();
        if missing > 0 {
            let len = missing.min(buf.len());
            receiving.value.put(&buf[..len]);
            return Ok(Some(len));
        }
        match buf.get(..end.len()) {
            None => return Ok(None),
            Some(found) if found != end => return Err(ProtocolError::ValueNotTerminated),
            Some(_) => {}
        }
        if let Some(PartialItem { at, key, flags, cas, value }) = self.receiving.item.take() {
            let stored = match value {
                RestOfValue::Stored(value) => Some(S::Value::finish(value.into_inner())),
                RestOfValue::Discarded(_) => None,
            };
            let item = |value| ItemRef { key: &key, flags, cas, value };
            match (at, &stored) {
                (Some((at, next)), Some(value)) => {
                    self.store_item(at, next, &item(value.as_bytes()), stored.as_ref());
                }
                (Some((at, next)), None) => self.skip_item(at, next),
                (None, Some(value)) => {
                    self.finish_meta(&item(value.as_bytes()), stored.as_ref(), &key, update);
                }
                (None, None) => {
                    self.finish(&Reply::Meta { status: MetaStatus::Value, flags: &key }, update);
                }
            }
            self.receiving.last_was_large = true;
        }
        Ok(Some(end.len()))
    }

    /// Whether the only caller that requested this item no longer waits.
    fn is_unwanted(&self, at: Cursor) -> bool {
        let is_shared = self.lines.front().is_none_or(|line| line.aliases > 0);
        !is_shared && self.slots.get(at.slot as usize).is_none_or(|slot| !slot.has_waiter())
    }
}
