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
mod keys;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use super::decode::{Decoder, Frame};
use super::encode::{encode, retrieval_head, storage_head};
use super::error::{Excerpt, ProtocolError};
use super::key::Key;
use super::outgoing::Outgoing;
use super::reply::{ErrorLine, ErrorLineKind, ItemRef, Reply, Shape, StatLine};
use super::request::{Request, RetrievalVerb, Scope, StorageVerb, Verb};
use super::stats::{CallResult, NodeStats, RequestInfo};
use super::value_buf::ValueBuf;
use keys::KeyFifo;

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

/// If at least this much of a value has not arrived yet, the value is received directly into its
/// final buffer. That costs one more read and saves a copy. The limit is small in tests, so that
/// they split such values everywhere.
const MIN_IN_PLACE_LEN: usize = if cfg!(test) { 4 } else { 32 * 1024 };

/// The limit for the reply to one `stats`, counted as the bytes of its lines and [`STAT_OVERHEAD`]
/// for each. The longest real reply is 33 MiB: `stats conns` of a server with 65,000 connections.
const MAX_STATS_SIZE: usize = 40 * 1024 * 1024;
/// The memory that a line needs in addition to its text when it is stored as two strings.
const STAT_OVERHEAD: usize = 96;

/// No memory is allocated in advance for longer values.
const MAX_IN_PLACE_LEN: usize = 64 * 1024 * 1024;

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

/// A request that owns its bytes, used while there is no connection to encode it for.
#[derive(Clone, Debug)]
pub enum OwnedRequest {
    Retrieval {
        verb: RetrievalVerb,
        keys: SmallVec<[Bytes; 1]>,
    },
    Encoded {
        verb: Verb,
        wire: Bytes,
    },
    /// A storage command whose value is not copied.
    Storage {
        verb: Verb,
        head: Bytes,
        value: Bytes,
    },
}

/// A request of a lost connection.
#[derive(Debug)]
pub struct Orphan<S> {
    pub handler: S,
    pub info: RequestInfo,
    pub deadline: Nanos,
    pub retried: bool,
    /// Whether a byte of the request may have been sent.
    pub sent: bool,
    /// The request to send again: any retrieval, or a command of which no byte was sent. `None` if
    /// the server may have executed it.
    pub retry: Option<OwnedRequest>,
    /// If [`Pipeline::line_error`] ended the reply to the request's line: the keys without an item.
    /// `retry` contains only these keys.
    pub missing: Option<SmallVec<[usize; 1]>>,
}

/// A request whose deadline has passed.
#[derive(Debug)]
pub struct ExpiredRequest<S> {
    pub handler: S,
    pub info: RequestInfo,
    /// Whether a byte of the request was sent.
    pub sent: bool,
}

impl OwnedRequest {
    pub fn storage(
        verb: StorageVerb,
        key: Key<'_>,
        flags: u32,
        exptime: i32,
        value: Bytes,
    ) -> Self {
        let mut head = BytesMut::new();
        storage_head(verb, key, flags, exptime, value.len(), &mut head);
        Self::Storage { verb: verb.verb(), head: head.freeze(), value }
    }

    pub fn verb(&self) -> Verb {
        match self {
            Self::Retrieval { verb, .. } => verb.verb(),
            Self::Encoded { verb, .. } | Self::Storage { verb, .. } => *verb,
        }
    }

    /// The number of requested keys; 0 if the request is not a retrieval.
    pub fn keys(&self) -> u32 {
        match self {
            Self::Retrieval { keys, .. } => u32::try_from(keys.len()).unwrap_or(u32::MAX),
            Self::Encoded { .. } | Self::Storage { .. } => 0,
        }
    }

    /// Copies the parts that share a block of memory with other requests, because the request may
    /// be stored for long.
    #[must_use]
    pub fn unshared(self) -> Self {
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        match self {
            Self::Retrieval { verb, keys } => {
                Self::Retrieval { verb, keys: keys.iter().map(own).collect() }
            }
            Self::Encoded { verb, wire } if wire.len() < LARGE_VALUE_LEN => {
                Self::Encoded { verb, wire: own(&wire) }
            }
            Self::Encoded { .. } | Self::Storage { .. } => self,
        }
    }

    /// The first key, which is the second word of the command line; empty if the command has no
    /// key.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Retrieval { keys, .. } => keys.first().map_or(&[], |key| key),
            Self::Encoded { wire, .. } => second_word(wire),
            Self::Storage { head, .. } => second_word(head),
        }
    }

    /// Calls `visit` with each key of the request.
    pub fn for_each_key(&self, mut visit: impl FnMut(&[u8])) {
        match self {
            Self::Retrieval { keys, .. } => keys.iter().for_each(|key| visit(key)),
            _ if self.verb().scope() == Scope::Keys => visit(self.key()),
            _ => {}
        }
    }

    /// The number of bytes that the request holds.
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Retrieval { keys, .. } => keys.iter().map(|key| key.len() + 1).sum(),
            Self::Encoded { wire, .. } => wire.len(),
            Self::Storage { head, value, .. } => head.len() + value.len(),
        }
    }
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "facts that are independent")]
struct Slot<S> {
    /// `None` once the caller has timed out and was notified, or is served on another
    /// connection.
    handler: Option<S>,
    verb: Verb,
    /// The number of keys of this slot in the line; 0 for a command.
    keys: u32,
    retried: bool,
    /// Whether another connection serves the caller.
    moved: bool,
    /// Whether the slot shares the line of the slot before it.
    shares_line: bool,
    /// See [`ReplyHandler::is_noreply`].
    noreply: bool,
    timing: Timing,
    /// The position at which the slot's bytes start, or its line's, counted over all encoded bytes.
    start: u64,
}

