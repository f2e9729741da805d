//! Encodes requests. Every function appends to a buffer and cannot fail, because the request's
//! types rule out invalid requests.
use bytes::BytesMut;

use crate::protocol::command::{ArithmeticVerb, Command, RetrievalVerb, StorageVerb};
use crate::protocol::key::Key;
use crate::protocol::meta::{self, MetaVerb};

/// Room for a command line without its key and value: names, five numbers, spaces, two CRLF.
const LINE_OVERHEAD: usize = 128;

/// Appends one command.
///
/// # Format
/// ```text
/// <set|add|replace|append|prepend> <key> <flags> <exptime> <bytes>\r\n<value>\r\n
/// cas <key> <flags> <exptime> <bytes> <token>\r\n<value>\r\n
/// delete <key>\r\n            <incr|decr> <key> <delta>\r\n     touch <key> <exptime>\r\n
/// flush_all [<delay>]\r\n     version\r\n                       stats[ <args>]\r\n
/// verbosity <level>\r\n       cache_memlimit <megabytes>\r\n   config get cluster\r\n
/// ma <key> <MI|MD> N<exptime> J<initial> D<delta> v\r\n       mn\r\n
/// <mg|md|ma|me> <key>[ <flags>]\r\n    ms <key> <bytes>[ <flags>]\r\n<value>\r\n
/// set _ _ _ <bytes>\r\n<user> <password>\r\n
/// ```
pub fn encode(command: &Command<'_>, out: &mut BytesMut) {
    match *command {
        Command::Storage { verb, key, flags, exptime, value } => {
            out.reserve(LINE_OVERHEAD + key.as_bytes().len() + value.len());
            storage_head(verb, key, flags, exptime, value.len(), out);
            out.extend_from_slice(value);
        }
        Command::Delete { key } => {
            word(out, "delete");
            out.extend_from_slice(key.as_bytes());
        }
        Command::Arithmetic { verb, key, delta } => {
            word(out, if verb == ArithmeticVerb::Incr { "incr" } else { "decr" });
            out.extend_from_slice(key.as_bytes());
            number(out, delta);
        }
        Command::Counter { verb, key, delta, initial, exptime } => {
            word(out, "ma");
            out.extend_from_slice(key.as_bytes());
            meta::counter_flags(verb, delta, initial, exptime, out);
        }
        Command::Meta { verb, key, flags, value } => {
            out.reserve(value.len());
            meta::encode::line(verb, key, flags.as_str(), value.len(), out);
            if verb == MetaVerb::Set {
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(value);
            }
        }
        Command::MetaNoOp => out.extend_from_slice(b"mn"),
        Command::Touch { key, exptime } => {
            word(out, "touch");
            out.extend_from_slice(key.as_bytes());
            number(out, exptime);
        }
        Command::FlushAll { delay: 0 } => out.extend_from_slice(b"flush_all"),
        Command::FlushAll { delay } => {
            out.extend_from_slice(b"flush_all");
            number(out, delay);
        }
        Command::Version => out.extend_from_slice(b"version"),
        Command::Stats { args } => {
            out.extend_from_slice(b"stats");
            if !args.as_str().is_empty() {
                out.extend_from_slice(b" ");
                out.extend_from_slice(args.as_str().as_bytes());
            }
        }
        Command::Verbosity { level } => {
            out.extend_from_slice(b"verbosity");
            number(out, level);
        }
        Command::CacheMemlimit { megabytes } => {
            out.extend_from_slice(b"cache_memlimit");
            number(out, megabytes);
        }
        Command::ConfigGetCluster => out.extend_from_slice(b"config get cluster"),
        Command::Auth { credentials } => login(credentials, out),
    }
    out.extend_from_slice(b"\r\n");
}

/// The fields are deliberately not numbers, so that a server without authentication does not store
/// the credentials under a key.
fn login(credentials: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(b"set _ _ _");
    number(out, credentials.len());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(credentials);
}

/// The line of a storage command; the value and CRLF follow.
#[inline(always)]
#[allow(clippy::inline_always, reason = "for each borrowed value; the other call is rare")]
pub(super) fn storage_head(
    verb: StorageVerb,
    key: Key<'_>,
    flags: u32,
    exptime: i32,
    len: usize,
    out: &mut BytesMut,
) {
    word(out, verb.verb().name());
    out.extend_from_slice(key.as_bytes());
    number(out, flags);
    number(out, exptime);
    number(out, len);
    if let StorageVerb::Cas { token } = verb {
        number(out, token);
    }
    out.extend_from_slice(b"\r\n");
}

