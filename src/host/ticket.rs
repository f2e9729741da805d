//! A caller on another thread: a ticket here, and what waits for the outcome there.
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};

use super::outbox::{Message, Sender};
use crate::client::{BatchSource, Caller, FailureKind, Outcome};
use crate::pool::copy_into_block;
use crate::protocol::ItemRef;

/// Names an operation between the two threads.
pub type Ticket = usize;

/// The keys and values of a batch, read by the core's thread.
pub type SharedSource = Arc<dyn BatchSource + Send + Sync>;

/// An item on its way to the other thread.
#[derive(Debug)]
pub struct OwnedItem {
    pub value: Bytes,
    pub flags: u32,
    pub cas: Option<u64>,
}

pub struct TicketCaller {
    ticket: Ticket,
    /// `None`: completed.
    sender: Option<Rc<Sender>>,
    /// Set when the caller gives up.
    abandoned: Arc<AtomicBool>,
}

impl TicketCaller {
    pub(super) fn new(ticket: Ticket, sender: Rc<Sender>, abandoned: Arc<AtomicBool>) -> Self {
        Self { ticket, sender: Some(sender), abandoned }
    }

    fn end(&mut self, outcome: Outcome<OwnedItem>) {
        if let Some(sender) = self.sender.take() {
            sender.push(Message::Ended { ticket: self.ticket, outcome });
        }
    }
}

/// However an operation ends, its caller is told.
impl Drop for TicketCaller {
    fn drop(&mut self) {
        if self.sender.is_some() {
            self.end(Outcome::failed(None, FailureKind::Internal));
        }
    }
}

thread_local! {
    /// The block of memory that short values share.
    static BLOCK: RefCell<BytesMut> = RefCell::default();
}

impl Caller for TicketCaller {
    type Item = OwnedItem;
    type Value = Bytes;
    type Source = SharedSource;

    fn item(&self, item: &ItemRef<'_>, shared: Option<&Bytes>) -> Option<OwnedItem> {
        if self.is_abandoned() {
            return None;
        }
        let ItemRef { value, flags, cas, .. } = *item;
        let value = shared
            .cloned()
            .unwrap_or_else(|| BLOCK.with_borrow_mut(|block| copy_into_block(value, block)));
        Some(OwnedItem { value, flags, cas })
    }

    fn complete(mut self, outcome: Outcome<OwnedItem>) {
        self.end(outcome);
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}
