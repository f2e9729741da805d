//! memcached's text protocol: encodes requests and decodes replies. Pure: no sockets, no clock.
//!
//! | module | memcached doc/protocol.txt |
//! |---|---|
//! | `key` | "Keys" |
//! | `request`, `encode` | "Storage commands", "Retrieval command", "Deletion", "Increment/Decrement", "Meta Arithmetic", "Touch", "Get And Touch", "Statistics", "Other commands" |
//! | `reply`, `decode` | the replies to these, "Error strings" |
//! | `binary` | doc/protocol-binary.txt, translated from and to the text protocol |
//! | `outgoing` | bytes that wait to be written |
//! | `stats` | counters and latencies by command |
//! | `pipeline` | matches replies to requests: a connection replies in the order of its requests |
pub mod binary;
mod command;
mod decode;
mod encode;
mod error;
mod key;
mod outgoing;
mod owned_request;
mod pipeline;
mod reply;
mod stats;
mod value_buf;
mod verbs;

pub use command::{
    ArithmeticVerb, Command, EXPIRED, Request, RetrievalVerb, StatsArgs, StorageVerb,
};
pub use decode::{Decoder, Frame, MAX_REPLY_LINE_LEN, MAX_VALUE_LEN};
pub use encode::encode;
pub use error::{Excerpt, ProtocolError};
pub use key::{InvalidKey, Key, MAX_KEY_LEN};
pub use outgoing::Outgoing;
pub use owned_request::OwnedRequest;
pub use pipeline::{
    CONNECTION_REFUSED, ExpiredRequest, LARGE_VALUE_LEN, LONG_LINE_LEN, MAX_LINE_LEN, MustClose,
    NEVER, Nanos, Orphan, Pipeline, ReplyHandler, Timing,
};
pub use reply::{ErrorLine, ErrorLineKind, ItemRef, Reply, Shape, StatLine};
pub use stats::{CallResult, CommandStats, LATENCY_BOUNDS, Latency, NodeStats, RequestInfo};
pub use value_buf::ValueBuf;
pub use verbs::{Family, Retry, Scope, Verb};
