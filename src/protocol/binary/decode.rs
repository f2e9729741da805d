//! Responses as the replies of the text protocol.
use std::borrow::Cow;

use super::Binary;
use super::frame::{HEADER_LEN, Header, opcode, status};
use crate::protocol::dialect::{Expected, Form, Frame};
use crate::protocol::error::{Excerpt, ProtocolError};
use crate::protocol::reply::{ErrorLine, ErrorLineKind, ItemRef, Reply, StatLine};
use crate::protocol::text::{MAX_REPLY_LINE_LEN, stat_line};
use crate::protocol::verbs::Verb;

/// The limit for responses that are not values. `stats detail dump` arrives in one piece.
const MAX_BODY_LEN: usize = 1024 * 1024;

const NOT_IN_BINARY: &str = "CLIENT_ERROR there is no such command in the binary protocol";
const DETAIL_USAGE: &str = "CLIENT_ERROR usage: stats detail on|off|dump";

/// The state of the reply in progress.
#[derive(Debug, Default)]
pub struct ReplyState {
    /// The length of the frame in progress; 0 if it is not known.
    frame_len: usize,
    /// The bytes of the value of [`Form::NoMatch`] that are still to be skipped, if its response
    /// has begun.
    skipping: Option<usize>,
    /// The bytes that are left of the text that answers `stats detail dump`.
    dump_left: usize,
    /// The first error in the reply to a retrieval. It is the reply, once the no-op is answered.
    error: Option<Cow<'static, str>>,
    /// A line that no server sent in this form.
    line: String,
    stat: Vec<u8>,
}

type Decoded<'a> = Result<Option<(Frame<'a>, usize)>, ProtocolError>;

impl Binary {
    /// See [`super::super::dialect::Dialect::decode`].
    pub fn decode<'a>(&'a mut self, buf: &'a [u8], expected: Expected) -> Decoded<'a> {
        if self.reply.skipping.is_some() {
            return Ok(self.reply.skip(buf.len()));
        }
        if self.reply.dump_left > 0 {
            return self.reply.dump_line(buf);
        }
        self.reply.frame_len = 0;
        let Some(head) = buf.get(..HEADER_LEN) else {
            // Something else than a response is told from its first byte.
            if buf.first().is_some_and(|magic| *magic != super::frame::RESPONSE) {
                return Err(ProtocolError::UnexpectedLine(Excerpt::from_bytes(buf)));
            }
            return Ok(None);
        };
        let header = Header::parse(head)?;
        check(&header, expected, head)?;
        let (_, value_start, end) = header.positions();
        if expected.form == Form::NoMatch && header.status == status::OK {
            if buf.len() < value_start {
                return Ok(None);
            }
            self.reply.skipping = Some(end - value_start);
            let skipped = self.reply.skip(buf.len() - value_start);
            let (frame, len) = skipped.unwrap_or((Frame::Ignored, 0));
            return Ok(Some((frame, value_start + len)));
        }
        if !is_item(&header) && header.body_len > MAX_BODY_LEN {
            return Err(ProtocolError::LineTooLong);
        }
        if buf.len() < end {
            self.reply.frame_len = end;
            return Ok(None);
        }
        self.reply.response(&header, &buf[..end], expected)
    }

    /// See [`super::super::dialect::Dialect::large_item`].
    pub fn large_item<'b>(
        &self,
        buf: &'b [u8],
        expected: Expected,
        missing: usize,
    ) -> Option<(ItemRef<'b>, usize)> {
        let header = Header::parse(buf.get(..HEADER_LEN)?).ok()?;
        let (key_start, value_start, end) = header.positions();
        let is_large = is_item(&header) && expected.form == Form::Usual;
        if !is_large || buf.len() < value_start || end < buf.len() + missing {
            return None;
        }
        let item = item(&header, buf, key_start, value_start, buf.len(), expected)?;
        Some((item, end - value_start))
    }

    pub fn skip_frame(&mut self) {
        self.reply.frame_len = 0;
    }

    pub fn frame_len(&self) -> usize {
        self.reply.frame_len
    }
}

impl ReplyState {
    /// Skips the value of an item that shows that a key exists. `None` if there is nothing to skip
    /// yet.
    fn skip(&mut self, available: usize) -> Option<(Frame<'static>, usize)> {
        let left = self.skipping?;
        if available >= left {
            self.skipping = None;
            return Some((Frame::Reply(Reply::Exists), left));
        }
        self.skipping = Some(left - available);
        (available > 0).then_some((Frame::Ignored, available))
    }

