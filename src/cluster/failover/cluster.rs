//! How the cluster takes nodes out of service, and in again.
use std::rc::Rc;

use smallvec::SmallVec;

use super::super::cluster::{Cluster, ClusterError, NodeChange, NodeEvent, Shared};
use super::super::lines::{self, NodeLine};
use super::super::routing::RoutedNode;
use super::journal::Journal;
use super::placement::Placement;
use super::{EXPTIME_MARGIN, Failover, FailoverChange, NodeState, Spelling};
use crate::pool::{Change, Waiter};
use crate::protocol::{Key, MAX_LINE_LEN, Nanos, OwnedRequest, RetrievalVerb};

/// A line. If its node is the substitute for its keys, also their home.
type LineOrSubstitute = (NodeLine, Option<Home>);

/// The home of keys whose node is a substitute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// The routing rule chooses it.
    Routed,
    /// The caller chose it.
    Given(usize),
}

impl Failover {
    /// Records a node.
    pub fn add(&self) {
        let journal = Journal::new(self.config.max_keys);
        let (is_gutter, is_out, is_removed, is_busy) = (false, false, false, false);
        let node = NodeState { is_gutter, is_out, is_removed, is_busy, journal };
        self.state.borrow_mut().nodes.push(node);
    }

    /// A node takes only the keys of others.
    pub fn mark_gutter(&self, node: usize) {
        self.state.borrow_mut().nodes[node].is_gutter = true;
    }
}

impl<W: Waiter> Cluster<W> {
    pub fn failover(&self) -> Option<&Rc<Failover>> {
        self.0.failover.as_ref()
    }

    /// The node that serves a key whose home is `home`.
    #[cold]
    pub fn serving(
        &self,
        failover: &Failover,
        key: Key<'_>,
        home: usize,
    ) -> Result<usize, ClusterError> {
        let state = failover.state.borrow();
        let serving = state.serving(key.as_bytes(), home, |node| self.0.routed(node));
        serving.ok_or(ClusterError::NoAvailableNodes)
    }

    /// The node to which a write of a key goes. All other copies of the key are outdated.
    #[cold]
    pub fn route_write(
        &self,
        failover: &Failover,
        key: Key<'_>,
        spelling: Spelling,
        home: usize,
    ) -> Result<usize, ClusterError> {
        let (key, now) = (key.as_bytes(), self.0.context.now());
        let node = |node: usize| self.0.routed(node);
        let mut state = failover.state.borrow_mut();
        state.prune(now);
        let target = state.serving(key, home, node);
        let mut places: SmallVec<[usize; 4]> = SmallVec::new();
        places.push(home);
        let covering = state.placements.iter().filter(|placement| placement.may_cover(home));
        places.extend(covering.filter_map(|placement| placement.pick(key, node)));
        places.sort_unstable();
        places.dedup();
        places.retain(|place| Some(*place) != target && !state.nodes[*place].is_removed);
        let mut overflowed: SmallVec<[usize; 1]> = SmallVec::new();
        for &place in &places {
            if state.nodes[place].journal.outdate(key, spelling) {
                overflowed.push(place);
            }
        }
        places.retain(|place| !state.nodes[*place].is_out);
        drop(state);
        failover.update_calm();
        for node in overflowed {
            self.0.overflowed(failover, node);
        }
        places.into_iter().for_each(|place| failover.announce_work(place));
        target.ok_or(ClusterError::NoAvailableNodes)
    }

    /// Like [`Self::lines_for`], while keys may have substitutes. `homes` are the homes of the keys,
    /// if the caller chooses them.
    pub fn lines_by_failover(
        &self,
        failover: &Failover,
        verb: RetrievalVerb,
        keys: &[Key<'_>],
        homes: Option<&[usize]>,
    ) -> Result<Vec<LineOrSubstitute>, ClusterError> {
        let count = self.0.nodes.borrow().len();
        let fits = |len: usize, at: usize| {
            len <= MAX_LINE_LEN || len <= self.pool(at % count).max_line_len(verb)
        };
        let node_for = |at: usize, key: Key<'_>| {
            let home = homes.map_or_else(|| self.home_of(key), |homes| Ok(homes[at]))?;
            let node = self.serving(failover, key, home)?;
            Ok(if node == home { node } else { node + count })
        };
        let last = &mut self.0.last_lines.borrow_mut();
        let lines = lines::split(keys, last, node_for, fits)?;
        let mut all = Vec::new();
        for (at, positions) in lines {
            let node = at % count;
            match homes {
                _ if at < count => all.push(((node, positions), None)),
                None => all.push(((node, positions), Some(Home::Routed))),
                // Keys of one line may have different homes.
                Some(homes) => {
                    all.extend(positions.into_iter().flatten().map(|position| {
                        ((node, Some(vec![position])), Some(Home::Given(homes[position])))
                    }));
                }
            }
        }
        Ok(all)
    }

    /// A node that was out gets keys again.
    pub fn readmit(&self, failover: &Failover, node: usize) {
        failover.state.borrow_mut().nodes[node].is_out = false;
        let nodes = self.0.nodes.borrow();
        if nodes[node].is_member.get() {
            self.0.order.borrow_mut().set_health(node, true);
        }
        drop(nodes);
        self.0.replace_placement(failover);
        (self.0.on_change)(NodeChange { node, change: NodeEvent::Pool(Change::Healthy) });
    }

