//! The nodes that get keys, in their order.
use std::cell::OnceCell;

use super::routing::{RoutedNode, Router, Routing};

/// Indexes of nodes. A node whose health changes moves to the end of its new list. The order
/// decides ties between nodes, and is that of emcache 1.3.
#[derive(Debug)]
pub struct RoutingOrder {
    healthy: Vec<usize>,
    unhealthy: Vec<usize>,
    purge_unhealthy_nodes: bool,
    routing: Routing,
    /// Built for the first key after a change.
    router: OnceCell<Router>,
}

impl RoutingOrder {
    /// The first `node_count` nodes, all healthy.
    pub fn new(node_count: usize, routing: Routing, purge_unhealthy_nodes: bool) -> Self {
        Self {
            healthy: (0..node_count).collect(),
            unhealthy: Vec::new(),
            purge_unhealthy_nodes,
            routing,
            router: OnceCell::new(),
        }
    }

    pub fn remove(&mut self, nodes: &[usize]) {
        self.healthy.retain(|node| !nodes.contains(node));
        self.unhealthy.retain(|node| !nodes.contains(node));
        self.router.take();
    }

    pub fn append(&mut self, node: usize, healthy: bool) {
        let list = if healthy { &mut self.healthy } else { &mut self.unhealthy };
        list.push(node);
        self.router.take();
    }

    /// The nodes that get keys.
    fn routed(&self) -> impl Iterator<Item = usize> {
        let unhealthy = if self.purge_unhealthy_nodes { [].as_slice() } else { &self.unhealthy };
        self.healthy.iter().chain(unhealthy).copied()
    }

    /// The only node that gets keys.
    pub fn only_node(&self) -> Option<usize> {
        let mut routed = self.routed();
        routed.next().filter(|_| routed.next().is_none())
    }

    pub fn pick(&self, key: &[u8], node: impl Fn(usize) -> RoutedNode) -> Option<usize> {
        let router = self.router.get_or_init(|| self.routing.build(self.routed().map(node)));
        self.routed().nth(router.pick(key)?)
    }

    /// The healthy and the unhealthy nodes, each in order.
    pub fn health(&self) -> (Vec<usize>, Vec<usize>) {
        (self.healthy.clone(), self.unhealthy.clone())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::routing::plain;
    use super::*;

    proptest! {
        /// Nodes leave, join and change their health between keys.
        #[test]
        fn keys_follow_the_order(
            purge_unhealthy_nodes: bool,
            ids in vec("[a-z0-9.-]{0,60}", 64),
            count in 2..=64_usize,
            steps in vec((0..64_usize, 0..3, vec(any::<u8>(), 0..=250)), 1..60),
        ) {
            let mut order = RoutingOrder::new(count, Routing::Emcache, purge_unhealthy_nodes);
            for (node, change, key) in steps {
                let routed_node =
                    |node: usize| RoutedNode { id: ids[node].as_bytes().into(), weight: 1 };
                let chosen = order.pick(&key, routed_node);
                let routed: Vec<usize> = order.routed().collect();
                let routed_ids: Vec<_> = routed.iter().map(|node| &ids[*node]).collect();
                prop_assert_eq!(chosen, plain::pick(&key, &routed_ids).map(|at| routed[at]));
                order.remove(&[node]);
                if change > 0 {
                    order.append(node, change == 1);
                }
            }
        }
    }
}
