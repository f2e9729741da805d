//! The reasons why a request has no reply. One cause may end many requests, so errors are cheap to
//! clone.
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls;

use super::address::Address;
use super::tls_error::explain;
use crate::protocol::meta::{Lack, Version};
use crate::protocol::{CallResult, MustClose, ProtocolError, Verb};

#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    node: Arc<Address>,
    cause: Option<Cause>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No reply arrived within the client's timeout.
    Timeout { verb: Verb, limit: Duration },
    /// The connection was lost after the request was sent. The server may have executed it.
    Lost { verb: Verb },
    /// The node closed the connection of this one request without a reply, or is known to do so.
    Unanswered { verb: Verb },
    /// The node does not know the command or one of its flags; nothing was sent.
    Unsupported { verb: Verb, lack: Lack, version: Option<Version> },
    /// The server sent an invalid reply.
    Protocol,
    /// The node is known to be down.
    Unavailable,
    /// The node refuses the login.
    LoginRefused,
    /// The queues of this node are full.
    Saturated { what: &'static str, limit: usize },
    /// No connection was free within the pool's timeout.
    CheckoutTimeout { limit: Duration },
    /// The checked-out connection has ended; nothing was sent.
    CheckoutLost,
    /// The client was closed.
    Closed,
    /// The node was removed from the cluster, and did not reply within the grace period.
    RemovedUnanswered { grace_period: Duration },
    /// The node was removed from the cluster; nothing was sent.
    Removed,
}

impl ErrorKind {
    /// The result under which the error is counted.
    pub fn call_result(self) -> CallResult {
        match self {
            Self::Timeout { .. } | Self::CheckoutTimeout { .. } => CallResult::Timeout,
            Self::Lost { .. }
            | Self::Unanswered { .. }
            | Self::CheckoutLost
            | Self::RemovedUnanswered { .. } => CallResult::Connection,
            Self::Unsupported { .. } => CallResult::Error,
            Self::Protocol => CallResult::Protocol,
            Self::Unavailable | Self::Removed => CallResult::Unavailable,
            Self::LoginRefused => CallResult::Login,
            Self::Saturated { .. } => CallResult::Overloaded,
            Self::Closed => CallResult::Closed,
        }
    }
}

/// The reason why a connection ended or could not be opened.
#[derive(Clone, Debug)]
pub enum Cause {
    Eof,
    /// The connection ended without a byte, and a server that speaks plain memcached would have
    /// sent one.
    ClosedSilent(Arc<Cause>),
    /// No reply arrived for much longer than a request may take.
    NoAnswer,
    Io(Arc<io::Error>),
    Protocol(Arc<ProtocolError>),
    /// The server has reached its limit of connections. It has executed nothing.
    TooManyConnections,
    /// `connection_timeout` passed.
    ConnectTimeout {
        limit: Duration,
        phase: Phase,
    },
    /// There is no connection yet.
    Connecting(Phase),
    /// TLS failed, for the reason in the text.
    Tls(Arc<str>),
    /// The server rejected the head of a storage command, so it may have run the value as commands.
    StorageRefused,
    /// An error line arrived in the reply to several keys, so the next reply cannot be attributed.
    KeyRefused,
    /// The server requires a login.
    Unauthenticated,
    /// The node has moved, and its former address did not reply in time.
    Relocated,
    /// The holder of the checkout closed the connection.
    ClosedByHolder,
    /// The server rejects the credentials, or any login; with its answer.
    LoginRefused(Arc<str>),
    /// A bug in emcache.
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
    /// Whether the pool closed the connection although the node did nothing wrong.
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

    /// Layered streams wrap their own errors in I/O errors.
    pub fn from_io(error: io::Error) -> Self {
        if let Some(error) = downcast_inner::<rustls::Error>(&error) {
            return Self::Tls(explain(error).into());
        }
        Self::Io(Arc::new(error))
    }

    /// The cause to report for a connection without TLS on which no byte ever arrived.
    #[must_use]
    pub fn when_silent(&self) -> Self {
        match self {
            Self::Eof | Self::Io(_) => Self::ClosedSilent(Arc::new(self.clone())),
            other => other.clone(),
        }
    }

    /// Whether further dials would not help waiting requests, because the failure is permanent or
    /// took the whole `connection_timeout`.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::LoginRefused(_) | Self::Tls(_) | Self::ConnectTimeout { .. })
    }

    /// For logs: omits text from the server, which may contain keys.
    pub fn redacted(&self) -> String {
        match self {
            Self::Protocol(_) => "the reply is not valid memcached protocol".to_owned(),
            Self::ClosedSilent(cause) => {
                format!("{} (does it expect TLS?)", cause.redacted())
            }
            other => other.to_string(),
        }
    }
}

fn downcast_inner<E: std::error::Error + 'static>(error: &io::Error) -> Option<&E> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
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
                    "{node} closed the connection instead of answering {name}; it may be a proxy without this command"
                )?;
            }
            ErrorKind::Unsupported { lack, version, .. } => {
                match version {
                    Some(version) => write!(f, "{node} (memcached {version}) ")?,
                    None => write!(f, "{node} ")?,
                }
                write!(f, "does not support {lack}; ")?;
                match lack.since {
                    Some(since) => write!(f, "memcached {since} and later do")?,
                    None => write!(f, "no version of memcached does")?,
                }
            }
            ErrorKind::Protocol => {
                write!(f, "invalid reply from {node}; the connection was closed")?;
            }
            ErrorKind::Unavailable => write!(f, "{node} is down")?,
            ErrorKind::LoginRefused => write!(f, "{node} refused the login")?,
            ErrorKind::Saturated { what, limit } => {
                write!(f, "more than {limit} {what} are waiting for {node}; send fewer at once")?;
            }
            ErrorKind::CheckoutTimeout { limit } => {
                write!(f, "no free connection to {node} within {:?} s", limit.as_secs_f64())?;
            }
            ErrorKind::CheckoutLost => write!(f, "the checked-out connection to {node} has ended")?,
            ErrorKind::Closed => write!(f, "client closed before the reply from {node}")?,
            ErrorKind::RemovedUnanswered { grace_period } => write!(
                f,
                "{node} left the cluster and did not reply within {:?} s",
                grace_period.as_secs_f64()
            )?,
            ErrorKind::Removed => write!(f, "{node} has left the cluster")?,
        }
        match &self.cause {
            Some(Cause::LoginRefused(answer)) if self.kind == ErrorKind::LoginRefused => {
                write!(f, ": {answer}")
            }
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
                write!(f, "{cause}; the server had never answered (does it expect TLS?)")
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
            Self::StorageRefused => write!(f, "the server rejected the header of a storage command"),
            Self::Unauthenticated => write!(f, "the server requires a login; pass username and password"),
            Self::KeyRefused => f.write_str(
                "the connection was closed after an error in the reply to another request with several keys",
            ),
            Self::Relocated => {
                write!(f, "the node moved, and its former address did not reply in time")
            }
            Self::ClosedByHolder => write!(f, "the connection was closed by its holder"),
            Self::LoginRefused(answer) => write!(f, "the server refused the login: {answer}"),
            Self::Panicked => write!(f, "internal error in emcache; please report it"),
        }
    }
}

/// The progress of a dial, for the message of a timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Connect,
    Tls,
    Login,
}