    /// `frame` is a whole response.
    fn response<'a>(
        &'a mut self,
        header: &Header,
        frame: &'a [u8],
        expected: Expected,
    ) -> Decoded<'a> {
        let (key_start, value_start, end) = header.positions();
        let body = &frame[value_start..];
        let is_ok = header.status == status::OK;
        let frame = match expected.verb {
            Verb::Get | Verb::Gets | Verb::Gat | Verb::Gats => {
                return self.retrieval(header, frame, expected);
            }
            Verb::Stats if expected.form == Form::Usual && is_ok && body.ends_with(b"\r\n") => {
                self.dump_left = body.len();
                return Ok(Some((Frame::Ignored, value_start)));
            }
            Verb::Stats if is_ok && header.key_len > 0 => {
                Frame::Stat(self.stat(&frame[key_start..value_start], body))
            }
            Verb::Version if is_ok => {
                self.line = printable(body);
                Frame::Reply(Reply::Version(self.line.as_bytes()))
            }
            Verb::Incr | Verb::Decr | Verb::MetaArithmetic if is_ok => {
                let unexpected = || ProtocolError::UnexpectedLine(Excerpt::from_bytes(frame));
                let number = <[u8; 8]>::try_from(body).map_err(|_| unexpected())?;
                Frame::Reply(Reply::Number(u64::from_be_bytes(number)))
            }
            _ => Frame::Reply(match reply_without_body(header.status, expected) {
                Some(reply) => reply,
                None => self.error(error_line(header, body)),
            }),
        };
        Ok(Some((frame, end)))
    }

    fn retrieval<'a>(
        &'a mut self,
        header: &Header,
        frame: &'a [u8],
        expected: Expected,
    ) -> Decoded<'a> {
        let (key_start, value_start, end) = header.positions();
        let body = &frame[value_start..];
        if header.opcode == opcode::NOOP {
            return Ok(Some((Frame::Reply(self.retrieval_end(header, body)), end)));
        }
        if header.status == status::OK {
            let unexpected = || ProtocolError::UnexpectedLine(Excerpt::from_bytes(frame));
            let item = item(header, frame, key_start, value_start, end, expected);
            let item = item.ok_or_else(unexpected)?;
            if item.key.iter().any(|&b| b <= b' ' || b == 0x7f) {
                return Err(ProtocolError::ForeignKey(Excerpt::from_key(item.key)));
            }
            return Ok(Some((Frame::Item(item), end)));
        }
        if header.status != status::NOT_FOUND {
            self.error.get_or_insert_with(|| error_line(header, body));
        }
        Ok(Some((Frame::Ignored, end)))
    }

    fn retrieval_end(&mut self, header: &Header, body: &[u8]) -> Reply<'_> {
        let failure = || (header.status != status::OK).then(|| error_line(header, body));
        match self.error.take().or_else(failure) {
            Some(line) => self.error(line),
            None => Reply::End,
        }
    }

    fn error(&mut self, line: Cow<'static, str>) -> Reply<'_> {
        self.line = line.into_owned();
        error(&self.line)
    }

    /// As in text: `STAT <name> <value>`.
    fn stat(&mut self, name: &[u8], value: &[u8]) -> StatLine<'_> {
        const WORD: &[u8] = b"STAT ";
        self.stat.clear();
        for part in [WORD, name, b" ", value] {
            self.stat.extend_from_slice(part);
        }
        let (name, value) = self.stat[WORD.len()..].split_at(name.len());
        StatLine { line: &self.stat, name, value: &value[1..] }
    }

    /// The next line of the text that answers `stats detail dump`, which ends with `END`.
    fn dump_line<'a>(&mut self, buf: &'a [u8]) -> Decoded<'a> {
        let text = &buf[..buf.len().min(self.dump_left)];
        let unexpected = |line| ProtocolError::UnexpectedLine(Excerpt::from_bytes(line));
        let Some(at) = memchr::memchr(b'\n', text) else {
            let is_bad = text.len() > MAX_REPLY_LINE_LEN || text.len() == self.dump_left;
            return if is_bad { Err(unexpected(text)) } else { Ok(None) };
        };
        self.dump_left -= at + 1;
        let line = text[..at].strip_suffix(b"\r").ok_or_else(|| unexpected(text))?;
        let frame = match line {
            b"END" => Frame::Ignored,
            _ => Frame::Stat(stat_line(line).ok_or_else(|| unexpected(line))?),
        };
        Ok(Some((frame, at + 1)))
    }
}

/// Whether the response belongs to the request.
fn check(header: &Header, expected: Expected, head: &[u8]) -> Result<(), ProtocolError> {
    let is_local =
        matches!(expected.form, Form::NotInDialect | Form::UnknownCommand | Form::DetailUsage);
    let code = header.opcode;
    let is_expected = match expected.verb {
        _ if is_local => code == opcode::NOOP,
        Verb::Get | Verb::Gets => matches!(code, opcode::GETKQ | opcode::NOOP),
        Verb::Gat | Verb::Gats => matches!(code, opcode::GATKQ | opcode::NOOP),
        Verb::Set => code == opcode::SET,
        Verb::Add => code == opcode::ADD,
        Verb::Cas if expected.form == Form::NoMatch => code == opcode::GETK,
        Verb::Replace | Verb::Cas => code == opcode::REPLACE,
        Verb::Append => code == opcode::APPEND,
        Verb::Prepend => code == opcode::PREPEND,
        Verb::Delete => code == opcode::DELETE,
        Verb::Incr => code == opcode::INCREMENT,
        Verb::Decr => code == opcode::DECREMENT,
        Verb::MetaArithmetic => matches!(code, opcode::INCREMENT | opcode::DECREMENT),
        Verb::Touch => code == opcode::TOUCH,
        Verb::FlushAll => code == opcode::FLUSH,
        Verb::Version => code == opcode::VERSION,
        Verb::Stats => code == opcode::STAT,
        Verb::MetaGet
        | Verb::MetaSet
        | Verb::MetaDelete
        | Verb::MetaDebug
        | Verb::MetaNoOp
        | Verb::Verbosity
        | Verb::CacheMemlimit
        | Verb::ConfigGetCluster
        | Verb::Auth => false,
    };
    if is_expected && header.opaque == expected.opaque {
        return Ok(());
    }
    Err(ProtocolError::UnexpectedLine(Excerpt::from_bytes(head)))
}

