//! The nodes of a client, each with its pool.
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::failover::{Failover, FailoverChange, FailoverConfig};
use super::lines::{self, LastLines, NodeLine};
use super::order::RoutingOrder;
use super::routing::{NodeSpec, NodeSpecs, RoutedNode, Routing};
use crate::pool::{Address, Cause, Change, Context, Metrics, Pool, PoolConfig, Waiter};
use crate::protocol::{CommandStats, Key, MAX_LINE_LEN, Nanos, OwnedRequest, RetrievalVerb, Verb};

#[derive(Clone, Debug)]
pub struct ClusterConfig {
    pub pool: PoolConfig,
    /// Unhealthy nodes get no keys.
    pub purge_unhealthy_nodes: bool,
    pub routing: Routing,
    /// Weights of nodes, also of those that may join later.
    pub specs: Arc<NodeSpecs>,
    /// How many hot keys the client reports; 0 for none.
    pub hot_keys: usize,
    /// Never together with `purge_unhealthy_nodes` or a migration.
    pub failover: Option<FailoverConfig>,
}

/// What discovery says about a node.
#[derive(Clone, Debug)]
pub struct NodeUpdate {
    pub node: usize,
    pub ip: Option<String>,
    pub spec: NodeSpec,
}

/// A change of a node's state.
#[derive(Clone, Debug)]
pub struct NodeChange {
    /// The node's index in the list from which the cluster was made.
    pub node: usize,
    pub change: NodeEvent,
}

