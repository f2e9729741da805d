//! Keys of meta commands: any bytes. Those that a line cannot hold are written in base64.
use std::borrow::Cow;

use crate::protocol::key::{InvalidKey, Key};

/// The longest key in base64, before it is encoded: its encoded form has at most 250 bytes.
pub const MAX_BINARY_KEY_LEN: usize = 186;

/// A key as it is written. The encoded form also chooses the node, as for any other key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaKey<'a> {
    text: Cow<'a, [u8]>,
    is_base64: bool,
}

impl<'a> MetaKey<'a> {
    /// A key that classic commands accept is written as it is.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidKey> {
        match Key::parse(bytes) {
            Ok(_) => Ok(Self { text: Cow::Borrowed(bytes), is_base64: false }),
            Err(InvalidKey::Forbidden { .. }) if bytes.len() <= MAX_BINARY_KEY_LEN => {
                Ok(Self { text: Cow::Owned(to_base64(bytes)), is_base64: true })
            }
            Err(InvalidKey::Forbidden { .. }) => {
                Err(InvalidKey::BinaryTooLong { len: bytes.len() })
            }
            Err(other) => Err(other),
        }
    }

    pub fn as_key(&self) -> Key<'_> {
        Key::trusted(&self.text)
    }

    pub fn is_base64(&self) -> bool {
        self.is_base64
    }
}

/// The standard alphabet with padding, the only form that servers accept.
fn to_base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= group.len() { digit } else { b'=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_any_bytes() {
        for (raw, text) in [
            (&b"plain"[..], &b"plain"[..]),
            (b" ", b"IA=="),
            (b"a b", b"YSBi"),
            (b"a bc", b"YSBiYw=="),
            (b"\0\xff\xfe\xfb", b"AP/++w=="),
            (b"a\nbcd", b"YQpiY2Q="),
        ] {
            let key = MetaKey::parse(raw).unwrap();
            assert_eq!(key.as_key().as_bytes(), text, "{raw:?}");
            assert_eq!(key.is_base64(), raw != text);
        }
        assert_eq!(MetaKey::parse(b""), Err(InvalidKey::Empty));
        assert_eq!(MetaKey::parse(&[b'a'; 251]), Err(InvalidKey::TooLong { len: 251 }));
        assert_eq!(MetaKey::parse(&[0; 186]).unwrap().as_key().as_bytes().len(), 248);
        assert_eq!(MetaKey::parse(&[0; 187]), Err(InvalidKey::BinaryTooLong { len: 187 }));
    }
}
