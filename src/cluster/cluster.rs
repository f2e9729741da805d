//! The nodes of a client, their order, and the routing of keys.
use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::rendezvous::Ring;
use crate::pool::{Address, Cause, Change, Context, Metrics, Pool, PoolConfig, Waiter};
use crate::protocol::{CommandStats, Key, MAX_LINE_LEN, RetrievalVerb, Verb};

#[derive(Clone, Debug)]
pub struct ClusterConfig {
    pub pool: PoolConfig,
    /// Unhealthy nodes get no keys.
    pub purge_unhealthy_nodes: bool,
}

/// A change of a node's state.
#[derive(Clone, Debug)]
pub struct NodeChange {
    /// The node's index in the list from which the cluster was made.
    pub node: usize,
    pub change: Change,
}

/// The counters of a node.
#[derive(Clone, Debug)]
pub struct NodeMetrics {
    pub node: usize,
    pub healthy: bool,
    pub pool: Metrics,
    pub commands: Vec<(Verb, CommandStats)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterError {
    /// All nodes are unhealthy, and unhealthy ones get no keys.
    NoAvailableNodes,
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAvailableNodes => write!(f, "no healthy node is left"),
        }
    }
}

impl std::error::Error for ClusterError {}

/// A node, and the positions of its keys.
pub type NodeLine = (usize, Option<Vec<usize>>);

/// A handle. Clones share the cluster.
pub struct Cluster<W: Waiter>(Rc<Shared<W>>);

impl<W: Waiter> Clone for Cluster<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<W: Waiter> {
    context: Rc<Context>,
    config: PoolConfig,
    /// All nodes that ever existed, by index.
    nodes: RefCell<Vec<Node<W>>>,
    order: RefCell<RoutingOrder>,
    on_change: Box<dyn Fn(NodeChange)>,
}

struct Node<W: Waiter> {
    /// The input of the hash that decides which keys the node gets.
    id: Rc<[u8]>,
    address: Arc<Address>,
    /// `None` once the node was removed and its requests have ended.
    pool: Option<Pool<W>>,
    /// Whether keys can be routed to the node.
    is_member: Cell<bool>,
}

/// Indexes of nodes. A node whose health changes moves to the end of its new list. The order
/// decides ties between nodes, and is that of emcache 1.3.
#[derive(Debug, Default)]
struct RoutingOrder {
    healthy: Vec<usize>,
    unhealthy: Vec<usize>,
    purge_unhealthy_nodes: bool,
    /// The ring of the nodes that get keys, built for the first key after a change.
    ring: OnceCell<Ring>,
}

impl RoutingOrder {
    fn remove(&mut self, nodes: &[usize]) {
        self.healthy.retain(|node| !nodes.contains(node));
        self.unhealthy.retain(|node| !nodes.contains(node));
        self.ring.take();
    }

    fn append(&mut self, node: usize, healthy: bool) {
        let list = if healthy { &mut self.healthy } else { &mut self.unhealthy };
        list.push(node);
        self.ring.take();
    }

    /// The nodes that get keys.
    fn routed(&self) -> impl Iterator<Item = usize> {
        let unhealthy = if self.purge_unhealthy_nodes { [].as_slice() } else { &self.unhealthy };
        self.healthy.iter().chain(unhealthy).copied()
    }

    fn pick(&self, key: &[u8], id: impl Fn(usize) -> Rc<[u8]>) -> Option<usize> {
        let ring = self.ring.get_or_init(|| Ring::new(self.routed().map(id)));
        self.routed().nth(ring.pick(key)?)
    }
}

impl<W: Waiter> Cluster<W> {
    /// `on_change` receives each change, in order, while the core is borrowed. It must not call
    /// back.
    pub fn new(
        context: &Rc<Context>,
        addresses: Vec<Address>,
        config: &ClusterConfig,
        on_change: impl Fn(NodeChange) + 'static,
    ) -> Self {
        let order = RoutingOrder {
            healthy: (0..addresses.len()).collect(),
            purge_unhealthy_nodes: config.purge_unhealthy_nodes,
            ..RoutingOrder::default()
        };
        let cluster = Self(Rc::new(Shared {
            context: context.clone(),
            config: config.pool.clone(),
            nodes: RefCell::default(),
            order: RefCell::new(order),
            on_change: Box::new(on_change),
        }));
        for address in addresses {
            cluster.add(address, None, true);
        }
        cluster
    }

    /// Connects to another node and returns its new index. The node gets no keys before
    /// [`Self::change`].
    ///
    /// `ip` is the address to try before the node's name is resolved.
    pub fn add_node(&self, address: Address, ip: Option<&str>) -> usize {
        self.add(address, ip, false)
    }

    fn add(&self, address: Address, ip: Option<&str>, is_member: bool) -> usize {
        let id = routing_id(&address);
        let pool = Pool::new(&self.0.context, address, self.0.config.clone());
        pool.set_ip(ip);
        let address = pool.address().clone();
        let index = self.0.nodes.borrow().len();
        let cluster = Rc::downgrade(&self.0);
        pool.on_change(move |change| node_changed(&cluster, index, change));
        let (pool, is_member) = (Some(pool), Cell::new(is_member));
        self.0.nodes.borrow_mut().push(Node { id, address, pool, is_member });
        index
    }

