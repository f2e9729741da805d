//! The nodes that get keys, in their order.
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use super::routing::{RoutedNode, Router, Routing};

/// Indexes of nodes, in two orders: that of emcache 1.3, in which a node whose health changes moves
/// to the end of its new list, and that in which the nodes were given.
#[derive(Debug)]
pub struct RoutingOrder {
    healthy: Vec<usize>,
    unhealthy: Vec<usize>,
    /// All nodes, in the order given.
    given: Vec<usize>,
    purge_unhealthy_nodes: bool,
    routing: Routing,
    /// Built for the first key after a change.
    routed: OnceCell<Routed>,
}

#[derive(Debug)]
struct Routed {
    nodes: Vec<usize>,
    router: Router,
}

impl RoutingOrder {
    /// The first `node_count` nodes, all healthy.
    pub fn new(node_count: usize, routing: Routing, purge_unhealthy_nodes: bool) -> Self {
        Self {
            healthy: (0..node_count).collect(),
            unhealthy: Vec::new(),
            given: (0..node_count).collect(),
            purge_unhealthy_nodes,
            routing,
            routed: OnceCell::new(),
        }
    }

    /// The order of these nodes by another rule.
    #[must_use]
    pub fn successor(&self, nodes: Vec<usize>, unhealthy: Vec<usize>, routing: Routing) -> Self {
        Self {
            healthy: nodes.iter().copied().filter(|node| !unhealthy.contains(node)).collect(),
            unhealthy,
            given: nodes,
            purge_unhealthy_nodes: self.purge_unhealthy_nodes,
            routing,
            routed: OnceCell::new(),
        }
    }

    /// The same rule among other nodes, all healthy. Their order is the one that the rule needs.
    #[must_use]
    pub fn among(&self, nodes: Vec<usize>) -> Self {
        Self {
            healthy: nodes.clone(),
            unhealthy: Vec::new(),
            given: nodes,
            purge_unhealthy_nodes: false,
            routing: self.routing,
            routed: OnceCell::new(),
        }
    }

    pub fn contains(&self, node: usize) -> bool {
        self.given.contains(&node)
    }

    pub fn remove(&mut self, nodes: &[usize]) {
        let leaving: HashSet<_> = nodes.iter().collect();
        for list in [&mut self.healthy, &mut self.unhealthy, &mut self.given] {
            list.retain(|node| !leaving.contains(node));
        }
        self.routed.take();
    }

    pub fn append(&mut self, node: usize, is_healthy: bool) {
        self.health_list(is_healthy).push(node);
        self.given.push(node);
        self.routed.take();
    }

    /// Sets the order given. Nodes that are not listed stay behind the others. Ids and weights may
    /// have changed too.
    pub fn arrange(&mut self, order: &[usize]) {
        let places: HashMap<_, _> = order.iter().zip(0..).collect();
        self.given.sort_by_key(|node| places.get(node).copied().unwrap_or(usize::MAX));
        self.routed.take();
    }

    /// Returns whether other nodes get keys now. Ignores nodes that have left.
    pub fn set_member_health(&mut self, node: usize, is_healthy: bool) -> bool {
        let is_known = self.health_list(is_healthy).contains(&node);
        if is_known || !self.given.contains(&node) {
            return false;
        }
        self.set_health(node, is_healthy);
        self.purge_unhealthy_nodes
    }

    pub fn set_health(&mut self, node: usize, is_healthy: bool) {
        self.healthy.retain(|other| *other != node);
        self.unhealthy.retain(|other| *other != node);
        self.health_list(is_healthy).push(node);
        // Otherwise the same nodes get keys in the same order, and a large ring takes time.
        if self.purge_unhealthy_nodes || self.routing.follows_health() {
            self.routed.take();
        }
    }

    fn health_list(&mut self, is_healthy: bool) -> &mut Vec<usize> {
        if is_healthy { &mut self.healthy } else { &mut self.unhealthy }
    }

