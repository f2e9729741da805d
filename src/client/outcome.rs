//! The result of an operation: plain owned data, so that it can cross to another thread.
use std::fmt;
use std::time::Duration;

use super::batch::BatchResult;
use super::gather::Gathered;
use super::handler::RawItems;
use super::meta::MetaReply;
use crate::cluster::ClusterError;
use crate::pool;
use crate::protocol::meta::MetaStatus;
use crate::protocol::{ErrorLine, ErrorLineKind, Reply, Verb};

#[derive(Debug)]
pub enum Outcome<I> {
    /// The server did what it was told to. With `noreply`: the request is on a connection.
    Done,
    Number(u64),
    Version(Vec<u8>),
    Item(Option<I>),
    Items(Box<Gathered<I>>),
    Batch(Box<BatchResult<I>>),
    /// Names and values.
    Stats(Vec<(String, String)>),
    /// The connection is the caller's until it is released.
    CheckedOut,
    /// A reply as the server wrote it, without the last CRLF.
    RawReply(Vec<u8>),
    RawItems(Box<RawItems<I>>),
    Meta(Box<MetaReply<I>>),
    /// The server does not know the command for a counter that is created if it is missing.
    Unsupported,
    Failed(Box<Failure>),
}

/// Why an operation has no result: what happened, to which command, at which node.
#[derive(Clone, Debug)]
pub struct Failure {
    /// `None` where there is no command, as when a connection is checked out.
    pub command: Option<Verb>,
    /// The node that replied.
    replied: Option<Box<str>>,
    pub kind: FailureKind,
}

#[derive(Clone, Debug)]
pub enum FailureKind {
    NotStored,
    Exists,
    NotFound,
    /// The server replied with this error line.
    Refused {
        kind: ErrorLineKind,
        line: String,
    },
    /// The server replied with a word that is not an answer to this command.
    Unexpected(&'static str),
    /// There was no reply.
    Pool(pool::Error),
    NoNodes(ClusterError),
    /// The time limit passed before the request was sent.
    NotSent {
        limit: Duration,
    },
    /// The client was closed before the request was sent.
    Closed,
    /// A bug of emcache.
    Internal,
}

impl<I> Outcome<I> {
    #[cold]
    pub fn failed(command: Option<Verb>, kind: FailureKind) -> Self {
        Self::Failed(Box::new(Failure { command, replied: None, kind }))
    }

    /// The result of a command that has no items.
    pub fn from_reply(command: Verb, reply: &Reply<'_>, node: &str) -> Self {
        let kind = match *reply {
            // 1.3 raises for `stats reset` and `stats detail on`, although the server obeyed.
            Reply::Ok if command == Verb::Stats => FailureKind::Unexpected("OK"),
            Reply::Reset => FailureKind::Unexpected("RESET"),
            Reply::Meta { status: MetaStatus::NotStored, .. } | Reply::NotStored => {
                FailureKind::NotStored
            }
            Reply::Meta { status: MetaStatus::Exists, .. } | Reply::Exists => FailureKind::Exists,
            Reply::Meta { status: MetaStatus::NotFound | MetaStatus::Miss, .. }
            | Reply::NotFound => FailureKind::NotFound,
            Reply::Error(ErrorLine { kind, line }) => {
                FailureKind::Refused { kind, line: line.escape_ascii().to_string() }
            }
            Reply::Number(number) => return Self::Number(number),
            Reply::Version(text) => return Self::Version(text.to_vec()),
            Reply::Meta { .. }
            | Reply::Ok
            | Reply::End
            | Reply::Stored
            | Reply::Deleted
            | Reply::Touched => return Self::Done,
        };
        Self::replied(command, kind, node)
    }

    /// A reply that does not say what was asked for.
    #[cold]
    pub fn unexpected(command: Verb, word: &'static str, node: &str) -> Self {
        Self::replied(command, FailureKind::Unexpected(word), node)
    }

    #[cold]
    fn replied(command: Verb, kind: FailureKind, node: &str) -> Self {
        Self::Failed(Box::new(Failure { command: Some(command), replied: Some(node.into()), kind }))
    }

    /// Converts the items.
    pub fn map<J>(self, convert: impl FnMut(I) -> J) -> Outcome<J> {
        match self {
            Self::Item(item) => Outcome::Item(item.map(convert)),
            Self::Items(gathered) => Outcome::Items(Box::new(gathered.map(convert))),
            Self::RawItems(items) => Outcome::RawItems(Box::new(items.map(convert))),
            Self::Meta(reply) => Outcome::Meta(Box::new(reply.map(convert))),
            Self::Done => Outcome::Done,
            Self::Number(number) => Outcome::Number(number),
            Self::Version(text) => Outcome::Version(text),
            Self::Batch(result) => Outcome::Batch(Box::new(result.map(convert))),
            Self::Stats(stats) => Outcome::Stats(stats),
            Self::CheckedOut => Outcome::CheckedOut,
            Self::RawReply(text) => Outcome::RawReply(text),
            Self::Unsupported => Outcome::Unsupported,
            Self::Failed(failure) => Outcome::Failed(failure),
        }
    }
}

impl Failure {
    pub fn new(command: Option<Verb>, kind: FailureKind) -> Self {
        Self { command, replied: None, kind }
    }

