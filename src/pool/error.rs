//! Why a request has no answer. One cause may end many requests, so an error is cheap to clone.
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls;

use super::address::Address;
use super::open::Phase;
use super::tls;
use crate::protocol::{CONNECTION_REFUSED, CallResult, MustClose, ProtocolError, Verb};

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
    /// The connection of this one request was closed instead of an answer, or the node is known to do that.
    Unanswered { verb: Verb },
    /// The server sent what is no answer.
    Protocol,
    /// The node is known to be down.
    Unavailable,
    /// The node does not let us in.
    LoginRefused,
    /// The queues to this node are full.
    Saturated { what: &'static str, limit: usize },
    /// No connection was free within the pool's timeout.
    CheckoutTimeout { limit: Duration },
    /// The connection that was leased is gone; nothing was sent.
    CheckoutLost,
    /// The client was closed.
    Closed,
    /// The node left the cluster, and had not answered within this.
    RemovedUnanswered { grace_period: Duration },
    /// The node left the cluster; nothing was sent.
    Removed,
}

impl ErrorKind {
    /// What it is counted as.
    pub fn call_result(self) -> CallResult {
        match self {
            Self::Timeout { .. } | Self::CheckoutTimeout { .. } => CallResult::Timeout,
            Self::Lost { .. }
            | Self::Unanswered { .. }
            | Self::CheckoutLost
            | Self::RemovedUnanswered { .. } => CallResult::Connection,
            Self::Protocol => CallResult::Protocol,
            Self::Unavailable | Self::Removed => CallResult::Unavailable,
            Self::LoginRefused => CallResult::Login,
            Self::Saturated { .. } => CallResult::Overloaded,
            Self::Closed => CallResult::Closed,
        }
    }
}

/// What happened to the connection.
#[derive(Clone, Debug)]
pub enum Cause {
    Eof,
    /// It ended, and a server that speaks plain memcached would have said a word before.
    ClosedSilent(Arc<Cause>),
    /// It was waited for much longer than for any request.
    NoAnswer,
    Io(Arc<io::Error>),
    Protocol(Arc<ProtocolError>),
    /// The server is at its limit. It has done nothing of what was asked.
    TooManyConnections,
    /// `connection_timeout` passed.
    ConnectTimeout {
        limit: Duration,
        phase: Phase,
    },
    /// There is no connection yet.
    Connecting(Phase),
    /// No TLS with this server, or not any more: why, in a sentence.
    Tls(Arc<str>),
    /// The server refused the head of a storage command, so its value may have been run.
    StorageRefused,
    /// An error line came in the answer to several keys, so nobody knows whose answer comes next.
    KeyRefused,
    /// The server wants a login.
    Unauthenticated,
    /// The node is elsewhere now, and where it was did not answer in time.
    Relocated,
    /// Whoever leased the connection closed it.
    ClosedByHolder,
    /// The server does not take the credentials, or none at all; with its answer.
    LoginRefused(Arc<str>),
    /// A bug of ours.
    Panicked,
}

impl From<MustClose> for Cause {
    fn from(why: MustClose) -> Self {
        match why {
            MustClose::StorageRefused => Self::StorageRefused,
            MustClose::KeyRefused => Self::KeyRefused,
            MustClose::Unauthenticated => Self::Unauthenticated,
        }
    }
}

impl Cause {
    /// Whether the connection was closed by the pool, and its node did nothing wrong.
    pub fn closed_by_pool(&self) -> bool {
        matches!(
            self,
            Self::ClosedByHolder
                | Self::Relocated
                | Self::NoAnswer
                | Self::StorageRefused
                | Self::KeyRefused
                | Self::Unauthenticated
        )
    }

    pub fn from_protocol(error: ProtocolError) -> Self {
        match error {
            ProtocolError::TooManyConnections => Self::TooManyConnections,
            other => Self::Protocol(Arc::new(other)),
        }
    }

    /// Streams that are more than sockets hide their own errors in those of I/O.
    pub fn from_io(error: io::Error) -> Self {
        if let Some(error) = downcast_inner::<rustls::Error>(&error) {
            return Self::Tls(tls::explain(error).into());
        }
        match downcast_inner::<ProtocolError>(&error) {
            Some(error) => Self::from_protocol(error.clone()),
            None => Self::Io(Arc::new(error)),
        }
    }

