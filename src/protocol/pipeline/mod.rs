//! The requests of one connection that wait for their answers, in wire order.
//!
//! ```text
//! push    ->  bytes to write, and a slot at the back
//! feed    <-  bytes read, answers to the slots at the front
//! expire      takes the sink out of a slot whose time is up; its answer is read and dropped
//! drain       the connection died: every slot with what is needed to ask again
//! ```
//! Retrievals of one key that are pushed one after the other share a line on the wire
//! (`get a b c`), and nobody can see it: each has a slot and a sink of its own.
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
use super::kept::Kept;
use super::key::Key;
use super::outgoing::Outgoing;
use super::reply::{ErrorKind, ErrorLine, ItemRef, Reply, Shape, StatLine};
use super::request::{Request, RetrievalVerb, Scope, StorageVerb, Verb};
use super::tally::{Asked, Outcome, Tally};
use keys::KeyFifo;

/// The longest retrieval line, CRLF included. memcached 1.6.12 refuses a `get` line of more than 1,024 bytes that
/// arrives in two reads, and every version closes the connection for such a `gat` line (1,024 or 2,048 bytes).
pub const MAX_LINE_LEN: usize = 1000;
/// The longest `get` or `gets` line to a server that is known to take it.
pub const LONG_LINE_LEN: usize = 8 * 1024;

/// What memcached says to those above its limit (`-c`) before it closes.
pub const CONNECTION_REFUSED: &[u8] = b"ERROR Too many open connections";

/// What `memcached -Y` says to those who did not log in. It says so once for all that it finds in its buffer.
const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated";

/// Values from this length on are a transfer that others should not wait behind.
pub const LARGE_VALUE_LEN: usize = 64 * 1024;

/// A value of which so much is still to come is received where it is kept: that costs one read more and saves a
/// copy. Little in tests, so that they split such values everywhere.
const RECEIVED_FROM: usize = if cfg!(test) { 4 } else { 32 * 1024 };

/// What the lines of one answer to `stats` may take in memory, each with [`STAT_OVERHEAD`]. The longest real answer is
/// that to `stats conns` of a server with 65,000 connections: 33 MiB.
const MAX_STATS_SIZE: usize = 40 * 1024 * 1024;
/// What a line takes besides its text, when it is two strings.
const STAT_OVERHEAD: usize = 96;

/// What is longer is not believed before it comes.
const RECEIVED_TO: usize = 64 * 1024 * 1024;

/// A point of the caller's clock, in nanoseconds; the pipeline only compares them.
pub type Tick = u64;
/// A deadline that does not come.
pub const NEVER: Tick = Tick::MAX;

/// When a request was made, and until when its caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    pub made: Tick,
    pub deadline: Tick,
}

/// For those who do not ask how long it took.
impl From<Tick> for Term {
    fn from(deadline: Tick) -> Self {
        Self { made: 0, deadline }
    }
}

/// Who waits for an answer. A sink must not call back into the pipeline that feeds it.
pub trait Sink {
    /// How it keeps values.
    type Kept: Kept;

    /// The item for the key with this index within the request. `kept`: its value, where others have it too
    /// or it was received in its place.
    fn item(&mut self, index: usize, item: &ItemRef<'_>, kept: Option<&Self::Kept>);
    /// One line of `stats`.
    fn stat(&mut self, stat: &StatLine<'_>);
    /// The request is asked again on another connection: forget what came.
    fn restart(&mut self);
    /// The answer is complete. `from`: who gave it, for error texts.
    fn reply(self, reply: &Reply<'_>, from: &str);
    /// Nobody waits any more: a request that is not sent yet need not be sent.
    fn is_abandoned(&self) -> bool {
        false
    }
    /// Whether the caller goes on before the answer comes, so that later requests must not overtake this one.
    fn is_noreply(&self) -> bool {
        false
    }
    /// The request is on a connection that is alive, written or to be written.
    fn accepted(&mut self) {}
}

/// A request that owns its bytes, for when there is no connection to encode it to.
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

/// A slot of a connection that died.
#[derive(Debug)]
pub struct Orphan<S> {
    pub sink: S,
    pub asked: Asked,
    pub deadline: Tick,
    pub retried: bool,
    /// Whether a byte of it may have been sent.
    pub sent: bool,
    /// What to send again: any retrieval, or a command of which no byte was sent. `None`: the server
    /// may have done it.
    pub again: Option<OwnedRequest>,
    /// The answer to its line broke off with [`Pipeline::line_error`]: these of its keys have no item, and
    /// `again` asks for them and no others.
    pub missing: Option<SmallVec<[usize; 1]>>,
}

/// A request whose time is up.
#[derive(Debug)]
pub struct Expired<S> {
    pub sink: S,
    pub asked: Asked,
    /// Whether a byte of it was sent.
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

    /// How many keys are asked for; 0: it is no retrieval.
    pub fn keys(&self) -> u32 {
        match self {
            Self::Retrieval { keys, .. } => u32::try_from(keys.len()).unwrap_or(u32::MAX),
            Self::Encoded { .. } | Self::Storage { .. } => 0,
        }
    }

    /// With memory of its own, where it was of a block that others share: it may be kept for long.
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

    /// The first key: the second word of what it sends. Empty where there is none.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Retrieval { keys, .. } => keys.first().map_or(&[], |key| key),
            Self::Encoded { wire, .. } => second_word(wire),
            Self::Storage { head, .. } => second_word(head),
        }
    }

    /// All keys, where it has any.
    pub fn for_each_key(&self, mut visit: impl FnMut(&[u8])) {
        match self {
            Self::Retrieval { keys, .. } => keys.iter().for_each(|key| visit(key)),
            _ if self.verb().scope() == Scope::Keys => visit(self.key()),
            _ => {}
        }
    }

    /// The bytes that it keeps.
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Retrieval { keys, .. } => keys.iter().map(|key| key.len() + 1).sum(),
            Self::Encoded { wire, .. } => wire.len(),
            Self::Storage { head, value, .. } => head.len() + value.len(),
        }
    }
}

