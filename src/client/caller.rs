//! The interface that a driver supplies: the recipient of an outcome, and the type of its items.
use super::batch::BatchSource;
use super::outcome::Outcome;
use crate::protocol::{ItemRef, ValueBuf};

/// Waits for the outcome of one operation. Its methods run while the core is borrowed, so they must
/// not call back.
pub trait Caller: Sized + 'static {
    type Item: 'static;
    type Value: ValueBuf;
    /// The keys and values of a batch.
    type Source: BatchSource;

    /// Copies an item; `None` if the caller has given up. `shared` holds the value if other callers
    /// need it too, or if it was received in place.
    fn item(&self, item: &ItemRef<'_>, shared: Option<&Self::Value>) -> Option<Self::Item>;

    /// As `item`, for a caller that has just taken an item of the same reply.
    #[inline]
    fn next_item(&self, item: &ItemRef<'_>, shared: Option<&Self::Value>) -> Option<Self::Item> {
        self.item(item, shared)
    }

    /// Receives the outcome. [`Outcome::CheckedOut`] has to be released even if the caller has
    /// given up.
    fn complete(self, outcome: Outcome<Self::Item>);

    /// Receives [`Outcome::Done`] because the request is on a connection, possibly before the call
    /// has returned.
    fn accept(self) {
        self.complete(Outcome::Done);
    }

    /// Whether the caller has given up. The outcome is dropped.
    fn is_abandoned(&self) -> bool;
}
