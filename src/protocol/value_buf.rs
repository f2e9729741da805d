//! Values as those who asked for them keep them.
use bytes::{BufMut, Bytes};

/// Made once for all who asked for the same key, and long ones received in their place.
pub trait ValueBuf: Sized {
    /// A value of which not all has come.
    type Partial: BufMut;

    /// A copy.
    fn from_slice(value: &[u8]) -> Self;
    /// Room for a value of exactly this length; `None`: it is to be copied when all of it is there.
    fn allocate(len: usize) -> Option<Self::Partial>;
    /// All of it has come.
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
        // Who announces more than there is memory for ends no process.
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