#[derive(Debug)]
struct Slot<S> {
    /// `None` once the caller was told that its time is up, or is served on another connection.
    sink: Option<S>,
    verb: Verb,
    /// How many keys of the line are this slot's; 0 for a command.
    keys: u32,
    retried: bool,
    /// Whether another connection serves its caller.
    moved: bool,
    /// Whether it is on the line of the slot before it.
    shares_line: bool,
    /// See [`Sink::is_noreply`].
    noreply: bool,
    term: Term,
    /// Where its bytes, from the start of its line, begin in all that was ever encoded.
    start: u64,
}

impl<S: Sink> Slot<S> {
    /// Whether it is a command that need not be sent any more.
    fn is_given_up(&self, now: Tick) -> bool {
        let is_over = |sink: &S| self.term.deadline <= now || sink.is_abandoned();
        self.keys == 0 && !self.noreply && self.sink.as_ref().is_none_or(is_over)
    }
}

impl<S> Slot<S> {
    fn asked(&self) -> Asked {
        Asked { verb: self.verb, keys: self.keys, made: self.term.made }
    }
}

/// What is needed to count an answer.
struct Book<'a> {
    tally: &'a mut Tally,
    now: Tick,
}

#[derive(Debug)]
struct Line {
    verb: RetrievalVerb,
    slots: u32,
    keys: u32,
    aliases: bool,
    keys_start: u64,
}

/// The last line while keys may still be added to it.
#[derive(Debug)]
struct OpenLine {
    len: usize,
    /// One bit for each hash of a key: whether a key may stand in the line already.
    seen: u64,
}

/// An item whose value is received where it will be kept.
struct Receiving<K: Kept> {
    /// Who asked for it, and what is behind that.
    found: Cursor,
    next: u64,
    key: Bytes,
    flags: u32,
    cas: Option<u64>,
    value: Rest<K>,
}

/// Where the rest of a value goes. It is all there when nothing is missing.
enum Rest<K: Kept> {
    Kept(Limit<K::Receiving>),
    /// Nobody waits for it any more: so much of it is read and dropped.
    Dropped(usize),
}

impl<K: Kept> Rest<K> {
    fn missing(&self) -> usize {
        match self {
            Self::Kept(value) => value.remaining_mut(),
            Self::Dropped(missing) => *missing,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        match self {
            Self::Kept(value) => value.put_slice(bytes),
            Self::Dropped(missing) => *missing -= bytes.len(),
        }
    }
}

/// Where in the front line the next item is expected.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    ordinal: u32,
    slot: u32,
    index: u32,
    position: u64,
}

pub struct Pipeline<S: Sink> {
    slots: VecDeque<Slot<S>>,
    lines: VecDeque<Line>,
    keys: KeyFifo,
    open: Option<OpenLine>,
    decoder: Decoder,
    receiving: Option<Receiving<S::Kept>>,
    /// Whether the last item was received in its place: the next may be like it.
    was_long: bool,
    /// There was no memory to receive the item in progress in its place.
    no_room: bool,
    cursor: Cursor,
    /// Which keys of the front line have their item.
    assigned: Vec<u64>,
    /// How many have.
    found: u32,
    /// What the lines of the answer to `stats` take that have come.
    stats_size: usize,
    encoded: u64,
    /// Slots of `noreply` commands.
    noreply_unanswered: usize,
    moved: usize,
    answered: u64,
    answered_late: u64,
    refused: u64,
    large_keys: Vec<Bytes>,
    shared_keys: u64,
    max_merged_keys: u32,
    /// Who answers, for error texts.
    peer: Arc<str>,
    must_close: Option<MustClose>,
    line_error: Option<(ErrorKind, Bytes)>,
    /// Taken out by [`Self::prune`], and not told yet.
    too_late: Vec<Expired<S>>,
    unknown: Option<Verb>,
}

