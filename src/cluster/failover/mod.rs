//! Failover: the keys of a node that is down go to substitutes, and come back to a node that has
//! no outdated copies.
//!
//! | word | meaning |
//! |---|---|
//! | home | the node to which the routing rule assigns a key |
//! | out | a node that gets no keys, because it is down or may have too many outdated copies |
//! | substitute | the node that gets a key while its home is out |
//! | outdated | a copy of a key whose newer value went elsewhere ([`journal`]) |
//!
//! Invariants: a key is served by one node at a time. A write records the key as outdated at every
//! other node that may have a copy: at its home, and at the substitutes of the last `ttl`
//! ([`placement`]). No node serves a key that is outdated there. The client deletes outdated
//! copies as soon as their node can be reached.
mod cluster;
mod journal;
mod placement;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

pub use self::cluster::Home;
use self::journal::Journal;
pub use self::journal::{OutdatedKey, Spelling};
use self::placement::Placement;
use super::routing::RoutedNode;
use crate::pool::{Address, Context};
use crate::protocol::Nanos;

/// Items may outlive their exptime by this, because servers count whole seconds and writes may be
/// executed late.
const EXPTIME_MARGIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct FailoverConfig {
    /// The substitutes of all nodes. If there are none, the other nodes are the substitutes.
    pub gutter: Vec<Address>,
    /// The longest exptime of items at a substitute, in seconds.
    pub ttl: i32,
    /// The number of outdated keys that are remembered for each node.
    pub max_keys: usize,
    pub on_overflow: OnOverflow,
    /// Whether the caller chooses the home of each key, and not the routing rule. Substitutes are
    /// chosen by the rule in any case.
    pub homes_are_given: bool,
}

/// The treatment of a node with more outdated copies than are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOverflow {
    Flush,
    /// The node stays out until its user flushes it.
    KeepOut,
}

/// The counters of a client's failover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailoverMetrics {
    /// Requests that went to a substitute.
    pub reads: u64,
    pub writes: u64,
    /// The number of outdated keys at present.
    pub outdated_keys: usize,
    /// Outdated copies that were deleted.
    pub deleted: u64,
    pub flushes: u64,
}

type WorkListener = Box<dyn Fn(usize)>;

pub struct Failover {
    config: FailoverConfig,
    context: Rc<Context>,
    /// Whether no node is out, nothing is outdated, and no substitute has copies.
    is_calm: Cell<bool>,
    state: RefCell<State>,
    counters: Cell<FailoverMetrics>,
    /// Called with a node that can be reached and has outdated copies, or is out.
    on_work: RefCell<Option<WorkListener>>,
}

#[derive(Default)]
struct State {
    nodes: Vec<NodeState>,
    /// At most the last one is in use.
    placements: Vec<Placement>,
}

#[allow(clippy::struct_excessive_bools, reason = "facts that are independent")]
struct NodeState {
    is_gutter: bool,
    is_out: bool,
    is_removed: bool,
    /// Whether a task deletes its outdated copies.
    is_busy: bool,
    journal: Journal,
}

impl State {
    fn is_calm(&self) -> bool {
        let is_calm = |node: &NodeState| !node.is_out && node.journal.is_empty();
        self.placements.is_empty() && self.nodes.iter().all(is_calm)
    }

    /// Whether a node serves a key that is routed to it.
    fn serves(&self, node: usize, key: &[u8]) -> bool {
        let node = &self.nodes[node];
        !node.is_out && !node.is_removed && !node.journal.contains(key)
    }

    /// The node that serves a key; `None` if neither its home nor its substitute may.
    fn serving(
        &self,
        key: &[u8],
        home: usize,
        node: impl Fn(usize) -> RoutedNode,
    ) -> Option<usize> {
        if self.serves(home, key) {
            return Some(home);
        }
        let placement = self.placements.iter().rev().find(|placement| placement.covers(home));
        let substitute = placement.and_then(|placement| placement.pick(key, node));
        substitute
            .filter(|substitute| self.serves(*substitute, key))
            // Requests to a node that is out fail, as they do without failover. Some do not: those
            // that reach it before its outdated copies may be deleted.
            .or_else(|| {
                let home_node = &self.nodes[home];
                (home_node.is_out && !home_node.journal.contains(key)).then_some(home)
            })
    }

    /// Forgets the placements whose copies have expired.
    fn prune(&mut self, now: Nanos) {
        let nodes = &self.nodes;
        // Keys that are outdated at their home still need its last placement.
        let is_needed = |placement: &Placement| {
            placement.out().iter().any(|node| !nodes[*node].journal.is_empty())
        };
        self.placements.retain(|placement| !placement.is_over(now) || is_needed(placement));
    }
}

