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
mod lines;
mod matching;
#[cfg(test)]
mod meta_tests;
mod push;
mod receive;
mod slots;
#[cfg(test)]
mod tests;
mod withdraw;

use std::sync::Arc;

use bytes::{BufMut, Bytes};

use super::dialect::Dialect;
use super::reply::ErrorLineKind;
use super::stats::RequestInfo;
use super::verbs::Verb;
pub use handler::{NEVER, Nanos, ReplyHandler, Timing};
use lines::Lines;
use matching::{Assigned, Cursor};
use receive::Receiving;
use slots::Slots;
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
    dialect: Dialect,
    /// The number of bytes that were ever encoded.
    encoded: u64,
    in_flight: InFlight<S>,
    /// Requests that [`Self::prune`] removed and whose callers are not notified yet.
    pruned_expired: Vec<ExpiredRequest<S>>,
}

/// The requests without a reply, and the progress of the reply to the first.
struct InFlight<S: ReplyHandler> {
    slots: Slots<S>,
    lines: Lines,
    receiving: Receiving<S::Value>,
    cursor: Cursor,
    assigned: Assigned,
    /// The memory that the lines of the current reply to `stats` need.
    stats_size: usize,
    counts: Counts,
    large_keys: Vec<Bytes>,
    /// The name of the node, for error messages.
    peer: Arc<str>,
    must_close: Option<MustClose>,
    line_error: Option<(ErrorLineKind, Bytes)>,
    unknown_command: Option<Verb>,
}

/// The numbers of slots that were answered.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    answered: u64,
    answered_late: u64,
    refused: u64,
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

impl<S: ReplyHandler> InFlight<S> {
    fn new(max_merged_keys: u32, peer: Arc<str>) -> Self {
        Self {
            slots: Slots::new(),
            lines: Lines::new(max_merged_keys),
            receiving: Receiving::new(),
            cursor: Cursor::default(),
            assigned: Assigned::default(),
            stats_size: 0,
            counts: Counts::default(),
            large_keys: Vec::new(),
            peer,
            must_close: None,
            line_error: None,
            unknown_command: None,
        }
    }

    /// The first slot that another request may hold up: the second one, or the first if several
    /// keys are answered together.
    fn first_held_up(&self) -> usize {
        match (self.slots.front(), self.lines.front()) {
            (Some(slot), Some(line)) if slot.keys > 0 && line.keys > 1 => 0,
            _ => 1,
        }
    }
}

impl<S: ReplyHandler> Pipeline<S> {
    /// `max_merged_keys` is the number of retrievals that may share a line; 1 sends a line for
    /// each.
    pub fn new(dialect: Dialect, max_merged_keys: u32, peer: Arc<str>) -> Self {
        let in_flight = InFlight::new(max_merged_keys, peer);
        Self { dialect, encoded: 0, in_flight, pruned_expired: Vec::new() }
    }

    /// An empty pipeline with the same settings.
    fn restarted(&self) -> Self {
        let InFlight { lines, peer, .. } = &self.in_flight;
        Self::new(self.dialect.restarted(), lines.max_merged_keys(), peer.clone())
    }

    /// Sets the number of retrievals that may share a line.
    pub fn set_max_merged_keys(&mut self, max_merged_keys: u32) {
        self.in_flight.lines.set_max_merged_keys(max_merged_keys);
    }

    /// The number of slots without a reply, abandoned ones included.
    pub fn in_flight(&self) -> usize {
        self.in_flight.slots.len()
    }

    /// The number of slots whose callers are served on another connection: see
    /// [`Self::take_held_up`].
    pub fn moved(&self) -> usize {
        self.in_flight.slots.moved()
    }

    /// The number of slots whose reply was not an error line.
    pub fn answered(&self) -> u64 {
        self.in_flight.counts.answered
    }

    /// The number of answered slots whose callers had already timed out.
    pub fn answered_late(&self) -> u64 {
        self.in_flight.counts.answered_late
    }

