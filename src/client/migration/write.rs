//! `set`: at the old place first, then at the new one.
//!
//! A mover whose stub is younger than the change at the new place reads the old place afterwards,
//! and finds the change there.
use super::super::caller::Caller;
use super::super::client::Client;
use super::state::{InFlight, Phase};
use super::{Pending, Request};

impl<C: Caller> Client<C> {
    pub(super) async fn write(&self, guard: &InFlight, request: Request, pending: Pending<C>) {
        let Request { key, command: request, places, deadline } = request;
        if places.phase == Phase::Prepare {
            let (item, end) = self.ask(places.old, request, deadline).end().await;
            // Whatever became of it: a refused value may have deleted the item.
            self.delete_second(guard, &key, places, deadline).await;
            return pending.finish(&key, item, end);
        }
        self.delete_second(guard, &key, places, deadline).await;
        if pending.is_abandoned() {
            return pending.dismiss();
        }
        let (item, end) = self.ask(places.new, request, deadline).end().await;
        pending.finish(&key, item, end);
    }
}
