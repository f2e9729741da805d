//! Questions about the nodes of a client, whatever type its callers have.
use super::caller::Caller;
use super::client::Client;
use crate::cluster::failover::FailoverMetrics;
use crate::cluster::{ClusterError, NodeMetrics};
use crate::pool::{Address, CheckoutId, Metrics};
use crate::protocol::Key;
use crate::protocol::meta::Version;

pub trait Nodes {
    fn node_for(&self, key: Key<'_>) -> Result<usize, ClusterError>;
    /// Indexes of the healthy and of the unhealthy nodes.
    fn health(&self) -> (Vec<usize>, Vec<usize>);
    fn metrics(&self, node: usize) -> Metrics;
    fn all_metrics(&self) -> Vec<NodeMetrics>;
    /// `None` without failover.
    fn failover_metrics(&self) -> Option<FailoverMetrics>;
    fn is_connected(&self, node: usize) -> bool;
    /// See [`crate::pool::Pool::meta_version`].
    fn meta_version(&self, node: usize) -> Option<Version>;
    /// See [`crate::pool::Pool::server_epoch`].
    fn server_epoch(&self, node: usize) -> u64;
    /// See [`crate::cluster::Cluster::add_node`].
    fn add_node(&self, address: Address, ip: Option<String>) -> usize;
    /// See [`crate::pool::Pool::set_ip`].
    fn set_ip(&self, node: usize, ip: Option<String>);
    /// See [`crate::cluster::Cluster::change`].
    fn change(&self, joining: &[usize], leaving: &[usize], order: &[usize]);
    fn release(&self, checkout: CheckoutId);
    fn close_checked_out(&self, checkout: CheckoutId);
    fn is_checked_out(&self, checkout: CheckoutId) -> bool;
    /// How many requests with `noreply` are unanswered.
    fn noreply_unanswered(&self) -> usize;
    /// How many of them failed so far.
    fn noreply_errors(&self) -> u64;
}

impl<C: Caller> Nodes for Client<C> {
    fn node_for(&self, key: Key<'_>) -> Result<usize, ClusterError> {
        self.cluster().index_for(key)
    }

    fn health(&self) -> (Vec<usize>, Vec<usize>) {
        self.cluster().health()
    }

    fn metrics(&self, node: usize) -> Metrics {
        self.cluster().pool(node).metrics()
    }

    fn all_metrics(&self) -> Vec<NodeMetrics> {
        self.cluster().metrics()
    }

    fn failover_metrics(&self) -> Option<FailoverMetrics> {
        self.cluster().failover().map(|failover| failover.metrics())
    }

    fn is_connected(&self, node: usize) -> bool {
        self.cluster().pool(node).is_connected()
    }

    fn meta_version(&self, node: usize) -> Option<Version> {
        self.cluster().pool(node).meta_version()
    }

    fn server_epoch(&self, node: usize) -> u64 {
        self.cluster().pool(node).server_epoch()
    }

    fn add_node(&self, address: Address, ip: Option<String>) -> usize {
        self.cluster().add_node(address, ip.as_deref())
    }

    fn set_ip(&self, node: usize, ip: Option<String>) {
        self.cluster().pool(node).set_ip(ip.as_deref());
    }

    fn change(&self, joining: &[usize], leaving: &[usize], order: &[usize]) {
        self.cluster().change(joining, leaving, order);
    }

    fn release(&self, checkout: CheckoutId) {
        self.cluster().pool(0).release(checkout);
    }

    fn close_checked_out(&self, checkout: CheckoutId) {
        self.cluster().pool(0).close_checked_out(checkout);
    }

    fn is_checked_out(&self, checkout: CheckoutId) -> bool {
        self.cluster().pool(0).is_checked_out(checkout)
    }

    fn noreply_unanswered(&self) -> usize {
        self.noreplies().unanswered()
    }

    fn noreply_errors(&self) -> u64 {
        self.noreplies().errors()
    }
}
