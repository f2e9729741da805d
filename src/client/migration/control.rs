//! Begins, advances, takes back and ends a migration.
//!
//! A change of phase waits until no call of a phase is in flight that is not its neighbour. A plan
//! runs as one task; a newer decision ends it.
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::super::caller::Caller;
use super::super::client::{Client, Shared};
use super::state::{Counters, Migration, Phase};
use crate::cluster::NodeList;

#[derive(Clone, Debug)]
pub struct MigrationOptions {
    pub phase: Phase,
    /// How long items are moved until the migration ends by itself; `None`: it does not.
    pub drain: Option<Duration>,
    /// The exptime of moved items whose own is unknown, in seconds.
    pub unknown_ttl: i32,
}

#[derive(Clone, Debug)]
pub struct MigrationStatus {
    pub phase: Phase,
    pub counters: Counters,
    /// Moves that wait or run in the background.
    pub queued: usize,
    /// Nodes that a write could not reach, so that this client does not look there for items.
    pub unreachable: Vec<usize>,
    /// Changes with every decision about the phase.
    pub plan: u64,
    /// Whether the old nodes are the client's again, and items move to them.
    pub is_rolled_back: bool,
    /// The time until the migration ends by itself; `None`: it does not.
    pub ends_in: Option<Duration>,
}

/// In place of a client's timeout, if it has none.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

enum Change {
    Phase(Phase),
    /// Until calls that began before are answered.
    Grace,
    Wait(Duration),
    /// Until no item is being moved.
    NoMoves,
    Swap,
    End,
}

impl<C: Caller> Client<C> {
    /// Moves items from the nodes of this list to the client's. The client must be new. Returns the
    /// positions of nodes that are new, or `None` if there is a migration already.
    pub(in crate::client) fn migrate_from(
        &self,
        list: &NodeList,
        options: &MigrationOptions,
    ) -> Option<Vec<usize>> {
        if self.migration().is_some() {
            return None;
        }
        let added = self.cluster().set_former(list);
        self.begin(options, options.phase);
        self.plan(self.after(options.phase, options.drain));
        Some(added)
    }

    /// Moves items from the client's nodes to those of this list, which are the client's from now
    /// on. Returns as [`Self::migrate_from`].
    pub(in crate::client) fn migrate_to(
        &self,
        list: &NodeList,
        options: &MigrationOptions,
    ) -> Option<Vec<usize>> {
        if self.migration().is_some() {
            return None;
        }
        let added = self.cluster().replace_nodes(list);
        self.begin(options, Phase::Prepare);
        // Calls that began before know the old nodes only.
        let mut changes = Self::path(Phase::Prepare, options.phase);
        changes.extend(self.after(options.phase, options.drain));
        self.plan(changes);
        Some(added)
    }

    /// Continues until this phase, or back to it. Returns whether there is a migration.
    pub(in crate::client) fn set_phase(&self, phase: Phase) -> bool {
        let Some(migration) = self.migration() else { return false };
        let mut changes = Self::path(migration.phase(), phase);
        changes.extend(self.after(phase, migration.drain.get()));
        self.plan(changes);
        true
    }

    /// Ends the migration: only the new nodes are left. Returns whether there is one.
    pub(in crate::client) fn finish_migration(&self) -> bool {
        let Some(migration) = self.migration() else { return false };
        let mut changes = Self::path(migration.phase(), Phase::Finish);
        changes.extend([Change::Grace, Change::NoMoves, Change::End]);
        self.plan(changes);
        true
    }

    /// Moves the items back: the old nodes are the new ones from now on. `drain` replaces that of
    /// the options. Returns whether there is a migration.
    pub(in crate::client) fn roll_back(&self, drain: Option<Duration>) -> bool {
        let Some(migration) = self.migration() else { return false };
        migration.drain.set(drain.or(migration.drain.get()));
        let mut changes = Self::path(migration.phase(), Phase::Prepare);
        changes.extend([Change::Grace, Change::NoMoves, Change::Swap, Change::Phase(Phase::Move)]);
        changes.extend(self.after(Phase::Move, migration.drain.get()));
        self.plan(changes);
        true
    }