#[derive(Clone, Debug)]
pub enum NodeEvent {
    Pool(Change),
    Failover(FailoverChange),
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

/// A handle. Clones share the cluster.
pub struct Cluster<W: Waiter>(pub(super) Rc<Shared<W>>);

impl<W: Waiter> Clone for Cluster<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

type StrandedListener<W> = Box<dyn Fn(usize, OwnedRequest, W, Nanos)>;

pub(super) struct Shared<W: Waiter> {
    pub(super) context: Rc<Context>,
    config: PoolConfig,
    pub(super) routing: Cell<Routing>,
    pub(super) specs: RefCell<Arc<NodeSpecs>>,
    pub(super) last_lines: RefCell<LastLines>,
    /// All nodes that ever existed, by index.
    pub(super) nodes: RefCell<Vec<Node<W>>>,
    pub(super) order: RefCell<RoutingOrder>,
    /// The order of the other cluster during a migration: see [`super::former`].
    pub(super) former: RefCell<Option<RoutingOrder>>,
    pub(super) swaps: Cell<u32>,
    pub(super) failover: Option<Rc<Failover>>,
    pub(super) on_stranded: RefCell<Option<StrandedListener<W>>>,
    pub(super) on_change: Box<dyn Fn(NodeChange)>,
}

pub(super) struct Node<W: Waiter> {
    pub routed: RoutedNode,
    /// As the rule of the former order sees it; `None` if it is not in that order.
    pub former: Option<RoutedNode>,
    pub address: Arc<Address>,
    /// `None` once the node was removed and its requests have ended.
    pub pool: Option<Pool<W>>,
    /// Whether keys can be routed to the node.
    pub is_member: Cell<bool>,
}

impl<W: Waiter> Node<W> {
    pub fn is_routed(&self) -> bool {
        self.is_member.get() || self.former.is_some()
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
        let routing = config.routing;
        let order = RoutingOrder::new(addresses.len(), routing, config.purge_unhealthy_nodes);
        let cluster = Self(Rc::new(Shared {
            context: context.clone(),
            config: config.pool.clone(),
            routing: Cell::new(routing),
            specs: RefCell::new(config.specs.clone()),
            nodes: RefCell::default(),
            order: RefCell::new(order),
            last_lines: RefCell::default(),
            former: RefCell::default(),
            swaps: Cell::new(0),
            failover: config
                .failover
                .clone()
                .map(|failover| Rc::new(Failover::new(failover, context))),
            on_stranded: RefCell::default(),
            on_change: Box::new(on_change),
        }));
        for address in addresses {
            cluster.add(address, None, true);
        }
        for address in config.failover.iter().flat_map(|failover| failover.gutter.clone()) {
            let gutter = cluster.add(address, None, false);
            cluster.failover().iter().for_each(|failover| failover.mark_gutter(gutter));
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

    pub(super) fn add(&self, address: Address, ip: Option<&str>, is_member: bool) -> usize {
        let spec = self.0.specs.borrow().get(&address).cloned().unwrap_or_default();
        let routed = self.0.routing.get().node(&address, &spec, ip);
        let pool = Pool::new(&self.0.context, address, self.0.config.clone());
        pool.set_ip(ip);
        let address = pool.address().clone();
        let index = self.0.nodes.borrow().len();
        let cluster = Rc::downgrade(&self.0);
        pool.on_change(move |change| node_changed(&cluster, index, change));
        if let Some(failover) = &self.0.failover {
            failover.add();
            let cluster = Rc::downgrade(&self.0);
            pool.on_stranded(move |request, waiter, deadline| {
                let Some(cluster) = cluster.upgrade() else { return };
                if let Some(listener) = &*cluster.on_stranded.borrow() {
                    listener(index, request, waiter, deadline);
                }
            });
        }
        let (pool, is_member) = (Some(pool), Cell::new(is_member));
        let node = Node { routed, former: None, address, pool, is_member };
        self.0.nodes.borrow_mut().push(node);
        index
    }

    /// Starts and stops routing keys to nodes, atomically. Leaving nodes are closed once their
    /// requests are answered. `order` lists all nodes, for rules that count. `updates` are of nodes
    /// whose weight or name has changed.
    pub fn change(
        &self,
        joining: &[usize],
        leaving: &[usize],
        order: &[usize],
        updates: &[NodeUpdate],
    ) {
        for NodeUpdate { node, ip, spec } in updates {
            let node = &mut self.0.nodes.borrow_mut()[*node];
            node.routed = self.0.routing.get().node(&node.address, spec, ip.as_deref());
        }
        let nodes = self.0.nodes.borrow();
        let mut routing_order = self.0.order.borrow_mut();
        routing_order.remove(leaving);
        // During a migration, a node that joins may be one of the former list already.
        let known = order.iter().filter(|node| !joining.contains(node));
        let known: Vec<_> = known.filter(|node| !routing_order.contains(**node)).collect();
        for &node in joining.iter().chain(known) {
            let Some(pool) = &nodes[node].pool else { continue };
            nodes[node].is_member.set(true);
            routing_order.append(node, pool.is_healthy());
            if !pool.is_healthy() {
                let why = pool.last_failure().unwrap_or(Cause::NoAnswer);
                let change = NodeEvent::Pool(Change::Unhealthy(why));
                (self.0.on_change)(NodeChange { node, change });
            }
        }
        routing_order.arrange(order);
        drop(routing_order);
        if let Some(failover) = &self.0.failover {
            self.0.failover_topology_changed(failover, joining, leaving);
        }
        for &node in leaving {
            nodes[node].is_member.set(false);
            self.drain_and_close(&nodes[node], node);
        }
    }

    /// Closes a node that neither order has, once its requests are answered.
    pub(super) fn drain_and_close(&self, node: &Node<W>, index: usize) {
        if node.is_routed() {
            return;
        }
        let Some(pool) = &node.pool else { return };
        let cluster = Rc::downgrade(&self.0);
        pool.drain_and_close(move || forget(&cluster, index));
    }

    /// The node that serves a key.
    pub fn index_for(&self, key: Key<'_>) -> Result<usize, ClusterError> {
        match &self.0.failover {
            Some(failover) if !failover.is_calm() => {
                self.home_of(key).and_then(|home| self.serving(failover, key, home))
            }
            _ => self.home_of(key),
        }
    }

    /// The node to which the rule assigns a key.
    #[inline]
    pub fn home_of(&self, key: Key<'_>) -> Result<usize, ClusterError> {
        let nodes = self.0.nodes.borrow();
        let order = self.0.order.borrow();
        let chosen = order.pick(key.as_bytes(), |node| nodes[node].routed.clone());
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
    /// or `None` if it has all of them. `nodes` are the nodes of the keys, if they are known.
    pub fn lines_for(
        &self,
        verb: RetrievalVerb,
        keys: &[Key<'_>],
        nodes: Option<&[usize]>,
    ) -> Result<Vec<NodeLine>, ClusterError> {
        let fits = |len: usize, node: usize| {
            len <= MAX_LINE_LEN || len <= self.pool(node).max_line_len(verb)
        };
        let only_node = match nodes {
            None => self.0.order.borrow().only_node(),
            Some(nodes) => {
                nodes.first().filter(|first| nodes.iter().all(|it| it == *first)).copied()
            }
        };
        if let Some(node) = only_node
            && fits(lines::len_of_one_line(keys), node)
        {
            return Ok(vec![(node, None)]);
        }
        let last = &mut self.0.last_lines.borrow_mut();
        match nodes {
            Some(nodes) => lines::split(keys, last, |at, _| Ok(nodes[at]), fits),
            None => lines::split(keys, last, |_, key| self.index_for(key), fits),
        }
    }

    /// Whether all nodes of the present list are healthy.
    pub fn all_healthy(&self) -> bool {
        self.0.order.borrow().all_healthy()
    }

    /// Indexes of the healthy and of the unhealthy nodes, each in routing order.
    pub fn health(&self) -> (Vec<usize>, Vec<usize>) {
        let mut health = self.0.order.borrow().health();
        self.add_former_health(&mut health);
        health
    }

    /// The counters of the nodes to which keys can be routed, and of gutter nodes, by index.
    pub fn metrics(&self) -> Vec<NodeMetrics> {
        let nodes = self.0.nodes.borrow();
        let failover = self.0.failover.as_ref();
        let is_gutter = |node: usize| failover.is_some_and(|failover| failover.is_gutter(node));
        let is_out = |node: usize| failover.is_some_and(|failover| failover.is_out(node));
        let members =
            nodes.iter().enumerate().filter(|(at, node)| node.is_routed() || is_gutter(*at));
        let node_metrics = |(index, node): (usize, &Node<W>)| {
            let pool = node.pool.as_ref()?;
            Some(NodeMetrics {
                node: index,
                healthy: pool.is_healthy() && !is_out(index),
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

/// Forgets everything but the address of a removed node, because programs run for long while nodes
/// come and go.
fn forget<W: Waiter>(cluster: &Weak<Shared<W>>, node: usize) {
    let Some(cluster) = cluster.upgrade() else { return };
    let forgotten = cluster.nodes.borrow_mut().get_mut(node).map(|node| {
        node.routed.id = Arc::default();
        node.pool.take()
    });
    drop(forgotten);
}

fn node_changed<W: Waiter>(cluster: &Weak<Shared<W>>, node: usize, change: Change) {
    let Some(cluster) = cluster.upgrade() else { return };
    if let Some(healthy) = change.health() {
        let is_member = cluster.nodes.borrow().get(node).is_some_and(|node| node.is_member.get());
        if let Some(failover) = &cluster.failover {
            let is_known = is_member || failover.is_gutter(node);
            if is_known && cluster.failover_health_changed(failover, node, healthy) {
                (cluster.on_change)(NodeChange { node, change: NodeEvent::Pool(change) });
            }
            return;
        }
        if !cluster.set_health(node, healthy) {
            return;
        }
    }
    (cluster.on_change)(NodeChange { node, change: NodeEvent::Pool(change) });
}