impl Failover {
    pub fn new(config: FailoverConfig, context: &Rc<Context>) -> Self {
        Self {
            config,
            context: context.clone(),
            is_calm: Cell::new(true),
            state: RefCell::default(),
            counters: Cell::default(),
            on_work: RefCell::default(),
        }
    }

    pub fn config(&self) -> &FailoverConfig {
        &self.config
    }

    /// Whether keys are served as without failover, and writes concern no other node.
    #[inline]
    pub fn is_calm(&self) -> bool {
        self.is_calm.get()
    }

    /// Calls `listener` with each node that can be reached and has outdated copies, or is out. It
    /// must not call back.
    pub fn on_work(&self, listener: impl Fn(usize) + 'static) {
        *self.on_work.borrow_mut() = Some(Box::new(listener));
    }

    pub fn metrics(&self) -> FailoverMetrics {
        let outdated_keys = self.state.borrow().nodes.iter().map(|node| node.journal.len()).sum();
        FailoverMetrics { outdated_keys, ..self.counters.get() }
    }

    pub fn is_out(&self, node: usize) -> bool {
        self.state.borrow().nodes[node].is_out
    }

    pub fn is_gutter(&self, node: usize) -> bool {
        self.state.borrow().nodes[node].is_gutter
    }

    /// Records that a write to a node failed, and that the node may have executed it.
    pub fn write_failed(&self, node: usize, key: &[u8], spelling: Spelling) {
        let mut state = self.state.borrow_mut();
        let node = &mut state.nodes[node];
        if node.is_removed {
        } else if node.is_out {
            node.journal.outdate(key, spelling);
        } else {
            node.journal.doubt(key, spelling, self.context.now());
        }
    }

    /// Records that a user's flush of a node failed. If the node is down, it is flushed later.
    pub fn flush_failed(&self, node: usize) {
        let mut state = self.state.borrow_mut();
        let node = &mut state.nodes[node];
        if node.is_out {
            node.journal.overflow();
        } else if !node.is_removed {
            node.journal.doubt_all(self.context.now());
        }
    }

    /// Records that a user has flushed a node. One that serves keys may have newer copies.
    pub fn flushed_by_user(&self, node: usize) {
        if self.is_out(node) {
            self.flushed(node);
            self.announce_work(node);
        }
    }

    /// Starts to delete the outdated copies of a node. Returns whether no other task does.
    pub fn begin_deletes(&self, node: usize) -> bool {
        !std::mem::replace(&mut self.state.borrow_mut().nodes[node].is_busy, true)
    }

    pub fn end_deletes(&self, node: usize) {
        self.state.borrow_mut().nodes[node].is_busy = false;
    }

    /// The next step for a node that can be reached.
    pub fn next_step(&self, node: usize, count: usize) -> Step {
        let state = self.state.borrow();
        let NodeState { is_out, is_removed, is_gutter, journal, .. } = &state.nodes[node];
        if *is_removed {
            return Step::Done;
        }
        match (is_out, journal.is_empty()) {
            (_, false) if journal.has_overflowed() => match self.config.on_overflow {
                OnOverflow::KeepOut if !is_gutter => Step::KeepOut,
                _ => Step::Flush,
            },
            (true, _) => Step::Return { outdated: journal.len() },
            (false, true) => Step::Done,
            (false, false) => Step::Delete(journal.some(count)),
        }
    }

    /// A node has confirmed that it has no copy of a key.
    pub fn deleted(&self, node: usize, key: &OutdatedKey) {
        self.state.borrow_mut().nodes[node].journal.deleted(key);
        self.count(|counters| counters.deleted += 1);
        self.update_calm();
    }

    /// A node has confirmed that it has no copies.
    pub fn flushed(&self, node: usize) {
        self.state.borrow_mut().nodes[node].journal.flushed();
        self.update_calm();
    }

    pub fn count(&self, count: impl FnOnce(&mut FailoverMetrics)) {
        let mut counters = self.counters.get();
        count(&mut counters);
        self.counters.set(counters);
    }

    fn update_calm(&self) {
        self.is_calm.set(self.state.borrow().is_calm());
    }

    fn announce_work(&self, node: usize) {
        if let Some(listener) = &*self.on_work.borrow() {
            listener(node);
        }
    }
}

/// Changes of a node's outdated copies, for listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverChange {
    /// The node gets keys again. These are deleted first.
    Returning { outdated: usize },
    /// It has more outdated copies than are remembered.
    Overflowed { limit: usize },
    /// It can be reached, and stays out until it is flushed.
    KeptOut,
    /// It was flushed, because it had too many outdated copies.
    Flushed,
}

/// The next work at a node that can be reached.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Done,
    /// It has too many outdated copies.
    Flush,
    KeepOut,
    /// It may serve all other keys.
    Return {
        outdated: usize,
    },
    Delete(Vec<OutdatedKey>),
}
