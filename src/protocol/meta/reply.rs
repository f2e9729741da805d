//! Status and flags of the reply to a meta command.
use super::MetaVerb;

/// The first word of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaStatus {
    /// `HD`: done, without a value.
    Done,
    /// `VA`: a value.
    Value,
    /// `EN`: no such item.
    Miss,
    NotFound,
    NotStored,
    Exists,
    /// `ME`: what `me` knows of an item.
    Debug,
    /// `MN`
    NoOp,
}

impl MetaStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "HD",
            Self::Value => "VA",
            Self::Miss => "EN",
            Self::NotFound => "NF",
            Self::NotStored => "NS",
            Self::Exists => "EX",
            Self::Debug => "ME",
            Self::NoOp => "MN",
        }
    }

    fn parse(word: &[u8]) -> Option<Self> {
        Some(match word {
            b"HD" => Self::Done,
            b"EN" => Self::Miss,
            b"NF" => Self::NotFound,
            b"NS" => Self::NotStored,
            b"EX" => Self::Exists,
            b"ME" => Self::Debug,
            b"MN" => Self::NoOp,
            _ => return None,
        })
    }

    /// Whether it answers this command; `None` is `mn`.
    fn answers(self, verb: Option<MetaVerb>) -> bool {
        match verb {
            None => self == Self::NoOp,
            Some(MetaVerb::Get) => matches!(self, Self::Done | Self::Value | Self::Miss),
            Some(MetaVerb::Set) => {
                matches!(self, Self::Done | Self::NotStored | Self::Exists | Self::NotFound)
            }
            Some(MetaVerb::Delete) => matches!(self, Self::Done | Self::NotFound | Self::Exists),
            Some(MetaVerb::Arithmetic) => !matches!(self, Self::Miss | Self::Debug | Self::NoOp),
            Some(MetaVerb::Debug) => matches!(self, Self::Debug | Self::Miss),
        }
    }
}

/// Reads a reply of one line: its status and its flags, which for `ME` are any text. `None` if the
/// line does not answer this command.
///
/// # Format
/// ```text
/// <HD|EN|NF|NS|EX|MN>[ <flags>]        ME <key> <name>=<value> ...
/// ```
pub fn line_reply(line: &[u8], verb: Option<MetaVerb>) -> Option<(MetaStatus, &[u8])> {
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let status = MetaStatus::parse(&line[..end]).filter(|status| status.answers(verb))?;
    let flags = line.get(end + 1..).unwrap_or_default();
    let is_valid = status == MetaStatus::Debug || MetaAttributes::parse(flags).is_some();
    is_valid.then_some((status, flags))
}

/// The flags of a reply: what the server says of an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "facts that are independent")]
pub struct MetaAttributes {
    pub flags: Option<u32>,
    pub cas: Option<u64>,
    /// The seconds that are left; -1 if the item does not expire.
    pub ttl: Option<i64>,
    pub size: Option<u64>,
    /// The seconds since the last access.
    pub last_access: Option<u64>,
    pub hit_before: Option<bool>,
    /// `W`: the caller is the one to compute the value.
    pub won: bool,
    /// `X`: the value is stale.
    pub stale: bool,
    /// `Z`: another caller has won.
    pub lost: bool,
}

impl MetaAttributes {
    /// Unknown letters are skipped. Versions before 1.6.18 send more spaces than one.
    pub fn parse(flags: &[u8]) -> Option<Self> {
        let mut all = Self::default();
        for word in flags.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
            let (letter, argument) = (word[0], &word[1..]);
            match letter {
                b'f' => all.flags = Some(number(argument)?.try_into().ok()?),
                b'c' => all.cas = Some(number(argument)?),
                b't' => all.ttl = Some(ttl(argument)?),
                b's' => all.size = Some(number(argument)?),
                b'l' => all.last_access = Some(number(argument)?),
                b'h' => all.hit_before = Some(number(argument)? != 0),
                b'W' => all.won = true,
                b'X' => all.stale = true,
                b'Z' => all.lost = true,
                letter if !letter.is_ascii_alphabetic() => return None,
                _ => {}
            }
        }
        Some(all)
    }
}

/// An item that has just expired is reported with a number that has wrapped around.
fn ttl(argument: &[u8]) -> Option<i64> {
    if argument == b"-1" {
        return Some(-1);
    }
    let seconds = match argument.strip_prefix(b"-") {
        Some(digits) => number(digits).map(|_| 0)?,
        None => number(argument)?,
    };
    Some(if seconds > u64::from(i32::MAX.cast_unsigned()) { 0 } else { seconds.cast_signed() })
}

