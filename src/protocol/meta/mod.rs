//! The meta commands: `mg`, `ms`, `md`, `ma`, `me` and `mn`. They share connections with the
//! classic text protocol.
//!
//! | module | what it holds |
//! |---|---|
//! | `options` | what a command asks for, and its flags on the wire |
//! | `key` | keys of any bytes, in base64 |
//! | `versions` | the flags that each version of memcached knows |
//! | `encode`, `parse` | the command line, there and back |
//! | `reply` | status and flags of a reply |
//!
//! Flags are one letter, most with an argument, and servers execute them from left to right.
//! No other module knows the letters.
pub(super) mod encode;
mod key;
mod options;
pub(super) mod parse;
mod reply;
mod versions;

pub use key::{MAX_BINARY_KEY_LEN, MetaKey};
pub(super) use options::counter_flags;
pub use options::{
    MetaArithmetic, MetaDelete, MetaGet, MetaGetMany, MetaMode, MetaRaw, MetaSet, debug_flags,
};
pub(super) use reply::line_reply;
pub use reply::{DebugInfo, MetaAttributes, MetaStatus};
pub use versions::{Lack, META_SINCE, Version};

use super::verbs::Verb;

/// A meta command with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaVerb {
    Get,
    Set,
    Delete,
    Arithmetic,
    Debug,
}

impl MetaVerb {
    #[inline]
    pub fn verb(self) -> Verb {
        match self {
            Self::Get => Verb::MetaGet,
            Self::Set => Verb::MetaSet,
            Self::Delete => Verb::MetaDelete,
            Self::Arithmetic => Verb::MetaArithmetic,
            Self::Debug => Verb::MetaDebug,
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Get, Self::Set, Self::Delete, Self::Arithmetic, Self::Debug];
        all.into_iter().find(|verb| verb.verb().name() == name)
    }
}
