//! The requests of one connection that wait for their replies, in wire order.
//!
//! ```text
//! push    ->  bytes to write, and a slot at the back
//! feed    <-  bytes read, replies for the slots at the front
//! expire      takes the handler out of a slot at its deadline; the reply is read and discarded
//! drain       the connection was lost: returns every slot with the data for a retry
//! ```
//! Retrievals of one key that are pushed one after the other share a line on the wire (`get a b
//! c`). Callers do not notice, because each has its own slot and its own handler.
//!
//! Invariant: a retrieval slot belongs to exactly one line, lines are in slot order, and
//! `sum(line.slots) == number of retrieval slots`.
mod feed;
mod handler;
mod keys;
mod matching;
mod push;
mod receive;
mod slots;
#[cfg(test)]
mod tests;
mod withdraw;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::decode::Decoder;
use super::reply::ErrorLineKind;
use super::verbs::Verb;
pub use handler::{NEVER, Nanos, ReplyHandler, Timing};
use keys::KeyFifo;
use matching::Cursor;
use push::{Line, OpenLine};
use receive::PartialItem;
use slots::Slot;
pub use withdraw::{ExpiredRequest, Orphan};

/// The longest retrieval line, CRLF included. memcached 1.6.12 rejects a `get` line of more than
/// 1,024 bytes that arrives in two reads, and every version closes the connection for such a `gat`
/// line (1,024 or 2,048 bytes).
pub const MAX_LINE_LEN: usize = 1000;

/// The longest `get` or `gets` line for servers that are known to accept it.
pub const LONG_LINE_LEN: usize = 8 * 1024;

/// memcached sends this line above its connection limit (`-c`) and then closes the connection.
pub const CONNECTION_REFUSED: &[u8] = b"ERROR Too many open connections";

/// `memcached -Y` sends this line to connections without a login, once for all commands in its read
/// buffer.
const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated";

/// Transfers of values of at least this length should not delay other requests.
pub const LARGE_VALUE_LEN: usize = 64 * 1024;

/// The limit for the reply to one `stats`, counted as the bytes of its lines and [`STAT_OVERHEAD`]
/// for each. The longest real reply is 33 MiB: `stats conns` of a server with 65,000 connections.
const MAX_STATS_SIZE: usize = 40 * 1024 * 1024;

/// The memory that a line needs in addition to its text when it is stored as two strings.
const STAT_OVERHEAD: usize = 96;

pub struct Pipeline<S: ReplyHandler> {
    slots: VecDeque<Slot<S>>,
    lines: VecDeque<Line>,
    keys: KeyFifo,
    open: Option<OpenLine>,
    decoder: Decoder,
    receiving: Option<PartialItem<S::Value>>,
    /// Whether the last item was received directly into its buffer; the next one may be similar.
    last_was_large: bool,
    /// The allocation for the item in progress failed, so it is received through the read buffer.
    allocation_failed: bool,
    cursor: Cursor,
    /// Which keys of the front line have their item.
    assigned: Vec<u64>,
    /// The number of keys that have their item.
    found_count: u32,
    /// The memory that the lines of the current reply to `stats` need.
    stats_size: usize,
    encoded: u64,
    /// The number of slots with `noreply` commands.
    noreply_unanswered: usize,
    moved: usize,
    answered: u64,
    answered_late: u64,
    refused: u64,
    large_keys: Vec<Bytes>,
    shared_keys: u64,
    max_merged_keys: u32,
    /// The name of the node, for error messages.
    peer: Arc<str>,
    must_close: Option<MustClose>,
    line_error: Option<(ErrorLineKind, Bytes)>,
    /// Requests that [`Self::prune`] removed and whose callers are not notified yet.
    pruned_expired: Vec<ExpiredRequest<S>>,
    unknown_command: Option<Verb>,
}

/// A reply after which the connection must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MustClose {
    /// The server rejected the head of a storage command, and may run the value as commands.
    StorageRefused,
    /// An error line in the reply to several keys. Some servers end the reply with it, some proxies
    /// continue to `END`, so the next reply cannot be attributed.
    KeyRefused,
    /// The server requires a login, and replies to only some of the commands that it receives
    /// before one.
    Unauthenticated,
}

impl<S: ReplyHandler> Pipeline<S> {
    /// `max_merged_keys` is the number of retrievals that may share a line; 1 sends a line for
    /// each.
    pub fn new(max_merged_keys: u32, peer: Arc<str>) -> Self {
        Self {
            slots: VecDeque::new(),
            lines: VecDeque::new(),
            keys: KeyFifo::default(),
            open: None,
            decoder: Decoder::default(),
            receiving: None,
            last_was_large: false,
            allocation_failed: false,
            cursor: Cursor::default(),
            assigned: Vec::new(),
            found_count: 0,
            stats_size: 0,
            encoded: 0,
            noreply_unanswered: 0,
            moved: 0,
            answered: 0,
            answered_late: 0,
            refused: 0,
            large_keys: Vec::new(),
            shared_keys: 0,
            max_merged_keys,
            peer,
            must_close: None,
            line_error: None,
            pruned_expired: Vec::new(),
            unknown_command: None,
        }
    }

    /// Sets the number of retrievals that may share a line.
    pub fn set_max_merged_keys(&mut self, max_merged_keys: u32) {
        self.max_merged_keys = max_merged_keys;
    }

    /// The reason why the connection must not be used any more. The replies behind it are not read.
    pub fn must_close(&self) -> Option<MustClose> {
        self.must_close
    }

    /// The error line of [`MustClose::KeyRefused`].
    pub fn line_error(&self) -> Option<&(ErrorLineKind, Bytes)> {
        self.line_error.as_ref()
    }
}