/// An answer after which the connection must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MustClose {
    /// The server refused the head of a storage command, and may take the value for commands.
    StorageRefused,
    /// An error line in the answer to several keys: with some servers it is the end of that answer, and some
    /// proxies go on to `END`. What comes next has no certain owner.
    KeyRefused,
    /// The server wants a login, and answers only some of what is sent before.
    Unauthenticated,
}

impl<S: Sink> Pipeline<S> {
    /// `max_merged_keys`: how many retrievals may share a line; 1 sends one line for each.
    pub fn new(max_merged_keys: u32, peer: Arc<str>) -> Self {
        Self {
            slots: VecDeque::new(),
            lines: VecDeque::new(),
            keys: KeyFifo::default(),
            open: None,
            decoder: Decoder::default(),
            receiving: None,
            was_long: false,
            no_room: false,
            cursor: Cursor::default(),
            assigned: Vec::new(),
            found: 0,
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
            too_late: Vec::new(),
            unknown: None,
        }
    }

    /// How many retrievals may share a line from now on.
    pub fn set_max_merged_keys(&mut self, max_merged_keys: u32) {
        self.max_merged_keys = max_merged_keys;
    }

    /// Slots whose answer has not come, abandoned ones included.
    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// Of these, those whose callers are served on another connection: see [`Self::take_held_up`].
    pub fn moved(&self) -> usize {
        self.moved
    }

    /// Slots whose answer came and was no error line.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Of these, those whose callers were told before that their time is up.
    pub fn answered_late(&self) -> u64 {
        self.answered_late
    }

    /// Slots that were answered by an error line in time.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The deadline of the request that is answered next, if its caller was told already that its time
    /// is up.
    pub fn overdue_since(&self) -> Option<Tick> {
        self.slots.front().filter(|slot| slot.sink.is_none()).map(|slot| slot.term.deadline)
    }

    /// The deadline of the request that is answered next; [`NEVER`] if there is none.
    pub fn front_deadline(&self) -> Tick {
        self.slots.front().map_or(NEVER, |slot| slot.term.deadline)
    }

    /// Whether somebody waits for an answer.
    pub fn has_waiters(&self) -> bool {
        self.slots.iter().any(|slot| slot.sink.as_ref().is_some_and(|sink| !sink.is_abandoned()))
    }

    /// The first slot that something else may hold up: behind a single key or command that is answered next, or
    /// the first of several keys that are answered together.
    fn first_held_up(&self) -> usize {
        match (self.slots.front(), self.lines.front()) {
            (Some(slot), Some(line)) if slot.keys > 0 && line.keys > 1 => 0,
            _ => 1,
        }
    }

    /// Whether somebody waits who may be held up by something else.
    pub fn is_held_up(&self) -> bool {
        let mut held_up = self.slots.iter().skip(self.first_held_up());
        held_up.any(|slot| slot.sink.as_ref().is_some_and(|sink| !sink.is_abandoned()))
    }

    /// Slots whose answers nobody waits for any more. Looks at each.
    pub fn abandoned(&self) -> usize {
        let gone = |slot: &&Slot<S>| slot.sink.as_ref().is_none_or(Sink::is_abandoned);
        self.slots.iter().filter(gone).count()
    }

    /// Requests with `noreply` whose answers have not come.
    pub fn noreply_unanswered(&self) -> usize {
        self.noreply_unanswered
    }

    /// Tells those who wait that the connection is alive.
    pub fn accept_all(&mut self) {
        self.slots.iter_mut().filter_map(|slot| slot.sink.as_mut()).for_each(Sink::accepted);
    }

    /// The last command, no retrieval, that was answered by a bare `ERROR` since the last call.
    pub fn take_unknown(&mut self) -> Option<Verb> {
        self.unknown.take()
    }

    /// The commands of which a byte was sent and whose answer has not come. `written` as for [`Self::feed`].
    pub fn unanswered(&self, written: u64) -> impl Iterator<Item = Verb> {
        self.slots.iter().filter(move |slot| slot.start < written).map(|slot| slot.verb)
    }

    /// Keys that another request of the same line asks for too: the server is asked once.
    pub fn shared_keys(&self) -> u64 {
        self.shared_keys
    }

