//! Finds the place of an item, for a command that depends on it. If it is at its old place, it is
//! moved first.
use std::time::Duration;

use super::super::caller::Caller;
use super::super::client::Client;
use super::ItemKey;
use super::mover::Moved;
use super::place::{Look, Written};
use super::state::{InFlight, Phase, Places};
use super::step::{End, OwnedItem};
use crate::protocol::{NEVER, Nanos};

/// Where a command is executed.
pub enum Settled {
    At(usize, OwnedItem),
    /// There is no item: it may be created at the first place.
    Missing,
    Failed(End),
}

/// How long a call waits for the move of its item by another. A process that was killed leaves a
/// stub behind.
const PATIENCE: Nanos = 250_000_000;
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// Waits for a stub to be replaced.
pub struct Patience {
    until: Nanos,
    pause: Duration,
}

impl Patience {
    pub fn new(now: Nanos, deadline: Nanos) -> Self {
        let left = if deadline == NEVER { NEVER } else { deadline.saturating_sub(now) };
        Self { until: now.saturating_add(PATIENCE.min(left / 2)), pause: FIRST_PAUSE }
    }
}

/// One look at one of the places, or at both.
enum Found {
    Settled(Settled),
    Stub(usize, OwnedItem),
    Again,
}

impl<C: Caller> Client<C> {
    pub(super) async fn settle(
        &self,
        guard: &InFlight,
        key: &ItemKey,
        places: Places,
        deadline: Nanos,
        patience: &mut Patience,
    ) -> Settled {
        if places.phase == Phase::Finish {
            self.delete_second(guard, key, places, deadline).await;
        }
        loop {
            let found = match places.phase {
                Phase::Finish => self.find_at(places.new, key, deadline).await,
                _ => self.find(guard, key, places, deadline).await,
            };
            match found {
                Found::Settled(settled) => return settled,
                Found::Stub(node, stub) => {
                    self.wait_for(node, key, &stub, deadline, patience).await;
                }
                Found::Again if self.is_past(patience) => return Settled::Missing,
                Found::Again => self.pause(patience).await,
            }
        }
    }

    async fn find_at(&self, node: usize, key: &ItemKey, deadline: Nanos) -> Found {
        Found::Settled(match self.look(node, key, deadline).await {
            Look::Item(item) => Settled::At(node, item),
            Look::Stub(stub) => return Found::Stub(node, stub),
            Look::Miss => Settled::Missing,
            Look::Failed(end) => Settled::Failed(end),
        })
    }

    async fn find(
        &self,
        guard: &InFlight,
        key: &ItemKey,
        places: Places,
        deadline: Nanos,
    ) -> Found {
        let (first, second) = (places.first(), places.second());
        match self.find_at(first, key, deadline).await {
            Found::Settled(Settled::Missing) => {}
            found => return found,
        }
        if !guard.migration.may_read(second, key, self.context().now()) {
            return Found::Settled(Settled::Missing);
        }
        match self.look(second, key, self.second_deadline(deadline)).await {
            Look::Item(item) if places.phase == Phase::Prepare => {
                return Found::Settled(Settled::At(second, item));
            }
            Look::Item(item) => {
                return match self.move_item(&guard.migration, key, places, deadline).await {
                    Moved::Immovable => Found::Settled(Settled::At(second, item)),
                    _ => Found::Again,
                };
            }
            Look::Stub(stub) => return Found::Stub(second, stub),
            Look::Miss => {}
            Look::Failed(_) => {
                // A command that would change the item cannot know what there is.
                guard.migration.give_up(second, key);
                guard.migration.count(|counters| counters.unreached += 1);
                return Found::Settled(Settled::Missing);
            }
        }
        // It may have been moved between the two looks.
        self.find_at(first, key, deadline).await
    }

    /// Waits for the end of another call's move. A stub that stays is removed.
    pub(super) async fn wait_for(
        &self,
        node: usize,
        key: &ItemKey,
        stub: &OwnedItem,
        deadline: Nanos,
        patience: &mut Patience,
    ) {
        if !self.is_past(patience) {
            return self.pause(patience).await;
        }
        self.delete_at(node, key, stub.cas.unwrap_or(0), deadline).await;
    }

    pub(super) fn is_past(&self, patience: &Patience) -> bool {
        self.context().now() >= patience.until
    }

    pub(super) async fn pause(&self, patience: &mut Patience) {
        self.context().sleep(patience.pause).await;
        patience.pause = (patience.pause * 2).min(LONGEST_PAUSE);
    }

    /// Deletes the item at the second place, before or after a write at the first. Returns whether
    /// there was one. If the node cannot be reached, this client does not read the key there
    /// any more.
    pub(super) async fn delete_second(
        &self,
        guard: &InFlight,
        key: &ItemKey,
        places: Places,
        deadline: Nanos,
    ) -> bool {
        let (node, migration) = (places.second(), &guard.migration);
        if migration.is_in_use(node) {
            match self.delete(node, key, self.second_deadline(deadline)).await {
                Written::Failed(_) => migration.give_up(node, key),
                written => {
                    migration.reached(node, key);
                    return matches!(written, Written::Done);
                }
            }
        }
        migration.count(|counters| counters.unreached += 1);
        false
    }
}
