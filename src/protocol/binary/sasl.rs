//! The SASL login.
use bytes::{BufMut, BytesMut};

use super::frame::{HEADER_LEN, Header, RESPONSE, opcode, request, status};
use crate::protocol::error::{Excerpt, ProtocolError};
use crate::protocol::text::MAX_REPLY_LINE_LEN;

/// Requests the list of SASL mechanisms.
pub fn sasl_mechanisms(out: &mut BytesMut) {
    request(out, opcode::SASL_LIST, 0, &[], &[], 0);
}

/// RFC 4616: authorization identity (empty here), username and password, separated by null
/// characters.
pub fn sasl_plain(username: &str, password: &str, out: &mut BytesMut) {
    let len = username.len() + password.len() + 2;
    request(out, opcode::SASL_AUTH, 0, &[], b"PLAIN", len);
    out.put_u8(0);
    out.extend_from_slice(username.as_bytes());
    out.put_u8(0);
    out.extend_from_slice(password.as_bytes());
}

/// The response to either SASL request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SaslAnswer {
    /// The first request returns the mechanisms.
    Ok(Vec<u8>),
    Refused(Vec<u8>),
    /// The server does not support SASL.
    Unknown,
}

/// The response and its length, if all of it has arrived.
pub fn sasl_answer(bytes: &[u8]) -> Result<Option<(SaslAnswer, usize)>, ProtocolError> {
    if bytes.first().is_some_and(|magic| *magic != RESPONSE) {
        return Err(ProtocolError::UnexpectedLine(Excerpt::from_bytes(bytes)));
    }
    let Some(head) = bytes.get(..HEADER_LEN) else { return Ok(None) };
    let header = Header::parse(head)?;
    let is_answer = matches!(header.opcode, opcode::SASL_LIST | opcode::SASL_AUTH);
    if !is_answer || header.body_len > MAX_REPLY_LINE_LEN {
        return Err(ProtocolError::UnexpectedLine(Excerpt::from_bytes(head)));
    }
    let len = HEADER_LEN + header.body_len;
    let Some(body) = bytes.get(len - header.value_len()..len) else { return Ok(None) };
    let answer = match header.status {
        status::OK => SaslAnswer::Ok(body.to_vec()),
        status::UNKNOWN_COMMAND => SaslAnswer::Unknown,
        _ => SaslAnswer::Refused(body.to_vec()),
    };
    Ok(Some((answer, len)))
}