/// Whether the response carries a value.
fn is_item(header: &Header) -> bool {
    header.status == status::OK && matches!(header.opcode, opcode::GETKQ | opcode::GATKQ)
}

/// `value_end` may be before the end of the frame.
fn item<'b>(
    header: &Header,
    frame: &'b [u8],
    key_start: usize,
    value_start: usize,
    value_end: usize,
    expected: Expected,
) -> Option<ItemRef<'b>> {
    let flags = u32::from_be_bytes(frame.get(HEADER_LEN..key_start)?.try_into().ok()?);
    let has_cas = matches!(expected.verb, Verb::Gets | Verb::Gats);
    Some(ItemRef {
        key: &frame[key_start..value_start],
        flags,
        cas: has_cas.then_some(header.cas),
        value: &frame[value_start..value_end],
    })
}

/// The reply, if the status alone says it and is no failure.
fn reply_without_body(status: u16, expected: Expected) -> Option<Reply<'static>> {
    let Expected { verb, form, .. } = expected;
    let is_ok = status == status::OK;
    match (form, verb) {
        (Form::NotInDialect, _) => is_ok.then(|| error(NOT_IN_BINARY)),
        (Form::UnknownCommand, _) => is_ok.then(|| error("ERROR")),
        (Form::DetailUsage, _) => is_ok.then(|| error(DETAIL_USAGE)),
        (_, Verb::Stats) if status == status::NOT_FOUND => Some(error("ERROR")),
        (Form::Reset, _) => is_ok.then_some(Reply::Reset),
        (Form::Toggle, _) | (Form::Usual, Verb::FlushAll) => is_ok.then_some(Reply::Ok),
        (Form::NoMatch, _) | (_, Verb::Incr | Verb::Decr | Verb::MetaArithmetic) => {
            found_reply(status, None)
        }
        (Form::Usual, Verb::Stats) => is_ok.then_some(Reply::End),
        (
            Form::Usual,
            Verb::Set | Verb::Add | Verb::Replace | Verb::Append | Verb::Prepend | Verb::Cas,
        ) => storage_reply(status, verb),
        (Form::Usual, Verb::Delete) => found_reply(status, Some(Reply::Deleted)),
        (Form::Usual, Verb::Touch) => found_reply(status, Some(Reply::Touched)),
        (Form::Usual, _) => None,
    }
}

fn storage_reply(status: u16, verb: Verb) -> Option<Reply<'static>> {
    let is_cas = verb == Verb::Cas;
    match status {
        status::OK => Some(Reply::Stored),
        status::NOT_FOUND if is_cas => Some(Reply::NotFound),
        status::EXISTS if is_cas => Some(Reply::Exists),
        status::NOT_STORED => Some(Reply::NotStored),
        status::EXISTS if verb == Verb::Add => Some(Reply::NotStored),
        status::NOT_FOUND if verb != Verb::Set => Some(Reply::NotStored),
        _ => None,
    }
}

fn found_reply(status: u16, done: Option<Reply<'static>>) -> Option<Reply<'static>> {
    match status {
        status::OK => done,
        status::NOT_FOUND => Some(Reply::NotFound),
        _ => None,
    }
}

fn error(line: &str) -> Reply<'_> {
    let kind = match line.split(' ').next() {
        Some("CLIENT_ERROR") => ErrorLineKind::Client,
        Some("SERVER_ERROR") => ErrorLineKind::Server,
        _ => ErrorLineKind::Unknown,
    };
    Reply::Error(ErrorLine { kind, line: line.as_bytes() })
}

/// The error line that a server sends in text.
fn error_line(header: &Header, body: &[u8]) -> Cow<'static, str> {
    match header.status {
        status::UNKNOWN_COMMAND => "ERROR".into(),
        status::TOO_LARGE => "SERVER_ERROR object too large for cache".into(),
        status::OUT_OF_MEMORY => "SERVER_ERROR out of memory storing object".into(),
        status::NOT_NUMERIC => {
            "CLIENT_ERROR cannot increment or decrement non-numeric value".into()
        }
        status::AUTH_ERROR => "CLIENT_ERROR unauthenticated".into(),
        code => format!("SERVER_ERROR {} (status {code:#x})", printable(body)).into(),
    }
}

/// The server's message, on one line.
fn printable(words: &[u8]) -> String {
    let shown = &words[..words.len().min(200)];
    String::from_utf8_lossy(shown).chars().filter(|c| !c.is_control()).collect()
}