    /// The number of slots that were answered by an error line in time.
    pub fn refused(&self) -> u64 {
        self.in_flight.counts.refused
    }

    /// The deadline of the next request to be answered, if its caller has already timed out.
    pub fn overdue_since(&self) -> Option<Nanos> {
        self.in_flight.slots.overdue_since()
    }

    /// Whether the caller of the next request to be answered no longer waits.
    pub fn is_front_abandoned(&self) -> bool {
        self.in_flight.slots.is_front_abandoned()
    }

    /// The deadline of the next request to be answered; [`NEVER`] if there is none.
    pub fn front_deadline(&self) -> Nanos {
        self.in_flight.slots.front_deadline()
    }

    /// Whether a caller waits for a reply.
    pub fn has_waiters(&self) -> bool {
        self.in_flight.slots.has_waiters(0)
    }

    /// Whether a caller waits for a slot that another request may hold up.
    pub fn is_held_up(&self) -> bool {
        self.in_flight.slots.has_waiters(self.in_flight.first_held_up())
    }

    /// The number of slots whose callers no longer wait. Checks each slot.
    pub fn abandoned(&self) -> usize {
        self.in_flight.slots.abandoned()
    }

    /// The number of `noreply` requests without a reply.
    pub fn noreply_unanswered(&self) -> usize {
        self.in_flight.slots.noreply_unanswered()
    }

    /// Notifies all handlers that the connection is alive.
    pub fn accept_all(&mut self) {
        self.in_flight.slots.accept_all();
    }

    /// The last command other than a retrieval that was answered by a bare `ERROR` since the last
    /// call.
    pub fn take_unknown(&mut self) -> Option<Verb> {
        self.in_flight.unknown_command.take()
    }

    /// The commands that were sent, at least in part, and not answered. `written` as in
    /// [`Self::feed`].
    pub fn unanswered(&self, written: u64) -> impl Iterator<Item = Verb> {
        let slots = self.in_flight.slots.iter();
        slots.filter(move |slot| slot.start < written).map(|slot| slot.expected.verb)
    }

    /// The number of keys that another request of the same line asked for too, so that the server
    /// was asked once.
    pub fn shared_keys(&self) -> u64 {
        self.in_flight.lines.shared_keys()
    }

    /// The keys with large values since the last call.
    pub fn take_large_keys(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.in_flight.large_keys)
    }

    /// The handlers of a pipeline whose state is not reliable any more.
    pub fn into_handlers(mut self) -> impl Iterator<Item = (S, RequestInfo)> {
        let slots = self.in_flight.slots.take_all().into_iter();
        let waiting = slots.filter_map(|mut slot| Some((slot.handler.take()?, slot.info())));
        waiting.chain(self.pruned_expired.into_iter().map(|late| (late.handler, late.info)))
    }

    /// The number of missing bytes of the frame in progress, if it is known and `read` bytes are in
    /// the buffer.
    pub fn missing_len(&self, read: usize) -> usize {
        match self.in_flight.receiving.missing_len() {
            Some(missing) => missing + self.dialect.value_end().len(),
            None => self.dialect.frame_len().saturating_sub(read),
        }
    }

    /// The buffer for the rest of the value in progress, if the next bytes belong there.
    pub fn rest_of_value(&mut self) -> Option<&mut impl BufMut> {
        self.in_flight.receiving.rest_of_value()
    }

    /// Whether the next item is probably large, so that little should be read before its header is
    /// known.
    pub fn expects_large_value(&self) -> bool {
        self.in_flight.receiving.expects_large_value()
    }

    /// The reason why the connection must not be used any more. The replies behind it are not read.
    pub fn must_close(&self) -> Option<MustClose> {
        self.in_flight.must_close
    }

    /// The error line of [`MustClose::KeyRefused`].
    pub fn line_error(&self) -> Option<&(ErrorLineKind, Bytes)> {
        self.in_flight.line_error.as_ref()
    }
}
