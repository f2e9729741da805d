//! Whole operations. An operation goes in with its caller, and exactly one [`Outcome`] comes out.
//! Never Python.
//!
//! | file | |
//! |---|---|
//! | `client` | the operations of a client, and how it closes |
//! | `operation` | an operation that owns its data, for hosts on another thread |
//! | `caller` | the interface of a driver: the recipient of an outcome and the type of items |
//! | `failover` | requests while nodes are down, and the deletes before they return |
//! | `clock` | the one wall clock of the core |
//! | `handler` | turns the replies to one request into an outcome |
//! | `meta` | the reply to a meta command |
//! | `gather` | a call for many keys: lines to many nodes, one outcome |
//! | `batch` | a call that changes many keys, in windows |
//! | `migration` | keys that move from one list of nodes to another |
//! | `noreply` | requests whose callers do not wait for the reply |
//! | `outcome` | results and failures, with node, command and status |
//! | `hot_keys` | the keys that are requested most often |
//! | `nodes` | questions about the nodes, independent of the caller's type |
mod batch;
mod caller;
#[allow(clippy::module_inception, reason = "the client of this layer")]
mod client;
pub mod clock;
mod failover;
mod gather;
mod handler;
mod hot_keys;
mod meta;
mod migration;
mod nodes;
mod noreply;
mod operation;
mod outcome;

pub use batch::{Action, BatchResult, BatchSource, BatchValue};
pub use caller::Caller;
pub use client::Client;
pub use gather::{Gathered, Line};
pub use handler::{Handler, RawItems};
pub use hot_keys::{HotKey, HotKeys};
pub use meta::MetaReply;
pub use migration::{Counters as MigrationCounters, MigrationOptions, MigrationStatus, Phase};
pub use nodes::Nodes;
pub use operation::{Expect, Operation, Target};
pub use outcome::{Failure, FailureKind, Outcome};
