//! The names of the rules and of their options, as users write them.
use std::fmt;

use super::hash::{Fnv, KeyHash, Units};
use super::{NodeSpecs, Routing};

const ONE_32: KeyHash = KeyHash::Fnv(Fnv::One32, Units::Signed);
const ONE_64: KeyHash = KeyHash::Fnv(Fnv::One64, Units::Signed);
const ONE_A_32: KeyHash = KeyHash::Fnv(Fnv::OneA32, Units::Signed);
const ONE_A_64: KeyHash = KeyHash::Fnv(Fnv::OneA64, Units::Signed);

/// Each rule without an option, followed by its options: `rule` or `rule:option`. Options have the
/// names that the other client gives them.
const RULES: &[(&str, &[(&str, Routing)])] = &[
    ("emcache", &[("", Routing::Emcache)]),
    ("emcache-arm64", &[("", Routing::EmcacheArm64)]),
    ("rendezvous", &[("", Routing::Rendezvous)]),
    (
        "ketama",
        &[
            ("", Routing::Ketama(KeyHash::Md5)),
            ("md5", Routing::Ketama(KeyHash::Md5)),
            ("one_at_a_time", Routing::Ketama(KeyHash::OneAtATime)),
            ("crc32", Routing::Ketama(KeyHash::Crc32High)),
            ("crc32a", Routing::Ketama(KeyHash::Crc32)),
            ("fnv1_32", Routing::Ketama(ONE_32)),
            ("fnv1_64", Routing::Ketama(ONE_64)),
            ("fnv1a_32", Routing::Ketama(ONE_A_32)),
            ("fnv1a_64", Routing::Ketama(ONE_A_64)),
            ("murmur", Routing::Ketama(KeyHash::Murmur2)),
        ],
    ),
    (
        "spymemcached",
        &[
            ("", Routing::Spymemcached),
            ("native", modulo(KeyHash::Java)),
            ("crc", modulo(KeyHash::Crc32High)),
            ("fnv1_32", modulo(KeyHash::Fnv(Fnv::One32, Units::Utf16))),
            ("fnv1_64", modulo(KeyHash::Fnv(Fnv::One64, Units::Utf16))),
            ("fnv1a_32", modulo(KeyHash::Fnv(Fnv::OneA32, Units::Utf16))),
            ("fnv1a_64", modulo(KeyHash::Fnv(Fnv::OneA64, Units::Utf16))),
        ],
    ),
    ("dalli", &[("", Routing::Dalli)]),
    (
        "libmemcached",
        &[
            ("", modulo(KeyHash::OneAtATime)),
            ("consistent", Routing::LibmemcachedConsistent),
            ("md5", modulo(KeyHash::Md5)),
            ("crc", modulo(KeyHash::Crc32High)),
            ("fnv1_32", modulo(ONE_32)),
            ("fnv1_64", modulo(ONE_64)),
            ("fnv1a_32", modulo(ONE_A_32)),
            ("fnv1a_64", modulo(ONE_A_64)),
            ("murmur", modulo(KeyHash::Murmur2)),
        ],
    ),
    (
        "crc",
        &[
            ("", weighted_modulo(KeyHash::Crc32High)),
            ("python-memcached", weighted_modulo(KeyHash::Crc32HighNonZero)),
        ],
    ),
    ("nginx-consistent", &[("", Routing::Nginx(160)), ("150", Routing::Nginx(150))]),
    (
        "pymemcache",
        &[
            ("", Routing::Pymemcache { is_bytes: false }),
            ("bytes", Routing::Pymemcache { is_bytes: true }),
        ],
    ),
    (
        "libmc",
        &[
            ("", Routing::Libmc(KeyHash::Md5)),
            ("crc_32", Routing::Libmc(KeyHash::Crc32)),
            ("fnv1_32", Routing::Libmc(KeyHash::Fnv(Fnv::One32, Units::Unsigned))),
            ("fnv1a_32", Routing::Libmc(KeyHash::Fnv(Fnv::OneA32, Units::Unsigned))),
        ],
    ),
    ("gomemcache", &[("", modulo(KeyHash::Crc32))]),
    ("meta-memcache", &[("", Routing::MetaMemcache)]),
    ("memcachio", &[("", Routing::Memcachio)]),
    ("bmemcached", &[("", Routing::Bmemcached)]),
    (
        "twemproxy-modula",
        &[
            ("", weighted_modulo(ONE_A_64)),
            ("md5", weighted_modulo(KeyHash::Md5)),
            ("one_at_a_time", weighted_modulo(KeyHash::OneAtATime)),
            ("crc32", weighted_modulo(KeyHash::Crc32High)),
            ("crc32a", weighted_modulo(KeyHash::Crc32)),
            ("fnv1_32", weighted_modulo(ONE_32)),
            ("fnv1_64", weighted_modulo(ONE_64)),
            ("fnv1a_32", weighted_modulo(ONE_A_32)),
            ("fnv1a_64", weighted_modulo(ONE_A_64)),
            ("murmur", weighted_modulo(KeyHash::Murmur2)),
        ],
    ),
    (
        "pecl-memcache",
        &[
            ("", Routing::Pecl(KeyHash::Crc32)),
            ("fnv", Routing::Pecl(ONE_A_32)),
            ("standard", weighted_modulo(KeyHash::Crc32High)),
            ("standard-fnv", weighted_modulo(KeyHash::Fnv1aHigh)),
        ],
    ),
];

