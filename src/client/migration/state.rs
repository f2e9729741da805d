//! The state of a migration.
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::ItemKey;
use crate::protocol::Nanos;

/// How many keys of a node that writes could not reach are remembered. With more, the node is not
/// asked any more.
const MAX_UNREACHED: usize = 100_000;

/// How far a migration is. Processes in neighbouring phases agree on every item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The old nodes are in charge; what others have moved is found.
    Prepare,
    /// The new nodes are in charge; items are moved when they are used.
    Move,
    /// As if there were only the new nodes, but writes delete at the old ones.
    Finish,
}

impl Phase {
    pub const ALL: [Self; 3] = [Self::Prepare, Self::Move, Self::Finish];

    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Move => "move",
            Self::Finish => "finish",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }
}

/// The two nodes of a key, and the phase in which a call began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    pub phase: Phase,
    pub old: usize,
    pub new: usize,
}

impl Places {
    /// The node that is asked first, where items are created.
    pub fn first(self) -> usize {
        if self.phase == Phase::Prepare { self.old } else { self.new }
    }

    pub fn second(self) -> usize {
        if self.phase == Phase::Prepare { self.new } else { self.old }
    }
}

/// Counts since the migration began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Items that a `get` found at the second place.
    pub fallback_hits: u64,
    /// Items that were moved.
    pub moved: u64,
    /// Items that changed while they were moved; the change counts.
    pub overtaken: u64,
    /// Items that another process was moving.
    pub busy: u64,
    /// Items that could not be moved: a node failed or refused.
    pub failed: u64,
    /// Items that stay, because a node has no CAS.
    pub immovable: u64,
    /// Moves in the background that were left out, because too many were waiting.
    pub skipped: u64,
    /// Writes that could not reach the second place.
    pub unreached: u64,
}

/// How long a node that did not answer a read is not asked as the second place.
const PAUSE: Duration = Duration::from_secs(1);

pub struct Migration {
    phase: Cell<Phase>,
    /// Changes with every decision about the phase, so that former plans end.
    pub(super) plan: Cell<u64>,
    pub(super) drain: Cell<Option<Duration>>,
    /// When the migration ends by itself.
    pub(super) ends_at: Cell<Option<Nanos>>,
    /// Whether the two lists of nodes have changed their places.
    pub(super) is_rolled_back: Cell<bool>,
    /// The exptime of items whose own is unknown.
    pub(super) unknown_ttl: i32,
    /// Keys that a write could not reach, by node: what the node has may be outdated.
    unreached: RefCell<HashMap<usize, HashSet<ItemKey>>>,
    /// Nodes with too many of them.
    given_up: RefCell<HashSet<usize>>,
    paused: RefCell<HashMap<usize, Nanos>>,
    in_flight: [Cell<usize>; 3],
    pub(super) counters: RefCell<Counters>,
    /// The keys that are being moved in the background, or wait for it.
    pub(super) moving: RefCell<HashSet<ItemKey>>,
    pub(super) queue: RefCell<VecDeque<(ItemKey, Places)>>,
    pub(super) workers: Cell<usize>,
}

impl Migration {
    pub fn new(phase: Phase, drain: Option<Duration>, unknown_ttl: i32) -> Self {
        Self {
            phase: Cell::new(phase),
            plan: Cell::new(0),
            drain: Cell::new(drain),
            ends_at: Cell::new(None),
            is_rolled_back: Cell::new(false),
            unknown_ttl,
            unreached: RefCell::default(),
            given_up: RefCell::default(),
            paused: RefCell::default(),
            in_flight: Default::default(),
            counters: RefCell::default(),
            moving: RefCell::default(),
            queue: RefCell::default(),
            workers: Cell::new(0),
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
    }

    pub fn in_flight(&self, phase: Phase) -> usize {
        self.in_flight[phase as usize].get()
    }

    /// Whether a node may be asked for a key as the second place.
    pub(super) fn may_read(&self, node: usize, key: &ItemKey, now: Nanos) -> bool {
        self.is_current(node, key)
            && self.paused.borrow().get(&node).is_none_or(|until| *until <= now)
    }

    /// Whether all writes of a key have reached a node.
    pub(super) fn is_current(&self, node: usize, key: &ItemKey) -> bool {
        self.is_in_use(node)
            && !self.unreached.borrow().get(&node).is_some_and(|keys| keys.contains(key))
    }

    pub fn is_in_use(&self, node: usize) -> bool {
        !self.given_up.borrow().contains(&node)
    }

    /// A read failed.
    pub fn pause(&self, node: usize, now: Nanos) {
        let pause = u64::try_from(PAUSE.as_nanos()).unwrap_or(0);
        self.paused.borrow_mut().insert(node, now.saturating_add(pause));
    }

    /// A write of a key has not reached a node.
    pub(super) fn give_up(&self, node: usize, key: &ItemKey) {
        let mut unreached = self.unreached.borrow_mut();
        let keys = unreached.entry(node).or_default();
        keys.insert(key.clone());
        if keys.len() > MAX_UNREACHED {
            unreached.remove(&node);
            self.given_up.borrow_mut().insert(node);
        }
    }

    /// A write of a key has reached a node.
    pub(super) fn reached(&self, node: usize, key: &ItemKey) {
        let mut unreached = self.unreached.borrow_mut();
        if let Some(keys) = unreached.get_mut(&node)
            && keys.remove(key)
            && keys.is_empty()
        {
            unreached.remove(&node);
        }
    }

    pub fn unreachable(&self) -> Vec<usize> {
        let (unreached, given_up) = (self.unreached.borrow(), self.given_up.borrow());
        let mut nodes: Vec<_> = unreached.keys().chain(given_up.iter()).copied().collect();
        nodes.sort_unstable();
        nodes
    }

    /// The two lists of nodes have changed their places.
    pub fn restart(&self) {
        self.queue.borrow_mut().clear();
        self.moving.borrow_mut().clear();
    }

    pub fn count(&self, add: impl FnOnce(&mut Counters)) {
        add(&mut self.counters.borrow_mut());
    }
}

/// A call that began in a phase.
pub struct InFlight {
    pub migration: Rc<Migration>,
    phase: Phase,
}

impl InFlight {
    pub fn new(migration: &Rc<Migration>, phase: Phase) -> Self {
        let count = &migration.in_flight[phase as usize];
        count.set(count.get() + 1);
        Self { migration: migration.clone(), phase }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let count = &self.migration.in_flight[self.phase as usize];
        count.set(count.get() - 1);
    }
}
