//! memcached's protocols: requests become bytes, and bytes replies. Pure: no sockets, no clock.
//!
//! | module | what it holds |
//! |---|---|
//! | `key`, `command`, `owned_request` | what a request says, borrowed and owned |
//! | `verbs` | the table of commands |
//! | `reply`, `error` | what a server says, and what no healthy server says |
//! | `dialect` | the protocol of a connection: `text` (doc/protocol.txt) or `binary` (doc/protocol-binary.txt) |
//! | `meta` | the meta commands of the text protocol |
//! | `outgoing` | bytes that wait to be written |
//! | `value_buf` | buffers for received values |
//! | `stats` | counters and latencies by command |
//! | `pipeline` | matches replies to requests: a connection replies in the order of its requests |
pub mod binary;
mod command;
mod dialect;
mod error;
mod key;
pub mod meta;
mod outgoing;
mod owned_request;
mod pipeline;
mod reply;
mod stats;
pub mod text;
mod value_buf;
mod verbs;

pub use command::{
    ArithmeticVerb, Command, EXPIRED, GenericCommand, Request, RetrievalVerb, StorageVerb, Words,
};
pub use dialect::{Dialect, Expected, Frame};
pub use error::{Excerpt, ProtocolError};
pub use key::{InvalidKey, Key, MAX_KEY_LEN};
pub use outgoing::Outgoing;
pub use owned_request::{OwnedCommand, OwnedRequest, copy_into_block};
pub use pipeline::{
    CONNECTION_REFUSED, ExpiredRequest, LARGE_VALUE_LEN, LONG_LINE_LEN, MAX_LINE_LEN, MustClose,
    NEVER, Nanos, Orphan, Pipeline, ReplyHandler, Timing,
};
pub use reply::{ErrorLine, ErrorLineKind, ItemRef, Reply, Shape, StatLine};
pub use stats::{CallResult, CommandStats, LATENCY_BOUNDS, Latency, NodeStats, RequestInfo};
pub use text::{Decoder, MAX_REPLY_LINE_LEN, MAX_VALUE_LEN, encode};
pub use value_buf::ValueBuf;
pub use verbs::{Family, Retry, Scope, Verb};
