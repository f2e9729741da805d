//! Hosts that drive the core: an event loop, in turns, or a separate thread. Never Python.
mod blocking;
mod core_pool;
mod event_loop;
mod forks;
mod outbox;
#[cfg_attr(not(unix), path = "poll_unsupported.rs")]
mod poll;
mod shared_core;
mod tasks;
mod thread;
mod ticket;
mod totals;
#[cfg_attr(not(unix), path = "turn_unsupported.rs")]
mod turn;

pub use blocking::{BlockingCaller, Core, NodeAt, Receiver, Submitter};
pub use core_pool::{CheckOutError, CheckedOut, CorePool};
pub use event_loop::LoopCore;
pub use forks::{after_fork_in_child, fork_count};
pub use outbox::{Message, Notify, Outbox};
pub use shared_core::{OwnedOutcome, SharedCall, SharedCore};
pub use thread::{CoreThread, Cores, Job, PostedOperation};
pub use ticket::{OwnedItem, SharedSource, Ticket, TicketCaller};
