//! The address of a node.
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `host` as the user wrote it: a name, an IPv4 address, or an IPv6 address without brackets.
    Tcp {
        host: String,
        port: u16,
    },
    Unix {
        path: String,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => f.write_str(path),
        }
    }
}
