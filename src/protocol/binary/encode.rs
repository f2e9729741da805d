//! Commands as binary requests, and back.
use bytes::{Bytes, BytesMut};

use super::Binary;
use super::frame::{HEADER_LEN, opcode, request, request_if};
use crate::protocol::command::{
    ArithmeticVerb, Command, EXPIRED, GenericCommand, RetrievalVerb, StorageVerb,
};
use crate::protocol::dialect::{Expected, Form};
use crate::protocol::key::Key;
use crate::protocol::outgoing::Outgoing;
use crate::protocol::owned_request::OwnedCommand;
use crate::protocol::verbs::Verb;

/// `incr` and `decr` with this expiration do not create a missing counter.
const NO_CREATE: u32 = u32::MAX;

impl Binary {
    fn expect(&mut self, verb: Verb, form: Form) -> Expected {
        let opaque = self.next_opaque;
        self.next_opaque = opaque.wrapping_add(1);
        Expected { verb, form, opaque }
    }

    pub fn encode(&mut self, command: &Command<'_>, out: &mut BytesMut) -> Expected {
        let verb = command.verb();
        let simple = |expected: Expected, code, extras: &[u8], key: &[u8], out: &mut BytesMut| {
            request(out, code, expected.opaque, extras, key, 0);
            expected
        };
        match *command {
            GenericCommand::Storage { verb, key, flags, exptime, value } => {
                let head = StorageHead { verb, key: key.as_bytes(), flags, exptime };
                let expected = self.storage_head(&head, value.len(), out);
                if expected.form == Form::Usual {
                    out.extend_from_slice(value);
                }
                expected
            }
            GenericCommand::Delete { key } => {
                let expected = self.expect(verb, Form::Usual);
                simple(expected, opcode::DELETE, &[], key.as_bytes(), out)
            }
            GenericCommand::Arithmetic { verb: direction, key, delta } => {
                let expected = self.expect(verb, Form::Usual);
                let extras = arithmetic(delta, 0, NO_CREATE);
                simple(expected, arithmetic_opcode(direction), &extras, key.as_bytes(), out)
            }
            GenericCommand::Counter { verb: direction, key, delta, initial, exptime } => {
                let expected = self.expect(verb, Form::Usual);
                let extras = arithmetic(delta, initial, expiration(exptime));
                simple(expected, arithmetic_opcode(direction), &extras, key.as_bytes(), out)
            }
            GenericCommand::Touch { key, exptime } => {
                let expected = self.expect(verb, Form::Usual);
                let extras = expiration(exptime).to_be_bytes();
                simple(expected, opcode::TOUCH, &extras, key.as_bytes(), out)
            }
            GenericCommand::FlushAll { delay } => {
                let expected = self.expect(verb, Form::Usual);
                simple(expected, opcode::FLUSH, &delay.to_be_bytes(), &[], out)
            }
            GenericCommand::Version => {
                let expected = self.expect(verb, Form::Usual);
                simple(expected, opcode::VERSION, &[], &[], out)
            }
            GenericCommand::Stats { args } => {
                let (form, key) = stats(args.as_str());
                let expected = self.expect(verb, form);
                let is_sent = matches!(form, Form::Usual | Form::Reset | Form::Toggle);
                let code = if is_sent { opcode::STAT } else { opcode::NOOP };
                simple(expected, code, &[], key.as_bytes(), out)
            }
            // `verbosity` and `config` have opcodes that memcached 1.6.18 does not know. It reads
            // the body of an unknown command twice and loses its place in the stream. A no-op is
            // sent in place of these commands, so that the reply arrives in order.
            GenericCommand::ConfigGetCluster => self.noop(verb, Form::UnknownCommand, out),
            GenericCommand::Meta { .. }
            | GenericCommand::MetaNoOp
            | GenericCommand::Verbosity { .. }
            | GenericCommand::CacheMemlimit { .. }
            | GenericCommand::Auth { .. } => self.noop(verb, Form::NotInDialect, out),
        }
    }

    fn noop(&mut self, verb: Verb, form: Form, out: &mut BytesMut) -> Expected {
        let expected = self.expect(verb, form);
        request(out, opcode::NOOP, expected.opaque, &[], &[], 0);
        expected
    }

