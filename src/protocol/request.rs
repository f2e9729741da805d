//! The requests, grouped as in memcached's protocol.txt.
//!
//! A field of a request cannot hold a value that the server would reject while it parses the
//! command line, because after a rejected storage header memcached runs the value as commands.
use super::key::Key;
use super::reply::Shape;

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

#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    Storage {
        verb: StorageVerb,
        key: Key<'a>,
        flags: u32,
        exptime: i32,
        value: &'a [u8],
    },
    Delete {
        key: Key<'a>,
    },
    Arithmetic {
        verb: ArithmeticVerb,
        key: Key<'a>,
        delta: u64,
    },
    /// Like `Arithmetic`, but creates a missing counter with the value `initial`.
    Counter {
        verb: ArithmeticVerb,
        key: Key<'a>,
        delta: u64,
        initial: u64,
        exptime: i32,
    },
    Touch {
        key: Key<'a>,
        exptime: i32,
    },
    FlushAll {
        delay: u32,
    },
    Version,
    Stats {
        args: StatsArgs<'a>,
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
        credentials: &'a [u8],
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

/// The arguments of `stats`: printable ASCII words, separated by single spaces, at most 250 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatsArgs<'a>(&'a str);

impl<'a> StatsArgs<'a> {
    pub fn parse(args: &'a str) -> Option<Self> {
        let words_ok = args.is_empty()
            || args.split(' ').all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_graphic()));
        (words_ok && args.len() <= 250).then_some(Self(args))
    }

    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

/// The name of a command, used for error messages, counters and the expected reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    Gets,
    Gat,
    Gats,
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas,
    Delete,
    Incr,
    Decr,
    MetaArithmetic,
    Touch,
    FlushAll,
    Version,
    Stats,
    Verbosity,
    CacheMemlimit,
    ConfigGetCluster,
    Auth,
}

/// The data that a command reads or changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The command's own keys.
    Keys,
    /// All keys, or settings of the server.
    AllKeys,
    /// Data that no command changes.
    Fixed,
}

impl Verb {
    pub const COUNT: usize = Self::Auth as usize + 1;
    /// In the order of the discriminants.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Get,
        Self::Gets,
        Self::Gat,
        Self::Gats,
        Self::Set,
        Self::Add,
        Self::Replace,
        Self::Append,
        Self::Prepend,
        Self::Cas,
        Self::Delete,
        Self::Incr,
        Self::Decr,
        Self::MetaArithmetic,
        Self::Touch,
        Self::FlushAll,
        Self::Version,
        Self::Stats,
        Self::Verbosity,
        Self::CacheMemlimit,
        Self::ConfigGetCluster,
        Self::Auth,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Gets => "gets",
            Self::Gat => "gat",
            Self::Gats => "gats",
            Self::Set => "set",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Prepend => "prepend",
            Self::Cas => "cas",
            Self::Delete => "delete",
            Self::Incr => "incr",
            Self::Decr => "decr",
            Self::MetaArithmetic => "ma",
            Self::Touch => "touch",
            Self::FlushAll => "flush_all",
            Self::Version => "version",
            Self::Stats => "stats",
            Self::Verbosity => "verbosity",
            Self::CacheMemlimit => "cache_memlimit",
            Self::ConfigGetCluster => "config get cluster",
            Self::Auth => "auth",
        }
    }

    pub fn scope(self) -> Scope {
        match self {
            Self::FlushAll | Self::Stats | Self::Verbosity | Self::CacheMemlimit => Scope::AllKeys,
            Self::Version | Self::ConfigGetCluster | Self::Auth => Scope::Fixed,
            _ => Scope::Keys,
        }
    }

    /// The form of the command's reply.
    pub fn shape(self) -> Shape {
        match self {
            Self::Get | Self::Gat => Shape::Retrieval { cas: false },
            Self::Gets | Self::Gats => Shape::Retrieval { cas: true },
            Self::Set
            | Self::Add
            | Self::Replace
            | Self::Append
            | Self::Prepend
            | Self::Cas
            | Self::Auth => Shape::Storage,
            Self::ConfigGetCluster => Shape::Config,
            Self::Delete => Shape::Delete,
            Self::Incr | Self::Decr => Shape::Arithmetic,
            Self::MetaArithmetic => Shape::MetaArithmetic,
            Self::Touch => Shape::Touch,
            Self::FlushAll | Self::Verbosity | Self::CacheMemlimit => Shape::Ok,
            Self::Version => Shape::Version,
            Self::Stats => Shape::Stats,
        }
    }
}

impl RetrievalVerb {
    /// Whether the command writes too: `gat` and `gats` set the expiration time.
    pub fn changes_expiration(self) -> bool {
        matches!(self, Self::Gat { .. } | Self::Gats { .. })
    }

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

impl<'a> Command<'a> {
    /// The key, if the command has one.
    pub fn key(&self) -> Option<Key<'a>> {
        match *self {
            Self::Storage { key, .. }
            | Self::Delete { key }
            | Self::Arithmetic { key, .. }
            | Self::Counter { key, .. }
            | Self::Touch { key, .. } => Some(key),
            _ => None,
        }
    }

    pub fn verb(&self) -> Verb {
        match self {
            Self::Storage { verb, .. } => verb.verb(),
            Self::Delete { .. } => Verb::Delete,
            Self::Arithmetic { verb: ArithmeticVerb::Incr, .. } => Verb::Incr,
            Self::Arithmetic { verb: ArithmeticVerb::Decr, .. } => Verb::Decr,
            Self::Counter { .. } => Verb::MetaArithmetic,
            Self::Touch { .. } => Verb::Touch,
            Self::FlushAll { .. } => Verb::FlushAll,
            Self::Version => Verb::Version,
            Self::Stats { .. } => Verb::Stats,
            Self::Verbosity { .. } => Verb::Verbosity,
            Self::CacheMemlimit { .. } => Verb::CacheMemlimit,
            Self::ConfigGetCluster => Verb::ConfigGetCluster,
            Self::Auth { .. } => Verb::Auth,
        }
    }
}

impl Request<'_> {
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
            Self::Command(command) => {
                command.key().iter().for_each(|key| visit(key.as_bytes()));
            }
        }
    }

    /// The number of bytes that count toward the limits of the queues.
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Retrieval { keys, .. } => keys.iter().map(|k| k.as_bytes().len() + 1).sum(),
            Self::Command(Command::Storage { key, value, .. }) => {
                key.as_bytes().len() + value.len()
            }
            Self::Command(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_args_are_words() {
        for good in ["", "settings", "detail on", "cachedump 1 100"] {
            assert!(StatsArgs::parse(good).is_some(), "{good:?}");
        }
        for bad in [" ", "a  b", " a", "a ", "x\r\nflush_all", "a\tb", "é", "a\0"] {
            assert!(StatsArgs::parse(bad).is_none(), "{bad:?}");
        }
        assert!(StatsArgs::parse(&"a".repeat(251)).is_none());
    }
}