    /// As it is told, for a connection without TLS that ended with nothing read from it ever.
    #[must_use]
    pub fn when_silent(&self) -> Self {
        match self {
            Self::Eof | Self::Io(_) => Self::ClosedSilent(Arc::new(self.clone())),
            other => other.clone(),
        }
    }

    /// Whether further dials would not help those who wait: it will not be otherwise, or took all the time
    /// that a dial may take.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::LoginRefused(_) | Self::Tls(_) | Self::ConnectTimeout { .. })
    }

    /// For logs: without what servers sent, which may be somebody's key.
    pub fn redacted(&self) -> String {
        match self {
            Self::Protocol(_) => "what came is no reply of memcached's".to_owned(),
            Self::ClosedSilent(cause) => {
                format!("{} (does it expect TLS?)", cause.redacted())
            }
            other => other.to_string(),
        }
    }

    /// What an error line tells of the connection and not of what was asked.
    pub fn from_line(line: &[u8]) -> Option<Self> {
        (line == CONNECTION_REFUSED).then_some(Self::TooManyConnections)
    }
}

fn downcast_inner<E: std::error::Error + 'static>(error: &io::Error) -> Option<&E> {
    error.get_ref().and_then(|downcast_inner| downcast_inner.downcast_ref())
}

impl Error {
    pub fn new(kind: ErrorKind, node: &Arc<Address>, cause: Option<Cause>) -> Self {
        Self { kind, node: node.clone(), cause }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
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
            ErrorKind::Unanswered { verb } => {
                let name = verb.name();
                write!(
                    f,
                    "{node} did not answer {name}; a proxy that does not know it closes the connection"
                )?;
            }
            ErrorKind::Protocol => write!(f, "no valid reply from {node}, connection closed")?,
            ErrorKind::Unavailable => write!(f, "{node} is down")?,
            ErrorKind::LoginRefused => write!(f, "no login at {node}")?,
            ErrorKind::Saturated { what, limit } => {
                write!(f, "more than {limit} {what} wait for {node}")?;
            }
            ErrorKind::CheckoutTimeout { limit } => {
                write!(f, "no free connection to {node} within {:?} s", limit.as_secs_f64())?;
            }
            ErrorKind::CheckoutLost => write!(f, "the leased connection to {node} has ended")?,
            ErrorKind::Closed => write!(f, "client closed before the reply from {node}")?,
            ErrorKind::RemovedUnanswered { grace_period } => write!(
                f,
                "{node} left the cluster and did not reply within {:?} s",
                grace_period.as_secs_f64()
            )?,
            ErrorKind::Removed => write!(f, "{node} has left the cluster")?,
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
            Self::ClosedSilent(cause) => {
                write!(f, "{cause}, and had never answered (does it expect TLS?)")
            }
            Self::NoAnswer => write!(f, "the server stopped answering"),
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                write!(f, "the connection was cut short (TLS without close_notify)")
            }
            Self::Io(error) => write!(f, "{error}"),
            Self::Protocol(error) => write!(f, "{error}"),
            Self::TooManyConnections => write!(f, "too many open connections at the server"),
            Self::ConnectTimeout { limit, phase } => {
                let what = match phase {
                    Phase::Connect => "no connection",
                    Phase::Tls => "the server did not finish the TLS handshake",
                    Phase::Login => "the login was not answered",
                };
                write!(f, "{what} within {:?} s", limit.as_secs_f64())
            }
            Self::Connecting(phase) => f.write_str(match phase {
                Phase::Connect => "still connecting",
                Phase::Tls => "the TLS handshake is not finished",
                Phase::Login => "the login is not answered",
            }),
            Self::Tls(why) => write!(f, "TLS: {why}"),
            Self::StorageRefused => write!(f, "a storage command was refused before its value"),
            Self::Unauthenticated => write!(f, "the server wants a login"),
            Self::KeyRefused => f.write_str(
                "it was closed after an error in the answer to another request, for several keys",
            ),
            Self::Relocated => {
                write!(f, "the node moved, and its old address did not answer in time")
            }
            Self::ClosedByHolder => write!(f, "it was closed by its holder"),
            Self::LoginRefused(answer) => write!(f, "the server refused the login: {answer}"),
            Self::Panicked => write!(f, "an internal error of emcache, please report it"),
        }
    }
}