    /// Like [`Self::encode`], without a copy of the value.
    pub fn encode_shared(
        &mut self,
        command: &OwnedCommand,
        value: &Bytes,
        out: &mut Outgoing,
    ) -> Expected {
        let GenericCommand::Storage { verb, key, flags, exptime, .. } = command else {
            return self.encode(&command.as_command(), out.tail());
        };
        let head = StorageHead { verb: *verb, key, flags: *flags, exptime: *exptime };
        let expected = self.storage_head(&head, value.len(), out.tail());
        if expected.form == Form::Usual {
            out.push_shared(value.clone());
        }
        expected
    }

    /// The request up to its value. Only [`Form::Usual`] has one.
    fn storage_head(
        &mut self,
        head: &StorageHead<'_>,
        value_len: usize,
        out: &mut BytesMut,
    ) -> Expected {
        let &StorageHead { verb, key, flags, exptime } = head;
        // No item has the token 0, which means "any" here. It is enough to know whether the item
        // exists.
        if verb == (StorageVerb::Cas { token: 0 }) {
            let expected = self.expect(Verb::Cas, Form::NoMatch);
            request(out, opcode::GETK, expected.opaque, &[], key, 0);
            return expected;
        }
        let code = storage_opcode(verb);
        let token = if let StorageVerb::Cas { token } = verb { token } else { 0 };
        let mut extras = [0; 8];
        extras[..4].copy_from_slice(&flags.to_be_bytes());
        extras[4..].copy_from_slice(&expiration(exptime).to_be_bytes());
        let has_extras = !matches!(code, opcode::APPEND | opcode::PREPEND);
        let extras: &[u8] = if has_extras { &extras } else { &[] };
        let expected = self.expect(verb.verb(), Form::Usual);
        out.reserve(HEADER_LEN + extras.len() + key.len() + value_len);
        request_if(out, code, expected.opaque, extras, key, value_len, token);
        expected
    }

    pub fn begin_retrieval(&mut self, verb: RetrievalVerb) -> Expected {
        self.expect(verb.verb(), Form::Usual)
    }

    pub fn add_key(verb: RetrievalVerb, expected: Expected, key: Key<'_>, out: &mut BytesMut) {
        let (opaque, key) = (expected.opaque, key.as_bytes());
        match verb {
            RetrievalVerb::Get | RetrievalVerb::Gets => {
                request(out, opcode::GETKQ, opaque, &[], key, 0);
            }
            RetrievalVerb::Gat { exptime } | RetrievalVerb::Gats { exptime } => {
                let extras = expiration(exptime).to_be_bytes();
                request(out, opcode::GATKQ, opaque, &extras, key, 0);
            }
        }
    }

    pub fn key_request_len(verb: RetrievalVerb, key_len: usize) -> usize {
        let touches = matches!(verb, RetrievalVerb::Gat { .. } | RetrievalVerb::Gats { .. });
        HEADER_LEN + if touches { 4 } else { 0 } + key_len
    }

    pub fn end_retrieval(expected: Expected, out: &mut BytesMut) {
        request(out, opcode::NOOP, expected.opaque, &[], &[], 0);
    }

