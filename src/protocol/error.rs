//! Replies that a healthy server never sends. The connection is closed after any of them.
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// A line that is not a valid reply to the request at the head of the pipeline.
    UnexpectedLine(Excerpt),
    /// A line without an end within [`super::MAX_REPLY_LINE_LEN`].
    LineTooLong,
    /// More lines of statistics than any server has.
    TooManyLines,
    /// The server announced a value of more than [`super::MAX_VALUE_LEN`] bytes.
    ValueTooLong { len: u64 },
    /// A value that is not followed by CRLF, so its length was wrong.
    ValueNotTerminated,
    /// A value for a key that was not requested.
    ForeignKey(Excerpt),
    /// The server has reached its limit of connections. It has executed nothing of this
    /// connection's requests.
    TooManyConnections,
    /// Bytes that arrived while no request was waiting for a reply.
    Unsolicited(Excerpt),
}

/// The part of an unexpected reply that may be shown. The bytes could belong to a value, so only
/// words that servers (of memcached or of another protocol) are known to send are repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt(String);

impl Excerpt {
    const LEN: usize = 60;
    const ERRORS: [&[u8]; 3] = [b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR"];
    const WORDS: [&[u8]; 26] = [
        b"VALUE",
        b"END",
        b"STORED",
        b"NOT_STORED",
        b"EXISTS",
        b"NOT_FOUND",
        b"DELETED",
        b"TOUCHED",
        b"OK",
        b"RESET",
        b"VERSION",
        b"STAT",
        b"HD",
        b"VA",
        b"EN",
        b"MN",
        b"NF",
        b"NS",
        b"EX",
        b"ME",
        b"BUSY",
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"-ERR",
        b"-NOAUTH",
        b"+OK",
    ];

    pub fn from_bytes(bytes: &[u8]) -> Self {
        let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii_end();
        let word = line.split(|&b| b == b' ').next().unwrap_or_default();
        Self(if Self::ERRORS.contains(&word) {
            Self::shortened(line)
        } else if Self::WORDS.contains(&word) {
            format!("{} …", word.escape_ascii())
        } else {
            return Self::from_secret(bytes);
        })
    }

    /// Shows only the length.
    pub fn from_secret(bytes: &[u8]) -> Self {
        Self(format!("{} unknown bytes", bytes.len()))
    }

    /// A key, shortened.
    pub fn from_key(key: &[u8]) -> Self {
        Self(Self::shortened(key))
    }

    fn shortened(bytes: &[u8]) -> String {
        let shown = &bytes[..bytes.len().min(Self::LEN)];
        let more = if shown.len() < bytes.len() { "…" } else { "" };
        format!("{}{more}", shown.escape_ascii())
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnexpectedLine(Excerpt(e)) => write!(f, "unexpected reply: {e}"),
            Self::LineTooLong => {
                write!(f, "a reply line exceeds {} bytes", super::MAX_REPLY_LINE_LEN)
            }
            Self::TooManyLines => write!(f, "the reply to stats is too long"),
            Self::ValueTooLong { len } => {
                write!(f, "a value of {len} bytes exceeds the limit")
            }
            Self::ValueNotTerminated => write!(f, "a value is not followed by CRLF"),
            Self::ForeignKey(Excerpt(e)) => {
                write!(f, "a value for a key that was not requested: '{e}'")
            }
            Self::TooManyConnections => write!(f, "too many open connections"),
            Self::Unsolicited(Excerpt(e)) => write!(f, "unsolicited reply: {e}"),
        }
    }
}

impl std::error::Error for ProtocolError {}
