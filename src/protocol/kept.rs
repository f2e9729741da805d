//! Values as those who asked for them keep them.
use bytes::{BufMut, Bytes};

/// Made once for all who asked for the same key, and long ones received in their place.
pub trait Kept: Sized {
    /// A value of which not all has come.
    type Receiving: BufMut;

    /// A copy.
    fn of(value: &[u8]) -> Self;
    /// Room for a value of exactly this length; `None`: it is to be copied when all of it is there.
    fn receive(len: usize) -> Option<Self::Receiving>;
    /// All of it has come.
    fn received(whole: Self::Receiving) -> Self;
    fn as_bytes(&self) -> &[u8];
}

impl Kept for Bytes {
    type Receiving = Vec<u8>;

    fn of(value: &[u8]) -> Self {
        Self::copy_from_slice(value)
    }

    fn receive(len: usize) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        // Who announces more than there is memory for ends no process.
        value.try_reserve_exact(len).ok()?;
        Some(value)
    }

    fn received(whole: Vec<u8>) -> Self {
        whole.into()
    }

    fn as_bytes(&self) -> &[u8] {
        self
    }
}
