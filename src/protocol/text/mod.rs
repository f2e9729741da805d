//! The text protocol (memcached doc/protocol.txt). Its classic replies do not say to which kind of
//! request they belong, so each is decoded by the [`super::Shape`] of its verb.
mod decode;
mod encode;
mod parse;

use bytes::{Bytes, BytesMut};

use super::command::{Command, GenericCommand, RetrievalVerb};
use super::dialect::{Expected, Frame};
use super::error::ProtocolError;
use super::key::Key;
use super::meta;
use super::outgoing::Outgoing;
use super::owned_request::OwnedCommand;
use super::reply::ItemRef;
use super::verbs::Verb;
pub use decode::{Decoder, MAX_REPLY_LINE_LEN, MAX_VALUE_LEN};
pub use encode::encode;

pub(super) use decode::stat_line;

/// One connection's state.
#[derive(Debug, Default)]
pub struct Text {
    decoder: Decoder,
}

#[allow(clippy::unused_self, reason = "the same functions as other dialects")]
impl Text {
    #[inline]
    pub fn encode(&mut self, command: &Command<'_>, out: &mut BytesMut) -> Expected {
        encode(command, out);
        Expected::new(command.verb())
    }

    pub fn encode_shared(
        &mut self,
        command: &OwnedCommand,
        value: &Bytes,
        out: &mut Outgoing,
    ) -> Expected {
        match command {
            GenericCommand::Storage { verb, key, flags, exptime, .. } => {
                let key = Key::trusted(key);
                encode::storage_head(*verb, key, *flags, *exptime, value.len(), out.tail());
            }
            GenericCommand::Meta { verb, key, flags, .. } => {
                let key = Key::trusted(key);
                meta::encode::line(*verb, key, flags, value.len(), out.tail());
                out.tail().extend_from_slice(b"\r\n");
            }
            _ => return self.encode(&command.as_command(), out.tail()),
        }
        out.push_shared(value.clone());
        out.tail().extend_from_slice(b"\r\n");
        Expected::new(command.verb())
    }

    #[inline]
    pub fn begin_retrieval(&mut self, verb: RetrievalVerb, out: &mut BytesMut) -> Expected {
        encode::retrieval_head(verb, out);
        Expected::new(verb.verb())
    }

    #[inline]
    pub fn add_key(key: Key<'_>, out: &mut BytesMut) {
        encode::put_key(key, out);
    }

    #[inline]
    pub fn end_retrieval(out: &mut BytesMut) {
        out.extend_from_slice(b"\r\n");
    }

    pub fn decode_command(wire: &Bytes, verb: Verb) -> Option<OwnedCommand> {
        parse::command(wire, verb)
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "a wrapper in the hot path")]
    pub fn decode<'b>(
        &mut self,
        buf: &'b [u8],
        expected: Expected,
    ) -> Result<Option<(Frame<'b>, usize)>, ProtocolError> {
        self.decoder.next(buf, expected.verb.shape())
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "a wrapper in the hot path")]
    pub fn item_with_key<'b>(
        &self,
        key: &[u8],
        buf: &'b [u8],
        expected: Expected,
    ) -> Option<(ItemRef<'b>, usize)> {
        self.decoder.item_with_key(key, buf, expected.verb.shape())
    }

    pub fn large_item<'b>(
        &self,
        buf: &'b [u8],
        expected: Expected,
        missing: usize,
    ) -> Option<(ItemRef<'b>, usize)> {
        self.decoder.large_item(buf, expected.verb.shape(), missing)
    }

    pub fn skip_frame(&mut self) {
        self.decoder.reset();
    }

    #[inline]
    pub fn frame_len(&self) -> usize {
        self.decoder.frame_len()
    }
}
