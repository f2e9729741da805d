//! The recipient of replies, and the times of a request.
use crate::protocol::reply::{ItemRef, Reply, StatLine};
use crate::protocol::value_buf::ValueBuf;

/// A point in time on the caller's clock, in nanoseconds. The pipeline only compares these.
pub type Nanos = u64;

/// A deadline that never passes.
pub const NEVER: Nanos = Nanos::MAX;

/// The start time and the deadline of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub issued_at: Nanos,
    pub deadline: Nanos,
}

/// For callers that do not measure latencies.
impl From<Nanos> for Timing {
    fn from(deadline: Nanos) -> Self {
        Self { issued_at: 0, deadline }
    }
}

/// Receives the reply to a request. A handler must not call back into the pipeline that feeds it.
pub trait ReplyHandler {
    /// The buffer for values.
    type Value: ValueBuf;

    /// Receives the item for the key with this index within the request. `shared` holds the value
    /// if other requests need it too, or if it was received directly into its buffer.
    fn item(&mut self, index: usize, item: &ItemRef<'_>, shared: Option<&Self::Value>);
    /// Receives one line of `stats`.
    fn stat(&mut self, stat: &StatLine<'_>);
    /// The request is retried on another connection: discard the items received so far.
    fn restart(&mut self);
    /// The reply is complete. `from` is the name of the node, for error messages.
    fn reply(self, reply: &Reply<'_>, from: &str);
    /// Whether the caller no longer waits. An unsent request of such a caller is not sent.
    fn is_abandoned(&self) -> bool {
        false
    }
    /// Whether the caller continues before the reply arrives, so that later requests must not
    /// overtake this one.
    fn is_noreply(&self) -> bool {
        false
    }
    /// The request was handed to a live connection, and is written or about to be written.
    fn accepted(&mut self) {}
}
