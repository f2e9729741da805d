//! Hosts that drive the core: an event loop, in turns, or a separate thread. Never Python.
mod event_loop;
mod forks;
mod outbox;
mod thread;
mod ticket;
#[cfg_attr(not(unix), path = "turn_unsupported.rs")]
mod turn;

pub use event_loop::LoopCore;
pub use forks::{after_fork_in_child, fork_count};
pub use outbox::{Message, Notify, Outbox};
pub use thread::{CoreThread, Cores, Job, PostedOperation};
pub use ticket::{OwnedItem, SharedSource, Ticket, TicketCaller};
