//! The replies of a server, borrowed from the read buffer.
use super::meta::{MetaStatus, MetaVerb};

/// One item of a retrieval reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemRef<'a> {
    pub key: &'a [u8],
    pub flags: u32,
    pub cas: Option<u64>,
    pub value: &'a [u8],
}

/// The reply `VA` to a meta command, as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaValue<'a> {
    pub flags: &'a [u8],
    pub value: &'a [u8],
}

/// One line of the reply to `stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatLine<'a> {
    /// The whole line, without CRLF.
    pub line: &'a [u8],
    pub name: &'a [u8],
    pub value: &'a [u8],
}

/// The end of a reply. For retrievals and `stats` it follows the items; for other commands it is
/// the whole reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    End,
    Stored,
    NotStored,
    Exists,
    NotFound,
    Deleted,
    Touched,
    Ok,
    /// The reply to `stats reset`.
    Reset,
    Number(u64),
    Version(&'a [u8]),
    /// A reply to a meta command. Its flags are valid [`super::meta::MetaAttributes`], or the text
    /// of `ME`. The value, if there is one, came before.
    Meta {
        status: MetaStatus,
        flags: &'a [u8],
    },
    Error(ErrorLine<'a>),
}

/// A whole error line, without CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorLine<'a> {
    pub kind: ErrorLineKind,
    pub line: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorLineKind {
    /// `ERROR`: the server does not know the command or does not accept it.
    Unknown,
    /// `CLIENT_ERROR`: the server rejects the request as invalid.
    Client,
    /// `SERVER_ERROR`: the server failed to execute the request.
    Server,
    /// `MEMLIMIT_TOO_SMALL` or `MEMLIMIT_ADJUST_FAILED`, in reply to `cache_memlimit` only.
    Refused,
}

/// The form of the expected reply. The classic protocol is not self-describing: a `get` ends with
/// `END`, an `incr` returns a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `VALUE <key> <flags> <bytes> [<cas>]` any number of times, then `END`.
    Retrieval { cas: bool },
    /// `STORED | NOT_STORED | EXISTS | NOT_FOUND`
    Storage,
    /// `DELETED | NOT_FOUND`
    Delete,
    /// `<number> | NOT_FOUND`
    Arithmetic,
    /// `VA <bytes> <flags>` and the value, or a line that starts with another word.
    Meta(MetaVerb),
    /// `MN`
    MetaNoOp,
    /// `TOUCHED | NOT_FOUND`
    Touch,
    /// `OK`, or `MEMLIMIT_…` for `cache_memlimit`
    Ok,
    /// `VERSION <text>`
    Version,
    /// `STAT <name> <value>` any number of times, then `END`; or `RESET`, or `OK`.
    Stats,
    /// `CONFIG cluster 0 <bytes>`, the payload, then `END`; or `END` alone.
    Config,
}