impl<S: ReplyHandler> Slot<S> {
    /// Whether this is a command that does not have to be sent any more.
    fn is_cancelled_or_expired(&self, now: Nanos) -> bool {
        let is_over = |handler: &S| self.timing.deadline <= now || handler.is_abandoned();
        self.keys == 0 && !self.noreply && self.handler.as_ref().is_none_or(is_over)
    }
}

impl<S> Slot<S> {
    fn info(&self) -> RequestInfo {
        RequestInfo { verb: self.verb, keys: self.keys, issued_at: self.timing.issued_at }
    }
}

/// The data that is needed to count a reply.
struct StatsUpdate<'a> {
    stats: &'a mut NodeStats,
    now: Nanos,
}

#[derive(Debug)]
struct Line {
    verb: RetrievalVerb,
    slots: u32,
    keys: u32,
    aliases: bool,
    keys_start: u64,
}

/// The last line, as long as keys can be added to it.
#[derive(Debug)]
struct OpenLine {
    len: usize,
    /// One bit for each hash of a key: whether the line may already contain the key.
    seen: u64,
}

/// An item whose value is received directly into its final buffer.
struct PartialItem<K: ValueBuf> {
    /// The slot that requested the item, and the position of the next key.
    at: Cursor,
    next: u64,
    key: Bytes,
    flags: u32,
    cas: Option<u64>,
    value: RestOfValue<K>,
}

/// The destination of the rest of a value. The value is complete when nothing is missing.
enum RestOfValue<K: ValueBuf> {
    Stored(Limit<K::Partial>),
    /// The caller no longer waits: this many bytes are read and discarded.
    Discarded(usize),
}

