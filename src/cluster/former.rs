//! A second list of nodes during a migration, with its own rule: the cluster that keys come from.
//!
//! Nodes of both lists share their pool.
use std::sync::Arc;

use super::cluster::{Cluster, ClusterError, Node, Shared};
use super::lines::{self, NodeLine};
use super::routing::{NodeSpecs, Routing};
use crate::pool::{Address, Waiter};
use crate::protocol::{Key, MAX_LINE_LEN, RetrievalVerb};

/// A list of nodes, and the rule that routes keys among them.
#[derive(Clone, Debug)]
pub struct NodeList {
    pub addresses: Vec<Address>,
    pub routing: Routing,
    pub specs: Arc<NodeSpecs>,
}

impl<W: Waiter> Cluster<W> {
    /// Adds the list that keys come from. Returns the positions in the list of the nodes that are
    /// new: they have the next indexes, in this order.
    pub fn set_former(&self, list: &NodeList) -> Vec<usize> {
        let (indexes, added) = self.indexes_of(list);
        {
            let mut nodes = self.0.nodes.borrow_mut();
            for &index in &indexes {
                let spec = list.specs.get(&*nodes[index].address).cloned().unwrap_or_default();
                let routed = list.routing.node(&nodes[index].address.clone(), &spec, None);
                nodes[index].former = Some(routed);
            }
        }
        let unhealthy = self.unhealthy_of(&indexes);
        let order = self.0.order.borrow().successor(indexes, unhealthy, list.routing);
        self.0.former.replace(Some(order));
        added
    }

    /// From now on keys are routed by this list, and the current one becomes the former one.
    /// Returns as [`Self::set_former`].
    pub fn replace_nodes(&self, list: &NodeList) -> Vec<usize> {
        let added = self.set_former(list);
        self.swap_orders();
        self.0.routing.set(list.routing);
        self.0.specs.replace(list.specs.clone());
        added
    }

    /// The two lists change their places.
    pub fn swap_orders(&self) {
        let mut former = self.0.former.borrow_mut();
        let Some(former) = former.as_mut() else { return };
        let mut order = self.0.order.borrow_mut();
        std::mem::swap(former, &mut *order);
        self.0.swaps.set(self.0.swaps.get() + 1);
        for (index, node) in self.0.nodes.borrow_mut().iter_mut().enumerate() {
            let new = node.former.take();
            let is_former = former.contains(index);
            let new = new.unwrap_or_else(|| node.routed.clone());
            let old = std::mem::replace(&mut node.routed, new);
            node.former = is_former.then_some(old);
            node.is_member.set(order.contains(index));
        }
    }

    /// How often the two lists have changed their places.
    pub fn swaps(&self) -> u32 {
        self.0.swaps.get()
    }

    /// Forgets the former list. Nodes that only it has are closed once their requests are answered.
    pub fn forget_former(&self) {
        self.0.former.take();
        for node in self.0.nodes.borrow_mut().iter_mut() {
            node.former = None;
        }
        for (index, node) in self.0.nodes.borrow().iter().enumerate() {
            self.drain_and_close(node, index);
        }
    }

    /// The node of a key by the former list; `None` without one.
    pub fn former_index_for(&self, key: Key<'_>) -> Option<usize> {
        let nodes = self.0.nodes.borrow();
        let former = self.0.former.borrow();
        let node =
            |node: usize| nodes[node].former.clone().unwrap_or_else(|| nodes[node].routed.clone());
        former.as_ref()?.pick(key.as_bytes(), node)
    }

    /// As [`Self::lines_for`], where `node_for` chooses the node of each key.
    pub fn lines_by(
        &self,
        verb: RetrievalVerb,
        keys: &[Key<'_>],
        node_for: impl Fn(Key<'_>) -> Result<usize, ClusterError>,
    ) -> Result<Vec<NodeLine>, ClusterError> {
        let fits = |len: usize, node: usize| {
            len <= MAX_LINE_LEN || len <= self.pool(node).max_line_len(verb)
        };
        let last = &mut self.0.last_lines.borrow_mut();
        lines::split(keys, last, |_, key| node_for(key), fits)
    }

    /// Adds the nodes that only the former list has.
    pub(super) fn add_former_health(&self, health: &mut (Vec<usize>, Vec<usize>)) {
        let former = self.0.former.borrow();
        let Some(former) = former.as_ref() else { return };
        let order = self.0.order.borrow();
        let (up, down) = former.health();
        health.0.extend(up.into_iter().filter(|node| !order.contains(*node)));
        health.1.extend(down.into_iter().filter(|node| !order.contains(*node)));
    }

    /// The indexes of the list's nodes, and the positions of those that were added.
    fn indexes_of(&self, list: &NodeList) -> (Vec<usize>, Vec<usize>) {
        let first_new = self.0.nodes.borrow().len();
        let known = |address: &Address| {
            let nodes = self.0.nodes.borrow();
            let mut nodes = nodes.iter().enumerate();
            let is_known = |(index, node): &(usize, &Node<W>)| {
                *node.address == *address && (node.is_routed() || *index >= first_new)
            };
            nodes.find(is_known).map(|(index, _)| index)
        };
        let (mut indexes, mut added) = (Vec::new(), Vec::new());
        for (position, address) in list.addresses.iter().enumerate() {
            match known(address) {
                Some(index) if indexes.contains(&index) => {}
                Some(index) => indexes.push(index),
                None => {
                    added.push(position);
                    indexes.push(self.add(address.clone(), None, false));
                }
            }
        }
        (indexes, added)
    }

    fn unhealthy_of(&self, indexes: &[usize]) -> Vec<usize> {
        let nodes = self.0.nodes.borrow();
        let is_down = |index: &usize| nodes[*index].pool.as_ref().is_some_and(|p| !p.is_healthy());
        indexes.iter().copied().filter(is_down).collect()
    }
}

impl<W: Waiter> Shared<W> {
    /// Whether keys can be routed to the node.
    pub(super) fn set_health(&self, node: usize, is_healthy: bool) -> bool {
        let mut is_routed = false;
        let mut former = self.former.borrow_mut();
        let orders = [Some(&mut *self.order.borrow_mut()), former.as_mut()];
        for order in orders.into_iter().flatten().filter(|order| order.contains(node)) {
            order.set_health(node, is_healthy);
            is_routed = true;
        }
        is_routed
    }
}
