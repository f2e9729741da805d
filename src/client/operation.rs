//! The parts of an operation.
use bytes::Bytes;

use super::batch::Action;
use crate::pool::CheckoutId;
use crate::protocol::{OwnedRequest, RetrievalVerb};

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// To the node of its key.
    Key,
    /// To the node of its key, which the caller chooses.
    KeyAt(usize),
    Node(usize),
    /// To a node, on a connection of its own.
    Isolated(usize),
    Checkout(CheckoutId),
}

/// The form of the outcome of a single request.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// The item of a retrieval with one key.
    Item,
    /// The reply to any other command.
    Command,
    /// The number of a counter that is created if it is missing.
    Counter,
    /// The reply to a meta command.
    Meta,
    /// Any answer at all, except that the server wants a login.
    Probe,
    Stats,
    /// The reply as the server wrote it.
    RawReply,
    /// The items of a retrieval, and its error line.
    RawItems,
    /// Nothing: the caller continues when the request is on a connection.
    NoReply,
}

/// An operation that owns its data. `S`: see [`super::Caller::Source`].
#[derive(Debug)]
pub enum Operation<S> {
    Submit {
        target: Target,
        expect: Expect,
        request: OwnedRequest,
    },
    GetMany {
        verb: RetrievalVerb,
        keys: Vec<Bytes>,
        /// The nodes of the keys, if the caller chooses them.
        nodes: Option<Vec<usize>>,
        is_partial: bool,
    },
    Batch {
        action: Action,
        source: S,
        noreply: bool,
    },
    CheckOut(CheckoutId),
    /// Done when no request with `noreply` is unanswered.
    Drain,
}