impl<K: ValueBuf> RestOfValue<K> {
    fn missing(&self) -> usize {
        match self {
            Self::Stored(value) => value.remaining_mut(),
            Self::Discarded(missing) => *missing,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        match self {
            Self::Stored(value) => value.put_slice(bytes),
            Self::Discarded(missing) => *missing -= bytes.len(),
        }
    }
}

/// The place in the front line at which the next item is expected.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    ordinal: u32,
    slot: u32,
    index: u32,
    position: u64,
}

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

    /// The number of slots without a reply, abandoned ones included.
    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// The number of slots whose callers are served on another connection: see
    /// [`Self::take_held_up`].
    pub fn moved(&self) -> usize {
        self.moved
    }

    /// The number of slots whose reply was not an error line.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// The number of answered slots whose callers had already timed out.
    pub fn answered_late(&self) -> u64 {
        self.answered_late
    }

    /// The number of slots that were answered by an error line in time.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The deadline of the next request to be answered, if its caller has already timed out.
    pub fn overdue_since(&self) -> Option<Nanos> {
        self.slots.front().filter(|slot| slot.handler.is_none()).map(|slot| slot.timing.deadline)
    }

    /// The deadline of the next request to be answered; [`NEVER`] if there is none.
    pub fn front_deadline(&self) -> Nanos {
        self.slots.front().map_or(NEVER, |slot| slot.timing.deadline)
    }

    /// Whether a caller waits for a reply.
    pub fn has_waiters(&self) -> bool {
        self.slots
            .iter()
            .any(|slot| slot.handler.as_ref().is_some_and(|handler| !handler.is_abandoned()))
    }

    /// The first slot that another request may hold up: the second one, or the first if several
    /// keys are answered together.
    fn first_held_up(&self) -> usize {
        match (self.slots.front(), self.lines.front()) {
            (Some(slot), Some(line)) if slot.keys > 0 && line.keys > 1 => 0,
            _ => 1,
        }
    }

    /// Whether a caller waits for a slot that another request may hold up.
    pub fn is_held_up(&self) -> bool {
        let mut held_up = self.slots.iter().skip(self.first_held_up());
        held_up.any(|slot| slot.handler.as_ref().is_some_and(|handler| !handler.is_abandoned()))
    }

    /// The number of slots whose callers no longer wait. Checks each slot.
    pub fn abandoned(&self) -> usize {
        let is_abandoned =
            |slot: &&Slot<S>| slot.handler.as_ref().is_none_or(ReplyHandler::is_abandoned);
        self.slots.iter().filter(is_abandoned).count()
    }

    /// The number of `noreply` requests without a reply.
    pub fn noreply_unanswered(&self) -> usize {
        self.noreply_unanswered
    }

    /// Notifies all handlers that the connection is alive.
    pub fn accept_all(&mut self) {
        self.slots
            .iter_mut()
            .filter_map(|slot| slot.handler.as_mut())
            .for_each(ReplyHandler::accepted);
    }

    /// The last command other than a retrieval that was answered by a bare `ERROR` since the last
    /// call.
    pub fn take_unknown(&mut self) -> Option<Verb> {
        self.unknown_command.take()
    }

    /// The commands that were sent, at least in part, and not answered. `written` as in
    /// [`Self::feed`].
    pub fn unanswered(&self, written: u64) -> impl Iterator<Item = Verb> {
        self.slots.iter().filter(move |slot| slot.start < written).map(|slot| slot.verb)
    }

    /// The number of keys that another request of the same line asked for too, so that the server
    /// was asked once.
    pub fn shared_keys(&self) -> u64 {
        self.shared_keys
    }

    /// The keys with large values since the last call.
    pub fn take_large_keys(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.large_keys)
    }

    /// The handlers of a pipeline whose state is not reliable any more.
    pub fn into_handlers(self) -> impl Iterator<Item = (S, RequestInfo)> {
        let slots = self.slots.into_iter();
        let waiting = slots.filter_map(|mut slot| Some((slot.handler.take()?, slot.info())));
        waiting.chain(self.pruned_expired.into_iter().map(|late| (late.handler, late.info)))
    }

    /// The number of missing bytes of the frame in progress, if it is known and `read` bytes are in
    /// the buffer.
    pub fn missing_len(&self, read: usize) -> usize {
        match &self.receiving {
            Some(receiving) => receiving.value.missing() + 2,
            None => self.decoder.frame_len().saturating_sub(read),
        }
    }

    /// The buffer for the rest of the value in progress, if the next bytes belong there.
    pub fn rest_of_value(&mut self) -> Option<&mut impl BufMut> {
        match &mut self.receiving.as_mut()?.value {
            RestOfValue::Stored(value) => Some(value).filter(|value| value.remaining_mut() > 0),
            RestOfValue::Discarded(_) => None,
        }
    }

    /// Whether the next item is probably large, so that little should be read before its header is
    /// known.
    pub fn expects_large_value(&self) -> bool {
        self.last_was_large
    }

    /// The reason why the connection must not be used any more. The replies behind it are not read.
    pub fn must_close(&self) -> Option<MustClose> {
        self.must_close
    }

    /// The error line of [`MustClose::KeyRefused`].
    pub fn line_error(&self) -> Option<&(ErrorLineKind, Bytes)> {
        self.line_error.as_ref()
    }

    /// Encodes a request to `out` and adds a slot for its reply.
    pub fn push(
        &mut self,
        request: &Request<'_>,
        handler: S,
        timing: impl Into<Timing>,
        out: &mut Outgoing,
    ) {
        let timing = timing.into();
        match request {
            Request::Retrieval { verb, keys: [key] } => {
                self.push_key(*verb, *key, handler, timing, false, out);
            }
            Request::Retrieval { verb, keys } => {
                self.push_keys(*verb, keys.iter().copied(), handler, timing, false, out);
            }
            Request::Command(command) => {
                let verb = command.verb();
                self.push_encoded(verb, handler, timing, false, out, |out| {
                    encode(command, out.tail());
                });
            }
        }
    }

    /// Like [`Self::push`]. `retried` says that the request was sent before.
    pub fn push_owned(
        &mut self,
        request: &OwnedRequest,
        handler: S,
        timing: impl Into<Timing>,
        retried: bool,
        out: &mut Outgoing,
    ) {
        let timing = timing.into();
        match request {
            OwnedRequest::Retrieval { verb, keys } => match keys.as_slice() {
                [key] => {
                    self.push_key(*verb, Key::trusted(key), handler, timing, retried, out);
                }
                keys => {
                    let keys = keys.iter().map(|key| Key::trusted(key));
                    self.push_keys(*verb, keys, handler, timing, retried, out);
                }
            },
            OwnedRequest::Encoded { verb, wire } => {
                self.push_encoded(*verb, handler, timing, retried, out, |out| {
                    out.tail().extend_from_slice(wire);
                });
            }
            OwnedRequest::Storage { verb, head, value } => {
                self.push_encoded(*verb, handler, timing, retried, out, |out| {
                    out.tail().extend_from_slice(head);
                    out.push_shared(value.clone());
                    out.tail().extend_from_slice(b"\r\n");
                });
            }
        }
    }

    fn push_encoded(
        &mut self,
        verb: Verb,
        handler: S,
        timing: Timing,
        retried: bool,
        out: &mut Outgoing,
        write: impl FnOnce(&mut Outgoing),
    ) {
        self.close_line(out);
        let (start, before) = (self.encoded, out.len());
        write(out);
        self.encoded += (out.len() - before) as u64;
        let noreply = handler.is_noreply();
        self.noreply_unanswered += usize::from(noreply);
        let handler = Some(handler);
        let (keys, shares_line) = (0, false);
        self.slots.push_back(Slot {
            handler,
            verb,
            keys,
            retried,
            moved: false,
            shares_line,
            noreply,
            timing,
            start,
        });
    }

    fn push_key(
        &mut self,
        verb: RetrievalVerb,
        key: Key<'_>,
        handler: S,
        timing: Timing,
        retried: bool,
        out: &mut Outgoing,
    ) {
        let key = key.as_bytes();
        let seen = seen_bit(key);
        let fits = self.fits_open_line(verb, key.len());
        if !fits {
            self.close_line(out);
        }
        let start = self.encoded;
        if !fits {
            self.begin_line(verb, out);
        }
        let alias = self.open.as_ref().is_some_and(|open| open.seen & seen != 0)
            && self.open_line_asks_for(key);
        if !alias {
            self.append_key(key, out);
        }
        self.keys.push(key, alias);
        self.shared_keys += u64::from(alias);
        let Some(line) = self.lines.back_mut() else { return };
        line.slots += 1;
        line.keys += 1;
        line.aliases |= alias;
        let full = line.keys >= self.max_merged_keys;
        if let Some(open) = &mut self.open {
            open.seen |= seen;
        }
        let verb = verb.verb();
        let (handler, keys, shares_line, noreply) = (Some(handler), 1, fits, false);
        self.slots.push_back(Slot {
            handler,
            verb,
            keys,
            retried,
            moved: false,
            shares_line,
            noreply,
            timing,
            start,
        });
        if full {
            self.close_line(out);
        }
    }

    fn push_keys<'k>(
        &mut self,
        verb: RetrievalVerb,
        keys: impl Iterator<Item = Key<'k>>,
        handler: S,
        timing: Timing,
        retried: bool,
        out: &mut Outgoing,
    ) {
        self.close_line(out);
        let start = self.encoded;
        self.begin_line(verb, out);
        let tail = out.tail();
        let before = tail.len();
        let mut count = 0;
        for key in keys {
            put_key(key.as_bytes(), tail);
            self.keys.push(key.as_bytes(), false);
            count += 1;
        }
        self.encoded += (tail.len() - before) as u64;
        if let Some(line) = self.lines.back_mut() {
            line.slots = 1;
            line.keys = count;
        }
        let verb = verb.verb();
        let (handler, keys, shares_line, noreply) = (Some(handler), count, false, false);
        self.slots.push_back(Slot {
            handler,
            verb,
            keys,
            retried,
            moved: false,
            shares_line,
            noreply,
            timing,
            start,
        });
        self.close_line(out);
    }

    fn fits_open_line(&self, verb: RetrievalVerb, key_len: usize) -> bool {
        match (&self.open, self.lines.back()) {
            (Some(open), Some(line)) => {
                line.verb == verb
                    && line.keys < self.max_merged_keys
                    && open.len + 1 + key_len + 2 <= MAX_LINE_LEN
            }
            _ => false,
        }
    }

    fn open_line_asks_for(&self, key: &[u8]) -> bool {
        let Some(line) = self.lines.back() else { return false };
        let mut position = line.keys_start;
        while position < self.keys.end() {
            let entry = self.keys.at(position);
            if entry.key == key {
                return true;
            }
            position = entry.next;
        }
        false
    }

    /// The previous line must be closed.
    fn begin_line(&mut self, verb: RetrievalVerb, out: &mut Outgoing) {
        let before = out.len();
        retrieval_head(verb, out.tail());
        let len = out.len() - before;
        self.encoded += len as u64;
        self.open = Some(OpenLine { len, seen: 0 });
        let keys_start = self.keys.end();
        if self.lines.is_empty() {
            self.cursor = Cursor { position: keys_start, ..Cursor::default() };
        }
        self.lines.push_back(Line { verb, slots: 0, keys: 0, aliases: false, keys_start });
    }

    fn append_key(&mut self, key: &[u8], out: &mut Outgoing) {
        put_key(key, out.tail());
        self.encoded += key.len() as u64 + 1;
        if let Some(open) = &mut self.open {
            open.len += key.len() + 1;
        }
    }

    /// Ends the open line. Must be called before `out` is written.
    pub fn close_line(&mut self, out: &mut Outgoing) {
        if self.open.take().is_some() {
            out.tail().extend_from_slice(b"\r\n");
            self.encoded += 2;
        }
    }

    /// The end of the last whole command that fits into `most` bytes from `from`, or the end of the
    /// first command if it does not fit. Positions count all encoded bytes. No line may be open.
    pub fn commands_end(&self, from: u64, most: u64) -> u64 {
        if self.encoded <= from + most {
            return self.encoded;
        }
        let at = |position: u64| self.slots.partition_point(|slot| slot.start <= position);
        let (first, next) = (at(from), at(from + most));
        let begins_line = |slot: &&Slot<S>| !slot.shares_line;
        let last = self.slots.range(first..next).rev().find(begins_line);
        last.or_else(|| self.slots.range(next..).find(begins_line))
            .map_or(self.encoded, |slot| slot.start)
    }

    /// Passes the replies in `buf` to their handlers and returns the number of bytes used. The next
    /// call must pass the rest again, followed by the new bytes. `written` is the number of encoded
    /// bytes that were sent, `now` the time at which `buf` was read.
    pub fn feed(
        &mut self,
        buf: &[u8],
        written: u64,
        now: Nanos,
        stats: &mut NodeStats,
    ) -> Result<usize, ProtocolError> {
        let mut update = StatsUpdate { stats, now };
        let mut pos = 0;
        while pos < buf.len() && self.must_close.is_none() {
            if self.receiving.is_some() {
                let used = self.receive_value(&buf[pos..])?;
                if used == 0 {
                    break;
                }
                pos += used;
                continue;
            }
            let Some(front) = self.slots.front().filter(|slot| slot.start < written) else {
                let rest = &buf[pos..];
                return Err(match rest.strip_prefix(CONNECTION_REFUSED) {
                    Some(b"\r\n") => ProtocolError::TooManyConnections,
                    _ => ProtocolError::Unsolicited(Excerpt::from_bytes(rest)),
                });
            };
            let shape = front.verb.shape();
            if let Some((key, next)) = self.expected_key()
                && let Some((item, len)) = self.decoder.item_with_key(key, &buf[pos..], shape)
            {
                self.store_item(self.cursor, next, &item, None);
                self.last_was_large = false;
                pos += len;
                continue;
            }
            let Some((frame, len)) = self.decoder.next(&buf[pos..], shape)? else {
                if self.start_large_value(&buf[pos..], shape)? {
                    pos = buf.len();
                }
                break;
            };
            let Some(front) = self.slots.front_mut() else { break };
            match frame {
                // Retrievals have keys. Any other command with an item has exactly one.
                Frame::Item(item) if front.keys == 0 => {
                    if let Some(handler) = &mut front.handler {
                        handler.item(0, &item, None);
                    }
                }
                Frame::Item(item) => self.match_item(&item)?,
                Frame::Stat(stat) => self.stat(&stat)?,
                // Not a reply to a request: the server refuses the connection.
                Frame::Reply(Reply::Error(error)) if error.line == CONNECTION_REFUSED => {
                    return Err(ProtocolError::TooManyConnections);
                }
                Frame::Reply(Reply::Error(error))
                    if error.line == UNAUTHENTICATED && self.slots.len() > 1 =>
                {
                    self.fail_all(&Reply::Error(error), &mut update);
                    return Ok(buf.len());
                }
                Frame::Reply(reply) => self.finish(&reply, &mut update),
            }
            pos += len;
        }
        Ok(pos)
    }

    fn stat(&mut self, stat: &StatLine<'_>) -> Result<(), ProtocolError> {
        self.stats_size += stat.line.len() + STAT_OVERHEAD;
        if self.stats_size > MAX_STATS_SIZE {
            return Err(ProtocolError::TooManyLines);
        }
        if let Some(handler) = self.slots.front_mut().and_then(|front| front.handler.as_mut()) {
            handler.stat(stat);
        }
        Ok(())
    }

    /// Receives the value of the item in progress directly into its buffer, if much of it is
    /// missing.
    fn start_large_value(&mut self, buf: &[u8], shape: Shape) -> Result<bool, ProtocolError> {
        let long = self.decoder.large_item(buf, shape, MIN_IN_PLACE_LEN);
        let Some((item, len)) =
            long.filter(|(_, len)| !self.allocation_failed && *len <= MAX_IN_PLACE_LEN)
        else {
            return Ok(false);
        };
        let at = self.find_key(item.key)?;
        let mut value = if self.is_unwanted(at) {
            RestOfValue::Discarded(len)
        } else {
            let Some(value) = S::Value::allocate(len) else {
                self.allocation_failed = true;
                return Ok(false);
            };
            RestOfValue::Stored(value.limit(len))
        };
        value.put(item.value);
        self.receiving = Some(PartialItem {
            at,
            next: self.keys.at(at.position).next,
            key: Bytes::copy_from_slice(item.key),
            flags: item.flags,
            cas: item.cas,
            value,
        });
        self.decoder.reset();
        Ok(true)
    }

    /// Takes the bytes that belong to the value in progress and returns their number; 0 if more
    /// bytes are needed.
    fn receive_value(&mut self, buf: &[u8]) -> Result<usize, ProtocolError> {
        let Some(receiving) = &mut self.receiving else { return Ok(0) };
        let missing = receiving.value.missing();
        if missing > 0 {
            let len = missing.min(buf.len());
            receiving.value.put(&buf[..len]);
            return Ok(len);
        }
        let Some(end) = buf.get(..2) else { return Ok(0) };
        if end != b"\r\n" {
            return Err(ProtocolError::ValueNotTerminated);
        }
        if let Some(PartialItem { at, next, key, flags, cas, value }) = self.receiving.take() {
            match value {
                RestOfValue::Stored(value) => {
                    let stored = S::Value::finish(value.into_inner());
                    let item = ItemRef { key: &key, flags, cas, value: stored.as_bytes() };
                    self.store_item(at, next, &item, Some(&stored));
                }
                RestOfValue::Discarded(_) => self.skip_item(at, next),
            }
            self.last_was_large = true;
        }
        Ok(2)
    }

    /// Whether the only caller that requested this item no longer waits.
    fn is_unwanted(&self, at: Cursor) -> bool {
        let is_shared = self.lines.front().is_none_or(|line| line.aliases);
        let handler = self.slots.get(at.slot as usize).and_then(|slot| slot.handler.as_ref());
        !is_shared && handler.is_none_or(ReplyHandler::is_abandoned)
    }

    /// Continues after a discarded item.
    fn skip_item(&mut self, at: Cursor, next: u64) {
        let Some(&Line { keys, .. }) = self.lines.front() else { return };
        self.make_room(keys);
        self.mark_assigned(at);
        self.cursor = self.step(at, next);
    }

    /// The next key, if the reply is in order and no item is missing, and the position of the key
    /// after it.
    fn expected_key(&self) -> Option<(&[u8], u64)> {
        let Cursor { ordinal, position, .. } = self.cursor;
        let is_key = self.slots.front()?.keys > 0 && ordinal < self.lines.front()?.keys;
        if !is_key || self.is_assigned(ordinal) {
            return None;
        }
        let entry = self.keys.at(position);
        (!entry.alias).then_some((entry.key, entry.next))
    }

    /// Finds the request for an item and stores the item.
    fn match_item(&mut self, item: &ItemRef<'_>) -> Result<(), ProtocolError> {
        let at = self.find_key(item.key)?;
        self.store_item(at, self.keys.at(at.position).next, item, None);
        (self.last_was_large, self.allocation_failed) = (false, false);
        Ok(())
    }

    /// Finds the request for a key: first in order, then among the other keys of the line, because
    /// proxies may reply in another order.
    fn find_key(&self, key: &[u8]) -> Result<Cursor, ProtocolError> {
        let foreign = || ProtocolError::ForeignKey(Excerpt::from_key(key));
        let line = self.lines.front().ok_or_else(foreign)?;
        let line_start = Cursor { position: line.keys_start, ..Cursor::default() };
        self.find(self.cursor, line.keys, key, false)
            .or_else(|| self.find(line_start, self.cursor.ordinal, key, false))
            .ok_or_else(foreign)
    }

    /// Passes an item to the slot at `at` and to the slots that share the key. The next key is at
    /// position `next`.
    fn store_item(&mut self, at: Cursor, next: u64, item: &ItemRef<'_>, shared: Option<&S::Value>) {
        let Some(&Line { keys, aliases, .. }) = self.lines.front() else { return };
        if item.value.len() >= LARGE_VALUE_LEN {
            self.large_keys.push(Bytes::copy_from_slice(item.key));
        }
        self.make_room(keys);
        let copied = (aliases && shared.is_none()).then(|| S::Value::from_slice(item.value));
        let shared = shared.or(copied.as_ref());
        self.notify_slot(at, item, shared);
        self.cursor = self.step(at, next);
        if aliases {
            let mut from = self.cursor;
            while let Some(alias) = self.find(from, keys, item.key, true) {
                self.notify_slot(alias, item, shared);
                from = self.step(alias, self.keys.at(alias.position).next);
            }
        }
    }

    /// The first key in `from.ordinal..to` that equals `key` and has no item yet.
    fn find(&self, from: Cursor, to: u32, key: &[u8], alias: bool) -> Option<Cursor> {
        let mut cursor = from;
        while cursor.ordinal < to {
            let entry = self.keys.at(cursor.position);
            if entry.key == key && entry.alias == alias && !self.is_assigned(cursor.ordinal) {
                return Some(cursor);
            }
            cursor = self.step(cursor, entry.next);
        }
        None
    }

    fn step(&self, cursor: Cursor, position: u64) -> Cursor {
        let Cursor { ordinal, slot, index, .. } = cursor;
        let last_of_slot = index + 1 >= self.slots[slot as usize].keys;
        let (slot, index) = if last_of_slot { (slot + 1, 0) } else { (slot, index + 1) };
        Cursor { ordinal: ordinal + 1, slot, index, position }
    }

    fn notify_slot(&mut self, at: Cursor, item: &ItemRef<'_>, shared: Option<&S::Value>) {
        self.mark_assigned(at);
        if let Some(handler) = &mut self.slots[at.slot as usize].handler {
            handler.item(at.index as usize, item, shared);
        }
    }

    fn make_room(&mut self, keys: u32) {
        if self.assigned.is_empty() {
            self.assigned.resize(keys.div_ceil(64) as usize, 0);
        }
    }

    fn mark_assigned(&mut self, at: Cursor) {
        self.assigned[at.ordinal as usize / 64] |= 1 << (at.ordinal % 64);
        self.found_count += 1;
    }

    fn is_assigned(&self, ordinal: u32) -> bool {
        self.assigned.get(ordinal as usize / 64).is_some_and(|w| w & (1 << (ordinal % 64)) != 0)
    }

    fn finish(&mut self, reply: &Reply<'_>, update: &mut StatsUpdate<'_>) {
        let is_retrieval = self.slots.front().is_some_and(|slot| slot.keys > 0);
        if is_retrieval {
            self.finish_line(reply, update);
            return;
        }
        (self.last_was_large, self.stats_size) = (false, 0);
        let Some(slot) = self.slots.pop_front() else { return };
        self.noreply_unanswered -= usize::from(slot.noreply);
        if let Reply::Error(error) = reply {
            self.note_error(slot.verb, error.kind);
        }
        if slot.handler.is_some() {
            let took = update.now.saturating_sub(slot.timing.issued_at);
            update.stats.command_mut(slot.verb).record_reply(reply, took);
        }
        self.resolve(slot.handler, reply);
    }

    #[cold]
    fn note_error(&mut self, verb: Verb, kind: ErrorLineKind) {
        let is_storage = verb.shape() == Shape::Storage;
        if is_storage && matches!(kind, ErrorLineKind::Unknown | ErrorLineKind::Client) {
            self.must_close = Some(MustClose::StorageRefused);
        } else if kind == ErrorLineKind::Unknown {
            self.unknown_command = Some(verb);
        }
    }

    fn finish_line(&mut self, reply: &Reply<'_>, update: &mut StatsUpdate<'_>) {
        if let Reply::Error(error) = reply
            && (self.found_count > 0
                || self.lines.front().is_some_and(|line| self.asks_for_many(line)))
        {
            self.stop_at_error(error, update);
            return;
        }
        let Some(line) = self.lines.pop_front() else { return };
        // Without an item there is no reason to expect a large one next.
        self.last_was_large &= !self.assigned.is_empty();
        if self.lines.is_empty() {
            // An answered line was written, and a written line was closed.
            debug_assert!(self.open.is_none());
        }
        match reply {
            Reply::Error(_) => self.fail_line(&line, reply, update),
            _ => self.complete(&line, reply, update),
        }
        self.assigned.clear();
        self.found_count = 0;
        let next = match self.lines.front() {
            Some(next) => next.keys_start,
            None => self.keys.end(),
        };
        self.keys.release_to(next);
        self.cursor = Cursor { position: next, ..Cursor::default() };
    }

    fn complete(&mut self, line: &Line, reply: &Reply<'_>, update: &mut StatsUpdate<'_>) {
        let command = update.stats.command_mut(line.verb.verb());
        let mut keys = line.keys;
        let mut hits = self.found_count;
        let mut ordinal = 0;
        for _ in 0..line.slots {
            let Some(slot) = self.slots.pop_front() else { break };
            if let Some(handler) = slot.handler {
                command.latency.record(update.now.saturating_sub(slot.timing.issued_at));
                handler.reply(reply, &self.peer);
            } else {
                // The request was counted when it timed out, or is counted where it is served.
                self.moved -= usize::from(slot.moved);
                self.answered_late += u64::from(!slot.moved);
                keys -= slot.keys;
                hits -= self.items_found(ordinal, slot.keys);
            }
            ordinal += slot.keys;
        }
        self.answered += u64::from(line.slots);
        command.record_keys(hits, keys - hits);
    }

    /// For a line with one key, an error line is the whole reply.
    #[cold]
    fn fail_line(&mut self, line: &Line, error: &Reply<'_>, update: &mut StatsUpdate<'_>) {
        let command = update.stats.command_mut(line.verb.verb());
        for _ in 0..line.slots {
            let Some(slot) = self.slots.pop_front() else { break };
            self.moved -= usize::from(slot.moved);
            if slot.handler.is_some() {
                command.latency.record(update.now.saturating_sub(slot.timing.issued_at));
                command.record_error(error, slot.keys);
            }
            self.resolve(slot.handler, error);
        }
    }

    /// Answers all requests with the same error.
    #[cold]
    fn fail_all(&mut self, error: &Reply<'_>, update: &mut StatsUpdate<'_>) {
        self.moved = 0;
        for slot in std::mem::take(&mut self.slots) {
            if slot.handler.is_some() {
                let command = update.stats.command_mut(slot.verb);
                command.latency.record(update.now.saturating_sub(slot.timing.issued_at));
                command.record_error(error, slot.keys.max(1));
            }
            self.resolve(slot.handler, error);
        }
        self.lines.clear();
        self.noreply_unanswered = 0;
        self.must_close = Some(MustClose::Unauthenticated);
    }

    /// Whether more than one key of this line is on the wire.
    fn asks_for_many(&self, line: &Line) -> bool {
        let mut position = line.keys_start;
        let mut sent = 0;
        for _ in 0..line.keys {
            let entry = self.keys.at(position);
            sent += u32::from(!entry.alias);
            position = entry.next;
        }
        sent > 1
    }

    /// Handles an error line in the reply to several keys. Slots that have all their items are
    /// answered now; the other slots of the line stay for [`Self::drain`].
    #[cold]
    fn stop_at_error(&mut self, error: &ErrorLine<'_>, update: &mut StatsUpdate<'_>) {
        self.must_close = Some(MustClose::KeyRefused);
        self.line_error = Some((error.kind, Bytes::copy_from_slice(error.line)));
        let Some(line) = self.lines.front() else { return };
        let (verb, slots) = (line.verb.verb(), line.slots as usize);
        let mut ordinal = 0;
        for at in 0..slots {
            let keys = self.slots[at].keys;
            if self.items_found(ordinal, keys) == keys
                && let Some(handler) = self.slots[at].handler.take()
            {
                let command = update.stats.command_mut(verb);
                command.latency.record(update.now.saturating_sub(self.slots[at].timing.issued_at));
                command.record_keys(keys, 0);
                self.answered += 1;
                handler.reply(&Reply::End, &self.peer);
            }
            ordinal += keys;
        }
    }

    /// The number of items of the slot that starts at `ordinal`. A slot with many keys has a line
    /// of its own.
    fn items_found(&self, ordinal: u32, keys: u32) -> u32 {
        match keys {
            1 => u32::from(self.is_assigned(ordinal)),
            _ => self.found_count,
        }
    }

    fn resolve(&mut self, handler: Option<S>, reply: &Reply<'_>) {
        let is_error = matches!(reply, Reply::Error(_));
        self.answered += u64::from(!is_error);
        match handler {
            Some(handler) => {
                self.refused += u64::from(is_error);
                handler.reply(reply, &self.peer);
            }
            None => self.answered_late += u64::from(!is_error),
        }
    }

    /// Takes the handlers whose deadline is at or before `now`, and returns the next deadline. The
    /// slots stay, because their replies still arrive. `written` as in [`Self::feed`].
    pub fn expire(
        &mut self,
        now: Nanos,
        written: u64,
        mut expired: impl FnMut(ExpiredRequest<S>),
    ) -> Nanos {
        self.pruned_expired.drain(..).for_each(&mut expired);
        let mut next = NEVER;
        for slot in &mut self.slots {
            if slot.handler.is_none() {
                continue;
            }
            if slot.timing.deadline > now {
                next = next.min(slot.timing.deadline);
            } else if let Some(handler) = slot.handler.take() {
                expired(ExpiredRequest { handler, info: slot.info(), sent: slot.start < written });
            }
        }
        next
    }

    /// Removes unsent commands from `out` whose callers no longer wait, if they start within the
    /// next `len` bytes. Used when a connection could not write for a while. Cancelled requests are
    /// dismissed here; those whose deadline has passed are left to [`Self::expire`].
    ///
    /// Retrievals stay, as they change nothing but `gat`'s exptime. `noreply` commands stay too,
    /// because their callers were told that they will be written. `mark`, the end of a command,
    /// moves with the bytes before it.
    pub fn prune(
        &mut self,
        out: &mut Outgoing,
        written: u64,
        len: usize,
        mark: &mut u64,
        now: Nanos,
        stats: &mut NodeStats,
    ) {
        self.close_line(out);
        let end = written.saturating_add(len as u64);
        let first = self.slots.partition_point(|slot| slot.start < written);
        let mut pruned = Vec::new();
        for (at, slot) in self.slots.iter().enumerate().skip(first) {
            if slot.start >= end {
                break;
            }
            if slot.is_cancelled_or_expired(now) {
                pruned.push(at);
            }
        }
        if pruned.is_empty() {
            return;
        }
        let mut cuts = Vec::with_capacity(pruned.len());
        let mut removed = 0;
        let mut pruned = pruned.into_iter().peekable();
        let slots = self.slots.split_off(first);
        let ends: Vec<u64> = slots.iter().skip(1).map(|slot| slot.start).collect();
        let ends = ends.into_iter().chain([self.encoded]);
        for (at, (mut slot, end)) in (first..).zip(slots.into_iter().zip(ends)) {
            if pruned.next_if_eq(&at).is_none() {
                slot.start -= removed;
                self.slots.push_back(slot);
                continue;
            }
            cuts.push((slot.start, end));
            removed += end - slot.start;
            let info = slot.info();
            match slot.handler {
                Some(handler) if handler.is_abandoned() => {
                    stats.record(info, CallResult::Cancelled);
                    handler.reply(&Reply::End, "");
                }
                Some(handler) => {
                    self.pruned_expired.push(ExpiredRequest { handler, info, sent: false });
                }
                None => {}
            }
        }
        self.encoded -= removed;
        *mark -= cuts.iter().filter(|cut| cut.0 < *mark).map(|cut| cut.1 - cut.0).sum::<u64>();
        let to_unsent = |cut: (u64, u64)| unsent_range(cut.0, cut.1, written);
        let cuts: Vec<_> = cuts.into_iter().filter_map(to_unsent).collect();
        out.cut(&cuts);
    }

    /// Takes the handlers of retrievals that another request may hold up, for a retry on another
    /// connection. Their slots stay, and their replies are discarded. Keys for which `must_stay` is
    /// true are left. `written` as in [`Self::feed`].
    pub fn take_held_up(
        &mut self,
        written: u64,
        must_stay: impl Fn(&[u8]) -> bool,
    ) -> Vec<Orphan<S>> {
        let first = self.first_held_up();
        let mut orphans = Vec::new();
        let mut lines = self.lines.iter();
        let mut position = self.lines.front().map_or(0, |line| line.keys_start);
        let (mut line_slots, mut line_verb) = (0, RetrievalVerb::Get);
        for (at, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.keys > 0) {
            if line_slots == 0
                && let Some(line) = lines.next()
            {
                (line_slots, line_verb) = (line.slots, line.verb);
            }
            line_slots -= 1;
            let mut is_taken =
                at >= first && slot.handler.as_ref().is_some_and(|handler| !handler.is_abandoned());
            let mut keys = SmallVec::new();
            for _ in 0..slot.keys {
                let entry = self.keys.at(position);
                position = entry.next;
                is_taken = is_taken && !must_stay(entry.key);
                if is_taken {
                    keys.push(Bytes::copy_from_slice(entry.key));
                }
            }
            let info = slot.info();
            if let Some(handler) = slot.handler.take_if(|_| is_taken) {
                slot.moved = true;
                self.moved += 1;
                let retry = Some(OwnedRequest::Retrieval { verb: line_verb, keys });
                let (deadline, retried) = (slot.timing.deadline, slot.retried);
                let (sent, missing) = (slot.start < written, None);
                orphans.push(Orphan { handler, info, deadline, retried, sent, retry, missing });
            }
        }
        orphans
    }

    /// Empties the pipeline of a lost connection. `unsent` holds the encoded bytes that were not
    /// written, `written` is the number of bytes that were.
    pub fn drain(&mut self, unsent: &Outgoing, written: u64) -> Vec<Orphan<S>> {
        let mut orphans = Vec::with_capacity(self.slots.len());
        orphans.extend(self.pruned_expired.drain(..).map(
            |ExpiredRequest { handler, info, sent }| {
                let (deadline, retried, retry, missing) = (NEVER, false, None, None);
                Orphan { handler, info, deadline, retried, sent, retry, missing }
            },
        ));
        let mut position = self.lines.front().map_or(0, |line| line.keys_start);
        // The first keys in flight belong to the line whose reply was cut short.
        let stopped_keys = match (&self.line_error, self.lines.front()) {
            (Some(_), Some(line)) => line.keys,
            _ => 0,
        };
        let mut verbs = std::mem::take(&mut self.lines)
            .into_iter()
            .flat_map(|line| std::iter::repeat_n(line.verb, line.slots as usize));
        let mut slots = std::mem::take(&mut self.slots).into_iter().peekable();
        let mut ordinal = 0;
        while let Some(slot) = slots.next() {
            let mut missing = (ordinal < stopped_keys).then(SmallVec::new);
            let retry = if slot.keys > 0 {
                let mut keys = SmallVec::with_capacity(slot.keys as usize);
                for index in 0..slot.keys {
                    let entry = self.keys.at(position);
                    position = entry.next;
                    if let Some(missing) = &mut missing {
                        if self.is_assigned(ordinal + index) {
                            continue;
                        }
                        missing.push(index as usize);
                    }
                    keys.push(Bytes::copy_from_slice(entry.key));
                }
                ordinal += slot.keys;
                verbs.next().map(|verb| OwnedRequest::Retrieval { verb, keys })
            } else {
                let end = slots.peek().map_or(self.encoded, |next| next.start);
                unsent_range(slot.start, end, written)
                    .and_then(|(start, end)| unsent.copy(start, end))
                    .map(|wire| OwnedRequest::Encoded { verb: slot.verb, wire })
            };
            let (info, sent) = (slot.info(), slot.start < written);
            let Slot { handler, timing: Timing { deadline, .. }, retried, .. } = slot;
            if let Some(handler) = handler {
                orphans.push(Orphan { handler, info, deadline, retried, sent, retry, missing });
            }
        }
        *self = Self::new(self.max_merged_keys, self.peer.clone());
        orphans
    }
}

