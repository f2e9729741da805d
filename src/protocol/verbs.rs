//! The table of commands: what each one is called, what it touches, and what its reply may be.
use super::meta::MetaVerb;
use super::reply::Shape;

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
    MetaGet,
    MetaSet,
    MetaDelete,
    MetaArithmetic,
    MetaDebug,
    MetaNoOp,
    Touch,
    FlushAll,
    Version,
    Stats,
    Verbosity,
    CacheMemlimit,
    ConfigGetCluster,
    Auth,
}

/// Commands that a node either knows together or does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The commands that every server and proxy answers.
    Classic,
    GetAndTouch,
    Touch,
    Meta,
    Version,
    Stats,
    FlushAll,
    Verbosity,
    CacheMemlimit,
    Config,
}

impl Family {
    pub const COUNT: usize = Self::Config as usize + 1;
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

/// When a request of a lost connection is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Once, even if it was sent: its only effect is `gat`'s exptime, which is set to the same value.
    Once,
    /// Only if no byte of it was sent, because the server may have executed it.
    Unsent,
}

/// One row of the table.
struct Info {
    verb: Verb,
    name: &'static str,
    family: Family,
    scope: Scope,
    retry: Retry,
    shape: Shape,
}

const fn row(
    verb: Verb,
    name: &'static str,
    family: Family,
    scope: Scope,
    retry: Retry,
    shape: Shape,
) -> Info {
    Info { verb, name, family, scope, retry, shape }
}

/// In the order of the discriminants.
#[rustfmt::skip]
static TABLE: [Info; Verb::COUNT] = {
    use Retry::{Once, Unsent};
    use Scope::{AllKeys, Fixed, Keys};
    [
        row(Verb::Get, "get", Family::Classic, Keys, Once, Shape::Retrieval { cas: false }),
        row(Verb::Gets, "gets", Family::Classic, Keys, Once, Shape::Retrieval { cas: true }),
        row(Verb::Gat, "gat", Family::GetAndTouch, Keys, Once, Shape::Retrieval { cas: false }),
        row(Verb::Gats, "gats", Family::GetAndTouch, Keys, Once, Shape::Retrieval { cas: true }),
        row(Verb::Set, "set", Family::Classic, Keys, Unsent, Shape::Storage),
        row(Verb::Add, "add", Family::Classic, Keys, Unsent, Shape::Storage),
        row(Verb::Replace, "replace", Family::Classic, Keys, Unsent, Shape::Storage),
        row(Verb::Append, "append", Family::Classic, Keys, Unsent, Shape::Storage),
        row(Verb::Prepend, "prepend", Family::Classic, Keys, Unsent, Shape::Storage),
        row(Verb::Cas, "cas", Family::Classic, Keys, Unsent, Shape::Storage),
        row(Verb::Delete, "delete", Family::Classic, Keys, Unsent, Shape::Delete),
        row(Verb::Incr, "incr", Family::Classic, Keys, Unsent, Shape::Arithmetic),
        row(Verb::Decr, "decr", Family::Classic, Keys, Unsent, Shape::Arithmetic),
        // Not repeated: a lost reply to `mg` may have told its caller that it has won.
        row(Verb::MetaGet, "mg", Family::Meta, Keys, Unsent, Shape::Meta(MetaVerb::Get)),
        row(Verb::MetaSet, "ms", Family::Meta, Keys, Unsent, Shape::Meta(MetaVerb::Set)),
        row(Verb::MetaDelete, "md", Family::Meta, Keys, Unsent, Shape::Meta(MetaVerb::Delete)),
        row(Verb::MetaArithmetic, "ma", Family::Meta, Keys, Unsent, Shape::Meta(MetaVerb::Arithmetic)),
        row(Verb::MetaDebug, "me", Family::Meta, Keys, Unsent, Shape::Meta(MetaVerb::Debug)),
        row(Verb::MetaNoOp, "mn", Family::Meta, Fixed, Unsent, Shape::MetaNoOp),
        row(Verb::Touch, "touch", Family::Touch, Keys, Unsent, Shape::Touch),
        row(Verb::FlushAll, "flush_all", Family::FlushAll, AllKeys, Unsent, Shape::Ok),
        row(Verb::Version, "version", Family::Version, Fixed, Unsent, Shape::Version),
        row(Verb::Stats, "stats", Family::Stats, AllKeys, Unsent, Shape::Stats),
        row(Verb::Verbosity, "verbosity", Family::Verbosity, AllKeys, Unsent, Shape::Ok),
        row(Verb::CacheMemlimit, "cache_memlimit", Family::CacheMemlimit, AllKeys, Unsent, Shape::Ok),
        row(Verb::ConfigGetCluster, "config get cluster", Family::Config, Fixed, Unsent, Shape::Config),
        row(Verb::Auth, "auth", Family::Classic, Fixed, Unsent, Shape::Storage),
    ]
};

impl Verb {
    pub const COUNT: usize = Self::Auth as usize + 1;

    /// All commands, in the order of the discriminants.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|info| info.verb)
    }

    #[inline]
    fn info(self) -> &'static Info {
        &TABLE[self as usize]
    }

    pub fn name(self) -> &'static str {
        self.info().name
    }

    #[inline]
    pub fn family(self) -> Family {
        self.info().family
    }

    pub fn scope(self) -> Scope {
        self.info().scope
    }

    pub fn retry(self) -> Retry {
        self.info().retry
    }

    /// The form of the command's reply.
    #[inline]
    pub fn shape(self) -> Shape {
        self.info().shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_at_the_place_of_its_verb() {
        for (at, verb) in Verb::all().enumerate() {
            assert_eq!(verb as usize, at);
            assert_eq!(verb.info().verb, verb);
        }
    }

    #[test]
    fn only_retrievals_are_repeated() {
        for verb in Verb::all() {
            let is_retrieval = matches!(verb.shape(), Shape::Retrieval { .. });
            assert_eq!(verb.retry() == Retry::Once, is_retrieval, "{}", verb.name());
        }
    }
}
