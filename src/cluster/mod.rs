//! Many nodes: routing of keys, and health. Never Python.
#[allow(clippy::module_inception, reason = "the cluster of this layer")]
mod cluster;
pub mod rendezvous;

pub use cluster::{Cluster, ClusterConfig, ClusterError, NodeChange, NodeMetrics};
