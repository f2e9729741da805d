//! Questions about the nodes of a client, whatever type its callers have.
use std::time::Duration;

use super::caller::Caller;
use super::client::Client;
use super::hot_keys::HotKey;
use super::migration::{MigrationOptions, MigrationStatus, Phase};
use crate::cluster::failover::FailoverMetrics;
use crate::cluster::{ClusterError, NodeList, NodeMetrics, NodeUpdate};
use crate::pool::{Address, CheckoutId, Metrics};
use crate::protocol::Key;
use crate::protocol::meta::Version;

pub trait Nodes {
    fn node_for(&self, key: Key<'_>) -> Result<usize, ClusterError>;
    /// The node that serves a key whose home the caller chooses.
    fn serving(&self, key: Key<'_>, home: usize) -> Result<usize, ClusterError>;
    /// Indexes of the healthy and of the unhealthy nodes.
    fn health(&self) -> (Vec<usize>, Vec<usize>);
    fn all_healthy(&self) -> bool;
    fn metrics(&self, node: usize) -> Metrics;
    fn all_metrics(&self) -> Vec<NodeMetrics>;
    /// See [`Client::hot_keys`].
    fn hot_keys(&self) -> Vec<(HotKey, Option<usize>)>;
    /// `None` without failover.
    fn failover_metrics(&self) -> Option<FailoverMetrics>;
    fn is_connected(&self, node: usize) -> bool;
    /// See [`crate::pool::Pool::meta_version`].
    fn meta_version(&self, node: usize) -> Option<Version>;
    /// See [`crate::cluster::Cluster::add_node`].
    fn add_node(&self, address: Address, ip: Option<String>) -> usize;
    /// See [`crate::pool::Pool::set_ip`].
    fn set_ip(&self, node: usize, ip: Option<String>);
    /// See [`crate::cluster::Cluster::change`].
    fn change(&self, joining: &[usize], leaving: &[usize], order: &[usize], updates: &[NodeUpdate]);
    fn release(&self, checkout: CheckoutId);
    fn close_checked_out(&self, checkout: CheckoutId);
    fn is_checked_out(&self, checkout: CheckoutId) -> bool;
    /// How many requests with `noreply` are unanswered.
    fn noreply_unanswered(&self) -> usize;
    /// How many of them failed so far.
    fn noreply_errors(&self) -> u64;
    /// The key's node, and a number that changes when another server may answer for the key. `home`
    /// is the key's home, if the caller chooses it.
    fn key_epoch(&self, key: Key<'_>, home: Option<usize>) -> Result<(usize, u64), ClusterError>;
    /// Moves items from these nodes to the client's: see docs/design/migration.md. Returns the
    /// positions of nodes that are new, or `None` if there is a migration already.
    fn migrate_from(&self, nodes: &NodeList, options: &MigrationOptions) -> Option<Vec<usize>>;
    /// Moves items from the client's nodes to these. Returns as `migrate_from`.
    fn migrate_to(&self, nodes: &NodeList, options: &MigrationOptions) -> Option<Vec<usize>>;
    /// This and the next two return whether there is a migration.
    fn set_phase(&self, phase: Phase) -> bool;
    fn finish_migration(&self) -> bool;
    fn roll_back(&self, drain: Option<Duration>) -> bool;
    fn migration_status(&self) -> Option<MigrationStatus>;
    /// See [`crate::cluster::Cluster::swaps`].
    fn swaps(&self) -> u32;
}

impl<C: Caller> Nodes for Client<C> {
    fn node_for(&self, key: Key<'_>) -> Result<usize, ClusterError> {
        let places = self.migration().and_then(|migration| self.places(&migration, key));
        places.map_or_else(|| self.cluster().index_for(key), |places| Ok(places.first()))
    }

    fn serving(&self, key: Key<'_>, home: usize) -> Result<usize, ClusterError> {
        match self.cluster().failover() {
            Some(failover) if !failover.is_calm() => self.cluster().serving(failover, key, home),
            _ => Ok(home),
        }
    }

    fn health(&self) -> (Vec<usize>, Vec<usize>) {
        self.cluster().health()
    }

    fn all_healthy(&self) -> bool {
        self.cluster().all_healthy()
    }

    fn metrics(&self, node: usize) -> Metrics {
        self.cluster().pool(node).metrics()
    }

    fn all_metrics(&self) -> Vec<NodeMetrics> {
        self.cluster().metrics()
    }

    fn hot_keys(&self) -> Vec<(HotKey, Option<usize>)> {
        Self::hot_keys(self)
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

    fn add_node(&self, address: Address, ip: Option<String>) -> usize {
        self.cluster().add_node(address, ip.as_deref())
    }

    fn set_ip(&self, node: usize, ip: Option<String>) {
        self.cluster().pool(node).set_ip(ip.as_deref());
    }

    fn change(
        &self,
        joining: &[usize],
        leaving: &[usize],
        order: &[usize],
        updates: &[NodeUpdate],
    ) {
        self.cluster().change(joining, leaving, order, updates);
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

    fn key_epoch(&self, key: Key<'_>, home: Option<usize>) -> Result<(usize, u64), ClusterError> {
        let epoch = |node: usize| self.cluster().pool(node).server_epoch();
        if let Some(home) = home {
            return self.serving(key, home).map(|node| (node, epoch(node)));
        }
        let places = self.migration().and_then(|migration| self.places(&migration, key));
        match places {
            // The item may be at either.
            Some(places) => Ok((places.first(), epoch(places.old) + epoch(places.new))),
            None => self.cluster().index_for(key).map(|node| (node, epoch(node))),
        }
    }

    fn migrate_from(&self, nodes: &NodeList, options: &MigrationOptions) -> Option<Vec<usize>> {
        Client::migrate_from(self, nodes, options)
    }

    fn migrate_to(&self, nodes: &NodeList, options: &MigrationOptions) -> Option<Vec<usize>> {
        Client::migrate_to(self, nodes, options)
    }

    fn set_phase(&self, phase: Phase) -> bool {
        Client::set_phase(self, phase)
    }

    fn finish_migration(&self) -> bool {
        Client::finish_migration(self)
    }

    fn swaps(&self) -> u32 {
        self.cluster().swaps()
    }

    fn roll_back(&self, drain: Option<Duration>) -> bool {
        Client::roll_back(self, drain)
    }

    fn migration_status(&self) -> Option<MigrationStatus> {
        Client::migration_status(self)
    }
}