/// Begins a retrieval line; keys follow, each after a space, and CRLF ends it.
///
/// # Format
/// ```text
/// <get|gets>      <gat|gats> <exptime>
/// ```
#[inline]
pub(super) fn retrieval_head(verb: RetrievalVerb, out: &mut BytesMut) {
    out.extend_from_slice(verb.verb().name().as_bytes());
    if let RetrievalVerb::Gat { exptime } | RetrievalVerb::Gats { exptime } = verb {
        number(out, exptime);
    }
}

/// Adds a key to a retrieval line.
#[inline]
pub(super) fn put_key(key: Key<'_>, out: &mut BytesMut) {
    let key = key.as_bytes();
    out.reserve(key.len() + 1);
    out.extend_from_slice(b" ");
    out.extend_from_slice(key);
}

#[inline]
fn word(out: &mut BytesMut, name: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b" ");
}

#[inline]
fn number(out: &mut BytesMut, value: impl itoa::Integer) {
    out.extend_from_slice(b" ");
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Words;

    fn encoded(command: Command<'_>) -> String {
        let mut out = BytesMut::new();
        encode(&command, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    #[rustfmt::skip]
    fn every_command() {
        let key = Key::parse(b"k").unwrap();
        let store = |verb, flags, exptime, value| Command::Storage { verb, key, flags, exptime, value };
        let args = |s| Words::parse(s).unwrap();
        for (command, wire) in [
            (store(StorageVerb::Set, 0, 0, b"v".as_slice()), "set k 0 0 1\r\nv\r\n"),
            (store(StorageVerb::Add, u32::MAX, -1, b""), "add k 4294967295 -1 0\r\n\r\n"),
            (store(StorageVerb::Replace, 1, i32::MAX, b"\r\n"), "replace k 1 2147483647 2\r\n\r\n\r\n"),
            (store(StorageVerb::Append, 0, 0, b"v"), "append k 0 0 1\r\nv\r\n"),
            (store(StorageVerb::Prepend, 0, 0, b"v"), "prepend k 0 0 1\r\nv\r\n"),
            (store(StorageVerb::Cas { token: 0 }, 0, 0, b"v"), "cas k 0 0 1 0\r\nv\r\n"),
            (store(StorageVerb::Cas { token: u64::MAX }, 0, 0, b"v"), "cas k 0 0 1 18446744073709551615\r\nv\r\n"),
            (Command::Delete { key }, "delete k\r\n"),
            (Command::Arithmetic { verb: ArithmeticVerb::Incr, key, delta: u64::MAX }, "incr k 18446744073709551615\r\n"),
            (Command::Arithmetic { verb: ArithmeticVerb::Decr, key, delta: 0 }, "decr k 0\r\n"),
            (Command::Counter { verb: ArithmeticVerb::Incr, key, delta: 1, initial: 0, exptime: 60 }, "ma k MI N60 J0 D1 v\r\n"),
            (Command::Counter { verb: ArithmeticVerb::Decr, key, delta: u64::MAX, initial: u64::MAX, exptime: i32::MIN },
                "ma k MD N-2147483648 J18446744073709551615 D18446744073709551615 v\r\n"),
            (Command::Meta { verb: MetaVerb::Get, key, flags: args("v f"), value: b"" }, "mg k v f\r\n"),
            (Command::Meta { verb: MetaVerb::Set, key, flags: args(""), value: b"" }, "ms k 0\r\n\r\n"),
            (Command::Meta { verb: MetaVerb::Set, key, flags: args("T30"), value: b"\r\n" }, "ms k 2 T30\r\n\r\n\r\n"),
            (Command::Meta { verb: MetaVerb::Delete, key, flags: args("I T30"), value: b"" }, "md k I T30\r\n"),
            (Command::Meta { verb: MetaVerb::Arithmetic, key, flags: args("MI D1 v"), value: b"" }, "ma k MI D1 v\r\n"),
            (Command::Meta { verb: MetaVerb::Debug, key, flags: args(""), value: b"" }, "me k\r\n"),
            (Command::MetaNoOp, "mn\r\n"),
            (Command::Touch { key, exptime: i32::MIN }, "touch k -2147483648\r\n"),
            (Command::FlushAll { delay: 0 }, "flush_all\r\n"),
            (Command::FlushAll { delay: 10 }, "flush_all 10\r\n"),
            (Command::Version, "version\r\n"),
            (Command::Stats { args: args("") }, "stats\r\n"),
            (Command::Stats { args: args("detail on") }, "stats detail on\r\n"),
            (Command::Verbosity { level: 2 }, "verbosity 2\r\n"),
            (Command::CacheMemlimit { megabytes: 64 }, "cache_memlimit 64\r\n"),
            (Command::ConfigGetCluster, "config get cluster\r\n"),
            (Command::Auth { credentials: b"user pass" }, "set _ _ _ 9\r\nuser pass\r\n"),
        ] {
            assert_eq!(encoded(command), wire);
        }
    }
}
