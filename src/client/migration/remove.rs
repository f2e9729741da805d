//! `delete`: the items that were there when the call began, each by its token.
//!
//! A delete without tokens at two places, one after the other, could remove what another call has
//! created in between, such as the next holder's lock.
use super::super::caller::Caller;
use super::super::client::Client;
use super::place::{Look, Written};
use super::settle::Patience;
use super::state::{InFlight, Phase, Places};
use super::step::{End, OwnedItem, OwnedReply};
use super::{ItemKey, Pending, Request};
use crate::protocol::Nanos;

/// One attempt.
enum Removed {
    Deleted,
    NotFound,
    Stub(usize, OwnedItem),
    /// The item has changed or moved.
    Again,
    Failed(End),
}

impl<C: Caller> Client<C> {
    pub(super) async fn remove(&self, guard: &InFlight, request: Request, pending: Pending<C>) {
        let Request { key, places, deadline, .. } = request;
        let mut patience = Patience::new(self.context().now(), deadline);
        let mut was_there = false;
        let reply = loop {
            if pending.is_abandoned() {
                return pending.dismiss();
            }
            match self.try_remove(guard, &key, places, &mut was_there, deadline).await {
                Removed::Deleted => break OwnedReply::Deleted,
                Removed::NotFound if was_there => break OwnedReply::Deleted,
                Removed::NotFound => break OwnedReply::NotFound,
                Removed::Failed(end) => return pending.finish(&key, None, end),
                Removed::Stub(node, stub) => {
                    self.wait_for(node, &key, &stub, deadline, &mut patience).await;
                }
                Removed::Again => {}
            }
        };
        let from = self.pool(places.first()).address().to_string().into();
        pending.finish(&key, None, End::Replied { reply, from });
    }

    async fn try_remove(
        &self,
        guard: &InFlight,
        key: &ItemKey,
        places: Places,
        was_there: &mut bool,
        deadline: Nanos,
    ) -> Removed {
        let (first, second) = (places.first(), places.second());
        let item = match self.look(first, key, deadline).await {
            Look::Item(item) => Some(item),
            Look::Miss => None,
            Look::Stub(stub) => return Removed::Stub(first, stub),
            Look::Failed(end) => return Removed::Failed(end),
        };
        // In the phase `move` an item at the first place is the only one.
        if places.phase == Phase::Finish {
            *was_there |= self.delete_second(guard, key, places, deadline).await;
        } else if item.is_none() || places.phase == Phase::Prepare {
            match self.remove_second(guard, key, second, deadline).await {
                Removed::NotFound => {}
                Removed::Deleted => *was_there = true,
                other => return other,
            }
        }
        match item {
            Some(item) => self.remove_item(first, key, &item, deadline).await,
            None if *was_there => Removed::Deleted,
            // It may have been moved between the two looks.
            None => match self.look(first, key, deadline).await {
                Look::Item(_) => Removed::Again,
                Look::Stub(stub) => Removed::Stub(first, stub),
                Look::Miss => Removed::NotFound,
                Look::Failed(end) => Removed::Failed(end),
            },
        }
    }

    async fn remove_second(
        &self,
        guard: &InFlight,
        key: &ItemKey,
        node: usize,
        deadline: Nanos,
    ) -> Removed {
        let migration = &guard.migration;
        let deadline = self.second_deadline(deadline);
        let removed = if migration.is_current(node, key) {
            match self.look(node, key, deadline).await {
                Look::Item(item) => self.remove_item(node, key, &item, deadline).await,
                Look::Miss => Removed::NotFound,
                Look::Stub(stub) => Removed::Stub(node, stub),
                Look::Failed(end) => Removed::Failed(end),
            }
        } else {
            migration.count(|counters| counters.unreached += 1);
            return Removed::NotFound;
        };
        if matches!(removed, Removed::Failed(_)) {
            migration.give_up(node, key);
            migration.count(|counters| counters.unreached += 1);
            return Removed::NotFound;
        }
        removed
    }

    async fn remove_item(
        &self,
        node: usize,
        key: &ItemKey,
        item: &OwnedItem,
        deadline: Nanos,
    ) -> Removed {
        let cas = item.cas.unwrap_or(0);
        let written = if cas == 0 {
            self.delete(node, key, deadline).await
        } else {
            self.delete_at(node, key, cas, deadline).await
        };
        match written {
            Written::Done => Removed::Deleted,
            Written::NotDone { .. } => Removed::Again,
            Written::Failed(end) => Removed::Failed(end),
        }
    }
}
