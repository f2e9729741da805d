//! Connected byte streams.
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

/// A connected byte stream.
pub trait Io: AsyncRead + AsyncWrite + Unpin {
    /// Whether a poll reads although Tokio's driver has reported no event: see [`super::socket`].
    fn reads_without_readiness(&self) -> bool {
        false
    }

    /// The maximum length of a write, if the server can tell which bytes were written together.
    /// Such a write must contain whole commands, or a part of one that is longer, and is accepted
    /// as a whole.
    fn record_len(&self) -> Option<usize> {
        None
    }

    /// The descriptor that becomes readable when a poll can read, even if Tokio's driver has
    /// reported no event.
    fn descriptor(&self) -> Option<i32> {
        None
    }

    /// Lets the next poll wait for bytes, for a few milliseconds, if the stream can.
    fn block_next_read(&mut self) {}

    /// Makes the next poll read even if no event has been reported since the last one.
    fn force_read(&mut self) {}

    /// When it is dropped, the kernel sends none of the bytes that it still holds.
    fn reset_on_drop(&mut self) {}
}

impl Io for DuplexStream {}
