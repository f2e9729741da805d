//! Decodes replies, one frame at a time.
//!
//! The decoder resumes where it stopped: `scanned <= buf.len()`, and bytes below `scanned` are not
//! searched again. A value is framed by its length, never by its contents. Lengths are checked
//! before memory is allocated for them.
use crate::protocol::dialect::Frame;
use crate::protocol::error::{Excerpt, ProtocolError};
use crate::protocol::meta::{MetaAttributes, MetaVerb, line_reply};
use crate::protocol::reply::{
    ErrorLine, ErrorLineKind, ItemRef, MetaValue, Reply, Shape, StatLine,
};

/// The longest reply line, CRLF included. Real ones stay below 400 bytes.
pub const MAX_REPLY_LINE_LEN: usize = 2048;
/// memcached refuses item sizes of 1 GiB and more (`-I`).
pub const MAX_VALUE_LEN: u64 = (1 << 30) - 1;

/// The list of nodes has room for ten thousand of them.
const MAX_CONFIG_LEN: u64 = 1024 * 1024;

/// The state of the frame in progress, in offsets from the first byte that is not consumed yet.
#[derive(Debug, Default)]
pub struct Decoder {
    scanned: usize,
    header: Option<Header>,
}

/// In the reply to a meta command, the flags are in place of the key.
#[derive(Clone, Copy, Debug)]
struct Header {
    key_start: usize,
    key_end: usize,
    flags: u32,
    cas: Option<u64>,
    value_start: usize,
    value_end: usize,
}

/// The word that starts an item in replies of this shape.
fn item_word(shape: Shape) -> Option<&'static [u8]> {
    match shape {
        Shape::Retrieval { .. } => Some(b"VALUE "),
        Shape::Config => Some(b"CONFIG "),
        Shape::Meta(MetaVerb::Get | MetaVerb::Arithmetic) => Some(b"VA "),
        _ => None,
    }
}