fn second_word(line: &[u8]) -> &[u8] {
    let Some(start) = memchr::memchr(b' ', line) else { return &[] };
    let rest = &line[start + 1..];
    let end = memchr::memchr3(b' ', b'\r', b'\n', rest).unwrap_or(rest.len());
    &rest[..end]
}

fn put_key(key: &[u8], out: &mut BytesMut) {
    out.reserve(key.len() + 1);
    out.extend_from_slice(b" ");
    out.extend_from_slice(key);
}

/// The range within the unwritten bytes that corresponds to `start..end` of all encoded bytes.
fn unsent_range(start: u64, end: u64, written: u64) -> Option<(usize, usize)> {
    let start = usize::try_from(start.checked_sub(written)?).ok()?;
    let end = usize::try_from(end.checked_sub(written)?).ok()?;
    Some((start, end))
}

/// Maps a key to one of 64 bits. It is cheap, and differs for keys that differ in their last bytes.
fn seen_bit(key: &[u8]) -> u64 {
    let mut tail = [0u8; 8];
    let n = key.len().min(8);
    tail[..n].copy_from_slice(&key[key.len() - n..]);
    let mixed = (u64::from_le_bytes(tail) ^ key.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << (mixed >> 58)
}

#[cfg(test)]
mod tests;