    /// The node, as `host:port` or path; `None` where the failure is not about one node.
    pub fn node(&self) -> Option<String> {
        match (&self.replied, &self.kind) {
            (Some(node), _) => Some(node.to_string()),
            (None, FailureKind::Pool(error)) => Some(error.node().to_string()),
            (None, _) => None,
        }
    }

    /// The first word of memcached's reply, such as `NOT_STORED` or `SERVER_ERROR`; `None` without
    /// a reply.
    pub fn status(&self) -> Option<&str> {
        Some(match &self.kind {
            FailureKind::NotStored => "NOT_STORED",
            FailureKind::Exists => "EXISTS",
            FailureKind::NotFound => "NOT_FOUND",
            FailureKind::Refused { kind: ErrorLineKind::Unknown, .. } => "ERROR",
            FailureKind::Refused { kind: ErrorLineKind::Client, .. } => "CLIENT_ERROR",
            FailureKind::Refused { kind: ErrorLineKind::Server, .. } => "SERVER_ERROR",
            FailureKind::Refused { kind: ErrorLineKind::Refused, line } => {
                line.split(' ').next().unwrap_or_default()
            }
            FailureKind::Unexpected(word) => word,
            _ => return None,
        })
    }

    /// Whether the key did not meet the command's condition: the server did what it should.
    pub fn is_miss(&self) -> bool {
        matches!(self.kind, FailureKind::NotStored | FailureKind::Exists | FailureKind::NotFound)
    }

    /// The cause in one word, for causes that neither the kind nor the status tells.
    pub fn reason(&self) -> Option<&'static str> {
        if self.is_unauthenticated() {
            return Some("unauthenticated");
        }
        let FailureKind::Pool(error) = &self.kind else { return None };
        match (error.kind(), error.cause()) {
            (pool::ErrorKind::Unanswered { .. }, _) => Some("unanswered"),
            (_, Some(pool::Cause::Tls(_))) => Some("tls"),
            (_, Some(pool::Cause::TooManyConnections)) => Some("too_many_connections"),
            (pool::ErrorKind::Timeout { .. }, _) => Some("timeout"),
            _ => None,
        }
    }

    /// The message for the command line, which has its own names for options; `None` if the message
    /// names no option.
    pub fn command_line_text(&self) -> Option<String> {
        (self.reason() == Some("tls")).then(|| format!("{self:#}"))
    }

    /// Why the node is down, for the command line; `None` if that is not why the operation failed.
    pub fn down_because(&self) -> Option<String> {
        match &self.kind {
            FailureKind::Pool(error) if error.kind() == pool::ErrorKind::Unavailable => {
                error.cause().map(|cause| format!("{cause:#}"))
            }
            _ => None,
        }
    }

    /// Whether the server wants a login.
    pub fn is_unauthenticated(&self) -> bool {
        match &self.kind {
            FailureKind::Refused { line, .. } => line.ends_with(UNAUTHENTICATED),
            FailureKind::Pool(error) => {
                matches!(error.cause(), Some(pool::Cause::Unauthenticated))
            }
            _ => false,
        }
    }
}

/// How the error line of a server ends that wants a login.
const UNAUTHENTICATED: &str = "unauthenticated";

/// The alternate form (`{:#}`) names options as the command line does.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.replied.as_deref().unwrap_or_default();
        match (&self.kind, self.command) {
            (FailureKind::Pool(error), _) => return fmt::Display::fmt(error, f),
            (FailureKind::NoNodes(error), _) => return write!(f, "{error}"),
            (FailureKind::Closed, _) => return f.write_str("Emcache client is closed"),
            (FailureKind::Internal, _) => {
                return f.write_str("internal error of emcache, please report it");
            }
            (FailureKind::NotStored | FailureKind::Exists, command) => {
                let why = match command {
                    Some(Verb::Add) => "the key exists",
                    Some(Verb::Cas) => "the value was changed since it was read",
                    _ => "the key does not exist",
                };
                write!(f, "{node} did not store the value: {why}")?;
            }
            (FailureKind::NotFound, _) => write!(f, "key not found on {node}")?,
            (FailureKind::Refused { line, .. }, _) => write!(f, "{node} answered '{line}'")?,
            (FailureKind::Unexpected(word), _) => write!(f, "{node} answered '{word}'")?,
            (FailureKind::NotSent { limit }, _) => {
                write!(f, "not sent within {:?} s", limit.as_secs_f64())?;
            }
        }
        self.command.map_or(Ok(()), |command| write!(f, " ({})", command.name()))
    }
}

impl std::error::Error for Failure {}