impl Decoder {
    /// Reads the next frame at the start of `buf` and returns it with its length. Returns `None` if
    /// more bytes are needed; the next call must pass the same bytes again, followed by the new
    /// ones.
    pub fn next<'b>(
        &mut self,
        buf: &'b [u8],
        shape: Shape,
    ) -> Result<Option<(Frame<'b>, usize)>, ProtocolError> {
        if self.header.is_none() {
            let Some(line_end) = self.find_line_end(buf, shape)? else { return Ok(None) };
            let line = &buf[..line_end - 2];
            let Some(word) = item_word(shape).filter(|word| line.starts_with(word)) else {
                self.scanned = 0;
                return Ok(Some((line_frame(line, shape)?, line_end)));
            };
            self.header = Some(match shape {
                Shape::Meta(verb) => meta_header(line, verb)?,
                _ => item_header(line, word.len(), shape)?,
            });
        }
        let Some(header) = self.header else { return Ok(None) };
        if shape == Shape::Config {
            return self.config_frame(buf, header);
        }
        let frame_end = header.value_end + 2;
        if buf.len() < frame_end {
            return Ok(None);
        }
        if &buf[header.value_end..frame_end] != b"\r\n" {
            return Err(ProtocolError::ValueNotTerminated);
        }
        self.header = None;
        self.scanned = 0;
        let key = &buf[header.key_start..header.key_end];
        let value = &buf[header.value_start..header.value_end];
        if let Shape::Meta(verb) = shape {
            return meta_frame(key, value, verb).map(|frame| Some((frame, frame_end)));
        }
        let item = ItemRef { key, flags: header.flags, cas: header.cas, value };
        Ok(Some((Frame::Item(item), frame_end)))
    }

    /// A fast path for replies with many keys: reads the next frame in one pass if it is a complete
    /// item of `key`, formatted as servers format it. `None` has no meaning of its own;
    /// [`Self::next`] decides.
    pub(super) fn item_with_key<'b>(
        &self,
        key: &[u8],
        buf: &'b [u8],
        shape: Shape,
    ) -> Option<(ItemRef<'b>, usize)> {
        let Shape::Retrieval { cas } = shape else { return None };
        if self.scanned > 0 || self.header.is_some() {
            return None;
        }
        let Header { key_start, key_end, flags, cas, value_start, value_end } =
            header_with_key(key, buf, cas)?;
        let frame_end = value_end + 2;
        if buf.get(value_end..frame_end)? != b"\r\n" {
            return None;
        }
        let (key, value) = (&buf[key_start..key_end], &buf[value_start..value_end]);
        Some((ItemRef { key, flags, cas, value }, frame_end))
    }

    /// The list of nodes is framed by its length if the length is right, and otherwise by `END`,
    /// because some services and their imitations send a wrong length.
    fn config_frame<'b>(
        &mut self,
        buf: &'b [u8],
        header: Header,
    ) -> Result<Option<(Frame<'b>, usize)>, ProtocolError> {
        let Header { value_start, value_end, .. } = header;
        let is_right = buf.get(value_end..).is_some_and(|rest| rest.starts_with(b"\r\nEND\r\n"));
        let (value_end, frame_end) = if is_right {
            (value_end, value_end + 2)
        } else {
            let from = self.scanned.max(value_start);
            let Some(at) = memchr::memmem::find(&buf[from..], b"\nEND\r\n") else {
                // The end mark may have started here.
                self.scanned = buf.len().saturating_sub(6).max(value_start);
                let len = (buf.len() - value_start) as u64;
                let is_bounded = len <= MAX_CONFIG_LEN;
                return if is_bounded {
                    Ok(None)
                } else {
                    Err(ProtocolError::ValueTooLong { len })
                };
            };
            (from + at + 1, from + at + 1)
        };
        self.header = None;
        self.scanned = 0;
        let key = &buf[header.key_start..header.key_end];
        let item =
            ItemRef { key, flags: header.flags, cas: None, value: &buf[value_start..value_end] };
        Ok(Some((Frame::Item(item), frame_end)))
    }

    /// The item in progress at the start of `buf`, if at least `missing` bytes of its value have
    /// not arrived: the part that has, and the length of the whole value.
    pub(super) fn large_item<'b>(
        &self,
        buf: &'b [u8],
        shape: Shape,
        missing: usize,
    ) -> Option<(ItemRef<'b>, usize)> {
        let is_item = matches!(shape, Shape::Retrieval { .. } | Shape::Meta(_));
        let header = self.header.filter(|h| is_item && h.value_end >= buf.len() + missing)?;
        let Header { key_start, key_end, flags, cas, value_start, value_end } = header;
        let (key, value) = (&buf[key_start..key_end], &buf[value_start..]);
        Some((ItemRef { key, flags, cas, value }, value_end - value_start))
    }

    /// Forgets the frame in progress, because the caller reads the rest of it.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The length of the frame in progress, which the buffer must hold; 0 if it is not known.
    #[inline]
    pub fn frame_len(&self) -> usize {
        self.header.map_or(0, |h| h.value_end + 2)
    }

    fn find_line_end(&mut self, buf: &[u8], shape: Shape) -> Result<Option<usize>, ProtocolError> {
        let limit = buf.len().min(MAX_REPLY_LINE_LEN);
        loop {
            let Some(at) = memchr::memchr(b'\n', &buf[self.scanned..limit]) else {
                self.scanned = limit;
                if limit == MAX_REPLY_LINE_LEN {
                    return Err(ProtocolError::LineTooLong);
                }
                return Ok(None);
            };
            let lf = self.scanned + at;
            if lf > 0 && buf[lf - 1] == b'\r' {
                return Ok(Some(lf + 1));
            }
            // `stats conns` prints uninitialized memory in place of the addresses of unix sockets.
            if shape != Shape::Stats || lf == 0 {
                return Err(ProtocolError::UnexpectedLine(Excerpt::from_bytes(&buf[..lf])));
            }
            self.scanned = lf + 1;
        }
    }
}

