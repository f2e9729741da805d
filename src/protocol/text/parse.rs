//! Reads a command that this side wrote and did not send, so that it can be written again for
//! another connection.
use bytes::Bytes;

use crate::protocol::command::{ArithmeticVerb, GenericCommand, StorageVerb};
use crate::protocol::meta::{self, MetaVerb};
use crate::protocol::owned_request::OwnedCommand;
use crate::protocol::verbs::Verb;

/// The inverse of [`super::encode`]. `None` for other bytes, and for a login, which is never sent
/// twice.
pub fn command(wire: &Bytes, verb: Verb) -> Option<OwnedCommand> {
    let end = memchr::memchr(b'\n', wire)?;
    let (line, rest) = (wire[..end].strip_suffix(b"\r")?, &wire[end + 1..]);
    let args = line.strip_prefix(verb.name().as_bytes())?;
    let mut words = args.split(|byte| *byte == b' ').skip(1);
    let mut key = || Some(wire.slice_ref(words.next()?));
    Some(match verb {
        Verb::Set | Verb::Add | Verb::Replace | Verb::Append | Verb::Prepend | Verb::Cas => {
            let key = key()?;
            let (flags, exptime) = (number(words.next())?, number(words.next())?);
            let len: usize = number(words.next())?;
            let verb = match verb {
                Verb::Set => StorageVerb::Set,
                Verb::Add => StorageVerb::Add,
                Verb::Replace => StorageVerb::Replace,
                Verb::Append => StorageVerb::Append,
                Verb::Prepend => StorageVerb::Prepend,
                _ => StorageVerb::Cas { token: number(words.next())? },
            };
            let value = rest.strip_suffix(b"\r\n").filter(|value| value.len() == len)?;
            let value = wire.slice_ref(value);
            GenericCommand::Storage { verb, key, flags, exptime, value }
        }
        Verb::Delete => GenericCommand::Delete { key: key()? },
        Verb::Incr | Verb::Decr => {
            let is_incr = verb == Verb::Incr;
            let verb = if is_incr { ArithmeticVerb::Incr } else { ArithmeticVerb::Decr };
            GenericCommand::Arithmetic { verb, key: key()?, delta: number(words.next())? }
        }
        Verb::MetaGet => return meta::parse::command(wire, MetaVerb::Get, args, rest),
        Verb::MetaSet => return meta::parse::command(wire, MetaVerb::Set, args, rest),
        Verb::MetaDelete => return meta::parse::command(wire, MetaVerb::Delete, args, rest),
        Verb::MetaArithmetic => {
            return meta::parse::command(wire, MetaVerb::Arithmetic, args, rest);
        }
        Verb::MetaDebug => return meta::parse::command(wire, MetaVerb::Debug, args, rest),
        Verb::MetaNoOp => GenericCommand::MetaNoOp,
        Verb::Touch => GenericCommand::Touch { key: key()?, exptime: number(words.next())? },
        Verb::FlushAll => {
            let delay = words.next().map_or(Some(0), |word| number(Some(word)))?;
            GenericCommand::FlushAll { delay }
        }
        Verb::Version => GenericCommand::Version,
        Verb::Stats => {
            let args = std::str::from_utf8(args.strip_prefix(b" ").unwrap_or_default()).ok()?;
            GenericCommand::Stats { args: args.into() }
        }
        Verb::Verbosity => GenericCommand::Verbosity { level: number(words.next())? },
        Verb::CacheMemlimit => GenericCommand::CacheMemlimit { megabytes: number(words.next())? },
        Verb::ConfigGetCluster => GenericCommand::ConfigGetCluster,
        Verb::Get | Verb::Gets | Verb::Gat | Verb::Gats | Verb::Auth => return None,
    })
}

fn number<T: std::str::FromStr>(word: Option<&[u8]>) -> Option<T> {
    std::str::from_utf8(word?).ok()?.parse().ok()
}
