//! The binary protocol ("memcached doc/protocol-binary.txt"), for servers that require a SASL login
//! and then accept nothing else.
//!
//! It runs below the text protocol: text commands are translated to binary requests, and binary
//! responses to the text that a server would have sent. So pipelining, merging, cancellation and
//! error handling work unchanged.
//!
//! Invariant: responses arrive in the order of the requests. The opaque number of a response
//! belongs to the request at the head (`first <= opaque <= last`), and rises.
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

use super::command::EXPIRED;
use super::decode::{MAX_REPLY_LINE_LEN, MAX_VALUE_LEN};
use super::error::{Excerpt, ProtocolError};
use super::key::MAX_KEY_LEN;

const REQUEST: u8 = 0x80;
const RESPONSE: u8 = 0x81;
const HEADER_LEN: usize = 24;
/// The limit for responses that are not values. `stats detail dump` arrives in one piece.
const MAX_BODY_LEN: usize = 1024 * 1024;
/// `incr` and `decr` with this expiration do not create a missing counter.
const NO_CREATE: u32 = u32::MAX;

const NOT_IN_BINARY: &str = "CLIENT_ERROR there is no such command in the binary protocol\r\n";

mod opcode {
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

mod status {
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

/// The text reply that a request expects.
#[derive(Debug)]
enum Expected {
    /// Quiet gets, ended by a no-op.
    Retrieval {
        cas: bool,
        error: Option<String>,
    },
    Storage {
        opcode: u8,
        is_cas: bool,
    },
    /// `cas` with the token 0, which no item has, but which means "any" in binary. Only checks
    /// whether the item exists.
    NoMatch,
    Delete,
    Arithmetic {
        is_meta: bool,
    },
    Touch,
    Flush,
    Version,
    Stats {
        done: &'static str,
    },
    /// The command has no binary form.
    Local(&'static str),
}

#[derive(Debug)]
struct Pending {
    expects: Expected,
    opcode: u8,
    first: u32,
    last: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteState {
    Line,
    /// The rest of a value, and of the CRLF after it.
    Value {
        left: usize,
        end: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadState {
    Head,
    /// The rest of a value, and the text that follows it.
    Value {
        left: usize,
        is_wanted: bool,
        tail: &'static str,
    },
}

/// Translates both directions of one connection.
#[derive(Debug)]
pub struct Translator {
    pending: VecDeque<Pending>,
    next: u32,
    line: BytesMut,
    writing: WriteState,
    head: BytesMut,
    reading: ReadState,
}

impl Default for Translator {
    fn default() -> Self {
        Self {
            pending: VecDeque::new(),
            next: 0,
            line: BytesMut::new(),
            writing: WriteState::Line,
            head: BytesMut::new(),
            reading: ReadState::Head,
        }
    }
}

#[derive(Clone, Copy)]
struct Header {
    opcode: u8,
    key_len: usize,
    extras_len: usize,
    status: u16,
    body_len: usize,
    opaque: u32,
    cas: u64,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, ProtocolError> {
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

    fn value_len(&self) -> usize {
        self.body_len - self.extras_len - self.key_len
    }
}

/// # Format
/// ```text
/// magic opcode key-length:2 extras-length data-type vbucket:2 body-length:4 opaque:4 cas:8
/// extras key value
/// ```
fn request(out: &mut BytesMut, opcode: u8, opaque: u32, extras: &[u8], key: &[u8], value: usize) {
    request_if(out, opcode, opaque, extras, key, value, 0);
}

#[allow(clippy::cast_possible_truncation, reason = "all are bounded by the text they come from")]
fn request_if(
    out: &mut BytesMut,
    opcode: u8,
    opaque: u32,
    extras: &[u8],
    key: &[u8],
    value: usize,
    cas: u64,
) {
    out.reserve(HEADER_LEN + extras.len() + key.len());
    out.put_u8(REQUEST);
    out.put_u8(opcode);
    out.put_u16(key.len() as u16);
    out.put_u8(extras.len() as u8);
    out.put_u8(0);
    out.put_u16(0);
    out.put_u32((extras.len() + key.len() + value) as u32);
    out.put_u32(opaque);
    out.put_u64(cas);
    out.extend_from_slice(extras);
    out.extend_from_slice(key);
}

/// The length of the request at the start of `bytes`; `None` if its header is incomplete.
pub fn request_len(bytes: &[u8]) -> Option<usize> {
    let body_len = bytes.get(..HEADER_LEN)?.get(8..12)?.try_into().ok().map(u32::from_be_bytes)?;
    Some(HEADER_LEN + body_len as usize)
}

/// Our own encoder wrote the word, so it exists and is a number.
fn number<T: std::str::FromStr + Default>(word: Option<&[u8]>) -> T {
    word.and_then(|w| std::str::from_utf8(w).ok()).and_then(|w| w.parse().ok()).unwrap_or_default()
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

fn expiration(word: Option<&[u8]>) -> u32 {
    u32::try_from(number::<i64>(word)).unwrap_or(EXPIRED.cast_unsigned())
}

impl Translator {
    /// Translates text that [`super::Pipeline`] wrote. The text may arrive in pieces of any length,
    /// and all of it is consumed.
    pub fn encode(&mut self, mut text: &[u8], out: &mut BytesMut) {
        while !text.is_empty() {
            match self.writing {
                WriteState::Value { left, end } => {
                    let now = text.len().min(left + end);
                    let value_part = now.min(left);
                    out.extend_from_slice(&text[..value_part]);
                    text = &text[now..];
                    let (left, end) = (left - value_part, end - (now - value_part));
                    self.writing = match left + end {
                        0 => WriteState::Line,
                        _ => WriteState::Value { left, end },
                    };
                }
                WriteState::Line => {
                    let Some(at) = memchr::memchr(b'\n', text) else {
                        self.line.extend_from_slice(text);
                        return;
                    };
                    if self.line.is_empty() {
                        self.encode_command(&text[..at], out);
                    } else {
                        self.line.extend_from_slice(&text[..at]);
                        let line = self.line.split();
                        self.encode_command(&line, out);
                    }
                    text = &text[at + 1..];
                }
            }
        }
    }

    /// Encodes a request without a value.
    fn encode_simple(
        &mut self,
        expects: Expected,
        opcode: u8,
        extras: &[u8],
        key: Option<&[u8]>,
        out: &mut BytesMut,
    ) {
        let opaque = self.push_pending(expects, opcode);
        request(out, opcode, opaque, extras, key.unwrap_or_default(), 0);
    }

    fn push_pending(&mut self, expects: Expected, opcode: u8) -> u32 {
        let opaque = self.next;
        self.next = opaque.wrapping_add(1);
        self.pending.push_back(Pending { expects, opcode, first: opaque, last: opaque });
        opaque
    }

    fn encode_command(&mut self, line: &[u8], out: &mut BytesMut) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut words = line.split(|&b| b == b' ');
        let name = words.next().unwrap_or_default();
        match name {
            b"get" | b"gets" => {
                self.encode_retrieval(opcode::GETKQ, &[], name == b"gets", words, out);
            }
            b"gat" | b"gats" => {
                let extras = expiration(words.next()).to_be_bytes();
                self.encode_retrieval(opcode::GATKQ, &extras, name == b"gats", words, out);
            }
            b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" => {
                self.encode_storage(name, words, out);
            }
            b"delete" => {
                self.encode_simple(Expected::Delete, opcode::DELETE, &[], words.next(), out);
            }
            b"incr" | b"decr" => {
                let code = if name == b"incr" { opcode::INCREMENT } else { opcode::DECREMENT };
                let key = words.next();
                let delta = number(words.next());
                let extras = arithmetic(delta, 0, NO_CREATE);
                self.encode_simple(
                    Expected::Arithmetic { is_meta: false },
                    code,
                    &extras,
                    key,
                    out,
                );
            }
            b"ma" => {
                let (key, mode) = (words.next(), words.next());
                let is_incr = mode == Some(b"MI".as_slice());
                let code = if is_incr { opcode::INCREMENT } else { opcode::DECREMENT };
                let mut token = || words.next().and_then(|word| word.get(1..));
                let (exptime, initial, delta) = (expiration(token()), token(), token());
                let extras = arithmetic(number(delta), number(initial), exptime);
                self.encode_simple(Expected::Arithmetic { is_meta: true }, code, &extras, key, out);
            }
            b"touch" => {
                let key = words.next();
                let extras = expiration(words.next()).to_be_bytes();
                self.encode_simple(Expected::Touch, opcode::TOUCH, &extras, key, out);
            }
            b"flush_all" => {
                let extras = number::<u32>(words.next()).to_be_bytes();
                self.encode_simple(Expected::Flush, opcode::FLUSH, &extras, None, out);
            }
            b"version" => self.encode_simple(Expected::Version, opcode::VERSION, &[], None, out),
            b"stats" => {
                self.encode_stats(line.strip_prefix(b"stats ").unwrap_or_default(), out);
            }
            b"config" => self.answer_locally("ERROR\r\n", out),
            // `verbosity` and `config` have opcodes that memcached 1.6.18 does not know. It reads
            // the body of an unknown command twice and loses its place in the stream.
            _ => self.answer_locally(NOT_IN_BINARY, out),
        }
    }

    /// Ignores the words after the known ones, as servers do in text. In binary they compare only
    /// the beginning of some words, and would execute another command.
    fn encode_stats(&mut self, args: &[u8], out: &mut BytesMut) {
        let mut words = args.split(|&b| b == b' ');
        let (word, argument) = (words.next().unwrap_or_default(), words.next());
        let (key, done): (&[u8], _) = match (word, argument) {
            (b"reset", _) => (word, "RESET\r\n"),
            (b"settings", _) => (word, "END\r\n"),
            (b"detail", Some(b"on")) => (b"detail on", "OK\r\n"),
            (b"detail", Some(b"off")) => (b"detail off", "OK\r\n"),
            (b"detail", Some(b"dump")) => (b"detail dump", "END\r\n"),
            (b"detail", _) => {
                return self
                    .answer_locally("CLIENT_ERROR usage: stats detail on|off|dump\r\n", out);
            }
            _ if [&b"reset"[..], b"settings", b"detail"].iter().any(|w| word.starts_with(w)) => {
                return self.answer_locally("ERROR\r\n", out);
            }
            _ => (word, "END\r\n"),
        };
        self.encode_simple(Expected::Stats { done }, opcode::STAT, &[], Some(key), out);
    }

    /// Sends a no-op in place of the command, so that the reply arrives in order.
    fn answer_locally(&mut self, answer: &'static str, out: &mut BytesMut) {
        self.encode_simple(Expected::Local(answer), opcode::NOOP, &[], None, out);
    }

    fn encode_retrieval<'k>(
        &mut self,
        code: u8,
        extras: &[u8],
        cas: bool,
        keys: impl Iterator<Item = &'k [u8]>,
        out: &mut BytesMut,
    ) {
        let first = self.next;
        let mut last = first;
        for key in keys {
            request(out, code, last, extras, key, 0);
            last = last.wrapping_add(1);
        }
        request(out, opcode::NOOP, last, &[], &[], 0);
        self.next = last.wrapping_add(1);
        let expects = Expected::Retrieval { cas, error: None };
        self.pending.push_back(Pending { expects, opcode: code, first, last });
    }

    fn encode_storage<'k>(
        &mut self,
        name: &[u8],
        mut words: impl Iterator<Item = &'k [u8]>,
        out: &mut BytesMut,
    ) {
        let key = words.next().unwrap_or_default();
        let flags = words.next();
        // `set _ _ _`: see `encode`.
        let is_login = flags == Some(b"_".as_slice());
        let flags: u32 = number(flags);
        let expiration = expiration(words.next());
        let len: usize = number(words.next());
        let token: u64 = number(words.next());
        let is_cas = name == b"cas";
        let code = match name {
            b"add" => opcode::ADD,
            // With SET, a value that is too large would remove the item whatever its token.
            b"replace" | b"cas" => opcode::REPLACE,
            b"append" => opcode::APPEND,
            b"prepend" => opcode::PREPEND,
            _ => opcode::SET,
        };
        self.writing = WriteState::Value { left: len, end: 2 };
        if is_login {
            self.writing = WriteState::Value { left: 0, end: len + 2 };
            self.answer_locally(NOT_IN_BINARY, out);
            return;
        }
        if is_cas && token == 0 {
            self.writing = WriteState::Value { left: 0, end: len + 2 };
            self.encode_simple(Expected::NoMatch, opcode::GETK, &[], Some(key), out);
            return;
        }
        let mut extras = [0; 8];
        extras[..4].copy_from_slice(&flags.to_be_bytes());
        extras[4..].copy_from_slice(&expiration.to_be_bytes());
        let extras: &[u8] =
            if matches!(code, opcode::APPEND | opcode::PREPEND) { &[] } else { &extras };
        let opaque = self.push_pending(Expected::Storage { opcode: code, is_cas }, code);
        request_if(out, code, opaque, extras, key, len, token);
    }

    /// Translates responses as far as they are complete or can be passed on in pieces. Unused bytes
    /// are stored for the next call.
    pub fn decode(&mut self, mut binary: &[u8], out: &mut BytesMut) -> Result<(), ProtocolError> {
        while !binary.is_empty() || self.is_value_at_its_end() {
            match self.reading {
                ReadState::Value { left: 0, tail, .. } => {
                    out.extend_from_slice(tail.as_bytes());
                    self.reading = ReadState::Head;
                }
                ReadState::Value { left, is_wanted, tail } => {
                    let now = binary.len().min(left);
                    if is_wanted {
                        out.extend_from_slice(&binary[..now]);
                    }
                    binary = &binary[now..];
                    self.reading = ReadState::Value { left: left - now, is_wanted, tail };
                }
                ReadState::Head => {
                    let needed = self.head_len()?;
                    let now = binary.len().min(needed - self.head.len());
                    self.head.extend_from_slice(&binary[..now]);
                    binary = &binary[now..];
                    if self.head.len() == needed && self.head_len()? == needed {
                        let head = self.head.split();
                        self.decode_response(&head, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn is_value_at_its_end(&self) -> bool {
        matches!(self.reading, ReadState::Value { left: 0, .. })
    }

    /// The number of bytes that must be complete: a header with its extras and key, and any short
    /// body.
    fn head_len(&self) -> Result<usize, ProtocolError> {
        let Some(bytes) = self.head.get(..HEADER_LEN) else { return Ok(HEADER_LEN) };
        let header = Header::parse(bytes)?;
        let front = self.pending.front();
        let whole = HEADER_LEN + header.body_len;
        if front.is_some_and(|front| front.streams(&header)) {
            return Ok(whole - header.value_len());
        }
        if header.body_len > MAX_BODY_LEN {
            return Err(ProtocolError::LineTooLong);
        }
        Ok(whole)
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each kind of request")]
    fn decode_response(&mut self, head: &[u8], out: &mut BytesMut) -> Result<(), ProtocolError> {
        let header = Header::parse(head)?;
        let unexpected = || ProtocolError::UnexpectedLine(Excerpt::from_bytes(head));
        let Some(front) = self.pending.front_mut() else {
            return Err(ProtocolError::Unsolicited(Excerpt::from_bytes(head)));
        };
        let is_last = header.opaque == front.last;
        let is_retrieval = matches!(front.expects, Expected::Retrieval { .. });
        let expected = if is_last && is_retrieval { opcode::NOOP } else { front.opcode };
        let offset = header.opaque.wrapping_sub(front.first);
        if offset > front.last.wrapping_sub(front.first) || header.opcode != expected {
            return Err(unexpected());
        }
        // A response cannot be repeated. All responses to `stats` have the same number.
        front.first = if is_last { front.last } else { header.opaque.wrapping_add(1) };
        let key_start = HEADER_LEN + header.extras_len;
        let (key, body) = head[key_start..].split_at(header.key_len);
        let len = header.value_len();
        let is_ok = header.status == status::OK;
        let mut is_over = true;
        let line: Option<&str> = match &mut front.expects {
            Expected::Retrieval { error: Some(line), .. } if is_last => {
                out.extend_from_slice(line.as_bytes());
                Some("")
            }
            Expected::Retrieval { .. } if is_last => is_ok.then_some("END\r\n"),
            Expected::Retrieval { cas, error } => {
                if is_ok {
                    if key.iter().any(|&b| b <= b' ' || b == 0x7f) {
                        return Err(ProtocolError::ForeignKey(Excerpt::from_key(key)));
                    }
                    let flags = parse_flags(head, &header).ok_or_else(unexpected)?;
                    value_head(b"VALUE", key, flags, len, cas.then_some(header.cas), out);
                    self.reading = ReadState::Value { left: len, is_wanted: true, tail: "\r\n" };
                } else if header.status != status::NOT_FOUND {
                    error.get_or_insert_with(|| error_line(&header, body));
                }
                return Ok(());
            }
            // The body of `detail dump` is already text, including `END`.
            Expected::Stats { .. } if is_ok && body.ends_with(b"\r\n") => {
                out.extend_from_slice(body.strip_suffix(b"END\r\n").unwrap_or(body));
                is_over = false;
                Some("")
            }
            Expected::Stats { .. } if is_ok && !key.is_empty() => {
                for part in [b"STAT ", key, b" ", body, b"\r\n"] {
                    out.extend_from_slice(part);
                }
                is_over = false;
                Some("")
            }
            Expected::Stats { done } if is_ok => Some(*done),
            Expected::Stats { .. } => (header.status == status::NOT_FOUND).then_some("ERROR\r\n"),
            Expected::NoMatch if is_ok => {
                let tail = "EXISTS\r\n";
                self.reading = ReadState::Value { left: len, is_wanted: false, tail };
                Some("")
            }
            Expected::Arithmetic { is_meta } if is_ok => {
                let number = <[u8; 8]>::try_from(body).map_err(|_| unexpected())?;
                let number = u64::from_be_bytes(number).to_string();
                if *is_meta {
                    out.extend_from_slice(format!("VA {}\r\n", number.len()).as_bytes());
                }
                out.extend_from_slice(format!("{number}\r\n").as_bytes());
                Some("")
            }
            Expected::Arithmetic { is_meta: true } if header.status == status::NOT_FOUND => {
                Some("NF\r\n")
            }
            Expected::NoMatch | Expected::Arithmetic { .. } => found_reply(header.status, ""),
            Expected::Storage { opcode, is_cas } => storage_reply(header.status, *opcode, *is_cas),
            Expected::Delete => found_reply(header.status, "DELETED\r\n"),
            Expected::Touch => found_reply(header.status, "TOUCHED\r\n"),
            Expected::Flush => is_ok.then_some("OK\r\n"),
            Expected::Version if is_ok => {
                out.extend_from_slice(format!("VERSION {}\r\n", printable(body)).as_bytes());
                Some("")
            }
            Expected::Version => None,
            Expected::Local(answer) => is_ok.then_some(*answer),
        };
        match line {
            Some(line) => out.extend_from_slice(line.as_bytes()),
            None => out.extend_from_slice(error_line(&header, body).as_bytes()),
        }
        if is_over {
            self.pending.pop_front();
        }
        Ok(())
    }
}

/// # Format
/// ```text
/// <word> <key> <flags> <bytes>[ <cas>]\r\n
/// ```
fn value_head(
    word: &[u8],
    key: &[u8],
    flags: u32,
    len: usize,
    cas: Option<u64>,
    out: &mut BytesMut,
) {
    out.extend_from_slice(word);
    out.extend_from_slice(b" ");
    out.extend_from_slice(key);
    out.extend_from_slice(format!(" {flags} {len}").as_bytes());
    if let Some(cas) = cas {
        out.extend_from_slice(format!(" {cas}").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

impl Pending {
    /// Whether the value of this response is passed on as it arrives.
    fn streams(&self, header: &Header) -> bool {
        let has_value = matches!(self.expects, Expected::Retrieval { .. } | Expected::NoMatch);
        has_value && header.status == status::OK && header.opcode == self.opcode
    }
}

fn parse_flags(head: &[u8], header: &Header) -> Option<u32> {
    let extras = head.get(HEADER_LEN..HEADER_LEN + header.extras_len)?;
    Some(u32::from_be_bytes(extras.try_into().ok()?))
}

fn storage_reply(status: u16, opcode: u8, is_cas: bool) -> Option<&'static str> {
    match status {
        status::OK => Some("STORED\r\n"),
        status::NOT_FOUND if is_cas => Some("NOT_FOUND\r\n"),
        status::EXISTS if is_cas => Some("EXISTS\r\n"),
        status::NOT_STORED => Some("NOT_STORED\r\n"),
        status::EXISTS if opcode == opcode::ADD => Some("NOT_STORED\r\n"),
        status::NOT_FOUND if opcode != opcode::SET => Some("NOT_STORED\r\n"),
        _ => None,
    }
}

fn found_reply(status: u16, done: &'static str) -> Option<&'static str> {
    match status {
        status::OK => Some(done),
        status::NOT_FOUND => Some("NOT_FOUND\r\n"),
        _ => None,
    }
}

/// The error line that a server sends in text.
fn error_line(header: &Header, body: &[u8]) -> String {
    match header.status {
        status::UNKNOWN_COMMAND => "ERROR\r\n".to_owned(),
        status::TOO_LARGE => "SERVER_ERROR object too large for cache\r\n".to_owned(),
        status::OUT_OF_MEMORY => "SERVER_ERROR out of memory storing object\r\n".to_owned(),
        status::NOT_NUMERIC => {
            "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n".to_owned()
        }
        status::AUTH_ERROR => "CLIENT_ERROR unauthenticated\r\n".to_owned(),
        code => format!("SERVER_ERROR {} (status {code:#x})\r\n", printable(body)),
    }
}

/// The server's message, on one line.
fn printable(words: &[u8]) -> String {
    let shown = &words[..words.len().min(200)];
    String::from_utf8_lossy(shown).chars().filter(|c| !c.is_control()).collect()
}

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
