//! `get`: at the first place, and on a miss at the second.
use super::super::caller::Caller;
use super::super::client::Client;
use super::mover::is_worth_a_move;
use super::place::{Look, get, looked};
use super::state::{InFlight, Phase, Places};
use super::step::{End, OwnedItem, OwnedReply};
use super::{ItemKey, Pending, Request};
use crate::protocol::{Nanos, RetrievalVerb};

/// How often a reader looks again at an item that is being moved.
pub const LOOKS: u32 = 6;
const FIRST_PAUSE: Nanos = 500_000;

impl<C: Caller> Client<C> {
    pub(super) async fn read(&self, guard: &InFlight, request: Request, pending: Pending<C>) {
        let Request { key, command: request, places, deadline } = request;
        let (item, end) = self.ask(places.first(), request, deadline).end().await;
        let is_moving = match looked(item, end.clone()) {
            Look::Item(item) => return pending.finish(&key, Some(item), end),
            Look::Failed(end) => return pending.finish(&key, None, end),
            Look::Miss => false,
            Look::Stub(_) => true,
        };
        if pending.is_abandoned() {
            return pending.dismiss();
        }
        let mut found = self.read_second(guard, &key, places, deadline).await;
        if found.is_none() && is_moving {
            found = self.read_moving(&key, places.first(), deadline).await;
        }
        let end = match end {
            End::Replied { from, .. } => End::Replied { reply: OwnedReply::End, from },
            failed @ End::Failed(_) => failed,
        };
        pending.finish(&key, found, end);
    }

    async fn read_second(
        &self,
        guard: &InFlight,
        key: &ItemKey,
        places: Places,
        deadline: Nanos,
    ) -> Option<OwnedItem> {
        let (node, migration) = (places.second(), &guard.migration);
        if places.phase == Phase::Finish || !migration.may_read(node, key, self.context().now()) {
            return None;
        }
        let request = get(RetrievalVerb::Get, key);
        let (item, end) = self.ask(node, request, self.second_deadline(deadline)).end().await;
        match looked(item, end) {
            Look::Item(item) => {
                self.hit_second(guard, key, places, &item);
                Some(item)
            }
            Look::Failed(_) => {
                migration.pause(node, self.context().now());
                None
            }
            Look::Miss | Look::Stub(_) => None,
        }
    }

    pub(super) fn hit_second(
        &self,
        guard: &InFlight,
        key: &ItemKey,
        places: Places,
        item: &OwnedItem,
    ) {
        guard.migration.count(|counters| counters.fallback_hits += 1);
        if is_worth_a_move(item) {
            self.move_later(guard, key, places);
        }
    }

    /// Looks again until the item has arrived. A process that was killed leaves a stub behind, so
    /// not for long.
    async fn read_moving(&self, key: &ItemKey, node: usize, deadline: Nanos) -> Option<OwnedItem> {
        for round in 0..LOOKS {
            self.pause_round(round).await;
            let request = get(RetrievalVerb::Get, key);
            let (item, end) = self.ask(node, request, deadline).end().await;
            match looked(item, end) {
                Look::Item(item) => return Some(item),
                Look::Stub(_) => {}
                Look::Miss | Look::Failed(_) => return None,
            }
        }
        None
    }

    pub(super) async fn pause_round(&self, round: u32) {
        let pause = std::time::Duration::from_nanos(FIRST_PAUSE << round);
        self.context().sleep(pause).await;
    }
}