/// The header of an item with this key. On `None`, [`item_header`] decides what the line is.
///
/// # Format
/// ```text
/// VALUE <key> <flags> <bytes>[ <cas>]\r\n
/// ```
#[inline(always)]
#[allow(clippy::inline_always, reason = "called once, for each item")]
fn header_with_key(key: &[u8], buf: &[u8], cas: bool) -> Option<Header> {
    const WORD: &[u8] = b"VALUE ";
    let mut rest = buf.strip_prefix(WORD)?.strip_prefix(key)?;
    let flags = u32::try_from(plain_number(&mut rest)?).ok()?;
    let len = plain_number(&mut rest)?;
    let cas = if cas { Some(plain_number(&mut rest)?) } else { None };
    let value = rest.strip_prefix(b"\r\n")?;
    if len > MAX_VALUE_LEN {
        return None;
    }
    let (key_start, value_start) = (WORD.len(), buf.len() - value.len());
    let value_end = value_start + usize::try_from(len).ok()?;
    Some(Header { key_start, key_end: key_start + key.len(), flags, cas, value_start, value_end })
}

/// Takes a space and a number off the front of `rest`. The number ends at the first byte that is
/// not a digit.
#[inline]
fn plain_number(rest: &mut &[u8]) -> Option<u64> {
    let digits = rest.strip_prefix(b" ")?;
    let (mut at, mut number) = (0, 0);
    loop {
        let digit = digits.get(at)?.wrapping_sub(b'0');
        if digit > 9 {
            *rest = &digits[at..];
            return (at > 0).then_some(number);
        }
        // 19 digits never overflow; longer numbers take the slow path.
        if at == 19 {
            return None;
        }
        number = number * 10 + u64::from(digit);
        at += 1;
    }
}

/// # Format
/// ```text
/// <VALUE|CONFIG> <key> <flags> <bytes>[ <cas>]\r\n<value>\r\n
/// ```
fn item_header(line: &[u8], key_start: usize, shape: Shape) -> Result<Header, ProtocolError> {
    let unexpected = || ProtocolError::UnexpectedLine(Excerpt::from_bytes(line));
    let key_len = memchr::memchr(b' ', &line[key_start..]).ok_or_else(unexpected)?;
    let key_end = key_start + key_len;
    let mut fields = line[key_end + 1..].split(|&b| b == b' ').map(parse_u64);
    let mut field = || fields.next().flatten();
    let flags = field().and_then(|f| u32::try_from(f).ok()).ok_or_else(unexpected)?;
    let len = field().ok_or_else(unexpected)?;
    let cas = match shape {
        Shape::Retrieval { cas: true } => Some(field().ok_or_else(unexpected)?),
        _ => None,
    };
    if key_len == 0 || fields.next().is_some() {
        return Err(unexpected());
    }
    if len > MAX_VALUE_LEN {
        return Err(ProtocolError::ValueTooLong { len });
    }
    let value_start = line.len() + 2;
    let len = usize::try_from(len).map_err(|_| ProtocolError::ValueTooLong { len })?;
    Ok(Header { key_start, key_end, flags, cas, value_start, value_end: value_start + len })
}

fn line_frame(line: &[u8], shape: Shape) -> Result<Frame<'_>, ProtocolError> {
    let reply = match (shape, line) {
        (Shape::Retrieval { .. } | Shape::Stats | Shape::Config, b"END") => Reply::End,
        (Shape::Storage, b"STORED") => Reply::Stored,
        (Shape::Storage, b"NOT_STORED") => Reply::NotStored,
        (Shape::Storage, b"EXISTS") => Reply::Exists,
        (Shape::Storage | Shape::Delete | Shape::Arithmetic | Shape::Touch, b"NOT_FOUND") => {
            Reply::NotFound
        }
        (Shape::Delete, b"DELETED") => Reply::Deleted,
        (Shape::Touch, b"TOUCHED") => Reply::Touched,
        (Shape::Ok | Shape::Stats, b"OK") => Reply::Ok,
        (Shape::Stats, b"RESET") => Reply::Reset,
        _ => return other_frame(line, shape),
    };
    Ok(Frame::Reply(reply))
}

