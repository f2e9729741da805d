//! The callers of requests that take several steps. They are kept with the client, so that a close
//! completes them at once.
use std::cell::RefCell;

use slab::Slab;

use super::super::caller::Caller;
use super::super::client::Client;
use super::super::handler::Handler;
use super::super::outcome::FailureKind;
use super::ItemKey;
use super::step::{End, OwnedItem};
use crate::pool::Waiter;
use crate::protocol::ReplyHandler;

/// `None`: completed by the close.
pub struct PendingHandlers<C: Caller>(RefCell<Slab<Option<Handler<C>>>>);

impl<C: Caller> Default for PendingHandlers<C> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<C: Caller> PendingHandlers<C> {
    /// Fails all of them.
    pub fn close(&self) {
        let take = |(_, handler): (usize, &mut Option<Handler<C>>)| handler.take();
        let handlers: Vec<_> = self.0.borrow_mut().iter_mut().filter_map(take).collect();
        for handler in handlers {
            handler.fail_with(FailureKind::Closed);
        }
    }
}

/// A caller that waits. If this is dropped, so is the caller.
pub struct Pending<C: Caller> {
    client: Client<C>,
    at: usize,
}

impl<C: Caller> Pending<C> {
    pub fn new(client: &Client<C>, handler: Handler<C>) -> Self {
        let at = client.pending_handlers().0.borrow_mut().insert(Some(handler));
        Self { client: client.clone(), at }
    }

    /// Whether nothing more has to be done.
    pub fn is_abandoned(&self) -> bool {
        let handlers = self.client.pending_handlers().0.borrow();
        let handler = handlers.get(self.at).and_then(Option::as_ref);
        handler.is_none_or(ReplyHandler::is_abandoned)
    }

    /// Ends an abandoned request.
    pub fn dismiss(self) {
        if let Some(handler) = self.take() {
            handler.dismiss();
        }
    }

    /// Passes a reply on.
    pub fn finish(self, key: &ItemKey, item: Option<OwnedItem>, end: End) {
        let Some(mut handler) = self.take() else { return };
        if let Some(item) = item {
            handler.item(0, &item.as_ref(&key.text), None);
        }
        match end {
            End::Replied { reply, from } => handler.reply(&reply.as_reply(), &from),
            End::Failed(kind) => handler.fail_with(kind),
        }
    }

    pub fn take(&self) -> Option<Handler<C>> {
        self.client.pending_handlers().0.borrow_mut().get_mut(self.at)?.take()
    }
}

impl<C: Caller> Drop for Pending<C> {
    fn drop(&mut self) {
        let handler = self.client.pending_handlers().0.borrow_mut().try_remove(self.at);
        drop(handler);
    }
}
