//! The protocol that a connection speaks: requests become bytes, and bytes become frames.
//!
//! ```text
//! encode(command, output) -> what to expect
//! decode(bytes, what to expect) -> frame
//! ```
//! The pipeline stores one [`Expected`] for each request, in wire order, and knows nothing else of
//! a dialect. A retrieval is written in three steps (head, keys, end), so that requests for one key
//! each can share a line.
//!
//! A new dialect is a variant here and a folder with the same functions. The meta commands belong
//! to the text dialect, so one connection carries both.
use bytes::{Bytes, BytesMut};

use super::binary::Binary;
use super::command::{Command, GenericCommand, Request, RetrievalVerb};
use super::error::ProtocolError;
use super::key::Key;
use super::meta::MetaVerb;
use super::outgoing::Outgoing;
use super::owned_request::OwnedCommand;
use super::reply::{ItemRef, MetaValue, Reply, StatLine};
use super::text::Text;
use super::verbs::Verb;

/// Owned values of at least this length are written without a copy.
const SHARED_VALUE_LEN: usize = 16 * 1024;

#[derive(Debug)]
pub enum Dialect {
    /// The text protocol: classic and meta commands.
    Text(Text),
    /// The binary protocol, for servers with SASL.
    Binary(Binary),
}

/// The facts about a request that a dialect needs in order to decode the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub verb: Verb,
    pub(super) form: Form,
    /// The number that the server repeats in its reply, in dialects that have one.
    pub(super) opaque: u32,
}

