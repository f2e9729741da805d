//! Why a request has no answer. One cause may end many requests, so an error is cheap to clone.
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::address::Address;
use crate::protocol::{ProtocolError, Verb};

#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    node: Arc<Address>,
    cause: Option<Cause>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No answer within the client's timeout.
    Timeout { verb: Verb, limit: Duration },
    /// The connection was lost after the request was sent; the server may have done it.
    Lost { verb: Verb },
    /// The server sent what is no answer.
    Protocol,
    /// The node is known to be down.
    Unavailable,
    /// The queues to this node are full.
    Saturated { what: &'static str, limit: usize },
    /// No connection was free within the pool's timeout.
    NoLease { limit: Duration },
    /// The connection that was leased is gone; nothing was sent.
    LeaseLost,
    /// The client was closed.
    Closed,
}

/// What happened to the connection.
#[derive(Clone, Debug)]
pub enum Cause {
    Eof,
    /// It was waited for much longer than for any request.
    NoAnswer,
    Io(Arc<io::Error>),
    Protocol(Arc<ProtocolError>),
    /// The server is at its limit. It has done nothing of what was asked.
    TooManyConnections,
    /// `connection_timeout` passed.
    ConnectTimeout(Duration),
    /// The server refused the head of a storage command, so its value may have been run.
    StorageRefused,
    /// Whoever leased the connection closed it.
    ClosedByHolder,
    /// The server does not take the credentials, or none at all; with its answer.
    LoginRefused(Arc<str>),
    /// A bug of ours.
    Panicked,
}

impl Cause {
    pub fn of(error: ProtocolError) -> Self {
        match error {
            ProtocolError::TooManyConnections => Self::TooManyConnections,
            other => Self::Protocol(Arc::new(other)),
        }
    }
}

impl Error {
    pub fn new(kind: ErrorKind, node: &Arc<Address>, cause: Option<Cause>) -> Self {
        Self { kind, node: node.clone(), cause }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn node(&self) -> &Address {
        &self.node
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = &self.node;
        match self.kind {
            ErrorKind::Timeout { verb, limit } => {
                write!(
                    f,
                    "no reply from {node} within {:?} s ({})",
                    limit.as_secs_f64(),
                    verb.name()
                )?;
            }
            ErrorKind::Lost { verb } => {
                write!(f, "connection to {node} lost before the reply ({})", verb.name())?;
            }
            ErrorKind::Protocol => write!(f, "no valid reply from {node}, connection closed")?,
            ErrorKind::Unavailable => write!(f, "{node} is down")?,
            ErrorKind::Saturated { what, limit } => {
                write!(f, "more than {limit} {what} wait for {node}")?;
            }
            ErrorKind::NoLease { limit } => {
                write!(f, "no free connection to {node} within {:?} s", limit.as_secs_f64())?;
            }
            ErrorKind::LeaseLost => write!(f, "the leased connection to {node} has ended")?,
            ErrorKind::Closed => write!(f, "client closed before the reply from {node}")?,
        }
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eof => write!(f, "the server closed the connection"),
            Self::NoAnswer => write!(f, "the server stopped answering"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Protocol(error) => write!(f, "{error}"),
            Self::TooManyConnections => write!(f, "too many open connections at the server"),
            Self::ConnectTimeout(limit) => {
                write!(f, "no connection within {:?} s", limit.as_secs_f64())
            }
            Self::StorageRefused => write!(f, "a storage command was refused before its value"),
            Self::ClosedByHolder => write!(f, "it was closed by its holder"),
            Self::LoginRefused(answer) => write!(f, "the server refused the login: {answer}"),
            Self::Panicked => write!(f, "an internal error of emcache, please report it"),
        }
    }
}
