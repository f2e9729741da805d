//! Sockets and time: connections, and the pool of connections to one node. Never Python.
//!
//! Everything here lives on one thread, in tasks that the [`Context`]'s host runs.
mod address;
mod backoff;
mod binary_stream;
mod capabilities;
mod connection;
mod context;
mod dial;
mod endings;
mod error;
mod health;
mod isolated;
mod large;
mod leases;
mod line_len;
mod login;
mod lookup;
mod metrics;
mod moves;
mod open;
mod order;
#[allow(clippy::module_inception, reason = "the pool of this layer")]
mod pool;
mod queue;
mod read_buffer;
#[cfg_attr(not(unix), path = "plain_socket.rs")]
mod socket;
mod stalls;
mod state;
mod tasks;
mod tls;
mod transport;

pub use address::Address;
pub use connection::Connection;
pub use context::{Context, Host, LocalFuture, LocalSetHost};
pub use error::{Cause, Error, ErrorKind};
pub use health::Change;
pub use login::{
    InvalidCredentials, Login, Mechanism, flaw as credentials_flaw, refusal as login_refusal,
};
pub use lookup::after_fork_in_child;
pub use metrics::{ConnectLatency, Metrics};
pub use open::{Phase, Security};
pub use pool::{LeaseId, Pool, PoolConfig, Waiter};
pub use queue::{Submission, keep_in, owned};
pub use tls::{Tls, TlsConfigError, TlsOptions};
pub use transport::Io;
