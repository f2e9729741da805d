//! The options of meta commands, and their flags.
//!
//! Servers execute flags from left to right. `R` must see the time before `T` changes it, and `t`
//! must report it after `T` and `N` have set it.
use std::sync::Arc;

use bytes::BufMut;

use crate::protocol::command::{ArithmeticVerb, Words};

/// `mg`. Flags, CAS and TTL of the item are always requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "options that are independent")]
pub struct MetaGet {
    pub is_base64: bool,
    pub value: bool,
    /// Win if less than this many seconds are left.
    pub recache: Option<u32>,
    /// Create a missing item with this exptime, and win. Never together with `touch`, which would
    /// set the exptime of what was created.
    pub vivify: Option<i32>,
    pub touch: Option<i32>,
    /// Do not count as an access.
    pub no_bump: bool,
    pub size: bool,
    pub last_access: bool,
    pub hit_before: bool,
    /// Without the value, if the item has this CAS.
    pub known_cas: Option<u64>,
    /// The CAS of an item that is created.
    pub new_cas: Option<u64>,
}

/// The options of many `mg`, with their flags written once.
#[derive(Clone, Debug)]
pub struct MetaGetMany {
    plain: Arc<str>,
    base64: Arc<str>,
    needs_value: bool,
}

/// The condition of `ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetaMode {
    #[default]
    Set,
    Add,
    Replace,
    Append,
    Prepend,
}

/// `ms`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaSet {
    pub is_base64: bool,
    pub mode: MetaMode,
    pub flags: u32,
    pub exptime: i32,
    pub cas: Option<u64>,
    /// Store as stale if the item's CAS is above `cas`.
    pub invalidate: bool,
    /// The exptime of an item that `Append` and `Prepend` create.
    pub vivify: Option<i32>,
    pub new_cas: Option<u64>,
    pub return_cas: bool,
}

/// `md`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaDelete {
    pub is_base64: bool,
    pub cas: Option<u64>,
    /// Mark the item as stale instead of deleting it.
    pub invalidate: bool,
    /// The exptime of the stale item.
    pub stale_for: Option<i32>,
    /// Remove the value and keep the item.
    pub clear: bool,
    pub new_cas: Option<u64>,
}

/// `ma`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaArithmetic {
    pub is_base64: bool,
    pub verb: ArithmeticVerb,
    pub delta: u64,
    /// The first number of a counter that does not exist, and its exptime.
    pub initial: Option<(u64, i32)>,
    pub touch: Option<i32>,
    pub cas: Option<u64>,
    pub new_cas: Option<u64>,
}

/// Flags as a user wrote them.
#[derive(Clone, Copy, Debug)]
pub struct MetaRaw<'a> {
    pub is_base64: bool,
    pub flags: &'a str,
}

impl MetaGet {
    pub fn to_flags(self) -> String {
        let mut flags = Flags::new(self.is_base64);
        flags.number("C", self.known_cas);
        flags.number("R", self.recache);
        flags.number("T", self.touch);
        flags.number("N", self.vivify);
        flags.letter("v", self.value);
        flags.letter("f", true);
        flags.letter("c", true);
        flags.letter("t", true);
        flags.letter("s", self.size);
        flags.letter("l", self.last_access);
        flags.letter("h", self.hit_before);
        flags.letter("u", self.no_bump);
        flags.number("E", self.new_cas);
        flags.into_text()
    }
}

impl MetaGetMany {
    pub fn new(options: MetaGet) -> Self {
        let flags = |is_base64| MetaGet { is_base64, ..options }.to_flags().into();
        let needs_value = options.value && options.known_cas.is_none();
        Self { plain: flags(false), base64: flags(true), needs_value }
    }

    /// The flags for a key.
    pub fn flags(&self, is_base64: bool) -> Words<'_> {
        Words::trusted(if is_base64 { &self.base64 } else { &self.plain })
    }

    /// Whether an item without its value is not what was requested.
    pub fn needs_value(&self) -> bool {
        self.needs_value
    }
}

