//! The move of one item from its old place to its new one.
//!
//! 1. A stub claims the new place. Whatever another call does there ends it: every write replaces
//!    it, and a delete removes it.
//! 2. The item is read at the old place and deleted there, if it has not changed meanwhile. From
//!    then on only this task has it.
//! 3. It replaces the stub, if that is still there.
//!
//! A writer changes the old place before the new one. So if the stub is younger than its change at
//! the new place, step 2 finds the change at the old one.
use super::super::caller::Caller;
use super::super::client::Client;
use super::ItemKey;
use super::place::{Look, Movable, Written, is_stub, new_stub};
use super::state::{InFlight, Migration, Phase, Places};
use super::step::OwnedItem;
use crate::protocol::Nanos;

/// Moves in the background that run at a time, and that wait.
const WORKERS: usize = 16;
const QUEUE: usize = 10_000;
/// How long a move in the background may take: less than a stub lives.
const MOVE_TIMEOUT: Nanos = 2_000_000_000;
/// How often an item is read again that changes during its move.
const ATTEMPTS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    Done,
    /// There is nothing to move any more.
    Gone,
    /// Another call claimed the place, or changed it.
    Busy,
    /// The item stays where it is.
    Immovable,
    Failed,
}

impl<C: Caller> Client<C> {
    pub(super) async fn move_item(
        &self,
        migration: &Migration,
        key: &ItemKey,
        places: Places,
        deadline: Nanos,
    ) -> Moved {
        let moved = self.try_move(migration, key, places, deadline).await;
        migration.count(|counters| match moved {
            Moved::Done => counters.moved += 1,
            Moved::Gone => counters.overtaken += 1,
            Moved::Busy => counters.busy += 1,
            Moved::Immovable => counters.immovable += 1,
            Moved::Failed => counters.failed += 1,
        });
        moved
    }

    async fn try_move(
        &self,
        migration: &Migration,
        key: &ItemKey,
        Places { old, new, .. }: Places,
        deadline: Nanos,
    ) -> Moved {
        // After a restart the server may issue the stub's token again.
        let epoch = self.pool(new).server_epoch();
        let stub = new_stub();
        match self.add_stub(new, key, &stub, deadline).await {
            Written::Done => {}
            Written::NotDone { .. } => return Moved::Busy,
            Written::Failed(_) => return Moved::Failed,
        }
        let claim = match self.look(new, key, deadline).await {
            Look::Stub(item) if item.value == stub => item.cas.unwrap_or(0),
            Look::Failed(_) => return Moved::Failed,
            _ => return Moved::Busy,
        };
        if claim == 0 {
            // It could not be replaced safely.
            self.delete(new, key, deadline).await;
            return Moved::Immovable;
        }
        let taken = self.take(migration, key, old, deadline).await;
        let (item, exptime) = match taken {
            Ok(taken) if self.pool(new).server_epoch() == epoch => taken,
            Ok(_) => return Moved::Failed,
            Err(why) => {
                self.delete_at(new, key, claim, deadline).await;
                return why;
            }
        };
        let stored = self.store_at(new, key, claim, &item, exptime, deadline).await;
        if self.pool(new).server_epoch() != epoch {
            // Another server may have compared the token.
            self.delete(new, key, deadline).await;
            return Moved::Failed;
        }
        match stored {
            Written::Done => Moved::Done,
            Written::NotDone { .. } => Moved::Gone,
            Written::Failed(_) => Moved::Failed,
        }
    }

    /// Removes the item from its place, and returns it.
    async fn take(
        &self,
        migration: &Migration,
        key: &ItemKey,
        node: usize,
        deadline: Nanos,
    ) -> Result<(OwnedItem, i32), Moved> {
        for _ in 0..ATTEMPTS {
            let found = self.look_to_move(node, key, migration.unknown_ttl, deadline).await;
            let (cas, item) = match found {
                Movable::Item { item, exptime } => (item.cas, Some((item, exptime))),
                Movable::Stale { cas } => (Some(cas), None),
                Movable::Stub => return Err(Moved::Busy),
                Movable::Immovable => return Err(Moved::Immovable),
                Movable::Miss => return Err(Moved::Gone),
                Movable::Failed => return Err(Moved::Failed),
            };
            let Some(cas) = cas else { return Err(Moved::Immovable) };
            match self.delete_at(node, key, cas, deadline).await {
                Written::Done => return item.ok_or(Moved::Gone),
                Written::NotDone { is_missing: true } => return Err(Moved::Gone),
                Written::NotDone { is_missing: false } => {}
                Written::Failed(_) => return Err(Moved::Failed),
            }
        }
        Err(Moved::Busy)
    }

    /// Moves an item that a reader has found, in the background.
    pub(super) fn move_later(&self, guard: &InFlight, key: &ItemKey, places: Places) {
        let migration = &guard.migration;
        if migration.phase() != Phase::Move || places.phase != Phase::Move {
            return;
        }
        let mut queue = migration.queue.borrow_mut();
        if queue.len() >= QUEUE {
            migration.count(|counters| counters.skipped += 1);
            return;
        }
        if !migration.moving.borrow_mut().insert(key.clone()) {
            return;
        }
        queue.push_back((key.clone(), places));
        drop(queue);
        if migration.workers.get() < WORKERS {
            migration.workers.set(migration.workers.get() + 1);
            let (client, guard) = (self.clone(), InFlight::new(migration, Phase::Move));
            self.context().spawn(async move { client.work(guard).await });
        }
    }

    async fn work(&self, guard: InFlight) {
        let migration = &guard.migration;
        let next = || migration.queue.borrow_mut().pop_front();
        while migration.phase() == Phase::Move
            && !self.is_closed()
            && let Some((key, places)) = next()
        {
            let deadline = self.context().now().saturating_add(MOVE_TIMEOUT);
            self.move_item(migration, &key, places, deadline).await;
            migration.moving.borrow_mut().remove(&key);
        }
        if migration.phase() != Phase::Move || self.is_closed() {
            migration.restart();
        }
        migration.workers.set(migration.workers.get() - 1);
    }
}

/// Whether a reader's item is worth a move.
pub fn is_worth_a_move(item: &OwnedItem) -> bool {
    !is_stub(item) && !super::place::is_lease(item)
}
