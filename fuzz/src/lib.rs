//! What the targets share: requests as a fuzzer makes them.
use _emcache::protocol::meta::MetaVerb;
use _emcache::protocol::{
    ArithmeticVerb, Dialect, Expected, Outgoing, OwnedCommand, OwnedRequest, RetrievalVerb,
    StorageVerb,
};
use arbitrary::Arbitrary;
use bytes::Bytes;

/// A few keys, so that requests share them; one is as long as a key can be.
pub fn key(number: u8) -> Vec<u8> {
    match number % 8 {
        6 => vec![b'k'; 250],
        7 => vec![0xff, 0x80],
        n => vec![b'a' + n],
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Retrieval {
    Get,
    Gets,
    Gat(i32),
    Gats(i32),
}

#[derive(Arbitrary, Clone, Debug)]
pub enum Wanted {
    One(Retrieval, u8),
    Many(Retrieval, Vec<u8>),
    Storage { verb: u8, token: u64, key: u8, flags: u32, exptime: i32, value: Vec<u8> },
    Delete(u8),
    Arithmetic { decrement: bool, key: u8, delta: u64 },
    Counter { decrement: bool, key: u8, delta: u64, initial: u64, exptime: i32 },
    Touch(u8, i32),
    Meta { verb: u8, key: u8, flags: u8, value: Vec<u8> },
    MetaNoOp,
    FlushAll(u32),
    Version,
    Stats(u8),
    Verbosity(u32),
    CacheMemlimit(u32),
    ConfigGetCluster,
}

const META: [MetaVerb; 4] = [MetaVerb::Get, MetaVerb::Set, MetaVerb::Delete, MetaVerb::Arithmetic];
const META_FLAGS: [&str; 6] = ["", "v", "v f c t s", "k v O1", "T30 c", "N30 v t R5"];
const STATS: [&str; 6] = ["", "settings", "reset", "detail on", "detail dump", "items"];

impl Retrieval {
    fn verb(self) -> RetrievalVerb {
        match self {
            Self::Get => RetrievalVerb::Get,
            Self::Gets => RetrievalVerb::Gets,
            Self::Gat(exptime) => RetrievalVerb::Gat { exptime },
            Self::Gats(exptime) => RetrievalVerb::Gats { exptime },
        }
    }
}

fn arithmetic(decrement: bool) -> ArithmeticVerb {
    if decrement { ArithmeticVerb::Decr } else { ArithmeticVerb::Incr }
}

impl Wanted {
    /// The request; `None` if the client would not make it.
    pub fn request(&self) -> Option<OwnedRequest> {
        let command = match self {
            Self::One(verb, number) => {
                let keys = std::iter::once(key(*number).into()).collect();
                return Some(OwnedRequest::Retrieval { verb: verb.verb(), keys });
            }
            Self::Many(verb, numbers) => {
                let mut keys: Vec<_> = numbers.iter().map(|number| key(*number)).collect();
                keys.sort_unstable();
                keys.dedup();
                // A line has at least one key and at most 1,000 bytes.
                keys.truncate(3);
                let keys: smallvec::SmallVec<_> = keys.into_iter().map(Into::into).collect();
                return (!keys.is_empty())
                    .then(|| OwnedRequest::Retrieval { verb: verb.verb(), keys });
            }
            Self::Storage { verb, token, key: number, flags, exptime, value } => {
                let verb = match verb % 6 {
                    0 => StorageVerb::Set,
                    1 => StorageVerb::Add,
                    2 => StorageVerb::Replace,
                    3 => StorageVerb::Append,
                    4 => StorageVerb::Prepend,
                    _ => StorageVerb::Cas { token: *token },
                };
                let (key, value) = (key(*number).into(), value.clone().into());
                OwnedCommand::Storage { verb, key, flags: *flags, exptime: *exptime, value }
            }
            Self::Delete(number) => OwnedCommand::Delete { key: key(*number).into() },
            &Self::Arithmetic { decrement, key: number, delta } => OwnedCommand::Arithmetic {
                verb: arithmetic(decrement),
                key: key(number).into(),
                delta,
            },
            &Self::Counter { decrement, key: number, delta, initial, exptime } => {
                let verb = arithmetic(decrement);
                OwnedCommand::Counter { verb, key: key(number).into(), delta, initial, exptime }
            }
            &Self::Touch(number, exptime) => {
                OwnedCommand::Touch { key: key(number).into(), exptime }
            }
            Self::Meta { verb, key: number, flags, value } => {
                let verb = META[usize::from(*verb) % META.len()];
                let flags = META_FLAGS[usize::from(*flags) % META_FLAGS.len()].into();
                let value = if verb == MetaVerb::Set { value.clone() } else { Vec::new() };
                OwnedCommand::Meta { verb, key: key(*number).into(), flags, value: value.into() }
            }
            Self::MetaNoOp => OwnedCommand::MetaNoOp,
            Self::FlushAll(delay) => OwnedCommand::FlushAll { delay: *delay },
            Self::Version => OwnedCommand::Version,
            Self::Stats(args) => {
                OwnedCommand::Stats { args: STATS[usize::from(*args) % STATS.len()].into() }
            }
            Self::Verbosity(level) => OwnedCommand::Verbosity { level: *level },
            Self::CacheMemlimit(megabytes) => OwnedCommand::CacheMemlimit { megabytes: *megabytes },
            Self::ConfigGetCluster => OwnedCommand::ConfigGetCluster,
        };
        Some(OwnedRequest::Command(command))
    }
}

pub fn dialect(is_binary: bool) -> Dialect {
    if is_binary { Dialect::binary() } else { Dialect::default() }
}

/// The bytes of a command.
pub fn encoded(dialect: &mut Dialect, command: &OwnedCommand) -> (Bytes, Expected) {
    let mut out = Outgoing::default();
    let expected = dialect.encode_owned(command, &mut out);
    (out.copy(0, out.len()).expect("what was encoded"), expected)
}