    /// Calls `listener` with each request that a node had not received when it went down: the node,
    /// the request, its waiter and its deadline.
    pub fn on_stranded(&self, listener: impl Fn(usize, OwnedRequest, W, Nanos) + 'static) {
        *self.0.on_stranded.borrow_mut() = Some(Box::new(listener));
    }

    /// A node is flushed by the user, so the copies that gutter nodes hold are outdated.
    pub fn outdate_gutter(&self, failover: &Failover, flushed: usize) {
        let mut gutter = Vec::new();
        let mut state = failover.state.borrow_mut();
        if !state.placements.is_empty() {
            for (at, node) in state.nodes.iter_mut().enumerate() {
                if node.is_gutter && at != flushed && !node.journal.has_overflowed() {
                    node.journal.overflow();
                    gutter.push(at);
                }
            }
        }
        drop(state);
        for node in gutter {
            self.0.take_out(failover, node);
        }
    }

    /// Tells listeners about a node.
    pub fn announce(&self, node: usize, change: FailoverChange) {
        (self.0.on_change)(NodeChange { node, change: NodeEvent::Failover(change) });
    }
}

impl<W: Waiter> Shared<W> {
    fn routed(&self, node: usize) -> RoutedNode {
        self.nodes.borrow()[node].routed.clone()
    }

    /// The health of a node's pool has changed. Returns whether listeners are to be told.
    pub fn failover_health_changed(
        &self,
        failover: &Failover,
        node: usize,
        is_healthy: bool,
    ) -> bool {
        if is_healthy {
            // Listeners are told once it gets keys.
            failover.announce_work(node);
            return false;
        }
        let mut state = failover.state.borrow_mut();
        let known = &mut state.nodes[node];
        let turned = !std::mem::replace(&mut known.is_out, true);
        let overflowed = known.journal.outdate_doubtful(self.context.now());
        drop(state);
        if turned {
            if self.nodes.borrow()[node].is_member.get() {
                self.order.borrow_mut().set_health(node, false);
            }
            self.replace_placement(failover);
        }
        if overflowed {
            self.overflowed(failover, node);
        }
        turned
    }

    /// Nodes have joined or left.
    pub fn failover_topology_changed(
        &self,
        failover: &Failover,
        joining: &[usize],
        leaving: &[usize],
    ) {
        let nodes = self.nodes.borrow();
        let mut state = failover.state.borrow_mut();
        for &node in leaving {
            let known = &mut state.nodes[node];
            (known.is_out, known.is_removed) = (false, true);
            known.journal.flushed();
        }
        for &node in joining {
            let is_healthy = nodes[node].pool.as_ref().is_some_and(crate::pool::Pool::is_healthy);
            state.nodes[node].is_out = !is_healthy;
        }
        state.placements.iter_mut().for_each(Placement::mark_foreign);
        drop((nodes, state));
        self.replace_placement(failover);
    }

    /// A node has more outdated copies than are remembered.
    fn overflowed(&self, failover: &Failover, node: usize) {
        self.take_out(failover, node);
        let limit = failover.config.max_keys;
        let change = NodeEvent::Failover(FailoverChange::Overflowed { limit });
        (self.on_change)(NodeChange { node, change });
    }

    /// A node gets no keys until it is flushed.
    fn take_out(&self, failover: &Failover, node: usize) {
        let mut state = failover.state.borrow_mut();
        let was_out = std::mem::replace(&mut state.nodes[node].is_out, true);
        drop(state);
        if !was_out {
            self.replace_placement(failover);
            failover.announce_work(node);
        }
        failover.update_calm();
    }

    /// Chooses the substitutes for the nodes that are out now.
    fn replace_placement(&self, failover: &Failover) {
        let order = self.order.borrow();
        let mut guard = failover.state.borrow_mut();
        let state = &mut *guard;
        let now = self.context.now();
        let nodes = &state.nodes;
        let out: Vec<_> = (0..nodes.len()).filter(|node| nodes[*node].is_out).collect();
        let is_in = |node: &usize| !nodes[*node].is_out && !nodes[*node].is_removed;
        let gutter = (0..nodes.len()).filter(|node| nodes[*node].is_gutter);
        let substitutes = if failover.config.gutter.is_empty() {
            order.among(order.routed_nodes().into_iter().filter(is_in).collect())
        } else {
            order.among(gutter.filter(is_in).collect())
        };
        let placement = Placement::new(out, substitutes);
        if state.placements.last().is_some_and(|last| last.is_in_use() && last.is_same(&placement))
        {
            return;
        }
        let until = now.saturating_add(failover.copies_live_for());
        state.placements.iter_mut().for_each(|placement| placement.end(until));
        if !placement.out().is_empty() {
            state.placements.retain(|other| !other.is_same(&placement));
            state.placements.push(placement);
        }
        state.prune(now);
        drop(guard);
        failover.update_calm();
    }
}

impl Failover {
    /// How long after a placement its copies may exist.
    fn copies_live_for(&self) -> Nanos {
        let seconds = u64::from(self.config.ttl.unsigned_abs()) + EXPTIME_MARGIN.as_secs();
        seconds.saturating_mul(1_000_000_000)
    }
}