fn other_frame(line: &[u8], shape: Shape) -> Result<Frame<'_>, ProtocolError> {
    if let Some(kind) = error_kind(line, shape) {
        return Ok(Frame::Reply(Reply::Error(ErrorLine { kind, line })));
    }
    let frame = match shape {
        Shape::Arithmetic => {
            parse_u64(line.trim_ascii_end()).map(|n| Frame::Reply(Reply::Number(n)))
        }
        Shape::Version => line.strip_prefix(b"VERSION ").map(|v| Frame::Reply(Reply::Version(v))),
        Shape::Stats => stat_line(line).map(Frame::Stat),
        Shape::Meta(verb) => meta_reply(line, Some(verb)),
        Shape::MetaNoOp => meta_reply(line, None),
        _ => None,
    };
    frame.ok_or_else(|| ProtocolError::UnexpectedLine(Excerpt::from_bytes(line)))
}

fn meta_reply(line: &[u8], verb: Option<MetaVerb>) -> Option<Frame<'_>> {
    let (status, flags) = line_reply(line, verb)?;
    Some(Frame::Reply(Reply::Meta { status, flags }))
}

/// # Format
/// ```text
/// VA <bytes>[ <flags>]\r\n<value>\r\n
/// ```
fn meta_header(line: &[u8], verb: MetaVerb) -> Result<Header, ProtocolError> {
    let unexpected = || ProtocolError::UnexpectedLine(Excerpt::from_bytes(line));
    let words = &line[3..];
    let len_end = memchr::memchr(b' ', words).unwrap_or(words.len());
    let len = parse_u64(&words[..len_end]).ok_or_else(unexpected)?;
    // No number is longer.
    let limit = if verb == MetaVerb::Arithmetic { 20 } else { MAX_VALUE_LEN };
    if len > limit {
        return Err(ProtocolError::ValueTooLong { len });
    }
    let key_start = (3 + len_end + 1).min(line.len());
    if MetaAttributes::parse(&line[key_start..]).is_none() {
        return Err(unexpected());
    }
    let value_start = line.len() + 2;
    let len = usize::try_from(len).map_err(|_| ProtocolError::ValueTooLong { len })?;
    let value_end = value_start + len;
    Ok(Header { key_start, key_end: line.len(), flags: 0, cas: None, value_start, value_end })
}

/// `ma` returns a number.
fn meta_frame<'b>(
    flags: &'b [u8],
    value: &'b [u8],
    verb: MetaVerb,
) -> Result<Frame<'b>, ProtocolError> {
    if verb == MetaVerb::Arithmetic && parse_u64(value).is_none() {
        return Err(ProtocolError::UnexpectedLine(Excerpt::from_secret(value)));
    }
    Ok(Frame::Meta(MetaValue { flags, value }))
}

/// `ITEM` is the reply to `stats cachedump`, `PREFIX` the reply to `stats detail dump`.
pub fn stat_line(line: &[u8]) -> Option<StatLine<'_>> {
    let words = [b"STAT ".as_slice(), b"ITEM ", b"PREFIX "];
    let rest = words.iter().find_map(|word| line.strip_prefix(*word))?;
    let (name, value) = match memchr::memchr(b' ', rest) {
        Some(space) => (&rest[..space], &rest[space + 1..]),
        None => (rest, &rest[rest.len()..]),
    };
    Some(StatLine { line, name, value })
}

