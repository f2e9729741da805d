//! Writes meta commands.
use bytes::BytesMut;

use super::MetaVerb;
use crate::protocol::key::Key;

/// Appends a command line without its CRLF. `len` is the length of the value, for `ms`.
///
/// # Format
/// ```text
/// <mg|md|ma|me> <key>[ <flags>]
/// ms <key> <bytes>[ <flags>]
/// ```
pub fn line(verb: MetaVerb, key: Key<'_>, flags: &str, len: usize, out: &mut BytesMut) {
    let key = key.as_bytes();
    out.reserve(key.len() + flags.len() + 32);
    out.extend_from_slice(verb.verb().name().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(key);
    if verb == MetaVerb::Set {
        out.extend_from_slice(b" ");
        out.extend_from_slice(itoa::Buffer::new().format(len).as_bytes());
    }
    if !flags.is_empty() {
        out.extend_from_slice(b" ");
        out.extend_from_slice(flags.as_bytes());
    }
}