const fn modulo(hash: KeyHash) -> Routing {
    Routing::Modulo { hash, has_weights: false }
}

const fn weighted_modulo(hash: KeyHash) -> Routing {
    Routing::Modulo { hash, has_weights: true }
}

/// All rules with all options.
pub fn names() -> impl Iterator<Item = (String, Routing)> {
    RULES.iter().flat_map(|(rule, options)| {
        options.iter().map(move |(option, routing)| {
            let separator = if option.is_empty() { "" } else { ":" };
            (format!("{rule}{separator}{option}"), *routing)
        })
    })
}

impl Routing {
    /// The rule of a name, for nodes with these weights.
    pub fn parse(name: &str, specs: &NodeSpecs) -> Result<Self, RoutingError> {
        /// A ring of this many points needs 32 MB, and a second to build.
        const MAX_POINTS: u64 = 1 << 22;
        let (rule, option) = name.split_once(':').unwrap_or((name, ""));
        let found = RULES.iter().find(|(known, _)| *known == rule);
        let (rule, options) = found.ok_or_else(|| RoutingError::UnknownRule(name.to_owned()))?;
        let routing = options.iter().find(|(known, _)| *known == option);
        let (_, routing) = routing.ok_or_else(|| RoutingError::UnknownOption {
            rule,
            option: option.to_owned(),
            known: options.iter().map(|(known, _)| *known).filter(|it| !it.is_empty()).collect(),
        })?;
        if !routing.has_weights() && specs.values().any(|spec| spec.weight.is_some()) {
            return Err(RoutingError::NoWeights(name.to_owned()));
        }
        if !routing.hashes_names() && specs.values().any(|spec| spec.name.is_some()) {
            return Err(RoutingError::NoNames(name.to_owned()));
        }
        if let Some(points) = routing.points_of_weight() {
            let sum: u64 = specs.values().map(|spec| u64::from(spec.weight.unwrap_or(1))).sum();
            let max = MAX_POINTS / u64::from(points);
            if sum > max {
                return Err(RoutingError::Heavy { rule, sum, max });
            }
        }
        Ok(*routing)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutingError {
    UnknownRule(String),
    UnknownOption { rule: &'static str, option: String, known: Vec<&'static str> },
    NoWeights(String),
    NoNames(String),
    Heavy { rule: &'static str, sum: u64, max: u64 },
}

impl fmt::Display for RoutingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownRule(name) => {
                let known: Vec<_> = RULES.iter().map(|(rule, _)| format!("'{rule}'")).collect();
                write!(f, "routing must be one of {}, not '{name}'", known.join(", "))
            }
            Self::UnknownOption { rule, known, .. } if known.is_empty() => {
                write!(f, "routing '{rule}' has no options")
            }
            Self::UnknownOption { rule, option, known } => {
                write!(f, "routing '{rule}' has no option '{option}'; its options are ")?;
                write!(f, "{}", known.join(", "))
            }
            Self::NoWeights(name) => write!(
                f,
                "routing '{name}' ignores weights: leave them out, or use another rule, such as \
                 'rendezvous'"
            ),
            Self::NoNames(name) => {
                write!(f, "routing '{name}' does not hash names of nodes: leave names out")
            }
            Self::Heavy { rule, sum, max } => write!(
                f,
                "the weights add up to {sum}; with routing '{rule}' at most {max} are possible, \
                 because the number of points on the ring grows with them"
            ),
        }
    }
}

impl std::error::Error for RoutingError {}