/// The answer to `me`. Names that a server does not send are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugInfo {
    /// The seconds that are left, -1 for an item that does not expire. Before memcached 1.6.24 the
    /// server writes a negative number, so there -1 is also the last second.
    pub ttl: Option<i64>,
    pub last_access: Option<u64>,
    pub cas: Option<u64>,
    /// Whether it was read since it was stored.
    pub fetched: Option<bool>,
    pub slab_class: Option<u64>,
    /// In the server's memory, with its header and key.
    pub size: Option<u64>,
}

impl DebugInfo {
    /// # Format
    /// ```text
    /// <key> exp=<seconds> la=<seconds> cas=<number> fetch=<yes|no> cls=<number> size=<bytes>
    /// ```
    pub fn parse(text: &[u8]) -> Self {
        let mut info = Self::default();
        for word in text.split(|byte| *byte == b' ').skip(1) {
            let Some(at) = memchr::memchr(b'=', word) else { continue };
            let (name, value) = (&word[..at], &word[at + 1..]);
            match name {
                b"exp" if value == b"-1" => info.ttl = Some(-1),
                b"exp" => {
                    let digits = value.strip_prefix(b"-").unwrap_or(value);
                    info.ttl = number(digits).and_then(|seconds| seconds.try_into().ok());
                }
                b"la" => info.last_access = number(value),
                b"cas" => info.cas = number(value),
                b"fetch" => info.fetched = Some(value == b"yes"),
                b"cls" => info.slab_class = number(value),
                b"size" => info.size = number(value),
                _ => {}
            }
        }
        info
    }
}

/// Decimal digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_every_version() {
        let text = b"f4294967295 c18446744073709551615 t-1 s3 l9 h1 W X Z kabc Oq1 b";
        let all = MetaAttributes::parse(text).unwrap();
        assert_eq!((all.flags, all.cas, all.ttl), (Some(u32::MAX), Some(u64::MAX), Some(-1)));
        assert_eq!((all.size, all.last_access, all.hit_before), (Some(3), Some(9), Some(true)));
        assert!(all.won && all.stale && all.lost);
        assert_eq!(MetaAttributes::parse(b"  Oab  "), Some(MetaAttributes::default()));
        for (word, ttl) in [("t0", 0), ("t30", 30), ("t4294967232", 0), ("t-64", 0), ("t-1", -1)] {
            assert_eq!(MetaAttributes::parse(word.as_bytes()).unwrap().ttl, Some(ttl), "{word}");
        }
        for bad in ["f", "f-1", "f4294967296", "c1x", "t", "tx", "t--1", "s", "hx", "7", "+", "c+1"]
        {
            assert_eq!(MetaAttributes::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn each_command_has_its_replies() {
        let answered = |line: &str, verb| line_reply(line.as_bytes(), verb).is_some();
        for (verb, lines) in [
            (Some(MetaVerb::Get), ["HD", "HD ", "EN", "EN k"].as_slice()),
            (Some(MetaVerb::Set), &["HD c5", "NS", "EX ", "NF"]),
            (Some(MetaVerb::Delete), &["HD", "NF  Oab", "EX"]),
            (Some(MetaVerb::Arithmetic), &["HD", "NF", "NS", "EX"]),
            (Some(MetaVerb::Debug), &["ME k exp=-1 la=0", "EN"]),
            (None, &["MN", "MN "]),
        ] {
            for line in lines {
                assert!(answered(line, verb), "{verb:?} {line}");
            }
        }
        for (verb, lines) in [
            (Some(MetaVerb::Get), ["NF", "ME k", "MN", "OK", "VA", "HD fx", ""].as_slice()),
            (Some(MetaVerb::Set), &["EN", "VA 1", "STORED", "HDx"]),
            (Some(MetaVerb::Delete), &["EN", "NS"]),
            (Some(MetaVerb::Arithmetic), &["EN", "5"]),
            (Some(MetaVerb::Debug), &["HD", "NF"]),
            (None, &["HD", "EN", "OK"]),
        ] {
            for line in lines {
                assert!(!answered(line, verb), "{verb:?} {line}");
            }
        }
    }

    #[test]
    fn what_me_knows() {
        let text = b"k exp=-30 la=4 cas=2 fetch=yes cls=1 size=63 new=1 odd";
        let info = DebugInfo::parse(text);
        assert_eq!((info.ttl, info.last_access), (Some(30), Some(4)));
        assert_eq!((info.cas, info.fetched), (Some(2), Some(true)));
        assert_eq!((info.slab_class, info.size), (Some(1), Some(63)));
        for (text, ttl) in [("k exp=30", Some(30)), ("k exp=-1", Some(-1)), ("k exp=x", None)] {
            assert_eq!(DebugInfo::parse(text.as_bytes()).ttl, ttl, "{text}");
        }
    }
}
