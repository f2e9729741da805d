//! `set`: at the old place first, then at the new one.
//!
//! A mover whose stub is younger than the change at the new place reads the old place afterwards,
//! and finds the change there.
use super::super::caller::Caller;
use super::super::client::Client;
use super::super::handler::Handler;
use super::state::{InFlight, Phase};
use super::{Request, finish};
use crate::pool::Waiter;
use crate::protocol::ReplyHandler;

impl<C: Caller> Client<C> {
    pub(super) async fn write(&self, guard: &InFlight, request: Request, handler: Handler<C>) {
        let Request { key, request, places, deadline } = request;
        if places.phase == Phase::Prepare {
            let (item, end) = self.ask(places.old, request, deadline).end().await;
            // Whatever became of it: a refused value may have deleted the item.
            self.delete_second(guard, &key, places, deadline).await;
            return finish(handler, &key, item, end);
        }
        self.delete_second(guard, &key, places, deadline).await;
        if handler.is_abandoned() {
            return handler.dismiss();
        }
        let (item, end) = self.ask(places.new, request, deadline).end().await;
        finish(handler, &key, item, end);
    }
}
