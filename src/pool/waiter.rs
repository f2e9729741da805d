//! Callers of a pool.
use super::error::Error;
use crate::protocol::{Reply, ReplyHandler};

/// Waits for a reply, or for the reason why there is none.
pub trait Waiter: ReplyHandler + Sized + 'static {
    fn fail(self, error: &Error);

    /// Ends the wait of an abandoned request.
    fn dismiss(self) {
        self.reply(&Reply::End, "");
    }

    /// Whether the request concerns this node, so that no other node may take it.
    fn is_bound(&self) -> bool {
        false
    }

    /// Splits a request for several keys: returns a waiter for each key with an index in `missing`,
    /// in that order. Items that arrived for other keys are kept.
    fn split(self, missing: &[usize]) -> Vec<Self>;
}

/// Identifies a checkout. The caller chooses a unique number.
pub type CheckoutId = u64;
