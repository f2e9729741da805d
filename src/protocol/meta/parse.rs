//! Reads a meta command that this side wrote and did not send.
use bytes::Bytes;

use super::MetaVerb;
use crate::protocol::command::{ArithmeticVerb, GenericCommand};
use crate::protocol::owned_request::OwnedCommand;

/// The inverse of [`super::encode::line`]. `args` is the line without the command's name, `rest`
/// what follows the line; both are parts of `wire`.
pub fn command(wire: &Bytes, verb: MetaVerb, args: &[u8], rest: &[u8]) -> Option<OwnedCommand> {
    let args = args.strip_prefix(b" ")?;
    let (key, mut flags) = split(args);
    let mut value = Bytes::new();
    if verb == MetaVerb::Set {
        let (len, rest_of_line) = split(flags);
        let len: usize = number(len)?;
        let bytes = rest.strip_suffix(b"\r\n").filter(|value| value.len() == len)?;
        (value, flags) = (wire.slice_ref(bytes), rest_of_line);
    }
    let key = wire.slice_ref(key);
    if verb == MetaVerb::Arithmetic
        && let Some(counter) = counter(&key, flags)
    {
        return Some(counter);
    }
    let flags = std::str::from_utf8(flags).ok()?.into();
    Some(GenericCommand::Meta { verb, key, flags, value })
}

/// The inverse of [`super::counter_flags`].
fn counter(key: &Bytes, flags: &[u8]) -> Option<OwnedCommand> {
    let mut words = flags.split(|byte| *byte == b' ');
    let verb = match words.next()? {
        b"MI" => ArithmeticVerb::Incr,
        b"MD" => ArithmeticVerb::Decr,
        _ => return None,
    };
    let exptime = number(words.next()?.strip_prefix(b"N")?)?;
    let initial = number(words.next()?.strip_prefix(b"J")?)?;
    let delta = number(words.next()?.strip_prefix(b"D")?)?;
    if words.next()? != b"v" || words.next().is_some() {
        return None;
    }
    Some(GenericCommand::Counter { verb, key: key.clone(), delta, initial, exptime })
}

/// The first word, and the words after it.
fn split(words: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b' ', words) {
        Some(at) => (&words[..at], &words[at + 1..]),
        None => (words, &words[words.len()..]),
    }
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}