    /// Starts and stops routing keys to nodes, atomically. Leaving nodes are closed once their
    /// requests are answered.
    pub fn change(&self, joining: &[usize], leaving: &[usize]) {
        let nodes = self.0.nodes.borrow();
        let mut order = self.0.order.borrow_mut();
        order.remove(leaving);
        for &node in joining {
            let Some(pool) = &nodes[node].pool else { continue };
            nodes[node].is_member.set(true);
            order.append(node, pool.is_healthy());
            if !pool.is_healthy() {
                let why = pool.last_failure().unwrap_or(Cause::NoAnswer);
                (self.0.on_change)(NodeChange { node, change: Change::Unhealthy(why) });
            }
        }
        drop(order);
        for &node in leaving {
            nodes[node].is_member.set(false);
            let Some(pool) = &nodes[node].pool else { continue };
            let cluster = Rc::downgrade(&self.0);
            pool.drain_and_close(move || forget(&cluster, node));
        }
    }

    pub fn index_for(&self, key: Key<'_>) -> Result<usize, ClusterError> {
        let nodes = self.0.nodes.borrow();
        let order = self.0.order.borrow();
        let chosen = order.pick(key.as_bytes(), |node| nodes[node].id.clone());
        chosen.ok_or(ClusterError::NoAvailableNodes)
    }

    pub fn pool(&self, index: usize) -> Pool<W> {
        let node = &self.0.nodes.borrow()[index];
        node.pool.clone().unwrap_or_else(|| {
            let Shared { context, config, .. } = &*self.0;
            Pool::for_removed_node(context, node.address.clone(), config.clone())
        })
    }

    /// Splits keys into lines that fit, each for one node. A line holds the positions of its keys,
    /// or `None` if it has all of them.
    pub fn lines_for(
        &self,
        verb: RetrievalVerb,
        keys: &[Key<'_>],
    ) -> Result<Vec<NodeLine>, ClusterError> {
        let len = LINE_HEAD_LEN + keys.iter().map(|key| key.as_bytes().len() + 1).sum::<usize>();
        let fits = |len: usize, node: usize| {
            len <= MAX_LINE_LEN || len <= self.pool(node).max_line_len(verb)
        };
        if let Some(node) = self.only_node()
            && fits(len, node)
        {
            return Ok(vec![(node, None)]);
        }
        let mut lines: Vec<NodeLine> = Vec::new();
        // The last line of each node, and its length.
        let mut last = vec![(usize::MAX, 0); self.0.nodes.borrow().len()];
        for (position, key) in keys.iter().enumerate() {
            let node = self.index_for(*key)?;
            let key_len = key.as_bytes().len() + 1;
            let (at, len) = &mut last[node];
            *len += key_len;
            match lines.get_mut(*at) {
                Some((_, Some(positions))) if fits(*len, node) => positions.push(position),
                _ => {
                    (*at, *len) = (lines.len(), LINE_HEAD_LEN + key_len);
                    lines.push((node, Some(vec![position])));
                }
            }
        }
        Ok(lines)
    }

    /// The only node, if all keys belong to it.
    fn only_node(&self) -> Option<usize> {
        let order = self.0.order.borrow();
        let mut routed = order.routed();
        routed.next().filter(|_| routed.next().is_none())
    }

    /// Indexes of the healthy and of the unhealthy nodes, each in routing order.
    pub fn health(&self) -> (Vec<usize>, Vec<usize>) {
        let order = self.0.order.borrow();
        (order.healthy.clone(), order.unhealthy.clone())
    }

    /// The counters of the nodes to which keys can be routed, by index.
    pub fn metrics(&self) -> Vec<NodeMetrics> {
        let nodes = self.0.nodes.borrow();
        let members = nodes.iter().enumerate().filter(|(_, node)| node.is_member.get());
        let node_metrics = |(index, node): (usize, &Node<W>)| {
            let pool = node.pool.as_ref()?;
            Some(NodeMetrics {
                node: index,
                healthy: pool.is_healthy(),
                pool: pool.metrics(),
                commands: pool.commands(),
            })
        };
        members.filter_map(node_metrics).collect()
    }

    pub fn close(&self) {
        let pools: Vec<_> =
            self.0.nodes.borrow().iter().filter_map(|node| node.pool.clone()).collect();
        for pool in pools {
            pool.close();
        }
    }
}

/// `gats`, a space, the longest exptime, CRLF.
const LINE_HEAD_LEN: usize = 4 + 1 + 11 + 2;

fn routing_id(address: &Address) -> Rc<[u8]> {
    match address {
        Address::Tcp { host, port } => format!("{host}{port}").into_bytes().into(),
        Address::Unix { path } => path.as_bytes().into(),
    }
}

/// Forgets everything but the address of a removed node, because programs run for long while nodes
/// come and go.
fn forget<W: Waiter>(cluster: &Weak<Shared<W>>, node: usize) {
    let Some(cluster) = cluster.upgrade() else { return };
    let forgotten = cluster.nodes.borrow_mut().get_mut(node).map(|node| {
        node.id = Rc::default();
        node.pool.take()
    });
    drop(forgotten);
}

fn node_changed<W: Waiter>(cluster: &Weak<Shared<W>>, node: usize, change: Change) {
    let Some(cluster) = cluster.upgrade() else { return };
    if let Some(healthy) = change.health() {
        if !cluster.nodes.borrow().get(node).is_some_and(|node| node.is_member.get()) {
            return;
        }
        let order = &mut *cluster.order.borrow_mut();
        order.remove(&[node]);
        order.append(node, healthy);
    }
    (cluster.on_change)(NodeChange { node, change });
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::rendezvous::plain;
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
            let healthy = (0..count).collect();
            let mut order = RoutingOrder { healthy, purge_unhealthy_nodes, ..RoutingOrder::default() };
            for (node, change, key) in steps {
                let chosen = order.pick(&key, |node| ids[node].as_bytes().into());
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