/// How a request was written, if a dialect has more than one way for its verb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    #[default]
    Usual,
    /// A retrieval in place of a `cas` whose token no item can have.
    NoMatch,
    /// `stats reset`
    Reset,
    /// `stats detail on` and `off`
    Toggle,
    /// A no-op in place of a command that the dialect does not have.
    NotInDialect,
    /// A no-op in place of a command that the server does not know.
    UnknownCommand,
    /// A no-op in place of `stats detail` with wrong arguments.
    DetailUsage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// One item of a retrieval. More items or the end follow.
    Item(ItemRef<'a>),
    /// The reply to a meta command, with its value.
    Meta(MetaValue<'a>),
    /// One line of `stats`. More lines or the end follow.
    Stat(StatLine<'a>),
    /// The end of the reply.
    Reply(Reply<'a>),
    /// A part of the reply without a use. More follows.
    Ignored,
}

impl Default for Dialect {
    fn default() -> Self {
        Self::Text(Text::default())
    }
}

impl Expected {
    #[inline]
    pub(super) fn new(verb: Verb) -> Self {
        Self::with_opaque(verb, 0)
    }

    #[inline]
    pub(super) fn with_opaque(verb: Verb, opaque: u32) -> Self {
        Self { verb, form: Form::Usual, opaque }
    }

    #[inline]
    pub(super) fn opaque(self) -> u32 {
        self.opaque
    }
}

impl Dialect {
    pub fn binary() -> Self {
        Self::Binary(Binary::default())
    }

    /// The same dialect at the start of a connection.
    #[must_use]
    pub fn restarted(&self) -> Self {
        match self {
            Self::Text(_) => Self::default(),
            Self::Binary(_) => Self::binary(),
        }
    }

    /// Appends a command.
    #[inline]
    pub fn encode(&mut self, command: &Command<'_>, out: &mut BytesMut) -> Expected {
        match self {
            Self::Text(text) => text.encode(command, out),
            Self::Binary(binary) => binary.encode(command, out),
        }
    }

    /// Like [`Self::encode`]; a long value is not copied.
    pub fn encode_owned(&mut self, command: &OwnedCommand, out: &mut Outgoing) -> Expected {
        let (GenericCommand::Storage { value, .. }
        | GenericCommand::Meta { verb: MetaVerb::Set, value, .. }) = command
        else {
            return self.encode(&command.as_command(), out.tail());
        };
        if value.len() < SHARED_VALUE_LEN {
            return self.encode(&command.as_command(), out.tail());
        }
        match self {
            Self::Text(text) => text.encode_shared(command, value, out),
            Self::Binary(binary) => binary.encode_shared(command, value, out),
        }
    }

    /// Appends a request that shares its line with no other.
    pub fn encode_request(&mut self, request: &Request<'_>, out: &mut BytesMut) -> Expected {
        let (verb, keys) = match request {
            Request::Command(command) => return self.encode(command, out),
            Request::Retrieval { verb, keys } => (*verb, keys),
        };
        let expected = self.begin_retrieval(verb, out);
        keys.iter().for_each(|key| self.add_key(verb, expected, *key, out));
        self.end_retrieval(expected, out);
        expected
    }

    /// Begins a retrieval line.
    #[inline]
    pub fn begin_retrieval(&mut self, verb: RetrievalVerb, out: &mut BytesMut) -> Expected {
        match self {
            Self::Text(text) => text.begin_retrieval(verb, out),
            Self::Binary(binary) => binary.begin_retrieval(verb),
        }
    }

    /// Adds a key to the line that was begun with the same verb and is `expected`.
    #[inline]
    pub fn add_key(
        &self,
        verb: RetrievalVerb,
        expected: Expected,
        key: Key<'_>,
        out: &mut BytesMut,
    ) {
        match self {
            Self::Text(_) => Text::add_key(key, out),
            Self::Binary(_) => Binary::add_key(verb, expected, key, out),
        }
    }

    /// The length of the request for a key, if each key of a line has a request of its own.
    pub fn key_request_len(&self, verb: RetrievalVerb, key_len: usize) -> Option<usize> {
        match self {
            Self::Text(_) => None,
            Self::Binary(_) => Some(Binary::key_request_len(verb, key_len)),
        }
    }

    #[inline]
    pub fn end_retrieval(&self, expected: Expected, out: &mut BytesMut) {
        match self {
            Self::Text(_) => Text::end_retrieval(out),
            Self::Binary(_) => Binary::end_retrieval(expected, out),
        }
    }

    /// The command in bytes that [`Self::encode`] wrote and that were not sent. `None` if they are
    /// not such bytes.
    pub fn decode_command(&self, wire: &Bytes, expected: Expected) -> Option<OwnedCommand> {
        match self {
            Self::Text(_) => Text::decode_command(wire, expected.verb),
            Self::Binary(_) => Binary::decode_command(wire, expected),
        }
    }

    /// Reads the next frame at the start of `buf` and returns it with its length. Returns `None` if
    /// more bytes are needed; the next call must pass the same bytes again, followed by the new
    /// ones.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "a wrapper in the hot path")]
    pub fn decode<'a>(
        &'a mut self,
        buf: &'a [u8],
        expected: Expected,
    ) -> Result<Option<(Frame<'a>, usize)>, ProtocolError> {
        match self {
            Self::Text(text) => text.decode(buf, expected),
            Self::Binary(binary) => binary.decode(buf, expected),
        }
    }

    /// A fast path for replies with many keys: reads the next frame if it is a complete item of
    /// `key`. `None` has no meaning of its own; [`Self::decode`] decides.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "a wrapper in the hot path")]
    pub fn item_with_key<'b>(
        &self,
        key: &[u8],
        buf: &'b [u8],
        expected: Expected,
    ) -> Option<(ItemRef<'b>, usize)> {
        match self {
            Self::Text(text) => text.item_with_key(key, buf, expected),
            Self::Binary(_) => None,
        }
    }

    /// The item in progress at the start of `buf`, if at least `missing` bytes of its value have
    /// not arrived: the part that has, and the length of the whole value. [`Self::value_end`]
    /// follows the value. In the reply to a meta command, the flags are in place of the key.
    pub fn large_item<'b>(
        &self,
        buf: &'b [u8],
        expected: Expected,
        missing: usize,
    ) -> Option<(ItemRef<'b>, usize)> {
        match self {
            Self::Text(text) => text.large_item(buf, expected, missing),
            Self::Binary(binary) => binary.large_item(buf, expected, missing),
        }
    }

    /// Forgets the frame in progress, because the caller reads the rest of it.
    pub fn skip_frame(&mut self) {
        match self {
            Self::Text(text) => text.skip_frame(),
            Self::Binary(binary) => binary.skip_frame(),
        }
    }

    /// The length of the frame in progress, which the buffer must hold; 0 if it is not known.
    #[inline]
    pub fn frame_len(&self) -> usize {
        match self {
            Self::Text(text) => text.frame_len(),
            Self::Binary(binary) => binary.frame_len(),
        }
    }

    /// The bytes after a value.
    pub fn value_end(&self) -> &'static [u8] {
        match self {
            Self::Text(_) => b"\r\n",
            Self::Binary(_) => b"",
        }
    }
}
