//! The requests, grouped as in memcached's protocol.txt.
//!
//! A field of a request cannot hold a value that the server would reject while it parses the
//! command line, because after a rejected storage header memcached runs the value as commands.
use super::key::Key;
use super::meta::MetaVerb;
use super::verbs::Verb;

/// An exptime in the past: servers read more than 30 days as a Unix time, and this one is in 1970.
/// Unlike a negative number, every server and proxy accepts it.
pub const EXPIRED: i32 = 60 * 60 * 24 * 30 + 1;

/// A request that borrows the caller's bytes until it is encoded.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// "Retrieval command"; `keys` is never empty and fits one line (see [`super::MAX_LINE_LEN`]).
    Retrieval { verb: RetrievalVerb, keys: &'a [Key<'a>] },
    /// Any other command.
    Command(Command<'a>),
}

/// A command that borrows the caller's bytes.
pub type Command<'a> = GenericCommand<Key<'a>, &'a [u8], Words<'a>>;

/// A semantic command. A connection's dialect decides how it is written.
///
/// `K` is the type of its key, `V` of its value, and `A` of its words: the arguments of `stats`, or
/// the flags of a meta command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenericCommand<K, V, A> {
    Storage {
        verb: StorageVerb,
        key: K,
        flags: u32,
        exptime: i32,
        value: V,
    },
    Delete {
        key: K,
    },
    Arithmetic {
        verb: ArithmeticVerb,
        key: K,
        delta: u64,
    },
    /// Like `Arithmetic`, but creates a missing counter with the value `initial`.
    Counter {
        verb: ArithmeticVerb,
        key: K,
        delta: u64,
        initial: u64,
        exptime: i32,
    },
    Touch {
        key: K,
        exptime: i32,
    },
    /// A meta command with a key, with flags of [`super::meta`]. Only `ms` has a value.
    Meta {
        verb: MetaVerb,
        key: K,
        flags: A,
        value: V,
    },
    MetaNoOp,
    FlushAll {
        delay: u32,
    },
    Version,
    Stats {
        args: A,
    },
    Verbosity {
        level: u32,
    },
    CacheMemlimit {
        megabytes: u32,
    },
    /// The list of nodes that hosted clusters (`ElastiCache`, `Memorystore`) provide.
    ConfigGetCluster,
    /// The login of `memcached -Y`: username and password, separated by a space.
    Auth {
        credentials: V,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetrievalVerb {
    Get,
    Gets,
    Gat { exptime: i32 },
    Gats { exptime: i32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageVerb {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas { token: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArithmeticVerb {
    Incr,
    Decr,
}

/// The arguments of `stats`, or the flags of a meta command: printable ASCII words, separated by
/// single spaces, at most 250 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    pub fn parse(args: &'a str) -> Option<Self> {
        let words_ok = args.is_empty()
            || args.split(' ').all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_graphic()));
        (words_ok && args.len() <= 250).then_some(Self(args))
    }

    /// Arguments that were validated before they were stored.
    pub(super) fn trusted(args: &'a str) -> Self {
        debug_assert!(Self::parse(args).is_some());
        Self(args)
    }

    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

impl RetrievalVerb {
    /// Whether the command writes too: `gat` and `gats` set the expiration time.
    pub fn changes_expiration(self) -> bool {
        matches!(self, Self::Gat { .. } | Self::Gats { .. })
    }

    #[inline]
    pub fn verb(self) -> Verb {
        match self {
            Self::Get => Verb::Get,
            Self::Gets => Verb::Gets,
            Self::Gat { .. } => Verb::Gat,
            Self::Gats { .. } => Verb::Gats,
        }
    }
}

impl StorageVerb {
    #[inline]
    pub fn verb(self) -> Verb {
        match self {
            Self::Set => Verb::Set,
            Self::Add => Verb::Add,
            Self::Replace => Verb::Replace,
            Self::Append => Verb::Append,
            Self::Prepend => Verb::Prepend,
            Self::Cas { .. } => Verb::Cas,
        }
    }
}

impl<K, V, A> GenericCommand<K, V, A> {
    /// The key, if the command has one.
    pub fn key(&self) -> Option<&K> {
        match self {
            Self::Storage { key, .. }
            | Self::Delete { key }
            | Self::Arithmetic { key, .. }
            | Self::Counter { key, .. }
            | Self::Touch { key, .. }
            | Self::Meta { key, .. } => Some(key),
            _ => None,
        }
    }

    #[inline]
    pub fn verb(&self) -> Verb {
        match self {
            Self::Storage { verb, .. } => verb.verb(),
            Self::Delete { .. } => Verb::Delete,
            Self::Arithmetic { verb: ArithmeticVerb::Incr, .. } => Verb::Incr,
            Self::Arithmetic { verb: ArithmeticVerb::Decr, .. } => Verb::Decr,
            Self::Counter { .. } => Verb::MetaArithmetic,
            Self::Touch { .. } => Verb::Touch,
            Self::Meta { verb, .. } => verb.verb(),
            Self::MetaNoOp => Verb::MetaNoOp,
            Self::FlushAll { .. } => Verb::FlushAll,
            Self::Version => Verb::Version,
            Self::Stats { .. } => Verb::Stats,
            Self::Verbosity { .. } => Verb::Verbosity,
            Self::CacheMemlimit { .. } => Verb::CacheMemlimit,
            Self::ConfigGetCluster => Verb::ConfigGetCluster,
            Self::Auth { .. } => Verb::Auth,
        }
    }

    /// The same command with other holders of its bytes.
    pub fn convert<'s, K2, V2, A2>(
        &'s self,
        to_key: impl FnOnce(&'s K) -> K2,
        to_value: impl FnOnce(&'s V) -> V2,
        to_args: impl FnOnce(&'s A) -> A2,
    ) -> GenericCommand<K2, V2, A2> {
        type To<K, V, A> = GenericCommand<K, V, A>;
        match self {
            Self::Storage { verb, key, flags, exptime, value } => {
                let (key, value) = (to_key(key), to_value(value));
                To::Storage { verb: *verb, key, flags: *flags, exptime: *exptime, value }
            }
            Self::Delete { key } => To::Delete { key: to_key(key) },
            Self::Arithmetic { verb, key, delta } => {
                To::Arithmetic { verb: *verb, key: to_key(key), delta: *delta }
            }
            &Self::Counter { verb, ref key, delta, initial, exptime } => {
                To::Counter { verb, key: to_key(key), delta, initial, exptime }
            }
            Self::Touch { key, exptime } => To::Touch { key: to_key(key), exptime: *exptime },
            Self::Meta { verb, key, flags, value } => {
                let (key, value) = (to_key(key), to_value(value));
                To::Meta { verb: *verb, key, flags: to_args(flags), value }
            }
            Self::MetaNoOp => To::MetaNoOp,
            Self::FlushAll { delay } => To::FlushAll { delay: *delay },
            Self::Version => To::Version,
            Self::Stats { args } => To::Stats { args: to_args(args) },
            Self::Verbosity { level } => To::Verbosity { level: *level },
            Self::CacheMemlimit { megabytes } => To::CacheMemlimit { megabytes: *megabytes },
            Self::ConfigGetCluster => To::ConfigGetCluster,
            Self::Auth { credentials } => To::Auth { credentials: to_value(credentials) },
        }
    }
}

impl Request<'_> {
    #[inline]
    pub fn verb(&self) -> Verb {
        match self {
            Self::Retrieval { verb, .. } => verb.verb(),
            Self::Command(command) => command.verb(),
        }
    }

    /// Calls `visit` with each key of the request.
    pub fn for_each_key(&self, mut visit: impl FnMut(&[u8])) {
        match self {
            Self::Retrieval { keys, .. } => keys.iter().for_each(|key| visit(key.as_bytes())),
            Self::Command(command) => command.key().iter().for_each(|key| visit(key.as_bytes())),
        }
    }

    /// The number of bytes that count toward the limits of the queues.
    #[inline]
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Retrieval { keys, .. } => keys.iter().map(|k| k.as_bytes().len() + 1).sum(),
            Self::Command(
                Command::Storage { key, value, .. } | Command::Meta { key, value, .. },
            ) => key.as_bytes().len() + value.len(),
            Self::Command(command) => command.key().map_or(0, |key| key.as_bytes().len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_words() {
        for good in ["", "settings", "detail on", "cachedump 1 100"] {
            assert!(Words::parse(good).is_some(), "{good:?}");
        }
        for bad in [" ", "a  b", " a", "a ", "x\r\nflush_all", "a\tb", "é", "a\0"] {
            assert!(Words::parse(bad).is_none(), "{bad:?}");
        }
        assert!(Words::parse(&"a".repeat(251)).is_none());
    }
}