    /// The nodes that get keys, in the order that the rule needs.
    pub fn routed_nodes(&self) -> Vec<usize> {
        let purged = if self.purge_unhealthy_nodes { self.unhealthy.as_slice() } else { &[] };
        let purged: HashSet<_> = purged.iter().collect();
        let is_purged = |node: &usize| purged.contains(node);
        if self.routing.follows_health() {
            let all = self.healthy.iter().chain(&self.unhealthy);
            all.copied().filter(|node| !is_purged(node)).collect()
        } else {
            self.given.iter().copied().filter(|node| !is_purged(node)).collect()
        }
    }

    /// The only node that gets keys.
    pub fn only_node(&self) -> Option<usize> {
        let unhealthy = if self.purge_unhealthy_nodes { [].as_slice() } else { &self.unhealthy };
        let mut routed = self.healthy.iter().chain(unhealthy);
        routed.next().filter(|_| routed.next().is_none()).copied()
    }

    pub fn pick(&self, key: &[u8], node: impl Fn(usize) -> RoutedNode) -> Option<usize> {
        let routed = self.routed.get_or_init(|| {
            let nodes = self.routed_nodes();
            let routed: Vec<_> = nodes.iter().map(|index| node(*index)).collect();
            Routed { nodes, router: self.routing.build(&routed) }
        });
        routed.nodes.get(routed.router.pick(key)?).copied()
    }

    pub fn all_healthy(&self) -> bool {
        self.unhealthy.is_empty()
    }

    /// The healthy and the unhealthy nodes, each in the order of emcache 1.3.
    pub fn health(&self) -> (Vec<usize>, Vec<usize>) {
        (self.healthy.clone(), self.unhealthy.clone())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::routing::{NodeSpecs, PlainChars, plain};
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
                let routed = order.routed_nodes();
                let routed_ids: Vec<_> = routed.iter().map(|node| &ids[*node]).collect();
                prop_assert_eq!(chosen, plain::pick(&key, &routed_ids, PlainChars::Signed).map(|at| routed[at]));
                order.remove(&[node]);
                if change > 0 {
                    order.append(node, change == 1);
                }
            }
        }
    }
    /// The nodes that three rules choose for some keys, among nodes 0 to 3.
    fn picks(order: &RoutingOrder) -> Vec<usize> {
        let node =
            |node: usize| RoutedNode { id: format!("n{node}:1").into_bytes().into(), weight: 1 };
        (0..200).map(|i| order.pick(format!("key:{i}").as_bytes(), node).unwrap()).collect()
    }

    fn order(name: &str, purge_unhealthy_nodes: bool) -> RoutingOrder {
        let routing = Routing::parse(name, &NodeSpecs::default()).unwrap();
        RoutingOrder::new(4, routing, purge_unhealthy_nodes)
    }

    #[test]
    fn a_node_that_recovers_returns_to_its_place() {
        for name in ["crc", "ketama", "rendezvous", "pymemcache"] {
            for purge_unhealthy_nodes in [false, true] {
                let mut order = order(name, purge_unhealthy_nodes);
                let before = picks(&order);
                order.set_health(1, false);
                let without = picks(&order);
                assert_eq!(without == before, !purge_unhealthy_nodes, "{name}");
                assert_eq!(without.contains(&1), !purge_unhealthy_nodes, "{name}");
                order.set_health(1, true);
                assert_eq!(picks(&order), before, "{name} {purge_unhealthy_nodes}");
                assert_eq!(order.health(), (vec![0, 2, 3, 1], vec![]));
            }
        }
    }

    #[test]
    fn nodes_that_leave_and_join_count_in_the_order_given() {
        let mut order = order("crc", false);
        let before = picks(&order);
        order.remove(&[1]);
        order.append(4, true);
        order.arrange(&[0, 4, 2, 3]);
        let renamed: Vec<_> =
            before.iter().map(|node| if *node == 1 { 4 } else { *node }).collect();
        assert_eq!(picks(&order), renamed);
        order.set_health(4, false);
        assert_eq!(picks(&order), renamed);
    }

    #[test]
    fn only_one_node_gets_keys() {
        let mut order = order("crc", true);
        assert_eq!(order.only_node(), None);
        order.remove(&[0, 3]);
        order.set_health(1, false);
        assert_eq!(order.only_node(), Some(2));
        assert!(picks(&order).iter().all(|node| *node == 2));
    }
}