impl MetaSet {
    pub fn to_flags(self) -> String {
        let mut flags = Flags::new(self.is_base64);
        flags.number("C", self.cas);
        flags.number("F", Some(self.flags).filter(|flags| *flags != 0));
        flags.number("T", Some(self.exptime).filter(|exptime| *exptime != 0));
        match self.mode {
            MetaMode::Set => {}
            MetaMode::Add => flags.letter("ME", true),
            MetaMode::Replace => flags.letter("MR", true),
            MetaMode::Append => flags.letter("MA", true),
            MetaMode::Prepend => flags.letter("MP", true),
        }
        flags.number("N", self.vivify);
        flags.letter("I", self.invalidate);
        flags.letter("c", self.return_cas);
        flags.number("E", self.new_cas);
        flags.into_text()
    }
}

impl MetaDelete {
    pub fn to_flags(self) -> String {
        let mut flags = Flags::new(self.is_base64);
        flags.number("C", self.cas);
        // Without `I` the server ignores `T` and deletes the item.
        flags.letter("I", self.invalidate || self.stale_for.is_some());
        flags.number("T", self.stale_for);
        flags.letter("x", self.clear);
        flags.number("E", self.new_cas);
        flags.into_text()
    }
}

impl MetaArithmetic {
    pub fn to_flags(self) -> String {
        let mut flags = Flags::new(self.is_base64);
        flags.number("C", self.cas);
        flags.letter(mode_word(self.verb), true);
        flags.number("N", self.initial.map(|(_, exptime)| exptime));
        flags.number("J", self.initial.map(|(number, _)| number));
        flags.number("D", Some(self.delta));
        flags.number("T", self.touch);
        flags.letter("v", true);
        flags.letter("c", true);
        flags.letter("t", true);
        flags.number("E", self.new_cas);
        flags.into_text()
    }
}

impl MetaRaw<'_> {
    /// The flags, or the first one that would break the order of replies (`q`) or that is derived
    /// from the key (`b`).
    pub fn to_flags(self) -> Result<String, char> {
        let letters = self.flags.split(' ').filter_map(|word| word.chars().next());
        match letters.into_iter().find(|letter| matches!(letter, 'q' | 'b')) {
            Some(letter) => Err(letter),
            None if self.is_base64 && self.flags.is_empty() => Ok("b".to_owned()),
            None if self.is_base64 => Ok(format!("b {}", self.flags)),
            None => Ok(self.flags.to_owned()),
        }
    }
}

/// `me`
pub fn debug_flags(is_base64: bool) -> &'static str {
    // memcached 1.6.40 and later ignores `b` if it is the last word.
    if is_base64 { "b x" } else { "" }
}

fn mode_word(verb: ArithmeticVerb) -> &'static str {
    match verb {
        ArithmeticVerb::Incr => "MI",
        ArithmeticVerb::Decr => "MD",
    }
}

/// The flags of a counter that is created if it is missing: the number is the whole reply.
pub fn counter_flags(
    verb: ArithmeticVerb,
    delta: u64,
    initial: u64,
    exptime: i32,
    out: &mut impl BufMut,
) {
    let mut number = |name: &[u8], number: &str| {
        out.put_slice(name);
        out.put_slice(number.as_bytes());
    };
    number(b" ", mode_word(verb));
    number(b" N", itoa::Buffer::new().format(exptime));
    number(b" J", itoa::Buffer::new().format(initial));
    number(b" D", itoa::Buffer::new().format(delta));
    number(b" ", "v");
}

/// Words, separated by spaces.
struct Flags(String);

impl Flags {
    fn new(is_base64: bool) -> Self {
        let mut text = String::with_capacity(64);
        text.push_str(if is_base64 { "b" } else { "" });
        Self(text)
    }

    fn letter(&mut self, word: &str, is_set: bool) {
        if is_set {
            if !self.0.is_empty() {
                self.0.push(' ');
            }
            self.0.push_str(word);
        }
    }

    fn number(&mut self, letter: &str, argument: Option<impl itoa::Integer>) {
        if let Some(argument) = argument {
            self.letter(letter, true);
            self.0.push_str(itoa::Buffer::new().format(argument));
        }
    }

    fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Words;

    #[test]
    fn flags_are_in_the_order_in_which_they_must_be_executed() {
        let plain = MetaGet { value: true, ..MetaGet::default() };
        assert_eq!(plain.to_flags(), "v f c t");
        let all = MetaGet {
            is_base64: true,
            value: true,
            recache: Some(30),
            vivify: Some(60),
            touch: Some(90),
            no_bump: true,
            size: true,
            last_access: true,
            hit_before: true,
            known_cas: Some(1),
            new_cas: Some(u64::MAX),
        };
        let flags = all.to_flags();
        assert_eq!(flags, "b C1 R30 T90 N60 v f c t s l h u E18446744073709551615");
        assert!(Words::parse(&flags).is_some());
    }

    #[test]
    fn many_keys_share_their_flags() {
        let options = MetaGet { value: true, vivify: Some(9), ..MetaGet::default() };
        let many = MetaGetMany::new(options);
        assert_eq!(many.flags(false).as_str(), "N9 v f c t");
        assert_eq!(many.flags(true).as_str(), "b N9 v f c t");
        assert!(many.needs_value());
        assert!(!MetaGetMany::new(MetaGet { known_cas: Some(1), ..options }).needs_value());
        assert!(!MetaGetMany::new(MetaGet { value: false, ..options }).needs_value());
    }

    #[test]
    fn only_what_differs_from_the_default_is_sent() {
        assert_eq!(MetaSet::default().to_flags(), "");
        let all = MetaSet {
            is_base64: true,
            mode: MetaMode::Append,
            flags: u32::MAX,
            exptime: i32::MAX,
            cas: Some(2),
            invalidate: true,
            vivify: Some(0),
            new_cas: Some(3),
            return_cas: true,
        };
        assert_eq!(all.to_flags(), "b C2 F4294967295 T2147483647 MA N0 I c E3");
        let words = [
            (MetaMode::Set, ""),
            (MetaMode::Add, "ME"),
            (MetaMode::Replace, "MR"),
            (MetaMode::Prepend, "MP"),
        ];
        for (mode, word) in words {
            assert_eq!(MetaSet { mode, ..MetaSet::default() }.to_flags(), word);
        }
    }

    #[test]
    fn a_time_never_comes_without_the_mark() {
        assert_eq!(MetaDelete::default().to_flags(), "");
        let stale = MetaDelete { stale_for: Some(30), ..MetaDelete::default() };
        assert_eq!(stale.to_flags(), "I T30");
        let invalid = MetaDelete { invalidate: true, cas: Some(9), ..MetaDelete::default() };
        assert_eq!(invalid.to_flags(), "C9 I");
        let cleared = MetaDelete { clear: true, new_cas: Some(4), ..MetaDelete::default() };
        assert_eq!(cleared.to_flags(), "x E4");
    }

    #[test]
    fn arithmetic() {
        let (verb, touch) = (ArithmeticVerb::Decr, Some(5));
        let (initial, cas, new_cas) = (Some((7, 60)), Some(1), Some(2));
        let all = MetaArithmetic { is_base64: false, verb, delta: 3, initial, touch, cas, new_cas };
        assert_eq!(all.to_flags(), "C1 MD N60 J7 D3 T5 v c t E2");
        let mut wire = Vec::new();
        counter_flags(ArithmeticVerb::Incr, 3, 7, 60, &mut wire);
        assert_eq!(wire, b" MI N60 J7 D3 v");
    }

    #[test]
    fn raw_flags_never_silence_a_reply() {
        let raw = |is_base64, flags| MetaRaw { is_base64, flags }.to_flags();
        assert_eq!(raw(false, "v t"), Ok("v t".to_owned()));
        assert_eq!(raw(true, "v"), Ok("b v".to_owned()));
        assert_eq!(raw(true, ""), Ok("b".to_owned()));
        assert_eq!(raw(false, "v q"), Err('q'));
        assert_eq!(raw(false, "b"), Err('b'));
        assert_eq!((debug_flags(true), debug_flags(false)), ("b x", ""));
    }
}
