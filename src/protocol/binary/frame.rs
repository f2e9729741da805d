//! The header that requests and responses have in common.
use bytes::{BufMut, BytesMut};

use crate::protocol::error::{Excerpt, ProtocolError};
use crate::protocol::key::MAX_KEY_LEN;
use crate::protocol::text::MAX_VALUE_LEN;

pub const REQUEST: u8 = 0x80;
pub const RESPONSE: u8 = 0x81;
pub const HEADER_LEN: usize = 24;

pub mod opcode {
    pub const SET: u8 = 0x01;
    pub const ADD: u8 = 0x02;
    pub const REPLACE: u8 = 0x03;
    pub const DELETE: u8 = 0x04;
    pub const INCREMENT: u8 = 0x05;
    pub const DECREMENT: u8 = 0x06;
    pub const FLUSH: u8 = 0x08;
    pub const NOOP: u8 = 0x0a;
    pub const VERSION: u8 = 0x0b;
    pub const GETK: u8 = 0x0c;
    pub const GETKQ: u8 = 0x0d;
    pub const APPEND: u8 = 0x0e;
    pub const PREPEND: u8 = 0x0f;
    pub const STAT: u8 = 0x10;
    pub const TOUCH: u8 = 0x1c;
    pub const SASL_LIST: u8 = 0x20;
    pub const SASL_AUTH: u8 = 0x21;
    pub const GATKQ: u8 = 0x24;
}

pub mod status {
    pub const OK: u16 = 0;
    pub const NOT_FOUND: u16 = 1;
    pub const EXISTS: u16 = 2;
    pub const TOO_LARGE: u16 = 3;
    pub const NOT_STORED: u16 = 5;
    pub const NOT_NUMERIC: u16 = 6;
    pub const AUTH_ERROR: u16 = 0x20;
    pub const UNKNOWN_COMMAND: u16 = 0x81;
    pub const OUT_OF_MEMORY: u16 = 0x82;
}

/// The header of a response.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub opcode: u8,
    pub key_len: usize,
    pub extras_len: usize,
    pub status: u16,
    pub body_len: usize,
    pub opaque: u32,
    pub cas: u64,
}

impl Header {
    /// `bytes` holds at least [`HEADER_LEN`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| (u32::from(u16_at(at)) << 16) | u32::from(u16_at(at + 2));
        if bytes[0] != RESPONSE {
            return Err(ProtocolError::UnexpectedLine(Excerpt::from_bytes(bytes)));
        }
        let header = Self {
            opcode: bytes[1],
            key_len: usize::from(u16_at(2)),
            extras_len: usize::from(bytes[4]),
            status: u16_at(6),
            body_len: u32_at(8) as usize,
            opaque: u32_at(12),
            cas: (u64::from(u32_at(16)) << 32) | u64::from(u32_at(20)),
        };
        if header.key_len > MAX_KEY_LEN || header.extras_len + header.key_len > header.body_len {
            return Err(ProtocolError::UnexpectedLine(Excerpt::from_bytes(bytes)));
        }
        if header.value_len() as u64 > MAX_VALUE_LEN {
            return Err(ProtocolError::ValueTooLong { len: header.value_len() as u64 });
        }
        Ok(header)
    }

    pub fn value_len(&self) -> usize {
        self.body_len - self.extras_len - self.key_len
    }

    /// The positions of the key and of the value in the frame, and its end.
    pub fn positions(&self) -> (usize, usize, usize) {
        let key = HEADER_LEN + self.extras_len;
        (key, key + self.key_len, HEADER_LEN + self.body_len)
    }
}

/// # Format
/// ```text
/// magic opcode key-length:2 extras-length data-type vbucket:2 body-length:4 opaque:4 cas:8
/// extras key value
/// ```
/// The value, which has `value_len` bytes, is written by the caller.
pub fn request(
    out: &mut BytesMut,
    opcode: u8,
    opaque: u32,
    extras: &[u8],
    key: &[u8],
    value_len: usize,
) {
    request_if(out, opcode, opaque, extras, key, value_len, 0);
}

/// Like [`request`], with a `cas` token.
#[allow(clippy::cast_possible_truncation, reason = "keys and values are bounded")]
pub fn request_if(
    out: &mut BytesMut,
    opcode: u8,
    opaque: u32,
    extras: &[u8],
    key: &[u8],
    value_len: usize,
    cas: u64,
) {
    out.reserve(HEADER_LEN + extras.len() + key.len());
    out.put_u8(REQUEST);
    out.put_u8(opcode);
    out.put_u16(key.len() as u16);
    out.put_u8(extras.len() as u8);
    out.put_u8(0);
    out.put_u16(0);
    out.put_u32((extras.len() + key.len() + value_len) as u32);
    out.put_u32(opaque);
    out.put_u64(cas);
    out.extend_from_slice(extras);
    out.extend_from_slice(key);
}
