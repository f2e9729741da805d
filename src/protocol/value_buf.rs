//! Buffers for received values.
use bytes::{BufMut, Bytes};

/// A value that is created once for all requests for the same key. Large values are received
/// directly into it.
pub trait ValueBuf: Sized {
    /// A value that has not arrived completely.
    type Partial: BufMut;

    /// Copies a value.
    fn from_slice(value: &[u8]) -> Self;
    /// Allocates a buffer for a value of exactly this length. With `None`, the value is copied once
    /// it has arrived completely.
    fn allocate(len: usize) -> Option<Self::Partial>;
    /// Turns a complete value into the final buffer.
    fn finish(partial: Self::Partial) -> Self;
    fn as_bytes(&self) -> &[u8];
}

impl ValueBuf for Bytes {
    type Partial = Vec<u8>;

    fn from_slice(value: &[u8]) -> Self {
        Self::copy_from_slice(value)
    }

    fn allocate(len: usize) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        // A server that announces more than the available memory must not abort the process.
        value.try_reserve_exact(len).ok()?;
        Some(value)
    }

    fn finish(partial: Vec<u8>) -> Self {
        partial.into()
    }

    fn as_bytes(&self) -> &[u8] {
        self
    }
}