fn error_kind(line: &[u8], shape: Shape) -> Option<ErrorLineKind> {
    let word = line.split(|&b| b == b' ').next()?;
    match word {
        b"ERROR" => Some(ErrorLineKind::Unknown),
        b"CLIENT_ERROR" => Some(ErrorLineKind::Client),
        b"SERVER_ERROR" => Some(ErrorLineKind::Server),
        b"MEMLIMIT_TOO_SMALL" | b"MEMLIMIT_ADJUST_FAILED" if shape == Shape::Ok => {
            Some(ErrorLineKind::Refused)
        }
        _ => None,
    }
}

/// Decimal digits and nothing else.
fn parse_u64(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0u64, |n, &b| {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        n.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(wire: &[u8], shape: Shape) -> Result<Vec<String>, ProtocolError> {
        let mut decoder = Decoder::default();
        let (mut pos, mut frames) = (0, Vec::new());
        while let Some((frame, n)) = decoder.next(&wire[pos..], shape)? {
            frames.push(format!("{frame:?}"));
            pos += n;
        }
        assert!(pos <= wire.len());
        Ok(frames)
    }

    #[test]
    #[rustfmt::skip]
    fn invalid_replies_are_rejected() {
        let get = Shape::Retrieval { cas: false };
        let gets = Shape::Retrieval { cas: true };
        let ma = Shape::Meta(MetaVerb::Arithmetic);
        let (mg, ms) = (Shape::Meta(MetaVerb::Get), Shape::Meta(MetaVerb::Set));
        for (wire, shape) in [
            ("VALUE k 0 -1\r\nx\r\n", get), ("VALUE k 0 18446744073709551616\r\n", get),
            ("VALUE k 0 1073741824\r\n", get), ("VALUE k 4294967296 1\r\nx\r\n", get),
            ("VALUE k 0\r\n", get), ("VALUE  0 1\r\nx\r\n", get), ("VALUE k 0 1 2\r\nx\r\n", get),
            ("VALUE k 0 1\r\nx\r\n", gets), ("VALUE k 0 1 2 3\r\nx\r\n", gets), ("VALUE k\r\n", get),
            ("VALUE k 0 1\r\nxy\r\n", get), ("VALUE k 0 3\r\nx\r\nEND\r\n", get), ("END\n", get),
            ("STORED\r\n", get), ("END\r\n", Shape::Storage), ("VALUE k 0 1\r\nx\r\n", Shape::Storage),
            ("12a\r\n", Shape::Arithmetic), ("-1\r\n", Shape::Arithmetic), ("\r\n", Shape::Arithmetic),
            ("18446744073709551616\r\n", Shape::Arithmetic), ("OK\r\n", Shape::Version), ("\n", Shape::Ok),
            ("VA 1\r\nx\r\n", ma), ("VA S1\r\n1\r\n", ma),
            ("VA 21\r\n111111111111111111111\r\n", ma), ("VA 1\r\n12\r\n", ma),
            ("VA -1\r\n", ma), ("VA 0\r\n\r\n", ma), ("7\r\n", ma),
            ("VA 1\r\n1\r\n", Shape::Arithmetic), ("EN\r\n", ma), ("VA\r\n", mg), ("VA 1 fx\r\nx\r\n", mg),
            ("VA  f1\r\n\r\n", mg), ("VA 1073741824\r\n", mg), ("VA 1\r\nxy\r\n", mg), ("NF\r\n", mg), ("OK\r\n", mg),
            ("VA 1\r\nx\r\n", ms), ("EN\r\n", ms), ("STORED\r\n", ms), ("HD\r\n", Shape::MetaNoOp), ("MN\n", Shape::MetaNoOp),
            ("MEMLIMIT_TOO_SMALL x\r\n", Shape::Storage), ("HTTP/1.1 400 Bad Request\r\n", Shape::Ok),
        ] {
            assert!(decode_all(wire.as_bytes(), shape).is_err(), "{wire:?}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused_at_the_limit() {
        let mut decoder = Decoder::default();
        let wire = vec![b'A'; MAX_REPLY_LINE_LEN];
        assert_eq!(decoder.next(&wire[..MAX_REPLY_LINE_LEN - 1], Shape::Ok), Ok(None));
        assert_eq!(decoder.next(&wire, Shape::Ok), Err(ProtocolError::LineTooLong));
    }

    #[test]
    fn a_value_may_contain_anything() {
        let value = b"END\r\nVALUE k 0 1\r\n\0\xff\r\nSTORED\r\n";
        let mut wire = format!("VALUE k 7 {}\r\n", value.len()).into_bytes();
        wire.extend_from_slice(value);
        wire.extend_from_slice(b"\r\nEND\r\n");
        let mut decoder = Decoder::default();
        let get = Shape::Retrieval { cas: false };
        let (frame, n) = decoder.next(&wire, get).unwrap().unwrap();
        assert_eq!(frame, Frame::Item(ItemRef { key: b"k", flags: 7, cas: None, value }));
        assert_eq!(decoder.next(&wire[n..], get), Ok(Some((Frame::Reply(Reply::End), 5))));
    }

    #[test]
    fn meta_replies_are_split_at_every_byte() {
        let (mg, ma) = (Shape::Meta(MetaVerb::Get), Shape::Meta(MetaVerb::Arithmetic));
        for (wire, shape) in [
            ("VA 20 c5  t-1 \r\n18446744073709551615\r\n", ma),
            ("VA 4 f0 c1 t-1 W\r\nHD\r\n\r\n", mg),
            ("VA 0 X Z\r\n\r\n", mg),
            ("VA 0\r\n\r\n", mg),
            ("HD f0 \r\n", mg),
            ("EN\r\n", mg),
            ("NF  Oab\r\n", ma),
            ("ME k exp=-1 la=0 cas=2 fetch=no cls=1 size=63\r\n", Shape::Meta(MetaVerb::Debug)),
            ("HD c3\r\n", Shape::Meta(MetaVerb::Set)),
            ("EX \r\n", Shape::Meta(MetaVerb::Delete)),
            ("MN\r\n", Shape::MetaNoOp),
            ("CLIENT_ERROR invalid flag\r\n", mg),
        ] {
            let wire = wire.as_bytes();
            let (whole, used) = Decoder::default().next(wire, shape).unwrap().unwrap();
            assert_eq!(used, wire.len());
            for cut in 0..wire.len() {
                let mut decoder = Decoder::default();
                assert_eq!(decoder.next(&wire[..cut], shape), Ok(None), "{cut}");
                assert_eq!(decoder.next(wire, shape), Ok(Some((whole, used))));
                // Nothing is left of it.
                assert_eq!(decoder.next(wire, shape), Ok(Some((whole, used))));
            }
        }
    }

    #[test]
    fn a_statistic_may_hold_a_line_feed() {
        let wire = b"STAT 26:addr unix:\n\x7f\n\r\nEND\r\n";
        for cut in 0..20 {
            let mut decoder = Decoder::default();
            assert_eq!(decoder.next(&wire[..cut], Shape::Stats), Ok(None));
            let (frame, used) = decoder.next(wire, Shape::Stats).unwrap().unwrap();
            let Frame::Stat(stat) = frame else { panic!("{frame:?}") };
            assert_eq!((stat.name, stat.value, used), (&b"26:addr"[..], &b"unix:\n\x7f\n"[..], 23));
        }
    }

    #[test]
    fn a_list_of_nodes_may_be_counted_wrongly() {
        for (len, payload) in [(8, "1\nh|i|1\n"), (3, "1\nh|i|1\n"), (900, "1\nh|i|1\n"), (0, "")] {
            let wire = format!("CONFIG cluster 0 {len}\r\n{payload}\r\nEND\r\n");
            for cut in 0..=wire.len() {
                let mut decoder = Decoder::default();
                let early = decoder.next(&wire.as_bytes()[..cut], Shape::Config).unwrap();
                let (frame, used) = match early {
                    Some(whole) => whole,
                    None => decoder.next(wire.as_bytes(), Shape::Config).unwrap().unwrap(),
                };
                let Frame::Item(item) = frame else { panic!("{frame:?}") };
                assert_eq!(item.value.trim_ascii(), payload.trim_end().as_bytes(), "{len} {cut}");
                let end = decoder.next(&wire.as_bytes()[used..], Shape::Config).unwrap();
                assert_eq!(end, Some((Frame::Reply(Reply::End), 5)));
            }
        }
    }

    /// The results of both parsers for the header of `key` at the start of `wire`.
    fn headers(key: &str, wire: &[u8], cas: bool) -> (Option<String>, Option<String>) {
        let shape = Shape::Retrieval { cas };
        let line_end = Decoder::default().find_line_end(wire, shape).ok().flatten();
        let reference = line_end
            .map(|end| &wire[..end - 2])
            .filter(|line| line.starts_with(b"VALUE "))
            .and_then(|line| item_header(line, 6, shape).ok());
        let text = |header| format!("{header:?}");
        (header_with_key(key.as_bytes(), wire, cas).map(text), reference.map(text))
    }

    #[test]
    fn the_header_of_an_expected_key_is_read_in_one_pass() {
        for (key, wire, cas) in [
            ("k", "VALUE k 0 1\r\nx\r\n", false),
            ("k", "VALUE k 4294967295 1073741823\r\n", false),
            ("some:key", "VALUE some:key 7 100 1844674407370955161\r\n", true),
        ] {
            let (header, reference) = headers(key, wire.as_bytes(), cas);
            assert!(header.is_some() && header == reference, "{wire:?}");
            assert_eq!(headers("som", wire.as_bytes(), cas).0, None, "{wire:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2048))]

        // The fast parser may decline a header, but must agree on those that it accepts.
        #[test]
        fn both_ways_to_read_a_header_agree(
            key in "[a-z]{1,2}",
            words in "VALUE {1,2}[a-z]{1,2}[\r\n\0]? {0,2}[0-9]{0,21}( [0-9a\n]{0,11}){0,2}",
            end in " {0,1}[0-9]{0,21} {0,1}(\r\n|\n|\r)?[a-z\r\n]{0,3}",
            is_that_key: bool,
            cas: bool,
        ) {
            let mut wire = words + &end;
            if is_that_key {
                wire.replace_range(6..8.min(wire.len()), &key);
            }
            for cut in 0..=wire.len() {
                let (header, reference) = headers(&key, &wire.as_bytes()[..cut], cas);
                proptest::prop_assert!(header.is_none() || header == reference);
            }
        }

        #[test]
        fn both_ways_agree_on_nearly_valid_headers(
            key in "[!-~]{1,250}", flags: u32, len in 0u64..=1 << 30, unique: u64, cas: bool,
            at in 0usize..300, byte: u8, change: bool,
        ) {
            let unique = if cas { format!(" {unique}") } else { String::new() };
            let mut wire = format!("VALUE {key} {flags} {len}{unique}\r\nx").into_bytes();
            if change && at < wire.len() {
                wire[at] = byte;
            }
            for cut in 0..=wire.len() {
                let (header, reference) = headers(&key, &wire[..cut], cas);
                proptest::prop_assert!(header.is_none() || header == reference);
                let is_plain = !change && len < 1 << 30 && unique.len() <= 20;
                proptest::prop_assert!(!is_plain || header == reference);
            }
        }

        #[test]
        fn meta_replies_arrive_in_any_pieces(
            value: Vec<u8>, flags: u32, cas: u64, ttl in -1i32.., marks in "( W)?( X)?( Z)?",
            cuts in proptest::collection::vec(0usize..60, 0..4),
        ) {
            let shape = Shape::Meta(MetaVerb::Get);
            let words = format!("f{flags} c{cas} t{ttl}{marks}");
            let mut wire = format!("VA {} {words}\r\n", value.len()).into_bytes();
            wire.extend_from_slice(&value);
            wire.extend_from_slice(b"\r\nEN\r\n");
            let mut decoder = Decoder::default();
            let mut sizes: Vec<_> = cuts.into_iter().filter(|cut| *cut < wire.len() - 4).collect();
            sizes.sort_unstable();
            let mut first = None;
            for size in sizes.into_iter().chain([wire.len()]) {
                first = decoder.next(&wire[..size], shape).unwrap();
                if first.is_some() {
                    break;
                }
            }
            let (frame, used) = first.unwrap();
            let expected = MetaValue { flags: words.as_bytes(), value: &value };
            proptest::prop_assert_eq!(frame, Frame::Meta(expected));
            let attributes = MetaAttributes::parse(words.as_bytes()).unwrap();
            proptest::prop_assert_eq!(attributes.flags, Some(flags));
            proptest::prop_assert_eq!(attributes.cas, Some(cas));
            proptest::prop_assert_eq!(attributes.ttl, Some(i64::from(ttl)));
            proptest::prop_assert_eq!(attributes.won, marks.contains('W'));
            let (next, _) = decoder.next(&wire[used..], shape).unwrap().unwrap();
            let is_miss = matches!(next, Frame::Reply(Reply::Meta { .. }));
            proptest::prop_assert!(is_miss);
        }

        #[test]
        fn no_bytes_break_the_decoder_of_meta_replies(
            wire in "(VA|HD|EN|NF|EX|NS|ME|MN|ERROR)?[ a-zA-Z0-9\r\n-]{0,30}(\r\n)?", cut in 0usize..40,
            verb in 0usize..6,
        ) {
            let verbs = [MetaVerb::Get, MetaVerb::Set, MetaVerb::Delete, MetaVerb::Arithmetic, MetaVerb::Debug];
            let shape = verbs.get(verb).map_or(Shape::MetaNoOp, |verb| Shape::Meta(*verb));
            let wire = wire.as_bytes();
            let whole = Decoder::default().next(wire, shape);
            let mut decoder = Decoder::default();
            let split = match decoder.next(&wire[..cut.min(wire.len())], shape) {
                Ok(None) => decoder.next(wire, shape),
                early => early,
            };
            proptest::prop_assert_eq!(whole, split);
        }

        #[test]
        fn both_ways_to_read_an_item_agree(
            key in "[a-z]{1,9}", flags: u32, value: Vec<u8>, change in 0usize..200, byte: u8, is_changed: bool,
        ) {
            let shape = Shape::Retrieval { cas: false };
            let mut wire = format!("VALUE {key} {flags} {}\r\n", value.len()).into_bytes();
            wire.extend_from_slice(&value);
            wire.extend_from_slice(b"\r\nEND\r\n");
            if is_changed && change < wire.len() {
                wire[change] = byte;
            }
            for cut in 0..=wire.len() {
                let mut decoder = Decoder::default();
                let quick = decoder.item_with_key(key.as_bytes(), &wire[..cut], shape);
                let reference = decoder.next(&wire[..cut], shape);
                if let Some((item, len)) = quick {
                    proptest::prop_assert_eq!(reference, Ok(Some((Frame::Item(item), len))));
                } else if let Ok(Some((Frame::Item(item), _))) = reference {
                    proptest::prop_assert!(is_changed || item.key != key.as_bytes());
                }
                // It does nothing in the middle of a frame.
                if decoder.scanned > 0 || decoder.header.is_some() {
                    proptest::prop_assert!(decoder.item_with_key(key.as_bytes(), &wire, shape).is_none());
                }
            }
        }
    }

    #[test]
    fn an_error_never_repeats_a_value() {
        let error = decode_all(b"hunter2 is secret\r\n", Shape::Storage).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let error = decode_all(b"HTTP/1.1 400 Bad Request\r\n", Shape::Storage).unwrap_err();
        assert!(error.to_string().contains("HTTP/1.1"), "{error}");
    }
}
