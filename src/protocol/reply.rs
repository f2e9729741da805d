//! What a server can answer, borrowed from the read buffer.

/// One item of a retrieval reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemRef<'a> {
    pub key: &'a [u8],
    pub flags: u32,
    pub cas: Option<u64>,
    pub value: &'a [u8],
}

/// One line of an answer to `stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatLine<'a> {
    /// The whole of it, without CRLF.
    pub line: &'a [u8],
    pub name: &'a [u8],
    pub value: &'a [u8],
}

/// The end of an answer: of a retrieval or of `stats` after its items, of anything else the whole.
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
    /// `stats reset` was done.
    Reset,
    Number(u64),
    Version(&'a [u8]),
    Error(ErrorLine<'a>),
}

/// A whole error line without its CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorLine<'a> {
    pub kind: ErrorLineKind,
    pub line: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorLineKind {
    /// `ERROR`: a command that the server does not know, or will not take from us.
    Unknown,
    /// `CLIENT_ERROR`: the server blames the request.
    Client,
    /// `SERVER_ERROR`: the server could not do it.
    Server,
    /// `MEMLIMIT_TOO_SMALL`, `MEMLIMIT_ADJUST_FAILED`: only to `cache_memlimit`.
    Refused,
}

/// What a request makes us expect. The classic protocol does not describe itself: a `get` ends at
/// `END`, an `incr` answers a bare number.
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
    /// `VA <bytes>`, the number, or `NF`; with other flags than ours `HD`, `NS`, `EX`
    MetaArithmetic,
    /// `TOUCHED | NOT_FOUND`
    Touch,
    /// `OK`, and `MEMLIMIT_…` for `cache_memlimit`
    Ok,
    /// `VERSION <text>`
    Version,
    /// `STAT <name> <value>` any number of times, then `END`; or `RESET`, or `OK`.
    Stats,
    /// `CONFIG cluster 0 <bytes>`, the payload, then `END`; or `END` alone.
    Config,
}