    /// The inverse of [`Self::encode`]. The parts of a command that were not written are lost with
    /// no harm: the command is written in the same way again.
    pub fn decode_command(wire: &Bytes, expected: Expected) -> Option<OwnedCommand> {
        let u32_at = |at: usize| Some(u32::from_be_bytes(wire.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_be_bytes(wire.get(at..at + 8)?.try_into().ok()?));
        let key_len = usize::from(u16::from_be_bytes(wire.get(2..4)?.try_into().ok()?));
        let extras = HEADER_LEN;
        let key_start = extras + usize::from(*wire.get(4)?);
        let value_start = key_start + key_len;
        let key = wire.slice_ref(wire.get(key_start..value_start)?);
        let exptime_at = |at: usize| Some(u32_at(at)?.cast_signed());
        Some(match expected.verb {
            Verb::Set | Verb::Add | Verb::Replace | Verb::Append | Verb::Prepend | Verb::Cas => {
                let verb = match expected.verb {
                    Verb::Set => StorageVerb::Set,
                    Verb::Add => StorageVerb::Add,
                    Verb::Replace => StorageVerb::Replace,
                    Verb::Append => StorageVerb::Append,
                    Verb::Prepend => StorageVerb::Prepend,
                    _ => StorageVerb::Cas { token: u64_at(16)? },
                };
                let has_extras = key_start > extras;
                let flags = if has_extras { u32_at(extras)? } else { 0 };
                let exptime = if has_extras { exptime_at(extras + 4)? } else { 0 };
                let value = wire.slice_ref(wire.get(value_start..)?);
                GenericCommand::Storage { verb, key, flags, exptime, value }
            }
            Verb::Delete => GenericCommand::Delete { key },
            Verb::Incr | Verb::Decr => {
                let verb = direction(*wire.get(1)?);
                GenericCommand::Arithmetic { verb, key, delta: u64_at(extras)? }
            }
            Verb::MetaArithmetic => {
                let verb = direction(*wire.get(1)?);
                let (delta, initial) = (u64_at(extras)?, u64_at(extras + 8)?);
                let exptime = exptime_at(extras + 16)?;
                GenericCommand::Counter { verb, key, delta, initial, exptime }
            }
            Verb::Touch => GenericCommand::Touch { key, exptime: exptime_at(extras)? },
            Verb::FlushAll => GenericCommand::FlushAll { delay: u32_at(extras)? },
            Verb::Version => GenericCommand::Version,
            Verb::Stats => {
                let args = match expected.form {
                    Form::DetailUsage => "detail",
                    // Any such word is answered in the same way.
                    Form::UnknownCommand => "resets",
                    _ => std::str::from_utf8(&key).ok()?,
                };
                GenericCommand::Stats { args: args.into() }
            }
            Verb::Verbosity => GenericCommand::Verbosity { level: 0 },
            Verb::CacheMemlimit => GenericCommand::CacheMemlimit { megabytes: 0 },
            Verb::ConfigGetCluster => GenericCommand::ConfigGetCluster,
            Verb::MetaGet | Verb::MetaSet | Verb::MetaDelete | Verb::MetaDebug | Verb::MetaNoOp => {
                GenericCommand::MetaNoOp
            }
            Verb::Get | Verb::Gets | Verb::Gat | Verb::Gats | Verb::Auth => return None,
        })
    }
}

/// A storage command without its value.
struct StorageHead<'a> {
    verb: StorageVerb,
    key: &'a [u8],
    flags: u32,
    exptime: i32,
}

fn storage_opcode(verb: StorageVerb) -> u8 {
    match verb {
        StorageVerb::Set => opcode::SET,
        StorageVerb::Add => opcode::ADD,
        // With SET, a value that is too large would remove the item whatever its token.
        StorageVerb::Replace | StorageVerb::Cas { .. } => opcode::REPLACE,
        StorageVerb::Append => opcode::APPEND,
        StorageVerb::Prepend => opcode::PREPEND,
    }
}

fn arithmetic_opcode(verb: ArithmeticVerb) -> u8 {
    match verb {
        ArithmeticVerb::Incr => opcode::INCREMENT,
        ArithmeticVerb::Decr => opcode::DECREMENT,
    }
}

fn direction(code: u8) -> ArithmeticVerb {
    if code == opcode::INCREMENT { ArithmeticVerb::Incr } else { ArithmeticVerb::Decr }
}

/// # Format
/// ```text
/// delta:8 initial:8 expiration:4
/// ```
fn arithmetic(delta: u64, initial: u64, expiration: u32) -> [u8; 20] {
    let mut extras = [0; 20];
    extras[..8].copy_from_slice(&delta.to_be_bytes());
    extras[8..16].copy_from_slice(&initial.to_be_bytes());
    extras[16..].copy_from_slice(&expiration.to_be_bytes());
    extras
}

/// Negative numbers have no binary form.
fn expiration(exptime: i32) -> u32 {
    u32::try_from(exptime).unwrap_or(EXPIRED.cast_unsigned())
}

/// The key of a `stats` request. Words after the known ones are ignored, as servers do in text. In
/// binary they compare only the beginning of some words, and would execute another command.
fn stats(args: &str) -> (Form, &str) {
    let mut words = args.split(' ');
    let (word, argument) = (words.next().unwrap_or_default(), words.next());
    match (word, argument) {
        ("reset", _) => (Form::Reset, word),
        ("settings", _) => (Form::Usual, word),
        ("detail", Some("on")) => (Form::Toggle, "detail on"),
        ("detail", Some("off")) => (Form::Toggle, "detail off"),
        ("detail", Some("dump")) => (Form::Usual, "detail dump"),
        ("detail", _) => (Form::DetailUsage, ""),
        _ if ["reset", "settings", "detail"].iter().any(|known| word.starts_with(known)) => {
            (Form::UnknownCommand, "")
        }
        _ => (Form::Usual, word),
    }
}