    pub(in crate::client) fn migration_status(&self) -> Option<MigrationStatus> {
        let migration = self.migration()?;
        let counters = migration.counters.borrow().clone();
        let (phase, queued) = (migration.phase(), migration.moving.borrow().len());
        let now = self.context().now();
        Some(MigrationStatus {
            phase,
            counters,
            queued,
            unreachable: migration.unreachable(),
            plan: migration.plan.get(),
            is_rolled_back: migration.is_rolled_back.get(),
            ends_in: migration.ends_at.get().map(|at| Duration::from_nanos(at.saturating_sub(now))),
        })
    }

    fn begin(&self, options: &MigrationOptions, phase: Phase) {
        let migration = Migration::new(phase, options.drain, options.unknown_ttl);
        self.set_migration(Some(Rc::new(migration)));
    }

    /// The phases in between, each until the calls of the one before have ended.
    fn path(from: Phase, to: Phase) -> Vec<Change> {
        let (from, to) = (from as usize, to as usize);
        let phases: Vec<_> = if from <= to {
            Phase::ALL[from..=to].to_vec()
        } else {
            Phase::ALL[to..=from].iter().rev().copied().collect()
        };
        let next = phases.into_iter().skip(1);
        next.flat_map(|phase| [Change::Grace, Change::Phase(phase)]).collect()
    }

    /// What follows by itself.
    fn after(&self, phase: Phase, drain: Option<Duration>) -> Vec<Change> {
        let Some(drain) = drain else { return Vec::new() };
        let end = [Change::Wait(drain.max(self.grace())), Change::NoMoves, Change::End];
        match phase {
            Phase::Prepare => Vec::new(),
            Phase::Move => {
                let finish = [Change::Wait(drain), Change::Phase(Phase::Finish)];
                finish.into_iter().chain(end).collect()
            }
            Phase::Finish => end.into_iter().collect(),
        }
    }

    fn grace(&self) -> Duration {
        self.timeout().unwrap_or(DEFAULT_GRACE)
    }

    fn plan(&self, changes: Vec<Change>) {
        let Some(migration) = self.migration() else { return };
        migration.plan.set(migration.plan.get() + 1);
        let (plan, grace) = (migration.plan.get(), self.grace());
        let (client, context) = (self.downgrade(), self.context().clone());
        let time = changes.iter().fold(Duration::ZERO, |sum, change| match change {
            Change::Grace => sum.saturating_add(grace),
            Change::Wait(time) => sum.saturating_add(*time),
            _ => sum,
        });
        let ends = changes.iter().any(|change| matches!(change, Change::End));
        migration.ends_at.set(ends.then(|| context.deadline_after(Some(time))));
        self.context().spawn(async move {
            for change in changes {
                match change {
                    Change::Grace => context.sleep(grace).await,
                    Change::Wait(time) => context.sleep(time).await,
                    Change::NoMoves => {
                        while is_current::<C>(&client, plan)
                            .is_some_and(|client| client.has_moves_in_flight())
                        {
                            context.sleep(POLL).await;
                        }
                    }
                    _ => {}
                }
                let Some(client) = is_current::<C>(&client, plan) else { return };
                client.apply(&change);
            }
        });
    }

    fn has_moves_in_flight(&self) -> bool {
        self.migration().is_some_and(|migration| migration.in_flight(Phase::Move) > 0)
    }

    fn apply(&self, change: &Change) {
        let Some(migration) = self.migration() else { return };
        match change {
            Change::Phase(phase) => migration.set_phase(*phase),
            Change::Swap => {
                self.cluster().swap_orders();
                migration.restart();
                migration.is_rolled_back.set(!migration.is_rolled_back.get());
            }
            Change::End => {
                self.set_migration(None);
                self.cluster().forget_former();
            }
            Change::Grace | Change::Wait(_) | Change::NoMoves => {}
        }
    }
}

/// The client, if it is open and has not decided otherwise since.
fn is_current<C: Caller>(client: &Weak<Shared<C>>, plan: u64) -> Option<Client<C>> {
    let client = Client::upgrade(client).filter(|client| !client.is_closed())?;
    let is_current = client.migration().is_some_and(|migration| migration.plan.get() == plan);
    is_current.then_some(client)
}