    /// Keys whose values were large, since the last call.
    pub fn take_large_keys(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.large_keys)
    }

    /// Those who wait, of a pipeline that cannot be trusted any more.
    pub fn into_sinks(self) -> impl Iterator<Item = (S, Asked)> {
        let slots = self.slots.into_iter();
        let waiting = slots.filter_map(|mut slot| Some((slot.sink.take()?, slot.asked())));
        waiting.chain(self.too_late.into_iter().map(|late| (late.sink, late.asked)))
    }

    /// How much of the frame that is being read is still to come, where that is known and `read` bytes are
    /// in the buffer.
    pub fn missing(&self, read: usize) -> usize {
        match &self.receiving {
            Some(receiving) => receiving.value.missing() + 2,
            None => self.decoder.frame_len().saturating_sub(read),
        }
    }

    /// Where the rest of the value that is being read belongs, if nothing else is to be read before.
    pub fn rest_of_value(&mut self) -> Option<&mut impl BufMut> {
        match &mut self.receiving.as_mut()?.value {
            Rest::Kept(value) => Some(value).filter(|value| value.remaining_mut() > 0),
            Rest::Dropped(_) => None,
        }
    }

    /// Whether the next item is probably one that is received in its place, so that little should be read
    /// before its header is known.
    pub fn expects_long(&self) -> bool {
        self.was_long
    }

    /// Whether an answer came after which the connection must not be used. The answers behind it are not read.
    pub fn must_close(&self) -> Option<MustClose> {
        self.must_close
    }

    /// The error line of [`MustClose::KeyRefused`].
    pub fn line_error(&self) -> Option<&(ErrorKind, Bytes)> {
        self.line_error.as_ref()
    }

    /// Encodes a request to `out` and waits for its answer.
    pub fn push(
        &mut self,
        request: &Request<'_>,
        sink: S,
        term: impl Into<Term>,
        out: &mut Outgoing,
    ) {
        let term = term.into();
        match request {
            Request::Retrieval { verb, keys: [key] } => {
                self.push_key(*verb, *key, sink, term, false, out);
            }
            Request::Retrieval { verb, keys } => {
                self.push_keys(*verb, keys.iter().copied(), sink, term, false, out);
            }
            Request::Command(command) => {
                let verb = command.verb();
                self.push_encoded(verb, sink, term, false, out, |out| {
                    encode(command, out.tail());
                });
            }
        }
    }

    /// As [`Self::push`]. `retried` says that the request was sent once already.
    pub fn push_owned(
        &mut self,
        request: &OwnedRequest,
        sink: S,
        term: impl Into<Term>,
        retried: bool,
        out: &mut Outgoing,
    ) {
        let term = term.into();
        match request {
            OwnedRequest::Retrieval { verb, keys } => match keys.as_slice() {
                [key] => {
                    self.push_key(*verb, Key::trusted(key), sink, term, retried, out);
                }
                keys => {
                    let keys = keys.iter().map(|key| Key::trusted(key));
                    self.push_keys(*verb, keys, sink, term, retried, out);
                }
            },
            OwnedRequest::Encoded { verb, wire } => {
                self.push_encoded(*verb, sink, term, retried, out, |out| {
                    out.tail().extend_from_slice(wire);
                });
            }
            OwnedRequest::Storage { verb, head, value } => {
                self.push_encoded(*verb, sink, term, retried, out, |out| {
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
        sink: S,
        term: Term,
        retried: bool,
        out: &mut Outgoing,
        write: impl FnOnce(&mut Outgoing),
    ) {
        self.close_line(out);
        let (start, before) = (self.encoded, out.len());
        write(out);
        self.encoded += (out.len() - before) as u64;
        let noreply = sink.is_noreply();
        self.noreply_unanswered += usize::from(noreply);
        let sink = Some(sink);
        let (keys, shares_line) = (0, false);
        self.slots.push_back(Slot {
            sink,
            verb,
            keys,
            retried,
            moved: false,
            shares_line,
            noreply,
            term,
            start,
        });
    }

    fn push_key(
        &mut self,
        verb: RetrievalVerb,
        key: Key<'_>,
        sink: S,
        term: Term,
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
        let (sink, keys, shares_line, noreply) = (Some(sink), 1, fits, false);
        self.slots.push_back(Slot {
            sink,
            verb,
            keys,
            retried,
            moved: false,
            shares_line,
            noreply,
            term,
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
        sink: S,
        term: Term,
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
        let (sink, keys, shares_line, noreply) = (Some(sink), count, false, false);
        self.slots.push_back(Slot {
            sink,
            verb,
            keys,
            retried,
            moved: false,
            shares_line,
            noreply,
            term,
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

    /// The line before must be closed.
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

    /// Ends the line that keys could still be added to. `out` must not be written before.
    pub fn close_line(&mut self, out: &mut Outgoing) {
        if self.open.take().is_some() {
            out.tail().extend_from_slice(b"\r\n");
            self.encoded += 2;
        }
    }

    /// Where as many whole commands end as `most` bytes hold, of those that begin at `from`, or else where the first of
    /// them ends. Both count all bytes that were ever encoded. No line may be open.
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

    /// Gives the answers in `buf` to their sinks and says how many bytes were used. The rest must be
    /// given again, with what came after it. `written`: how many of the encoded bytes were sent; `now`: when
    /// `buf` was read, for the `tally`.
    pub fn feed(
        &mut self,
        buf: &[u8],
        written: u64,
        now: Tick,
        tally: &mut Tally,
    ) -> Result<usize, ProtocolError> {
        let mut book = Book { tally, now };
        let mut pos = 0;
        while pos < buf.len() && self.must_close.is_none() {
            if self.receiving.is_some() {
                let used = self.receive(&buf[pos..])?;
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
                    _ => ProtocolError::Unsolicited(Excerpt::of(rest)),
                });
            };
            let shape = front.verb.shape();
            if let Some((key, next)) = self.expected()
                && let Some((item, len)) = self.decoder.item_of(key, &buf[pos..], shape)
            {
                self.give(self.cursor, next, &item, None);
                self.was_long = false;
                pos += len;
                continue;
            }
            let Some((frame, len)) = self.decoder.next(&buf[pos..], shape)? else {
                if self.begin_long(&buf[pos..], shape)? {
                    pos = buf.len();
                }
                break;
            };
            let Some(front) = self.slots.front_mut() else { break };
            match frame {
                // A retrieval has keys; what else has an item has one, for whoever asked.
                Frame::Item(item) if front.keys == 0 => {
                    if let Some(sink) = &mut front.sink {
                        sink.item(0, &item, None);
                    }
                }
                Frame::Item(item) => self.assign(&item)?,
                Frame::Stat(stat) => self.stat(&stat)?,
                // Not an answer to anything: the server will not have this connection.
                Frame::Reply(Reply::Error(error)) if error.line == CONNECTION_REFUSED => {
                    return Err(ProtocolError::TooManyConnections);
                }
                Frame::Reply(Reply::Error(error))
                    if error.line == UNAUTHENTICATED && self.slots.len() > 1 =>
                {
                    self.refuse_all(&Reply::Error(error), &mut book);
                    return Ok(buf.len());
                }
                Frame::Reply(reply) => self.finish(&reply, &mut book),
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
        if let Some(sink) = self.slots.front_mut().and_then(|front| front.sink.as_mut()) {
            sink.stat(stat);
        }
        Ok(())
    }

    /// Begins to receive the value of the item in progress in its place, if much of it is still to come.
    fn begin_long(&mut self, buf: &[u8], shape: Shape) -> Result<bool, ProtocolError> {
        let long = self.decoder.long_item(buf, shape, RECEIVED_FROM);
        let Some((item, len)) = long.filter(|(_, len)| !self.no_room && *len <= RECEIVED_TO) else {
            return Ok(false);
        };
        let found = self.asked_for(item.key)?;
        let mut value = if self.is_dropped(found) {
            Rest::Dropped(len)
        } else {
            let Some(value) = S::Kept::receive(len) else {
                self.no_room = true;
                return Ok(false);
            };
            Rest::Kept(value.limit(len))
        };
        value.put(item.value);
        self.receiving = Some(Receiving {
            found,
            next: self.keys.at(found.position).next,
            key: Bytes::copy_from_slice(item.key),
            flags: item.flags,
            cas: item.cas,
            value,
        });
        self.decoder.hand_over();
        Ok(true)
    }

    /// Takes what belongs to the value that is being received, and says how much; 0: more is needed.
    fn receive(&mut self, buf: &[u8]) -> Result<usize, ProtocolError> {
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
        if let Some(Receiving { found, next, key, flags, cas, value }) = self.receiving.take() {
            match value {
                Rest::Kept(value) => {
                    let kept = S::Kept::received(value.into_inner());
                    let item = ItemRef { key: &key, flags, cas, value: kept.as_bytes() };
                    self.give(found, next, &item, Some(&kept));
                }
                Rest::Dropped(_) => self.skip(found, next),
            }
            self.was_long = true;
        }
        Ok(2)
    }

    /// Whether nobody waits any more for the item of a key that one slot alone has asked for.
    fn is_dropped(&self, found: Cursor) -> bool {
        let is_shared = self.lines.front().is_none_or(|line| line.aliases);
        let sink = self.slots.get(found.slot as usize).and_then(|slot| slot.sink.as_ref());
        !is_shared && sink.is_none_or(Sink::is_abandoned)
    }

    /// Goes on behind an item that was dropped.
    fn skip(&mut self, found: Cursor, next: u64) {
        let Some(&Line { keys, .. }) = self.lines.front() else { return };
        self.make_room(keys);
        self.mark_assigned(found);
        self.cursor = self.step(found, next);
    }

    /// The key whose item comes next if the answer is in order and nothing is missing, and where the key
    /// after it begins.
    fn expected(&self) -> Option<(&[u8], u64)> {
        let Cursor { ordinal, position, .. } = self.cursor;
        let is_key = self.slots.front()?.keys > 0 && ordinal < self.lines.front()?.keys;
        if !is_key || self.is_assigned(ordinal) {
            return None;
        }
        let entry = self.keys.at(position);
        (!entry.alias).then_some((entry.key, entry.next))
    }

    /// Gives an item to who asked for its key.
    fn assign(&mut self, item: &ItemRef<'_>) -> Result<(), ProtocolError> {
        let found = self.asked_for(item.key)?;
        self.give(found, self.keys.at(found.position).next, item, None);
        (self.was_long, self.no_room) = (false, false);
        Ok(())
    }

    /// Who asked for the key: in order first, among the others of the line after that (a
    /// proxy may answer in another order).
    fn asked_for(&self, key: &[u8]) -> Result<Cursor, ProtocolError> {
        let foreign = || ProtocolError::ForeignKey(Excerpt::of_key(key));
        let line = self.lines.front().ok_or_else(foreign)?;
        let line_start = Cursor { position: line.keys_start, ..Cursor::default() };
        self.find(self.cursor, line.keys, key, false)
            .or_else(|| self.find(line_start, self.cursor.ordinal, key, false))
            .ok_or_else(foreign)
    }

    /// Gives an item to who asked for it at `found`, behind which `next` begins, and to those who share it.
    fn give(&mut self, found: Cursor, next: u64, item: &ItemRef<'_>, kept: Option<&S::Kept>) {
        let Some(&Line { keys, aliases, .. }) = self.lines.front() else { return };
        if item.value.len() >= LARGE_VALUE_LEN {
            self.large_keys.push(Bytes::copy_from_slice(item.key));
        }
        self.make_room(keys);
        let copied = (aliases && kept.is_none()).then(|| S::Kept::of(item.value));
        let kept = kept.or(copied.as_ref());
        self.deliver(found, item, kept);
        self.cursor = self.step(found, next);
        if aliases {
            let mut from = self.cursor;
            while let Some(alias) = self.find(from, keys, item.key, true) {
                self.deliver(alias, item, kept);
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

    fn deliver(&mut self, at: Cursor, item: &ItemRef<'_>, kept: Option<&S::Kept>) {
        self.mark_assigned(at);
        if let Some(sink) = &mut self.slots[at.slot as usize].sink {
            sink.item(at.index as usize, item, kept);
        }
    }

    fn make_room(&mut self, keys: u32) {
        if self.assigned.is_empty() {
            self.assigned.resize(keys.div_ceil(64) as usize, 0);
        }
    }

    fn mark_assigned(&mut self, at: Cursor) {
        self.assigned[at.ordinal as usize / 64] |= 1 << (at.ordinal % 64);
        self.found += 1;
    }

    fn is_assigned(&self, ordinal: u32) -> bool {
        self.assigned.get(ordinal as usize / 64).is_some_and(|w| w & (1 << (ordinal % 64)) != 0)
    }

    fn finish(&mut self, reply: &Reply<'_>, book: &mut Book<'_>) {
        let is_retrieval = self.slots.front().is_some_and(|slot| slot.keys > 0);
        if is_retrieval {
            self.finish_line(reply, book);
            return;
        }
        (self.was_long, self.stats_size) = (false, 0);
        let Some(slot) = self.slots.pop_front() else { return };
        self.noreply_unanswered -= usize::from(slot.noreply);
        if let Reply::Error(error) = reply {
            self.note_error(slot.verb, error.kind);
        }
        if slot.sink.is_some() {
            let took = book.now.saturating_sub(slot.term.made);
            book.tally.of(slot.verb).answered(reply, took);
        }
        self.resolve(slot.sink, reply);
    }

    #[cold]
    fn note_error(&mut self, verb: Verb, kind: ErrorKind) {
        let is_storage = verb.shape() == Shape::Storage;
        if is_storage && matches!(kind, ErrorKind::Unknown | ErrorKind::Client) {
            self.must_close = Some(MustClose::StorageRefused);
        } else if kind == ErrorKind::Unknown {
            self.unknown = Some(verb);
        }
    }

    fn finish_line(&mut self, reply: &Reply<'_>, book: &mut Book<'_>) {
        if let Reply::Error(error) = reply
            && (self.found > 0 || self.lines.front().is_some_and(|line| self.asks_for_many(line)))
        {
            self.break_off(error, book);
            return;
        }
        let Some(line) = self.lines.pop_front() else { return };
        // Without an item nothing says that the next is long.
        self.was_long &= !self.assigned.is_empty();
        if self.lines.is_empty() {
            // It was answered, so it was written, so it had been closed.
            debug_assert!(self.open.is_none());
        }
        match reply {
            Reply::Error(_) => self.refuse(&line, reply, book),
            _ => self.complete(&line, reply, book),
        }
        self.assigned.clear();
        self.found = 0;
        let next = match self.lines.front() {
            Some(next) => next.keys_start,
            None => self.keys.end(),
        };
        self.keys.release_to(next);
        self.cursor = Cursor { position: next, ..Cursor::default() };
    }

    fn complete(&mut self, line: &Line, reply: &Reply<'_>, book: &mut Book<'_>) {
        let command = book.tally.of(line.verb.verb());
        let mut keys = line.keys;
        let mut hits = self.found;
        let mut ordinal = 0;
        for _ in 0..line.slots {
            let Some(slot) = self.slots.pop_front() else { break };
            if let Some(sink) = slot.sink {
                command.latency.record(book.now.saturating_sub(slot.term.made));
                sink.reply(reply, &self.peer);
            } else {
                // Counted when its time was up, or where its caller is served.
                self.moved -= usize::from(slot.moved);
                self.answered_late += u64::from(!slot.moved);
                keys -= slot.keys;
                hits -= self.found(ordinal, slot.keys);
            }
            ordinal += slot.keys;
        }
        self.answered += u64::from(line.slots);
        command.retrieved(hits, keys - hits);
    }

    /// An error line is the whole answer to a line with one key.
    #[cold]
    fn refuse(&mut self, line: &Line, error: &Reply<'_>, book: &mut Book<'_>) {
        let command = book.tally.of(line.verb.verb());
        for _ in 0..line.slots {
            let Some(slot) = self.slots.pop_front() else { break };
            self.moved -= usize::from(slot.moved);
            if slot.sink.is_some() {
                command.latency.record(book.now.saturating_sub(slot.term.made));
                command.refused(error, slot.keys);
            }
            self.resolve(slot.sink, error);
        }
    }

    /// The same error answers all requests.
    #[cold]
    fn refuse_all(&mut self, error: &Reply<'_>, book: &mut Book<'_>) {
        self.moved = 0;
        for slot in std::mem::take(&mut self.slots) {
            if slot.sink.is_some() {
                let command = book.tally.of(slot.verb);
                command.latency.record(book.now.saturating_sub(slot.term.made));
                command.refused(error, slot.keys.max(1));
            }
            self.resolve(slot.sink, error);
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

    /// An error line in the answer to several keys. Whoever has all items is told now, as these are whole; the
    /// other slots of the line stay, for [`Self::drain`].
    #[cold]
    fn break_off(&mut self, error: &ErrorLine<'_>, book: &mut Book<'_>) {
        self.must_close = Some(MustClose::KeyRefused);
        self.line_error = Some((error.kind, Bytes::copy_from_slice(error.line)));
        let Some(line) = self.lines.front() else { return };
        let (verb, slots) = (line.verb.verb(), line.slots as usize);
        let mut ordinal = 0;
        for at in 0..slots {
            let keys = self.slots[at].keys;
            if self.found(ordinal, keys) == keys
                && let Some(sink) = self.slots[at].sink.take()
            {
                let command = book.tally.of(verb);
                command.latency.record(book.now.saturating_sub(self.slots[at].term.made));
                command.retrieved(keys, 0);
                self.answered += 1;
                sink.reply(&Reply::End, &self.peer);
            }
            ordinal += keys;
        }
    }

    /// How many of the keys of the slot that begins at `ordinal` have their item. A slot of many keys has its
    /// line for itself.
    fn found(&self, ordinal: u32, keys: u32) -> u32 {
        match keys {
            1 => u32::from(self.is_assigned(ordinal)),
            _ => self.found,
        }
    }

    fn resolve(&mut self, sink: Option<S>, reply: &Reply<'_>) {
        let is_error = matches!(reply, Reply::Error(_));
        self.answered += u64::from(!is_error);
        match sink {
            Some(sink) => {
                self.refused += u64::from(is_error);
                sink.reply(reply, &self.peer);
            }
            None => self.answered_late += u64::from(!is_error),
        }
    }

    /// Takes the sinks whose deadline is at or before `now`, and says when the next one is. Their
    /// slots stay: the answers are still to come. `written` as for [`Self::feed`].
    pub fn expire(&mut self, now: Tick, written: u64, mut expired: impl FnMut(Expired<S>)) -> Tick {
        self.too_late.drain(..).for_each(&mut expired);
        let mut next = NEVER;
        for slot in &mut self.slots {
            if slot.sink.is_none() {
                continue;
            }
            if slot.term.deadline > now {
                next = next.min(slot.term.deadline);
            } else if let Some(sink) = slot.sink.take() {
                expired(Expired { sink, asked: slot.asked(), sent: slot.start < written });
            }
        }
        next
    }

    /// Takes commands out of `out` of which nothing was sent and that nobody waits for any more, as far as they
    /// begin in the next `len` bytes: for a connection that could not write for a while. Who went away is
    /// told that it is over; whose time is up is left to [`Self::expire`].
    ///
    /// Retrievals stay, as they change nothing but `gat`'s exptime. So does what was sent with `noreply`: its
    /// caller was told that it will be written. `mark`, the end of a command, moves with what is before it.
    pub fn prune(
        &mut self,
        out: &mut Outgoing,
        written: u64,
        len: usize,
        mark: &mut u64,
        now: Tick,
        tally: &mut Tally,
    ) {
        self.close_line(out);
        let end = written.saturating_add(len as u64);
        let first = self.slots.partition_point(|slot| slot.start < written);
        let mut given_up = Vec::new();
        for (at, slot) in self.slots.iter().enumerate().skip(first) {
            if slot.start >= end {
                break;
            }
            if slot.is_given_up(now) {
                given_up.push(at);
            }
        }
        if given_up.is_empty() {
            return;
        }
        let mut cuts = Vec::with_capacity(given_up.len());
        let mut removed = 0;
        let mut given_up = given_up.into_iter().peekable();
        let slots = self.slots.split_off(first);
        let ends: Vec<u64> = slots.iter().skip(1).map(|slot| slot.start).collect();
        let ends = ends.into_iter().chain([self.encoded]);
        for (at, (mut slot, end)) in (first..).zip(slots.into_iter().zip(ends)) {
            if given_up.next_if_eq(&at).is_none() {
                slot.start -= removed;
                self.slots.push_back(slot);
                continue;
            }
            cuts.push((slot.start, end));
            removed += end - slot.start;
            let asked = slot.asked();
            match slot.sink {
                Some(sink) if sink.is_abandoned() => {
                    tally.ended(asked, Outcome::Cancelled);
                    sink.reply(&Reply::End, "");
                }
                Some(sink) => self.too_late.push(Expired { sink, asked, sent: false }),
                None => {}
            }
        }
        self.encoded -= removed;
        *mark -= cuts.iter().filter(|cut| cut.0 < *mark).map(|cut| cut.1 - cut.0).sum::<u64>();
        let in_out = |cut: (u64, u64)| unsent_range(cut.0, cut.1, written);
        let cuts: Vec<_> = cuts.into_iter().filter_map(in_out).collect();
        out.cut(&cuts);
    }

    /// Takes the sinks of the retrievals that something else may hold up, to be asked elsewhere. Their slots
    /// stay, and what is answered in them is dropped. Those for a key that must stay are left. `written` as for
    /// [`Self::feed`].
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
                at >= first && slot.sink.as_ref().is_some_and(|sink| !sink.is_abandoned());
            let mut keys = SmallVec::new();
            for _ in 0..slot.keys {
                let entry = self.keys.at(position);
                position = entry.next;
                is_taken = is_taken && !must_stay(entry.key);
                if is_taken {
                    keys.push(Bytes::copy_from_slice(entry.key));
                }
            }
            let asked = slot.asked();
            if let Some(sink) = slot.sink.take_if(|_| is_taken) {
                slot.moved = true;
                self.moved += 1;
                let again = Some(OwnedRequest::Retrieval { verb: line_verb, keys });
                let (deadline, retried) = (slot.term.deadline, slot.retried);
                let (sent, missing) = (slot.start < written, None);
                orphans.push(Orphan { sink, asked, deadline, retried, sent, again, missing });
            }
        }
        orphans
    }

    /// Empties the pipeline of a connection that died. `unsent` are the encoded bytes that were not
    /// written, `written` is how many were.
    pub fn drain(&mut self, unsent: &Outgoing, written: u64) -> Vec<Orphan<S>> {
        let mut orphans = Vec::with_capacity(self.slots.len());
        orphans.extend(self.too_late.drain(..).map(|Expired { sink, asked, sent }| {
            let (deadline, retried, again, missing) = (NEVER, false, None, None);
            Orphan { sink, asked, deadline, retried, sent, again, missing }
        }));
        let mut position = self.lines.front().map_or(0, |line| line.keys_start);
        // Of the keys in flight, so many belong to the line whose answer broke off.
        let broken_off = match (&self.line_error, self.lines.front()) {
            (Some(_), Some(line)) => line.keys,
            _ => 0,
        };
        let mut verbs = std::mem::take(&mut self.lines)
            .into_iter()
            .flat_map(|line| std::iter::repeat_n(line.verb, line.slots as usize));
        let mut slots = std::mem::take(&mut self.slots).into_iter().peekable();
        let mut ordinal = 0;
        while let Some(slot) = slots.next() {
            let mut missing = (ordinal < broken_off).then(SmallVec::new);
            let again = if slot.keys > 0 {
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
            let (asked, sent) = (slot.asked(), slot.start < written);
            let Slot { sink, term: Term { deadline, .. }, retried, .. } = slot;
            if let Some(sink) = sink {
                orphans.push(Orphan { sink, asked, deadline, retried, sent, again, missing });
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

/// Where the bytes `start..end` of all that was encoded lie in what was not written.
fn unsent_range(start: u64, end: u64, written: u64) -> Option<(usize, usize)> {
    let start = usize::try_from(start.checked_sub(written)?).ok()?;
    let end = usize::try_from(end.checked_sub(written)?).ok()?;
    Some((start, end))
}

/// One of 64 bits for a key: cheap, and different for keys that differ in their last bytes.
fn seen_bit(key: &[u8]) -> u64 {
    let mut tail = [0u8; 8];
    let n = key.len().min(8);
    tail[..n].copy_from_slice(&key[key.len() - n..]);
    let mixed = (u64::from_le_bytes(tail) ^ key.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << (mixed >> 58)
}

#[cfg(test)]
mod tests;
