//! A valid key: `1 <= len <= 250`, no byte `<= 0x20`, no `0x7f`.
//!
//! Everything that puts a key into a request takes a [`Key`], so a key that would end its line and
//! start another command cannot be encoded.
use std::fmt;

use super::meta::MAX_BINARY_KEY_LEN;

/// The longest key that memcached accepts, in bytes.
pub const MAX_KEY_LEN: usize = 250;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a>(&'a [u8]);

impl<'a> Key<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidKey> {
        if bytes.is_empty() {
            return Err(InvalidKey::Empty);
        }
        if bytes.len() > MAX_KEY_LEN {
            return Err(InvalidKey::TooLong { len: bytes.len() });
        }
        // Without an early exit the loop vectorizes, and keys are nearly always valid.
        if bytes.iter().fold(false, |bad, &b| bad | forbidden(b)) {
            let at = bytes.iter().position(|&b| forbidden(b)).unwrap_or_default();
            return Err(InvalidKey::Forbidden { byte: bytes[at], at });
        }
        Ok(Self(bytes))
    }

    /// Bytes that were validated as a [`Key`] before they were stored.
    #[inline]
    pub(crate) fn trusted(bytes: &'a [u8]) -> Self {
        debug_assert!(Self::parse(bytes).is_ok());
        Self(bytes)
    }

    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

fn forbidden(byte: u8) -> bool {
    byte <= 0x20 || byte == 0x7f
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidKey {
    Empty,
    TooLong {
        len: usize,
    },
    /// A key that must be written in base64.
    BinaryTooLong {
        len: usize,
    },
    Forbidden {
        byte: u8,
        at: usize,
    },
}

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "key is empty; it must have 1 to {MAX_KEY_LEN} bytes"),
            Self::TooLong { len } => {
                write!(f, "key has {len} bytes; it must have 1 to {MAX_KEY_LEN}")
            }
            Self::BinaryTooLong { len } => {
                write!(
                    f,
                    "key has {len} bytes; with whitespace or control bytes it must have 1 to {MAX_BINARY_KEY_LEN}"
                )
            }
            Self::Forbidden { byte, at } => {
                write!(
                    f,
                    "key has a forbidden byte 0x{byte:02x} at position {at}; \
                     whitespace and control bytes are not allowed"
                )
            }
        }
    }
}

impl std::error::Error for InvalidKey {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!(Key::parse(b""), Err(InvalidKey::Empty));
        assert!(Key::parse(&[b'a'; 250]).is_ok());
        assert_eq!(Key::parse(&[b'a'; 251]), Err(InvalidKey::TooLong { len: 251 }));
        for byte in 0..=255u8 {
            let key = [b'a', byte, b'b'];
            let good = byte > 0x20 && byte != 0x7f;
            assert_eq!(Key::parse(&key).is_ok(), good, "{byte:#x}");
        }
    }

    #[test]
    fn a_forbidden_byte_is_found_at_each_position() {
        for (len, around) in (1..=25).flat_map(|len| [0x21, 0x7e, 0x80, 0xff].map(|b| (len, b))) {
            let mut key = vec![around; len];
            assert!(Key::parse(&key).is_ok(), "{len} {around:#x}");
            for (at, byte) in (0..len).flat_map(|at| (0..=255).map(move |byte| (at, byte))) {
                key[at] = byte;
                let error = InvalidKey::Forbidden { byte, at };
                let expected = if forbidden(byte) { Err(error) } else { Ok(Key(&key)) };
                assert_eq!(Key::parse(&key), expected, "{len} {around:#x}");
                key[at] = around;
            }
        }
    }
}
