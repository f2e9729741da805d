//! The flags that each version of memcached knows.
//!
//! A server ignores some flags that it does not know without an error, and the flags that belong
//! to another command. So a request is checked before it is sent.
use std::fmt;

use super::MetaVerb;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

/// Earlier servers have other names for replies, and another form of `ms`.
pub const META_SINCE: Version = Version::new(1, 6, 10);

/// What a server lacks for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// `None` for all commands.
    pub verb: Option<MetaVerb>,
    pub feature: Feature,
    /// `None` if no version of memcached has it.
    pub since: Option<Version>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    MetaCommands,
    /// Meta commands over the binary protocol.
    Binary,
    /// `mg` without flags.
    NoFlags,
    Flag(u8),
}

impl Version {
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    pub fn parts(self) -> (u32, u32, u32) {
        (self.major, self.minor, self.patch)
    }

    /// Reads a version such as `1.6.12-elasticache`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.');
        let numbers = std::str::from_utf8(&text[..end.unwrap_or(text.len())]).ok()?;
        let mut numbers = numbers.split('.').map(str::parse);
        let mut next = || numbers.next().unwrap_or(Ok(0)).ok();
        Some(Self { major: next()?, minor: next()?, patch: next()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// For example `flag C of md (cas)`.
impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.verb.map_or("", |verb| verb.verb().name());
        match self.feature {
            Feature::MetaCommands => f.write_str("meta commands"),
            Feature::Binary => f.write_str("meta commands in the binary protocol (SASL)"),
            Feature::NoFlags => write!(f, "{name} without flags"),
            Feature::Flag(letter) => {
                write!(f, "flag {} of {name}", char::from(letter))?;
                match self.argument() {
                    Some(argument) => write!(f, " ({argument})"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl Lack {
    /// The node does not know meta commands.
    pub const ALL: Self =
        Self { verb: None, feature: Feature::MetaCommands, since: Some(META_SINCE) };
    pub const BINARY: Self = Self { verb: None, feature: Feature::Binary, since: None };

    /// The argument of `Client` that asks for the flag.
    fn argument(self) -> Option<&'static str> {
        let Feature::Flag(letter) = self.feature else { return None };
        Some(match (self.verb?, letter) {
            (MetaVerb::Get, b'C') => "known_cas",
            (MetaVerb::Delete, b'C') => "cas",
            (MetaVerb::Delete, b'x') => "clear",
            (MetaVerb::Set, b'c') => "return_cas",
            (MetaVerb::Set, b'N') => "vivify",
            (_, b'E') => "new_cas",
            _ => return None,
        })
    }

    /// What a server of this version lacks for a command with these flags.
    pub fn of(verb: MetaVerb, flags: &str, version: Version) -> Option<Self> {
        if version < META_SINCE {
            return Some(Self::ALL);
        }
        let no_flags_since = Version::new(1, 6, 18);
        if verb == MetaVerb::Get && flags.is_empty() && version < no_flags_since {
            let (feature, since) = (Feature::NoFlags, Some(no_flags_since));
            return Some(Self { verb: Some(verb), feature, since });
        }
        flags.bytes().enumerate().filter(|(at, _)| is_start(flags, *at)).find_map(|(_, letter)| {
            let feature = Feature::Flag(letter);
            let lacks = |since| Self { verb: Some(verb), feature, since };
            match known_since(verb, letter, flags) {
                Known::Since(since) => (version < since).then(|| lacks(Some(since))),
                Known::Never => Some(lacks(None)),
                Known::Unknown => None,
            }
        })
    }
}

/// Whether a word starts here.
fn is_start(words: &str, at: usize) -> bool {
    at == 0 || words.as_bytes()[at - 1] == b' '
}

fn has(flags: &str, starts: &[&str]) -> bool {
    flags.split(' ').any(|word| starts.iter().any(|start| word.starts_with(start)))
}

/// The flags that [`META_SINCE`] knows.
fn known_first(verb: MetaVerb) -> &'static [u8] {
    match verb {
        MetaVerb::Get => b"bkOqvfcsthluNRT",
        MetaVerb::Set => b"bkOqFTCIM",
        MetaVerb::Delete => b"bkOqIT",
        MetaVerb::Arithmetic => b"bkOqNJDMTtcvC",
        // `x` keeps `b` from being the last word.
        MetaVerb::Debug => b"bx",
    }
}

enum Known {
    Since(Version),
    /// The server would ignore it.
    Never,
    /// The server refuses it, or is newer than this table.
    Unknown,
}

fn known_since(verb: MetaVerb, letter: u8, flags: &str) -> Known {
    use MetaVerb::{Arithmetic, Delete, Get, Set};
    let patch = match (verb, letter) {
        (Get, b'E') if !has(flags, &["N"]) => return Known::Never,
        (Set, b'N') if !has(flags, &["MA", "MP", "Ma", "Mp"]) => return Known::Never,
        (Delete, b'T') if !has(flags, &["I"]) => return Known::Never,
        (verb, letter) if known_first(verb).contains(&letter) => 10,
        (Delete, b'C') | (Set, b'c') => 13,
        // For proxies; servers ignore them by design.
        (Get | Set | Delete | Arithmetic, b'P' | b'L') => 14,
        (Set, b's' | b'N') => 20,
        (Get | Set | Delete | Arithmetic, b'E') | (Delete, b'x') => 27,
        (Get, b'C') => 45,
        (_, letter) if b"vfcskthluqONRTFICMJDEPLbx".contains(&letter) => return Known::Never,
        _ => return Known::Unknown,
    };
    Known::Since(Version::new(1, 6, patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, parts) in [
            ("1.6.18\r\n", (1, 6, 18)),
            ("1.6.12-elasticache", (1, 6, 12)),
            ("1.6.45_beta1", (1, 6, 45)),
            ("1.6", (1, 6, 0)),
            ("2.0", (2, 0, 0)),
        ] {
            assert_eq!(Version::parse(text.as_bytes()).unwrap().parts(), parts, "{text}");
        }
        for bad in ["", "mcrouter 0.41.0", "1..9", "1.6.x", "99999999999.0.0"] {
            assert_eq!(Version::parse(bad.as_bytes()), None, "{bad}");
        }
        assert!(Version::new(1, 10, 0) > Version::new(1, 6, 45));
    }

    fn lack(verb: MetaVerb, flags: &str, patch: u32) -> Option<String> {
        Lack::of(verb, flags, Version::new(1, 6, patch)).map(|lack| {
            let since = lack.since.map_or("never".to_owned(), |since| since.to_string());
            format!("{lack} {since}")
        })
    }

    #[test]
    fn a_flag_is_known_from_its_version_on() {
        use MetaVerb::{Arithmetic, Debug, Delete, Get, Set};
        for (verb, flags, since, name) in [
            (Get, "v f c t R30 N30", 10, "meta commands"),
            (Debug, "", 10, "meta commands"),
            (Delete, "C1", 13, "flag C of md (cas)"),
            (Set, "F1 c", 13, "flag c of ms (return_cas)"),
            (Get, "", 18, "mg without flags"),
            (Set, "MA N30", 20, "flag N of ms (vivify)"),
            (Set, "s", 20, "flag s of ms"),
            (Get, "N30 E5", 27, "flag E of mg (new_cas)"),
            (Set, "E5", 27, "flag E of ms (new_cas)"),
            (Delete, "x", 27, "flag x of md (clear)"),
            (Arithmetic, "MI E5", 27, "flag E of ma (new_cas)"),
            (Get, "C5 v", 45, "flag C of mg (known_cas)"),
        ] {
            assert_eq!(lack(verb, flags, since), None, "{verb:?} {flags}");
            let expected = format!("{name} 1.6.{since}");
            assert_eq!(lack(verb, flags, since - 1), Some(expected), "{verb:?} {flags}");
        }
    }

    #[test]
    fn a_flag_that_a_server_would_ignore_is_never_sent() {
        use MetaVerb::{Arithmetic, Debug, Delete, Get, Set};
        for (verb, flags, letter) in [
            (Get, "v I", 'I'),
            (Get, "E5", 'E'),
            (Set, "v", 'v'),
            (Set, "MS N30", 'N'),
            (Delete, "c", 'c'),
            (Delete, "T30", 'T'),
            (Arithmetic, "f", 'f'),
            (Debug, "v", 'v'),
        ] {
            let lack = lack(verb, flags, 45).unwrap();
            assert!(lack.starts_with(&format!("flag {letter} of ")), "{lack}");
            assert!(lack.ends_with(" never"), "{lack}");
        }
        assert_eq!(lack(Get, "Ovlk x".split(' ').next().unwrap(), 18), None);
        assert_eq!(lack(Set, "W", 45), None);
    }
}
