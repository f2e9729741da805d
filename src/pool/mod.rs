//! Connections, and the pool of connections to one node. Never Python.
//!
//! Everything here lives on one thread, in tasks that the [`Context`]'s host runs.
//!
//! The states in which a caller, a request or a connection ends have one word each:
//!
//! | word | meaning |
//! |---|---|
//! | abandoned | the caller was cancelled or timed out; the slot stays, its reply is discarded |
//! | expired | the deadline of a request passed before its reply |
//! | orphan | a request whose connection was lost. It is retried, or fails |
//! | lost | a connection ended without being asked to, or because it was silent |
//! | drained | accepts no new requests, and closes once everything is answered |
//! | closed | a pool or client that ended for good |
//! | removed | a node that left the cluster |
mod address;
mod backoff;
mod calm;
mod capabilities;
mod checkout;
mod checkouts;
mod config;
mod connection;
mod connections;
mod context;
mod counters;
mod dial;
mod error;
mod exchange;
mod failures;
mod growth;
mod health;
mod io;
mod isolated;
mod isolation;
mod large;
mod lifecycle;
mod line_len;
mod lingering;
mod location;
mod login;
mod lookup;
mod meta_probe;
mod metrics;
mod open;
mod order;
mod placement;
#[allow(clippy::module_inception, reason = "the pool of this layer")]
mod pool;
mod precautions;
mod queue;
mod read_buffer;
mod relocation;
mod shared;
mod silence;
#[cfg_attr(not(unix), path = "socket_portable.rs")]
mod socket;
mod stalls;
mod state;
mod submission;
mod tasks;
mod tls;
mod tls_error;
mod transport;
mod version;
mod waiter;
mod window;

pub use crate::protocol::copy_into_block;
pub use address::Address;
pub use config::PoolConfig;
pub use connection::Connection;
pub use context::{Context, Host, LocalFuture, LocalSetHost, Waiting};
pub use error::Phase;
pub use error::{Cause, Error, ErrorKind};
pub use health::Change;
pub use io::Io;
pub use login::{
    InvalidCredentials, Login, Mechanism, invalid_reason as invalid_credentials_reason,
    redact_refusal as redact_login_refusal,
};
pub use lookup::after_fork_in_child;
pub use metrics::{ConnectLatency, Metrics};
pub use open::Security;
pub use shared::Pool;
pub use submission::Submission;
pub use tls::{Tls, TlsConfigError, TlsOptions};
pub use tls_error::TlsError;
pub use waiter::{CheckoutId, Waiter};
